"""Pictures of lesson 11: a case beside a healthy one, and symptom by illness."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from course.viz import BLUE, GREEN, GREY, RED, finish


def sheet(
    losses: Mapping[str, Sequence[float]],
    figures: Mapping[str, Sequence[float]],
    weights: Tensor,
    words: tuple[Sequence[str], Sequence[str]],
    title: str,
) -> Figure:
    """Draw a case: loss curves; its figures beside the healthy ones; where one head looks.

    losses: name -> one a step, the healthy first; figures: name -> (healthy, this one); weights
    (T, S) of the words (target, source).
    """
    figure, (curve, bars, seen) = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained",
                                               width_ratios=(1.1, 0.8, 1))
    for (name, values), colour, style in zip(losses.items(), (GREY, RED), ("--", "-")):
        curve.plot(range(1, len(values) + 1), values, linestyle=style, color=colour, label=name)
    curve.set(xlabel="step", ylabel="training loss (nats a token)", ylim=(0, None))
    curve.legend()
    places = range(len(figures))
    for side, (name, colour) in enumerate(zip(losses, (GREY, RED))):
        values = [pair[side] for pair in figures.values()]
        at = [x + 0.4 * side - 0.2 for x in places]
        drawn = bars.bar(at, values, 0.38, color=colour, label=name)
        bars.bar_label(drawn, fmt="%.3g", fontsize=8)
    bars.set_xticks(list(places), list(figures))
    bars.set_title("held-out sentences")
    seen.imshow(weights, cmap="Greys", vmin=0, vmax=1, aspect="auto")
    seen.set_xticks(range(len(words[1])), words[1], rotation=60, ha="right", fontsize=8)
    seen.set_yticks(range(len(words[0])), words[0], fontsize=8)
    seen.set_title("cross-attention, last layer, mean of heads")
    return finish(figure, title)


def symptoms(
    reacts: Mapping[str, Sequence[bool]], tools: Sequence[str], losses: Sequence[float],
    scores: Sequence[float], title: str, alt: str,
) -> Figure:
    """Draw which tool reacts to which illness, and beside it the loss and BLEU at the end."""
    figure, (grid, loss, bleu) = plt.subplots(1, 3, figsize=(10.5, 5.6), layout="constrained",
                                              width_ratios=(2.4, 1, 1), sharey=True)
    rows = range(len(reacts))
    for y, hits in enumerate(reacts.values()):
        for x, hit in enumerate(hits):
            grid.plot(x, y, "o", ms=9 if hit else 2, color=RED if hit else "#BBBBBB")
    grid.set_xticks(range(len(tools)), tools, rotation=50, ha="right")
    grid.set_yticks(list(rows), list(reacts))
    grid.set_xlim(-0.6, len(tools) - 0.4)
    for axis, values, name, colour in ((loss, losses, "loss at the end (nats)", BLUE),
                                       (bleu, scores, "BLEU, held out", GREEN)):
        axis.barh(list(rows), values, color=[GREY if y == 0 else colour for y in rows], height=0.65)
        axis.axvline(values[0], color=GREY, lw=1, linestyle=":")
        for y, value in enumerate(values):
            axis.annotate(f"{value:.2f}" if axis is loss else f"{value:.0f}", (value, y),
                          xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)
        axis.set_xlabel(name)
        axis.margins(x=0.18)
    grid.set_title("a tool that reacts")
    grid.invert_yaxis()
    return finish(figure, title, alt)
