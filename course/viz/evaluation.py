"""Pictures of an experiment: its curves, and where its decoder looks."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

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


def attention_grid(
    weights: Tensor, rows: Sequence[str], columns: Sequence[str], title: str
) -> Figure:
    """Draw one map a layer, weights (layers, T, S), over the tokens written and read."""
    figure, axes = plt.subplots(
        1, len(weights), figsize=(3.3 * len(weights) + 1, 0.25 * len(rows) + 1.6), sharey=True
    )
    for number, (axis, map_) in enumerate(zip(axes, weights), 1):
        image = axis.imshow(map_, cmap="Greys", vmin=0, vmax=1, aspect="auto")
        axis.set_xticks(range(len(columns)), columns, rotation=70, ha="right", fontsize=8)
        axis.set_yticks(range(len(rows)), rows, fontsize=8)
        axis.set_xlabel("read")
        axis.set_title(f"layer {number}", fontsize=9)
    axes[0].set_ylabel("about to be written")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.tight_layout()
    figure.colorbar(image, ax=axes, label="weight", fraction=0.02)
    return finish(figure)


def need_and_weight(
    words: Sequence[str], needed: Sequence[float], attended: Sequence[float], title: str
) -> Figure:
    """Draw, for each source word, the nats lost without it and the attention that it received."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 0.3 * len(words) + 1.2), sharey=True)
    for axis, values, colour, label in zip(
        axes, (needed, attended), (BLUE, ORANGE),
        ("log-probability lost without the word (nats)", "attention received (sum of weights)"),
    ):
        axis.barh(range(len(words)), values, color=colour)
        axis.axvline(0, color=GREY, lw=0.8)
        axis.set_xlabel(label)
    axes[0].set_yticks(range(len(words)), words)
    axes[0].invert_yaxis()
    return finish(figure, title)
