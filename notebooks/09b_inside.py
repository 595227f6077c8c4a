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
#     display_name: Python 3
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
# - find out *where* a translator is weak: long sentences, rare words, unknown compounds;
# - decide whether one system is better than another, or only luckier.
#
# **You need first:** lessons 03, 05, 08 and 09; the alignment error rate of lesson 02.
# **Time:** 110 minutes. **In the paper:** the end of section 4,
# the pictures of its appendix, row (A) of Table 3, section 6.1.
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
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest
from torch import Tensor

from course.attention import MultiHeadAttention, record_attention
from course.cache import beam_search, cached_log_probs
from course.decoding import Hypothesis, length_penalty
from course.masking import Batch, pad
from course.text import BOS, BPE, EOS, PAD, Pair, encode_pairs, pieces
from course.training import batch_loss
from course.transformer import Transformer

# %%
import csv
import json
import random

import numpy as np
from tqdm import tqdm

from course import ASSETS
from course.corpora import captions, choose, pairs
from course.cache import translate
from course.device import by_scale, pick
from course.evaluation import rank_correlation, score
from course.seq2seq import alignment_error_rate
from course.text import make_batches
from course.runs import load_checkpoint
from course.training import evaluate_loss
from course.viz import inside as draw
from course.viz import show
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
# where does a head look that has nothing to look for?

# %%
CHOSEN = ("p01", "p03", "p08", "p11", "p13", "p18", "p21", "p25", "p34", "p36")
chosen = [i for i, row in enumerate(probes) if row["id"] in CHOSEN]
looks = look_inside(model, bpe, [(probes[i]["de"], said_of_probes[i]) for i in chosen])


def labels_of(look: Look, kind: str) -> tuple[list[str], list[str]]:
    """The names of the queries and of the keys."""
    read, wrote = ([bpe.names[i] for i in ids] for ids in (look.tgt_in, look.tgt))
    source = [bpe.names[i] for i in look.src]
    steps = [f"{a} → {b}" for a, b in zip(read, wrote)]
    return {"encoder": (source, source), "decoder": (steps, read), "cross": (steps, source)}[kind]


def sharpness(look: Look, kind: str) -> Tensor:
    """How much of its weight a query gives to its favourite, on average: (N, H)."""
    return look.weights[kind].amax(-1).mean(-1)


sharp = {kind: sum(sharpness(look, kind) for look in looks) / len(looks) for kind in KINDS}
best = max((h for h in heads if h.kind == "cross"), key=lambda h: sharp["cross"][h.layer, h.head])
records = [(kind, probes[i]["de"], *labels_of(look, kind), look.weights[kind])
           for kind in KINDS for i, look in zip(chosen, looks)]
show(draw.explorer(records, sharp, best, f"{len(heads)} heads; the sharpest across is {best}"))

# %%
favourite = sharp["cross"].flatten()
assert len(looks) == 10 and favourite.max() > 1.3 * favourite.min()
print(f"across, the sharpest head gives its favourite key {favourite.max():.0%} of the weight, the vaguest "
      f"{favourite.min():.0%} (means over the queries of ten sentences)")

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
weights = torch.tensor([[[[0.6, 0.4, 0.0], [0.1, 0.2, 0.7], [0.0, 1.0, 0.0]]]])  # one head, 3 x 3
before = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=torch.bool)  # one key to the left
share, uniform = mean_share("encoder", [weights], [before])
assert abs(share.item() - (0.1 + 1.0) / 2) < 1e-6 and abs(uniform - 1 / 3) < 1e-6
print(f"by hand: share {share.item():.2f}, uniform {uniform:.2f}: {share.item() / uniform:.2f} times")

# %% [markdown]
# Now the hypotheses: fixed offsets; the query itself; another piece of the same word; the same
# token somewhere else; a punctuation mark; the sign at the end (in the decoder: at the start). Many
# heads of BERT put most of their weight on such a separator, as if to say "nothing to look for"
# (Clark et al. 2019).
#
# To know which pieces make one word, we must know where words begin. `pieces` of lesson 06 cut the
# text before BPE did; every token belongs to one of these pieces, a word or a mark.

# %%
#| export
def word_index(bpe: BPE, text: str) -> list[int]:
    """Return for each token of a text the number of the word, or mark, that it belongs to."""
    return [number for number, piece in enumerate(pieces(" " + text))
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
# For each head and each hypothesis we draw the ratio. We call a head *regular* if one of its ratios is large: one
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
draw.profiles(learned, f"In the encoder, {str(who).split()[1]} is the most regular head: {times:.1f} times "
              f"the uniform share on {where!r}",
              {"encoder": corpus, "decoder": corpus, "cross": "captions"})

# %% [markdown]
# Read the table by its dark cells; 1.0 is uniform attention. (How far from it a head can be that never
# learned, the output below says.) A column −1 is the token before, +1 the token after; *a mark* is a full stop,
# a comma or the like; *writes* and *reads* are the gold words, *writes, off* those that are not at the same
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

# %% [markdown]
# So yes, there are specialists, and it is learning that made them. In the encoder the strongest look at a
# *neighbour*; across, at the word to be *translated*. Part of the latter is only the order of words: *same place*
# is dark, too. But the claim holds also where the gold word stands elsewhere. Be careful with *a mark* in the
# decoder: often the only mark is the final full stop, and the only query that sees it is the one that reads it.
# There *a mark* and *itself* are the same key. Hypotheses overlap, so a high ratio names a place, not a reason.
# Voita et al. (2019) found such positional heads in a larger English-Russian model, and besides them syntactic
# ones and some for rare words. Between the dark cells there is much grey: heads that do a bit of everything. A
# picture book of heads shows the first kind only.
#
# Two more things stand in the table. In the encoder, the usual head gives the *same token* less than the
# uniform share. That need not be avoidance: repeated tokens are mostly articles, and perhaps no query looks
# at them much. And the sign at the end or start: from three times the uniform share on, the last line of the
# output speaks of parking. BERT's heads do it; a habit of one model is not a law.
#
# > **Try it.** Add a hypothesis to `marks_of`: the first token of the sentence; or, for the
# > decoder, the last comma. Does any head come forward with more than three times the uniform share?

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
weights = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.0, 0.6]])
merged = to_words(weights, tgt_words=[0, 0, 1], src_words=[0, 1, 1])  # pieces 0, 1 are one word
by_hand = torch.tensor([[(0.5 + 0.1) / 2, (0.3 + 0.2 + 0.2 + 0.7) / 2], [0.4, 0.6]])
assert torch.allclose(merged, by_hand) and torch.allclose(merged.sum(-1), torch.ones(2))
print("two target words over two source words:", [[round(w, 2) for w in row] for row in merged.tolist()])

# %% [markdown]
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
# ## 4 · Would anybody miss it?
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
# moves it by less than chance does (sections 6 and 7 say how much that is). The **loss** of the right
# translation, in nats a token, notices small things. (These prices have a margin, too: do not trust the
# order of two that are almost equal.) **Guess first:** which of the three kinds is missed most? And what do
# all heads of one attention sub-layer cost together, compared with the sum of their single costs?

# %%
n = min(by_scale(smoke=40, cpu=120, gpu=500), len(val) // 2)  # the rest is for what comes later
judged = [batch.to(device) for batch in make_batches(encode_pairs(bpe, val[:n]), 2000)]
untouched = evaluate_loss(model, judged)


def cost(gone: list[Head]) -> float:
    """How much the loss rises, in nats a token, without these heads."""
    with prune(model, gone):
        return evaluate_loss(model, judged) - untouched


alone = {head: cost([head]) for head in tqdm(heads, unit="head", leave=False)}
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
#
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
#
# ### A first guess from one backward pass
#
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
# order; we take each random order also backwards, so that no head always goes early. **Guess first:** how
# many of the heads can go before BLEU falls by a tenth? And is the costliest-first order worse than a random one?

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


full = BLEU().corpus_score(said_without([]), [[english for _, english in part]], n_bootstrap=1000)
with_all, margin = full.score, full._ci  # half of a 95 % interval: section 6 explains it
curves = {name: [with_all, *(bleu_without(order[: round(share * len(heads))]) for share in shares)]
          for name, order in tqdm(orders.items(), unit="order", leave=False)}
shares = [0, *shares]

# %%
means = {name: sum(curve) / len(curve) for name, curve in curves.items()}
by_chance = [value for name, value in means.items() if name.startswith("random")]
kept_bleu = curves["cheapest first"]
lasting = max(s for i, s in enumerate(shares) if min(kept_bleu[: i + 1]) >= 0.9 * with_all)
draw.removal_curves(shares, curves, f"At least {lasting:.0%} of the heads, the cheapest, can go before a tenth "
                    "of BLEU is lost", margin)

# %%
low, high = means["costliest first"], means["cheapest first"]
assert high > low and high > sum(by_chance) / len(by_chance)
as_bad = sum(value <= low for value in by_chance)
print(f"{len(part)} sentences, mean BLEU along the way: cheapest first {high:.1f}, costliest first {low:.1f}, "
      f"random orders from {min(by_chance):.1f} to {max(by_chance):.1f}")
beaten = sum(value < high for value in by_chance)
print(f"cheapest first is better than {beaten} of {len(by_chance)} random orders")
print("costliest first is worse than every random order" if not as_bad else
      f"costliest first is no worse than chance: {as_bad} of {len(by_chance)} random orders are as bad, or worse")

# %% [markdown]
# To *spare* the costly heads helps. To take them *first* need not be worse than chance (the last line says how it
# is here): each price was measured with all other heads in place, and single prices do not add up. A random
# order may empty a whole sub-layer early, and pay for that. The bar at the left is the 95 % interval of one BLEU
# on so few sentences. All curves share the sentences, so their differences are surer than that; but a few points
# between two curves mean nothing.
#
# Voita et al. (2019) went further: they let training itself close the gates and removed 38 of 48 encoder heads
# for 0.15 BLEU. So why train with many heads at all? In Table 3, row (A), a model *trained* with one head is 0.9
# BLEU worse. The two results together suggest that many heads help to *find* a good solution, and fewer can keep
# it.
#
# > **Try it.** Order the heads by `slopes` instead of `alone`. Is the curve worse? Then measure the
# > prices again after each removal, and always take the head that is cheapest *now*.

# %% [markdown]
# ## 5 · What does it think halfway?
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
#
# ### And the encoder?
#
# The encoder predicts nothing, so the lens has nothing to read. But we can ask how much of the *word*
# is left: the cosine between a token's vector after each layer and its own embedding, beside that
# with the other tokens of its sentence. And: among all embeddings of the vocabulary, is its own
# still the nearest? **Guess first:** after all these layers of mixing, for how many tokens?

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

# %% [markdown]
# The vectors turn away from their own embeddings, but not towards those of their neighbours: what attention
# brings in has passed through $W^V$ and $W^O$, and this cosine cannot see it. Yet the word is not forgotten:
# the residual path can carry it to the top. That is convenient for the decoder, which asks the memory both
# "where is the subject?" and "which word is it?".
#
# > **Try it.** Split the curve *final* of the lens by the token: pieces that begin a word (`▁`) and
# > pieces inside a word. Which are decided earlier, and why?

# %% [markdown]
# ## 6 · Where it fails
#
# One BLEU for a corpus says how good, not *where*. We cut the validation sentences into groups, and
# ask three questions: does it suffer from **length**, from **rare words**, from **compounds** that it has
# never seen?
#
# A group of a hundred sentences gives a score that scatters. How much? Nobody can draw a hundred
# new sentences a thousand times; but one can draw from the hundred, *with replacement*: some come
# twice, some not at all. The spread of the score over a thousand such draws is a fair picture of its
# uncertainty. That is the **bootstrap** (Efron 1979; for BLEU, Koehn 2004). sacrebleu has it built in.

# %%
#| export
@dataclass(frozen=True)
class Interval:
    """A score and its margin: half the width of what holds 95 % of the resampled scores."""

    score: float
    margin: float
    sentences: int

    def __str__(self) -> str:
        return f"{self.score:.1f} ± {self.margin:.1f}"


def with_interval(
    hypotheses: Sequence[str], references: Sequence[str], metric: str = "bleu", samples: int = 1000
) -> Interval:
    """Return corpus BLEU or chrF (metric "bleu" or "chrf") with its 95 % bootstrap margin.

    Raises ValueError for lists of different lengths, or empty ones. Koehn 2004; sacrebleu's own.
    """
    if len(hypotheses) != len(references) or not references:
        raise ValueError(f"{len(hypotheses)} translations for {len(references)} references")
    measure = {"bleu": BLEU, "chrf": CHRF}[metric]()
    found = measure.corpus_score(list(hypotheses), [list(references)], n_bootstrap=samples)
    return Interval(found.score, float(found._ci), len(references))


# %%
tested = val[n : n + by_scale(smoke=100, cpu=500, gpu=1014)]  # not those that gave the prices
sources, references = (list(side) for side in zip(*tested))
greedy = translate(model, bpe, sources, max_tokens=4000)
all_of_it = with_interval(greedy, references)
part_of_it = with_interval(greedy[: len(greedy) // 4], references[: len(greedy) // 4])
assert 0 < all_of_it.margin < part_of_it.margin  # fewer sentences, less certainty
print(f"BLEU of all {all_of_it.sentences} sentences: {all_of_it}")
print(f"BLEU of the first {part_of_it.sentences}: {part_of_it}")

# %% [markdown]
# Four times the sentences, about half the margin: it shrinks with the square root of their number.
#
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
# **Guess first:** which panel will show the steeper stairs, length or rare words?

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

# %% [markdown]
# ### The ten worst
#
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

# %% [markdown]
# ## 7 · Better, or only luckier?
#
# Two systems, one test set, 0.4 BLEU between them. Is one better? Draw the test set again, with
# replacement, a thousand times; each time score **both systems on the same sentences**, and look at the
# difference. That is the **paired bootstrap** (Koehn 2004). Pairing matters: a hard sentence is hard for
# both, and its luck cancels in the difference. So a paired test finds differences that are much
# smaller than the margins of section 6.
#
# The **p-value** answers: if the two systems were equally good, how often would chance alone show a difference
# at least as large as this one? Below 0.05 one speaks of *significant*, by habit. sacrebleu has the test. The
# resampled differences scatter around the observed one, not around 0. So it takes their absolute values,
# subtracts their mean (**centring**), and counts how many are still larger than the observed difference. We
# wrap it, for a reason that the next cell shows. **Guess first:** what is the p-value of a system against *itself*?

# %%
raw = PairedTest([("greedy", greedy), ("greedy again", list(greedy))], {"BLEU": BLEU()},
                 [references], test_type="bs", n_samples=1000)
_, result = raw()
_, itself = result["BLEU"]
assert itself.p_value < 0.05
print(f"sacrebleu's paired bootstrap of a system against itself: p = {itself.p_value:.4f}")

# %% [markdown]
# "Significant": a system seems to beat itself! How? All differences are 0, the observed one is 0, and 0 is not
# larger than 0: the test counts none, and the p-value is the smallest there is. (A comment in its code shows
# that this is meant; the printed result does not.) Two copies of one file in a shell loop are enough to
# fall into this. So the wrapper adds one rule: **where the scores are equal, there is nothing to
# explain, and p = 1.**
#
# Know its scale, too. It looks at one tail of an absolute difference: of pairs of equally good systems about
# one in ten gets p < 0.05, not one in twenty. Read 0.05 as the risk only for a direction that you named
# beforehand.

# %%
#| export
@dataclass(frozen=True)
class Comparison:
    """Two systems by one metric: their scores, the difference (system - baseline), its p-value."""

    baseline: float
    system: float
    difference: float
    p_value: float
    signature: str

    @property
    def verdict(self) -> str:
        """Say whether chance alone would explain the difference."""
        return "significant" if self.p_value < 0.05 else "may be chance"

    def __str__(self) -> str:
        return (f"{self.baseline:5.1f} -> {self.system:5.1f}  {self.difference:+5.1f}  "
                f"p = {self.p_value:.3f}  {self.verdict}")


# %% [markdown]
# That is one line of the report. The wrapper fills it in for both metrics, and applies the rule:

# %%
#| export
def paired_bootstrap(
    baseline: Sequence[str], system: Sequence[str], references: Sequence[str], samples: int = 1000
) -> dict[str, Comparison]:
    """Compare two systems' translations of the same sentences: "BLEU" and "chrF2" -> Comparison.

    sacrebleu's paired bootstrap, but with p = 1 where both scores are equal: its own test calls a
    system significantly different from itself. Raises ValueError for lists of different lengths,
    or empty ones. Koehn 2004.
    """
    if not len(baseline) == len(system) == len(references) or not references:
        raise ValueError(
            f"{len(baseline)} and {len(system)} translations for {len(references)} references: "
            "give one of each for every sentence"
        )
    systems = [("baseline", list(baseline)), ("system", list(system))]
    metrics = {"BLEU": BLEU(), "chrF2": CHRF()}
    test = PairedTest(systems, metrics, [list(references)], test_type="bs", n_samples=samples)
    signatures, results = test()
    comparisons = {}
    for name in metrics:
        first, second = results[name]
        difference = float(second.score - first.score)
        p_value = float(second.p_value) if difference else 1.0
        comparisons[name] = Comparison(
            float(first.score), float(second.score), difference, p_value, str(signatures[name])
        )
    return comparisons


# %% [markdown]
# Five systems against greedy search: itself; beam 4; the model without its cheapest head; without its costliest;
# and without the two costliest attention sub-layers of section 4, all heads of them. **Guess first:** which
# differences are real?

# %%
m = by_scale(smoke=60, cpu=300, gpu=1014)
base, asked, wanted = greedy[:m], sources[:m], references[:m]
costliest = sorted(together, key=together.get)[-2:]
gone = {"without " + str(ordered[0]): [ordered[0]], "without " + str(ordered[-1]): [ordered[-1]],
        "without " + ", ".join(f"{kind} {layer + 1}" for kind, layer in costliest):
            [h for h in heads if h[:2] in costliest]}
systems = {"itself": base, "beam 4": translate(model, bpe, asked, beam=4, max_tokens=4000)}
for name, some_heads in gone.items():
    with prune(model, some_heads):
        systems[name] = translate(model, bpe, asked, max_tokens=4000)
compared = {name: paired_bootstrap(base, said, wanted) for name, said in systems.items()}
for name, by_metric in compared.items():
    for metric, comparison in by_metric.items():
        print(f"{name:26} {metric:6} {comparison}")

# %%
broken = list(compared)[-1]
assert all(c.p_value == 1 and c.difference == 0 for c in compared["itself"].values())
assert all(c.difference < 0 for c in compared[broken].values())
assert m < 200 or all(c.p_value < 0.05 for c in compared[broken].values())  # fewer may not tell
print(f"over {m} sentences the broken model is found out; a system against itself is not")
print(compared["itself"]["BLEU"].signature)
split = [name for name, by_metric in compared.items() if len({c.verdict for c in by_metric.values()}) > 1]
better = [name for name in gone if any(c.difference > 0 and c.p_value < 0.05 for c in compared[name].values())]
print("BLEU and chrF give different verdicts on:", "; ".join(split) or "no system")
print("significantly *better* for the loss of a part, by at least one metric:", "; ".join(better) or "no system")
lines = 2 * (len(compared) - 1)
print(f"were all systems equally good: {lines * 0.1:.1f} of {lines} lines significant by luck")

# %% [markdown]
# Look at the two lines of each system: the metrics listen to different things, and their verdicts may differ. And
# do not read "may be chance" as "no difference": it says that this many sentences cannot tell.
#
# Nor read every "significant" as a discovery. One line in ten is to be expected by luck, as said above; the last
# line of the output counts them. (The two lines of a system are not independent.) A model that seems *better*
# without one of its heads is a good candidate for luck; so is a verdict that the other metric does not share.
# This is why section 4 asked the loss, not BLEU, for the price of a head.
#
# How does such a p-value come about? Here are the thousand differences of beam 4, drawn by hand: as they are, and
# after the centring.

# %%
def resampled(system: Sequence[str], samples: int = 1000) -> Tensor:
    """BLEU of a system minus that of greedy search, on sentences drawn as sacrebleu draws them."""
    drawn = np.random.default_rng(12345).choice(len(wanted), size=(samples, len(wanted)))
    metric, scores = BLEU(), []
    for said in (base, system):
        counts = np.array(metric._extract_corpus_statistics(list(said), [list(wanted)]))  # of each sentence
        scores.append([metric._compute_score_from_stats(row).score for row in counts[drawn].sum(1)])
    return torch.tensor(scores[1]) - torch.tensor(scores[0])


differences = resampled(systems["beam 4"])
observed = compared["beam 4"]["BLEU"].difference
centred = differences.abs() - differences.abs().mean()
tail = ((centred > abs(observed)).sum().item() + 1) / (len(centred) + 1)
draw.bootstrap_histogram(differences.tolist(), centred.tolist(), observed,
                         f"Centred, {tail:.1%} of the differences are larger than the observed one")

# %%
assert abs(differences.mean().item() - observed) < differences.std().item()  # they scatter around it
assert abs(tail - compared["beam 4"]["BLEU"].p_value) < 0.01
print(f"p by hand {tail:.3f}, by sacrebleu {compared['beam 4']['BLEU'].p_value:.3f}")

# %% [markdown]
# Two last warnings. If you try twenty systems that are no better and report the best, you have bought twenty
# lottery tickets: on average one of them wins at p < 0.05 by luck. And the test only draws *sentences* again.
# Another random start of the same recipe would be another model; the scatter between seeds is not in this p-value.
#
# > **Try it.** Test the test. Take greedy and beam 4, and for each sentence swap the two with
# > probability one half. The two mixtures are equally good by construction. Do it a hundred times: how
# > often is p < 0.05? It should be five in a hundred. (This test looks at one tail only of a
# > difference that may have either sign; expect about ten. With `test_type="ar"`, approximate
# > randomisation, expect five.)

# %% [markdown]
# ## 8 · How wide a beam, how strong a penalty?
#
# Two knobs of decoding are free: the beam and the length penalty's $\alpha$. The paper took 4 and 0.6
# "after experimentation on the development set". [Lesson 08](08_decoding.ipynb), section 8, drew both for a
# small model of captions. New here are the real model, and the margins. As there, we search *once* for each beam,
# and choose among what was kept with every α.

# %%
#| export
def search_once(
    model: Transformer, bpe: BPE, sentences: Sequence[str], beam: int, batch_size: int = 50
) -> list[list[Hypothesis]]:
    """Return all that a beam search finds for each sentence, scored without length penalty."""
    device = next(model.parameters()).device
    sources = [[*bpe.encode(sentence), EOS] for sentence in sentences]
    found = []
    for begin in range(0, len(sources), batch_size):
        chunk = sources[begin : begin + batch_size]
        score = cached_log_probs(model, pad(chunk, PAD).to(device))
        limits = [len(source) + 50 for source in chunk]
        found += beam_search(score, len(chunk), limits, beam, alpha=0.0, device=device)
    return found


def choose_by(hypotheses: Sequence[Hypothesis], alpha: float) -> Hypothesis:
    """Return the best of hypotheses that were scored with alpha 0, under another alpha."""

    def key(h: Hypothesis) -> tuple[bool, float]:
        return h.finished, h.score / length_penalty(len(h.ids) + h.finished, alpha)

    return max(hypotheses, key=key)


# %% [markdown]
# One thing is certain, before any measurement: **with α the chosen texts never become shorter,** counted in
# tokens, since a larger α divides the (negative) scores of longer sentences by more. How BLEU answers is open.
# **Guess first:** at α = 0, what does a wider beam do to the length?

# %%
few = val[n : n + by_scale(smoke=60, cpu=100, gpu=500)]
BEAMS = [b for b in (1, 2, 3, 4, 5, 6, 8, 10) if b <= by_scale(smoke=4, cpu=10, gpu=10)]
ALPHAS = (0.0, 0.6, 1.2, 1.8, 2.4)
kept = {beam: search_once(model, bpe, [g for g, _ in few], beam)
        for beam in tqdm(BEAMS, unit="beam", leave=False)}
wanted = [english for _, english in few]
picked = {(b, a): [choose_by(found, a) for found in kept[b]] for b in BEAMS for a in ALPHAS}
texts = {knobs: [bpe.decode(h.ids) for h in chosen] for knobs, chosen in picked.items()}
scores = {knobs: BLEU().corpus_score(said, [wanted]) for knobs, said in texts.items()}
bleus = {alpha: [scores[b, alpha].score for b in BEAMS] for alpha in ALPHAS}
ratios = {alpha: [scores[b, alpha].sys_len / scores[b, alpha].ref_len for b in BEAMS] for alpha in ALPHAS}

# %%
alpha, beam = max(((a, b) for b in BEAMS for a in ALPHAS), key=lambda knobs: scores[knobs[1], knobs[0]].score)
middle = min(4, BEAMS[-1])
margin = with_interval(texts[middle, 0.6], wanted)
draw.beam_curves(BEAMS, bleus, ratios, margin, f"Best on {len(few)} sentences: beam {beam}, α {alpha}; but "
                 f"every score is ± {margin.margin:.1f}")

# %%
tokens = {b: [sum(len(h.ids) for h in picked[b, a]) for a in ALPHAS] for b in BEAMS}
assert all(counts == sorted(counts) for counts in tokens.values())  # never shorter with α
assert len(set(bleus[a][0] for a in ALPHAS)) == 1  # beam 1: nothing to choose
assert tokens[BEAMS[-1]][0] < tokens[1][0]  # without penalty, the likelier text is the shorter one
wide = paired_bootstrap(texts[middle, 0.6], texts[BEAMS[-1], 0.6], wanted)["BLEU"]
print(f"beam {middle} against beam {BEAMS[-1]}, α 0.6: {wide}")
print("the widest beam is", "not worth its time here: no significant gain" if
      wide.difference <= 0 or wide.p_value >= 0.05 else "significantly better")
verdict = paired_bootstrap(texts[1, 0.0], texts[beam, alpha], wanted)["BLEU"]
print(f"greedy against the best of {len(BEAMS) * len(ALPHAS)} settings: {verdict}")
print("length ratio at α 0:", "  ".join(f"beam {b}: {r:.3f}" for b, r in zip(BEAMS, ratios[0.0])))

# %% [markdown]
# Two settings on the same sentences are compared in pairs (section 7), which is finer than the margin of a single
# score: the output does it for the beam. And two things could be expected: without a penalty a wide beam writes
# shorter texts (lesson 08), and α brings the length back.
#
# The best point of the grid was chosen *because* it was best here, so even its p-value flatters it (the lottery,
# above). And which α? A common rule of thumb takes the one that brings the length ratio near 1. We try the rule
# here; and beside it stands what the choice of α gave on **all of val**, when the shipped model was made.

# %%
near = min(ALPHAS, key=lambda a: abs(scores[middle, a].sys_len / scores[middle, a].ref_len - 1))
here = {a: scores[middle, a].score for a in ALPHAS}
print(f"{len(few)} sentences, beam {middle}: BLEU from {min(here.values()):.1f} to {max(here.values()):.1f} "
      f"over α; ratio nearest 1 at α {near:g}, BLEU {here[near]:.1f}; best α {max(here, key=here.get):g}")
card = json.loads((ASSETS / "checkpoints" / "multi30k-de-en" / "results.json").read_text("utf-8"))
width = card["decoding"]["beam"]
on_val = {a: bleu for b, a, bleu in card["decoding"]["tried"] if b == width}
best_alpha = max(on_val, key=on_val.get)
assert on_val[card["decoding"]["length_penalty"]] == on_val[best_alpha]
print(f"all of val, beam {width}:", "  ".join(f"α {a:g}: {bleu:.1f}" for a, bleu in on_val.items()))
print(f"best there α {best_alpha:g}, {on_val[best_alpha] - on_val[min(on_val)]:.1f} above α {min(on_val):g}; "
      f"the margin of one score on our {len(few)} sentences: {margin.margin:.1f}")

# %% [markdown]
# So three lessons tell three stories of α. [Lesson 08](08_decoding.ipynb) (captions, a small model): in its
# stored run a wide beam gains several BLEU from a large α. Lesson 09: the shipped α is the best on all of val,
# and the last line says by how much. Here, a part of val: where the five values lie closer together than the
# margin, their order may be luck, and they speak neither for the rule of thumb nor against it. That is no
# contradiction. The best α depends on model and corpus, and a small gain is easily lost on few sentences.
#
# The right use of such a picture: take the smallest beam of the flat part, choose α on as much of val as you have,
# then leave the knobs alone, and never touch them on the test set.

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
# | `with_interval`, `paired_bootstrap` | translations, references | a score and its margin; differences and p-values |
# | `split_compound`, `diagnose` | a word and counts; two sentences | its known parts; notes by rule |
# | `search_once`, `choose_by` | model, sentences, beam; hypotheses, α | all that was found; the best under α |
#
# ## Exercises
#
# 1. **A hypothesis of your own (2 of 5, 20 minutes).** In a German *subordinate clause* the verb stands last
#    (probes p11 to p14). Mark, in the encoder, the last word before the comma or full stop that ends the
#    clause, for the queries in that clause only. Does a head find it?
# 2. **Greedy pruning (3 of 5, 30 minutes).** Remove the head that is cheapest *now*, again and again.
#    How many more heads can go before BLEU falls by a tenth, compared with the order of section 4?
# 3. **Skip a layer (3 of 5, 20 minutes).** With the hooks of `gated` as a pattern, silence a whole layer,
#    feed-forward part too. Which layer is missed most? Is it the one with the costliest heads?
# 4. **A tuned lens (4 of 5, 45 minutes).** For each layer learn one matrix, from the states there to the
#    final states, by least squares on half of the captions, and measure it on the other half. How much
#    earlier can the final word be read?
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
# - Hard words hurt even at equal length. A score without a margin is half a score;
#   two systems are compared on the same sentences; nothing beats itself.
#
# - 一张注意力图只是个例。要把假设写成“被标记的键”，在整个语料上取平均，
#   并与均匀注意力和未训练的模型比较。
# - 有的头固定地看相邻位置，有的看正要翻译的词；许多头什么都做一点。
# - 没有人教过对齐，交叉注意力却学会了。要说明子词如何合并成词，以及某一步算在“读入的词”还是“写出的词”上。
# - 头“看哪里”与头“值多少”是两回事：剪掉它，再测量。各个头会互相替补。
# - 通过 logit lens 可以看到：解码器的向量从读入的词逐层移向要写出的词。
# - 句长相同时，难词仍会降低译文质量。分数要带误差范围；
#   比较两个系统要用同样的句子做配对自助法（paired bootstrap）。
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
# - Efron 1979, *Bootstrap Methods: Another Look at the Jackknife*, Annals of Statistics 7(1).
# - Koehn 2004, *Statistical Significance Tests for Machine Translation Evaluation*, W04-3250; Riezler and
#   Maxwell 2005, *On Some Pitfalls in Automatic Evaluation and Significance Testing for MT*, W05-0908.
#
# **Homework.** The six questions ([questions](homework/release/questions/questions.ipynb)) ask for what you
# have seen here: why several heads, and what each is for.
#
# **Next:** [lesson 09c](09c_ablations.ipynb) asks what each choice of the recipe was worth.
