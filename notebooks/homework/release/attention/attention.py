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
# # Homework · attention
#
# You write the heart of the paper, from the softmax to several heads: 80 minutes, with torch and your
# head. Close [the lesson](../../../03_attention.ipynb) first. Looking things up is fine, copying is
# not: what you wrote yourself, you own.
#
# Run `check` as often as you like. It tries fresh numbers each time, says what is wrong and often why, and
# shows the hint that fits your mistake (under the card are all three, for when you are stuck). The second
# check cell of an exercise is the one that is marked: it stops *Run All* at the first exercise that is not
# passed yet, and says why in its last lines. B is the batch, L a number of words, D d_model, H heads, Q and
# K the numbers of queries and keys.

# %%
import math

import torch
from torch import Tensor, nn

from course.homework import check

# %% [markdown]
# <!-- card: softmax -->
# ## `softmax`
#
# Turn any numbers into weights: exp of each, divided by the sum of all along `dim`.
#
# *Why it matters.* Attention is a weighted mean, and these are the weights. In float16 exp overflows at 11, so a softmax that is not stable ruins a real training run.
#
# ★★☆☆☆ · 10 minutes · 2 points
#
# ```text
# softmax(x, dim) -> like x, summing to one along dim
# x may hold -inf: its weight is 0
# ```
#
# <details><summary>Hint 1</summary>
#
# Two steps: exp of each number, then a division by a sum. Over which numbers does one sum run, if dim is the middle one of three?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# e / e.sum(dim, keepdim=True): keepdim leaves the summed dimension there, of size 1, so that the quotient fits.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# exp overflows above 88. Take the same number away from all x of a row, and the quotient stays: take the largest, x.amax(dim, keepdim=True), and exp never sees more than 0.
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "b73a4b984b38b1ce64b2bf1fb6985196", "grade": false, "grade_id": "softmax", "locked": false, "schema_version": 3, "solution": true, "task": false}
def softmax(x: Tensor, dim: int) -> Tensor:
    raise NotImplementedError  # your code


# %%
check("softmax", softmax)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "b4018e7c8af64351b30cd1471003eb14", "grade": true, "grade_id": "softmax-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("softmax", softmax, strict=True).passed

# %% [markdown]
# <!-- card: scaled_dot_product_attention -->
# ## `scaled_dot_product_attention`
#
# Equation 1 of the paper, with a mask. A query that may attend to nothing gets zeros.
#
# *Why it matters.* This is the whole idea of the paper in three lines: all the rest of the Transformer prepares its inputs or tidies up after it.
#
# ★★★☆☆ · 20 minutes · 3 points
#
# ```text
# scaled_dot_product_attention(query, key, value, mask=None) -> (output, weights)
# query (..., Q, Dk), key (..., K, Dk), value (..., K, Dv), mask boolean, True =
#     may attend, broadcastable to (..., Q, K)
# output (..., Q, Dv), weights (..., Q, K)
# ```
#
# <details><summary>Hint 1</summary>
#
# Three steps: scores (..., Q, K), weights (..., Q, K), output (..., Q, Dv). Write the shape beside each line.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# scores = query @ key.transpose(-2, -1) / math.sqrt(Dk). Where the mask is False, a score of -inf becomes a weight of 0.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# A row that is masked as a whole is NaN after the softmax (0 / 0): weights.masked_fill(~mask, 0) mends it and changes nothing else.
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "bf3d9ede49d8cf3c8dcef0ac7524431d", "grade": false, "grade_id": "sdpa", "locked": false, "schema_version": 3, "solution": true, "task": false}
def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    raise NotImplementedError  # your code


# %%
check("scaled_dot_product_attention", scaled_dot_product_attention)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "8f06692f9e2bf1b8d2af63e527c45901", "grade": true, "grade_id": "sdpa-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("scaled_dot_product_attention", scaled_dot_product_attention, strict=True).passed

# %% [markdown]
# <!-- card: split_heads -->
# ## `split_heads`
#
# Cut the features of every word into n_heads equal pieces, and put the heads before the words.
#
# *Why it matters.* One matrix product then serves all heads at once: heads are one more batch dimension.
#
# ★★☆☆☆ · 10 minutes · 2 points
#
# ```text
# split_heads(x, n_heads): x (B, L, D) -> (B, H, L, D / H)
# head 0 gets the first D / H features of each word
# ```
#
# <details><summary>Hint 1</summary>
#
# Two steps: cut the last dimension into two, then exchange two dimensions.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# After the cut the shape is (B, L, H, D / H). Which two of them change places?
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# x.unflatten(-1, (n_heads, -1)) cuts; transpose(1, 2) exchanges.
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "fe528dc729dc257c57be245163eda011", "grade": false, "grade_id": "split_heads", "locked": false, "schema_version": 3, "solution": true, "task": false}
def split_heads(x: Tensor, n_heads: int) -> Tensor:
    raise NotImplementedError  # your code


# %%
check("split_heads", split_heads)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "ecee3396f5bdab59284d2cc5ade42452", "grade": true, "grade_id": "split_heads-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("split_heads", split_heads, strict=True).passed

# %% [markdown]
# <!-- card: merge_heads -->
# ## `merge_heads`
#
# Undo split_heads: put what the heads found side by side, for every word.
#
# *Why it matters.* The paper's Concat(head_1, ..., head_h). It is where the most silent bug of attention code lives: a reshape that mixes words and raises no error.
#
# ★★☆☆☆ · 10 minutes · 2 points
#
# ```text
# merge_heads(x): x (B, H, L, Dv) -> (B, L, H * Dv)
# head 0's features come first
# ```
#
# <details><summary>Hint 1</summary>
#
# Two steps, those of split_heads backwards.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# First exchange heads and words, so that H and Dv are neighbours; then join the last two.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# x.transpose(1, 2) and then flatten(-2); view would raise here, since a transpose only renames the strides.
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "0ab803eb92a5201218da2a0bc04102b3", "grade": false, "grade_id": "merge_heads", "locked": false, "schema_version": 3, "solution": true, "task": false}
def merge_heads(x: Tensor) -> Tensor:
    raise NotImplementedError  # your code


# %%
check("merge_heads", merge_heads)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "9d4741a24480bfdfaba7b3c9b19efa54", "grade": true, "grade_id": "merge_heads-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("merge_heads", merge_heads, strict=True).passed

# %% [markdown]
# <!-- card: MultiHeadAttention -->
# ## `MultiHeadAttention`
#
# Project, split into heads, attend in each, merge, project once more.
#
# *Why it matters.* One head makes one weighted mean, so it can look at one place. Several look at several places, for about the same cost.
#
# ★★★★☆ · 30 minutes · 4 points
#
# ```text
# MultiHeadAttention(d_model, n_heads): an nn.Module with w_q, w_k, w_v, w_o, each
#     nn.Linear(d_model, d_model), biases as you like
# called (query, key, value, mask=None) with query (B, Q, D), key and value (B, K,
#     D), mask broadcastable to (B, H, Q, K) -> (B, Q, D), or a pair of that and
#     the weights
# ```
#
# <details><summary>Hint 1</summary>
#
# You have all the parts: four Linear layers, split_heads, scaled_dot_product_attention, merge_heads.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# d_k is d_model / n_heads, and the scale comes from d_k, not from d_model. The mask comes ready to broadcast over heads: hand it on as it is.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# heads, _ = scaled_dot_product_attention(*(split_heads(w(x), n_heads) for each w and x), mask); return self.w_o(merge_heads(heads)).
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "7551f16f5fa316f1e67094a91b4ea0c8", "grade": false, "grade_id": "multi_head", "locked": false, "schema_version": 3, "solution": true, "task": false}
class MultiHeadAttention(nn.Module):
    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        raise NotImplementedError  # your code

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        raise NotImplementedError  # your code


# %%
check("MultiHeadAttention", MultiHeadAttention)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "f67c8f3025dc68c1888a6bf7593505d6", "grade": true, "grade_id": "multi_head-check", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("MultiHeadAttention", MultiHeadAttention, strict=True).passed

# %% [markdown]
# *Run All* brought you here, and cells above have no number? It stopped at the first exercise that is not
# passed yet; the message below its second check cell says why.
#
# All green? Then you have written the function that the paper is named after. The report collects it:
# `python -m course homework report` writes `build/report.html`, for you. A teacher who grades wants this
# notebook itself. Next come [the masks](../masking/masking.ipynb).
