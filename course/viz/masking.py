"""Pictures of masks: matrices over words, broadcasting, leaks, empty rows, wasted padding."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from course.viz import BLUE, GREY, RED, finish, plain

PALE = "#E8E8E8"
ORANGE_INK = "#A04000"  # dark enough to read on white
TWO_COLOURS = ListedColormap([PALE, BLUE])  # forbidden, allowed: told apart in greyscale too
HAND_OVER = (Patch(color=BLUE, label="True: may attend"), Patch(color=PALE, label="False"))


def _words(axis: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Write the words at a table's two sides."""
    axis.set_xticks(np.arange(len(columns)) + 0.5, map(plain, columns), rotation=90)
    axis.set_yticks(np.arange(len(rows)) + 0.5, map(plain, rows))
    axis.tick_params(length=0, labelsize=9)
    axis.spines[:].set_visible(False)


def grid(axis: Axes, table: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Draw a table of True and False as squares with words on its two axes."""
    axis.pcolormesh(table, cmap=TWO_COLOURS, vmin=0, vmax=1, edgecolors="white", linewidth=1.5)
    axis.invert_yaxis()
    axis.set_aspect("equal")
    _words(axis, rows, columns)
    for label in (*axis.get_xticklabels(), *axis.get_yticklabels()):
        if label.get_text() == "<pad>":
            label.set(color=GREY, style="italic")


def masks(
    panels: Mapping[str, tuple[Tensor, Sequence[str], Sequence[str]]],
    title: str,
    columns: int = 2,
) -> Figure:
    """Draw masks as matrices: title -> (mask (Q, K), query words, key words)."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    tallest = max(mask.size(0) for mask, _, _ in panels.values())
    widest = max(mask.size(1) for mask, _, _ in panels.values())
    figure, axes = plt.subplots(
        rows, columns,
        figsize=(columns * (0.3 * widest + 1.6), rows * (0.3 * tallest + 1.6) + 0.8),
        squeeze=False, layout="constrained",
    )
    figure.get_layout_engine().set(hspace=0.08)
    for axis, (name, (mask, queries, keys)) in zip(axes.flat, panels.items()):
        grid(axis, mask.cpu().numpy(), queries, keys)
        axis.set_title(name, fontsize=10)
        axis.set(xlabel="key: who is asked", ylabel="query: who asks")
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.legend(handles=HAND_OVER, loc="outside lower right", ncols=2, fontsize=9)
    return finish(figure, title)


def padding_errors(
    added: Sequence[int], without: Sequence[float], with_mask: Sequence[float]
) -> Figure:
    """Draw the largest change of an output over the number of `<pad>`s behind a sentence."""
    figure, axis = plt.subplots(layout="constrained")
    axis.loglog(added, without, "s--", color=RED, label="without a mask")
    shown = [max(error, 1e-9) for error in with_mask]  # a log scale has no place for zero
    axis.loglog(added, shown, "o-", color=BLUE, label="with the mask")
    axis.set(xlabel="<pad> tokens behind the sentence", ylabel="largest change of an output")
    axis.set_ylim(1e-10, 10)
    axis.legend(loc="center right")
    return finish(figure, "With the mask, padding changes nothing but rounding")


def exercises(mask: Tensor, reads: Sequence[str], predicts: Sequence[str], title: str) -> Figure:
    """Draw a causal mask (T, T), with what each row must predict written at its right end."""
    figure, axis = plt.subplots(figsize=(6.6, 4.6), layout="constrained")
    grid(axis, mask.cpu().numpy(), [f"{i + 1}" for i in range(len(reads))], reads)
    for i, word in enumerate(predicts):
        axis.text(len(reads) + 0.2, i + 0.5, f"→ {plain(word)}", va="center", color=ORANGE_INK)
    axis.set_ylabel("exercise")
    axis.set_xlabel("given: the blue words of the row")
    axis.text(len(reads) + 0.2, -0.35, "to predict", va="center", fontsize=9, color=GREY)
    return finish(figure, title)


def broadcast(padding: Tensor, causal: Tensor, keys: Sequence[Sequence[str]]) -> Figure:
    """Draw (B, 1, 1, K) & (1, 1, T, T) = (B, 1, T, T), one sentence a row; keys: its words."""
    count, size = padding.size(0), causal.size(-1)
    figure, axes = plt.subplots(
        count, 3, figsize=(9.5, 3.5 * count), squeeze=False, layout="constrained"
    )
    figure.get_layout_engine().set(hspace=0.1)
    for b in range(count):
        strip = padding[b, 0].expand(size, -1).cpu().numpy()
        triangle = causal[0, 0].cpu().numpy()
        for axis, table in zip(axes[b], (strip, triangle, strip & triangle)):
            grid(axis, table, keys[b], keys[b])
        # what is stored, against what broadcasting repeats
        axes[b, 0].add_patch(plt.Rectangle((0, 0), size, 1, fill=False, lw=2.5, clip_on=False))
        axes[b, 0].set_ylabel(f"sentence {b}", fontsize=11)
        for axis, sign in zip(axes[b, 1:], "&="):
            axis.set_ylabel(sign, rotation=0, fontsize=18, labelpad=16, va="center")
        for axis in axes[b, 1:]:
            axis.set_yticks([])
    axes[0, 1].add_patch(plt.Rectangle((0, 0), size, size, fill=False, lw=2.5, clip_on=False))
    names = ("padding mask", "causal mask", "both")
    shapes = (padding.shape, causal.shape, (count, 1, size, size))
    for axis, name, shape in zip(axes[0], names, shapes):
        axis.set_title(f"{name}\n{tuple(shape)}", fontsize=10)
    return finish(figure, "A dimension of size 1 is repeated: only the framed squares are stored")


def learning_curves(
    runs: Mapping[str, Mapping[str, Sequence[float]]],
    levels: Mapping[str, float],
    title: str,
) -> Figure:
    """Draw for each run what training reports against what the model is worth with no word after.

    runs: name -> {"steps", "train" (a loss each step), "checked", "alone" (losses at those
    steps)}; levels: names of losses that need no model, drawn as lines.
    """
    figure, axes = plt.subplots(
        1, len(runs), figsize=(4.4 * len(runs), 3.7), sharey=True, squeeze=False,
        layout="constrained",
    )
    for axis, (name, run) in zip(axes.flat, runs.items()):
        axis.plot(run["steps"], run["train"], "-", color=BLUE, lw=1.2, label="loss in training")
        axis.plot(run["checked"], run["alone"], "s--", color=RED, ms=4, lw=1.4,
                  label="loss when only the true words before are there")
        for level, value in levels.items():
            axis.axhline(value, color=GREY, lw=0.8, ls=":")
            axis.text(run["steps"][-1], value, level, fontsize=8, color=GREY, ha="right",
                      va="bottom")
        axis.set(xlabel="training step")
        axis.set_ylim(bottom=0)
        axis.set_title(name, fontsize=10)
    axes[0, 0].set_ylabel("loss (nats per word)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)
    return finish(figure, title)


def influence(maps: Mapping[str, Tensor], words: Sequence[str], title: str) -> Figure:
    """Draw how strongly each output reacts to each input: name -> size of gradient (T, T).

    Log scale; a gradient of exactly zero is left white with a dot.
    """
    tables = [table.cpu().numpy() for table in maps.values()]
    largest = max(table.max() for table in tables)
    norm = LogNorm(largest / 1e3, largest, clip=True)
    figure, axes = plt.subplots(
        1, len(maps), figsize=(4.8 * len(maps), 4.6), squeeze=False, layout="constrained"
    )
    for axis, name, table in zip(axes.flat, maps, tables):
        image = axis.pcolormesh(
            np.ma.masked_equal(table, 0), cmap="viridis_r", norm=norm,
            edgecolors="white", linewidth=1,
        )
        rows, columns = np.nonzero(table == 0)
        axis.plot(columns + 0.5, rows + 0.5, ".", color=GREY, ms=3)
        axis.invert_yaxis()
        axis.set_aspect("equal")
        _words(axis, words, words)
        axis.set_title(name, fontsize=10)
        axis.set(xlabel="input j", ylabel="output at position i")
    figure.colorbar(image, ax=axes, label="size of the gradient (log scale)", shrink=0.8)
    return finish(figure, title)


def ways(
    rows: Mapping[str, Sequence[Tensor]], columns: Sequence[str], keys: Sequence[str], title: str
) -> Figure:
    """Draw attention rows as numbers in squares: way of masking -> one row of weights a column."""
    figure, axes = plt.subplots(
        1, len(columns), figsize=(4.3 * len(columns) + 2, 0.55 * len(rows) + 1.6), sharey=True,
        squeeze=False, layout="constrained",
    )
    for axis, column, tables in zip(axes.flat, columns, zip(*rows.values())):
        table = np.stack([t.float().cpu().numpy() for t in tables])
        axis.pcolormesh(
            np.ma.masked_invalid(table), cmap="Blues", vmin=0, vmax=1.3, edgecolors="white",
            linewidth=2,
        )
        for (i, j), value in np.ndenumerate(table):
            text = "NaN" if np.isnan(value) else f"{value:.2f}"
            axis.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=10,
                      weight="bold" if np.isnan(value) else "normal",
                      color=RED if np.isnan(value) else "black")
        axis.set_title(column, fontsize=10)
        axis.set_xticks(np.arange(len(keys)) + 0.5, map(plain, keys))
        axis.set_yticks(np.arange(len(rows)) + 0.5, list(rows))
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    axes[0, 0].invert_yaxis()
    return finish(figure, title)


def rectangles(batches: Mapping[str, Sequence[int]], title: str) -> Figure:
    """Draw a batch as a rectangle of tokens: name -> the length of each of its sentences."""
    longest = max(max(lengths) for lengths in batches.values())
    figure, axes = plt.subplots(
        1, len(batches), figsize=(4.6 * len(batches), 3.6), sharey=True, squeeze=False,
        layout="constrained",
    )
    for axis, (name, lengths) in zip(axes.flat, batches.items()):
        place = np.arange(len(lengths))
        axis.barh(place, lengths, height=1, color=BLUE, label="words")
        rest = [max(lengths) - n for n in lengths]
        axis.barh(place, rest, left=lengths, height=1, color=PALE, hatch="////",
                  edgecolor="#B0B0B0", lw=0, label="padding")
        axis.set(xlabel="position in the sentence", xlim=(0, longest), ylim=(-0.5, place[-1] + 0.5))
        axis.set_title(name, fontsize=10)
    axes[0, 0].set_ylabel("sentence of the batch")
    axes[0, 0].invert_yaxis()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=2, fontsize=9)
    return finish(figure, title)
