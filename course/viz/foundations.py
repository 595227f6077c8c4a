"""Pictures of lesson 01: descent, graphs, hinges, windows, gates, and gradients over distance."""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor

from course.viz import BLUE, GREEN, GREY, ORANGE, RED, STYLES, finish, plain


def descent(
    german: Tensor,
    english: Tensor,
    x: Tensor,
    paths: Mapping[float, Sequence[tuple[float, float, float]]],
    landscape: tuple[Tensor, Tensor, Tensor],
) -> Figure:
    """Draw a neuron that learns: its line after some epochs, and its walks over the loss.

    german, english, x (N,): words, words, standardised words; paths: rate -> (w, b, loss) by
    epoch, the first one also drawn as lines; landscape: w (U,), b (V,), loss (U, V).
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4), layout="constrained")
    left.plot(german, english, "o", color=GREY, alpha=0.25, ms=5, mec="none", label="a caption")
    order = german.argsort()
    for epoch, (colour, line, _) in zip((0, 2, 6, 30), STYLES):
        w, b, _ = next(iter(paths.values()))[epoch]
        left.plot(german[order], w * x[order] + b, line, color=colour, lw=2,
                  label=f"after {epoch} epochs")
    left.set(xlabel="words of the German caption", ylabel="words of the English caption")
    left.xaxis.get_major_locator().set_params(integer=True)
    left.set_title(f"The line finds its place (rate {next(iter(paths)):g})")
    left.legend(fontsize=8, loc="upper left")
    ws, bs, heights = landscape
    low = float(heights.min())
    levels = [low + step**2 for step in range(1, 17)]
    right.contour(ws, bs, heights.T, levels=levels, cmap="Greys_r", linewidths=0.8)
    for (rate, path), (colour, line, marker) in zip(paths.items(), STYLES):
        right.plot([p[0] for p in path], [p[1] for p in path], linestyle=line, marker=marker, ms=4,
                   color=colour, label=f"rate {rate:g}")
    right.set(xlabel="weight w [words per standard deviation]", ylabel="bias b [words]")
    right.set(xlim=(float(ws[0]), float(ws[-1])), ylim=(float(bs[0]), float(bs[-1])))
    right.set_aspect("equal")
    right.set_title("The loss is a round bowl, seen from above")
    right.legend(loc="upper right", fontsize=9, frameon=True)
    return finish(figure)


def graph(values: Mapping[str, float], slopes: Mapping[str, float]) -> Figure:
    """Draw one neuron as a graph: each node's value going forward, its gradient going back.

    values, slopes: x, w, a, b, s, y, e, loss -> number.
    """
    nodes = {  # name: (column, row, what it computes)
        "x": (0, 1, "x"), "w": (0, 0, "w"), "a": (1, 0.5, "a = w x"), "b": (1, -0.5, "b"),
        "s": (2, 0.5, "s = a + b"), "y": (3, 0.5, "y = tanh s"), "e": (4, 0.5, "e = y − 1"),
        "loss": (5, 0.5, "loss = e²"),
    }
    edges = [("x", "a"), ("w", "a"), ("a", "s"), ("b", "s"), ("s", "y"), ("y", "e"), ("e", "loss")]
    figure, axis = plt.subplots(figsize=(10.5, 3.1), layout="constrained")
    for start, end in edges:
        (x0, y0, _), (x1, y1, _) = nodes[start], nodes[end]
        for shift, colour, line, tail, head in (
            (0.06, BLUE, "-", (x0 + 0.36, y0), (x1 - 0.36, y1)),
            (-0.06, RED, "--", (x1 - 0.36, y1), (x0 + 0.36, y0)),
        ):
            axis.annotate("", (head[0], head[1] + shift), (tail[0], tail[1] + shift),
                          arrowprops={"arrowstyle": "->", "color": colour, "ls": line, "lw": 1.4})
    for name, (column, row, text) in nodes.items():
        axis.add_patch(FancyBboxPatch((column - 0.32, row - 0.28), 0.64, 0.56, fc="white",
                                      ec="black", boxstyle="round,pad=0.03"))
        axis.text(column, row + 0.17, text, ha="center", va="center", fontsize=10)
        axis.text(column, row - 0.02, f"{values[name]:.3f}", ha="center", va="center",
                  color=BLUE, fontsize=10)
        axis.text(column, row - 0.2, f"grad {slopes[name]:.3f}", ha="center", va="center",
                  color=RED, fontsize=10)
    axis.set(xlim=(-0.45, 5.45), ylim=(-0.95, 1.45))
    axis.axis("off")
    axis.set_title("Values go forward (blue, solid); gradients come back (red, dashed)")
    return finish(figure)


def mlp(
    hours: Tensor,
    degrees: Tensor,
    curve_hours: Tensor,
    curves: Mapping[str, Tensor],
    ticks: Tensor,
    heights: Tensor,
    shadow: Sequence[tuple[float, float]],
) -> Figure:
    """Draw an MLP's fit, and its loss on the plane of its start, its end and the end's twin.

    hours, degrees (N,) the data; curves: label -> temperatures at curve_hours; ticks (U,) and
    heights (U, U) of loss at (row: towards the start, column: towards the twin); shadow: the
    path of the training as (column, row), from the start to the end at (-1, 0).
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4), layout="constrained")
    left.plot(hours, degrees, "o", color="black", ms=4, label="the forty readings")
    for (label, curve), (colour, line, _) in zip(curves.items(), STYLES[2::-1]):
        left.plot(curve_hours, curve, line, color=colour, lw=2, label=f"after {label}")
    left.set(xlabel="hour of the day [h]", ylabel="temperature [°C]", ylim=(4, 27))
    left.set_title("A sum of hinges follows the day")
    left.legend(fontsize=8, loc="upper left")
    low, high = math.log10(float(heights.min())), math.log10(float(heights.max()))
    levels = [10 ** (low + step * (high - low) / 20) for step in range(21)]
    image = right.contourf(ticks, ticks, heights, levels=levels, norm="log", cmap="viridis")
    bar = figure.colorbar(image, ax=right, label="loss (logarithmic colours)")
    marks = [mark for mark in (0.1, 0.3, 1, 3, 10, 30) if levels[0] < mark < levels[-1]]
    bar.set_ticks(marks, labels=[f"{mark:g}" for mark in marks])
    bar.minorticks_off()
    columns, rows = zip(*[(float(column), float(row)) for column, row in shadow])
    right.plot(columns, rows, "-", color="white", lw=2)
    marks = ((columns[0], rows[0], "o", "start", 12), (-1, 0, "*", "end", -18),
             (1, 0, "*", "its twin", -18))
    for column, row, marker, label, shift in marks:
        right.plot(column, row, marker, color="white", mec="black", ms=12 if marker == "*" else 8)
        right.annotate(label, (column, row), (0, shift), textcoords="offset points", ha="center",
                       color="white", fontsize=10, weight="bold")
    right.set(xlabel="direction from the end to its twin", ylabel="direction to the start")
    right.set_title("No bowl: two valleys of equal depth, a hill between")
    return finish(figure)


def receptive_fields(
    stacks: Mapping[str, Sequence[tuple[int, int, int]]], fields: Mapping[str, Sequence[Tensor]]
) -> Figure:
    """Draw what one output of each stack hears of: stacks: name -> (kernel, stride, dilation)s.

    fields: name -> for each level, the inputs first, a boolean (places,): does the output hear it?
    """
    figure, axes = plt.subplots(1, len(stacks), figsize=(4.1 * len(stacks), 3.9),
                                layout="constrained", squeeze=False)
    for axis, (name, layers) in zip(axes[0], stacks.items()):
        places = list(range(len(fields[name][0])))  # where each cell of a level is drawn
        for level, heard in enumerate(fields[name]):
            colours = [BLUE if flag else "#DDDDDD" for flag in heard.tolist()]
            axis.scatter(places, [level] * len(places), c=colours, s=34, zorder=3)
            if level < len(layers):
                kernel, stride, dilation = layers[level]
                above = fields[name][level + 1].tolist()
                right_ends = [places[p * stride + (kernel - 1) * dilation]
                              for p in range(len(above))]
                for p, flag in enumerate(above):
                    for k in range(kernel if flag else 0):
                        axis.plot([places[p * stride + k * dilation], right_ends[p]],
                                  [level, level + 1], color=ORANGE, ls="-", lw=1.1, zorder=2)
                places = right_ends
        count = int(fields[name][0].sum())
        axis.set(xlabel="place in the sentence", xlim=(-1, len(fields[name][0])))
        axis.set_yticks(range(len(layers) + 1), ["words", *(f"layer {n + 1}" for n in
                                                            range(len(layers)))])
        axis.set_title(f"{name}: {count} words")
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    for axis in axes[0][1:]:
        axis.set_yticks([])
    figure.suptitle("Plain layers add a word each; with stride or dilation each layer doubles the "
                    "reach", x=0.01, ha="left", fontsize=11)
    return finish(figure)


def path_lengths(distances: Sequence[int], layers: Mapping[str, Sequence[int]]) -> Figure:
    """Draw how many layers it takes until two words meet, over their distance."""
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for (name, row), (colour, line, marker) in zip(layers.items(), STYLES):
        axis.loglog(distances, row, linestyle=line, marker=marker, color=colour, base=2, label=name)
        axis.annotate(f"{row[-1]}", (distances[-1], row[-1]), (8, -3),
                      textcoords="offset points", color=colour)
    axis.set_xticks(distances, [str(distance) for distance in distances])
    ticks = [2**i for i in range(0, 10, 3)]
    axis.set_yticks(ticks, [str(tick) for tick in ticks])
    axis.set(xlabel="distance of two words [words], log scale",
             ylabel="layers until they meet, log scale")
    axis.set_title("Plain layers: linear in the distance. Dilated: logarithmic")
    axis.legend(title="convolutions, K = 3", alignment="left")
    return finish(figure)


def unrolled(words: Sequence[str]) -> Figure:
    """Draw an RNN unrolled over some words: forward in blue, the way back in red."""
    figure, axis = plt.subplots(figsize=(9.5, 3.1), layout="constrained")

    def arrow(tail: tuple[float, float], head: tuple[float, float], back: bool = False) -> None:
        style = {"arrowstyle": "->", "lw": 1.6, "color": RED if back else BLUE,
                 "ls": "--" if back else "-"}
        axis.annotate("", head, tail, arrowprops=style)

    for t in range(len(words) + 1):
        axis.add_patch(FancyBboxPatch((t - 0.17, 0.83), 0.34, 0.34, boxstyle="round,pad=0.03",
                                      fc="#EEEEEE" if t == 0 else "white", ec="black"))
        axis.text(t, 1, f"$h_{t}$" if t else "$h_0 = 0$", ha="center", va="center", fontsize=10)
    for t, word in enumerate(words, 1):
        arrow((t - 0.8, 1.08), (t - 0.2, 1.08))
        arrow((t - 0.2, 0.92), (t - 0.8, 0.92), back=True)
        axis.text(t - 0.5, 1.17, "$W_{hh}$", ha="center", color=BLUE, fontsize=10)
        axis.text(t - 0.5, 0.74, f"$J_{t}$", ha="center", color=RED, fontsize=10)
        arrow((t - 0.05, 0.36), (t - 0.05, 0.8))
        arrow((t + 0.05, 0.8), (t + 0.05, 0.36), back=True)
        axis.text(t - 0.09, 0.55, "$W_{ih}$", ha="right", color=BLUE, fontsize=10)
        axis.text(t, 0.24, plain(word), ha="center", fontsize=11)
        arrow((t - 0.05, 1.2), (t - 0.05, 1.5))
        arrow((t + 0.05, 1.5), (t + 0.05, 1.2), back=True)
        axis.text(t, 1.57, f"output {t}", ha="center", fontsize=10)
    axis.set(xlim=(-0.4, len(words) + 0.4), ylim=(0.15, 1.75))
    axis.axis("off")
    axis.set_title("The same weights at every word; gradients meet at each state and are added")
    return finish(figure)


def order_task(losses: Mapping[str, Sequence[float]], right: Mapping[str, float]) -> Figure:
    """Draw the training losses [nats] of some readers, and their shares of right answers."""
    figure, (left, bars) = plt.subplots(1, 2, figsize=(10.5, 3.3), layout="constrained")
    for (name, row), (colour, line, _) in zip(losses.items(), STYLES):
        smooth = [sum(row[max(0, i - 9) : i + 1]) / len(row[max(0, i - 9) : i + 1])
                  for i in range(len(row))]
        left.plot(range(1, len(row) + 1), smooth, color=colour, ls=line, label=name)
    left.axhline(math.log(2), color=GREY, lw=0.8, ls=":")
    left.annotate("knows nothing: log 2", (len(row), math.log(2)), (0, 5), ha="right",
                  textcoords="offset points", color=GREY, fontsize=9)
    left.set(xlabel="step (batch of 64 sentences)", ylabel="loss [nats], mean of 10 steps")
    left.set(ylim=(-0.02, 0.85))
    left.set_title("The bag of words never leaves log 2")
    left.legend(loc="center right")
    for place, share in enumerate(right.values()):
        bar = bars.barh(place, share, color=STYLES[place][0], height=0.55)
        bars.bar_label(bar, [f"{share:.0%}"], padding=4)
    bars.set_yticks(range(len(right)), list(right))
    bars.invert_yaxis()
    bars.axvline(0.5, color=GREY, lw=0.8, ls=":")
    bars.annotate("guessing", (0.5, 0.45), (4, 0), textcoords="offset points", va="center",
                  color=GREY, fontsize=9)
    bars.set(xlabel="share of right answers, held-out sentences", xlim=(0, 1.12))
    bars.set_xticks([0, 0.25, 0.5, 0.75, 1])
    bars.set_title("Order decides: the same words, opposite answers")
    return finish(figure)


def stretching(matrix: Tensor, lengths: Sequence[float]) -> Figure:
    """Draw what a matrix (2, 2) makes of the vectors of length 1, and the norms of its powers."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.7), layout="constrained")
    angle = torch.linspace(0, 2 * math.pi, 200).double()
    circle = torch.stack([angle.cos(), angle.sin()])  # (2, 200)
    ellipse = matrix @ circle
    left.plot(*circle, color=GREY, ls=":", label="vectors of length 1")
    left.plot(*ellipse, color=BLUE, label="what the matrix makes of them")
    place = int(ellipse.norm(dim=0)[:100].argmax())  # of the upper half
    arrows = ((circle[:, place], GREY, ":"), (ellipse[:, place], ORANGE, "--"))
    for end, colour, line in arrows:
        left.annotate("", end.tolist(), (0, 0), arrowprops={"arrowstyle": "->", "color": colour,
                                                            "ls": line, "lw": 1.8})
    left.annotate("stretched most", ellipse[:, place].tolist(), (4, 4), color=ORANGE, fontsize=9,
                  textcoords="offset points")
    left.set(xlabel="first component", ylabel="second component", xlim=(-1.7, 1.9))
    left.set_aspect("equal")
    left.set_title("One step stretches a vector, and turns it")
    left.legend(fontsize=8, loc="lower right")
    right.semilogy(range(len(lengths)), lengths, color=ORANGE, ls="--",
                   label="norm of W to the power d")
    largest = float(torch.linalg.eigvals(matrix).abs().max())
    right.semilogy(range(len(lengths)), [largest**d for d in range(len(lengths))], color=GREEN,
                   ls="-.", label="largest eigenvalue to the power d")
    right.axhline(1, color=GREY, lw=0.8, ls=":")
    right.set(xlabel="steps d", ylabel="length at most, at the start 1")
    right.set_title("Over many steps the eigenvalue decides")
    right.legend(fontsize=8)
    return finish(figure)


def over_distance(panels: Sequence[tuple[str, Mapping[str, Tensor]]]) -> Figure:
    """Draw how much of the gradient arrives over distance: panels: (title, name -> (steps,))."""
    figure, axes = plt.subplots(1, len(panels), figsize=(5.3 * len(panels), 3.7),
                                layout="constrained", squeeze=False)
    for axis, (title, curves) in zip(axes[0], panels):
        for (name, norms), (colour, line, marker) in zip(curves.items(), STYLES):
            axis.semilogy(range(len(norms)), norms, color=colour, ls=line, marker=marker,
                          markevery=10, ms=5, label=name)
        axis.axhline(1, color=GREY, lw=0.8, ls=":")
        axis.set(xlabel="distance back from the last word [steps]",
                 ylabel="gradient norm, distance 0 is 1")
        axis.set_title(title)
        axis.legend(fontsize=8)
    return finish(figure)


def gates(
    sentences: Sequence[tuple[Sequence[str], Mapping[str, Tensor], Tensor]], title: str
) -> Figure:
    """Draw one LSTM unit's gates, and what its cell holds, word by word.

    sentences: (words (L), gate -> openness (L,) from 0 to 1, cell (L,)).
    """
    figure, axes = plt.subplots(2, len(sentences), figsize=(5.6 * len(sentences), 4.4),
                                layout="constrained", squeeze=False, sharex="col",
                                height_ratios=(1, 1.2))
    reach = 1.1 * max(float(cell.abs().max()) for _, _, cell in sentences)
    for (upper, lower), (words, opened, cell) in zip(axes.T, sentences):
        rows = list(opened.values())
        image = upper.imshow([row.tolist() for row in rows], cmap="Blues", vmin=0, vmax=1,
                             aspect="auto")
        for y, row in enumerate(rows):
            for x, value in enumerate(row.tolist()):
                upper.text(x, y, f"{value:.1f}".lstrip("0") or "0", ha="center", va="center",
                           fontsize=8, color="white" if value > 0.6 else "black")
        upper.set_yticks(range(len(rows)), list(opened))
        upper.tick_params(length=0)
        upper.set_title(plain(" ".join(words[:4])) + " ...")
        lower.axhline(0, color=GREY, lw=0.8)
        bars = [BLUE if value > 0 else ORANGE for value in cell.tolist()]
        lower.bar(range(len(words)), cell.tolist(), color=bars, width=0.6)
        verb = next(i for i, word in enumerate(words) if word in ("is", "are"))
        lower.axvline(verb, color=RED, ls=":", lw=1.2)
        lower.annotate("first verb", (verb, 0.92 * reach), (4, 0), textcoords="offset points",
                       color=RED, fontsize=9)
        lower.set(ylim=(-reach, reach))
        lower.set_xticks(range(len(words)), map(plain, words), rotation=60, ha="right", fontsize=9)
    axes[1][0].set_ylabel("cell c of the unit")
    figure.colorbar(image, ax=axes[0], label="1 = open", pad=0.01)
    return finish(figure, title)


def memory(distances: Sequence[int], right: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the share of right answers over the distance that had to be remembered."""
    figure, axis = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    for layer, ((name, row), (colour, line, marker)) in enumerate(zip(right.items(), STYLES)):
        wide = len(right) - layer  # lines that lie on each other: the lower one looks out
        axis.plot(distances, row, color=colour, ls=line, marker=marker, label=name,
                  lw=0.6 + 0.9 * wide, ms=2 + 2 * wide)
    axis.axhline(0.5, color=GREY, lw=0.8, ls=":")
    axis.annotate("guessing", (distances[0], 0.5), (0, -12), textcoords="offset points",
                  color=GREY, fontsize=9)
    axis.set(xlabel="words between the first one and the question", ylabel="share of right answers",
             ylim=(0.4, 1.05))
    axis.set_xticks(list(distances))
    axis.set_title("With open gates the first word is still there; without them it is lost")
    axis.legend(loc="center right")
    return finish(figure)
