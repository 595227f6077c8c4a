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
# # 04 · Masking
#
# > Masks: what a position may see, and the batch that carries them (paper, section 3.2.3).
#
# A mask is a table of yes and no. It is the smallest part of the Transformer, and it is easy to get
# wrong. A wrong mask raises no error: the shapes fit, the training loss falls, often faster than it
# should. On this page you will build such a model, see it reach a loss near zero, and see that it
# cannot write a single sentence.
#
# - **You will be able to:** write the padding mask and the causal mask, and prove that they work;
#   say why a decoder reads its answer shifted by one; find a leak with one gradient; explain why
#   the Transformer trains in one pass per sentence; build the batch that every later lesson uses.
# - **Where it stands:** on the path, after lesson 03. **You need first:** attention and
#   `MultiHeadAttention` (lesson 03); what softmax and a gradient are.
# - **Time:** 50 minutes; 75 with all that is marked *more*.
# - **The paper:** section 3.1 (the decoder's mask; outputs "offset by one position") and section
#   3.2.3 (the three uses of attention). (Numbers with a dot are the paper's sections; 1 to 11 are
#   those of this page.)

# %%
#| export
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

# %% [markdown]
# The export cells of this notebook (the first line says `#| export`) are the library
# `course/masking.py`. All the other cells only demonstrate. (What a cell that begins with
# `# NBVAL_CHECK_OUTPUT` prints is the same on every machine, and compared by the course's tests.)

# %%
import math
from functools import partial

import torch.nn.functional as F
from torch import nn

from course.attention import MultiHeadAttention, attention_weights
from course.corpora import captions
from course.device import by_scale, pick
from course.homework import check, compare
from course.viz import bar
from course.viz import masking as draw

# %% [markdown]
# ## 1 · Two problems, one tool
#
# Lesson 03 said what a mask does. This lesson makes the masks that a translator needs. Without them,
# two things go wrong.
#
# 1. **Sentences have different lengths.** A GPU wants rectangles. So short sentences are filled up
#    with a special token, `<pad>` (**padding**), and attention would read it as if it were a word.
# 2. **The decoder is trained on the answer.** It must learn to predict word 5 from words 1 to 4.
#    But in training all words of the answer lie in one tensor, word 5 too. Attention would read
#    it.
#
# Both are cured by one tool. A **mask** $M$ says for each query $i$ and each key $j$ whether $i$
# may attend to $j$: $M_{ij} = 1$ (True) if it may, 0 (False) if not. It acts between the scores
# $s_{ij} = q_i \cdot k_j / \sqrt{d_k}$ and the softmax, where the paper's figure 2 has the box
# "Mask (opt.)":
#
# $$\alpha_{ij} = \frac{M_{ij} \exp(s_{ij})}{\sum_{k} M_{ik} \exp(s_{ik})}$$
#
# A forbidden key gets weight zero, and the allowed keys share the whole weight 1. In code one sets
# the forbidden scores to $-\infty$ before the softmax; that is the same, because
# $\exp(-\infty) = 0$. The paper says it in this way (section 3.2.3).
#
# **Guess first:** why not let softmax see everything, and set the forbidden weights to zero
# *afterwards*?

# %%
scores = torch.tensor([2.0, 1.0, 0.0, 3.0])
allowed = torch.tensor([True, True, True, False])

before = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
after = scores.softmax(-1) * allowed

assert math.isclose(before.sum().item(), 1.0, rel_tol=1e-6)
assert after.sum() < 0.5
for name, weights in (("before", before), ("after", after)):
    numbers = " ".join(f"{w:.2f}" for w in weights.tolist())
    print(f"masked {name:6} the softmax: {numbers}, sum {weights.sum():.2f}")

# %% [markdown]
# Afterwards is too late. The forbidden key has already taken its share of the sum, so the weights
# no longer add up to one, and *how much* is missing tells the model how well the forbidden key fitted.
#
# The rule of lesson 03 holds to the end of the course: **a mask is boolean, True means "may attend",
# and it has as many dimensions as the scores**, (B, H, Q, K), with a 1 for "all". (Other libraries
# mean the opposite; section 10 shows what happens then.)

# %% [markdown]
# ## 2 · Padding: tokens that nobody may read
#
# We need sentences. Three captions of the course's own corpus, of different lengths:

# %%
# NBVAL_CHECK_OUTPUT
train, val = captions.load("train"), captions.load("val")
three = [next(c for c in val if len(c.en_tokens) == n) for n in (5, 7, 9)]
for caption in three:
    print(" ".join(caption.en_tokens), "|", " ".join(caption.de_tokens))

# %% [markdown]
# A model reads numbers, not words. Here each word of the training captions simply gets a number.
# (Lesson 06 does this well, for words never seen before too. In this corpus every word of `val`
# occurs in `train`, so we need no `UNK`.) The first three numbers are for three **special tokens**,
# the PAD, BOS and EOS of lesson 02: `<pad>` fills up, `<s>` says "the sentence starts", `</s>` says
# "the sentence ends". Every sentence gets its `</s>`, so that the model can learn when to stop.

# %%
PAD, BOS, EOS = 0, 1, 2


def number(sentences):
    """Return the list of all words, special tokens first, and the number of each word."""
    words = ["<pad>", "<s>", "</s>", *sorted({w for sentence in sentences for w in sentence})]
    return words, {word: i for i, word in enumerate(words)}


en_words, en_ids = number(c.en_tokens for c in train)
de_words, de_ids = number(c.de_tokens for c in train)


def encode(tokens, ids):
    return [*(ids[w] for w in tokens), EOS]


def read(ids):
    return [en_words[i] for i in ids]


english = [encode(c.en_tokens, en_ids) for c in three]
assert read(english[0]) == [*three[0].en_tokens, "</s>"]
print(*english, sep="\n")

# %% [markdown]
# Three lists of three lengths. `pad` writes them into the rows of one rectangle and fills up on
# the right:

# %%
#| export
def pad(sequences: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """Return the sequences as the rows of one tensor, (B, longest), filled up with `pad_id`.

    Raises ValueError if there is no sequence.
    """
    if len(sequences) == 0:
        raise ValueError("no sequences to pad: a batch holds one sentence or more")
    longest = max(len(s) for s in sequences)
    rows = [[*s, *[pad_id] * (longest - len(s))] for s in sequences]
    return torch.tensor(rows, dtype=torch.long)


# %%
# NBVAL_CHECK_OUTPUT
tokens = pad(english, PAD)  # (B, K)
print(tuple(tokens.shape))
for row in tokens.tolist():
    print(" ".join(read(row)))

# %% [markdown]
# Which positions may be read? Those that are not padding. As a key, a `<pad>` must be invisible to
# *every* query of its sentence, so the mask does not depend on the query. It needs one number for
# each key: the shape $(B, 1, 1, K)$. The two dimensions of size 1 stand for "all heads" and "all
# queries"; section 7 shows how they are stretched.

# %% [markdown]
# **Your turn**, before you see ours: write it, run the cell, and `check` says what is right and what was
# misunderstood. Left alone, it says "not written yet", and the page goes on with the course's own.

# %%
def my_padding_mask(tokens, pad_id):
    """tokens (B, K) -> boolean (B, 1, 1, K), True = may attend."""
    raise NotImplementedError


check("padding_mask", my_padding_mask)

# %%
#| export
def padding_mask(tokens: Tensor, pad_id: int) -> Tensor:
    """Return which keys are real tokens: tokens (B, K) -> (B, 1, 1, K), True = may attend."""
    return (tokens != pad_id)[:, None, None, :]


# %%
mask = padding_mask(tokens, PAD)  # (3, 1, 1, K)
assert mask.shape == (3, 1, 1, tokens.size(1)) and mask.sum() == sum(map(len, english))
words = read(tokens[1].tolist())
draw.masks(
    {"sentence 1: every row is the same": (mask[1, 0].expand(len(words), -1), words, words)},
    "A padding mask closes columns",
    columns=1,
)

# %% [markdown]
# Read it row by row: "the query *here* may see the keys *there*". The rows of the `<pad>`s
# themselves are open, too. That looks careless, and it is right. The output at such a position
# is meaningless anyway, nobody reads it, and the loss skips it. To close the row as well would buy
# nothing, and would make a query that may see *nothing at all*. (Ours gives zeros then; section 9
# shows what others give.)

# %% [markdown]
# ### Does it work?
#
# **Padding must change nothing.** A sentence alone, and the same sentence beside a longer one,
# must get the same output. **Guess first:** *without* the mask, how wrong are the outputs if one
# `<pad>` is added? And with twenty? Does it grow for ever, or flatten? (Write your guess in the place of
# `None`; nothing is marked, `compare` only sets it beside what was measured.)
#
# The cell after it measures, with the `MultiHeadAttention` of lesson 03 and random vectors for words.

# %%
mine = None  # "for ever" or "flattens"

# %%
torch.manual_seed(0)
attention = MultiHeadAttention(d_model=32, n_heads=4)
embedding = nn.Embedding(len(en_words), 32)
alone = pad(english[:1], PAD)  # (1, 6): no padding
x = embedding(alone)
expected = attention(x, x, x)  # (1, 6, 32)


def error(n_pads: int, masked: bool) -> float:
    """Return the largest change of the real outputs when padding stands behind the sentence."""
    padded = F.pad(alone, (0, n_pads), value=PAD)
    x = embedding(padded)
    output = attention(x, x, x, padding_mask(padded, PAD) if masked else None)
    return (output[:, : alone.size(1)] - expected).abs().max().item()


added = [1, 2, 5, 10, 20, 50, 100]
with_mask = [error(n, masked=True) for n in added]
without = [error(n, masked=False) for n in added]
assert without == sorted(without) and without[0] > 0.05 and max(with_mask) < 1e-6
draw.padding_errors(added, without, with_mask)

# %% [markdown]
# Without the mask a single `<pad>` is enough to spoil the output: its vector is mixed into every
# word. With more of them it gets worse, and the curve flattens: an average over almost nothing but
# `<pad>`s cannot change much more. With the mask only the rounding of floating-point numbers is left.
# (Where the difference is exactly zero, the chart shows $10^{-9}$.)
#
# **The claim**, on a real batch: each sentence alone equals the same sentence in the batch.

# %%
flattens = without[-1] - without[-2] < (without[-1] - without[0]) / 4
assert flattens  # from 50 to 100 pads it grows by less than a quarter of all its growth
compare(mine, "flattens", "04: how the error grows with padding")

# %%
x = embedding(tokens)  # (3, K, 32)
together = attention(x, x, x, padding_mask(tokens, PAD))
careless = attention(x, x, x)
worst = {"with": 0.0, "without": 0.0}
for i, sentence in enumerate(english):
    x_alone = embedding(torch.tensor([sentence]))
    single = attention(x_alone, x_alone, x_alone)[0]  # (length, 32)
    for name, output in (("with", together), ("without", careless)):
        difference = (output[i, : len(sentence)] - single).abs().max().item()
        worst[name] = max(worst[name], difference)

assert worst["with"] < 1e-6 < 1e-2 < worst["without"]
print(f"alone or in a batch: less than 1e-6 apart with the mask, {worst['without']:.2f} without")

# %% [markdown]
# > **Try it.** Mask the queries instead of the keys: use
# > `padding_mask(tokens, PAD).transpose(-2, -1)`, of shape $(B, 1, K, 1)$, in the cell above. It
# > closes the rows of the `<pad>`s and leaves their columns open. Does the claim still hold? Why is
# > this mistake easy to make?
#
# <details><summary>Answer</summary>
#
# No: the largest change is 0.63, exactly as without any mask. The rows that it closes are those that
# nobody reads; the real words still read every `<pad>`. It is easy to make, since (B, 1, K, 1) fits as
# well as (B, 1, 1, K): queries and keys are as many, and broadcasting asks no questions.
#
# </details>

# %% [markdown]
# And *why*? `check("mask_padding")` shows a question; answer with the letter,
# `check("mask_padding", "b")`. Each wrong letter has an answer of its own.

# %%
check("mask_padding")

# %% [markdown]
# ## 3 · What the decoder reads: the answer, shifted
#
# The decoder writes a sentence from left to right. Each word is predicted from the words before
# it:
#
# $$p(y_1, \dots, y_T) = \prod_{t=1}^{T} p(y_t \mid y_1, \dots, y_{t-1})$$
#
# (In translation each factor also depends on the source sentence. We leave the source out until
# section 7, so that only one thing is new at a time.)
#
# When it *writes*, the decoder reads its own words. When it *learns*, it reads the true ones, even
# if it would have chosen others (**teacher forcing**, lesson 02). So the true answer is both what the
# decoder reads (`tgt_in`) and what it must predict (`tgt_out`). At position $t$ it must predict $y_t$
# and may have read only up to $y_{t-1}$. So what it reads is moved one place to the right, and the
# free first place gets the start token `<s>`: "offset by one position" in the paper (section 3.1).

# %% [markdown]
# **Your turn:**

# %%
def my_shift_right(tgt, bos_id):
    """tgt (B, T) -> (B, T), a new tensor: bos_id first."""
    raise NotImplementedError


check("shift_right", my_shift_right)

# %%
#| export
def shift_right(tgt: Tensor, bos_id: int) -> Tensor:
    """Return the decoder's input: `bos_id` first, then tgt (B, T) without its last column."""
    return torch.cat([torch.full_like(tgt[:, :1], bos_id), tgt[:, :-1]], dim=1)


# %%
# NBVAL_CHECK_OUTPUT
tgt_out = pad(english[:1], PAD)
tgt_in = shift_right(tgt_out, BOS)
for reads, predicts in zip(read(tgt_in[0].tolist()), read(tgt_out[0].tolist())):
    print(f"reads {reads:10} predicts {predicts}")

# %% [markdown]
# The length stays the same: the start token comes in, the last token falls out. (For the longest
# sentence that last token is `</s>`: nothing is left to predict after it.)

# %%
check("why_shift")

# %% [markdown]
# ## 4 · The leak: an experiment without a mask
#
# Read the table above once more. The answer to line 1 stands in line 2, in the column "reads"; the
# answer to line 2 stands in line 3. Attention without a mask sees all lines at once.
#
# **Guess first:** we train a small writer on English captions, and forget the mask. What will its
# training loss be, compared with an honest one? And what will it write?

# %%
mine = None  # "lower", "higher" or "the same"

# %% [markdown]
# The writer is as small as possible: one attention layer. `place` is one learned vector per
# position, added to each word. It is there because attention alone knows no order (lesson 03).
# Lesson 05 does this properly. `x +` keeps the word itself beside what attention brings: a *residual
# connection*, lesson 05 again.

# %%
class TinyWriter(nn.Module):
    """Score the next word at every position: tokens (B, T), mask -> logits (B, T, V)."""

    def __init__(self, vocab: int, d_model: int = 64, max_len: int = 64):
        super().__init__()
        self.word = nn.Embedding(vocab, d_model)
        self.place = nn.Embedding(max_len, d_model)
        self.attention = MultiHeadAttention(d_model, n_heads=4)
        self.to_vocab = nn.Linear(d_model, vocab)

    def embed(self, tokens):
        return self.word(tokens) + self.place.weight[: tokens.size(1)]  # (B, T, D)

    def score(self, x, mask):
        return self.to_vocab(x + self.attention(x, x, x, mask))  # (B, T, V)

    def forward(self, tokens, mask):
        return self.score(self.embed(tokens), mask)


# %% [markdown]
# How good is such a model? There are two ways to ask, and this lesson is about the difference.
#
# - **In one pass**: give it the whole `tgt_in` and compare all its predictions with `tgt_out`.
#   This is the loss in training.
# - **By prefix**: for each position $t$ give it *only the first $t$ tokens* of the true sentence, and
#   look at its last prediction. The words that come later are really not there.
#
# The second is closer to use, but not the same. A model that writes reads its *own* words, with its
# own mistakes (lesson 02 called this exposure bias). Here every prefix is true, so that on the same
# captions the two losses differ in one thing only: whether the later words are there.
#
# The loss is the cross-entropy: minus the logarithm of the probability that the model gave to the
# right word, averaged over the real words. Its unit is the *nat*: the logarithm is natural.
# (`F.cross_entropy` takes the logits, and leaves out what is `ignore_index`.)

# %%
def loss_in_one_pass(model, tgt_in, tgt_out, mask):
    logits = model(tgt_in, mask)  # (B, T, V)
    return F.cross_entropy(logits.transpose(1, 2), tgt_out, ignore_index=PAD)


@torch.no_grad()
def loss_by_prefix(model, tgt_in, tgt_out, mask):
    lengths = range(1, tgt_in.size(1) + 1)
    last = [model(tgt_in[:, :t], mask[..., :t, :t])[:, -1] for t in lengths]  # T of (B, V)
    return F.cross_entropy(torch.stack(last, dim=2), tgt_out, ignore_index=PAD).item()


# %% [markdown]
# The captions to learn from, and some that are kept apart to check with. Then the training loop.
# It takes as arguments the two things that we are going to get wrong: the mask, and whether the
# input is shifted.

# %%
device = pick()
sentences = [encode(c.en_tokens, en_ids) for c in train]
held_out = [c.en_tokens for c in val][:64]
val_out = pad([encode(words, en_ids) for words in held_out], PAD).to(device)
val_in = shift_right(val_out, BOS)
assert val_in.shape == val_out.shape and len(val_in) == 64
print(f"{len(sentences):,} captions to learn from, {len(val_in)} others to check with")


# %%
def train_writer(mask_of, shifted=True):
    """Train a TinyWriter; return it with the losses on the way."""
    torch.manual_seed(0)
    model = TinyWriter(len(en_words)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    log = {"steps": [], "train": [], "checked": [], "alone": []}
    steps = by_scale(smoke=100, cpu=300, gpu=300)
    for step in bar(range(steps + 1), "step"):
        chosen = torch.randint(len(sentences), (64,)).tolist()
        tgt_out = pad([sentences[i] for i in chosen], PAD).to(device)
        tgt_in = shift_right(tgt_out, BOS) if shifted else tgt_out
        loss = loss_in_one_pass(model, tgt_in, tgt_out, mask_of(tgt_in))
        log["steps"].append(step)
        log["train"].append(loss.item())
        if step % (steps // 10) == 0:
            log["checked"].append(step)
            log["alone"].append(loss_by_prefix(model, val_in, val_out, mask_of(val_in)))
        if step == steps:
            break  # the last losses belong to the model that is returned
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.cpu().eval(), log


# %% [markdown]
# First run: only the padding is masked.

# %%
only_padding = partial(padding_mask, pad_id=PAD)  # tokens -> mask
leaky, leaky_log = train_writer(only_padding)
final = sum(leaky_log["train"][-5:]) / 5
assert final < 0.1 < leaky_log["train"][0]
print(f"training loss: {leaky_log['train'][0]:.2f} at the start, {final:.3f} at the end")
compare(mine, "lower", "04: the training loss without a causal mask")

# %% [markdown]
# Nearly zero! The model gives almost the whole probability to the right word, everywhere. No
# writer can do that: after "A man is" many words are possible, and nobody can know which one
# comes. A result that is too good is often an error that you have not found yet. Let it write. It
# gets the first two words, chooses the most probable next word, reads it, and goes on until `</s>`:

# %%
@torch.no_grad()
def write(model, start, mask_of, longest=16):
    """Continue a sentence, always with the most probable word."""
    tokens = torch.tensor([[BOS, *(en_ids[w] for w in start.split())]])
    while tokens[0, -1] != EOS and tokens.size(1) <= longest:
        best = model(tokens, mask_of(tokens))[:, -1:].argmax(-1)  # (1, 1)
        tokens = torch.cat([tokens, best], dim=1)
    return " ".join(read(tokens[0, 1:].tolist()))


starts = ["A man", "Two women", "The old"]
for start in starts:
    print(write(leaky, start, only_padding))

# %% [markdown]
# It cannot write. What has it learned? We ask the gradient: **how much does the score of the right
# word at position $i$ change if the input at position $j$ changes?** That is the size of
# $\partial\, \text{score}_i / \partial x_j$, one number for each $i$ and $j$. (`retain_graph=True`:
# we ask the same computation once for each row, so PyTorch must keep its record.)

# %%
def influence(model, tokens, target, mask):
    """Return the size of the gradient of each right word's score by each input, (T, T)."""
    x = model.embed(tokens).detach().requires_grad_()  # (1, T, D)
    scores = model.score(x, mask)[0].gather(-1, target[0][:, None])  # (T, 1)
    rows = [torch.autograd.grad(score, x, retain_graph=True)[0][0] for score in scores]
    return torch.stack(rows).norm(dim=-1)  # (T, T, D) -> (T, T)


tgt_out = torch.tensor([english[1]])
tgt_in = shift_right(tgt_out, BOS)
reads = read(tgt_in[0].tolist())
leak = influence(leaky, tgt_in, tgt_out, only_padding(tgt_in))
draw.influence({"trained without a causal mask": leak}, reads,
               "Most predictions at i come from the word at i + 1")

# %% [markdown]
# The dark line stands one place to the *right* of the diagonal. In most rows $i$ the strongest influence
# is the input at $i + 1$, and that is exactly the word that position $i$ must predict. The model has
# learned to look one place to the right and copy. When it writes, there is nothing to the right.

# %%
def next_is_strongest(words):
    """Return for each row of a caption, but the last, if the next input is the strongest."""
    answer = torch.tensor([encode(words, en_ids)])
    given = shift_right(answer, BOS)
    strongest = influence(leaky, given, answer, only_padding(given))[:-1].argmax(-1)
    return strongest == torch.arange(1, len(words) + 1)


copied = torch.cat([next_is_strongest(words) for words in held_out[:20]]).float().mean().item()
assert copied > 0.8
print(f"20 captions: the next input is the strongest in {copied:.0%} of the rows")

# %%
check("mask_leak")

# %% [markdown]
# ## 5 · The causal mask
#
# The cure is one rule: **a query sees the keys at its own position and before it**, $j \le i$. "At
# its own position" is right because of the shift: position $i$ reads $y_{i-1}$ and predicts $y_i$.
# As a table, the rule is a lower triangle:
#
# $$M_{ij} = \begin{cases} 1 & j \le i \\ 0 & j > i \end{cases}$$
#
# It is the same for all sentences and all heads, so its shape is $(1, 1, T, T)$. The name *causal*
# says that the past causes the future and not the other way round.

# %% [markdown]
# **Your turn:**

# %%
def my_causal_mask(size):
    """A number -> boolean (1, 1, size, size), the last two are (Q, K), True = may attend."""
    raise NotImplementedError


check("causal_mask", my_causal_mask)

# %%
#| export
def causal_mask(size: int, device: torch.device | str | None = None) -> Tensor:
    """Return which keys lie at or before each query: (1, 1, size, size), True = may attend.

    Paper, section 3.2.3: no leftward flow of information in the decoder.
    """
    return torch.ones(1, 1, size, size, dtype=torch.bool, device=device).tril()


# %%
targets = read(tgt_out[0].tolist())
draw.exercises(causal_mask(len(reads))[0, 0], reads, targets,
               "The causal mask turns one sentence into T exercises")

# %% [markdown]
# Each row is one exercise: the blue squares are what is given, the word on the right is what must
# be predicted. Now the second run. All is as before, the seed too; only the mask is new. (`&` is
# the logical "and": a key must be allowed by both.)

# %%
def padding_and_causal(tokens):
    return padding_mask(tokens, PAD) & causal_mask(tokens.size(1), tokens.device)


honest, honest_log = train_writer(padding_and_causal)
texts = [write(honest, start, padding_and_causal) for start in starts]
assert all(text.endswith("</s>") for text in texts)
print(*texts, sep="\n")

# %% [markdown]
# These are sentences, each with its end: one small layer has learned what may follow what.
#
# Compare how the two runs went. The dotted lines are losses that need no network: to give all $V$
# words the same probability costs $\ln V$; to give each word its frequency in the corpus costs the
# *entropy* of these frequencies, $-\sum p \ln p$.

# %%
counts = torch.bincount(torch.tensor([i for s in sentences for i in s])).float()
p = counts[counts > 0] / counts.sum()
levels = {
    "all words equal": math.log(len(en_words)),
    "frequencies only": -(p * p.log()).sum().item(),
}
draw.learning_curves(
    {"without a causal mask": leaky_log, "with a causal mask": honest_log},
    levels,
    "Without the mask, the loss in training hides how bad the model is",
)

# %% [markdown]
# Left: the training loss goes to zero, and the loss on true prefixes, after a short fall, *rises*,
# above that of a model that gives all words the same probability. The longer it trains, the worse it
# gets, and the better it looks. Right: both curves go together, because the two questions have become
# the same question. The honest loss does not go to zero. It should not: how a caption goes on is not
# decided by its first words.

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### On captions that it has not seen · more
#
# A control: is the high loss on true prefixes due to new captions?

# %% [markdown]
# No: on these same captions, in one pass, the loss is near zero too (the middle column).

# %%
print("nats per word      training   held out: in one pass   by true prefixes")
worth = {}
for name, model, log, mask_of in (("without the mask", leaky, leaky_log, only_padding),
                                  ("with the mask", honest, honest_log, padding_and_causal)):
    end = sum(log["train"][-5:]) / 5
    one_pass = loss_in_one_pass(model, val_in.cpu(), val_out.cpu(), mask_of(val_in.cpu())).item()
    worth[name] = end, one_pass, log["alone"][-1]
    print("{:18} {:8.2f} {:23.3f} {:18.3f}".format(name, *worth[name]))

end, one_pass, by_prefix = worth["without the mask"]
assert max(end, one_pass) < 0.5 and by_prefix > levels["all words equal"]
assert by_prefix > min(leaky_log["alone"]) + 1
end, one_pass, by_prefix = worth["with the mask"]
assert end > 1.0 and by_prefix < levels["frequencies only"]
assert abs(one_pass - by_prefix) < 1e-3

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### What the two models write, counted · more
#
# Three sentences prove little. Here each model continues fifty beginnings, and we count.

# %% [markdown]
# Not all that the honest model writes makes sense. The layer sees all earlier words, but it can only
# add up what they say. A number tells it without taste: of all pairs of neighbouring words that a model
# writes (the two words that we gave it do not count), how many occur anywhere in the training captions?

# %%
pairs = {pair for sentence in sentences for pair in zip(sentence, sentence[1:])}
fifty = list(dict.fromkeys(" ".join(c.en_tokens[:2]) for c in val))[:50]  # fifty different ones


def share_of_known_pairs(model, mask_of):
    written = [[en_ids[w] for w in write(model, start, mask_of).split()] for start in fifty]
    found = [pair in pairs for ids in written for pair in zip(ids[1:], ids[2:])]
    return sum(found) / len(found)


shares = share_of_known_pairs(leaky, only_padding), share_of_known_pairs(honest, padding_and_causal)
assert len(fifty) == 50 and shares[0] < 0.3 and shares[1] > 0.95
print(f"known pairs: {shares[0]:.0%} without the causal mask, {shares[1]:.0%} with it")

# %% [markdown]
# ### No gradient from the future: exactly zero
#
# The same heat map for both models. A dot marks a gradient of exactly zero: not small, zero.

# %%
seen = influence(honest, tgt_in, tgt_out, padding_and_causal(tgt_in))
draw.influence(
    {"trained without a causal mask": leak, "trained with a causal mask": seen},
    reads,
    "With the mask, nothing above the diagonal reaches an output",
)

# %% [markdown]
# **The claim**, in two ways that do not depend on each other. By gradient: above the diagonal it
# is exactly 0.0. By output: replace all later words by other words; the predictions before them
# stay the same to the last bit.

# %%
future = torch.ones_like(seen, dtype=torch.bool).triu(diagonal=1)
assert (seen[future] == 0).all() and (seen.diagonal() > 0).all()
assert leak[future].max() > 0.1

cut = 4
changed = tgt_in.clone()
changed[:, cut:] = en_ids["the"]
mask = padding_and_causal(tgt_in)
with torch.no_grad():
    moved = (honest(changed, mask) - honest(tgt_in, mask)).abs().amax(-1)[0]  # (T,)
assert (moved[:cut] == 0).all() and (moved[cut:] > 0).any()
print("gradient from the future:", seen[future].sum().item())
print(f"later words replaced: the first {cut} predictions move by", moved[:cut].sum().item())

# %% [markdown]
# Keep this test. It needs no training, and it finds a leak in any model through which gradients flow
# (not one through an `argmax`, which has none): *take the gradient of one output, and look where it is
# not zero.*
#
# > **Try it.** Change the mask to `torch.ones(...).tril(diagonal=1)`: one place too far. Before
# > you train it: what will its loss be? Then use `tril(diagonal=-1)`: one place too few. Is the
# > loss wrong now? What is wrong with its first row?
#
# <details><summary>Answer</summary>
#
# `diagonal=1`: position $i$ sees the input at $i + 1$, its own answer. So the loss goes to zero, as
# without a mask: one open place is a leak. `diagonal=-1`: nothing later is read, so the loss is honest.
# (The word just read still gets through, by the `x +`.) But the first row is empty: its query may see
# nothing. Our attention gives zeros there, others give NaN (section 9).
#
# </details>

# %% [markdown]
# ## 6 · One pass equals T passes
#
# Why does the paper want this mask at all? One could also cut each sentence into its beginnings,
# and predict one word from each. **Guess first:** for a sentence of 8 tokens, how many passes of
# the network does that take, and how many does the masked model take?

# %%
mine = None  # passes over the beginnings of 8 tokens

# %% [markdown]
# Row $t$ of the triangle sees the first $t$ tokens and nothing else, so it computes what a pass
# over these $t$ tokens alone would compute. One masked pass gives all $T$ predictions. It also saves
# work: the beginnings together have $1 + 2 + \ldots + T$ positions, the sentence has $T$.
#
# In a stack of layers this stays true. Position $j$ of the first layer has seen only 1 to $j$. Row
# $t$ of the second layer reads the positions $j \le t$, so it too has seen only 1 to $t$, and so on.
# One layer without the mask is enough to break the chain.

# %%
with torch.no_grad():
    at_once = honest(tgt_in, padding_and_causal(tgt_in))[0]  # (T, V)
    prefixes = [tgt_in[:, :t] for t in range(1, tgt_in.size(1) + 1)]
    one_by_one = torch.stack([honest(p, padding_and_causal(p))[0, -1] for p in prefixes])  # (T, V)

assert torch.allclose(at_once, one_by_one, atol=1e-4)
n = len(at_once)
positions = sum(p.size(1) for p in prefixes)
assert positions == n * (n + 1) // 2
print(f"{len(prefixes)} passes or 1, {positions} positions or {n}: the same {n} predictions")
assert len(prefixes) == 8
compare(mine, len(prefixes), "04: passes for the beginnings of 8 tokens")

# %% [markdown]
# An RNN (lesson 02) also sees each sentence once, but it must take the $T$ positions *one after the
# other*, because each state needs the one before. Here all positions are computed at the same time:
# the parallel training that the paper's introduction asks for. It holds in training only. When the
# model *writes*, word 6 cannot be computed before word 5 is chosen: $T$ words need $T$ steps again.

# %%
check("mask_one_pass")

# %%
check("parallel_training")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### The leaky model takes the same test · more
#
# And what one pass saves over an epoch.

# %% [markdown]
# The leaky model fails this test: its one pass and its $T$ passes disagree, because its
# predictions depend on what comes later. So this equality is what a decoder *is*.

# %%
with torch.no_grad():
    at_once = leaky(tgt_in, None)[0]
    one_by_one = torch.stack([leaky(p, None)[0, -1] for p in prefixes])
difference = (at_once - one_by_one).abs().max().item()
assert difference > 1

total, n = sum(map(len, sentences)), len(sentences)
assert total > 5 * n
print(f"the leaky model: predictions differ by up to {difference:.1f}")
print(f"one epoch of {n:,} captions: {n:,} sentences to pass, or {total:,} beginnings")

# %% [markdown]
# ### The mistake of one place
#
# The mask allows $j \le i$, the own position included. This is right *because* the input is
# shifted. Forget `shift_right`, and position $i$ reads the very word that it must predict. **Guess
# first:** the causal mask is in place; will the loss be honest?

# %%
mine = None  # "yes" or "no"

# %%
unshifted, unshifted_log = train_writer(padding_and_causal, shifted=False)
draw.learning_curves(
    {"causal mask, but the input is not shifted": unshifted_log}, levels,
    "Not shifted: a loss of zero, for nothing",
)

# %%
end = sum(unshifted_log["train"][-5:]) / 5
written = write(unshifted, "A man", padding_and_causal)
print(written)
assert end < 0.1 and unshifted_log["alone"][-1] > levels["all words equal"]
assert "man man man" in written
print(f"training loss {end:.3f}; it repeats the word that it just read")
compare(mine, "no", "04: is the loss honest with the mask alone?")

# %% [markdown]
# Mask and shift are two halves of one rule: *what is predicted must not be read*. With the shift
# and without the mask the answer stands one place to the right. With the mask and without the
# shift it stands right here. You need both.
#
# > **Try it.** One could also leave the input unshifted and forbid the own position, with
# > `tril(diagonal=-1)`. Which row of this mask is a problem? (Section 9 has the answer.) And what
# > does the residual connection, the `x +` in `TinyWriter.score`, do to this idea?
#
# <details><summary>Answer</summary>
#
# The first row: it may see nothing. And the residual brings back what the mask took away: `x +` hands
# the word at position $i$ straight to the output, and unshifted that word *is* the answer. The loss goes
# to zero again, although attention leaks nothing.
#
# </details>

# %% [markdown]
# ## 7 · Masks together
#
# The decoder's self-attention needs both masks: no padding **and** no future. A restriction that
# is absent is `None`; combining nothing with nothing gives `None` again, "everything is allowed".

# %%
#| export
def combine_masks(*masks: Tensor | None) -> Tensor | None:
    """Return the mask that allows what every given mask allows; None stands for no restriction."""
    combined = None
    for mask in masks:
        if mask is not None:
            combined = mask if combined is None else combined & mask
    return combined


# %% [markdown]
# The shapes differ, and that is fine. PyTorch's **broadcasting** lines shapes up from the right,
# and repeats every dimension of size 1. **Guess first:** which shape comes out?
#
# | | B (sentence) | H (head) | Q (query) | K (key) |
# |---|---|---|---|---|
# | padding mask: depends on sentence and key | B | 1 | 1 | K |
# | causal mask: depends on query and key | 1 | 1 | T | T |
# | both | B | 1 | T | T |
# | the scores that they meet | B | H | T | T |

# %%
two = shift_right(pad([english[0], english[1]], PAD), BOS)  # (2, T)
draw.broadcast(padding_mask(two, PAD), causal_mask(two.size(1)), [read(r) for r in two.tolist()])

# %%
# NBVAL_CHECK_OUTPUT
padding, causal = padding_mask(two, PAD), causal_mask(two.size(1))
both = combine_masks(padding, None, causal)
assert combine_masks() is None and combine_masks(None, None) is None
for b, q, k in [(0, 2, 1), (0, 2, 3), (0, 7, 6), (0, 7, 7), (1, 7, 7)]:
    assert both[b, 0, q, k] == (two[b, k] != PAD) & (k <= q)
print(tuple(padding.shape), "&", tuple(causal.shape), "->", tuple(both.shape))

# %% [markdown]
# ### The three masks of a translator
#
# The paper uses attention in three places (section 3.2.3). Each has its mask. Rows are queries and
# columns are keys, so ask each time: *who asks, and who is asked?*
#
# | place | queries | keys | mask | shape |
# |---|---|---|---|---|
# | encoder, self-attention | source | source | padding of the source | (B, 1, 1, S) |
# | decoder, self-attention | target | target | causal **and** target padding | (B, 1, T, T) |
# | decoder, cross-attention | target | source | padding of the **source** | (B, 1, 1, S) |
#
# Cross-attention has no causal mask: the source is complete, and each target word may look at all
# of it. (In the picture the decoder's mask is drawn twice: causal alone, then with padding.)

# %%
source = pad([encode(c.de_tokens, de_ids) for c in three], PAD)  # (3, S)
target = shift_right(pad(english, PAD), BOS)  # (3, T)
de, en = [de_words[i] for i in source[1].tolist()], read(target[1].tolist())
src_mask, tgt_mask = padding_mask(source, PAD)[1, 0], padding_mask(target, PAD)[1, 0]  # (1, K)
causal = causal_mask(len(en))[0, 0]  # (T, T)
draw.masks(
    {
        "encoder: padding of the source": (src_mask.expand(len(de), -1), de, de),
        "decoder: causal": (causal, en, en),
        "decoder: causal and padding": (causal & tgt_mask, en, en),
        "cross-attention: padding of the source": (src_mask.expand(len(en), -1), en, de),
    },
    "Padding closes columns, causality closes the upper triangle",
)

# %%
check("mask_encoder")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Is the padding mask of the target needed? · more
#
# With padding on the right the causal mask hides it already. Why the mask is kept all the same.

# %% [markdown]
# Look at the two decoder masks. For the *real* words (the rows above the `<pad>`s) they are equal:
# padding stands at the end, so the causal mask hides it from them already. Only the rows of the
# `<pad>`s change, and those are never used. The padding mask becomes vital as soon as padding stands on
# the left. It costs nothing, so we keep it, and need not think of it again.

# %%
both = combine_masks(padding_mask(target, PAD), causal_mask(target.size(1)))
causal = causal_mask(target.size(1)).expand_as(both)
real = (target != PAD)[:, None, :, None].expand_as(both)  # which queries are real
assert torch.equal(both[real], causal[real])
assert not torch.equal(both[~real], causal[~real])
print("padding on the right: the causal mask alone protects all real queries")

# %% [markdown]
# ## 8 · The batch
#
# Now everything is there. A **batch** is what one training step reads: several sentence pairs in
# rectangles, with the masks that undo the rectangle. It is a frozen dataclass: a record whose
# fields cannot be replaced by accident.

# %%
#| export
@dataclass(frozen=True, eq=False)
class Batch:
    """Sentences of several lengths in one rectangle, with the masks that undo the padding.

    src (B, S); tgt_in, tgt_out (B, T): what the decoder reads and what it must predict;
    src_mask (B, 1, 1, S), tgt_mask (B, 1, T, T): boolean, True = may attend; n_tokens: the real
    tokens of tgt_out. Paper, sections 3.1 and 3.2.3.
    """

    src: Tensor
    tgt_in: Tensor
    tgt_out: Tensor
    src_mask: Tensor
    tgt_mask: Tensor
    n_tokens: int

    @classmethod
    def from_sequences(
        cls, src: Sequence[Sequence[int]], tgt: Sequence[Sequence[int]], pad_id: int, bos_id: int
    ) -> "Batch":
        """Pad token ids (each ending in its eos) on the right and build the masks.

        Raises ValueError if there are not as many sources as targets, or if bos_id is pad_id.
        """
        if len(src) != len(tgt):
            raise ValueError(f"{len(src)} sources but {len(tgt)} targets: give them in pairs")
        if bos_id == pad_id:
            raise ValueError(
                f"bos_id and pad_id are both {pad_id}: the start token would be masked as padding"
            )
        src_ids, tgt_ids = pad(src, pad_id), pad(tgt, pad_id)
        tgt_in = shift_right(tgt_ids, bos_id)
        return cls(
            src=src_ids,
            tgt_in=tgt_in,
            tgt_out=tgt_ids,
            src_mask=padding_mask(src_ids, pad_id),
            tgt_mask=combine_masks(padding_mask(tgt_in, pad_id), causal_mask(tgt_in.size(1))),
            n_tokens=int((tgt_ids != pad_id).sum()),
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the batch with the same change to each of its tensors; n_tokens stays."""
        names = [f.name for f in fields(self) if f.name != "n_tokens"]
        return replace(self, **{name: change(getattr(self, name)) for name in names})

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on another device."""
        return self.map(lambda tensor: tensor.to(device))


# %% [markdown]
# Walk through one, field by field. The source is German, the target English, the three captions
# from the beginning. **Guess first**, before you look: the shapes of all five tensors, and
# `n_tokens` (the three captions have 5, 7 and 9 English words).

# %%
mine = None  # n_tokens

# %%
# NBVAL_CHECK_OUTPUT
german = [encode(c.de_tokens, de_ids) for c in three]
batch = Batch.from_sequences(german, english, pad_id=PAD, bos_id=BOS)
for name in ("src", "tgt_in", "tgt_out", "src_mask", "tgt_mask"):
    tensor = getattr(batch, name)
    print(f"{name:9} {str(tuple(tensor.shape)):15} {tensor.dtype}")
print(f"n_tokens  {batch.n_tokens}")
assert batch.n_tokens == sum(map(len, english))

# %%
compare(mine, batch.n_tokens, "04: n_tokens of captions of 5, 7 and 9 words")

# %% [markdown]
# The tokens, with the words written out:

# %%
# NBVAL_CHECK_OUTPUT
for name, words in (("src", de_words), ("tgt_in", en_words), ("tgt_out", en_words)):
    print(name)
    for row in getattr(batch, name).tolist():
        print("   ", " ".join(words[i] for i in row))

# %% [markdown]
# Look at `tgt_in` of the short sentences: they *read* their `</s>`, and at that place they must
# predict a `<pad>`. This does no harm. The loss skips each place where `tgt_out` is padding, and
# `n_tokens` does not count it. So the loss of a batch is a sum over real tokens divided by
# `n_tokens`. To divide by $B \cdot T$ instead would make the loss smaller the more padding there
# is.

# %% [markdown]
# > **Try it.** Some models start their decoder with `<pad>` instead of `<s>`. Call
# > `from_sequences` with `bos_id=PAD` and read the error. Which row of `tgt_mask` would be empty
# > if it did not refuse?
#
# <details><summary>Answer</summary>
#
# `bos_id and pad_id are both 0: the start token would be masked as padding`. The first row of each
# sentence would be empty: its query may see only key 0, and key 0 would be padding.
#
# </details>

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Its masks, printed, and its promises, checked · more
#
# The two masks of the batch as 1 and 0; then each guarantee of this page on the batch itself.

# %% [markdown]
# The masks, as 1 and 0:

# %%
# NBVAL_CHECK_OUTPUT
print("src_mask[:, 0, 0]")
for row in batch.src_mask[:, 0, 0].int().tolist():
    print("   ", *row)
print("tgt_mask[0, 0]")
for row, word in zip(batch.tgt_mask[0, 0].int().tolist(), read(batch.tgt_in[0].tolist())):
    print("   ", *row, word)

# %% [markdown]
# Each guarantee of this page, on the batch itself: the input is the output shifted; every query
# may see at least one key, namely `<s>`; no query sees a `<pad>` or the future.

# %%
moved = batch.to(device)
assert moved.src.device.type == device.type and batch.src.device.type == "cpu"
assert torch.equal(batch.tgt_in[:, 1:], batch.tgt_out[:, :-1]) and (batch.tgt_in[:, 0] == BOS).all()
assert batch.tgt_mask.any(-1).all() and batch.src_mask.any(-1).all()
_, _, queries, keys = batch.tgt_mask.nonzero(as_tuple=True)
assert (keys <= queries).all()
assert not batch.tgt_mask[(batch.tgt_in == PAD)[:, None, None].expand_as(batch.tgt_mask)].any()
print("shifted, causal, no padding is seen, no row is empty")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 9 · A query that may see nothing · more
#
# Zeros, NaN, or the mean of everything forbidden: five ways to mask, found in real code, and what each
# of them does with a row that is all False. For those who write a mask themselves.

# %% [markdown]
# What if a whole row is False? In the equation of section 1 the denominator is a sum over nothing:
# $0/0$. It happens when a source is empty and has no `</s>` either; when padding
# stands on the left under a causal mask (the first rows see only `<pad>`s); when someone masks the
# queries, too.
#
# A sensible answer: who sees nothing, learns nothing: **weights zero, output zero**. We compare five
# ways of masking, on an ordinary row (the last two keys are forbidden) and on an empty one. **Guess
# first:** which ones will be NaN ("not a number")?

# %%
def ours(query, key, mask):
    return attention_weights(query, key, mask)


def torch_sdpa(query, key, mask):  # with unit vectors as values, the output is the weights
    return F.scaled_dot_product_attention(query, key, torch.eye(4)[None, None], attn_mask=mask)


def minus_infinity(query, key, mask):
    return (query @ key.mT).masked_fill(~mask, float("-inf")).softmax(-1)


def minus_1e9(query, key, mask):
    return (query @ key.mT).masked_fill(~mask, -1e9).softmax(-1)


def added_zero_one(query, key, mask):
    return torch_sdpa(query, key, mask.float())


# %%
query = torch.ones(1, 1, 1, 1)  # d_k = 1: the score of a key is the key
key = torch.tensor([1.0, 0.5, 2.0, 1.5]).reshape(1, 1, 4, 1)
ordinary = torch.tensor([True, True, False, False]).reshape(1, 1, 1, 4)
empty = torch.zeros(1, 1, 1, 4, dtype=torch.bool)
ways = {
    "ours (lesson 03)": ours,
    "F.sdpa, boolean mask": torch_sdpa,
    "forbidden scores = -inf": minus_infinity,
    "forbidden scores = -1e9": minus_1e9,
    "0/1 as floats, given to F.sdpa": added_zero_one,
}
rows = {n: [way(query, key, m).flatten() for m in (ordinary, empty)] for n, way in ways.items()}
draw.ways(
    rows,
    ["ordinary row: keys 3 and 4 forbidden", "empty row: all forbidden"],
    ["key 1", "key 2", "key 3", "key 4"],
    "Four ways agree on an ordinary row; only two give zeros on an empty one",
)

# %% [markdown]
# Row by row:
#
# - **Ours** and **`F.sdpa`** with a boolean mask: zeros. (`F.sdpa` is short for
#   `F.scaled_dot_product_attention`; early versions of it gave NaN here.)
# - **−∞ by hand**: $0/0$, NaN. And it spreads: in the next layer every word that may see this one is
#   NaN too, and so is the loss.
# - **−1e9** ("minus a lot"): all scores are equally terrible, so softmax shares the weight
#   equally. The query reads the *mean of everything it must not see*. No error, no NaN, only
#   wrong.
# - **0 and 1 as floats**: a float mask is *added* to the scores. So "allowed" gets one point more
#   and "forbidden" nothing less: the mask became a hint. It is wrong on the ordinary row already.
#   (This is why the `MultiHeadAttention` of lesson 03 refuses a mask that is not boolean.)

# %%
zeros = torch.zeros(4)
for name in ("ours (lesson 03)", "F.sdpa, boolean mask"):
    assert torch.equal(rows[name][1], zeros)
assert rows["forbidden scores = -inf"][1].isnan().all()
assert torch.allclose(rows["forbidden scores = -1e9"][1], torch.full((4,), 0.25))
for name in list(ways)[:4]:
    assert torch.allclose(rows[name][0], rows["ours (lesson 03)"][0])
leaked = rows["0/1 as floats, given to F.sdpa"][0][2:].sum().item()
assert leaked > 0.3
print(f"a 0/1 float mask: {leaked:.0%} of the weight on forbidden keys, in an ordinary row")

# %% [markdown]
# And −1e9 has one more trap. Half precision (`float16`, common on GPUs) ends at 65,504. There −1e9
# does not exist: PyTorch refuses to fill with it, and where it is *added*, it has become −∞, and
# the NaN is back.

# %%
# NBVAL_CHECK_OUTPUT
half = torch.zeros(4, dtype=torch.float16)
try:
    half.masked_fill(~empty[0, 0, 0], -1e9)
    refused = False
except RuntimeError:
    refused = True
added = (half + torch.tensor(-1e9).half()).softmax(-1)
assert refused and added.isnan().all()
print("filled:", "refused" if refused else "accepted", "| added:", added.tolist())

# %% [markdown]
# ### Zero in the forward pass, and in the backward pass
#
# It is not enough that the output is zero. If the gradient were NaN, training would die all the
# same. The claim: an empty row gives output 0, sends gradient 0, and leaves all other rows alone.

# %%
torch.manual_seed(0)
layer = MultiHeadAttention(d_model=32, n_heads=4)
x = torch.randn(2, 5, 32, requires_grad=True)
mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
mask[0, :, 2] = False  # sentence 0, query 2 may see nothing
output = layer(x, x, x, mask)
output[0, 2].sum().backward()
assert torch.equal(output[0, 2], torch.zeros(32)) and torch.equal(x.grad, torch.zeros_like(x))

free = layer(x, x, x)
others = torch.ones(2, 5, dtype=torch.bool)
others[0, 2] = False
assert torch.allclose(output[others], free[others], atol=1e-6)
print("empty row: output", output[0, 2].abs().max().item(), "gradient", x.grad.abs().max().item())

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 10 · At the border: other people's masks · more
#
# Three masks that are wrong without any error: one of too few dimensions, one of the opposite meaning,
# and `is_causal` with fewer queries than keys. For those who call PyTorch's attention directly.

# %% [markdown]
# ### Too few dimensions
#
# Broadcasting lines shapes up from the right, and knows nothing of meanings. Leave out the two
# dimensions of size 1, and give PyTorch's function the padding mask as $(B, K)$. **Guess first:** for
# which numbers of sentences $B$ is there an error: 1, 7, 8? The sentences have 8 words.

# %%
eight = pad([encode(c.en_tokens, en_ids) for c in val if len(c.en_tokens) < 8][:8], PAD)  # (8, 8)
for n_sentences in (1, 7, 8):
    some = eight[:n_sentences]
    x = embedding(some)[:, None]  # (B, 1, 8, 32): one head
    right = F.scaled_dot_product_attention(x, x, x, attn_mask=padding_mask(some, PAD))
    try:
        flat = F.scaled_dot_product_attention(x, x, x, attn_mask=some != PAD)  # (B, K)
        found = "the right answer" if torch.allclose(flat, right) else "a wrong answer, no error"
    except RuntimeError:
        found = "an error"
    assert found == {1: "the right answer", 7: "an error", 8: "a wrong answer, no error"}[n_sentences]
    print(f"(B, K) = ({n_sentences}, 8): {found}")

# %% [markdown]
# With as many sentences as words, $B = Q$, the rows of the batch are taken for the rows of queries:
# query 3 gets the padding of sentence 3. With 7 there is an error, as there should be. The real trap is
# $B = 1$: one sentence is what one tries first, and there the answer is *right*. So our functions refuse
# any mask whose dimensions are not as many as those of the scores, for any number of sentences:

# %%
# NBVAL_CHECK_OUTPUT
x = embedding(eight[:1])
try:
    attention(x, x, x, eight[:1] != PAD)
    raise AssertionError("a mask of two dimensions was taken")
except ValueError as refusal:
    print(refusal)

# %% [markdown]
# ### The opposite meaning
#
# `nn.MultiheadAttention`, PyTorch's older module, also takes boolean masks. There **True means
# "must not attend"**, in `attn_mask` and in `key_padding_mask`. The shape is right, the type is
# right. What happens if you hand our mask over as it is? We copy the weights of our layer into
# theirs, so that the two must agree:

# %%
theirs = nn.MultiheadAttention(32, 4, bias=False, batch_first=True)
with torch.no_grad():
    theirs.in_proj_weight.copy_(torch.cat([layer.w_q.weight, layer.w_k.weight, layer.w_v.weight]))
    theirs.out_proj.weight.copy_(layer.w_o.weight)
    x = torch.randn(1, 6, 32)
    mask = causal_mask(6)
    expected = layer(x, x, x, mask)
    right, _ = theirs(x, x, x, attn_mask=~mask[0, 0], need_weights=False)
    wrong, _ = theirs(x, x, x, attn_mask=mask[0, 0], need_weights=False)

assert torch.allclose(right, expected, atol=1e-5)
assert wrong.isfinite().all() and (wrong - expected).abs().max() > 0.1
print("converted with ~: equal to ours")
print(f"not converted: no error, no NaN, and off by up to {(wrong - expected).abs().max():.2f}")

# %% [markdown]
# Nothing warns you: `need_weights=False` even turns the last row, which may see nothing, into zeros.
# With the default, `need_weights=True`, that row is NaN, and with luck you notice. To see what the
# layer did, ask for its weights and mark where they are not zero:

# %%
words = en[:6]
with torch.no_grad():
    converted = theirs(x, x, x, attn_mask=~mask[0, 0])[1][0]  # (6, 6) weights
    out, as_it_is = theirs(x, x, x, attn_mask=mask[0, 0])
    assert out[:, -1].isnan().all() and out[:, :-1].isfinite().all()
    as_it_is = as_it_is[0].nan_to_num()
draw.masks(
    {"given ~mask: the past": (converted > 0, words, words),
     "given mask: only the future": (as_it_is > 0, words, words)},
    "The opposite meaning shows each word exactly what it must not see",
)

# %% [markdown]
# The rule of this course: inside, there is one meaning. **Convert at the border**, with one `~`,
# in the line that calls the foreign function, nowhere else. The same holds for padding:
# `key_padding_mask=~padding_mask(tokens, pad_id)[:, 0, 0]`, of shape $(B, K)$.

# %%
with torch.no_grad():
    x = embedding(tokens)  # (3, K, 32)
    expected = layer(x, x, x, padding_mask(tokens, PAD))
    foreign = ~padding_mask(tokens, PAD)[:, 0, 0]  # (3, K), True = padding
    right, _ = theirs(x, x, x, key_padding_mask=foreign, need_weights=False)
assert torch.allclose(right, expected, atol=1e-5)
assert foreign.sum() == (tokens == PAD).sum()
print("key_padding_mask: True on", foreign.sum().item(), "of", foreign.numel(), "positions")

# %% [markdown]
# ### `is_causal` counts from the first key
#
# `F.scaled_dot_product_attention` can make the causal mask itself: `is_causal=True`, faster and
# without a table in memory. With as many queries as keys it is our mask. But when a model
# *writes*, one saves work: the keys of the old words are kept, and only the new words ask (lesson
# 08). Then there are fewer queries than keys, and the question is where the triangle starts.
#
# **Guess first:** six words are known, the queries are the last two. Which keys may "the fifth
# word" see? Which does `is_causal=True` allow?

# %%
def seen_with(n_queries, **how):
    """Return which keys F.sdpa reads: equal scores, unit vectors as values."""
    query, key = torch.zeros(1, 1, n_queries, 8), torch.zeros(1, 1, 6, 8)
    value = torch.eye(6)[None, None]
    return F.scaled_dot_product_attention(query, key, value, **how)[0, 0] > 0


assert torch.equal(seen_with(6, is_causal=True), causal_mask(6)[0, 0])
wanted = seen_with(2, attn_mask=causal_mask(6)[:, :, -2:])  # the last two rows of the triangle
given = seen_with(2, is_causal=True)
assert wanted.sum(-1).tolist() == [5, 6] and given.sum(-1).tolist() == [1, 2]
draw.masks(
    {"wanted: causal_mask(6)[:, :, -2:]": (wanted, words[-2:], words),
     "is_causal=True": (given, words[-2:], words)},
    "With fewer queries than keys, is_causal starts at the wrong corner",
)

# %% [markdown]
# It aligns the triangle at the top left: the two queries are treated as words 1 and 2. For one new
# word, the usual case, it would see the first word of the sentence and nothing else. Again there
# is no error. The right mask is the last rows of the full triangle. For a single new word that row
# is all True: no mask at all is needed. And give a mask *or* `is_causal`, never both: PyTorch's
# documentation promises an error, but do not rely on every version and kernel to raise it.

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 11 · What padding costs · more
#
# How much of the work is done on `<pad>`s, in random order and sorted by length. Lesson 06 needs it.

# %% [markdown]
# Masks make padding harmless. They do not make it free: a `<pad>` is multiplied by every matrix, like a
# word. **Guess first:** take captions in random order, 64 to a batch, each batch as wide as its longest
# sentence. What share of all tokens is padding? And if the captions are sorted by length first?

# %%
mine = None  # in random order, 0 to 1

# %%
lengths = [len(s) for s in sentences]  # the corpus is in random order already
orders = {"random order": lengths, "sorted by length": sorted(lengths)}


def shares_of_padding(lengths, batch_size=64):
    """Return the share of padding of each batch, and of all, cut in the order given."""
    batches = [lengths[i : i + batch_size] for i in range(0, len(lengths), batch_size)]
    rectangles = [len(b) * max(b) for b in batches]
    each = [1 - sum(b) / size for b, size in zip(batches, rectangles)]
    return each, 1 - sum(lengths) / sum(rectangles)


panels = {}
for order, row in orders.items():
    each, whole = shares_of_padding(row)
    middle = len(each) // 2
    panels[f"{order}: {each[middle]:.1%} here, {whole:.1%} of all"] = row[64 * middle :][:64]
draw.rectangles(panels, "Padding in one batch of 64, and in the whole corpus: sorting by length helps")

# %%
shares = [shares_of_padding(row)[1] for row in orders.values()]
assert shares[0] > 0.4 and shares[1] < 0.01
print(f"padding: {shares[0]:.1%} in random order, {shares[1]:.1%} sorted")
compare(mine, shares[0], "04: share of padding in random order")

# %% [markdown]
# But sorted batches in sorted order would be a bad lesson plan: first all short sentences, then all
# long ones. Lesson 06 sorts, cuts into batches by the number of *tokens*, and then shuffles the
# batches.

# %% [markdown]
# ## What you built
#
# | name | takes | gives |
# |---|---|---|
# | `pad(sequences, pad_id)` | lists of ids | (B, longest) |
# | `padding_mask(tokens, pad_id)` | (B, K) | (B, 1, 1, K), True where there is a word |
# | `causal_mask(size, device=None)` | a number T | (1, 1, T, T), True on and below the diagonal |
# | `combine_masks(*masks)` | masks or None | their "and", or None |
# | `shift_right(tgt, bos_id)` | (B, T) | (B, T), `<s>` first |
# | `Batch.from_sequences(src, tgt, pad_id, bos_id)` | two lists of lists | a frozen record |
#
# The fields of a `Batch`: `src` (B, S); `tgt_in` and `tgt_out` (B, T); `src_mask` (B, 1, 1, S);
# `tgt_mask` (B, 1, T, T); `n_tokens`, a number.

# %% [markdown]
# ## Summary · 小结
#
# - A mask acts on the scores, before the softmax. Boolean, True = may attend.
# - The padding mask closes columns, for all queries. With it, a sentence gets the same output
#   alone and in a batch.
# - The causal mask is a lower triangle. With it, no gradient comes from the future: exactly zero.
#   Without it, training copies the next word: the loss is near zero and the model can write
#   nothing.
# - The decoder reads its answer shifted by one. Mask and shift belong together: what is predicted
#   must not be read.
# - With both, one pass gives the $T$ predictions of $T$ passes. This is why training is parallel.
# - A query that may see nothing gives zeros, not NaN, and not the mean of everything.
# - Convert foreign masks at the border; do not trust `is_causal` when there are fewer queries than
#   keys.
#
# <div lang="zh">
#
# **小结**
#
# - 掩码（mask）作用在 softmax 之前的分数上。本课程的掩码是布尔型，True 表示“可以关注”。
# - 填充掩码（padding mask）按列屏蔽 `<pad>`，对所有查询都一样。有了它，
#   一个句子单独计算与放在批次（batch）里计算，结果相同。
# - 因果掩码（causal mask）是下三角矩阵：每个位置只能看到自己和之前的位置，
#   来自未来的梯度严格等于零。没有它，模型只学会抄写下一个词：训练损失接近零，却写不出句子。
# - 解码器的输入是右移一位的目标序列。右移与掩码缺一不可：要预测的词不能被读到。
# - 两者齐备时，一次前向计算就等于 $T$ 次逐步计算，这正是 Transformer 能够并行训练的原因。
# - 如果某个查询什么都不能看，输出应为零，而不是 NaN，也不是所有值的平均。
# - `nn.MultiheadAttention` 的布尔掩码含义相反（True 表示“禁止”），要在调用处用 `~` 转换；
#   查询比键少时，不要使用 `is_causal`。
#
# </div>

# %% [markdown]
# ## Exercises
#
# 1. **Left padding.** Write `pad_left`, which fills up on the left. Build both masks for two
#    sentences of different length and count the empty rows. What would a hand-written −∞ mask do
#    here?
# 2. **A window.** Write `window_mask(size, r)`: each query sees itself and the `r - 1`
#    positions before it (the paper's "restricted" self-attention, table 1). How many layers does it need
#    before the last output depends on the first input? Test your answer with the gradient.
# 3. **A prefix.** Some models read a prompt in both directions and write the rest causally. Write
#    `prefix_mask(size, n_prompt)`. Which rows of the causal mask change?
# 4. **Find the leak.** Take the normalisation "subtract the mean over the positions of the
#    sentence", put it behind the attention of `TinyWriter`, keep the causal mask, and draw
#    `influence` again. Where does the future come in now?
#
# <details><summary>Answer 1</summary>
#
# The shorter sentence has two `<pad>`s more, and they stand first: under the causal mask its first two
# rows see only `<pad>`s, so both masks together leave two empty rows. With a hand-written −∞ mask they are NaN.
#
# </details>
#
# <details><summary>Answer 2</summary>
#
# `causal_mask(size) & ~torch.ones(size, size, dtype=torch.bool).tril(-r)`. Each layer reaches $r - 1$
# places back, so $(n - 1) / (r - 1)$ layers, rounded up, are needed: 4 for $n = 9$, $r = 3$; 2 for
# $r = 5$. With one layer fewer the gradient is exactly zero.
#
# </details>
#
# <details><summary>Answer 3</summary>
#
# `mask = causal_mask(size); mask[..., :n_prompt] = True`. Every row may now see the whole prompt, which
# changes the rows before the prompt's last word: for `n_prompt=3` rows 0 and 1.
#
# </details>
#
# <details><summary>Answer 4</summary>
#
# Above the whole diagonal: the mean over the positions contains the later ones, so each of them moves
# every output. The attention is masked; the leak is behind it. (A layer norm takes its mean over the
# *features* of one position, and leaks nothing.)
#
# </details>

# %% [markdown]
# ## Further reading
#
# - Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin (2017), *Attention Is All
#   You Need*, arXiv 1706.03762: sections 3.1 and 3.2.3.
# - Williams, Zipser (1989), *A Learning Algorithm for Continually Running Fully Recurrent Neural
#   Networks*, Neural Computation 1(2): teacher forcing.
# - Bengio, Vinyals, Jaitly, Shazeer (2015), *Scheduled Sampling for Sequence Prediction with
#   Recurrent Neural Networks*, arXiv 1506.03099: what teacher forcing leaves out.
# - Germain, Gregor, Murray, Larochelle (2015), *MADE: Masked Autoencoder for Distribution
#   Estimation*, arXiv 1502.03509: masks that make a network autoregressive, before the
#   Transformer.
# - Radford, Narasimhan, Salimans, Sutskever (2018), *Improving Language Understanding by
#   Generative Pre-Training*: the causal mask as a whole model.
#
# **Homework.** [Assignment masking](homework/release/masking/masking.ipynb): write the padding
# mask, the causal mask, and the shift yourself; the check names what went wrong.
#
# **Next:** [lesson 05](05_transformer.ipynb) puts attention, masks and three more parts together: the Transformer.
