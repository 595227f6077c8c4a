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

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "c9e2ac24a545dcf3c09073281436cd8b", "grade": false, "grade_id": "mask_for_bert", "locked": false, "schema_version": 3, "solution": true, "task": false}
def mask_for_bert(
    tokens: Tensor, mask_id: int, vocab_size: int, special_ids: list[int]
) -> tuple[Tensor, Tensor]:
    raise NotImplementedError  # your code


# %%
check("mask_for_bert", mask_for_bert)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "f714c8f21319882195d79d9a2172b4f2", "grade": true, "grade_id": "mask_for_bert-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
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

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "c6c86a9a7de87307da0f454f752ead56", "grade": false, "grade_id": "rotary", "locked": false, "schema_version": 3, "solution": true, "task": false}
def rotary(x: Tensor, positions: Tensor) -> Tensor:
    raise NotImplementedError  # your code


# %%
check("rotary", rotary)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "23ef98e91b687d75055c5c734b5e49de", "grade": true, "grade_id": "rotary-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
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

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "7eef5fa86c9ba601ef9b324fd69254fd", "grade": false, "grade_id": "alibi_bias", "locked": false, "schema_version": 3, "solution": true, "task": false}
def alibi_bias(n_heads: int, length: int) -> Tensor:
    raise NotImplementedError  # your code


# %%
check("alibi_bias", alibi_bias)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "cfc4e3cfbcb079ae3713bee33fcf38a3", "grade": true, "grade_id": "alibi_bias-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
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

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "278d3c7f5bf58a588c251b64c7e0efd6", "grade": false, "grade_id": "kv_cache_step", "locked": false, "schema_version": 3, "solution": true, "task": false}
def kv_cache_step(
    x: Tensor, cache: tuple[Tensor, Tensor] | None, w_q: Tensor, w_k: Tensor, w_v: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    raise NotImplementedError  # your code


# %%
check("kv_cache_step", kv_cache_step)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "79e83fa79e1ea70809ea7bb20b1490bb", "grade": true, "grade_id": "kv_cache_step-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
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

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "c06e9d74fd242e3aeb5423afe340c8d4", "grade": false, "grade_id": "nucleus", "locked": false, "schema_version": 3, "solution": true, "task": false}
def nucleus(log_probs: Tensor, top_p: float) -> Tensor:
    raise NotImplementedError  # your code


# %%
check("nucleus", nucleus)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "fe4165a8644b0f6cbf5eedd8f0dced4d", "grade": true, "grade_id": "nucleus-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
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

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "6a37c4d9153a62f0f6c4a3ea34cfe44f", "grade": false, "grade_id": "linearise", "locked": false, "schema_version": 3, "solution": true, "task": false}
def linearise(tree: str) -> list[str]:
    raise NotImplementedError  # your code


# %%
check("linearise", linearise)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "bc771696509676d0ae9a48cfce8be8f3", "grade": true, "grade_id": "linearise-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
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

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "492c11870a4f8f7ad64df3295cc840bd", "grade": false, "grade_id": "bracket_f1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def bracket_f1(
    predicted: list[list[tuple[str, int, int]]], gold: list[list[tuple[str, int, int]]]
) -> float:
    raise NotImplementedError  # your code


# %%
check("bracket_f1", bracket_f1)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "843653dcafa5b5af5cf5b5c9ad814f64", "grade": true, "grade_id": "bracket_f1-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("bracket_f1", bracket_f1, strict=True).passed

# %% [markdown]
# *Run All* brought you here, and cells above have no number? It stopped at the first exercise that is not
# passed yet; the message below its second check cell says why.
#
# All green? The report collects it: `python -m course homework report` writes `build/report.html`, for you.
# A teacher who grades wants this notebook itself. What is left is [the exam](../exam/exam.ipynb).

