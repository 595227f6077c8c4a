// The decoder writes piece by piece: what was likely at each step, and another way from there.

import { make, pieceText, roving } from "./draw.js";
import { say } from "./messages.js";

/** The section. state: {step}; change({step}) moves, change({start: ids}) goes another way. */
export class StepsView {
  constructor(section, state, change) {
    Object.assign(this, { section, state, change, timer: null });
    this.written = make("div", { class: "chips written", role: "group", "aria-label": say("pieces_written") });
    this.bars = make("ol", { class: "bars" });
    this.where = make("h3", { "aria-live": "polite" });
    this.total = make("p", { class: "note" });
    this.way = make("p", { class: "note marked", hidden: true });
    const button = (key, onclick) => make("button", { type: "button", onclick }, say(key));
    this.playing = button("play", () => this.play());
    section.replaceChildren(
      make("h2", { id: "h-write" }, say("write_title")), make("p", { class: "note" }, say("write_note")),
      this.written, this.way,
      make("div", { class: "controls" }, button("first", () => this.go(0)), button("back", () => this.go(this.state.step - 1)),
        this.playing, button("forward", () => this.go(this.state.step + 1))),
      make("div", { class: "card" }, this.where, this.bars, this.total));
  }

  go(step) {
    const last = (this.result?.steps.length ?? 1) - 1;
    this.change({ step: Math.max(0, Math.min(last, step)) });
  }

  play() {
    if (this.timer) return this.halt();
    this.playing.textContent = say("stop");
    if (this.state.step >= this.result.steps.length - 1) this.go(0);
    this.timer = setInterval(() => {
      if (this.state.step >= this.result.steps.length - 1) this.halt();
      else this.go(this.state.step + 1);
    }, 900);
    return null;
  }

  halt() {
    clearInterval(this.timer);
    this.timer = null;
    this.playing.textContent = say("play");
  }

  show(result) {
    this.result = result;
    const { steps, start } = result, t = Math.min(this.state.step, steps.length - 1);
    if (t < 0) return;
    const focused = this.written.contains(document.activeElement);
    this.written.replaceChildren(...steps.map((step, i) => make("button", {
      type: "button", class: `chip${i < t ? " past" : i === t ? " pointed" : " later"}${i === start.length - 1 ? " yours" : ""}`,
      "aria-pressed": String(i === t), onclick: () => this.go(i),
    }, pieceText(step.name, say("end")))));
    roving(this.written);
    [...this.written.children].forEach((chip, i) => { chip.tabIndex = i === t ? 0 : -1; });
    if (focused) this.written.children[t].focus();
    this.way.hidden = !start.length;
    if (start.length) {
      this.way.replaceChildren(
        say("your_way", { piece: pieceText(steps[start.length - 1].name, say("end")) }), " ",
        make("button", { type: "button", class: "quiet", onclick: () => this.change({ start: [] }) }, say("own_way")));
    }
    this.where.textContent = say("step_of", { t: t + 1, all: steps.length });
    this.bars.replaceChildren(...steps[t].top.map((place) => {
      const percent = 100 * Math.exp(place.logProb), chosen = place.id === steps[t].id;
      const text = pieceText(place.name, say("end"));
      const shown = percent >= 10 ? percent.toFixed(0) : percent >= 0.1 ? percent.toFixed(1) : "< 0.1";
      return make("li", {}, make("button", {
        type: "button", class: chosen ? "bar chosen" : "bar", "aria-pressed": String(chosen),
        "aria-label": chosen ? `${text}, ${shown} %, ${say("chosen")}` : say("take", { piece: text, percent: shown }),
        onclick: () => chosen || this.change({ start: [...steps.slice(0, t).map((s) => s.id), place.id], step: t }),
      }, make("span", { class: "name" }, text),
        make("span", { class: "track" }, make("span", { class: "fill", style: `width:${Math.max(0.5, percent)}%` })),
        make("span", { class: "value" }, `${shown} %`)));
    }));
    this.total.textContent = say("log_total", { total: steps[t].total.toFixed(2) });
  }
}
