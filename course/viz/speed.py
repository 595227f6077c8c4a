"""Drawings of lesson 07c: where time goes, the ladder, equal curves, the network."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from course.viz import BLUE, GREEN, GREY, ORANGE, RED, finish


def time_shares(shares: Mapping[str, float]) -> Figure:
    """Draw the share of the time (0 to 1) that each group of operations takes."""
    figure, axes = plt.subplots(figsize=(7.5, 3.2))
    names = sorted(shares, key=shares.__getitem__)
    colors = [BLUE if name == "products with weights" else GREY for name in names]
    bars = axes.barh(names, [shares[name] for name in names], color=colors)
    axes.bar_label(bars, [f" {shares[name]:.0%}" for name in names], fontsize=9)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set(xlabel="share of a step's time", xlim=(0, max(shares.values()) * 1.12))
    axes.set_title(f"Products with weights take {shares['products with weights']:.0%} of the time")
    return finish(figure)


def same_curves(losses: Mapping[str, Sequence[float]], ends: Mapping[str, float]) -> Figure:
    """Draw the loss of the first run, and how far the others are from it, step by step.

    ends: their loss on val. The curves lie on each other, so their differences are drawn.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4), width_ratios=(2, 3))
    (first, base), *others = losses.items()
    left.plot(range(1, len(base) + 1), base, color=GREY)
    left.set(xlabel="step", ylabel="smoothed loss, nats per token",
             title=f"{first}: val {ends[first]:.3f}")
    for (name, values), (color, style) in zip(others, ((BLUE, "-"), (ORANGE, "--"))):
        right.plot(range(1, len(values) + 1), [v - b for v, b in zip(values, base)], style,
                   color=color, label=f"{name}: val {ends[name]:.3f}")
    right.axhline(0, color=GREY, linewidth=0.8)
    apart = max(ends.values()) - min(ends.values())
    right.set(xlabel="step", ylabel=f"difference from {first}, nats",
              title=f"Another seed, and all tricks: val at most {apart:.3f} apart")
    right.legend()
    return finish(figure)


def efficiency(worlds: Sequence[int], shares: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the share of the time spent on computing over the number of ranks, by network."""
    figure, axes = plt.subplots(figsize=(7.5, 3.6))
    looks = zip((GREEN, BLUE, RED), ("-", "--", "-."), ("o", "s", "^"))
    for (name, values), (color, style, marker) in zip(shares.items(), looks):
        axes.plot(worlds, values, style, marker=marker, color=color, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(worlds), [str(world) for world in worlds])
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set(xlabel="ranks", ylabel="time spent on computing", ylim=(0, 1.05))
    slowest = list(shares)[-1]
    axes.set_title(f"260 MB of gradient, no overlap: 64 ranks on {slowest.split(',')[0]} compute "
                   f"{shares[slowest][-1]:.0%} of the time")
    axes.legend(loc="lower left")
    return finish(figure)
