"""Pictures of lesson 03: look-ups, softmax, heads, and what attention costs."""

from collections.abc import Mapping, Sequence

import altair as alt
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from torch import Tensor

from course.viz import BLUE, GREEN, GREY, ORANGE, RED, SEPARATOR, STYLES, finish, plain, visible


def soft_lookup(
    times: Tensor,
    temperatures: Tensor,
    hours: Tensor,
    truth: Tensor,
    curves: Mapping[float, Tensor],
    asked: float,
    weights: Mapping[float, Tensor],
) -> Figure:
    """Draw a soft look-up: the answers over the day by width, and the weights of one question.

    times, temperatures (K,); hours, truth (Q,); curves: width in hours -> answers (Q,);
    weights: width in hours -> weights (K,) of the question `asked`, in hours.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.8), layout="constrained")
    left.plot(times, temperatures, "o", color="black", markersize=4, label="the forty readings")
    left.plot(hours, truth, color=GREY, lw=4, alpha=0.5, label="the truth")
    for (width, answers), (colour, line, _) in zip(curves.items(), STYLES):
        left.plot(hours, answers, line, color=colour, label=f"width {width:g} h")
    left.axvline(asked, color=GREY, lw=0.8, ls=":")
    left.set(xlabel="hour of the day [h]", ylabel="temperature [°C]", xlim=(0, 24))
    left.set_title("Too narrow copies the noise, too wide is the mean", loc="left")
    left.legend(fontsize=8, loc="upper left")
    for (width, row), (colour, _, marker) in zip(weights.items(), STYLES):
        right.plot(times, row, marker, color=colour, markersize=5, label=f"width {width:g} h")
    right.axvline(asked, color=GREY, lw=0.8, ls=":")
    right.set_yscale("symlog", linthresh=0.01)
    right.set(xlabel="hour of the reading (its key) [h]")
    right.set_ylabel("weight (axis linear up to 0.01, then logarithmic)", fontsize=9)
    right.set(xlim=(0, 24), ylim=(-0.002, 1.5))
    right.set_yticks([0, 0.01, 0.1, 1], ["0", "0.01", "0.1", "1"])
    right.set_title(f"Who answers the question {asked:g} h", loc="left")
    right.legend(fontsize=8, loc="upper left")
    return finish(figure)


def saturation(
    profiles: Mapping[str, Mapping[int, Tensor]], shares: Mapping[str, Sequence[float]],
    sizes: Sequence[int],
) -> Figure:
    """Draw the softmax over d_k: mean weight by rank for each treatment, and what p(1-p) is left.

    profiles: treatment -> d_k -> weights by rank (K,); shares: treatment -> p(1-p) for each of
    `sizes`. Two treatments: without the scale, and with it.
    """
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    titles = (
        "As they are: the larger $d_k$, the sharper",
        r"Over $\sqrt{d_k}$: the same for every $d_k$",
    )
    for axis, (name, by_size), title in zip(axes, profiles.items(), titles):
        for (d_k, row), (colour, line, marker) in zip(by_size.items(), STYLES):
            ranks = range(1, len(row) + 1)
            axis.plot(ranks, row, ls=line, marker=marker, ms=4, c=colour, label=f"$d_k$ = {d_k}")
        axis.set(xlabel="rank of the key", ylabel=f"mean weight, score {name}", ylim=(-0.03, 1.03))
        axis.set_xticks([1, 4, 8, 12, 16])
        axis.set_title(title, loc="left")
        axis.legend()
    for (name, row), (colour, line, marker) in zip(shares.items(), STYLES[1::-1]):
        axes[2].loglog(sizes, row, linestyle=line, marker=marker, color=colour, base=2, label=name)
    axes[2].set_xticks(sizes, [str(size) for size in sizes], fontsize=8)
    axes[2].set_yscale("log")
    axes[2].minorticks_off()
    axes[2].set_yticks([0.003, 0.01, 0.03], ["0.003", "0.01", "0.03"])
    axes[2].set(xlabel="$d_k$", ylabel="mean of p (1 - p)")
    axes[2].set_title("What is left of the gradient", loc="left")
    axes[2].legend(title="score", alignment="left")
    return finish(figure)


def _matrix(axis: Axes, values: Tensor, rows: Sequence[str], columns: Sequence[str], title: str):
    """Draw a small matrix with its numbers in the cells."""
    top = max(float(values.abs().max()), 1e-9)
    axis.imshow(values / top, cmap="Blues", vmin=0, vmax=1.6, aspect="equal")
    for i, row in enumerate(values.tolist()):
        for j, number in enumerate(row):
            axis.text(j, i, f"{number:.3g}", ha="center", va="center", fontsize=9)
    axis.set_xticks(range(len(columns)), map(plain, columns), fontsize=8)
    axis.set_yticks(range(len(rows)), map(plain, rows), fontsize=8)
    axis.tick_params(length=0)
    axis.grid(False)
    axis.set_title(title, fontsize=10)


def worked_example(
    names: Sequence[str], steps: Sequence[tuple[str, Tensor]], by_key: Sequence[str], title: str
) -> Figure:
    """Draw each matrix of a small computation in a row, with its numbers.

    names: the words (n); steps: (title, matrix (n, any)); the columns of a matrix named in
    `by_key` are the words, of any other the components.
    """
    figure, axes = plt.subplots(1, len(steps), figsize=(2.2 * len(steps), 2.7))
    for axis, (label, values) in zip(axes, steps):
        columns = names if label in by_key else [f"{c + 1}" for c in range(values.size(1))]
        _matrix(axis, values, names, columns, label)
    for axis in axes[1:]:
        axis.set_yticks([])
    return finish(figure, title)


def split_heads(x: Tensor, right: Tensor, wrong: Tensor) -> Figure:
    """Draw how the columns of x become heads, and what a bare `view` makes of it.

    x (L, H * Dk); right, wrong (H, L, Dk). A cell's colour is the head that its column belongs to,
    its number says where it stood in x.
    """
    n_heads, d_k = right.size(0), right.size(2)
    widths = [x.size(1), *[d_k] * n_heads, *[d_k] * n_heads]
    figure, axes = plt.subplots(
        1, 1 + 2 * n_heads, figsize=(1.0 * sum(widths), 3.0), width_ratios=widths
    )
    owner = {int(cell): c // d_k for row in x.tolist() for c, cell in enumerate(row)}
    titles = ["x", *[f"head {h + 1}" for h in range(n_heads)] * 2]
    for axis, block, title in zip(axes, [x, *right, *wrong], titles):
        for i, row in enumerate(block.tolist()):
            for j, cell in enumerate(row):
                colour, line, _ = STYLES[owner[int(cell)] % len(STYLES)]
                box = plt.Rectangle((j, i), 1, 1, fc=to_rgba(colour, 0.35), ec="white", lw=2)
                axis.add_patch(box)
                style = "normal" if owner[int(cell)] == 0 else "italic"
                axis.text(j + 0.5, i + 0.5, int(cell), ha="center", va="center", style=style)
        axis.set(xlim=(0, block.size(1)), ylim=(block.size(0), 0), aspect="equal")
        axis.set_xticks([])
        axis.set_yticks([i + 0.5 for i in range(block.size(0))] if axis is axes[0] else [])
        axis.set_title(title, fontsize=10)
        axis.spines[:].set_visible(False)
    axes[0].set_yticklabels([f"word {i + 1}" for i in range(x.size(0))])
    axes[0].tick_params(length=0)
    figure.suptitle("Right: a head is a band of columns. Wrong: a head is a heap of words", x=0.01,
                    ha="left")
    for h, text in ((1, "split, then transpose"), (1 + n_heads, "view alone: mixed up")):
        axes[h].text(0, x.size(0) + 0.5, text, fontsize=10, color=GREEN if h == 1 else RED)
    axes[0].text(0, x.size(0) + 0.5, f"{tuple(x.shape)}", fontsize=10)
    return finish(figure)


def _words(axis: Axes, queries: Sequence[str], keys: Sequence[str]) -> None:
    """Write the words at a heat map's sides."""
    axis.set_xticks(range(len(keys)), map(plain, keys), rotation=90, fontsize=8)
    axis.set_yticks(range(len(queries)), map(plain, queries), fontsize=8)
    axis.tick_params(length=0)
    axis.grid(False)


def maps(
    panels: Sequence[tuple[str, Tensor, Sequence[str], Sequence[str]]],
    title: str,
    frames: Sequence[tuple[int, int]] = (),
) -> Figure:
    """Draw attention weights as heat maps over their words, side by side.

    panels: (title, weights (Q, K), the query's words, the key's words); `frames`: cells (q, k)
    drawn with a frame on every panel, such as gold alignment links.
    """
    rows = len(panels[0][2])
    figure, axes = plt.subplots(
        1, len(panels), figsize=(max(5.5, 0.9 + 2.9 * len(panels)), 1.7 + 0.2 * rows),
        squeeze=False, layout="constrained",
    )
    for axis, (name, weights, queries, keys) in zip(axes[0], panels):
        image = axis.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        _words(axis, queries, keys)
        axis.set_title(name, fontsize=10)
        for q, k in frames:
            box = plt.Rectangle((k - 0.5, q - 0.5), 1, 1, fill=False, ec=ORANGE, lw=1.6)
            axis.add_patch(box)
    for axis in axes[0][1:]:
        if len(panels[0][2]) == len(panels[-1][2]):
            axis.set_yticks([])
    axes[0][0].set_ylabel("query: who asks")
    axes[0][0].set_xlabel("key: who answers")
    figure.colorbar(image, ax=axes[0], label="weight", fraction=0.05, pad=0.01)
    return finish(figure, title)


def heads_needed(errors: Mapping[int, Sequence[float]], width: int, floor: float) -> Figure:
    """Draw the mean error over the number of heads: heads -> errors, one for each seed.

    The heads share `width`; `floor` is what one head cannot fall below.
    """
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for place, row in enumerate(errors.values()):
        mean = sum(row) / len(row)
        fails = mean > floor / 2
        colour, hatch = (ORANGE, "//") if fails else (BLUE, "")
        axis.bar(place, mean, color=colour, hatch=hatch, width=0.6)
        axis.text(place, mean + 0.01, f"{mean:.3f}", ha="center", va="bottom", fontsize=9)
    axis.axhline(floor, color="black", lw=1, ls="--")
    axis.text(1.5, floor + 0.01, f"the floor for one head: {floor}", ha="center", va="bottom")
    axis.set_xticks(range(len(errors)), [f"{heads} x {width // heads}" for heads in errors])
    axis.set(xlabel="heads x width of a head (as many parameters each time)")
    axis.set(ylabel="mean squared error, mean of the seeds", ylim=(0, 0.8))
    return finish(figure, "Two questions need two heads, and a head needs some width")


def head_grid(rows: Mapping[str, Tensor], words: Sequence[str], title: str) -> Figure:
    """Draw every head of several layers over one sentence: layer -> weights (H, L, L)."""
    n_heads = max(len(weights) for weights in rows.values())
    figure, axes = plt.subplots(
        len(rows), n_heads, figsize=(2.3 * n_heads + 1, 2.2 * len(rows) + 0.8), squeeze=False,
        sharex=True, sharey=True, layout="constrained",
    )
    for line, (name, weights) in zip(axes, rows.items()):
        for head, (axis, table) in enumerate(zip(line, weights), 1):
            image = axis.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
            _words(axis, words, words)
            axis.set_title(f"{name}, head {head}", fontsize=9)
    figure.supxlabel("key: who answers", fontsize=9)
    figure.supylabel("query: who asks", fontsize=9)
    figure.colorbar(image, ax=axes, label="weight", fraction=0.03, pad=0.01)
    return finish(figure, title)


def gallery(records: Sequence[Mapping], title: str, start: int = 0) -> alt.LayerChart:
    """Draw one head of many as a heat map: layer, head and sentence by menu, weights on hover.

    A record has layer, head, sentence and note (strings), queries and keys (words) and weights
    (Q, K). The chart opens at record number `start`.
    """
    rows = []  # one for each query; its keys and weights are split by the chart: a small notebook
    for record in records:
        keys = SEPARATOR.join(f"{i} {visible(word)}" for i, word in enumerate(record["keys"], 1))
        for i, word in enumerate(record["queries"]):
            weights = SEPARATOR.join(f"{weight:.3f}" for weight in record["weights"][i].tolist())
            names = {name: visible(record[name]) for name in ("layer", "head", "sentence")}
            names["note"] = "{layer}, head {head}: {note}".format_map(record)
            names["query"] = f"{i + 1} {visible(word)}"
            rows.append({**names, "key": keys, "weight": weights})
    menus = []
    for name in ("layer", "head", "sentence"):
        options = list(dict.fromkeys(row[name] for row in rows))
        bind = alt.binding_select(options=options, name=f"{name}: ")
        first = visible(records[start][name])
        menus.append(alt.param(name=f"choose_{name}", value=first, bind=bind))
    chosen = " && ".join(f"datum.{n} == choose_{n}" for n in ("layer", "head", "sentence"))
    base = alt.Chart(alt.Data(values=rows)).transform_filter(chosen)
    note = (
        base.transform_aggregate(groupby=["note"])
        .mark_text(align="left", fontSize=12, color=GREY)
        .encode(x=alt.value(0), y=alt.value(-12), text="note:N")
    )
    shades = alt.Scale(range=["#f7fbff", "#08306b"], domain=[0, 1])
    cells = (
        base.transform_calculate(
            key=f"split(datum.key, '{SEPARATOR}')", weight=f"split(datum.weight, '{SEPARATOR}')"
        )
        .transform_flatten(["key", "weight"])
        .transform_calculate(weight="toNumber(datum.weight)")
        .mark_rect(stroke="#dddddd")
        .encode(
            x=alt.X("key:N", sort=None, title="key: who answers", axis=alt.Axis(labelAngle=-60)),
            y=alt.Y("query:N", sort=None, title="query: who asks"),
            color=alt.Color("weight:Q", scale=shades),
            tooltip=["query:N", "key:N", alt.Tooltip("weight:Q", format=".3f")],
        )
    )
    heading = alt.TitleParams(title, anchor="start", offset=24)
    return (cells + note).add_params(*menus).properties(width=380, height=340, title=heading)


def costs(
    sizes: Sequence[int],
    by_length: Mapping[str, Sequence[float]],
    by_width: Mapping[str, Sequence[float]],
    at_width: int,
    at_length: int,
) -> Figure:
    """Draw counted multiplications and additions over n (at one d) and over d (at one n).

    by_length, by_width: layer -> counts for each of `sizes`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.9), layout="constrained", sharey=True)
    titles = ("Over length, attention alone is a square", "Over width, attention grows like d")
    labels = (f"sentence length n (d = {at_width})", f"width d (n = {at_length})")
    for axis, series, title, label in zip(axes, (by_length, by_width), titles, labels):
        for (name, counts), (colour, line, marker) in zip(series.items(), STYLES):
            axis.loglog(sizes, counts, ls=line, marker=marker, color=colour, base=2, label=name)
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.set_yscale("log")
        axis.set(xlabel=label)
        axis.set_title(title, loc="left")
    axes[0].set_ylabel("operations, counted")
    axes[0].legend()
    return finish(figure)


def wall_time(lengths: Sequence[int], seconds: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the measured time of a layer over the sentence length: seconds: layer -> times [s]."""
    figure, axis = plt.subplots(figsize=(8.6, 3.6), layout="constrained")
    for (name, row), (colour, line, marker) in zip(seconds.items(), STYLES):
        times = [1000 * value for value in row]
        axis.loglog(lengths, times, linestyle=line, marker=marker, color=colour, base=2, label=name)
    axis.set_xticks(lengths, [str(length) for length in lengths])
    axis.set_yscale("log")
    axis.set(xlabel="sentence length n", ylabel="time on this machine [ms]")
    axis.set_title("By the count they meet at n = d; by the clock, not there", loc="left")
    figure.legend(loc="outside right upper")
    return finish(figure)
