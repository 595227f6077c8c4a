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
# # Homework · the Transformer
#
# You write what stands around attention in the paper's figure 1, and then the two layers
# themselves: 100 minutes. Close [the lesson](../../../05_transformer.ipynb) first. Looking things up is
# fine, copying is not: what you wrote yourself, you own.
#
# Run `check` as often as you like. It tries fresh numbers each time, says what is wrong and often why, and
# shows the hint that fits your mistake (under the card are all three, for when you are stuck). The second
# check cell of an exercise is the one that is marked: it stops *Run All* at the first exercise that is not
# passed yet, and says why in its last lines. B is the batch, S and T the words of source and target, D
# d_model, F d_ff. A mask is boolean, True = may attend.

# %%
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course.homework import check
from course.viz import finish

# %% [markdown]
# <!-- card: positional_encoding -->
# ## `positional_encoding`
#
# Give every position a vector of waves: column 2i holds sin(pos / 10000^(2i / d_model)), column 2i + 1 the cosine of the same angle.
#
# *Why it matters.* Attention does not know the order of the words. These vectors tell it, and moving k places on is one matrix, the same at every place.
#
# ★★☆☆☆ · 15 minutes · 2 points
#
# ```text
# positional_encoding(max_len, d_model) -> float32 (max_len, d_model), d_model
#     even
# row = position, from 0
# sines in columns 0, 2, ..., cosines in columns 1, 3, ...
# ```
#
# <details><summary>Hint 1</summary>
#
# First the angles: a column of positions (max_len, 1) times a row of frequencies (d_model / 2,). What shape comes out?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The frequencies are 10000 ** (-torch.arange(0, d_model, 2) / d_model). Sines go to the columns 0::2, cosines to 1::2.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# table = torch.empty(max_len, d_model); table[:, 0::2] = angle.sin(); now the same for 1::2.
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "8896ff1b5ed1df05059d5c5f3d8ee18a", "grade": false, "grade_id": "positional_encoding", "locked": false, "schema_version": 3, "solution": true, "task": false}
def positional_encoding(max_len: int, d_model: int) -> Tensor:
    raise NotImplementedError  # your code


# %%
check("positional_encoding", positional_encoding)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "1fd3e335f18b1f537ddcab1490c9758b", "grade": true, "grade_id": "positional_encoding-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("positional_encoding", positional_encoding, strict=True).passed

# %% [markdown]
# What you built, as a picture: a row is a position, a column a wave. Read a row from left to right:
# the waves become slower, like the digits of a number from the last to the first.

# %%
import matplotlib.pyplot as plt

plt.imshow(positional_encoding(50, 64), cmap="RdBu", aspect="auto")
plt.title("Fast waves on the left, slow waves on the right")
plt.xlabel("column")
plt.ylabel("position")
plt.colorbar()
finish(plt.gcf())

# %% [markdown]
# <!-- card: layer_norm -->
# ## `layer_norm`
#
# Give the features of every word mean 0 and variance 1 (the biased variance, eps inside the root), then multiply by gain and add bias.
#
# *Why it matters.* It keeps the numbers at one size through a deep stack. It looks at one word alone, so a batch of any size, and any padding, gives the same.
#
# ★★☆☆☆ · 10 minutes · 2 points
#
# ```text
# layer_norm(x, gain, bias, eps): x (..., D), gain and bias (D,) -> (..., D)
# the gradient flows back through every step
# ```
#
# <details><summary>Hint 1</summary>
#
# A word has D features. How many means does x (B, L, D) have, one for each of what?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# mean and var over dim=-1 with keepdim=True. torch's var divides by D - 1 unless you say unbiased=False.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# (x - mean) / torch.sqrt(variance + eps), then gain and bias, which broadcast by themselves.
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "859f33fd3bb981b894b7dbd5b688909d", "grade": false, "grade_id": "layer_norm", "locked": false, "schema_version": 3, "solution": true, "task": false}
def layer_norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
    raise NotImplementedError  # your code


# %%
check("layer_norm", layer_norm)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "c392a29a06659a4ba0572a08f32deed2", "grade": true, "grade_id": "layer_norm-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("layer_norm", layer_norm, strict=True).passed

# %% [markdown]
# <!-- card: feed_forward -->
# ## `feed_forward`
#
# Equation 2 of the paper: widen every word to F numbers, keep the positive ones, and narrow them to D again.
#
# *Why it matters.* Attention only collects: given its weights, it is linear. Here the model computes, and here two thirds of an encoder layer's weights lie.
#
# ★☆☆☆☆ · 5 minutes · 1 point
#
# ```text
# feed_forward(x, w_1, b_1, w_2, b_2): x (..., D), w_1 (D, F), b_1 (F,), w_2 (F,
#     D), b_2 (D,) -> (..., D)
# weights multiply from the right, x @ w_1, as in the paper's equation 2
#     (nn.Linear keeps them transposed)
# the gradient flows back through every step
# ```
#
# <details><summary>Hint 1</summary>
#
# Two linear maps and one bend. Why would the two maps alone be no more than one?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The inner layer is (..., F): x @ w_1 + b_1, where every negative number becomes 0.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# torch.relu(x @ w_1 + b_1) is the inner layer; the same once more with w_2 and b_2, but without relu.
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "7f4545bec796622d29844c9613ea8ad9", "grade": false, "grade_id": "feed_forward", "locked": false, "schema_version": 3, "solution": true, "task": false}
def feed_forward(x: Tensor, w_1: Tensor, b_1: Tensor, w_2: Tensor, b_2: Tensor) -> Tensor:
    raise NotImplementedError  # your code


# %%
check("feed_forward", feed_forward)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "591df51660b1d26421aa01e8645d6ee1", "grade": true, "grade_id": "feed_forward-check", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("feed_forward", feed_forward, strict=True).passed

# %% [markdown]
# ## The encoder layer
#
# Now you put parts together, and you are free: one Linear for queries, keys and values or three, with
# biases or without, layer norm behind each sub-layer (the paper) or in front of it. The check
# does not read your names. It asks what your layer *does*: who sees whom, what a mask hides, and what
# is left when a sub-layer's matrices are zero.
#
# Write the attention once more from your head, as a class of its own: both layers need it. `nn.Linear`
# and `nn.LayerNorm` are fine here, and so is `F.scaled_dot_product_attention`, which you wrote
# yourself before. `nn.MultiheadAttention` and the ready-made layers are not.

# %% [markdown]
# <!-- card: EncoderLayer -->
# ## `EncoderLayer`
#
# Self-attention with several heads, then a feed-forward network; around each of them a residual connection and a layer norm.
#
# *Why it matters.* Six of these are the encoder of the paper. The order never changes: words look at each other, then each word thinks alone.
#
# ★★★★☆ · 35 minutes · 4 points
#
# ```text
# EncoderLayer(d_model, n_heads, d_ff): an nn.Module, called (x, mask) with x (B,
#     S, D), mask boolean (B, 1, 1, S), True = may attend -> (B, S, D), the tensor
#     alone
# layer norm behind each sub-layer (post, the paper) or in front (pre)
# scores divided by sqrt(d_k)
# names and biases as you like
# ```
#
# <details><summary>Hint 1</summary>
#
# Which parts have you written already? You need attention with several heads, a feed-forward network, and two layer norms (nn.LayerNorm is fine here).
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Each sub-layer is wrapped in the same way: x = norm(x + sublayer(x)). In the first, query, key and value are all x, and the mask is handed on as it came.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# x = self.norm_1(x + self.attention(x, x, x, mask)), then the same line once more with norm_2 and the feed-forward network.
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "feb35d20d795e8ce625a72186119cbb6", "grade": false, "grade_id": "EncoderLayer", "locked": false, "schema_version": 3, "solution": true, "task": false}
class Attention(nn.Module):
    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        raise NotImplementedError  # your code

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        raise NotImplementedError  # your code


class EncoderLayer(nn.Module):
    def __init__(self, d_model: int, n_heads: int, d_ff: int) -> None:
        super().__init__()
        raise NotImplementedError  # your code

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        raise NotImplementedError  # your code


# %%
check("EncoderLayer", EncoderLayer)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "1a408040a200abd4f27f96486ce10065", "grade": true, "grade_id": "EncoderLayer-check", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("EncoderLayer", EncoderLayer, strict=True).passed

# %% [markdown]
# <!-- card: DecoderLayer -->
# ## `DecoderLayer`
#
# Masked self-attention, then cross-attention to the encoder's output, then a feed-forward network; around each of them a residual connection and a layer norm.
#
# *Why it matters.* Self-attention reads what is written so far, cross-attention reads the source: nothing else connects the two languages.
#
# ★★★★☆ · 35 minutes · 4 points
#
# ```text
# DecoderLayer(d_model, n_heads, d_ff): an nn.Module, called (x, memory, src_mask,
#     tgt_mask) with x (B, T, D), memory (B, S, D), src_mask (B, 1, 1, S) for
#     memory, tgt_mask (B or 1, 1, T, T) for x, both boolean, True = may attend ->
#     (B, T, D), the tensor alone
# layer norm behind each sub-layer (post, the paper) or in front (pre)
# scores divided by sqrt(d_k)
# names and biases as you like
# ```
#
# <details><summary>Hint 1</summary>
#
# It is your encoder layer with one more sub-layer in the middle. Where do its queries come from, where its keys and values?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The self-attention has query = key = value = x, with tgt_mask. The cross-attention has query = x, key = value = memory, with src_mask. Each has weights and a norm of its own.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# x = self.norm_2(x + self.cross_attention(x, memory, memory, src_mask)) is the line in the middle; the lines before and after it are those of the encoder layer.
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "3c91e9e8fe4f668bb14e6325d77595ce", "grade": false, "grade_id": "DecoderLayer", "locked": false, "schema_version": 3, "solution": true, "task": false}
class DecoderLayer(nn.Module):
    def __init__(self, d_model: int, n_heads: int, d_ff: int) -> None:
        super().__init__()
        raise NotImplementedError  # your code

    def forward(self, x: Tensor, memory: Tensor, src_mask: Tensor, tgt_mask: Tensor) -> Tensor:
        raise NotImplementedError  # your code


# %%
check("DecoderLayer", DecoderLayer)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "0a436f90345db2e37f4187ad75dba675", "grade": true, "grade_id": "DecoderLayer-check", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("DecoderLayer", DecoderLayer, strict=True).passed

# %% [markdown]
# Who sees whom in your decoder layer? The gradient knows. Each cell is the size of one derivative:
# output word (row) by input word (column). White is exactly zero. Before you run it: which half of the
# left picture is white, and which column of the right one?

# %%
layer = DecoderLayer(32, 4, 64).eval()
x, memory = torch.randn(1, 6, 32, requires_grad=True), torch.randn(1, 8, 32, requires_grad=True)
src_mask = torch.arange(8)[None, None, None] != 7  # the last source word is padding
tgt_mask = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
output = layer(x, memory, src_mask, tgt_mask)
probe = torch.randn(32)  # a plain sum is the same for every normalised word

figure, axes = plt.subplots(1, 2, figsize=(8, 3.5), layout="constrained")
for axis, source, name in zip(axes, (x, memory), ("target word", "source word")):
    rows = [torch.autograd.grad(word @ probe, source, retain_graph=True)[0][0] for word in output[0]]
    axis.imshow(torch.stack(rows).norm(dim=-1).sqrt(), cmap="Blues")  # the root lifts what is small
    axis.set(xlabel=name, ylabel="output word")
figure.suptitle("Nothing comes from the future, nothing from padding")
finish(figure)

# %% [markdown]
# *Run All* brought you here, and cells above have no number? It stopped at the first exercise that is not
# passed yet; the message below its second check cell says why.
#
# All green? Stack six of each, and you have the paper's model; the exam asks for it. The report collects
# what passed: `python -m course homework report` writes `build/report.html`, for you. A teacher who grades
# wants this notebook itself. Next comes [the text](../text/text.ipynb) that goes in.
