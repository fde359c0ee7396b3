// Formulas are typeset from the place where the reader is, and a few at a time: a phone, on which all take seconds, shows
// those on its screen first and can be scrolled meanwhile.
if (window.MathJax) {
  const boxes = `:is(${MathJax.options.processHtmlClass.split("|").map(name => `.${name}`)})`;
  const pageReady = async () => {
    const all = [...document.querySelectorAll(boxes)].filter(box => !box.parentElement.closest(boxes));
    const here = Math.max(0, all.findIndex(box => box.getBoundingClientRect().bottom > 0));
    const waiting = [...all.slice(here), ...all.slice(0, here)];
    for (let few = 20; waiting.length; few = 80) {
      await MathJax.typesetPromise(waiting.splice(0, few));
      await new Promise(resolve => setTimeout(resolve));  // the browser draws them, and answers the reader
    }
  };
  MathJax.startup = { pageReady };
}
