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
    """Draw the training loss of several runs over their steps; ends: their loss on val."""
    figure, axes = plt.subplots(figsize=(7.5, 3.4))
    looks = zip((GREY, BLUE, ORANGE), ("-", ":", "--"))
    for (name, values), (color, style) in zip(losses.items(), looks):
        axes.plot(range(1, len(values) + 1), values, style, color=color,
                  label=f"{name}: val {ends[name]:.3f}")
    axes.set(xlabel="step", ylabel="smoothed loss, nats per token")
    apart = max(ends.values()) - min(ends.values())
    axes.set_title(f"The faster steps learn the same: val losses at most {apart:.3f} nats apart")
    axes.legend()
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
