"""Pictures of lesson 09b: where heads look, what they are worth, what layers say, what fails."""

from collections.abc import Mapping, Sequence

import altair as alt
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from course.viz import BLUE, GREY, ORANGE, STYLES, finish

KIND_NAMES = {
    "encoder": "encoder self-attention",
    "decoder": "decoder self-attention",
    "cross": "cross-attention",
}


def _heat(
    axis: Axes, values: Tensor, rows: Sequence[str], columns: Sequence[str], top: float,
    number: str = "{:.1f}",
) -> None:
    """Draw a matrix (rows, columns) as cells from white (0) to blue (top), with its numbers."""
    axis.imshow(values, cmap="Blues", vmin=0, vmax=1.25 * top, aspect="auto")
    for i, row in enumerate(values.tolist()):
        for j, value in enumerate(row):
            dark = value > 0.75 * top
            axis.text(j, i, number.format(value), ha="center", va="center", fontsize=7.5,
                      color="white" if dark else "black")
    axis.set_xticks(range(len(columns)), columns, fontsize=8)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def explorer(
    records: Sequence[tuple[str, str, Sequence[str], Sequence[str], Tensor]],
    sharpness: Mapping[str, Tensor],
    start: tuple[str, int, int],
    title: str,
) -> alt.LayerChart:
    """Draw one head of all as a heat map: kind, layer, head and sentence by menu, weights on hover.

    A record is (kind, sentence, names of the queries, names of the keys, weights (N, H, Q, K)).
    The head "mean" is the mean of all. sharpness: kind -> (N, H), the mean largest weight of a
    row, written above; start: the head (kind, layer, head) that the chart opens with.
    """
    places, maps = [], []  # the words of a sentence once, and one row for each map: a small page
    for kind, sentence, queries, keys, weights in records:
        place = f"{KIND_NAMES[kind]}|{sentence}"
        named = {"queries": queries, "keys": keys}
        numbered = {side: "|".join(f"{i} {word}" for i, word in enumerate(words, 1))
                    for side, words in named.items()}
        places.append({"place": place, **numbered})
        for layer, of_heads in enumerate(weights):
            heads = {**{str(h): w for h, w in enumerate(of_heads, 1)}, "mean": of_heads.mean(0)}
            for head, cells in heads.items():
                values = (100 * cells).round().int().flatten().tolist()
                note = "mean of the heads"
                if head != "mean":
                    sharp = sharpness[kind][layer, int(head) - 1].item()
                    note = f"largest weight of a row, mean over the sentences: {sharp:.0%}"
                maps.append({"kind": KIND_NAMES[kind], "layer": str(layer + 1), "head": head,
                             "sentence": sentence, "place": place, "note": note,
                             "w": " ".join(map(str, values))})
    kind, layer, head = start
    opening = {"kind": KIND_NAMES[kind], "layer": str(layer + 1), "head": str(head + 1),
               "sentence": maps[0]["sentence"]}
    menus = []
    for name, value in opening.items():
        bind = alt.binding_select(
            options=list(dict.fromkeys(row[name] for row in maps)), name=f"{name}: "
        )
        menus.append(alt.param(name=f"choose_{name}", value=value, bind=bind))
    base = alt.Chart(alt.Data(values=maps)).transform_filter(
        " && ".join(f"datum.{name} == choose_{name}" for name in opening)
    )
    note = base.mark_text(align="left", fontSize=12, color=GREY).encode(
        x=alt.value(0), y=alt.value(-12), text="note:N"
    )
    shades = alt.Scale(range=["#f7fbff", "#08306b"], domain=[0, 100])
    cells = (
        base.transform_lookup(
            lookup="place",
            from_=alt.LookupData(
                data=alt.Data(values=places), key="place", fields=["queries", "keys"]
            ),
        )
        .transform_calculate(
            queries="split(datum.queries, '|')", keys="split(datum.keys, '|')",
            w="split(datum.w, ' ')",
        )
        .transform_calculate(cell="sequence(length(datum.w))")
        .transform_flatten(["cell", "w"])
        .transform_calculate(
            query="datum.queries[floor(datum.cell / length(datum.keys))]",
            key="datum.keys[datum.cell % length(datum.keys)]",
            weight="toNumber(datum.w)",
        )
        .mark_rect(stroke="#dddddd")
        .encode(
            x=alt.X("key:N", sort=None, title="key: who answers", axis=alt.Axis(labelAngle=-60)),
            y=alt.Y("query:N", sort=None, title="query: who asks"),
            color=alt.Color("weight:Q", scale=shades, title="weight [%]"),
            tooltip=["query:N", "key:N", alt.Tooltip("weight:Q", title="weight [%]")],
        )
    )
    heading = alt.TitleParams(title, anchor="start", offset=24)
    return (cells + note).add_params(*menus).properties(width=430, height=380, title=heading)


def profiles(
    table: Mapping[str, Mapping[str, tuple[Tensor, float]]],
    title: str,
    corpora: Mapping[str, str] | None = None,
    top: float = 6.0,
) -> Figure:
    """Draw how many times the uniform share each head puts on each kind of key.

    table: kind -> name of the marked keys -> shares (N, H), uniform share; darkest from `top` on.
    corpora: kind -> on which sentences it was measured, written above the panel.
    """
    widths = [len(by_name) + 1 for by_name in table.values()]
    layers, heads = next(iter(next(iter(table.values())).values()))[0].shape
    figure, axes = plt.subplots(
        1, len(table), figsize=(0.52 * sum(widths) + 1, 0.27 * layers * heads + 1.9), sharey=True,
        width_ratios=widths, layout="constrained",
    )
    rows = [f"{n + 1}.{h + 1}" for n in range(layers) for h in range(heads)]
    for axis, (kind, by_name) in zip(axes, table.items()):
        ratios = [(shares / uniform).flatten() for shares, uniform in by_name.values()]
        values = [[column[i].item() for column in ratios] for i in range(len(rows))]
        _heat(axis, Tensor(values), rows, list(by_name), top)
        axis.set_xticks(range(len(by_name)), by_name, rotation=60, ha="right",
                        rotation_mode="anchor", fontsize=8)
        for line in range(heads, len(rows), heads):
            axis.axhline(line - 0.5, color="white", lw=3)
        where = f" ({corpora[kind]})" if corpora else ""
        axis.set_title(KIND_NAMES[kind] + where, fontsize=10)
    axes[0].set_ylabel("layer.head")
    figure.supxlabel("marked keys; the number: times the share of uniform attention", fontsize=9)
    return finish(figure, title)


def alignment_errors(rates: Mapping[str, Tensor], diagonal: float, title: str) -> Figure:
    """Draw the AER of each head, and in the last column of the mean of a layer: name -> (N, H + 1).

    The darker the better: white is the AER of the diagonal, or worse.
    """
    layers, columns = next(iter(rates.values())).shape
    figure, axes = plt.subplots(
        1, len(rates), figsize=(0.75 * columns * len(rates) + 1.5, 0.4 * layers + 1.7),
        sharey=True, squeeze=False, layout="constrained",
    )
    for axis, (name, values) in zip(axes[0], rates.items()):
        axis.imshow((diagonal - values).clamp(min=0), cmap="Blues", vmin=0, vmax=1.2 * diagonal,
                    aspect="auto")
        for i, row in enumerate(values.tolist()):
            for j, value in enumerate(row):
                axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=9)
        axis.set_xticks(range(columns), [*(f"head {h}" for h in range(1, columns)), "mean"],
                        fontsize=8)
        axis.set_yticks(range(layers), [f"layer {n}" for n in range(1, layers + 1)], fontsize=8)
        axis.tick_params(length=0)
        axis.axvline(columns - 1.5, color="white", lw=4)
        axis.set_title(f"a step belongs to {name}", fontsize=10)
    figure.supxlabel("alignment error rate: 0 is perfect; white: no better than straight ahead, "
                     f"{diagonal:.2f}", fontsize=9)
    return finish(figure, title)


def removal_costs(
    alone: Mapping[tuple[str, int, int], float], together: Mapping[tuple[str, int], float],
    title: str,
) -> Figure:
    """Draw how much the loss rises (nats a token) without each head and without all of them.

    alone: (kind, layer, head) -> cost; together: (kind, layer) -> cost.
    """
    kinds = list(dict.fromkeys(kind for kind, _ in together))
    layers = 1 + max(layer for _, layer in together)
    heads = 1 + max(head for *_, head in alone)
    figure, axes = plt.subplots(
        1, len(kinds), figsize=(max(3, 0.62 * (heads + 1)) * len(kinds) + 1, 0.4 * layers + 1.7),
        sharey=True, squeeze=False, layout="constrained",
    )
    top = max(alone.values())
    columns = [*(f"head {h + 1}" for h in range(heads)), "all"]
    for axis, kind in zip(axes[0], kinds):
        values = [[*(alone[kind, n, h] for h in range(heads)), together[kind, n]]
                  for n in range(layers)]
        _heat(axis, Tensor(values), [f"layer {n + 1}" for n in range(layers)], columns, top,
              "{:.3f}")
        axis.axvline(heads - 0.5, color="white", lw=4)
        axis.set_title(KIND_NAMES[kind], fontsize=10)
    figure.supxlabel("rise of the loss without the head, or without the whole layer [nats a token]",
                     fontsize=9)
    return finish(figure, title)


def stand_in(costs: Mapping[str, float], title: str) -> Figure:
    """Draw what heads cost alone, added, and at once, one bar each: name -> nats a token."""
    figure, axis = plt.subplots(figsize=(6.4, 3), layout="constrained")
    colours = [*([BLUE] * (len(costs) - 2)), GREY, ORANGE]
    bars = axis.bar(list(costs), list(costs.values()), 0.6, color=colours)
    axis.bar_label(bars, fmt="{:.3f}", fontsize=9)
    axis.axhline(0, color=GREY, lw=0.8)
    axis.margins(y=0.12)
    axis.set_ylabel("rise of the loss [nats a token]")
    axis.set_title(title, fontsize=10)
    return finish(figure)


def removal_curves(
    shares: Sequence[float], curves: Mapping[str, Sequence[float]], title: str, margin: float = 0.0
) -> Figure:
    """Draw BLEU over the share of heads removed, one line for each order of removal.

    margin: half the 95 % interval of one score, drawn as a bar at the left.
    """
    figure, axis = plt.subplots(figsize=(6.8, 3.7), layout="constrained")
    named = [name for name in curves if not name.startswith("random")]
    for name, (colour, line, marker) in zip(named, STYLES):
        axis.plot(shares, curves[name], linestyle=line, marker=marker, color=colour, label=name)
    for number, name in enumerate(name for name in curves if name.startswith("random")):
        axis.plot(shares, curves[name], "-", lw=0.8, color=GREY,
                  label="random orders" if number == 0 else None)
    if margin:
        start = next(iter(curves.values()))[0]
        axis.errorbar(shares[0] - 0.015, start, margin, color="black", capsize=3, lw=1,
                      label="95 % interval of one score")
    axis.set(xlabel="share of heads removed", ylabel="BLEU, greedy", ylim=(0, None))
    axis.xaxis.set_major_formatter("{x:.0%}")
    axis.set_title(title)
    axis.legend()
    return finish(figure)


def lens_by_layer(lens: Mapping[str, Tensor], title: str) -> Figure:
    """Draw, over the layers, what their first choice is, and the rank of the final token.

    lens: "final", "right" and "read" -> shares (N + 1,), "ranks" -> (N + 1, tokens).
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    layers = range(len(lens["final"]))
    names = {"final": "the final choice", "right": "the reference's word",
             "read": "the word just read"}
    for (name, label), (colour, line, marker) in zip(names.items(), STYLES):
        left.plot(layers, lens[name], linestyle=line, marker=marker, color=colour, label=label)
    left.set(xlabel="after layer", ylabel="share of steps", ylim=(-0.03, 1.03))
    left.yaxis.set_major_formatter("{x:.0%}")
    left.set_title("A layer's first choice is ...", fontsize=10)
    left.legend(fontsize=9)
    ranks = lens["ranks"].float()
    for quantile, label, (colour, line, marker) in zip(
        (0.9, 0.5, 0.25), ("nine tenths of the steps", "half", "a quarter"), STYLES
    ):
        at_most = ranks.quantile(quantile, dim=1)
        right.semilogy(layers, at_most, linestyle=line, marker=marker, color=colour, label=label)
    right.set(xlabel="after layer", ylabel="rank of the final choice (1: first)")
    right.set_title("It rises through the ranks: at most this rank for ...", fontsize=10)
    right.legend(fontsize=9)
    for axis in (left, right):
        axis.set_xticks(layers)
    return finish(figure, title)


def lens_grid(
    words: Sequence[Sequence[str]], probability: Tensor, read: Sequence[str], title: str
) -> Figure:
    """Draw each layer's first choice at each step, the last layer on top.

    words (N + 1) x T; probability (N + 1, T), of the final choice: the colour; read (T): the
    tokens that the decoder reads, below.
    """
    layers, steps = probability.shape
    figure, axis = plt.subplots(
        figsize=(0.72 * steps + 1.6, 0.42 * layers + 1.5), layout="constrained"
    )
    image = axis.imshow(probability, cmap="Blues", vmin=0, vmax=1.25, aspect="auto", origin="lower")
    for i, row in enumerate(words):
        for j, word in enumerate(row):
            axis.text(j, i, word, ha="center", va="center", fontsize=8,
                      color="white" if probability[i, j] > 0.75 else "black")
    names = ["before any", *(f"after layer {i}" for i in range(1, layers))]
    axis.set_yticks(range(layers), names, fontsize=8)
    axis.set_xticks(range(steps), read, fontsize=8)
    axis.tick_params(length=0)
    axis.set_xlabel("the token that the decoder has just read")
    axis.spines[:].set_visible(False)
    axis.set_title(title)
    figure.colorbar(image, ax=axis, label="probability of\nthe final choice", fraction=0.03,
                    boundaries=[i / 50 for i in range(51)], ticks=[0, 0.5, 1])
    return finish(figure)


def word_left(left: Mapping[str, Tensor], title: str) -> Figure:
    """Draw what an encoder vector keeps of its word: "own", "others", "nearest" -> (N + 1,)."""
    figure, axis = plt.subplots(figsize=(6, 3.3), layout="constrained")
    names = {"nearest": "its own embedding is the nearest of all (share)",
             "own": "cosine with its own embedding",
             "others": "cosine with those of the other tokens"}
    for (name, label), (colour, line, marker) in zip(names.items(), STYLES):
        axis.plot(range(len(left[name])), left[name], linestyle=line, marker=marker, color=colour,
                  label=label)
    axis.set(xlabel="after layer of the encoder", ylabel="cosine, or share of tokens")
    axis.set_ylim(min(0, float(left["others"].min()) - 0.05), 1.05)
    axis.set_xticks(range(len(left["own"])))
    axis.set_title(title)
    axis.legend(fontsize=8, loc="center right")
    return finish(figure)


def error_bars(bars: Mapping[str, Mapping[str, Mapping]], title: str) -> Figure:
    """Draw BLEU and chrF of groups of sentences, with their bootstrap margins.

    bars: question -> "bleu" and "chrf" -> group -> an object with score, margin and sentences.
    """
    widths = [len(by_metric["bleu"]) + 1 for by_metric in bars.values()]
    figure, axes = plt.subplots(
        1, len(bars), figsize=(0.62 * sum(widths) + 1, 3.8), sharey=True, squeeze=False,
        width_ratios=widths, layout="constrained",
    )
    for axis, (question, by_metric) in zip(axes[0], bars.items()):
        for shift, (metric, label), colour, hatch in zip(
            (-0.2, 0.2), (("bleu", "BLEU"), ("chrf", "chrF")), (BLUE, ORANGE), ("", "//")
        ):
            groups = by_metric[metric]
            places = [i + shift for i in range(len(groups))]
            heights, margins = zip(*((g.score, g.margin) for g in groups.values()))
            axis.bar(places, heights, 0.38, color=colour, hatch=hatch, edgecolor="white",
                     label=label, yerr=margins, capsize=3, ecolor="black")
        names = [f"{name}\n({g.sentences})" for name, g in by_metric["bleu"].items()]
        axis.set_xticks(range(len(names)), names, fontsize=8)
        axis.set_title(question + " ...", fontsize=10)
    axes[0][0].set_ylabel("score, greedy (bar: 95 % bootstrap)")
    axes[0][0].set_ylim(0, 100)
    axes[0][0].legend(fontsize=9, loc="upper left", ncols=2)
    figure.supxlabel("in brackets: sentences in the group", fontsize=9)
    return finish(figure, title)


def beam_curves(
    beams: Sequence[int], bleus: Mapping[float, Sequence[float]],
    ratios: Mapping[float, Sequence[float]], interval, title: str,
) -> Figure:
    """Draw BLEU and the length ratio over the beam, a line for each alpha.

    interval: an object with score and margin; the margin is written below the curves, which may
    lie far closer together than a band of that width.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for axis, series in zip(axes, (bleus, ratios)):
        for (alpha, values), (colour, line, marker) in zip(series.items(), STYLES):
            axis.plot(beams, values, linestyle=line, marker=marker, ms=5, color=colour,
                      label=f"α = {alpha:g}")
        axis.set_xticks(beams)
        axis.set_xlabel("beam (1: greedy)")
    axes[0].margins(y=0.12)
    height = abs(axes[0].get_ylim()[1] - axes[0].get_ylim()[0])
    axes[0].text(0.98, 0.02, f"95 % interval of one score: ± {interval.margin:.1f}; this panel is "
                 f"{height:.1f} high", transform=axes[0].transAxes, fontsize=8, color=GREY,
                 ha="right", va="bottom")
    axes[0].set_ylabel("BLEU")
    axes[1].axhline(1, color=GREY, lw=0.8)
    axes[1].set_ylabel("length over the reference's")
    axes[1].legend(fontsize=9)
    return finish(figure, title)


def bootstrap_histogram(
    differences: Sequence[float], centred: Sequence[float], observed: float, title: str
) -> Figure:
    """Draw resampled differences as they are, and their centred sizes with the tail that counts."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    left.hist(differences, 40, color=BLUE)
    left.axvline(0, color=GREY, lw=0.8)
    left.axvline(observed, color="black", ls="--", label=f"observed: {observed:+.1f}")
    left.set(xlabel="BLEU of the system minus that of the baseline", ylabel="resampled test sets")
    left.set_title("as they are: around the observed one", fontsize=10)
    _, edges, bars = right.hist(centred, 40, color=GREY)
    for edge, bar in zip(edges, bars):
        if edge >= abs(observed):
            bar.set_facecolor(ORANGE)
    right.axvline(abs(observed), color="black", ls="--", label=f"observed: {abs(observed):.1f}")
    right.set(xlabel="size of the difference minus the mean size")
    right.set_title("centred: around 0; the tail is what the test counts", fontsize=10)
    for axis in (left, right):
        axis.legend(fontsize=9)
    return finish(figure, title)
