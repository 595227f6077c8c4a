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
# # Walkthrough · the whole paper in one sitting
#
# > *Attention Is All You Need*, sections 1 to 7, each beside the code that does what it says.
#
# Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser and Polosukhin (2017) proposed the
# **Transformer**. This page retells their paper in our own words, in the paper's order and with the
# paper's section numbers. Beside each section stands the code that it describes, then one small run
# of it. At the end, this page trains a translator from German to English and measures it.
#
# **How to use it.** Open the paper (arXiv 1706.03762) beside this page. Run the cells from top to
# bottom, and read while they run. Everything takes about ten minutes on two processor cores, most
# of it the training at the end. That is a fixed number of steps: on a busy machine it takes longer,
# and gives the same model. Before it begins, the page says how long it will take here.
#
# - **Read now** opens to the paragraphs of the paper, by their first words: what each says in plain
#   words, its hard words, and the lesson that builds it. Read the paragraph there, then go on here.
# - `check("...")` asks for a reason. Answer with a letter, `check("why_scale", "b")`; a wrong option
#   has an answer of its own.
# - **Guess first** marks a question. Answer it before you run the next cell; a wrong guess is worth
#   more than a right one that you only read.
# - The code is the course's package. It is fetched from there while this page runs, nothing is
#   pasted. Above each piece you find a link to the lesson that derives it, line by line.
# - A cell with `assert` is a **claim**: it stops if the sentence above it is false.
#
# **You will be able to** say what each part of the model is for, how large what goes in and out of
# it is, and what the paper's tables measure. **You need** Python, and what a matrix product and a
# derivative are. **Time:** 70 minutes. (It can be read without any lesson; on the path of lesson 00
# it comes last.)

# %%
import copy
import csv
import inspect
import json
import math
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from IPython.display import Markdown, display
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from course import ASSETS, output_folder
from course.device import by_scale, pick, scale
from course.homework import check
from course.speed import keep_freed_memory
from course.viz import attention as draw_attention
from course.viz import masking as draw_masking
from course.viz import evaluation as draw_experiment
from course.viz import inside as draw_inside
from course.viz import training as draw_training
from course.viz import transformer as draw_transformer
from course.viz import walkthrough as draw

device = pick()
_ = keep_freed_memory()  # lesson 07c: on a CPU, large tensors then cost less
print(f"scale: {scale()}; device: {device.type}")

# %% [markdown]
# The next cell defines the only helper of this page: `source` shows the code of a class or a
# function as it stands in the package, and links the lesson that the package's module was made
# from. (Each module names that lesson in its first line.)

# %%
def lesson_of(thing: Callable) -> str:
    """Return the name of the notebook that a class or function of the package comes from."""
    return re.search(r"notebooks/(\w+)\.py", inspect.getsource(inspect.getmodule(thing))).group(1)


def source(*things: Callable) -> None:
    """Show code as the package holds it, with a link to the lesson that derives it."""
    for thing in things:
        lesson, place = lesson_of(thing), f"{thing.__module__}.{thing.__name__}"
        link = f"`{place}` · derived in [{lesson}]({lesson}.ipynb)"
        display(Markdown(f"{link}\n\n```python\n{inspect.getsource(thing).rstrip()}\n```"))


# %% [markdown]
# The code itself is imported where it is needed, so that you see where each part comes from. First
# the heart of the paper; more of it in section 3.

# %%
from course.attention import scaled_dot_product_attention

assert lesson_of(scaled_dot_product_attention) == "03_attention"

# %% [markdown]
# ## 1 · Introduction: what recurrence costs
#
# <details><summary><b>Read now:</b> the abstract, its footnote, and section 1 of the paper (6 paragraphs)</summary>
#
# | begins | in plain words | hard words | lesson |
# |---|---|---|---|
# | *The dominant sequence transduction models* | The abstract. The best translators are recurrent or convolutional, with attention between the halves. This model keeps attention alone; it is better, trains faster, and parses sentences, too. | sequence transduction: one sequence in, another out; BLEU: a score of translations, 0 to 100 | [02](02_seq2seq.ipynb), [09](09_evaluation.ipynb) |
# | *Equal contribution. Listing order is random* | The footnote says who did what: who proposed self-attention, who the scale and the heads, who wrote the code. | ablation: a part is taken away to see what it did | [09c](09c_ablations.ipynb) |
# | *Recurrent neural networks, long short-term memory* | Until now, recurrent networks with gates were the best at language. | LSTM, gated: numbers between 0 and 1 decide what is kept | [01](01_foundations.ipynb) |
# | *Recurrent models typically factor computation* | They go from word to word; each state waits for the one before. So a sentence cannot be computed in parallel, and tricks help only a little. | factor computation along positions: one step for each word; fundamental constraint: it stays, whatever one does | [01](01_foundations.ipynb), [02](02_seq2seq.ipynb) |
# | *Attention mechanisms have become an integral* | Attention joins words at any distance. But nearly always it sits beside a recurrent network. | dependencies: one word needs another to be understood | [02](02_seq2seq.ipynb) |
# | *In this work we propose the Transformer* | The proposal: no recurrence, attention only. Twelve hours on eight GPUs were enough to be the best. | eschewing: leaving out; global: between any two places | [03](03_attention.ipynb), [05](05_transformer.ipynb) |
#
# </details>
#
# In 2017 the best translators were **recurrent** networks (RNNs). An RNN reads a sentence word by
# word. At each word it computes a new state from the state before it:
#
# $$h_t = f(h_{t-1}, x_t)$$
#
# The formula holds the problem: $h_t$ cannot be computed before $h_{t-1}$ is there. A sentence of
# 60 words needs 60 steps, one after the other, however many processors you have. Attention
# (Bahdanau et al. 2014) already helped RNNs to look back at any word, but the RNN stayed. The
# paper's proposal is to keep the attention and remove the recurrence.
#
# **Guess first.** We count the longest chain of operations that must wait for each other, from the
# result back to the input. A sentence becomes twice as long: what happens to the chain of an RNN,
# and to that of attention?

# %%
def longest_chain(output: Tensor) -> int:
    """Count the operations on the longest way from an output back through its computation."""
    depth: dict = {}
    waiting = [output.grad_fn]
    while waiting:
        before = [node for node, _ in waiting[-1].next_functions if node is not None]
        if unknown := [node for node in before if node not in depth]:
            waiting += unknown
        else:
            depth[waiting.pop()] = 1 + max((depth[node] for node in before), default=0)
    return depth[output.grad_fn]


def recurrent(x: Tensor, cell: nn.RNNCell) -> Tensor:
    """Read x (n, D) word by word and return the last state (1, D)."""
    state = torch.zeros_like(x[:1])
    for word in x:
        state = cell(word[None], state)
    return state


lengths = [4, 8, 16, 32, 64]
words = [torch.randn(n, 16, requires_grad=True) for n in lengths]  # (n, D)
cell = nn.RNNCell(16, 16)
chains = {
    "recurrence": [longest_chain(recurrent(x, cell)) for x in words],
    "attention": [longest_chain(scaled_dot_product_attention(x, x, x)[0]) for x in words],
}

# %%
draw.waiting(lengths, chains, "A recurrent layer waits once a word, attention does not")

# %% [markdown]
# The chain of the RNN grows by the same number for each word. The chain of attention has the same
# length for every sentence: all words are compared with all words **at once**. A graphics processor
# does thousands of multiplications at the same time. An RNN lets it wait; attention, like convolution,
# gives it thousands that do not wait, and unlike convolution it brings any two words together in one
# step.

# %%
# NBVAL_CHECK_OUTPUT
growth = {(b - a) / (m - n) for a, b, n, m in
          zip(chains["recurrence"], chains["recurrence"][1:], lengths, lengths[1:])}
assert len(growth) == 1 and growth.pop() >= 1
assert len(set(chains["attention"])) == 1
print("recurrence: the chain grows by the same amount with each word; attention: it does not grow")

# %%
check("new_in_2017")

# %%
check("bottleneck_attention")

# %% [markdown]
# ## 2 · Background: others who wanted to wait less
#
# <details><summary><b>Read now:</b> section 2 of the paper (4 paragraphs)</summary>
#
# | begins | in plain words | hard words | lesson |
# |---|---|---|---|
# | *The goal of reducing sequential computation* | Three models before this one used convolutions. In them the way between two words grows with their distance, straight (ConvS2S) or like its logarithm (ByteNet). Attention needs one step; what it loses in sharpness by averaging, several heads give back. | effective resolution: how sharply single words can be told apart | [01](01_foundations.ipynb), [03](03_attention.ipynb) |
# | *Self-attention, sometimes called intra-attention* | Attention inside of one sentence existed before: for reading, summaries, entailment. | entailment: does sentence B follow from sentence A? | [03](03_attention.ipynb) |
# | *End-to-end memory networks are based* | Memory networks look into a memory several times, each time with a better question. | recurrent attention: look-ups that wait for each other | [02](02_seq2seq.ipynb) |
# | *To the best of our knowledge* | The claim of being first: a translator of self-attention only. | transduction model, as above | [05](05_transformer.ipynb) |
#
# </details>
#
# The paper was not the first to see this. ByteNet and ConvS2S replaced recurrence by
# **convolutions**, which see a window of neighbours, all windows at once. But two words that stand
# far apart meet only after several layers: the number of layers grows with their distance, linearly
# in ConvS2S, with the logarithm in ByteNet. In the Transformer any two words meet in **one** step.
#
# The paper names the price: attention takes a weighted *mean* of what it sees, and a mean blurs.
# Its remedy is to attend several times side by side, in several *heads* (section 3.2.2).
#
# *Self-attention* means: the words of one sentence attend to each other. It had been used before,
# for reading and for summaries. To build a whole translator from nothing else was new.

# %%
check("path_neural_gpu")

# %%
check("memory_waits")

# %% [markdown]
# ## 3 · The model's architecture
#
# <details><summary><b>Read now:</b> section 3 of the paper (2 paragraphs)</summary>
#
# | begins | in plain words | hard words | lesson |
# |---|---|---|---|
# | *Most competitive neural sequence transduction models* | An encoder turns words into vectors; a decoder writes one word after the other, and reads what it has written. | auto-regressive: each output becomes the next input | [02](02_seq2seq.ipynb) |
# | *The Transformer follows this overall architecture* | The same two halves, made of attention and of small networks applied at each place. Figure 1 is the map. | point-wise: at each place by itself | [05](05_transformer.ipynb) |
#
# </details>
#
# The model is an **encoder-decoder**. The encoder reads the German sentence and gives one vector
# for each of its tokens, together called the *memory*. The decoder writes the English sentence,
# token by token; for each new token it looks at the memory and at what it has written so far. A
# model that reads its own output is called *autoregressive*.

# %%
draw.architecture("Figure 1 as a table of contents: each box names its section and its class")

# %% [markdown]
# Read the figure from bottom to top. `N ×` says that the grey frame is repeated; in the paper N is
# 6, each copy with its own weights. The arrows around the boxes are residual connections.
#
# And this is the whole model in code. **Look at** the three steps of `forward`: encode, decode,
# project.

# %%
# NBVAL_CHECK_OUTPUT
from course.transformer import Transformer, TransformerConfig

source(Transformer)

# %% [markdown]
# Our first run: a small model, two source sentences of 7 tokens, two target sentences of 5. Follow
# the shapes. B is the number of sentences, S and T are the source and target lengths, D is
# `d_model`, V the size of the vocabulary.

# %%
# NBVAL_CHECK_OUTPUT
from course.masking import causal_mask

torch.manual_seed(0)
config = TransformerConfig(100, 100, d_model=64, n_heads=4, d_ff=256, n_layers=2)
model = Transformer(config).eval()
src, tgt_in = torch.randint(4, 100, (2, 7)), torch.randint(4, 100, (2, 5))
memory = model.encode(src)  # (B, S, D)
states = model.decode(tgt_in, memory, tgt_mask=causal_mask(5))  # (B, T, D)
logits = model.project(states)  # (B, T, V)
assert torch.equal(logits, model(src, tgt_in, tgt_mask=causal_mask(5)))
print(f"memory {tuple(memory.shape)}, states {tuple(states.shape)}, logits {tuple(logits.shape)}")

# %%
check("parallel_writing")

# %%
check("teacher_forcing")

# %% [markdown]
# ### 3.1 Encoder and decoder stacks
#
# <details><summary><b>Read now:</b> section 3.1 of the paper (2 paragraphs)</summary>
#
# | begins | in plain words | hard words | lesson |
# |---|---|---|---|
# | *Encoder: The encoder is composed* | Six equal layers, each with two parts. Around each part: add what went in, then normalise. All vectors have 512 numbers, so that they can be added. | residual connection: input added to output; layer normalization: mean 0, variance 1 over a vector's numbers | [05](05_transformer.ipynb) |
# | *Decoder: The decoder is also composed* | Six layers with a third part that looks at the encoder's output. A mask keeps each place from seeing later ones. | masking: scores set to −∞; offset by one position: it reads up to the word before | [04](04_masking.ipynb), [05](05_transformer.ipynb) |
#
# </details>
#
# An encoder layer has two **sub-layers**: self-attention, then a feed-forward network. A decoder
# layer has a third one between them: attention to the memory. Around each sub-layer the paper puts
# the same wrapper,
#
# $$\operatorname{LayerNorm}(x + \operatorname{Sublayer}(x)) .$$
#
# The sum is the **residual connection**: a sub-layer only adds a correction to what came in, so the
# gradient finds a straight way down through all layers. **Layer normalisation** then gives each
# vector mean 0 and variance 1 (and a learned gain and bias). For the sum to be possible, everything
# in the model has the same width `d_model` = 512.

# %%
# NBVAL_CHECK_OUTPUT
from course.transformer import DecoderLayer, Encoder, EncoderLayer, Residual

source(Residual, EncoderLayer, DecoderLayer)

# %% [markdown]
# The class knows two orders. `post` is what the paper prints. `pre` normalises the input of the
# sub-layer instead; it is what most models do today, since it trains without trouble.
#
# **Guess first.** What does a layer with residuals return if its sub-layers have learned nothing
# yet and return zeros?

# %%
# NBVAL_CHECK_OUTPUT
x = 3 + 2 * torch.randn(2, 7, 64)  # (B, S, D), far from normalised
residual = Residual(config).eval()
silent = residual(x, torch.zeros_like)
assert torch.allclose(silent, F.layer_norm(x, (64,)), atol=1e-5)
assert silent.mean(-1).abs().max() < 1e-5
assert (silent.var(-1, unbiased=False) - 1).abs().max() < 1e-3
stack = Encoder(TransformerConfig(100, 100, 64, 4, 256, n_layers=6)).eval()
assert stack(x).shape == x.shape
print("a silent sub-layer passes its input on, normalised; six layers keep the shape", (*x.shape,))

# %%
check("residual_gradient")

# %%
check("residual_width")

# %% [markdown]
# ### 3.2.1 Scaled dot-product attention
#
# <details><summary><b>Read now:</b> sections 3.2 and 3.2.1, with its footnote of the paper (6 paragraphs)</summary>
#
# | begins | in plain words | hard words | lesson |
# |---|---|---|---|
# | *An attention function can be described* | A query is compared with keys; the result is a weighted sum of the values that belong to them. | compatibility function: a score of how well two vectors fit | [03](03_attention.ipynb) |
# | *We call our particular attention* | Scores are dot products, divided by $\sqrt{d_k}$; softmax makes weights of them. | dot product: multiply number by number, and add | [03](03_attention.ipynb) |
# | *In practice, we compute the attention* | All queries at once, as matrices: equation (1). | packed together: as the rows of one matrix | [03](03_attention.ipynb) |
# | *The two most commonly used attention* | The other kind of score is a small network (additive). Both cost alike on paper; products of matrices are much faster in practice. | additive attention: Bahdanau's | [02](02_seq2seq.ipynb), [03](03_attention.ipynb) |
# | *While for small values of* | Without the scale, wide dot products are large, and softmax then hardly learns. | extremely small gradients: a change of the weights changes nearly nothing | [03](03_attention.ipynb) |
# | *To illustrate why the dot products* | The footnote gives the reason: a sum of $d_k$ independent products of variance 1 has variance $d_k$. | independent random variables: knowing one tells nothing of another | [03](03_attention.ipynb) |
#
# </details>
#
# Attention is a look-up in a table, made soft. In an ordinary look-up a question (the **query**) is
# compared with the **keys** of a table, one key fits, and you get its **value**. In a soft look-up
# every key fits a little, and you get the mean of all values, weighted by how well their keys fit:
#
# $$\operatorname{Attention}(Q, K, V)
# = \operatorname{softmax}\left(\frac{Q K^T}{\sqrt{d_k}}\right) V$$
#
# $Q K^T$ compares every query with every key by a dot product. Softmax turns each row of these
# scores into weights that sum to 1. The product with $V$ takes the means. **Look at** the code:
# each of these steps is one line.

# %%
# NBVAL_CHECK_OUTPUT
from course.attention import attention_weights

source(attention_weights, scaled_dot_product_attention)

# %% [markdown]
# A hand-made example. In "The dogs near the tree bark", who barks? We give each word a key of three
# numbers: is it a noun, is it plural, is it singular. Only "bark" asks a question: *a noun, plural,
# not singular*. All the others ask nothing; their query is zero.
#
# **Guess first.** How much weight does the tree get from "bark"? And what do words that ask nothing
# get?

# %%
sentence = ["The", "dogs", "near", "the", "tree", "bark"]
key = torch.tensor(
    [[0, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0], [1, 0, 1], [0, 1, 0]], dtype=torch.float
)  # (K, Dk): noun, plural, singular
query = torch.zeros_like(key)  # (Q, Dk)
query[5] = torch.tensor([4.0, 4.0, -4.0])
weights = attention_weights(query, key)  # (Q, K)
draw_attention.maps(
    [("", weights, sentence, sentence)], '"bark" finds its subject over three words'
)

# %% [markdown]
# "bark" puts most of its weight on "dogs", over three words; distance plays no part. (It gives a
# little to itself, since it is a plural too.) A word without a question gets the plain mean of all.
# In the model nobody writes such keys and queries by hand: three weight matrices make them from the
# word vectors, and training finds the matrices.
#
# **Why divide by** $\sqrt{d_k}$? A dot product of two random vectors with $d_k$ components is a sum
# of $d_k$ terms, so its variance is $d_k$. Without the division the scores grow with the size of
# the model, softmax turns into a choice of one key, and its gradient vanishes. The claim cell
# measures the variance, the choice and the gradient, and compares our four lines with PyTorch's own
# function.

# %%
torch.manual_seed(0)
d_k = 512
query, key, value = torch.randn(3, 2000, 10, d_k)
scores = query @ key.transpose(-2, -1)  # (2000, 10, 10)
variance = scores.var().item() / d_k
tables = scores.softmax(-1), attention_weights(query, key)
largest = [table.amax(-1).mean().item() for table in tables]
slopes = [(table * (1 - table)).mean().item() for table in tables]  # of a weight, by its own score
ours, _ = scaled_dot_product_attention(query, key, value)
assert 0.9 < variance < 1.1
assert largest[0] > 0.9 and largest[1] < 0.5 and slopes[0] < slopes[1] / 5
assert torch.allclose(ours, F.scaled_dot_product_attention(query, key, value), atol=1e-4)
assert weights[5].argmax() == 1 and weights[5, 4] < 0.01
print(f"variance of a dot product over d_k: {variance:.2f}")
print(f"largest of ten weights: {largest[0]:.2f} without the division, {largest[1]:.2f} with it")
print(f"slope of the softmax:   {slopes[0]:.3f} without the division, {slopes[1]:.3f} with it")

# %%
check("why_scale")

# %%
check("scale_by_d_k")

# %% [markdown]
# ### 3.2.2 Multi-head attention
#
# <details><summary><b>Read now:</b> section 3.2.2 of the paper (3 paragraphs)</summary>
#
# | begins | in plain words | hard words | lesson |
# |---|---|---|---|
# | *Instead of performing a single attention* | Several small attentions side by side, each with its own three projections; their results are joined and projected once more. | projection: product with a learned matrix | [03](03_attention.ipynb) |
# | *Multi-head attention allows the model* | Each head may look at another place. One head would have to average. | representation subspaces: parts of the space of vectors | [03](03_attention.ipynb) |
# | *In this work we employ* | Eight heads of width 64: about the price of one head of width 512. | parallel attention layers: heads | [03](03_attention.ipynb) |
#
# </details>
#
# One look-up gives one mean. But a word has several questions at the same time: *who is my subject?
# which word comes before me? what do I refer to?* So the model attends $h$ times in parallel, each
# time in a smaller space of $d_k = d_v = d_{model} / h$ dimensions with matrices of its own, puts
# the results side by side and mixes them with one more matrix:
#
# $$\operatorname{MultiHead}(Q, K, V)
# = \operatorname{Concat}(\mathrm{head}_1, \ldots, \mathrm{head}_h)\, W^O$$
#
# $$\mathrm{head}_i = \operatorname{Attention}(Q W_i^Q, K W_i^K, V W_i^V)$$
#
# In the paper $h = 8$ and $d_k = 64$. **Look at** `split_heads`: the heads are nothing but the
# columns of one large product, cut into eight bands.

# %%
# NBVAL_CHECK_OUTPUT
from course.attention import MultiHeadAttention

source(MultiHeadAttention)

# %% [markdown]
# **Guess first.** Does a layer with 8 heads have 8 times as many weights as a layer with one?
#
# The claim cell answers, and checks a second way to see the formula: "concatenate, then multiply by
# $W^O$" is the same as "each head writes its own contribution, and the contributions are summed".

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
attention = MultiHeadAttention(512, 8)
x = torch.randn(2, 7, 512)  # (B, L, D)
weights = attention.weights(x, x)  # (B, H, Q, K)
value = attention.split_heads(attention.w_v(x))  # (B, H, K, Dv)
w_o = attention.w_o.weight.unflatten(1, (8, 64))  # (D, H, Dv)
by_head = torch.einsum("bhqk,bhkv,dhv->hbqd", weights, value, w_o)  # (H, B, Q, D)
assert torch.allclose(by_head.sum(0), attention(x, x, x), atol=1e-5)
counts = {h: sum(p.numel() for p in MultiHeadAttention(512, h).parameters()) for h in (1, 8, 32)}
assert set(counts.values()) == {4 * 512**2}
print(f"weights {tuple(weights.shape)}; parameters with 1, 8, 32 heads: {[*counts.values()]}")

# %%
check("heads_why")

# %%
check("heads_cost")

# %% [markdown]
# ### 3.2.3 Three uses of attention, and the masks
#
# <details><summary><b>Read now:</b> section 3.2.3 of the paper (3 paragraphs)</summary>
#
# | begins | in plain words | hard words | lesson |
# |---|---|---|---|
# | *In encoder-decoder attention layers* | Queries from the decoder, keys and values from the encoder: each written word may look at the whole source. | memory: here, the encoder's output | [04](04_masking.ipynb), [05](05_transformer.ipynb) |
# | *The encoder contains self-attention layers* | All three come from the layer below, and every place sees every place. | self-attention | [03](03_attention.ipynb) |
# | *Similarly, self-attention layers in the decoder* | The same, up to the own place: what comes later is masked inside of the softmax. | leftward information flow: from later words to earlier ones; illegal connections | [04](04_masking.ipynb) |
#
# </details>
#
# The same class stands at three places of the figure. What differs is who asks and who answers.
#
# | where | queries from | keys and values from | may look at |
# |---|---|---|---|
# | encoder self-attention | source | source | every source token |
# | decoder self-attention | target | target | itself and what stands before it |
# | cross-attention (paper: encoder-decoder attention) | target | memory | every source token |
#
# The second row needs a **mask**. While training, the decoder gets the whole English sentence at
# once, shifted right by one: at each place it must predict the next token. If it could look ahead,
# it would copy the answer and learn nothing. So the scores of later places become $-\infty$ before
# the softmax, and their weights become exactly 0. The second mask is our own need: sentences of
# different lengths are filled up with `<pad>` to make a rectangle, and nobody may look at `<pad>`.

# %%
# NBVAL_CHECK_OUTPUT
from course.masking import combine_masks, padding_mask, shift_right

source(causal_mask, padding_mask, combine_masks, shift_right)

# %% [markdown]
# A batch of two sentence pairs. The pictures show the shorter pair: rows ask, columns answer, blue
# may be seen.

# %%
from course.masking import Batch
from course.text import BOS, EOS, PAD, Vocabulary

german = ["zwei Hunde bellen sehr laut", "ein Kind lacht"]
english = ["two dogs bark very loudly", "a child laughs"]
vocabulary = Vocabulary.from_sentences(s.split() for s in german + english)
sides = german, english
src_ids, tgt_ids = ([[*vocabulary.encode(s.split()), EOS] for s in side] for side in sides)
batch = Batch.from_sequences(src_ids, tgt_ids, PAD, BOS)
reads, sees = (vocabulary.decode(ids[1].tolist()) for ids in (batch.src, batch.tgt_in))
source_mask, target_mask = batch.src_mask[1, 0], batch.tgt_mask[1, 0]  # (1, S), (T, T)
panels = {
    "encoder: source to source": (source_mask.expand(len(reads), -1), reads, reads),
    "decoder: target to target": (target_mask, sees, sees),
    "decoder: target to source": (source_mask.expand(len(sees), -1), sees, reads),
}
title = "Three uses, two masks: no padding, and in the decoder no future"
draw_masking.masks(panels, title, columns=3)

# %% [markdown]
# **Guess first.** We replace the fourth target token by another word. Which of the decoder's
# outputs may change?

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
model = Transformer(TransformerConfig(len(vocabulary), len(vocabulary), 64, 4, 256, 2)).eval()
masks = batch.src_mask, batch.tgt_mask
changed = batch.tgt_in.clone()
changed[0, 3] = batch.tgt_in[0, 1]
before, after = model(batch.src, batch.tgt_in, *masks), model(batch.src, changed, *masks)
moved = (before - after).abs().amax(-1)[0]  # (T,)
alone = model(batch.src[1:, :4], batch.tgt_in[1:, :4], tgt_mask=causal_mask(4))  # without padding
assert (moved[:3] == 0).all() and (moved[3:] > 1e-4).all()
assert torch.allclose(alone, before[1:, :4], atol=1e-5)
assert (attention_weights(x, x, causal_mask(7)[0]).triu(1) == 0).all()
print("outputs that changed:", [i + 1 for i, change in enumerate(moved.tolist()) if change > 0])
print("a sentence gives the same with padding and alone")

# %%
check("mask_before_softmax")

# %%
check("mask_encoder")

# %% [markdown]
# ### 3.3 Position-wise feed-forward networks
#
# <details><summary><b>Read now:</b> section 3.3 of the paper (2 paragraphs)</summary>
#
# | begins | in plain words | hard words | lesson |
# |---|---|---|---|
# | *In addition to attention sub-layers* | A network of two layers, the same at each place: 512 to 2,048 and back, with ReLU between. | ReLU: negative numbers become 0 | [05](05_transformer.ipynb) |
# | *While the linear transformations are* | The same weights at all places of a layer, other weights in another layer. It is a convolution of width 1. | kernel size: the width that a convolution sees | [05](05_transformer.ipynb) |
#
# </details>
#
# Attention moves information between positions. The second sub-layer works on it, at each position
# by itself and with the same weights everywhere: it makes the vector four times wider, sets what is
# negative to zero, and makes it narrow again.
#
# $$\operatorname{FFN}(x) = \max(0, x W_1 + b_1)\, W_2 + b_2$$
#
# In the paper the widths are 512 and 2048. **Guess first:** which sub-layer of an encoder layer has
# more parameters, attention or this one?

# %%
# NBVAL_CHECK_OUTPUT
from course.transformer import FeedForward

source(FeedForward)

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
feed_forward = FeedForward(512, 2048)
one_by_one = torch.stack([feed_forward(x[:, i]) for i in range(7)], dim=1)  # (B, L, D)
assert torch.allclose(feed_forward(x), one_by_one, atol=1e-5)
sizes = [sum(p.numel() for p in part.parameters()) for part in (feed_forward, attention)]
assert 0.66 < sizes[0] / sum(sizes) < 0.67
print(f"feed-forward {sizes[0]:,} parameters, attention {sizes[1]:,}: two thirds and one third")

# %%
check("feed_forward_why")

# %% [markdown]
# ### 3.4 Embeddings and softmax
#
# <details><summary><b>Read now:</b> section 3.4 of the paper (1 paragraph)</summary>
#
# | begins | in plain words | hard words | lesson |
# |---|---|---|---|
# | *Similarly to other sequence transduction* | Words become vectors by a table, and vectors become probabilities by the same table, turned. The embeddings are multiplied by $\sqrt{d_{model}}$. | learned embeddings; pre-softmax linear transformation: the scores of all words | [05](05_transformer.ipynb) |
#
# </details>
#
# A token is a number; the model needs a vector. The **embedding** is a table with one row for each
# token of the vocabulary. At the other end, a linear map and a softmax turn the decoder's vector
# into a probability for each token. The paper uses **one** table three times: for the source, for
# the target, and, transposed, for the output. And it multiplies the rows by $\sqrt{d_{model}}$ when
# it reads them.
#
# Why the factor? At the output a row must be short, or the logits would be huge; our rows begin
# with variance $1 / d_{model}$. At the input the vector is added to a position (section 3.5) whose
# components lie between −1 and 1; without the factor the word would be lost beside its position.

# %%
# NBVAL_CHECK_OUTPUT
from course.transformer import TokenEmbedding

source(TokenEmbedding)

# %%
# NBVAL_CHECK_OUTPUT
with torch.device("meta"):  # shapes without memory: a model to count, not to run
    base = Transformer(TransformerConfig.base(41_100))
torch.manual_seed(0)
embedding = TokenEmbedding(1000, 512)
std = embedding(torch.arange(1000)).std().item()
n_parameters = sum(p.numel() for p in base.parameters())  # a shared table counts once
assert 0.98 < std < 1.02
assert base.w_vocab.weight is base.src_embedding.weight is base.tgt_embedding.weight
assert round(n_parameters / 1e6) == 65
print(f"embeddings come out with standard deviation {std:.1f}")
millions = [count / 1e6 for count in (n_parameters, base.src_embedding.weight.numel())]
print(f"base: {millions[0]:.1f} million parameters, the table {millions[1]:.0f} of them")

# %% [markdown]
# The paper says 65 million for this model, and "about 37000 tokens" for its vocabulary. The two do
# not fit; lesson 05 finds, from the rows of table 3, that 41,100 tokens explain nearly all of them.

# %% [markdown]
# ### 3.5 Positional encoding
#
# <details><summary><b>Read now:</b> section 3.5 of the paper (4 paragraphs)</summary>
#
# | begins | in plain words | hard words | lesson |
# |---|---|---|---|
# | *Since our model contains no recurrence* | Attention does not see the order of words, so something must say it: a vector for each place is added to the word's. | inject: put in | [05](05_transformer.ipynb) |
# | *In this work, we use sine* | The vectors are sines and cosines of many wavelengths. | frequency; geometric progression: each wavelength is a fixed multiple of the one before | [05](05_transformer.ipynb) |
# | *where pos is the position* | A shift by $k$ places is the same linear map everywhere, so distances should be easy to learn. | linear function of $PE_{pos}$: a matrix times it | [05](05_transformer.ipynb) |
# | *We also experimented with using learned* | Learned vectors did nearly as well. Sines were kept because they exist for any length. | extrapolate: go on beyond what was seen | [05](05_transformer.ipynb), [09c](09c_ablations.ipynb) |
#
# </details>
#
# Nothing so far knows about order. Attention compares and averages; if you shuffle the words, the
# same vectors come out, shuffled. So the model **adds** to each word vector a pattern that says
# where the word stands: sines and cosines of falling frequency.
#
# $$PE_{(pos, 2i)} = \sin\left(\frac{pos}{10000^{2i/d_{model}}}\right)
# \qquad PE_{(pos, 2i+1)} = \cos\left(\frac{pos}{10000^{2i/d_{model}}}\right)$$
#
# **Look at** the second function: what happens to a sentence longer than the table?

# %%
# NBVAL_CHECK_OUTPUT
from course.transformer import PositionalEncoding, positional_encoding

source(positional_encoding, PositionalEncoding)

# %%
draw_transformer.encoding_map(positional_encoding(64, 64), [0, 8, 16, 24])

# %% [markdown]
# It works like the digits of a clock: the fast waves on the left count seconds, the slow ones on
# the right count hours. The paper's reason for sines is this: a shift by $k$ positions is the
# *same* linear map everywhere. Write a pair of cosine and sine as one complex number
# $e^{i\,pos\,\omega}$: then a shift is a multiplication by $e^{i k \omega}$, wherever you stand. So
# a head can learn "three words back" once for all positions. The claim checks both: without
# positions order is lost, and the shift.

# %%
# NBVAL_CHECK_OUTPUT
shuffle = torch.tensor([3, 0, 6, 2, 5, 1, 4])
assert torch.allclose(attention(x, x, x)[:, shuffle], attention(*[x[:, shuffle]] * 3), atol=1e-5)
with_positions = x + positional_encoding(7, 512)
shuffled = x[:, shuffle] + positional_encoding(7, 512)
outputs = attention(*[with_positions] * 3)[:, shuffle], attention(*[shuffled] * 3)
assert not torch.allclose(*outputs, atol=1e-2)
table = positional_encoding(500, 512).double()
waves = torch.complex(table[:, 1::2], table[:, 0::2])  # (position, D/2): exp(i pos omega)
for k in (1, 3, 100):
    assert (waves[k:] - waves[:-k] * waves[k]).abs().max() < 1e-3
print("attention alone does not see order; with positions it does")
print("a shift by k is one multiplication, the same at every position")

# %%
check("positions_why")

# %%
check("positions_sines")

# %% [markdown]
# ## 4 · Why self-attention?
#
# <details><summary><b>Read now:</b> section 4 of the paper (6 paragraphs)</summary>
#
# | begins | in plain words | hard words | lesson |
# |---|---|---|---|
# | *In this section we compare various* | Layers are compared that turn $n$ vectors into $n$ vectors. Three things count. | desiderata: what one wants to have | [03](03_attention.ipynb) |
# | *One is the total computational complexity* | How much is computed, and how many steps must wait for each other. | parallelized: done at the same time | [03](03_attention.ipynb) |
# | *The third is the path length* | How many steps lie between two words: shorter ways are learned more easily. | long-range dependencies; traverse: go through | [01](01_foundations.ipynb), [03](03_attention.ipynb) |
# | *As noted in Table 1* | Self-attention joins all places in one step, and computes less than recurrence where sentences are shorter than vectors are wide. | restricted: only $r$ neighbours are looked at | [03](03_attention.ipynb) |
# | *A single convolutional layer with kernel* | Convolutions need a stack of layers for a long way, and cost more. | dilated: with gaps; separable: channels apart, then mixed | [01](01_foundations.ipynb), [03](03_attention.ipynb) |
# | *As side benefit, self-attention could* | Attention can be looked at, and some heads seem to do something that has a name. | interpretable: a reader understands why | [09b](09b_inside.ipynb) |
#
# </details>
#
# The paper compares three kinds of layer that turn $n$ vectors of width $d$ into $n$ others. Its
# table 1 asks: how many operations does the layer need? How many of them must wait for each other?
# And how long is the way between the two words that are furthest apart?
#
# | layer | operations | sequential | longest path |
# |---|---|---|---|
# | self-attention | $n^2 \cdot d$ | 1 | 1 |
# | recurrent | $n \cdot d^2$ | $n$ | $n$ |
# | convolution of width $k$ | $k \cdot n \cdot d^2$ | 1 | $\log_k n$ |
# | self-attention to $r$ neighbours | $r \cdot n \cdot d$ | 1 | $n / r$ |
#
# (The logarithm holds for dilated convolutions; plain ones need $n/k$.) **Guess first.** With
# $d = 512$: at which sentence length does self-attention become more expensive than recurrence?
#
# We need not believe the formulas: PyTorch counts the multiplications and additions in all matrix
# products of any code. We count for a usual sentence, $n = 32$, and for a long document, $n = 2048$.

# %%
def count_operations(layer: Callable[[Tensor], Tensor], n: int, d: int = 512) -> int:
    """Count the multiplications and additions of a layer on n vectors, without computing them."""
    with FlopCounterMode(display=False) as counter:
        layer(torch.empty(1, n, d, device="meta"))
    return counter.get_total_flops()


with torch.device("meta"):
    w_x, w_h = nn.Linear(512, 512), nn.Linear(512, 512)
    convolution = nn.Conv1d(512, 512, kernel_size=3, padding=1)


def recurrence(x: Tensor) -> Tensor:
    """Run a plain recurrent layer over x (1, n, D); return its last state (1, D)."""
    state = torch.zeros_like(x[:, 0])
    for t in range(x.size(1)):
        state = torch.tanh(w_x(x[:, t]) + w_h(state))
    return state


layers = {
    "self-attention": lambda x: scaled_dot_product_attention(x, x, x)[0],
    "recurrent": recurrence,
    "convolution, k = 3": lambda x: convolution(x.transpose(1, 2)),
}
operations = {name: [count_operations(f, n) for n in (32, 2048)] for name, f in layers.items()}

# %%
# NBVAL_CHECK_OUTPUT
short, long = (dict(zip(operations, column)) for column in zip(*operations.values()))
assert short["recurrent"] == 16 * short["self-attention"]  # d / n
assert long["self-attention"] == 4 * long["recurrent"]  # n / d
assert short["convolution, k = 3"] == 1.5 * short["recurrent"]  # k, against two products
assert [long[name] // short[name] for name in operations] == [64**2, 64, 64]
assert count_operations(layers["self-attention"], 512) == count_operations(recurrence, 512)
print("millions of operations".ljust(24), "n = 32".rjust(10), "n = 2048".rjust(10))
for name in operations:
    print(f"{name:24} {short[name] / 1e6:10.1f} {long[name] / 1e6:10.1f}")

# %% [markdown]
# For the matrix products the formulas hold exactly. The two meet at $n = d = 512$: below, attention
# itself does *less* work than recurrence, and none of it waits. Sentences are far below. For long
# documents $n^2$ is the price, and the paper already proposes what many later models did: look only at
# $r$ neighbours. As the paper's table does, the count leaves out the projections of section 3.2.2,
# $4 n d^2$ multiplications more. With them a whole layer does more work than this plain recurrence at
# every length; what it gains is that nothing waits.

# %%
check("cost_double")

# %%
check("path_attention")

# %% [markdown]
# ## 5 · Training

# %% [markdown]
# ### 5.1 Data and batches
#
# <details><summary><b>Read now:</b> sections 5 and 5.1 of the paper (1 paragraph)</summary>
#
# | begins | in plain words | hard words | lesson |
# |---|---|---|---|
# | *We trained on the standard WMT* | Millions of sentence pairs, cut into pieces of words; a batch holds about 25,000 pieces a side, pairs of similar length together. | byte-pair encoding; vocabulary; token | [06](06_text.ipynb) |
#
# </details>
#
# The paper trains on WMT 2014: 4.5 million sentence pairs English-German, 36 million
# English-French. Words are cut into pieces by **byte-pair encoding** (BPE): begin with characters,
# then join the most frequent pair of neighbours, again and again, until the vocabulary is full
# (about 37,000 tokens, shared by both languages; for English-French 32,000 *word pieces*, a related
# method). Frequent words become one token; a rare word becomes a few. A character that training never
# saw is spelled in its UTF-8 bytes: this is our addition, so that nothing at all is unknown. Sentences of similar length share a batch, about 25,000 tokens
# on each side.
#
# This page uses a smaller corpus. **Multi30k** (29,000 captions of photographs) where it can be
# had; else **captions**, which come with the course. The next cell says which, and learns the BPE
# from the training sentences only.

# %%
from course.corpora import choose, pairs
from course.training import PRESETS, preset_model

corpus = choose()
test_split = {"multi30k": "test_2016_flickr", "captions": "test"}[corpus]
train_pairs, val_pairs, test_pairs = (pairs(corpus, s) for s in ("train", "val", test_split))
train_pairs = train_pairs[: by_scale(smoke=6_000, cpu=29_000, gpu=29_000)]
preset = {"smoke": "tiny", "cpu": "small", "gpu": "cpu"}[scale()]
translator, bpe = preset_model(preset, (s for pair in train_pairs for s in pair), seed=0)
why = {"multi30k": "it can be had here", "captions": "Multi30k cannot be had here and now"}
print(f"corpus: {corpus} ({why[corpus]})")
sizes = [f"{len(split):,}" for split in (train_pairs, val_pairs, test_pairs)]
print(f"pairs: train {sizes[0]}, val {sizes[1]}, {test_split} {sizes[2]}")
print(f"preset {preset}: {len(bpe):,} tokens in the vocabulary")

# %% [markdown]
# How does it cut words that it has hardly seen? We ask with some of our own **probe sentences**,
# which were written for this course to be hard. The sign ▁ marks the space before a word.

# %%
with (ASSETS / "probe_sentences.tsv").open(encoding="utf-8", newline="") as file:
    probes = {row["id"]: row for row in csv.DictReader(file, delimiter="\t")}
for name in ("p34", "p21", "p24"):
    print(" | ".join(bpe.tokens(probes[name]["de"])))

# %%
# NBVAL_CHECK_OUTPUT
from course.text import learn_bpe, token_batches

source(learn_bpe, token_batches)

# %% [markdown]
# Three claims: cutting and joining give back every text, even in a language that training never
# saw; no batch is larger than allowed; and little of a batch is padding, since sentences of similar
# length come together. Padding is counted as in lesson 06: each side of a batch is as wide as its
# own longest sentence. For comparison: batches of 64 in random order.

# %%
from course.text import encode_pairs

texts = [row[side] for row in probes.values() for side in ("de", "en")] + ["你只需要注意力"]
assert all(bpe.decode(bpe.encode(text)) == text for text in texts)
recipe = PRESETS[preset][1]  # how this size of model is trained
recipe = replace(recipe, max_tokens=by_scale(smoke=1000, cpu=800, gpu=recipe.max_tokens))
examples = encode_pairs(bpe, train_pairs)
sizes_of = [(len(src), len(tgt)) for src, tgt in examples]


def waste(batches: list[list[int]]) -> float:
    """Return the share of padding on both sides of the given batches of examples."""
    widths = [[max(sizes_of[i][side] for i in batch) for side in (0, 1)] for batch in batches]
    cells = sum(len(batch) * sum(width) for batch, width in zip(batches, widths))
    return 1 - sum(map(sum, sizes_of)) / cells


batches = token_batches(sizes_of, recipe.max_tokens, seed=0)
assert sorted(i for batch in batches for i in batch) == list(range(len(examples)))
assert max(len(batch) * max(max(sizes_of[i]) for i in batch) for batch in batches) <= recipe.max_tokens
order = random.Random(0).sample(range(len(examples)), len(examples))
by_chance = [order[i : i + 64] for i in range(0, len(order), 64)]
assert waste(batches) < 0.1 < 0.4 < waste(by_chance)
print(f"padding: {waste(batches):.1%} with similar lengths, {waste(by_chance):.0%} by chance")

# %%
check("mask_padding")

# %% [markdown]
# ### 5.2 Hardware and schedule
#
# <details><summary><b>Read now:</b> section 5.2 of the paper (1 paragraph)</summary>
#
# | begins | in plain words | hard words | lesson |
# |---|---|---|---|
# | *We trained our models on one* | Eight P100 GPUs; base model 100,000 steps in 12 hours, big model 300,000 steps in three and a half days. | step: one change of the weights | [07](07_training.ipynb), [07c](07c_speed.ipynb) |
#
# </details>
#
# The paper used one machine with 8 P100 graphics processors. The base model took 100,000 steps of
# 0.4 seconds; the big model 300,000 steps of 1.0 second. The paper also states its cost in
# **FLOPs** (floating-point operations): time × number of processors × 9.5 trillion operations a
# second. Three lines check its arithmetic.

# %%
# NBVAL_CHECK_OUTPUT
hours = {"base": 100_000 * 0.4 / 3600, "big": 300_000 * 1.0 / 3600}
assert 11 < hours["base"] < 12.5 and 3.4 < hours["big"] / 24 < 3.6
cost = {"base": 12 * 3600 * 8 * 9.5e12, "big": 3.5 * 24 * 3600 * 8 * 9.5e12}
assert f"{cost['base']:.1e}" == "3.3e+18" and f"{cost['big']:.1e}" == "2.3e+19"
print(f"base {hours['base']:.0f} hours (paper: 12), big {hours['big'] / 24:.1f} days (paper: 3.5)")
print(f"FLOPs: base {cost['base']:.1e}, big {cost['big']:.1e}, as the paper's table 2 says")

# %% [markdown]
# ### 5.3 The optimizer
#
# <details><summary><b>Read now:</b> section 5.3 of the paper (1 paragraph)</summary>
#
# | begins | in plain words | hard words | lesson |
# |---|---|---|---|
# | *We used the Adam optimizer* | Adam, and a rate that rises for 4,000 steps and then falls like one over the square root of the step. | inverse square root; warm-up | [07](07_training.ipynb) |
#
# </details>
#
# Adam with $\beta_1 = 0.9$, $\beta_2 = 0.98$, $\epsilon = 10^{-9}$, and a learning rate that
# changes with the step:
#
# $$lrate = d_{model}^{-0.5} \cdot \min\left(step^{-0.5},\; step \cdot warmup^{-1.5}\right)$$
#
# For the first 4,000 steps it grows in a line (**warm-up**), then it falls as $1/\sqrt{step}$. Why
# begin so gently? At first Adam's estimates rest on a few gradients, and a post-norm model is
# easily thrown off course. Our own runs are short and their length is known, so our rate falls in a
# line to 0.

# %%
# NBVAL_CHECK_OUTPUT
from course.training import (
    apply_gradient,
    linear_learning_rate,
    paper_learning_rate,
    train_step,
)

source(paper_learning_rate, linear_learning_rate, train_step, apply_gradient)

# %%
steps = range(1, 20_001)
of_paper = {
    f"$d_{{model}}$ = {d}": [paper_learning_rate(step, d) for step in steps] for d in (512, 1024)
}
ours = [linear_learning_rate(step, step / 5000, 1.5e-3, 300) for step in range(1, 5001)]
draw_training.schedules(of_paper, {"ours, 5000 steps": ours}, warmup=300)

# %%
# NBVAL_CHECK_OUTPUT
rates = [paper_learning_rate(step, 512) for step in steps]
peak = max(steps, key=lambda step: rates[step - 1])
assert peak == 4000
assert math.isclose(rates[peak - 1], (512 * 4000) ** -0.5)
assert math.isclose(rates[16_000 - 1], rates[4000 - 1] / 2)
print(f"the rate is highest at step {peak}: {rates[peak - 1]:.5f}; at step 16,000 it is half")

# %%
check("warmup_why")

# %%
check("warmup_peak")

# %% [markdown]
# ### 5.4 Regularisation
#
# <details><summary><b>Read now:</b> section 5.4 of the paper (3 paragraphs)</summary>
#
# | begins | in plain words | hard words | lesson |
# |---|---|---|---|
# | *We employ three types of regularization* | It says three and names two. (Dropout stands at two places.) | regularization: what keeps a model from learning its data by heart | [07](07_training.ipynb) |
# | *Residual Dropout: We apply dropout* | After each part, before adding, and on the sums of embeddings and positions: 0.1. | dropout: numbers set to 0 by chance in training | [05](05_transformer.ipynb), [07](07_training.ipynb) |
# | *Label Smoothing: During training* | The right word is asked for with 0.9 instead of 1. The model becomes less sure, and its translations better. | perplexity: $e$ to the mean loss | [07](07_training.ipynb) |
#
# </details>
#
# A model of this size can learn its training sentences by heart. Two things keep it from that.
# **Dropout** sets a tenth of the values to zero by chance, at the output of every sub-layer and on
# the sums of embeddings and positions. **Label smoothing** does not ask for probability 1 on the
# right word: it asks for 0.9 and spreads the rest evenly. (The paper announces three kinds; it
# describes these two.) The paper notes the effect: *perplexity*, e to the loss, gets worse, because the
# model learns to be less sure; accuracy and BLEU get better.

# %%
# NBVAL_CHECK_OUTPUT
from course.training import label_smoothed_loss

source(label_smoothed_loss)

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
logits, target = 3 * torch.randn(50, 20), torch.randint(20, (50,))
ours = label_smoothed_loss(logits, target, epsilon=0.1)
torchs = F.cross_entropy(logits, target, label_smoothing=0.1, reduction="sum")
assert torch.allclose(ours, torchs)
sure = [label_smoothed_loss(c * torch.eye(20)[:1], target[:1] * 0) for c in (2.0, 5.1, 15.0)]
assert sure[1] < sure[0] and sure[1] < sure[2]
model.train()
runs = [model(batch.src, batch.tgt_in, *masks) for _ in range(2)]
model.eval()
assert not torch.equal(*runs) and torch.equal(before, model(batch.src, batch.tgt_in, *masks))
print("smoothed: being right with probability 0.9 costs less than being right for certain")
print("dropout: two runs differ in training and agree in use")

# %%
check("smoothing_perplexity")

# %%
check("dropout_where")

# %% [markdown]
# ## Does it learn at all? The copy task
#
# Before a real language, a toy: read a sequence of symbols, write the same sequence. It sounds
# trivial, but everything must work for it: embeddings, positions, all three attentions, masks,
# shift, loss and decoding. If anything is wired wrongly, it does not reach 100 %.
#
# The sequences have 3 to 8 symbols of an alphabet of ten. 200 of them are kept for the test, and
# training never sees them. The training loop is a dozen lines.
#
# **Guess first.** How many steps of 64 sequences does a model with a single layer need?

# %%
from course.text import SPECIAL_TOKENS

N_SYMBOLS, FIRST = 10, len(SPECIAL_TOKENS)  # the first ids are <pad>, <s>, </s>, <unk>


def sequences(n: int, dice: random.Random, known: frozenset = frozenset()) -> list[tuple[int, ...]]:
    """Throw n sequences of 3 to 8 symbols, none of them in `known`."""
    made: list[tuple[int, ...]] = []
    while len(made) < n:
        one = tuple(FIRST + dice.randrange(N_SYMBOLS) for _ in range(dice.randint(3, 8)))
        if one not in known:
            made.append(one)
    return made


def copy_batch(rows: list[tuple[int, ...]]) -> Batch:
    """Return a batch whose target is its source."""
    ids = [[*row, EOS] for row in rows]
    return Batch.from_sequences(ids, ids, PAD, BOS).to(device)


unseen = sequences(200, random.Random(1))
forbidden, dice = frozenset(unseen), random.Random(0)
torch.manual_seed(0)
vocab = FIRST + N_SYMBOLS
copier = Transformer(TransformerConfig(vocab, vocab, 32, 4, 64, n_layers=1, dropout=0.0)).to(device)

# %%
n_steps = by_scale(smoke=400, cpu=600, gpu=600)
optimizer = torch.optim.Adam(copier.parameters(), betas=(0.9, 0.98), eps=1e-9)
copy_losses = []
for step in range(1, n_steps + 1):
    copies = copy_batch(sequences(64, dice, forbidden))
    logits = copier(copies.src, copies.tgt_in, copies.src_mask, copies.tgt_mask)  # (B, T, V)
    real = copies.tgt_out != PAD
    loss = F.cross_entropy(logits[real], copies.tgt_out[real])
    optimizer.param_groups[0]["lr"] = 4e-3 * min(1, step / 50, 2 * (n_steps + 1 - step) / n_steps)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    copy_losses.append(loss.item())
print(f"loss {copy_losses[0]:.2f} before the first of {n_steps} steps, {copy_losses[-1]:.4f} at the last")

# %% [markdown]
# To use the model, we let it write: take the likeliest symbol, append it, ask again, until it
# writes the end sign. This is **greedy search**.

# %%
# NBVAL_CHECK_OUTPUT
from course.decoding import greedy_search, next_log_probs

source(greedy_search)

# %%
# NBVAL_CHECK_OUTPUT
copier.eval()
with torch.no_grad():
    questions = copy_batch(unseen)
    written = greedy_search(next_log_probs(copier, questions.src), len(unseen), 12, device)
right = sum(tuple(answer) == row for answer, row in zip(written, unseen))
assert right == 200, f"only {right} of 200 are right: more steps in the training cell should mend it"
print(f"{right} of 200 unseen sequences copied without a mistake")

# %% [markdown]
# All of them, and none was in the training. Where does the decoder look when it copies?
# `record_attention` takes the weights of the cross-attention out of the running model. Each row is
# a symbol that is about to be written. (In the last row it is the end sign.)

# %%
from course.attention import record_attention

row = max(unseen, key=lambda r: (len(set(r)), r))
one = copy_batch([row])
with torch.no_grad(), record_attention(copier) as recorded:
    copier(one.src, one.tgt_in, one.src_mask, one.tgt_mask)
weights = recorded["decoder.layers.0.cross_attention"][0].cpu()  # (H, T, S)
letters = ["ABCDEFGHIJ"[i - FIRST] for i in row] + ["end"]
share = weights.diagonal(dim1=1, dim2=2).mean(1).max()  # of the head that looks most at its symbol
panels = [(f"head {h + 1}", weights[h], letters, letters) for h in range(len(weights))]
draw_attention.maps(panels, f"The sharpest head has {share:.0%} of its weight on the symbol it copies")

# %% [markdown]
# Nobody told the model to go from left to right; the losses of training were enough. A translation
# needs the same ability, plus a change of order and of words.

# %% [markdown]
# ## 6 · Results

# %% [markdown]
# ### 6.1 Machine translation
#
# <details><summary><b>Read now:</b> section 6.1, with its footnote of the paper (4 paragraphs)</summary>
#
# | begins | in plain words | hard words | lesson |
# |---|---|---|---|
# | *On the WMT 2014 English-to-German* | 28.4 BLEU with the big model: more than two above the best before, ensembles included. | ensemble: several models that vote | [09](09_evaluation.ipynb) |
# | *On the WMT 2014 English-to-French* | 41.8 in the table (41.0 in this sentence of the text: the paper disagrees with itself). | previous state-of-the-art: the best until then | [09](09_evaluation.ipynb) |
# | *For the base models, we used* | The last 5 checkpoints are averaged (20 for big); beam of 4, length penalty 0.6. | checkpoint: saved weights; hyperparameter: chosen, not learned | [07](07_training.ipynb), [08](08_decoding.ipynb) |
# | *Table 2 summarizes our results* | Quality beside the price, as a number of floating-point operations. The footnote says how fast each GPU is taken to be. | FLOPs: additions and multiplications | [09](09_evaluation.ipynb) |
#
# </details>
#
# What the paper reports, on the test sets of WMT 2014 (BLEU, 0 to 100, counts how many short runs
# of words a translation shares with a reference; lesson 08 builds it):
#
# | model | BLEU en-de | BLEU en-fr | training cost (FLOPs) |
# |---|---|---|---|
# | Transformer, base | 27.3 | 38.1 | 3.3 · 10¹⁸ |
# | Transformer, big | 28.4 | 41.8 | 2.3 · 10¹⁹ |
#
# Big was more than 2 BLEU better than everything published before on English-German, ensembles of
# several models included, for a small part of their cost. (For English-French the text of section
# 6.1 says 41.0, table 2 says 41.8.) For these numbers the authors averaged the weights of the last
# 5 or 20 checkpoints, and searched with a **beam** of 4 and a length penalty α = 0.6.

# %%
# NBVAL_CHECK_OUTPUT
from course.decoding import beam_search, length_penalty
from course.training import average_checkpoints

source(average_checkpoints, length_penalty, beam_search)

# %% [markdown]
# Now our own experiment, from German to English. First two **baselines**, or the loss will mean
# nothing: what does a model lose, in nats per token, that gives every token the same probability? (A nat is
# the unit of $-\ln p$. *Perplexity*, e to this loss, says: as unsure as among so many equal tokens.)
# And one that only knows how often each token occurs? The third number is our model before
# training.

# %%
from course.text import make_batches
from course.training import evaluate_loss

counts = Counter(token for _, tgt in examples for token in tgt)
val_examples = encode_pairs(bpe, val_pairs)
val_tokens = [token for _, tgt in val_examples for token in tgt]
total = counts.total() + len(bpe)  # every token counted once more, so that none is impossible
unigram = sum(-math.log((counts[token] + 1) / total) for token in val_tokens) / len(val_tokens)
val_batches = list(make_batches(val_examples, 1600))
translator.to(device)
untrained = evaluate_loss(translator, val_batches)
n_parameters = sum(p.numel() for p in translator.parameters())
print(f"{n_parameters:,} parameters")
print(f"ln V {math.log(len(bpe)):.2f}, frequencies {unigram:.2f}, untrained model {untrained:.2f}")

# %% [markdown]
# Then the training: the same passes over the corpus, the same batches and the same seed on every
# machine, however busy it is. **How long will it take here?** Some steps on a copy of the model say
# it; then the copy is thrown away.

# %%
from course.runs import Budget, Trainer
from course.training import make_optimizer

epochs = by_scale(smoke=1, cpu=5, gpu=12)
trial = copy.deepcopy(translator).train()
optimizer, clock = make_optimizer(trial, recipe), []
for some in islice(make_batches(examples, recipe.max_tokens, seed=0), 25):
    clock.append(time.perf_counter())
    train_step(trial, [some.to(device)], optimizer, 0.0, recipe)
minutes = epochs * len(batches) * (clock[-1] - clock[5]) / (len(clock) - 6) / 60
print(f"{epochs} epochs of {len(batches)} steps: about {max(1, round(minutes))} min, if this machine stays as busy as it is")

# %% [markdown]
# Go for a coffee, or read section 6.2 in the meantime. The lines that appear show the loss on the
# val sentences after each epoch. The training loss stands higher than it: it is measured with
# dropout, and against smoothed targets.

# %%
run = Path(tempfile.mkdtemp()) / "run"
trainer = Trainer(translator, bpe, recipe, Budget(epochs=epochs), run)
trainer.run(train_pairs, val_pairs)
translator.eval()
position = trainer.position
assert position.epoch == epochs and position.step == epochs * trainer.n_batches
print(f"{position.step:,} steps, {position.tokens:,} target tokens, {position.epoch} epochs, "
      f"in {position.seconds / 60:.1f} minutes")

# %%
from course.runs import read_log

trained = evaluate_loss(translator, val_batches)
baselines = {"knows nothing: ln V": math.log(len(bpe)), "knows frequencies": unigram}
title = f"{epochs} epochs take the val loss from {untrained:.1f} to {trained:.2f}"
draw_experiment.learning_curves(read_log(run), baselines, title)

# %% [markdown]
# The claim that must hold on every machine and for every corpus: after training, the model knows
# more about the next token than frequencies do.

# %%
assert trained < unigram < math.log(len(bpe))
assert trained < untrained
print(f"val loss {trained:.2f} nats a token: perplexity {math.exp(trained):.1f} instead of "
      f"{math.exp(unigram):.0f} (frequencies) and {len(bpe):,} (chance)")

# %% [markdown]
# And what does it say? Eight probe sentences, and beside our model the one that comes with the
# course: four times as many weights, trained for two hours (lesson 09). **Guess first** which ones
# they will get wrong. Look at the verbs that German puts at the end or cuts in two, at who does what
# to whom, and at rare words.

# %%
from course.cache import translate
from course.runs import load_checkpoint

beam = by_scale(smoke=1, cpu=4, gpu=4)
chosen = [probes[name] for name in ("p34", "p19", "p18", "p01", "p21", "p11", "p13", "p09")]
shipped, shipped_bpe = load_checkpoint("multi30k-de-en")
both = {"our model": (translator, bpe), "the shipped model": (shipped.to(device).eval(), shipped_bpe)}
asked = [row["de"] for row in chosen]
said = {name: translate(*one, asked, beam) for name, one in both.items()}
lines = ["| German | reference | our model | the shipped model |", "|---|---|---|---|"]
for row, *answers in zip(chosen, *said.values()):
    cells = (row["de"], row["en"], *answers)
    lines.append("| " + " | ".join(re.sub(r"[|\s]+", " ", cell) for cell in cells) + " |")
display(Markdown("\n".join(lines)))

# %% [markdown]
# Eight sentences are an impression, not a measurement. BLEU on the test split measures, on whole
# sentences as a reader sees them, with sacrebleu. Its *signature* says how it was counted; without
# the signature two BLEU scores cannot be compared.

# %%
from course.evaluation import evaluate

part = test_pairs[: by_scale(smoke=40, cpu=1000, gpu=1000)]
results = {name: evaluate(*one, part, beam, 0.6)[0] for name, one in both.items()}
result, best = results.values()
expected = by_scale(smoke=0, cpu=33, gpu=33) if corpus == "multi30k" else 0
assert expected <= result.bleu < 100 and result.sentences == len(part)
print(f"{corpus} {test_split}, {result.sentences:,} sentences, beam {beam}")
print("; ".join(f"{name}: BLEU {one.bleu:.1f}" for name, one in results.items()))
print(result.signatures["bleu"])

# %% [markdown]
# Ours is a small model after a few minutes. The shipped one is what you can have: lesson 09 makes
# it, and compares it with what others report. (It learned from Multi30k; if your corpus is
# *captions*, it has never seen such sentences, and the comparison says nothing.)
#
# Where does a decoder look while it translates? Again the cross-attention, the mean over the heads,
# layer by layer, here of the shipped model. **Look at** the accordion: it is the last word in
# German, and English puts it before the stand.

# %%
index = asked.index(probes["p21"]["de"])
german, english, of_shipped = asked[index], *(answers[index] for answers in said.values())
src = torch.tensor([[*shipped_bpe.encode(german), EOS]], device=device)
tgt_in = torch.tensor([[BOS, *shipped_bpe.encode(of_shipped)]], device=device)
with torch.no_grad(), record_attention(shipped) as recorded:
    shipped(src, tgt_in, padding_mask(src, PAD), causal_mask(tgt_in.size(1), device))
maps = torch.stack([w[0].mean(0) for name, w in recorded.items() if "cross" in name]).cpu()  # (N, T, S)
written = [*shipped_bpe.tokens(of_shipped), "</s>"]
read = [*shipped_bpe.tokens(german), "</s>"]
looks = maps[-1, written.index("▁accordion"), read.index("▁Akkordeon")]
assert looks > 0.9
draw_inside.attention_grid(
    maps, written, read,
    f'To write "accordion" the last layer has {looks:.0%} of its weight on "Akkordeon", words further on',
)

# %%
check("averaging_what")

# %%
check("bleu_tokens")

# %% [markdown]
# ### 6.2 Model variations
#
# <details><summary><b>Read now:</b> section 6.2 of the paper (3 paragraphs)</summary>
#
# | begins | in plain words | hard words | lesson |
# |---|---|---|---|
# | *To evaluate the importance of different* | One thing is changed at a time, and judged on the development set. | development set: not trained on, and not the test | [09c](09c_ablations.ipynb) |
# | *In Table 3 rows (A)* | One head is 0.9 worse than the best; too many heads are worse, too. | constant amount of computation | [03](03_attention.ipynb), [09c](09c_ablations.ipynb) |
# | *In Table 3 rows (B)* | Narrower keys are worse; larger models are better; dropout helps much; learned positions change nearly nothing. | compatibility: see 3.2 | [09c](09c_ablations.ipynb) |
#
# </details>
#
# Table 3 of the paper changes one thing of the base model at a time, and measures on newstest2013.
# It is the most instructive page of the paper: an *ablation*, which shows what each choice is
# worth.

# %%
table_three = [  # group, change, BLEU
    ("A", "1 head of 512", 24.9), ("A", "4 heads of 128", 25.5),
    ("A", "16 heads of 32", 25.8), ("A", "32 heads of 16", 25.4),
    ("B", "$d_k$ = 16", 25.1), ("B", "$d_k$ = 32", 25.4),
    ("C", "2 layers", 23.7), ("C", "4 layers", 25.3), ("C", "8 layers", 25.5),
    ("C", "$d_{model}$ = 256", 24.5), ("C", "$d_{model}$ = 1024", 26.0),
    ("C", "$d_{ff}$ = 1024", 25.4), ("C", "$d_{ff}$ = 4096", 26.2),
    ("D", "no dropout", 24.6), ("D", "dropout 0.2", 25.5),
    ("D", "no label smoothing", 25.3), ("D", "label smoothing 0.2", 25.7),
    ("E", "learned positions", 25.7), ("big", "6 layers, 1024, 4096", 26.4),
]
title = "Too little depth, width, dropout or heads costs most; learned positions cost 0.1"
draw.table_three(table_three, 25.8, title)

# %% [markdown]
# What each group says:
#
# - **A, heads** (at equal cost): one head is 0.9 worse than eight, but 32 are worse as well.
#   The paper reports it and does not say why.
# - **B, size of the keys:** smaller $d_k$ hurts. The authors suspect that to compare a query with a
#   key is not an easy task.
# - **C, size:** larger is better, and depth counts most: two layers lose 2.1. (Eight layers are no
#   better than six here.)
# - **D, regularisation:** without dropout the model loses 1.2. Without label smoothing perplexity is
#   *better*, 4.67 instead of 4.92, but BLEU is worse.
# - **E, positions:** a learned table gives nearly the same as the sines. The paper keeps the sines,
#   which may also work for sentences longer than any in training.

# %%
# NBVAL_CHECK_OUTPUT
bleu = {change: value for _, change, value in table_three}
assert max(bleu["1 head of 512"], bleu["32 heads of 16"]) < 25.8 <= bleu["16 heads of 32"]
assert bleu["2 layers"] == min(bleu.values()) and bleu["6 layers, 1024, 4096"] == max(bleu.values())
assert abs(bleu["learned positions"] - 25.8) < 0.15
print("worst: two layers; best: big; learned positions: -0.1")

# %%
check("table3_noise")

# %%
check("table3_dk")

# %% [markdown]
# ### 6.3 Another task: parsing
#
# <details><summary><b>Read now:</b> section 6.3 of the paper (5 paragraphs)</summary>
#
# | begins | in plain words | hard words | lesson |
# |---|---|---|---|
# | *To evaluate if the Transformer can* | Can it do something else: write the syntax tree of a sentence? | constituency parsing: which words belong together | [10](10_beyond.ipynb) |
# | *We trained a 4-layer transformer* | Four layers, on 40,000 sentences, and once more with 17 million that another parser had parsed. | semi-supervised: part of the answers come from a program | [10](10_beyond.ipynb) |
# | *We performed only a small number* | Few settings were tried; beam 21, α 0.3. | Section 22: the usual development part | [10](10_beyond.ipynb) |
# | *Our results in Table 4* | 91.3 F1, and 92.7 with more data: nearly as good as parsers made for the task. | task-specific tuning | [10](10_beyond.ipynb) |
# | *In contrast to RNN sequence-to-sequence* | It beats an older parser of that kind with the 40,000 sentences alone. | BerkeleyParser: of 2006, with a grammar | [10](10_beyond.ipynb) |
#
# </details>
#
# Is this a model for translation only? The authors also train a 4-layer Transformer to write the
# grammatical tree of an English sentence as a string of brackets. With the 40,000 sentences of the
# Wall Street Journal alone it reaches an F1 of 91.3, with more data 92.7: better than all but the
# best parsers of the time, with hardly any tuning. It is "parsing as translation", and a hint of
# what came next. [Lesson 10](10_beyond.ipynb) does it, on captions.

# %%
check("parsing_linear")

# %%
check("parsing_f1")

# %% [markdown]
# ## 7 · Conclusion, and what came after
#
# <details><summary><b>Read now:</b> section 7 of the paper (4 paragraphs)</summary>
#
# | begins | in plain words | hard words | lesson |
# |---|---|---|---|
# | *In this work, we presented* | The first sequence model of attention alone. | transduction, as above | [05](05_transformer.ipynb) |
# | *For translation tasks, the Transformer* | Faster to train, and the best on both tasks. | architecture: how the parts are put together | [09](09_evaluation.ipynb) |
# | *We are excited about the future* | Next: images, sound, video, local attention, writing in fewer steps. | modalities: kinds of data | [10](10_beyond.ipynb) |
# | *The code we used to train* | Where the code is: tensor2tensor. |  | [10](10_beyond.ipynb) |
#
# </details>
#
# The paper closes with a model made of attention alone, faster to train than recurrent or
# convolutional ones and better at translation, and with the plan to use it for images, sound and
# video. What became of its parts:
#
# | part of the paper | today |
# |---|---|
# | the encoder | alone it became BERT (Devlin et al. 2018) |
# | the decoder | alone it became GPT (Radford et al. 2018) |
# | post-norm and warm-up | mostly pre-norm (Xiong et al. 2020) |
# | sines added to the embedding | often rotations of queries and keys, RoPE (Su et al. 2021) |
# | ReLU in the feed-forward network | GELU, or gated variants (Shazeer 2020) |
# | $n^2$ attention | the same formula, computed in blocks: FlashAttention (Dao et al. 2022) |
# | one table for input and output | in small models; large ones often have two |
# | a key and a value for each head | often shared among heads (Shazeer 2019; Ainslie et al. 2023) |
# | residuals, the scale | unchanged |

# %%
check("bert_gpt_difference")

# %% [markdown]
# ## Where to go from here
#
# | you want to know | lesson |
# |---|---|
# | why the scale, why several heads, what table 1 costs | [03 · Attention](03_attention.ipynb) |
# | what a wrong mask does to you | [04 · Masks](04_masking.ipynb) |
# | positions, norms, residuals; parameters counted | [05 · Transformer](05_transformer.ipynb) |
# | BPE step by step, batches | [06 · Text](06_text.ipynb) |
# | the training loop, the schedule, averaging | [07 · Training](07_training.ipynb) |
# | beam search, the length penalty, BLEU by hand | [08 · Decoding](08_decoding.ipynb) |
# | the long experiment and its numbers | [09 · Evaluation](09_evaluation.ipynb) |
# | what each choice is worth: Table 3 in miniature | [09c · Ablations](09c_ablations.ipynb) |
# | BERT and GPT from the same layers; parsing | [10 · Beyond](10_beyond.ipynb) |
# | what is wrong with a model that trains and does not translate | [11 · The clinic](11_clinic.ipynb) |
#
# > **Try it.**
# > 1. In the copy task, set `tgt_mask` to the padding mask alone. The training loss gets better.
# >    What happens to the 200 sequences, and why?
# > 2. Train the copy task with `reversed(row)` as the target. What do the maps look like?
# > 3. Take the positions out of the copier (`copier.positions = nn.Identity()`, then train). Which
# >    sequences can it still copy?
# > 4. Explain to somebody the three uses of attention, with only the figure of section 3 as a help.
#
# <details><summary>Answer</summary>
#
# Run once each, 600 steps, one seed. (1) The training loss falls to 0.001, and 4 of 200 sequences are right: in
# training each place could read the next symbol, and when the model writes there is none yet. (2) All 200 are right, and the
# diagonal runs the other way, from top right to bottom left. (3) The loss stays at 0.88, and 6 of 200 are right. But
# all 200 answers hold the right symbols, in another order: without positions the encoder sees a
# bag of symbols, and only their order is lost. (4) Section 3.2.3 names them: encoder, decoder, and between the two.
#
# </details>

# %% [markdown]
# ## What you ran
#
# | name | takes | gives |
# |---|---|---|
# | `attention_weights` | query (…, Q, Dk), key (…, K, Dk) | weights (…, Q, K) |
# | `scaled_dot_product_attention` | the same and value (…, K, Dv) | (…, Q, Dv), weights |
# | `MultiHeadAttention` | (B, Q, D), (B, K, D) twice | (B, Q, D) |
# | `EncoderLayer`, `DecoderLayer` | (B, L, D) | (B, L, D) |
# | `Transformer` | src (B, S), tgt_in (B, T) | logits (B, T, V) |
# | `BPE` | a sentence | token ids, and back |
# | `Trainer` | model, pairs, budget | a checkpoint |
# | `translate`, `evaluate` | model, sentences | English; BLEU with its signature |

# %% [markdown]
# ## Summary · 小结
#
# - Recurrence waits once a word. Attention compares all words with all words in a fixed number of
#   steps; that is what makes it fast on parallel machines.
# - Attention is a soft look-up: compare, scale by $\sqrt{d_k}$, softmax, take the mean. Several
#   heads ask several questions at the same price.
# - One class, three uses; masks decide who may see what.
# - Everything else makes it trainable: residuals, norms, positions, warm-up, dropout, smoothing.
# - A loss needs baselines, and a BLEU needs its signature.
#
# <div lang="zh">
#
# **小结**
#
# - 循环网络必须逐词等待；注意力在固定步数内让所有词两两比较，因此适合并行计算。
# - 注意力是一种“软查表”：点积比较、除以 $\sqrt{d_k}$、softmax 归一化、再对值加权平均。
#   多头以同样的代价提出多个不同的问题。
# - 同一个类，三种用法；掩码决定谁能看见谁。
# - 其余部件使模型能够训练：残差连接、层归一化、位置编码、学习率预热、暂退法、标签平滑。
# - 损失要和基线比较才有意义，BLEU 要附上签名才能比较。
#
# </div>

# %% [markdown]
# ## Further reading
#
# - Vaswani et al. 2017, *Attention Is All You Need*, arXiv 1706.03762
# - Bahdanau, Cho, Bengio 2014, *Neural Machine Translation by Jointly Learning to Align and
#   Translate*, arXiv 1409.0473
# - Sennrich, Haddow, Birch 2016, *Neural Machine Translation of Rare Words with Subword Units*,
#   arXiv 1508.07909
# - Rush 2018, *The Annotated Transformer*
# - Elliott et al. 2016, *Multi30K: Multilingual English-German Image Descriptions*, W16-3210
#
# The last cell leaves a note of this run in the folder `build`, for `python -m course walkthrough`.

# %%
note = {
    "corpus": corpus, "split": test_split, "sentences": result.sentences, "bleu": result.bleu,
    "signature": result.signatures["bleu"], "german": german, "english": english,
    "shipped": of_shipped, "shipped_bleu": best.bleu,
}
(output_folder() / "walkthrough.json").write_text(json.dumps(note, ensure_ascii=False), encoding="utf-8")
print(f"{german}\nyour model, BLEU {result.bleu:.1f}:        {english}")
print(f"the shipped model, BLEU {best.bleu:.1f}: {of_shipped}")
