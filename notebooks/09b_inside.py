# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 09b · Looking inside the translator
#
# > What a trained model does inside, and where it fails: measured, not told (paper, section 4).
#
# **After this lesson you can**
#
# - point at any attention weight of a real translator, and say why one picture proves nothing;
# - measure over a corpus what a head looks at, and compare it with a head that looks at nothing;
# - get a word alignment out of cross-attention, and score it;
# - take heads out of a model and put them back, and say what each one was worth;
# - read what the model would say if it stopped after layer 1;
# - compare what a decoder looks at with what its translation needs;
# - find out *where* a translator is weak: long sentences, rare words, unknown compounds.
#
# **You need first:** lessons 03, 05, 08 and 09; the alignment error rate of lesson 02.
# **Time:** 85 minutes; 100 with all that is marked *more*. **In the paper:** the end of section 4,
# the pictures of its appendix, row (A) of Table 3, section 6.1.
#
# A deeper room: it may be skipped at first reading.
#
# At the end of its section 4 the paper makes a promise: attention can be *looked at*. Its heads, it
# says, learn different tasks, and many seem to have to do with grammar and meaning. The appendix shows three
# pictures. They are beautiful, and they were chosen. This lesson asks the same questions with
# numbers: not "is there a sentence in which a head does this?" but "how often, compared with
# what, and would anybody miss it?"
#
# **Shapes:** B sentences, S source and T target tokens, Q queries, K keys, N layers, H heads, D width,
# V vocabulary. In the code layers and heads count from 0, on the page from 1: head 2.4 is the
# fourth head of the second layer.

# %%
#| export
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import log
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from course.attention import MultiHeadAttention, record_attention
from course.masking import Batch
from course.text import BOS, BPE, EOS, PAD, Pair, encode_pairs
from course.training import batch_loss
from course.transformer import Transformer

# %%
import csv
import json
import random

from sacrebleu.metrics import CHRF

from course import ASSETS
from course.corpora import captions, choose, pairs
from course.cache import translate
from course.device import by_scale, pick
from course.evaluation import compare, score, with_interval
from course.homework import check, guesses
from course.seq2seq import alignment_error_rate
from course.text import make_batches
from course.runs import load_checkpoint
from course.training import evaluate_loss
from course.viz import inside as draw
from course.viz import bar, show
from course.viz.attention import maps
from course.viz.seq2seq import crossings

device = pick()

# %% [markdown]
# The model under study is the one that comes with the course. Three kinds of sentences serve as its tests:
# the forty **probe sentences**, which you may read; the **captions**, for which the correct word
# alignment is known; and the validation set of **Multi30k**, for counts and scores. (Without Multi30k
# the captions stand in for it, too, and the next cell says so. The model never learned from them.)

# %%
model, bpe = load_checkpoint("multi30k-de-en")
model.to(device)
corpus = choose()
val = pairs(corpus, "val")
aligned = captions.load("val")[: by_scale(smoke=60, cpu=300, gpu=1000)]
with (ASSETS / "probe_sentences.tsv").open(encoding="utf-8") as file:
    probes = list(csv.DictReader(file, delimiter="\t"))
said_of_probes = translate(model, bpe, [row["de"] for row in probes], beam=4)

sizes = model.config
assert not model.training and len(said_of_probes) == len(probes) == 40
print(f"{sizes.n_layers} + {sizes.n_layers} layers, {sizes.n_heads} heads each, width "
      f"{sizes.d_model}, {len(bpe):,} tokens, norm: {sizes.norm}")
print(f"corpus: {corpus}, {len(val):,} validation pairs; {len(aligned)} captions with alignments")

# %% [markdown]
# ## 1 · An attention explorer
#
# A Transformer attends in three places (section 3.2.3 of the paper). In the **encoder** the source
# looks at itself. In the **decoder** what is already written looks at itself, backwards only. And in
# **cross-attention** the decoder looks at the source. Each layer has its own heads in each place. How
# many is that? We give every head a name.

# %%
#| export
KINDS = {  # kind of attention -> the stack and the sub-layer that hold it
    "encoder": ("encoder", "self_attention"),
    "decoder": ("decoder", "self_attention"),
    "cross": ("decoder", "cross_attention"),
}


class Head(NamedTuple):
    """One head: its kind (a key of KINDS), its layer and its number, both from 0."""

    kind: str
    layer: int
    head: int

    def __str__(self) -> str:
        return f"{self.kind} {self.layer + 1}.{self.head + 1}"


def heads_of(model: Transformer) -> list[Head]:
    """Return every head of a model: kind by kind, layer by layer."""
    config = model.config
    return [Head(kind, layer, head) for kind in KINDS
            for layer in range(config.n_layers) for head in range(config.n_heads)]


def sublayer(model: Transformer, kind: str, layer: int) -> MultiHeadAttention:
    """Return the attention of one kind in one layer."""
    stack, name = KINDS[kind]
    return getattr(getattr(model, stack).layers[layer], name)


# %%
heads = heads_of(model)
assert len(heads) == 3 * sizes.n_layers * sizes.n_heads
print(f"{len(heads)} heads, from {heads[0]} to {heads[-1]}")

# %% [markdown]
# `record_attention` of lesson 03 catches the weights of a whole batch. For reading one wants them
# sentence by sentence, without the padding, and with the tokens beside. That is a `Look`.
#
# The decoder is **forced**: it reads a translation that we give it, whatever it would have written
# itself (teacher forcing, lesson 02). So one parallel pass shows all its steps. Remember the shift:
# at step $t$ the decoder *reads* token $t-1$ and must *write* token $t$. Row $t$ of its weights
# belongs to both. Section 3 will ask to which of them it belongs more.

# %%
#| export
@dataclass(frozen=True)
class Look:
    """Where every head looks while one sentence is read and one translation is written.

    src (S), tgt (T): token ids, each ending in EOS. weights: kind -> (N, H, Q, K), where Q x K is
    S x S in the encoder, T x T in the decoder and T x S across. Row t of the last two is the step
    that reads tgt_in[t] and must write tgt[t].
    """

    src: list[int]
    tgt: list[int]
    weights: dict[str, Tensor]

    @property
    def tgt_in(self) -> list[int]:
        """What the decoder reads: BOS, then tgt without its last token."""
        return [BOS, *self.tgt[:-1]]


@torch.no_grad()
def look_inside(
    model: Transformer, bpe: BPE, pairs: Sequence[Pair], batch_size: int = 50
) -> list[Look]:
    """Force the decoder along the English of (German, English) pairs; return a Look at each.

    Raises ValueError if the model is in training mode.
    """
    if model.training:
        raise ValueError("the model is in training mode, its dropout is on: call model.eval()")
    device = next(model.parameters()).device
    examples, looks = encode_pairs(bpe, pairs), []
    for begin in range(0, len(examples), batch_size):
        chunk = examples[begin : begin + batch_size]
        batch = Batch.from_sequences(*zip(*chunk), PAD, BOS).to(device)
        with record_attention(model) as recorded:
            model(batch.src, batch.tgt_in, batch.src_mask, batch.tgt_mask)
        layers = range(model.config.n_layers)
        stacked = {  # kind -> (B, N, H, Q, K)
            kind: torch.stack([recorded[f"{stack}.layers.{i}.{name}"] for i in layers], 1).cpu()
            for kind, (stack, name) in KINDS.items()
        }
        for i, (src, tgt) in enumerate(chunk):
            s, t = len(src), len(tgt)
            sides = {"encoder": (s, s), "decoder": (t, t), "cross": (t, s)}
            weights = {kind: stacked[kind][i, :, :, :q, :k] for kind, (q, k) in sides.items()}
            looks.append(Look(src, tgt, weights))
    return looks


# %%
look = look_inside(model, bpe, [(probes[0]["de"], said_of_probes[0])])[0]
for kind, weights in look.weights.items():
    assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)  # padding took nothing away
    print(f"{kind:8} {tuple(weights.shape)}")
assert not look.weights["decoder"].triu(1).any()  # the decoder cannot look ahead
print(f"{len(look.src)} tokens read, {len(look.tgt)} written; every row sums to one")

# %% [markdown]
# And here they all are, for ten probe sentences and the model's own translations. Choose the kind,
# the layer, the head (or the mean of all heads) and the sentence; point at a square to read its
# weight. A row of the decoder is labelled with what it reads and, behind the arrow, what it writes.
# No kernel is needed: the weights lie in the page. (A viewer that runs no script shows one picture.)
#
# **Guess first:** in cross-attention, will the row that writes the word for *Frau* look at *Frau*? And
# where does a head look that has nothing to look for? (Your answers are in the picture; the share of a favourite can be
# guessed as a number, below.)

# %%
#| export
def labels_of(look: Look, kind: str, bpe: BPE) -> tuple[list[str], list[str]]:
    """Return the names of the queries and of the keys; a decoder's step is named read → written."""
    read, wrote, source = ([bpe.names[i] for i in ids] for ids in (look.tgt_in, look.tgt, look.src))
    steps = [f"{a} → {b}" for a, b in zip(read, wrote)]
    return {"encoder": (source, source), "decoder": (steps, read), "cross": (steps, source)}[kind]


def sharpness(look: Look, kind: str) -> Tensor:
    """Return how much of its weight a query gives to its favourite, on average: (N, H)."""
    return look.weights[kind].amax(-1).mean(-1)


# %%
CHOSEN = ("p01", "p03", "p08", "p11", "p13", "p18", "p21", "p25", "p34", "p36")
chosen = [i for i, row in enumerate(probes) if row["id"] in CHOSEN]
looks = look_inside(model, bpe, [(probes[i]["de"], said_of_probes[i]) for i in chosen])
sharp = {kind: sum(sharpness(look, kind) for look in looks) / len(looks) for kind in KINDS}
best = max((h for h in heads if h.kind == "cross"), key=lambda h: sharp["cross"][h.layer, h.head])
records = [(kind, probes[i]["de"], *labels_of(look, kind, bpe), look.weights[kind])
           for kind in KINDS for i, look in zip(chosen, looks)]
show(draw.explorer(records, sharp, best, f"{len(heads)} heads; the sharpest across is {best}"))

# %%
mine = None  # your guess: what share of its weight the sharpest head of cross-attention gives to one key, 0 to 1

# %%
favourite = sharp["cross"].flatten()
assert len(looks) == 10 and favourite.max() > 1.3 * favourite.min()
print(f"across, the sharpest head gives its favourite key {favourite.max():.0%} of the weight, the vaguest "
      f"{favourite.min():.0%} (means over the queries of ten sentences)")
guesses.compare(mine, favourite.max().item(), "09b: favourite key of the sharpest head")

# %% [markdown]
# Play for five minutes. You will find a head that follows the source like a finger, a head that
# looks at the word before, and several that look at nothing you could name. You will also find a
# story for each of them: that is the danger. People see patterns in clouds. So from here on we
# leave the single picture, and measure.
#
# ## 2 · What heads specialise in
#
# A hypothesis about a head can be written as a matrix: mark, for each query, the keys that it
# would look at. "The token before" marks one key for each query. "Another piece of the same word"
# marks some, and for whole words none. Then take the mean weight on marked keys, over all queries
# that have one:
#
# $$\text{share} = \frac{1}{|R|} \sum_{q \in R} \sum_{k} m_{qk} \, w_{qk} , \qquad
# \text{uniform share} = \frac{1}{|R|} \sum_{q \in R} \frac{\sum_k m_{qk}}{K_q} ,$$
#
# where $m_{qk}$ is 1 for a marked key and 0 else, $R$ are the rows with a mark, and $K_q$ is the
# number of keys that query $q$ may see. The second number is what a head would reach that looks at
# everything alike. **Their ratio is what counts**: 20 % on the token before is a lot among twenty
# tokens, and little among four.

# %%
#| export
def mean_share(
    kind: str, weights: Sequence[Tensor], marks: Sequence[Tensor]
) -> tuple[Tensor, float]:
    """Return the mean weight of each head on the marked keys, (N, H), and uniform attention's.

    weights (N, H, Q, K) and marks (Q, K), boolean, of each sentence. Only rows with a marked key
    count; in the decoder a query sees no later key. Raises ValueError if nothing is marked.
    """
    total, uniform, rows = 0.0, 0.0, 0
    for w, m in zip(weights, marks):
        visible = torch.ones_like(m).tril() if kind == "decoder" else torch.ones_like(m)
        m = m & visible
        chosen = m.any(-1)  # (Q,)
        total = total + (w * m)[:, :, chosen].sum((-2, -1))  # (N, H)
        uniform += (m.sum(-1) / visible.sum(-1))[chosen].sum().item()
        rows += int(chosen.sum())
    if not rows:
        raise ValueError("no key is marked in any sentence: there is nothing to average")
    return total / rows, uniform / rows


# %%
# NBVAL_CHECK_OUTPUT
toy = torch.tensor([[[[0.6, 0.4, 0.0], [0.1, 0.2, 0.7], [0.0, 1.0, 0.0]]]])  # one head, 3 x 3
before = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=torch.bool)  # one key to the left
share, uniform = mean_share("encoder", [toy], [before])
assert abs(share.item() - (0.1 + 1.0) / 2) < 1e-6 and abs(uniform - 1 / 3) < 1e-6
print(f"by hand: share {share.item():.2f}, uniform {uniform:.2f}: {share.item() / uniform:.2f} times")

# %% [markdown]
# > **Try it.** Call the same three rows a decoder: `mean_share("decoder", [toy], [before])`. What changes?
#
# <details><summary>Answer</summary>
#
# The share stays 0.55, but uniform attention now reaches (1/2 + 1/3) / 2 = 0.42, since a decoder's query sees no later key.
# So the ratio falls from 1.65 to 1.32, and the assertion about the uniform share fails.
#
# </details>
#
# Now the hypotheses: fixed offsets; the query itself; another piece of the same word; the same
# token somewhere else; a punctuation mark; the sign at the end (in the decoder: at the start). Many
# heads of BERT put most of their weight on such a separator, as if to say "nothing to look for"
# (Clark et al. 2019).
#
# To know which pieces make one word, we must know where words begin. `BPE.pieces` of lesson 06 cut the
# text before BPE did; every token belongs to one of these pieces, a word or a mark.

# %%
#| export
def word_index(bpe: BPE, text: str) -> list[int]:
    """Return for each token of a text the number of the word, or mark, that it belongs to."""
    return [number for number, piece in enumerate(bpe.pieces(text))
            for symbol in bpe.split(piece) for _ in bpe.symbol_ids(symbol)]


def marks_of(look: Look, kind: str, bpe: BPE) -> dict[str, Tensor]:
    """Return what a head of this kind may be looking for: name -> marked keys (Q, K)."""
    queries, keys = {
        "encoder": (look.src, look.src),
        "decoder": (look.tgt_in, look.tgt_in),
        "cross": (look.tgt, look.src),
    }[kind]
    row, column = torch.arange(len(queries))[:, None], torch.arange(len(keys))[None]
    names = [bpe.names[i].strip("▁") for i in keys]
    sign = torch.tensor([not any(map(str.isalnum, name)) for name in names])
    edge = torch.tensor([i in (BOS, EOS) for i in keys])
    marks = {"a mark": (sign & ~edge).expand(len(row), -1),
             "start" if kind == "decoder" else "end": edge.expand(len(row), -1)}
    if kind == "cross":
        straight = row * (len(keys) - 1) / max(len(queries) - 1, 1)
        return {"same place": straight.round() == column, **marks}
    offsets = range(-2, 3) if kind == "encoder" else range(-3, 1)
    at = {f"{o:+d}" if o else "itself": column - row == o for o in offsets}
    own = column == row
    ids = torch.tensor(keys)
    word = torch.tensor([*word_index(bpe, bpe.decode(keys)), -1])  # EOS: a word of its own
    word = word.roll(1) if kind == "decoder" else word  # ... and BOS
    same_word = (word[:, None] == word) & ~own
    same_token = (ids[:, None] == ids) & ~own
    return {**at, "same word": same_word, "same token": same_token, **marks}


# %%
# NBVAL_CHECK_OUTPUT
german = "Ein Kürbissuppenwagen, ein Hund."
index = word_index(bpe, german)
assert len(index) == len(bpe.encode(german))
rebuilt = [bpe.decode([i for i, w in zip(bpe.encode(german), index) if w == word])
           for word in range(max(index) + 1)]
assert rebuilt == ["Ein", "Kürbissuppenwagen", ",", "ein", "Hund", "."]
print("the tokens, put together word by word:", rebuilt)

# %% [markdown]
# A number needs something to be compared with. Besides the uniform share we take a model of the same
# sizes that **never learned anything**, fresh from its random start. If its heads reach the
# same ratios, our table shows how sentences are built, not what heads have learned. **Guess first:**
# how many times the uniform share does the best learned head put on the token before, and the best
# random one?

# %%
mine = None  # your guess: how many times the uniform share the best learned head puts on the token before

# %%
def profile(
    kind: str, looks: list[Look], marks: list[dict[str, Tensor]]
) -> dict[str, tuple[Tensor, float]]:
    """hypothesis -> shares (N, H) and the uniform share."""
    weights = [look.weights[kind] for look in looks]
    return {name: mean_share(kind, weights, [m[name] for m in marks]) for name in marks[0]}


torch.manual_seed(0)
untrained = Transformer(sizes).to(device).eval()
sample = val[: by_scale(smoke=60, cpu=300, gpu=1000)]
learned, random_start = {}, {}
for table, network in ((learned, model), (random_start, untrained)):
    looks = look_inside(network, bpe, sample)
    for kind in ("encoder", "decoder"):
        table[kind] = profile(kind, looks, [marks_of(look, kind, bpe) for look in looks])

# %% [markdown]
# Cross-attention has one more hypothesis, the one that matters: **it looks at the word that
# it translates.** Which word that is, nobody can say for sure, except in a corpus whose grammar wrote
# both sides. The captions bring their alignment with them. We mark the source pieces of the gold
# word twice: for the token that the decoder is about to *write*, and for the one that it has just
# *read*. So cross-attention is measured on the captions, with all its hypotheses.
#
# There is a trap. German and English often go in step, and then the gold word stands at the *same place*: a head
# that only moves straight ahead would look as if it knew the word. So *writes, off* counts only the gold pieces
# that do **not** stand at the same place.

# %%
def gold_marks(look: Look, caption: captions.Caption, reads: bool) -> Tensor:
    """Source tokens aligned with the target word of each step: (T, S)."""
    source, target = word_index(bpe, caption.de), word_index(bpe, caption.en)
    links = {*caption.alignment}
    steps = [-1, *target] if reads else [*target, -1]  # BOS and EOS have no word
    return torch.tensor([[(s, t) in links for s in [*source, -1]] for t in steps])


looks, blank = (look_inside(network, bpe, [(c.de, c.en) for c in aligned]) for network in (model, untrained))
marks = [marks_of(look, "cross", bpe) for look in looks]
for look, caption, mark in zip(looks, aligned, marks):
    mark["reads"] = gold_marks(look, caption, reads=True)
    mark["writes"] = gold_marks(look, caption, reads=False)
    mark["writes, off"] = mark["writes"] & ~mark["same place"]
learned["cross"], random_start["cross"] = profile("cross", looks, marks), profile("cross", blank, marks)

# %% [markdown]
# For each hypothesis we draw the ratios of all heads, and the best one of the untrained model. We call a head *regular* if one of its ratios is large: one
# simple rule tells where much of its weight is. The *most regular* head is the one with the largest ratio.

# %%
def strongest(table, kind: str, name: str) -> tuple[float, Head]:
    """The largest ratio of share to uniform share, and whose it is."""
    shares, uniform = table[kind][name]
    place = int(shares.argmax())
    return shares.max().item() / uniform, Head(kind, *divmod(place, sizes.n_heads))


best_of = {name: strongest(learned, "encoder", name) for name in learned["encoder"]}
where = max(best_of, key=best_of.get)
times, who = best_of[where]
draw.profiles(learned, random_start, f"In the encoder, {str(who).split()[1]} is the most regular head: {times:.1f} times "
              f"the uniform share on {where!r}",
              {"encoder": corpus, "decoder": corpus, "cross": "captions"})

# %% [markdown]
# A dot is a head, the number beside the best one its name; 1 is uniform attention. The cross is the best of the heads
# that never learned: what stands left of it needs no learning. −1 is the token before, +1 the token after; *a mark* is
# a full stop, a comma or the like; *writes* and *reads* are the gold words, *writes, off* those that are not at the same
# place. In the decoder offsets count from the token that was just read. The claims; each is about the best of
# all heads:

# %%
claims = [("encoder", ("-2", "-1", "+1", "+2"), 3.0), ("decoder", ("itself", "-1"), 1.7),
          ("cross", ("writes",), 3.0), ("cross", ("writes, off",), 3.0)]
for kind, names, least in claims:
    times, who, name = max((*strongest(learned, kind, name), name) for name in names)
    chance = max(strongest(random_start, kind, name)[0] for name in names)
    assert times > least and times > 1.25 * chance
    print(f"{str(who):12} puts {times:.1f} times the uniform share on {name!r}; "
          f"the best untrained head {chance:.1f} times")
twins, uniform = learned["encoder"]["same token"]
assert twins.median() < uniform
spread = [max(strongest(table, kind, name)[0] for kind in KINDS for name in table[kind])
          for table in (learned, random_start)]
end = max(strongest(learned, kind, name) for kind, name in
          (("encoder", "end"), ("decoder", "start"), ("cross", "end")))
before = strongest(learned, "encoder", "-1")[0], strongest(random_start, "encoder", "-1")[0]
print(f"on the token before: {before[0]:.1f} times, untrained {before[1]:.1f}")
print(f"over all hypotheses: {spread[0]:.1f} times at most, untrained {spread[1]:.1f}")
print(f"on the sign at the end or start: {end[1]} most, {end[0]:.1f} times the uniform share:",
      "it parks there, as heads of BERT do" if end[0] > 3 else "no head parks there, as heads of BERT do")
guesses.compare(mine, before[0], "09b: best head on the token before")

# %% [markdown]
# So yes, there are specialists, and it is learning that made them. In the encoder the strongest look at a
# *neighbour*; across, at the word to be *translated*. Part of the latter is only the order of words: *same place*
# has large ratios, too. But the claim holds also where the gold word stands elsewhere. Be careful with *a mark* in the
# decoder: often the only mark is the final full stop, and the only query that sees it is the one that reads it.
# There *a mark* and *itself* are the same key. Hypotheses overlap, so a high ratio names a place, not a reason.
# Voita et al. (2019) found such positional heads in a larger English-Russian model, and besides them syntactic
# ones and some for rare words. Most dots lie near 1: heads that do a bit of everything. A picture book of heads
# shows the first kind only.
#
# Two more things stand in the picture. In the encoder, the usual head gives the *same token* less than the
# uniform share. That need not be avoidance: repeated tokens are mostly articles, and perhaps no query looks
# at them much. And the sign at the end or start: from three times the uniform share on, the last line of the
# output speaks of parking. BERT's heads do it; a habit of one model is not a law.
#
# A question on the reason of all this (answer by its letter, `check("pattern_baseline", "a")`) is in the next cell.
#
# > **Try it.** Add a hypothesis to `marks_of`: the first token of the sentence; or, for the
# > decoder, the last comma. Does any head come forward with more than three times the uniform share?
#
# <details><summary>Answer</summary>
#
# None does (150 sentences of val). First token, encoder: 1.4 times at most, and an untrained head reaches 1.6. First token
# that was written, decoder: 0.9. Last comma: 2.5 times, head 3.4 of the decoder; the best untrained one 1.7.
#
# </details>

# %%
check("pattern_baseline")

# %% [markdown]
# ## 3 · Does it know which word it translates?
#
# The column *writes* above is a mean weight. A sharper question: if we link each English word to the
# German word that a head looks at most, how many links are right? Lesson 02 did this for the RNN
# and scored it by the **alignment error rate**, 0 for perfect, 1 for all wrong.
#
# First, tokens must become words, in exactly this way (Clark et al. 2019):
#
# - a *source* word receives the **sum** of the weights on its pieces: what is looked at adds up;
# - a *target* word has one row for each of its pieces: we take the **mean** of these rows.
#
# Then every row still sums to one. (`EOS` stays as a word of its own at the end; a target word that
# looks at it most gets no link.)

# %%
#| export
def to_words(weights: Tensor, tgt_words: Sequence[int], src_words: Sequence[int]) -> Tensor:
    """Merge weights over tokens (..., T, S) into weights over words (..., Tw, Sw).

    tgt_words (T), src_words (S): the number of the word of each token. Summed over the pieces of a
    source word, averaged over those of a target word: rows still sum to one.
    """
    rows = F.one_hot(torch.tensor(tgt_words)).float()  # (T, Tw)
    columns = F.one_hot(torch.tensor(src_words)).float()  # (S, Sw)
    return (rows / rows.sum(0)).T @ weights @ columns


def word_attention(look: Look, bpe: BPE, reads: bool = False) -> Tensor:
    """Return the cross-attention of a Look over words, EOS last on both sides: (N, H, Tw, Sw).

    The row of a word holds the steps that write it or, if `reads`, the steps that read it.
    """
    weights = look.weights["cross"]  # (N, H, T, S)
    if reads:
        weights = weights.roll(-1, dims=2)  # token t is read at step t + 1
    src, tgt = (word_index(bpe, bpe.decode(ids)) for ids in (look.src, look.tgt))
    return to_words(weights, [*tgt, tgt[-1] + 1], [*src, src[-1] + 1])


def links_of(weights: Tensor) -> set[tuple[int, int]]:
    """Link each target word to where it looks most: (Tw, Sw), EOS last -> (source, target)."""
    best = weights[:-1].argmax(-1).tolist()
    return {(i, j) for j, i in enumerate(best) if i < weights.size(1) - 1}


# %%
# NBVAL_CHECK_OUTPUT
toy = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.0, 0.6]])
merged = to_words(toy, tgt_words=[0, 0, 1], src_words=[0, 1, 1])  # pieces 0, 1 are one word
by_hand = torch.tensor([[(0.5 + 0.1) / 2, (0.3 + 0.2 + 0.2 + 0.7) / 2], [0.4, 0.6]])
assert torch.allclose(merged, by_hand) and torch.allclose(merged.sum(-1), torch.ones(2))
print("two target words over two source words:", [[round(w, 2) for w in row] for row in merged.tolist()])

# %% [markdown]
# > **Try it.** Let the last *two* rows be one word: `tgt_words=[0, 1, 1]`. What is the second row?
#
# <details><summary>Answer</summary>
#
# (0.25, 0.75), the mean of (0.1, 0.9) and (0.4, 0.6); the first row is (0.5, 0.5). Rows still sum to one, and the assertion
# about the old `by_hand` fails.
#
# </details>
#
# Now the shift. At step $t$ the decoder reads word $t-1$ and must write word $t$. Does the weight
# of that step belong to the word that is *read* or to the one that is *written*? Both have good
# reasons. To write the next word one should look at its source. But at that moment the model
# does not know yet which word comes next; once it is read, it is certain. In the deeper models
# of Chen et al. (2020) the reading side won: shifted by one, attention gave alignments that were much
# better. We measure both, for each head, and for the mean of the heads of a layer.
#
# The decoder is forced along the gold English, so it must "translate" even where it would not have
# written this itself. **Guess first:** reading or writing? The first layer or the last?

# %%
mine = None  # "reading" or "writing"

# %%
gold = [c.alignment for c in aligned]


def error_rates(reads: bool) -> Tensor:
    """AER of every head, and in the last column of the mean of a layer's heads: (N, H + 1)."""
    words = [word_attention(look, bpe, reads) for look in looks]
    words = [torch.cat([w, w.mean(1, keepdim=True)], 1) for w in words]
    return torch.tensor([[alignment_error_rate([links_of(w[layer, head]) for w in words], gold)
                          for head in range(sizes.n_heads + 1)]
                         for layer in range(sizes.n_layers)])


def diagonal(c: captions.Caption) -> set[tuple[int, int]]:
    """Straight ahead, from the first word to the last."""
    source, target = len(c.de_tokens) - 1, len(c.en_tokens) - 1
    return {(round(j * source / max(target, 1)), j) for j in range(target + 1)}


aer = {"the word it writes": error_rates(False), "the word it has read": error_rates(True)}
straight = alignment_error_rate([diagonal(c) for c in aligned], gold)
lowest = min(aer, key=lambda name: aer[name].min())
draw.alignment_errors(aer, straight, f"A step of cross-attention belongs to {lowest}")

# %%
writes, reads = (rates.min().item() for rates in aer.values())
layer, column = divmod(int(aer["the word it writes"].argmin()), sizes.n_heads + 1)
assert writes < reads - 0.1 and writes < 0.85 * straight
assert all((rates[:, -1] <= rates[:, :-1].mean(1) + 0.02).all() for rates in aer.values())
found = f"head {column + 1}" if column < sizes.n_heads else "the mean of the heads"
print(f"best AER: {writes:.3f} (writing; layer {layer + 1}, {found}), {reads:.3f} (reading), "
      f"straight ahead {straight:.3f}")
guesses.compare(mine, "writing" if writes < reads else "reading", "09b: a step belongs to the word")

# %% [markdown]
# Here writing wins, and clearly. A possible reason, which we did not test: this decoder is shallow, so each
# of its layers must help with the next word, and none can be spared for looking back. (The first steps are
# guesses: before anything is written, the weight is where a sentence *probably* begins.) So the
# answer depends on the model; if you read alignments off attention, measure the shift first.
#
# And the mean of a layer is never much worse than its average head, and it can beat the best one:
# heads err in different places, and in the mean the errors thin out. Nobody taught the model any
# alignment. It had to find out where to look, since looking right made the next word likelier.
#
# One caption, with its gold links framed:

# %%
example = next(i for i, c in enumerate(aligned)
               if 7 <= len(c.en_tokens) <= 12 and crossings(c.alignment))
caption = aligned[example]
layer = int(aer["the word it writes"][:, -1].argmin())
rows = {"row: the word it writes": False, "row: the word it has read": True}
panels = [(name, word_attention(looks[example], bpe, reads)[layer].mean(0)[:-1, :-1],
           caption.en_tokens, caption.de_tokens) for name, reads in rows.items()]
seen = links_of(word_attention(looks[example], bpe)[layer].mean(0))
assert seen & {*caption.alignment}
maps(panels, f"Layer {layer + 1}, mean of its heads: the same weights, shifted by one step",
     [(j, i) for i, j in caption.alignment])

# %% [markdown]
# > **Try it.** 1. Score only the captions in which links cross. Does the diagonal suffer more than the
# > heads? 2. Use the *maximum* over the pieces of a source word instead of the sum. Does the AER move?
#
# <details><summary>Answer</summary>
#
# 1. Much more. Diagonal: 0.59 where links cross (204 captions), 0.15 where none does (96). The mean of the heads of layer 2:
# 0.34 and 0.21. So on captions in step, straight ahead is even better than attention. 2. Hardly: 0.303 instead of 0.310.
#
# </details>

# %% [markdown]
# ## 4 · Is what it looks at what it needs?
#
# One probe sentence, all of cross-attention: for each word that the decoder is about to write (rows), which German
# pieces it looks at (columns). The mean over the heads, layer by layer. **Guess first:** do the three layers look at
# different things?

# %%
german, english = probes[0]["de"], said_of_probes[0]
rows, columns = [*bpe.tokens(english), "</s>"], [*bpe.tokens(german), "</s>"]


def cross_attention(german: str, english: str) -> Tensor:
    """Weights of every layer and head while the model writes `english`: (N, H, T, S)."""
    return look_inside(model, bpe, [(german, english)])[0].weights["cross"]


favourites = [cross_attention(row["de"], text).mean(1).argmax(-1) for row, text in zip(probes, said_of_probes)]
agree = {(i, j): sum((f[i] == f[j]).float().mean().item() for f in favourites) / len(favourites)
         for j in range(sizes.n_layers) for i in range(j)}
low, high = min(agree.values()), max(agree.values())
assert low > 0.3 and high < 0.9
draw.attention_grid(cross_attention(german, english).mean(1), rows, columns,
                    f"One diagonal, three times: two layers share their favourite in {low:.0%} to {high:.0%} of the steps")

# %% [markdown]
# Largely the same thing (the shares are means over all forty probes): the layers do not divide the source among them.
#
# Is a word that gets much weight a word that the translation *needs*? A picture cannot tell, but an
# experiment can: take one word out of the source, and measure how much less likely the same
# translation becomes. The log-probability that the translation loses is called the *need* of that word, in nats.
# (A gap also makes the German ungrammatical, and shifts the positions: the need holds that, too.)
#
# The sentence is the first probe. Look at its translation above before you read the bars: a word that the
# translation left out cannot be needed for it. A **negative** need says that without this word the model finds
# its own translation *likelier*: the word spoke for another one.

# %%
def log_probability(src_ids: list[int], tgt_ids: list[int]) -> float:
    """Log-probability, in nats, that the model gives a translation."""
    batch = Batch.from_sequences([src_ids], [[*tgt_ids, EOS]], PAD, BOS).to(device)
    with torch.no_grad():
        return -batch_loss(model, batch).item()  # summed over the tokens


def needed_and_attended(german: str, english: str) -> tuple[list[str], list[float], list[float]]:
    """The words of the source, what the translation loses without each, the weight each got."""
    src_ids, tgt_ids = bpe.encode(german), bpe.encode(english)
    received = cross_attention(german, english).mean((0, 1)).sum(0)  # (S,)
    whole, names, needed, attended = log_probability([*src_ids, EOS], tgt_ids), [], [], []
    index = torch.tensor(word_index(bpe, german))
    for word in range(int(index.max()) + 1):
        rest = [id_ for id_, place in zip(src_ids, index.tolist()) if place != word]
        names.append(bpe.decode([id_ for id_, place in zip(src_ids, index.tolist()) if place == word]).strip())
        needed.append(whole - log_probability([*rest, EOS], tgt_ids))
        attended.append(received[:-1][index == word].sum().item())
    return names, needed, attended


# %%
names, needed, attended = needed_and_attended(german, english)
print(f"words with a negative need: {sum(nats < 0 for nats in needed)} of {len(needed)}")
draw.need_and_weight(names, needed, attended, "What the translation needs, and where the model looks")

# %% [markdown]
# Do left and right tell the same story? One sentence proves nothing, so we take all forty. A **rank correlation**
# compares two orders: 1 is the same order, 0 no relation, −1 the opposite one. And it needs a rival that looks at
# nothing: **the number of letters** of each word. Articles are short, nouns are long. **Guess first:** how high is the
# rank correlation of letters and need?

# %%
#| export
def rank_correlation(a: Iterable[float], b: Iterable[float]) -> float:
    """Spearman's: the correlation of the ranks of two lists of equal length; ties share a rank."""
    lists = [torch.tensor(list(values)).float() for values in (a, b)]
    ranks = [((x[:, None] > x).sum(1) + (x[:, None] >= x).sum(1)).float() for x in lists]
    return torch.corrcoef(torch.stack(ranks))[0, 1].item()


# %%
# NBVAL_CHECK_OUTPUT
assert rank_correlation([1.0, 2.0, 9.0], [3.0, 5.0, 6.0]) > 0.999
tie = rank_correlation([1.0, 1.0, 2.0], [5.0, 3.0, 9.0])  # the tie shares a rank
assert abs(tie - 0.75**0.5) < 1e-6
print(f"with a tie: {tie:.3f}")

# %% [markdown]
# > **Try it.** Replace 9.0 by 9000.0 in the first assertion.
#
# <details><summary>Answer</summary>
#
# Still 1: only the order counts. One word with an enormous need cannot decide a rank correlation.
#
# </details>
#
# A third number is the **partial** correlation: what attention tells about need among words of the same length, as far
# as ranks can say it. With $r$ for the rank correlations of attention $a$, need $n$ and letters $l$:
#
# $$r_{an \cdot l} = \frac{r_{an} - r_{al} \, r_{nl}}{\sqrt{(1 - r_{al}^2)(1 - r_{nl}^2)}} .$$

# %%
mine = None  # your guess: rank correlation of the number of letters and need, -1 to 1

# %%
def beyond(a: float, b: float, both: float) -> float:
    """The partial correlation: `both` between two things, a and b between each of them and a third."""
    return (both - a * b) / ((1 - a**2) * (1 - b**2)) ** 0.5


studied = [needed_and_attended(row["de"], text) for row, text in zip(probes, said_of_probes)]
correlations = {"attention": [], "letters": [], "attention, letters taken out": []}
for words, needs, weights in studied:
    if len(words) >= 5:
        letters = [len(word) for word in words]
        by_attention, by_letters = rank_correlation(weights, needs), rank_correlation(letters, needs)
        shared = rank_correlation(weights, letters)
        for values, value in zip(correlations.values(), (by_attention, by_letters,
                                                         beyond(shared, by_letters, by_attention))):
            values.append(value)
found = {}
for name, values in correlations.items():
    values = torch.tensor(values)
    found[name] = values.mean().item(), 2 * values.std().item() / len(values) ** 0.5
    print(f"{name:29} and need: {found[name][0]:.2f} ± {found[name][1]:.2f}, mean over {len(values)} sentences")
(by_attention, margin), (by_letters, _), (rest, rest_margin) = found.values()
assert by_letters > by_attention - margin  # the letters alone do as well
assert 1.5 * rest_margin < rest < 0.75 * by_attention  # something is left, and less
negative = [nats < 0 for _, needs, _ in studied for nats in needs]
print(f"words with a negative need, all sentences: {sum(negative)} of {len(negative)}")
guesses.compare(mine, by_letters, "09b: letters and need")

# %% [markdown]
# Counting letters tells as much about need as attention does. Attention gives long words more weight, and they are
# needed more; among words of equal length what it says about need is much less, though not nothing. Remember it when
# you see a pretty attention map: it shows where the model *looks*, not what it *uses*. (How far attention explains a
# model is disputed: Jain and Wallace 2019, against them Wiegreffe and Pinter 2019.)

# %%
check("attended_needed")

# %% [markdown]
# ## 5 · Would anybody miss it?
#
# A head may look at a beautiful pattern, and the model may not care. What a part is *worth*, one
# learns by taking it away. Multi-head attention makes that easy: its output is a sum over heads,
#
# $$\operatorname{MultiHead}(Q, K, V) = \sum_{h=1}^{H} \xi_h \; \mathrm{head}_h \, W^O_h ,
# \qquad \xi_h = 1 ,$$
#
# where $W^O_h$ are the rows of $W^O$ that belong to head $h$. The **gate** $\xi_h$ is not in the
# paper; it is 1, so it changes nothing. Set it to 0, and head $h$ is gone (Michel et al. 2019). No
# weight is touched: a hook multiplies what enters $W^O$, and is removed when the block ends.

# %%
#| export
@contextmanager
def gated(model: Transformer, gates: Mapping[tuple[str, int], Tensor]) -> Iterator[None]:
    """While the block is open, multiply the output of each head by its gate, before `w_o`.

    gates: (kind, layer) -> (H,), or (B, H) for gates of each sentence. Nothing stays behind.
    """

    def hook_of(gate: Tensor):
        def hook(module, args):
            heads = args[0].unflatten(-1, (gate.size(-1), -1))  # (B, L, H, Dv)
            return (heads * gate[..., None, :, None]).flatten(-2)

        return hook

    handles = [sublayer(model, *place).w_o.register_forward_pre_hook(hook_of(gate))
               for place, gate in gates.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def prune(model: Transformer, heads: Iterable[Head]) -> Iterator[None]:
    """While the block is open, the model works without these heads: their output is zero.

    Raises ValueError for a head that the model does not have. Michel et al. 2019.
    """
    heads = [Head(*head) for head in heads]
    if strangers := set(heads) - set(heads_of(model)):
        raise ValueError(f"the model has no head {min(strangers)}: heads_of(model) lists them all")
    device = next(model.parameters()).device
    gates = {(h.kind, h.layer): torch.ones(model.config.n_heads, device=device) for h in heads}
    for kind, layer, head in heads:
        gates[kind, layer][head] = 0.0
    with gated(model, gates):
        yield


# %%
ten = [row["de"] for row in probes[:10]]
whole = translate(model, bpe, ten)
with prune(model, [h for h in heads if h.kind == "cross"]):
    blind = translate(model, bpe, ten)
begins = {" ".join(text.split()[:5]) for text in blind}
assert len(begins) == 1 < len(set(whole))
assert translate(model, bpe, ten) == whole
print("without any cross-attention, every translation begins:", *begins, "...")
print("outside the block the model is as it was")

# %% [markdown]
# A translator that cannot see its source: what is left is a language model, and its favourite
# caption. Now one head at a time. BLEU is too coarse for this: on a hundred sentences one head
# moves it by less than chance does (the end of this section tries it). The **loss** of the right
# translation, in nats a token, notices small things. (These prices have a margin, too: do not trust the
# order of two that are almost equal.) **Guess first:** which of the three kinds is missed most? And what do
# all heads of one attention sub-layer cost together, compared with the sum of their single costs?

# %%
mine = None  # "encoder", "decoder" or "cross"

# %%
n = min(by_scale(smoke=40, cpu=120, gpu=500), len(val) // 2)  # the rest is for what comes later
judged = [batch.to(device) for batch in make_batches(encode_pairs(bpe, val[:n]), 2000)]
untouched = evaluate_loss(model, judged)


def cost(gone: list[Head]) -> float:
    """How much the loss rises, in nats a token, without these heads."""
    with prune(model, gone):
        return evaluate_loss(model, judged) - untouched


alone = {head: cost([head]) for head in bar(heads, "head")}
places = list(dict.fromkeys((head.kind, head.layer) for head in heads))
together = {place: cost([h for h in heads if h[:2] == place]) for place in places}

# %%
ordered = sorted(heads, key=alone.get)
quarter = len(heads) // 4
total = sum(alone.values())
cheap, costly = (sum(alone[h] for h in part) / total for part in (ordered[:quarter], ordered[-quarter:]))
draw.removal_costs(alone, together, f"The costliest quarter of the heads holds {costly:.0%} of the cost, "
                   f"the cheapest {cheap:.0%}")

# %%
extra = sum(together.values()) / total
assert cheap < 0.15 and costly > 0.4 and extra > 1.2
print(f"loss of the whole model {untouched:.3f} nats a token; costliest head {ordered[-1]}: "
      f"+{alone[ordered[-1]]:.3f}; cheapest {ordered[0]}: {alone[ordered[0]]:+.3f}")
print("sub-layers as a whole:", {kind: round(sum(c for (k, _), c in together.items() if k == kind), 2)
                                 for kind in KINDS})
print(f"all heads of a sub-layer together cost {extra:.1f} times the sum of their single costs")
kind_costs = {kind: sum(c for (k, _), c in together.items() if k == kind) for kind in KINDS}
guesses.compare(mine, max(kind_costs, key=kind_costs.get), "09b: kind of attention that is missed most")

# %% [markdown]
# Three findings.
#
# - **The costs are uneven.** A quarter of the heads holds a large part of them. Michel et al. found in a big
#   Transformer with sixteen heads a layer that most heads could be removed, *one at a time*, without a
#   visible loss.
# - **Together they cost more than the sum.** That fits heads that stand in for each other: one that costs
#   nothing alone may carry the load as soon as its neighbour is gone. So "this head is useless" is always
#   said of a model *with all the others*.
# - **A pattern and a price are two questions.** The most regular head of section 2 need not be a costly one,
#   nor a costly head regular. A correlation further down asks how far the two go together.

# %%
check("head_without_cost")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Two heads that stand in for each other · more
#
# Two heads that cost more together than one by one, found and drawn.

# %% [markdown]
# Can one *see* two heads stand in for each other? Take the sub-layer with the largest surplus, and in it all
# pairs of heads: each alone, and both at once.

# %%
def surplus(place: tuple[str, int]) -> float:
    """What all heads of a sub-layer cost together, above the sum of their single costs."""
    return together[place] - sum(alone[h] for h in heads if h[:2] == place)


crowded = max(places, key=surplus)
inside = [h for h in heads if h[:2] == crowded]
both = {(a, b): cost([a, b]) for a in inside for b in inside if a < b}
a, b = max(both, key=lambda pair: both[pair] - alone[pair[0]] - alone[pair[1]])
added = alone[a] + alone[b]
draw.stand_in({str(a): alone[a], str(b): alone[b], "the two,\nadded": added, "both\nat once": both[a, b]},
              f"Both heads at once cost {abs(both[a, b] - added):.3f} nats a token "
              f"{'more' if both[a, b] > added else 'less'} than the two added")

# %%
assert surplus(crowded) > 0
more = sum(both[pair] > alone[pair[0]] + alone[pair[1]] for pair in both)
print(f"{crowded[0]} {crowded[1] + 1}: {more} of {len(both)} pairs cost more than the sum of the two")
print(f"all {len(inside)} heads of it: {together[crowded]:.3f}; their single costs add up to "
      f"{together[crowded] - surplus(crowded):.3f}")

# %% [markdown]
# (The picture shows the pair with the largest surplus; it was chosen for that. And price means here: output set
# to zero, nothing trained again. A model that may adapt, or that gets the head's mean instead of zero, has other
# prices.)

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### A first guess from one backward pass · more
#
# One backward pass guesses the price of every head at once. For readers with large models.

# %% [markdown]
# One run for each head is cheap here. In a model with a thousand heads it is not. But a price is a
# difference, and a small difference is a derivative: $L(\xi_h{=}0) \approx L - \partial L /
# \partial \xi_h$. The step from 1 to 0 is not small, so this is only a first guess; but one backward pass
# gives it for all gates at once. Michel et al. take the mean of its size over sentences $x$:
#
# $$I_h = \mathbb{E}_x \left| \frac{\partial L(x)}{\partial \xi_h} \right| .$$
#
# They take the size *before* the mean. So $I_h$ is not the price itself: a head that helps one sentence and
# hurts another as much has price zero, and still matters. We compare the *order* only. Every sentence gets
# gates of its own. (They also divide by the norm of the layer; we do not.)

# %%
#| export
def importance(model: Transformer, batches: Iterable[Batch]) -> dict[Head, float]:
    """Return for each head the mean size of the loss's slope at its gate, in nats a sentence.

    The parameters get no gradient. Michel et al. 2019, section 4.1.
    """
    heads, count = heads_of(model), 0
    totals = torch.zeros(len(heads))
    for batch in batches:
        shape = len(batch.src), model.config.n_heads
        gates = {(h.kind, h.layer): torch.ones(shape, device=batch.src.device, requires_grad=True)
                 for h in heads}
        with gated(model, gates):
            loss = batch_loss(model, batch)  # summed over the tokens
        slopes = torch.autograd.grad(loss, list(gates.values()))  # (B, H) each
        totals += torch.cat([slope.abs().sum(0).cpu() for slope in slopes])
        count += len(batch.src)
    return dict(zip(heads, (totals / count).tolist()))


# %%
slopes = importance(model, judged)
agreement = rank_correlation(slopes.values(), alone.values())
assert list(slopes) == list(alone) and agreement > 0.3
assert not any(p.grad is not None for p in model.parameters())
print(f"rank correlation of slope and measured cost over {len(heads)} heads: {agreement:.2f}")
regular = [max((shares[h.layer, h.head] / uniform).item() for shares, uniform in learned[h.kind].values())
           for h in heads]
print(f"of regularity (section 2) and measured cost: {rank_correlation(regular, alone.values()):.2f}")

# %% [markdown]
# ### Until it breaks
#
# Now we take out more and more heads and translate *other* validation sentences than those that
# gave the prices: by price, the cheapest first; by chance; the costliest first. Chance needs more than one
# order; we take each random order also backwards, so that no head always goes early. **Guess first:** what share
# of the heads must go, the cheapest first, until the paired test of lesson 09 sees a loss?

# %%
mine = None  # your guess: a share of the heads, 0 to 1

# %%
part = val[n : n + by_scale(smoke=20, cpu=80, gpu=500)]
shares = [0.1, 0.2, 0.3, 0.45, 0.6]
orders = {"cheapest first": ordered, "costliest first": ordered[::-1]}
for seed in range(by_scale(smoke=1, cpu=2, gpu=3)):
    drawn = random.Random(seed).sample(heads, len(heads))
    orders[f"random {seed + 1}"], orders[f"random {seed + 1}, backwards"] = drawn, drawn[::-1]


def said_without(gone: list[Head]) -> list[str]:
    with prune(model, gone):
        return translate(model, bpe, [german for german, _ in part], max_tokens=4000)


def bleu_without(gone: list[Head]) -> float:
    return score(said_without(gone), [english for _, english in part]).bleu


written, meant = said_without([]), [english for _, english in part]
with_all = with_interval(written, meant)
curves = {name: [with_all.score, *(bleu_without(order[: round(share * len(heads))]) for share in shares)]
          for name, order in bar(orders.items(), "order")}
shares = [0, *shares]

# %%
means = {name: sum(curve) / len(curve) for name, curve in curves.items()}
by_chance = [value for name, value in means.items() if name.startswith("random")]
verdicts = {name: [compare(written, said_without(orders[name][: round(share * len(heads))]), meant)["BLEU"]
                   for share in shares[1:]] for name in ("cheapest first", "costliest first")}
hurts = {name: next((share for share, verdict in zip(shares[1:], some)
                     if verdict.difference < 0 and verdict.p_value < 0.05), 1.0)
         for name, some in verdicts.items()}
draw.removal_curves(shares, curves, f"The first significant loss: cheapest first at {hurts['cheapest first']:.0%} of the "
                    f"heads, costliest first at {hurts['costliest first']:.0%}", with_all.margin)

# %%
low, high = means["costliest first"], means["cheapest first"]
assert high > low and high > sum(by_chance) / len(by_chance)
assert hurts["cheapest first"] >= hurts["costliest first"]
for share, *both in zip(shares[1:], *verdicts.values()):
    print(f"without {share:.0%}: " + "; ".join(f"{name} {verdict}" for name, verdict in zip(verdicts, both)))
single = {head: compare(written, said_without([head]), meant)["BLEU"] for head in (ordered[0], ordered[-1])}
print("one head only: " + "; ".join(f"{head} {verdict}" for head, verdict in single.items()))
as_bad = sum(value <= low for value in by_chance)
print(f"{len(part)} sentences, mean BLEU along the way: cheapest first {high:.1f}, costliest first {low:.1f}, "
      f"random orders from {min(by_chance):.1f} to {max(by_chance):.1f}")
beaten = sum(value < high for value in by_chance)
print(f"cheapest first is better than {beaten} of {len(by_chance)} random orders")
print("costliest first is worse than every random order" if not as_bad else
      f"costliest first is no worse than chance: {as_bad} of {len(by_chance)} random orders are as bad, or worse")
guesses.compare(mine, hurts["cheapest first"], "09b: share of heads gone at the first significant loss")

# %% [markdown]
# To *spare* the costly heads helps. To take them *first* need not be worse than chance (the last line says how it
# is here): each price was measured with all other heads in place, and single prices do not add up. A random
# order may empty a whole sub-layer early, and pay for that. The bar at the left is the 95 % interval of one BLEU
# on so few sentences. All curves share the sentences, so their differences are surer than that; but a few points
# between two curves mean nothing. So the title asks the paired test of lesson 09, and *not yet significant* is no proof
# that nothing was lost: more sentences would see smaller losses.
#
# Voita et al. (2019) went further: they let training itself close the gates and removed 38 of 48 encoder heads
# for 0.15 BLEU. So why train with many heads at all? In Table 3, row (A), a model *trained* with one head is 0.9
# BLEU worse. The two results together suggest that many heads help to *find* a good solution, and fewer can keep
# it.
#
# > **Try it.** Take the nine cheapest heads by `slopes` instead of by `alone`. How many are the same? What do nine cost
# > together?
#
# <details><summary>Answer</summary>
#
# Six of nine are the same (rank correlation of all 36: 0.64). Without the nine cheapest by measured price the loss rises by
# 0.068, without the nine by slope by 0.092. One backward pass is a fair guess, and no more.
#
# </details>

# %% [markdown]
# ## 6 · What does it think halfway?
#
# The residual connections (lesson 05) keep one vector for each position, and each sub-layer only adds
# something to it. Only after the last layer is this vector turned into scores for the words. But it
# has the same width after every layer. What if we ask too early: take the vector after layer
# $\ell$, apply the *final* norm and the projection to the vocabulary, and read? That is the **logit
# lens** (nostalgebraist 2020):
#
# $$\text{logits}_\ell = W_{\text{vocab}} \; \operatorname{norm}_{\text{final}} (x_\ell) , \qquad
# \ell = 0, 1, \dots, N .$$
#
# At $\ell = N$ it is the model. At $\ell = 0$, before any layer, there is only the embedding of the
# token just read, plus its position. (A post-norm model has no final norm; each layer ends in its own.)

# %%
#| export
@torch.no_grad()
def states_of(model: Transformer, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the vectors before the first layer and after each one.

    Encoder (N + 1, B, S, D), decoder (N + 1, B, T, D); a pre-norm stack's final norm is not applied.
    """
    source = [model.positions(model.src_embedding(batch.src))]
    for layer in model.encoder.layers:
        source.append(layer(source[-1], batch.src_mask))
    memory = model.encoder.norm(source[-1])
    target = [model.positions(model.tgt_embedding(batch.tgt_in))]
    for layer in model.decoder.layers:
        target.append(layer(target[-1], memory, batch.src_mask, batch.tgt_mask))
    return torch.stack(source), torch.stack(target)


@torch.no_grad()
def logit_lens(model: Transformer, states: Tensor) -> Tensor:
    """Return what a decoder that stopped here would say: (..., D) -> log-probabilities (..., V).

    nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    return model.project(model.decoder.norm(states)).log_softmax(-1)


# %%
some = [batch.to(device) for batch in make_batches(encode_pairs(bpe, sample), 800)]
batch = some[0]
with torch.no_grad():
    logits = model(batch.src, batch.tgt_in, batch.src_mask, batch.tgt_mask)
last = logit_lens(model, states_of(model, batch)[1][-1])
assert torch.allclose(last, logits.log_softmax(-1), atol=1e-4)
print("through the lens, the last layer is the model itself")

# %% [markdown]
# Over the corpus we ask four things of each layer. Is its first choice already the **final** one,
# that of the whole model? Is it the **right** one, that of the reference? Is it still the token that
# was just **read**? And on what **rank** does the final token stand?
#
# **Guess first:** what does the model say at layer 0? In this model one table serves as embedding and
# as projection: look at the word that you have just read, and multiply by the same table again.

# %%
mine = None  # what the model says at layer 0: "the right word", "the word read" or "noise"

# %%
def through_the_lens(batches: list[Batch]) -> dict[str, Tensor]:
    """For each layer: shares of first choices (N + 1,), and the ranks of the final token (N + 1, n)."""
    counts = {"final": 0, "right": 0, "read": 0}
    ranks = []
    for batch in batches:
        real = batch.tgt_out != PAD
        said = logit_lens(model, states_of(model, batch)[1][:, real])  # (N + 1, n, V)
        first, final = said.argmax(-1), said[-1].argmax(-1)
        asked = {"final": final, "right": batch.tgt_out[real], "read": batch.tgt_in[real]}
        counts = {name: counts[name] + (first == asked[name]).sum(1) for name in asked}
        ours = said.gather(-1, final.expand(len(said), -1)[..., None])  # (N + 1, n, 1)
        ranks.append(1 + (said > ours).sum(-1))
    ranks = torch.cat(ranks, 1).cpu()
    return {**{name: (count / ranks.size(1)).cpu() for name, count in counts.items()}, "ranks": ranks}


lens = through_the_lens(some)
half = int((lens["final"] >= 0.5).int().argmax())
draw.lens_by_layer(lens, f"From layer {half} of {sizes.n_layers} on, the first choice is mostly the "
                   "final one")

# %%
final, read, right = lens["final"], lens["read"], lens["right"]
assert (final.diff() > 0).all()
assert read[-1] < 0.1 and right[-1] > right[0] + 0.3
if sizes.tie_embeddings:
    assert read[0] > 0.9  # the embedding, multiplied by itself
medians = lens["ranks"].median(1).values.tolist()
assert medians[max(half - 1, 1)] < medians[0] / 5  # on its way up, before it is first
print(f"layer{'final':>8}{'right':>8}{'read':>8}{'median rank':>13}")
for layer, median in enumerate(medians):
    print(f"{layer:5}{final[layer]:8.1%}{right[layer]:8.1%}{read[layer]:8.1%}{median:13}")
print(f"before the last layer {final[-2]:.0%} of the first choices are the final ones; it changes the other "
      f"{1 - final[-2]:.0%}")
guesses.compare(mine, "the word read" if read[0] > 0.5 else "noise", "09b: what layer 0 says")

# %% [markdown]
# The vector of a position begins as the word that was *read* and ends as the word to be *written*.
# On its way it must cross from one to the other: a decoder predicts by moving. Look at the median rank beside
# the column *final*: the final word is already near the top while it is not yet the first choice. How much is
# left to the last layer, the line below the table says.
#
# One probe sentence, layer by layer. Read it from bottom to top. The word in a cell is the first choice after
# that layer; the shade is the probability that this layer already gives to the *final* choice. (The decoder is
# forced along the beam's translation, so the top row need not be that translation.)

# %%
shown = 0
pair = [(probes[shown]["de"], said_of_probes[shown])]
batch = next(iter(make_batches(encode_pairs(bpe, pair), 400))).to(device)
said = logit_lens(model, states_of(model, batch)[1][:, 0]).cpu()  # (N + 1, T, V)
first, final_ids = said.argmax(-1), said[-1].argmax(-1)
probability = said.gather(-1, final_ids.expand(len(said), -1)[..., None])[..., 0].exp()
words = [[bpe.names[i] for i in row] for row in first.tolist()]
read_names = [bpe.names[i] for i in batch.tgt_in[0].tolist()]
changed = sum(a != b for a, b in zip(words[-2], words[-1]))
assert probability[-1].mean() > probability[0].mean() + 0.3
draw.lens_grid(words, probability, read_names, f"{changed} of {len(words[-1])} words change in the last layer")

# %% [markdown]
# A warning: the lens is the *final* layer's way of reading. That a word cannot be read early does not
# mean it is not there; it may be expressed in other directions of the space. (Belrose et al. 2023 train a small
# translator for each layer, the *tuned lens*, and then early layers say more.)

# %%
check("lens_early")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### And the encoder? · more
#
# How much of the word is left in the encoder's vectors.

# %% [markdown]
# The encoder predicts nothing, so the lens has nothing to read. But we can ask how much of the *word*
# is left: the cosine between a token's vector after each layer and its own embedding, beside that
# with the other tokens of its sentence. And: among all embeddings of the vocabulary, is its own
# still the nearest? **Guess first:** after all these layers of mixing, for how many tokens?

# %%
mine = None  # your guess: a share of the tokens, 0 to 1

# %%
def word_left(batches: list[Batch]) -> dict[str, Tensor]:
    """For each layer of the encoder: cosine with the own embedding and with the others', and the
    share of tokens whose own embedding is the nearest of all: (N + 1,) each."""
    table = F.normalize(model.src_embedding.weight.detach(), dim=-1)  # (V, D)
    sums, tokens = {"own": 0.0, "others": 0.0, "nearest": 0.0}, 0
    for batch in batches:
        states = F.normalize(states_of(model, batch)[0], dim=-1)  # (N + 1, B, S, D)
        real = batch.src != PAD
        both = real[:, :, None] & real[:, None] & ~torch.eye(real.size(1), dtype=bool, device=device)
        cosine = states @ table[batch.src].mT  # (N + 1, B, S, S)
        sums["own"] = sums["own"] + cosine.diagonal(dim1=-2, dim2=-1)[:, real].sum(1)
        sums["others"] = sums["others"] + (cosine * both / both.sum(-1, keepdim=True).clamp(1)).sum((1, 2, 3))
        nearest = (states[:, real] @ table.T).argmax(-1)
        sums["nearest"] = sums["nearest"] + (nearest == batch.src[real]).sum(1)
        tokens += int(real.sum())
    return {name: (total / tokens).cpu() for name, total in sums.items()}


left = word_left(some)
draw.word_left(left, f"After the last layer {left['nearest'][-1]:.0%} of the tokens can still be told by "
               "their vector")

# %%
assert left["own"][-1] < left["own"][0] and (left["own"] > left["others"] + 0.1).all()
assert left["nearest"][-1] > 0.5
for layer, (own, others, nearest) in enumerate(zip(*(left[k].tolist() for k in ("own", "others", "nearest")))):
    print(f"layer {layer}: cosine with its own embedding {own:.2f}, with the others' {others:.2f}; "
          f"own is nearest: {nearest:.0%}")
guesses.compare(mine, left["nearest"][-1].item(), "09b: tokens whose own embedding is nearest")

# %% [markdown]
# The vectors turn away from their own embeddings, but not towards those of their neighbours: what attention
# brings in has passed through $W^V$ and $W^O$, and this cosine cannot see it. Yet the word is not forgotten:
# the residual path can carry it to the top. That is convenient for the decoder, which asks the memory both
# "where is the subject?" and "which word is it?".
#
# > **Try it.** Split the curve *final* of the lens by the final token: pieces that begin a word (`▁`), pieces inside a word,
# > marks and the end. Which are decided earlier, and why?
#
# <details><summary>Answer</summary>
#
# After layers 1 and 2 (300 sentences of val): begin 5 % and 77 %, inside 18 % and 69 %, marks and the end 49 % and 92 %. Marks
# are few, and known early. A piece inside a word has fewer rivals at first, since the word has begun; but words in pieces are
# the rare ones, and the last layer must decide more of them.
#
# </details>

# %% [markdown]
# ## 7 · Where it fails
#
# One BLEU for a corpus says how good, not *where*. We cut the validation sentences into groups, and
# ask three questions: does it suffer from **length**, from **rare words**, from **compounds** that it has
# never seen?
#
# A group of a hundred sentences gives a score that scatters; the bars of the picture are the margins of lesson 09,
# by the bootstrap.

# %%
tested = val[n : n + by_scale(smoke=100, cpu=500, gpu=1014)]  # not those that gave the prices
sources, references = (list(side) for side in zip(*tested))
greedy = translate(model, bpe, sources, max_tokens=4000)
print(f"BLEU of all {len(tested)} sentences: {with_interval(greedy, references)}")

# %% [markdown]
# ### Rare words, and how many pieces they are
#
# How does one know that a word is rare? Count it in the training text. Or ask the tokeniser: BPE
# joined what came often (lesson 06), so **a frequent word tends to be one token, a rare word several**. The
# second way needs no corpus, only the tokeniser that comes with the model.

# %%
def german_words(sentence: str) -> list[str]:
    return re.findall(r"\w+", sentence)


def n_pieces(word: str) -> int:
    return len(bpe.encode(word))


train_counts = Counter()
if corpus == "multi30k":
    train_counts.update(word.lower() for german, _ in pairs(corpus, "train") for word in german_words(german))
    distinct = sorted({word for german in sources for word in german_words(german)})
    relation = rank_correlation([train_counts[w.lower()] for w in distinct], map(n_pieces, distinct))
    assert relation < -0.4
    print(f"{len(distinct):,} distinct words; rank correlation of count and pieces: {relation:.2f}")
else:
    print("Multi30k is not here: the tokeniser's pieces stand for the counts.")

# %% [markdown]
# ### Compounds
#
# German writes its compounds as one word, and makes new ones every day. *Kürbissuppenwagen*, pumpkin
# soup cart, stands in no dictionary, but its parts do. To find such words among the unknown ones we
# need a splitter. Koehn and Knight (2003): try every way to cut a word into known words, allow linking
# letters behind a part (ours are *-s-, -es-, -n-, -en-, -er-*), and take the way whose parts are the
# most frequent, by their geometric mean.

# %%
#| export
LINKERS = ("", "s", "es", "n", "en", "er")


def split_compound(
    word: str, counts: Mapping[str, int], shortest: int = 4
) -> tuple[str, ...]:
    """Return the known words that a German compound is made of, () if there is no way to cut it.

    counts: how often each lower-case word was seen. Parts have `shortest` letters or more, and may
    be followed by a linking element; of several ways the one with the largest geometric mean of
    counts wins. A word that is known counts as a way, too. Koehn and Knight 2003.
    """

    def frequency(part: str) -> int:
        return counts.get(part, 0) if len(part) >= shortest else 0

    @cache
    def ways(rest: str) -> list[tuple[str, ...]]:
        found = [(rest,)] if frequency(rest) else []
        for cut in range(shortest, len(rest) - shortest + 1):
            stems = [rest[:cut].removesuffix(link) for link in LINKERS if rest[:cut].endswith(link)]
            part = max(stems, key=frequency)
            if frequency(part):
                found += [(part, *more) for more in ways(rest[cut:])]
        return found

    def likelihood(way: tuple[str, ...]) -> float:
        return sum(log(frequency(part)) for part in way) / len(way)

    return max(ways(word.lower()), key=likelihood, default=())


# %%
# NBVAL_CHECK_OUTPUT
known = {"kürbis": 5, "suppe": 9, "wagen": 80, "regen": 70, "schirm": 30, "regenschirm": 90, "hund": 900}
for word in ("Kürbissuppenwagen", "Regenschirm", "Hundewagen", "Hund"):
    print(f"{word:18}", split_compound(word, known))
assert split_compound("Kürbissuppenwagen", known) == ("kürbis", "suppe", "wagen")
assert split_compound("Regenschirm", known) == ("regenschirm",)  # known as a whole, and more frequent
assert split_compound("Hundewagen", known) == ()  # -e- is not among the linkers

# %% [markdown]
# > **Try it.** Add `"e"` to `LINKERS`. Is *Hundewagen* found now?
#
# <details><summary>Answer</summary>
#
# Yes, as *hund* + *wagen*, and the last assertion fails. A list of linkers that is too short misses compounds; one that is
# too long finds some in words that are none.
#
# </details>

# %%
def hardest(sentence: str) -> int:
    """The number of pieces of the word that is cut into most."""
    return max(map(n_pieces, german_words(sentence)), default=1)


def unknown(sentence: str) -> str:
    """What in a sentence training never saw: nothing, another word, or a compound of known words."""
    new = [word for word in german_words(sentence) if not train_counts[word.lower()]]
    if not new:
        return "all known"
    return "compound" if any(split_compound(word, train_counts) for word in new) else "another word"


def rarest(sentence: str) -> int:
    """How often training saw the rarest word of a sentence."""
    return min((train_counts[word.lower()] for word in german_words(sentence)), default=0)


def cut_at(value: float, bounds: Sequence[int], names: Sequence[str]) -> str:
    return names[sum(value >= bound for bound in bounds)]


long_words = sorted(len(german_words(german)) for german in sources)
bounds = [long_words[len(long_words) * i // 4] for i in (1, 2, 3)]
length_names = [f"to {bounds[0] - 1}", f"to {bounds[1] - 1}", f"to {bounds[2] - 1}", "longer"]
questions = {
    "words in the sentence": lambda s: cut_at(len(german_words(s)), bounds, length_names),
    "pieces of its hardest word": lambda s: cut_at(hardest(s), (2, 3, 4, 5), ("1", "2", "3", "4", "5 +")),
}
order = {"words in the sentence": length_names, "pieces of its hardest word": ["1", "2", "3", "4", "5 +"]}
if corpus == "multi30k":
    counts_names = ("never", "1 to 4", "5 to 19", "20 to 99", "100 +")
    questions["training saw its rarest word"] = lambda s: cut_at(rarest(s), (1, 5, 20, 100), counts_names)
    questions["training never saw"] = unknown
    order["training saw its rarest word"] = counts_names
    order["training never saw"] = ("all known", "another word", "compound")

# %% [markdown]
# **Guess first:** how many points of chrF lie between sentences whose hardest word is one piece, and those whose hardest
# word is cut into most?

# %%
mine = None  # your guess, in points of chrF

# %%
bars = {}  # question -> metric -> group -> Interval
for question, group_of in questions.items():
    groups = {name: [i for i, german in enumerate(sources) if group_of(german) == name]
              for name in order[question]}
    bars[question] = {metric: {name: with_interval([greedy[i] for i in chosen],
                                                   [references[i] for i in chosen], metric, 300)
                               for name, chosen in groups.items() if len(chosen) >= 8}
                      for metric in ("bleu", "chrf")}


draw.error_bars(bars, "Quality by the length of the sentence, and by how hard its words are")

# %%
stairs = bars["pieces of its hardest word"]["chrf"]
first, *_, last = stairs.values()
assert first.score > last.score
if corpus == "multi30k":
    seen = list(bars["training saw its rarest word"]["chrf"].values())
    assert seen[-1].score > seen[0].score
    new = {word for german in sources for word in german_words(german) if not train_counts[word.lower()]}
    compounds = {word for word in new if split_compound(word, train_counts)}
    print(f"{len(new)} words that training never saw, {len(compounds)} of them compounds of known words")
    old = {word for german in sources for word in german_words(german)} - new
    for name, some_words in (("known", old), ("new, a compound", compounds), ("new, another", new - compounds)):
        print(f"{name:16} {sum(map(n_pieces, some_words)) / max(len(some_words), 1):.1f} pieces a word")
    groups = bars["training never saw"]["chrf"]
    print("chrF, sentences with an unknown word:", {name: str(value) for name, value in groups.items()})
    if {"compound", "another word"} <= set(groups):
        one, other = groups["compound"], groups["another word"]
        gap, width = one.score - other.score, (one.margin**2 + other.margin**2) ** 0.5
        print(f"a compound instead of another unknown word: {gap:+.1f} ± {width:.1f} chrF:",
              "no clear difference" if abs(gap) < width else "easier" if gap > 0 else "harder")
print(f"chrF, hardest word whole: {first}; in most pieces: {last}")
guesses.compare(mine, first.score - last.score, "09b: chrF between easiest and hardest words")

# %% [markdown]
# The third question first. Unknown words hurt, compounds among them. Are compounds *worse* than other unknown
# words? The output says it, with the margin of a difference of two separate groups: the root of the sum of both
# margins squared. (Without Multi30k there are no counts, and no answer.)
#
# The stairs of the rare words are steep. But longer sentences have more words, so more rare ones
# among them: perhaps rare words only *look* guilty? A fair comparison takes **pairs of equal length**:
# for every sentence with a hard word (four pieces or more), one with as many words but none of more than two
# pieces.

# %%
CHRF_OF = CHRF()
quality = [CHRF_OF.sentence_score(a, [b]).score for a, b in zip(greedy, references)]
words_in = [len(german_words(german)) for german in sources]
easy = {}
for i, german in enumerate(sources):
    if hardest(german) < 3:
        easy.setdefault(words_in[i], []).append(i)
matched = [(i, easy[words_in[i]].pop()) for i, german in enumerate(sources)
           if hardest(german) >= 4 and easy.get(words_in[i])]
gaps = torch.tensor([quality[b] - quality[a] for a, b in matched])
gap, margin = gaps.mean().item(), 2 * gaps.std().item() / len(gaps) ** 0.5
assert len(matched) >= 5 and gap > 0
print(f"{len(matched)} pairs of equal length: the sentence without a hard word is better by {gap:.1f} ± "
      f"{margin:.1f} chrF")

# %% [markdown]
# So length alone does not explain it. (Rare words may come with other difficulties, such as rare scenes.) A
# compound in five pieces is not a word that the model knows; it is spelled out to it.
# Here is what happens to the two probes that were written for this:

# %%
for row, english in zip(probes, said_of_probes):
    if row["probes"] == "unknown compound":
        word = max(german_words(row["de"]), key=len)
        print(f"{word}: {' '.join(bpe.tokens(word))}\n  model:     {english}\n  reference: {row['en']}")
        assert n_pieces(word) >= 4

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### The ten worst · more
#
# A program that says what is wrong with a translation, and the ten worst of the probes.

# %% [markdown]
# Now the probe sentences, worst first, by chrF of the sentence. A note says what went wrong, found by
# rule: words are compared without their endings. *Missing* stands in the reference and not in the
# translation; *added* the other way round; *form* is the same word with another ending (number or
# tense); *twice* is said more often than it should be. The rule is a machine, too: a good synonym counts
# as one word missing and one added. So read the sentences yourself.

# %%
#| export
SMALL_WORDS = frozenset(re.findall(r"\w+",
    "a an the and or but of in on at to by for from with into onto over under up down out off "
    "is are was were be been being has have had his her its their him them it he she they "
    "who which that this while as some"
))


def stem(word: str) -> str:
    """Return an English word without its ending: gives, giving -> giv; runs, running -> run."""
    word = word.lower().removesuffix("'s")
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word.removesuffix(ending)
            break
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return re.sub("i$", "y", re.sub("e$", "", word))


# %% [markdown]
# Two words with the same stem count as the same word. With that the four notes are set differences:

# %%
#| export
def diagnose(said: str, meant: str) -> dict[str, list[str]]:
    """Return what is wrong with a translation, by rule: "missing", "added", "form", "twice".

    Only what was found is in the dict. Small words (articles, prepositions, auxiliaries) count
    for "twice" alone, and there only if they follow each other. Synonyms it does not know.
    """
    words = [re.findall(r"\w+(?:'\w+)?", text.lower()) for text in (said, meant)]
    ours, theirs = ({stem(w): w for w in side if w not in SMALL_WORDS} for side in words)
    counts = [Counter(stem(w) for w in side if w not in SMALL_WORDS) for side in words]
    stutter = [a for a, b in zip(words[0], words[0][1:]) if a == b]
    exact = [set(side) for side in words]
    notes = {
        "missing": [word for key, word in theirs.items() if key not in ours],
        "added": [word for key, word in ours.items() if key not in theirs],
        "form": [f"{word} for {theirs[key]}" for key, word in ours.items()
                 if key in theirs and word not in exact[1] and theirs[key] not in exact[0]],
        "twice": list(dict.fromkeys(
            [word for key, word in ours.items() if counts[0][key] > max(counts[1][key], 1)] + stutter
        )),
    }
    return {name: found for name, found in notes.items() if found}


# %%
# NBVAL_CHECK_OUTPUT
example = diagnose("The old man gives the the dogs a dog.", "The old woman is giving the cat a red ball.")
assert example == {"missing": ["woman", "cat", "red", "ball"], "added": ["man", "dog"],
                   "form": ["gives for giving"], "twice": ["dog", "the"]}
assert diagnose("A dog is running.", "A dog is running.") == {}
print(example)

# %% [markdown]
# > **Try it.** `diagnose("A person is running.", "A woman is running.")`
#
# <details><summary>Answer</summary>
#
# *woman* missing, *person* added. The rule sees two mistakes where a reader sees none, or half of one.
#
# </details>

# %%
meant = [row["en"] for row in probes]
quality = [CHRF_OF.sentence_score(a, [b]).score for a, b in zip(said_of_probes, meant)]
worst = sorted(range(len(probes)), key=quality.__getitem__)
for i in worst[:10]:
    print(f"{probes[i]['id']}  chrF {quality[i]:.0f}  [{probes[i]['probes']}]")
    print(f"  {probes[i]['de']}\n  model:     {said_of_probes[i]}\n  reference: {meant[i]}")
    for name, found in diagnose(said_of_probes[i], meant[i]).items():
        print(f"  {name}: {', '.join(found)}")

# %%
found = [diagnose(a, b) for a, b in zip(said_of_probes, meant)]
tally = Counter(name for notes in found for name in notes)
missing = [sum(len(found[i].get("missing", ())) for i in ten) for ten in (worst[:10], worst[-10:])]
assert missing[0] > 2 * missing[1]
print("of forty translations:", ", ".join(f"{count} with {name!r}" for name, count in tally.most_common()))
print(f"words missing in the ten worst: {missing[0]}; in the ten best: {missing[1]}")

# %% [markdown]
# Read the ten again and sort them: English that does not even read well, and **fluent nonsense**, good English
# with the wrong content. The second kind is more dangerous, because nobody notices it without the source.
# Where a word is spelled in pieces, the model often guesses what would fit the *scene*. A human who does not
# know a word would ask, or leave a gap; a language model must always say something.
#
# > **Try it.** Write three German sentences with compounds that you invent, translate them, and look at
# > `bpe.tokens`. Does it help the model if you write the compound with a hyphen?
#
# <details><summary>Answer</summary>
#
# Three of ours, beam 4: *Zwiebelhut*, onion hat: *a twirl hat*; *Zwiebel-Hut*: *a zel hat*. *Nudelfahrrad*, noodle bicycle:
# *a bicycle with a poodle*, both times. *Wolkenball*, cloud ball: *a cloudy ball*; *Wolken-Ball*: *a cloudy book*. The hyphen
# does not help here. Behind it stands a capital, and `ball` as a piece becomes `B all`.
#
# </details>

# %% [markdown]
# ## 8 · How wide a beam, how strong a penalty?
#
# Two knobs of decoding are free: the beam and the length penalty's $\alpha$. [Lesson 08](08_decoding.ipynb) explains
# both. For the shipped model 55 settings were tried on all of val. **Guess first:** how many points of BLEU lie between
# the best and the worst?

# %%
mine = None  # your guess, in points of BLEU

# %%
card = json.loads((ASSETS / "checkpoints" / "multi30k-de-en" / "results.json").read_text("utf-8"))
tried = {(beam, alpha): bleu for beam, alpha, bleu in card["decoding"]["tried"]}
(beam, alpha), top = max(tried.items(), key=lambda item: item[1])
span = top - min(tried.values())
margin = card["test_2016_flickr_greedy"]["margin"]  # of one score on a thousand sentences
assert (beam, alpha) == (card["decoding"]["beam"], card["decoding"]["length_penalty"]) and span < margin
print(guesses.compare(mine, span, "09b: BLEU between 55 decodings"))
draw.beam_grid(tried, f"All {len(tried)} settings lie within {span:.1f} BLEU; one score on a thousand sentences is ± {margin:.1f}")

# %% [markdown]
# Beam 3 with α 2.1 was shipped. (¹ The α belongs to our search: [lesson 09](09_evaluation.ipynb), section 8, says why
# it must not be carried to another program.) The best of 55 owes a part of its lead to luck. The right use of such a
# picture: take the smallest beam of the flat part, choose α on as much of val as you have, then leave the knobs alone,
# and never touch them on the test set.

# %% [markdown]
# ## What you built
#
# | name | takes | gives |
# |---|---|---|
# | `heads_of` | model | a list of `Head(kind, layer, head)` |
# | `look_inside` | model, tokeniser, pairs | a `Look` at each: weights (N, H, Q, K) of three kinds |
# | `marks_of`, `mean_share` | a Look; weights (N, H, Q, K), marks (Q, K) | hypotheses; shares (N, H) and the uniform share |
# | `word_index`, `to_words`, `word_attention`, `links_of` | tokens, weights (..., T, S) | words, weights (..., Tw, Sw), links |
# | `prune`, `gated` | model, heads or gates | a block in which they are closed |
# | `importance` | model, batches | head -> mean size of the slope at its gate |
# | `states_of`, `logit_lens` | model, batch; states (..., D) | states (N + 1, B, L, D); log-probabilities (..., V) |
# | `rank_correlation` | two lists | from −1 to 1: do they have the same order? |
# | `split_compound`, `diagnose` | a word and counts; two sentences | its known parts; notes by rule |
#
# ## Exercises
#
# 1. **A hypothesis of your own (2 of 5, 20 minutes).** In a German *subordinate clause* the verb stands last
#    (probes p11 to p14). Mark, in the encoder, the last word before the comma or full stop that ends the
#    clause, for the queries in that clause only. Does a head find it?
#
# <details><summary>Answer</summary>
#
# On 71 captions with *während* or a relative clause: yes. Head 1.2 puts 15 % of its weight there, three times the uniform
# share; the best untrained head 1.1 times. (It need not look for the *verb*: it may look for the last word before a mark.)
#
# </details>
#
# 2. **Greedy pruning (3 of 5, 20 minutes).** In each layer of cross-attention remove the head that is cheapest *now*, again
#    and again, and measure the prices anew each time. Is it better than the order of the single prices?
#
# <details><summary>Answer</summary>
#
# A little. Layer 1: three heads gone cost 0.054 instead of 0.063, since head 1 becomes dear once 2 and 4 are gone. Layer 2: two
# gone cost 0.026 instead of 0.035. Layer 3: 0.032 instead of 0.034.
#
# </details>
#
# 3. **Skip a layer (3 of 5, 20 minutes).** A hook `lambda module, args, output: args[0]` on a layer skips all of it. Which
#    layer is missed most? Is it the one with the costliest heads?
#
# <details><summary>Answer</summary>
#
# Loss in nats a token. Encoder layers 1 to 3: +0.10, +0.06, +0.02. Decoder: +1.40, +0.20, +0.33. The decoder's first is missed
# most by far, and its heads are the costliest, too (+0.25 without them, +0.15 without its feed-forward part). But both prices
# together are far from 1.40: the parts of a layer stand in for each other, as heads do.
#
# </details>
#
# 4. **A tuned lens (4 of 5, 45 minutes).** For each layer learn one matrix, from the states there to the
#    final states, by least squares on half of the captions, and measure it on the other half. How much
#    earlier can the final word be read?
#
# <details><summary>Answer</summary>
#
# About a layer earlier. Share of final first choices, plain and tuned (150 captions each half, with a bias): layer 0: 0 % and
# 35 %; layer 1: 14 % and 70 %; layer 2: 77 % and 90 %. The word was there in other directions.
#
# </details>
#
# ## Summary · 小结
#
# - A picture of attention is an anecdote. Write the hypothesis as marked keys, take the mean over a
#   corpus, and compare with uniform attention and with an untrained model.
# - Some heads look at fixed neighbours, some at the word to be translated; many do a bit of everything.
# - Cross-attention aligns words although nobody asked it to. Say how pieces became words, and whether a
#   step belongs to the word read or written.
# - What a head looks at is one thing, what it is worth another: remove it and measure. Heads stand in
#   for each other.
# - Through the logit lens one sees a decoder move from the word read to the word written.
# - An attention map shows where the model looks, not what it needs: the letters of a word tell as much about need.
# - Hard words hurt even at equal length.
#
# <div lang="zh">
#
# **小结**
#
# - 一张注意力图只是个例。要把假设写成“被标记的键”，在整个语料上取平均，
#   并与均匀注意力和未训练的模型比较。
# - 有的头固定地看相邻位置，有的看正要翻译的词；许多头什么都做一点。
# - 没有人教过对齐，交叉注意力却学会了。要说明子词如何合并成词，以及某一步算在“读入的词”还是“写出的词”上。
# - 头“看哪里”与“有多重要”是两回事：剪掉它，再测量。各个头可以互相代替。
# - 通过 logit lens 可以看到：解码器的向量从读入的词逐层移向要写出的词。
# - 注意力图只说明模型“看”哪里，不说明它“需要”什么：单词的字母数同样能预测“需要”的程度。
# - 句长相同时，难词仍会降低译文质量。
#
# </div>
#
# ## Further reading
#
# - Voita, Talbot, Moiseev, Sennrich, Titov 2019, *Analyzing Multi-Head Self-Attention*, arXiv
#   1905.09418; Michel, Levy, Neubig 2019, *Are Sixteen Heads Really Better than One?*, arXiv 1905.10650.
# - Clark, Khandelwal, Levy, Manning 2019, *What Does BERT Look At?*, arXiv 1906.04341: the sign at
#   the end; pieces to words.
# - Garg, Peitz, Nallasamy, Paulik 2019, *Jointly Learning to Align and Translate with Transformer
#   Models*, arXiv 1909.02074; Chen, Liu, Chen, Jiang, Liu 2020, *Accurate Word Alignment Induction from
#   Neural Machine Translation*, arXiv 2004.14837: the shift.
# - nostalgebraist 2020, *interpreting GPT: the logit lens*, LessWrong; Belrose et al. 2023, *Eliciting
#   Latent Predictions from Transformers with the Tuned Lens*, arXiv 2303.08112.
# - Koehn and Knight 2003, *Empirical Methods for Compound Splitting*, E03-1076; Sennrich, Haddow, Birch
#   2016, *Neural Machine Translation of Rare Words with Subword Units*, arXiv 1508.07909.
# - Jain and Wallace 2019, *Attention is not Explanation*, arXiv 1902.10186; Wiegreffe and Pinter
#   2019, *Attention is not not Explanation*, arXiv 1908.04626.
#
# **Homework.** The six questions ([questions](homework/release/questions/questions.ipynb)) ask for what you
# have seen here: why several heads, and what each is for.
#
# **Next:** [lesson 09c](09c_ablations.ipynb) asks what each choice of the recipe was worth.
