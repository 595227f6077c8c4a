"""Pictures of lesson 09b: where heads look, what they are worth, what layers say, what fails."""

from collections.abc import Mapping, Sequence

import altair as alt
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from course.viz import BLUE, GREY, ORANGE, RED, SEPARATOR, STYLES, finish, plain, visible

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
    axis.set_xticks(range(len(columns)), map(plain, columns), fontsize=8)
    axis.set_yticks(range(len(rows)), map(plain, rows), fontsize=8)
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
        numbered = {side: SEPARATOR.join(f"{i} {visible(word)}" for i, word in enumerate(words, 1))
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
            queries=f"split(datum.queries, '{SEPARATOR}')",
            keys=f"split(datum.keys, '{SEPARATOR}')",
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
    untrained: Mapping[str, Mapping[str, tuple[Tensor, float]]],
    title: str,
    corpora: Mapping[str, str],
) -> Figure:
    """Draw how many times the uniform share each head puts on each kind of key, a dot a head.

    table, untrained: kind -> name of the marked keys -> shares (N, H), uniform share; of the
    untrained model the best head only is drawn. corpora: kind -> where it was measured.
    """
    heights = [len(by_name) for by_name in table.values()]
    figure, axes = plt.subplots(
        len(table), 1, figsize=(8, 0.27 * sum(heights) + 2.2), sharex=True,
        height_ratios=heights, layout="constrained",
    )
    for axis, (kind, by_name) in zip(axes, table.items()):
        for y, (name, (shares, uniform)) in enumerate(by_name.items()):
            ratios = (shares / uniform).flatten()
            best = int(ratios.argmax())
            layer, head = divmod(best, shares.size(1))
            axis.plot(ratios, [y] * len(ratios), "o", color=BLUE, ms=5, mfc="none",
                      label="a head of the trained model")
            axis.plot(ratios[best], y, "o", color=BLUE, ms=6)
            axis.annotate(f"{layer + 1}.{head + 1}", (float(ratios[best]), y), xytext=(6, 0),
                          textcoords="offset points", va="center", fontsize=8)
            blank, even = untrained[kind][name]
            axis.plot(blank.max() / even, y, "x", color=RED, ms=7, mew=1.8,
                      label="the best untrained head")
        axis.set_xscale("log")
        axis.axvline(1, color=GREY, lw=0.8)
        axis.set_yticks(range(len(by_name)), by_name, fontsize=9)
        axis.grid(axis="y", color="#EEEEEE")
        axis.invert_yaxis()
        axis.set_title(f"{KIND_NAMES[kind]} ({corpora[kind]})", fontsize=10)
    ticks = [0.1, 0.2, 0.5, 1, 2, 5, 10]
    axes[-1].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes[-1].minorticks_off()
    axes[-1].set_xlabel("times the share of uniform attention (log scale)")
    axes[-1].set_xlim(left=0.08)
    labels = dict(zip(*reversed(axes[0].get_legend_handles_labels())))
    axes[0].legend(labels.values(), labels.keys(), fontsize=8, loc="lower right", frameon=True)
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
            axis.text(j, i, plain(word), ha="center", va="center", fontsize=8,
                      color="white" if probability[i, j] > 0.75 else "black")
    names = ["before any", *(f"after layer {i}" for i in range(1, layers))]
    axis.set_yticks(range(layers), names, fontsize=8)
    axis.set_xticks(range(steps), map(plain, read), fontsize=8)
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


def beam_grid(tried: Mapping[tuple[int, float], float], title: str) -> Figure:
    """Draw BLEU for each beam (rows) and alpha (columns): (beam, alpha) -> BLEU."""
    beams, alphas = (sorted({key[i] for key in tried}) for i in (0, 1))
    lowest, best = min(tried.values()), max(tried.values())
    figure, axis = plt.subplots(figsize=(7, 0.36 * len(beams) + 1.4), layout="constrained")
    grid = [[tried.get((beam, alpha), float("nan")) for alpha in alphas] for beam in beams]
    axis.imshow(grid, cmap="Blues", vmin=lowest, vmax=best + 0.3 * (best - lowest), aspect="auto")
    for (beam, alpha), bleu in tried.items():
        strong = bleu == best
        axis.text(alphas.index(alpha), beams.index(beam), f"{bleu:.1f}", ha="center", va="center",
                  fontsize=9, weight="bold" if strong else "normal",
                  color="white" if bleu > lowest + 0.75 * (best - lowest) else "black")
    axis.set_xticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
    axis.set_yticks(range(len(beams)), [f"{beam}" if beam > 1 else "1 (α plays no part)"
                                        for beam in beams])
    axis.set(xlabel="length penalty α", ylabel="beam")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return finish(figure, title)


def attention_grid(
    weights: Tensor, rows: Sequence[str], columns: Sequence[str], title: str
) -> Figure:
    """Draw one map a layer, weights (layers, T, S), over the tokens written and read."""
    figure, axes = plt.subplots(
        1, len(weights), figsize=(3.3 * len(weights) + 1, 0.25 * len(rows) + 1.6), sharey=True
    )
    for number, (axis, map_) in enumerate(zip(axes, weights), 1):
        image = axis.imshow(map_, cmap="Greys", vmin=0, vmax=1, aspect="auto")
        axis.set_xticks(range(len(columns)), map(plain, columns), rotation=70, ha="right",
                        fontsize=8)
        axis.set_yticks(range(len(rows)), map(plain, rows), fontsize=8)
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
    axes[0].set_yticks(range(len(words)), map(plain, words))
    axes[0].invert_yaxis()
    return finish(figure, title)
