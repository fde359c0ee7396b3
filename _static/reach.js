// What is wider than its box scrolls in it; then, and only then, the keyboard reaches it.
(() => {
  const reach = box => {
    const scrolls = box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX === "auto";
    scrolls ? box.setAttribute("tabindex", "0") : box.removeAttribute("tabindex");
  };
  const sizes = new ResizeObserver(changes => changes.forEach(({ target }) => reach(target)));
  const watch = () => document.querySelectorAll("article :is(table, div.math, mjx-container)").forEach(box => sizes.observe(box));
  window.addEventListener("load", () => window.MathJax?.startup?.promise.then(() => document.fonts.ready).then(watch));
})();
