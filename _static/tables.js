// Sorts a table of the book by a click on a heading, or by Enter on it; again turns the order round.
(() => {
  const sort = (table, column, header) => {
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const text = row => row.cells[column].textContent.trim();
    const rows = [...table.tBodies[0].rows].sort((a, b) => text(a).localeCompare(text(b), "en", { numeric: true }));
    table.tBodies[0].append(...(down ? rows.reverse() : rows));
  };
  const prepare = () => document.querySelectorAll("article table").forEach(table => {
    if (!table.tHead || !table.tBodies.length) return;
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      header.tabIndex = 0;
      header.setAttribute("aria-sort", "none");
      header.onclick = () => sort(table, column, header);
      header.onkeydown = event => { if (event.key === "Enter") sort(table, column, header); };
    });
  });
  document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", prepare) : prepare();
})();
