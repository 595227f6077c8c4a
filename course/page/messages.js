// Every word that the page shows. Another language is a second dictionary with the same keys: what
// it lacks is shown in English. {x} is filled in by say("key", {x: ...}).

import { CHINESE } from "./chinese.js";

export const MESSAGES = {
  en: {
    language: "English",
    title: "A Transformer you can look into",
    course: "Attention Is All You Need, built in notebooks that run",
    intro: "Type German. A Transformer of {millions} million weights translates it inside this page: nothing you type leaves your computer, and every number it computes can be seen. It is the model that the course trains.",
    knows: "What it knows: captions of photographs, 29,000 of them. People, dogs, sport, streets. On other text it invents.",
    theme: "Light or dark", link: "Copy a link to this place", linked: "Link copied", skip: "Skip to the translation",
    nav_translate: "Translate", nav_attention: "Attention", nav_write: "Piece by piece", nav_beam: "Beam", nav_figure: "Figure 1",
    german: "German", english: "English", examples: "Twenty examples …", random: "Another example", contents: "Contents", choose_language: "Language",
    clear: "Clear", loading: "Unpacking the weights …", ready: "Ready.",
    working: "Translating …", took: "{read} pieces read, {written} written, in {ms} ms.",
    cut_off: "It did not end by itself: stopped after {written} pieces.",
    pieces_read: "What it reads", pieces_written: "What it writes",
    pieces_note: "The model reads pieces, not words: frequent words are one piece, rare ones several (lesson 06). “▁” marks a space before.",
    word_unseen: "“{word}” was in no training sentence: the model knows its pieces alone.",
    words_unseen: "Not one training sentence had these words: {words}. The model knows their pieces alone.",
    byte_note: "“{text}” is spelled in bytes: training had no piece for it, so expect nothing sensible there.",
    piece_count: "{name}: {count} times in training", piece_never: "{name}: never in training", piece_byte: "{name}: one byte of a character",
    break_title: "Break it: take a part away and see what it was for", break_note: "The model was trained whole, so a switch shows what it relies on, not what a model trained without that part would do.",
    set_positions: "no positions", set_positions_note: "Nothing says where a piece stands: the sentence is a bag of pieces.",
    set_causal: "no causal mask", set_causal_note: "While writing, earlier places look at later ones, as they never could in training. Each new piece changes what was found before.",
    set_maskBeforeSoftmax: "mask after the softmax", set_maskBeforeSoftmax_note: "Later pieces take a share of the softmax and are deleted afterwards: rows no longer sum to 1.",
    set_scale: "no scale", set_scale_note: "Scores are not divided by √dₖ: {scale} times as large, so nearly all weight falls on one piece.",
    set_residual: "no residual", set_residual_note: "What a layer finds replaces what came in, instead of being added to it.",
    set_head: "one head off", set_head_note: "The head finds nothing. Most heads are not missed much; try several.",
    which_head: "Which head", whole: "Whole", broken: "Broken", mend: "Mend all", same: "The same translation.",
    attention_title: "Who looks at whom", attention_note: "Point at a piece, or move to it with the arrow keys: lines lead to where this head looks, the thicker the more. A piece of the lower row shows by whom it is looked at.",
    kind_cross: "Decoder looks at the source", kind_encoder: "Encoder looks at itself", kind_decoder: "Decoder looks at itself",
    asks_cross: "Writing", keys_cross: "looks at the source", asks_encoder: "Each piece of the source", keys_encoder: "looks at the source",
    asks_decoder: "Writing", keys_decoder: "looks at what is written",
    layer: "Layer {n}", head: "Head {n}", mean: "Mean", mean_of: "mean of the heads", thumb: "Layer {layer}, {head}",
    gallery: "All layers and heads: choose one", matrix: "As a matrix: {kind}, layer {layer}, {head}",
    looks: "{from} → {shares}", looked_at: "{to} ← {shares}",
    write_title: "Piece by piece", write_note: "The decoder writes one piece, reads it again, writes the next. These were its five likeliest. Choose another one, and it goes on from there.",
    step_of: "Piece {t} of {all}", first: "First piece", back: "Back", play: "Play", stop: "Stop", forward: "Forward",
    own_way: "Back to the model's own way", your_way: "You chose “{piece}”; the rest is the model's.",
    end: "end of the sentence", begin: "begin", chosen: "written", take: "Write {piece} instead ({percent} %)",
    log_total: "log-probability so far: {total}",
    beam_title: "Several ways at once", beam_note: "A beam keeps the likeliest beginnings and lets all of them grow. Each column is a step; what has no child was dropped. Of the finished ones, score = log P / lp decides, where lp = ((5 + length) / 6)^α. A larger α favours longer sentences.",
    beam: "Beam", alpha: "Length penalty α", hypothesis: "Hypothesis", log_p: "log P", length: "Length", lp: "lp", score: "Score", unfinished: "not finished",
    beam_alt: "The beam as a tree of {steps} steps; the best hypothesis is: {text}", node: "{text}: log P {total}, this piece {share}",
    figure_title: "Figure 1, with your sentence in it", figure_note: "Choose a box to see what goes in and what comes out; step or play to follow the data. This model normalises before each sub-layer, not after as the paper prints it (lesson 05).",
    figure_note_post: "Choose a box to see what goes in and what comes out; step or play to follow the data.",
    input: "In", output: "Out", weights: "Weights, a map for each head", shape: "shape {shape}", lesson: "Lesson {name} builds it",
    heat_alt: "{name}, shape {shape}, values from {least} to {most}", heat_range: "{least} (blue) to {most} (orange)",
    encoder: "Encoder", decoder: "Decoder", times: "layer {n} of {all}", source_in: "source", target_in: "written so far",
    where: "{stack}: {box}", where_layer: "{stack}, layer {n}: {box}", named: "{what}: {name}",
    box_embedding: "Embedding", box_positions: "+ Positions", box_norm: "Norm", box_add: "Add", box_addnorm: "Add & Norm",
    box_self: "Self-attention", box_masked: "Masked self-attention", box_cross: "Cross-attention", box_ff: "Feed-forward", box_linear: "Linear", box_softmax: "Softmax",
    eq_embedding: "x = √d_model · E[piece]", eq_positions: "x + PE,  PE(pos, 2i) = sin(pos / 10000^(2i/d)),  PE(pos, 2i+1) = cos(same)",
    eq_norm: "gain · (x − mean) / √(variance + ε) + bias", eq_add: "x + Sublayer(Norm(x))", eq_addnorm: "Norm(x + Sublayer(x))",
    eq_attention: "Concat(head₁ … head_h) Wᴼ,  headᵢ = softmax(Q Kᵀ / √dₖ) V", eq_masked: "headᵢ = softmax(Q Kᵀ / √dₖ) V,  each place sees itself and what is before it",
    eq_cross: "headᵢ = softmax(Q Kᵀ / √dₖ) V,  Q from the decoder, K and V from the encoder", eq_ff: "max(0, x W₁ + b₁) W₂ + b₂", eq_linear: "logits = x Eᵀ  (E is the embedding again)", eq_softmax: "P(piece) = exp(logit) / Σ exp(logits)",
    figure_alt: "Figure 1 of the paper; each box is a button",
    sum_up: "How this page is made", sum_up_text: "The engine is three small files of plain JavaScript, part of the course: bpe.js, transformer.js, decoding.js. Tests hold it to the Python of the course: the same pieces, the same greedy translations of 1,000 sentences, log-probabilities within 0.001, attention within 0.0001.",
    licence: "Weights trained on Multi30k, for research and education. Not for translations on which somebody relies.",
    error_empty: "Nothing to translate yet: type a German sentence, or choose an example.",
    error_long: "That is {n} characters; the model knows captions of about 60. Up to {most} are translated: please shorten it.",
    error_pieces: "That is {n} pieces; a caption has about 15. Up to {most} are translated: please shorten it.",
    error_weights: "The weights did not arrive ({why}). Load the page again; if it stays so, make it again: python -m course page",
    error_worker: "The translator stopped ({why}). Load the page again; the link in the address bar keeps your place.",
    error_link: "The link was not whole; what could be read of it is set.",
  },
  zh: CHINESE,
};

let language = "en";

/** Choose a dictionary; one that is not there leaves English. */
export function speak(name) {
  language = MESSAGES[name] ? name : "en";
}

/** Return a message with its places filled in. */
export function say(key, values = {}) {
  const template = MESSAGES[language][key] ?? MESSAGES.en[key] ?? key;
  return template.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}
