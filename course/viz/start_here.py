"""Pictures of lesson 00: the map of the course, and gold word alignments."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from course.viz import BLUE, GREY, ORANGE

# data's way through the package: (x, y) of each station, and what travels between two of them
PLACES = {
    "corpora": (0, 1), "text": (1, 1), "masking": (2, 1), "transformer": (3, 1),
    "training": (4, 1), "decoding": (4, 0), "multi30k": (3, 0), "attention": (3, 2),
}  # fmt: skip
WAYS = [
    ("corpora", "text", "sentences"), ("text", "masking", "token ids"),
    ("masking", "transformer", "batches"), ("transformer", "training", "logits"),
    ("training", "decoding", "checkpoint"), ("decoding", "multi30k", "translations"),
    ("attention", "transformer", "is a part of"),
]  # fmt: skip


def _box(
    axis: Axes, x: float, y: float, width: float, name: str, below: str, here: bool, colour: str
) -> None:
    """Draw a box around (x, y) with a name in bold; dashed and pale if it is still to come."""
    frame = FancyBboxPatch(
        (x - width / 2, y - 0.3), width, 0.6, boxstyle="round,pad=0,rounding_size=.06",
        facecolor=(colour, 0.2) if here else "white", edgecolor=colour if here else GREY,
        linestyle="-" if here else "--", lw=1.3,
    )  # fmt: skip
    axis.add_patch(frame)
    ink = "black" if here else GREY
    kwargs = {"ha": "center", "va": "center", "color": ink}
    axis.text(x, y + 0.12, name, weight="bold", fontsize=9, **kwargs)
    axis.text(x, y - 0.12, below, fontsize=7.5, **kwargs)


def course_map(
    lessons: Sequence[tuple[str, str, str, bool]], numbers: Mapping[str, str], title: str
) -> Figure:
    """Draw the lessons in order, and below them the way of the data through the package.

    lessons: (number, title, module, is it there?), the number "" for a page outside the order;
    numbers: module -> the number of the lesson that it comes from.
    """
    figure, axis = plt.subplots(figsize=(10.5, 6.2), layout="constrained")
    per_row = 6
    for i, (number, name, module, here) in enumerate(lessons):
        x, y = 0.45 + 2.0 * (i % per_row), 5.6 - 0.85 * (i // per_row)
        label = f"{number} · {name}" if number else name
        _box(axis, x, y, 1.8, label, module if here else "to come", here, BLUE)
        if i % per_row and number:
            style = {"arrowstyle": "-|>", "color": GREY, "lw": 1, "shrinkA": 0, "shrinkB": 0}
            axis.annotate("", (x - 0.9, y), (x - 1.1, y), arrowprops=style)
    axis.text(-0.45, 6.15, "The lessons, in order", fontsize=10, weight="bold")
    axis.text(-0.45, 3.95, "The way of the data through the modules that they make", fontsize=10,
              weight="bold")  # fmt: skip
    at = {name: (0.6 + 2.45 * x, 1.0 + 1.15 * y) for name, (x, y) in PLACES.items()}
    for name, (x, y) in at.items():
        label = f"lesson {numbers[name]}" if name in numbers else "no lesson: the data"
        _box(axis, x, y, 1.5, name, label, True, ORANGE)
    for start, end, what in WAYS:
        (x0, y0), (x1, y1) = at[start], at[end]
        if y0 == y1:
            side = 0.75 if x1 > x0 else -0.75
            ends, place = ((x0 + side, y0), (x1 - side, y1)), ((x0 + x1) / 2, y0 + 0.1)
            how = {"ha": "center", "va": "bottom"}
        else:
            ends, place = ((x0, y0 - 0.3), (x1, y1 + 0.3)), (x0 + 0.1, (y0 + y1) / 2)
            how = {"ha": "left", "va": "center"}
        style = {"arrowstyle": "-|>", "color": "black", "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
        axis.annotate("", ends[1], ends[0], arrowprops=style)
        axis.text(*place, what, fontsize=8, **how)
    axis.set(xlim=(-0.55, 11.5), ylim=(0.5, 6.4))
    axis.axis("off")
    axis.set_title(title)
    plt.close(figure)
    return figure


def alignments(
    pairs: Sequence[tuple[Sequence[str], Sequence[str], Sequence[tuple[int, int]]]], title: str
) -> Figure:
    """Draw sentence pairs with a line for each link; links that cross another one are orange.

    A pair is (German words, English words, links (i, j)).
    """
    longest = max(max(len(german), len(english)) for german, english, _ in pairs)
    figure, axes = plt.subplots(
        len(pairs), 1, figsize=(0.95 * longest + 0.6, 1.55 * len(pairs) + 0.3),
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for axis, (german, english, links) in zip(axes[:, 0], pairs):
        for words, y, va in ((german, 1, "bottom"), (english, 0, "top")):
            for x, word in enumerate(words):
                axis.text(x, y, word, ha="center", va=va, fontsize=10)
        for i, j in links:
            crossed = any((i - k) * (j - m) < 0 for k, m in links)
            axis.plot([i, j], [0.97, 0.03], color=ORANGE if crossed else BLUE, lw=1.4,
                      ls="-" if crossed else "--")  # fmt: skip
        axis.set(xlim=(-0.6, longest - 0.4), ylim=(-0.35, 1.35))
        axis.axis("off")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    plt.close(figure)
    return figure
