// A link to a place of a page finds it although the formulas, typeset after the jump, have moved it.
window.addEventListener("load", () => {
  const place = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (place) window.MathJax?.startup?.promise.then(() => place.scrollIntoView());
});
