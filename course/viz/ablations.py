"""Pictures of ablations: what each choice is worth, with its margin."""

from collections.abc import Collection, Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from course.viz import BLUE, GREY, ORANGE, RED, finish


def differences(
    rows: Sequence[tuple[str, str, float, float, Sequence[float], float | None]], title: str
) -> Figure:
    """Draw how far each setting lies from the base, group by group.

    A row: group, name, difference, margin, the differences of its single runs, the paper's (or
    None). A filled dot lies outside its margin, a hollow one within.
    """
    figure, axis = plt.subplots(figsize=(8, 0.27 * len(rows) + 1.3))
    axis.axvline(0, color=GREY, lw=1)
    for y, (_, _, value, margin, runs, paper) in enumerate(rows):
        clear = abs(value) > margin
        axis.errorbar(value, y, xerr=margin, color=BLUE, fmt="o", capsize=3, ms=6, lw=1.2,
                      mfc=BLUE if clear else "white", label="here, with its margin")
        axis.plot(runs, [y] * len(runs), "|", color="black", ms=11, mew=1.4, label="single runs")
        if paper is not None:
            axis.plot(paper, y, "D", color=ORANGE, mec="black", ms=5.5, label="the paper's row")
    starts = [y for y in range(1, len(rows)) if rows[y][0] != rows[y - 1][0]]
    for y in starts:
        axis.axhline(y - 0.5, color="#DDDDDD", lw=0.8)
    for y in [0, *starts]:
        axis.annotate(rows[y][0], (1, y), xycoords=("axes fraction", "data"), xytext=(6, 0),
                      textcoords="offset points", va="center", color=GREY, fontsize=9)
    axis.set_yticks(range(len(rows)), [row[1] for row in rows])
    axis.invert_yaxis()
    axis.set_xlabel("difference in BLEU to the base")
    axis.set_title(title)
    labels = dict(zip(*reversed(axis.get_legend_handles_labels())))
    axis.legend(labels.values(), labels.keys(), fontsize=8, ncols=3, loc="upper center",
                bbox_to_anchor=(0.4, -0.5 / (0.27 * len(rows) + 1.3) - 0.04))
    return finish(figure)


def loss_and_bleu(
    points: Mapping[str, tuple[float, float]], base: str, named: Collection[str], title: str
) -> Figure:
    """Draw each setting by its validation loss and its BLEU; name -> (loss, BLEU).

    named: the settings whose name is written beside the dot; the base has a square.
    """
    figure, axis = plt.subplots(figsize=(7, 4.2))
    for name, (loss, bleu) in points.items():
        own = name == base
        axis.plot(loss, bleu, "s" if own else "o", color=RED if own else BLUE, ms=7 if own else 5)
        if own or name in named:
            axis.annotate(name, (loss, bleu), xytext=(6, 3), textcoords="offset points", fontsize=8)
    axis.set(xlabel="validation loss (nats a token)", ylabel="BLEU (validation, greedy)")
    axis.set_title(title)
    return finish(figure)


def learning_by_budget(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], title: str
) -> Figure:
    """Draw the validation loss of some runs over the epochs; name -> (epochs, losses)."""
    figure, axis = plt.subplots(figsize=(7, 3.6))
    for name, (epochs, losses) in curves.items():
        axis.plot(epochs, losses, marker=".", label=name)
    axis.set(xlabel="passes over the training pairs", ylabel="validation loss (nats a token)")
    axis.set_title(title)
    axis.legend(fontsize=9)
    return finish(figure)
