// Byte-pair encoding: from text to the ids of pieces, and back. Lesson 06 builds the same in Python
// (course/text.py); names and order are the same here.

const SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<unk>"];
export const [PAD, BOS, EOS, UNK] = [0, 1, 2, 3];
export const FIRST_BYTE = SPECIAL_TOKENS.length;
export const FIRST_SYMBOL = FIRST_BYTE + 256;

// What Python's `re` calls \w and \s; JavaScript's own \w knows ASCII alone, its \s another list.
const WORD = String.raw`\p{L}\p{N}_`;
const BLANK = String.raw`\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000`;
const MARK = String.raw`(?![\u{1F000}-\u{10FFFF}])\p{M}`;
const PIECE = new RegExp(
  ` ?[${WORD}](?:[${WORD}\\u200c\\u200d]|${MARK})*| ?[^${WORD}${BLANK}]+|[${BLANK}]`, "gu");
const OLD_PIECE = new RegExp(` ?[${WORD}]+| ?[^${WORD}${BLANK}]+|[${BLANK}]`, "gu");
const BLANKS = new RegExp(`[${BLANK}]+`, "u");
// A joiner that carries meaning (in emoji, in the scripts from Arabic to Tibetan), or no width at all.
const UNSEEN = new RegExp(
  "((?<=[\u0600-\u0fff])[\u200c\u200d](?=[\u0600-\u0fff])"
  + "|(?<=[\u2190-\u2bff\ufe0f\u{1F000}-\u{1FAFF}])\u200d(?=[\u2190-\u2bff\u{1F000}-\u{1FAFF}]))"
  + "|[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]", "gu");

/** Return text in one spelling: NFC, one space between words, nothing that has no width. */
export function normalise(text) {
  const seen = text.normalize("NFC").replace(UNSEEN, (_, joiner) => joiner ?? "");
  return seen.normalize("NFC").split(BLANKS).filter(Boolean).join(" ");
}

/** Write a pair of symbols so that no other pair is written alike. */
const key = (left, right) => `${left.length}:${left}${right}`;

/** A byte-pair encoder: `decode(encode(text))` is `normalise(text)`, whatever the text. */
export class BPE {
  constructor({ alphabet, merges, normalise: normalises = false }) {
    this.normalises = normalises; // false: a tokeniser from before there was `normalise`
    this.ranks = new Map();
    for (const [left, right] of merges) {
      if (!this.ranks.has(key(left, right))) this.ranks.set(key(left, right), this.ranks.size);
    }
    const letters = [...new Set(alphabet)].sort((a, b) => a.codePointAt(0) - b.codePointAt(0));
    this.symbols = [...new Set([...letters, ...merges.map((pair) => pair.join(""))])];
    this.ids = new Map(this.symbols.map((symbol, i) => [symbol, FIRST_SYMBOL + i]));
    const bytes = Array.from({ length: 256 }, (_, byte) =>
      `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
    const shown = this.symbols.map((symbol) => symbol.replaceAll(" ", "▁"));
    this.names = [...SPECIAL_TOKENS, ...bytes, ...shown];
  }

  /** Split text before each word and each run of punctuation; the space goes with what follows. */
  pieces(text) {
    if (this.normalises) return ` ${normalise(text)}`.match(PIECE);
    return ` ${text}`.match(OLD_PIECE);
  }

  /** Return the symbols of one piece: of all neighbours, those merged first in training join first. */
  split(piece) {
    const symbols = [...piece];
    for (;;) {
      let [best, at] = [Infinity, -1];
      for (let i = 0; i + 1 < symbols.length; i++) {
        const rank = this.ranks.get(key(symbols[i], symbols[i + 1])) ?? Infinity;
        if (rank < best) [best, at] = [rank, i];
      }
      if (at < 0) return symbols;
      symbols.splice(at, 2, symbols[at] + symbols[at + 1]);
    }
  }

  /** Return the id of a symbol, or those of its UTF-8 bytes if training never saw it. */
  symbolIds(symbol) {
    if (this.ids.has(symbol)) return [this.ids.get(symbol)];
    return [...new TextEncoder().encode(symbol)].map((byte) => FIRST_BYTE + byte);
  }

  /** Return the ids of a sentence, without BOS and EOS. */
  encode(text) {
    return this.pieces(text).flatMap((piece) => this.split(piece))
      .flatMap((symbol) => this.symbolIds(symbol));
  }

  /** Return the text of ids; special tokens are skipped, broken bytes become U+FFFD. */
  decode(ids) {
    const raw = [];
    for (const id of ids) {
      if (id >= FIRST_SYMBOL) raw.push(...new TextEncoder().encode(this.symbols[id - FIRST_SYMBOL]));
      else if (id >= FIRST_BYTE) raw.push(id - FIRST_BYTE);
    }
    const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(new Uint8Array(raw));
    return text.startsWith(" ") ? text.slice(1) : text;
  }
}
