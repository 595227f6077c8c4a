"""Question 6: six ways to say where a token stands, and a test beyond the trained length.

Each way overrides one or two of the four hooks of `Positions`; the model around them is the same.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from IPython.display import Markdown
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from course.device import by_scale, one_thread
from course.masking import causal_mask
from course.transformer import FeedForward, LayerNorm, TokenEmbedding
from course.viz import BLUE, GREEN, GREY, ORANGE, RED, finish


@dataclass(frozen=True)
class Sizes:
    """Sizes of the small model and its task: name the letters 1, 2, 3 and 4 places back."""

    letters: int = 8
    distances: tuple[int, ...] = (1, 2, 3, 4)
    trained: int = 16  # letters in a training row
    longest: int = 128  # letters in a test row, and rows of the learned table
    d_model: int = 64
    n_heads: int = 8
    n_layers: int = 1
    clip: int = 8  # Shaw's k
    causal: bool = True


class Positions(nn.Module):
    """No positions at all, and the four places where the others act."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()

    def embed(self, x: Tensor) -> Tensor:
        return x  # (B, L, D): the embeddings, once, at the bottom of the model

    def turn(self, x: Tensor) -> Tensor:
        return x  # (B, H, L, Dk): the queries, and in the same way the keys

    def bias(self, query: Tensor) -> Tensor:
        return query.new_zeros(())  # -> (B, H, Q, K): added to the scaled scores

    def extra(self, weights: Tensor) -> Tensor:
        return weights.new_zeros(())  # -> (B, H, Q, Dk): added to the mean of the values


def sinusoids(length: int, d_model: int) -> Tensor:
    """Return sines in the even columns, cosines in the odd ones: (L, D). Paper, section 3.5."""
    frequency = 10_000.0 ** (-torch.arange(0, d_model, 2) / d_model)  # (D/2,)
    angle = torch.arange(length)[:, None] * frequency  # (L, D/2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # (L, D)


class Sinusoidal(Positions):
    """Add a fixed wave pattern to each embedding. Vaswani et al. 2017, section 3.5."""

    def embed(self, x: Tensor) -> Tensor:
        return x + sinusoids(x.size(1), x.size(2))  # (B, L, D)


class Learned(Positions):
    """Add a learned row to each embedding. Gehring et al. 2017; BERT and GPT-2 do so.

    The rows beyond the trained length exist, but no gradient ever reaches them. Beyond the last
    row: ValueError.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.table = nn.Parameter(torch.randn(sizes.longest, sizes.d_model))

    def embed(self, x: Tensor) -> Tensor:
        if x.size(1) > len(self.table):
            raise ValueError(f"position {len(self.table)} has no row: the table ends before it")
        return x + self.table[: x.size(1)]  # (B, L, D)


class Relative(Positions):
    """Learn a vector for each distance, cut off at k. Shaw et al. 2018, equations 3 and 4.

    One table for the keys and one for the values; all heads and layers share them here.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        d_k, self.k = sizes.d_model // sizes.n_heads, sizes.clip
        self.keys = nn.Parameter(torch.randn(2 * self.k + 1, d_k) * 0.02)  # distances -k .. k
        self.values = nn.Parameter(torch.randn(2 * self.k + 1, d_k) * 0.02)

    def row(self, length: int) -> Tensor:
        place = torch.arange(length)
        distance = place - place[:, None]  # (Q, K): j - i
        return distance.clamp(-self.k, self.k) + self.k  # (Q, K): which row of the tables

    def bias(self, query: Tensor) -> Tensor:
        keys = self.keys[self.row(query.size(2))]  # (Q, K, Dk)
        return torch.einsum("bhqd,qkd->bhqk", query, keys) / math.sqrt(query.size(-1))

    def extra(self, weights: Tensor) -> Tensor:
        values = self.values[self.row(weights.size(2))]  # (Q, K, Dk)
        return torch.einsum("bhqk,qkd->bhqd", weights, values)


def rotate(x: Tensor, places: Tensor) -> Tensor:
    """Turn each pair of components by place times frequency: (..., L, Dk), (L,) -> (..., L, Dk)."""
    frequency = 10_000.0 ** (-torch.arange(0, x.size(-1), 2) / x.size(-1))  # (Dk/2,)
    angle = places[:, None] * frequency  # (L, Dk/2)
    a, b = x[..., 0::2], x[..., 1::2]  # (..., L, Dk/2) each: the pairs
    turned = [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()]
    return torch.stack(turned, dim=-1).flatten(-2)  # (..., L, Dk)


class Rotary(Positions):
    """Turn queries and keys by an angle that grows with the place. Su et al. 2021 (RoPE)."""

    def turn(self, x: Tensor) -> Tensor:
        return rotate(x, torch.arange(x.size(2)))  # (B, H, L, Dk)


def slopes(n_heads: int) -> Tensor:
    """Return ALiBi's slope for each head: 2^(-8/H), and that factor again from head to head."""
    return 2.0 ** (-8 / n_heads * torch.arange(1, n_heads + 1))  # (H,)


class ALiBi(Positions):
    """Take slope times distance away from each score. Press et al. 2021, section 3."""

    def bias(self, query: Tensor) -> Tensor:
        place = torch.arange(query.size(2))
        distance = (place[:, None] - place).abs()  # (Q, K)
        return -slopes(query.size(1))[:, None, None] * distance  # (H, Q, K), not scaled


KINDS: dict[str, type[Positions]] = {
    "none": Positions,
    "sinusoidal": Sinusoidal,
    "learned": Learned,
    "relative": Relative,
    "rotary": Rotary,
    "alibi": ALiBi,
}


class Attention(nn.Module):
    """Self-attention (section 3.2.2) that asks `positions` at each of its places."""

    def __init__(self, sizes: Sizes, positions: Positions) -> None:
        super().__init__()
        self.sizes, self.positions = sizes, positions
        d = sizes.d_model
        self.w_q, self.w_k, self.w_v, self.w_o = (nn.Linear(d, d, bias=False) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.sizes.n_heads, -1)).transpose(1, 2)  # (B, H, L, Dk)

    def scores(self, x: Tensor) -> Tensor:
        query = self.positions.turn(self.split(self.w_q(x)))  # (B, H, L, Dk)
        key = self.positions.turn(self.split(self.w_k(x)))  # (B, H, L, Dk)
        scaled = query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))  # (B, H, L, L)
        return scaled + self.positions.bias(query)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.scores(x)  # (B, H, L, L)
        if self.sizes.causal:
            scores = scores.masked_fill(~causal_mask(x.size(1)), -math.inf)
        weights = scores.softmax(dim=-1)
        heads = weights @ self.split(self.w_v(x)) + self.positions.extra(weights)  # (B, H, L, Dk)
        return self.w_o(heads.transpose(1, 2).flatten(-2))  # (B, L, D)


class Layer(nn.Module):
    """Attention and the feed-forward network, pre-norm: (B, L, D) -> (B, L, D)."""

    def __init__(self, sizes: Sizes, positions: Positions) -> None:
        super().__init__()
        self.attention = Attention(sizes, positions)
        self.feed_forward = FeedForward(sizes.d_model, 2 * sizes.d_model)
        self.norm_1, self.norm_2 = LayerNorm(sizes.d_model), LayerNorm(sizes.d_model)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_1(x))
        return x + self.feed_forward(self.norm_2(x))


class Recall(nn.Module):
    """Say at each place which letters stand 1, 2, 3, 4 places back: (B, L) -> (B, L, 4, V).

    Raises ValueError for a kind of positions that is not in KINDS.
    """

    def __init__(self, kind: str, sizes: Sizes) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"positions {kind!r} are unknown: choose from {', '.join(KINDS)}")
        self.sizes, self.positions = sizes, KINDS[kind](sizes)
        self.embedding = TokenEmbedding(sizes.letters, sizes.d_model)
        self.layers = nn.Sequential(*(Layer(sizes, self.positions) for _ in range(sizes.n_layers)))
        self.norm = LayerNorm(sizes.d_model)
        self.output = nn.Linear(sizes.d_model, len(sizes.distances) * sizes.letters)

    def forward(self, letters: Tensor) -> Tensor:
        x = self.positions.embed(self.embedding(letters))  # (B, L, D)
        logits = self.output(self.norm(self.layers(x)))  # (B, L, 4 * V)
        return logits.unflatten(-1, (len(self.sizes.distances), -1))  # (B, L, 4, V)


def source(*things: object) -> Markdown:
    """Show the code of functions and classes, in the colours of the reader's theme."""
    text = "\n\n".join(inspect.getsource(thing) for thing in things)
    return Markdown(f"```python\n{text.rstrip()}\n```")


def draw_rows(n: int, length: int, sizes: Sizes, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return n rows of random letters (n, L), and for each place the letters to name (n, L, 4).

    The first places have nothing to name: what stands there must not be used.
    """
    letters = torch.randint(sizes.letters, (n, length), generator=random)
    return letters, torch.stack([letters.roll(d, dims=1) for d in sizes.distances], dim=-1)


def train(kind: str, seed: int, steps: int, sizes: Sizes) -> Recall:
    """Train on fresh rows of the trained length; all kinds see the same rows."""
    torch.manual_seed(seed)
    model, random = Recall(kind, sizes), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=steps)
    first = max(sizes.distances)
    for _ in range(steps):
        letters, answers = draw_rows(16, sizes.trained, sizes, random)
        logits = model(letters)[:, first:]  # (16, L - 4, 4, V)
        loss = F.cross_entropy(logits.flatten(0, -2), answers[:, first:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


@torch.no_grad()
def accuracy(model: Recall) -> Tensor:
    """Return how often the model is right on 128 long rows, by place and distance: (longest, 4).

    The mask is causal: place t sees t + 1 letters, as if the row ended there. So one long row
    tests every length. The first places, with nothing to name, hold NaN.
    """
    random, right = torch.Generator().manual_seed(1_000_003), 0
    for _ in range(2):
        letters, answers = draw_rows(64, model.sizes.longest, model.sizes, random)
        right = right + (model(letters).argmax(-1) == answers).float().mean(0) / 2
    right[: max(model.sizes.distances)] = math.nan
    return right


@dataclass(frozen=True)
class Run:
    """One trained model and its accuracy (longest, 4), NaN where there is nothing to name."""

    kind: str
    seed: int
    model: Recall
    accuracy: Tensor


@one_thread()
def experiment(
    kinds: Sequence[str] = tuple(KINDS), sizes: Sizes | None = None, steps: int | None = None,
    seeds: int | None = None,
) -> list[Run]:
    """Train every kind on short rows, once for each seed, and test it on long ones.

    On one thread: the tables are so small that several would wait for each other.
    """
    sizes = sizes or Sizes()
    steps = steps or by_scale(smoke=250, cpu=500, gpu=500)
    seeds = seeds or by_scale(smoke=1, cpu=3, gpu=3)
    runs = []
    for kind, seed in (bar := tqdm([(kind, seed) for kind in kinds for seed in range(seeds)])):
        bar.set_description(f"{kind}, seed {seed}")
        model = train(kind, seed, steps, sizes)
        runs.append(Run(kind, seed, model, accuracy(model)))
    return runs


def spans(sizes: Sizes) -> dict[str, slice]:
    """Return the spans of places that we compare: inside the trained length, and beyond it."""
    return {
        "trained length": slice(max(sizes.distances), sizes.trained),
        "up to twice": slice(sizes.trained, 2 * sizes.trained),
        "four to eight times": slice(4 * sizes.trained, 8 * sizes.trained),
    }


def means(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Return for each kind its mean accuracy in each span, over seeds, places and distances."""
    return {
        kind: {name: part[:, span].mean().item() for name, span in spans(sizes).items()}
        for kind, part, sizes in _by_kind(runs)
    }


def by_distance(runs: Sequence[Run]) -> dict[str, list[float]]:
    """Return for each kind the accuracy for each distance back, inside the trained length."""
    return {
        kind: part[:, spans(sizes)["trained length"]].mean((0, 1)).tolist()
        for kind, part, sizes in _by_kind(runs)
    }


def _by_kind(runs: Sequence[Run]) -> list[tuple[str, Tensor, Sizes]]:
    """Group by kind: its name, its accuracy (seeds, longest, 4) and the sizes."""
    kinds = dict.fromkeys(run.kind for run in runs)
    stacks = {k: torch.stack([run.accuracy for run in runs if run.kind == k]) for k in kinds}
    return [(kind, part, runs[0].model.sizes) for kind, part in stacks.items()]


def commonest_so_far(sizes: Sizes) -> Tensor:
    """Return how often one is right who counts the letters so far but knows no order: (longest,).

    Such a reader names, for each distance, the commonest of the letters before this one.
    """
    random = torch.Generator().manual_seed(1_000_003)
    letters, answers = draw_rows(512, sizes.longest, sizes, random)
    counts = F.one_hot(letters, sizes.letters).cumsum(1) - F.one_hot(letters, sizes.letters)
    return (counts.argmax(-1)[..., None] == answers).float().mean((0, 2))


@torch.no_grad()
def scores_by_distance(model: Recall, place: int) -> Tensor:
    """Return the first layer's scores from `place` back to the start: (H, place + 1).

    All letters of the row are the same, so that only the places can make a difference.
    """
    row = torch.zeros(1, place + 1, dtype=torch.long)
    layer = model.layers[0]
    x = layer.norm_1(model.positions.embed(model.embedding(row)))  # (1, L, D)
    return layer.attention.scores(x)[0, :, place].flip(-1)  # (H, L): distance 0 first


def looks_back_one(model: Recall) -> int:
    """Return the head that gives the previous letter the largest weight, at the trained length."""
    inside = scores_by_distance(model, model.sizes.trained - 1)  # (H, 16)
    return int(inside.softmax(dim=-1)[:, 1].argmax())


COLOURS = {"none": GREY, "sinusoidal": ORANGE, "learned": RED, "relative": GREEN,
           "rotary": BLUE, "alibi": "black"}
STYLES = dict(zip(COLOURS, ((0, (1, 1)), "--", ":", "-", "-.", (0, (6, 2)))))
MARKS = dict(zip(COLOURS, "xsv^oD"))


def draw_effects() -> Figure:
    """Draw the scores of two queries by distance, for each kind, before any training."""
    figure, axes = plt.subplots(2, 3, figsize=(10, 4.6), sharex=True)
    for kind, axis in zip(KINDS, axes.flat):
        torch.manual_seed(0)
        model = Recall(kind, Sizes())
        for place, line, colour in zip((40, 90), ("-", "--"), (BLUE, ORANGE)):
            curve = scores_by_distance(model, place)[1, :33]
            axis.plot(curve, ls=line, color=colour, lw=3 if line == "-" else 1.5,
                      label=f"query at place {place}")
        axis.ticklabel_format(useOffset=False)
        axis.margins(y=0.2)
        axis.set_title(kind)
    for axis in axes[1]:
        axis.set_xlabel("distance back (letters)")
    for axis in axes[:, 0]:
        axis.set_ylabel("score")
    axes[0, 0].legend(fontsize=8, loc="upper right")
    title = "Where two curves are one, only the distance counts"
    figure.suptitle(title, x=0.02, ha="left", fontsize=11)
    return finish(figure)


def draw(runs: Sequence[Run]) -> Figure:
    """Draw accuracy by length, the trained length marked, and by distance within it."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.9), width_ratios=(1.9, 1))
    sizes, width = runs[0].model.sizes, 4
    for kind, part, _ in _by_kind(runs):
        blocks = part.mean(-1).unflatten(1, (-1, width)).mean(-1)[:, 1:]  # (seeds, blocks)
        length = width * torch.arange(1, blocks.size(1) + 1) + (width + 1) / 2  # of its middle
        look = {"color": COLOURS[kind], "ls": STYLES[kind], "marker": MARKS[kind], "ms": 4}
        left.plot(length, blocks.mean(0), label=kind, markevery=4, **look)
        left.fill_between(length, blocks.amin(0), blocks.amax(0), color=COLOURS[kind], alpha=0.15)
        right.plot(sizes.distances, by_distance(runs)[kind], **look)
    left.axvline(sizes.trained, color=GREY, ls="-", lw=1)
    left.annotate("trained up to here", (sizes.trained, 1.06), xytext=(4, 0),
                  textcoords="offset points", fontsize=9)
    for axis in (left, right):
        axis.axhline(1 / sizes.letters, color=GREY, lw=0.8, ls="-")
        axis.set_ylim(0, 1.12)
    left.annotate("chance", (sizes.longest, 1 / sizes.letters), xytext=(0, -12),
                  textcoords="offset points", fontsize=8, ha="right")
    left.set(xlabel="letters read so far", ylabel="share of letters named rightly")
    left.set_title("Beyond the trained length, relative and ALiBi go on")
    left.legend(fontsize=8, loc="center right", bbox_to_anchor=(1.0, 0.47))
    right.set(xlabel="letters back", xticks=sizes.distances)
    right.set_title("ALiBi prefers the near")
    right.annotate("within the trained length", (1, 1.06), fontsize=9)
    return finish(figure)


def draw_reasons(runs: Sequence[Run]) -> Figure:
    """Draw after training, by distance, the scores of the head that looks one letter back."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2))
    models: Mapping[str, Recall] = {run.kind: run.model for run in reversed(runs)}
    for kind, axis in zip(("relative", "rotary", "alibi"), axes):
        model = models[kind]
        sizes = model.sizes
        curve = scores_by_distance(model, sizes.longest - 1)[looks_back_one(model)]
        axis.plot(curve, color=COLOURS[kind], ls="-")
        axis.plot(1, curve[1], "o", color=RED, ls="none", label="the previous letter")
        axis.axvspan(0, sizes.trained - 1, color=GREY, alpha=0.25, lw=0, label="trained distances")
        axis.set(xlabel="distance back (letters)", title=kind)
    axes[0].set_ylabel("score")
    axes[0].legend(fontsize=8)
    return finish(figure)
