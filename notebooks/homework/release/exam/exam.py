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
# # Homework · the exam
#
# One cell, one function, the whole paper: you write a Transformer from nothing. Plan 180 minutes.
#
# **The rules.** Close everything: [the lesson](../../../05_transformer.ipynb), your earlier homework,
# the paper, the assistant that completes your lines. What you may use is torch and your head. Allowed
# from torch are the small parts: `nn.Linear`, `nn.Embedding`, `nn.LayerNorm`, `nn.Dropout`, softmax,
# also `F.scaled_dot_product_attention`. Not allowed is what would be the answer: `nn.Transformer`, its
# layers, `nn.MultiheadAttention`. Stuck for half an hour? Run `check`, read what it says, and open one
# hint. That is no shame: note where you were stuck, this is the part to learn again.
#
# **The check** knows nothing about how you write. Post-norm or pre-norm, one matrix for queries, keys
# and values or three, sinusoids or learned positions, with or without biases: all of it passes. It
# asks your model questions. Does word 3 see word 5? If every word sees its neighbour only, how far does
# news travel through three layers? It goes through the organs one by one and names the one that is missing. At the
# end your model has to learn something, to copy a sequence of symbols, which takes about 20 seconds.

# %% [markdown]
# ## A page of shapes
#
# | name | shape | what |
# |---|---|---|
# | `src` | (B, S) | token ids of the source |
# | `tgt_in` | (B, T) | token ids of the target, shifted right already: it begins with `<s>` |
# | `src_mask` | (B, 1, 1, S) | True = may attend; False at padding |
# | `tgt_mask` | (B, 1, T, T) | True = may attend; causal and padding together |
# | states of the encoder | (B, S, D) | the last one is the memory |
# | states of the decoder | (B, T, D) | |
# | queries | (B, H, Q, D / H) | Q is S in the encoder, T in the decoder |
# | keys, values | (B, H, K, D / H) | K is S in the encoder **and in cross-attention**, else T |
# | scores, weights | (B, H, Q, K) | both masks broadcast to it as they come |
# | logits | (B, T, `tgt_vocab`) | any numbers: no softmax at the end |
#
# B sentences, D `d_model`, H `n_heads`, F `d_ff`. The feed-forward network goes D → F → D, and each
# of the two stacks has `n_layers` layers. Sentences of 60 words must fit.
#
# A good order of work: attention first; then call it once and look at the shape. Then the feed-forward
# network, the two layers, the model. Print shapes all the way.

# %%
import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from IPython.display import display
from torch import Tensor, nn

from course.homework import check
from course.viz import finish

# %% [markdown]
# <!-- card: build_transformer -->
# ## `build_transformer`
#
# The whole Transformer from an empty cell: embeddings, positions, encoder, decoder, output projection. Every sub-layer has a residual and a norm. Post-norm or pre-norm, LayerNorm or RMSNorm, any positions, any layout of weights.
#
# *Why it matters.* Whoever can write this without looking has understood the paper.
#
# ★★★★★ · 180 minutes · 5 points
#
# ```text
# build_transformer(src_vocab, tgt_vocab, d_model, n_heads, d_ff, n_layers) -> an
#     nn.Module, called (src, tgt_in, src_mask, tgt_mask) -> logits (B, T,
#     tgt_vocab)
# src (B, S) and tgt_in (B, T) are token ids, tgt_in shifted already
# masks are boolean, True = may attend: src_mask (B, 1, 1, S), tgt_mask (B, 1, T,
#     T), causal and padding together. n_layers layers in each stack
# dropout, if any, is off in eval mode
# 60 words must fit
# ```
#
# <details><summary>Hint 1</summary>
#
# Draw figure 1 from memory first. How many sub-layers has an encoder layer, how many a decoder layer, and where do the queries, keys and values of each attention come from?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Five classes are enough: attention (query, memory, mask), feed-forward, encoder layer, decoder layer, the model. Every sub-layer: x = norm(x + sublayer(x)). The encoder's self-attention and cross-attention take src_mask, the decoder's self-attention tgt_mask.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# Decoder layer: x = n1(x + self_attention(x, x, tgt_mask)); x = n2(x + cross_attention(x, memory, src_mask)); x = n3(x + feed_forward(x)). Model: embed the source and add positions, run all encoder layers, embed tgt_in and add positions, run all decoder layers with the memory, then nn.Linear(d_model, tgt_vocab).
#
# </details>

# %% deletable=false nbgrader={"cell_type": "code", "checksum": "7ab122ac0f07359758b5929784670fc7", "grade": false, "grade_id": "build_transformer", "locked": false, "schema_version": 3, "solution": true, "task": false}
def build_transformer(
    src_vocab: int, tgt_vocab: int, d_model: int, n_heads: int, d_ff: int, n_layers: int
) -> nn.Module:
    """Return your model; write its classes above or below this function, in this cell."""
    raise NotImplementedError  # your code


# %%
check("build_transformer", build_transformer)

# %% deletable=false editable=false nbgrader={"cell_type": "code", "checksum": "7b8502f502392cc81b9c18c75e1f790c", "grade": true, "grade_id": "build_transformer-check", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": false}
from course.homework import check  # the course's own, whatever stands above

assert check("build_transformer", build_transformer, strict=True).passed

# %% [markdown]
# ## Your model learns something new
#
# Copying is behind it. Now the same model learns to **reverse** a sequence: `3 1 2` becomes `2 1 3`.
# The first symbol to write is the last one to read. Where does your model have to look?
#
# We ask it without opening it: replace one source word, and measure how much each position's logits
# change. Guess the picture before you run the cell (about half a minute).

# %%
def reversal(n: int, length: int = 8) -> tuple[Tensor, ...]:
    """Return src, tgt_in, src_mask, tgt_mask and what is to be written: symbols are 2 ... 11."""
    src = torch.randint(2, 12, (n, length))
    tgt_out = src.flip(1)
    tgt_in = torch.cat([torch.ones(n, 1, dtype=torch.long), tgt_out[:, :-1]], dim=1)  # <s> is 1
    src_mask = torch.ones(n, 1, 1, length, dtype=torch.bool)
    tgt_mask = torch.ones(length, length).tril().bool().expand(n, 1, -1, -1)
    return src, tgt_in, src_mask, tgt_mask, tgt_out


def learn_to_reverse(n_steps: int) -> tuple[nn.Module, list[float]]:
    """Train a small model of yours; return it and the loss at each step."""
    torch.manual_seed(2017)
    model = build_transformer(12, 12, 32, 4, 64, 2)
    if model is None:
        raise NotImplementedError("write build_transformer first")
    optimizer, losses = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98)), []
    for step in range(1, n_steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(step / 100, (200 / step) ** 0.5, 1)  # warm up, hold, decay
        *args, tgt_out = reversal(64)
        loss = F.cross_entropy(model(*args).flatten(0, 1), tgt_out.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model.eval(), losses


@torch.no_grad()
def influence(model: nn.Module) -> Tensor:
    """Return how far logits t (rows) move when source word j (columns) is replaced: (T, S)."""
    src, *others, _ = reversal(200)
    before, moved = model(src, *others), []
    for j in range(src.size(1)):
        changed = src.clone()
        changed[:, j] = (src[:, j] - 2 + torch.randint(1, 10, (200,))) % 10 + 2  # another symbol
        moved.append((model(changed, *others) - before).abs().mean((0, 2)))  # (T,)
    return torch.stack(moved, dim=1)


# %%
try:
    model, losses = learn_to_reverse(500)
except NotImplementedError as not_yet:
    print(not_yet)
else:
    *args, tgt_out = reversal(200)
    right = (model(*args).argmax(-1) == tgt_out).float().mean().item()
    figure, (left, middle) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    left.plot(losses)
    left.axhline(math.log(10), color="grey", linestyle="--", label="guessing: ln 10")
    left.set(title=f"Reversing: {right:.0%} of fresh symbols are right",
             xlabel="step", ylabel="loss in nats a symbol")
    left.legend()
    shown = middle.imshow(influence(model), cmap="viridis")
    middle.set(title="Each position reads its mirror image",
               xlabel="source word that is replaced", ylabel="position written")
    figure.colorbar(shown, label="mean change of the logits")
    display(finish(figure))

# %% [markdown]
# A bright diagonal from the upper right to the lower left: the model found out where to look, and
# nobody told it. Something to try: leave the positions out of your encoder and run the two cells
# again. Which of the two pictures changes, and why?
#
# *Run All* brought you here, and cells above have no number? It stopped at the first exercise that is not
# passed yet; the message below its second check cell says why.
#
# All green? Then you can write the Transformer from memory. Few who talk about it can. The report collects
# it: `python -m course homework report` writes `build/report.html`, for you. A teacher who grades wants
# this notebook itself. Six questions are left, about the reasons: [the
# questions](../questions/questions.ipynb).
