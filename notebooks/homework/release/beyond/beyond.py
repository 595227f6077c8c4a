# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Homework · beyond
#
# You write what the models after the paper changed: 15 minutes, with torch and your head. Close
# [the lesson](../../../10_beyond.ipynb) first. Looking things up is fine, copying is not: what you wrote
# yourself, you own.
#
# Run `check` as often as you like. It tries fresh values each time, says what is wrong and often why, and
# shows one more hint after each miss (under the card are all three, for when you are stuck). B is the
# batch, L the length of a sentence.

# %%
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
# All green? The report collects it: `python -m course homework report` writes `build/report.html`, for you. A
# teacher who grades wants this notebook itself. What is left is [the exam](../exam/exam.ipynb).

