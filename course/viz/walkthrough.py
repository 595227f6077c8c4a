"""Pictures of the walkthrough: the architecture with its sections, waiting, costs, table 3."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from course.viz import BLUE, GREEN, GREY, ORANGE, RED, STYLES, finish

WIDTH, HEIGHT, STEP = 3.3, 0.62, 0.95  # of a box, and from box to box

NORM = ("add and normalise", "3.1 · Residual, LayerNorm", GREEN)
FEED_FORWARD = ("feed-forward", "3.3 · FeedForward", BLUE)
INPUT = [
    ("token embedding", "3.4 · TokenEmbedding", RED),
    ("+ positions", "3.5 · PositionalEncoding", RED),
]
ENCODER = [("self-attention", "3.2 · MultiHeadAttention", ORANGE), NORM, FEED_FORWARD, NORM]
DECODER = [
    ("masked self-attention", "3.2.3 · causal_mask", ORANGE),
    NORM,
    ("attention to the source", "3.2.3 · MultiHeadAttention", ORANGE),
    NORM,
    FEED_FORWARD,
    NORM,
]
OUTPUT = [("linear and softmax", "3.4 · the embedding again", GREY)]

Box = tuple[str, str, str]


def _arrow(axis: Axes, *points: tuple[float, float]) -> None:
    """Draw a line through the points, with a head at its end."""
    axis.plot(*zip(*points[:-1]), color="black", lw=1, ls="-", zorder=1)
    style = {"arrowstyle": "-|>", "color": "black", "lw": 1, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", points[-1], points[-2], arrowprops=style)


def _column(
    axis: Axes, x: float, y: float, boxes: Sequence[Box], side: int = 0, gap: float = 0
) -> float:
    """Stack boxes upwards from height y; return where the next one goes.

    side: -1 or 1 draws, on that side, the residual line around what each norm closes; gap: how
    much further down than usual the first arrow begins.
    """
    for number, (name, where, colour) in enumerate(boxes):
        _arrow(axis, (x, y - STEP + HEIGHT - (0 if number else gap)), (x, y))
        frame = FancyBboxPatch(
            (x - WIDTH / 2, y), WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=.08",
            facecolor=(colour, 0.22), edgecolor=colour, lw=1.2,
        )
        axis.add_patch(frame)
        kwargs = {"ha": "center", "va": "center"}
        axis.text(x, y + 0.41, name, fontsize=9.5, weight="bold", **kwargs)
        axis.text(x, y + 0.17, where, fontsize=8, **kwargs)
        if side and name == NORM[0]:
            start, edge = y - STEP - 0.18, x + side * (WIDTH / 2 + 0.22)
            middle = y + HEIGHT / 2
            _arrow(axis, (x, start), (edge, start), (edge, middle), (x + side * WIDTH / 2, middle))
        y += STEP
    return y


def _layer(axis: Axes, x: float, y: float, boxes: Sequence[Box], side: int, label: str) -> float:
    """Draw one layer of a stack in a frame with its label; return where the next box goes."""
    top = _column(axis, x, y, boxes, side, gap=0.15)
    bottom, height = y - 0.25, top - STEP + HEIGHT + 0.4 - y
    frame = FancyBboxPatch(
        (x - WIDTH / 2 - 0.4, bottom), WIDTH + 0.8, height, facecolor=(0, 0, 0, 0.04),
        boxstyle="round,pad=0,rounding_size=.12", edgecolor="grey", lw=1, zorder=0,
    )
    axis.add_patch(frame)
    place = x + side * (WIDTH / 2 + 0.55)
    axis.text(place, bottom + height / 2, label, fontsize=11, va="center",
              ha="left" if side > 0 else "right")
    return top + 0.15


def architecture(title: str) -> Figure:
    """Draw the encoder and the decoder; each box names the paper's section and the code."""
    figure, axis = plt.subplots(figsize=(9.4, 8.2), layout="constrained")
    right = 5.0
    axis.text(0, 0.2, "source tokens", ha="center", fontsize=10)
    axis.text(right, 0.2, "target tokens, shifted right", ha="center", fontsize=10)
    left_top = _layer(axis, 0, _column(axis, 0, 0.8, INPUT) + 0.15, ENCODER, -1, "N ×")
    right_top = _layer(axis, right, _column(axis, right, 0.8, INPUT) + 0.15, DECODER, 1, "N ×")
    end = _column(axis, right, right_top, OUTPUT, gap=0.15)
    _arrow(axis, (right, end - STEP + HEIGHT), (right, end - 0.1))
    axis.text(right, end, "probabilities of the next token", ha="center", fontsize=10)
    memory = left_top - STEP + HEIGHT - 0.15
    cross = 0.8 + 2 * STEP + 0.15 + 2 * STEP + HEIGHT / 2
    _arrow(axis, (0, memory), (0, memory + 0.45), (right / 2, memory + 0.45), (right / 2, cross),
           (right - WIDTH / 2, cross))
    axis.text(0.12, memory + 0.52, "memory", fontsize=10)
    axis.set(xlim=(-2.9, right + 2.9), ylim=(0, end + 0.3), aspect="equal")
    axis.axis("off")
    axis.set_title(title, fontsize=11)
    return finish(figure)


def waiting(lengths: Sequence[int], chains: Mapping[str, Sequence[int]], title: str) -> Figure:
    """Draw how many operations wait for each other, over the sentence length: layer -> counts."""
    figure, axis = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
    for (name, counts), (colour, line, marker) in zip(chains.items(), STYLES):
        axis.plot(lengths, counts, linestyle=line, marker=marker, color=colour, label=name)
    axis.set(xlabel="words in the sentence", ylabel="operations in the longest chain")
    axis.set_ylim(bottom=0)
    axis.set_title(title)
    axis.legend()
    return finish(figure)


def table_three(rows: Sequence[tuple[str, str, float]], base: float, title: str) -> Figure:
    """Draw what each change of the base model does to its BLEU.

    rows: (group, change, BLEU), in order; base: the BLEU of the model without a change.
    """
    figure, axis = plt.subplots(figsize=(7.5, 5.6), layout="constrained")
    groups = dict.fromkeys(group for group, _, _ in rows)
    colours = dict(zip(groups, cycle((BLUE, ORANGE, GREEN, RED, GREY))))
    for y, (group, _change, value) in enumerate(rows):
        worse = value < base
        axis.barh(y, value - base, color=colours[group], hatch="" if worse else "////",
                  edgecolor="white", lw=0)
        axis.text(value - base + (-0.04 if worse else 0.04), y, f"{value - base:+.1f}",
                  va="center", ha="right" if worse else "left", fontsize=8.5)
    axis.axvline(0, color="black", lw=0.8)
    names = [f"{group}  {change}" for group, change, _ in rows]
    axis.set_yticks(range(len(rows)), names, fontsize=9)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_xlabel(f"BLEU against base ({base}), newstest2013, as the paper reports it")
    axis.set_title(title)
    return finish(figure)
