// What runs beside the page, so that typing stays smooth: it holds the model and answers jobs.
// Every answer goes out as soon as it is there; a newer job ends an older one between two steps.

import { BOS, BPE, EOS, FIRST_BYTE, FIRST_SYMBOL } from "./bpe.js";
import { beamSearch, greedySearch, idsOf, largest, path, Translation } from "./decoding.js";
import { INTACT, readSafetensors, Transformer } from "./transformer.js";

export const MOST_PIECES = 200; // a caption has about 15

/** Return the model, its tokeniser and what training saw (counts of pieces, hashes of words; or null).
 *
 * weights, seen: safetensors, as course/runs.py and course/look.py write them. Raises Error for a broken file.
 */
export function loadModel({ config, tokenizer, weights, seen = null }) {
  const saw = seen && readSafetensors(seen), words = saw && new Set(saw.get("words").data);
  const counts = saw && saw.get("tokens").data; // 255 stands for that and more
  return { bpe: new BPE(tokenizer), counts, words, transformer: new Transformer(config, readSafetensors(weights)) };
}

/** Return 32 bits that stand for a word, FNV-1a over its UTF-8 bytes, as `fnv1a` in course/look.py. */
export function fingerprint(word) {
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(word)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return hash;
}

/** Return whether training saw each word of a piece, in any case; what has no letter counts as seen. */
function isKnown({ words }, piece) {
  const parts = piece.toLowerCase().match(/[\p{L}\p{N}_]+/gu) ?? [];
  return words && (!/\p{L}/u.test(piece) || parts.every((part) => words.has(fingerprint(part))));
}

/** Return a piece as the page shows it. byte: it is part of a character that has no piece. */
function shown({ bpe }, id) {
  return { id, name: bpe.names[id], byte: id >= FIRST_BYTE && id < FIRST_SYMBOL };
}

/** Cut a text: its words, each with its pieces and whether training saw it (null: nobody knows). */
function cut(model, text) {
  return model.bpe.pieces(text).map((piece) => {
    const ids = model.bpe.split(piece).flatMap((symbol) => model.bpe.symbolIds(symbol));
    const count = (id) => (model.counts ? model.counts[id] : null); // in training's German
    return { text: piece, known: isKnown(model, piece), pieces: ids.map((id) => ({ ...shown(model, id), count: count(id) })) };
  });
}

/** Return a written piece: its probability, what else was likely, and whom each head looked at. */
function step(model, translation, node) {
  const { parent } = node, scores = translation.next(parent);
  const attention = Object.entries(parent.attention)
    .map(([name, heads]) => [name, heads.map((rows) => rows.at(-1))]);
  return {
    ...shown(model, node.token), logProb: node.logProb, total: node.total,
    top: largest(scores, 5).map((id) => ({ ...shown(model, id), logProb: scores[id] })),
    attention: Object.fromEntries(attention),
  };
}

/** Return the beam as plain rows; `parent` is the place in the step before. */
function beamRow(model, kept, before) {
  return kept.map((node) => ({
    name: model.bpe.names[node.token], token: node.token, logProb: node.logProb, total: node.total,
    length: node.depth, ended: node.token === EOS,
    parent: before.indexOf(before.includes(node) ? node : node.parent),
    waits: before.includes(node), ids: idsOf(node), text: model.bpe.decode(idsOf(node)),
  }));
}

const pause = () => new Promise((go) => {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => { port1.close(); go(); };
  port2.postMessage(null);
});

/** Answer a job by messages to `post`; `stale()` says that nobody waits for it any more.
 *
 * job: {text, set, start: ids to begin with, beam: 0 for none, trace: how many pieces, or null}
 */
export async function work(model, job, post, stale = () => false) {
  const { bpe, transformer } = model, set = { ...INTACT, ...job.set };
  const words = cut(model, job.text), ids = words.flatMap((word) => word.pieces.map((p) => p.id));
  if (ids.length > MOST_PIECES) return post({ kind: "too long", pieces: ids.length, most: MOST_PIECES });
  const source = [...ids, EOS], began = performance.now();
  if (job.trace != null) {
    return post({ kind: "trace", values: trace(transformer, source, job.start, set) });
  }
  post({ kind: "cut", words });
  const translation = new Translation(transformer, source, set);
  post({ kind: "read", ids: source, attention: translation.encoder });
  let node = translation.root;
  for (const token of job.start ?? []) {
    node = translation.grow(node, token);
    post({ kind: "step", step: step(model, translation, node) });
  }
  for (node of greedySearch(translation, node)) {
    post({ kind: "step", step: step(model, translation, node), text: bpe.decode(idsOf(node)) });
    await pause();
    if (stale()) return post({ kind: "stale" });
  }
  const written = path(node).slice(1).map((n) => n.token);
  post({ kind: "written", ids: written, ended: node.token === EOS, text: bpe.decode(idsOf(node)),
    total: node.total, milliseconds: performance.now() - began,
    again: set.causal && set.maskBeforeSoftmax ? null : node.parent?.attention });
  if (!job.beam) return post({ kind: "done" });
  let before = [translation.root];
  for (const kept of beamSearch(translation, job.beam)) {
    post({ kind: "beam", row: beamRow(model, kept, before) });
    before = kept;
    await pause();
    if (stale()) return post({ kind: "stale" });
  }
  return post({ kind: "done" });
}

/** Return every result on the way, name -> rows, of one parallel pass over source and prefix. */
function trace(transformer, source, start, set) {
  const values = {}, watch = (name, rows) => { values[name] = rows; };
  const { source: memory } = transformer.encode(source, set, watch);
  const { states } = transformer.decode([BOS, ...start], memory, [], set, watch);
  [values.logits] = [transformer.project(states.slice(-1))];
  return values;
}

if (typeof WorkerGlobalScope !== "undefined" && globalThis instanceof WorkerGlobalScope) {
  let model = null, newest = 0;
  globalThis.onmessage = async ({ data: { id, load, job } }) => {
    newest = Math.max(newest, job?.aside ? 0 : id);
    try {
      if (load) {
        model = loadModel(load);
        postMessage({ id, kind: "ready", config: load.config, vocabulary: model.bpe.names.length });
      } else {
        await work(model, job, (answer) => postMessage({ id, ...answer }), () => !job.aside && id < newest);
      }
    } catch (error) {
      postMessage({ id, kind: "error", message: String(error.message ?? error) });
    }
  };
}
