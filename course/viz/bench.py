"""Pictures of speed, drawn from what `python -m course bench --json` prints."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from course.bench.race import quartiles
from course.viz import BLUE, GREY, STYLES, finish


def bars(report: Mapping) -> Figure:
    """Draw how fast each contestant of a race is: medians, quartiles, ratios; ours in blue."""
    ran = [e for e in report["contestants"] if e["rate"]]
    notes = [f"{short(e['ratio']['median'])} x {e['against']}" if e["ratio"] else "" for e in ran]
    figure, axis = plt.subplots(figsize=(7.5, 0.45 * len(ran) + 1.2))
    draw_bars(axis, {e["name"]: e["rate"] for e in ran}, notes,
              [BLUE if e["name"].startswith("ours") else GREY for e in ran])
    axis.set_xlabel(f"{report['unit']} a second (bar: median, whisker: quartiles)")
    axis.set_title(standing(report))
    return finish(figure)


def ladder(rates: Mapping[str, Sequence[float]], unit: str) -> Figure:
    """Draw a ladder of tricks, each rung on top of the one before, from the slowest loop up.

    rates: for each rung the rate of every repeat, as `race_here` measures them; unit: of what, a
    second. Each rung says what it gains over the rung below.
    """
    spreads = {name: dict(zip(("lower", "median", "upper"), quartiles(values)))
               for name, values in rates.items()}
    medians = [spread["median"] for spread in spreads.values()]
    gains = ["", *(f"x {b / a:.2f}" for a, b in zip(medians, medians[1:]))]
    figure, axis = plt.subplots(figsize=(7.5, 0.45 * len(rates) + 1.2))
    draw_bars(axis, spreads, gains, [GREY] + [BLUE] * (len(rates) - 1))
    axis.set_xlabel(f"{unit} a second (bar: median, whisker: quartiles)")
    axis.set_title(f"From the first rung to the last: {medians[-1] / medians[0]:.1f} times as fast")
    return finish(figure)


def draw_bars(
    axis: Axes, rates: Mapping[str, Mapping[str, float]], notes: Sequence[str],
    colors: Sequence[str],
) -> None:
    """Draw a horizontal bar with whiskers and a note for each name, the first one on top."""
    y = list(range(len(rates)))
    medians = [rate["median"] for rate in rates.values()]
    below = [rate["median"] - rate["lower"] for rate in rates.values()]
    above = [rate["upper"] - rate["median"] for rate in rates.values()]
    axis.barh(y, medians, 0.62, color=colors, xerr=[below, above],
              error_kw={"ecolor": "black", "capsize": 3, "lw": 1})
    for place, median, over, note in zip(y, medians, above, notes):
        axis.annotate(f"{short(median)}   {note}".rstrip(), (median + over, place), xytext=(6, 0),
                      textcoords="offset points", va="center", fontsize=9)
    axis.set_yticks(y, list(rates))
    axis.invert_yaxis()
    axis.set_xlim(0, 1.45 * max(m + a for m, a in zip(medians, above)))


def standing(report: Mapping) -> str:
    """Return in a sentence where ours stands: against its fastest and its slowest peer."""
    ours = report["contestants"][0]["name"]
    peers = [e for e in report["contestants"] if e["ratio"] and e["against"] == ours
             and not e["name"].startswith(("ours", "lesson"))]
    if not peers:
        return "How fast each one is"
    peers.sort(key=lambda e: e["ratio"]["median"], reverse=True)
    chosen = peers if len(peers) < 2 else [peers[0], peers[-1]]
    parts = [f"{short(1 / e['ratio']['median'])} times as fast as {e['name']}" for e in chosen]
    return f"{ours} is {', '.join(parts)}"


def growth(report: Mapping) -> Figure:
    """Draw how time grows, beside it the memory of attention; training as tokens a second."""
    with_memory = report["bench"] == "attention" and any(
        all(curve["peak_memory"]) for curve in report["curves"]
    )
    figure, axes = plt.subplots(1, 1 + with_memory, figsize=(5 + 4.5 * with_memory, 3.8),
                                squeeze=False)
    one = {"passes": "pass"}.get(report["unit"], report["unit"].removesuffix("s"))
    as_rate = report["bench"] == "train"
    for curve, (color, style, marker) in zip(report["curves"], STYLES):
        draw_curve(axes[0][0], curve, report, as_rate, color=color, marker=marker, linestyle=style)
    axes[0][0].set_ylabel(f"{report['unit']} a second" if as_rate else f"milliseconds a {one}")
    axes[0][0].set_title(growth_title(report))
    axes[0][0].legend()
    if with_memory:
        for curve, (color, style, marker) in zip(report["curves"], STYLES):
            if all(curve["peak_memory"]):
                label = law(curve["name"], report["over"], curve["memory_exponent"])
                axes[0][1].loglog(curve["at"], [m / 1e6 for m in curve["peak_memory"]], label=label,
                                  color=color, marker=marker, linestyle=style, ms=5)
        axes[0][1].legend()
        axes[0][1].set(ylabel="peak memory (MB)", title=times_as_much(report, "peak_memory"))
    for axis in axes[0]:
        doubling_marks(axis, report)
    return finish(figure)


def draw_curve(
    axis: Axes, curve: Mapping, report: Mapping, as_rate: bool, **style: object
) -> None:
    """Draw one curve of time, or of rate, with a band between its quartiles."""
    power = curve["time_exponent"]
    label = law(curve["name"], report["over"], -power if as_rate and power else power)
    middle, low, high = (
        [1 / s if as_rate else 1000 * s for s in seconds]
        for seconds in (curve["seconds"], *curve["seconds_quartiles"])
    )
    axis.loglog(curve["at"], middle, label=label, ms=5, **style)
    axis.fill_between(curve["at"], low, high, color=style["color"], alpha=0.2, lw=0)


def law(name: str, over: str, power: float | None) -> str:
    """Return a curve's name and how it grows, for a legend."""
    return name if power is None else f"{name}: ~ {over}$^{{{power:.2f}}}$"


def doubling_marks(axis: Axes, report: Mapping) -> None:
    """Mark each point that was measured below, and figures that can be read on the left."""
    at = sorted({x for curve in report["curves"] for x in curve["at"]})
    axis.set_xticks(at, [f"{x:,}" for x in at])
    axis.set_xlabel(report["over"])
    low, high = axis.get_ylim()
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.minorticks_off()


def growth_title(report: Mapping) -> str:
    """Return in a sentence what the curves of time show."""
    if len(report["curves"]) > 1:
        return times_as_much(report, "seconds")
    curve = report["curves"][0]
    at, seconds = curve["at"], curve["seconds"]
    one = report["unit"].split()[-1].removesuffix("s")
    return (f"{at[-1] // at[0]} times the {report['over']}: "
            f"{short(seconds[-1] / seconds[0])} times the time of a {one}")


def times_as_much(report: Mapping, values: str) -> str:
    """Return in a sentence how the two first curves differ at the end."""
    cheap, dear = sorted(report["curves"][:2], key=lambda curve: curve[values][-1])
    what = "the memory" if values == "peak_memory" else "the time"
    factor = short(dear[values][-1] / cheap[values][-1])
    return f"At {report['over']} {dear['at'][-1]:,}, {dear['name']} takes {factor} times {what}"


def short(value: float) -> str:
    """Return a figure with two digits that count, or all before the point."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
