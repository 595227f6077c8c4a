// Figure 1 of the paper with data in it: every box is a button that shows what goes in and comes out.

import { heatMap, make, pieceText, range, svg } from "./draw.js";
import { say } from "./messages.js";

const [WIDE, HIGH, GAP] = [146, 30, 13];

/** Return the boxes of one layer, from the bottom up. */
function layerBoxes(stack, pre) {
  const parts = stack === "encoder" ? [["self", "self_attention"], ["ff", "feed_forward"]]
    : [["masked", "self_attention"], ["cross", "cross_attention"], ["ff", "feed_forward"]];
  return parts.flatMap(([label, module], r) => {
    const norm = { label: "norm", eq: "norm", lesson: "05_transformer", out: (p) => `${p}.residuals.${r}.norm` };
    const part = { label, eq: label === "self" ? "attention" : label, out: (p) => `${p}.${module}`,
      lesson: { ff: "05_transformer", masked: "04_masking" }[label] ?? "03_attention",
      weights: label === "ff" ? null : (p) => `${p}.${module}.weights` };
    const add = { label: pre ? "add" : "addnorm", eq: pre ? "add" : "addnorm", lesson: "05_transformer",
      out: (p) => `${p}.residuals.${r}`, joins: pre ? 3 : 2 };
    return [...(pre ? [norm] : []), part, add].map((box) => ({ ...box, id: `${stack}-${r}-${box.label}`, inLayer: true }));
  });
}

/** Return all boxes with their places: encoder and decoder, each from the bottom up. */
function layOut(pre) {
  const ends = (stack) => [
    { id: `${stack}-embedding`, label: "embedding", eq: "embedding", lesson: "05_transformer", out: () => `${stack}.embedding` },
    { id: `${stack}-positions`, label: "positions", eq: "positions", lesson: "05_transformer", out: () => `${stack}.positions` },
    ...layerBoxes(stack, pre),
    ...(pre ? [{ id: `${stack}-norm`, label: "norm", eq: "norm", lesson: "05_transformer", out: () => stack }] : []),
  ];
  const top = [
    { id: "linear", label: "linear", eq: "linear", lesson: "05_transformer", out: () => "logits" },
    { id: "softmax", label: "softmax", eq: "softmax", lesson: "08_decoding", out: () => "probabilities" },
  ];
  const stacks = { encoder: ends("encoder"), decoder: [...ends("decoder"), ...top] };
  const rows = stacks.decoder.length;
  for (const [stack, boxes] of Object.entries(stacks)) {
    boxes.forEach((box, i) => Object.assign(box, { stack, row: i, x: stack === "encoder" ? 22 : 212,
      y: 26 + (rows - 1 - i) * (HIGH + GAP) }));
  }
  return { ...stacks, height: 26 + rows * (HIGH + GAP) + 22 };
}

/** The section. state: {box, layer}; ask(start) returns a promise of all values on the way. */
export class FigureView {
  constructor(section, state, { change, ask, lesson }) {
    Object.assign(this, { section, state, change, ask, lesson, timer: null });
    this.note = make("p", { class: "note" });
    this.picture = make("div", { class: "figure-one" });
    this.panel = make("div", { class: "card panel", "aria-live": "polite" });
    const button = (key, onclick) => make("button", { type: "button", onclick }, say(key));
    this.playing = button("play", () => this.play());
    section.replaceChildren(
      make("h2", { id: "h-figure" }, say("figure_title")), this.note,
      make("div", { class: "controls" }, button("back", () => this.move(-1)), this.playing, button("forward", () => this.move(1)),
        this.where = make("span", { class: "note" })),
      make("div", { class: "figure" }, this.picture, this.panel));
  }

  /** Say which model is drawn. */
  begin(config) {
    this.config = config;
    const pre = config.norm === "pre";
    this.note.textContent = say(pre ? "figure_note" : "figure_note_post");
    this.boxes = layOut(pre);
    const walk = (boxes, first, last) => boxes.slice(first, last);
    const flow = (boxes) => {
      const inside = boxes.filter((b) => b.inLayer), from = boxes.indexOf(inside[0]), to = from + inside.length;
      return [...walk(boxes, 0, from).map((b) => [b, 0]),
        ...Array.from({ length: config.n_layers }, (_, n) => inside.map((b) => [b, n])).flat(),
        ...walk(boxes, to).map((b) => [b, 0])];
    };
    this.flow = [...flow(this.boxes.encoder), ...flow(this.boxes.decoder)];
    this.draw();
  }

  place() {
    const at = this.flow.findIndex(([box, n]) => box.id === this.state.box && (!box.inLayer || n === this.state.layer));
    return Math.max(0, at);
  }

  move(by) {
    let to = this.place() + by;
    const written = this.result?.steps.length ?? 1;
    if (to >= this.flow.length) { // written: the decoder reads one piece more
      to = this.boxes.encoder.length && this.flow.findIndex(([box]) => box.stack === "decoder");
      if (this.state.step + 1 < written) this.state.step += 1;
      else { this.halt(); return; }
    }
    to = Math.max(0, to);
    const [box, layer] = this.flow[to];
    this.change({ box: box.id, step: this.state.step, ...(box.inLayer ? { layer } : {}) });
  }

  play() {
    if (this.timer) return this.halt();
    this.playing.textContent = say("stop");
    this.timer = setInterval(() => this.move(1), 900);
    return null;
  }

  halt() {
    clearInterval(this.timer);
    this.timer = null;
    this.playing.textContent = say("play");
  }

  draw() {
    const { encoder, decoder, height } = this.boxes;
    const picture = svg("svg", { viewBox: `0 0 380 ${height}`, role: "group", "aria-label": say("figure_alt") });
    const line = (d, name = "wire") => svg("path", { d, class: name });
    for (const boxes of [encoder, decoder]) {
      const inside = boxes.filter((b) => b.inLayer), [bottom, top] = [inside[0], inside.at(-1)];
      picture.append(svg("rect", { class: `frame ${bottom.stack}`, x: bottom.x - 14, y: top.y - 8, width: WIDE + 28,
        height: bottom.y - top.y + HIGH + 16, rx: 12 }));
      boxes.forEach((box, i) => {
        const middle = box.x + WIDE / 2;
        if (i) picture.append(line(`M${middle} ${boxes[i - 1].y} V${box.y + HIGH}`, `wire into-${box.id}`));
        if (box.joins) {
          const from = boxes[i - box.joins] ?? boxes[0], y = from.y - GAP / 2;
          picture.append(line(`M${middle} ${y} H${box.x - 7} V${box.y + HIGH / 2} H${box.x}`, "wire around"));
        }
      });
      const below = boxes[0].y + HIGH;
      picture.append(line(`M${boxes[0].x + WIDE / 2} ${below + 8} V${below}`),
        svg("text", { x: boxes[0].x + WIDE / 2, y: below + 20, "text-anchor": "middle", class: "small" },
          say(boxes[0].stack === "encoder" ? "source_in" : "target_in")));
    }
    const memory = encoder.at(-1), cross = decoder.find((b) => b.label === "cross");
    picture.append(line(`M${memory.x + WIDE / 2} ${memory.y} V${memory.y - 12} H195 V${cross.y + HIGH / 2} H${cross.x}`, "wire memory"));
    const title = (stack) => {
      const inside = this.boxes[stack].filter((b) => b.inLayer);
      const text = svg("text", { class: `stack ${stack}`, "data-stack": stack,
        x: stack === "encoder" ? 36 : 226, y: inside.at(-1).y - 14 });
      return text;
    };
    picture.append(title("encoder"));
    for (const box of [...encoder, ...decoder]) {
      const text = say(`box_${box.label}`);
      const choose = () => { this.halt(); this.change({ box: box.id }); };
      picture.append(svg("g", { class: `box ${box.stack} kind-${box.label}`, "data-box": box.id, role: "button", tabindex: 0,
        "aria-label": say("where", { stack: say(box.stack), box: text }), onclick: choose,
        onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(); } } },
      svg("rect", { x: box.x, y: box.y, width: WIDE, height: HIGH, rx: 7 }),
      svg("text", { x: box.x + WIDE / 2, y: box.y + HIGH / 2 + 4.5, "text-anchor": "middle" }, text)));
    }
    this.picture.replaceChildren(picture);
  }

  async show(result) {
    this.result = result;
    if (!this.config || !result.steps.length) return;
    const at = this.place(), [box] = this.flow[at], layer = box.inLayer ? this.state.layer : 0;
    this.picture.querySelectorAll("[data-box]").forEach((element) => {
      element.classList.toggle("now", element.dataset.box === box.id);
      element.setAttribute("aria-pressed", String(element.dataset.box === box.id));
    });
    this.picture.querySelectorAll(".wire").forEach((wire) => wire.classList.toggle("flow", wire.classList.contains(`into-${box.id}`)));
    const t = Math.min(this.state.step, result.steps.length - 1);
    this.picture.querySelector("[data-stack]").textContent = say("times", { n: this.state.layer + 1, all: this.config.n_layers });
    this.where.textContent = say("step_of", { t: t + 1, all: result.steps.length });
    const start = result.steps.slice(0, t).map((step) => step.id), wanted = `${result.key}/${start}`;
    if (this.wanted !== wanted) {
      this.wanted = wanted;
      const values = await this.ask(start);
      if (this.wanted !== wanted) return;
      if (!values) { this.wanted = null; return; }
      const most = Math.max(...values.logits[0]), sum = values.logits[0].reduce((s, x, i) => s + (i === 2 || i > 3 ? Math.exp(x - most) : 0), 0);
      values.probabilities = [values.logits[0].map((x, i) => (i === 2 || i > 3 ? Math.exp(x - most) / sum : 0))];
      this.values = values;
    }
    if (this.values) this.fill(box, layer, this.flow[at - 1], t);
  }

  fill(box, layer, before, t) {
    const { values, result } = this, prefix = `${box.stack}.layers.${layer}`;
    const source = result.source.map((p) => pieceText(p.name, say("end")));
    const written = [say("begin"), ...result.steps.slice(0, t).map((p) => pieceText(p.name))];
    const rowsOf = (name) => (values[name].length === 1 && name.startsWith("decoder") ? written.slice(-1) : name.startsWith("encoder") ? source : written);
    const inputs = this.inputsOf(box, layer, before);
    const out = box.out(prefix);
    const parts = [
      make("h3", {}, say(box.inLayer ? "where_layer" : "where", { stack: say(box.stack), n: layer + 1, box: say(`box_${box.label}`) })),
      make("p", { class: "equation" }, say(`eq_${box.eq}`)),
    ];
    if (inputs.length) parts.push(...inputs.map((name) => this.map(say("named", { what: say("input"), name }), values[name], rowsOf(name))));
    else parts.push(make("h4", {}, say("input")), make("div", { class: "chips" },
      ...(box.stack === "encoder" ? source : written).map((text) => make("span", { class: "chip" }, text))));
    if (box.weights) parts.push(make("h4", {}, say("weights")), make("div", { class: "maps" },
      ...values[box.weights(prefix)].map((rows, h) => make("figure", {}, heatMap(rows, { weights: true,
        label: say("heat_alt", { name: say("head", { n: h + 1 }), shape: `(${rows.length}, ${rows[0].length})`, ...range(rows) }) }),
      make("figcaption", {}, say("head", { n: h + 1 }))))));
    if (out === "probabilities") parts.push(this.likely(t));
    else parts.push(this.map(say("named", { what: say("output"), name: out }), values[out], out === "logits" ? written.slice(-1) : rowsOf(out)));
    const url = this.lesson(box.lesson), name = box.lesson.split("_")[0];
    parts.push(make("p", {}, url ? make("a", { href: url }, say("lesson", { name })) : say("lesson", { name })));
    this.panel.replaceChildren(...parts);
  }

  /** Return the names of what goes in: what the box below gave, and where two wires meet, both. */
  inputsOf(box, layer, before) {
    if (box.label === "embedding") return [];
    const boxes = this.boxes[box.stack], nameOf = (b, n) => b.out(`${b.stack}.layers.${n}`);
    const [below, n] = box.id === "decoder-positions" || before?.[0].stack === box.stack ? before : [boxes[boxes.indexOf(box) - 1], 0];
    if (box.label === "linear") return ["decoder"];
    if (box.label === "softmax") return ["logits"];
    const names = [nameOf(below, n)];
    if (box.label === "cross") names.push("encoder");
    if (box.joins) {
      const at = this.place() - box.joins, [start, m] = this.flow[at];
      names.unshift(nameOf(start, m));
    }
    return names;
  }

  /** Return a heat map with its shape and its rows named. */
  map(name, rows, texts) {
    const shape = `(${rows.length}, ${rows[0].length})`, ends = range(rows);
    const names = rows.length === texts.length ? texts : texts.slice(-rows.length);
    return make("div", { class: "map" },
      make("h4", {}, name, " ", make("span", { class: "note" }, say("shape", { shape }))),
      make("div", { class: "rows", style: `--rows:${rows.length}` },
        make("div", { class: "names", "aria-hidden": "true" }, ...names.map((text) => make("span", {}, text))),
        heatMap(rows, { label: say("heat_alt", { name, shape, ...ends }) })),
      make("p", { class: "note" }, say("heat_range", ends)));
  }

  likely(t) {
    return make("div", {}, make("h4", {}, say("output"), " ", make("span", { class: "note" }, say("shape", { shape: `(1, ${this.values.logits[0].length})` }))),
      make("ol", { class: "bars" }, ...this.result.steps[t].top.map((place) => {
        const percent = 100 * Math.exp(place.logProb);
        return make("li", { class: `bar${place.id === this.result.steps[t].id ? " chosen" : ""}` },
          make("span", { class: "name" }, pieceText(place.name, say("end"))),
          make("span", { class: "track" }, make("span", { class: "fill", style: `width:${Math.max(0.5, percent)}%` })),
          make("span", { class: "value" }, `${percent.toFixed(percent >= 10 ? 0 : 1)} %`));
      })));
  }
}
