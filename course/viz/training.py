"""Drawings of lesson 07: targets, schedules, steps, curves, averages."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator

from course.viz import BLUE, GREEN, GREY, ORANGE, RED, finish, plain

Curve = Sequence[float]


def smoothed_target(
    words: Sequence[str],
    hard: Curve,
    soft: Curve,
    confidence: Curve,
    losses: Mapping[str, Curve],
    best: tuple[float, float],
) -> Figure:
    """Draw both targets as bars, and the loss over the probability of the right word.

    hard, soft: one probability a word; losses: a curve over `confidence` for each label;
    best: confidence and loss at the lowest point of the smoothed curve.
    """
    figure, (bars, curves) = plt.subplots(1, 2, figsize=(9.5, 3.6))
    x = range(len(words))
    bars.bar([i - 0.2 for i in x], hard, 0.4, color=GREY, label="one-hot")
    bars.bar([i + 0.2 for i in x], soft, 0.4, color=BLUE, label="smoothed")
    right = max(x, key=hard.__getitem__)
    bars.annotate(f"{soft[right]:.4f}", (right + 0.45, soft[right]), va="center", fontsize=9)
    bars.annotate(
        f"{soft[-1]:.4f} for each wrong word",
        (len(words) - 2.8, soft[-1]),
        xytext=(len(words) - 4.4, 0.3),
        arrowprops={"arrowstyle": "->", "color": GREY},
        fontsize=9,
    )
    bars.set_xticks(list(x), map(plain, words), rotation=35, ha="right")
    bars.set(ylabel="target probability", ylim=(0, 1.15))
    bars.set_title("Each wrong word gets a little")
    bars.legend(loc="upper right")
    for (label, values), style, color in zip(losses.items(), ("--", "-"), (GREY, BLUE)):
        curves.plot(confidence, values, linestyle=style, color=color, lw=2, label=label)
    curves.axhline(best[1], color=ORANGE, linestyle=":")
    curves.plot(*best, "o", color=ORANGE, ms=7)
    curves.annotate(
        f"lowest at {best[0]:.4f}:\nthe target's entropy, {best[1]:.2f}",
        best,
        xytext=(0.42, 0.52),
        textcoords="axes fraction",
        arrowprops={"arrowstyle": "->", "color": GREY},
        fontsize=9,
    )
    curves.set(xlabel="probability given to the right word", ylabel="loss (nats)")
    curves.set_ylim(-0.05, 2.5)
    curves.set_title("The smoothed loss punishes being too sure")
    curves.legend(loc="upper right")
    return finish(figure)


def schedules(paper: Mapping[str, Curve], ours: Mapping[str, Curve], warmup: int) -> Figure:
    """Draw learning rates over the steps: the paper's schedule left, ours right.

    Each curve holds one rate a step, from step 1 on; `warmup` is marked on the right.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), sharey=True)
    highest = max(max(rates) for curves in (paper, ours) for rates in curves.values())
    for axis, curves in zip(axes, (paper, ours)):
        for label, rates in curves.items():
            axis.plot(range(1, len(rates) + 1), [1000 * r for r in rates], lw=2, label=label)
        axis.set(xlabel="step", ylim=(0, 1450 * highest))
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.legend(loc="upper right")
    axes[0].set_ylabel("learning rate (thousandths)")
    axes[0].set_title("The paper's rate peaks where warm-up ends")
    axes[1].axvline(warmup, color=GREY, lw=0.8, linestyle=":")
    axes[1].annotate(" warm-up ends", (warmup, 1400 * highest), fontsize=8, color=GREY)
    axes[1].set_title("Ours reaches 0 when the budget is spent")
    return finish(figure)


def step_lengths(raw: Mapping[str, Curve], corrected: Curve) -> Figure:
    """Draw how long Adam's first steps are, in units of the rate, under a constant gradient."""
    figure, axis = plt.subplots(figsize=(6.5, 3.6))
    for (label, values), style, color in zip(raw.items(), ("--", "-."), (ORANGE, RED)):
        axis.semilogx(range(1, len(values) + 1), values, style, color=color, lw=2, label=label)
    t = range(1, len(corrected) + 1)
    axis.semilogx(t, corrected, "-", color=BLUE, lw=2, label="with bias correction, any $\\beta_2$")
    axis.set(xlabel="step", ylabel="step length / learning rate", ylim=(0, None))
    axis.set_title("Without the correction, the first steps have the wrong length")
    axis.legend(loc="upper right")
    return finish(figure)


def overfitting(histories: Mapping[str, Sequence[tuple[float, float, float]]]) -> Figure:
    """Draw, for each dropout rate, (epoch, train loss, val loss) as two curves in one panel."""
    figure, axes = plt.subplots(
        1, len(histories), figsize=(9.5, 3.6), sharey=True, squeeze=False
    )
    for axis, (label, history) in zip(axes[0], histories.items()):
        epochs, train, val = zip(*history)
        axis.plot(epochs, train, "o-", color=BLUE, ms=4, label="sentences it trains on")
        axis.plot(epochs, val, "s--", color=RED, ms=4, label="new sentences (val)")
        axis.fill_between(epochs, train, val, color=GREY, alpha=0.15)
        axis.set(xlabel="epoch", title=label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.annotate(
            f"gap {val[-1] - train[-1]:.2f}",
            (epochs[-1], (val[-1] + train[-1]) / 2),
            ha="right",
            va="center",
        )
    highest = max(max(point[1:]) for history in histories.values() for point in history)
    axes[0][0].set(ylabel="loss per token (nats)", ylim=(0, 1.3 * highest))
    axes[0][0].legend(loc="upper right")
    figure.suptitle("Dropout narrows the gap between known and new sentences", x=0.01, ha="left")
    return finish(figure)


def resumed(unbroken: Mapping[int, float], parts: Mapping[str, Mapping[int, float]]) -> Figure:
    """Draw the loss of each step of an unbroken run as a line, and of the parts as markers."""
    figure, axis = plt.subplots(figsize=(7, 3.5))
    axis.plot(list(unbroken), list(unbroken.values()), "-", color=GREY, lw=2, label="unbroken run")
    for (label, part), marker, color in zip(parts.items(), "os", (BLUE, ORANGE)):
        axis.plot(list(part), list(part.values()), marker, color=color, ms=5, label=label)
    axis.set(xlabel="step", ylabel="training loss per token (nats)")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_title("The broken run continues exactly on the line of the unbroken one")
    axis.legend()
    return finish(figure)


def run_curves(log: Sequence[Mapping[str, float]], levels: Mapping[str, float]) -> Figure:
    """Draw a run's log: losses over computed `levels`, the rate, and the gradient's norm."""
    steps = [line for line in log if "loss" in line]
    val = [line for line in log if "val_loss" in line and "averaged" not in line]
    x = [line["step"] for line in steps]
    figure, (losses, rates, norms) = plt.subplots(
        3, 1, figsize=(7.5, 7.5), sharex=True, height_ratios=(3, 1, 1)
    )
    losses.plot(x, [line["loss"] for line in steps], "-", color=BLUE, label="train (smoothed)")
    losses.plot(
        [line["step"] for line in val],
        [line["val_loss"] for line in val],
        "s--",
        color=RED,
        ms=4,
        label="val (not smoothed)",
    )
    for label, level in levels.items():
        losses.axhline(level, color=GREY, lw=0.9, linestyle=":")
        losses.annotate(label, (x[-1], level), ha="right", va="bottom", fontsize=8.5)
    losses.set(ylabel="loss per token (nats)", ylim=(0, 1.08 * max(levels.values())))
    losses.set_title("Below the unigram line, the model uses more than word counts")
    losses.legend(loc="best")
    rates.plot(x, [1000 * line["rate"] for line in steps], "-", color=GREEN)
    rates.set(ylabel="rate\n(thousandths)", ylim=(0, None))
    norms.plot(x, [line["norm"] for line in steps], "-", color=ORANGE, lw=1)
    norms.axhline(1, color=GREY, lw=0.9, linestyle=":")
    norms.annotate("clipped above", (x[-1], 1), ha="right", va="bottom", fontsize=8.5)
    norms.set(ylabel="gradient norm", xlabel="step", ylim=(0, None))
    return finish(figure)


def bowl(
    walks: Mapping[str, Sequence[tuple[float, float]]], curvature: tuple[float, float], last: int
) -> Figure:
    """Draw noisy descents to (0, 0), one panel each: the way, the last positions, and their mean.

    walks: title -> positions (x, y), one a step; curvature of the bowl along x and along y.
    """
    figure, axes = plt.subplots(
        1, len(walks), figsize=(9.5, 3.6), sharex=True, sharey=True, squeeze=False
    )
    for axis, (title, walk) in zip(axes[0], walks.items()):
        for level in (0.2, 1, 3):  # lines of equal height
            width, height = (2 * (2 * level / c) ** 0.5 for c in curvature)
            axis.add_patch(Ellipse((0, 0), width, height, fc="none", ec=GREY, lw=0.6, ls=":"))
        axis.plot(*zip(*walk), "-", color=GREY, lw=0.6)
        x, y = zip(*walk[-last:])
        axis.plot(x, y, "o", color=BLUE, ms=3, label=f"the last {last} positions")
        mean = sum(x) / len(x), sum(y) / len(y)
        axis.plot(*mean, "*", color=ORANGE, mec="black", ms=11, label="their mean")
        axis.plot(0, 0, "+", color="black", ms=14, mew=2, label="the centre")
        axis.set(title=title, xlabel="first weight")
    axes[0][0].set_ylabel("second weight")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="upper right", ncols=3)
    figure.suptitle("The mean of scattered positions lies near the centre", x=0.01, ha="left")
    return finish(figure)


def averages(runs: Mapping[str, tuple[Sequence[float], float]]) -> Figure:
    """Draw the val losses of each run's snapshots as markers, that of their average as a line."""
    figure, axes = plt.subplots(1, len(runs), figsize=(9.5, 3.6), sharey=True, squeeze=False)
    for axis, (label, (snapshots, average)) in zip(axes[0], runs.items()):
        x = range(1, len(snapshots) + 1)
        axis.plot(x, snapshots, "o", color=BLUE, label="one snapshot")
        axis.axhline(average, color=RED, linestyle="--", lw=2, label="average of the weights")
        axis.set(xlabel="snapshot", title=label)
        axis.set_xticks(list(x))
    axes[0][0].set_ylabel("val loss per token (nats)")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="upper right", ncols=2)
    figure.suptitle("The average helps most where the rate has not gone to 0", x=0.01, ha="left")
    return finish(figure)
