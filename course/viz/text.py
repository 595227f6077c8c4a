"""Pictures for lesson 06: words cut into tokens, counts, lengths, and what padding wastes."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from course.viz import BLUE, GREEN, GREY, ORANGE, finish, plain

PALE_BLUE, PALE_ORANGE = "#cfe3f1", "#f9dca6"
MARKERS = "osD^v"
PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 1}


def boxes(axis: Axes, y: float, symbols: Sequence[str], new: Sequence[bool]) -> None:
    """Draw one word as a row of boxes, a character one unit wide; `new` boxes stand out."""
    x = 0.0
    for symbol, is_new in zip(symbols, new):
        style = {"facecolor": "white", "edgecolor": GREY, "lw": 0.8}
        if is_new:
            style = {"facecolor": PALE_ORANGE, "edgecolor": ORANGE, "lw": 1.8}
        elif len(symbol) > 1:
            style = {"facecolor": PALE_BLUE, "edgecolor": BLUE, "lw": 1.0}
        axis.add_patch(Rectangle((x + 0.06, y - 0.36), len(symbol) - 0.12, 0.72, **style))
        label = plain(symbol.replace(" ", "▁"))
        axis.text(x + len(symbol) / 2, y, label, ha="center", va="center", family="monospace")
        x += len(symbol)


def merge_panels(stages: Mapping[str, Sequence[tuple[str, ...]]], title: str) -> Figure:
    """Draw a word list at several moments: one panel a moment, one row of boxes a word."""
    words = len(next(iter(stages.values())))
    longest = max(sum(map(len, word)) for word in next(iter(stages.values())))
    figure, axes = plt.subplots(1, len(stages), figsize=(2.9 * len(stages), 0.42 * words + 1))
    for axis, (label, segmented) in zip(axes, stages.items()):
        for row, symbols in enumerate(segmented):
            boxes(axis, -row, symbols, [False] * len(symbols))
        axis.set(xlim=(0, longest), ylim=(0.5 - words, 0.5))
        axis.set_title(label, fontsize=9)
        axis.axis("off")
    return finish(figure, title)


def build_up(stages: Sequence[tuple[str, tuple[str, ...]]], title: str) -> Figure:
    """Draw how one word grows: a row for each (label, symbols), the newest symbol standing out."""
    figure, axis = plt.subplots(figsize=(8, 0.42 * len(stages) + 0.7))
    before: tuple[str, ...] = stages[0][1]
    for row, (label, symbols) in enumerate(stages):
        ends = {sum(map(len, before[: i + 1])) - len(s) for i, s in enumerate(before)}
        starts = [sum(map(len, symbols[:i])) for i in range(len(symbols))]
        spans = zip(starts, symbols)
        new = [len([e for e in ends if start <= e < start + len(s)]) > 1 for start, s in spans]
        boxes(axis, -row, symbols, new)
        axis.text(-0.4, -row, plain(label), ha="right", va="center", fontsize=9, color=GREY)
        before = symbols
    width = sum(map(len, before))
    axis.set(xlim=(-0.75 * width, width + 0.2), ylim=(0.5 - len(stages), 0.5))
    axis.axis("off")
    return finish(figure, title)


def zipf(curves: Mapping[str, Sequence[int]], title: str) -> Figure:
    """Draw how often the words occur, the most frequent first, both axes logarithmic."""
    figure, axis = plt.subplots(figsize=(6, 3.6))
    for (label, counts), marker in zip(curves.items(), MARKERS):
        ranks = range(1, len(counts) + 1)
        axis.loglog(ranks, counts, marker=marker, markevery=0.1, ms=5, label=label)
    largest = max(max(counts) for counts in curves.values())
    longest = max(len(counts) for counts in curves.values())
    line = [largest / rank for rank in range(1, longest + 1)]
    axis.loglog(
        range(1, longest + 1), line, color=GREY, ls=":", lw=1, label="proportional to 1/rank"
    )
    axis.set(xlabel="rank of the word", ylabel="times it occurs", ylim=(0.7, None))
    axis.legend(fontsize=8)
    return finish(figure, title)


def length_histograms(
    panels: Mapping[str, Mapping[str, Sequence[int]]], title: str
) -> Figure:
    """Draw one panel a language: how many tokens a sentence has, cut in several ways."""
    figure, axes = plt.subplots(len(panels), 1, figsize=(7, 1.9 * len(panels) + 0.8), sharex=True)
    longest = max(max(lengths) for cuts in panels.values() for lengths in cuts.values())
    for axis, (language, cuts) in zip(axes, panels.items()):
        for (label, lengths), colour, hatch in zip(
            cuts.items(), (BLUE, ORANGE, GREEN), ("", "////", "....")
        ):
            mean = sum(lengths) / len(lengths)
            style = {"color": colour, "edgecolor": "white", "alpha": 0.75, "hatch": hatch, "lw": 0}
            name = f"{label}, mean {mean:.1f}"
            axis.hist(
                lengths, bins=range(0, longest + 2, max(1, longest // 40)), label=name, **style
            )
        axis.set_ylabel("sentences")
        axis.set_title(language, fontsize=10)
        axis.legend(fontsize=8)
    axes[-1].set_xlabel("tokens in a sentence")
    return finish(figure, title)


def trade_off(
    sizes: Sequence[int],
    lengths: Mapping[str, Sequence[float]],
    floor: Mapping[str, float],
    title: str,
) -> Figure:
    """Draw mean tokens a sentence over the size of the vocabulary; `floor`: one token a piece."""
    figure, axis = plt.subplots(figsize=(6, 3.6))
    for (language, means), marker, colour, style in zip(
        lengths.items(), MARKERS, (BLUE, ORANGE), (":", "-.")
    ):
        axis.plot(sizes, means, marker=marker, ms=5, color=colour, label=f"{language}, BPE")
        label = f"{language}, one token a piece ({floor[language]:.1f})"
        axis.axhline(floor[language], color=colour, ls=style, lw=1.2, label=label)
    axis.set_xscale("log")
    axis.set_xticks(sizes, [str(s) for s in sizes], fontsize=8)
    axis.minorticks_off()
    axis.set(xlabel="size of the vocabulary (log scale)", ylabel="tokens a sentence")
    axis.set_ylim(0, None)
    axis.legend(fontsize=8)
    return finish(figure, title)


def padding(
    waste: Mapping[str, float], rectangles: Mapping[str, Sequence[int]], title: str
) -> Figure:
    """Draw one batch of some schemes, real tokens dark, above the waste of each scheme.

    waste: scheme -> share of padding, 0 to 1; rectangles: scheme -> the lengths in one batch.
    """
    figure, axes = plt.subplot_mosaic(
        [[*rectangles], ["waste"] * len(rectangles)], figsize=(8, 5.4), height_ratios=(1.1, 1)
    )
    widest = max(max(lengths) for lengths in rectangles.values())
    for scheme, lengths in rectangles.items():
        axis, rows = axes[scheme], range(len(lengths))
        axis.barh(rows, [max(lengths)] * len(lengths), height=1, color=PALE_ORANGE)
        axis.barh(rows, lengths, height=1, color=BLUE)
        axis.set(xlim=(0, widest), xlabel="position (light: padding)", ylabel="sentence")
        axis.invert_yaxis()
        axis.set_title(f"one batch: {scheme}", fontsize=9)
    axis, names = axes["waste"], list(waste)
    bars = axis.barh(names, [100 * waste[name] for name in names], color=BLUE, height=0.6)
    axis.bar_label(
        bars, [f"{100 * waste[name]:.1f} %" for name in names], padding=3, fontsize=9, bbox=PAPER
    )
    axis.axvline(10, color=GREY, ls="--", lw=1, zorder=0)
    axis.set(xlabel="positions that are padding (%); dashed line: 10 %", xlim=(0, 100))
    axis.invert_yaxis()
    return finish(figure, title)
