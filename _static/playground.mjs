// The interactive figure: gradient descent, PGD, Anti-PGD and the dial between the two, in the reader's own browser.
//
// One module for the page, for Jupyter and for Colab. Its default export has the shape that anywidget asks for,
// { render({ model, el }) }; a page without a kernel gives a `plainModel` of the setting. It asks nothing of any network.
// The numerics come first and are exported: the tests hold them against the Python module.

// --- The method -------------------------------------------------------------------------------------------------

// One step in place: w -= eta grad L(w), then w += sigma (xi_n - cancel xi_{n-1}), with xi_0 = 0.
// noise: draws of mean 0 and variance 1, row n - 1 of the length of w for xi_n. gradient: room for the gradient.
export function step(landscape, { eta, sigma, cancel }, w, noise, n, gradient) {
  const size = w.length, now = (n - 1) * size, before = now - size;
  landscape.gradient(w, gradient);
  for (let i = 0; i < size; i++) {
    const taken = n > 1 ? cancel * noise[before + i] : 0;
    w[i] += -eta * gradient[i] + sigma * noise[now + i] - sigma * taken;
  }
}

// All steps for which there is noise. record(n, w, z) is called for n = 0, 1, ...; both are overwritten afterwards.
// Returns the step at which the weights stopped being finite, or -1.
export function simulate(landscape, method, start, noise, record) {
  const size = start.length, steps = noise.length / size;
  const w = Float64Array.from(start), z = Float64Array.from(start), gradient = new Float64Array(size);
  record(0, w, z);
  for (let n = 1; n <= steps; n++) {
    step(landscape, method, w, noise, n, gradient);
    let check = 0;
    for (let i = 0; i < size; i++) {
      z[i] = w[i] - method.cancel * method.sigma * noise[(n - 1) * size + i];
      check += 0 * w[i];
    }
    if (check !== 0) return n; // 0 times what is not finite is not a number
    record(n, w, z);
  }
  return -1;
}

// --- The noise --------------------------------------------------------------------------------------------------

// Uniform numbers in (0, 1) with 32 random bits: Doty-Humphrey's small fast counter generator.
function uniforms(seed) {
  let a = 0x9e3779b9, b = seed | 0, c = Math.floor(seed / 2 ** 32) | 0, count = 1;
  const next = () => {
    const sum = (((a + b) | 0) + count++) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (c << 21) | (c >>> 11);
    c = (c + sum) | 0;
    return ((sum >>> 0) + 0.5) / 2 ** 32;
  };
  for (let i = 0; i < 15; i++) next();
  return next;
}

const LAWS = {
  gaussian: (out, next) => {
    for (let i = 0; i < out.length; i += 2) {
      const radius = Math.sqrt(-2 * Math.log(next())), angle = 2 * Math.PI * next();
      out[i] = radius * Math.cos(angle);
      if (i + 1 < out.length) out[i + 1] = radius * Math.sin(angle);
    }
  },
  rademacher: (out, next) => {
    for (let i = 0; i < out.length; i++) out[i] = next() < 0.5 ? -1 : 1;
  },
  uniform: (out, next) => {
    for (let i = 0; i < out.length; i++) out[i] = Math.sqrt(3) * (2 * next() - 1);
  },
};
const KURTOSIS = { gaussian: 3, rademacher: 1, uniform: 1.8 };

// Independent draws of mean 0 and variance 1.
export function draws(law, seed, count) {
  const out = new Float64Array(count);
  LAWS[law](out, uniforms(seed));
  return out;
}

// --- The landscapes, and what theory predicts on them -----------------------------------------------------------

// Each has: size; start; rests, whether gradient descent brings it to rest before the noise begins; gradient; place, where
// the map shows a point; measures, two numbers that the other plot shows; level, what theory says of these in the long
// run at w and at z (null where it says nothing); expected, the same after n steps.

// L(u, v) = v^2 |u|^2 / 2.
export function valley(d) {
  const length2 = w => {
    let sum = 0;
    for (let i = 0; i < d; i++) sum += w[i] * w[i];
    return sum;
  };
  const level = ({ eta, sigma, cancel, law }, D, atZ) => {
    const floor = d * sigma ** 2, share = (1 - cancel) ** 2;
    if (sigma === 0) return [D, D];
    if (cancel === 1) return atZ ? [KURTOSIS[law] * eta * sigma ** 2 / 2 * floor, null] : [floor, 2 * floor];
    const plateau = 2 / eta * (d - 1) * share / ((d + 2) * share + 4 * cancel);
    return [plateau + (atZ ? share : 1) * floor, null];
  };
  return {
    size: d + 1,
    start: [...Array(d).fill(Math.sqrt(2 / d)), 1],
    rests: true,
    gradient(w, out) {
      const v = w[d];
      out[d] = length2(w) * v;
      for (let i = 0; i < d; i++) out[i] = v * v * w[i];
    },
    place: w => [Math.sqrt(length2(w)), w[d]],
    measures(w) {
      const U = length2(w);
      return [U, d * w[d] ** 2 + U];
    },
    level,
    expected(method, D, n, atZ) {
      const { eta, sigma, cancel } = method, [end, trace] = level(method, D, atZ);
      if (sigma === 0) return [D, D];
      if (cancel === 1) {
        const left = D * Math.exp(-2 * eta * sigma ** 2 * n);
        return [left + end, trace === null ? null : left + trace];
      }
      return [cancel === 0 ? Math.min(D + (d - 1) * sigma ** 2 * n, end) : null, null];
    },
  };
}

// L(w) = (mu_1 w_1^2 + mu_2 w_2^2) / 2.
export const CURVATURES = [0.2, 1];
export function quadratic() {
  const sums = each => {
    const parts = CURVATURES.map(each);
    return [parts[0] + parts[1], (CURVATURES[0] * parts[0] + CURVATURES[1] * parts[1]) / 2];
  };
  const start = [2, 1.2];
  // Of one direction: the mean of w^2 or z^2 after n steps; w - xi keeps (rho - c) of each perturbation but the newest.
  const moment = ({ eta, sigma, cancel }, atZ, n) => (mu, i) => {
    const rho = 1 - eta * mu, kept = ((rho - cancel) * sigma) ** 2 * (1 - rho ** (2 * Math.max(n - 1, 0))) / (1 - rho ** 2);
    return (rho ** n * start[i]) ** 2 + kept + (n > 0 ? (atZ ? (1 - cancel) ** 2 : 1) * sigma ** 2 : 0);
  };
  return {
    size: 2,
    start,
    rests: false,
    gradient(w, out) {
      out[0] = CURVATURES[0] * w[0];
      out[1] = CURVATURES[1] * w[1];
    },
    place: w => [w[0], w[1]],
    measures: w => sums((mu, i) => w[i] ** 2),
    level: (method, D, atZ) => method.sigma === 0 ? [null, null] : sums(moment(method, atZ, Infinity)),
    expected: (method, D, n, atZ) => sums(moment(method, atZ, n)),
  };
}

export const landscapeOf = ({ landscape, dimension }) => landscape === "valley" ? valley(dimension) : quadratic();

// Gradient descent until it has come to rest.
function descend(landscape, eta) {
  const w = Float64Array.from(landscape.start), gradient = new Float64Array(landscape.size), way = [landscape.place(w)];
  for (let n = 0; landscape.rests && n < 6000 && Math.abs(way.at(-1)[1]) > 1e-6; n++) {
    landscape.gradient(w, gradient);
    for (let i = 0; i < w.length; i++) w[i] -= eta * gradient[i];
    way.push(landscape.place(w));
  }
  return { way, end: w };
}

// --- One computation for a setting ------------------------------------------------------------------------------

const METHODS = [
  { name: "GD", look: "gd", mark: "M0-5A5 5 0 1 0 0 5A5 5 0 1 0 0-5Z" },
  { name: "PGD", look: "pgd", mark: "M0-6L5.5 5H-5.5Z" },
  { name: "Anti-PGD", look: "anti", mark: "M0-6.5L6.5 0L0 6.5L-6.5 0Z" },
  { name: "dial", look: "dial", mark: "M-5-5H5V5H-5Z" },
];

let kept = { key: "", noise: null }; // the draws of the last setting: moving eta, sigma or the dial needs no new ones
function noiseOf({ law, seed, steps }, size) {
  const key = [law, seed, steps, size].join();
  if (kept.key !== key) kept = { key, noise: draws(law, seed, steps * size) };
  return kept.noise;
}

// The runs of all methods under the same noise: places and measures at w and at z, for each step or each gap-th.
const RECORDED = 3000;
export function compute(setting) {
  const landscape = landscapeOf(setting), { eta, sigma, cancel, law, steps } = setting;
  const descent = descend(landscape, eta), noise = noiseOf(setting, landscape.size);
  const D = landscape.measures(descent.end)[0], gap = Math.ceil(steps / RECORDED);
  const cancels = [[0, 0], [sigma, 0], [sigma, 1], ...(cancel > 0 && cancel < 1 ? [[sigma, cancel]] : [])];
  const runs = cancels.map(([strength, c], i) => {
    const method = { eta, sigma: strength, cancel: c, law };
    const seen = [0, 1].map(() => ({ x: [], y: [], measures: [[], []] }));
    const lost = simulate(landscape, method, descent.end, noise, (n, w, z) => n % gap === 0 && [w, z].forEach((at, k) => {
      const place = landscape.place(at), measures = landscape.measures(at);
      seen[k].x.push(place[0]);
      seen[k].y.push(place[1]);
      seen[k].measures[0].push(measures[0]);
      seen[k].measures[1].push(measures[1]);
    }));
    return { ...METHODS[i], method, lost, at: seen };
  });
  return { setting, landscape, descent, D, gap, runs };
}

// --- Drawing ----------------------------------------------------------------------------------------------------

const RAISED = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
const power = exponent => "10" + [...String(exponent)].map(sign => RAISED[sign]).join("");

// A number with two or three digits, as a reader would write it.
export function told(x) {
  if (x === 0) return "0";
  const size = Math.floor(Math.log10(Math.abs(x)) + 1e-12);
  if (size < -3 || size > 5) return `${(x / 10 ** size).toFixed(1)}·${power(size)}`;
  return String(Number(x.toPrecision(Math.max(2, Math.min(size + 1, 3)))));
}

const linear = (from, to, low, high) => x => low + (x - from) / (to - from) * (high - low);
const logarithmic = (from, to, low, high) => {
  const scale = linear(Math.log(from), Math.log(to), low, high);
  return x => scale(Math.log(x));
};

function roundTicks(from, to, wanted) {
  const rough = (to - from) / wanted, ten = 10 ** Math.floor(Math.log10(rough));
  const gap = [1, 2, 5, 10].map(k => k * ten).find(gap => gap >= rough), ticks = [];
  for (let i = Math.ceil(from / gap); i * gap <= to * (1 + 1e-12); i++) ticks.push(i * gap);
  return ticks.map(x => [x, String(Number(x.toPrecision(6)))]);
}

function logTicks(from, to) {
  const decades = Math.log10(to / from), ticks = [], each = decades > 6 ? 2 : 1;
  for (let e = Math.floor(Math.log10(from)); e <= Math.log10(to); e++)
    for (const k of decades > 1.6 ? [1] : [1, 2, 5])
      if (e % each === 0 && k * 10 ** e >= from * 0.999 && k * 10 ** e <= to * 1.001) ticks.push([k * 10 ** e, k === 1 && Math.abs(e) > 3 ? power(e) : told(k * 10 ** e)]);
  return ticks;
}

const n1 = x => Math.min(Math.max(x, -1e5), 1e5).toFixed(1); // a run that explodes leaves the window, and no browser
const polyline = (points, look) => `<polyline class="${look}" points="${points.map(p => n1(p[0]) + "," + n1(p[1])).join(" ")}"/>`;
const text = (x, y, words, look = "", anchor = "middle") =>
  `<text x="${n1(x)}" y="${n1(y)}" text-anchor="${anchor}" class="${look}">${words}</text>`;
const marker = (x, y, { look, mark }) => `<path class="mark ${look}" transform="translate(${n1(x)} ${n1(y)})" d="${mark}"/>`;

// The frame of a plot: ticks, their labels, the axes' names, and a window for what is drawn inside.
function frame({ left, top, right, bottom }, id, xs, ys, xTicks, yTicks, xName, yName, inside) {
  return `<clipPath id="${id}"><rect x="${left}" y="${top}" width="${right - left}" height="${bottom - top}"/></clipPath>
    <g clip-path="url(#${id})">${inside}</g>
    <path class="axis" d="M${left} ${top}V${bottom}H${right}"/>
    ${xTicks.map(([x, label]) => `<path class="axis" d="M${n1(xs(x))} ${bottom}v4"/>` + text(xs(x), bottom + 17, label)).join("")}
    ${yTicks.map(([y, label]) => `<path class="axis" d="M${left} ${n1(ys(y))}h-4"/>` + text(left - 7, ys(y) + 4, label, "", "end")).join("")}
    ${text((left + right) / 2, bottom + 35, xName, "name")}${text(left - 34, top - 9, yName, "name", "start")}`;
}

const box = (width, height) => ({ left: 44, top: 24, right: width - 20, bottom: height - 44 });

// Every k-th number, so that no path has more than about `most` corners; the last one always.
function thinned(upTo, most) {
  const gap = Math.max(1, Math.ceil(upTo / most)), steps = [];
  for (let n = 0; n < upTo; n += gap) steps.push(n);
  return [...steps, upTo];
}

function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const x of values) {
    if (x < low) low = x;
    if (x > high) high = x;
  }
  return [low, high];
}

// Up to here |u|^2 is drawn of a run that explodes, so that the others can still be seen: well above the edge of stability.
const far = ({ eta }) => 16 / eta;
const place = ({ gap }, run, n) => Math.min(Math.floor(n / gap), run.at[0].x.length - 1); // in what was recorded

// The map: level lines of the loss, the path of gradient descent to the star, and all paths up to step n.
function drawMap(result, n, width, height, id) {
  const { descent, runs, setting } = result, isValley = setting.landscape === "valley", frameBox = box(width, height);
  const near = (list, most) => extent(list.flatMap(values => extent(values.filter(x => Math.abs(x) < most))));
  const seen = runs.flatMap(run => run.at), way = descent.way;
  const [xLow, xHigh] = near([...seen.map(at => at.x), way.map(p => p[0])], Math.sqrt(far(setting)));
  const [, tall] = near([...seen.map(at => at.y.map(Math.abs)), way.map(p => Math.abs(p[1]))], isValley ? 3 : Infinity);
  const from = isValley ? 0 : Math.min(xLow, -xHigh / 4) * 1.08, to = xHigh * 1.08, reach = tall * 1.12;
  const xs = linear(from, to, frameBox.left, frameBox.right), ys = linear(-reach, reach, frameBox.bottom, frameBox.top);
  const levels = isValley ? [0.003, 0.03, 0.3, 3, 30] : [0.01, 0.04, 0.16, 0.64, 2.56];
  const contours = levels.map(loss => contour(isValley, loss, from, to, reach).map(
    line => polyline(line.map(([x, y]) => [xs(x), ys(y)]), "contour")).join("")).join("");
  const edge = Math.sqrt(2 / setting.eta);
  const edgeLine = isValley && edge < to ? `<path class="theory" d="M${n1(xs(edge))} ${frameBox.top}V${frameBox.bottom}"/>` : "";
  const paths = runs.map(run => {
    const path = k => polyline(thinned(place(result, run, n), 1500).map(i => [xs(run.at[k].x[i]), ys(run.at[k].y[i])]), `line ${run.look} ${k ? "z" : "w"}`);
    return (run.method.cancel > 0 ? path(0) : "") + path(1);
  }).join("");
  const toStar = isValley ? polyline(way.map(([x, y]) => [xs(x), ys(y)]), "line gd z") : "";
  const begin = `<circle class="begin" cx="${n1(xs(way[0][0]))}" cy="${n1(ys(way[0][1]))}" r="4"/>`
    + text(xs(way[0][0]) - 7, ys(way[0][1]) + 4, "start", "halo", "end");
  const ends = runs.map(run => {
    const i = place(result, run, n), x = Math.max(frameBox.left + 6, Math.min(xs(run.at[1].x[i]), frameBox.right - 6));
    return { run, x, y: Math.max(frameBox.top + 6, Math.min(ys(run.at[1].y[i]), frameBox.bottom - 6)) };
  });
  const labels = ends.map(({ run, x, y }) => marker(x, y, run)).join("") + besides(ends, frameBox);
  const names = isValley ? ["‖u‖: wide valley at 0, narrow far right", "v, across the valley"] : ["w₁, flat direction", "w₂, steep direction"];
  return frame(frameBox, id, xs, ys, roundTicks(from, to, width > 420 ? 6 : 4), roundTicks(-reach, reach, 4), ...names,
    contours + edgeLine + paths + toStar) + begin + labels;
}

// The names of the ends, each above or below its mark, moved until no two overlap.
function besides(ends, { left, right, top }) {
  const taken = [];
  return ends.map(({ run, x, y }) => {
    const half = run.name.length * 4.2, at = Math.max(left + half, Math.min(x, right - half));
    const free = [-13, 22, -29, 38, -45, 54].find(dy => y + dy > top + 8
      && !taken.some(other => Math.abs(other.x - at) < other.half + half && Math.abs(other.y - y - dy) < 14)) ?? -13;
    taken.push({ x: at, y: y + free, half });
    return text(at, y + free, run.name, "halo strong");
  }).join("");
}

// Lines of equal loss inside the window, as lists of points.
function contour(isValley, loss, from, to, reach) {
  const points = (count, f) => Array.from({ length: count + 1 }, (_, i) => f(i / count));
  if (!isValley) {
    const [a, b] = CURVATURES.map(mu => Math.sqrt(2 * loss / mu));
    return [points(72, t => [a * Math.cos(2 * Math.PI * t), b * Math.sin(2 * Math.PI * t)])];
  }
  const product = Math.sqrt(2 * loss), first = product / (1.2 * reach);
  if (first >= to) return [];
  const branch = points(60, t => first * (to / first) ** t).map(x => [x, product / x]);
  return [branch, branch.map(([x, y]) => [x, -y])];
}

// What is measured over the steps, with the predictions dashed.
function drawTime(result, n, look, width, height, id) {
  const { landscape, runs, setting, D, gap } = result, { measure, atZ } = look, frameBox = box(width, height), { steps } = setting;
  const values = runs.map(run => run.at[atZ].measures[measure]);
  const expected = runs.map(run => landscape.level(run.method, D, atZ)[measure]);
  const positive = values.map(list => extent(list.filter(x => x > 0 && x < far(setting))));
  const high = Math.max(...positive.map(range => range[1]), ...expected.filter(x => x > 0)) * 1.5;
  const least = Math.min(...positive.slice(1).map(range => range[0]), ...expected.filter(x => x > 0));
  const low = Math.max(least / 1.5, high / 1e6);
  const xs = linear(0, steps, frameBox.left, frameBox.right), ys = logarithmic(low, high, frameBox.bottom, frameBox.top);
  const y = x => Math.min(ys(Math.max(x, low / 10)), frameBox.bottom + 20);
  const theory = runs.map(run => {
    const points = Array.from({ length: 121 }, (_, i) => steps * i / 120)
      .map(k => [k, landscape.expected(run.method, D, k, atZ)[measure]]).filter(([, x]) => x !== null);
    return polyline(points.map(([k, x]) => [xs(k), y(x)]), "theory");
  }).join("");
  const level = expected.map(x => x ? `<path class="theory" d="M${n1(frameBox.right - 24)} ${n1(y(x))}H${frameBox.right}"/>` : "").join("");
  const lines = runs.map((run, i) => polyline(thinned(place(result, run, n), 500).map(k => [xs(k * gap), y(values[i][k])]), `line ${run.look} z`)).join("");
  const marks = runs.map((run, i) => {
    const k = place(result, run, n);
    return marker(xs(k * gap), Math.max(frameBox.top, Math.min(y(values[i][k]), frameBox.bottom)), run);
  }).join("");
  const name = NAMES[setting.landscape][measure];
  return frame(frameBox, id, xs, ys, roundTicks(0, steps, width > 420 ? 5 : 3), logTicks(low, high), "step n",
    `${name} at ${atZ ? "z" : "w"}`, theory + level + lines) + marks;
}

const NAMES = { valley: ["‖u‖²", "trace of the Hessian"], quadratic: ["‖w‖²", "loss"] };

// What came out, in one sentence for each run.
export function inWords(result, n, { measure, atZ }) {
  const { landscape, runs, setting, D } = result;
  const parts = runs.map(run => {
    if (run.lost >= 0 && run.lost <= n) return `${run.name} overflowed at step ${run.lost}`;
    const value = run.at[atZ].measures[measure][place(result, run, n)];
    const level = landscape.level(run.method, D, atZ)[measure];
    const said = run.method.sigma > 0 && level !== null ? `, predicted in the long run ${told(level)}` : "";
    return `${run.name === "dial" ? `dial (c = ${told(run.method.cancel)})` : run.name} ${told(value)}${said}`;
  });
  return `After ${n} steps, ${NAMES[setting.landscape][measure]} at ${atZ ? "z" : "w"}: ${parts.join("; ")}.`;
}

// --- Controls ---------------------------------------------------------------------------------------------------

const RANGE = { eta: [0.01, 0.5], sigma: [0.01, 0.5] };
const DIMENSIONS = [1, 2, 3, 5, 10, 20, 50], STEPS = [300, 1000, 3000, 10000, 30000];
const PAD = { width: 250, height: 200 };

const options = (values, words) => values.map((value, i) => `<option value="${value}">${words[i]}</option>`).join("");
const radios = (group, name, legend, values, words) => `<fieldset><legend>${legend}</legend>${values.map((value, i) =>
  `<label><input type="radio" name="${group}-${name}" data-radio="${name}" value="${value}"><span>${words[i]}</span></label>`).join("")}</fieldset>`;
const slider = (name, words, low, high, gap, ends = "") => `<div class="row" data-row="${name}"><label><span>${words}</span>
  <input type="range" data-name="${name}" min="${low}" max="${high}" step="${gap}"></label><output data-shown="${name}" aria-hidden="true"></output>${ends}</div>`;

function markup(id) {
  const logs = name => RANGE[name].map(x => Math.log10(x).toFixed(6));
  return `<div class="plots"><svg role="img" data-plot="map"></svg><svg role="img" data-plot="time"></svg></div>
  <p class="said" role="status" aria-live="polite"></p>
  <div class="choices">
    ${radios(id, "landscape", "landscape", ["valley", "quadratic"], ["widening valley", "quadratic"])}
    ${radios(id, "measure", "measured", [0, 1], ["", ""])}
    ${radios(id, "atZ", "at", [0, 1], ["w, with noise", "z, without"])}
  </div>
  <div class="time"><button type="button" data-name="play">Play</button>${slider("n", "step n", 0, 1, 1)}</div>
  <div class="controls">
    <svg data-plot="pad" width="${PAD.width}" height="${PAD.height}" role="group" aria-label="step size and noise"></svg>
    <div class="rows">
      ${slider("eta", "step size η", ...logs("eta"), "any")}${slider("sigma", "noise σ", ...logs("sigma"), "any")}
      ${slider("cancel", "dial: share c taken back", 0, 1, 0.05, "<small><span>0: PGD</span><span>1: Anti-PGD</span></small>")}
      ${slider("dimension", "dimension d of u", 0, DIMENSIONS.length - 1, 1)}
      ${slider("steps", "number of steps", 0, STEPS.length - 1, 1)}
      <div class="three"><label><span>law of the noise</span><select data-name="law">${options(Object.keys(LAWS), ["Gaussian", "Bernoulli, ±σ", "uniform"])}</select></label>
      <label><span>seed</span><input type="number" data-name="seed" min="0" step="1"></label>
      <button type="button" data-name="anew">Draw anew</button></div>
    </div>
  </div>`;
}

// The plane of step size and noise. Its lines join settings at which Anti-PGD needs equally many steps, 1 / (2 eta sigma^2),
// to shorten |u|^2 by the factor e.
function padScales() {
  const frameBox = box(PAD.width, PAD.height);
  return { frameBox, xs: logarithmic(...RANGE.eta, frameBox.left, frameBox.right), ys: logarithmic(...RANGE.sigma, frameBox.bottom, frameBox.top) };
}

function padMarkup(id) {
  const { frameBox, xs, ys } = padScales(), ticks = [0.01, 0.03, 0.1, 0.3].map(x => [x, String(x)]);
  const lines = [2, 3, 4, 5].map(exponent => {
    const at = eta => Math.sqrt(1 / (2 * eta * 10 ** exponent));
    const y = ys(at(RANGE.eta[1]));
    const inside = y < frameBox.bottom - 4 ? text(frameBox.right - 3, y - 4, `${power(exponent)} steps`, "halo", "end")
      : text(xs(0.5 / 10 ** exponent / 0.0115 ** 2) - 4, ys(0.0115), `${power(exponent)}`, "halo", "end");
    return polyline(RANGE.eta.map(eta => [xs(eta), ys(at(eta))]), "contour") + inside;
  }).join("");
  return frame(frameBox, id, xs, ys, ticks, ticks, "step size η", "noise σ: drag the point", lines)
    + `<rect class="catch" x="${frameBox.left}" y="${frameBox.top}" width="${frameBox.right - frameBox.left}" height="${frameBox.bottom - frameBox.top}"/>
    <g class="handle" tabindex="0" role="slider" aria-roledescription="slider in two directions" aria-label="Step size and noise"
      aria-valuemin="${RANGE.eta[0]}" aria-valuemax="${RANGE.eta[1]}"><circle class="ring" r="13"/><circle r="7"/></g>`;
}

// --- One mounted figure -----------------------------------------------------------------------------------------

const SETTING = ["landscape", "eta", "sigma", "cancel", "dimension", "law", "seed", "steps"];
let mounted = 0;

// A model for a page without a kernel: it holds the setting, and nobody else changes it.
export const plainModel = setting => ({ get: name => setting[name], set() {}, save_changes() {}, on() {}, off() {} });

// Mounts the figure at each place of a page that has none yet; the place carries its setting, as JSON.
export function mount() {
  for (const el of document.querySelectorAll(".apg-place:not([data-mounted])")) {
    el.dataset.mounted = "";
    render({ model: plainModel(JSON.parse(el.dataset.setting)), el });
  }
}

function render({ model, el }) {
  const id = `apg-${++mounted}`, root = document.createElement("div");
  root.className = "apg";
  root.innerHTML = `<style>${STYLE}</style>${markup(id)}`;
  el.replaceChildren(root);
  const find = query => root.querySelector(query), all = query => [...root.querySelectorAll(query)];
  const plot = name => find(`[data-plot="${name}"]`);
  const setting = Object.fromEntries(SETTING.map(name => [name, model.get(name)]));
  const look = { measure: 0, atZ: 0 };
  let result, n, playing = 0, due = 0, saying = 0;
  plot("pad").innerHTML = padMarkup(`${id}-pad`);
  const handle = find(".handle");

  const draw = () => {
    for (const [name, drawn] of [["map", drawMap], ["time", drawTime]]) {
      const svg = plot(name), width = Math.max(svg.clientWidth, 240), height = Math.round(Math.min(Math.max(width * 0.68, 230), 330));
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.style.height = `${height}px`;
      svg.innerHTML = name === "map" ? drawMap(result, n, width, height, `${id}-map`) : drawTime(result, n, look, width, height, `${id}-time`);
      svg.setAttribute("aria-label", name === "map" ? "Map of the landscape with the paths of the methods" : `${NAMES[setting.landscape][look.measure]} over the steps`);
    }
    const shown = find('[data-name="n"]');
    Object.assign(shown, { max: setting.steps, step: result.gap, value: n });
    shown.setAttribute("aria-valuetext", `step ${n} of ${setting.steps}`);
    find('[data-shown="n"]').textContent = n;
    clearTimeout(saying);
    saying = setTimeout(() => { find(".said").textContent = inWords(result, n, look); }, playing ? 1e3 : 250);
  };

  const showSetting = () => {
    const { frameBox, xs, ys } = padScales(), inside = (x, [low, high]) => Math.min(Math.max(x, low), high);
    handle.setAttribute("transform", `translate(${n1(xs(inside(setting.eta, RANGE.eta)))} ${n1(ys(inside(setting.sigma, RANGE.sigma)))})`);
    handle.setAttribute("aria-valuenow", setting.eta);
    handle.setAttribute("aria-valuetext", `step size ${told(setting.eta)}, noise ${told(setting.sigma)}`);
    const shown = { eta: Math.log10(setting.eta), sigma: Math.log10(setting.sigma), cancel: setting.cancel, dimension: DIMENSIONS.findIndex(d => d >= setting.dimension), steps: STEPS.findIndex(n => n >= setting.steps) };
    for (const [name, value] of Object.entries(shown)) {
      const control = find(`[data-name="${name}"]`);
      control.value = value;
      control.setAttribute("aria-valuetext", told(setting[name]));
      find(`[data-shown="${name}"]`).textContent = told(setting[name]);
    }
    for (const name of ["law", "seed"]) find(`[data-name="${name}"]`).value = setting[name];
    for (const radio of all("[data-radio]")) radio.checked = String({ ...setting, ...look }[radio.dataset.radio]) === radio.value;
    all('[data-radio="measure"] + span').forEach((span, i) => { span.textContent = NAMES[setting.landscape][i]; });
    find('[data-row="dimension"]').hidden = setting.landscape !== "valley";
  };

  const stop = () => {
    cancelAnimationFrame(playing);
    playing = 0;
    find('[data-name="play"]').textContent = "Play";
  };
  // A new setting is computed once before the next picture, however often the pointer has moved.
  const refresh = () => {
    due ||= requestAnimationFrame(() => {
      due = 0;
      stop();
      result = compute(setting);
      n = setting.steps;
      showSetting();
      draw();
    });
  };
  const change = changes => {
    Object.assign(setting, changes);
    for (const [name, value] of Object.entries(changes)) model.set(name, value);
    model.save_changes();
    refresh();
  };
  const rounded = x => Number(x.toPrecision(3));
  const within = (name, x) => rounded(Math.min(Math.max(x, RANGE[name][0]), RANGE[name][1]));

  const listen = (element, kind, act) => element.addEventListener(kind, act);
  const on = (name, kind, act) => listen(find(`[data-name="${name}"]`), kind, event => act(event.target.value));
  for (const name of ["eta", "sigma"]) on(name, "input", value => change({ [name]: within(name, 10 ** value) }));
  on("cancel", "input", value => change({ cancel: Number(value) }));
  on("dimension", "input", value => change({ dimension: DIMENSIONS[value] }));
  on("law", "change", value => change({ law: value }));
  on("steps", "input", value => change({ steps: STEPS[value] }));
  on("seed", "change", value => change({ seed: Math.max(0, Math.floor(Number(value))) || 0 }));
  on("anew", "click", () => change({ seed: setting.seed + 1 }));
  on("n", "input", value => { stop(); n = Number(value); draw(); });
  for (const radio of all("[data-radio]"))
    listen(radio, "change", () => {
      if (radio.dataset.radio === "landscape") return change({ landscape: radio.value });
      look[radio.dataset.radio] = Number(radio.value);
      draw();
    });

  on("play", "click", () => {
    if (playing) return stop();
    const began = performance.now(), from = n < setting.steps ? n : 0, seconds = 5 * (1 - from / setting.steps);
    const move = now => {
      n = Math.min(setting.steps, Math.round(from + (setting.steps - from) * Math.max(now - began, 0) / 1e3 / seconds));
      playing = requestAnimationFrame(move);
      if (n === setting.steps) stop();
      draw();
    };
    playing = requestAnimationFrame(move);
    find('[data-name="play"]').textContent = "Pause";
  });
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const mind = () => {
    if (still.matches) stop();
    find('[data-name="play"]').hidden = still.matches;
  };

  const pad = plot("pad"), { frameBox } = padScales();
  const drag = event => {
    const place = pad.getBoundingClientRect(), scale = PAD.width / place.width;
    const at = (name, low, high, x) => within(name, RANGE[name][0] * (RANGE[name][1] / RANGE[name][0]) ** ((x - low) / (high - low)));
    change({
      eta: at("eta", frameBox.left, frameBox.right, (event.clientX - place.left) * scale),
      sigma: at("sigma", frameBox.bottom, frameBox.top, (event.clientY - place.top) * scale),
    });
  };
  listen(pad, "pointerdown", event => {
    if (!event.target.closest(".catch, .handle")) return;
    pad.setPointerCapture(event.pointerId);
    handle.focus({ preventScroll: true });
    event.preventDefault();
    drag(event);
  });
  listen(pad, "pointermove", event => { if (pad.hasPointerCapture(event.pointerId)) drag(event); });
  const KEYS = { ArrowRight: ["eta", 1], ArrowLeft: ["eta", -1], ArrowUp: ["sigma", 1], ArrowDown: ["sigma", -1] };
  listen(handle, "keydown", event => {
    if (!(event.key in KEYS)) return;
    event.preventDefault();
    const [name, sign] = KEYS[event.key];
    change({ [name]: within(name, setting[name] * 1.1 ** (sign * (event.shiftKey ? 5 : 1))) });
  });

  // Dark or light is read off the text around: pages, Jupyter and Colab each say it in a way of their own.
  const shade = () => {
    const [r, g, b] = getComputedStyle(el).color.match(/[\d.]+/g).map(Number);
    root.classList.toggle("dark", 0.3 * r + 0.6 * g + 0.1 * b > 128);
  };
  const themes = new MutationObserver(shade), sizes = new ResizeObserver(() => result && draw());
  for (const element of [document.documentElement, document.body]) themes.observe(element, { attributes: true });
  sizes.observe(find(".plots"));
  still.addEventListener("change", mind);
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", shade);
  const follow = Object.fromEntries(SETTING.map(name => [name, () => {
    if (setting[name] !== model.get(name)) {
      setting[name] = model.get(name);
      refresh();
    }
  }]));
  for (const name of SETTING) model.on(`change:${name}`, follow[name]);
  mind();
  shade();
  refresh();
  return () => {
    stop();
    cancelAnimationFrame(due);
    clearTimeout(saying);
    themes.disconnect();
    sizes.disconnect();
    still.removeEventListener("change", mind);
    scheme.removeEventListener("change", shade);
    for (const name of SETTING) model.off(`change:${name}`, follow[name]);
  };
}

const STYLE = `
.text_html:has(> .apg-place) { background: transparent !important; color: inherit !important; padding: 0 !important; }
.apg { --ground: #fff; --line: #6b6b6b; --faint: #d4d4d4; --gd: #000; --pgd: #d55e00; --anti: #009e73; --dial: #332288;
  --accent: #0b5cad; color: inherit; font: 14px/1.4 system-ui, sans-serif; max-width: 60rem; text-align: start; }
.apg.dark { --ground: #121212; --line: #a8a8a8; --faint: #444; --gd: #fff; --pgd: #ff8a3d; --anti: #2bc79a; --dial: #a99cf5; --accent: #6db3f8; }
.apg [hidden] { display: none !important; }
.apg .plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); gap: 4px; }
.apg svg { display: block; width: 100%; overflow: hidden; font: 12px system-ui, sans-serif; }
.apg svg text { fill: currentColor; stroke: none; }
.apg svg .name { font-size: 13px; }
.apg svg .strong { font-weight: 600; font-size: 13px; }
.apg svg .halo { paint-order: stroke; stroke: var(--ground); stroke-width: 3px; stroke-linejoin: round; }
.apg .axis { fill: none; stroke: var(--line); }
.apg .contour { fill: none; stroke: var(--faint); }
.apg .theory { fill: none; stroke: var(--line); stroke-width: 1.5; stroke-dasharray: 5 3; }
.apg .line { fill: none; stroke-linejoin: round; stroke-width: 1.4; }
.apg .line.w { stroke-width: 0.7; opacity: 0.45; }
.apg .gd { stroke: var(--gd); } .apg .pgd { stroke: var(--pgd); } .apg .anti { stroke: var(--anti); } .apg .dial { stroke: var(--dial); }
.apg .mark { stroke: var(--ground); stroke-width: 1.5; }
.apg .mark.gd { fill: var(--gd); } .apg .mark.pgd { fill: var(--pgd); } .apg .mark.anti { fill: var(--anti); } .apg .mark.dial { fill: var(--dial); }
.apg .begin { fill: var(--ground); stroke: var(--gd); stroke-width: 2; }
.apg .said { margin: 4px 0 8px; min-height: 2.8em; color: inherit; }
.apg .choices { display: flex; flex-wrap: wrap; gap: 4px 18px; margin-bottom: 4px; }
.apg fieldset { border: 0; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: 2px 10px; align-items: center; min-width: 0; }
.apg legend { float: left; padding: 0; margin: 0 4px 0 0; width: auto; font-size: inherit; opacity: 0.85; }
.apg label { margin: 0; }
.apg fieldset label { display: inline-flex; align-items: center; gap: 4px; min-height: 28px; cursor: pointer; }
.apg input, .apg select, .apg button { font: inherit; color: inherit; accent-color: var(--accent); }
.apg select, .apg button, .apg input[type=number] { background: var(--ground); border: 1px solid var(--line); border-radius: 4px;
  padding: 3px 8px; min-height: 32px; }
.apg input[type=number] { width: 5em; }
.apg button { cursor: pointer; }
.apg :focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.apg .controls { display: flex; flex-wrap: wrap; gap: 8px 24px; align-items: flex-start; }
.apg .controls > svg { flex: none; width: ${PAD.width}px; max-width: 100%; }
.apg .rows { flex: 1 1 270px; min-width: 0; display: grid; gap: 6px; }
.apg .row { display: grid; grid-template-columns: minmax(0, 1fr) 3.6em; gap: 0 8px; align-items: end; }
.apg .row label { display: grid; min-width: 0; }
.apg .three { display: flex; flex-wrap: wrap; gap: 6px 12px; align-items: end; }
.apg .three label { display: grid; }
.apg .row small { display: flex; justify-content: space-between; font-size: 12px; }
.apg output { line-height: 26px; font-variant-numeric: tabular-nums; }
.apg input[type=range] { width: 100%; min-width: 0; height: 26px; margin: 0; }
.apg .time { display: flex; gap: 12px; align-items: end; margin-bottom: 10px; }
.apg .time .row { flex: 1; min-width: 0; }
.apg .time button { min-width: 5em; }
.apg .catch { fill: transparent; cursor: crosshair; touch-action: none; }
.apg .handle { cursor: grab; touch-action: none; outline: none; }
.apg .handle circle { fill: var(--accent); stroke: var(--ground); stroke-width: 2; }
.apg .handle .ring { fill: transparent; stroke: none; }
.apg .handle:focus-visible .ring { stroke: var(--accent); stroke-width: 3; }
`;

export default { render };
