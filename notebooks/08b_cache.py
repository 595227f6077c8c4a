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
# # 08b · The cache
#
# > The KV cache, beams in batches, and ties: the searches of lesson 08, fast (machine room).
#
# Lesson 08 wrote searches that are easy to read. They read every prefix from its beginning for each new word,
# and one sentence after the other. This page makes them fast, in four steps, and each step is held against
# lesson 08's plain code: **the translations stay the same.**
#
# **You will be able to**
# - build a KV cache, and prove that it changes nothing but time and memory,
# - compute how much memory a cache takes,
# - let many beams grow in one batch,
# - say where the time of one decoding step goes.
#
# **You need first:** lesson 08. **Time:** 55 minutes. **In the paper:** nothing of this; it is what makes its
# decoder usable. **Where you are:** the machine room. You may skip this page at first reading: lesson 09 only
# uses its `translate`, which writes what lesson 08's writes.

# %%
#| export
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from course.attention import MultiHeadAttention
from course.decoding import (
    Hypothesis,
    NextLogProbs,
    check_search,
    greedy_search,
    limits_of,
    next_log_probs,
    ranked,
    scorer,
)
from course.masking import pad, padding_mask
from course.seq2seq import Translator
from course.text import BOS, BPE, EOS, PAD, encode_sentence
from course.transformer import Transformer

# %%
import itertools
import os
import tempfile
import time
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from course import decoding, device
from course.corpora import pairs
from course.runs import Budget, Trainer, load_checkpoint
from course.training import PRESETS, preset_model
from course.transformer import TransformerConfig
from course.viz import decoding as draw

os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # or the profiler says when it starts and stops

# %% [markdown]
# ## 1 · Read every position once
#
# **What does `next_log_probs` of lesson 08 compute again?** To choose word number $t$, it lets the decoder read all
# $t$ positions, `<s>` to $y_{t-1}$. But with the causal mask of lesson 04 the earlier positions cannot
# see the new word: whatever the decoder computes there, keys and values too, comes out as before. A
# sentence of $T$ words (with `</s>`) costs
#
# $$1 + 2 + \dots + T = \frac{T (T + 1)}{2}$$
#
# positions, where $T$ would do. **Guess first:** which numbers of the earlier positions does the new
# position need? Go through a decoder layer: the feed-forward network and the norms work on each
# position alone. Only attention looks at others, and it looks at their **keys and values**. So we keep
# those, and throw the rest away. This is the **KV cache**. A decoder layer has two attentions:
#
# - *self-attention* asks what the prefix has written. Its keys and values grow by one place a step,
#   and each prefix has its own;
# - *cross-attention* asks the source. Its keys and values never change, and all the prefixes of a
#   beam share them: nothing is copied for each of them.
#
# Here is one decoder layer, reading place 5 of a prefix, over a source of 7 tokens:

# %%
draw.layer_with_cache(written=5, source=7)

# %% [markdown]
# Both attentions need the same small object: a block of memory that is **written in place**. Behind the places
# that are in use it has some free ones, so that a new word writes its keys and values into the next free place
# and nothing else moves. (`torch.cat` would copy all that is there, at every step.) When the block is full, it
# is copied once into one twice as long. The three matrices $W^Q$, $W^K$, $W^V$ are laid on top of each other,
# so that a new position needs one product instead of three.

# %%
#| export
class AttentionCache:
    """What one attention has read: keys and values of `length` places for n rows, kept in `room`."""

    def __init__(self, attention: MultiHeadAttention, x: Tensor) -> None:
        a = self.attention = attention
        self.weight = torch.cat([a.w_q.weight, a.w_k.weight, a.w_v.weight])  # (H * (2 Dk + Dv), D)
        self.n_keys = a.w_k.out_features  # H * Dk, the size of the queries, too
        self.room = F.linear(x, self.weight[self.n_keys :])  # (n, places, H * (Dk + Dv))
        self.length = x.size(1)  # places in use

    @property
    def keys(self) -> Tensor:
        """The keys, (n, H, length, Dk)."""
        return self.attention.split_heads(self.room[:, : self.length, : self.n_keys])

    @property
    def values(self) -> Tensor:
        """The values, (n, H, length, Dv)."""
        return self.attention.split_heads(self.room[:, : self.length, self.n_keys :])

    def look(self, query: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend with query (n, Q, H * Dk) to what is here -> the heads side by side, (n, Q, H * Dv)."""
        query = self.attention.split_heads(query)
        heads = F.scaled_dot_product_attention(query, self.keys, self.values, attn_mask=mask)
        return self.attention.merge_heads(heads)

    def read(self, x: Tensor, slots: Tensor) -> Tensor:
        """Write the keys and values of x (n, 1, D) into the rows `slots`, and attend -> (n, 1, D)."""
        query, new = F.linear(x, self.weight).tensor_split([self.n_keys], dim=-1)
        if self.length == self.room.size(1):
            self.room = F.pad(self.room, (0, 0, 0, self.length + 16))
        self.room[slots, self.length] = new[:, 0]
        self.length += 1
        queries = query.new_zeros(len(self.room), 1, self.n_keys)  # rows out of use ask nothing
        queries[slots] = query
        return self.attention.w_o(self.look(queries)[slots])

    def keep(self, rows: Tensor) -> None:
        """Make row i what row rows[i] was; or keep the rows where `rows` (n,) is True."""
        self.room = self.room[rows]

    def copy(self, rows: Tensor, to: Tensor) -> None:
        """Write what is in `rows` into the rows `to` as well."""
        self.room[to, : self.length] = self.room[rows, : self.length]

    def __repr__(self) -> str:
        n, heads, places, d_k = self.keys.shape
        megabytes = (self.keys.nbytes + self.values.nbytes) / 1e6
        return f"{n} rows x {heads} heads x {places} places x {d_k}: {megabytes:.2f} MB"


# %% [markdown]
# The whole decoder has one of each kind for every layer. When the prefixes change, the cache must
# **follow**: a prefix takes over what its *parent* has read, the prefix without the last token. In
# greedy search each prefix is the only child of its parent. In beam search one parent may have several
# children and another none. The first child stays in its parent's row, and only the other children are
# copied, into rows that are free. So the rows are not in the order of the prefixes: `slots` says which row
# belongs to which prefix. Rows of prefixes and of sentences that are gone stay where they are, out of use;
# all is packed anew when a quarter is out of use.

# %%
#| export
class DecoderCache:
    """What the decoder has read so far of n prefixes, for m source sentences.

    own: for each layer the keys and values of the prefixes, prefix i in row slots[i]; source: those
    of the sentences, whose numbers are in `sentences`.
    """

    def __init__(self, model: Transformer, src: Tensor) -> None:
        self.src_mask = padding_mask(src, PAD)  # (m, 1, 1, S)
        memory = model.encode(src, self.src_mask)  # (m, S, D), read once
        layers = model.decoder.layers
        self.source = [AttentionCache(layer.cross_attention, memory) for layer in layers]
        self.own = [AttentionCache(layer.self_attention, memory[:, :0]) for layer in layers]
        self.sentences = self.slots = torch.arange(len(src), device=src.device)

    def follow(self, parents: Tensor) -> None:
        """Give prefix i of the next step what prefix parents[i] of the step before has read."""
        slots, n_rows = self.slots[parents], len(self.own[0].room)
        if not 0.75 * n_rows <= len(slots) <= n_rows:
            for cache in self.own:
                cache.keep(slots)
            self.slots = torch.arange(len(slots), device=slots.device)
            return
        ordered, index = slots.sort(stable=True)
        further = torch.zeros_like(slots, dtype=torch.bool)  # a child, but not the first
        further[index[1:]] = ordered[1:] == ordered[:-1]
        free = torch.ones(n_rows, dtype=torch.bool, device=slots.device)
        free[slots] = False
        to = free.nonzero()[: int(further.sum()), 0]
        for cache in self.own:
            cache.copy(slots[further], to)
        self.slots = slots.masked_scatter(further, to)

    def leave(self, rows: Tensor) -> None:
        """Let sentences that are not in `rows` leave, once a quarter of them can."""
        present = torch.isin(self.sentences, rows)
        if present.sum() < 0.75 * len(present):
            self.sentences, self.src_mask = self.sentences[present], self.src_mask[present]
            for cache in self.source:
                cache.keep(present)

    def __repr__(self) -> str:
        lines = [f"layer {i}: own {own}, source {source}"
                 for i, (own, source) in enumerate(zip(self.own, self.source))]
        return "\n".join(lines)


# %% [markdown]
# One step reads only the last token of each prefix. For the source we turn a beam into a small batch:
# the $k$ prefixes of a sentence are $k$ queries to the same keys, as the words of a sentence are in the
# encoder. So sentence, not prefix, is the batch dimension there, and each prefix needs two numbers:
# which sentence of the cache it belongs to, and its *number* among the prefixes of that sentence. For
# the number we count the prefixes up to and with this one that have the same sentence, and take 1 away.

# %%
three = torch.tensor([4, 4, 7])  # the rows of three prefixes: two of sentence 4, one of 7
cached_sentences = torch.tensor([2, 4, 7])  # sentence 2 is there, but nobody asks it any more
sentence = torch.searchsorted(cached_sentences, three)  # where each stands
same = sentence[:, None] == sentence  # (n, n)
number = same.tril().sum(1) - 1  # tril: only up to and with itself
assert sentence.tolist() == [1, 1, 2] and number.tolist() == [0, 1, 0]
print("sentence", sentence.tolist(), " number", number.tolist())

# %% [markdown]
# In the code, `own: AttentionCache = own` gives each small function the cache of *its* layer. Without
# it, Python would look up the name `own` only when the function is called; in other loops, that is
# often too late.

# %%
#| export
def read_step(model: Transformer, cache: DecoderCache, prefixes: Tensor, rows: Tensor) -> Tensor:
    """Read the last token of each prefix (n, t); return the decoder's states there, (n, D)."""
    sentence = torch.searchsorted(cache.sentences, rows)  # (n,) which of the cache's sentences
    number = (sentence[:, None] == sentence).tril().sum(1) - 1  # (n,) which of its prefixes
    x = model.tgt_embedding(prefixes[:, -1:])  # (n, 1, D)
    x = x + model.positions(x.new_zeros(1, prefixes.size(1), x.size(2)))[:, -1:]
    shape = len(cache.sentences), int(number.max()) + 1  # (m, k)
    for layer, own, source in zip(model.decoder.layers, cache.own, cache.source):

        def ask_own(x: Tensor, own: AttentionCache = own) -> Tensor:
            return own.read(x, cache.slots)

        def ask_source(x: Tensor, source: AttentionCache = source) -> Tensor:
            queries = x.new_zeros(*shape, source.n_keys)  # (m, k, H * Dk)
            queries[sentence, number] = source.attention.w_q(x[:, 0])
            heads = source.look(queries, cache.src_mask)[sentence, number]
            return source.attention.w_o(heads)[:, None]  # (n, 1, D)

        x = layer.residuals[0](x, ask_own)
        x = layer.residuals[1](x, ask_source)
        x = layer.residuals[2](x, layer.feed_forward)
    return model.decoder.norm(x)[:, 0]


# %% [markdown]
# `cached_log_probs` gives the searches the same kind of function as before, with one thing more: before a beam
# search asks again, it tells through `follow` which prefix each of the next ones grew out of. Greedy search
# need not: there each sentence has one prefix. A cache that follows the wrong parent would give wrong
# translations without a word, so each call compares the prefixes with those of the call before.

# %%
#| export
class CachedLogProbs:
    """What `next_log_probs` returns, with a cache inside: every position is read once.

    Each call must show prefixes that grew by one token out of those of the call before; any other
    raises ValueError. `follow(parents)` says which out of which, wherever a sentence has several.
    """

    def __init__(self, model: Transformer, src: Tensor) -> None:
        self.score = scorer(model, self.read)
        self.model, self.cache = model, DecoderCache(model, src)
        self.rows = torch.arange(len(src), device=src.device)  # what the last call has shown
        self.prefixes = self.rows.new_zeros(len(src), 0)
        self.parents: Tensor | None = None

    def follow(self, parents: Tensor) -> None:
        """Say which prefix of the last call each prefix of the next one continues: (n,)."""
        self.parents = parents

    def read(self, prefixes: Tensor, rows: Tensor) -> Tensor:
        """Let the cache follow; return the decoder's states at the last tokens, (n, D)."""
        parents = self.parents
        if parents is None:  # one prefix a sentence: the row says it
            parents = (rows[:, None] == self.rows).int().argmax(1)
        before = self.prefixes[parents], self.rows[parents]
        if not (torch.equal(prefixes[:, :-1], before[0]) and torch.equal(rows, before[1])):
            raise ValueError(
                "the prefixes did not grow out of those of the step before: a cache goes one token a "
                "step, and a beam search must be given follow=score.follow; begin again with a new one"
            )
        self.cache.follow(parents)
        self.cache.leave(rows)
        self.prefixes, self.rows, self.parents = prefixes, rows, None
        return read_step(self.model, self.cache, prefixes, rows)

    def __call__(self, prefixes: Tensor, rows: Tensor) -> Tensor:
        return self.score(prefixes, rows)


@torch.no_grad()
def cached_log_probs(model: Transformer, src: Tensor) -> CachedLogProbs:
    """Return a score function with a cache for source sentences src (B, S)."""
    return CachedLogProbs(model, src)


# %% [markdown]
# ## 2 · Many beams in one batch
#
# Lesson 08 searches one sentence after the other. A processor is far better used by many at once: all sentences
# of a batch grow together, $n$ sentences with $k$ prefixes each, and a sentence that is done **leaves the batch**.
#
# First a tool. Lesson 08 sorts all $k \cdot V$ candidates and takes $k$. `torch.topk` finds the $k$ largest without
# sorting, but where two are equal it does not promise which one it takes, so the answer may differ between two
# machines. `argmax` promises the first: `in_turn` asks it $k$ times. `largest` gives the same answer faster for a
# long row: it looks only into the $k$ blocks of 64 numbers with the largest maxima. (You may skip how. The cell
# after it tests what both promise.)

# %%
#| export
def in_turn(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of each row of values (n, m), by k looks, and where they are."""
    values = values.clone()
    found, where = [], []
    for _ in range(min(k, values.size(1))):
        index = values.argmax(1, keepdim=True)  # (n, 1)
        found.append(values.gather(1, index))
        where.append(index)
        values.scatter_(1, index, -math.inf)
    return torch.cat(found, 1), torch.cat(where, 1)


def largest(values: Tensor, k: int, width: int = 64) -> tuple[Tensor, Tensor]:
    """Return the k largest of each row of values (n, m), and where they are; both (n, min(k, m)).

    Like `torch.topk`, but of equal values the first comes first, on every device. Where a row has
    fewer than k finite values, the rest are -inf, and their places mean nothing.
    """
    n, m = values.shape
    full = m // width  # so many blocks, and a rest
    blocks = values[:, : full * width].reshape(n, full, width).amax(2)
    rest = F.pad(values[:, full * width :], (0, 1), value=-math.inf).amax(1, keepdim=True)
    best = torch.cat([blocks, rest], 1).clamp(min=torch.finfo(values.dtype).min)  # finite: once each
    chosen = in_turn(best, k)[1].sort(1).values  # (n, k) blocks, in their order
    places = (chosen[..., None] * width + torch.arange(width, device=values.device)).flatten(1)
    inside = values.gather(1, places.clamp(max=m - 1)).masked_fill(places >= m, -math.inf)  # (n, k * w)
    found, where = in_turn(inside, min(k, m))
    return found, places.gather(1, where)


# %%
# NBVAL_CHECK_OUTPUT
tied = torch.zeros(1, 1000)
tied[0, [7, 70, 700]] = 1.0  # three equal numbers, in three blocks
for tool in (in_turn, largest):
    numbers, where = tool(tied, 2)
    assert numbers.tolist() == [[1.0, 1.0]] and where.tolist() == [[7, 70]]
print("7, 70 and 700 hold the same number; the two largest are at", where[0].tolist())

# %% [markdown]
# **Guess first:** *which* of the $V$ words after one prefix can be among the $k$ best candidates of *all*
# prefixes? Only the $k$ best of that prefix. All of them add to the same sum, so any other word has $k$
# candidates before it already: they are likelier, or as likely and earlier in the row. So we take the $k$ best
# of each prefix. At most $k \cdot k$ candidates are left to be compared, instead of $k \cdot V$.
#
# A finished prefix needs a small trick here: it may go on with one word only, `</s>` once more, and that costs
# nothing: $\log 1 = 0$.

# %%
#| export
def is_live(prefixes: Tensor, totals: Tensor) -> Tensor:
    """Return which prefixes can grow: (n, k, t) and (n, k) -> (n, k).

    Not those that have written EOS, and not those of probability 0.
    """
    return (prefixes[..., -1] != EOS) & totals.isfinite()


# %%
#| export
def continuations(
    score: NextLogProbs, rows: Tensor, prefixes: Tensor, totals: Tensor, best: int
) -> tuple[Tensor, Tensor]:
    """Return the `best` likeliest continuations of every prefix: log-probability and last token.

    rows (n,): the source sentences; prefixes (n, k, t): k of each; totals (n, k): their
    log-probabilities; returns two of (n, k, c), where c is the smaller of `best` and V. Only live
    prefixes are shown to the model. In the row of a finished one EOS comes first, for nothing, and
    the other places are -inf.
    """
    live = is_live(prefixes, totals)  # (n, k)
    which = rows[live.nonzero()[:, 0]]  # the source sentence of each live prefix
    scored, words = largest(score(prefixes[live], which), best)  # (live ones, c)
    log_probs = scored.new_full((*live.shape, scored.size(1)), -math.inf)
    tokens = torch.full_like(log_probs, EOS, dtype=torch.long)
    log_probs[..., 0][~live] = 0.0
    log_probs[live], tokens[live] = scored, words
    return log_probs + totals[..., None], tokens


# %% [markdown]
# One step of the search: the best of these. All candidates of a sentence stand in one row, $c$ for each prefix
# ($c = k$, unless the vocabulary is smaller). A candidate's place, divided by $c$ and rounded down, tells which
# prefix it comes from; its word stands at the same place in `tokens`.

# %%
#| export
def beam_step(
    score: NextLogProbs, rows: Tensor, prefixes: Tensor, totals: Tensor, beam: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Let every prefix grow by one token and keep the `beam` likeliest of each sentence.

    prefixes (n, k, t), totals (n, k) -> prefixes (n, k', t + 1), totals (n, k'), the best first, and
    parents (n, k'), the place in the beam that each grew out of; k' is `beam`, or k * c where that is smaller. Of equal totals the child of the better prefix
    comes first. A place that no possible candidate fills has the total -inf.
    """
    candidates, tokens = continuations(score, rows, prefixes, totals, beam)  # (n, k, c)
    totals, place = in_turn(candidates.flatten(1), beam)  # (n, k')
    parent, token = place // candidates.size(-1), tokens.flatten(1).gather(1, place)
    sentence = torch.arange(len(rows), device=rows.device)[:, None]  # (n, 1)
    return torch.cat([prefixes[sentence, parent], token[..., None]], dim=-1), totals, parent


# %% [markdown]
# The search is that of lesson 08, for all sentences at once. `number` is the place of a prefix among the live
# ones, as the model has been shown them: so the search can say to a cache which of them each new prefix grew
# out of.

# %%
#| export
@torch.no_grad()
def beam_search(
    score: NextLogProbs,
    n_sentences: int,
    max_len: int | Sequence[int],
    beam: int = 4,
    alpha: float = 0.6,
    device: torch.device | str = "cpu",
    follow: Callable[[Tensor], None] | None = None,
) -> list[list[Hypothesis]]:
    """Keep the `beam` likeliest prefixes of every sentence; return them when they end, best first.

    A finished prefix keeps its place and stops growing; a sentence leaves the batch when nothing
    can grow, or after `max_len` tokens (one number, or one for each sentence). The length penalty
    chooses among what is found. follow: told before each further call of `score` which prefix of
    the last call each of the next ones continues; for a score function with a cache. Raises ValueError as `check_search`. Paper, section 6.1.
    """
    check_search(beam, alpha)
    found: list[list[Hypothesis]] = [[] for _ in range(n_sentences)]
    limits = limits_of(max_len, n_sentences, device)
    rows = torch.arange(n_sentences, device=device)  # sentences still being searched
    prefixes = torch.full((n_sentences, 1, 1), BOS, device=device)  # (n, k, 1 + tokens)
    totals = torch.zeros(n_sentences, 1, device=device)  # (n, k)
    while len(rows):
        shown = is_live(prefixes, totals)
        number = (shown.flatten().cumsum(0) - 1).view_as(shown)  # (n, k)
        prefixes, totals, parents = beam_step(score, rows, prefixes, totals, beam)
        leaving = ~is_live(prefixes, totals).any(1) | (prefixes.size(-1) > limits[rows])
        for i in leaving.nonzero()[:, 0].tolist():
            found[rows[i]] = ranked(prefixes[i].tolist(), totals[i].tolist(), alpha)
        rows, prefixes, totals = rows[~leaving], prefixes[~leaving], totals[~leaving]
        if follow:
            parents = number.gather(1, parents)[~leaving]
            follow(parents[is_live(prefixes, totals)])
    return found


# %% [markdown]
# ## 3 · Translate a corpus
#
# One function takes a batch of source sentences to target ids, and one takes a list of sentences
# to a list of translations. Three things are easy to get wrong, and nobody notices until the
# evaluation: **order** (we sort by length, so that sentences of a batch need little padding; the
# translations must come back in the old order), **empty lines** (they stay empty, or all later
# lines are compared with the wrong reference), and **the limit** (input + 50, for each sentence,
# and never more than learned positions have).

# %%
#| export
def room_of(model: Translator) -> float:
    """Return how many tokens a model can write at most: learned positions end, others do not."""
    learned = isinstance(model, Transformer) and model.config.positions == "learned"
    return model.config.max_len if learned else math.inf


def translate_batch(
    model: Translator, sources: Sequence[Sequence[int]], beam: int, alpha: float
) -> list[list[int]]:
    """Return the best target ids of source ids (each ending in EOS); beam 1 is greedy search.

    At most 50 tokens more than the source are written (paper, section 6.1), and no more than
    learned positions have. Raises ValueError for a source longer than those, and as `check_search`.
    """
    check_search(beam, alpha)
    device = next(model.parameters()).device
    limits = [min(len(source) + 50, room_of(model)) for source in sources]
    src = pad(sources, PAD).to(device)
    if isinstance(model, Transformer):
        score = cached_log_probs(model, src)
        found = beam_search(score, len(sources), limits, beam, alpha, device, score.follow)
    else:  # a recurrent model has no keys to keep: it reads its prefixes again
        found = beam_search(next_log_probs(model, src), len(sources), limits, beam, alpha, device)
    return [list(hypotheses[0].ids) for hypotheses in found]


# %%
#| export
def translate(
    model: Translator,
    bpe: BPE,
    sentences: Sequence[str],
    beam: int = 1,
    alpha: float = 0.6,
    max_tokens: int = 4000,
    progress: bool = False,
) -> list[str]:
    """Return the translation of each sentence, in the same order; an empty line stays empty.

    beam 1 is greedy search. Batches hold at most `max_tokens` padded source tokens, counted once
    for each place in the beam; their size changes a translation only where rounding decides between
    two that are almost equal. Dropout is off meanwhile.
    """
    check_search(beam, alpha)
    if max_tokens < 1:
        raise ValueError(f"max_tokens={max_tokens}: a batch holds at least one token")
    if isinstance(sentences, str):
        raise TypeError("translate takes a list of sentences: write [sentence] for a single one")
    sources = {i: encode_sentence(bpe, s) for i, s in enumerate(sentences) if s.strip()}
    waiting = sorted(sources, key=lambda i: len(sources[i]))  # the longest last
    translations = [""] * len(sentences)
    training = model.training
    model.eval()
    bar = tqdm(total=len(sources), unit="sentence", disable=not progress)
    try:
        while waiting:
            size = max(1, max_tokens // (beam * len(sources[waiting[-1]])))
            chosen, waiting = waiting[-size:], waiting[:-size]
            written = translate_batch(model, [sources[i] for i in chosen], beam, alpha)
            for i, ids in zip(chosen, written):
                translations[i] = bpe.decode(ids)
            bar.update(len(chosen))
    finally:
        bar.close()
        model.train(training)
    return translations


# %% [markdown]
# Now a real model, the `tiny` preset on the captions corpus, stopped early as in lesson 08.

# %%
train_pairs = pairs("captions", "train")[: device.by_scale(smoke=1000, cpu=12000, gpu=12000)]
model, bpe = preset_model("tiny", [s for pair in train_pairs for s in pair], seed=0)
model = model.to(device.pick())
budget = Budget(epochs=device.by_scale(smoke=4, cpu=2, gpu=2))
with tempfile.TemporaryDirectory() as directory:
    trainer = Trainer(model, bpe, PRESETS["tiny"][1], budget, Path(directory))
    finished = trainer.run(train_pairs, pairs("captions", "val")[:100])
model.eval()
assert finished
print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(bpe):,} tokens")

# %% [markdown]
# ## 4 · It changes nothing
#
# **Claim 1: the fast `translate` writes what the slow one writes**, beam 1 and beam 3, whatever the order and the
# size of the batches. (We compare with the model's weights in float64: where two sentences are almost equally
# likely, the rounding of the products could decide, and rounding depends on the shape of a batch.) The last
# step, the softmax, is in float32 in both.
#
# **Guess first:** what would break it? (Three things on this page can: a mask, a limit, and a row of the cache
# that follows the wrong parent.)

# %%
exact = model.cpu().double()
german = [source for source, _ in pairs("captions", "val")[: device.by_scale(smoke=16, cpu=40, gpu=40)]]
mixed = ["", *german, "   ", *reversed(german)]
for beam in (1, 3):
    slow = decoding.translate(exact, bpe, german, beam)
    fast = translate(exact, bpe, mixed, beam)
    assert fast == ["", *slow, "", *reversed(slow)]
    assert fast == translate(exact, bpe, mixed, beam, max_tokens=50)
print(f"{len(german)} captions, two ways, two beams: the same translations")

# %% [markdown]
# > **Try it.** In `translate_batch`, give all sentences of a batch the largest of the limits. Which claim fails, if any,
# > with your model? When must it fail?
#
# <details><summary>Answer</summary>
#
# With a trained model none: its translations end long before input + 50, so the limit is never reached. It must fail where
# a sentence does not end by itself: then its length, and so its translation, depends on its neighbours in the batch. In
# `tests/test_cache.py` a score function that never ends shows it (`test_the_limit_is_the_source_and_fifty`).
#
# </details>

# %% [markdown]
# **Claim 2: the same beams with the same scores.** Not only the best hypothesis: the whole beam, with the cache
# and without, sentence by sentence and in a batch. Then we look into a cache: a beam of 3 over four captions,
# stopped after five steps. (So that none ends before, we forbid `</s>`.) **Guess first:** how many rows do `own`
# and `source` have?

# %%
some = german[:16]
sources = [[*bpe.encode(s), EOS] for s in some]
score_some = next_log_probs(exact, pad(sources, PAD))
truth = decoding.beam_search(score_some, len(some), 60, beam=3)
cached = cached_log_probs(exact, pad(sources, PAD))
for score, follow in ((score_some, None), (cached, cached.follow)):
    found = beam_search(score, len(some), 60, beam=3, follow=follow)
    for ours, theirs in zip(itertools.chain(*found), itertools.chain(*truth), strict=True):
        assert ours.ids == theirs.ids and math.isclose(ours.score, theirs.score, rel_tol=1e-5)
print("the same beams, the same scores")

# %%
# NBVAL_CHECK_OUTPUT
asked = cached_log_probs(exact, pad(sources[:4], PAD))


def endless(prefixes, rows):
    """Score with the cache, but never let a sentence end."""
    return asked(prefixes, rows).index_fill(1, torch.tensor([EOS]), -math.inf)


beam_search(endless, 4, max_len=5, beam=3, follow=asked.follow)
cache = asked.cache
own, source = cache.own[0].keys.shape, cache.source[0].keys.shape
assert own[0] == 12 and own[2] == 5 and source[0] == 4
print("own: 12 rows, one for each prefix, 5 places; source: 4 rows, shared by the beams")

# %%
cache

# %% [markdown]
# ## 5 · What it costs in memory
#
# Each of the $N$ layers keeps one key and one value, $d_{\mathrm{model}}$ numbers each, for
# every token. With $b$ bytes a number that is
#
# $$2 \cdot N \cdot d_{\mathrm{model}} \cdot b$$
#
# bytes for each token of each *prefix* (self-attention), and as many for each token of each *source sentence*
# (cross-attention; once, for all the prefixes that share it; the free places of the rooms come on top). Our example is in float64, so $b = 8$. **Guess
# first:** how many bytes does the paper's base model need for each token, with 6 layers,
# $d_{\mathrm{model}} = 512$ and float32?

# %%
def bytes_a_token(config: TransformerConfig, bytes_a_number: int) -> int:
    """Keys and values of one token in all layers of the decoder."""
    return 2 * config.n_layers * config.d_model * bytes_a_number


def held(caches: list[AttentionCache]) -> int:
    return sum(c.keys.nbytes + c.values.nbytes for c in caches)


places = cache.source[0].keys.size(2)  # the longest of the four captions; the others are padded
assert held(cache.own) == 12 * 5 * bytes_a_token(model.config, 8)  # 12 prefixes of 5 tokens
assert held(cache.source) == 4 * places * bytes_a_token(model.config, 8)
base = bytes_a_token(TransformerConfig(1, 1), 4)
assert base == 24_576
print(f"here: {bytes_a_token(model.config, 8):,} bytes a token; base model, float32: {base:,}")
print(f"base model, 32 sentences, beam 4, 100 tokens written: {32 * 4 * 100 * base / 1e6:.0f} MB")

# %% [markdown]
# ## 6 · What it saves in time
#
# First the positions, counted; then the clock, on this machine. We forbid `</s>`, so
# that every sentence grows to the length that we ask for.

# %%
counted = {"read": 0, "new": 0}


def counting(prefixes, rows):
    """Score as before, and count the decoder positions that the plain way reads."""
    counted["read"] += prefixes.numel()
    counted["new"] += len(prefixes)
    return score_some(prefixes, rows)


written = greedy_search(counting, len(some), [len(s) + 50 for s in sources])
steps = [min(len(ids) + 1, len(s) + 50) for ids, s in zip(written, sources)]
assert counted["read"] == sum(t * (t + 1) // 2 for t in steps)
assert counted["new"] == sum(steps)
share = 1 - counted["new"] / counted["read"]
print(f"{counted['read']:,} positions read, {counted['new']:,} of them new: {share:.0%} recomputed")

# %%
model = exact.float().to(device.pick())
LENGTHS = [2**n for n in range(3, device.by_scale(smoke=6, cpu=8, gpu=9) + 1)]
few = pad(sources[:8], PAD).to(device.pick())


def seconds_to_write(way, length: int) -> float:
    """Return the time of greedy search over 8 captions, each `length` tokens long."""
    score = way(model, few)

    def endless(prefixes, rows):
        return score(prefixes, rows).index_fill(1, torch.tensor([EOS], device=few.device), -math.inf)

    begun = time.perf_counter()
    greedy_search(endless, len(few), length, few.device)
    return time.perf_counter() - begun


ways = {"plain": next_log_probs, "cached": cached_log_probs}
seconds_to_write(cached_log_probs, 8)  # the first call of anything is slower
clock = {name: [min(seconds_to_write(way, n) for _ in range(2)) for n in LENGTHS]
         for name, way in ways.items()}
for n, plain, cached in zip(LENGTHS, clock["plain"], clock["cached"]):
    print(f"{n:4} tokens: plain {plain:6.3f} s, cached {cached:6.3f} s, {plain / cached:5.1f} times")
for name, taken in clock.items():
    print(f"{name}: the last doubling has the slope {math.log2(taken[-1] / taken[-2]):.1f}")

# %%
draw.cache_time(LENGTHS, clock)

# %%
gains = [plain / cached for plain, cached in zip(clock["plain"], clock["cached"])]
caption = counted["new"] / len(some)
near = min(range(len(LENGTHS)), key=lambda i: abs(LENGTHS[i] - caption))
print(f"one of these captions has {caption:.0f} tokens on average, as the model writes it")
for i in (near, len(LENGTHS) - 1):
    print(f"gain at {LENGTHS[i]} tokens: {gains[i]:.1f} times")

# %% [markdown]
# Did you expect more, after counting the positions? At the length of a caption the cache gains little: with a
# model as small as this one, a step costs mostly the start of its many small operations, whatever they are
# given to do, and both ways start about as many. What is saved shows only in long texts. Both axes are
# logarithmic, so a power of the length would be a straight line, and its slope the power. If only the positions
# counted, the plain way would have slope 2 and the cached one slope 1 (attention itself adds a share that
# grows faster still). The printed slopes are on their way there: the fixed cost of a step holds them down. On
# a GPU that cost weighs more, and at these lengths the cache may gain nothing at all.
#
# Every chat model that writes thousands of words has such a cache, and its memory is one of the main limits on
# how many people it can serve at once: multiply the bytes a token by the tokens of all of them.

# %% [markdown]
# ## 7 · The ladder
#
# What does each step of this page bring? We take a model of a real size, the shipped one (256 wide, three
# layers, 5,000 tokens), let it translate captions with a beam of 4, and change one thing at a time. The third
# rung has a cache that copies all its rows at every step, as the first version of this page did.
#
# **Guess first:** which rung brings most: batches, the cache, or writing in place?

# %%
class CopiesAll(DecoderCache):
    """A cache that takes every row to a new place at every step."""

    def follow(self, parents: Tensor) -> None:
        rows = self.slots[parents]
        for cache in self.own:
            cache.room = F.pad(cache.room[:, : cache.length][rows], (0, 0, 0, 1))
        self.slots = torch.arange(len(parents), device=parents.device)


shipped, shipped_bpe = load_checkpoint("multi30k-de-en")
shipped.to(device.pick())
n_sentences = device.by_scale(smoke=4, cpu=64, gpu=200)
texts = [source for source, _ in pairs("captions", "val")[:n_sentences]]
ids = [[*shipped_bpe.encode(text), EOS] for text in texts]
src, limits = pad(ids, PAD).to(device.pick()), [len(i) + 50 for i in ids]


def searched(score, follow=None) -> list[str]:
    """Translate all captions in one batch, with a beam of 4."""
    found = beam_search(score, len(ids), limits, 4, 0.6, device.pick(), follow)
    return [shipped_bpe.decode(hypotheses[0].ids) for hypotheses in found]


def copying() -> list[str]:
    score = cached_log_probs(shipped, src)
    with torch.no_grad():
        score.cache = CopiesAll(shipped, src)
    return searched(score, score.follow)


def in_place() -> list[str]:
    score = cached_log_probs(shipped, src)
    return searched(score, score.follow)


rungs = {
    "lesson 08, one sentence after the other": lambda: decoding.translate(shipped, shipped_bpe, texts, 4),
    "all in one batch": lambda: searched(next_log_probs(shipped, src)),
    "with a cache that copies all": copying,
    "with a cache written in place": in_place,
}

# %%
said, speed = {}, {}
for name, rung in rungs.items():
    times = []
    for _ in range(1 if name.startswith("lesson") else 3):
        begun = time.perf_counter()
        said[name] = rung()
        times.append(time.perf_counter() - begun)
    speed[name] = len(texts) / min(times)
    alike = sum(a == b for a, b in zip(said[name], next(iter(said.values()))))
    print(f"{name:40} {speed[name]:7.1f} sentences/s, {alike} of {len(texts)} as in lesson 08")
    assert alike >= 0.9 * len(texts)  # float32: rounding may decide between two that are almost equal

# %% [markdown]
# ### Where does the time of a step go?
#
# PyTorch can write down how long each of its operations took. We add them up by kind: **products** with weight
# matrices (the arithmetic that cannot be left out), **attention**, **copying and indexing**, and the rest
# (norms, softmax, the choice of the best). What is left of the clock is Python between the operations.

# %%
KINDS = {
    "products": ("mm", "bmm", "matmul", "linear"),
    "attention": ("attention",),
    "copying and indexing": ("index", "copy", "cat", "gather", "scatter", "pad", "fill", "zeros", "where"),
}


def shares(work) -> dict[str, float]:
    """Return the share of each kind of operation in the time of work(), in percent."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        begun = time.perf_counter()
        work()
        wall = 1e6 * (time.perf_counter() - begun)
    taken = dict.fromkeys([*KINDS, "norms, softmax, choice"], 0.0)
    for event in recorded.key_averages():
        kinds = [kind for kind, words in KINDS.items() if any(word in event.key for word in words)]
        taken[kinds[-1] if kinds else "norms, softmax, choice"] += event.self_cpu_time_total
    taken["Python"] = max(0.0, wall - sum(taken.values()))
    return {kind: 100 * microseconds / wall for kind, microseconds in taken.items()}


where = {name: shares(rungs[name]) for name in list(rungs)[2:]}
print(f"{'':24}{'copies all':>12}{'in place':>12}")
for kind in next(iter(where.values())):
    print(f"{kind:24}" + "".join(f"{found[kind]:11.0f}%" for found in where.values()))

# %% [markdown]
# (The stored figures come from a busy machine. Compare rungs, not seconds.) Batches and the cache bring nearly all. Writing
# in place brings next to nothing at the length of a caption: there is little to copy.
#
# The products cannot be left out; all other lines are what could still be saved. They are about half of the time: if all
# else cost nothing, we would be about twice as fast. CTranslate2, a program made for decoding alone, was 1.5 times as
# fast with the same weights, greedily, and 1.8 times with a beam of 4 (`assets/results/bench_decode.json`, two cores with
# AVX-512; `python -m course bench decode` measures it on your machine). So 0.8 of its greedy speed would ask for a third of all that
# is not a product.

# %% [markdown]
# ## What you built
#
# | name | takes | gives |
# |---|---|---|
# | `DecoderCache(model, src)` | src (m, S) | keys and values: own (n, H, t, Dk), source (m, H, S, Dk) |
# | `cached_log_probs(model, src)` | src (B, S) | what `next_log_probs` gives, every position read once; and `follow` |
# | `largest(values, k)` | (n, m) | the k largest of each row and their places, ties in order |
# | `beam_step(score, rows, prefixes, totals, beam)` | (n, k, t), (n, k) | (n, k, t + 1), (n, k), parents (n, k) |
# | `beam_search(score, n, max_len, beam, alpha)` | a score function | n lists of `Hypothesis`, as in lesson 08 |
# | `translate(model, bpe, sentences)` | n sentences | n sentences, as in lesson 08 |
#
# ## Summary · 小结
#
# A KV cache keeps the keys and values of what is written, so that each step reads one position instead of all.
# The keys and values of the source are computed once and shared by all the prefixes of a beam. When a beam
# changes, each prefix takes over the rows of its parent. Many sentences grow in one batch, and those that are
# done leave it. The plain searches of lesson 08 say what is right; the fast ones are compared with them.
#
# <div lang="zh">
#
# **小结**
#
# KV 缓存（KV cache）保存已写出各位置的键和值，每一步只需读入一个新位置，结果不变。
# 源句的键和值只计算一次，由束中所有前缀共用。
# 束变化时，每个前缀接过其父前缀的缓存行。许多句子在一个批次里同时增长，写完的句子离开批次。
# 第 8 课的朴素搜索规定什么是对的，快速搜索要与它逐一比较。
#
# </div>
#
# ## Further reading
#
# - Shazeer (2019), *Fast Transformer Decoding: One Write-Head is All You Need*, arXiv 1911.02150: why the cache,
#   and not the arithmetic, limits the speed.
# - Pope et al. (2022), *Efficiently Scaling Transformer Inference*, arXiv 2211.05102.
#
# **Next:** [lesson 09](09_evaluation.ipynb) puts everything together: real captions, a real model, and
# a BLEU with its signature.
