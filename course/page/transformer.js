// The Transformer of the paper, run without a library: what lessons 03 to 05 build in Python.
// A sequence of vectors is an array of Float32Array, one a position: "rows". Shapes in comments as
// in the course: S source, T target length, L either, H heads, D d_model, Dk, V vocabulary.

import { BOS, PAD, UNK } from "./bpe.js";

/** What can be broken. `headsOff` holds names such as "encoder.layers.0.self_attention/2". */
export const INTACT = {
  positions: true, causal: true, maskBeforeSoftmax: true, scale: true, residual: true, headsOff: [],
};

/** Return the 65,536 values of float16, so that widening is a look-up. */
function halves() {
  return Float32Array.from({ length: 65536 }, (_, bits) => {
    const [sign, exponent, fraction] = [bits & 0x8000 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -24 * fraction;
  });
}

/** Read a safetensors file into a map from names to {shape, data}, all float32. */
export function readSafetensors(buffer) {
  const size = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, size)));
  delete header.__metadata__;
  const value = halves();
  return new Map(Object.entries(header).map(([name, { dtype, shape, data_offsets: [from, to] }]) => {
    const bytes = buffer.slice(8 + size + from, 8 + size + to);
    if (bytes.byteLength < to - from) throw new Error(`the weights are cut off at ${name}`);
    const whole = { F32: Float32Array, U32: Uint32Array, U8: Uint8Array }[dtype];
    if (whole) return [name, { shape, data: new whole(bytes) }];
    if (dtype !== "F16") throw new Error(`${name} is stored as ${dtype}, not as F16 or F32`);
    const narrow = new Uint16Array(bytes), data = new Float32Array(narrow.length);
    for (let i = 0; i < data.length; i++) data[i] = value[narrow[i]];
    return [name, { shape, data }];
  }));
}

/** Return the dot product of a[i...] and b[j...] over n numbers; four sums keep the processor busy. */
function dot(a, i, b, j, n) {
  let s0 = 0, s1 = 0, s2 = 0, s3 = 0, k = 0;
  for (; k + 3 < n; k += 4) {
    s0 += a[i + k] * b[j + k];
    s1 += a[i + k + 1] * b[j + k + 1];
    s2 += a[i + k + 2] * b[j + k + 2];
    s3 += a[i + k + 3] * b[j + k + 3];
  }
  for (; k < n; k++) s0 += a[i + k] * b[j + k];
  return s0 + s1 + s2 + s3;
}

/** Multiply a vector by a matrix (out, in): a dot product with each of its rows.
 *
 * Here nearly all of the time goes. Eight rows at once take half as long as one after the other.
 */
function times(x, w, y) {
  const n = x.length;
  let o = 0;
  for (; o + 7 < y.length; o += 8) {
    let s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
    for (let k = 0, j = o * n; k < n; k++, j++) {
      const a = x[k];
      s0 += a * w[j];
      s1 += a * w[j + n];
      s2 += a * w[j + 2 * n];
      s3 += a * w[j + 3 * n];
      s4 += a * w[j + 4 * n];
      s5 += a * w[j + 5 * n];
      s6 += a * w[j + 6 * n];
      s7 += a * w[j + 7 * n];
    }
    y.set([s0, s1, s2, s3, s4, s5, s6, s7], o);
  }
  for (; o < y.length; o++) y[o] = dot(x, 0, w, o * n, n);
  return y;
}

/** Multiply rows (L, in) by a matrix (out, in), and add a bias (out,) if there is one. */
function multiply(rows, { shape: [width], data }, bias) {
  const result = rows.map((x) => times(x, data, new Float32Array(width)));
  return bias ? result.map((row) => row.map((y, o) => y + bias.data[o])) : result;
}

/** Add two sequences of vectors. */
const add = (a, b) => a.map((row, i) => row.map((x, k) => x + b[i][k]));

/** Turn numbers into shares that sum to one, in place, over the first n of them. */
function softmax(x, n = x.length) {
  let [most, sum] = [-Infinity, 0];
  for (let i = 0; i < n; i++) most = Math.max(most, x[i]);
  for (let i = 0; i < n; i++) sum += Math.exp(x[i] - most);
  for (let i = 0; i < x.length; i++) x[i] = i < n ? Math.exp(x[i] - most) / sum : 0;
}

/** Return the logarithms of the shares that logits (V,) stand for; never PAD, BOS or UNK. */
export function logSoftmax(logits) {
  const allowed = logits.map((x, id) => (id === PAD || id === BOS || id === UNK ? -Infinity : x));
  let [most, sum] = [-Infinity, 0];
  for (const x of allowed) most = Math.max(most, x);
  for (const x of allowed) sum += Math.exp(x - most);
  return allowed.map((x) => x - most - Math.log(sum));
}

/** Return sines (even columns) and cosines (odd columns) of falling frequency for one position. */
function sinusoid(position, width) {
  return Float32Array.from({ length: width }, (_, k) => {
    const angle = position * 10000 ** (-(k - (k % 2)) / width);
    return k % 2 ? Math.cos(angle) : Math.sin(angle);
  });
}

/** The whole model: `encode` reads a sentence once, `decode` reads what is written, `project` scores.
 *
 * set: INTACT, or what is broken. watch(name, rows): called with every result on the way.
 */
export class Transformer {
  constructor(config, weights) {
    Object.assign(this, { config, weights });
    const shape = weights.get("encoder.layers.0.self_attention.w_k.weight").shape;
    this.keyWidth = shape[0] / config.n_heads; // Dk
  }

  linear(rows, name) {
    return multiply(rows, this.weights.get(`${name}.weight`), this.weights.get(`${name}.bias`));
  }

  /** Look up a vector for each token, scaled, and say where it stands: (L) -> (L, D). */
  embed(table, ids, from, set, watch) {
    const { d_model: width, positions } = this.config;
    const { data } = this.weights.get(`${table}.weight`), size = Math.sqrt(width);
    const learned = positions === "learned" && this.weights.get("positions.table");
    if (learned && from + ids.length > learned.shape[0]) throw new RangeError("too long");
    const vectors = ids.map((id) =>
      data.slice(id * width, (id + 1) * width).map((x) => x * size));
    const places = ids.map((_, i) => (learned
      ? learned.data.slice((from + i) * width, (from + i + 1) * width) : sinusoid(from + i, width)));
    const sum = set.positions ? add(vectors, places) : vectors;
    watch("embedding", vectors);
    watch("positions", sum);
    return sum;
  }

  /** Give each vector mean 0 and variance 1, then gain and bias: (L, D) -> (L, D). */
  norm(rows, name) {
    const { data: gain } = this.weights.get(`${name}.gain`), { data: bias } = this.weights.get(`${name}.bias`);
    return rows.map((row) => {
      let [mean, variance] = [0, 0];
      for (const x of row) mean += x / row.length;
      for (const x of row) variance += (x - mean) ** 2 / row.length;
      const scale = 1 / Math.sqrt(variance + 1e-5);
      return row.map((x, k) => (x - mean) * scale * gain[k] + bias[k]);
    });
  }

  /** Add what a sub-layer finds to what came in; pre-norm or post-norm, as the model was trained. */
  residual(x, name, sublayer, set, watch) {
    const pre = this.config.norm === "pre";
    const input = pre ? this.norm(x, `${name}.norm`) : x;
    if (pre) watch(`${name}.norm`, input);
    const found = sublayer(input);
    const sum = set.residual ? add(x, found) : found;
    const result = pre ? sum : this.norm(sum, `${name}.norm`);
    watch(name, result);
    return result;
  }

  /** Return what can be attended to: the keys and values of vectors, behind those of `past`. */
  remember(rows, name, past = { keys: [], values: [] }) {
    return {
      keys: [...past.keys, ...this.linear(rows, `${name}.w_k`)],
      values: [...past.values, ...this.linear(rows, `${name}.w_v`)],
    };
  }

  /** Attend with query (Q, D) to K keys and values, in H heads -> (Q, D).
   *
   * sees(i): how many of the keys query i may look at. watch gets the weights, [H][Q] of (K,).
   */
  attend(query, { keys, values }, name, sees, set, watch) {
    const { n_heads: nHeads } = this.config, dk = this.keyWidth, dv = values[0].length / nHeads;
    const queries = this.linear(query, `${name}.w_q`);
    const merged = query.map(() => new Float32Array(nHeads * dv));
    const heads = Array.from({ length: nHeads }, (_, h) => queries.map((q, i) => {
      const scale = set.scale ? 1 / Math.sqrt(dk) : 1, seen = sees(i);
      const weights = Float32Array.from(keys, (k) => dot(q, h * dk, k, h * dk, dk) * scale);
      softmax(weights, set.maskBeforeSoftmax ? seen : keys.length);
      weights.fill(0, seen);
      if (set.headsOff.includes(`${name}/${h}`)) return weights; // its part of `merged` stays zero
      for (let j = 0; j < seen; j++) {
        for (let k = h * dv; k < (h + 1) * dv; k++) merged[i][k] += weights[j] * values[j][k];
      }
      return weights;
    }));
    watch(`${name}.weights`, heads);
    const result = this.linear(merged, `${name}.w_o`);
    watch(name, result);
    return result;
  }

  /** Widen each position to d_ff, keep what is positive, narrow again: (L, D) -> (L, D). */
  feedForward(rows, name, watch) {
    const wide = this.linear(rows, `${name}.w_1`).map((row) => row.map((x) => Math.max(0, x)));
    watch(`${name}.w_1`, wide);
    const result = this.linear(wide, `${name}.w_2`);
    watch(name, result);
    return result;
  }

  /** A pre-norm stack ends in one more norm. */
  close(x, name, watch) {
    const result = this.config.norm === "pre" ? this.norm(x, `${name}.norm`) : x;
    watch(name, result);
    return result;
  }

  /** Read the source (S) once -> memory (S, D), and its keys and values for each decoder layer. */
  encode(ids, set = INTACT, watch = () => {}) {
    let x = this.embed("src_embedding", ids, 0, set, (name, rows) => watch(`encoder.${name}`, rows));
    for (let n = 0; n < this.config.n_layers; n++) {
      const name = `encoder.layers.${n}`, own = `${name}.self_attention`;
      x = this.residual(x, `${name}.residuals.0`,
        (x) => this.attend(x, this.remember(x, own), own, () => x.length, set, watch), set, watch);
      x = this.residual(x, `${name}.residuals.1`,
        (x) => this.feedForward(x, `${name}.feed_forward`, watch), set, watch);
    }
    const memory = this.close(x, "encoder", watch);
    const layers = [...Array(this.config.n_layers).keys()];
    return { memory, source: layers.map((n) => this.remember(memory, `decoder.layers.${n}.cross_attention`)) };
  }

  /** Read further target tokens (T), after those that `past` remembers -> states (T, D), new past.
   *
   * The causal mask makes a memory possible: what a position has found cannot change any more.
   */
  decode(ids, source, past = [], set = INTACT, watch = () => {}) {
    const table = this.config.tie_embeddings ? "src_embedding" : "tgt_embedding";
    const before = past.length ? past[0].keys.length : 0;
    let x = this.embed(table, ids, before, set, (name, rows) => watch(`decoder.${name}`, rows));
    const cache = [];
    for (let n = 0; n < this.config.n_layers; n++) {
      const name = `decoder.layers.${n}`, own = `${name}.self_attention`, cross = `${name}.cross_attention`;
      x = this.residual(x, `${name}.residuals.0`, (x) => {
        cache[n] = this.remember(x, own, past[n]);
        const sees = (i) => (set.causal ? before + i + 1 : before + x.length);
        return this.attend(x, cache[n], own, sees, set, watch);
      }, set, watch);
      x = this.residual(x, `${name}.residuals.1`,
        (x) => this.attend(x, source[n], cross, () => source[n].keys.length, set, watch), set, watch);
      x = this.residual(x, `${name}.residuals.2`,
        (x) => this.feedForward(x, `${name}.feed_forward`, watch), set, watch);
    }
    return { states: this.close(x, "decoder", watch), cache };
  }

  /** Score every piece of the vocabulary: (L, D) -> logits (L, V). */
  project(states) {
    const name = this.config.tie_embeddings ? "src_embedding" : "w_vocab";
    return multiply(states, this.weights.get(`${name}.weight`));
  }
}
