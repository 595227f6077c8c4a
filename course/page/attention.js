// Who looks at whom: all heads as small maps, one of them as lines between the pieces, and as a matrix.

import { heatMap, make, pieceText, roving, shade, svg } from "./draw.js";
import { say } from "./messages.js";

const KINDS = {
  cross: (n) => `decoder.layers.${n}.cross_attention`,
  encoder: (n) => `encoder.layers.${n}.self_attention`,
  decoder: (n) => `decoder.layers.${n}.self_attention`,
};

/** Return the weights of a module as [H][Q] rows of equal length, whole for what is written. */
function weightsOf(result, kind, layer) {
  const name = KINDS[kind](layer);
  if (kind === "encoder") return result.encoder[name];
  if (kind === "decoder" && result.again) return result.again[name]; // no mask: all looked at all
  const width = kind === "cross" ? result.source.length : result.steps.length;
  const heads = result.steps[0].attention[name].length;
  return Array.from({ length: heads }, (_, h) => result.steps.map(({ attention }) => {
    const row = new Float32Array(width);
    row.set(attention[name][h].slice(0, width));
    return row;
  }));
}

/** Return the mean of all heads. */
const meanOf = (heads) => heads[0].map((row, i) =>
  row.map((_, j) => heads.reduce((sum, head) => sum + head[i][j], 0) / heads.length));

/** Return the labels of queries and keys. */
function labels(result, kind) {
  const source = result.source.map((p) => pieceText(p.name, say("end")));
  const written = result.steps.map((p) => pieceText(p.name, say("end")));
  const read = [say("begin"), ...written.slice(0, -1)];
  return { encoder: [source, source], cross: [written, source], decoder: [written, read] }[kind];
}

/** The section. state: {kind, layer, head}; change(part) is called when the reader chooses. */
export class AttentionView {
  constructor(section, state, change) {
    Object.assign(this, { section, state, change, result: null });
    this.kinds = make("div", { class: "choice", role: "group", "aria-label": say("attention_title") });
    this.gallery = make("div", { class: "gallery", role: "group", "aria-label": say("gallery") });
    this.words = make("div", { class: "looking" });
    this.told = make("p", { class: "told", "aria-live": "polite" });
    this.matrix = make("div", { class: "scroll", tabindex: 0, role: "group" });
    section.replaceChildren(
      make("h2", { id: "h-attention" }, say("attention_title")), make("p", { class: "note" }, say("attention_note")),
      this.kinds,
      make("div", { class: "attention" },
        make("div", { class: "left" }, this.words, this.told),
        make("div", { class: "right" }, make("h3", {}, say("gallery")), this.gallery)),
      this.fold = make("details", { class: "plain", ontoggle: () => this.result && this.drawMatrix() }, make("summary", {}, this.title = make("span")), this.matrix));
    new ResizeObserver(() => this.lines()).observe(this.words);
  }

  show(result) {
    this.result = result;
    if (!result.steps.length) return;
    const { kind, layer, head } = this.state;
    this.kinds.replaceChildren(...Object.keys(KINDS).map((name) => make("button", {
      type: "button", "aria-pressed": String(name === kind), onclick: () => this.change({ kind: name }),
    }, say(`kind_${name}`))));
    this.drawGallery();
    const heads = weightsOf(result, kind, layer);
    this.weights = head === "mean" ? meanOf(heads) : heads[head] ?? heads[0];
    [this.asks, this.keys] = labels(result, kind);
    this.drawWords();
    this.drawMatrix();
  }

  drawGallery() {
    const { kind, layer, head } = this.state, focused = document.activeElement?.dataset?.thumb;
    const rows = Array.from({ length: this.result.layers }, (_, n) => {
      const heads = weightsOf(this.result, kind, n);
      const maps = [...heads.map((rows, h) => [h, rows]), ["mean", meanOf(heads)]];
      return make("div", { class: "gallery-row" }, make("span", {}, say("layer", { n: n + 1 })),
        ...maps.map(([h, rows]) => {
          const name = h === "mean" ? say("mean") : say("head", { n: h + 1 });
          return make("button", {
            type: "button", class: "thumb", "aria-pressed": String(n === layer && h === head), "data-thumb": `${n}/${h}`,
            "aria-label": say("thumb", { layer: n + 1, head: name }), title: say("thumb", { layer: n + 1, head: name }),
            onclick: () => this.change({ layer: n, head: h }),
          }, heatMap(rows, { weights: true }));
        }));
    });
    const names = [...this.result.steps[0].attention[KINDS.cross(0)].keys()].map((h) => say("head", { n: h + 1 }));
    const top = make("div", { class: "gallery-row names", "aria-hidden": "true" }, make("span"),
      ...[...names, say("mean")].map((name) => make("span", {}, name)));
    this.gallery.replaceChildren(top, ...rows);
    if (focused) this.gallery.querySelector(`[data-thumb="${focused}"]`)?.focus();
  }

  drawWords() {
    const { kind } = this.state;
    const row = (side, texts) => {
      const element = make("div", { class: `chips ${side}`, role: "group", "aria-label": say(`${side}_${kind}`) },
        ...texts.map((text, i) => make("button", {
          type: "button", class: "chip",
          onpointerenter: () => this.point(side, i), onfocus: () => this.point(side, i),
          onclick: () => this.point(side, i),
        }, text)));
      roving(element);
      return element;
    };
    this.overlay = svg("svg", { class: "lines", "aria-hidden": "true" });
    this.rows = { asks: row("asks", this.asks), keys: row("keys", this.keys) };
    this.words.replaceChildren(
      make("h3", {}, say(`asks_${kind}`)), this.rows.asks,
      make("div", { class: "gap" }), this.rows.keys, make("h3", { class: "below" }, say(`keys_${kind}`)), this.overlay);
    const longest = this.state.at && this.state.at[1] < this[this.state.at[0]].length ? this.state.at : ["asks", this.interesting()];
    this.point(...longest);
  }

  /** Begin with the piece whose look is the most decided, other than the end. */
  interesting() {
    const self = this.state.kind === "decoder", last = this.weights.length - 2;
    const most = this.weights.map((row, i) => (self && i < 3) || i >= last ? 0 : Math.max(...row.slice(self ? 1 : 0)));
    return most.indexOf(Math.max(...most));
  }

  /** Show whom a piece looks at, or (of the lower row) who looks at it. */
  point(side, i) {
    this.state.at = [side, i];
    const shares = side === "asks" ? this.weights[i] : this.weights.map((row) => row[i]);
    const other = side === "asks" ? "keys" : "asks", texts = this[other];
    for (const [name, row] of Object.entries(this.rows)) {
      [...row.children].forEach((chip, j) => {
        const share = name === other ? shares[j] : 0;
        chip.style.background = name === other ? shade(0.45 * share ** 0.7) : "";
        chip.classList.toggle("pointed", name === side && j === i);
      });
    }
    const best = [...shares.keys()].sort((a, b) => shares[b] - shares[a]).slice(0, 3).filter((j) => shares[j] >= 0.01);
    const list = best.map((j) => `${texts[j]} ${Math.round(100 * shares[j])} %`).join(" · ");
    this.told.textContent = side === "asks" ? say("looks", { from: this.asks[i], shares: list })
      : say("looked_at", { to: this.keys[i], shares: list });
    this.shares = shares;
    this.lines();
    this.matrix.querySelectorAll("[data-row]").forEach((cell) => cell.classList.toggle(
      "pointed", Number(side === "asks" ? cell.dataset.row : cell.dataset.column) === i));
  }

  lines() {
    if (!this.state.at || !this.rows) return;
    const [side, i] = this.state.at, base = this.words.getBoundingClientRect();
    const from = this.rows[side].children[i]?.getBoundingClientRect();
    if (!from || !base.width) return;
    this.overlay.setAttribute("viewBox", `0 0 ${base.width} ${base.height}`);
    const others = [...this.rows[side === "asks" ? "keys" : "asks"].children];
    const down = side === "asks";
    this.overlay.replaceChildren(...others.map((chip, j) => {
      const to = chip.getBoundingClientRect(), share = this.shares[j];
      if (!(share > 0.02)) return null;
      const [x1, y1] = [from.x + from.width / 2 - base.x, (down ? from.bottom : from.top) - base.y];
      const [x2, y2] = [to.x + to.width / 2 - base.x, (down ? to.top : to.bottom) - base.y];
      const bend = (y2 - y1) / 2;
      return svg("path", { d: `M${x1} ${y1} C${x1} ${y1 + bend} ${x2} ${y2 - bend} ${x2} ${y2}`,
        "stroke-width": 1 + 7 * share, "stroke-opacity": 0.18 + 0.6 * share });
    }).filter(Boolean));
  }

  drawMatrix() {
    const { kind, layer, head } = this.state, size = 22, left = 134, top = 104;
    const chosen = head === "mean" ? say("mean_of") : say("head", { n: head + 1 });
    this.title.textContent = say("matrix", { kind: say(`kind_${kind}`), layer: layer + 1, head: chosen });
    if (!this.fold.open) return;
    const [width, height] = [left + size * this.keys.length + 40, top + size * this.asks.length + 6];
    const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, class: "matrix", role: "img",
      "aria-label": this.title.textContent });
    this.keys.forEach((text, j) => picture.append(svg("text", {
      transform: `translate(${left + size * (j + 0.65)} ${top - 8}) rotate(-50)`, "data-column": j }, text)));
    this.asks.forEach((text, i) => {
      picture.append(svg("text", { x: left - 8, y: top + size * (i + 0.68), "text-anchor": "end" }, text));
      this.weights[i].forEach((share, j) => {
        const cell = svg("rect", { x: left + size * j, y: top + size * i, width: size - 1.5, height: size - 1.5, rx: 2,
          "data-row": i, "data-column": j, style: `fill:${shade(share ** 0.7)}`, onpointerenter: () => this.point("asks", i) });
        cell.append(svg("title", {}, `${text} → ${this.keys[j]}: ${share.toFixed(3)}`));
        picture.append(cell);
      });
    });
    this.matrix.replaceChildren(picture);
    this.matrix.setAttribute("aria-label", this.title.textContent);
  }
}
