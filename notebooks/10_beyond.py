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
# # 10 · Beyond translation
#
# > One stack of layers, other questions: go on (GPT), fill in (BERT), draw the tree (paper, section 6.3).
#
# **After this lesson you can**
#
# - say what "encoder-only" and "decoder-only" mean, and show that the difference is one mask;
# - train a small GPT and a small BERT from the layers of lesson 05, and say what each one's loss asks;
# - read a loss in nats against three computed lines, and write text by drawing lots;
# - show with a measurement why a model that sees both sides fills a blank better;
# - show what learning from unlabelled text is good for: few labels go further;
# - turn a tree into a sequence and back, let the *unchanged* translator parse, and score it by bracket F1;
# - tell which parts of a model of today stand in the paper, and which came later.
#
# **You need first:** lessons 04 to 08 (two helpers come from 07c and 09b). **Time:** 85 minutes. Five more of computing, on two cores.
# A deeper room: it may be left out at a first reading.
# **In the paper:** sections 6.3 and 7.
#
# The paper ends with a promise: the authors "plan to apply" attention to other tasks than translation. In
# section 6.3 they already do: the same model learns to draw syntax trees. Within two years others cut the
# model in two. One half became GPT, the other BERT. This lesson does all three, with the classes that
# you know, on a laptop.
#
# **Shapes:** B sentences, L tokens (one sentence, so there is no S and T), D width, V vocabulary, n places
# at which something is asked.

# %%
#| export
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course.corpora.captions import constituents
from course.decoding import NextLogProbs, scorer
from course.masking import causal_mask, combine_masks, pad, padding_mask, shift_right
from course.text import BOS, EOS, PAD, UNK
from course.transformer import Encoder, PositionalEncoding, TokenEmbedding, TransformerConfig

# %%
import copy
import math
import random
import time
from functools import partial

from course.attention import record_attention
from course.corpora import captions, choose, pairs
from course.cache import beam_search, cached_log_probs
from course.decoding import greedy_search
from course.device import by_scale, pick
from course.homework import check, compare
from course.inside import word_index
from course.speed import keep_freed_memory
from course.text import BPE, Vocabulary, make_batches, token_batches
from course.training import (
    TrainingConfig,
    apply_gradient,
    linear_learning_rate,
    make_optimizer,
    train_step,
)
from course.transformer import Transformer
from course.viz import bar
from course.viz import beyond as draw
from course.viz.masking import influence, masks

device = pick()
_ = keep_freed_memory()  # lesson 07c: on a CPU, large tensors then cost less

# %% [markdown]
# ## 1 · Three families
#
# What does each half of the Transformer do on its own?
#
# - The **encoder** turns each token into a vector that knows its whole sentence. It writes nothing.
# - The **decoder** writes, word by word. It may look at the source, and at what it has written.
#
# **Guess first:** take the decoder, and let there be no source. Which of its three sub-layers has nothing left
# to do, and what is the rest?

# %% [markdown]
# Cross-attention goes. Masked self-attention and the feed-forward layer remain: that is an *encoder* layer,
# called with another mask. So the famous split into "decoder-only" and "encoder-only" is not about layers at
# all. It is about who may look where, and about what is asked.
#
# | | encoder-decoder | decoder-only | encoder-only |
# |---|---|---|---|
# | known from | this paper; T5, BART | GPT, Llama, most chat models | BERT, embedding models |
# | reads | a source, and its own words | its own words | a whole sentence, with blanks |
# | may see | all of the source; its own past | the past | everything |
# | is asked | the next word, given a source | the next word | the words under the blanks |
# | good for | one text into another | going on: text, dialogue, code | judging, searching, tagging |

# %%
words = ["the", "dog", "runs", "through", "snow"]
past, everything = causal_mask(5)[0, 0], torch.ones(5, 5, dtype=torch.bool)
prefix = past.clone()
prefix[:, :2] = True  # the first two words are given: all may see them
masks(
    {
        "decoder-only: the past": (past, words, words),
        "encoder-only: everything": (everything, words, words),
        "prefix: a given beginning, then the past": (prefix, words, words),
    },
    "The three families differ in who may look where",
    columns=3,
)

# %% [markdown]
# The third picture is the encoder-decoder's rule, laid out in one sequence: a beginning is given (a source, a
# question) and fully visible to itself; what follows is written step by step. With this mask one stack can
# translate, too. Exercise 3 does it.

# %% [markdown]
# ## 2 · One stack for both
#
# An embedding, positions, a stack of encoder layers, a projection with the embedding's own weights
# (section 3.4). That is a whole language model, and it has no opinion on its mask: the caller gives it.

# %%
#| export
class LanguageModel(nn.Module):
    """A stack of encoder layers that scores each word at each place: (B, L) -> logits (B, L, V).

    The mask makes it what it is: causal, as GPT is, or without a future to hide, as BERT is.
    `config.src_vocab` is its vocabulary; embedding and projection share their weights.
    Radford et al. 2018; Devlin et al. 2018.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config.src_vocab, config.d_model)
        self.positions = PositionalEncoding(config)
        self.encoder = Encoder(config)
        for parameter in self.encoder.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def states(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the vector that stands at each token: (B, L) -> (B, L, D)."""
        return self.encoder(self.positions(self.embedding(tokens)), mask)

    def project(self, states: Tensor) -> Tensor:
        """Score every word of the vocabulary: (..., D) -> logits (..., V)."""
        return F.linear(states, self.embedding.weight)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.project(self.states(tokens, mask))


# %% [markdown]
# What a batch has to say is just as short: what is read, who may look where, and what the right answers are.
# Where nothing is asked, the answer is `PAD`.
#
# - **Go on** (causal): at every place the question is the *next* word. All words are questions at once, as
#   in lesson 04, since no place sees its answer.
# - **Fill in** (masked): a place that sees everything sees its answer, too, so the answer must be hidden.
#   BERT asks for 15 % of the words. Most of these (80 %) become the sign `MASK`; some (10 %) become a
#   random word, and some (10 %) stay as they are. Why not all of them `MASK`? Because nobody will
#   ever show it `MASK` in real work: this way *every* word may be one that is asked for, and the model must
#   keep a good vector at each. (BERT was also asked whether one sentence follows another; we leave that out.)
#
# Our tokeniser never writes `UNK` (it falls back to bytes, lesson 06), so that number is free to be `MASK`.

# %%
#| export
MASK = UNK  # the course's BPE never writes it


@dataclass(frozen=True, eq=False)
class LanguageBatch:
    """tokens (B, L): what is read; mask, True = may attend; answers (B, L): PAD asks nothing."""

    tokens: Tensor
    mask: Tensor
    answers: Tensor

    def to(self, device: torch.device | str) -> "LanguageBatch":
        """Return the batch on another device."""
        return LanguageBatch(
            self.tokens.to(device), self.mask.to(device), self.answers.to(device)
        )


def causal_batch(sentences: Sequence[Sequence[int]]) -> LanguageBatch:
    """Ask for the next word everywhere: ids without BOS and EOS, from the first word to EOS."""
    answers = pad([[*ids, EOS] for ids in sentences], PAD)
    tokens = shift_right(answers, BOS)
    mask = combine_masks(padding_mask(tokens, PAD), causal_mask(tokens.size(1)))
    return LanguageBatch(tokens, mask, answers)


# %%
#| export
def masked_batch(
    sentences: Sequence[Sequence[int]],
    vocab: int,
    share: float = 0.15,
    generator: torch.Generator | None = None,
) -> LanguageBatch:
    """Ask for a share of the words, which are hidden; BOS and EOS are read and never asked for.

    Of the words asked for 80 % become MASK, 10 % a word drawn from the vocabulary, 10 % stay.
    Devlin et al. 2018, section 3.1.
    """
    clean = pad([[BOS, *ids, EOS] for ids in sentences], PAD)  # (B, L)
    asked = (clean > MASK) & (torch.rand(clean.shape, generator=generator) < share)
    lot = torch.rand(clean.shape, generator=generator)
    others = torch.randint(MASK + 1, vocab, clean.shape, generator=generator)
    tokens = clean.masked_fill(asked & (lot < 0.8), MASK)
    tokens = torch.where(asked & (lot >= 0.9), others, tokens)
    return LanguageBatch(tokens, padding_mask(clean, PAD), clean.masked_fill(~asked, PAD))


# %%
#| export
def language_loss(model: LanguageModel, batch: LanguageBatch) -> Tensor:
    """Return the cross-entropy in nats, summed over the places that ask."""
    asked = batch.answers != PAD  # (B, L)
    states = model.states(batch.tokens, batch.mask)[asked]  # (n, D)
    return F.cross_entropy(model.project(states), batch.answers[asked], reduction="sum")


# %% [markdown]
# The same loss, the same model. Only the batches differ. The text of this lesson is the English side of the corpus of
# lesson 09, and so is its tokeniser's. (Nothing is translated until section 6.)

# %%
corpus = choose()
english = [en for _, en in pairs(corpus, "train")]
bpe = BPE.learn(english, by_scale(smoke=2000, cpu=5000, gpu=8000))
longest = by_scale(smoke=12, cpu=500, gpu=500)  # for quick tests; on larger scales no caption is left out


def captions_of(split: str, limit: float) -> list[list[int]]:
    """Return the English captions of a split as ids, without those that are too long."""
    texts = (bpe.encode(en) for _, en in pairs(corpus, split))
    return [ids for ids in texts if len(ids) <= longest][: int(limit)]


train_ids = captions_of("train", by_scale(smoke=4000, cpu=29000, gpu=29000))
val_ids = captions_of("val", by_scale(smoke=300, cpu=1014, gpu=1014))
n_words = sum(len(ids) + 1 for ids in train_ids)  # EOS is a word to be said, too
assert all(UNK not in bpe.encode(text) for text in (*english[:1000], "Ein Hündchen 🐕", "<unk>"))
print(f"{corpus}: {len(train_ids):,} captions to learn from, {n_words:,} tokens of {len(bpe):,} kinds; "
      f"{len(val_ids):,} captions held out")

# %% [markdown]
# One sentence, as both of them see it. In the second pair of rows 40 % are asked for, and we take the first seed with which all three
# treatments occur. **Guess first:** which word in the row "fill in" is the random one, and which was asked for but stayed?

# %%
def show_batch(name: str, batch: LanguageBatch) -> None:
    """Print what is read above what is asked."""
    names = [name.strip("▁") for name in (*bpe.names[:MASK], "MASK", *bpe.names[MASK + 1 :])]
    print(f"\n{name:7}", *(f"{names[i]:>7}" for i in batch.tokens[0].tolist()))
    answers = batch.answers[0].tolist()
    print(f"{'answer':7}", *(f"{names[i] if i != PAD else '':>7}" for i in answers))


def treatments(batch: LanguageBatch) -> list[int]:
    """Count what is asked for: blanked, left as it was, replaced by a random word."""
    asked, blank, same = batch.answers != PAD, batch.tokens == MASK, batch.tokens == batch.answers
    return [int((asked & kind).sum()) for kind in (blank, same, ~blank & ~same)]


example = bpe.encode("A dog is running in front of a house.")
going_on = causal_batch([example])
show_batch("go on", going_on)
trials = (masked_batch([example], len(bpe), 0.4, torch.Generator().manual_seed(seed))
          for seed in range(1000))
show_batch("fill in", next(trial for trial in trials if all(treatments(trial))))

# %% [markdown]
# An answer stands under the random word, and under the word that stayed as it was, just as under each `MASK`: all three are
# asked for, and no sign tells the reader which of the visible words are.
#
# Now the claim of section 1: one mask is the whole difference. We ask an *untrained* model how strongly the
# state at place $i$ depends on the word at place $j$, by a gradient, as in lesson 04. Same weights, two masks.

# %%
config = TransformerConfig(
    src_vocab=len(bpe), tgt_vocab=len(bpe), d_model=by_scale(smoke=64, cpu=128, gpu=256), n_heads=4,
    d_ff=4 * by_scale(smoke=64, cpu=128, gpu=256), n_layers=by_scale(smoke=2, cpu=3, gpu=4), dropout=0.0, norm="pre",
)


def dependence(model: LanguageModel, tokens: Tensor, mask: Tensor) -> Tensor:
    """Return how strongly state i reacts to word j: the size of a gradient, (L, L)."""
    model.eval()
    x = model.positions(model.embedding(tokens)).detach().requires_grad_()  # (1, L, D)
    states = model.encoder(x, mask)
    probe = torch.randn(states.size(2), generator=torch.Generator().manual_seed(0)).to(states)
    rows = [torch.autograd.grad(states[0, i] @ probe, x, retain_graph=True)[0][0].norm(dim=-1)
            for i in range(tokens.size(1))]
    return torch.stack(rows)


torch.manual_seed(0)
untrained = LanguageModel(config).to(device)
sentence = going_on.tokens.to(device)
length = sentence.size(1)
open_mask = torch.ones(1, 1, length, length, dtype=torch.bool, device=device)
reactions = {
    "causal mask: a GPT": dependence(untrained, sentence, causal_mask(length, device)),
    "no mask: a BERT": dependence(untrained, sentence, open_mask),
}
influence(reactions, [bpe.names[i] for i in sentence[0].tolist()],
          "The same weights: with the causal mask nothing comes from the future")

# %%
# NBVAL_CHECK_OUTPUT
blind, seeing = reactions.values()
future = torch.ones_like(blind).triu(1).bool()
assert (blind[future] == 0).all() and (blind[~future] > 0).all() and (seeing > 0).all()
print("causal: every word after one's own has a gradient of exactly 0; without the mask, none has")

# %% [markdown]
# ### How large are the famous ones?
#
# You can now count two models that made history, from their published sizes alone. Both have what ours has, and
# a little more: biases in attention, learned positions, and, in BERT, a vector for "first or second
# sentence", one more norm behind the embedding and a last layer (the *pooler*) that reads a whole text off its
# first token.

# %%
# NBVAL_CHECK_OUTPUT
def stack_size(d: int, n_layers: int) -> int:
    """Return the parameters of layers with four times wider feed-forward, biases everywhere."""
    attention = 4 * (d * d + d)  # queries, keys, values, output
    feed_forward = (d * 4 * d + 4 * d) + (4 * d * d + d)
    norms = 2 * 2 * d  # gain and bias, twice
    return n_layers * (attention + feed_forward + norms)


d = 768
gpt_2 = 50_257 * d + 1024 * d + stack_size(d, 12) + 2 * d  # words, positions, layers, last norm
bert = (30_522 + 512 + 2) * d + 2 * d + stack_size(d, 12) + (d * d + d)
assert gpt_2 == 124_439_808 and bert == 109_482_240
print(f"GPT-2 small: {gpt_2:,}   BERT base: {bert:,}   both: 12 layers with {stack_size(d, 12):,}")

# %% [markdown]
# The layers of the two have the same number of parameters, to the last one. What differs: the vocabulary, the edges, the place of the
# norms (section 7), and the mask. Say it in one sentence; answer by `check("bert_gpt_difference", "b")`.

# %%
check("bert_gpt_difference")

# %% [markdown]
# ## 3 · Go on: a small GPT
#
# ### Three lines to read a loss against
#
# A loss of 3 nats: is that good? Compute what simpler models reach, *before* you train.
#
# 1. **Uniform**: knows nothing. Each of $V$ words has probability $1/V$: $\ln V$ nats.
# 2. **Unigram**: knows how frequent each word is.
# 3. **Bigram**: knows how frequent each word is *after the word before it*. Word $v$ came $n(v)$ times, and $n(v, w)$ times $w$
#    followed it. Most pairs never came, so we imagine ten more followers, spread as the unigram $p(w)$ spreads
#    them: $\frac{n(v, w) + 10\, p(w)}{n(v) + 10}$.
#
# What lies below the third line, this bigram cannot say: it comes from further back, or from words that resemble each other.

# %%
flat = [w for ids in train_ids for w in (*ids, EOS)]
counts = Counter(flat)
after = Counter(pair for ids in train_ids for pair in zip((BOS, *ids), (*ids, EOS)))
before = Counter(v for ids in train_ids for v in (BOS, *ids))


def unigram(word: int) -> float:
    """Return the probability of a word; each of the vocabulary has been seen once more."""
    return (counts[word] + 1) / (len(flat) + len(bpe))


def bigram(previous: int, word: int) -> float:
    """Return the probability of a word after another one."""
    return (after[previous, word] + 10 * unigram(word)) / (before[previous] + 10)


asked = [(v, w) for ids in val_ids for v, w in zip((BOS, *ids), (*ids, EOS))]
lines = {
    "uniform": math.log(len(bpe)),
    "unigram": -sum(math.log(unigram(w)) for _, w in asked) / len(asked),
    "bigram": -sum(math.log(bigram(v, w)) for v, w in asked) / len(asked),
}
assert lines["bigram"] < lines["unigram"] < lines["uniform"]
print("nats a token on held-out captions:", {name: round(value, 2) for name, value in lines.items()})

# %% [markdown]
# ### Training
#
# The loop is lesson 07's, shortened: Adam, a rate that rises and falls, batches of similar lengths. There is no dropout: in a few
# passes a model this small cannot learn the text by heart. `ask` turns sentences into a batch; it alone decides whether a GPT or
# a BERT comes out.

# %%
def learn(ask, epochs: int, seed: int = 0) -> tuple[LanguageModel, list[tuple[float, float]]]:
    """Train a fresh model on what `ask` asks; return it, and (passes, loss on val) as it went."""
    torch.manual_seed(seed)
    model = LanguageModel(config).to(device)
    optimizer = make_optimizer(model, TrainingConfig())
    lengths = [len(ids) + 2 for ids in train_ids]
    plan = [b for e in range(epochs) for b in token_batches(lengths, by_scale(smoke=400, cpu=800, gpu=2000), e)]
    every, curve = max(1, len(plan) // 8), []
    for step, chosen in enumerate(bar(plan, "batch"), start=1):
        model.train()
        batch = ask([train_ids[i] for i in chosen]).to(device)
        n_asked = max(1, int((batch.answers != PAD).sum()))
        loss = language_loss(model, batch) / n_asked
        optimizer.zero_grad()
        loss.backward()
        rate = linear_learning_rate(step, (step - 1) / len(plan), peak=4e-3, warmup=len(plan) // 20 + 1)
        apply_gradient(model, optimizer, rate, clip=1.0, loss=loss.item())
        if step % every == 0 or step == len(plan):
            curve.append((step / len(plan) * epochs, mean_loss(model, ask)))
    return model.eval(), curve


@torch.no_grad()
def mean_loss(model: LanguageModel, ask) -> float:
    """Return the loss of a model on held-out captions, in nats for each question."""
    model.eval()
    total, n = 0.0, 0
    for chosen in token_batches([len(ids) + 2 for ids in val_ids], 2000):
        batch = ask([val_ids[i] for i in chosen]).to(device)
        total += language_loss(model, batch).item()
        n += int((batch.answers != PAD).sum())
    return total / n


begun = time.perf_counter()
passes = by_scale(smoke=10, cpu=4, gpu=12)
gpt, gpt_curve = learn(causal_batch, passes)
n_parameters = sum(p.numel() for p in gpt.parameters())
print(f"{n_parameters:,} parameters, {time.perf_counter() - begun:.0f} s; "
      f"held out: {gpt_curve[-1][1]:.2f} nats a token")

# %%
draw.loss_ladder(gpt_curve, lines, "The GPT falls below what counting pairs can do")

# %%
# NBVAL_CHECK_OUTPUT
final = gpt_curve[-1][1]
assert final < lines["bigram"] < lines["unigram"] < lines["uniform"]
print("held-out loss: GPT < bigram < unigram < uniform")

# %% [markdown]
# ### Writing
#
# A decoder-only model fits the searches of lesson 08 as it is: they want a function that scores the next word.

# %%
#| export
def next_word(model: LanguageModel) -> NextLogProbs:
    """Return the score function of a causal model: prefixes (n, t), each from BOS on -> (n, V)."""

    def read(prefixes: Tensor, rows: Tensor) -> Tensor:
        return model.states(prefixes, causal_mask(prefixes.size(1), prefixes.device))[:, -1]

    return scorer(model, read)


# %% [markdown]
# **Guess first:** a translator wants the likeliest sentence. Should somebody who *writes*, too?

# %%
score = next_word(gpt)
greedy = greedy_search(score, 1, 40, device)[0]
widest = beam_search(score, 1, 40, beam=8, alpha=0.0, device=device)[0][0]
print("greedy:", bpe.decode(greedy))
print("beam 8:", bpe.decode(widest.ids))

# %% [markdown]
# That is what it says, always. A beam looks for a text that is likelier still, and without a length penalty that is often a shorter
# one (lesson 08); if the two lines are equal, it found none. The likeliest text is a text without surprise. People do not write so: each word of theirs carries some
# information. So a writer **draws lots**, or *samples*: word $w$ with its probability $p(w)$. Two knobs are common.
#
# - **Temperature** $\tau$: draw from $\mathrm{softmax}(\ln p / \tau)$. Below 1 it leans to the likely words (near 0 it is
#   greedy), above 1 to the unlikely ones.
# - **Nucleus**, or top-$p$ (Holtzman et al. 2019): leave out the long tail. Keep the fewest likeliest words that
#   together hold at least $p$ of the probability, and draw among them.

# %%
#| export
def nucleus(log_probs: Tensor, top_p: float) -> Tensor:
    """Return log-probabilities (n, V) with -inf for all but the likeliest that hold `top_p`.

    The likeliest word always stays. Holtzman et al. 2019.
    """
    if top_p >= 1:
        return log_probs
    ordered, words = log_probs.sort(-1, descending=True)
    likelier = ordered.exp().cumsum(-1) - ordered.exp()  # what stands before each word
    kept = ordered.masked_fill(likelier >= top_p, -torch.inf)
    kept[:, 0] = ordered[:, 0]
    return torch.empty_like(log_probs).scatter(-1, words, kept)


# %%
#| export
@torch.no_grad()
def sample(
    score: NextLogProbs,
    n_texts: int,
    max_len: int,
    prompt: Sequence[int] = (),
    temperature: float = 1.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> list[list[int]]:
    """Draw texts word by word after a prompt; return their ids, the prompt's too, without EOS.

    A text ends with EOS or after `max_len` tokens. Raises ValueError for a temperature that is
    not positive (greedy search is the limit at 0) or a `top_p` outside (0, 1].
    """
    if not (temperature > 0 and 0 < top_p <= 1):
        raise ValueError(f"temperature={temperature}, top_p={top_p}: give a temperature above 0 "
                         "and a share above 0, up to 1")
    texts = [[*prompt] for _ in range(n_texts)]
    rows = torch.arange(n_texts, device=device)  # texts that are still being written
    prefixes = torch.tensor([[BOS, *prompt]] * n_texts, device=device)  # (n, t)
    while len(rows) and prefixes.size(1) <= max_len:
        log_probs = (score(prefixes, rows) / temperature).log_softmax(-1)  # (n, V)
        token = torch.multinomial(nucleus(log_probs, top_p).exp(), 1, generator=generator)
        live = token[:, 0] != EOS
        rows, prefixes = rows[live], torch.cat([prefixes, token], dim=1)[live]
        for row, word in zip(rows.tolist(), prefixes[:, -1].tolist()):
            texts[row].append(word)
    return texts


# %%
lots = torch.Generator(device).manual_seed(0)
prompt = bpe.encode("A little girl")
for temperature, top_p in ((0.5, 1.0), (1.0, 0.9), (1.0, 1.0), (1.5, 1.0)):
    print(f"\ntemperature {temperature}, top-p {top_p}")
    for ids in sample(score, 2, 40, prompt, temperature, top_p, lots, device):
        print("   ", bpe.decode(ids))

# %% [markdown]
# Which of the four writes most like a person? One sign of it can be measured: how *surprised* the model is, in nats a
# token, at texts of each kind. For people's captions that is the held-out loss. For its own texts, drawn
# without any knob, it should be about the same, if the model knows how uncertain it is.

# %%
def surprise(texts: list[list[int]], limit: int | None = None) -> float:
    """Return the GPT's mean loss on texts, in nats a token; one cut at `limit` never said EOS."""
    batch = causal_batch(texts).to(device)
    if limit:
        batch.answers[:, limit:] = PAD
    with torch.no_grad():
        return language_loss(gpt, batch).item() / int((batch.answers != PAD).sum())


settings = {"temperature 0.5": (0.5, 1.0), "top-p 0.9": (1.0, 0.9), "as it is": (1.0, 1.0),
            "temperature 1.5": (1.5, 1.0)}
n_texts = by_scale(smoke=40, cpu=100, gpu=200)
texts = {name: sample(score, n_texts, 40, (), *knobs, lots, device)
         for name, knobs in settings.items()}
found = {"greedy": greedy, "beam 8": list(widest.ids)}
if found["greedy"] == found["beam 8"]:
    found = {"greedy and beam 8": greedy}  # one text, one bar
likeliest = {name: surprise([text]) for name, text in found.items()}
surprises = likeliest | {name: surprise(written, limit=40) for name, written in texts.items()}
draw.surprises(surprises, surprise(val_ids), "The likeliest text is not a typical one")

# %%
people = surprise(val_ids)
drawn = surprises["as it is"]
assert surprises["temperature 0.5"] < drawn < surprises["temperature 1.5"]
assert max(likeliest.values()) < drawn and abs(drawn / people - 1) < 0.25
print(f"nats a token: searched for {max(likeliest.values()):.2f}, drawn {drawn:.2f}, people {people:.2f}")

# %% [markdown]
# Equal surprise does not make a text good (read the third pair again). But a text far below the line is not a typical one.
#
# Greedy search is right where one answer is wanted, as in translation: there the source has already said what
# comes. Where the next word is truly open, drawing is honest; a little caution (top-p 0.9) leaves out the tail, where most slips come
# from, and some variety with it.
#
# > **Try it.** Set the temperature to 0.1, then to 5. What does the text turn into at each end? At an infinite temperature every word is
# > drawn equally often: why does the surprise then lie even above the line "uniform"? (Who is surprised, the one who draws or the GPT?)
#
# <details><summary>Answer</summary>
#
# At 0.1 nearly all lots fall on the likeliest word: it becomes greedy search, and writes one text. At 5 the words are nearly
# independent of each other. The GPT is surprised, and it is not uniform: it gives most words far less than $1/V$. The mean of
# $-\ln p(w)$ over words drawn evenly is $\ln V$ plus the distance (Kullback-Leibler) from the even distribution to the GPT's, which is
# never negative: so it lies above the line by construction.
#
# </details>

# %% [markdown]
# ## 4 · Fill in: a small BERT
#
# The same text, the same sizes, the same loop. The other batch: this makes it a *masked* language model, where the
# GPT is a *causal* one.
#
# **Guess first:** BERT's loss is counted at 15 % of the words, GPT's at all of them. Which of the two learns more from one
# pass over the text?

# %% [markdown]
# One would expect the GPT: from each pass it gets more answers. So that the two can be compared, both make the same number of
# passes; but we ask for 30 % instead of 15.

# %%
lots = torch.Generator().manual_seed(0)
begun = time.perf_counter()
bert_model, bert_curve = learn(
    lambda sentences: masked_batch(sentences, len(bpe), share=0.3, generator=lots), passes
)
print(f"{time.perf_counter() - begun:.0f} s; held out: {bert_curve[-1][1]:.2f} nats a question")

# %% [markdown]
# Fill in the blank! `[MASK]` stands for one token. The right context is the same kind of thing to this model as the
# left one, so change only what comes *after* the blank:

# %%
def fill_in(text: str, k: int = 5) -> list[tuple[str, float]]:
    """Return the k likeliest tokens, with probabilities, for the one [MASK] of a text, a word."""
    left, right = text.split("[MASK]")
    first = bpe.encode(left.rstrip()) if left.strip() else []
    stand_in = len(bpe.encode("x"))  # a word in its place keeps the spaces around it right
    rest = bpe.encode(left + "x" + right)[len(first) + stand_in :]
    tokens = torch.tensor([[BOS, *first, MASK, *rest, EOS]], device=device)
    with torch.no_grad():
        probabilities = bert_model(tokens)[0, 1 + len(first)].softmax(-1)
    best = probabilities.topk(k)
    return [(bpe.names[i], p) for i, p in zip(best.indices.tolist(), best.values.tolist())]


blanks = [
    "A man is playing a [MASK] on stage.",
    "A man is playing a [MASK] of chess.",
    "A dog is [MASK] through the snow.",
    "A dog is [MASK] on the sofa.",
    "Children are [MASK] in the pool.",
    "Children are [MASK] at a table.",
]
filled = {text: fill_in(text) for text in blanks}
first = [words[0][0] for words in filled.values()]  # of two texts side by side only the end differs
differ = sum(a != b for a, b in zip(first[::2], first[1::2]))
assert corpus != "multi30k" or differ >= by_scale(smoke=0, cpu=2, gpu=2)
draw.blanks(filled, "What follows the blank decides, too")

# %% [markdown]
# (With the small corpus some of these words were never read; then the bars say little.)
#
# Does seeing both sides really pay, or are these six sentences well chosen? A race between two models that have read the same text
# equally often: in each held-out caption three places, chosen at random. The GPT must say the token there from what stands to the left. The BERT has it blanked,
# and sees the rest. And a third contestant: the same BERT, with everything to the right blanked, too.

# %%
def hit_rate(model: LanguageModel, questions: list[tuple[list[int], int, int]], causal: bool) -> float:
    """Return the share of questions (tokens, place, answer) whose answer the model puts first."""
    hits = 0
    for k in range(0, len(questions), 100):
        part = questions[k : k + 100]
        tokens = pad([ids for ids, _, _ in part], PAD).to(device)
        mask = padding_mask(tokens, PAD)
        mask = combine_masks(mask, causal_mask(tokens.size(1), device)) if causal else mask
        places = torch.tensor([place for _, place, _ in part], device=device)
        with torch.no_grad():
            states = model.states(tokens, mask)[torch.arange(len(part), device=device), places]
        best = model.project(states).argmax(-1).tolist()
        hits += sum(word == answer for word, (_, _, answer) in zip(best, part))
    return hits / len(questions)


chance = random.Random(0)
asked = [(ids, chance.randrange(len(ids))) for ids in val_ids for _ in range(3)]
rates = {
    "GPT, sees the left": hit_rate(gpt, [([BOS, *ids], i, ids[i]) for ids, i in asked], causal=True),
    "BERT, the right side blanked": hit_rate(
        bert_model,
        [([BOS, *ids[:i], *[MASK] * (len(ids) - i), EOS], i + 1, ids[i]) for ids, i in asked],
        causal=False,
    ),
    "BERT, sees both sides": hit_rate(
        bert_model,
        [([BOS, *ids[:i], MASK, *ids[i + 1 :], EOS], i + 1, ids[i]) for ids, i in asked],
        causal=False,
    ),
}
print({name: f"{rate:.1%}" for name, rate in rates.items()}, f"of {len(asked):,} tokens")

# %%
left, half, both = rates.values()
assert both > left and both > half
print(f"both sides: {100 * (both - left):+.1f} points over the GPT, {100 * (both - half):+.1f} over itself "
      "with the right side blanked")

# %% [markdown]
# (So many blanks in a row it has hardly met in training: the middle number is a little unfair to it. The GPT has no such excuse.)

# %%
check("bert_writes")

# %%
check("bert_signal")

# %% [markdown]
# ## 5 · What is that good for? Few labels go further
#
# Nobody needs a machine that guesses blanked words. BERT was made for something else. Its blanks are a
# *pretext*: to fill them a model must come to know grammar and meaning, and it needs no labels for that, only text.
# This first part is called **pre-training**. After that comes **fine-tuning**: the model is trained a little more, on
# the real task, for which there are few labels.
#
# Our real task: the **part of speech** of each word (`NN` noun, `VBG` -ing form, `IN` preposition, ...), the first
# step of a grammar. The course's own captions come with gold trees (the grammar that wrote them knows their trees), so the
# right tags are known.

# %%
# NBVAL_CHECK_OUTPUT
def with_tags(split: str) -> list[tuple[captions.Caption, list[str]]]:
    """Return the captions of a split, each with the part of speech of each English word."""
    return [(c, re.findall(r"\(([^\s()]+) [^\s()]+\)", c.tree)) for c in captions.load(split)]


tagged = with_tags("train")
tag_of = {tag: i for i, tag in enumerate(sorted({tag for _, tags in tagged for tag in tags}))}
uses: dict[str, set[str]] = {}
for c, tags in tagged:
    for word, tag in zip(c.en_tokens, tags, strict=True):
        uses.setdefault(word.lower(), set()).add(tag)
shown, tags = tagged[3]
print(" ".join(f"{word}/{tag}" for word, tag in zip(shown.en_tokens, tags)))
print(f"{len(uses)} words, {len(tag_of)} tags; words with two tags:",
      {word: sorted(found) for word, found in uses.items() if len(found) > 1})

# %% [markdown]
# In this corpus nearly every word has one tag only; context decides for five of them. So a **dictionary** would do, if it
# were complete: the most frequent tag of each word that has a label, and `NN` for all others. That is the baseline, and it says
# what is hard: with labels for four captions most of the different words have none. **Guess first:** can a model know that *juggling* is
# a `VBG` if nobody ever labelled that word?

# %% [markdown]
# The head is one linear map on the state of each word's *last* token. Everything is trained, the stack with a
# small rate, a few dozen steps. (The same recipe for all; from random weights a longer training would do
# better.) There are three ways to begin: with random weights, with the GPT (which keeps its causal mask), with the
# BERT.

# %%
def tagging_batch(chosen) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens (B, L), where each word ends (n, 2) and its tag (n,) for tagged captions."""
    rows, ends, answers = [], [], []
    for row, (caption, tags) in enumerate(chosen):
        ids, number = bpe.encode(caption.en), word_index(bpe, caption.en)
        assert number[-1] + 1 == len(tags), "words and tags would shift"
        last = {word: 1 + i for i, word in enumerate(number)}  # BOS stands at 0
        rows.append([BOS, *ids, EOS])
        ends += [(row, last[word]) for word in range(len(tags))]
        answers += [tag_of[tag] for tag in tags]
    return pad(rows, PAD).to(device), torch.tensor(ends).to(device), torch.tensor(answers).to(device)


def states_at_ends(model: LanguageModel, tokens: Tensor, ends: Tensor, causal: bool) -> Tensor:
    """Return the state of each word's last token, (n, D)."""
    mask = padding_mask(tokens, PAD)
    mask = combine_masks(mask, causal_mask(tokens.size(1), device)) if causal else mask
    return model.states(tokens, mask)[ends[:, 0], ends[:, 1]]


def dictionary_accuracy(labelled, judged) -> float:
    """Return the share of right tags of a dictionary made from the labelled captions."""
    seen: dict[str, Counter[str]] = {}
    for caption, tags in labelled:
        for word, tag in zip(caption.en_tokens, tags):
            seen.setdefault(word.lower(), Counter())[tag] += 1
    said = [(seen[w.lower()].most_common(1)[0][0] if w.lower() in seen else "NN", tag)
            for caption, tags in judged for w, tag in zip(caption.en_tokens, tags)]
    return sum(ours == tag for ours, tag in said) / len(said)


def tag_accuracy(start: LanguageModel, causal: bool, labelled, judged, seed: int) -> float:
    """Fine-tune a copy on a few labelled captions; return the share of right tags on others."""
    torch.manual_seed(seed)
    model, head = copy.deepcopy(start).train(), nn.Linear(config.d_model, len(tag_of)).to(device)
    optimizer = torch.optim.Adam([{"params": model.parameters(), "lr": 5e-4},
                                  {"params": head.parameters(), "lr": 5e-3}])
    tokens, ends, answers = tagging_batch(labelled)
    for _ in range(by_scale(smoke=60, cpu=40, gpu=60)):
        loss = F.cross_entropy(head(states_at_ends(model, tokens, ends, causal)), answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    tokens, ends, answers = judged
    with torch.no_grad():
        said = head(states_at_ends(model, tokens, ends, causal)).argmax(-1)
    return (said == answers).float().mean().item()


pool = random.Random(0).sample(tagged, 700)
others = with_tags("val")[:300]
judged = tagging_batch(others)
amounts, seeds = (4, 16, 64), range(by_scale(smoke=1, cpu=3, gpu=5))
portions = [[pool[100 * seed : 100 * seed + n] for seed in seeds] for n in amounts]
torch.manual_seed(1)
starts = {"random weights": (LanguageModel(config).to(device), False),
          "GPT, sees the left": (gpt, True), "BERT, sees both sides": (bert_model, False)}
accuracy = {"a dictionary": [[dictionary_accuracy(p, others) for p in row] for row in portions]}
for name, (start, causal) in starts.items():
    accuracy[name] = [[tag_accuracy(start, causal, p, judged, seed) for seed, p in enumerate(row)]
                      for row in portions]
draw.few_labels(amounts, accuracy, "Who has read before needs fewer labels")

# %%
means = {name: [sum(runs) / len(runs) for runs in rows] for name, rows in accuracy.items()}
dictionary, fresh, from_gpt, from_bert = (row[:2] for row in means.values())
assert all(min(g, b) > f for f, g, b in zip(fresh, from_gpt, from_bert))
share = by_scale(smoke=0.95, cpu=1, gpu=1)  # the quick run's small models do not reach a dictionary
assert all(g > share * d for d, g in zip(dictionary, from_gpt))
print("labelled captions:", amounts)
for name, row in means.items():
    print(f"{name:22}", "  ".join(f"{a:.1%}" for a in row))

# %% [markdown]
# Both that have read are ahead of random weights, and the GPT is ahead of the dictionary, too, which calls every word
# without a label `NN`. A likely reason: words that stand in the same places got similar vectors from plain text, so one
# labelled word teaches its neighbours. That is what the blanks, and the next words, were for.
#
# Which of the two readers is better here? Look before you believe what you have heard about BERT. Two things may speak for the GPT: most
# words need no context at all, so the second side is worth little; and it was asked at every word of each pass, the BERT at
# 30 %. (At larger size, on tasks with sentences and questions, BERT beat the first GPT: Devlin et al. 2018, tables 1 and 4.)

# %% [markdown]
# ## 6 · Draw the tree: parsing as translation (section 6.3)
#
# Now back to the whole Transformer, with both halves. Is it good for anything but translation? The authors took a task that
# looks quite different: **constituency parsing**. The answer is no sentence but a tree, it is longer than the
# question, and it obeys strict rules: each bracket closes, and no word may be lost.
#
# The trick is Vinyals' (2015). Write the tree as a sequence, and parsing *is* translation, into a language of brackets.
# The words themselves need not be repeated: each becomes the sign `XX`.

# %%
#| export
def linearise(tree: str) -> list[str]:
    """Return a bracketed tree as symbols: "(NP" opens, ")NP" closes, XX stands for each word.

    Vinyals et al. 2015. Raises ValueError where the brackets do not balance.
    """
    symbols: list[str] = []
    opened: list[str] = []
    for token in re.findall(r"\([^\s()]+ [^\s()]+\)|\([^\s()]+|\)", tree):
        if token == ")":
            if not opened:
                raise ValueError(f"a bracket closes that was not opened: {tree}")
            symbols.append(")" + opened.pop())
        elif token.endswith(")"):
            symbols.append("XX")
        else:
            opened.append(token[1:])
            symbols.append(token)
    if opened:
        raise ValueError(f"({opened[-1]} is never closed: {tree}")
    return symbols


# %%
#| export
def as_tree(symbols: Sequence[str], words: Sequence[str]) -> str:
    """Return the bracketed tree that symbols spell over words; the parts of speech are all XX.

    Raises ValueError that says what is wrong: a bracket that closes another one, an empty one, one
    left open, no tree or two, or another number of XX than of words.
    """
    text: list[str] = []
    opened: list[str] = []
    rest = list(words)
    for i, symbol in enumerate(symbols):
        if i and not opened:
            raise ValueError(f"the tree ends before {symbol}, symbol {i + 1} of {len(symbols)}")
        if not i and not symbol.startswith("("):
            raise ValueError(f"a tree begins with a bracket that opens, not with {symbol}")
        if symbol == "XX":
            if not rest:
                raise ValueError(f"more XX than the {len(words)} words")
            text.append(f" (XX {rest.pop(0)})")
        elif symbol.startswith("("):
            opened.append(symbol[1:])
            text.append(" " + symbol)
        elif symbol[1:] != opened[-1] or text[-1].endswith("(" + opened[-1]):
            what = "is empty" if symbol[1:] == opened[-1] else f"is closed by {symbol}"
            raise ValueError(f"({opened[-1]} {what}, symbol {i + 1} of {len(symbols)}")
        else:
            opened.pop()
            text.append(")")
    if opened or rest:
        raise ValueError(f"left over: {len(opened)} open brackets and {len(rest)} words")
    return "".join(text).strip()


# %%
# NBVAL_CHECK_OUTPUT
tree = "(S (NP (DT A) (NN dog)) (VP (VBZ sleeps) (PP (IN on) (NP (DT a) (NN bench)))) (. .))"
symbols = linearise(tree)
print(" ".join(symbols))
back = as_tree(symbols, ["A", "dog", "sleeps", "on", "a", "bench", "."])
assert constituents(back) == constituents(tree) and linearise(back) == symbols
print(constituents(tree))

# %% [markdown]
# The second line is what will be judged: each **constituent** is a label, the place of its first word, and the place after its last one
# (counted from 0). For a prediction the score counts three things, over all sentences: the brackets that are
# right (same label, same span), those predicted, those in the gold tree.
#
# $$\text{precision} = \frac{\text{right}}{\text{predicted}}, \qquad \text{recall} = \frac{\text{right}}{\text{gold}}, \qquad
# F_1 = \frac{2 \cdot \text{right}}{\text{predicted} + \text{gold}} .$$
#
# This is the *bracket F1* of the paper's Table 4. (The program that computes it there, `evalb`, leaves punctuation
# out of the spans, and takes `ADVP` and `PRT` for the same; we do neither.)

# %%
#| export
Bracket = tuple[str, int, int]  # label, first word, the word after the last


@dataclass(frozen=True)
class BracketScore:
    """Brackets counted over a corpus: right ones, predicted ones, those of the gold trees."""

    right: int
    predicted: int
    gold: int

    @property
    def f1(self) -> float:
        """Return the harmonic mean of precision and recall, 0 to 1."""
        return 2 * self.right / max(1, self.predicted + self.gold)


def bracket_score(
    predicted: Sequence[Sequence[Bracket]], gold: Sequence[Sequence[Bracket]], labelled: bool = True
) -> BracketScore:
    """Compare the brackets of each sentence; a bracket that comes twice counts twice.

    A prediction that is no tree has no brackets: []. Raises ValueError for two lists of different
    lengths. Black et al. 1991.
    """
    if len(predicted) != len(gold):
        raise ValueError(f"{len(predicted)} predictions for {len(gold)} gold trees")
    cut = 0 if labelled else 1
    right = 0
    for ours, theirs in zip(predicted, gold):
        right += (Counter(b[cut:] for b in ours) & Counter(b[cut:] for b in theirs)).total()
    return BracketScore(right, sum(map(len, predicted)), sum(map(len, gold)))


# %% [markdown]
# Count one by hand: "children watch dogs on beds". In the gold tree the watching happens on beds; suppose that the parser hangs "on beds"
# on the dogs. **Guess first:** how many of the six gold brackets does it still get?

# %%
mine = None  # your guess: 0 to 6

# %%
# NBVAL_CHECK_OUTPUT
who, where = "(NP (NNS children))", "(PP (IN on) (NP (NNS beds)))"
gold = constituents(f"(S {who} (VP (VBP watch) (NP (NNS dogs)) {where}))")
other = constituents(f"(S {who} (VP (VBP watch) (NP (NP (NNS dogs)) {where})))")
print("gold ", gold)
print("other", other)
judged_by_hand = bracket_score([other], [gold])
assert judged_by_hand.right == len(gold) == 6 and bracket_score([gold], [gold]).f1 == 1
assert math.isclose(judged_by_hand.f1, 2 * 6 / (7 + 6))
print(judged_by_hand, f"F1 {judged_by_hand.f1:.3f}")
compare(mine, judged_by_hand.right, "10: gold brackets left after a wrong attachment")

# %% [markdown]
# All six: this wrong attachment costs a single added bracket. A high F1 can hide a wrong meaning.

# %%
check("parsing_linear")

# %% [markdown]
# ### Training the parser
#
# The source is the words of a caption, the target the symbols of its tree. The model is the `Transformer` of lesson 05, the
# batches are lesson 06's, the step is lesson 07's. Nothing is added.

# %%
def parsing_examples(split: str, limit: int) -> list[tuple[list[int], list[int]]]:
    """Return the captions of a split as (word ids, symbol ids), both ending in EOS."""
    return [([*vocabulary.encode(c.en_tokens), EOS], [*symbol_vocabulary.encode(linearise(c.tree)), EOS])
            for c in captions.load(split)[:limit]]


n_trees = by_scale(smoke=3000, cpu=12000, gpu=12000)
trees = captions.load("train")[:n_trees]
vocabulary = Vocabulary.from_sentences([c.en_tokens for c in trees])
symbol_vocabulary = Vocabulary.from_sentences([linearise(c.tree) for c in trees])
parser_config = TransformerConfig(
    src_vocab=len(vocabulary), tgt_vocab=len(symbol_vocabulary), d_model=128, n_heads=4, d_ff=256, n_layers=2,
    dropout=0.0, norm="pre", tie_embeddings=False,
)
examples = parsing_examples("train", n_trees)
longer = sum(len(tgt) > len(src) for src, tgt in examples) / len(examples)
print(f"{len(examples):,} trees, {len(vocabulary):,} words, {len(symbol_vocabulary)} symbols: "
      f"{' '.join(symbol_vocabulary.tokens[4:])}")
print(f"the target is the longer side in {longer:.0%} of the examples")

# %%
def train_parser(epochs: int, seed: int = 0) -> tuple[Transformer, list[float]]:
    """Train a fresh parser; return it, and the loss of each step in nats a symbol."""
    torch.manual_seed(seed)
    model = Transformer(parser_config).to(device)
    recipe = TrainingConfig(label_smoothing=0.0)
    optimizer = make_optimizer(model, recipe)
    plan = [b for e in range(epochs) for b in make_batches(examples, by_scale(smoke=400, cpu=800, gpu=2000), e)]
    losses = []
    for step, batch in enumerate(bar(plan, "batch"), start=1):
        rate = linear_learning_rate(step, (step - 1) / len(plan), peak=2e-3, warmup=len(plan) // 20 + 1)
        losses.append(train_step(model, [batch.to(device)], optimizer, rate, recipe)[0])
    return model.eval(), losses


begun = time.perf_counter()
parser, losses = train_parser(by_scale(smoke=3, cpu=3, gpu=6))
print(f"{time.perf_counter() - begun:.0f} s, {len(losses)} steps, last loss {losses[-1]:.3f} nats a symbol")

# %% [markdown]
# ### Is each answer a tree?
#
# Nothing in the model knows what a bracket is. It may stop too early, close what was never opened, or lose count of the words.
# `as_tree` refuses such answers. **Guess first:** how many answers of a hundred are trees?

# %%
mine = None  # your guess, in percent

# %%
test = captions.load("test")[: by_scale(smoke=100, cpu=500, gpu=500)]


def parse(sentences, beam: int = 1, alpha: float = 0.3, wrap=None) -> tuple[list[str | None], Counter]:
    """Return the tree of each sentence (words), None where the answer is none, and the reasons.

    wrap: what is put around the score function; it gets that, and each sentence's number of words.
    """
    found: list[str | None] = [None] * len(sentences)
    reasons: Counter[str] = Counter()
    waiting = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    for k in range(0, len(waiting), 50):
        part = waiting[k : k + 50]
        source = pad([[*vocabulary.encode(sentences[i]), EOS] for i in part], PAD).to(device)
        cached = cached_log_probs(parser, source)
        score = wrap(cached, [len(sentences[i]) for i in part]) if wrap else cached
        limits = [len(sentences[i]) + 300 for i in part]  # the paper's limit
        hypotheses = beam_search(score, len(part), limits, beam, alpha, device, cached.follow)
        for i, best in zip(part, hypotheses):
            try:
                found[i] = as_tree(symbol_vocabulary.decode(best[0].ids), sentences[i])
            except ValueError as error:
                reasons[re.sub(r"\d+", "N", re.sub(r", symbol.*", "", str(error)))] += 1
    return found, reasons


free, reasons = parse([c.en_tokens for c in test])
n_free = sum(tree is not None for tree in free)
print(f"of {len(test)} captions never seen, {n_free} answers are trees")
print("the others, most frequent first:", dict(reasons.most_common(4)))
compare(mine, 100 * n_free / len(test), "10: answers that are trees, percent")

# %%
check("parsing_wellformed")

# %% [markdown]
# ### Only what can go on
#
# The rules of brackets are known, so why leave them to chance? Before each choice, give every symbol that cannot
# come next the score $-\infty$. (We also let at most four brackets open in a row, so that it must come to an end.) Then, *whatever* the
# weights are, a tree comes out. The symbols that remain keep their scores. If they were made to sum to 1 again, a step
# that the rules force would cost nothing, and a beam would prefer trees that the model itself holds to be unlikely. In the same way a chat model of today is made to
# answer in valid JSON: **constrained decoding**.

# %%
#| export
def may_follow(symbols: Sequence[str], n_words: int, most_opened: int = 4) -> Callable[[str], bool]:
    """Return a test of what may come after a beginning of a tree over `n_words` words.

    most_opened: so many brackets may open in a row, else a weak model opens them for ever.
    """
    if "</s>" in symbols:
        return lambda symbol: symbol == "</s>"
    opened: list[str] = []
    left, run = n_words, 0
    for symbol in symbols:
        run = run + 1 if symbol.startswith("(") else 0
        if symbol == "XX":
            left -= 1
        elif symbol.startswith("("):
            opened.append(symbol[1:])
        else:
            opened.pop()
    closable = bool(opened) and run == 0 and (len(opened) > 1 or left == 0)

    def fits(symbol: str) -> bool:
        if not opened:
            return symbol == "</s>" if symbols else symbol.startswith("(")
        if symbol == "XX":
            return left > 0
        if symbol.startswith("("):
            return left > 0 and run < most_opened
        return closable and symbol == ")" + opened[-1]

    return fits


def only_trees(names: Sequence[str], score: NextLogProbs, n_words: Sequence[int]) -> NextLogProbs:
    """Return the score function, with -inf for what cannot go on to a tree.

    What may come keeps its score: the total of a tree stays the model's own log-probability.
    names: the symbol of each id, "</s>" for EOS; n_words: of each source sentence.
    """

    def strict(prefixes: Tensor, rows: Tensor) -> Tensor:
        log_probs = score(prefixes, rows)  # (n, V)
        allowed = []
        for prefix, row in zip(prefixes.tolist(), rows.tolist()):
            fits = may_follow([names[i] for i in prefix[1:]], n_words[row])
            allowed.append([fits(name) for name in names])
        forbidden = ~torch.tensor(allowed, device=log_probs.device)
        return log_probs.masked_fill(forbidden, -torch.inf)

    return strict


# %%
# NBVAL_CHECK_OUTPUT
begun_tree = ["(S", "(NP", "XX", "XX"]
for n in (2, 3):
    fits = may_follow(begun_tree, n)
    allowed = [s for s in ("(NP", "(VP", "XX", ")NP", ")S", "</s>") if fits(s)]
    print(f"{' '.join(begun_tree)} ... over {n} words may go on with: {' '.join(allowed)}")
for symbols in (linearise(c.tree) for c in trees[:500]):  # the rules forbid no tree of ours
    assert all(may_follow(symbols[:i], symbols.count("XX"))(s) for i, s in enumerate(symbols))

# %%
constrain = partial(only_trees, symbol_vocabulary.tokens)
parsed, reasons = parse([c.en_tokens for c in test], wrap=constrain)
assert all(parsed) and not reasons
gold = [constituents(c.tree) for c in test]
said = [constituents(tree) for tree in parsed]
exact = sum(ours == theirs for ours, theirs in zip(said, gold))
print(f"{len(parsed)} of {len(test)} answers are trees, {exact} of them the gold one")

# %%
wrong = [i for i in range(len(test)) if said[i] != gold[i]]
same = sum([b[0] for b in said[i]] == [b[0] for b in gold[i]] for i in wrong)
print(f"{len(wrong)} wrong trees, {same} of them with all labels right and in order: only spans differ")
pick_one = min(wrong, key=lambda i: len(gold[i])) if wrong else 0
draw.bracketings(test[pick_one].en_tokens, gold[pick_one], said[pick_one],
               "The shortest caption that it gets wrong" if wrong else "A tree of the parser")

# %% [markdown]
# Orange is what only one of the two has. A tree with the right labels in the right order and wrong spans has most likely
# lost count; some of the others misunderstand a phrase.
#
# ### Compared with what?
#
# An F1 of 90 % sounds good; but brackets are easy to guess. Three parsers that read no word:
#
# - **flat**: one bracket around everything;
# - **right-branching**: English opens to the right, so each word begins a bracket that lasts to the last word
#   before the full stop;
# - **by length**: the most frequent tree among the training captions of the same length.
#
# The first two have no labels to offer but S, so all are also compared without.

# %%
def right_branching(n: int) -> list[Bracket]:
    """Return the brackets of a sentence of n words, the last of which is its full stop."""
    return [("S", 0, n), *(("X", i, n - 1) for i in range(n - 2))]


shapes: dict[int, Counter[tuple[Bracket, ...]]] = {}
for c in trees:
    shapes.setdefault(len(c.en_tokens), Counter())[tuple(constituents(c.tree))] += 1
usual = {n: list(found.most_common(1)[0][0]) for n, found in shapes.items()}
lengths = [len(c.en_tokens) for c in test]
systems = {
    "flat": [[("S", 0, n)] for n in lengths],
    "right-branching": [right_branching(n) for n in lengths],
    "by length": [usual.get(n, [("S", 0, n)]) for n in lengths],
    "Transformer, free": [constituents(tree) if tree else [] for tree in free],
    "Transformer, only trees": said,
}
table = {name: [bracket_score(answers, gold, labelled).f1 for labelled in (True, False)]
         for name, answers in systems.items()}
draw.parsing_bars(table, "The translator has learned to parse")

# %%
ours, unlabelled = table["Transformer, only trees"]
know_nothing = max(f1 for name in ("flat", "right-branching", "by length") for f1 in table[name])
assert unlabelled >= ours > know_nothing
print(f"bracket F1 on held-out captions: {ours:.1%}, without labels {unlabelled:.1%}; "
      f"right-branching without labels {table['right-branching'][1]:.1%}")
print(f"without the constraint {table['Transformer, free'][0]:.1%}")

# %% [markdown]
# Compare the last two pairs of bars. The constraint guarantees the *form*: every answer is a tree now. It does not tell the model what it
# did not know: an answer that lost count becomes a tree with wrong spans. Whoever builds on valid JSON should remember that.

# %%
check("parsing_f1")

# %% [markdown]
# The paper decodes with beam 21 and $\alpha = 0.3$, and lets the answer be 300 symbols longer than the question. **Guess
# first:** in lesson 08 a beam sometimes helped and sometimes hurt. Here?

# %%
mine = None  # "helps", "hurts" or "neither"

# %%
few = range(0, len(test), max(1, len(test) // 100))
wide, _ = parse([test[i].en_tokens for i in few], beam=21, wrap=constrain)
of_beam = bracket_score([constituents(tree) for tree in wide], [gold[i] for i in few]).f1
of_greedy = bracket_score([said[i] for i in few], [gold[i] for i in few]).f1
print(f"F1 on {len(few)} captions: greedy {of_greedy:.2%}, beam 21 {of_beam:.2%}")
verdict = "helps" if of_beam > of_greedy else "hurts" if of_beam < of_greedy else "neither"
compare(mine, verdict, "10: what beam 21 does to the parser")

# %% [markdown]
# Where greedy search is nearly perfect there is little to gain: at most what is missing to 100 %. Of that rest the beam may repair a
# part. Few captions are compared, so do not trust the last digits.
#
# ### How does it count?
#
# To write one `XX` for each word, it must know how far it is. Ask its cross-attention, as in lesson 09b: when the
# parser says `XX` for word $i$, how much of its weight lies on that word, and on its neighbours? A head that looks nowhere in particular has
# $1/S$ there, with $S$ tokens in the source.

# %%
def while_saying_words(words: Sequence[str], tree: str) -> Tensor:
    """Return the last layer's cross-attention while each word's XX is said: (H, words, words + 1)."""
    symbols = linearise(tree)
    source = torch.tensor([[*vocabulary.encode(words), EOS]], device=device)
    read = torch.tensor([[BOS, *symbol_vocabulary.encode(symbols)]], device=device)
    with record_attention(parser) as seen, torch.no_grad():
        parser(source, read, None, causal_mask(read.size(1), device))
    weights = seen[f"decoder.layers.{parser_config.n_layers - 1}.cross_attention"][0]  # (H, T, S)
    return weights[:, [i for i, symbol in enumerate(symbols) if symbol == "XX"]].cpu()


looks = [while_saying_words(c.en_tokens, c.tree) for c in test[:100]]
offsets = range(-5, 6)  # of the word looked at from the word that is due
at = {offset: torch.cat([w.diagonal(offset, dim1=1, dim2=2) for w in looks if w.size(1) > 5], dim=1)
      for offset in offsets}  # (H, places) each
profile = torch.stack([weights.mean(1) for weights in at.values()], dim=1)  # (H, offsets)
nowhere = sum(1 / w.size(2) for w in looks) / len(looks)
peaks = [place - 5 for place in profile.argmax(1).tolist()]  # of each head, from the word that is due
place, n = Counter(peaks).most_common(1)[0]
where = {-1: "at the word before the one that is due", 0: "at the word that is due", 1: "at the word after it"}
draw.looked_at(offsets, profile, nowhere,
               f"{n} of {len(peaks)} heads look most {where.get(place, f'{place:+d} words away')}")

# %%
best = profile.amax(1)  # (H,)
head = int(best.argmax())
assert best[head] > 2 * nowhere and abs(peaks[head]) <= 1
print(f"over {len(looks)} captions the sharpest head, {head + 1}, has {best[head]:.0%} of its weight {where[peaks[head]]}; "
      f"a head that looks nowhere has {nowhere:.0%} on each")
print("peaks of the heads, from the word that is due:", peaks)

# %% [markdown]
# The weight moves on with each word, and nobody told it to. It need not lie on the word that is due (with each of two other seeds, one
# head of four looked most at the word before): to know how far one is, the last word that was said serves as well. Whether the
# parser *counts* by it, only an intervention could tell (lesson 09b).
#
# What did the authors get? On real English, the Wall Street Journal with 40,000 trees, four layers of width 1024: 91.3 % F1
# with these trees alone (the best in Table 4: 91.7 %), 92.7 % with about 17 million more sentences that other parsers had parsed (the best of
# all: 93.3 %), although nobody told it what a tree is. Our captions come out of a small grammar, so our number is much easier to
# get; do not compare the two.
#
# > **Try it.** Train on captions of at most 12 words, test on longer ones. What breaks first, the labels or the
# > counting? Does `positions="learned"` do better or worse?
#
# <details><summary>Answer</summary>
#
# Look at the reasons that `parse` counts: "left over" and "more XX" are lost counts, a bracket "closed by" another one is a
# lost label. With learned positions one thing is certain before any run: the vectors of places that no training caption
# reached are as random as at the start. Sinusoids at least go on by a rule; whether the layers have learned to use it
# there, only your run can tell.
#
# </details>

# %% [markdown]
# ## 7 · What is left of the paper?
#
# Seven years after the paper, an open model of eight billion parameters (Llama 3, 2024). Go through your lessons, and tick off:
#
# | part (lesson) | the paper, 2017 | BERT, 2018 | GPT-2, 2019 | Llama 3 8B, 2024 |
# |---|---|---|---|---|
# | $\mathrm{softmax}(QK^T/\sqrt{d_k})V$, in heads (03) | yes | yes | yes | yes; four query heads share one pair of keys and values |
# | mask (04) | causal in the decoder | padding only | causal | causal |
# | positions (05) | sines, added once | learned, added once | learned, added once | queries and keys turned in every layer (RoPE) |
# | residual and norm (05) | post | post | pre | pre, without the mean (RMSNorm) |
# | feed-forward (05) | ReLU, 4 times wider | GELU, 4 times | GELU, 4 times | a gate (SwiGLU), 3.5 times |
# | tokens (06) | BPE, 37,000 (English-German) | word pieces, 30,522 | bytes BPE, 50,257 | bytes BPE, 128,256 |
# | optimizer (07) | Adam, warmup | Adam, warmup | not stated (GPT: Adam, warmup) | AdamW, warmup |
# | dropout, label smoothing (07) | 0.1, 0.1 | 0.1, none | not stated (GPT: 0.1, none) | none in the released model |
# | read in training | 4.5 million pairs (English-German) | 3.3 billion words | 40 GB of text | 15 trillion tokens |
#
# (GELU is a ReLU with a round corner; a gate multiplies two linear maps, one of them bent by such a curve first.) The first row has hardly
# changed. Most of the others are a few lines of code. The sizes can be checked by counting:

# %%
# NBVAL_CHECK_OUTPUT
d, layers, query_heads, key_heads, d_k, d_ff, vocab = 4096, 32, 32, 8, 128, 14_336, 128_256
attention = 2 * d * query_heads * d_k + 2 * d * key_heads * d_k  # queries, output; keys, values
gated = 3 * d * d_ff  # a third matrix: the gate
llama = 2 * vocab * d + layers * (attention + gated + 2 * d) + d  # embeddings not tied; norms
# keys and values of a token, 2 bytes each, in KiB
cache = {heads: 2 * layers * heads * d_k * 2 // 1024 for heads in (query_heads, key_heads)}
assert llama == 8_030_261_248 and cache == {32: 512, 8: 128}
print(f"Llama 3 8B: {llama:,} parameters")
print(f"KV cache of a token in 16 bits: {cache[32]} KiB with keys for every head, {cache[8]} KiB shared by four")

# %% [markdown]
# Why do heads share keys? Lesson 08b knows: whoever writes has to keep the keys and values of all that is written. Of a text of
# 8,000 tokens these are 4 GB with keys for every head and 1 GB with shared ones, for every reader at the same
# time.
#
# And why did the decoder win? A common answer: not because it sees more, for at the blank the reader of both sides was
# better. But every text is a lesson for it, at every word, and any task can be *written down* as a text to be continued: a
# translation, a question, a program. Half of what the authors had built for translation turned out to be enough.

# %%
check("layers_kept")

# %% [markdown]
# ## What you built
#
# | name | takes | gives |
# |---|---|---|
# | `LanguageModel` | tokens (B, L), a mask | logits (B, L, V); `states` (B, L, D) |
# | `LanguageBatch`, `causal_batch`, `masked_batch` | sentences of ids | tokens (B, L), mask, answers (B, L) |
# | `language_loss` | model, batch | nats, summed over the places that ask |
# | `next_word` | a causal model | a score function for lesson 08's searches |
# | `nucleus`, `sample` | log-probabilities (n, V); a score function | the likeliest; texts drawn by lot |
# | `linearise`, `as_tree` | a bracketed tree; symbols and words | symbols; a tree, or what is wrong |
# | `may_follow`, `only_trees` | a beginning; a score function | what may come next; the same scores, trees only |
# | `bracket_score` | predicted and gold brackets | right, predicted, gold; `f1` |
#
# ## Exercises
#
# 1. **How much to blank? (2 of 5, 20 minutes.)** Train the BERT with 5, 15, 40 and 80 % blanked. Do not compare the
#    losses (why not?), but the hit rates of section 4. Wettig et al. (2022) found 15 % too few for large models.
#
#    <details><summary>Answer</summary>
#
#    Pass `share=` to `masked_batch`, and ask all four the questions `asked`. The losses are of different questions: with 80 %
#    blanked each blank has less context, so the loss is higher even for a model that knows more. A larger share gives
#    more answers a pass, and each from less context: somewhere between lies the best one for your number of passes.
#
#    </details>
# 2. **A format of your own (3 of 5, 30 minutes).** Write a `may_follow` for something else: the GPT of section 3 shall write captions
#    of exactly eight words, or without the letter *e*. What does the constraint cost, in nats a token?
#
#    <details><summary>Answer</summary>
#
#    Wrap `next_word(gpt)` as `only_trees` wraps the parser: `log_probs.masked_fill(forbidden, -torch.inf)`. For *e*, forbidden are all
#    tokens with an e in `bpe.names`; for eight words, `</s>` before the eighth word has ended, and after it every token that
#    begins a new one (`▁`). The cost: `surprise` of the texts with the constraint, minus that of texts drawn without.
#
#    </details>
# 3. **Translate with one stack (4 of 5, 60 minutes).** One sequence: German, `EOS`, English. The prefix mask of section 1, a loss on
#    the English half only. How far from lesson 09's small model is it at equal parameters?
#
#    <details><summary>Answer</summary>
#
#    The idea: tokens `[*german, EOS, BOS, *english]`, answers `PAD` everywhere but on the English half, and a mask that is the padding mask
#    and (the causal mask or "the key is in the German half"). Count the parameters first: one stack has no
#    cross-attention, so it may have more layers. Judge it with lesson 09's `evaluate`, three seeds each.
#
#    </details>
# 4. **RMSNorm, SwiGLU, RoPE (4 of 5, 45 minutes).** Write each as a module that fits `EncoderLayer`. Which of them lowers the
#    GPT's loss here, at equal parameters and passes? Take three seeds (lesson 09c).
#
#    <details><summary>Answer</summary>
#
#    RMSNorm: `gain * x * (x.pow(2).mean(-1, keepdim=True) + eps).rsqrt()`. SwiGLU: `w_2(F.silu(w_1(x)) * w_3(x))`, with $d_{ff}$ two thirds
#    as wide, since it has three matrices. RoPE: turn each pair of components of query and key by an angle that is position times a
#    frequency; test it by the claim that a score depends on the distance alone.
#
#    </details>
#
# ## Summary · 小结
#
# - Decoder-only and encoder-only are the same layers with another mask, and another question.
# - GPT asks for the next word everywhere; BERT asks for blanked words. Loss and model are the same.
# - Read a loss against lines that you can compute: uniform, unigram, bigram.
# - The likeliest text is not a typical one: search where one answer is wanted, draw lots where many are.
# - Who sees both sides fills a blank better; what is learned from plain text makes few labels go further.
# - Whatever can be written as a sequence can be learned as a translation, a tree too. Score it by its
#   brackets, against baselines that read no word.
# - The attention formula is unchanged to this day; positions, norms, activation and sizes have changed.
#
# <div lang="zh">
#
# **小结**
#
# - “仅解码器”和“仅编码器”用的是同样的层，区别在于掩码和所问的问题。
# - GPT 在每个位置都预测下一个词；BERT 预测被遮住的词。模型和损失函数是一样的。
# - 看损失要对照能算出来的基线：均匀分布、一元语法、二元语法。
# - 概率最大的文本并不是典型的文本：只有一个合适答案时用搜索，合适的答案很多时用采样。
# - 能看到两侧，填空就比只看左侧更准；从无标注文本中学到的知识，能让少量标注更管用。
# - 凡是能写成序列的，都可以当作翻译来学，树也不例外。评分时比较括号（bracket F1），并与不看词语的基线相比。
# - 注意力公式至今未变；变的是位置编码、归一化、激活函数和规模。
#
# </div>
#
# ## Further reading
#
# - Radford, Narasimhan, Salimans, Sutskever 2018, *Improving Language Understanding by Generative Pre-Training*;
#   Radford et al. 2019, *Language Models are Unsupervised Multitask Learners*.
# - Devlin, Chang, Lee, Toutanova 2018, *BERT*, arXiv 1810.04805; Wettig, Gao, Zhong, Chen 2022, *Should You Mask 15% in
#   Masked Language Modeling?*, arXiv 2202.08005.
# - Raffel et al. 2019, *Exploring the Limits of Transfer Learning* (T5: families and masks compared), arXiv 1910.10683.
# - Holtzman, Buys, Du, Forbes, Choi 2019, *The Curious Case of Neural Text Degeneration*, arXiv 1904.09751.
# - Vinyals et al. 2015, *Grammar as a Foreign Language*, arXiv 1412.7449; Black et al. 1991, *A Procedure for
#   Quantitatively Comparing the Syntactic Coverage of English Grammars*, H91-1060.
# - Su et al. 2021 (RoPE), arXiv 2104.09864; Zhang and Sennrich 2019 (RMSNorm), arXiv 1910.07467; Shazeer 2020 (gates),
#   arXiv 2002.05202; Ainslie et al. 2023 (shared keys), arXiv 2305.13245; Grattafiori et al. 2024, *The Llama 3 Herd of
#   Models*, arXiv 2407.21783.
#
# **Homework.** The exercises above; and [the exam](homework/release/exam/exam.ipynb), if you have not yet dared.
#
# **Next:** the paper itself, from top to bottom: [the walkthrough](walkthrough.ipynb); and when a model of yours
# will not work, [the clinic](11_clinic.ipynb).
