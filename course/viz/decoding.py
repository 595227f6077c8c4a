"""Pictures of decoding: the beam as a tree, penalties, n-gram matches, the cache, BLEU by beam."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from course.decoding import NextLogProbs, beam_step, continuations, until_eos
from course.text import BOS, EOS
from course.viz import BLUE, GREY, ORANGE, RED, STYLES, finish, plain

Prefix = tuple[str, ...]

# colour, line style, line width of each fate: told apart in greyscale too
FATES = {
    "winner": (BLUE, "-", 2.6),
    "kept": (RED, "--", 1.6),
    "pruned": (GREY, ":", 1.0),
}


def search_tree(
    score: NextLogProbs, names: Sequence[str], beam: int
) -> dict[Prefix, tuple[float, str]]:
    """Return every continuation that a beam search over one sentence looks at, for `beam_tree`.

    names: the word of each id; words -> (probability, "pruned" or "kept" or "winner").
    """
    nodes: dict[Prefix, tuple[float, str]] = {}
    prefixes, totals = torch.tensor([[BOS]]), torch.zeros(1)

    def words(prefix: list[int]) -> Prefix:
        return tuple(names[i] for i in [*until_eos(prefix), *([EOS] if EOS in prefix else [])])

    while (prefixes[:, -1] != EOS).any():
        candidates = continuations(score, 0, prefixes, totals)  # (k, V)
        for i, token in candidates.isfinite().nonzero().tolist():
            if prefixes[i, -1] != EOS:
                child = (*words(prefixes[i].tolist()), names[token])
                nodes[child] = (candidates[i, token].exp().item(), "pruned")
        prefixes, totals = beam_step(score, 0, prefixes, totals, beam)
        for prefix in map(words, prefixes.tolist()):
            nodes[prefix] = (nodes[prefix][0], "kept")
    winner = words(prefixes[0].tolist())
    for t in range(1, len(winner) + 1):
        nodes[winner[:t]] = (nodes[winner[:t]][0], "winner")
    return nodes


def tree_places(nodes: Mapping[Prefix, tuple[float, str]]) -> dict[Prefix, tuple[float, float]]:
    """Return where each prefix of a tree is drawn, the root `()` too: (number of words, height).

    Leaves get a line each, in the order of `nodes`; a parent stands in the middle of its children.
    """
    children: dict[Prefix, list[Prefix]] = {(): []}
    for prefix in sorted(nodes, key=len):
        children[prefix] = []
        children[prefix[:-1]].append(prefix)
    places: dict[Prefix, tuple[float, float]] = {}
    n_leaves = 0

    def put(prefix: Prefix) -> float:
        nonlocal n_leaves
        if children[prefix]:
            heights = [put(child) for child in children[prefix]]
            height = (heights[0] + heights[-1]) / 2
        else:
            height = float(n_leaves)
            n_leaves += 1
        places[prefix] = (float(len(prefix)), height)
        return height

    put(())
    return places


def beam_tree(nodes: Mapping[Prefix, tuple[float, str]], title: str) -> Figure:
    """Draw what a beam search looked at.

    nodes: prefix (its words) -> (its probability, its fate: "winner", "kept" or "pruned"). On each
    edge the probability of its word, in each box the word and the probability of the prefix.
    """
    places = tree_places(nodes)
    depth = max(len(prefix) for prefix in nodes)
    n_leaves = 1 + max(height for _, height in places.values())
    figure, axis = plt.subplots(figsize=(1.9 * depth + 1.4, 0.62 * n_leaves + 0.9),
                                layout="constrained")
    for prefix in sorted(nodes, key=lambda p: nodes[p][1] == "winner"):  # the winner on top
        probability, fate = nodes[prefix]
        color, style, width = FATES[fate]
        (x0, y0), (x1, y1) = places[prefix[:-1]], places[prefix]
        axis.plot([x0, x1], [y0, y1], color=color, ls=style, lw=width, zorder=1)
        before = nodes[prefix[:-1]][0] if len(prefix) > 1 else 1.0
        label = dict(ha="center", va="center", fontsize=8)
        axis.text(
            x0 + 0.56 * (x1 - x0), y0 + 0.56 * (y1 - y0), f"{probability / before:.2f}",
            color=color, bbox=dict(fc="white", ec="none", pad=0.8), zorder=2, **label,
        )
        axis.text(
            x1, y1, f"{plain(prefix[-1])}\n{probability:.3f}",
            weight="bold" if fate == "winner" else None,
            color="black" if fate != "pruned" else GREY, zorder=3,
            bbox=dict(boxstyle="round", fc="white", ec=color, ls=style, lw=width), **label,
        )
    axis.text(0, places[()][1], "<s>", ha="center", va="center", fontsize=9, zorder=3,
              bbox=dict(boxstyle="round", fc="white", ec="black"))
    axis.set(xlim=(-0.2, depth + 0.3), ylim=(n_leaves - 0.4, -0.6))
    axis.set_axis_off()
    lines = [Line2D([], [], color=c, ls=s, lw=w) for c, s, w in FATES.values()]
    names = ("the best at the end", "kept in the beam", "looked at and dropped")
    figure.legend(lines, names, loc="outside lower center", ncols=3, fontsize=9)
    return finish(figure, title)


def length_penalties(
    penalty: Callable[[int, float], float],
    sentences: Mapping[str, tuple[float, int]],
    alphas: Sequence[float],
    crossing: float,
) -> Figure:
    """Draw the divisor over the length, and two sentences' scores over alpha.

    penalty(length, alpha) -> divisor; sentences: text -> (log-probability, length);
    crossing: the alpha at which the two scores are equal.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    lengths = range(1, 31)
    for alpha, (color, style, marker) in zip(alphas, STYLES):
        values = [penalty(n, alpha) for n in lengths]
        left.plot(lengths, values, ls=style, color=color, marker=marker, markevery=(4, 5), ms=5)
        left.text(30.5, values[-1], f"α = {alpha:g}", color=color, va="center", fontsize=9)
    left.set(xlabel="length (tokens, </s> counted)", ylabel="length penalty lp (log scale)")
    left.set(yscale="log", xlim=(0, 36), yticks=[1, 2, 5, 10, 30], ylim=(0.8, 45))
    left.yaxis.set_major_formatter("{x:g}")
    left.minorticks_off()
    left.set_title("The longer the sentence, the larger the divisor")
    axis = [i / 50 for i in range(51)]
    for (text, (log_prob, length)), (color, style, _) in zip(sentences.items(), STYLES):
        scores = [log_prob / penalty(length, a) for a in axis]
        right.plot(axis, scores, ls=style, color=color, lw=2,
                   label=f'"{plain(text)}", {length} tokens')
    right.axvline(crossing, color=GREY, lw=0.9, ls=":")
    right.annotate(f"equal at α = {crossing:.2f}", (crossing, 0.95), color=GREY, fontsize=9,
                   xycoords=("data", "axes fraction"), xytext=(4, 0),
                   textcoords="offset points")
    right.set(xlabel="α", ylabel="score (log-probability in nats / lp)")
    right.set_title(f"From α = {crossing:.2f} on, the whole sentence wins")
    right.legend(fontsize=9, loc="lower right")
    return finish(figure)


def ngram_row(axis: Axes, hypothesis: Sequence[str], reference: Sequence[str], n: int) -> int:
    """Draw the n-grams of a hypothesis as bars under its words; return how many count."""
    left = [tuple(reference[i : i + n]) for i in range(len(reference) - n + 1)]
    counted = 0
    for i in range(len(hypothesis) - n + 1):
        gram = tuple(hypothesis[i : i + n])
        counts = gram in left
        if counts:
            left.remove(gram)
            counted += 1
        height = 0.8 / n
        y = n + 0.1 + (i % n) * height  # overlapping runs lie below each other
        axis.add_patch(Rectangle(
            (i + 0.06, y), n - 0.12, height * 0.82, fc=BLUE if counts else "white",
            ec=BLUE if counts else GREY, hatch=None if counts else "////", lw=0.8,
        ))
    return counted


def ngram_boxes(hypothesis: Sequence[str], reference: Sequence[str]) -> Figure:
    """Draw which n-grams of a hypothesis the reference confirms, n from 1 to 4, clipped."""
    size = len(hypothesis)
    figure, axis = plt.subplots(figsize=(0.95 * size + 2, 4.2))
    shares = []
    for n in range(1, 5):
        counted, total = ngram_row(axis, hypothesis, reference, n), max(size - n + 1, 0)
        shares.append(f"{counted} of {total}")
        axis.text(-0.15, n + 0.45, f"{n}-grams", ha="right", va="center", fontsize=10)
        axis.text(size + 0.15, n + 0.45, shares[-1], ha="left", va="center", fontsize=10)
    for i, word in enumerate(hypothesis):
        axis.text(i + 0.5, 0.8, plain(word), ha="center", va="center", fontsize=11)
    axis.text(-0.15, 0.8, "hypothesis", ha="right", va="center", fontsize=10, style="italic")
    axis.text(0, 0.25, "reference:  " + plain(" ".join(reference)), fontsize=10,
              style="italic")
    axis.set(xlim=(-1.4, size + 1), ylim=(5, 0))
    axis.set_axis_off()
    keys = [Patch(fc=BLUE, ec=BLUE), Patch(fc="white", ec=GREY, hatch="////")]
    axis.legend(keys, ["counts", "does not count"], loc="upper center", ncols=2,
                bbox_to_anchor=(0.5, 0.04), fontsize=9)
    axis.set_title("The longer the run, the fewer are confirmed: " + ", ".join(shares))
    return finish(figure)


def what_is_missed(rated: Mapping[str, tuple[float, float]]) -> Figure:
    """Draw two metrics of several translations: name -> (BLEU, position accuracy in percent)."""
    figure, axis = plt.subplots(figsize=(7.5, 0.75 * len(rated) + 1.3), layout="constrained")
    for i, values in enumerate(rated.values()):
        for j, (value, color, hatch) in enumerate(zip(values, (BLUE, ORANGE), (None, "//"))):
            y = i + 0.36 * j
            axis.barh(y, value, height=0.34, color=color, hatch=hatch, ec="white")
            axis.text(value + 1, y, f"{value:.0f}", va="center", fontsize=9)
    axis.set_yticks([i + 0.18 for i in range(len(rated))], list(rated))
    axis.invert_yaxis()
    axis.set(xlabel="score, 0 to 100", xlim=(0, 105))
    axis.set_title("A good paraphrase scores lowest, a reversed meaning scores high")
    keys = [Patch(fc=BLUE), Patch(fc=ORANGE, hatch="//", ec="white")]
    names = ["BLEU", "same token in the same place, %"]
    figure.legend(keys, names, loc="outside lower right", ncols=2, fontsize=9)
    return finish(figure)


def over_beam(
    beams: Sequence[int],
    model_score: Sequence[float],
    bleus: Mapping[float, Sequence[float]],
    lengths: Mapping[float, Sequence[float]],
) -> Figure:
    """Draw over the beam the mean log-probability, and for each alpha BLEU and length ratio."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.9), layout="constrained")
    axes[0].plot(beams, model_score, "o-", color="black")
    axes[0].set(ylabel="mean log-probability, α = 0 (nats)")
    axes[0].set_title(f"Likelier sentences: {model_score[0]:.2f} to {model_score[-1]:.2f}")
    for values, axis in ((bleus, axes[1]), (lengths, axes[2])):
        for (alpha, curve), (color, style, marker) in zip(values.items(), STYLES):
            axis.plot(beams, curve, ls=style, color=color, marker=marker, label=f"α = {alpha:g}")
    axes[1].set(ylabel="BLEU (sacrebleu)")
    low, high = min(bleus), max(bleus)
    least, most = bleus[low][-1], bleus[high][-1]
    axes[1].set_title(f"Beam {beams[-1]}: BLEU {least:.1f} at α = {low:g}, {most:.1f} at {high:g}")
    axes[1].legend(fontsize=9)
    axes[2].axhline(1, color=GREY, lw=0.9)
    axes[2].annotate("as many as in the references", (beams[-1], 1), (0, 3), color=GREY, fontsize=9,
                     textcoords="offset points", ha="right")
    axes[2].set(ylabel="words written / words in the references")
    axes[2].set_title("The larger α, the longer the text")
    for axis in axes:
        axis.set(xlabel="beam", xscale="log", xticks=beams)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
    return finish(figure)


def layer_with_cache(written: int, source: int) -> Figure:
    """Draw what one decoder layer has and what it computes, when it reads place `written`.

    source: the number of source tokens.
    """
    figure, axis = plt.subplots(figsize=(9, 3.3), layout="constrained")
    rows = (  # name, kept places, new places
        ("self-attention: keys and values of the prefix", written - 1, 1),
        ("cross-attention: keys and values of the source", source, 0),
        ("all the rest: queries, feed-forward, norms", 0, 1),
    )
    for y, (name, kept, new) in enumerate(rows):
        axis.text(-0.3, y + 0.35, name, ha="right", va="center", fontsize=10)
        for x in range(kept + new):
            left = x if kept + new > 1 else written - 1  # the new position stands in its column
            face, edge, hatch = ("white", GREY, "////") if x < kept else (BLUE, BLUE, None)
            axis.add_patch(Rectangle((left + 0.06, y), 0.88, 0.7, fc=face, ec=edge, hatch=hatch))
    axis.set(xlim=(-7.2, max(written, source) + 0.2), ylim=(3, -0.6))
    axis.set_axis_off()
    axis.set_title(f"Place {written}: only what is new is computed, the rest is kept")
    keys = [Patch(fc=BLUE, ec=BLUE), Patch(fc="white", ec=GREY, hatch="////")]
    figure.legend(keys, ["computed at this step", "kept in the cache"], loc="outside lower right",
                  ncols=2, fontsize=9)
    return finish(figure)


def cache_time(lengths: Sequence[int], clock: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the seconds of a search over the tokens written, a line for each way."""
    figure, axis = plt.subplots(figsize=(6.5, 3.9), layout="constrained")
    for (name, seconds), (color, style, marker) in zip(clock.items(), STYLES[1::-1]):
        axis.plot(lengths, seconds, linestyle=style, color=color, marker=marker)
        axis.annotate(name, (lengths[-1], seconds[-1]), (6, 0), textcoords="offset points",
                      color=color, va="center")
    plain, cached = (clock[name][-1] for name in ("plain", "cached"))
    axis.set_title(f"{lengths[-1]} tokens: with a cache {plain / cached:.0f} times faster")
    axis.set(xlabel="tokens written, each sentence [log scale]", ylabel="seconds [log scale]")
    axis.set(xscale="log", yscale="log", xticks=lengths)
    axis.set_xlim(lengths[0] * 0.9, lengths[-1] * 1.5)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    return finish(figure)
