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
# # Homework · seq2seq
#
# You write the first attention, the one that opened the bottleneck, and a hop of a memory network, which
# looks several times: 25 minutes, with torch and your head. Close [the lesson](../../../02_seq2seq.ipynb) first. Looking things up is fine, copying is
# not: what you wrote yourself, you own.
#
# Run `check` as often as you like. It tries fresh numbers each time, says what is wrong and often why, and
# shows the hint that fits your mistake (under the card are all three, for when you are stuck). The second
# check cell of an exercise is the one that is marked: it stops *Run All* at the first exercise that is not
# passed yet, and says why in its last lines. B is the batch, K the number of keys (the words of the
# source), D the width of their vectors, A the width inside the small network that scores.
#
# In the lesson the decoder asked at every step, (B, T, D). Here it asks **once**: the query is its
# state at one step, (B, D).

# %%
import math
from contextlib import suppress

import torch
from torch import Tensor

from course.homework import check

# %% [markdown]
# <!-- card: additive_attention -->
# ## `additive_attention`
#
# Bahdanau's attention for one step of the decoder: score each key by a small network, tanh(query w_q + key w_k) v; turn the scores into weights by a softmax over the keys; the context is the weighted sum of the keys.
#
# *Why it matters.* This is the attention that opened the bottleneck of the fixed vector. The paper keeps its idea and replaces the small network by a dot product, which one matrix product does for all queries at once.
#
# ★★☆☆☆ · 15 minutes · 2 points
#
# ```text
# additive_attention(query, keys, w_q, w_k, v, mask=None) -> (context, weights)
# query (B, D), keys (B, K, D), w_q and w_k (D, A), v (A,)
# weights multiply from the right, query @ w_q, as in the formula (nn.Linear keeps
#     them transposed), there is no bias
# mask (B, K) boolean, True = may attend
# each sentence has at least one True. context (B, D), weights (B, K)
# ```
#
# <details><summary>Hint 1</summary>
#
# Every key meets the one query of its sentence. Which shapes do query @ w_q and keys @ w_k have, and which dimension is missing in one of them?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# (query @ w_q)[:, None] is (B, 1, A), and broadcasts over the keys. tanh, then @ v gives scores (B, K). Where the mask is False, a score of -inf becomes a weight of 0.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# weights = scores.softmax(-1); context = (weights[:, None] @ keys).squeeze(1).
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "additive_attention", "locked": false, "schema_version": 3, "solution": true, "task": false}
def additive_attention(
    query: Tensor, keys: Tensor, w_q: Tensor, w_k: Tensor, v: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    ### BEGIN SOLUTION
    mixed = torch.tanh((query @ w_q)[:, None] + keys @ w_k)  # (B, K, A)
    scores = mixed @ v  # (B, K)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    weights = scores.softmax(-1)  # (B, K)
    return (weights[:, None] @ keys).squeeze(1), weights
    ### END SOLUTION


# %%
check("additive_attention", additive_attention)

# %% nbgrader={"grade": true, "grade_id": "additive_attention-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("additive_attention", additive_attention, strict=True).passed

# %% [markdown]
# Can it learn to look? Each of the six keys below carries a random name (its first 4 numbers) and a
# random message (the last 4). The query is the name of one of them, and the loss asks for its message.
# Nobody says where it stands. **Guess first:** which weight does the right key get before training, and
# after?

# %%
torch.manual_seed(0)
place = torch.randint(6, (256,))  # where the right key stands
keys = torch.randn(256, 6, 8)
wanted = keys[torch.arange(256), place]  # (256, 8)
query = torch.cat([wanted[:, :4], torch.zeros(256, 4)], dim=1)
net = [torch.randn(8, 64) / 2, torch.randn(8, 64) / 2, torch.randn(64) / 8]  # w_q, w_k, v
optimiser = torch.optim.Adam([weight.requires_grad_() for weight in net], lr=0.02)
with suppress(NotImplementedError):  # quiet until you have written it
    for step in range(301):
        context, weights = additive_attention(query, keys, *net)
        if step % 100 == 0:
            looked = weights[torch.arange(256), place].mean().item()
            print(f"step {step:3}: the right key gets a weight of {looked:.2f}")
        loss = (context[:, 4:] - wanted[:, 4:]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

# %% [markdown]
# Before training every key gets about one sixth. Afterwards the network finds the key whose name fits,
# though only the message was asked for: the gradient taught it where to look.

# %% [markdown]
# <!-- card: memory_hop -->
# ## `memory_hop`
#
# One hop of an end-to-end memory network: score each fact by the dot product of the question with what it is found by; turn the scores into weights by a softmax over the facts; the answer is the weighted sum of what the facts say; add it to the question.
#
# *Why it matters.* Look at it once more after lesson 05: a query, keys, values, and the input added to the output. A stack of hops is half a Transformer, two years before the paper.
#
# ★☆☆☆☆ · 10 minutes · 1 point
#
# ```text
# memory_hop(question, found_by, says) -> (question + answer, weights)
# question (B, D), found_by and says (B, N, D): two vectors for each of N facts
# question + answer (B, D), weights (B, N)
# ```
#
# <details><summary>Hint 1</summary>
#
# Which of the two vectors of a fact meets the question, and which is summed? It is attention with one query for each sentence.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# (found_by @ question[..., None]) is (B, N, 1), one score for each fact. After the softmax over the facts, (weights[:, None] @ says) is (B, 1, D).
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# weights = (found_by @ question[..., None]).squeeze(-1).softmax(-1); return question + (weights[:, None] @ says).squeeze(1), weights.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "memory_hop", "locked": false, "schema_version": 3, "solution": true, "task": false}
def memory_hop(question: Tensor, found_by: Tensor, says: Tensor) -> tuple[Tensor, Tensor]:
    ### BEGIN SOLUTION
    scores = (found_by @ question[..., None]).squeeze(-1)  # (B, N)
    weights = scores.softmax(-1)
    return question + (weights[:, None] @ says).squeeze(1), weights
    ### END SOLUTION


# %%
check("memory_hop", memory_hop)

# %% nbgrader={"grade": true, "grade_id": "memory_hop-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("memory_hop", memory_hop, strict=True).passed

# %% [markdown]
# Three facts in a row: *ball* leads to *Anna*, *Anna* to *kitchen*, *kitchen* to *house*. Each word is a
# vector of its own. Ask for the ball. **Guess first:** which fact does the third hop look at?

# %%
words = ["ball", "Anna", "kitchen", "house"]
vectors = torch.eye(4)
found_by, says = 6 * vectors[None, :3], 2 * vectors[None, 1:]  # an answer is louder than the question
question = vectors[None, 0]
with suppress(NotImplementedError):  # quiet until you have written it
    for number in (1, 2, 3):
        question, weights = memory_hop(question, found_by, says)
        print(f"hop {number}: {[round(w, 2) for w in weights[0].tolist()]}")

# %% [markdown]
# The third hop looks at two facts at once: *Anna* and *kitchen* are equally loud in the question by then, for
# nothing that a hop added goes away again. A trained network learns vectors that keep them apart.
#
# *Run All* brought you here, and cells above have no number? It stopped at the first exercise that is not
# passed yet; the message below its second check cell says why.
#
# All green? Then you have the idea with which the paper begins. The report collects it: `python -m course
# homework report` writes `build/report.html`, for you. A teacher who grades wants this notebook itself.
# Next comes [attention without recurrence](../attention/attention.ipynb).
