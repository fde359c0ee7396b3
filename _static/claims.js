// Above the table of the paper's statements: what is shown of it, by verdict, by chapter and by words. Without this
// script the table is there, whole.
(() => {
  const ROLES = { table: "table", thead: "rowgroup", tbody: "rowgroup", tr: "row", th: "columnheader", td: "cell" };
  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const pageOf = link => link?.getAttribute("href").split("#")[0] ?? "";
  const titleOf = page =>
    [...document.querySelectorAll(".bd-sidenav a")].find(link => pageOf(link) === page)?.textContent.trim() ?? page;

  const prepare = table => {
    const rows = [...table.tBodies[0].rows].map(row => ({
      row,
      verdict: row.cells[1].textContent.trim(),
      page: pageOf(row.querySelector("a")),
      text: row.textContent.toLowerCase(),
    }));
    const distinct = values => [...new Set(values)];
    const boxes = distinct(rows.map(row => row.verdict)).map(verdict => {
      const box = make("input", { type: "checkbox", value: verdict });
      const count = make("span", { className: "count" });
      return { box, count, label: make("label", { className: verdict }, box, `${verdict} `, count) };
    });
    const pages = distinct(rows.map(row => row.page)).filter(Boolean);
    const chapter = make("select", {}, new Option("all chapters", ""), ...pages.map(page => new Option(titleOf(page), page)));
    const words = make("input", { type: "search" });
    const shown = make("output", {});
    const form = make(
      "form", { className: "filter", ariaLabel: "What the table shows", onsubmit: () => false },
      make("fieldset", {}, make("legend", {}, "Verdict"), ...boxes.map(({ label }) => label)),
      make("label", {}, "Chapter ", chapter),
      make("label", {}, "With the words ", words),
      shown,
    );
    const show = () => {
      const verdicts = boxes.filter(({ box }) => box.checked).map(({ box }) => box.value);
      const text = words.value.trim().toLowerCase();
      const others = rows.filter(row => (!chapter.value || row.page === chapter.value) && row.text.includes(text));
      const left = new Set(others.filter(row => !verdicts.length || verdicts.includes(row.verdict)));
      for (const row of rows) row.row.hidden = !left.has(row);
      for (const { box, count } of boxes) count.textContent = others.filter(row => row.verdict === box.value).length;
      shown.textContent = `${left.size} of ${rows.length} rows`;
    };
    const showAll = () => {
      form.reset();
      show();
    };
    form.addEventListener("input", show);
    // A link to a row finds it, whatever is shown.
    const reveal = () => {
      const row = location.hash && document.getElementById(location.hash.slice(1));
      if (row?.hidden) {
        showAll();
        row.scrollIntoView();
      }
    };
    window.addEventListener("hashchange", reveal);
    show();
    // Where rows are stacked, as on a phone, some browsers forget that it is a table.
    for (const [tag, role] of Object.entries(ROLES))
      for (const element of [table, ...table.querySelectorAll("*")])
        if (element.localName === tag) element.setAttribute("role", role);
    table.before(form);
  };
  const all = () => document.querySelectorAll("table.claims").forEach(prepare);
  document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", all) : all();
})();
