// In the graph of the paper's statements, the one under the pointer or the keyboard stands out, with all on which it
// rests and all that rests on it.
(() => {
  const reach = (lines, name, from, to) => {
    const found = new Set(), open = [name];
    while (open.length) {
      const here = open.pop();
      for (const line of lines.filter(line => line.dataset[from] === here && !found.has(line))) {
        found.add(line);
        open.push(line.dataset[to]);
      }
    }
    return found;
  };
  const prepare = () => document.querySelectorAll("svg.claims").forEach(svg => {
    const lines = [...svg.querySelectorAll("path")], boxes = [...svg.querySelectorAll("a")];
    const clear = () => {
      svg.classList.remove("chosen");
      [...lines, ...boxes].forEach(element => element.classList.remove("near"));
    };
    const choose = chosen => {
      clear();
      svg.classList.add("chosen");
      chosen.classList.add("near");
      for (const [from, to] of [["from", "to"], ["to", "from"]])
        for (const line of reach(lines, chosen.dataset.name, from, to)) {
          line.classList.add("near");
          boxes.find(box => box.dataset.name === line.dataset[to]).classList.add("near");
        }
    };
    for (const box of boxes) {
      box.addEventListener("pointerenter", () => choose(box));
      box.addEventListener("focus", () => choose(box));
      box.addEventListener("pointerleave", clear);
      box.addEventListener("blur", clear);
    }
  });
  document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", prepare) : prepare();
})();
