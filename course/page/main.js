// The page: what is typed goes to the worker, what it answers goes to the sections; the address
// keeps the place.

import { AttentionView } from "./attention.js";
import { byId, make, pieceText } from "./draw.js";
import { FigureView } from "./figure.js";
import { MESSAGES, say, speak } from "./messages.js";
import { StepsView } from "./steps.js";
import { BeamView } from "./tree.js";

const MOST_LETTERS = 1000;
const SWITCHES = ["positions", "causal", "maskBeforeSoftmax", "scale", "residual"];
const FIRST = "Die alte Frau gibt dem kleinen Mädchen einen roten Luftballon.";
const STACKS = { e: "encoder.layers.#.self_attention", d: "decoder.layers.#.self_attention", c: "decoder.layers.#.cross_attention" };

const state = {
  text: FIRST, kind: "cross", layer: 2, head: "mean", beam: 4, alpha: 0.6, step: 4, start: [],
  broken: [], off: null, box: "decoder-1-cross",
};

// --- the address: everything that makes this place -------------------------------------------------

/** Return the state as the part of an address behind #. */
function address() {
  const { text, kind, layer, head, beam, alpha, step, start, broken, off, box } = state;
  const parts = { s: text, k: kind, l: layer + 1, h: head === "mean" ? "mean" : head + 1, b: beam, a: alpha, t: step + 1, f: box,
    p: start.join("."), x: broken.join("."), o: off ?? "" };
  return new URLSearchParams(Object.entries(parts).filter(([, value]) => value !== "")).toString();
}

/** Take the state from an address; what cannot be read is left as it is. Return whether all was read. */
function readAddress(text) {
  const parts = new URLSearchParams(text), whole = [];
  const take = (name, set, fits) => {
    if (!parts.has(name)) return;
    const value = parts.get(name);
    whole.push(fits(value));
    if (fits(value)) set(value);
  };
  const number = (least, most) => (value) => value !== "" && Number(value) >= least && Number(value) <= most;
  const integer = (least, most) => (value) => number(least, most)(value) && Number.isInteger(Number(value));
  take("s", (v) => { state.text = v; }, (v) => v.length <= 2 * MOST_LETTERS);
  take("k", (v) => { state.kind = v; }, (v) => ["cross", "encoder", "decoder"].includes(v));
  take("l", (v) => { state.layer = v - 1; }, integer(1, config?.n_layers ?? 99));
  take("h", (v) => { state.head = v === "mean" ? v : v - 1; }, (v) => v === "mean" || integer(1, config?.n_heads ?? 99)(v));
  take("b", (v) => { state.beam = Number(v); }, integer(1, 8));
  take("a", (v) => { state.alpha = Number(v); }, number(0, 3));
  take("t", (v) => { state.step = v - 1; }, integer(1, 500));
  take("f", (v) => { state.box = v; }, (v) => /^[\w-]+$/.test(v));
  take("p", (v) => { state.start = v.split(".").map(Number); }, (v) => /^\d+(\.\d+)*$/.test(v));
  take("x", (v) => { state.broken = v.split("."); }, (v) => v.split(".").every((name) => SWITCHES.includes(name)));
  take("o", (v) => { state.off = v; }, (v) => /^[edc]\d+\.\d+$/.test(v));
  return whole.every(Boolean);
}

function keepAddress() {
  history.replaceState(null, "", `#${address()}`);
}

/** Return the settings of the engine: what is broken. */
function settings() {
  const set = Object.fromEntries(state.broken.map((name) => [name, false]));
  if (state.off) {
    const [, stack, layer, head] = /^([edc])(\d+)\.(\d+)$/.exec(state.off);
    set.headsOff = [`${STACKS[stack].replace("#", layer - 1)}/${head - 1}`];
  }
  return set;
}

const isBroken = () => state.broken.length > 0 || state.off !== null;

// --- the worker ---------------------------------------------------------------------------------------

let worker = null, jobs = new Map(), number = 0, config = null, inputs = null;

/** Return the bytes that a text in base64 holds. */
const bytesOf = (text) => Uint8Array.from(atob(text.trim()), (letter) => letter.charCodeAt(0)).buffer;

/** Return what the page was made with: from inside this file, or from beside it. */
async function readInputs() {
  const inside = byId("page-data");
  if (inside) {
    const data = JSON.parse(inside.textContent), weights = bytesOf(byId("weights").textContent);
    return { ...data, seen: data.seen && bytesOf(data.seen), weights };
  }
  const get = async (name) => {
    const answer = await fetch(new URL(`../../assets/${name}`, import.meta.url));
    if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
    return answer;
  };
  const from = "checkpoints/multi30k-de-en";
  const [sizes, tokenizer, weights, seen, probes] = await Promise.all([
    get(`${from}/config.json`).then((a) => a.json()), get(`${from}/tokenizer.json`).then((a) => a.json()),
    get(`${from}/model.safetensors`).then((a) => a.arrayBuffer()), get(`${from}/seen.safetensors`).then((a) => a.arrayBuffer()),
    get("probe_sentences.tsv").then((a) => a.text())]);
  const examples = probes.trim().split("\n").slice(1, 21).map((line) => line.split("\t")[1]);
  return { config: sizes, tokenizer, weights, seen, probes: examples, lessons: null };
}

/** Begin the worker: from text inside this file (a page from a disk may load no other), or its file. */
function startWorker() {
  const inside = byId("worker-source");
  worker = inside
    ? new Worker(URL.createObjectURL(new Blob([inside.textContent], { type: "text/javascript" })))
    : new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data }) => jobs.get(data.id)?.(data);
  worker.onerror = (event) => tell("error_worker", { why: event.message || "worker" });
}

/** Send a job; `hear` gets each answer. */
function send(job, hear, transfer = []) {
  const id = ++number;
  jobs.set(id, (data) => {
    if (data.kind === "error") tell("error_worker", { why: data.message });
    hear(data);
    if (["done", "stale", "error", "ready", "trace", "too long"].includes(data.kind)) jobs.delete(id);
  });
  worker.postMessage({ id, ...job }, transfer);
  return id;
}

/** Return every value on the way for a prefix. */
function askTrace(start) {
  return new Promise((go) => {
    send({ job: { text: state.text, set: settings(), start, trace: true, aside: true } }, (data) => go(data.values ?? null));
  });
}

// --- showing -------------------------------------------------------------------------------------------

let result = { steps: [], source: [], encoder: {}, start: [], layers: 3, key: 0 }, views = null, newest = 0;
const wholes = new Map(); // text -> translation of the whole model, to compare a broken one with

function tell(key, values) {
  const box = byId("message");
  box.hidden = !key;
  box.textContent = key ? say(key, values) : "";
}

// Many answers in one frame are one drawing. What is on the screen is drawn first, the rest when the
// page has nothing to do; figure 1, which asks for every number on the way, when somebody comes near.
const ALL = ["pieces", "output", "attention", "write", "figure"];
const SECTIONS = new Set(["attention", "write", "beam", "figure"]);
const pending = new Set(), later = new Set(), near = new Set();
let drawing = false, finished = null;

function draw(...names) {
  for (const name of names) (name === "all" ? ALL : [name]).forEach((one) => pending.add(one));
  if (!drawing) requestAnimationFrame(drawNow);
  drawing = true;
}

function drawNow() {
  drawing = false;
  const names = [...pending];
  pending.clear();
  for (const name of names) {
    if (SECTIONS.has(name) && !near.has(name)) later.add(name);
    else shows[name]();
  }
  if ([...later].some((name) => name !== "figure")) (window.requestIdleCallback ?? setTimeout)(drawRest);
  else settle();
}

function drawRest() {
  for (const name of later) {
    if (name === "figure" && !near.has(name)) continue;
    later.delete(name);
    shows[name]();
  }
  settle();
}

/** Say that all is drawn; tests wait for it. */
function settle() {
  if (finished && !pending.size) document.documentElement.dataset.done = finished;
}

function watchSections() {
  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) near.add(target.id);
      else near.delete(target.id);
    }
    if (views && [...later].some((name) => near.has(name))) drawRest();
  }, { rootMargin: "300px" });
  document.querySelectorAll("main section").forEach((section) => watcher.observe(section));
}

const shows = {
  pieces: () => {
    const chips = (pieces) => pieces.map((piece) => {
      const title = piece.byte ? "piece_byte" : piece.count === 0 ? "piece_never" : piece.count != null ? "piece_count" : null;
      const name = pieceText(piece.name, say("end"));
      const text = title ? say(title, { name, count: piece.count === 255 ? "≥ 255" : piece.count }) : name;
      return make("span", { class: `chip${piece.byte || piece.count === 0 ? " odd" : ""}`, title: text },
        piece.name.startsWith("▁") ? make("i", { class: "space" }, "▁") : null, piece.byte ? piece.name.slice(3, 5) : piece.name.replace(/^▁/, ""));
    });
    byId("pieces-read").replaceChildren(...(result.words ?? []).map((word) => make("span",
      { class: `word${word.known === false ? " stranger" : ""}` }, ...chips(word.pieces))));
    byId("pieces-written").replaceChildren(...chips(result.steps.filter((s) => s.name !== "</s>")));
    const strange = (result.words ?? []).filter((w) => w.known === false && !w.pieces.some((p) => p.byte)).map((w) => w.text.trim());
    const bytes = (result.words ?? []).filter((w) => w.pieces.some((p) => p.byte)).map((w) => w.text.trim());
    const lines = [
      strange.length === 1 ? say("word_unseen", { word: strange[0] }) : strange.length ? say("words_unseen", { words: strange.join(", ") }) : null,
      bytes.length ? say("byte_note", { text: bytes.join(" ") }) : null].filter(Boolean);
    byId("unseen").hidden = !lines.length;
    byId("unseen").replaceChildren(...lines.map((line) => make("p", {}, line)));
  },
  output: () => {
    const whole = wholes.get(state.text), broken = isBroken();
    const lines = [];
    if (broken && whole) lines.push(make("p", { class: "before" }, make("b", {}, say("whole")), " ", whole));
    const words = (result.text ?? "").split(" "), theirs = new Set((whole ?? "").split(" "));
    lines.push(make("p", { class: "now" }, broken ? make("b", {}, say("broken")) : null, broken ? " " : null,
      ...(broken && whole ? words.flatMap((word) => [theirs.has(word) ? word : make("mark", {}, word), " "]) : [result.text ?? ""])));
    byId("output").replaceChildren(...lines);
    const { read, written, ms, ended } = result.told ?? {};
    byId("status").textContent = !result.told ? say("working")
      : [say("took", { read, written, ms: Math.round(ms) }), ended ? "" : say("cut_off", { written }),
        broken && whole === result.text ? say("same") : ""].filter(Boolean).join(" ");
    byId("break").classList.toggle("on", broken);
    byId("mend").hidden = !broken;
  },
  attention: () => views.attention.show(result),
  write: () => views.write.show(result),
  beam: () => views.beam.show(result.beam ?? []),
  figure: () => views.figure.show(result),
};

/** Translate what stands in the box, as everything is set. */
function translate() {
  keepAddress();
  const text = state.text;
  if (!worker || !config) return;
  if (!text.trim()) return nothing("error_empty");
  if (text.length > MOST_LETTERS) return nothing("error_long", { n: text.length, most: MOST_LETTERS });
  tell(null);
  finished = null;
  const fresh = { steps: [], source: [], encoder: {}, start: state.start, layers: config.n_layers, words: [], beam: [], key: ++newest };
  const set = settings(), broken = isBroken();
  if (broken && !wholes.has(text)) {
    send({ job: { text, set: {}, beam: 0, aside: true } }, (data) => {
      if (data.kind === "written") { wholes.set(text, data.text); draw("output"); }
    });
  }
  const hear = (data) => {
    if (fresh.key !== newest) return;
    if (data.kind === "too long") nothing("error_pieces", { n: data.pieces, most: data.most });
    if (data.kind === "cut") fresh.words = data.words;
    if (data.kind === "read") {
      const pieces = fresh.words.flatMap((word) => word.pieces);
      Object.assign(fresh, { source: [...pieces, { name: "</s>" }], encoder: data.attention });
    }
    if (data.kind === "step") {
      fresh.steps.push(data.step);
      if (data.text !== undefined) { fresh.text = data.text; }
      result = fresh;
      draw("pieces", "output");
    }
    if (data.kind === "written") {
      Object.assign(fresh, { text: data.text, again: data.again, told: { read: fresh.source.length, written: data.ids.length, ms: data.milliseconds, ended: data.ended } });
      result = fresh;
      if (!broken && !state.start.length) wholes.set(text, data.text);
      state.step = Math.min(state.step, fresh.steps.length - 1);
      document.documentElement.dataset.translated = String(fresh.key); // tests wait for it
      draw("all");
    }
    if (data.kind === "beam") { fresh.beam.push(data.row); result.beam = fresh.beam; }
    if (data.kind === "done") { result.beam = fresh.beam; finished = String(fresh.key); draw("beam"); }
    return null;
  };
  send({ job: { text, set, start: state.start, beam: state.beam } }, hear);
  return null;
}

/** Say why there is no translation; the page stays as it is, and goes on with the next letter. */
function nothing(key, values) {
  newest += 1;
  byId("output").replaceChildren();
  byId("status").textContent = "";
  byId("pieces-read").replaceChildren();
  byId("pieces-written").replaceChildren();
  byId("unseen").hidden = true;
  tell(key, values);
}

/** Change a part of the state, and do what follows from it. */
function change(part) {
  Object.assign(state, part);
  if ("text" in part && !("start" in part)) state.start = [];
  if ("kind" in part || "layer" in part || "head" in part) views.attention.state.at = null;
  keepAddress();
  if (["text", "start", "broken", "off", "beam"].some((name) => name in part)) return translate();
  if ("alpha" in part) draw("beam");
  if (["kind", "layer", "head"].some((name) => name in part)) draw("attention", "figure");
  if ("step" in part) draw("write", "figure");
  if ("box" in part) draw("figure");
  return null;
}

// --- the controls ------------------------------------------------------------------------------------

/** Speak the language that the address names (?lang=zh), or that the page was made in; offer a choice. */
function chooseLanguage() {
  const asked = new URLSearchParams(location.search).get("lang"), choice = byId("language");
  const name = [asked, document.documentElement.lang].find((language) => MESSAGES[language]) ?? "en";
  speak(name);
  document.documentElement.lang = name;
  choice.hidden = Object.keys(MESSAGES).length < 2;
  choice.replaceChildren(...Object.entries(MESSAGES).map(([key, messages]) => make("option", { value: key }, messages.language)));
  choice.value = name;
  choice.onchange = () => { location.search = `?lang=${choice.value}`; };
}

function words() {
  document.title = say("title");
  document.querySelectorAll("[data-say]").forEach((element) => { element.textContent = say(element.dataset.say); });
  document.querySelectorAll("[data-name]").forEach((element) => element.setAttribute("aria-label", say(element.dataset.name)));
}

function switches() {
  const head = () => {
    const choose = make("select", { "aria-label": say("which_head"), onchange: () => change({ off: choose.value }) },
      ...Object.entries({ e: "kind_encoder", d: "kind_decoder", c: "kind_cross" }).map(([stack, key]) => make("optgroup", { label: say(key) },
        ...Array.from({ length: config.n_layers * config.n_heads }, (_, i) => {
          const [layer, h] = [Math.floor(i / config.n_heads) + 1, (i % config.n_heads) + 1];
          return make("option", { value: `${stack}${layer}.${h}` }, say("thumb", { layer, head: say("head", { n: h }) }));
        }))));
    choose.value = state.off ?? "c3.1";
    choose.disabled = !state.off;
    return choose;
  };
  const width = config.d_k ?? config.d_model / config.n_heads;
  const toggle = (name, on, flip, extra) => make("div", { class: "switch" },
    make("label", {}, make("input", { type: "checkbox", role: "switch", checked: on, onchange: flip }), make("span", {}, say(`set_${name}`))),
    make("p", { class: "note" }, say(`set_${name}_note`, { scale: Math.sqrt(width).toFixed(0) })), extra);
  byId("switches").replaceChildren(
    ...SWITCHES.map((name) => toggle(name, state.broken.includes(name), () => change({
      broken: state.broken.includes(name) ? state.broken.filter((other) => other !== name) : [...state.broken, name] }))),
    toggle("head", state.off !== null, () => { change({ off: state.off ? null : "c3.1" }); switches(); }, head()));
  if (isBroken()) byId("break").open = true;
}

function controls() {
  const text = byId("text"), examples = byId("examples");
  let wait = null;
  text.oninput = () => {
    clearTimeout(wait);
    wait = setTimeout(() => change({ text: text.value }), 60);
  };
  const take = (sentence) => { text.value = sentence; change({ text: sentence, step: 4 }); };
  examples.replaceChildren(make("option", { value: "" }, say("examples")), ...inputs.probes.map((probe) => make("option", {}, probe)));
  examples.onchange = () => { if (examples.value) take(examples.value); examples.selectedIndex = 0; };
  let at = 0;
  byId("random").onclick = () => take(inputs.probes[(at = (at + 1) % inputs.probes.length)]);
  byId("mend").onclick = () => { change({ broken: [], off: null }); switches(); };
  byId("share").onclick = async () => {
    keepAddress();
    try { await navigator.clipboard.writeText(location.href); } catch { /* the address bar has it */ }
    byId("share").textContent = say("linked");
    setTimeout(() => { byId("share").textContent = say("link"); }, 2000);
  };
}

function theme() {
  let kept = null;
  try { kept = localStorage.getItem("theme"); } catch { /* a page from a disk may keep nothing */ }
  const dark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  if (kept) document.documentElement.dataset.theme = kept;
  byId("theme").onclick = () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("theme", document.documentElement.dataset.theme); } catch { /* the same */ }
    draw("all", "beam");
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw("all", "beam"));
}

async function begin() {
  chooseLanguage();
  words();
  theme();
  watchSections();
  const anchor = /^#[a-z]+$/.test(location.hash);
  const readable = anchor || readAddress(location.hash.slice(1));
  byId("text").value = state.text;
  byId("status").textContent = say("loading");
  await new Promise((go) => { requestAnimationFrame(() => setTimeout(go)); }); // show the page first
  try {
    inputs = await readInputs();
    if (!(inputs.weights.byteLength > 1000)) throw new Error(`${inputs.weights.byteLength} bytes`);
  } catch (error) {
    byId("status").textContent = "";
    return tell("error_weights", { why: error.message });
  }
  views = {
    attention: new AttentionView(byId("attention"), state, change), write: new StepsView(byId("write"), state, change),
    beam: new BeamView(byId("beam"), state, change),
    figure: new FigureView(byId("figure"), state, { change, ask: askTrace,
      lesson: (name) => inputs.lessons?.replace("{}", document.documentElement.lang === "zh" ? `zh/${name}` : name) ?? null }),
  };
  startWorker();
  controls();
  const weights = inputs.weights.byteLength / 2;
  byId("intro").textContent = say("intro", { millions: (weights / 1e6).toFixed(1), wan: Math.round(weights / 1e4) });
  send({ load: inputs }, (data) => {
    if (data.kind !== "ready") return;
    config = data.config;
    const whole = readable && (anchor || readAddress(location.hash.slice(1)));
    state.layer = Math.min(state.layer, config.n_layers - 1);
    byId("text").value = state.text;
    views.beam.sync();
    views.figure.begin(config);
    switches();
    translate();
    if (!whole) tell("error_link");
  }, [inputs.weights]);
  window.onhashchange = () => {
    if (/^#[a-z]+$/.test(location.hash)) return;
    const all = readAddress(location.hash.slice(1));
    byId("text").value = state.text;
    views.beam.sync();
    switches();
    translate();
    if (!all) tell("error_link");
  };
  return null;
}

begin();
