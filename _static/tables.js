// Sorts a table of the book by the buttons in its head; again turns the order round. Short tables stay as they are.
(() => {
  const SHORT = 5;
  const sort = (table, column, header) => {
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const text = row => row.cells[column].textContent.trim();
    const rows = [...table.tBodies[0].rows].sort((a, b) => text(a).localeCompare(text(b), "en", { numeric: true }));
    table.tBodies[0].append(...(down ? rows.reverse() : rows));
  };
  const prepare = () => document.querySelectorAll("article table").forEach(table => {
    if (!table.tHead || !table.tBodies.length || table.tBodies[0].rows.length <= SHORT) return;
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      if (!header.textContent.trim()) return;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      // A formula has no name that is read on a button: its TeX without signs, such as "eta".
      if (header.querySelector(".math")) button.ariaLabel = header.textContent.replace(/[\\(){}$]/g, " ").trim();
      button.append(...header.childNodes);
      button.onclick = () => sort(table, column, header);
      header.append(button);
    });
  });
  document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", prepare) : prepare();
})();
