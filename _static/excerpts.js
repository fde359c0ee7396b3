// What the search shows of a page has no TeX in it: it leaves the formulas out.
document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return;
  const text = Search.htmlToText;
  const formula = /<(span|div) class="math[^"]*">[^]*?<\/\1>/g;
  Search.htmlToText = (page, place) => text.call(Search, page.replace(formula, " … "), place);
});
