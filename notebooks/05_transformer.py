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
# # 05 · The Transformer
#
# > The Transformer: embeddings, positions, sub-layers, layers, stacks (paper, section 3).
#
# **After this lesson you can**
#
# - write the whole model of the paper, and say for each part what breaks without it;
# - show with a measurement why the paper needs positions, residual connections, layer
#   normalisation and the feed-forward network;
# - count the parameters of the base and the big model by hand;
# - train a Transformer that copies unseen sequences without one mistake.
#
# **You need** lesson 03 (attention) and lesson 04 (masks). This page is on the path; lesson 06
# follows. **Time:** 70 minutes; 110 with all that is marked *more*.
# **Paper:** sections 3, 3.1, 3.3, 3.4, 3.5, 5.4, and the column of parameters in table 3.
#
# Attention is one part of the model. The paper stacks it with five other parts, and explains them
# in two pages. This lesson takes the parts one by one, in the order in which a sentence meets them:
#
# | part | the question that it answers | section of the paper |
# |---|---|---|
# | `TokenEmbedding` | how does a token become a vector? | 3.4 |
# | `PositionalEncoding` | where does the token stand? | 3.5 |
# | `LayerNorm` | how do the numbers keep their size? | 3.1 |
# | `FeedForward` | what follows from what was collected? | 3.3 |
# | `Residual` | how does a deep stack keep what it knew? | 3.1 |
# | `Encoder`, `Decoder` | how do the parts become a stack? | 3.1 |
#
# The letters in comments are shapes: B sentences in a batch, S tokens of the source, T tokens of
# the target, D for `d_model`, F for `d_ff`, V words in the vocabulary.

# %%
#| export
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course.attention import MultiHeadAttention

# %% [markdown]
# ## 1 · The sizes of a model
#
# A few numbers fix the whole model: how wide a vector is ($d_{model}$), how many heads, how wide
# the feed-forward network ($d_{ff}$), how many layers ($N$), how much dropout. We keep them in one
# object that cannot be changed afterwards. Its default values are the paper's base model; `big` is
# the last row of table 3. Choices that do not fit together raise an error at once, not an hour
# later.
#
# Three fields are choices rather than sizes. `norm`, `positions` and `tie_embeddings` each get
# their own section below.

# %%
#| export
@dataclass(frozen=True)
class TransformerConfig:
    """The sizes and choices that make one Transformer; the defaults are the paper's base model.

    Raises ValueError for sizes that do not fit together. Paper, table 3.
    """

    src_vocab: int
    tgt_vocab: int
    d_model: int = 512
    n_heads: int = 8
    d_ff: int = 2048
    n_layers: int = 6
    d_k: int | None = None
    d_v: int | None = None
    dropout: float = 0.1
    norm: Literal["post", "pre"] = "post"
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    tie_embeddings: bool = True
    max_len: int = 512

    def __post_init__(self) -> None:
        for name in ("d_model", "n_heads", "d_ff", "n_layers", "d_k", "d_v", "max_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is 1 or more, not {value}")
        if self.tie_embeddings and self.src_vocab != self.tgt_vocab:
            raise ValueError(
                f"tied embeddings need one vocabulary, not src_vocab={self.src_vocab} and "
                f"tgt_vocab={self.tgt_vocab}: make them equal, or set tie_embeddings=False"
            )
        for name, known in (("norm", ("post", "pre")), ("positions", ("sinusoidal", "learned"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown: choose from {known}")
        if (self.d_k is None or self.d_v is None) and self.d_model % self.n_heads:
            raise ValueError(
                f"d_model={self.d_model} does not divide into n_heads={self.n_heads}: "
                "choose a divisor, or give d_k and d_v"
            )
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout={self.dropout} is no probability: choose it from 0 to 1")

    @classmethod
    def base(cls, vocab: int) -> "TransformerConfig":
        """Return the paper's base model over one shared vocabulary."""
        return cls(vocab, vocab)

    @classmethod
    def big(cls, vocab: int) -> "TransformerConfig":
        """Return the paper's big model over one shared vocabulary."""
        return cls(vocab, vocab, d_model=1024, d_ff=4096, n_heads=16, dropout=0.3)

# %% [markdown]
# The next cell imports what only the demonstrations of this page need.

# %%
import random

import matplotlib.pyplot as plt

from course.attention import record_attention
from course.device import by_scale, pick
from course.homework import check, compare
from course.masking import Batch, causal_mask, padding_mask
from course.viz import GREY, bar
from course.viz import transformer as draw

# %% [markdown]
# **Guess first.** The big model doubles $d_{model}$, $d_{ff}$ and the number of heads. What does the
# width of one head, $d_k = d_{model} / h$, do? (Write your guess in the place of `None`; nothing is
# marked. The cell after the measurement compares.)

# %%
mine = None  # "grows", "stays" or "shrinks"

# %%
# NBVAL_CHECK_OUTPUT
base, big = TransformerConfig.base(37_000), TransformerConfig.big(37_000)
assert base.d_model / base.n_heads == big.d_model / big.n_heads == 64
assert base.d_ff / base.d_model == big.d_ff / big.d_model == 4
print("a head is 64 wide in both; the feed-forward network is 4 times as wide as the model")

# %%
compare(mine, "stays", "05: the width of one head in the big model")

# %% [markdown]
# ## 2 · From a token to a vector (section 3.4)
#
# A token is a number, its place in the vocabulary. The model holds a table with one row of
# $d_{model}$ numbers for each token, and looks the row up. The table is learned like every weight.
#
# Section 3.4 adds two short remarks that most readers pass over:
#
# 1. The row is **multiplied by $\sqrt{d_{model}}$** after the look-up.
# 2. **One table serves three times**: for source tokens, for target tokens, and at the very end as
#    the matrix that gives every word of the vocabulary a score. This is called *tying* (Press and
#    Wolf 2017).
#
# The paper does not say why it multiplies. The two remarks belong together. Look at what the two
# ends of the model need:
#
# - **At the input** the row is added to a positional encoding (section 3 of this page), whose
#   components are about 0.7 in size. The word should not be drowned out by its position, so its
#   components should have a size of about 1.
# - **At the output** the score of a word is a dot product of a state, with components of size 1 (a
#   layer norm, section 4 of this page, sees to that), and the row. A sum of $d_{model}$ products
#   has variance $d_{model} \sigma^2$ if the row's components have variance $\sigma^2$. For scores
#   of size 1 we need $\sigma^2 = 1 / d_{model}$.
#
# One table, two wishes. The factor grants both:
#
# $$E \sim \mathcal{N}\left(0, \frac{1}{d_{model}}\right), \qquad
# \operatorname{embed}(t) = \sqrt{d_{model}} \, E_t .$$

# %%
#| export
class TokenEmbedding(nn.Module):
    """Look up a vector for each token: (B, L) -> (B, L, D), scaled by sqrt(d_model).

    The table starts as N(0, 1/d_model), so that what comes out has unit variance.
    Paper, section 3.4.
    """

    def __init__(self, vocab: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(vocab, d_model) * d_model**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.weight) * math.sqrt(self.weight.size(1))

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Four ways to start the table · more
#
# Many programs start the table in another way. What does each cost, at the input and at the output?

# %% [markdown]
# A popular program calls `xavier_uniform_` on **every**
# matrix of the model. That rule is for a matrix that *multiplies* a vector. Forwards, the size of a
# vector is kept by a variance of $1 / n_{in}$; backwards, that of a gradient by $1 / n_{out}$.
# Xavier's rule (Glorot and Bengio 2010) lies between them: $2 / (n_{in} + n_{out})$, here
# $2 / (V + D)$. But a look-up multiplies nothing: with a large vocabulary the rows become far too
# small.
#
# Four ways to start, for V = 10,000 and D = 512: for each, how large is a word beside a position
# (0.71), and what is the first loss? A model that knows nothing can always reach $\ln V = 9.21$, with
# the same probability for every word. **Guess first:** what is the first loss after
# $\mathcal{N}(0, 1)$, PyTorch's own start of a table?

# %%
mine = None  # in nats

# %%
torch.manual_seed(0)
vocab, d_model = 10_000, 512
normal = torch.randn(vocab, d_model)
xavier = nn.init.xavier_uniform_(torch.empty(vocab, d_model))
starts = {  # name: (the table, the factor after the look-up)
    "N(0, 1/D), times √D": (normal * d_model**-0.5, d_model**0.5),
    "N(0, 1/D), no factor": (normal * d_model**-0.5, 1.0),
    "N(0, 1), no factor": (normal, 1.0),
    "Xavier, times √D": (xavier, d_model**0.5),
}
states = torch.randn(200, d_model)  # what a fresh decoder hands to the output
targets = torch.randint(vocab, (200,))
word_size = {name: (table * factor).std().item() for name, (table, factor) in starts.items()}
first_loss = {
    name: F.cross_entropy(states @ table.T, targets).item() for name, (table, _) in starts.items()
}
draw.starts(word_size, first_loss, position_size=0.5**0.5, uniform=math.log(vocab))

# %% [markdown]
# Only the first way is right at both ends. Without the factor, a word is sixteen times smaller
# than its position. With $\mathcal{N}(0, 1)$, PyTorch's default for `nn.Embedding`, the
# tied output is so sure of itself before the first step that the loss is several times $\ln V$.
# With Xavier the loss is fine, but the word has less than half the size of its position.

# %%
assert abs(word_size["N(0, 1/D), times √D"] - 1) < 0.02
assert first_loss["N(0, 1/D), times √D"] < math.log(vocab) + 1
assert word_size["N(0, 1/D), no factor"] < 0.5**0.5 / 15
assert first_loss["N(0, 1), no factor"] > 6 * math.log(vocab)
assert abs(word_size["Xavier, times √D"] - math.sqrt(2 / (vocab + d_model) * d_model)) < 0.01
print(f"size of a word after Xavier: {word_size['Xavier, times √D']:.2f}, where 1 is wanted")
print(f"first loss after N(0, 1): {first_loss['N(0, 1), no factor']:.0f} nats, ln V is 9.21")
compare(mine, first_loss["N(0, 1), no factor"], "05: first loss with a table of N(0, 1)")

# %% [markdown]
# > **Try it.** The right way gives a first loss of about $\ln V + \frac{1}{2}$, not $\ln V$. Where
# > does the half come from? (Hint: for scores with variance 1, the mean of $e^{score}$ is
# > $e^{1/2}$.)
#
# <details><summary>Answer</summary>
#
# The loss is the logarithm of the sum of all $e^{score}$, minus the right word's score. The sum has
# $V$ terms of mean $e^{1/2}$, so its logarithm is $\ln V + \frac{1}{2}$; the right word's score is 0
# on average. It is the price of scores that differ for no reason.
#
# </details>

# %% [markdown]
# ## 3 · Where does each word stand? (section 3.5)
#
# Lesson 03 showed that attention does not know the order of its input: it is a weighted mean, and
# a mean does not change if we shuffle the terms.
#
# **Guess first.** We give *dog bites man* and *man bites dog* to the same attention layer. Are the
# two vectors that come out at *bites* the same, or different?

# %%
mine = None  # "the same" or "different"

# %%
torch.manual_seed(0)
words = TokenEmbedding(3, 16)  # dog 0, bites 1, man 2
sentences = words(torch.tensor([[0, 1, 2], [2, 1, 0]])).detach()  # (2, 3, 16)
attention = MultiHeadAttention(16, n_heads=4)
place = torch.randn(3, 16)  # for now: any vector that differs from place to place


def bites_apart(x: Tensor) -> float:
    """Return how far apart the two sentences' vectors of `bites` are after attention."""
    first, second = attention(x, x, x)[:, 1]
    return (first - second).norm().item()


assert bites_apart(sentences) < 1e-5
assert bites_apart(sentences + place) > 0.1
print(f"distance at 'bites' without positions: {bites_apart(sentences):.0e}")
print(f"with a vector added for each place:   {bites_apart(sentences + place):.1e}")
compare(mine, "the same", "05: 'bites' in two sentences, without positions")

# %% [markdown]
# Without positions a sentence is a *bag of words*. So we add to each word a vector that depends
# on its place alone. (Why add, and not put side by side as in lesson 03? The width stays $D$, and a
# projection sees both parts: $(x + p) W = x W + p W$.) Which vector?
#
# The number of the place itself (0, 1, 2, ...) grows without limit; its binary digits do not.
# Look at how binary counting works:

# %%
numbers = torch.arange(32)
digits = (numbers[:, None] >> torch.arange(4, -1, -1)) & 1  # (32, 5), highest digit first
assert (digits * torch.tensor([16, 8, 4, 2, 1])).sum(1).equal(numbers)
draw.counting(digits)

# %% [markdown]
# The lowest digit changes at every step, the next one at every second step, and so on. Each digit
# is a wave with its own speed. All digits together name the number, and no digit is larger than 1.
#
# Digits jump between 0 and 1. The paper's encoding is the smooth version: it replaces each digit by
# a **pair of waves**, a sine and a cosine, and each pair is slower than the one before by a
# constant factor:
#
# $$PE_{(pos,\, 2i)} = \sin\left(pos \cdot \omega_i\right), \qquad
# PE_{(pos,\, 2i+1)} = \cos\left(pos \cdot \omega_i\right), \qquad
# \omega_i = 10000^{-2i / d_{model}} .$$
#
# The first pair turns once in $2\pi \approx 6.3$ positions; the last one needs almost
# $10000 \cdot 2\pi \approx 63{,}000$.

# %% [markdown]
# **Your turn**, before you see ours. Write it, run the cell, and `check` says what is right and what
# was misunderstood. Left alone, it says "not written yet", and the page goes on with the course's own.

# %%
def my_positional_encoding(max_len, d_model):
    """Sines in columns 0, 2, ..., cosines in 1, 3, ...: two numbers -> float32 (max_len, D)."""
    raise NotImplementedError


check("positional_encoding", my_positional_encoding)

# %% [markdown]
# And here is the course's:

# %%
#| export
def positional_encoding(length: int, d_model: int) -> Tensor:
    """Return sines (even columns) and cosines (odd columns) of falling frequency, (length, D).

    Paper, section 3.5.
    """
    position = torch.arange(length, dtype=torch.float32)[:, None]  # (L, 1)
    frequency = 10_000.0 ** (-torch.arange(0, d_model, 2) / d_model)  # (D/2,)
    angle = position * frequency  # (L, D/2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :d_model]

# %%
table = positional_encoding(100, 64)  # (100, 64)
assert table.abs().max() <= 1 and len(table.unique(dim=0)) == 100  # bounded, and no two alike
assert (table[:, 48:] - table[0, 48:]).abs().max() < 0.1
draw.encoding_map(table, columns=[0, 8, 16, 24])

# %% [markdown]
# A row is one position; read it as a binary number with soft digits (the lowest digit on the left).
# The last quarter of the columns hardly changes over 100 places: these are free for the words.
# Since $\sin^2 + \cos^2 = 1$ in every pair, all rows have the same length, $\sqrt{d_{model} / 2}$,
# and the components have a root mean square of $\sqrt{1/2} \approx 0.71$, the number that we used
# in section 2 of this page.
#
# **Guess first.** Take the dot product of the encodings of positions 20 and 25, then of positions
# 50 and 55. Which is larger?

# %%
mine = None  # "the first", "the second" or "equal"

# %%
chosen = [20, 50, 80]
draw.dot_products(table[chosen] @ table.T, chosen)

# %% [markdown]
# They are equal. The three curves are one curve: the dot product depends on the **distance**, not
# on the place. For one pair of waves this is a formula from school,
# $\sin a \sin b + \cos a \cos b = \cos(a - b)$; the sum over the pairs is
#
# $$PE_{pos} \cdot PE_{pos+k} = \sum_i \cos(k \, \omega_i) .$$
#
# A dot product is what attention computes. So a head can find "close to me" from the encodings
# alone: any place up to 5 away fits better than every place 10 or more away.

# %%
products = table @ table.T  # (100, 100)
frequencies = 10_000.0 ** (-torch.arange(0, 64, 2) / 64)
for distance in (0, 1, 5, 30):
    expected = torch.cos(distance * frequencies).sum()
    assert torch.allclose(products.diagonal(distance), expected, atol=1e-4)
assert torch.allclose(table.norm(dim=1), torch.tensor(math.sqrt(64 / 2)))
near = min(products.diagonal(distance).min() for distance in range(1, 6))
far = max(products.diagonal(distance).max() for distance in range(10, 100))
assert near > far + 1
print("the dot product at distance k is the sum of cos(k ω) over the 32 pairs, at every place")
print(f"up to 5 places away it is at least {near:.1f}, from 10 places on at most {far:.1f}")
compare(mine, "equal", "05: dot products of positions 20, 25 and 50, 55")

# %% [markdown]
# Now the sentence of the paper that stops most readers: the encoding was chosen because, for any
# fixed offset $k$, $PE_{pos+k}$ is a **linear function** of $PE_{pos}$. That means: one matrix
# $R_k$ moves *every* position $k$ places on. The matrix must not depend on $pos$.
#
# To build it, look at one pair as the hand of a clock. The hand of pair $i$ turns by the angle
# $\omega_i$ at each position. Going $k$ places on turns it by $k\,\omega_i$, from wherever it is,
# and a turn is a matrix:
#
# $$\begin{pmatrix} \sin((pos + k)\,\omega) \\ \cos((pos + k)\,\omega) \end{pmatrix} =
# \begin{pmatrix} \cos k\omega & \sin k\omega \\ -\sin k\omega & \cos k\omega \end{pmatrix}
# \begin{pmatrix} \sin(pos\,\omega) \\ \cos(pos\,\omega) \end{pmatrix} .$$
#
# Why does a model want this? A head compares a query with keys. If its $W^Q$ contains $R_k$, the
# query of the word at $pos$ is the encoding of $pos + k$, and the key that fits best is that of the
# word $k$ places on. So a head that looks at the next word, or at the previous one, needs no number of
# its own for each place: one matrix of turns serves all places.

# %%
def turn(k: int, d_model: int) -> Tensor:
    """Return the matrix R_k, (D, D), that moves an encoding k places on."""
    angle = k * 10_000.0 ** (-torch.arange(0, d_model, 2) / d_model)
    blocks = [torch.tensor([[c, s], [-s, c]]) for s, c in zip(angle.sin(), angle.cos())]
    return torch.block_diag(*blocks)


for k in (1, 7, 40):
    moved = table[:-k] @ turn(k, 64).T  # every position, the same matrix
    assert torch.allclose(moved, table[k:], atol=1e-4)
    assert (moved @ table.T).argmax(dim=1).equal(torch.arange(k, 100))  # the key that fits best
print("one matrix moves all positions, and finds the word k places on: k = 1, 7 and 40")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Would any table do? · more
#
# Is one matrix for all positions special? A control with random numbers.

# %% [markdown]
# Almost any table would fit a matrix if it had few rows. So here is a control: a
# table of random numbers with the same 100 rows, and the *best* matrix for $k = 1$ by least
# squares. We take only 16 columns: the more columns a table has for its rows, the better *any*
# table is fitted.

# %%
torch.manual_seed(0)


def misfit(table: Tensor) -> float:
    """Return the part of the next row that the best single matrix fails to predict, 0 to 1."""
    # gelsd: the solver that bears columns which are nearly copies of each other
    matrix = torch.linalg.lstsq(table[:-1], table[1:], driver="gelsd").solution
    return ((table[:-1] @ matrix - table[1:]).norm() / table[1:].norm()).item()


table_16, random_16 = positional_encoding(100, 16).double(), torch.randn(100, 16).double()
assert misfit(table_16) < 1e-4 and misfit(random_16) > 0.5
print(f"left unexplained: sinusoids {misfit(table_16):.0e}, random table {misfit(random_16):.2f}")

# %% [markdown]
# ### Sinusoids or a learned table?
#
# The paper tried the other way too: **learned** positions, a plain table of weights (row E of
# table 3). The score was nearly the same, 25.7 BLEU against 25.8. The difference is in what comes
# after the last row: sinusoids can be computed for any length, while a learned table ends.
# (That a model *works well* at lengths that it never saw in training is another matter. The paper
# only hoped so.)
#
# The class below has both. Learned positions start almost silent, with a size of 0.02 beside a
# word's 1. The class also holds the first **dropout** of the model:
# while training, it sets each component to zero with probability $P_{drop}$ and scales up the rest.
# Section 5.4 puts it here, on the sum of word and position.

# %%
#| export
class PositionalEncoding(nn.Module):
    """Add to each vector a pattern that says where it stands: (B, L, D) -> (B, L, D).

    Dropout follows. Sinusoids go on for any length; learned positions end at `max_len`
    (ValueError beyond).
    Paper, sections 3.5 and 5.4.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.learned = config.positions == "learned"
        if self.learned:
            self.table = nn.Parameter(torch.randn(config.max_len, config.d_model) * 0.02)
        else:
            table = positional_encoding(config.max_len, config.d_model)
            self.register_buffer("table", table, persistent=False)  # no parameter, not saved

    def forward(self, x: Tensor) -> Tensor:
        length = x.size(1)
        if length > len(self.table):
            if self.learned:
                raise ValueError(
                    f"a sentence of {length} tokens, but learned positions end at "
                    f"max_len={len(self.table)}: shorten it, or use sinusoidal positions"
                )
            longer = max(length, 2 * len(self.table))  # a writer asks for one more, again and again
            self.table = positional_encoding(longer, x.size(2)).to(self.table)
        return self.dropout(x + self.table[:length])

# %%
# NBVAL_CHECK_OUTPUT
small = dict(src_vocab=10, tgt_vocab=10, d_model=16, max_len=8, dropout=0.0)
sinusoidal = PositionalEncoding(TransformerConfig(**small))
learned = PositionalEncoding(TransformerConfig(**small, positions="learned"))
long = torch.zeros(1, 12, 16)
assert torch.equal(sinusoidal(long)[0], positional_encoding(12, 16))
assert len(sinusoidal.table) == 16  # doubled: the next four tokens need no new table
try:
    learned(long)
    raise AssertionError("a learned table of 8 rows accepted 12 tokens")
except ValueError as error:
    print(error)

# %% [markdown]
# > **Try it.** Replace 10,000 by 10 in `positional_encoding` and draw the dot products again. Which
# > look more alike now, two words 11 places apart or two words 50 places apart? Why would that
# > confuse a model?
#
# <details><summary>Answer</summary>
#
# Two words 50 places apart: their dot product is 3.0, at a distance of 11 it is −6.8. Now the slowest
# pair turns once in 58 positions, so all waves come back within 100 places. A head that looks for "near"
# would find some far words before nearer ones.
#
# </details>

# %% [markdown]
# Two questions on the reasons. `check("...")` shows one; answer with the letter,
# `check("positions_sum", "b")`. Each wrong letter has an answer of its own.

# %%
check("positions_sum")

# %%
check("positions_learned")

# %% [markdown]
# ## 4 · Keeping numbers in shape: layer normalisation (section 3.1)
#
# A deep model multiplies and adds many times. If each layer makes its input a little larger, a
# stack makes it huge; if a little smaller, nothing is left. Section 6 of this page will measure
# both. **Layer normalisation** (Ba, Kiros and Hinton 2016) is the remedy: it takes each vector by
# itself, subtracts the mean of its components and divides by their standard deviation. Then each
# component gets a learned *gain* $g$ and *bias* $b$, so that the model can choose another size
# where it needs one:
#
# $$\operatorname{LayerNorm}(x) = \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} \odot g + b, \qquad
# \mu = \frac{1}{D} \sum_i x_i, \qquad \sigma^2 = \frac{1}{D} \sum_i (x_i - \mu)^2 .$$
#
# The sign $\odot$ is multiplication component by component. The small number $\varepsilon$ is not in
# the paper of Ba and others; PyTorch adds it, so that a vector of equal components is no division by 0.

# %% [markdown]
# **Your turn:**

# %%
def my_layer_norm(x, gain, bias, eps):
    """Normalise each vector: x (..., D), gain and bias (D,) -> (..., D)."""
    raise NotImplementedError


check("layer_norm", my_layer_norm)

# %%
#| export
def layer_norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Return each vector of x (..., D) with mean 0 and variance 1, then times gain plus bias (D,).

    Ba et al. 2016, with the biased variance; eps inside the root is PyTorch's.
    """
    mean = x.mean(-1, keepdim=True)
    variance = x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / torch.sqrt(variance + eps) * gain + bias

# %%
torch.manual_seed(0)
tokens = torch.randn(3, 16) * torch.tensor([[0.2], [1.0], [3.0]]) + torch.tensor([[4.0], [0], [-2]])
normed = layer_norm(tokens, torch.ones(16), torch.zeros(16))
assert normed.mean(-1).abs().max() < 1e-5 and (normed.square().mean(-1) - 1).abs().max() < 1e-3
figure, axes = plt.subplots(1, 2, figsize=(8, 2.4), sharex=True, sharey=True)
titles = "Before: each has its own centre and size", "After: all have the same"
for axis, values, title in zip(axes, (tokens, normed), titles):
    for row, marker in enumerate("os^"):
        axis.plot(values[row], torch.full((16,), row), marker, alpha=0.6)
    axis.axvline(0, color=GREY, lw=0.8)
    axis.set(xlabel="value of a component", title=title, yticks=range(3))
axes[0].set_ylabel("token")
draw.finish(figure)

# %% [markdown]
# Each token is treated alone: its neighbours do not matter, the other sentences of the batch do not
# matter, and nothing differs between training and use. (Batch normalisation, which mixes the
# sentences of a batch, has none of these three properties.)
#
# **Guess first.** If we multiply a token's vector by 3 and add 7 to every component, what changes
# after the normalisation?

# %%
mine = None  # "the size", "the centre", "both" or "nothing"

# %%
one, zero = torch.ones(16), torch.zeros(16)
assert torch.allclose(layer_norm(3 * tokens + 7, one, zero), normed, atol=1e-3)
assert torch.allclose(layer_norm(tokens[1], one, zero), normed[1], atol=1e-6)
assert torch.allclose(normed, F.layer_norm(tokens, (16,)), atol=1e-6)
print("nothing changes; a token alone gives the same as a token among others; PyTorch agrees")
compare(mine, "nothing", "05: a layer norm after times 3 plus 7")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Two details of the formula · more
#
# Which variance, and where $\varepsilon$ stands: many programs write these two differently.

# %% [markdown]
# **The variance is the biased one.** It divides by $D$, not by $D - 1$. The factor $D - 1$ belongs
# to statistics, where one *estimates* the variance of a population from a sample. Here nothing is
# estimated: the vector is the whole population. With $D - 1$ the result would not have variance 1.
# `x.std()` in PyTorch divides by $D - 1$ unless told otherwise.
#
# **$\varepsilon$ stands inside the root.** It protects from division by zero, when all components
# are equal. Outside the root, $\sigma + \varepsilon$ protects the value too. But to learn we need
# the *gradient*, and the slope of $\sqrt{v}$ at $v = 0$ is infinite: written out as a formula, the
# gradient is NaN. (PyTorch's `x.std()` hides this: it *defines* the slope at 0 as 0.)

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
x = torch.randn(1000, 4, dtype=torch.float64)
biased = layer_norm(x, torch.ones(4), torch.zeros(4), eps=0)
unbiased = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)
assert abs(biased.square().mean() - 1) < 1e-9
assert abs(unbiased.square().mean() - 3 / 4) < 1e-9  # (D - 1) / D


def gradient_is_finite(norm: Callable[[Tensor], Tensor]) -> bool:
    """Return whether a vector of equal components gets a usable gradient through `norm`."""
    flat = torch.full((4,), 2.0, requires_grad=True)
    (norm(flat) * torch.arange(4.0)).sum().backward()
    return bool(flat.grad.isfinite().all())


assert gradient_is_finite(lambda x: layer_norm(x, torch.ones(4), torch.zeros(4)))
assert not gradient_is_finite(lambda x: (x - x.mean()) / (x.var(unbiased=False).sqrt() + 1e-5))
assert gradient_is_finite(lambda x: (x - x.mean()) / (x.std(unbiased=False) + 1e-5))
print("D = 4: variance 1 with D, only 0.75 with D - 1")
print("gradient: finite with eps inside the root, NaN for sqrt(var) + eps")

# %% [markdown]
# ### As a module
#
# The gain and the bias become parameters. PyTorch's own function does the same calculation in one
# step; a cell above has shown that the results agree.

# %%
#| export
class LayerNorm(nn.Module):
    """Normalise each vector, with a learned gain and bias: (..., D) -> (..., D)."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        # `layer_norm` above, in one step
        return F.layer_norm(x, self.gain.shape, self.gain, self.bias, self.eps)

# %% [markdown]
# > **Try it.** Normalise the vector $(1, -1, 1, -1)$ and the vector $(100, -100, 100, -100)$. What
# > does a layer norm forget about a vector? Which part of the model could keep it?
#
# <details><summary>Answer</summary>
#
# Both become $(1, -1, 1, -1)$: the norm forgets how long a vector is, and its mean. Only the direction
# is left. A way around the norm could keep the length: in pre-norm the residual connection is one
# (section 6); in post-norm every sum is normalised, and nothing keeps it.
#
# </details>

# %% [markdown]
# ## 5 · Time to think: the feed-forward network (section 3.3)
#
# Attention collects. Given its weights, what comes out is a weighted mean of the values: **linear**
# in what it carries. Adding two sentences' values and attending gives the same as attending and
# adding.
#
# **Guess first.** Six attention layers, with all their projections, look at a sentence of a single
# word. (Each result is added to its input, as in the writer of lesson 04; section 6 shows why.)
# What kind of function of that word's vector can they compute?

# %%
mine = None  # "linear", "quadratic" or "any"

# %%
torch.manual_seed(0)
layers = nn.ModuleList(MultiHeadAttention(16, 4) for _ in range(6))


def attend_six_times(x: Tensor) -> Tensor:
    """Six attention layers, each added to its input: (B, L, 16) -> (B, L, 16)."""
    for layer in layers:
        x = x + layer(x, x, x)
    return x


a, b = torch.randn(2, 1, 1, 16)  # two sentences of one word each
both = attend_six_times(2 * a - 3 * b)
apart = 2 * attend_six_times(a) - 3 * attend_six_times(b)
assert torch.allclose(both, apart, atol=1e-4)
print("six attention layers on one word: linear, up to rounding")
compare(mine, "linear", "05: six attention layers on one word")

# %% [markdown]
# A linear function, and nothing else. A single word has all the weight, so each layer multiplies
# its vector by one matrix, $I + W^V W^O$ for one head, and six matrices in a row are one matrix.
# (With several words there is a little more. The *weights* depend on the words through a softmax,
# which is not linear. But what the weights carry is still a mean.)
#
# A language needs more than means. English puts the ending **-s** on a *plural noun* (dogs) and
# on a *singular verb* (barks), but not on a singular noun (dog) or a plural verb (bark). So the
# ending depends on two features of a word, and on neither of them alone: it is an exclusive *or*.
# No straight line separates these four corners. The **feed-forward network** can do it:
#
# $$\operatorname{FFN}(x) = \max(0,\; x W_1 + b_1)\, W_2 + b_2 .$$
#
# It is the same small network at every position: it widens the vector to $d_{ff}$, keeps what is
# positive, and narrows it again. Each of the $d_{ff}$ hidden units asks one question of the vector
# ("does it point in this direction?") and, if the answer is yes, adds its own vector to the result.

# %% [markdown]
# **Your turn:**

# %%
def my_feed_forward(x, w_1, b_1, w_2, b_2):
    """Equation 2: x (..., D), w_1 (D, F), b_1 (F,), w_2 (F, D), b_2 (D,) -> (..., D)."""
    raise NotImplementedError


check("feed_forward", my_feed_forward)

# %%
#| export
class FeedForward(nn.Module):
    """Widen each position to `d_ff`, keep what is positive, narrow again: (B, L, D) -> (B, L, D).

    Paper, equation 2.
    """

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(d_model, d_ff)
        self.w_2 = nn.Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.w_2(torch.relu(self.w_1(x)))

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Trained: endings that no line separates · more
#
# Two small models learn the ending: one has attention only, the other has a feed-forward network.

# %% [markdown]
# We train six attention layers without a feed-forward network, and one
# attention layer with one. The first has more parameters.

# %%
class Ending(nn.Module):
    """Decide on -s: features (B, 1, 2) -> logits (B, 1, 2), with or without a feed-forward net."""

    def __init__(self, n_attention: int, with_ffn: bool) -> None:
        super().__init__()
        self.w_in, self.w_out = nn.Linear(2, 16), nn.Linear(16, 2)
        self.attention = nn.ModuleList(MultiHeadAttention(16, 4) for _ in range(n_attention))
        self.feed_forward = FeedForward(16, 64) if with_ffn else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.w_in(x)
        for attention in self.attention:
            x = x + attention(x, x, x)
        if self.feed_forward is not None:
            x = x + self.feed_forward(x)
        return self.w_out(x)


def random_words(n: int) -> tuple[Tensor, Tensor]:
    """Return n random words as noisy features (n, 1, 2) and whether each takes -s, (n, 1)."""
    verb, plural = torch.randint(0, 2, (2, n, 1))
    features = 2.0 * torch.stack([verb, plural], dim=-1) - 1
    return features + 0.2 * torch.randn(features.shape), verb ^ plural

# %%
def learn_endings(n_attention: int, with_ffn: bool) -> tuple[Ending, float]:
    """Train one model for 300 steps; return it and its accuracy on new words."""
    torch.manual_seed(0)
    model = Ending(n_attention, with_ffn)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(300):
        features, answer = random_words(128)
        loss = F.cross_entropy(model(features).flatten(0, 1), answer.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    features, answer = random_words(2000)
    return model, (model(features).argmax(-1) == answer).float().mean().item()


mixing, mixing_right = learn_endings(n_attention=6, with_ffn=False)
thinking, thinking_right = learn_endings(n_attention=1, with_ffn=True)
sizes = [sum(p.numel() for p in model.parameters()) for model in (mixing, thinking)]
assert mixing_right < 0.78 and thinking_right > 0.99 and sizes[0] > sizes[1]
print(f"parameters: six attention layers {sizes[0]}, one with a net {sizes[1]}")
print(f"right endings: six attention layers {mixing_right:.0%}, with a net {thinking_right:.0%}")

# %%
features, answer = random_words(80)
line = torch.linspace(-1.8, 1.8, 60)
grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).reshape(-1, 1, 2)
chance = {
    title: model(grid).softmax(-1)[..., 1].detach().reshape(60, 60)
    for title, model in (("Attention alone: no line will do", mixing),
                         ("With a feed-forward net: four corners", thinking))
}
corners = [(8, 8), (8, 51), (51, 8), (51, 51)]  # (plural, verb) as rows and columns of the grid
thought = list(chance.values())[1]
assert [thought[corner].item() > 0.5 for corner in corners] == [False, True, True, False]
draw.decision_maps(chance, features[:, 0], answer[:, 0], extent=1.8)

# %% [markdown]
# > **Try it.** Give the six attention layers sentences of five random words instead of one, with
# > the same question for each word. They now learn it after all! Their softmax is the reason. How
# > can a word use its neighbours to compute something about itself? Why is this not a good
# > substitute?
#
# <details><summary>Answer</summary>
#
# The weights depend on the word's own features, through the softmax. So a word can choose by one feature
# *whom* it looks at, and what it brings home from there depends on the choice: that is a product of
# features, which no mean can make. It is no good substitute, because it needs neighbours that happen to
# have something to bring. In a sentence of one word there are none, and the model is linear again.
#
# </details>

# %% [markdown]
# So attention moves information **between** positions, and the feed-forward network computes **within**
# each position.

# %%
check("feed_forward_why")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Its share of the weights, and two other names · more
#
# How large it is, and what later work calls it.

# %% [markdown]
# The network treats every position alike and alone: the paper calls it two convolutions of width 1.
# In the base model it holds two thirds of an encoder layer's weights. Later work reads it as a memory:
# directions that a hidden unit recognises, and what it adds when it does (Geva et al. 2021).

# %%
torch.manual_seed(0)
ffn = FeedForward(512, 2048)
x = torch.randn(2, 7, 512)
assert torch.allclose(ffn(x)[:, 3], ffn(x[:, 3]), atol=1e-4)  # a position alone: the same
n_ffn = sum(p.numel() for p in ffn.parameters())
share = n_ffn / (n_ffn + 4 * 512**2)
assert 0.66 < share < 0.67
print(f"the feed-forward network holds {share:.0%} of the weights of an encoder layer")

# %% [markdown]
# ## 6 · Keeping what you knew: residual connections (section 3.1)
#
# Each sub-layer, attention or feed-forward, is wrapped in the same way. Its result does not
# *replace* its input, it is *added* to it: that is the **residual connection** (He et al. 2016).
# Then the sum is normalised:
#
# $$x \leftarrow \operatorname{LayerNorm}\left(x +
# \operatorname{Dropout}(\operatorname{Sublayer}(x))\right) \qquad \text{(post-norm, section 3.1)}$$
#
# A second order has become the usual one since. The norm stands *before* the sub-layer, and the way
# from bottom to top is free of norms:
#
# $$x \leftarrow x + \operatorname{Dropout}(\operatorname{Sublayer}(\operatorname{LayerNorm}(x)))
# \qquad \text{(pre-norm)}$$
#
# Here is also the second place of dropout: on the output of each sub-layer, before the sum
# (section 5.4).

# %%
#| export
class Residual(nn.Module):
    """Add what a sub-layer finds to what came in, and normalise: (B, L, D) -> (B, L, D).

    post: norm(x + dropout(sublayer(x))), as the paper prints it (section 3.1);
    pre: x + dropout(sublayer(norm(x))), as its code came to do.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm = LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.pre = config.norm == "pre"

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        if self.pre:
            return x + self.dropout(sublayer(self.norm(x)))
        return self.norm(x + self.dropout(sublayer(x)))

# %% [markdown]
# `sublayer` is a function, so that the same wrapper serves attention and feed-forward. An **encoder
# layer** is then two lines long: self-attention in a residual, feed-forward in a residual.

# %% [markdown]
# **Your turn**, if you have half an hour: the layer as a class of your own, with its sub-layers, norms
# and sums. (The check takes nothing ready-made from `course`; for the attention, put your class of
# lesson 03 above it.)

# %%
class MyEncoderLayer(nn.Module):
    """Called (x (B, S, D), mask (B, 1, 1, S), True = may attend) -> (B, S, D)."""

    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        raise NotImplementedError


check("EncoderLayer", MyEncoderLayer)

# %%
#| export
def attention_of(config: TransformerConfig) -> MultiHeadAttention:
    """Return a fresh attention sub-layer of the configured sizes."""
    return MultiHeadAttention(config.d_model, config.n_heads, config.d_k, config.d_v)


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward, each in a residual: x (B, S, D), mask -> (B, S, D)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.self_attention = attention_of(config)
        self.feed_forward = FeedForward(config.d_model, config.d_ff)
        self.residuals = nn.ModuleList(Residual(config) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.residuals[0](x, lambda x: self.self_attention(x, x, x, mask))
        return self.residuals[1](x, self.feed_forward)

# %% [markdown]
# The **encoder** is a stack of $N$ such layers, each with weights of its own. With pre-norm nothing
# has normalised the last sum, so the stack ends in one more norm.

# %%
#| export
class Encoder(nn.Module):
    """`n_layers` encoder layers; a pre-norm stack ends in one more norm: (B, S, D) -> (B, S, D)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.n_layers))
        self.norm = LayerNorm(config.d_model) if config.norm == "pre" else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x)

# %% [markdown]
# **Why both, the sum and the norm?** Without a residual, the gradient on its way down is multiplied
# by $f'$ of every sub-layer. With $y = x + f(x)$ it is multiplied by $1 + f'(x)$: the 1 is a way on
# which it arrives unchanged (lesson 01: a sum hands its gradient on). The same sum has a price: if
# $f(x)$ grows with $x$, each sum makes $x$ larger by a factor, and the 48 factors of 24 layers
# explode. To stop that is the norm's work.
#
# So much for the theory; now we measure, before any training. We build fresh encoders of 2 to 24
# layers in five kinds: with neither, with the norm only, with the residual only, and with both in
# the two orders. Random vectors go in at the bottom, a random gradient of length 1 comes in at the
# top, and we measure two things:
#
# - **how long the gradient is at the bottom.** Near 0, the lowest layer learns nothing; very
#   large, one step destroys it;
# - **how alike the positions are at the top**: the mean cosine between the vectors of two
#   positions. At 1, all words have become the same vector, and nothing can be told apart.
#
# **Guess first:** which of the two spoils a stack that has norms but no residuals?

# %%
mine = None  # "the gradient" or "the likeness"

# %%
class Partial(Residual):
    """A residual connection with parts left out, for the experiments of this page only."""

    def __init__(self, config: TransformerConfig, kind: str) -> None:
        super().__init__(config)
        self.kind = kind

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        if self.kind == "nothing at all":
            return x
        if self.kind == "neither":
            return sublayer(x)
        if self.kind == "norm only":
            return self.norm(sublayer(x))
        if self.kind == "residual only":
            return x + sublayer(x)
        return super().forward(x, sublayer)


def fresh_stack(attention: str, net: str, n_layers: int, gain: float = 1.0) -> Encoder:
    """Return an untrained encoder of width 64, its connections around the two parts as named."""
    norm = "pre" if attention == "pre-norm" else "post"
    config = TransformerConfig(9, 9, 64, 4, 256, n_layers, dropout=0.0, norm=norm)
    encoder = Encoder(config)
    for layer in encoder.layers:
        layer.residuals = nn.ModuleList(Partial(config, kind) for kind in (attention, net))
    for parameter in encoder.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter, gain)  # the usual start: section 9
    return encoder

# %%
def mean_cosine(vectors: Tensor) -> float:
    """Return the mean cosine between the vectors of two positions of a sentence, (B, L, D)."""
    unit = F.normalize(vectors, dim=-1)
    cosines = unit @ unit.transpose(1, 2)  # (B, L, L)
    n_sentences, length, _ = cosines.shape
    return ((cosines.sum() / n_sentences - length) / (length * (length - 1))).item()


def measure(attention: str, net: str, n_layers: int, gain: float = 1.0) -> tuple[float, float]:
    """Return the length of the gradient at the bottom and how alike positions are at the top."""
    found = []
    for seed in range(by_scale(smoke=1, cpu=3, gpu=3)):
        torch.manual_seed(seed)
        x = torch.randn(8, 16, 64, requires_grad=True)  # 8 sentences, 16 positions
        y = fresh_stack(attention, net, n_layers, gain)(x)
        y.backward(F.normalize(torch.randn(y.numel()), dim=0).view_as(y))
        found.append((x.grad.norm().item(), mean_cosine(y.detach())))
    return tuple(sum(values) / len(found) for values in zip(*found))


depths = (2, 6, 12, 24)
kinds = ("neither", "residual only", "norm only", "post-norm", "pre-norm")
bottom, alike = {}, {}  # {kind: {depth: value}}
for kind in kinds:
    values = {n: measure(kind, kind, n) for n in depths}
    bottom[kind], alike[kind] = ({n: pair[i] for n, pair in values.items()} for i in (0, 1))

# %%
draw.lines_by_depth([
    ("The gradient dies with neither,\nexplodes with the residual only",
     "length of the gradient at the bottom", "log", bottom),
    ("Without residuals all positions\nare alike after six layers",
     "mean cosine between positions", "linear", alike),
])

# %%
for kind in kinds:
    print(f"{kind:14} 24 layers: gradient {bottom[kind][24]:5.0e}", end="")
    print(f"   positions alike: 6 layers {alike[kind][6]:.2f}, 24 layers {alike[kind][24]:.2f}")
assert bottom["neither"][24] < 1e-5 and bottom["residual only"][24] > 1e5
assert all(0.4 < bottom[kind][24] < 2.5 for kind in ("norm only", "post-norm", "pre-norm"))
assert alike["norm only"][6] > 0.999
assert alike["pre-norm"][6] + 0.2 < alike["post-norm"][6] < 0.95
assert alike["post-norm"][12] > 0.99 and alike["pre-norm"][24] < 0.93
compare(mine, "the likeness", "05: what spoils a stack of norms without residuals")

# %% [markdown]
# What each kind does, in a fresh stack:
#
# - **Neither:** the gradient shrinks by about the same factor in each layer. After 24 layers almost
#   nothing is left, and the lowest layers cannot learn.
# - **Residual only:** each sum is larger than its terms, so the signal grows layer by layer, and
#   the gradient with it.
# - **Norm only:** the gradient has a good size. Many texts stop here and say that residuals are
#   there for the gradient's size. But the right panel shows the damage: after six layers *all words
#   are one vector*. Nobody can tell which word stood where.
# - **Both:** the norm keeps the size, and the residual slows down how fast words become alike. At
#   the paper's six layers they still differ. With this start of the weights, post-norm has lost
#   them at 12 layers; pre-norm still keeps something at 24.
#
# (Fresh stacks say how training begins, not how it ends. Section 12 trains four of these kinds.)

# %% [markdown]
# > **Try it.** The input of a residual must have the same width as its output, because the two
# > are added. Which sizes of the model does that fix? Which sentence of section 3.1 of the paper
# > says it?
#
# <details><summary>Answer</summary>
#
# What goes into every sub-layer and what comes out: the output of $W^O$, the output of the
# feed-forward network, the embeddings and the positions are all $d_{model}$ wide. Inside a sub-layer
# the width is free ($h d_k$, $h d_v$, $d_{ff}$). The sentence is the last one on the encoder in
# section 3.1: all sub-layers and the embeddings give outputs of dimension $d_{model} = 512$, "to
# facilitate these residual connections".
#
# </details>

# %%
check("residual_gradient")

# %%
check("residual_alike")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Who makes the words alike? And is it the start? · more
#
# Two controls: the stack without attention or without feed-forward networks, and smaller weights at the
# beginning.

# %% [markdown]
# Who makes the words alike? Attention takes means, and a mean brings words closer (Dong et al.
# 2021 prove it for attention alone). But a control is easy: norms only, once without the attention,
# once without the feed-forward networks.

# %%
without_attention = {n: measure("nothing at all", "norm only", n)[1] for n in (6, 24)}
without_net = {n: measure("norm only", "nothing at all", n)[1] for n in (6, 24)}
assert without_net[6] > 0.99
assert 0.6 < without_attention[6] < 0.9 < without_attention[24]
print(f"attention alone:     6 layers {without_net[6]:.2f}, 24 layers {without_net[24]:.2f}")
print(f"feed-forward alone:  6 layers {without_attention[6]:.2f}, "
      f"24 layers {without_attention[24]:.2f}")

# %% [markdown]
# So attention is the faster, but not the only one: fresh feed-forward networks, which never see a
# second word, make words alike too.
#
# The second control. We started with Xavier's rule at full size, as the model of section 9 does. Smaller weights make
# each sub-layer's part of the sum smaller. Here is the same measurement with all matrices at 0.3
# times that size.

# %%
small_start = {kind: {n: measure(kind, kind, n, gain=0.3)[1] for n in (12, 24)}
               for kind in ("post-norm", "pre-norm")}
for kind, points in small_start.items():
    for n, value in points.items():
        print(f"{kind:9} {n} layers: full size {alike[kind][n]:.2f}, 0.3 times {value:.2f}")
assert max(points[24] for points in small_start.values()) < 0.12
assert abs(small_start["post-norm"][24] - small_start["pre-norm"][24]) < 0.01

# %% [markdown]
# With small weights nothing is lost, in either order, even at 24 layers. So "post-norm loses the
# words" is a sentence about post-norm *and* this start; the norm's place alone does not decide it.

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 7 · Post-norm or pre-norm? · more
#
# Both orders look equally good in the left panel. They differ at the *top* of the stack, and that is
# one reason why the paper's training starts with small steps (warm-up, lesson 07).

# %% [markdown]
# Look at the gradient of the last weight matrix of the *last* layer ($W_2$ of its feed-forward
# network) while the stack below it grows.
#
# **Guess first.** Should the gradient of the last layer depend on how many layers lie below it?

# %%
def last_gradient(kind: str, n_layers: int) -> float:
    """Return the length of the gradient of the last W_2, a mean over fresh stacks."""
    lengths = []
    for seed in range(by_scale(smoke=1, cpu=3, gpu=3)):
        torch.manual_seed(seed)
        encoder = fresh_stack(kind, kind, n_layers)
        y = encoder(torch.randn(8, 16, 64))
        y.backward(F.normalize(torch.randn(y.numel()), dim=0).view_as(y))
        lengths.append(encoder.layers[-1].feed_forward.w_2.weight.grad.norm().item())
    return sum(lengths) / len(lengths)


last = {kind: {n: last_gradient(kind, n) for n in depths} for kind in ("post-norm", "pre-norm")}
draw.lines_by_depth([
    ("The last layer's gradient stays large in\npost-norm, and shrinks in pre-norm",
     "gradient of the last W₂", "linear", last),
], names=kinds)

# %%
def slope(points: dict[int, float]) -> float:
    """Return the exponent p of the power law value ~ depth^p that fits best."""
    x = torch.tensor([math.log(n) for n in points])
    y = torch.tensor([math.log(value) for value in points.values()])
    x, y = x - x.mean(), y - y.mean()
    return ((x * y).sum() / (x * x).sum()).item()


exponent = {kind: slope(points) for kind, points in last.items()}
assert abs(exponent["post-norm"]) < 0.15
assert -0.7 < exponent["pre-norm"] < -0.35
print(f"the last gradient goes like depth^{exponent['post-norm']:.2f} in post-norm,")
print(f"and like depth^{exponent['pre-norm']:.2f} in pre-norm; 1/√depth would be depth^-0.50")

# %%
check("norm_where")

# %% [markdown]
# Xiong et al. (2020) proved both for a fresh model. In a pre-norm stack the sum grows with every
# layer (its variance by about the same amount each time), and the last norm divides by its size,
# about $\sqrt{N}$. So each layer of a deep stack moves the result a little less: the gradients
# shrink like $1/\sqrt{N}$. In post-norm the last layer always moves the result by the full amount.
# They conclude: with post-norm, a full learning rate at the very first step is too much for the
# upper layers. That is one reason for **warm-up**, a learning rate that starts small (lesson 07).
#
# The paper prints post-norm; the authors' own code (tensor2tensor) later changed to pre-norm. Our
# model has both, and post-norm is the default, as in the paper.

# %% [markdown]
# ## 8 · The decoder (section 3.1)
#
# The decoder writes the translation, one token after the other. Its layer has **three** sub-layers,
# and each answers a question:
#
# 1. *What have I written so far?* Self-attention over the target, with the causal mask of lesson
#    04.
# 2. *What does the source say about it?* **Cross-attention**: the queries come from the decoder,
#    the keys and values from the encoder's output, called the `memory`.
# 3. *What follows?* The feed-forward network.

# %% [markdown]
# **Your turn:**

# %%
class MyDecoderLayer(nn.Module):
    """Called (x (B, T, D), memory (B, S, D), src_mask (B, 1, 1, S), tgt_mask (B or 1, 1, T, T))."""

    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        raise NotImplementedError


check("DecoderLayer", MyDecoderLayer)

# %%
#| export
class DecoderLayer(nn.Module):
    """Masked self-attention, attention to the source, feed-forward, each in a residual.

    x (B, T, D), memory (B, S, D), src_mask (B, 1, 1, S), tgt_mask (B, 1, T, T) -> (B, T, D).
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.self_attention = attention_of(config)
        self.cross_attention = attention_of(config)
        self.feed_forward = FeedForward(config.d_model, config.d_ff)
        self.residuals = nn.ModuleList(Residual(config) for _ in range(3))

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
    ) -> Tensor:
        x = self.residuals[0](x, lambda x: self.self_attention(x, x, x, tgt_mask))
        x = self.residuals[1](x, lambda x: self.cross_attention(x, memory, memory, src_mask))
        return self.residuals[2](x, self.feed_forward)

# %%
#| export
class Decoder(nn.Module):
    """`n_layers` decoder layers; a pre-norm stack ends in one more norm: (B, T, D) -> (B, T, D)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.n_layers))
        self.norm = LayerNorm(config.d_model) if config.norm == "pre" else nn.Identity()

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
    ) -> Tensor:
        for layer in self.layers:
            x = layer(x, memory, src_mask, tgt_mask)
        return self.norm(x)

# %%
check("cross_attention_sources")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Who sees whom? · more
#
# The gradient says which positions an output depends on, and through which sub-layer.

# %% [markdown]
# Do not trust the code, ask the gradient. For each output position we compute how
# strongly it would move if one target position or one source position were changed. A position
# that it cannot see has a gradient of exactly 0.

# %%
torch.manual_seed(0)
decoder = Decoder(TransformerConfig(9, 9, 32, 4, 64, n_layers=2, dropout=0.0))
x = torch.randn(1, 5, 32, requires_grad=True)  # 5 target positions
memory = torch.randn(1, 7, 32, requires_grad=True)  # 7 source positions
src_mask = padding_mask(torch.tensor([[1, 1, 1, 1, 1, 0, 0]]), pad_id=0)  # the last two are padding
direction = torch.randn(32)
from_target, from_source = torch.zeros(5, 5), torch.zeros(5, 7)
for t, moved in enumerate(decoder(x, memory, src_mask, causal_mask(5))[0] @ direction):
    to_target, to_source = torch.autograd.grad(moved, (x, memory), retain_graph=True)
    from_target[t], from_source[t] = to_target[0].norm(dim=1), to_source[0].norm(dim=1)
draw.influence_maps([
    ("A position sees itself and the past", "target position", from_target),
    ("... and every real token of the source", "source position (5, 6: padding)", from_source),
])

# %%
# NBVAL_CHECK_OUTPUT
assert from_target.triu(1).eq(0).all() and from_target.tril().ne(0).sum() == 15
assert from_source[:, 5:].eq(0).all() and from_source[:, :5].ne(0).all()
print("future: exactly 0; padding: exactly 0; past, itself and the source: never 0")

# %% [markdown]
# **Guess first.** Which of the three sub-layers is the only one through which a decoder layer hears
# of the source? Which one knows more than one target position? Switch them off, one at a time.

# %%
def hears(layer: DecoderLayer) -> tuple[bool, bool]:
    """Return whether the last output of a layer depends on the source, and on the past."""
    x, memory = torch.randn(1, 5, 32, requires_grad=True), torch.randn(1, 7, 32, requires_grad=True)
    moved = layer(x, memory, None, causal_mask(5))[0, -1] @ direction
    past, source = torch.autograd.grad(moved, (x, memory))
    return bool(source.ne(0).any()), bool(past[0, :-1].ne(0).any())


layer = decoder.layers[0]
print("sub-layer switched off   hears the source   hears the past")
for name in ("nothing", "self_attention", "cross_attention", "feed_forward"):
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    if name != "nothing":
        for parameter in getattr(layer, name).parameters():
            parameter.data.zero_()
    source, past = hears(layer)
    assert (source, past) == (name != "cross_attention", name != "self_attention")
    print(f"{name:24} {source!s:18} {past}")
    layer.load_state_dict(before)

# %% [markdown]
# ## 9 · The whole model (figure 1)
#
# Everything is there. The last class only puts the parts together. `encode` reads the source
# once. `decode` reads what is written so far, and the memory. `project` gives every word of the
# vocabulary a score (a *logit*); a softmax turns the scores into probabilities. The softmax is
# left to the loss and to the search.
#
# How do the other matrices start? They multiply a vector, so they get Xavier's rule. To keep sizes, the
# way forward wants numbers of variance $1/n_{in}$, the way back $1/n_{out}$; the rule takes
# $2/(n_{in}+n_{out})$. For a square matrix both wishes agree. Embeddings and learned positions are looked up, so they keep the start that we gave
# them.

# %%
#| export
class Transformer(nn.Module):
    """The whole model: src (B, S), tgt_in (B, T) and their masks -> logits (B, T, V).

    `encode`, `decode` and `project` are its three steps, for a decoder that takes them one by one.
    Paper, figure 1.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.src_embedding = TokenEmbedding(config.src_vocab, config.d_model)
        self.tgt_embedding = (
            self.src_embedding
            if config.tie_embeddings
            else TokenEmbedding(config.tgt_vocab, config.d_model)
        )
        self.positions = PositionalEncoding(config)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.w_vocab = nn.Linear(config.d_model, config.tgt_vocab, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and "embedding" not in name and "positions" not in name:
                nn.init.xavier_uniform_(parameter)
        if config.tie_embeddings:
            self.w_vocab.weight = self.tgt_embedding.weight

    def encode(self, src: Tensor, src_mask: Tensor | None = None) -> Tensor:
        """Read the source once: (B, S) -> memory (B, S, D)."""
        return self.encoder(self.positions(self.src_embedding(src)), src_mask)

    def decode(
        self,
        tgt_in: Tensor,
        memory: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
    ) -> Tensor:
        """Read what is written so far and the memory: (B, T) -> states (B, T, D)."""
        x = self.positions(self.tgt_embedding(tgt_in))
        return self.decoder(x, memory, src_mask, tgt_mask)

    def project(self, states: Tensor) -> Tensor:
        """Score every word of the vocabulary: (..., D) -> logits (..., V)."""
        return self.w_vocab(states)

    def forward(
        self,
        src: Tensor,
        tgt_in: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
    ) -> Tensor:
        memory = self.encode(src, src_mask)
        return self.project(self.decode(tgt_in, memory, src_mask, tgt_mask))

# %% [markdown]
# ### The model draws itself
#
# A drawing made by hand can be wrong. So let the model draw itself. `draw.trace` runs it once, on 7
# source tokens and 5 target tokens, and writes down who calls whom, and with which shapes. It does
# not read the lines from the code either. It cuts off the result of every part from its past; then
# it asks autograd which of these results the input of the next part depends on. One of them: a line.
# Two of them: a sum, with a line from each. None: no line.

# %%
torch.manual_seed(0)
post_model = Transformer(TransformerConfig.base(1000)).eval()
src, tgt_in = torch.randint(1000, (2, 7)), torch.randint(1000, (2, 5))
traced = draw.trace(post_model, src=src, tgt_in=tgt_in)
assert traced.shape_out == (2, 5, 1000)
draw.draw_model(traced, "The base model's layers, drawn from a run, with a toy vocabulary of 1,000")

# %% [markdown]
# Read it from bottom to top, the encoder on the left, the decoder on the right. Compare it with
# figure 1 of the paper. The circles are the sums of the residual connections. The dashed boxes are
# dropout. The only line from left to right is the memory. The three boxes with a ◆ hold one and the
# same matrix: the tables are tied.
#
# The six layers of a stack are wired alike, so one is drawn for all. And because lines are found and
# not believed, another model gives another drawing: take a sum away, and its circle is gone. With
# `norm="pre"`, look where the norms go, and find the two that are new.

# %%
pre_model = Transformer(TransformerConfig(1000, 1000, norm="pre")).eval()
pre_traced = draw.trace(pre_model, src=src, tgt_in=tgt_in)
draw.draw_model(pre_traced, "Pre-norm: the norm moves into the branch")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Counted, and a model without sums · more
#
# The parts in numbers; that every decoder layer gets the memory; and a model whose sums are gone.

# %%
# NBVAL_CHECK_OUTPUT
calls = list(traced.walk())
counted = [call.kind for call in calls]
assert counted.count("MultiHeadAttention") == 6 + 2 * 6 and counted.count("FeedForward") == 6 + 6
assert counted.count("LayerNorm") == counted.count("Residual") == 2 * 6 + 3 * 6
assert counted.count("Dropout") == 30 + 2
sums = sum(len(feed) == 2 for call in calls for feed in call.fed_by)
assert sums == 30  # each norm is fed by two results: a sub-layer's, and what went into it
assert [call.kind for call in pre_traced.walk()].count("LayerNorm") == 30 + 2
memory = next(call for call in calls if call.kind == "Encoder").source
crossing = [call for call in calls if call.name.endswith("cross_attention")]
assert len(crossing) == 6 and all(call.fed_by[1:] == [[memory], [memory]] for call in crossing)

lonely = Transformer(TransformerConfig(1000, 1000, 32, 4, 64, n_layers=2)).eval()
for stack in (lonely.encoder, lonely.decoder):
    for layer in stack.layers:
        layer.residuals = nn.ModuleList(Partial(lonely.config, "norm only") for _ in layer.residuals)
lonely_calls = draw.trace(lonely, src=src, tgt_in=tgt_in).walk()
assert not any(len(feed) > 1 for call in lonely_calls for feed in call.fed_by)
print("18 attentions, 12 feed-forward networks, 30 sums; pre-norm adds 2 norms")
print("keys and values of all 6 cross-attentions are the memory; dropout acts 32 times")
print("a model without residual connections: no sum is found")

# %% [markdown]
# > **Try it.** Make a model with `tie_embeddings=False`. How many more parameters does it have?
# > Then give it a source vocabulary of 80 and a target vocabulary of 50. What does the same
# > request say with tied embeddings?
#
# <details><summary>Answer</summary>
#
# $2 \, V \, d_{model}$ more: two tables that were one with the third. For the base model with
# V = 37,000 that is 37.9 million, 100.9 in all instead of 63.0. With 80 and 50 words an untied model is
# built. A tied one refuses: `tied embeddings need one vocabulary, not src_vocab=80 and tgt_vocab=50`.
#
# </details>

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Where dropout sits · more
#
# A forgotten dropout is hard to notice. Two tests find one.

# %% [markdown]
# Section
# 5.4 names two places: the output of each sub-layer, before it is added and normalised; and the
# sums of embeddings and positions. There is none on the attention weights and none inside the
# feed-forward network (the authors' code has some there, the paper's text does not).
#
# Two tests. With dropout 0, two runs in training mode must be identical: this finds a dropout that
# does not obey the configuration. With dropout 1, every part must be silent: the positions give
# zeros, and a residual gives the same, whatever its sub-layer says. This finds one that is missing.

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
model = Transformer(TransformerConfig(50, 50, 32, 4, 64, 2, dropout=0.0)).train()
assert torch.equal(model(src % 50, tgt_in % 50), model(src % 50, tgt_in % 50))

silent = Transformer(TransformerConfig(50, 50, 32, 4, 64, 2, dropout=1.0)).train()
x = torch.randn(1, 6, 32)
residuals = [module for module in silent.modules() if isinstance(module, Residual)]
assert silent.positions(x).eq(0).all()
for residual in residuals:
    assert torch.equal(residual(x, torch.randn_like), residual(x, torch.zeros_like))
print(f"dropout 0: the same twice; dropout 1: positions and {len(residuals)} residuals are silent")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### The masks, through the whole model · more
#
# What lesson 04 promised for one layer must hold for all of them together.

# %% [markdown]
# The masks of lesson 04 must survive the whole way through the model. Two promises: no logit
# depends on a later target token, and padding at the end of the source changes nothing.

# %%
model.eval()
src, tgt_in = torch.randint(1, 50, (1, 6)), torch.randint(1, 50, (1, 5))
logits = model(src, tgt_in, padding_mask(src, 0), causal_mask(5))
changed = tgt_in.clone()
changed[0, 3:] = torch.randint(1, 50, (2,))
future_changed = model(src, changed, padding_mask(src, 0), causal_mask(5))
padded = F.pad(src, (0, 4), value=0)
source_padded = model(padded, tgt_in, padding_mask(padded, 0), causal_mask(5))
assert torch.allclose(future_changed[:, :3], logits[:, :3], atol=1e-6)
assert not torch.allclose(future_changed[:, 3:], logits[:, 3:], atol=1e-2)
assert torch.allclose(source_padded, logits, atol=1e-5)
assert not torch.allclose(model(padded, tgt_in, None, causal_mask(5)), logits, atol=1e-2)
print("the future changes nothing before it; padding changes nothing, as long as it is masked")

# %% [markdown]
# ## 10 · Counting: 65 and 213 million?
#
# Every matrix is known, so the number of parameters is a sum that you can do on paper:
#
# $$\begin{aligned}
# \text{attention} &= 2 \, d_{model} \, h \, d_k + 2 \, d_{model} \, h \, d_v \\
# \text{feed-forward} &= 2 \, d_{model} \, d_{ff} + d_{ff} + d_{model} \\
# \text{norm} &= 2 \, d_{model} \\
# \text{encoder layer} &= \text{attention} + \text{feed-forward} + 2 \cdot \text{norm} \\
# \text{decoder layer} &= 2 \cdot \text{attention} + \text{feed-forward} + 3 \cdot \text{norm} \\
# \text{model} &= N \cdot (\text{encoder layer} + \text{decoder layer}) + V \, d_{model}
# \end{aligned}$$
#
# With tied embeddings the $V \times d_{model}$ table counts once. Positions count nothing: they are
# computed, not learned.

# %%
def parameters_by_formula(config: TransformerConfig) -> int:
    """Return the number of parameters of a post-norm model with tied embeddings."""
    d, h, f = config.d_model, config.n_heads, config.d_ff
    d_k, d_v = config.d_k or d // h, config.d_v or d // h
    attention = 2 * d * h * d_k + 2 * d * h * d_v
    feed_forward = 2 * d * f + f + d
    norm = 2 * d
    encoder_layer = attention + feed_forward + 2 * norm
    decoder_layer = 2 * attention + feed_forward + 3 * norm
    return config.n_layers * (encoder_layer + decoder_layer) + config.src_vocab * d


def parameters_by_model(config: TransformerConfig) -> int:
    """Build the model without memory for its weights, and add up the sizes of its parameters."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Transformer(config).parameters())


for config in (base, big):
    assert parameters_by_formula(config) == parameters_by_model(config)
assert abs(parameters_by_model(base) / 65e6 - 1) < 0.031
assert abs(parameters_by_model(big) / 213e6 - 1) < 0.0061
print(f"base {parameters_by_model(base):,}   big {parameters_by_model(big):,}")

# %% [markdown]
# Formula and model agree to the last parameter. The paper's table 3 says **65** million for base
# and **213** million for big. With a vocabulary of 37,000, as "about 37000 tokens" in section 5.1
# of the paper suggests, we count 63.0 and 214.2. That is close, but 3 % too few for the one, and
# half a per cent too many for the other. Table 3 itself can tell why: ten of its eleven rows agree
# with our layers exactly, for one vocabulary of about 41,100 tokens; big asks for about 35,900.

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Table 3, read like a detective · more
#
# Is our model wrong, or is the vocabulary not 37,000? How eleven rounded numbers answer that.

# %% [markdown]
# Table 3 can tell us. It lists eleven models with their sizes. Each figure is rounded to a million,
# so each row allows an interval of vocabularies. If our model is the paper's, the intervals must
# have a common part.
#
# **Guess first.** Which rows could show a wrong *layer*, and which a wrong *vocabulary*?

# %%
table_3 = {  # row of table 3: (what differs from base, millions of parameters in the paper)
    "base": ({}, 65),
    "B: d_k = 16": ({"d_k": 16}, 58),
    "B: d_k = 32": ({"d_k": 32}, 60),
    "C: N = 2": ({"n_layers": 2}, 36),
    "C: N = 4": ({"n_layers": 4}, 50),
    "C: N = 8": ({"n_layers": 8}, 80),
    "C: d_model = 256": ({"d_model": 256}, 28),
    "C: d_model = 1024": ({"d_model": 1024}, 168),
    "C: d_ff = 1024": ({"d_ff": 1024}, 53),
    "C: d_ff = 4096": ({"d_ff": 4096}, 90),
    "big": ({"d_model": 1024, "d_ff": 4096, "n_heads": 16}, 213),
}


def vocabularies(millions: float, sizes: dict[str, int]) -> tuple[float, float]:
    """Return the smallest and the largest vocabulary whose model rounds to `millions`."""
    config = TransformerConfig(0, 0, **sizes)
    rest = parameters_by_formula(config)  # all but the embedding
    return tuple((1e6 * (millions + e) - rest) / config.d_model for e in (-0.5, 0.5))


intervals = {name: vocabularies(millions, sizes) for name, (sizes, millions) in table_3.items()}
without_big = [interval for name, interval in intervals.items() if name != "big"]
common = max(low for low, _ in without_big), min(high for _, high in without_big)
assert common[0] < common[1]  # the intervals do have a common part
draw.vocabulary_intervals(intervals, common, stated=37_000)

# %%
# NBVAL_CHECK_OUTPUT
assert common[1] < common[0] + 300
assert intervals["big"][1] < common[0] - 4000
assert abs(sum(intervals["big"]) / 2 - 35_900) < 100
without_table = parameters_by_formula(TransformerConfig(0, 0))
assert (65.5e6 - without_table) / (3 * base.d_model) < 14_000
for name, (sizes, millions) in table_3.items():
    config = TransformerConfig(41_100, 41_100, **sizes)
    ours = parameters_by_model(config) / 1e6
    assert parameters_by_formula(config) == parameters_by_model(config)
    assert round(ours) == millions or name == "big"
    print(f"{name:18} paper {millions:4}   ours with V = 41,100: {ours:6.1f}")

# %% [markdown]
# Ten of the eleven rows, among them rows with other depths, widths and head sizes, agree on one
# vocabulary of about **41,100** tokens. So the large matrices of our layers are the paper's. Only the big model does not
# fit: its 213 million ask for about **35,900** tokens. Perhaps it had another vocabulary; the paper
# does not say. With 37,000, our count of base is 3.0 % below the paper's, and our count of big
# 0.6 % above.
#
# A small detail would not show: with biases, each of the 18 attentions would have $4D$ parameters
# more, together as much as 72 tokens. Tying would show: untied, the table counts three times, and
# 65 million would leave room for less than 14,000 tokens.
#
# Which rows show what? Rows with another $d_{model}$ test the vocabulary: there $V \, d_{model}$
# changes too. Rows with another $N$, $d_{ff}$ or $d_k$ test the layers: their difference from base
# does not contain $V$. So these differences tell more than the rows themselves:

# %%
rest = parameters_by_formula(TransformerConfig(0, 0))
print("row              change in millions: paper, ours")
for name, (sizes, millions) in table_3.items():
    if "d_model" in sizes or not sizes:
        continue  # another width changes the embedding too
    change = (parameters_by_formula(TransformerConfig(0, 0, **sizes)) - rest) / 1e6
    assert abs(change - (millions - 65)) < 1  # two figures, each rounded by up to half a million
    print(f"{name:18} {millions - 65:+4}  {change:+6.1f}")

# %% [markdown]
# ## 11 · Does it learn? Copying, without a mistake
#
# Before you spend hours on translation, give a new model a task whose answer you know. Ours: read
# a row of letters, write the same row. It sounds trivial, and it is not. The model starts with no
# idea that position 3 of the target belongs to position 3 of the source. It must learn to look
# there (cross-attention by position), to carry the letter over, and to stop.
#
# Ten letters, rows of 3 to 8, and three special tokens: padding, begin `<`, and end `>`.

# %%
PAD, BOS, EOS, LETTERS = 0, 1, 2, "abcdefghij"
SHORTEST, LONGEST = 3, 8
symbols = "_<>" + LETTERS


def copy_batch(n: int, rng: random.Random, avoid: frozenset = frozenset()) -> Batch:
    """Return n random rows of letters, each to be copied; none of the rows to avoid."""
    rows = []
    while len(rows) < n:
        row = (*rng.choices(range(3, len(symbols)), k=rng.randint(SHORTEST, LONGEST)), EOS)
        if row not in avoid:
            rows.append(row)
    return Batch.from_sequences(rows, rows, pad_id=PAD, bos_id=BOS)


unseen = copy_batch(200, random.Random(2017))
held_out = frozenset(tuple(i for i in row if i != PAD) for row in unseen.src.tolist())


def spell(ids: Tensor) -> str:
    """Write token ids as letters."""
    return "".join(symbols[i] for i in ids.tolist())

# %% [markdown]
# To use the model, we let it write: give it `<`, take the most probable token, append it, ask
# again. This is *greedy decoding*; lesson 08 does it better. It is the honest test: the model
# continues from its **own** tokens, so that one mistake can spoil the rest.

# %%
@torch.no_grad()
def write(model: Transformer, src: Tensor, src_mask: Tensor, n_tokens: int) -> Tensor:
    """Return the n_tokens that the model writes for each row of src: (B, S) -> (B, n_tokens)."""
    memory = model.encode(src, src_mask)
    written = torch.full_like(src[:, :1], BOS)  # (B, 1)
    for _ in range(n_tokens):
        mask = causal_mask(written.size(1), device=src.device)
        states = model.decode(written, memory, src_mask, mask)
        best = model.project(states[:, -1]).argmax(-1, keepdim=True)  # (B, 1)
        written = torch.cat([written, best], dim=1)
    return written[:, 1:]


device = pick()
torch.manual_seed(0)
width = by_scale(smoke=32, cpu=64, gpu=64)
copier = Transformer(
    TransformerConfig(13, 13, width, 4, 2 * width, by_scale(smoke=1, cpu=2, gpu=2), dropout=0.0)
).to(device)
unseen = unseen.to(device)

# %%
def show_copies(n: int = 4) -> None:
    """Print what the model makes of the first unseen rows."""
    written = write(copier.eval(), unseen.src[:n], unseen.src_mask[:n], LONGEST + 1)
    for source, copy in zip(unseen.src, written):
        print(f"{spell(source).rstrip('_'):10} -> {spell(copy)}")


show_copies()

# %% [markdown]
# Only what comes before the first `>` counts as the answer. Untrained, the model writes one token
# again and again.

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Why does it repeat itself? · more
#
# A suspicion with two parts, and a control that takes each part away.

# %% [markdown]
# Two things that you know could make a fresh model repeat its input. The residual connections carry
# the vector of the last token from the bottom to the top, and the output compares the state with the
# *same* table. To test it, give six fresh models random letters, and count how often the most
# probable next token is the one that just went in. By chance it would be one time in 13. Then take
# away one cause, and the other.

# %%
def repeats(tied: bool, kind: str, seed: int) -> tuple[float, float]:
    """Return how often a fresh model repeats: a token that it is given, and its own last one."""
    torch.manual_seed(seed)
    sizes = dict(d_model=width, n_heads=4, d_ff=2 * width, n_layers=copier.config.n_layers)
    model = Transformer(TransformerConfig(13, 13, dropout=0.0, tie_embeddings=tied, **sizes)).eval()
    for layer in [*model.encoder.layers, *model.decoder.layers]:
        layer.residuals = nn.ModuleList(Partial(model.config, kind) for _ in layer.residuals)
    letters_in = torch.randint(3, 13, (200, 9))
    with torch.no_grad():
        guesses = model(letters_in, letters_in, None, causal_mask(9)).argmax(-1)
    alone = write(model, letters_in, None, 9)
    given_back = (guesses == letters_in).float().mean().item()
    return given_back, (alone[:, 1:] == alone[:, :-1]).float().mean().item()


models = {"as the paper has it": (True, "post-norm"), "two tables": (False, "post-norm"),
          "no residual": (True, "norm only")}
repeated = {name: [repeats(*choice, seed) for seed in range(6)] for name, choice in models.items()}
for name, shares in repeated.items():
    given, alone = zip(*shares)
    print(f"{name:20} repeats what it is given {min(given):3.0%} to {max(given):3.0%}; "
          f"when it writes alone {min(alone):3.0%} to {max(alone):4.0%}")
given, *controls = ([share for share, _ in shares] for shares in repeated.values())
assert min(given) > 2 / 13 > max(map(max, controls))

# %% [markdown]
# Both causes are needed: without either, a fresh model repeats what it is given about as often as
# chance (8 %). But look at the last column. When it writes alone, a model without residuals gets
# stuck, too, and one with two tables often does. So the tendency to repeat is not the only reason
# why a fresh model writes one token again and again.

# %% [markdown]
# ### Training it
#
# Now train. The loop is a dozen lines; lesson 07 makes a real one of it. Each step draws a fresh
# batch and leaves out the 200 rows of the test: they stay unseen. The learning rate rises for 50
# steps and later falls to 0.
#
# What loss should we expect? Two baselines can be **computed before training**:
#
# - A model that knows nothing gives all 13 tokens the same probability: $\ln 13 = 2.56$ nats.
# - A model that knows the rules of the game, but cannot read the source, can do no better than the
#   entropy of the task: a length out of 6, and a letter out of 10 at each place, over a mean of
#   6.5 tokens (5.5 letters and the end sign).

# %%
mean_length = (SHORTEST + LONGEST) / 2
baselines = {
    "knows nothing": math.log(len(symbols)),
    "knows the rules, cannot read the source": (
        math.log(LONGEST - SHORTEST + 1) + mean_length * math.log(len(LETTERS))
    ) / (mean_length + 1),
}
assert baselines["knows the rules, cannot read the source"] < baselines["knows nothing"]
print({name: round(value, 2) for name, value in baselines.items()})

# %%
def learn_to_copy(
    model: Transformer, n_steps: int, peak: float, batch_size: int = 64
) -> list[float]:
    """Train on fresh random rows; return the loss of every step, in nats per token."""
    rng, losses = random.Random(0), []
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-9)
    model.train()
    for step in bar(range(1, n_steps + 1), "step"):
        optimizer.param_groups[0]["lr"] = peak * min(step / 50, 1, 1.2 * (1 - step / n_steps))
        batch = copy_batch(batch_size, rng, avoid=held_out).to(device)
        logits = model(batch.src, batch.tgt_in, batch.src_mask, batch.tgt_mask)  # (B, T, 13)
        real = batch.tgt_out != PAD
        loss = F.cross_entropy(logits[real], batch.tgt_out[real])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


losses = learn_to_copy(copier, by_scale(smoke=500, cpu=600, gpu=800), peak=0.128 / width)
assert losses[0] > baselines["knows nothing"] and losses[-1] < 0.1
draw.learning_curve(losses, baselines)

# %% [markdown]
# The curve starts *above* the first baseline. The untrained model is worse than ignorant: its
# scores differ for no reason, and that costs half a nat to one. Then it learns the
# rules. And then, below the second line, it reads: nothing but the
# source can bring it there.

# %%
show_copies()

# %%
# NBVAL_CHECK_OUTPUT
written = write(copier.eval(), unseen.src, unseen.src_mask, LONGEST + 1)
ends = [(row == EOS).nonzero()[0, 0].item() + 1 for row in unseen.src]  # up to the first >
right = [torch.equal(source[:n], copy[:n]) for source, copy, n in zip(unseen.src, written, ends)]
assert len(right) == 200
assert all(right), f"{sum(right)} of 200 are right: make a new copier and train it for more steps"
print(f"{sum(right)} of {len(right)} unseen rows copied without a mistake")

# %% [markdown]
# All 200, each written token by token.
#
# > **Try it.** (1) Remove the positions: `copier.positions = nn.Identity()` before training. How
# > far does the loss fall? (2) Train on rows of 3 to 8 letters, then test on rows of 12. What
# > breaks? (3) Copy the row backwards. Which picture do you expect?
#
# <details><summary>Answer</summary>
#
# (1) Below the second line, but not to 0. The model still knows *which* letters are in the row, and can
# cross off those that it has written; it cannot know their order. (2) The model has never had to look at
# places 9 to 12: count how many of 200 rows of 12 it copies. The encodings exist for any length; that a
# model can use them there is another matter (section 3). (3) A diagonal from the upper right to the
# lower left: step $t$ must look at the letter $t$ places before the end.
#
# </details>

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Where does it look while it copies? · more
#
# The cross-attention of the trained model, head by head.

# %% [markdown]
# Did it learn the way we expected? `record_attention` from
# lesson 03 shows where the decoder looks while it writes. **Guess first:** the query at each step
# comes from the letter written *before*. So which source letter should it look at? Of the decoder's
# layers, the picture shows the one whose best head is the most diagonal.

# %%
letters = [*(symbols.index(letter) for letter in "headbfig"), EOS]
example = Batch.from_sequences([letters], [letters], pad_id=PAD, bos_id=BOS).to(device)
with record_attention(copier) as recorded, torch.no_grad():
    copier(example.src, example.tgt_in, example.src_mask, example.tgt_mask)
cross = {name: w[0].cpu() for name, w in recorded.items() if "cross" in name}  # each (H, T, S)
on_diagonal = {name: w.diagonal(dim1=1, dim2=2).mean(-1) for name, w in cross.items()}
layer_name = max(on_diagonal, key=lambda name: on_diagonal[name].max().item())
labels = [symbols[i] for i in letters]
best_head = on_diagonal[layer_name].argmax().item()
draw.attention_heads(
    cross[layer_name], labels, labels,
    f"Head {best_head} looks at the letter that comes next; the others look elsewhere, too",
)

# %%
looked_at = cross[layer_name][best_head].argmax(-1)
n_letters = LONGEST
assert (looked_at[:n_letters] == torch.arange(n_letters)).float().mean() >= 0.75
print(f"shown: {layer_name}; weight on the diagonal, by head:")
for name, weights in on_diagonal.items():
    print(f"{name}: {[round(w, 2) for w in weights.tolist()]}")
print(f"uniform attention would have {1 / (n_letters + 1):.2f}")

# %% [markdown]
# A diagonal: at step $t$ this layer looks at source position $t$. Nobody told it so; the loss falls
# when it does. How it finds the place, by the encodings of section 3 of this page or by the letters
# around it, this picture alone cannot say.

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 12 · Do six layers need both? · more
#
# Four of the kinds of section 6, trained on the copy task.

# %% [markdown]
# Section 6 looked at stacks before training, and fresh stacks can mislead: weights change. So here
# is the trial. Four models of six layers get the copy task, and they differ only in what stands
# around each sub-layer. Everything else is the same: the rows, the steps, the learning rate.
#
# **Guess first.** Which of the four is best after training: the residual only, the norm only, post-norm
# or pre-norm?

# %%
mine = None  # "residual only", "norm only", "post-norm" or "pre-norm"

# %%
def six_layers(kind: str, n_steps: int) -> list[float]:
    """Train a model of six layers whose connections are of the given kind; return its losses."""
    torch.manual_seed(0)
    norm = "pre" if kind == "pre-norm" else "post"
    config = TransformerConfig(13, 13, 32, 4, 64, n_layers=6, dropout=0.0, norm=norm)
    model = Transformer(config)
    for layer in [*model.encoder.layers, *model.decoder.layers]:
        layer.residuals = nn.ModuleList(Partial(config, kind) for _ in layer.residuals)
    return learn_to_copy(model.to(device), n_steps, peak=4e-3, batch_size=32)


n_steps = by_scale(smoke=40, cpu=300, gpu=300)
trained = {kind: six_layers(kind, n_steps) for kind in kinds[1:]}
reached = {kind: sum(losses[-10:]) / 10 for kind, losses in trained.items()}
draw.training_curves(trained, ("knows nothing", math.log(len(symbols))), names=kinds)

# %%
print(f"mean loss of the last 10 of {n_steps} steps, in nats per token:")
for kind, loss in reached.items():
    print(f"{kind:14} {loss:8.3f}")
assert max(reached, key=reached.get) == "residual only"
assert reached["residual only"] > math.log(len(symbols)) > reached["pre-norm"]
compare(mine, min(reached, key=reached.get), "05: the best of four kinds of six layers")

# %% [markdown]
# One seed and 300 steps: with the residual only, the loss stays far above that of knowing nothing
# (2.56). With the norm only it has hardly moved (2.2), post-norm is on its way (1.4), pre-norm copies (0.04). So
# both parts are needed; where the norm stands decides here how soon. (Post-norm wants a warm-up: lesson 07.)

# %% [markdown]
# ## What you built
#
# | name | from → to | note |
# |---|---|---|
# | `TransformerConfig` | | sizes and choices; `base(vocab)`, `big(vocab)` |
# | `TokenEmbedding` | (B, L) → (B, L, D) | starts as N(0, 1/D), times √D |
# | `positional_encoding`, `PositionalEncoding` | (B, L, D) → (B, L, D) | then dropout |
# | `layer_norm`, `LayerNorm` | (..., D) → (..., D) | biased variance, ε inside the root |
# | `FeedForward` | (B, L, D) → (B, L, D) | width F inside |
# | `Residual` | (B, L, D) → (B, L, D) | post- or pre-norm, with dropout |
# | `EncoderLayer`, `Encoder` | (B, S, D) → (B, S, D) | two sub-layers a layer |
# | `DecoderLayer`, `Decoder` | (B, T, D), (B, S, D) → (B, T, D) | three sub-layers a layer |
# | `Transformer` | (B, S), (B, T) → (B, T, V) | `encode`, `decode`, `project` |
#
# ## Summary · 小结
#
# - One table of vectors serves source, target and output. Started as N(0, 1/D) and multiplied by
#   √D, it has the right size at both ends.
# - Attention does not know order. Sinusoids give each place a soft binary number; moving k places
#   is one matrix, the same everywhere.
# - Attention collects in a linear way; the feed-forward network computes, and holds two thirds of
#   an encoder layer's weights.
# - LayerNorm keeps the size of the signal, the residual connection slows down how fast words
#   become alike. With Xavier's start a fresh post-norm stack has lost the words at 12 layers, pre-norm
#   keeps something at 24; with smaller weights neither loses them.
# - Post-norm keeps the last layer's gradient large at any depth, which is one reason for warm-up; in
#   pre-norm it shrinks like 1/√N.
# - Ten rows of table 3 agree with our count for one vocabulary of about 41,100; the big model
#   asks for about 35,900.
# - The model copies unseen rows without one mistake, and one of its cross-attention layers shows a
#   diagonal.
#
# **小结**
#
# <div lang="zh">
#
# - 源语言嵌入、目标语言嵌入和输出投影共用同一张词向量表。用 N(0, 1/D) 初始化并在查表后乘以 √D，
#   输入端和输出端的数值大小才都合适。
# - 注意力本身不知道词序。正弦位置编码像一个“平滑的二进制数”；
#   向后移动 k 个位置等于乘以同一个旋转矩阵。
# - 在权重给定时，注意力对被加权的值是线性的；真正做非线性计算的是前馈网络，
#   它占编码器层参数的三分之二。
# - 层归一化保持信号的大小，残差连接减缓各个词的向量趋于相同。采用 Xavier 初始化时，
#   未经训练的后归一化网络到 12 层已分不清各个词，前归一化到 24 层仍保留一些区别；
#   初始权重较小时，两者都不会丢失。
# - 后归一化（post-norm）时，最后一层的梯度不随深度减小，这是需要学习率预热的原因之一；
#   前归一化（pre-norm）时，它大约按 1/√N 减小。
# - 表 3 中有十行与我们的参数计数一致，对应的词表大小约为 41,100；只有 big 模型对应约 35,900。
# - 模型能够一字不差地复制没有见过的序列，它的一个交叉注意力层呈现出一条对角线。
#
# </div>
#
# ## Further reading
#
# - Vaswani et al. 2017, *Attention Is All You Need*, arXiv 1706.03762: sections 3 and 5.4, table 3.
# - Glorot and Bengio 2010, *Understanding the Difficulty of Training Deep Feedforward Neural
#   Networks*, AISTATS: where Xavier's rule comes from.
# - Ba, Kiros and Hinton 2016, *Layer Normalization*, arXiv 1607.06450.
# - He et al. 2016, *Deep Residual Learning for Image Recognition*, arXiv 1512.03385.
# - Press and Wolf 2017, *Using the Output Embedding to Improve Language Models*, arXiv 1608.05859.
# - Xiong et al. 2020, *On Layer Normalization in the Transformer Architecture*, arXiv 2002.04745.
# - Dong, Cordonnier and Loukas 2021, *Attention is Not All You Need: Pure Attention Loses Rank
#   Doubly Exponentially with Depth*, arXiv 2103.03404.
# - Geva et al. 2021, *Transformer Feed-Forward Layers Are Key-Value Memories*, arXiv 2012.14913.
#
# ## Exercises
#
# 1. **Depth (2 of 5, 10 minutes).** From the formula of section 10, find the depth at which the encoder
#    and the decoder of the base model together have more parameters than its embedding with V = 37,000.
# 2. **Against PyTorch (3 of 5, 30 minutes).** Write `EncoderLayer` from memory, then compare it with
#    `nn.TransformerEncoderLayer` by copying your weights into it.
# 3. **The other order (2 of 5, 10 minutes).** Start the copy task from `norm="pre"`. Is the curve
#    different?
#
# <details><summary>Answer 1</summary>
#
# $N = 3$. One encoder layer and one decoder layer have 7.35 million together, the table has 18.94: two
# of each are 14.70 million, three are 22.05.
#
# </details>
#
# <details><summary>Answer 2</summary>
#
# Three matrices are packed into one there: `in_proj_weight` is $W^Q, W^K, W^V$ one below the other;
# `linear1`, `linear2` are the feed-forward network, `norm1`, `norm2` the norms. It needs
# `batch_first=True`, `dropout=0.0`, biases of the attention at zero, and `norm_first` for pre-norm. Our
# tests do it (`tests/test_transformer.py`): equal, the gradients too.
#
# </details>
#
# <details><summary>Answer 3</summary>
#
# Look at the step at which each curve crosses the second line, and try a second seed before you name a
# winner. For six layers section 12 has measured it.
#
# </details>
#
# **Homework.** [Assignment transformer](homework/release/transformer/transformer.ipynb): write
# positions, norm, feed-forward, the encoder and the decoder layer yourself; the check names what
# went wrong.
#
# **Next:** [lesson 06](06_text.ipynb) turns real sentences into tokens.
