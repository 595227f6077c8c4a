// The beam as a tree: a column for each step, a row for each place in the beam.

import { lengthPenalty } from "./decoding.js";
import { make, pieceText, svg } from "./draw.js";
import { say } from "./messages.js";

const [COLUMN, ROW, LEFT, TOP] = [76, 44, 22, 26];

/** The section. state: {beam, alpha}; change({beam}) searches again, α is only counted again. */
export class BeamView {
  constructor(section, state, change) {
    Object.assign(this, { section, state, change, rows: [] });
    const slider = (name, least, most, step) => {
      const shown = make("output", {}, String(state[name]));
      const input = make("input", { type: "range", min: least, max: most, step, value: state[name],
        oninput: () => { shown.textContent = input.value; change({ [name]: Number(input.value) }); } });
      this[`${name}Input`] = { input, shown };
      return make("label", { class: "slider" }, make("span", {}, say(name), " ", shown), input);
    };
    this.told = make("p", { class: "told", "aria-live": "polite" });
    this.tree = make("div", { class: "scroll tree", tabindex: 0, role: "group", "aria-label": say("beam_title") });
    this.list = make("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": say("hypothesis") });
    section.replaceChildren(
      make("h2", { id: "h-beam" }, say("beam_title")), make("p", { class: "note" }, say("beam_note")),
      make("div", { class: "controls" }, slider("beam", 1, 8, 1), slider("alpha", 0, 3, 0.1)),
      this.tree, this.told, this.list);
  }

  /** Take over what a link says. */
  sync() {
    for (const name of ["beam", "alpha"]) {
      this[`${name}Input`].input.value = this.state[name];
      this[`${name}Input`].shown.textContent = String(this.state[name]);
    }
  }

  ranking() {
    const last = this.rows.at(-1) ?? [];
    return last.map((node, slot) => {
      const lp = lengthPenalty(node.length, this.state.alpha);
      return { ...node, slot, lp, score: node.total / lp };
    }).sort((a, b) => b.ended - a.ended || b.score - a.score);
  }

  show(rows) {
    this.rows = rows;
    if (!rows.length) return;
    const best = this.ranking();
    this.drawTree(best[0].slot);
    const number = (x) => x.toFixed(2).replace("-", "−");
    this.list.replaceChildren(make("table", {},
      make("thead", {}, make("tr", {}, ...["hypothesis", "log_p", "length", "lp", "score"].map((key) =>
        make("th", { scope: "col" }, say(key))))),
      make("tbody", {}, ...best.map((h, i) => make("tr", { class: i ? "" : "best" },
        make("td", { lang: "en" }, h.ended ? h.text : `${h.text} (${say("unfinished")})`),
        make("td", {}, number(h.total)), make("td", {}, String(h.length)), make("td", {}, number(h.lp)),
        make("td", {}, number(h.score)))))));
    this.told.textContent = "";
  }

  drawTree(bestSlot) {
    const { rows } = this, lit = new Set();
    for (let t = rows.length - 1, slot = bestSlot; t >= 0; slot = rows[t].at(slot).parent, t--) lit.add(`${t}/${slot}`);
    const alive = new Set(), mark = (t, slot) => {
      for (; t >= 0 && !alive.has(`${t}/${slot}`); slot = rows[t][slot].parent, t--) alive.add(`${t}/${slot}`);
    };
    rows.at(-1).forEach((_, slot) => mark(rows.length - 1, slot));
    const deepest = Math.max(...rows.map((row) => row.length));
    const [width, height] = [LEFT + COLUMN * (rows.length + 1), TOP + ROW * deepest];
    const at = (t, slot) => [LEFT + COLUMN * (t + 1), TOP + ROW * (t < 0 ? 0 : slot)];
    const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
      "aria-label": say("beam_alt", { steps: rows.length, text: rows.at(-1)[bestSlot].text }) });
    const edges = svg("g"), nodes = svg("g");
    picture.append(edges, nodes);
    nodes.append(svg("text", { x: LEFT - 14, y: TOP + 4, class: "node" }, say("begin")));
    rows.forEach((row, t) => row.forEach((node, slot) => {
      const [x, y] = at(t, slot), [px, py] = at(t - 1, node.parent), key = `${t}/${slot}`;
      const kind = lit.has(key) ? "lit" : alive.has(key) ? "alive" : "dropped";
      const from = t ? px + 24 : LEFT + 24;
      edges.append(svg("path", { class: `edge ${kind}${node.waits ? " waits" : ""}`,
        d: `M${from} ${py} C${from + 22} ${py} ${x - 50} ${y} ${x - 28} ${y}` }));
      if (node.waits) {
        nodes.append(svg("circle", { cx: x - 2, cy: y, r: 3, class: `wait ${kind}` }));
        edges.append(svg("path", { class: `edge waits ${kind}`, d: `M${x - 28} ${y} H${x + 24}` }));
        return;
      }
      const share = `${(100 * Math.exp(node.logProb)).toFixed(node.logProb > -2.3 ? 0 : 1)} %`;
      const told = say("node", { text: node.text, total: node.total.toFixed(2).replace("-", "−"), share });
      const tell = () => { this.told.textContent = told; };
      const group = svg("g", { class: `place ${kind}`, onpointerenter: tell }, svg("title", {}, told));
      const text = pieceText(node.name, "■");
      group.append(svg("rect", { x: x - 28, y: y - 14, width: 54, height: 30, rx: 6 }),
        svg("text", { x: x - 1, y: y - 1, "text-anchor": "middle", class: "node",
          ...(text.length > 7 ? { textLength: 50, lengthAdjust: "spacingAndGlyphs" } : {}) }, text),
        svg("text", { x: x - 1, y: y + 11, "text-anchor": "middle", class: "small" }, node.total.toFixed(2).replace("-", "−")));
      nodes.append(group);
    }));
    this.tree.replaceChildren(picture);
  }
}
