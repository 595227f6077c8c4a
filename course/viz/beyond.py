"""Pictures of lesson 10: a loss against its lines, surprise, blanks, few labels, trees."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import mean

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from course.beyond import Bracket
from course.viz import BLUE, GREEN, GREY, ORANGE, RED, finish, plain

PALE = "#D6EAF5"


def loss_ladder(
    curve: Sequence[tuple[float, float]], lines: Mapping[str, float], title: str
) -> Figure:
    """Draw a held-out loss over the passes, and computed baselines as lines across."""
    figure, axis = plt.subplots(figsize=(7, 3.8), layout="constrained")
    axis.plot(*zip(*curve), "o-", color=BLUE, ms=4)
    for name, value in lines.items():
        axis.axhline(value, color=GREY, lw=1, ls="--")
        axis.annotate(f"{name}: {value:.2f}", (1, value), xycoords=("axes fraction", "data"),
                      xytext=(0, 3), textcoords="offset points", ha="right", color=GREY, fontsize=9)
    axis.set(xlabel="passes over the captions", ylabel="held-out loss (nats a token)")
    axis.set_ylim(0, 1.08 * max(lines.values()))
    axis.set_title(title)
    return finish(figure)


def surprises(values: Mapping[str, float], people: float, title: str) -> Figure:
    """Draw the surprise at texts of several kinds as bars, people's as a line across."""
    figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
    bars = axis.bar(list(values), list(values.values()), color=BLUE, width=0.6)
    axis.bar_label(bars, fmt="%.2f", fontsize=9)
    axis.axhline(people, color=RED, lw=1.5, ls="--")
    axis.annotate(f"people: {people:.2f}", (0, people), xycoords=("axes fraction", "data"),
                  xytext=(4, 4), textcoords="offset points", color=RED, fontsize=9)
    axis.set(ylabel="surprise (nats a token)", xlabel="how the text was made")
    axis.set_ylim(0, 1.12 * max(*values.values(), people))
    axis.set_title(title)
    return finish(figure)


def blanks(answers: Mapping[str, Sequence[tuple[str, float]]], title: str) -> Figure:
    """Draw the likeliest words for the blank of each text: text -> (word, probability), ..."""
    rows = -(-len(answers) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(9.5, 1.75 * rows), sharex=True,
                                squeeze=False, layout="constrained")
    for axis, (text, found) in zip(axes.flat, answers.items()):
        names = [plain(word.strip("▁") or word) for word, _ in found]
        bars = axis.barh(range(len(found)), [p for _, p in found], color=BLUE)
        axis.bar_label(bars, fmt=" %.2f", fontsize=8)
        axis.set_yticks(range(len(found)), names, fontsize=9)
        axis.invert_yaxis()
        axis.set_xlim(0, 1.2 * max(p for found in answers.values() for _, p in found))
        axis.set_title(plain(text), fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("probability")
    return finish(figure, title)


def few_labels(
    amounts: Sequence[int], accuracy: Mapping[str, Sequence[Sequence[float]]], title: str
) -> Figure:
    """Draw accuracy over the number of labelled captions; name -> the runs of each number."""
    figure, axis = plt.subplots(figsize=(7, 3.8), layout="constrained")
    for (name, rows), marker, colour in zip(accuracy.items(), "Dso^", (GREEN, GREY, ORANGE, BLUE)):
        means = [100 * mean(runs) for runs in rows]
        axis.plot(amounts, means, marker=marker, color=colour, label=name)
        for amount, runs in zip(amounts, rows):
            axis.plot([amount] * len(runs), [100 * a for a in runs], "_", color=colour, ms=8)
    axis.set_xscale("log", base=2)
    axis.set_xticks(amounts, [str(n) for n in amounts])
    axis.set(xlabel="captions with labels (log scale)", ylabel="right tags (%)")
    axis.set_title(title)
    axis.legend(title="begins as (dashes: single runs)", fontsize=9, title_fontsize=9)
    return finish(figure)


def _heights(brackets: Sequence[Bracket]) -> list[int]:
    """Return how high each bracket stands over the words: one above the highest inside it."""
    heights = [0] * len(brackets)
    for i in reversed(range(len(brackets))):  # a bracket comes before those inside it
        _, start, end = brackets[i]
        inside = [heights[j] for j in range(i + 1, len(brackets))
                  if start <= brackets[j][1] and brackets[j][2] <= end]
        heights[i] = 1 + max(inside, default=0)
    return heights


def _spans(
    axis: Axes, words: Sequence[str], brackets: Sequence[Bracket], marked: Sequence[Bracket]
) -> None:
    """Draw each bracket as a bar over its words; `marked` ones orange, with a dashed edge."""
    heights = _heights(brackets)
    left = list(marked)
    for bracket, height in zip(brackets, heights):
        label, start, end = bracket
        wrong = bracket in left
        if wrong:
            left.remove(bracket)
        axis.barh(height, end - start - 0.16, 0.8, start - 0.42, ls="--" if wrong else "-",
                  color=ORANGE if wrong else PALE, ec="black" if wrong else BLUE)
        axis.text((start + end - 1) / 2, height, plain(label), ha="center", va="center", fontsize=9)
    for k, word in enumerate(words):
        axis.text(k, 0.3, plain(word), ha="center", va="top", fontsize=9)
    axis.set_xlim(-0.6, len(words) - 0.4)
    axis.set_ylim(-0.3, max(heights, default=1) + 0.6)
    axis.set_axis_off()


def bracketings(
    words: Sequence[str], gold: Sequence[Bracket], said: Sequence[Bracket], title: str
) -> Figure:
    """Draw gold brackets over the predicted ones; what only one of them has is orange."""
    missed, added = ((Counter(a) - Counter(b)).elements() for a, b in ((gold, said), (said, gold)))
    tallest = max(max(_heights(gold)), max(_heights(said), default=1))
    figure, axes = plt.subplots(2, 1, figsize=(max(6, 0.85 * len(words)), 1.2 + 0.8 * tallest),
                                layout="constrained")
    rows = (("gold", gold, list(missed)), ("predicted", said, list(added)))
    for axis, (name, brackets, marked) in zip(axes, rows):
        _spans(axis, words, brackets, marked)
        count = f", {len(marked)} only here" if marked else ""
        axis.set_title(f"{name}: {len(brackets)} brackets{count}", fontsize=10)
    return finish(figure, title)


def looked_at(offsets: Sequence[int], profile: Tensor, uniform: float, title: str) -> Figure:
    """Draw where heads look, counted from the word that is due: profile (H, offsets)."""
    figure, axis = plt.subplots(figsize=(7, 3.4), layout="constrained")
    for head, (row, marker) in enumerate(zip(profile.tolist(), "osD^vP*X"), start=1):
        axis.plot(offsets, row, marker=marker, ms=5, label=f"head {head}")
    axis.axhline(uniform, color="black", lw=1, ls="--", label="a head that looks nowhere")
    axis.axvline(0, color=GREY, lw=0.8)
    axis.set_xticks(offsets, [f"{o:+d}" if o else "due" for o in offsets])
    axis.set(xlabel="place of the word looked at", ylabel="mean weight", ylim=(0, None))
    axis.set_title(title)
    axis.legend(fontsize=9)
    return finish(figure)


def parsing_bars(table: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Draw bracket F1 with and without labels: name -> (labelled, unlabelled), 0 to 1."""
    figure, axis = plt.subplots(figsize=(7, 3.4), layout="constrained")
    kinds = ((-0.2, BLUE, "", "label and span"), (0.2, GREEN, "//", "span only"))
    for shift, colour, hatch, name in kinds:
        values = [100 * row[shift > 0] for row in table.values()]
        places = [i + shift for i in range(len(table))]
        bars = axis.bar(places, values, 0.38, color=colour, hatch=hatch, ec="white", label=name)
        axis.bar_label(bars, fmt="%.0f", fontsize=9)
    axis.set_xticks(range(len(table)), [name.replace(", ", ",\n") for name in table])
    axis.set(ylabel="bracket F1 (%)", ylim=(0, 118))
    axis.set_title(title)
    axis.legend(loc="upper left", fontsize=9)
    return finish(figure)
