"""Pictures of an experiment: its curves, and how its judge behaves."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from course.viz import BLUE, GREY, ORANGE, RED, finish


def learning_curves(
    log: Sequence[Mapping[str, float]], baselines: Mapping[str, float], title: str
) -> Figure:
    """Draw training and validation loss over the steps of a run's log, between known baselines."""
    figure, axis = plt.subplots(figsize=(7, 3.6))
    trained = [line for line in log if "loss" in line]
    checked = [line for line in log if "val_loss" in line]
    axis.plot([line["step"] for line in trained], [line["loss"] for line in trained], "-",
              color=BLUE, lw=1, alpha=0.7, label="training (dropout, smoothed target)")
    axis.plot([line["step"] for line in checked], [line["val_loss"] for line in checked], "o--",
              color=RED, ms=4, label="validation")
    for name, value in baselines.items():
        axis.axhline(value, color=GREY, lw=0.8)
        axis.annotate(name, (1, value), xycoords=("axes fraction", "data"), xytext=(-2, 2),
                      textcoords="offset points", ha="right", color=GREY, fontsize=8)
    axis.set(xlabel="step", ylabel="loss (nats a token)", ylim=(0, None))
    axis.set_title(title)
    axis.legend(loc="lower left", ncols=2, fontsize=9)
    return finish(figure)


def p_values(values: Sequence[float], title: str) -> Figure:
    """Draw how often each p-value came out; those below 0.05 are coloured."""
    figure, axis = plt.subplots(figsize=(6.4, 2.8))
    edges = [i / 20 for i in range(21)]
    bars = axis.hist(values, edges, color=GREY, edgecolor="white")[2]
    bars[0].set_facecolor(ORANGE)
    axis.axhline(len(values) / 20, color="black", lw=0.8, ls="--", label="one in twenty")
    axis.set(xlabel="p-value (left bar: below 0.05, called significant)", ylabel="pairs")
    axis.legend(loc="lower right", frameon=True)
    return finish(figure, title)
