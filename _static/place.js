// A link to a place of a page finds it although the formulas, typeset after the jump, have moved it; not where the reader
// has moved on meanwhile.
window.addEventListener("load", () => {
  const place = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!place) return;
  let moved = false;
  for (const name of ["wheel", "touchmove", "keydown", "pointerdown"]) {
    window.addEventListener(name, () => { moved = true; }, { once: true, passive: true });
  }
  window.MathJax?.startup?.promise.then(() => moved || place.scrollIntoView());
});
