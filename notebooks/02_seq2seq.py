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
# # 02 · From sequence to sequence
#
# > Recurrent translators: encoder, decoder, and the first attention (paper, sections 1 and 2).
#
# **After this lesson you can**
#
# - say what a sequence-to-sequence problem is, and why one network reads and another one writes;
# - train a translator with teacher forcing, and show what happens when it must live on its own words;
# - show that a model with one vector stays bad on long sentences, even after four times the training;
# - add the attention of Bahdanau (2014) and of Luong (2015), and measure whether it looks at the right
#   words;
# - say what is still wrong after that, and what the paper's title promises to mend.
#
# **You need first:** lesson 01 (embeddings, the GRU, how a network is trained).
# This page is on the path; lesson 03 follows.
#
# **Time:** 70 minutes; 95 with all that is marked *more*. **In the paper:** sections 1 and 2. They fit on one page and name
# six families of networks; this lesson is what they take for granted.
#
# **Shapes** are written behind the code. B is the number of sentences in a batch, S the length of
# the source, T the length of the target, D is $d_{\mathrm{model}}$ (the width of every vector on
# this page), V the number of words in the vocabulary.

# %%
#| export
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

# %% [markdown]
# The cell above goes into the library, `course/seq2seq.py`; so does every cell that begins with
# `#| export`. The next one is for this page only.

# %%
import random
import time
from collections import Counter

import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from course.corpora import captions
from course.device import by_scale, pick
from course.homework import check, compare
from course.viz import seq2seq as draw

device = pick()
torch.backends.cudnn.allow_tf32 = False  # else NVIDIA GPUs round what they multiply to 10 bits

# %% [markdown]
# ## 1 · What is a sequence problem?
#
# A sequence is a list whose order matters and whose length is not fixed. Many problems take one
# sequence and want another one:
#
# | problem | input | output | typical lengths: in, out |
# |---|---|---|---|
# | text: translation | words of one language | words of another | 12, 13 words |
# | speech: recognition | sound, 100 slices a second | words | 1,000 slices, 30 words |
# | images: captioning | patches of 16 x 16 pixels | words | 196 patches, 12 words |
# | finance: forecast | one price a trading day | the prices of next week | 250 days, 5 days |
# | traffic: forecast | a count at each sensor, every 5 minutes | the next hour | 288 a day, 12 |
#
# Three things make them hard.
#
# 1. **The lengths differ** from example to example, and the output's length is not the input's.
# 2. **Order carries meaning.** "The dog chases the man" is not "the man chases the dog".
# 3. **The partners are far apart.** What decides the last word of the output may be the first word
#    of the input. German often puts a part of its verb, or all of it, at the end of the clause.
#
# We take the first row, as the paper does. The course brings a small corpus of its own: image
# captions in German and English. Each pair carries a gold **alignment**: which words stand for
# each other. Nobody will show it to the network; we need it in section 7, to check what the
# network has found out by itself.

# %%
longest = by_scale(smoke=8, cpu=26, gpu=26)  # a limit for quick tests; no caption has more than 26
train_pairs = [c for c in captions.load("train") if len(c.de_tokens) <= longest]
train_pairs = train_pairs[: by_scale(smoke=3200, cpu=8000, gpu=12000)]
val_pairs = captions.load("val")[: by_scale(smoke=240, cpu=300, gpu=500)]
shown = next(c for c in val_pairs if c.de == "Auf einem Zaun sitzt ein großer Vogel.")
linked = [(shown.de_tokens[i], shown.en_tokens[j]) for i, j in shown.alignment]
assert [en for de, en in linked if de == "sitzt"] == ["is", "sitting"]
assert "There" in shown.en_tokens and "There" not in [en for _, en in linked]
draw.links(shown.de_tokens, shown.en_tokens, shown.alignment,
           "Word by word will not do: the links cross")

# %% [markdown]
# A link that crosses another one is drawn in orange, one that crosses none in blue and dashed. The one
# German word *sitzt* is linked with two English ones, *is* and *sitting*. *There* stands for no German
# word at all.
#
# **Guess first:** translate word by word, from left to right: the first German word gives the first
# English word, and so on. In how many captions are the links that simple (word $i$ to word $i$, and
# nothing else)?

# %%
mine = None  # your guess: a share, 0 to 1

# %%
# NBVAL_CHECK_OUTPUT
everything = captions.load("val")
parallel = [c for c in everything if set(c.alignment) == {(i, i) for i in range(len(c.de_tokens))}]
crossed = [c for c in everything if draw.crossings(c.alignment)]
same_length = [c for c in everything if len(c.de_tokens) == len(c.en_tokens)]
assert len(parallel) < 0.15 * len(everything) and len(crossed) > 0.5 * len(everything)
print(f"of {len(everything)} captions: {len(parallel)} word by word, {len(crossed)} with crossing "
      f"links, {len(same_length)} of equal length")

# %%
compare(mine, len(parallel) / len(everything), "02: captions that go word by word")

# %% [markdown]
# ### From words to numbers
#
# A network computes with numbers, so each word gets one: its place in a list, the **vocabulary**.
# Its first four places are taken by signs that are no words:
#
# - `PAD` (0) fills short sentences up, so that a batch becomes a rectangle;
# - `BOS` (1), "begin of sentence", is the first thing that the decoder reads;
# - `EOS` (2), "end of sentence", is how the decoder says that it has finished;
# - `UNK` (3), "unknown", stands for every word that the training data do not contain.
#
# The corpus has three parts: *train* to learn from, *val* (validation) to check with while building,
# *test* for the final score. The vocabulary is made from the **training** sentences alone. Whoever counts the test sentences in
# has already looked at the answers. (Lesson 06 replaces words by smaller pieces, and `UNK` goes
# away.)

# %%
PAD, BOS, EOS, UNK = range(4)


def vocabulary(sentences: list[tuple[str, ...]]) -> dict[str, int]:
    """Number the words, the frequent ones first; 0 to 3 are PAD, BOS, EOS, UNK."""
    counts = Counter(word.lower() for sentence in sentences for word in sentence)
    words = ["<pad>", "<bos>", "<eos>", "<unk>", *[word for word, _ in counts.most_common()]]
    return {word: number for number, word in enumerate(words)}


def encode_words(words: tuple[str, ...], vocab: dict[str, int]) -> Tensor:
    return torch.tensor([*[vocab.get(word.lower(), UNK) for word in words], EOS])


german = vocabulary([c.de_tokens for c in train_pairs])
english = vocabulary([c.en_tokens for c in train_pairs])
english_words = list(english)  # from a number back to the word

example = encode_words(("Ein", "Hund", "schläft", "."), german)
assert example[-1] == EOS and encode_words(("Zyklotron",), german).tolist() == [UNK, EOS]
assert all(german[word] > UNK for word in ("ein", "hund", "."))
print(f"{len(german)} German words, {len(english)} English words; an example: {example.tolist()}")

# %% [markdown]
# A batch is a rectangle of numbers. The decoder gets two versions of the target, shifted by one
# place. `tgt_in` is what it reads, `tgt_out` what it must say: having read `BOS`, it must say the
# first word; having read the last word, it must say `EOS`.

# %%
Example = tuple[Tensor, Tensor]  # the numbers of a German and of an English sentence


def mask_of(src: Tensor) -> Tensor:
    return (src != PAD)[:, None, None, :]  # (B, 1, 1, S), True = a real word


def rectangle(examples: list[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Pad sentence pairs: src (B, S), tgt_in (B, T), tgt_out (B, T), on the device."""
    src = pad_sequence([src for src, _ in examples], batch_first=True, padding_value=PAD)
    tgt_out = pad_sequence([tgt for _, tgt in examples], batch_first=True, padding_value=PAD)
    begin = torch.full_like(tgt_out[:, :1], BOS)
    tgt_in = torch.cat([begin, tgt_out[:, :-1]], dim=1)
    return src.to(device), tgt_in.to(device), tgt_out.to(device)


def examples_of(pairs: list[captions.Caption]) -> list[Example]:
    return [(encode_words(c.de_tokens, german), encode_words(c.en_tokens, english)) for c in pairs]


train_set, val_set = examples_of(train_pairs), examples_of(val_pairs)
src, tgt_in, tgt_out = rectangle(sorted(val_set, key=lambda e: len(e[0]))[:: len(val_set) // 3])
assert (src[0] == PAD).any() and (src[-1] != PAD).all()  # the longest one needs no padding
assert torch.equal(tgt_in[:, 1:], tgt_out[:, :-1]) and (tgt_in[:, 0] == BOS).all()
print(tgt_in[0].tolist(), "is read,\n", tgt_out[0].tolist(), "must be said")

# %% [markdown]
# This sentence is shorter than the longest one. Behind its `EOS` (2) comes padding: what the decoder
# reads and says there counts for nothing (section 3 leaves it out of the loss).
#
# ## 2 · One network reads, another one writes
#
# Could the recurrent network of lesson 01 translate? It gives one output for each input, at the
# same moment. But the translation may be longer or shorter, and its first word may need the last
# word of the source. So the whole source has to be read *before* the first word is written. That is
# the idea of the **encoder-decoder** (Kalchbrenner and Blunsom 2013, with a convolution that
# reads; Cho et al. 2014 and Sutskever et al. 2014, with recurrent networks on both sides):
#
# 1. the **encoder**, a recurrent network, reads the source $x_1, \ldots, x_S$ and leaves vectors;
# 2. the **decoder**, another one, starts from them and writes $y_1, y_2, \ldots$, one word after
#    the other, until it writes `EOS`. At each step it reads the word that it wrote before.
#
# Writing one word after the other is no loss. Any probability of a sentence can be taken apart in
# this way; it is the chain rule of probability, and nothing is assumed:
#
# $$p(y_1, \ldots, y_T \mid x) = \prod_{t=1}^{T} p(y_t \mid y_1, \ldots, y_{t-1},\, x) .$$
#
# A model that writes like this is called **auto-regressive**. The paper's model is one, too.

# %%
draw.machine(shown.de_tokens[:4], shown.en_tokens[:4], attention=False)

# %% [markdown]
# Both networks are GRUs. Lesson 01 wrote the GRU out (section 12, *more*); here PyTorch's is used, and one line is enough
# to remember it by. From the old state $h_{t-1}$ and the input $x_t$, it makes a new state:
#
# $$h_t = \operatorname{GRU}(x_t, h_{t-1}) = (1 - z_t) \odot n_t + z_t \odot h_{t-1} .$$
#
# The gate $z_t$ (a sigmoid) decides, for each component, how much of the old state stays, and how much of
# the proposal $n_t$ (a $\tanh$) is taken. Both are made of $x_t$ and $h_{t-1}$.
#
# ### The sizes
#
# A few choices fix the whole model. The three values of `attention` are the three models that this
# page compares; the first is the plain encoder-decoder. `dropout` is the share of the numbers that are
# set to zero at random, in training only: so the network cannot rely on any single one of them.

# %%
#| export
@dataclass(frozen=True)
class Seq2SeqConfig:
    """The sizes and choices that make one RNNTranslator.

    d_model: the width of embeddings, memory and states; attention: how the decoder looks at the
    memory. Raises ValueError for a value that cannot be.
    """

    src_vocab: int
    tgt_vocab: int
    d_model: int = 256
    attention: Literal["none", "additive", "dot"] = "additive"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("src_vocab", "tgt_vocab", "d_model"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is 1 or more, not {getattr(self, name)}")
        if self.d_model % 2:
            raise ValueError(
                f"d_model={self.d_model} is odd: the encoder reads in two directions, and each "
                "fills half of a vector. Choose an even number"
            )
        if self.attention not in ("none", "additive", "dot"):
            raise ValueError(
                f"attention={self.attention!r} is unknown: choose none, additive or dot"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is in [0, 1), not {self.dropout}")


# %% [markdown]
# ### The encoder
#
# A GRU that reads from left to right knows, at each word, only what stands before it. A second one
# reads from right to left. Put both states side by side, and position $j$ holds a vector that knows
# its word *and* what stands on both sides of it (a **bidirectional** network):
#
# $$\overrightarrow{h}_j = \operatorname{GRU}(x_j, \overrightarrow{h}_{j-1}) , \qquad
# \overleftarrow{h}_j = \operatorname{GRU}(x_j, \overleftarrow{h}_{j+1}) , \qquad
# h_j = [\, \overrightarrow{h}_j \,;\, \overleftarrow{h}_j \,] .$$
#
# Each direction has $D/2$ components, so that $h_j$ has $D$. All these vectors together are called
# the **memory**, (B, S, D). The paper calls the output of its encoder by the same name.
#
# Padding is a trap here. A GRU that reads on over five `PAD`s changes its state five times, and the
# one that reads backwards *begins* with them. So a short sentence would be translated differently
# in another batch. `pack_padded_sequence` tells PyTorch where each sentence ends, and padding is
# never read. To know the end we need a **mask**: True where there is a real word. Lesson 04 is about
# masks alone. Their shape here is (B, 1, 1, S), as in all later lessons; why there are two axes of
# length 1 you will see there.

# %%
#| export
def lengths_of(mask: Tensor) -> Tensor:
    """Count the real words of each sentence: mask (B, 1, 1, S), True = a real word -> (B,).

    Raises ValueError for a sentence without a word, or with padding before a word.
    """
    mask = mask.flatten(1)  # (B, S)
    lengths = mask.sum(dim=1)
    places = torch.arange(mask.size(1), device=mask.device)
    if not torch.equal(mask, places < lengths[:, None]):
        raise ValueError("the mask has padding before a real word: pad on the right")
    if not lengths.all():
        raise ValueError("a source sentence has no word: leave empty sentences out of the batch")
    return lengths


# %% [markdown]
# From here on PyTorch computes the gradients. A class made from `nn.Module` declares its parts in
# `__init__` and says in `forward` how an input goes through them; `model(x)` calls `forward`, and
# `model.parameters()` lists all weights inside.

# %%
#| export
class RNNEncoder(nn.Module):
    """Read sentences in both directions: word vectors (B, S, D), lengths (B,) -> (B, S, D).

    The first D/2 components come from the left, the others from the right; zero at padding.
    Bahdanau et al. 2014, section 3.2.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.gru = nn.GRU(d_model, d_model // 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        memory, _ = self.gru(packed)
        return pad_packed_sequence(memory, batch_first=True, total_length=x.size(1))[0]


# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### What padding does to a careless encoder · more
#
# For those who want to see the trap close: one sentence, read with its padding and without.

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
encoder = RNNEncoder(8)
x = torch.randn(1, 6, 8)  # a sentence of three words, and three words of rubbish
alone = encoder(x[:, :3], torch.tensor([3]))
padded = encoder(x, torch.tensor([3]))
careless, _ = encoder.gru(x)  # reads on to the end of the padding
assert torch.allclose(alone, padded[:, :3]) and not padded[:, 3:].any()
assert not torch.allclose(alone[..., 4:], careless[:, :3, 4:], atol=0.01)
assert torch.allclose(alone[..., :4], careless[:, :3, :4])  # from the left: not yet reached
print("packed: padding changes nothing. Careless: the half that reads from the right is spoiled")

# %% [markdown]
# ### One vector for the whole sentence
#
# The first encoder-decoders kept only the *last* state of the encoder: after the last word, the
# network has read everything. With two directions there are two last states. The one from the left
# ends at the last real word, the one from the right at the first. Side by side they make $c$, one
# vector of $D$ numbers. Whether the sentence has 4 words or 26, it is $D$ numbers.

# %%
#| export
def fixed_vector(memory: Tensor, mask: Tensor) -> Tensor:
    """Return the last state of both directions: memory (B, S, D), mask (B, 1, 1, S) -> (B, D)."""
    from_left, from_right = memory.chunk(2, dim=-1)  # (B, S, D/2) each
    rows = torch.arange(len(memory), device=memory.device)
    last = lengths_of(mask) - 1  # (B,)
    return torch.cat([from_left[rows, last], from_right[:, 0]], dim=-1)


# %%
check("bottleneck_what")

# %% [markdown]
# ### The decoder
#
# The decoder is a GRU over the target. It starts from a state made of $c$, and to be fair to it, it
# may also look at $c$ again at every step, so that it never has to carry it along (Cho et al. 2014):
#
# $$s_t = \operatorname{GRU}\big([\, y_{t-1} \,;\, c \,],\; s_{t-1}\big) , \qquad
# \tilde s_t = \tanh\big(W_s\, [\, s_t \,;\, c \,]\big) , \qquad
# p(y_t) = \operatorname{softmax}(W_v\, \tilde s_t) .$$
#
# (In equations $y_{t-1}$ is the vector of the word before, its embedding.) The start is
# $s_0 = \tanh(W_0\, c)$. The vector $\tilde s_t$ comes from one more layer, which mixes state and
# context. All of $y$, $c$, $s$ and $\tilde s$ have $D$ components, so $W_0$ is $D \times D$, $W_s$ is
# $D \times 2D$ and $W_v$ is $V \times D$. Each of the three also adds a bias, which we do not write.
#
# $W_v\, \tilde s_t$ holds one score for each of the $V$ words. Such scores are called **logits**. The
# **softmax** makes probabilities of any scores $z$, positive and with the sum 1:
#
# $$\operatorname{softmax}(z)_k = \frac{\exp(z_k)}{\sum_i \exp(z_i)} .$$
#
# The vector beside the state is called the **context**. Here it is the same at every step; in
# sections 5 and 6 it will change with $t$. All three decoders have the same form: they take the
# target's vectors, the start and the memory, and return states, contexts and attention weights.
# This one has no weights.

# %%
#| export
Decoded = tuple[Tensor, Tensor, Tensor | None]  # states (B, T, D), contexts (B, T, D), weights


class FixedDecoder(nn.Module):
    """Write from one vector of the source, the same at every step. Cho et al. 2014.

    Called (y (B, T, D), start (B, D), memory (B, S, D), mask (B, 1, 1, S)), y the vectors of the
    words read so far -> states (B, T, D), contexts (B, T, D), None.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.gru = nn.GRU(2 * d_model, d_model, batch_first=True)

    def forward(self, y: Tensor, start: Tensor, memory: Tensor, mask: Tensor) -> Decoded:
        fixed = fixed_vector(memory, mask)[:, None]  # (B, 1, D)
        contexts = fixed.expand(-1, y.size(1), -1)  # (B, T, D)
        states, _ = self.gru(torch.cat([y, contexts], dim=-1), start[None])
        return states, contexts, None


# %% [markdown]
# Now the whole translator. Two tables of word vectors, the encoder, one of the decoders, and the
# last two matrices of the equation above. `encode`, `decode` and `project` are its three steps. The
# Transformer of lesson 05 will have the same three, with the same arguments. So lessons 07 to 09
# can train and compare the two on equal terms. (`tgt_mask` is for the Transformer's sake: a
# recurrent network cannot see the future, so it has no use for it.)

# %%
#| export
DECODERS: dict[str, type[nn.Module]] = {"none": FixedDecoder}


class RNNTranslator(nn.Module):
    """An encoder-decoder of GRUs: src (B, S), tgt_in (B, T), masks -> logits (B, T, V).

    `encode`, `decode` and `project` are its three steps. src_mask (B, 1, 1, S) is boolean, True =
    a real word, with all padding on the right; without it, every word is real. tgt_mask is
    accepted and not needed: a recurrent network cannot see the future. Bahdanau et al. 2014.
    """

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.config = config
        d_model = config.d_model
        self.src_embedding = nn.Embedding(config.src_vocab, d_model)
        self.tgt_embedding = nn.Embedding(config.tgt_vocab, d_model)
        self.encoder = RNNEncoder(d_model)
        self.w_start = nn.Linear(d_model, d_model)
        self.decoder = DECODERS[config.attention](d_model)
        self.w_state = nn.Linear(2 * d_model, d_model)
        self.w_vocab = nn.Linear(d_model, config.tgt_vocab)
        self.dropout = nn.Dropout(config.dropout)

    def encode(self, src: Tensor, src_mask: Tensor | None = None) -> Tensor:
        """Read the source once: (B, S) -> memory (B, S, D)."""
        mask = all_real(src) if src_mask is None else src_mask
        return self.encoder(self.dropout(self.src_embedding(src)), lengths_of(mask))

    def run(self, tgt_in: Tensor, memory: Tensor, src_mask: Tensor | None = None) -> Decoded:
        """Run the decoder over (B, T): states and contexts (B, T, D), weights (B, T, S) or None."""
        mask = all_real(memory[..., 0]) if src_mask is None else src_mask
        start = torch.tanh(self.w_start(fixed_vector(memory, mask)))  # (B, D)
        return self.decoder(self.dropout(self.tgt_embedding(tgt_in)), start, memory, mask)

    def decode(
        self,
        tgt_in: Tensor,
        memory: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
    ) -> Tensor:
        """Read what is written so far and the memory: (B, T) -> states (B, T, D)."""
        states, contexts, _ = self.run(tgt_in, memory, src_mask)
        return self.dropout(torch.tanh(self.w_state(torch.cat([states, contexts], dim=-1))))

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

    def attend(self, src: Tensor, tgt_in: Tensor, src_mask: Tensor | None = None) -> Tensor:
        """Return where each output word looks: (B, T, S), every row sums to one.

        Row t belongs to the word that follows tgt_in[:, t]. Raises ValueError for attention="none".
        """
        _, _, weights = self.run(tgt_in, self.encode(src, src_mask), src_mask)
        if weights is None:
            raise ValueError('attention="none" has no weights: choose additive or dot')
        return weights


def all_real(words: Tensor) -> Tensor:
    """Return the mask of sentences without padding: (B, S) -> (B, 1, 1, S), all True."""
    return torch.ones_like(words, dtype=torch.bool)[:, None, None, :]


# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### Two checks before any training · more
#
# Padding must change nothing. And the score of a word must not depend on words that come later: we
# change the last word that the decoder reads, and look which scores move.

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
toy = RNNTranslator(Seq2SeqConfig(20, 30, d_model=16, attention="none", dropout=0.0))
toy_src, toy_in = torch.randint(4, 20, (2, 7)), torch.randint(4, 30, (2, 5))
logits = toy(toy_src, toy_in)
wider = F.pad(toy_src, (0, 4), value=PAD)
assert torch.allclose(toy(wider, toy_in, mask_of(wider)), logits, atol=1e-6)

other = toy_in.clone()
other[:, -1] = 3
moved = (toy(toy_src, other) - logits).abs().amax(dim=(0, 2)) > 0  # (T,)
assert moved.tolist() == [False] * 4 + [True]
print("logits:", tuple(logits.shape), "· padding changes nothing · the future changes nothing")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### What later lessons ask of a model · more
#
# For those who will write a model of their own: the list of parts that training, search and scoring
# use, as a type.

# %% [markdown]
# The functions of lessons 07 to 09 work with this translator and with the Transformer, and would work
# with yours. What they ask for is written down as a **protocol**: any class that has these parts is
# accepted, and it need not inherit from anything. (`...` is Python for "nothing to do here": a
# protocol only says what must be there.)

# %%
#| export
@runtime_checkable
class Translator(Protocol):
    """What lessons 07 to 09 use of a model; a class that has these parts need not inherit them.

    src (B, S), tgt_in (B, T); masks are boolean, True = may be seen: src_mask (B, 1, 1, S),
    tgt_mask (1, 1, T, T). `RNNTranslator` has them, and the Transformer of lesson 05.
    """

    config: Any  # a frozen dataclass of the sizes, one of them d_model
    training: bool  # True: dropout is on

    def encode(self, src: Tensor, src_mask: Tensor | None = None) -> Tensor:
        """Read the source once: (B, S) -> memory (B, S, D)."""
        ...

    def decode(
        self,
        tgt_in: Tensor,
        memory: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
    ) -> Tensor:
        """Read what is written so far and the memory: (B, T) -> states (B, T, D)."""
        ...

    def project(self, states: Tensor) -> Tensor:
        """Score every word of the vocabulary: (..., D) -> logits (..., V)."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def train(self, mode: bool = True) -> Self: ...

    def eval(self) -> Self: ...


# %%
# NBVAL_CHECK_OUTPUT
assert isinstance(toy, Translator) and not isinstance(toy.encoder, Translator)
print("an RNNTranslator is a Translator; its encoder alone is none")

# %% [markdown]
# ## 3 · Teacher forcing: learn with the right words before you
#
# How do we train it? For each word of the target, the model gives a probability to every word of
# the vocabulary. The loss is the **cross-entropy**, $-\ln p$ of the right word, averaged over all
# words. A model that knows nothing gives each of the $V$ words $1/V$, and has the loss $\ln V$
# (the logarithm is the natural one, and the unit is then called **nat**).
#
# But what does the decoder read while it learns? When it *translates*, it reads its own words. If
# we let it do that from the beginning, it would read rubbish, and learn how to continue rubbish. So
# in training we give it the **right** previous words, whatever it would have said itself. This is
# called **teacher forcing** (Williams and Zipser 1989). It has a second advantage: all inputs are
# known before we start. The loss of all $T$ words comes out of a single call.
#
# The loop is the one of lesson 01, but autograd walks back (`loss.backward()`), each step looks at one
# batch of sentences only, and Adam makes the step: gradient descent in which each weight has a step size
# of its own. `backward()` *adds* each gradient
# to what is already in `.grad` (gradients that meet are added), so `zero_grad()` must clear the old
# ones first. Sentences of similar length go into one batch, so that there is little padding; the
# learning rate goes down to zero in a straight line. Lesson 07 explains what this loop does not.

# %%
def batches_of(examples: list[Example], batch: int, seed: int) -> list[list[Example]]:
    """Cut the examples into batches of similar length, in random order."""
    dice = random.Random(seed)
    ordered = sorted(examples, key=lambda e: (len(e[1]) + len(e[0]), dice.random()))
    batches = [ordered[i : i + batch] for i in range(0, len(ordered), batch)]
    dice.shuffle(batches)
    return batches


def loss_of(model: RNNTranslator, examples: list[Example]) -> Tensor:
    """Return the mean cross-entropy of a target word, in nats, with teacher forcing."""
    src, tgt_in, tgt_out = rectangle(examples)
    states = model.decode(tgt_in, model.encode(src, mask_of(src)), mask_of(src))  # (B, T, D)
    real = tgt_out != PAD  # padding is neither scored nor learned
    return F.cross_entropy(model.project(states[real]), tgt_out[real])  # softmax and logarithm are inside


# %%
EPOCHS = by_scale(smoke=3, cpu=3, gpu=4)


def train(attention: str, epochs: int = EPOCHS) -> RNNTranslator:
    """Train a new translator on the captions, always with the same seed."""
    torch.manual_seed(0)
    config = Seq2SeqConfig(len(german), len(english), by_scale(smoke=96, cpu=96, gpu=128), attention)
    model = RNNTranslator(config).to(device)
    size = by_scale(smoke=32, cpu=64, gpu=64)  # sentences in a batch
    steps = [batch for epoch in range(epochs) for batch in batches_of(train_set, size, epoch)]
    adam = torch.optim.Adam(model.parameters(), lr=by_scale(smoke=0.02, cpu=0.01, gpu=0.01))
    decay = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1 - step / len(steps))
    for batch in steps:
        adam.zero_grad()
        loss_of(model, batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # no step may be too large
        adam.step()
        decay.step()
    return model.eval()  # training is over: dropout off


# %%
started = time.perf_counter()
models = {"none": train("none")}
with torch.no_grad():
    losses = {"none": loss_of(models["none"], val_set).item()}
knows_nothing = torch.tensor(float(len(english))).log().item()
assert losses["none"] < 0.5 * knows_nothing
print(f"loss on unseen captions: {losses['none']:.2f} nats a word; a model that knows nothing has "
      f"ln V = {knows_nothing:.2f}; {time.perf_counter() - started:.0f} s")

# %%
check("teacher_forcing")

# %% [markdown]
# ### A number for quality
#
# The loss says how the model does with right words before it. How good is a whole sentence? The
# **edit distance** of two sentences is the smallest number of words that one must insert, delete or
# replace to turn one into the other (Levenshtein 1966). It is found by filling a table, row by row.
# If $d_{i,j}$ is the distance between the first $i$ words of one and the first $j$ of the other, then
# the last move was one of three:
#
# $$d_{i,j} = \min\big( d_{i-1,j} + 1,\;\; d_{i,j-1} + 1,\;\; d_{i-1,j-1} + [a_i \ne b_j] \big) ,
# \qquad d_{i,0} = i , \quad d_{0,j} = j .$$
#
# Our **word accuracy** is 1 minus the distance over the longer length: 1 for the same sentence, 0
# if nothing can be kept. (The field uses BLEU; lesson 08 builds it.)

# %%
#| export
def edit_distance(a: Sequence, b: Sequence) -> int:
    """Count the words to insert, delete or replace to turn a into b. Levenshtein 1966."""
    row = list(range(len(b) + 1))  # distances between no word of a and the first j of b
    for i, word in enumerate(a, 1):
        above, row = row, [i]
        for j, other in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (word != other)))
    return row[-1]


def word_accuracy(written: Sequence, reference: Sequence) -> float:
    """Return 1 minus the edit distance over the longer length: from 0, nothing alike, to 1."""
    return 1 - edit_distance(written, reference) / max(len(written), len(reference), 1)


# %%
# NBVAL_CHECK_OUTPUT
reference = ["a", "dog", "sleeps", "on", "the", "sofa"]
for attempt in ("a dog sleeps on the sofa", "a small dog sleeps on the sofa", "the dog sleeps",
                "six cats"):
    print(f"{word_accuracy(attempt.split(), reference):.2f}  {attempt}")
assert edit_distance("kitten", "sitting") == 3 == edit_distance("sitting", "kitten")
assert word_accuracy(reference, reference) == 1 and word_accuracy(["six", "cats"], reference) == 0

# %% [markdown]
# ### Free running: live on your own words
#
# Now the teacher leaves. The decoder starts with `BOS`, takes its own most probable word, reads it,
# and goes on until it says `EOS`. Always taking the most probable word is called **greedy** search;
# lesson 08 searches better. (`write` is short, not fast. For each new word it reads all words before it
# again: 1 + 2 + ... + 32 = 528 steps for 32 words, where 32 would do. Lesson 08b keeps what was read.)

# %%
@torch.no_grad()
def write(model: RNNTranslator, src: Tensor, max_len: int = 32) -> Tensor:
    """Translate without a teacher: src (B, S) -> words (B, T), each row up to its EOS, then PAD."""
    memory = model.encode(src, mask_of(src))
    words = torch.full_like(src[:, :1], BOS)
    ended = torch.zeros_like(words, dtype=torch.bool)
    while not ended.all() and words.size(1) <= max_len:
        states = model.decode(words, memory, mask_of(src))  # (B, t, D)
        best = model.project(states[:, -1:]).argmax(dim=-1)  # (B, 1)
        words = torch.cat([words, best.masked_fill(ended, PAD)], dim=1)
        ended |= best == EOS
    return words[:, 1:]


def text_of(numbers: Tensor) -> str:
    return " ".join(english_words[n] for n in numbers.tolist() if n not in (PAD, EOS))


src, tgt_in, tgt_out = rectangle(val_set)
with torch.no_grad():
    forced = models["none"](src, tgt_in, mask_of(src)).argmax(dim=-1)  # (B, T) after the RIGHT words
free = F.pad(write(models["none"], src), (0, tgt_out.size(1)))[:, : tgt_out.size(1)]
wrong = (forced != tgt_out) & (tgt_out != PAD)  # (B, T)
first = torch.where(wrong.any(dim=1), wrong.int().argmax(dim=1), -1).tolist()  # the first mistake
rows = [i for i, t in enumerate(first) if t >= 0]
same = [torch.equal(free[i, : first[i] + 1], forced[i, : first[i] + 1]) for i in rows]
assert sum(same) > 0.99 * len(same)  # but for a tie, decided by the last digit
one = max(rows, key=lambda i: (free[i] != tgt_out[i]).sum() - wrong[i].sum())
for name, row in (("right", tgt_out), ("forced", forced.masked_fill(tgt_out == PAD, PAD)), ("free", free)):
    print(f"{name:7}", text_of(row[one]))

# %% [markdown]
# (Of all sentences, this is the one in which the two differ most.) Up to the first mistake both say
# the same, as the cell has asserted: until then they have read the same words. *Then* they part: the
# forced decoder reads the right word instead of its own, the free one reads its own.
#
# In training the decoder was **exposed** to right words only; after a mistake it is in a state that it
# has never been in. This is called **exposure bias** (Ranzato et al. 2015). Cures: let the decoder
# sometimes read its own words in training (scheduled sampling, Bengio et al. 2015), search with a beam
# (lesson 08), or make few mistakes. The Transformer is trained with teacher forcing, too.

# %%
check("exposure_bias")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### What a mistake costs · more
#
# For those who want the exposure bias as a number, and want to know how much of the number is only
# our way of counting.

# %% [markdown]
# **Guess first:** take the first mistake of every sentence. Of the words that come after it, how many
# does the forced decoder get right, and how many the free one?

# %%
mine = None  # your guess: the free decoder's share of right words, place by place, 0 to 1

# %% [markdown]
# We ask a third decoder, too. It reads **one** wrong word, its own first mistake, and after it only
# right ones. So it shows what a single wrong word does.
#
# And we count the rest of the sentence in two ways. **By place:** the third word must be the reference's third word. This is
# hard on a free decoder: if it says "a small dog" for "a dog", all later words stand one place too far
# to the right, and all count as wrong. **Word accuracy** forgives that.

# %%
spoiled_in = tgt_in.clone()
for i in rows:
    if first[i] + 1 < tgt_in.size(1):
        spoiled_in[i, first[i] + 1] = forced[i, first[i]]  # read your own mistake, once
with torch.no_grad():
    spoiled = models["none"](src, spoiled_in, mask_of(src)).argmax(dim=-1)


def by_place(said: Tensor, distance: int) -> float:
    """Of all words `distance` after the first mistake, the share that is right."""
    places = [(i, first[i] + distance) for i in rows if first[i] + distance < tgt_out.size(1)]
    real = [(i, t) for i, t in places if tgt_out[i, t] != PAD]
    return sum(bool(said[i, t] == tgt_out[i, t]) for i, t in real) / len(real)


def of_the_rest(said: Tensor) -> tuple[float, float]:
    """Return how much of what follows the first mistake is right: by place, and shifts forgiven."""
    both = [[text[i, first[i] + 1 :].tolist() for text in (said, tgt_out)] for i in rows]
    both = [(ours, right) for ours, right in both if any(word > EOS for word in right)]
    place = [sum(a == b for a, b in zip(*pair) if b > EOS) / sum(b > EOS for b in pair[1])
             for pair in both]
    shifted = [word_accuracy(*([n for n in text if n > EOS] for text in pair)) for pair in both]
    return sum(place) / len(both), sum(shifted) / len(both)


reach = 6
decoders = {"right words (teacher forcing)": forced, "one own mistake, then right words": spoiled,
            "only own words (free running)": free}
after = {name: [by_place(said, d) for d in range(1, reach + 1)] for name, said in decoders.items()}
behind = tgt_out == PAD  # where nobody is asked
rest = {name: of_the_rest(said if said is free else said.masked_fill(behind, PAD))
        for name, said in decoders.items()}
draw.after_a_mistake(after, rest)

# %%
lost, lost_free = ([a - b for a, b in zip(after["right words (teacher forcing)"], after[name])]
                   for name in list(after)[1:])
assert lost[0] > 0.1 and lost[-1] < lost[0] / 2  # one mistake hurts at once, and heals
assert min(lost_free) > 0.1  # on its own words it does not heal
gaps = {}
for way, shares in zip(("by place", "forgiving shifts"), zip(*rest.values())):
    by_forced, by_spoiled, by_free = shares
    gaps[way] = by_forced - by_free
    assert by_free < by_spoiled < by_forced
    print(f"{way:16} after right words {by_forced:.0%}, after one mistake {by_spoiled:.0%}, "
          f"on its own words {by_free:.0%}")
assert 0.05 < gaps["forgiving shifts"] < 0.8 * gaps["by place"]
print(f"of the gap, {1 - gaps['forgiving shifts'] / gaps['by place']:.0%} is our way of counting")

# %%
compare(mine, rest["only own words (free running)"][0], "02: right words after a mistake")

# %% [markdown]
# One wrong word costs most at once, and the right words after it heal the damage. A decoder that reads
# its own words stays behind. But a large part of that gap was the counting: with shifts forgiven, the
# gap is much smaller, and it is not zero. (A rest is left that we cannot measure so: after a good
# synonym the reference's next word may not be right any more.)
#
# > **Try it.** In `spoiled_in`, put a *random* word instead of the decoder's own mistake. Does it
# > hurt more or less, and why?
#
# <details><summary>Answer</summary>
#
# Hardly more. With three seeds, and ten draws of random words for each, the next word is right in 26 to 28 % of
# the sentences (the mean of the ten), after an own mistake in 28 to 29 %. Over the whole rest it is 64 to 66 %
# against 65 to 68 %. A single draw lies anywhere from 23 to 34 %, so a difference this small may be chance. One
# would expect an own mistake to cost less, for it is mostly a word that could stand there. Here that shows little,
# if at all.
#
# </details>

# %% [markdown]
# ## 4 · The bottleneck: quality over length
#
# The fixed vector has $D$ numbers for any sentence. **Guess first:** is that a problem for short
# sentences, for long ones, or for all? And if we train four times as long, who gains?

# %%
mine = None  # your guess, after the longer training it is a problem for: "short", "long" or "all"

# %% [markdown]
# We let the model translate captions that it has never seen, sort them by the length of the German
# sentence, and cut them into four quarters, from the shortest to the longest.

# %%
def accuracies(model: RNNTranslator, examples: list[Example]) -> list[float]:
    """Translate freely; return the word accuracy of each sentence."""
    src, _, tgt_out = rectangle(examples)
    both = zip(write(model, src).tolist(), tgt_out.tolist())
    return [word_accuracy(*([n for n in row if n > EOS] for row in pair)) for pair in both]


def quarters(values: list[float]) -> list[float]:
    """Return the mean of each quarter."""
    cuts = [round(len(values) * q / 4) for q in range(5)]
    return [sum(values[a:b]) / (b - a) for a, b in zip(cuts, cuts[1:])]


by_length = sorted(val_set, key=lambda e: len(e[0]))
mean_length = quarters([len(src) - 1 for src, _ in by_length])  # words of the source, EOS left out
longer = by_scale(smoke=1, cpu=4, gpu=4)  # times as many epochs
models["none, longer"] = train("none", longer * EPOCHS)
quality = {kind: quarters(accuracies(model, by_length)) for kind, model in models.items()}
draw.quality_over_length(mean_length, quality, "One vector for all: more training helps, the end stays low")

# %%
for kind, row in quality.items():
    assert row[0] > row[-1] + 0.02
    print(f"{kind:13} word accuracy by quarter", [f"{share:.0%}" for share in row])
if longest > 8:  # not at the smallest scale, which learns from short captions only
    short, *_, long = quality["none, longer"]
    assert short > 0.9 and long < short - 0.15

# %%
ends = quality["none, longer"]
compare(mine, "long" if ends[-1] < ends[0] - 0.15 else "all", "02: whom the fixed vector hurts")

# %% [markdown]
# (All these shares are high because a small grammar has made the captions. Real captions are harder:
# lesson 09.) With four times the training the short sentences are almost right. The long ones gain,
# too, but a wide gap stays, as Cho et al. (2014b) found when such models were new.
#
# Is the vector to blame, too narrow for a long sentence? It is called the **bottleneck** of such a
# model. But this picture alone cannot tell: a longer sentence also has more places for a mistake,
# whatever the model. If the vector is to blame, a model that is free of it must gain most where the
# sentences are long. Section 6 will judge. (One may widen the vector, and Sutskever et al. took 8,000
# numbers. But a sentence can always be longer.)
#
# A human translator does not read a long sentence once, close the book, and write from memory. She
# looks back.

# %%
check("bottleneck_control")

# %% [markdown]
# ## 5 · Additive attention: look back (Bahdanau 2014)
#
# The memory holds one vector for each source word, and the fixed decoder threw all but two
# halves away. Let the decoder choose instead, at every step, which of them it needs. To choose
# softly, it takes a weighted average. That is the context of step $t$:
#
# $$c_t = \sum_{j=1}^{S} \alpha_{t,j}\, h_j , \qquad
# \alpha_{t,j} = \frac{\exp(e_{t,j})}{\sum_{i=1}^{S} \exp(e_{t,i})} .$$
#
# The weights $\alpha_{t,j}$ are positive and sum to one: it is the softmax again, this time over the
# words of the source. (These **attention weights** are not learned numbers like the weights of lesson
# 01. They are computed anew for every sentence; what is learned is $W_q$, $W_k$, $v$ and $b$, below.)
# The **score** $e_{t,j}$ says how well the source word $j$ fits what the decoder needs now. What it needs is in its state $s_{t-1}$, what the word offers
# is in $h_j$. Bahdanau, Cho and Bengio let a small network compare the two:
#
# $$e_{t,j} = v^{T} \tanh\left( W_q\, s_{t-1} + W_k\, h_j + b \right) .$$
#
# $W_q$ and $W_k$ are $D \times D$, and $v$ and $b$ have $D$ components; all four are learned. It is
# called **additive**: the two are added, inside. Every part can be differentiated. Nobody
# tells the network where to look. It learns that from the loss of the next word alone.

# %%
draw.machine(shown.de_tokens[:4], shown.en_tokens[:4], attention=True)

# %% [markdown]
# In lesson 03 the state that asks will be called the **query**, and the vectors that are compared
# with it the **keys**. We use these names already, and the letters q and k. Note one detail: $W_k
# h_j$ does not depend on $t$. It is computed once for each sentence, not once for each word.
#
# A padded place must get no weight. Its score becomes $-\infty$, and $\exp(-\infty) = 0$.

# %%
#| export
def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Make weights of scores (B, T, S); where mask (B, 1, 1, S) is False, the weight is 0."""
    return scores.masked_fill(~mask[:, 0], float("-inf")).softmax(dim=-1)


class AdditiveAttention(nn.Module):
    """Score by a small network, v^T tanh(W_q query + W_k key + b). Bahdanau et al. 2014.

    Called (query (B, T, D), keys (B, S, D), mask (B, 1, 1, S)), the keys already multiplied by
    `w_k` -> weights (B, T, S).
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.w_q = nn.Linear(d_model, d_model, bias=False)
        self.w_k = nn.Linear(d_model, d_model)
        self.v = nn.Linear(d_model, 1, bias=False)

    def forward(self, query: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        mixed = torch.tanh(self.w_q(query)[:, :, None] + keys[:, None])  # (B, T, S, D)
        return masked_softmax(self.v(mixed).squeeze(-1), mask)  # (B, T, S)


# %% [markdown]
# The decoder with it: at each step look first, then move on.
#
# $$s_t = \operatorname{GRU}\big([\, y_{t-1} \,;\, c_t \,],\; s_{t-1}\big) , \qquad
# \tilde s_t = \tanh\big(W_s\, [\, s_t \,;\, c_t \,]\big) .$$
#
# Compare with section 2: $c$ has become $c_t$, and nothing else has changed. But where to look at
# step $t$ depends on $s_{t-1}$, and $s_{t-1}$ on where we looked before. So here even training
# needs a loop.

# %%
#| export
class AdditiveDecoder(nn.Module):
    """Look at the memory before each step. Called as FixedDecoder -> weights (B, T, S), too.

    Bahdanau et al. 2014, section 3.1.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.attention = AdditiveAttention(d_model)
        self.cell = nn.GRUCell(2 * d_model, d_model)

    def forward(self, y: Tensor, start: Tensor, memory: Tensor, mask: Tensor) -> Decoded:
        keys, state, steps = self.attention.w_k(memory), start, []
        for y_t in y.unbind(dim=1):  # (B, D)
            weights = self.attention(state[:, None], keys, mask)  # (B, 1, S)
            context = (weights @ memory).squeeze(1)  # (B, D)
            state = self.cell(torch.cat([y_t, context], dim=-1), state)
            steps.append((state, context, weights.squeeze(1)))
        states, contexts, weights = (torch.stack(parts, dim=1) for parts in zip(*steps))
        return states, contexts, weights


DECODERS["additive"] = AdditiveDecoder

# %%
check("bottleneck_attention")

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### The code against its equation · more
#
# For those who want proof: a slow version in plain loops, compared number by number.

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(1)
attention = AdditiveAttention(6).double()
query, memory = torch.randn(2, 3, 6).double(), torch.randn(2, 4, 6).double()
real = torch.tensor([[True, True, True, True], [True, True, False, False]])[:, None, None]
weights = attention(query, attention.w_k(memory), real)  # (B, T, S)
for b in range(2):
    for t in range(3):
        scores = [attention.v(torch.tanh(attention.w_q(query[b, t]) + attention.w_k(memory[b, j])))
                  for j in range(4) if real[b, 0, 0, j]]
        total = sum(score.exp() for score in scores)
        for j, score in enumerate(scores):
            assert torch.allclose(weights[b, t, j], score.exp() / total)
assert not weights[1, :, 2:].any() and torch.allclose(weights.sum(-1), torch.ones(2, 3).double())
print("additive attention equals the slow loops, and padding gets no weight")

# %% [markdown]
# ## 6 · Multiplicative attention: a dot product (Luong 2015)
#
# One year later Luong, Pham and Manning asked what is the simplest score that works. Take the **dot
# product**: multiply two vectors number by number and add up. It is large if the two point the same
# way, 0 if they stand at a right angle, and negative if they point apart. They compared three scores:
#
# $$e_{t,j} = s_t^{T} h_j \quad \text{("dot")} , \qquad
# e_{t,j} = s_t^{T}\, W\, h_j \quad \text{("general")} , \qquad
# e_{t,j} = v^T \tanh\left( W\, [\, s_t \,;\, h_j \,] \right) \quad \text{("concat")} .$$
#
# The third is the additive one. The first two are called **multiplicative**, and we take the first. It
# has not one parameter of its own: encoder and decoder must learn a common
# language. All scores of all steps are then **one** matrix product, while the additive score needs
# a tanh for each pair of words and each of the $D$ components.
#
# And they changed the order: move first, look afterwards. The GRU never reads what was found. So
# with teacher forcing it can run over all target words in one call, and then all of them look back
# at once. To compare fairly we let it read what it read in section 2, the fixed vector $c$, too:
#
# $$s_t = \operatorname{GRU}\big([\, y_{t-1} \,;\, c \,],\, s_{t-1}\big) , \qquad
# c_t = \sum_j \alpha_{t,j}\, h_j , \qquad \tilde s_t = \tanh\big(W_s\, [\, s_t \,;\, c_t \,]\big) .$$
#
# (The original also offers to feed $\tilde s_{t-1}$ into the next step, "input feeding". That brings
# the loop back.)

# %%
#| export
class DotDecoder(FixedDecoder):
    """Run over the words first, then look at the memory. Called as AdditiveDecoder.

    The score is the dot product of state and memory. Luong et al. 2015, section 3.1, "dot".
    """

    def forward(self, y: Tensor, start: Tensor, memory: Tensor, mask: Tensor) -> Decoded:
        states, _, _ = super().forward(y, start, memory, mask)  # (B, T, D)
        weights = masked_softmax(states @ memory.mT, mask)  # (B, T, S)
        return states, weights @ memory, weights


DECODERS["dot"] = DotDecoder

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(1)
decoder, memory = DotDecoder(6).double(), torch.randn(2, 4, 6).double()
real = torch.tensor([[True, True, True, True], [True, True, False, False]])[:, None, None]
y, start = torch.randn(2, 3, 6).double(), torch.randn(2, 6).double()
states, contexts, weights = decoder(y, start, memory, real)
expected = F.scaled_dot_product_attention(states, memory, memory, real[:, 0], scale=1.0)
assert torch.allclose(contexts, expected)
print("dot-product attention equals PyTorch's function:", tuple(contexts.shape))

# %% [markdown]
# `F.scaled_dot_product_attention` is the heart of the Transformer, and we have just built it, two
# years before the paper, so to speak. What lesson 03 adds are learned matrices before it, a scale,
# several heads, and the courage to leave the GRU out.
#
# ### Does looking help?
#
# The same data, the same width, the same number of steps, the same seed. The model without attention
# that was trained four times as long stays in the picture. **Guess first:** where is the gain, in the
# short sentences or in the long ones?

# %%
mine = None  # your guess: "short" or "long"

# %%
for kind in ("additive", "dot"):
    started = time.perf_counter()
    models[kind] = train(kind)
    with torch.no_grad():
        losses[kind] = loss_of(models[kind], val_set).item()
    quality[kind] = quarters(accuracies(models[kind], by_length))
    print(f"{kind:8} loss {losses[kind]:.2f}, word accuracy by quarter",
          [f"{q:.0%}" for q in quality[kind]], f"{time.perf_counter() - started:.0f} s")
draw.quality_over_length(mean_length, quality, "Looking back helps most where the vector fails")

# %%
assert losses["additive"] < losses["dot"] < losses["none"]
for kind in ("additive", "dot"):
    gains = {rival: [looking - blind for looking, blind in zip(quality[kind], quality[rival])]
             for rival in ("none", "none, longer")}
    assert min(gains["none"]) > 0 and gains["none"][-1] > 0.02
    if longest > 8:
        assert gains["none"][-1] > 2 * gains["none"][0]
        assert abs(gains["none, longer"][0]) < 0.05 and gains["none, longer"][-1] > 0.1
    for rival, row in gains.items():
        print(f"{kind:8} against {rival + ':':13} {100 * row[0]:+3.0f} points in the shortest quarter, "
              f"{100 * row[-1]:+3.0f} in the longest")
parameters = {kind: sum(p.numel() for p in model.parameters()) for kind, model in models.items()}
assert parameters["dot"] == parameters["none"]
print("parameters:", parameters)

# %%
gain = [looking - blind for looking, blind in zip(quality["additive"], quality["none"])]
compare(mine, "long" if gain[-1] > gain[0] else "short", "02: where attention gains most")

# %% [markdown]
# Against the model with the same training, every quarter gains, and the longest gains most. Against
# the one with **four times** the training, the shortest quarter gains nothing: there, time
# makes up for what is missing. In the longest quarter it does not. It is not the number of weights,
# either: the model with the dot product has **exactly as many** as the one without attention. (One run
# each. With two more seeds we found the same in the longest quarter: 66 to 69 % without attention after
# four times the training, 82 to 85 % for dot, 89 to 90 % for additive.)
#
# Of the two, the additive one is ahead here, and it is slower. A likely reason, which we do not test:
# it reads each context in the next step, so it can know where it has looked. (It also has some more
# parameters.)

# %% [markdown]
# ## 7 · Does it look at the right words?
#
# Each row of the weights says where the decoder looked before it wrote that word. Here is the caption
# from the first picture, under both models. The orange frames are the gold alignment, which the
# networks have never seen.

# %%
@torch.no_grad()
def looks_of(model: RNNTranslator, examples: list[Example]) -> list[Tensor]:
    """Return the attention weights of each sentence, (T, S), without padding."""
    src, tgt_in, _ = rectangle(examples)
    weights = model.attend(src, tgt_in, mask_of(src)).cpu()
    return [w[: len(tgt), : len(src)] for w, (src, tgt) in zip(weights, examples)]


aligned = [c for c in val_pairs if len(c.de_tokens) <= longest]  # as long as those it learned from
looks = {kind: looks_of(models[kind], examples_of(aligned)) for kind in ("additive", "dot")}
place = aligned.index(shown)
panels = {kind: rows[place][:-1] for kind, rows in looks.items()}  # the row of EOS left out
draw.alignment_maps(panels, [*shown.de_tokens, "EOS"], shown.en_tokens, shown.alignment)

# %% [markdown]
# A picture convinces, but one picture is one sentence. How many of the gold links do the weights find,
# over all captions? Weights are not links yet. As Luong did, we link every target word to the source
# word with the largest weight. If that is the source's `EOS`, the word gets no link.
#
# Two baselines tell us what a number is worth. The **random** one has no idea: each target word is
# linked to a source word by chance. The **diagonal** one goes straight ahead: it links the first target
# word to the first source word, the last to the last, and those between in proportion. That is a good
# guess where both languages have the same order. **Guess first:** how many of ten links does each of
# the four find?

# %%
mine = None  # your guess for additive attention: links out of ten

# %%
def links_of(weights: Tensor) -> set[tuple[int, int]]:
    """Link each target word to where it looks most: (T, S), EOS last -> pairs (source, target)."""
    best = weights[:-1].argmax(dim=-1).tolist()
    return {(i, j) for j, i in enumerate(best) if i < weights.size(1) - 1}


def diagonal(n_source: int, n_target: int) -> set[tuple[int, int]]:
    return {(round(j * (n_source - 1) / max(n_target - 1, 1)), j) for j in range(n_target)}


gold = [c.alignment for c in aligned]
lengths = [(len(c.de_tokens), len(c.en_tokens)) for c in aligned]
chance = random.Random(0)
found = {
    "random": [{(chance.randrange(s), j) for j in range(t)} for s, t in lengths],
    "diagonal": [diagonal(s, t) for s, t in lengths],
    **{kind: [links_of(weights) for weights in rows] for kind, rows in looks.items()},
}
hit = {name: sum(len(a & set(g)) for a, g in zip(links, gold)) / sum(map(len, gold))
       for name, links in found.items()}
if longest > 8:  # not at the smallest scale: its short captions lie near the diagonal
    for kind in ("additive", "dot"):
        assert max(hit["random"], hit["diagonal"]) + 0.1 < hit[kind] < 0.9
print("of all gold links they find:", {name: f"{share:.0%}" for name, share in hit.items()})

# %%
compare(mine, 10 * hit["additive"], "02: gold links of ten that attention finds")

# %% [markdown]
# Both find well over half of the gold links, more than chance and more than the diagonal. Nobody taught
# them: to know the links helps to guess the next word, and that was enough. This was the sensation of
# 2014. In the statistical systems before, alignment was a program of its own, run before the training
# began. But a weight says where the decoder *took from*; it is not the reason for the word (lesson 09
# comes back to this).

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### The alignment error rate, and which links are wrong · more
#
# For those who will read articles on alignment: the number that they use, and a look at the mistakes.

# %% [markdown]
# The field's number is the **alignment error rate**, AER (Och and Ney
# 2003). Let $A$ be the set of the links that were found. The gold links come in two kinds: the **sure**
# ones, $S$, which must be found, and the **possible** ones, $P \supseteq S$, which may be. ($S$ is a
# set of links here, not the length of the source.) Then
#
# $$\operatorname{AER} = 1 - \frac{|A \cap S| + |A \cap P|}{|A| + |S|} ,$$
#
# with all counts summed over the corpus. Found all and nothing else: 0. Found nothing right: 1. In
# our corpus all links are sure, $P = S$. Then AER is 1 minus the **F1 score**, the harmonic mean of two
# shares: how many of the found links are right, and how many of the right links are found.

# %%
#| export
Links = Collection[tuple[int, int]]  # pairs (source word, target word)


def alignment_error_rate(
    found: Sequence[Links], sure: Sequence[Links], possible: Sequence[Links] | None = None
) -> float:
    """Return 1 - (|A & S| + |A & P|) / (|A| + |S|) over a corpus: 0 is perfect, 1 all wrong.

    found, sure, possible: the links of each sentence; a sure link is always possible, too, and
    without `possible` no other is. Raises ValueError if the numbers of sentences differ, or if
    there is no link at all. Och and Ney 2003.
    """
    possible = sure if possible is None else possible
    if not len(found) == len(sure) == len(possible):
        raise ValueError(
            f"links of {len(found)}, {len(sure)} and {len(possible)} sentences: give one set of "
            "links for each sentence"
        )
    right = total = 0
    for a, s, p in zip(map(set, found), map(set, sure), map(set, possible)):
        right += len(a & s) + len(a & (p | s))
        total += len(a) + len(s)
    if not total:
        raise ValueError("no link at all, neither found nor sure: nothing to compare")
    return 1 - right / total


# %%
# NBVAL_CHECK_OUTPUT
sure, possible = [{(0, 0), (1, 2)}], [{(0, 0), (1, 2), (2, 1)}]
tried = {"all sure ones": [{(0, 0), (1, 2)}], "and a possible one": possible,
         "one of two": [{(0, 0)}], "a wrong one more": [{(0, 0), (1, 2), (2, 2)}],
         "all wrong": [{(0, 1)}]}
rates = [alignment_error_rate(found, sure, possible) for found in tried.values()]
assert rates[:2] == [0, 0] and abs(rates[2] - 1 / 3) < 1e-9 and rates[-1] == 1
print({name: round(rate, 2) for name, rate in zip(tried, rates)})

# %% [markdown]
# The diagonal fits where both languages have the same order. What happens where they have not? We
# count twice: over all captions, and over those in which links cross. **Guess first:** which of the
# four becomes much worse on the second count?

# %%
mine = None  # your guess: "random", "diagonal", "additive" or "dot"

# %%
crossed = [i for i, links in enumerate(gold) if draw.crossings(links)]
aer = {name: alignment_error_rate(links, gold) for name, links in found.items()}
aer_crossed = {name: alignment_error_rate([links[i] for i in crossed], [gold[i] for i in crossed])
               for name, links in found.items()}
draw.error_rates({"all captions": aer, "captions with crossing links": aer_crossed})

# %%
assert aer_crossed["diagonal"] > aer["diagonal"] + 0.08  # straight ahead fails where links cross
for kind in ("additive", "dot"):
    assert aer[kind] < 0.75 * aer["random"]
    assert aer_crossed[kind] < aer_crossed["diagonal"] - 0.02
    assert longest == 8 or aer[kind] < aer["diagonal"]
print("where links cross, AER:", {name: round(rate, 2) for name, rate in aer_crossed.items()})
one_each = [{j: (i, j) for i, j in links}.values() for links in gold]
least = alignment_error_rate(one_each, gold)
assert least < 0.05
print(f"the best AER that one link for each English word allows: {least:.3f}")

# %%
worse = max(aer, key=lambda name: aer_crossed[name] - aer[name])
compare(mine, worse, "02: who suffers where links cross")

# %% [markdown]
# Our rule (one link for each English word) must miss a link where a word has two German partners
# (*juggling*: *jongliert* and *mit*). That is rare: the best AER that the rule allows is close to 0. So
# most mistakes are the network's. Which words are linked wrongly? **Guess first:** the frequent ones
# ("a", "is", "the"), or the rare ones ("kitchen", "reading")?

# %%
mine = None  # your guess: "frequent" or "rare"

# %%
frequent = set(english_words[4:14])  # the ten most frequent English words, signs included


def share_at_gold(links: list[set[tuple[int, int]]], is_frequent: bool) -> float:
    """Of the frequent (or the other) English words, the share that looks at a gold partner."""
    hits = [bool({(i, j) for i, j in pairs if j == place} & set(caption.alignment))
            for pairs, caption in zip(links, aligned)
            for place, word in enumerate(caption.en_tokens)
            if (word.lower() in frequent) == is_frequent]
    return sum(hits) / len(hits)


print("the ten:", *sorted(frequent))
for kind in ("additive", "dot"):
    common, rare = (share_at_gold(found[kind], is_frequent) for is_frequent in (True, False))
    assert rare > common + 0.05
    print(f"{kind:8} looks at a right word for {common:.0%} of the ten, for {rare:.0%} of the others")

texts = [" ".join(c.en_tokens).lower() for c in train_pairs]
women, followed = (sum(text.count(words) for text in texts) for words in ("a woman ", "a woman is "))
assert 0.4 < followed / women < 0.8
print(f'in the training captions "is" follows "a woman" in {followed / women:.0%} of the cases')

# %%
compare(mine, "frequent" if common < rare else "rare", "02: words that are linked wrongly")

# %% [markdown]
# The rare ones are looked up. Why not the frequent ones? Two reasons are likely; we test neither. After
# "a woman", "is" is a good guess before one has seen any German, so there is less need to look. And
# each $h_j$ knows its whole neighbourhood, so a word's meaning can be taken from the vector next to it:
# Koehn and Knowles (2017) found attention that was shifted by one word, and translated well.
#
# > **Try it.** In `links_of`, link a target word to *every* source word with a weight above 0.3. Is
# > the AER better? Which threshold is best, and on which data may you choose it?
#
# <details><summary>Answer</summary>
#
# For `additive` hardly: the AER is 0.358 with 0.3, 0.357 with 0.35, the best of ten thresholds from 0.05 to 0.5,
# and 0.363 with the largest weight alone. A low threshold adds wrong links (0.535 at 0.05), a high one loses
# right ones. For `dot` 0.5 was the best of the ten, 0.328 against 0.333. To choose it takes gold links, so choose on some
# captions and report on others: who chooses and reports on the same ones reports too low an error.
#
#     links = {(i, j) for j in range(w.size(0) - 1) for i in range(w.size(1) - 1) if w[j, i] > 0.3}
#
# </details>

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## 8 · Look twice: a memory network (Sukhbaatar 2015) · more
#
# A network of section 2 of the paper that attends several times before it answers. For those who want
# to meet the Transformer's sum of input and attention early.

# %% [markdown]
# Attention looks once for each word that is written. Some questions need two looks: "Where is the
# ball?" First find who has it, then find where *she* is. End-to-end memory networks
# have a set of stored facts, and need no recurrence along the positions: what they
# repeat is the attention itself.
#
# Each fact $x_i$ is stored as two vectors, $m_i$ (by what it can be found) and $c_i$ (what it has
# to say). The question is a vector $u$. One look, which they call a **hop**, is
#
# $$p_i = \operatorname{softmax}_i(u^{T} m_i) , \qquad o = \sum_i p_i\, c_i , \qquad u' = u + o .$$
#
# The new question $u'$ is the old one plus what was found. Then hop again.

# %%
#| export
def memory_hop(question: Tensor, found_by: Tensor, says: Tensor) -> tuple[Tensor, Tensor]:
    """Look once into a memory of N facts and add what was found to the question.

    question u (B, D), found_by m (B, N, D), says c (B, N, D) -> u + o (B, D), weights p (B, N).
    Sukhbaatar et al. 2015, section 2.
    """
    weights = (found_by @ question[..., None]).squeeze(-1).softmax(dim=-1)  # (B, N)
    answer = (weights[:, None] @ says).squeeze(1)  # (B, D)
    return question + answer, weights


# %% [markdown]
# We set the vectors by hand, so that every number can be followed. Each name has a component of its
# own. "Anna has the ball" is found by *ball* and says *Anna*. The next hop should ask for what was
# found, not for the old question again, so $c_i$ is twice as long. And $m_i$ is five times as long:
# the right fact then has the score 5 and the five others 0, so that it gets
# $e^5 / (e^5 + 5) \approx 97\,\%$ of the weight. (A trained network learns such vectors.)
#
# **Guess first:** which facts does the first hop look at, which the second?

# %%
facts = [("ball", "Anna", "Anna has the ball"), ("book", "Ben", "Ben has the book"),
         ("Ben", "garden", "Ben is in the garden"), ("Anna", "kitchen", "Anna is in the kitchen"),
         ("hat", "Carla", "Carla has the hat"), ("Carla", "cellar", "Carla is in the cellar")]
names = sorted({name for by, says, _ in facts for name in (by, says)})


def one_hot(words: list[str]) -> Tensor:
    return F.one_hot(torch.tensor([names.index(word) for word in words]), len(names)).float()


found_by = 5 * one_hot([by for by, _, _ in facts])[None]  # (1, N, D)
says = 2 * one_hot([says for _, says, _ in facts])[None]  # (1, N, D)
questions, hops = [one_hot(["ball"])], []
for _ in range(2):
    question, weights = memory_hop(questions[-1], found_by, says)
    questions.append(question)
    hops.append(weights[0])
draw.hops([text for _, _, text in facts], torch.stack(hops), "Where is the ball?")

# %%
# NBVAL_CHECK_OUTPUT
added = [new - old for old, new in zip(questions, questions[1:])]  # what each hop has found
asked = ["ball", *(names[int(answer.argmax())] for answer in added)]
assert asked == ["ball", "Anna", "kitchen"]
assert hops[0].argmax() == 0 and hops[1].argmax() == 3
as_attention = F.scaled_dot_product_attention(questions[0][:, None], found_by, says, scale=1.0)
assert torch.allclose(questions[1], questions[0] + as_attention[:, 0], atol=1e-6)
order = torch.randperm(len(facts), generator=torch.Generator().manual_seed(0))
assert torch.allclose(memory_hop(questions[0], found_by[:, order], says[:, order])[0], questions[1],
                      atol=1e-6)
print("asked:", " -> ".join(asked), "· one hop = dot-product attention + the question itself")

# %% [markdown]
# Read what the claim prints. (*Anna* stays in the question, almost as loud as *kitchen*; the answer is
# what the last hop added.) A hop is dot-product attention, and then the input is added again. In
# lesson 05 this sum of input and output is called a residual connection, and you will recognise the
# hop in every layer of the Transformer.
#
# And read its last assertion: shuffle the facts, and the answer is the same. A memory network sees
# a *set*. "Anna went to the kitchen, then to the garden" needs the order; they add a vector
# for the time of each fact, and the Transformer will add one for each position.
#
# > **Try it.** Let `says` be as long as the question (1 instead of 2). What does the second hop look
# > at now, and why?
#
# <details><summary>Answer</summary>
#
# At two facts: 0.53 for *Anna has the ball*, once more, and 0.45 for *Anna is in the kitchen*. After the first
# hop the question holds *ball*, from the start, and *Anna*, what was found, both about equally loud: scores 5
# and 4.8. Only because the answer is louder than the old question does the second hop go on.
#
# </details>

# %%
check("memory_hop_is")

# %%
check("memory_waits")

# %% [markdown]
# ## 9 · What attention did not mend: one step after the other
#
# With attention, any target word reaches any source word in one step. So what is left to complain
# about? Section 1 of the paper says it in one sentence: recurrence computes along the positions,
# state after state, and so the states of one sentence cannot be computed at the same time.
#
# **Count it.** Autograd has written down which result was made from which. We walk from the output
# back to the words, and count the matrix products on the **longest chain**: each of them has to
# wait for the one before. Even a machine with infinitely many processors cannot be faster than that
# chain. **Guess first:** source and target become twice as long. By which factor does the chain
# grow?

# %%
mine = None  # your guess: a factor

# %% [markdown]
# `result.grad_fn` is the step that made a result; its `next_functions` are the steps that made its
# inputs. (You may skip how we search this graph.)

# %%
def longest_chain(result: Tensor) -> int:
    """Count the matrix products, each waiting for the one before, that lead to a result."""
    depth, stack = {None: 0}, [result.grad_fn]
    while stack:
        before = [node for node, _ in stack[-1].next_functions]
        unknown = [node for node in before if node not in depth]
        stack += unknown
        if not unknown:
            node = stack.pop()
            product = "mmbackward" in node.name().lower()  # mm, addmm, bmm
            depth[node] = max((depth[n] for n in before), default=0) + product
    return depth[result.grad_fn]


def chain(kind: str, n: int) -> int:
    """Return the longest chain of a forward pass, with n words on both sides."""
    model = RNNTranslator(Seq2SeqConfig(9, 9, d_model=8, attention=kind))
    words = torch.full((1, n), 5)
    return longest_chain(model(words, words).logsumexp(-1).sum())


ns = [4, 8, 16, 32]
chains = {kind: [chain(kind, n) for n in ns] for kind in DECODERS}
print("words:", ns, *[f"\n{kind:8} {row}" for kind, row in chains.items()])

# %%
compare(mine, chains["additive"][-1] / chains["additive"][-2], "02: the chain at twice the length")

# %%
# NBVAL_CHECK_OUTPUT
for row in chains.values():
    steps = [(b - a) / (m - n) for a, b, n, m in zip(row, row[1:], ns, ns[1:])]
    assert len(set(steps)) == 1 and steps[0] >= 2  # a straight line: so much for each word
assert chains["additive"][-1] > chains["dot"][-1]
print("each further word makes the chain longer by the same amount: it grows like n")

# %% [markdown]
# A straight line for all three. The additive decoder waits longest: its attention stands *inside*
# the chain. Attention, as it was invented, did not remove one link of it.
#
# So here is the question with which the paper begins. Attention brings any two words together in
# one step. The recurrence does not. **What if we keep the attention, and drop the recurrence?**

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ### And by the clock? · more
#
# For those who trust no count: the same products in a chain and without one, timed.

# %% [markdown]
# We need a fair opponent: the same cell, the same products, but nobody waits. So we cut the chain: each
# step gets a state of zeros in place of the state before it. That network is useless, but it computes
# exactly as much, and all $n$ steps at the same time. The fair pair is this network and PyTorch's
# `nn.GRU`, for both run in compiled code. A third line is the chain as a loop in Python.

# %%
cell, gru = nn.GRUCell(128, 128).to(device), nn.GRU(128, 128).to(device)
gru.load_state_dict({f"{name}_l0": tensor for name, tensor in cell.state_dict().items()})


@torch.no_grad()
def chained(x: Tensor) -> Tensor:
    state = torch.zeros_like(x[:1])  # (1, D)
    for x_t in x.split(1):
        state = cell(x_t, state)  # waits for the state before
    return state


@torch.no_grad()
def cut(x: Tensor) -> Tensor:
    return cell(x, torch.zeros_like(x))[-1:]  # n steps at once, each from a state of zeros


@torch.no_grad()
def compiled(x: Tensor) -> Tensor:
    return gru(x)[0][-1:]  # the same chain


def seconds(network, n: int, repeats: int = 5) -> float:
    """The fastest of a few runs: the one that other programs disturbed least."""
    x, taken = torch.randn(n, 128, device=device), []
    for _ in range(repeats):
        started = time.perf_counter()
        network(x).sum().item()  # .item() waits for a graphics processor, too
        taken.append(time.perf_counter() - started)
    return min(taken)


sentence_lengths = [2**i for i in range(3, by_scale(smoke=8, cpu=10, gpu=10) + 1)]
clock = {name: [seconds(network, n) for n in sentence_lengths]
         for name, network in (("in a chain", chained), ("chain cut", cut),
                               ("in a chain, nn.GRU", compiled))}
draw.wall_time(sentence_lengths, clock,
               f"The same products, one after the other or all at once ({device.type})")

# %%
x = torch.randn(20, 128, device=device)
assert torch.allclose(chained(x), compiled(x), atol=1e-4)
slow, fast, built_in = clock.values()
assert built_in[-1] > by_scale(smoke=2, cpu=3, gpu=3) * fast[-1]  # the price of waiting, no Python in it
print(f"{sentence_lengths[-1]} steps: in a chain {1000 * slow[-1]:.1f} ms, with nn.GRU "
      f"{1000 * built_in[-1]:.1f} ms, chain cut {1000 * fast[-1]:.1f} ms: nn.GRU takes "
      f"{built_in[-1] / fast[-1]:.1f} times as long")

# %% [markdown]
# All three lines are the same arithmetic, and all three grow with $n$, since there is more to compute.
# What the waiting costs is the distance between `nn.GRU` and the cut chain. (The loop in Python pays
# some microseconds more for each call.) One can put many sentences into one batch, and we do: each step
# then has more to compute. But that helps only as far as the machine's memory reaches.

# %% [markdown]
# ## 10 · The families, side by side
#
# Section 2 of the paper names other networks that wait less. Read this table now, and again after
# lesson 05. *Path* is the number of steps between two words that are $n$ places apart: the shorter,
# the easier it is to learn that they belong together (lesson 01). *Waiting* is the number of steps
# that must follow each other, to read a sentence of $n$ words. $k$ is the width of a convolution.
#
# | family | what it was made for | strength | weakness | path | waiting |
# |---|---|---|---|---|---|
# | RNN encoder-decoder (Cho, Sutskever 2014; with attention: Bahdanau 2014) | lengths that differ | small; reads a stream; attention joins the two sides in one step | the chain; far words fade inside a sentence | $n$ | $n$ |
# | ConvS2S (Gehring 2017) | training at the same time for all positions | parallel; attention in every decoder layer | many layers to reach far words | $n/k$ | $n/k$ layers |
# | ByteNet (Kalchbrenner 2016) | linear time, on characters | gaps that double: reaches far in few layers | no attention: a far word still passes through many layers | $\log n$ | $\log n$ layers |
# | Extended Neural GPU (Kaiser and Bengio 2016) | algorithms such as long addition; then translation | changes its whole memory at once, by convolution | as many such steps as the input is long | $n/k$ | $n$ |
# | Memory network (Sukhbaatar 2015) | questions about stored facts | looks anywhere in one look (*hop*), and several times | a set: order must be added; a few hops only | 1 | number of hops |
# | **Transformer** (Vaswani 2017) | training speed, short paths | any two words in one step; all positions at once | $n^2$ pairs to compare; order must be added | 1 | number of layers |
#
# Four remarks. For the convolutions both columns count the layers that are needed before two words
# meet. (We write $n/k$ for the order of growth; lesson 01 counted $n/(k-1)$ exactly. Table 1 of the
# paper counts the waiting inside *one* layer, which is a single step for them. For ByteNet we count as
# if its gaps doubled without end; in the article they begin again, lesson 01.)
# The last column is about reading, and about training with teacher forcing. When a
# sentence is *written*, all that translate in this table write one word after the other; the
# Transformer, too. (The memory network answers with one word.) A path of 1 has a price: an average blurs. The paper says so in section 2, and answers with
# several heads (lesson 03). And the table is about what *can* be learned easily, not about what is
# learned: with enough data an RNN with attention translates well, and lesson 09 lets it try.

# %%
check("path_neural_gpu")

# %%
check("new_in_2017")

# %% [markdown]
# ## What you built
#
# | name | takes | gives |
# |---|---|---|
# | `Seq2SeqConfig` | vocabularies, `d_model`, `attention`, `dropout` | the choices, checked |
# | `RNNTranslator` | src (B, S), tgt_in (B, T), masks | logits (B, T, V) |
# | `.encode` · `.decode` · `.project` | src · tgt_in and memory · states | memory (B, S, D) · states (B, T, D) · logits |
# | `.attend` | src, tgt_in, mask | attention weights (B, T, S) |
# | `AdditiveAttention` | query (B, T, D), keys (B, S, D), mask | weights (B, T, S) |
# | `alignment_error_rate` | found, sure and possible links | a number from 0 to 1 |
# | `edit_distance`, `word_accuracy` | two sentences | a count, a number from 0 to 1 |
# | `memory_hop` | question (B, D), memory (B, N, D) twice | new question (B, D), weights (B, N) |
#
# ## Exercises
#
# 1. **By hand (1 of 5, 10 minutes).** Fill the table of `edit_distance` for "a b c" and "b c d" on
#    paper. Which moves does the cheapest way make?
#
#    <details><summary>Answer</summary>
#
#    The distance is 2: delete *a*, keep *b* and *c*, insert *d*.
#
#    | | | b | c | d |
#    |---|---|---|---|---|
#    | | 0 | 1 | 2 | 3 |
#    | a | 1 | 1 | 2 | 3 |
#    | b | 2 | 1 | 2 | 3 |
#    | c | 3 | 2 | 1 | 2 |
#
#    (The distance stands in the last corner. To replace all three words would cost 3.)
#
#    </details>
#
# 2. **A wider bottle (2 of 5, 15 minutes).** Give `train` an argument `width` in place of
#    `by_scale(smoke=96, cpu=96, gpu=128)`, and train `"none"` with twice that width. How much of the gain of
#    attention do you get, and for how many parameters?
#
#    <details><summary>Answer</summary>
#
#    `train("none", width=192)` makes 872,280 parameters; additive attention at width 96 has 302,904. Compare
#    its quarters with those above. Look at the *shape* of the line, too: a wider bottle has room for longer
#    sentences, and behind them the line still falls. Two runs with one seed each can differ by some points.
#
#    </details>
#
# 3. **Read backwards (3 of 5, 20 minutes).** Sutskever et al. turned the source round and gained.
#    In `fixed_vector`, return zeros for the half that comes from the right; train `"none"` again. Then
#    turn the German words round in `examples_of` (`c.de_tokens[::-1]`), make `train_set`, `val_set`
#    and `by_length` anew, and train once more. Why might turning help?
#
#    <details><summary>Answer</summary>
#
#    The mean distance between a German word and its English partner does not change. But read from the right, the
#    *first* German words are read last, one step before the first English words are written: the way for their
#    gradient becomes short. Sutskever et al. explain their gain so. A decoder that begins well also goes on better,
#    since it reads its own words. In `fixed_vector` it is one line more: `torch.zeros_like(from_right[:, 0])`.
#
#    </details>
#
# 4. **An honest rival (4 of 5, 45 minutes).** IBM Model 1 (Brown et al. 1993) learns $p(\text{English
#    word} \mid \text{German word})$ by counting, with no network: link every word to every word,
#    count, weight the links by the counts, count again. Ten lines. Does its AER (section 7, *more*) beat attention's?
#
#    <details><summary>Answer</summary>
#
#    Yes. After each of five counts its AER is 0.33, 0.26, 0.24, 0.24, 0.23; attention has 0.36 (additive) and 0.33
#    (dot). It finds 77 % of the gold links, attention 64 and 65 %. Links are all that Model 1 learns, and it sees
#    each word by itself; attention looks for whatever helps to write the next word.
#
#    ```python
#    p = defaultdict(lambda: 1.0)  # p[English word, German word], all alike
#    for _ in range(5):
#        count, total = Counter(), Counter()
#        for c in train_pairs:
#            for e in c.en_tokens:
#                whole = sum(p[e, d] for d in c.de_tokens)
#                for d in c.de_tokens:
#                    count[e, d] += p[e, d] / whole
#                    total[d] += p[e, d] / whole
#        p = defaultdict(float, {(e, d): n / total[d] for (e, d), n in count.items()})
#    links = [{(max(range(len(c.de_tokens)), key=lambda i: p[e, c.de_tokens[i]]), j)
#              for j, e in enumerate(c.en_tokens)} for c in aligned]
#    ```
#
#    (`from collections import defaultdict`; take the words in lower case.)
#
#    </details>
#
# 5. **Scheduled sampling (4 of 5, 40 minutes).** In `loss_of`, replace a quarter of `tgt_in` by the
#    model's own words. Draw the figure at the end of section 3 (*more*) again.
#
#    <details><summary>Answer</summary>
#
#    Before the loss, replace a quarter of what is read. The model's own words come from a pass without gradient:
#
#    ```python
#    with torch.no_grad():
#        said = model(src, tgt_in, mask_of(src)).argmax(dim=-1)  # (B, T)
#    own = torch.cat([tgt_in[:, :1], said[:, :-1]], dim=1)  # shifted as tgt_in is
#    lot = torch.rand(tgt_in.shape, device=device) < 0.25
#    lot[:, 0] = False  # BOS stays
#    tgt_in = torch.where(lot & (tgt_in != PAD), own, tgt_in)
#    ```
#
#    In the figure look at the distance between the forced line and the free one, and at the forced line itself:
#    what the free decoder gains, the forced one may lose. One run with one seed decides nothing.
#
#    </details>
#
# ## Summary
#
# A sequence-to-sequence model reads with an encoder and writes with a decoder, word by word. It is
# trained with teacher forcing and works on its own words; the difference is the exposure bias. One
# fixed vector is a bottleneck: four times the training mends the short sentences, not the long ones.
# Attention mends them. At each step
# the decoder forms a weighted average of the memory; the weights come from a small network
# (additive) or a dot product (multiplicative). They find well over half of the gold links, more than
# both baselines, although nobody taught them. Memory networks look several times. What remains is the chain: a recurrent
# network must take one step after the other, in time that grows with the length.
#
# ## Summary · 小结
#
# <div lang="zh">
#
# - **序列到序列**（sequence to sequence）模型：**编码器**（encoder）读入源句，
#   **解码器**（decoder）逐词写出译文，每一步都以已写出的词为条件（自回归）。
# - **教师强制**（teacher forcing）：训练时给解码器正确的前文；翻译时它只能读自己写的词。
#   两者的差别造成**暴露偏差**（exposure bias），一步错往往步步错。
# - 把整句压缩成一个定长向量是**瓶颈**（bottleneck）：句子越长，译文质量越差；
#   训练四倍的时间能救短句，救不了长句。
# - **注意力**（attention）让解码器每一步都回头看源句，对各个位置的向量取加权平均。
#   加性注意力（Bahdanau）用一个小网络打分，乘性注意力（Luong）用点积打分。
# - 没有人教过它对齐，注意力却找到了一半以上的标准对齐（由生成语料的语法给出），
#   好于随机对齐和对角线两个基线。
# - **记忆网络**（memory network）可以连看几次；每一“跳”就是点积注意力再加上输入本身。
# - 尚未解决的问题：循环网络必须一步等一步，时间随句长增长，同一句内无法并行。
#   Transformer 的回答是：保留注意力，去掉循环。
#
# </div>
#
# ## Further reading
#
# - Vaswani et al. 2017, *Attention Is All You Need*, arXiv 1706.03762: sections 1 and 2.
# - Kalchbrenner, Blunsom 2013, *Recurrent Continuous Translation Models*; Sutskever, Vinyals, Le 2014, *Sequence to Sequence Learning with Neural Networks*, arXiv
#   1409.3215; Cho et al. 2014, *Learning Phrase Representations using RNN Encoder-Decoder*, arXiv
#   1406.1078: the encoder-decoder. Cho et al. 2014b, *On the Properties of Neural Machine
#   Translation*, arXiv 1409.1259: quality over length.
# - Bahdanau, Cho, Bengio 2014, *Neural Machine Translation by Jointly Learning to Align and
#   Translate*, arXiv 1409.0473; Luong, Pham, Manning 2015, *Effective Approaches to
#   Attention-based Neural Machine Translation*, arXiv 1508.04025: sections 5 and 6 of this page.
# - Williams, Zipser 1989, *A Learning Algorithm for Continually Running Fully Recurrent Neural
#   Networks*; Bengio et al. 2015, *Scheduled Sampling*, arXiv 1506.03099; Ranzato et al. 2015,
#   *Sequence Level Training with Recurrent Neural Networks*, arXiv 1511.06732: section 3.
# - Och, Ney 2003, *A Systematic Comparison of Various Statistical Alignment Models*: AER. Brown et
#   al. 1993, *The Mathematics of Statistical Machine Translation*: the IBM models. Koehn, Knowles
#   2017, *Six Challenges for Neural Machine Translation*, arXiv 1706.03872: where attention is no
#   alignment.
# - Sukhbaatar et al. 2015, *End-To-End Memory Networks*, arXiv 1503.08895; Kaiser, Bengio 2016, *Can
#   Active Memory Replace Attention?*, arXiv 1610.08613; Kalchbrenner et al. 2016, *Neural Machine
#   Translation in Linear Time*, arXiv 1610.10099; Gehring et al. 2017, *Convolutional Sequence to
#   Sequence Learning*, arXiv 1705.03122: the other families.
#
# **Homework.** [Assignment seq2seq](homework/release/seq2seq/seq2seq.ipynb): write additive attention
# yourself; the check names what went wrong.
#
# **Next:** [lesson 03](03_attention.ipynb), attention without recurrence.
