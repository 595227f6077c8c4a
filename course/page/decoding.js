// Decoding: greedy search and beam search with a length penalty (lesson 08, paper section 6.1).
// What is written so far is a chain of nodes, each with its parent: together they are a tree.

import { BOS, EOS } from "./bpe.js";
import { INTACT, logSoftmax } from "./transformer.js";

/** One sentence on its way into English: the source, read once, and the tree of what is written. */
export class Translation {
  constructor(model, ids, set = INTACT) {
    Object.assign(this, { model, set });
    this.limit = ids.length + 50; // section 6.1: at most 50 pieces more than the source
    this.encoder = {}; // module name -> attention weights, [H][S] of (S,)
    this.source = model.encode(ids, set, keepWeights(this.encoder)).source;
    this.root = { token: BOS, parent: null, depth: 0, logProb: 0, total: 0 };
  }

  /** Return the log-probabilities (V,) of what may follow a node; read once, then remembered. */
  next(node) {
    if (node.next) return node.next;
    const { model, set, source } = this;
    node.attention = {}; // module name -> [H][1 or T] of (T,) or (S,): the last row is this node's
    // without a causal mask what was found changes with each new piece: all must be read again
    const again = !set.causal || !set.maskBeforeSoftmax;
    const ids = again ? path(node).map((n) => n.token) : [node.token];
    const past = again || !node.parent ? [] : (this.next(node.parent), node.parent.cache);
    const { states, cache } = model.decode(ids, source, past, set, keepWeights(node.attention));
    node.cache = cache;
    node.next = logSoftmax(model.project(states.slice(-1))[0]);
    return node.next;
  }

  /** Return a node one token further; the same one when asked again, with what it has read. */
  grow(node, token) {
    node.children ??= new Map();
    if (!node.children.has(token)) {
      const logProb = this.next(node)[token];
      node.children.set(token, { token, parent: node, depth: node.depth + 1, logProb, total: node.total + logProb });
    }
    return node.children.get(token);
  }
}

/** Return a watcher that keeps attention weights alone. */
function keepWeights(kept) {
  return (name, rows) => {
    if (name.endsWith(".weights")) kept[name.slice(0, -".weights".length)] = rows;
  };
}

/** Return the nodes from the root to this one. */
export function path(node) {
  const nodes = [];
  for (let n = node; n; n = n.parent) nodes.unshift(n);
  return nodes;
}

/** Return what a node says: its ids without BOS and EOS. */
export const idsOf = (node) => path(node).map((n) => n.token).filter((id) => id !== BOS && id !== EOS);

/** Return the ids of the n largest numbers, the largest first; of equals the first comes first. */
export function largest(values, n) {
  const best = [];
  for (let id = 0; id < values.length; id++) {
    if (best.length === n && !(values[id] > values[best[n - 1]])) continue;
    let at = best.length;
    while (at > 0 && values[id] > values[best[at - 1]]) at--;
    best.splice(at, 0, id);
    best.length = Math.min(best.length, n);
  }
  return best;
}

/** Write the likeliest token again and again; yields every node, the last one ends the sentence. */
export function* greedySearch(translation, start = translation.root) {
  let node = start;
  while (node.token !== EOS && node.depth < translation.limit) {
    node = translation.grow(node, largest(translation.next(node), 1)[0]);
    yield node;
  }
}

/** Keep the `beam` likeliest prefixes, let all of them grow; yields the beam after each step. */
export function* beamSearch(translation, beam) {
  let kept = [translation.root];
  const growing = (node) => node.token !== EOS && node.depth < translation.limit;
  while (kept.some(growing)) {
    const candidates = kept.flatMap((node) => (node.token === EOS ? [node]
      : largest(translation.next(node), beam).map((token) => translation.grow(node, token))));
    kept = candidates.map((node, i) => [node, i])
      .sort(([a, i], [b, j]) => b.total - a.total || i - j).slice(0, beam).map(([node]) => node);
    yield kept;
  }
}

/** Return what a log-probability is divided by. Wu et al. 2016, equation 14; EOS counted. */
export const lengthPenalty = (length, alpha) => ((5 + length) / 6) ** alpha;

/** Return the hypotheses of a beam: finished ones first, then by their score. */
export function ranked(kept, alpha) {
  const finished = (node) => Number(node.token === EOS);
  return kept.map((node) => ({ node, score: node.total / lengthPenalty(node.depth, alpha) }))
    .sort((a, b) => finished(b.node) - finished(a.node) || b.score - a.score);
}
