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
# # Homework · beyond
#
# You write what the models after the paper changed, and how a parser is trained and scored: two hours, with
# torch and your head. Close [the lesson](../../../10_beyond.ipynb) first. Looking things up is fine, copying is not: what you wrote
# yourself, you own.
#
# Run `check` as often as you like. It tries fresh values each time, says what is wrong and often why, and
# shows the hint that fits your mistake (under the card are all three, for when you are stuck). The second
# check cell of an exercise is the one that is marked: it stops *Run All* at the first exercise that is not
# passed yet, and says why in its last lines. B is the batch, H the heads, L or t a number of words, D
# d_model, Dk a head's width, V the vocabulary.

# %%
import math
import re
from collections import Counter
from contextlib import suppress

import torch
from torch import Tensor

from course.homework import check

# %% [markdown]
# <!-- card: mask_for_bert -->
# ## `mask_for_bert`
#
# What BERT is given to read and asked to say: 15 % of the words are chosen. Of these 80 % become mask_id, 10 % a random id from 0 to vocab_size - 1, 10 % stay. labels hold the word that stood there, and -100 wherever nothing was chosen.
#
# *Why it matters.* An encoder sees every word, so the next word is no question for it. BERT hides words instead: the same layers as in the paper, another thing to be asked. -100 is what torch's cross_entropy leaves out.
#
# ★★☆☆☆ · 15 minutes · 2 points
#
# ```text
# mask_for_bert(tokens, mask_id, vocab_size, special_ids) -> (inputs, labels)
# tokens (B, L), whole numbers
# special_ids a list of ids that are never chosen
# inputs and labels (B, L), of the type of tokens
# ```
#
# <details><summary>Hint 1</summary>
#
# Two lots for each word: is it chosen, and if so, which of the three happens to it? The labels follow from the first lot alone.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# chosen = (torch.rand(tokens.shape) < 0.15) & ~special, where special = torch.isin(tokens, torch.tensor(special_ids)). A second torch.rand decides: below 0.8 mask, below 0.9 random, else as it was.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# inputs = torch.where(chosen & (lot < 0.8), mask_id, tokens); then a second where with torch.randint_like(tokens, vocab_size) where lot is between 0.8 and 0.9; labels = torch.where(chosen, tokens, -100).
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "mask_for_bert", "locked": false, "schema_version": 3, "solution": true, "task": false}
def mask_for_bert(
    tokens: Tensor, mask_id: int, vocab_size: int, special_ids: list[int]
) -> tuple[Tensor, Tensor]:
    ### BEGIN SOLUTION
    special = torch.isin(tokens, torch.tensor(special_ids))
    chosen = (torch.rand(tokens.shape) < 0.15) & ~special  # (B, L)
    labels = torch.where(chosen, tokens, -100)
    lot = torch.rand(tokens.shape)  # what happens to a chosen word
    inputs = torch.where(chosen & (lot < 0.8), mask_id, tokens)
    drawn = torch.randint_like(tokens, vocab_size)
    return torch.where(chosen & (lot >= 0.9), drawn, inputs), labels
    ### END SOLUTION


# %%
check("mask_for_bert", mask_for_bert)

# %% nbgrader={"grade": true, "grade_id": "mask_for_bert-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("mask_for_bert", mask_for_bert, strict=True).passed

# %% [markdown]
# A model that has learned nothing gives each of 1,000 words the same score. What is its loss, and over how
# many of the 2,000 places is it the mean? **Guess first**, then run.

# %%
torch.manual_seed(0)
tokens = torch.randint(5, 1000, (20, 100))
with suppress(NotImplementedError):  # quiet until you have written it
    inputs, labels = mask_for_bert(tokens, 4, 1000, [0, 1, 2, 3, 4])
    loss = torch.nn.functional.cross_entropy(torch.zeros(2000, 1000), labels.flatten())
    print(f"{int((labels != -100).sum())} places are asked for; loss {loss:.2f}, ln 1000 is 6.91")

# %% [markdown]
# <!-- card: rotary -->
# ## `rotary`
#
# Say where a word stands by turning its query and its key, pair of numbers by pair: (a, b) becomes (a cos - b sin, a sin + b cos).
#
# *Why it matters.* The dot product of two turned vectors depends on the distance of their places only. Most language models of today use it (Su et al. 2021) instead of adding sines.
#
# ★★★☆☆ · 20 minutes · 3 points
#
# ```text
# rotary(x, positions): x (B, H, L, Dk) with Dk even, positions (L,) -> like x
# the pair (2i, 2i + 1) is turned by the angle position * 10000^(-2i / Dk)
# ```
#
# <details><summary>Hint 1</summary>
#
# Which numbers form a pair, which angle has pair i at position p? Write both for Dk = 4.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# An outer product, positions[:, None] * frequencies, gives all angles (L, Dk / 2). x[..., 0::2] are the first numbers of all pairs, x[..., 1::2] the second ones.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2) puts the pairs together again.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "rotary", "locked": false, "schema_version": 3, "solution": true, "task": false}
def rotary(x: Tensor, positions: Tensor) -> Tensor:
    ### BEGIN SOLUTION
    d_k = x.size(-1)
    frequency = 10_000.0 ** (-torch.arange(0, d_k, 2, dtype=torch.float64) / d_k)
    angle = positions[:, None] * frequency  # (L, Dk / 2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., 0::2], x[..., 1::2]  # of each pair
    turned = first * cos - second * sin, first * sin + second * cos
    return torch.stack(turned, dim=-1).flatten(-2)
    ### END SOLUTION


# %%
check("rotary", rotary)

# %% nbgrader={"grade": true, "grade_id": "rotary-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("rotary", rotary, strict=True).passed

# %% [markdown]
# <!-- card: alibi_bias -->
# ## `alibi_bias`
#
# Say how far apart words stand by a number that is added to their scores: the farther, the lower, in each head with another slope.
#
# *Why it matters.* No vector for a position, nothing to learn, and it goes on for texts longer than any in training (Press et al. 2022).
#
# ★★☆☆☆ · 10 minutes · 2 points
#
# ```text
# alibi_bias(n_heads, length) -> (H, L, L), float: minus slope times |i - j| for
#     query i and key j
# head h, counted from 1, has the slope 2^(-8h / H)
# ```
#
# <details><summary>Hint 1</summary>
#
# Write the table |i - j| for three words. Which head forgets the distance fastest?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# positions[:, None] - positions[None, :] is the table of differences; slopes[:, None, None] broadcasts over it.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# -(2.0 ** (-8 * torch.arange(1, H + 1) / H))[:, None, None] * (i - j).abs()
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "alibi_bias", "locked": false, "schema_version": 3, "solution": true, "task": false}
def alibi_bias(n_heads: int, length: int) -> Tensor:
    ### BEGIN SOLUTION
    slopes = 2.0 ** (-8 * torch.arange(1, n_heads + 1) / n_heads)
    place = torch.arange(length)
    return -slopes[:, None, None] * (place[:, None] - place).abs()  # (H, L, L)
    ### END SOLUTION


# %%
check("alibi_bias", alibi_bias)

# %% nbgrader={"grade": true, "grade_id": "alibi_bias-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("alibi_bias", alibi_bias, strict=True).passed

# %% [markdown]
# <!-- card: kv_cache_step -->
# ## `kv_cache_step`
#
# Let one new word attend to all words before it and to itself, without computing theirs again: one head, scores divided by the square root of D.
#
# *Why it matters.* Without a cache the n-th word costs n words' work. With it, writing is as fast as it is.
#
# ★★★☆☆ · 20 minutes · 3 points
#
# ```text
# kv_cache_step(x, cache, w_q, w_k, w_v): x (B, 1, D), cache None or (keys,
#     values) each (B, t, D), weights (D, D), used as x @ w, as in the paper's
#     formulas (nn.Linear keeps them transposed) -> (output (B, 1, D), new cache)
# ```
#
# <details><summary>Hint 1</summary>
#
# What of the new word is needed later: its query, its key or its value?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Project x three times; put the new key and value behind those of the cache (dim=1); then it is plain attention with one query, and no mask.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# keys = key if cache is None else torch.cat([cache[0], key], dim=1), the same for values; softmax(query @ keys.mT / sqrt(D)) @ values.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "kv_cache_step", "locked": false, "schema_version": 3, "solution": true, "task": false}
def kv_cache_step(
    x: Tensor, cache: tuple[Tensor, Tensor] | None, w_q: Tensor, w_k: Tensor, w_v: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    ### BEGIN SOLUTION
    keys, values = x @ w_k, x @ w_v
    if cache is not None:
        keys = torch.cat([cache[0], keys], dim=1)  # (B, t + 1, D)
        values = torch.cat([cache[1], values], dim=1)
    weights = (x @ w_q @ keys.mT / math.sqrt(x.size(-1))).softmax(dim=-1)
    return weights @ values, (keys, values)
    ### END SOLUTION


# %%
check("kv_cache_step", kv_cache_step)

# %% nbgrader={"grade": true, "grade_id": "kv_cache_step-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("kv_cache_step", kv_cache_step, strict=True).passed

# %% [markdown]
# <!-- card: nucleus -->
# ## `nucleus`
#
# Keep the likeliest words until together they hold top_p, and share the whole probability among them.
#
# *Why it matters.* A sample from all words picks a bad one sooner or later: thousands of unlikely words weigh together. Cut by probability, not by number (Holtzman et al. 2020).
#
# ★★★☆☆ · 20 minutes · 3 points
#
# ```text
# nucleus(log_probs, top_p): log_probs (..., V) -> (..., V), log-probabilities of
#     the smallest set of words that holds top_p, renormalised, -inf for all
#     others
# ```
#
# <details><summary>Hint 1</summary>
#
# Order the words by probability, and add up from the top. Which word is the last to stay?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# A word stays if what stands *before* it is less than top_p: cumsum minus the word's own.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# kept is known in the sorted order: torch.zeros_like(kept).scatter(-1, order, kept) brings it back. Then masked_fill(~kept, -inf).log_softmax(-1).
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "nucleus", "locked": false, "schema_version": 3, "solution": true, "task": false}
def nucleus(log_probs: Tensor, top_p: float) -> Tensor:
    ### BEGIN SOLUTION
    ordered, order = log_probs.sort(dim=-1, descending=True)
    before = ordered.exp().cumsum(dim=-1) - ordered.exp()
    ordered = ordered.masked_fill(before >= top_p, -math.inf)
    kept = torch.full_like(log_probs, -math.inf).scatter(-1, order, ordered)
    return kept.log_softmax(dim=-1)
    ### END SOLUTION


# %%
check("nucleus", nucleus)

# %% nbgrader={"grade": true, "grade_id": "nucleus-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("nucleus", nucleus, strict=True).passed

# %% [markdown]
# <!-- card: linearise -->
# ## `linearise`
#
# Write a syntax tree as a sequence, so that a translator can write it.
#
# *Why it matters.* With it, parsing is translation (Vinyals et al. 2015), and the paper's section 6.3 needs no change of the model.
#
# ★★☆☆☆ · 20 minutes · 2 points
#
# ```text
# linearise(tree): tree like "(S (NP (DT a) (NN dog)) (VP (VBZ sleeps)))" -> list
#     of symbols: "(NP" where a phrase opens, ")NP" where it closes, "XX" for each
#     word with its tag
# ```
#
# <details><summary>Hint 1</summary>
#
# Go through the text once. What three kinds of things do you meet?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# A closing bracket does not say what it closes: keep the open labels in a list, the last opened is closed first. A word with its tag, (NN dog), opens no phrase.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# tree.replace("(", " ( ").replace(")", " ) ").split() gives the pieces. Behind "(" stands a label; if no other "(" follows it, a word does, and then ")".
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "linearise", "locked": false, "schema_version": 3, "solution": true, "task": false}
def linearise(tree: str) -> list[str]:
    ### BEGIN SOLUTION
    symbols, opened = [], []
    for token in re.findall(r"\([^\s()]+ [^\s()]+\)|\([^\s()]+|\)", tree):
        if token == ")":
            symbols.append(")" + opened.pop())
        elif token.endswith(")"):
            symbols.append("XX")
        else:
            opened.append(token[1:])
            symbols.append(token)
    return symbols
    ### END SOLUTION


# %%
check("linearise", linearise)

# %% nbgrader={"grade": true, "grade_id": "linearise-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("linearise", linearise, strict=True).passed

# %% [markdown]
# <!-- card: bracket_f1 -->
# ## `bracket_f1`
#
# Score a parser: count the brackets that it shares with the gold tree, sentence by sentence, over the whole corpus. A bracket that comes twice counts twice.
#
# *Why it matters.* It is the number of the paper's Table 4: 91.3 for the Transformer on the small data.
#
# ★★☆☆☆ · 15 minutes · 2 points
#
# ```text
# bracket_f1(predicted, gold): for each sentence a list of brackets (label, start,
#     end), both lists in the same order of sentences -> F1 in percent, 0 to 100
# ```
#
# <details><summary>Hint 1</summary>
#
# Three counts are enough: brackets that are right, predicted, and in the gold trees.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Counter(a) & Counter(b) is what two lists share, with how often.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# 100 * 2 * right / (predicted + gold), after all sentences; 0 if nothing is there.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "bracket_f1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def bracket_f1(
    predicted: list[list[tuple[str, int, int]]], gold: list[list[tuple[str, int, int]]]
) -> float:
    ### BEGIN SOLUTION
    right = sum((Counter(p) & Counter(g)).total() for p, g in zip(predicted, gold))
    return 200 * right / max(1, sum(map(len, predicted)) + sum(map(len, gold)))
    ### END SOLUTION


# %%
check("bracket_f1", bracket_f1)

# %% nbgrader={"grade": true, "grade_id": "bracket_f1-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("bracket_f1", bracket_f1, strict=True).passed

# %% [markdown]
# *Run All* brought you here, and cells above have no number? It stopped at the first exercise that is not
# passed yet; the message below its second check cell says why.
#
# All green? The report collects it: `python -m course homework report` writes `build/report.html`, for you.
# A teacher who grades wants this notebook itself. What is left is [the exam](../exam/exam.ipynb).

