// Small tools to draw with: elements, SVG, heat maps. Nothing here knows of a Transformer.

/** Return a new HTML element: make("p", {class: "note"}, "text", child). */
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Return a new SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null && child !== false));
  return element;
}

/** Return the element of an id. */
export const byId = (id) => document.getElementById(id);

/** Show a piece for the eye: its space as a thin mark, specials by a word. */
export function pieceText(name, end) {
  if (name === "</s>") return end ?? "⏎";
  if (name === "<s>") return "⟨s⟩";
  return name.replaceAll("▁", "\u00a0").trim() || "␣";
}

/** Return a colour for a share from 0 to 1, on the page's ground. */
export const shade = (share, colour = "var(--accent)") =>
  `color-mix(in srgb, ${colour} ${Math.round(100 * Math.min(1, share))}%, var(--card))`;

/** Let one element of a row be in the tab order, and the arrow keys move within the row. */
export function roving(row, selector = "button") {
  const all = () => [...row.querySelectorAll(selector)];
  all().forEach((element, i) => { element.tabIndex = i ? -1 : 0; });
  row.onkeydown = (event) => {
    const elements = all(), at = elements.indexOf(document.activeElement);
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const to = event.key === "Home" ? 0 : event.key === "End" ? elements.length - 1 : at + (move ?? 0);
    if (at < 0 || to === at || !elements[to]) return;
    event.preventDefault();
    elements[at].tabIndex = -1;
    elements[to].tabIndex = 0;
    elements[to].focus();
  };
}

const colours = new Map();

/** Return a colour of the page as a canvas needs it, [r, g, b]; asked once for each theme. */
function paint(name) {
  const key = `${name} ${document.documentElement.dataset.theme} ${matchMedia("(prefers-color-scheme: dark)").matches}`;
  if (!colours.has(key)) colours.set(key, resolved(name));
  return colours.get(key);
}

function resolved(name) {
  const probe = make("span", { style: `color: var(${name})` });
  document.body.append(probe);
  const colour = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
  probe.remove();
  return colour;
}

/** Return a canvas of numbers, a row for each vector. from 0: weights; around 0: blue to orange. */
export function heatMap(rows, { weights = false, label = "" } = {}) {
  const [height, width] = [rows.length, rows[0].length];
  const canvas = make("canvas", { width, height, class: "heat",
    ...(label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" }) });
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  const [ground, high, low] = ["--heat-zero", weights ? "--heat-weight" : "--heat-high", "--heat-low"].map(paint);
  const most = weights ? 1 : Math.max(1e-9, spread(rows));
  rows.forEach((row, i) => row.forEach((x, k) => {
    const end = x < 0 ? low : high, share = Math.min(1, Math.abs(x) / most) ** (weights ? 0.7 : 0.8);
    for (let c = 0; c < 3; c++) {
      image.data[4 * (i * width + k) + c] = ground[c] + share * (end[c] - ground[c]);
    }
    image.data[4 * (i * width + k) + 3] = 255;
  }));
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Return the absolute value that 99 % of the numbers stay below: one outlier leaves the rest visible. */
function spread(rows) {
  const all = rows.flatMap((row) => [...row].filter(Number.isFinite).map(Math.abs)).sort((a, b) => a - b);
  return all[Math.floor(0.99 * (all.length - 1))] ?? 1;
}

/** Return the smallest and the largest of rows, for a caption. */
export function range(rows) {
  let [least, most] = [Infinity, -Infinity];
  for (const row of rows) {
    for (const x of row) {
      if (!Number.isFinite(x)) continue;
      least = Math.min(least, x);
      most = Math.max(most, x);
    }
  }
  return { least: least.toFixed(2), most: most.toFixed(2) };
}
