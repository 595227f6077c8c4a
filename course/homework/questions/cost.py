"""Question 4: the time and the memory of a self-attention layer, in its two parts."""

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import linear_regression

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from course.attention import MultiHeadAttention, scaled_dot_product_attention
from course.device import by_scale, one_thread
from course.viz import BLUE, GREEN, GREY, ORANGE, RED, finish

WIDTH, LENGTH, HEADS = 128, 512, 4
MEASURED = ("time over n", "time over d", "memory over n")
# part -> colour, line, marker
STYLES = {
    "projections": (BLUE, "-", "o"),
    "attention": (RED, "--", "s"),
    "attention, fused": (ORANGE, ":", "D"),
    "recurrence": (GREEN, "-.", "^"),
}


def parts(n: int, d: int) -> dict[str, Callable[[], object]]:
    """Return what there is to measure at n words of width d: part -> a function that runs it."""
    x, layer = torch.randn(1, n, d), MultiHeadAttention(d, HEADS)
    recurrent = nn.RNN(d, d, batch_first=True)
    matrices = (layer.w_q, layer.w_k, layer.w_v, layer.w_o)
    with torch.no_grad():
        heads = [layer.split_heads(w(x)) for w in matrices[:3]]  # (1, H, n, Dk) each
    heads = [part.requires_grad_() for part in heads]
    return {
        "projections": lambda: [w(x) for w in matrices],
        "attention": lambda: scaled_dot_product_attention(*heads)[0],
        "attention, fused": lambda: F.scaled_dot_product_attention(*heads),
        "recurrence": lambda: recurrent(x)[0],
    }


# the clock of a thread ticks only 64 times a second on Windows
CLOCK = time.perf_counter if sys.platform == "win32" else time.thread_time


def milliseconds(work: Callable[[], object]) -> float:
    """Return the time that one processor core works on it; what others do does not count."""
    taken = []
    with torch.no_grad():
        for _ in range(4):
            start = CLOCK()
            work()
            taken.append(1000 * (CLOCK() - start))
    return max(min(taken[1:]), 1e-3)  # the first run warms up


def mebibytes(work: Callable[[], object]) -> float:
    """Return the memory that training must keep from this part for its gradient."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        work()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / 2**20


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """Fit cost ~ size^a to the last three points, where the large term alone counts; return a."""
    x, y = ([math.log(value) for value in values[-3:]] for values in (sizes, costs))
    return linear_regression(x, y).slope


def crossing(sizes: Sequence[int], falling: Sequence[float], rising: Sequence[float]) -> float:
    """Return the size at which `rising` overtakes `falling` for good, between the measured ones."""
    gaps = [math.log(b / a) for a, b in zip(falling, rising)]
    for i in range(len(gaps) - 2, -1, -1):
        if gaps[i] < 0 <= gaps[i + 1]:
            share = gaps[i] / (gaps[i] - gaps[i + 1])
            return sizes[i] * (sizes[i + 1] / sizes[i]) ** share
    return float(sizes[0] if gaps[-1] >= 0 else sizes[-1])


@one_thread()
def experiment() -> tuple[dict[str, dict[str, float]], Figure]:
    """Measure a layer over its length and over its width, and fit how each part grows.

    Returns "time over n", "time over d", "memory over n" -> part -> the fitted exponent, and
    "crossing" -> {"time": the n from which attention takes longer than the projections}; and a
    figure with the measurements. One thread is used meanwhile.
    """
    torch.manual_seed(0)
    lengths = [2**i for i in range(5, by_scale(smoke=10, cpu=11, gpu=11) + 1)]
    widths = [2**i for i in range(6, by_scale(smoke=9, cpu=10, gpu=10) + 1)]
    by_n, by_d = ([parts(n, WIDTH) for n in lengths], [parts(LENGTH, d) for d in widths])
    tables = {
        name: {part: [measure(work[part]) for work in works] for part in STYLES}
        for name, works, measure in zip(
            MEASURED, (by_n, by_d, by_n), (milliseconds, milliseconds, mebibytes)
        )
    }
    sizes = {"n": lengths, "d": widths}
    found = {
        name: {part: exponent(sizes[name[-1]], costs) for part, costs in table.items()}
        for name, table in tables.items()
    }
    by_length = tables["time over n"]
    meet = crossing(lengths, by_length["projections"], by_length["attention"])
    return found | {"crossing": {"time": meet}}, _picture(sizes, tables, found, meet)


def _lines(axis: Axes, sizes: list[int], table: Mapping, exponents: Mapping, of: str) -> None:
    for part, (colour, line, marker) in STYLES.items():
        label = f"{part}: {of}^{exponents[part]:.1f}"
        axis.plot(sizes, table[part], line, marker=marker, ms=4, color=colour, label=label)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(sizes[::2], [str(s) for s in sizes[::2]])
    axis.legend(fontsize=8, loc="upper left")
    axis.set_ylim(top=axis.get_ylim()[1] * 30)


def _picture(sizes: Mapping, tables: Mapping, found: Mapping, meet: float) -> Figure:
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    for axis, (name, table) in zip(axes, tables.items()):
        _lines(axis, sizes[name[-1]], table, found[name], name[-1])
        label = "time on one core [ms]" if "time" in name else "kept for the gradient [MiB]"
        axis.set_ylabel(label)
    for axis in (axes[0], axes[2]):
        axis.set_xlabel(f"words n, at width d = {WIDTH}")
    axes[1].set_xlabel(f"width d, at n = {LENGTH} words")
    axes[0].axvline(meet, color=GREY, lw=1, ls=":")
    bottom = axes[0].get_ylim()[0]
    axes[0].text(meet * 1.1, bottom * 1.3, f"overtakes at n ≈ {meet:.0f}", fontsize=9)
    axes[0].set_title("Longer: attention grows like n²", fontsize=10)
    axes[1].set_title("Wider: the projections grow like d²", fontsize=10)
    axes[2].set_title("Memory: n², unless the kernel is fused", fontsize=10)
    figure.suptitle("Two costs in one layer: n² d for looking, n d² for projecting", x=0.01,
                    ha="left")
    return finish(figure)
