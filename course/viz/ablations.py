"""Pictures of ablations: what each choice is worth, with its margin."""

from collections.abc import Collection, Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from course.viz import BLUE, GREY, ORANGE, RED, STYLES, finish


def differences(
    rows: Sequence[tuple[str, str, float, float, float, Sequence[float], float | None]], title: str
) -> Figure:
    """Draw how far each setting lies from the base, group by group.

    A row: group, name, difference, its margin, the margin for all rows together, the differences
    of its single runs, the paper's (or None). A full dot lies outside both margins, a grey one
    outside its own only, a hollow one within.
    """
    figure, axis = plt.subplots(figsize=(8, 0.27 * len(rows) + 1.3))
    axis.axvline(0, color=GREY, lw=1)
    for y, (_, _, value, margin, family, runs, paper) in enumerate(rows):
        inside = BLUE if abs(value) > family else "#BBBBBB" if abs(value) > margin else "white"
        axis.errorbar(value, y, xerr=family, color=BLUE, fmt="none", capsize=3, lw=0.8,
                      label="margin of all rows together")
        axis.errorbar(value, y, xerr=margin, color=BLUE, fmt="o", ms=6, lw=2.4, mfc=inside,
                      label="here, with the margin of this row alone")
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
    axis.legend(labels.values(), labels.keys(), fontsize=8, ncols=2, loc="upper center",
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
    """Draw the validation loss of some runs over the epochs, and once more their second half.

    curves: name -> (epochs, losses). The right panel shows what lies near the lowest end.
    """
    figure, (whole, end) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    longest = max(epochs[-1] for epochs, _ in curves.values())
    lowest = min(min(losses) for _, losses in curves.values())
    late = [loss for epochs, losses in curves.values() for epoch, loss in zip(epochs, losses)
            if epoch >= 0.6 * longest and loss < lowest + 0.2]
    for (name, (epochs, losses)), (colour, line, _) in zip(curves.items(), STYLES):
        for axis in (whole, end):
            axis.plot(epochs, losses, linestyle=line, color=colour, marker=".", ms=4, label=name)
        if losses[-1] <= max(late):
            end.annotate(f"{losses[-1]:.3f}", (epochs[-1], losses[-1]), xytext=(5, 0),
                         textcoords="offset points", va="center", fontsize=8, color=colour)
    room = 0.08 * (max(late) - lowest)
    end.set(xlim=(0.55 * longest, 1.1 * longest), ylim=(lowest - room, max(late) + room))
    end.set_title("the same, enlarged: the end", fontsize=10)
    whole.set_ylabel("validation loss (nats a token)")
    for axis in (whole, end):
        axis.set_xlabel("passes over the training pairs")
    whole.legend(fontsize=9)
    return finish(figure, title)
