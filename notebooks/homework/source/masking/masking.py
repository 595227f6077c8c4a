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
# # Homework · masking
#
# You write the three small functions that keep a Transformer honest: 15 minutes. Close
# [the lesson](../../../04_masking.ipynb) first. Looking things up is fine, copying is not: what you
# wrote yourself, you own.
#
# Each function is one line long, and each is easy to get wrong without any error. So before you write, draw
# the table for a sentence of three words by hand. Run `check` as often as you like: it tries fresh numbers
# each time, says what is wrong and often why, and shows the hint that fits your mistake (under the card are
# all three, for when you are stuck). The second check cell of an exercise is the one that is marked: it
# stops *Run All* at the first exercise that is not passed yet, and says why in its last lines. B is the
# batch, T a number of words, Q and K the numbers of queries and keys.
#
# In this course a mask is boolean, and True means "may attend".

# %%
import torch
from torch import Tensor

from course.homework import check

# %% [markdown]
# <!-- card: padding_mask -->
# ## `padding_mask`
#
# Say for every sentence which keys are words, and which are only there to fill up the rectangle. The two dimensions of size 1 stand for all heads and all queries.
#
# *Why it matters.* Without it, a sentence gets another translation when a longer one stands beside it in the batch.
#
# ★☆☆☆☆ · 5 minutes · 1 point
#
# ```text
# padding_mask(tokens, pad_id): tokens (B, K) -> boolean (B, 1, 1, K), True = may
#     attend
# ```
#
# <details><summary>Hint 1</summary>
#
# Does the mask depend on the query? Which of B, H, Q and K does it depend on?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# One comparison gives a boolean (B, K). Then two dimensions are missing, in the middle.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# tokens != pad_id is the mask; [:, None, None, :] puts the two dimensions in.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "padding_mask", "locked": false, "schema_version": 3, "solution": true, "task": false}
def padding_mask(tokens: Tensor, pad_id: int) -> Tensor:
    ### BEGIN SOLUTION
    return (tokens != pad_id)[:, None, None, :]  # (B, K) -> (B, 1, 1, K)
    ### END SOLUTION


# %%
check("padding_mask", padding_mask)

# %% nbgrader={"grade": true, "grade_id": "padding_mask-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("padding_mask", padding_mask, strict=True).passed

# %% [markdown]
# <!-- card: causal_mask -->
# ## `causal_mask`
#
# Let every word see itself and the words before it, and nothing that comes later.
#
# *Why it matters.* With this triangle one pass trains all positions at once. Without it the model copies the next word: the loss is near zero, and it can't write a sentence.
#
# ★☆☆☆☆ · 5 minutes · 1 point
#
# ```text
# causal_mask(size) -> boolean (1, 1, size, size), the last two are (Q, K), True =
#     may attend
# ```
#
# <details><summary>Hint 1</summary>
#
# Write the table for three words by hand. Row i is a query: which columns j may it see?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Query i may see key j if j <= i. That is a triangle: below the diagonal or above?
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# torch.ones(size, size, dtype=torch.bool).tril() is the triangle; two dimensions are missing in front.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "causal_mask", "locked": false, "schema_version": 3, "solution": true, "task": false}
def causal_mask(size: int) -> Tensor:
    ### BEGIN SOLUTION
    return torch.ones(1, 1, size, size, dtype=torch.bool).tril()  # key j <= query i
    ### END SOLUTION


# %%
check("causal_mask", causal_mask)

# %% nbgrader={"grade": true, "grade_id": "causal_mask-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("causal_mask", causal_mask, strict=True).passed

# %% [markdown]
# Now put your two masks together, as every decoder does: a word may be seen if it is no padding
# *and* does not lie in the future. Two sentences, the second one two words long. Before you run the
# cell: which columns of the second table are empty?

# %%
tokens = torch.tensor([[5, 6, 7, 8], [5, 6, 0, 0]])
both = padding_mask(tokens, pad_id=0) & causal_mask(4)  # (B, 1, 1, K) & (1, 1, Q, K)
for sentence in both[:, 0]:
    print("\n".join(" ".join("■" if seen else "·" for seen in row) for row in sentence), end="\n\n")

# %% [markdown]
# <!-- card: shift_right -->
# ## `shift_right`
#
# Make what the decoder reads (tgt_in) from what it must predict: every token moves one place to the right.
#
# *Why it matters.* Shift and causal mask belong together: at place t the decoder has read the words before t, and must predict word t.
#
# ★☆☆☆☆ · 5 minutes · 1 point
#
# ```text
# shift_right(tgt, bos_id): tgt (B, T) -> (B, T), a new tensor: bos_id first, then
#     tgt without its last column
# ```
#
# <details><summary>Hint 1</summary>
#
# Write it for one sentence: predicted are [a, b, c, </s>]. What is read at each place?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# A column of bos_id, (B, 1), and tgt without its last column, (B, T - 1), side by side.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# torch.full_like(tgt[:, :1], bos_id) is the column; torch.cat([..., ...], dim=1) joins.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "shift_right", "locked": false, "schema_version": 3, "solution": true, "task": false}
def shift_right(tgt: Tensor, bos_id: int) -> Tensor:
    ### BEGIN SOLUTION
    first = torch.full_like(tgt[:, :1], bos_id)  # (B, 1)
    return torch.cat([first, tgt[:, :-1]], dim=1)
    ### END SOLUTION


# %%
check("shift_right", shift_right)

# %% nbgrader={"grade": true, "grade_id": "shift_right-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("shift_right", shift_right, strict=True).passed

# %% [markdown]
# What the decoder reads, and what it must predict at the same place. At no place has it read what
# it must predict, if the mask hides what comes later.

# %%
words = ["<pad>", "<s>", "</s>", "a", "dog", "runs"]
tgt_out = torch.tensor([[3, 4, 5, 2]])
for reads, predicts in zip(shift_right(tgt_out, bos_id=1)[0], tgt_out[0]):
    print(f"reads {words[reads]:5} predicts {words[predicts]}")

# %% [markdown]
# *Run All* brought you here, and cells above have no number? It stopped at the first exercise that is not
# passed yet; the message below its second check cell says why.
#
# All green? Then your decoder can't cheat. The report collects what passed: `python -m course homework
# report` writes `build/report.html`, for you. A teacher who grades wants this notebook itself. Next comes
# [the Transformer's layers](../transformer/transformer.ipynb).
