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
# # 08 · Decoding
#
# > Decoding: greedy search, beam search with a length penalty, and BLEU (paper, section 6.1).
#
# The model of lesson 07 does not write sentences. It gives probabilities for **one next word**.
# This lesson turns such probabilities into a translation, and then puts a number on how good the
# translation is.
#
# **You will be able to**
# - write greedy search and beam search,
# - say why a beam needs a length penalty, and what α = 0.6 in the paper does,
# - compute BLEU by hand, and report it so that others can compare,
# - say what a wider beam, and a higher BLEU, do *not* promise.
#
# **You need first:** lesson 04 (masks), 05 (the model), 06 (token ids), 07 (training).
# **Time:** 50 minutes; 70 with all that is marked *more*. **In the paper:** section 6.1, the BLEU
# columns of table 2, and one sentence of section 3 ("auto-regressive": each word is an input for the
# next one). **Where you are:** on the path. The code is written to be read; the machine room
# [08b](08b_cache.ipynb) makes the same searches fast.

# %%
#| export
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from course.masking import causal_mask, padding_mask
from course.seq2seq import Translator
from course.text import BOS, BPE, EOS, PAD, UNK, encode_sentence

# %% [markdown]
# The next cell holds what only the demonstrations of this page need.

# %%
import itertools
import json
import tempfile
from pathlib import Path

import sacrebleu
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from course import ASSETS, device
from course.corpora import pairs
from course.homework import check, compare
from course.runs import Budget, Trainer
from course.training import PRESETS, preset_model
from course.viz import decoding as draw

# %% [markdown]
# ## 1 · What the model answers, and what we ask
#
# A model is asked: *given the source sentence $x$ and the words $y_1 \dots y_{t-1}$ written so
# far, how likely is each word to come next?* We ask: *which whole sentence $y$ is the likeliest?*
# The two are linked by the chain rule of probability. The probability of a sentence is a product:
#
# $$P(y \mid x) = \prod_{t=1}^{T} P(y_t \mid y_1 \dots y_{t-1}, x)
# \qquad\quad \log P(y \mid x) = \sum_{t=1}^{T} \log P(y_t \mid y_1 \dots y_{t-1}, x)$$
#
# The last word $y_T$ is always `</s>`, the sign for "end of sentence": a sentence that does not
# end is no sentence yet. We work with the sum of logarithms, because a product of many small
# numbers soon becomes too small for a computer's floating point. The logarithm of a probability
# is at most 0. Remember that: **each further word makes the sum smaller, or leaves it as it is.**
#
# **Guess first:** a vocabulary of 5,000 words, sentences of 20 words. How many sentences are
# there to choose from? Could a computer look at all of them?

# %%
n_sentences = 5_000**20
seconds = n_sentences / 1e9  # a computer that scores a billion sentences each second
years = seconds / (365 * 24 * 3600)
assert 1e73 < n_sentences < 1e74 and years > 1e57
print(f"{n_sentences:.1e} sentences; at a billion a second, {years:.0e} years")

# %% [markdown]
# So we cannot look at all sentences. We must **search**: look at a few, and choose well which ones.
#
# A search does not need to know what a Transformer is. It needs one function, which we call
# `score`:
#
# - in: prefixes (beginnings of sentences, as token ids, each starting with `<s>`) and, for each
#   prefix, the number of the source sentence it belongs to (its *row*),
# - out: the log-probability of every word of the vocabulary to come next.

# %%
#| export
NextLogProbs = Callable[[Tensor, Tensor], Tensor]  # prefixes (n, t), rows (n,) -> (n, V)

# %% [markdown]
# Because the search sees only this function, we can first give it a *toy model*: a small table
# with probabilities that you can multiply in your head. Here is one for "Ein Hund schläft." It
# knows twelve English sentences, and after three words it always ends.

# %%
TABLE = {
    "": {"the": 0.5, "a": 0.4, "one": 0.1},
    "the": {"dog": 0.4, "puppy": 0.35, "hound": 0.25},
    "a": {"dog": 0.9, "puppy": 0.1},
    "one": {"dog": 1.0},
    "the dog": {"sleeps": 0.6, "rests": 0.4},
    "the puppy": {"sleeps": 0.7, "rests": 0.3},
    "the hound": {"sleeps": 0.5, "rests": 0.5},
    "a dog": {"sleeps": 0.7, "rests": 0.3},
    "a puppy": {"sleeps": 0.5, "rests": 0.5},
    "one dog": {"sleeps": 0.8, "rests": 0.2},
}
END = {"</s>": 1.0}
WORDS = str.split("<pad> <s> </s> <unk> the a one dog puppy hound sleeps rests on sofa")


def say(ids) -> str:
    """Return the words of ids."""
    return " ".join(WORDS[i] for i in ids)


# %% [markdown]
# Two lines turn such a table into a `score` function: look up what was written, and put the
# logarithms of the probabilities in the right columns. A word that is not in the table is
# impossible: its probability is 0, and its logarithm is $-\infty$.

# %%
def table_score(table: dict[str, dict[str, float]]):
    """Return a score function over WORDS that reads a table; what is not in it ends at once."""

    def score(prefixes, rows):
        log_probs = torch.full((len(prefixes), len(WORDS)), -math.inf)
        for i, prefix in enumerate(prefixes.tolist()):
            for word, p in table.get(say(prefix[1:]), END).items():
                log_probs[i, WORDS.index(word)] = math.log(p)
        return log_probs

    return score


score = table_score(TABLE)
first = score(torch.tensor([[BOS]]), torch.tensor([0]))  # (1, V)
assert torch.isclose(first.exp().sum(), torch.tensor(1.0))
print("the likeliest first word is", say(first.argmax(-1)), f"with {first.exp().max():.1f}")

# %% [markdown]
# ## 2 · Greedy search
#
# The simplest search: take the likeliest word, write it down, ask again. Never look back.
#
# $$y_t = \operatorname{argmax}_{w} \; \log P(w \mid y_1 \dots y_{t-1}, x)$$
#
# **Guess first:** look at the table. Which sentence does greedy search write, and with which
# probability? Is there a better one?

# %%
mine = None  # your guess: the probability of what greedy search writes

# %% [markdown]
# When does a sentence stop? When the model writes `</s>`. But a model, above all a badly trained
# one, may never do so. So there is also a limit. The paper allows *the length of the input plus
# 50 tokens*. The limit belongs to one sentence, not to the batch: otherwise the neighbours of a
# sentence could change its translation.

# %%
#| export
def limits_of(
    max_len: int | Sequence[int], n_sentences: int, device: torch.device | str
) -> Tensor:
    """Return how many tokens each sentence may have, (n_sentences,): one number for all, or a list.

    Raises ValueError for a limit below 1, or if there are not as many limits as sentences.
    """
    limits = torch.as_tensor(max_len, device=device)
    if limits.dim() and len(limits) != n_sentences:
        raise ValueError(f"{len(limits)} limits for {n_sentences} sentences: give one for each")
    if limits.numel() and limits.min() < 1:
        raise ValueError(f"max_len={int(limits.min())}: a sentence has at least one token")
    return limits.expand(n_sentences)


def until_eos(prefix: Sequence[int]) -> list[int]:
    """Return what a prefix says: its ids after BOS, up to the first EOS if there is one."""
    end = prefix.index(EOS) if EOS in prefix else len(prefix)
    return list(prefix[1:end])


# %% [markdown]
# Now the search. All sentences of a batch grow by one word at a time. A sentence that has ended
# **leaves the batch**, so that no work is spent on it. This is why `rows` exists: it remembers
# which sentences are still there.

# %%
#| export
@torch.no_grad()
def greedy_search(
    score: NextLogProbs,
    n_sentences: int,
    max_len: int | Sequence[int],
    device: torch.device | str = "cpu",
) -> list[list[int]]:
    """Take the likeliest token again and again; return each sentence's ids, without BOS and EOS.

    A sentence ends with EOS, or as it stands after `max_len` tokens (one number, or one for each
    sentence).
    """
    written: list[list[int]] = [[] for _ in range(n_sentences)]
    limits = limits_of(max_len, n_sentences, device)
    rows = torch.arange(n_sentences, device=device)  # sentences still being written
    prefixes = torch.full((n_sentences, 1), BOS, device=device)  # (n, 1 + tokens)
    while len(rows):
        token = score(prefixes, rows).argmax(-1)  # (n,)
        prefixes = torch.cat([prefixes, token[:, None]], dim=1)
        leaving = (token == EOS) | (prefixes.size(1) > limits[rows])
        for row, ids in zip(rows[leaving].tolist(), prefixes[leaving].tolist()):
            written[row] = until_eos(ids)
        rows, prefixes = rows[~leaving], prefixes[~leaving]
    return written


# %% [markdown]
# To judge its answer we want the probability of a given sentence, and the best sentence of all. The
# table is so small that we can try every sentence: that is called **exhaustive search**. It is the
# truth against which we measure the others.

# %%
def probability(ids) -> float:
    """Multiply the probabilities of a sentence's words and of its end, in the table."""
    prefix, p = [BOS], 1.0
    for word in (*ids, EOS):
        p *= score(torch.tensor([prefix]), torch.tensor([0]))[0, word].exp().item()
        prefix.append(word)
    return p


every = list(itertools.product(range(4, len(WORDS)), repeat=3))
best = max(every, key=probability)
greedy = greedy_search(score, 1, max_len=10)[0]
assert say(greedy) == "the dog sleeps" and math.isclose(probability(greedy), 0.12, rel_tol=1e-6)
assert say(best) == "a dog sleeps" and math.isclose(probability(best), 0.252, rel_tol=1e-6)
print(f"greedy: {say(greedy)}, 0.5 · 0.4 · 0.6 = {probability(greedy):.3f}")
print(f"best:   {say(best)}, 0.4 · 0.9 · 0.7 = {probability(best):.3f}")
compare(mine, probability(greedy), "08: probability of greedy search's sentence")

# %% [markdown]
# Greedy search takes "the", because 0.5 is more than 0.4. But after "the" the model is undecided,
# and after "a" it is nearly sure. Greedy search finds this out when it is too late. Its sentence
# is less than half as likely as the best one.
#
# > **Try it.** Change one number of the table (and one more, so that the sum stays 1) so that
# > greedy search finds the best sentence. Take from "the" what you give to "a": above which first
# > probability of "a" does greedy search succeed?
#
# <details><summary>Answer</summary>
#
# Together they have 0.9, so "a" is taken first when it gets more than 0.45. With 0.46 for "a" and 0.44 for "the" greedy
# search writes "a dog sleeps"; with 0.44 for "a" it still writes "the dog sleeps". What comes *after* the first word
# never enters its choice.
#
# </details>
#
# Greedy search writes one word after the other. What does that mean for a machine that likes to do many things at
# once? Answer by `check("parallel_writing", "b")`.

# %%
check("parallel_writing")

# %% [markdown]
# ## 3 · Beam search
#
# The remedy: keep not one prefix but the $k$ likeliest ones, the **beam**. At each step,
#
# 1. let each of the $k$ prefixes go on with each of the $V$ words: $k \cdot V$ sums,
# 2. keep the $k$ largest.
#
# And a prefix that has written `</s>`? It is **finished** and must stop growing. It stays in the
# beam and competes with the others, but the model is not asked about it: it may go on with `</s>`
# once more, and that costs nothing, $\log 1 = 0$.

# %%
#| export
def continuations(score: NextLogProbs, row: int, prefixes: Tensor, totals: Tensor) -> Tensor:
    """Return the log-probability of every prefix of a sentence with every next token.

    row: which source sentence; prefixes (k, t), totals (k,): their log-probabilities -> (k, V).
    Only prefixes that have not ended are shown to the model; the others go on with EOS, for nothing.
    """
    live = prefixes[:, -1] != EOS  # (k,)
    asked = prefixes[live]
    scored = score(asked, torch.full((len(asked),), row, device=asked.device))  # (live ones, V)
    log_probs = scored.new_full((len(prefixes), scored.size(1)), -math.inf)
    log_probs[~live, EOS] = 0.0
    log_probs[live] = scored
    return totals[:, None] + log_probs


# %% [markdown]
# One step of the search sorts all these candidates and takes the first. They stand in one long row, $V$ for
# each prefix, so a candidate's place, divided by $V$ and rounded down, tells which prefix it comes from; the
# rest of the division is its word. `stable` says that of two equal sums the earlier one stays first: so the
# answer is the same on every machine.

# %%
#| export
def beam_step(
    score: NextLogProbs, row: int, prefixes: Tensor, totals: Tensor, beam: int
) -> tuple[Tensor, Tensor]:
    """Let every prefix of a sentence grow by one token and keep the `beam` likeliest, best first.

    prefixes (k, t), totals (k,) -> prefixes (k', t + 1), totals (k',); k' is `beam`, or fewer where
    fewer are possible.
    """
    candidates = continuations(score, row, prefixes, totals)  # (k, V)
    totals, place = candidates.flatten().sort(descending=True, stable=True)
    totals, place = totals[:beam], place[:beam]
    totals, place = totals[totals.isfinite()], place[totals.isfinite()]
    parent, token = place // candidates.size(1), place % candidates.size(1)
    return torch.cat([prefixes[parent], token[:, None]], dim=1), totals


# %% [markdown]
# Let us watch it. The search starts with one prefix, `<s>`, not with two: two equal prefixes would
# have equal children, and the beam would be filled with twins. **Guess first:** with a beam of 2,
# which two prefixes are kept after the first word, and which two after the second?

# %%
# NBVAL_CHECK_OUTPUT
prefixes, totals = torch.tensor([[BOS]]), torch.zeros(1)
for _ in range(4):
    prefixes, totals = beam_step(score, 0, prefixes, totals, beam=2)
    kept = zip(prefixes.tolist(), totals.exp().tolist())
    print("   ".join(f"{say(ids[1:])} ({p:.3f})" for ids, p in kept))


# %% [markdown]
# The second line is the moment that counts: "a dog" (0.36) overtakes "the dog" (0.20), because it
# was still in the beam. The same search as a tree, with every continuation that the model gave a
# probability:

# %%
nodes = draw.search_tree(score, WORDS, beam=2)
draw.beam_tree(nodes, 'A beam of 2 keeps "a" alive and reaches 0.252; greedy search, 0.120')

# %% [markdown]
# On each edge stands the probability of one word, in each box that of the whole prefix. Grey
# boxes did not enter the beam. Note what the beam missed: its second sentence, "the dog
# sleeps" (0.120), is not the second best of all. That is "the puppy sleeps" (0.5 · 0.35 · 0.7 =
# 0.1225), and its beginning was dropped. **A beam is a better search, not a perfect one.**
#
# > **Try it.** Draw the trees for `beam=1` and `beam=3`. With which beam is "the puppy sleeps"
# > found?
#
# <details><summary>Answer</summary>
#
# With beam 3, as the second best: after two words "a dog" (0.36), "the dog" (0.20) and "the puppy" (0.175) are kept. The
# tree of beam 1 is the line of greedy search, and ends at 0.120.
#
# </details>

# %% [markdown]
# ## 4 · Short sentences win too easily
#
# A beam ends with several finished sentences, of different lengths. Which one do we return? The
# one with the largest log-probability, one would think. **Guess first:** here is a table for "Ein
# Hund schläft auf dem Sofa." The model thinks, wrongly, that "a dog" may be all there is to say
# (0.42), but it prefers to go on (0.58). Which finished sentence is the likeliest?

# %%
LONG_TABLE = {
    "": {"a": 1.0},
    "a": {"dog": 1.0},
    "a dog": {"</s>": 0.42, "sleeps": 0.58},
    "a dog sleeps": {"</s>": 0.2, "on": 0.8},
    "a dog sleeps on": {"the": 0.8, "a": 0.2},
    "a dog sleeps on the": {"sofa": 1.0},
    "a dog sleeps on a": {"sofa": 1.0},
}
short, long = 0.42, 0.58 * 0.8 * 0.8
assert short > long
print(f"a dog: {short:.4f}   a dog sleeps on the sofa: 0.58 · 0.8 · 0.8 = {long:.4f}")

# %% [markdown]
# The half sentence wins, though at every step the model preferred to go on! Each further word
# multiplies by a number of at most 1. So a comparison of sums is a race in which each step costs
# something, and who stops early pays least. It is a **bias towards short sentences**. And the
# wider the beam, the more often an early `</s>` is among what it finds.
#
# The remedy of Wu et al. (2016, equation 14, without its coverage term), which the paper uses with
# $\alpha = 0.6$: divide the sum by a number that grows with the length $|Y|$, the **length penalty**.
#
# $$s(Y, X) = \frac{\log P(Y \mid X)}{\operatorname{lp}(Y)} \qquad\quad
# \operatorname{lp}(Y) = \frac{(5 + |Y|)^{\alpha}}{(5 + 1)^{\alpha}}$$
#
# The sum is negative, so dividing it by a larger number makes it *better*. The name misleads: for
# long sentences it is a bonus. $\alpha = 0$ changes nothing; with $\alpha = 1$ long sentences are ranked almost
# as by the mean per word. We count `</s>` as a word of $Y$, since its probability is in the sum.

# %%
#| export
def length_penalty(length: int, alpha: float) -> float:
    """Return what a log-probability is divided by; 1 for alpha 0. Wu et al. 2016, equation 14.

    length: the number of tokens, EOS counted.
    """
    return ((5 + length) / 6) ** alpha


# %% [markdown]
# **Guess first:** from which $\alpha$ on does the long sentence win? The scores are equal where
# $\log 0.42 / 8^{\alpha} = \log 0.3712 / 12^{\alpha}$ (the lengths are 3 and 7, and each is 5
# larger in the formula). Solve for $\alpha$, then run the cell.

# %%
mine = None  # your guess: from which alpha on, 0 to 1

# %%
crossing = math.log(math.log(long) / math.log(short)) / math.log(12 / 8)
scores = math.log(short) / length_penalty(3, crossing), math.log(long) / length_penalty(7, crossing)
assert math.isclose(*scores) and crossing < 0.6
print(f"the long sentence wins from alpha = {crossing:.2f} on; the paper's 0.6 is enough here")
compare(mine, crossing, "08: alpha from which the long sentence wins")

# %%
sentences = {"a dog": (math.log(short), 3), "a dog sleeps on the sofa": (math.log(long), 7)}
draw.length_penalties(length_penalty, sentences, (0.0, 0.6, 1.0, 2.0), crossing)

# %% [markdown]
# Left: how fast the divisor grows. Right: both scores rise with α, the long sentence's faster.
#
# Now all parts are there. What a search returns is a **hypothesis**: a sentence and its score.
# One decision is left: what if a prefix reaches the limit and has not ended? It is half a
# sentence, so a finished hypothesis always goes before it, whatever its score. Only if nothing is
# finished do we return what we have, as greedy search does.

# %%
#| export
@dataclass(frozen=True)
class Hypothesis:
    """A translation: its ids without BOS and EOS, its log-probability over the length penalty,
    and whether it ended by itself or was cut off at the limit."""

    ids: tuple[int, ...]
    score: float
    finished: bool = True


def ranked(
    prefixes: Sequence[Sequence[int]], totals: Sequence[float], alpha: float
) -> list[Hypothesis]:
    """Return the beam of one sentence as hypotheses: finished ones first, then by their score."""
    hypotheses = []
    for prefix, total in zip(prefixes, totals):
        if total > -math.inf:
            ids, finished = until_eos(prefix), EOS in prefix
            value = total / length_penalty(len(ids) + finished, alpha)
            hypotheses.append(Hypothesis(tuple(ids), value, finished))
    return sorted(hypotheses, key=lambda h: (h.finished, h.score), reverse=True)


# %% [markdown]
# And the search itself. For each sentence it repeats `beam_step` until every prefix has ended, or the
# limit is reached. Two numbers come from outside, so it first asks whether they mean anything.

# %%
#| export
def check_search(beam: int, alpha: float) -> None:
    """Raise ValueError for a beam below 1, and for a length penalty that is not from 0 to 10."""
    if beam < 1:
        raise ValueError(f"beam={beam}: a beam keeps at least one prefix (1 is greedy search)")
    if not 0 <= alpha <= 10:  # nan is refused, too
        raise ValueError(
            f"length penalty {alpha}: choose a number from 0 (none) to 10; the paper takes 0.6"
        )


@torch.no_grad()
def beam_search(
    score: NextLogProbs,
    n_sentences: int,
    max_len: int | Sequence[int],
    beam: int = 4,
    alpha: float = 0.6,
    device: torch.device | str = "cpu",
) -> list[list[Hypothesis]]:
    """Keep the `beam` likeliest prefixes of every sentence; return them when they end, best first.

    A finished prefix keeps its place and stops growing; a sentence is done when nothing can grow,
    or after `max_len` tokens (one number, or one for each sentence). The length penalty chooses
    among what is found. Raises ValueError as `check_search`. Paper, section 6.1.
    """
    check_search(beam, alpha)
    found = []
    for row, limit in enumerate(limits_of(max_len, n_sentences, device).tolist()):
        prefixes = torch.full((1, 1), BOS, device=device)  # (k, 1 + tokens)
        totals = torch.zeros(1, device=device)  # (k,)
        while (prefixes[:, -1] != EOS).any() and prefixes.size(1) <= limit:
            prefixes, totals = beam_step(score, row, prefixes, totals, beam)
        found.append(ranked(prefixes.tolist(), totals.tolist(), alpha))
    return found


# %%
# NBVAL_CHECK_OUTPUT
for alpha in (0.0, 0.6):
    hypotheses = beam_search(table_score(LONG_TABLE), 1, max_len=10, beam=2, alpha=alpha)[0]
    listed = ", ".join(f"{say(h.ids)} ({h.score:.3f})" for h in hypotheses)
    print(f"alpha {alpha}: {listed}")

# %% [markdown]
# Both searches found the same two sentences. In our search α only *chooses* among what the beam
# holds at the end; which prefixes are kept is decided by the plain sums.

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Is the search right? · more
#
# Three statements, tested on models of which we know everything. For those who want to see a search checked.

# %% [markdown]
# Each of the random trees
# below has three words, ends after four words at the latest, and so has $1 + 3 + 9 + 27 + 81 =
# 121$ sentences. The score function holds a different tree for every row of the batch.

# %%
N_WORDS, DEPTH = 3, 4


def random_trees(n_trees: int, seed: int):
    """Return a score function in which every row has random probabilities of its own."""
    generator = torch.Generator().manual_seed(seed)
    tables = []
    for t in range(DEPTH + 1):
        logits = 2 * torch.randn(n_trees, N_WORDS**t, 4 + N_WORDS, generator=generator)
        logits[..., [PAD, BOS, UNK]] = -math.inf
        logits[..., EOS] -= 3  # most sentences have several words
        if t == DEPTH:
            logits[..., 4:] = -math.inf  # only </s> is left
        tables.append(logits.log_softmax(-1))  # (trees, prefixes of t words, V)

    def score(prefixes, rows):
        which = torch.zeros(len(prefixes), dtype=torch.long)
        for token in prefixes[:, 1:].unbind(1):
            which = which * N_WORDS + token - 4
        return tables[prefixes.size(1) - 1][rows, which]

    return score


# %% [markdown]
# **Claim 1: a beam of 1 is greedy search**, word for word, whatever α is. This is so by construction: with one place in the
# beam, the first `</s>` that wins takes it, and the search is over. The cell tests the code, not the statement.

# %%
N_TREES = 1_000
trees = random_trees(N_TREES, seed=1)
greedy = greedy_search(trees, N_TREES, DEPTH + 1)
for alpha in (0.0, 0.6, 2.0):
    single = beam_search(trees, N_TREES, DEPTH + 1, beam=1, alpha=alpha)
    assert [list(h[0].ids) for h in single] == greedy
print(f"{N_TREES} random models: beam 1 and greedy search write the same words")

# %% [markdown]
# **Claim 2: a beam as wide as the tree is exhaustive search,** by construction, too: nothing
# is ever dropped. To test the code, we score all 121 sentences of
# every tree without any search, divide by the length penalty, and take the best.

# %%
N_FULL = 50  # the first 50 trees are enough here
all_sentences = [s for n in range(DEPTH + 1) for s in itertools.product(range(4, 7), repeat=n)]
all_totals = torch.zeros(N_FULL, len(all_sentences))
for j, sentence in enumerate(all_sentences):
    prefix = torch.full((N_FULL, 1), BOS)
    for word in (*sentence, EOS):
        all_totals[:, j] += trees(prefix, torch.arange(N_FULL))[:, word]
        prefix = torch.cat([prefix, torch.full((N_FULL, 1), word)], dim=1)
assert torch.allclose(all_totals.exp().sum(1), torch.ones(N_FULL), atol=1e-4)

for alpha in (0.0, 0.6, 1.0, 2.0):
    divisor = torch.tensor([length_penalty(len(s) + 1, alpha) for s in all_sentences])
    truth = (all_totals / divisor).argmax(1).tolist()
    full = beam_search(trees, N_FULL, DEPTH + 1, beam=len(all_sentences), alpha=alpha)
    assert [h[0].ids for h in full] == [all_sentences[j] for j in truth]
print(f"{len(all_sentences)} sentences in each tree: the full beam finds the best, for every alpha")

# %% [markdown]
# **Claim 3: a wider beam finds likelier sentences, on average. For one sentence it need not.**
# **Guess first:** in how many of the 1,000 trees is the sentence of beam 2 *less* likely than
# that of greedy search? How can looking at more ever find something worse?

# %%
mine = None  # your guess: so many of the 1,000 trees

# %%
beams = (1, 2, 4, 8)
found = {b: [h[0] for h in beam_search(trees, N_TREES, DEPTH + 1, b, alpha=0.0)] for b in beams}
mean = {b: sum(h.score for h in found[b]) / N_TREES for b in beams}
worse = [i for i in range(N_TREES) if found[2][i].score < found[1][i].score - 1e-4]
assert all(mean[a] <= mean[b] for a, b in itertools.pairwise(beams))
assert 0 < len(worse) < N_TREES / 20
print("mean log-probability:", ", ".join(f"beam {b}: {m:.3f}" for b, m in mean.items()))
print(f"beam 2 is worse than greedy search in {len(worse)} of {N_TREES} trees, for example:")
for b in (1, 2):
    h = found[b][worse[0]]
    words = [i - 3 for i in h.ids]
    print(f"  tree {worse[0]}, beam {b}: words {words}, P = {math.exp(h.score):.4f}")
compare(mine, len(worse), "08: trees in which beam 2 finds less than greedy search")

# %% [markdown]
# It is rare, but it happens. Here is how, with numbers that you can multiply. After the first
# word, "the" leads. After the second, both places of the beam are taken by children of "a" (0.35
# · 0.5 = 0.175 each), and "the dog" (0.4 · 0.4 = 0.16) is dropped: the very prefix that would
# have lost nothing more.

# %%
TRAP = {
    "": {"the": 0.4, "a": 0.35, "one": 0.25},
    "the": {"dog": 0.4, "puppy": 0.3, "hound": 0.3},
    "a": {"dog": 0.5, "puppy": 0.5},
    "one": {"dog": 0.4, "puppy": 0.3, "hound": 0.3},
    "the dog": {"sleeps": 1.0},
    "a dog": {"sleeps": 0.6, "rests": 0.4},
    "a puppy": {"sleeps": 0.5, "rests": 0.5},
}
probabilities = []
for beam in (1, 2, 3):
    best = beam_search(table_score(TRAP), 1, max_len=10, beam=beam, alpha=0.0)[0][0]
    probabilities.append(math.exp(best.score))
    print(f"beam {beam}: {say(best.ids)}, P = {probabilities[-1]:.3f}")
assert torch.allclose(torch.tensor(probabilities), torch.tensor([0.16, 0.105, 0.16]))

# %% [markdown]
# > **Try it.** Make the trees surer of themselves (multiply the random numbers by 5 instead of 2)
# > and less sure (by 0.5). When does a beam help most? Why?
#
# <details><summary>Answer</summary>
#
# Of 300 trees greedy search misses the best of beam 8 in 70; in 19 where the trees are surer, in 127 where they are less
# sure. A sure model puts nearly all probability on one word, so the first choice is right. Where many words are about
# equally likely, what comes later decides, and only a beam waits for it.
#
# </details>

# %% [markdown]
# ## 5 · A Transformer as score function
#
# The searches know nothing of Transformers. What is missing is a `score` function that asks one.
# The encoder reads the source **once**; the decoder reads every prefix and answers for its last
# position. Two questions to decide:
#
# - *May the model write `<pad>` or `<s>`?* They are signs of our own, never part of a
#   translation, and neither is `<unk>`, for with a BPE vocabulary no word is unknown. A trained
#   model gives them almost no probability, but not zero. We set their logits to $-\infty$ before
#   the softmax: so they cannot be written, and the other probabilities still sum to 1.
# - *What about dropout?* A search must not be random, so the model must be in eval mode. After
#   training it is not, and nothing would look wrong; the translations would only be worse. So we
#   check.
#
# (A `Translator` is any model that has `encode`, `decode` and `project`, as lesson 02's and lesson 05's have.)

# %%
#| export
def scorer(model: Translator, read: Callable[[Tensor, Tensor], Tensor]) -> NextLogProbs:
    """Return a score function for the searches; PAD, BOS and UNK get -inf.

    read(prefixes (n, t), rows (n,)) gives the decoder's state at the last token of each prefix,
    (n, D). Raises ValueError if the model is in training mode.
    """
    if model.training:
        raise ValueError("the model is in training mode, its dropout is on: call model.eval()")

    @torch.no_grad()
    def score(prefixes: Tensor, rows: Tensor) -> Tensor:
        logits = model.project(read(prefixes, rows)).float()  # (n, V)
        logits[:, [PAD, BOS, UNK]] = -math.inf
        return logits.log_softmax(-1)

    return score


# %%
#| export
@torch.no_grad()
def next_log_probs(model: Translator, src: Tensor) -> NextLogProbs:
    """Return a function that scores the next token of prefixes, given the source sentences.

    src (B, S). The function takes prefixes (n, t), each beginning with BOS, and rows (n,), the
    source sentence of each prefix, and returns log-probabilities (n, V).
    """
    src_mask = padding_mask(src, PAD)
    memory = model.encode(src, src_mask)  # (B, S, D), read once

    def read(prefixes: Tensor, rows: Tensor) -> Tensor:
        tgt_mask = causal_mask(prefixes.size(1), prefixes.device)
        return model.decode(prefixes, memory[rows], src_mask[rows], tgt_mask)[:, -1]  # (n, D)

    return scorer(model, read)


# %% [markdown]
# One function takes sentences to their translations. Two things are easy to get wrong: an **empty line** must
# stay an empty line, or all later lines are compared with the wrong reference; and the **limit** (input + 50)
# belongs to each sentence.

# %%
#| export
def translate(
    model: Translator, bpe: BPE, sentences: Sequence[str], beam: int = 1, alpha: float = 0.6
) -> list[str]:
    """Return the translation of each sentence, in the same order; an empty line stays empty.

    beam 1 is greedy search. One sentence after the other: slow, and easy to check;
    `course.cache.translate` writes the same, fast. Raises ValueError if the model is in training
    mode, and as `check_search`. At most 50 tokens more than the source (paper, section 6.1).
    """
    translations = []
    for sentence in sentences:
        source = encode_sentence(bpe, sentence)
        src = torch.tensor([source], device=next(model.parameters()).device)  # (1, S)
        score, limit = next_log_probs(model, src), len(source) + 50
        found = beam_search(score, 1, limit, beam, alpha, src.device)[0]
        translations.append(bpe.decode(found[0].ids) if sentence.strip() else "")
    return translations


# %% [markdown]
# Now a real model. We train the `tiny` preset on the captions corpus (a *preset* is a name for sizes and a
# recipe: 07, section 9; `Trainer` is lesson 07's loop that also saves: 07b). We stop **too early on purpose**: a model that never errs has nothing to teach about search. Do not wonder how good
# it is all the same: a small grammar made these captions, and they are much easier than real ones.

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

# %%
test_pairs = pairs("captions", "val")[: device.by_scale(smoke=16, cpu=120, gpu=120)]
german, english = [list(side) for side in zip(*test_pairs)]
by_greedy = translate(model, bpe, german, beam=1)
by_beam = translate(model, bpe, german, beam=4)
different = [i for i in range(len(german)) if by_greedy[i] != by_beam[i]]
for i in different[:3]:
    print(f"source     {german[i]}\nreference  {english[i]}")
    print(f"greedy     {by_greedy[i]}\nbeam 4     {by_beam[i]}\n")
print(f"greedy search and beam 4 differ in {len(different)} of {len(german)} sentences")

# %% [markdown]
# **Claim 4: with a wide beam, the mean log-probability of the translations is higher.** It need not be so: a
# wider beam can push a better prefix out early. So we measure it over the captions, with $\alpha = 0$. The cell asserts it
# for the widest beam against greedy search; read in its output whether the beams between stand in order. We keep
# the whole beams; section 8 (*more*) needs them again.

# %%
BEAMS = (1, 2, 4, 8)
beams_found = {beam: [] for beam in BEAMS}
for source in ([*bpe.encode(s), EOS] for s in german):
    score_caption = next_log_probs(model, torch.tensor([source], device=device.pick()))
    for beam in BEAMS:
        limit = len(source) + 50
        beams_found[beam] += beam_search(score_caption, 1, limit, beam, 0.0, device.pick())
model_score = [sum(f[0].score for f in beams_found[b]) / len(german) for b in BEAMS]
assert model_score[-1] > model_score[0]
print("mean log-probability:", ", ".join(f"beam {b}: {s:.2f}" for b, s in zip(BEAMS, model_score)))


# %% [markdown]
# With the wide beam the model likes its own translations better. Do *we*? For that we need a judge who
# does not ask the model.

# %% [markdown]
# ## 6 · BLEU: how good is a translation?
#
# BLEU (Papineni et al. 2002) compares a translation, the *hypothesis*, with one written by a
# human, the *reference*. It asks two questions:
#
# 1. **Precision:** how many of the hypothesis's words, and runs of 2, 3 and 4 words (*n-grams*),
#    are in the reference?
# 2. **Length:** is the hypothesis shorter than the reference? Then it had an easy game and must
#    pay.
#
# We do one pair by hand. **Guess first:** how many of the nine words of the hypothesis, the full
# stop counted, does the reference confirm? Look twice at "the".

# %%
mine = None  # your guess: 0 to 9

# %%
#| export
def ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """Count the runs of n tokens."""
    return Counter(zip(*(tokens[i:] for i in range(n))))


# %%
# NBVAL_CHECK_OUTPUT
reference = str.split("a small dog is sleeping on the red sofa .")
hypothesis = str.split("a small dog sleeping on the the sofa .")
matched, total = [], []
for n in range(1, 5):
    ours, wanted = ngrams(hypothesis, n), ngrams(reference, n)
    common = ours & wanted  # for each n-gram the smaller of the two counts
    matched.append(common.total())
    total.append(ours.total())
    print(f"{n}-grams: {matched[-1]} of {total[-1]}")
assert matched == [8, 5, 2, 0] and total == [9, 8, 7, 6]
compare(mine, matched[0], "08: words of nine that the reference confirms")

# %% [markdown]
# Eight words, not nine. "the" comes twice in the hypothesis, once in the reference, so only one
# of them counts. The counts are **clipped**: each n-gram counts at most as often as the reference
# has it. Without clipping, the "translation" *the the the the* would get a precision of 100 %. In
# Python, `&` between two `Counter`s is this minimum.

# %%
draw.ngram_boxes(hypothesis, reference)

# %% [markdown]
# Each bar is one n-gram of the hypothesis. Precision asks only about words that *are* there, so the
# first row does not see that "is" is missing. The longer runs do: each run that crosses the gap
# between "dog" and "sleeping" is broken. Single words measure the choice of words; long n-grams
# measure word order and fluency.
#
# BLEU is the geometric mean of the four precisions $p_n$, times the **brevity penalty** BP. With
# $c$ tokens in the hypotheses and $r$ in the references:
#
# $$\operatorname{BLEU} = 100 \cdot \operatorname{BP}
# \cdot \left( p_1 \, p_2 \, p_3 \, p_4 \right)^{1/4}
# \qquad\quad \operatorname{BP} = \min\left(1, \; e^{1 - r/c}\right)$$
#
# Our pair has no 4-gram in common: $p_4 = 0$, and BLEU is 0 for a quite good sentence. So BLEU is
# meant for a **corpus**: the counts of all sentences are added first, and divided only then. Here
# is a second pair, and the whole calculation by hand.

# %%
references = [reference, str.split("two children are playing with a ball in the park .")]
hypotheses = [hypothesis, str.split("two children are playing with a ball in a park .")]
matched, total = [0] * 4, [0] * 4
for ours, wanted in zip(hypotheses, references):
    for n in range(4):
        matched[n] += (ngrams(ours, n + 1) & ngrams(wanted, n + 1)).total()
        total[n] += ngrams(ours, n + 1).total()
c, r = sum(map(len, hypotheses)), sum(map(len, references))
brevity = min(1.0, math.exp(1 - r / c))
by_hand = 100 * brevity * math.prod(m / t for m, t in zip(matched, total)) ** 0.25
print("matched/total:", "  ".join(f"{m}/{t}" for m, t in zip(matched, total)))
print(f"c = {c}, r = {r}, brevity penalty e^(1 - {r}/{c}) = {brevity:.3f}, BLEU = {by_hand:.2f}")
assert matched == [18, 13, 8, 5] and total == [20, 18, 16, 14] and (c, r) == (20, 21)

# %% [markdown]
# As a function, with logarithms in place of the fourth root of a product:

# %%
#| export
def bleu(hypotheses: Iterable[Sequence[str]], references: Iterable[Sequence[str]]) -> float:
    """Return corpus BLEU, 0 to 100: tokens in, one reference a sentence, up to 4-grams.

    Counts are summed over the corpus before anything is divided; no smoothing, so a corpus
    without a single right 4-gram scores 0. Raises ValueError if there are not as many hypotheses
    as references, TypeError for text that is not cut into tokens. Papineni et al. 2002.
    """
    hypotheses, references = list(hypotheses), list(references)
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    if any(isinstance(sentence, str) for sentence in (*hypotheses, *references)):
        raise TypeError("bleu takes lists of tokens, and a string is a list of letters: split it")
    matched, total = [0] * 4, [0] * 4
    for hyp, ref in zip(hypotheses, references):
        for n in range(1, 5):
            found, wanted = ngrams(hyp, n), ngrams(ref, n)
            matched[n - 1] += (found & wanted).total()  # clipped: as often as it is wanted
            total[n - 1] += found.total()
    if min(matched) == 0:
        return 0.0
    hyp_len, ref_len = sum(map(len, hypotheses)), sum(map(len, references))
    precision = math.exp(sum(math.log(m / t) for m, t in zip(matched, total)) / 4)
    return 100 * min(1.0, math.exp(1 - ref_len / hyp_len)) * precision


# %% [markdown]
# `sacrebleu`, the program that papers use, takes plain text and cuts it into tokens by its own rules, called
# `13a`. With the same tokens our function does the same:

# %%
split_13a = Tokenizer13a()


def our_bleu(texts: list[str], gold: list[str]) -> float:
    """BLEU of plain text, by our function over sacrebleu's tokens."""
    return bleu([split_13a(t).split() for t in texts], [split_13a(g).split() for g in gold])



assert math.isclose(our_bleu(by_beam, english), sacrebleu.corpus_bleu(by_beam, [english]).score)
print(f"beam 4 on these captions: BLEU {our_bleu(by_beam, english):.1f}, by both")

# %%
check("bleu_clip")

# %%
check("bleu_brevity")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Against `sacrebleu` · more
#
# The same numbers as the program that papers use; what smoothing does; why a mean of sentence BLEUs is something else.

# %% [markdown]
# **Claim 5: our BLEU is the BLEU of `sacrebleu`,** the program that papers use. It takes plain
# text and cuts it into tokens by its own rules, called `13a`; we give our function the same
# tokens. We compare on the model's translations with every beam, and on nonsense: 200 small
# corpora of random words.

# %%
generator = torch.Generator().manual_seed(0)


def nonsense(n: int) -> list[str]:
    """Return n sentences of 0 to 11 random words out of five."""
    lengths = torch.randint(12, (n,), generator=generator).tolist()
    sentences = [torch.randint(5, (k,), generator=generator).tolist() for k in lengths]
    return [" ".join("abcde"[i] for i in sentence) for sentence in sentences]


corpora = [(nonsense(5), nonsense(5)) for _ in range(200)]
texts = [[bpe.decode(f[0].ids) for f in beams_found[b]] for b in BEAMS]
corpora += [(t, english) for t in [by_greedy, by_beam, *texts]]
for texts_, gold in corpora:
    theirs = sacrebleu.corpus_bleu(texts_, [gold], smooth_method="none").score
    assert math.isclose(our_bleu(texts_, gold), theirs, abs_tol=1e-6)
print(f"{len(corpora)} corpora: the same BLEU")

# %% [markdown]
# Why `smooth_method="none"`? By default sacrebleu *smooths* (`exp`): where a precision is 0, it
# puts a small number in its place (half of one match for the first such $n$, a quarter for the
# next, and so on). Another way is `floor`, which puts a fixed small number there. On a test set
# of a thousand sentences no precision is 0, and all agree. On one sentence they differ a lot:

# %%
# NBVAL_CHECK_OUTPUT
one, gold = " ".join(hypothesis), " ".join(reference)
smoothed = {
    method: sacrebleu.corpus_bleu([one], [[gold]], smooth_method=method).score
    for method in ("none", "floor", "exp")
}
assert bleu([hypothesis], [reference]) == smoothed["none"] == 0
assert 10 < smoothed["floor"] < smoothed["exp"]
print(", ".join(f"{method}: {value:.1f}" for method, value in smoothed.items()))

# %% [markdown]
# **Corpus BLEU is not the mean of the sentences' BLEUs.** Our two sentences:

# %%
# NBVAL_CHECK_OUTPUT
each = [bleu([h], [r]) for h, r in zip(hypotheses, references)]
whole = bleu(hypotheses, references)
assert math.isclose(whole, by_hand) and abs(sum(each) / 2 - whole) > 5
print(f"sentences: {each[0]:.1f} and {each[1]:.1f}, mean {sum(each) / 2:.1f}; corpus: {whole:.1f}")

# %% [markdown]
# > **Try it.** In which order does the mean of sentence BLEUs put two systems, and in which order
# > corpus BLEU? Write two systems of two sentences each for which the orders differ.
#
# <details><summary>Answer</summary>
#
# References: *a dog runs fast .* and *two old men are playing chess in the park today .* System A has the short one right
# and writes *two old men are playing cards at a table .*; B writes *one cat sleeps here .* and has the long one right. Mean of
# sentence BLEUs: 68.6 and 50.0. Corpus: 53.8 and 75.3. For the mean both
# sentences count the same; in the corpus the long one has more n-grams.
#
# </details>

# %%
check("bleu_corpus")

# %% [markdown]
# ## 7 · How to report BLEU, and what it misses
#
# The number depends on how the text was cut into tokens and on upper and lower case. So two
# papers' BLEUs can be compared only if all this is the same (Post 2018). **Guess first:** the
# same two sentences, scored in four ways: which way gives the highest number?

# %%
system = ["A man's well-known dog doesn't sleep.", "The old woman is reading a blue book."]
human = ["The man's well-known dog doesn't sleep.", "the old woman is reading the blue book."]
ways = {
    "sacrebleu on plain text (13a)": our_bleu(system, human),
    "split at spaces": bleu(map(str.split, system), map(str.split, human)),
    "13a, all in lower case": our_bleu([s.lower() for s in system], [s.lower() for s in human]),
    "letter by letter": bleu(map(list, system), map(list, human)),
}
plain = sacrebleu.corpus_bleu(system, [human]).score
assert math.isclose(ways["sacrebleu on plain text (13a)"], plain)
assert max(ways.values()) - min(ways.values()) > 20
for name, value in ways.items():
    print(f"{value:5.1f}  {name}")

# %% [markdown]
# Nothing was translated better from line to line. Two rules follow:
#
# - **Score detokenised text.** Give sacrebleu whole sentences as people write them (`bpe.decode`
#   returns them), against the untouched reference file. Then nobody's tokeniser, vocabulary or
#   lower-casing is inside the number.
# - **Print the signature.** It names every choice:

# %%
metric = sacrebleu.BLEU()
metric.corpus_score(system, [human])
signature = str(metric.get_signature())
assert signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
print(signature)

# %% [markdown]
# One reference for each sentence (`nrefs:1`); upper and lower case differ (`case:mixed`); always
# four precisions, even for short sentences (`eff:no`); tokens by the rules `13a`; `exp`
# is what stands in for a precision of 0; the program's version. The paper's 27.3 and 28.4 for English-German are *tokenised* BLEU, as
# was usual in 2017: on text cut into tokens by another program, with German compounds split at their
# hyphens. Post (2018) found up to 1.8 points between settings that are in common use. So your number
# and the paper's cannot be compared to the point.

# %%
check("bleu_tokens")

# %% [markdown]
# ### What BLEU misses
#
# BLEU sees words, not meaning. **Guess first:** one reference, four translations. Which of them
# has the best BLEU, and which would you choose? The last column is another number, easily mistaken
# for BLEU: both texts are laid side by side and compared place by place. It is the share of places
# that hold the same token.

# %%
gold = "A dog is sleeping on the red sofa in the kitchen ."
candidates = {
    "same meaning, other words": "In the kitchen , a hound takes a nap on a scarlet couch .",
    "wrong meaning, same words": "A dog is not sleeping on the red sofa in the kitchen .",
    "one small word too many": "So a dog is sleeping on the red sofa in the kitchen .",
    "one wrong noun": "A cat is sleeping on the red sofa in the kitchen .",
}


def position_accuracy(text: str, gold: str) -> float:
    """Share of the reference's places at which the text has the same token, in percent."""
    tokens, wanted = text.split(), gold.split()
    return 100 * sum(t == w for t, w in zip(tokens, wanted)) / len(wanted)


rated = {name: (bleu([t.split()], [gold.split()]), position_accuracy(t, gold))
         for name, t in candidates.items()}
for name, (by_bleu, by_position) in rated.items():
    print(f"{name:26} BLEU {by_bleu:5.1f}   same place {by_position:5.1f} %")
assert rated["same meaning, other words"][0] < 10 < 70 < rated["wrong meaning, same words"][0]
assert rated["one small word too many"][0] > 70 and rated["one small word too many"][1] == 0

# %%
draw.what_is_missed(rated)

# %% [markdown]
# - A good paraphrase gets nothing. A "not" that reverses the meaning costs 24 points of 100,
#   a wrong noun 17: the count does not know which word matters.
# - Position accuracy gives 0 to a right text that is shifted by one word. So always say which
#   metric a number is.
# - A difference between two systems on one test set can be chance; below about one point, do not
#   build a theory on it.
#
# BLEU is still useful: it is cheap, everybody has it, and over a thousand sentences the small
# injustices average out. Read some translations too.

# %%
check("bleu_meaning")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 8 · BLEU over beam and α · more
#
# For those who want to see both parts of the lesson meet: which beam and which α give the best BLEU.
#
# Now both parts of the lesson meet. The beams of claim 4 hold up to eight sentences for each
# source. As α only chooses among them, we need not search again: we choose again, with each α.
# **Guess first:** from beam 1 to 8 the mean model score rose. And BLEU? And the length?

# %%
ALPHAS = (0.0, 0.6, 1.0, 2.0)


def choose(hypotheses: list[Hypothesis], alpha: float) -> Hypothesis:
    """Return the best of hypotheses that were found with alpha 0."""

    def key(h):
        return h.finished, h.score / length_penalty(len(h.ids) + h.finished, alpha)

    return max(hypotheses, key=key)


# %%
bleus, lengths, n_words = {}, {}, sum(len(s.split()) for s in english)
for alpha in ALPHAS:
    texts = [[bpe.decode(choose(f, alpha).ids) for f in beams_found[b]] for b in BEAMS]
    bleus[alpha] = [sacrebleu.corpus_bleu(t, [english]).score for t in texts]
    lengths[alpha] = [sum(len(s.split()) for s in t) / n_words for t in texts]
assert len({bleus[alpha][0] for alpha in ALPHAS}) == 1  # a beam of 1 holds one sentence: no choice
for alpha in ALPHAS:
    print(f"alpha {alpha}:", "  ".join(f"beam {b}: {v:.1f}" for b, v in zip(BEAMS, bleus[alpha])))
more = [f"{new - old:+.1f} with beam {b}" for b, old, new in zip(BEAMS, bleus[0.0], bleus[0.6])]
print("alpha 0.6 changes the BLEU of alpha 0 by", ", ".join(more[1:]))

# %%
draw.over_beam(BEAMS, model_score, bleus, lengths)

# %% [markdown]
# Left, what the search promises: likelier sentences. Right, what comes with it. Look at $\alpha =
# 0$ first: the likelier sentences are usually the shorter ones, as section 4 said; where the beam grows,
# the text shrinks. And in the middle, what we want: better translations. Without the penalty a
# wider beam need not help, and it hurts where the text becomes too short, for BLEU's brevity
# penalty counts every missing word. What $\alpha = 0.6$ makes of the same beams stands in the last
# line of the output above.
#
# **Do not take these BLEUs for usual ones.** A small grammar made the captions, so that even a small
# model reaches about 80 after a short training (in the run that this page stores). On real captions,
# lesson 09 gets about 40.
#
# Do not take the best α from this picture either: one small model, few sentences. The paper chose beam 4 and
# $\alpha = 0.6$ on development data, and for parsing beam 21 and $\alpha = 0.3$ (section 6.3).
#
# Is a better search always better? No. Stahlberg and Byrne
# (2019) searched exactly, and found that for more than half of their sentences the *likeliest*
# translation of a good model was the empty one. A narrow beam protects us from what the model
# really believes. That is a strange state of affairs, and an open problem.
#
# > **Try it.**
# > 1. Draw the curves for the beams 16 and 32. Does BLEU still follow the model score?
# > 2. Replace `argmax` in `greedy_search` by drawing a word from its probabilities
# >    (`torch.multinomial`). What happens to BLEU, and for which task would you prefer it?
#
# <details><summary>Answer</summary>
#
# 1. Add 16 and 32 to `BEAMS` (it takes minutes). The model score can go on rising, by less and less; BLEU need not
#    follow, and at $\alpha = 0$ it falls where the text gets shorter. Lesson 09b has the same picture for real captions.
# 2. Expect BLEU to fall: words that the model holds to be unlikely are written, too, and each wrong word breaks up to ten
#    n-grams. For a translation the source has said what comes; for a story or a chat, where many texts are right, drawing is better
#    (lesson 10 measures it).
#
# </details>

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Another search, another α · more
#
# The best α belongs to a model **and to a search**. For those who want to compare their α with the paper's.

# %% [markdown]
# In our search a finished prefix keeps its place in the beam, and α only chooses among what is there at the
# end. The paper's own code (tensor2tensor) keeps finished prefixes **apart**: they take no place from the
# others, they are ranked by their *penalised* score at once, and the search goes on until no live prefix can
# beat the worst of the kept ones. There α also decides how long to go on. **Guess first:** for which of the two
# searches is a large α dangerous?

# %%
#| export
@torch.no_grad()
def beam_apart(
    score: NextLogProbs,
    row: int,
    limit: int,
    beam: int,
    alpha: float,
    follow: Callable[[Tensor], None] | None = None,
) -> Hypothesis:
    """Return the best of a beam search for one sentence that keeps finished prefixes apart.

    As tensor2tensor's: the `beam` best finished ones by penalised score, until no live prefix can
    beat the worst of them. follow: told which prefix each of the next ones grew out of (lesson 08b).
    """
    prefixes, totals, done = torch.tensor([[BOS]]), torch.zeros(1), []
    while True:
        log_probs = totals[:, None] + score(prefixes, torch.full((len(prefixes),), row))  # (k, V)
        totals, place = (best[: 2 * beam] for best in log_probs.flatten().sort(descending=True))
        totals, place = totals[totals.isfinite()], place[totals.isfinite()]
        parent, token = place // log_probs.size(1), place % log_probs.size(1)
        prefixes = torch.cat([prefixes[parent], token[:, None]], dim=1)  # up to 2k: k can go on
        ended = token == EOS
        done += ranked(prefixes[ended].tolist(), totals[ended].tolist(), alpha)
        done = sorted(done, key=lambda h: h.score, reverse=True)[:beam]
        prefixes, totals, parent = (x[~ended][:beam] for x in (prefixes, totals, parent))
        if not len(prefixes) or prefixes.size(1) > limit:
            return (done or ranked(prefixes.tolist(), totals.tolist(), alpha))[0]
        if len(done) == beam and done[-1].score >= totals[0] / length_penalty(limit, alpha):
            return done[0]
        if follow:
            follow(parent)


# %% [markdown]
# A beam as wide as the tree must find the best sentence here, too. Then the shipped translator on Multi30k's
# validation set, beam 4; the table was measured by `python -m course.authoring.alpha`.

# %%
for alpha in (0.0, 0.6, 2.0):
    divisor = torch.tensor([length_penalty(len(s) + 1, alpha) for s in all_sentences])
    truth = (all_totals / divisor).argmax(1).tolist()
    for row, j in enumerate(truth):
        best = beam_apart(trees, row, DEPTH + 1, len(all_sentences), alpha)
        assert best.ids == all_sentences[j]
print("the wide beam finds the best sentence of every tree")

# %%
measured = json.loads((ASSETS / "results" / "length_penalty.json").read_text("utf-8"))
print("finished prefixes   alpha   BLEU   length of the text, by the reference's")
for r in measured["rows"]:
    print(f"{r['finished']:18}  {r['alpha']:5}  {r['bleu']:5.2f}   {r['length_ratio']:.3f}")
in_beam, apart = (
    {r["alpha"]: r["bleu"] for r in measured["rows"] if r["finished"] == kind}
    for kind in ("in the beam", "kept apart")
)
assert max(in_beam, key=in_beam.get) == 2.1 and max(apart, key=apart.get) == 1.5

# %% [markdown]
# At 0.6 the two searches score alike. In ours a larger α gains a little up to 2.1: it only chooses among the few candidates
# that the beam still holds. Kept apart, 1.5 is the best of the three, and 2.1 costs 3.6 BLEU: now α also says whom to keep
# and when to stop, and the text becomes 9 % longer than the reference. So the α of a paper says little without its search.

# %% [markdown]
# ## What you built
#
# | name | takes | gives |
# |---|---|---|
# | `next_log_probs(model, src)` | src (B, S) | a function: prefixes (n, t), rows (n,) -> (n, V) |
# | `greedy_search(score, n, max_len)` | that function | n lists of ids |
# | `beam_step(score, row, prefixes, totals, beam)` | (k, t), (k,) | (k, t + 1), (k,) |
# | `beam_search(score, n, max_len, beam, alpha)` | that function | n lists of `Hypothesis` |
# | `length_penalty(length, alpha)` | a length in tokens | a divisor |
# | `translate(model, bpe, sentences)` | n sentences | n sentences |
# | `bleu(hypotheses, references)` | lists of tokens | 0 to 100 |
#
# ## Summary · 小结
#
# A model gives the next word's probabilities; a search turns them into a sentence. Greedy search
# takes the likeliest word each time and can miss a likelier sentence. Beam search keeps the $k$
# likeliest prefixes; finished ones stop growing. $k = 1$ is greedy search; a beam as wide as the
# tree is exhaustive search; in between, the mean score rises with $k$, though not for every
# sentence. Sums of log-probabilities favour short sentences; dividing by $((5 + |Y|)/6)^{\alpha}$
# corrects that. BLEU is the geometric mean of clipped n-gram precisions times a brevity penalty,
# counted over a corpus. Report it with sacrebleu, on detokenised text, with its signature.
#
# <div lang="zh">
#
# **小结**
#
# 模型只给出下一个词的概率，要靠搜索才能得到整个句子。
# 贪心搜索（greedy search）每一步都取概率最大的词，可能错过概率更大的句子。
# 束搜索（beam search）每一步保留概率最大的 $k$ 个前缀；
# 已经写出 `</s>` 的前缀不再增长。
# $k = 1$ 就是贪心搜索；束宽大到能容纳整棵树时，就是穷举搜索；
# 在两者之间，平均得分随 $k$ 上升，但对单个句子不一定如此。
# 对数概率之和偏爱短句，除以长度惩罚 $((5 + |Y|)/6)^{\alpha}$ 可以纠正这种偏向。
# BLEU 是截断的（clipped）n 元语法精确率的几何平均，再乘以简短惩罚（brevity penalty）；
# 计数要先在整个语料上相加，再相除。
# 报告 BLEU 时，用 sacrebleu 对去词元化（detokenised）的文本计算，
# 并附上它的签名（signature）。
#
# </div>
#
# ## Further reading
#
# - Sutskever, Vinyals, Le (2014), *Sequence to Sequence Learning with Neural Networks*, arXiv
#   1409.3215: a beam of 2 already gives most of the gain.
# - Wu et al. (2016), *Google's Neural Machine Translation System*, arXiv 1609.08144: section 7,
#   the length penalty.
# - Koehn, Knowles (2017), *Six Challenges for Neural Machine Translation*, arXiv 1706.03872:
#   quality falls again with wide beams.
# - Stahlberg, Byrne (2019), *On NMT Search Errors and Model Errors: Cat Got Your Tongue?*, arXiv
#   1908.10090.
# - Papineni, Roukos, Ward, Zhu (2002), *BLEU: a Method for Automatic Evaluation of Machine
#   Translation*, ACL.
# - Post (2018), *A Call for Clarity in Reporting BLEU Scores*, arXiv 1804.08771.
#
# **Homework.** [Assignment decoding](homework/release/decoding/decoding.ipynb): write greedy
# search, beam search, and BLEU yourself; the check names what went wrong.
#
# **Next:** [lesson 08b](08b_cache.ipynb) makes the searches fast (you may skip it);
# [lesson 09](09_evaluation.ipynb) puts everything together: real captions, a real model, and
# a BLEU with its signature.
