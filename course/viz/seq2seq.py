"""Pictures of lesson 02: machines, alignments, mistakes, quality over length, time."""

from collections.abc import Collection, Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from course.viz import BLUE, GREEN, ORANGE, STYLES, finish, plain

Links = Collection[tuple[int, int]]
LOOKS = (STYLES[4], *STYLES[:4])  # the plain one first, in grey


def crossings(links: Links) -> int:
    """Count the pairs of links (i, j) that cross each other."""
    return sum((i - k) * (j - m) < 0 for i, j in links for k, m in links) // 2


def links(source: Sequence[str], target: Sequence[str], pairs: Links, title: str) -> Figure:
    """Draw two sentences with a line for each link; a link that crosses another one is orange."""
    width = max(len(source), len(target))
    figure, axis = plt.subplots(figsize=(0.9 * width + 0.6, 2.1), layout="constrained")
    for words, y, side in ((source, 1, "bottom"), (target, 0, "top")):
        for x, word in enumerate(words):
            axis.text(x, y, plain(word), ha="center", va=side, fontsize=10)
    for i, j in pairs:
        crossed = any((i - k) * (j - m) < 0 for k, m in pairs)
        axis.plot([i, j], [0.97, 0.03], color=ORANGE if crossed else BLUE, lw=1.5,
                  ls="-" if crossed else "--")
    axis.set(xlim=(-0.6, width - 0.4), ylim=(-0.3, 1.3))
    axis.axis("off")
    axis.set_title(title)
    return finish(figure)


def _box(axis: Axes, x: float, y: float, text: str, colour: str, width: float = 0.76) -> None:
    box = plt.Rectangle((x - width / 2, y - 0.22), width, 0.44, fc="white", ec=colour, lw=1.6)
    axis.add_patch(box)
    axis.text(x, y, text, ha="center", va="center", fontsize=10)


def _arrow(
    axis: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, **style: object
) -> None:
    how = {"arrowstyle": "-|>", "color": colour, "lw": 1.2, "shrinkA": 0, "shrinkB": 0, **style}
    axis.annotate("", end, start, arrowprops=how)


def machine(source: Sequence[str], target: Sequence[str], attention: bool) -> Figure:
    """Draw the encoder-decoder unrolled over a few words: with one fixed vector, or with attention.

    With attention (Bahdanau's order: look, then step), the lines of one step are drawn in full.
    """
    n, m = len(source), len(target)
    figure, axis = plt.subplots(figsize=(1.05 * (n + m + 2.2), 3.4), layout="constrained")
    at = [n + 2.0 + t for t in range(m)]  # places of the decoder's states
    for j, word in enumerate(source):
        _box(axis, j, 0, f"$h_{j + 1}$", BLUE)
        axis.text(j, -0.85, plain(word), ha="center", va="center", fontsize=10)
        _arrow(axis, (j, -0.65), (j, -0.22), BLUE)
        if j:
            _arrow(axis, (j - 0.62, 0.07), (j - 0.38, 0.07), BLUE)
            _arrow(axis, (j - 0.38, -0.07), (j - 0.62, -0.07), BLUE)
    for t, (x, word) in enumerate(zip(at, target)):
        _box(axis, x, 0, f"$s_{t + 1}$", ORANGE)
        axis.text(x, -0.85, plain(["BOS", *target][t]), ha="center", va="center", fontsize=10)
        _arrow(axis, (x, -0.65), (x, -0.22), ORANGE)
        if t or attention:
            _arrow(axis, (x - 0.62, 0), (x - 0.38, 0), ORANGE)
        top = 2.25 if attention else 0.85
        axis.text(x, top + 0.18, plain(word), ha="center", va="center", fontsize=10,
                  weight="bold")
        _arrow(axis, (x, 0.22), (x, top), ORANGE)
        if attention:
            axis.text(x - 0.5, 1.42, f"$c_{t + 1}$", ha="center", color=GREEN, fontsize=10)
            for j in range(n):
                axis.plot([j, x - 0.5], [0.22, 1.3], color=GREEN, lw=1.6 if t == 1 else 0.7,
                          alpha=1.0 if t == 1 else 0.5, ls="-" if t == 1 else ":")
            _arrow(axis, (x - 0.8, 0.22), (x - 0.55, 1.25), ORANGE, ls="--")  # the state asks
            _arrow(axis, (x - 0.45, 1.25), (x - 0.2, 0.22), GREEN)
        else:  # the same c at every step
            axis.plot([n + 0.5, n + 0.5, x - 0.2], [-0.22, -0.42, -0.42], "-", color=GREEN, lw=1.2)
            _arrow(axis, (x - 0.2, -0.42), (x - 0.2, -0.22), GREEN)
    if attention:
        _box(axis, at[0] - 1, 0, "$s_0$", ORANGE)
        axis.text((n - 1) / 2, 1.55, "each step looks at all of them", color=GREEN, ha="center")
        title = "With attention: each state asks the memory, the answer goes into the next one"
    else:
        _box(axis, n + 0.5, 0, "$c$", GREEN, 0.6)
        _arrow(axis, (n - 0.62, 0), (n + 0.2, 0), GREEN)
        bow = {"connectionstyle": "arc3,rad=-0.16"}  # the direction that ends at the first word
        _arrow(axis, (0, 0.22), (n + 0.5, 0.22), GREEN, **bow)
        _arrow(axis, (n + 0.8, 0), (at[0] - 0.38, 0), GREEN)
        title = "Encoder and decoder: all that the decoder knows of the source is one vector c"
    axis.text((n - 1) / 2, -1.3, "encoder: reads", ha="center", color=BLUE, fontsize=10)
    axis.text((at[0] + at[-1]) / 2, -1.3, "decoder: reads its last word, writes the next",
              ha="center", color="#8a5f00", fontsize=10)
    axis.set(xlim=(-0.7, at[-1] + 0.7), ylim=(-1.5, 2.6 if attention else 1.3))
    axis.axis("off")
    axis.set_title(title)
    return finish(figure)


def _lines(axis: Axes, xs: Sequence[float], series: Mapping[str, Sequence[float]]) -> None:
    for (name, row), (colour, line, marker) in zip(series.items(), LOOKS):
        axis.plot(xs, row, linestyle=line, marker=marker, color=colour, label=name)


def after_a_mistake(
    series: Mapping[str, Sequence[float]], rest: Mapping[str, tuple[float, float]]
) -> Figure:
    """Draw the share of right words 1, 2, ... places after the first mistake, for each decoder.

    rest: decoder -> of all that follows the mistake, the share right by place, shifts forgiven.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.6), layout="constrained")
    (first, *_) = series.values()
    _lines(left, range(1, len(first) + 1), series)
    left.set(xlabel="words after the first mistake", ylabel="share of right words", ylim=(0, 1))
    left.set_xticks(range(1, len(first) + 1))
    left.set_title("By place: on its own words it stays behind")
    left.legend(title="the decoder reads", alignment="left", fontsize=8)
    for place, (name, (colour, _, _)) in enumerate(zip(series, LOOKS)):
        bars = right.bar([place - 0.2, place + 0.2], rest[name], 0.36, color=colour)
        bars[1].set(hatch="//", ec="white")
        right.bar_label(bars, [f"{bar.get_height():.0%}" for bar in bars], padding=2)
    right.set_xticks(range(len(series)), [name.split(" (")[0].replace(", ", ",\n")
                                          for name in series])
    right.set(ylabel="share of right words, word accuracy", ylim=(0, 1))
    right.set_title("All of the rest. Plain: by place. Hatched: shifts forgiven")
    return finish(figure)


def quality_over_length(
    lengths: Sequence[float], series: Mapping[str, Sequence[float]], title: str
) -> Figure:
    """Draw the word accuracy over the mean length [words] of each quarter, for each model."""
    figure, axis = plt.subplots(figsize=(6.2, 3.5), layout="constrained")
    _lines(axis, lengths, series)
    axis.set(xlabel="length of the source [words], mean of each quarter", ylabel="word accuracy",
             ylim=(0, 1.03))
    axis.set_title(title)
    axis.legend(title="attention", alignment="left")
    return finish(figure)


def alignment_maps(
    panels: Mapping[str, Tensor], source: Sequence[str], target: Sequence[str], gold: Links
) -> Figure:
    """Draw attention weights (T, S) of each model as a heat map, the gold links as frames.

    gold: pairs (place in source, place in target).
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(1.2 + 4.1 * len(panels), 1.7 + 0.24 * len(target)),
        squeeze=False, layout="constrained", sharey=True,
    )
    for axis, (name, weights) in zip(axes[0], panels.items()):
        image = axis.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axis.set_xticks(range(len(source)), map(plain, source), rotation=90, fontsize=9)
        axis.set_yticks(range(len(target)), map(plain, target), fontsize=9)
        axis.tick_params(length=0)
        axis.set_title(name, fontsize=10)
        for i, j in gold:
            box = plt.Rectangle((i - 0.5, j - 0.5), 1, 1, fill=False, ec=ORANGE, lw=1.8)
            axis.add_patch(box)
    axes[0][0].set_ylabel("word that is written")
    figure.supxlabel("source word that it looks at", fontsize=10)
    figure.colorbar(image, ax=axes[0], label="weight", fraction=0.05, pad=0.01)
    figure.suptitle("Where each English word looked; in orange frames, where it should", x=0.01,
                    ha="left", fontsize=11)
    return finish(figure)


def error_rates(rates: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw the alignment error rate of each way to align: rates: which captions -> way -> rate."""
    figure, axis = plt.subplots(figsize=(6.6, 3.4), layout="constrained")
    looks = ((BLUE, "", -0.19), (ORANGE, "//", 0.19))
    for (label, row), (colour, hatch, shift) in zip(rates.items(), looks):
        places = [place + shift for place in range(len(row))]
        axis.barh(places, row.values(), 0.36, color=colour, hatch=hatch, ec="white", label=label)
        for place, rate in zip(places, row.values()):
            axis.text(rate + 0.01, place, f"{rate:.2f}", va="center", fontsize=9)
    axis.set_yticks(range(len(row)), row)
    axis.invert_yaxis()
    axis.set(xlabel="alignment error rate (0 is perfect)", xlim=(0, 1.1))
    axis.set_title("Attention finds alignments that nobody taught it")
    figure.legend(loc="outside lower center", ncols=2)
    return finish(figure)


def hops(facts: Sequence[str], weights: Tensor, question: str) -> Figure:
    """Draw which facts each hop looked at: weights (hops, N)."""
    figure, axis = plt.subplots(figsize=(6.4, 2.9), layout="constrained")
    bars = zip(weights.tolist(), ((BLUE, ""), (ORANGE, "//")), (-0.2, 0.2))
    for hop, (row, (colour, hatch), shift) in enumerate(bars, 1):
        places = [place + shift for place in range(len(facts))]
        axis.barh(places, row, 0.36, color=colour, hatch=hatch, ec="white", label=f"hop {hop}")
    axis.set_yticks(range(len(facts)), map(plain, facts))
    axis.invert_yaxis()
    axis.set(xlabel="weight p of the fact", xlim=(0, 1.02))
    axis.set_title(f"{plain(question)} The first hop finds who has it, the second where she is")
    axis.legend()
    return finish(figure)


def wall_time(lengths: Sequence[int], seconds: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Draw the measured time [s] of each network over the number of steps."""
    figure, axis = plt.subplots(figsize=(6.2, 3.5), layout="constrained")
    for (name, row), (colour, line, marker) in zip(seconds.items(), STYLES):
        times = [1000 * value for value in row]
        axis.loglog(lengths, times, linestyle=line, marker=marker, color=colour, base=2, label=name)
    axis.set_xticks(lengths, [str(length) for length in lengths])
    axis.set_yscale("log")
    axis.set(xlabel="steps n", ylabel="time [ms]")
    axis.set_title(title)
    axis.legend()
    return finish(figure)
