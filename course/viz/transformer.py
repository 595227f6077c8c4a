"""Pictures of lesson 05: positions, depth, the parameter count, and the model itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch
from torch import Tensor

from course.viz import BLUE, GREEN, GREY, ORANGE, RED, STYLES, finish


def starts(
    word_size: Mapping[str, float],
    first_loss: Mapping[str, float],
    position_size: float,
    uniform: float,
) -> Figure:
    """Draw for each way to start an embedding how large a word is, and the first loss."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 2.9), sharey=True)
    panels = (
        (left, word_size, position_size, "a position: {:.2f}", "standard deviation of a component",
         "Two starts make words quieter than positions"),
        (right, first_loss, uniform, "ln V = {:.2f}", "loss before training (nats)",
         "One start is wrong with great certainty"),
    )
    for axis, values, line, words, label, title in panels:
        bars = axis.barh(list(values), list(values.values()), color=BLUE, height=0.55)
        axis.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
        axis.axvline(line, color=RED, ls="--", label=words.format(line))
        axis.set(xlabel=label, title=title, xlim=(0, 1.25 * max(values.values())))
        axis.legend(loc="lower right", fontsize=9)
    left.invert_yaxis()
    return finish(figure)


def counting(digits: Tensor) -> Figure:
    """Draw binary numbers as a grid: digits (numbers, digits), the highest digit first."""
    figure, axis = plt.subplots(figsize=(8, 2.2))
    axis.imshow(digits.T, cmap="Greys", vmin=0, vmax=3, aspect="auto")
    for (number, digit), value in np.ndenumerate(np.asarray(digits)):
        axis.text(number, digit, int(value), ha="center", va="center", fontsize=8)
    n_digits = digits.shape[1]
    axis.set_yticks(range(n_digits), [str(2**d) for d in reversed(range(n_digits))])
    axis.set(xlabel="number", ylabel="digit worth")
    axis.set_title("Each digit flips half as often as the one below it")
    return finish(figure)


def encoding_map(table: Tensor, columns: Sequence[int]) -> Figure:
    """Draw encodings (length, D) as a heat map, and some of their columns as waves."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), width_ratios=(1.25, 1))
    image = left.imshow(table, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    figure.colorbar(image, ax=left, label="value")
    left.set(xlabel="component (column)", ylabel="position (row)")
    left.set_title("Fast waves on the left, slow ones on the right")
    for column, (colour, line, marker) in zip(columns, STYLES):
        label = f"component {column}"
        right.plot(table[:, column], color=colour, marker=marker, markevery=8, ms=4, ls=line,
                   label=label)
    right.set(xlabel="position", ylabel="value", ylim=(-1.15, 1.75))
    right.legend(ncols=2, loc="upper center", fontsize=8)
    right.set_title("Four of the columns")
    return finish(figure)


def dot_products(products: Tensor, positions: Sequence[int]) -> Figure:
    """Draw the dot product of each given position's encoding with all: products (rows, length)."""
    figure, axis = plt.subplots(figsize=(8, 3))
    for row, position, (colour, line, marker) in zip(products, positions, STYLES):
        offset = np.arange(len(row)) - position
        axis.plot(offset, row, color=colour, ls=line, marker=marker, markevery=9, ms=4,
                  label=f"from position {position}")
    axis.set(xlabel="distance k to the other position", ylabel="dot product")
    axis.legend()
    axis.set_title("Near positions look alike, and only the distance counts")
    return finish(figure)


def lines_by_depth(
    panels: Sequence[tuple[str, str, str, Mapping[str, Mapping[int, float]]]],
) -> Figure:
    """Draw one panel for each (title, y label, y scale, {curve: {depth: value}})."""
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 3.6), squeeze=False)
    for axis, (title, label, scale, curves) in zip(axes[0], panels):
        for (name, points), (colour, line, marker) in zip(curves.items(), STYLES):
            axis.plot(list(points), list(points.values()), color=colour, marker=marker, ls=line,
                      label=name)
        axis.set(xlabel="layers in the stack", ylabel=label, yscale=scale)
        axis.set_xticks(sorted({depth for points in curves.values() for depth in points}))
        axis.set_title(title, fontsize=10)
        if scale == "linear":
            axis.set_ylim(bottom=0)
        axis.legend(fontsize=8)
    return finish(figure)


def decision_maps(
    maps: Mapping[str, Tensor], points: Tensor, labels: Tensor, extent: float
) -> Figure:
    """Draw for each model the probability of class 1 over a square, and the data on top.

    maps: title -> (rows, columns) over [-extent, extent]²; points (n, 2), labels (n,).
    """
    figure, axes = plt.subplots(1, len(maps), figsize=(4.1 * len(maps), 3.6), squeeze=False)
    for axis, (title, chance) in zip(axes[0], maps.items()):
        image = axis.imshow(chance, origin="lower", extent=(-extent, extent) * 2, cmap="PuOr",
                            vmin=0, vmax=1)
        for value, marker, colour, name in ((0, "o", "white", "no -s"), (1, "^", "black", "-s")):
            chosen = points[labels == value]
            axis.scatter(*chosen.T, marker=marker, c=colour, edgecolors="grey", s=22, label=name)
        axis.set(xlabel="noun (−1) or verb (+1)", ylabel="singular (−1) or plural (+1)")
        axis.set_title(title, fontsize=9)
        figure.colorbar(image, ax=axis, label="probability of -s", shrink=0.8)
    axes[0][0].legend(loc="center", fontsize=8)
    return finish(figure)


def influence_maps(panels: Sequence[tuple[str, str, Tensor]]) -> Figure:
    """Draw for each (title, x label, matrix) how much each column moves each row (T, L)."""
    figure, axes = plt.subplots(1, len(panels), figsize=(4.4 * len(panels), 3.6), squeeze=False)
    for axis, (title, label, matrix) in zip(axes[0], panels):
        image = axis.imshow(matrix, cmap="Blues", vmin=0, aspect="auto")
        for (row, column), value in np.ndenumerate(np.asarray(matrix)):
            if value == 0:
                axis.text(column, row, "0", ha="center", va="center", fontsize=8, color="black")
        axis.set_xticks(range(matrix.shape[1]))
        axis.set_yticks(range(matrix.shape[0]))
        axis.set(xlabel=label, ylabel="output position")
        axis.set_title(title, fontsize=10)
        figure.colorbar(image, ax=axis, label="size of the gradient", shrink=0.8)
    return finish(figure)


def vocabulary_intervals(
    intervals: Mapping[str, tuple[float, float]], common: tuple[float, float], stated: float
) -> Figure:
    """Draw for each row of a table the vocabularies that give its figure: name -> (low, high)."""
    figure, axis = plt.subplots(figsize=(8, 4.2))
    last = len(intervals) - 1
    axis.axvspan(*common, color=GREEN, alpha=0.4, lw=0)
    axis.annotate(f"fits every row but big:\n{common[0]:,.0f} to {common[1]:,.0f}",
                  (common[0], last), xytext=(-8, 0), textcoords="offset points",
                  ha="right", va="center", fontsize=9)
    axis.axvline(stated, color=RED, ls="--")
    axis.annotate(f"“about {stated:,.0f}”\n(section 5.1)", (stated, 0.4), xytext=(6, 0),
                  textcoords="offset points", va="center", fontsize=9, color=RED)
    for y, (low, high) in enumerate(intervals.values()):
        axis.plot([low, high], [y, y], color=BLUE, ls="-", lw=5, solid_capstyle="butt")
    axis.set_yticks(range(len(intervals)), list(intervals))
    axis.invert_yaxis()
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.set(xlabel="size of the shared vocabulary (tokens)", ylabel="row of table 3")
    axis.set_title("One vocabulary explains every row of table 3 except the big model")
    return finish(figure)


def learning_curve(losses: Sequence[float], baselines: Mapping[str, float]) -> Figure:
    """Draw a loss by step, against baselines given by name."""
    figure, axis = plt.subplots(figsize=(8, 3.4))
    axis.plot(range(1, len(losses) + 1), losses, color=BLUE, lw=1.5)
    for (name, value), line in zip(baselines.items(), ("--", ":", "-.")):
        axis.axhline(value, color=GREY, ls=line)
        axis.annotate(name, (len(losses), value), xytext=(0, 3), textcoords="offset points",
                      ha="right", fontsize=9)
    axis.set(xlabel="training step", ylabel="loss (nats per token)", xlim=(0, len(losses) + 2))
    axis.set_ylim(0, max(*losses, *baselines.values()) * 1.05)
    axis.set_title("The loss falls below what is possible without reading the source")
    return finish(figure)


def attention_heads(
    weights: Tensor, rows: Sequence[str], columns: Sequence[str], title: str
) -> Figure:
    """Draw the weights of each head (H, T, S) with its tokens."""
    n_heads = len(weights)
    figure, axes = plt.subplots(1, n_heads, figsize=(2.6 * n_heads, 2.9), sharey=True,
                                squeeze=False)
    for head, axis in enumerate(axes[0]):
        image = axis.imshow(weights[head], cmap="Blues", vmin=0, vmax=1)
        axis.set_xticks(range(len(columns)), columns, fontsize=9)
        axis.set_yticks(range(len(rows)), rows, fontsize=9)
        axis.set_xlabel("source token")
        axis.set_title(f"head {head}", fontsize=9)
    axes[0][0].set_ylabel("token being written")
    figure.suptitle(title, x=0.02, ha="left")
    figure.tight_layout(rect=(0, 0, 0.93, 1))
    figure.colorbar(image, ax=axes[0].tolist(), label="attention weight", shrink=0.7)
    return finish(figure)


# The model, drawn from a recorded call ---------------------------------------------------------

TINTS = {
    "TokenEmbedding": RED,
    "PositionalEncoding": RED,
    "MultiHeadAttention": ORANGE,
    "FeedForward": BLUE,
    "LayerNorm": GREEN,
    "Linear": GREY,
}
Point = tuple[float, float]
WIDTH = 3.4  # of a box, in inches


def sizes(shape: Sequence[int]) -> str:
    """Write a shape: (2, 7, 512) -> 2×7×512."""
    return "×".join(map(str, shape))


def describe(call: Any) -> str:
    """Say what goes into a call and what comes out, with what lies between for a feed-forward."""
    between = [sizes(inner.shape_out) for inner in call.inner if inner.kind == "Linear"]
    if call.kind == "FeedForward":
        return " → ".join([sizes(call.shapes_in[0]), *between])
    read = list(dict.fromkeys(sizes(shape) for shape in call.shapes_in[:3]))
    return f"{', '.join(read)} → {sizes(call.shape_out)}"


class Column:
    """A stack of boxes that grows upwards from (x, y)."""

    def __init__(self, axis: Axes, x: float, y: float, side: int) -> None:
        self.axis, self.x, self.y, self.side = axis, x, y, side

    def arrow(self, start: Point, end: Point, head: bool = True) -> None:
        """Draw a straight line, with an arrow's head or without."""
        style = {"arrowstyle": "-|>" if head else "-", "color": "black", "lw": 1,
                 "shrinkA": 0, "shrinkB": 0}
        self.axis.annotate("", end, start, arrowprops=style)

    def text(self, words: str) -> None:
        """Write what enters or leaves the column."""
        self.axis.text(self.x, self.y, words, ha="center", va="center", fontsize=9)
        self.y += 0.2

    def box(self, call: Any, label: str) -> float:
        """Draw a call as a box above what is there; return the height of its middle."""
        thin = call.kind == "Dropout"
        height = 0.26 if thin else 0.52
        bottom = self.y + 0.26
        self.arrow((self.x, self.y), (self.x, bottom))
        colour = TINTS.get(call.kind, "white")
        self.axis.add_patch(
            FancyBboxPatch(
                (self.x - WIDTH / 2, bottom), WIDTH, height,
                boxstyle="round,pad=0,rounding_size=.08",
                facecolor=(colour, 0.25), edgecolor="grey" if thin else colour,
                linestyle="--" if thin else "-", lw=1.2,
            )
        )
        middle = bottom + height / 2
        if thin:
            self.axis.text(self.x, middle, label, ha="center", va="center", fontsize=8, color="0.3")
        else:
            kwargs = {"ha": "center", "va": "center"}
            self.axis.text(self.x, middle + 0.11, label, fontsize=9, weight="bold", **kwargs)
            shapes = f"{call.kind}:  {describe(call)}"
            self.axis.text(self.x, middle - 0.13, shapes, fontsize=7.5, **kwargs)
        self.y = bottom + height
        return middle

    def add(self, start: float) -> None:
        """Draw the sum of a residual connection that left the line at height `start`."""
        centre = self.y + 0.29
        self.arrow((self.x, self.y), (self.x, centre - 0.11))
        self.axis.add_patch(Circle((self.x, centre), 0.11, facecolor="white", edgecolor="black"))
        self.axis.text(self.x, centre, "+", ha="center", va="center", fontsize=10)
        outside = self.x + self.side * (WIDTH / 2 + 0.2)
        self.arrow((self.x, start), (outside, start), head=False)
        self.arrow((outside, start), (outside, centre), head=False)
        self.arrow((outside, centre), (self.x + self.side * 0.11, centre))
        self.y = centre + 0.11

    def call(self, call: Any) -> dict[str, float]:
        """Draw a call with what it calls; return the heights of its boxes by name."""
        heights = {}
        short = call.name.split(".")[-1]
        if call.kind == "Residual":
            start = self.y + 0.1
            for inner in call.inner:
                heights |= self.call(inner)
                if inner.kind == "Dropout":
                    self.add(start)
        elif call.kind == "PositionalEncoding":
            heights[call.name] = self.box(call, short)
            self.box(call.inner[0], "dropout")
        elif call.kind == "Dropout":
            self.box(call, short)
        elif call.kind != "Identity":
            heights[call.name] = self.box(call, short)
        return heights

    def stack(self, call: Any) -> dict[str, float]:
        """Draw an encoder or a decoder: one layer in a frame, how often it comes, a last norm."""
        layers = [inner for inner in call.inner if inner.kind.endswith("Layer")]
        self.arrow((self.x, self.y), (self.x, self.y + 0.2), head=False)
        self.y += 0.2
        bottom, heights = self.y - 0.07, {}
        for inner in layers[0].inner:
            heights |= self.call(inner)
        left, top = self.x - WIDTH / 2 - 0.32, self.y + 0.1
        self.axis.add_patch(
            FancyBboxPatch(
                (left, bottom), WIDTH + 0.64, top - bottom, facecolor=(0, 0, 0, 0.04),
                boxstyle="round,pad=0,rounding_size=.12", edgecolor="grey", lw=1, zorder=0,
            )
        )
        self.axis.text(left + 0.05, top + 0.06, f"{len(layers)} × {layers[0].kind}", fontsize=11)
        self.arrow((self.x, self.y), (self.x, self.y + 0.25), head=False)
        self.y += 0.25
        for inner in call.inner[len(layers):]:
            heights |= self.call(inner)
        return heights


def draw_model(call: Any, title: str) -> Figure:
    """Draw a recorded call of an encoder-decoder: encoder left, decoder right, shapes inside.

    A call has `name` (the module's path), `kind` (its class), `shapes_in`, `shape_out` and
    `inner`, the calls it made, in order.
    """
    figure, axis = plt.subplots(figsize=(9.6, 11))
    turn = next(i for i, inner in enumerate(call.inner) if inner.kind == "Encoder") + 1
    left, right = Column(axis, 0, 0, side=-1), Column(axis, 5, 0, side=1)
    left.text(f"src  {sizes(call.shapes_in[0])}")
    right.text(f"tgt_in  {sizes(call.shapes_in[1])}")
    heights: dict[str, float] = {}
    for column, calls in ((left, call.inner[:turn]), (right, call.inner[turn:])):
        for inner in calls:
            draw = column.stack if inner.kind in ("Encoder", "Decoder") else column.call
            heights |= draw(inner)
    right.arrow((5, right.y), (5, right.y + 0.3))
    right.y += 0.42
    right.text(f"logits  {sizes(call.shape_out)}")
    cross = next(height for name, height in heights.items() if name.endswith("cross_attention"))
    gap, top = 2.3, left.y + 0.2
    left.arrow((0, left.y), (0, top), head=False)
    left.arrow((0, top), (gap, top), head=False)
    left.arrow((gap, top), (gap, cross), head=False)
    left.arrow((gap, cross), (5 - WIDTH / 2, cross))
    axis.text(0.1, top + 0.08, f"memory  {sizes(call.inner[turn - 1].shape_out)}", fontsize=9)
    axis.set(xlim=(-2.2, 7.2), ylim=(-0.2, max(left.y + 0.6, right.y) + 0.1), aspect="equal")
    axis.axis("off")
    axis.set_title(title)
    return finish(figure)
