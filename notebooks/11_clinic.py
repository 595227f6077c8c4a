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
# # 11 · The clinic
#
# > From a paper to code that works: reading other people's code, and finding what is wrong with your own.
#
# Your first Transformer will not work. It will not crash either: shapes fit, the loss falls, and the
# translations are bad, or good for a wrong reason. Courses say "collect your errors and solve them one by
# one", and then leave you alone with it. This page does not.
#
# **After this lesson you can**
#
# - judge a repository before you build on it, and read it from its entry point to its last tensor;
# - examine a model in a fixed order, each step a tool of a few lines;
# - tell sixteen mistakes apart that people really make, those that look dead and those that look healthy.
#
# **You need first:** lessons 03 to 08. **Time:** 50 minutes.
# **In the paper:** nothing. It is what stands between the paper and a program.
#
# A deeper room: it may be skipped at first reading.

# %%
#| export
import math
import random
from collections.abc import Sequence
from functools import cache
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from course.attention import record_attention
from course.decoding import bleu, greedy_search
from course.masking import causal_mask, combine_masks, pad, padding_mask, shift_right
from course.text import BOS, BPE, PAD, encode_pairs
from course.training import label_smoothed_loss, linear_learning_rate, load_weights, weights_of
from course.transformer import Transformer, TransformerConfig

# %%
from course.device import by_scale
from course.homework import check, compare, patient
from course.homework.illnesses import TOOLS, illnesses
from course.homework.patients import sick
from course.viz import clinic as draw

steps = by_scale(smoke=80, cpu=120, gpu=120)

# %% [markdown]
# ## 1 · Somebody else's code
#
# You look for an implementation and find a hundred. Stars count visitors, not correctness. Five minutes of
# looking say more. Here they are for the two best-known ones, *The Annotated Transformer*
# (`harvardnlp/annotated-transformer`, below **AT**, as of commit `debc9fd`) and
# `jadore801120/attention-is-all-you-need-pytorch` (**JA**, commit `132907d`), both read for this page:
#
# | ask | how | AT | JA |
# |---|---|---|---|
# | May I use it? | LICENSE | MIT | MIT |
# | Is it alive? | date of the last commit | May 2022 | February 2021 |
# | Does it test itself? | a folder `tests`, what CI runs | CI checks the style of the code, no test | no test, no CI |
# | Can I still install it? | requirements, pins | torch 1.11, torchtext 0.12 | Python 3.6, torch 1.3.1; torchtext is used and not listed |
# | What does it claim? | a score, with its metric | prints translations, no score for its own run | loss, perplexity, accuracy; "Testing: coming soon" |
# | Is it finished? | search for TODO, "not ready", open issues | code for tied weights stands below `if False` | README: translation after BPE is "not ready" |
#
# None of this says that the code is bad. Both have taught more people than this course ever will. It says what
# *you* would have to check before you build on it.
#
# ### An environment for an old repository
#
# A **pin** names one version: `torch==1.11.0`. Without pins hardly anything from 2019 could still be run.
# The best-known broken case is **torchtext**. Both repositories get their data through it. It is retired; its last release (0.18, April
# 2024) loads beside torch 2.3 only, and with a newer torch it stops with `undefined symbol`. JA imports
# `torchtext.data.Field`, which later releases do not have. So:
#
# 1. Never install an old project's requirements into the environment that you work in. A new one: `python -m venv old`.
# 2. Take the Python of that time; wheels exist for pairs of Python and package.
# 3. Take *all* versions from one date. With torchtext: torch 2.3.1, torchtext 0.18.0, torchdata 0.7.1, `numpy<2` and portalocker go
#    together on Python 3.11 (this course keeps them in `requirements-torchtext.txt`).
# 4. If the data loader is all that is broken, write your own and keep the model: to read two files line by line is no art.

# %%
check("clinic_pins")

# %% [markdown]
# ## 2 · From the entry point to the tensor
#
# Do not read a repository from its first file to its last. Go down in four steps, and stop as soon as you know what you came for:
# **entry point** (what does the README tell me to run? which function is called?), **model tree**, **shapes**, **one tensor**.
# We do it on our own model; it works on any.
#
# *The tree:* printing a PyTorch model shows its parts. Two levels are enough. And count: where are the parameters?

# %%
#| export
WHO = "ein Hund=a dog|eine Frau=a woman|das Kind=the child|der Mann=the man|ein Koch=a cook"
DOES = "sieht=sees|malt=paints|findet=finds|sucht=looks for"
WHAT = "ein Buch=a book|eine Blume=a flower|den Hut=the hat|einen Stein=a stone|die Uhr=the clock"
WHERE = "im Park=in the park|am See=at the lake|im Haus=in the house|auf der Wiese=on the meadow"
WHEN = "heute=today|morgen=tomorrow|oft=often|abends=in the evening"


@cache
def world() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the clinic's sentences, German and English: those to train on, and 60 held out.

    Some held-out sentences speak of a fox, which no other one does.
    """
    def pairs(who: str) -> list[tuple[str, str]]:
        parts = ([w.split("=") for w in words.split("|")] for words in (who, DOES, WHAT, WHERE, WHEN))
        return [(f"{when[0]} {does[0]} {who[0]} {where[0]} {what[0]}",
                 f"{who[1]} {does[1]} {what[1]} {where[1]} {when[1]}")
                for who, does, what, where, when in product(*parts)]

    known, fox = pairs(WHO), pairs("ein Fuchs=a fox")
    dice = random.Random(11)
    dice.shuffle(known)
    return known[54:], known[:54] + dice.sample(fox, 6)

@cache
def pieces_of(sides: tuple[str, ...], size: int) -> BPE:
    return BPE.learn(sides, size)


def learned(pairs: Sequence[tuple[str, str]], size: int) -> BPE:
    """Return the pieces of both sides of some pairs; the same pairs are learned once."""
    return pieces_of(tuple(side for pair in pairs for side in pair), size)


# %%
#| export
class Case:
    """A small translator and the loop that trains it. This one is healthy; a patient has one
    method, or one module of its model, that is not as it should be.

    A batch is (src (B, S), tgt_in (B, T), tgt_out (B, T)).
    """

    vocab, smoothing, peak, warmup, size = 500, 0.1, 1e-2, 15, 16

    def __init__(self, steps: int, seed: int = 0) -> None:
        self.train, self.held_out = world()
        self.steps, self.seed, self.losses = steps, seed, []
        self.bpe = self.learn_pieces()
        torch.manual_seed(seed)
        self.model = self.build()
        self.optimizer = self.make_optimizer()

    def fresh(self) -> "Case":
        """Return the same case as it was before training."""
        return type(self)(self.steps, self.seed)

    def learn_pieces(self) -> BPE:
        return learned(self.train, self.vocab)

    def build(self) -> Transformer:
        return Transformer(TransformerConfig(
            len(self.bpe), len(self.bpe), d_model=32, n_heads=4, d_ff=64, n_layers=2, norm="pre"))

    def make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.model.parameters(), lr=0.0, betas=(0.9, 0.98), eps=1e-9)

    def rate(self, step: int) -> float:
        return linear_learning_rate(step, step / (self.steps + 1), self.peak, self.warmup)

    def batch(self, pairs: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor, Tensor]:
        src, tgt = zip(*encode_pairs(self.bpe, pairs))
        tgt_out = pad(tgt, PAD)
        return pad(src, PAD), shift_right(tgt_out, BOS), tgt_out

    def masks(self, src: Tensor, tgt_in: Tensor) -> tuple[Tensor, Tensor]:
        causal = causal_mask(tgt_in.size(1))
        return padding_mask(src, PAD), combine_masks(padding_mask(tgt_in, PAD), causal)

    def logits(self, src: Tensor, tgt_in: Tensor) -> Tensor:
        return self.model(src, tgt_in, *self.masks(src, tgt_in))

    def loss(self, src: Tensor, tgt_in: Tensor, tgt_out: Tensor) -> Tensor:
        real = tgt_out != PAD
        logits = self.logits(src, tgt_in)
        return label_smoothed_loss(logits[real], tgt_out[real], self.smoothing) / real.sum()

    def step(self, *batch: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(len(self.losses) + 1)
        self.optimizer.zero_grad()
        loss = self.loss(*batch)
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item())

    def fit(self) -> "Case":
        """Train for all steps, and return the case."""
        dice = random.Random(self.seed)
        self.model.train()
        while len(self.losses) < self.steps:
            self.step(*self.batch(dice.sample(self.train, self.size)))
        return self

    def eval(self) -> None:
        self.model.eval()

    @torch.no_grad()
    def evaluate(self, pairs: Sequence[tuple[str, str]] | None = None) -> float:
        """Return the loss of held-out pairs, without dropout and without smoothing."""
        self.eval()
        smoothing, self.smoothing = self.smoothing, 0.0
        loss = self.loss(*self.batch(pairs or self.held_out)).item()
        self.smoothing = smoothing
        return loss

    @torch.no_grad()
    def translate(self, sentences: Sequence[str]) -> list[str]:
        self.eval()
        src = self.batch([(sentence, "") for sentence in sentences])[0]
        written = greedy_search(lambda prefixes, rows: self.logits(src[rows], prefixes)[:, -1],
                                len(src), 24)
        return [self.bpe.decode(ids) for ids in written]

    def bleu(self) -> float:
        """Return the corpus BLEU of greedy translations of the held-out sentences."""
        sources, references = zip(*self.held_out)
        return bleu([text.split() for text in self.translate(sources)],
                    [text.split() for text in references])

# %% [markdown]
# You have just met the model, and the loop that trains it. Read the class once: it is lessons 04 to 08 in
# 90 lines, each step a method of its own, so that later *one* of them can be wrong. The sentences are those of
# `world`: five people do four things with five objects, somewhere, some time. In German the time comes first and the object last.
#
# *Tree and parameters:*

# %%
# NBVAL_CHECK_OUTPUT
healthy = Case(steps)
for name, part in healthy.model.named_children():
    print(f"{name:14} {type(part).__name__:19} {sum(p.numel() for p in part.parameters()):6,}")
total = sum(p.numel() for p in healthy.model.parameters())
assert total == 56_832
print("all, each once:", f"{total:,}")

# %% [markdown]
# The parts add up to more than the whole: `src_embedding`, `tgt_embedding` and `w_vocab` are *one* matrix (tied). A count that differs from
# the paper's formula is the cheapest finding there is.
#
# *Shapes:* a **hook** is a function that PyTorch calls when a module has finished. It sees what goes in and what comes out, and the
# code under examination stays as it is.

# %%
# NBVAL_CHECK_OUTPUT
src, tgt_in, tgt_out = healthy.batch(healthy.held_out[:4])
shapes = {}
hooks = [module.register_forward_hook(lambda m, i, out, name=name: shapes.update({name: tuple(out.shape)}))
         for name, module in healthy.model.named_modules() if name.count(".") < 3 and name]
healthy.logits(src, tgt_in)
for hook in hooks:
    hook.remove()
for name, shape in shapes.items():
    if "layers.1" not in name:
        print(f"{name:34} {shape}")
assert shapes["decoder"] == (*tgt_in.shape, 32) and shapes["w_vocab"] == (*tgt_in.shape, len(healthy.bpe))

# %% [markdown]
# *One tensor:* take one word of one sentence and follow it by hand to the point that you doubt. Here: is the first
# decoder state really the vector of `<s>` times $\sqrt{d}$, plus position 0? In unknown code this is the question that finds a missing
# scale.

# %%
healthy.model.eval()
embedded = healthy.model.tgt_embedding(tgt_in)[0, 0]
by_hand = healthy.model.tgt_embedding.weight[BOS] * math.sqrt(32)
at_bottom = healthy.model.positions(healthy.model.tgt_embedding(tgt_in))[0, 0]
assert torch.allclose(embedded, by_hand) and torch.allclose(at_bottom[1::2], by_hand[1::2] + 1)
print("scaled by √32, and position 0 adds 0 to even columns and 1 to odd ones")

# %% [markdown]
# ### What the two chose
#
# With these four steps we read AT and JA, and put their choices beside ours. Nothing here is a matter of taste alone: each row can cost
# you a day when you load weights of one into the other.
#
# | choice | AT | JA | here |
# |---|---|---|---|
# | their names for `MultiHeadAttention`, `w_q`, `FeedForward` | `MultiHeadedAttention`, `linears[0]`, `PositionwiseFeedForward` | `MultiHeadAttention`, `w_qs`, `PositionwiseFeedForward` | those |
# | norm | pre: x + f(norm(x)), one more at the stack's end (its text says post; a comment says that this is simpler) | post, and one on the embeddings | both, by `norm=` |
# | what LayerNorm divides by | std of n - 1 terms, plus 1e-6 outside the root | root of variance plus 1e-6 | root of variance plus 1e-5 |
# | mask | True or 1 = may attend; others get -1e9 | the same | True = may attend; -inf, an empty row gives zeros |
# | biases in the projections of attention | yes | no | no |
# | dropout also on attention's weights | yes | yes | no |
# | embeddings | times √d; table drawn by Xavier | as they are; *logits* are divided by √d where weights are tied (default of the class) | times √d; drawn as N(0, 1/d) |
# | tied weights | no | by two switches; off in `train.py` unless asked | all three, by default |
# | smoothing ε goes to | V - 2 words: not the right one, not padding | the V - 1 other words | all V |
# | the loss behind the gradient | sum over the batch / its tokens | sum over the batch | sum / tokens of the whole step |
# | schedule moves | at every *batch*, though a step takes ten of them | at every step | at every step |
# | averaged | a function is there, nothing calls it | nothing: the best epoch is kept | the last snapshots |
# | vocabulary from | train, val *and test*, words seen twice | train | train |
# | decoding | greedy | beam 5, divided by length^0.7 | both; the paper's penalty |
# | reported | smoothed loss; five translations | loss, perplexity and accuracy, each told the right words before | BLEU with its signature |
#
# A careful reader finds more. In JA the class divides logits by √d in `forward`. Its `Translator` does not call `forward`; it calls
# decoder and projection, and the division is left out. The best next word stays the same; the *sum* of log-probabilities, by which beams are
# compared, does not. And `translate.py` builds the model without the switch that training had for it. In AT `average` asks for
# `m.params()`, which no module has: a function that is never called is never wrong. (All this is what the source says; we have not run
# it.)

# %%
check("clinic_unscaled_search")

# %% [markdown]
# ## 3 · The order of debugging
#
# Do not look at translations first, and do not change the learning rate first. Ask questions with *known answers*, the cheapest
# first. Seven questions; each is a function that takes a case, makes a fresh one of it where that is needed, and gives back a number.
#
# **One: does it start as one who knows nothing?** Before training, V words are equally likely: the loss is about $\ln V$.
#
# **Guess first:** with tied weights drawn as N(0, 1/d) the logits have variance 1 at the start. Does the loss lie
# above ln V, below, or on it?

# %%
mine = None  # "above", "below" or "on it"

# %%
#| export
def start(case: Case) -> float:
    """Return by how many nats the first loss lies above ln V, the loss of one who knows nothing."""
    case = case.fresh()
    return case.evaluate() - math.log(len(case.bpe))

# %%
lies = start(healthy)
assert 0.2 < lies < 1
print(f"ln V = {math.log(len(healthy.bpe)):.2f}; the first loss lies {lies:+.2f} nats from it")
compare(mine, "above", "11: first loss and ln V")

# %% [markdown]
# Above, by about half the variance of the logits: to guess at random costs more than to know that one does not know. More than 1
# nat above: logits too large, look at the scale. *Below:* the model knows the answer already. That is never good news.
#
# > **Try it.** Make a loud case: a class `Loud(Case)` whose `build` multiplies the table, `model.src_embedding.weight.data *= 3`.
#
# <details><summary>Answer</summary>
#
# The logits are three times as large, their variance nine times: the first loss lies more than 3 nats above ln V. Inside the model
# the norms hide it; the last layer shows it.
#
# </details>
#
# **Two: can it learn one batch by heart?** Eight sentences, 50 steps, no dropout, no smoothing. If not, do not buy a larger GPU.

# %%
#| export
def overfit(case: Case, steps: int = 50) -> float:
    """Return the loss that is left when one small batch has been seen again and again."""
    case = case.fresh()
    case.steps, case.smoothing = 2 * steps, 0.0
    case.model.eval()  # no dropout: it must learn this batch by heart
    for _ in range(steps):
        case.step(*case.batch(case.train[:8]))
    return case.losses[-1]

# %%
left = overfit(healthy)
assert left < 0.1
print(f"loss left on one batch: {left:.3f}")

# %% [markdown]
# **Three: does the future send anything?** A gradient from a later position to an earlier score must be *exactly* zero
# (lesson 04). And the question that `future` cannot ask: is the answer perhaps in the input, at the right place? So change a word
# of the answer, from the raw text on. The scores *for that word* must not notice.

# %%
#| export
def future(case: Case) -> float:
    """Return the largest gradient from later words to the score of the first word; 0 is right."""
    seen, case = [], case.fresh()
    case.model.eval()
    case.model.tgt_embedding.register_forward_hook(lambda module, inputs, out: seen.append(out))
    scores = case.logits(*case.batch(case.held_out[:4])[:2])
    gradient, = torch.autograd.grad(scores[:, 0].abs().sum(), seen[-1])
    return gradient[:, 1:].abs().max().item()


@torch.no_grad()
def answer(case: Case) -> float:
    """Return how much the scores for a word change when the answer has another word there."""
    case = case.fresh()
    case.model.eval()
    src, here, out = case.batch([(case.held_out[0][0], "a dog")])
    there = case.batch([(case.held_out[0][0], "the dog")])[1]
    return (case.logits(src, here)[:, 0] - case.logits(src, there)[:, 0]).abs().max().item()

# %%
assert future(healthy) == 0 and answer(healthy) == 0
print("nothing from later positions; scores for a word do not depend on it")

# %% [markdown]
# > **Try it.** Leave the causal mask out: `masks` returns the two padding masks. What do `future` and `answer` say? And can you fool `future`
# > alone?
#
# <details><summary>Answer</summary>
#
# Both react. To fool `future` alone, hand the answer over at its own place (`tgt_in = tgt_out`): no later position is needed then. That is why there
# are two tools.
#
# </details>
#
# **Four: does padding change nothing?** Neither scores nor loss. And the neighbours in the batch?

# %%
#| export
@torch.no_grad()
def padding(case: Case) -> tuple[float, float]:
    """Return how much five columns of padding change the scores, and the loss; 0, 0 is right."""
    case = case.fresh()
    case.model.eval()
    batch = case.batch(case.held_out[:1])
    longer = [F.pad(part, (0, 5), value=PAD) for part in batch]
    scores = case.logits(*longer[:2])[:, : batch[1].size(1)] - case.logits(*batch[:2])
    return scores.abs().max().item(), abs(case.loss(*longer) - case.loss(*batch)).item()


@torch.no_grad()
def company(case: Case) -> float:
    """Return how much the scores of a sentence change when it stands behind another; 0 is right."""
    case = case.fresh()
    case.model.eval()
    one, two = (case.batch(pairs)[:2] for pairs in (case.held_out[:1], case.held_out[:1] * 2))
    return (case.logits(*two)[1] - case.logits(*one)[0]).abs().max().item()

# %%
scores, loss = padding(healthy)
assert max(scores, loss, company(healthy)) < 1e-4
print("padding and company change nothing but the last digit")

# %% [markdown]
# > **Try it.** A model takes `None` for a mask. Let `masks` return `None` for the source.
#
# <details><summary>Answer</summary>
#
# Scores change by more than 0.01; nothing crashes, and training would go on as if nothing were wrong. `company` stays silent:
# two copies of one sentence need no padding.
#
# </details>
#
# **Five: does the source matter?** Now we train. Then give every target the source of another sentence. The loss
# must rise; if it does not, you have an expensive language model.
#
# **Guess first:** the healthy case ends near what loss on its held-out sentences? One who ignores the source must guess among
# 5 people, 4 verbs, 5 objects, 4 places and 4 times: $\ln 5 + \ln 4 + \ln 5 + \ln 4 + \ln 4 = 7.4$ nats a sentence, in about eleven
# pieces. And six of the sixty held-out sentences speak of a fox, a word that training never saw.

# %%
mine = None  # nats a piece on held-out sentences after training

# %%
#| export
def shuffled(case: Case) -> float:
    """Return by how much the loss of a trained case rises when every source is another's."""
    sources, targets = zip(*case.held_out)
    strange = list(zip((*sources[1:], sources[0]), targets))
    return case.evaluate(strange) - case.evaluate()

# %%
healthy.fit()
kept = healthy.evaluate()
rise = shuffled(healthy)
assert rise > by_scale(smoke=0.1, cpu=0.5, gpu=0.5)
print(f"held out: {kept:.2f} nats; with the sources of others {kept + rise:.2f}; BLEU {healthy.bleu():.0f}")
print(f"without the six sentences of the fox: {healthy.evaluate(healthy.held_out[:54]):.2f} nats")
compare(mine, kept, "11: loss of the healthy case")

# %% [markdown]
# One who ignores the source pays 7.4 nats on eleven pieces, 0.67 a piece. Without the fox the healthy case pays 0.39: it reads. The
# six fox sentences alone lift the mean to 0.70; a mean over unlike sentences hides both.
#
# **Six: does every part learn?** For each part two figures: the norm of its gradient, and how far five steps moved
# it. They are not the same question. A part may have a gradient and no optimizer.

# %%
#| export
def by_layer(case: Case) -> dict[str, tuple[float, float]]:
    """Return for each part the norm of its gradient after five steps, and how far they moved it."""
    case = case.fresh()
    before = weights_of(case.model)
    found: dict[str, tuple[float, float]] = {}
    for _ in range(5):
        case.step(*case.batch(case.train[:16]))
    for name, parameter in case.model.named_parameters():
        part = ".".join(name.split(".")[:3]) if "layers" in name else name.split(".")[0]
        norm, moved = found.get(part, (0.0, 0.0))
        grad = 0.0 if parameter.grad is None else parameter.grad.norm().item()
        step = (parameter.detach() - before[name]).norm().item()
        found[part] = math.hypot(norm, grad), math.hypot(moved, step)
    return found


def still(case: Case) -> list[str]:
    """Return the parts that got no gradient, or did not move."""
    return [part for part, figures in by_layer(case).items() if min(figures) < 1e-9]

# %%
parts = by_layer(healthy)
assert not still(healthy) and len(parts) == 7
for part, (gradient, moved) in parts.items():
    print(f"{part:18} gradient {gradient:.3f}   moved {moved:.3f}")

# %% [markdown]
# > **Try it.** Freeze the encoder (`model.encoder.requires_grad_(False)` in `build`). What does `still` say?
#
# <details><summary>Answer</summary>
#
# `['encoder.layers.0', 'encoder.layers.1', 'encoder']`: no gradient, no move. The last is the norm at the end of the stack. In many programs this line is
# there on purpose, and was forgotten.
#
# </details>
#
# **Seven: where does it part from a twin?** If there is *any* implementation that you trust, give both the same weights and
# the same batch, and compare stage by stage: pieces, batch, masks, each module's output, loss, the weights after two steps. The first difference is
# the place. It is the strongest tool and the most expensive one: you need a twin, and a table of names like the one above.

# %%
#| export
def trace(case: Case, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what a case computes with given weights, stage by stage, from pieces to a step."""
    case = case.fresh()
    kept = {"pieces": torch.tensor(len(case.bpe)),
            "parameters": torch.tensor(sum(p.numel() for p in case.model.parameters()))}
    if {n: w.shape for n, w in weights_of(case.model).items()} != {n: w.shape for n, w in weights.items()}:
        return kept
    load_weights(case.model, weights)
    case.model.eval()
    batch = case.batch(case.train[:8])
    kept |= dict(zip(("src", "tgt_in", "tgt_out"), batch))
    kept |= dict(zip(("src_mask", "tgt_mask"), case.masks(*batch[:2])))
    hooks = [module.register_forward_hook(lambda m, i, out, name=name: kept.update({name: out.detach()}))
             for name, module in case.model.named_modules() if name]
    for _ in range(2):
        case.step(*batch)
        for hook in hooks:
            hook.remove()
    after = {f"{name} after two steps": w for name, w in weights_of(case.model).items()}
    return kept | {"loss": torch.tensor(case.losses[0])} | after


def twin(case: Case, healthy: Case) -> str | None:
    """Return the first stage at which a case and a healthy one with its weights part, or None."""
    weights = weights_of(healthy.fresh().model)
    ours, theirs = trace(case, weights), trace(healthy, weights)
    for stage, right in theirs.items():
        if stage not in ours or ours[stage].shape != right.shape:
            return stage
        if not torch.allclose(ours[stage].double(), right.double(), atol=1e-5):
            return stage
    return None

# %%
# NBVAL_CHECK_OUTPUT
assert twin(healthy, Case(steps)) is None
print("the healthy case and its twin never part")

# %% [markdown]
# > **Try it.** Compare with a twin that is built with `norm="post"`. Where do they part?
#
# <details><summary>Answer</summary>
#
# At `parameters`: a pre-norm stack has one more norm at its end, twice 64 numbers. The names would tell you before any number is
# computed. Counting is the cheapest comparison.
#
# </details>

# %%
check("clinic_order")

# %% [markdown]
# ### Four more, each found by a patient
#
# The seven do not see everything. Is an answer the same when you ask twice? Is the loss of a batch that of its halves
# together, each weighted by its words? Do the weights of a query add up to 1? Does the vocabulary come from training text?

# %%
#| export
def twice(case: Case) -> float:
    """Return how far two answers to one question lie apart."""
    return abs(case.evaluate() - case.evaluate())


@torch.no_grad()
def halves(case: Case) -> float:
    """Return how far the loss of a batch is from that of its short and its long half together."""
    case = case.fresh()
    case.model.eval()
    pairs = sorted(case.train[:16], key=lambda pair: len(case.bpe.encode(pair[1])))
    (whole, n), *parts = ((case.loss(*batch).item(), (batch[2] != PAD).sum().item())
                          for batch in map(case.batch, (pairs, pairs[:8], pairs[8:])))
    return abs(whole - sum(loss * m for loss, m in parts) / n)


def rows(case: Case) -> float:
    """Return how far the sums of attention's rows lie from 1, at the worst."""
    case = case.fresh()
    case.model.eval()
    with torch.no_grad(), record_attention(case.model) as weights:
        case.logits(*case.batch(case.held_out[:1])[:2])
    return max((w.sum(-1) - 1).abs().max().item() for w in weights.values())


def relearned(case: Case) -> list[str]:
    """Return the pieces that a vocabulary learned from the training sentences does not have."""
    return sorted({*case.bpe.names} - {*learned(case.train, case.vocab).names})

# %%
#| export
def examine(case: Case, healthy: Case) -> dict[str, bool]:
    """Return which tools react to a trained case, by their names."""
    return {
        "start": abs(start(case)) > 1,
        "overfit": overfit(case) > 0.1,
        "future": future(case) > 0,
        "answer": answer(case) > 1e-4,
        "padding": max(padding(case)) > 1e-4,
        "company": company(case) > 1e-4,
        "shuffled": shuffled(case) < 0.1,
        "by_layer": bool(still(case)) or by_layer(case).keys() != by_layer(healthy).keys(),
        "twin": twin(case, healthy) is not None,
        "rows": rows(case) > 1e-4,
        "halves": halves(case) > 1e-5,
        "twice": twice(case) > 1e-6,
        "relearned": bool(relearned(case)),
    }

# %%
found = examine(healthy, Case(steps))
assert found.keys() == TOOLS.keys() and not any(found.values())
print("the healthy case:", len(found), "tools, none reacts")

# %% [markdown]
# ## 4 · A patient, examined together
#
# Here is a mistake in the open. The gradient is not set to zero between steps, so that it adds up. (It is not among the
# sixteen.) A patient is made as this one: a healthy case, and one method that is not as it should be.

# %%
class Forgetful(Case):
    def step(self, *batch):
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(len(self.losses) + 1)
        loss = self.loss(*batch)
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item())


forgetful = Forgetful(steps).fit()
found = examine(forgetful, healthy)
print("reacts:", *(tool for tool, hit in found.items() if hit))
assert found["twin"] and not found["future"] and not found["padding"]
early, late = (sum(forgetful.losses[i : i + 10]) / 10 for i in (15, steps - 10))
assert forgetful.losses[0] - early > 2 and late > early - 0.3  # no more after 20 steps


# %%
def sheet(case, title):
    """Draw a trained case beside the healthy one."""
    source, target = case.held_out[0]
    src, tgt_in, tgt_out = case.batch([(source, target)])
    case.model.eval()
    with torch.no_grad(), record_attention(case.model) as weights:
        case.logits(src, tgt_in)
    words = ([case.bpe.names[i] for i in tgt_out[0]], [case.bpe.names[i] for i in src[0]])
    seen = weights["decoder.layers.1.cross_attention"][0].mean(0)
    figures = {"loss": (healthy.evaluate(), case.evaluate()),
               "BLEU / 100": (healthy.bleu() / 100, case.bleu() / 100)}
    both = {"healthy": healthy.losses, "this case": case.losses}
    return draw.sheet(both, figures, seen, words, title)


print("parts from its twin at:", twin(forgetful, healthy))
sheet(forgetful, "Gradients that add up: it learns for 20 steps, and then no more")

# %% [markdown]
# The forward pass is right: nothing from the future, nothing from padding. The first step is right, too, by construction: there
# was nothing to clear. The twin parts *after the second*. That leaves the loop, between two steps: a state that should have been cleared.
# This is how a diagnosis goes: not by a hunch, but by what is left when each tool has spoken.
#
# > **Try it.** Give `Forgetful` a plain SGD in place of Adam (`make_optimizer` returns `torch.optim.SGD(self.model.parameters(), lr=0.0)`), and
# > ask `twin` again. Where does it part now, and why is that an unfair question?
#
# <details><summary>Answer</summary>
#
# Still after two steps, but a healthy case with SGD would part there from its twin with Adam as well: two things have been changed, and the tool cannot say which
# it saw. Give the healthy twin SGD, too. One change at a time is a rule for tools as much as for ablations.
#
# </details>
#
# ## 5 · Sixteen patients
#
# `patient(1)` to `patient(16)`: each has one illness of a list of sixteen. The number says nothing, and everybody's numbers are others. Each takes
# some seconds of training. Look at its sheet, ask the tools, and say what it has. `check` answers a wrong diagnosis with the tool that
# would have told the two apart. You may look at everything that you could look at in a stranger's repository, except
# one: the course's file `course/homework/patients.py` holds the planted lines, and to read it is to cheat yourself.
#
# Change the number and run the two cells again, until you have healed all of them. (`python -m course homework list` shows which.)

# %%
number = 1
case = patient(number, steps)
sheet(case, f"Patient {number}")

# %%
# your examination: any tool, on `case`
print("start", f"{start(case):+.2f}", " padding", padding(case), " twice", twice(case))

# %%
check(f"patient_{number}")

# %% [markdown]
# `check("patient_1", "no_scale")` gives your diagnosis. Begin with the questions in their order; write down what each tool says *before*
# you name anything.

# %%
check("clinic_fast_learner")

# %% [markdown]
# ## 6 · Symptom by illness
#
# *From here on the page tells which tool sees what. Heal some patients first.*
#
# All sixteen, trained like the healthy case, with the same seed and the same sentences. **Guess first:** how many of the
# sixteen have a BLEU that lies within 5 points of the healthy case's, or above it?

# %%
mine = None  # how many of 16, 0 to 16

# %%
chosen = by_scale(smoke=["not_shifted", "cross_to_itself"], cpu=sorted(illnesses()), gpu=sorted(illnesses()))
cases = {"healthy": healthy} | {name: sick(name, steps) for name in chosen}
table = {name: examine(case, healthy) for name, case in cases.items()}
scores = {name: case.bleu() for name, case in cases.items()}
ends = {name: sum(case.losses[-10:]) / 10 for name, case in cases.items()}
for name in chosen:
    seen = {tool for tool, hit in table[name].items() if hit}
    assert seen - {"overfit", "shuffled"} == {*illnesses()[name].reacts} - {"overfit", "shuffled"}
assert ends["not_shifted"] < ends["healthy"] and scores["not_shifted"] < 5
alike = [name for name in chosen if scores[name] > scores["healthy"] - 5]
if len(chosen) == 16:  # what the text below says of them
    assert {*alike} == {"mean_of_means", "no_scale", "pad_in_loss", "pieces_from_test", "smoothing_over_pads", "untied"}
    assert max(ends, key=ends.get) == "warmup_stands_still" and ends["warmup_stands_still"] > 6
    for name in "not_shifted", "wrong_axis", "view_for_transpose":
        assert ends[name] < ends["healthy"] - 0.05 and scores[name] < 10
    assert abs(ends["causal_missing"] - ends["healthy"]) < 0.1 and scores["causal_missing"] < 0.7 * scores["healthy"]
    assert all(20 < scores[name] < scores["healthy"] - 5 for name in ("half_optimizer", "positions_by_row", "eval_forgotten"))
    sees = {tool: {name for name in chosen if table[name][tool]} for tool in TOOLS}
    assert {*chosen} - sees["twin"] == {"eval_forgotten"} and sees["start"] == {"not_shifted"}
compare(mine, len(alike), "11: patients that translate like the healthy one")

# %%
words = "; ".join(f"{name}: " + ", ".join(tool for tool in TOOLS if table[name][tool]) for name in chosen)
seen_by_twin = sum(table[name]["twin"] for name in chosen)
title = f"The twin sees {seen_by_twin} of {len(chosen)}; {len(alike)} translate as well as the healthy case"
draw.symptoms({name: [table[name][tool] for tool in TOOLS] for name in table}, list(TOOLS), list(ends.values()),
              list(scores.values()), title, words)

# %% [markdown]
# Read the picture row by row, and then column by column (one seed, 120 steps: a few points of BLEU are luck here).
#
# - **Dead at first sight:** `warmup_stands_still`. The loss stays where it was. This is the kind of fault that everybody fears, and the
#   easiest to find.
# - **Better than healthy, by the loss:** `not_shifted` (0.96 against 1.35), `wrong_axis` (1.20), `view_for_transpose` (1.26). Their BLEU: 0, 6
#   and 0. A training loss says how well the words are guessed *with the answer at hand*; a model that sees the answer, or that is
#   trained on something that translation never has, guesses well. `causal_missing` has a loss as the healthy one, and half its BLEU.
# - **Half well:** `half_optimizer`, `positions_by_row`, `eval_forgotten` write something. Such a score is where people begin to change
#   the learning rate.
# - **As healthy as can be, by BLEU:** a mean of means, no scale, padding in the loss, pieces from the test, smoothing over padding, weights
#   untied. Four of them even score higher than the healthy case here, on one seed. They are wrong all the same: a loss that nobody can compare,
#   a score that cannot be believed, 14,720 parameters that the paper does not have, a scale that will be missed at d_k = 64.
#
# By columns: the twin sees all but one, and it is the only one that sees the missing scale. `eval_forgotten` escapes it, since the forward
# pass is right; only `twice` reacts. `start` sees one patient, and costs one forward pass. A clean sheet from a tool clears the code of
# what that tool can see, and of nothing else.
#
# > **Try it.** `no_scale` hides at $d_k = 8$. At which size would you look for it?
#
# <details><summary>Answer</summary>
#
# Where $\sqrt{d_k}$ is large: the paper's 64 makes scores 8 times as large, and lesson 03 measures what the softmax then does to
# the gradient. The clinic's model is small so that sixteen trainings take minutes; that is what it cannot show.
#
# </details>

# %%
check("clinic_bleu_alone")

# %% [markdown]
# ## Exercises
#
# 1. Plant a seventeenth: labels of the *next but one* word (`tgt_out` shifted once more). Which tools react?
#
#    <details><summary>Answer</summary>
#
#    Write a `Case` whose `batch` gives `tgt_out` without its first column and PAD at the end. `answer` and `future` stay silent, and
#    `twin` parts at `tgt_out`. The eye sees it in translations, in which words are missing: a model learns whatever labels it is given.
#
#    </details>
#
# 2. `company` compares one sentence with a copy of itself. Why a copy, and not another sentence?
#
#    <details><summary>Answer</summary>
#
#    Another one might be longer, and would bring padding with it. Then a fault of the padding would look like one of the rows. One change at a time.
#
#    </details>
#
# 3. Write `gradient_noise`: the same batch twice through a model in training mode. Is a difference an illness?
#
#    <details><summary>Answer</summary>
#
#    No: dropout is meant to differ in training. In a model built with dropout 0 it would be one. A tool needs to know what health is.
#
#    </details>
#
# ## What you built
#
# | name | gives |
# |---|---|
# | `Case` | a translator and its loop, each step a method |
# | `start`, `overfit`, `future`, `answer`, `padding`, `company`, `shuffled`, `by_layer`, `still` | one number or list each: the order of debugging |
# | `trace`, `twin` | the first stage at which two cases part |
# | `twice`, `halves`, `rows`, `relearned`, `examine` | what the seven do not see; all of them at once |
#
# **Summary.** Judge a repository before you read it, and read it from the entry point down. Debug by questions with known
# answers, the cheapest first. A wrong model does not crash, and some learn faster than a right one: a loss that is too good is a symptom.
# What the score does not show, a tool must.
#
# <div lang="zh">
#
# **小结.** 先评估一个仓库，再从入口向下阅读。调试要按顺序提出答案已知的问题，从最便宜的开始。错误的模型不会崩溃，有些甚至比正确的
# 学得更快：好得过分的损失也是一种症状。分数看不出的，要靠工具来看。
#
# </div>
#
# **Further reading.** Karpathy, *A Recipe for Training Neural Networks* (2019); Rush, *The Annotated Transformer* (2018; revised by Huang and
# others, 2022). **Homework.** The sixteen patients are it: `python -m course homework list`.
