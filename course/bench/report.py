"""From a race to a report: one JSON object, and the same as a table to read."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import linear_regression

from course.bench.plans import Plan
from course.bench.race import Race, Result, in_words, quartiles

PRODUCT = " product"  # the last word of the contestants that measure the device
DOUBLINGS = 4  # of a growth curve: its exponent is fitted to the last ones


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Return the median and the quartiles of repeats; None without any."""
    if not values:
        return None
    lower, median, upper = quartiles(values)
    return {"median": median, "lower": lower, "upper": upper}


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return p of the law cost ~ size ** p, fitted to the last four doublings of the size.

    It is the slope of the least-squares line through the logarithms.
    """
    x = [math.log(size) for size in sizes][-DOUBLINGS - 1 :]
    y = [math.log(cost) for cost in costs][-DOUBLINGS - 1 :]
    return linear_regression(x, y).slope


def share(result: Result, product: Result) -> dict[str, float] | None:
    """Return which share of a measured matrix-product rate a contestant reached, round by round."""
    return spread([
        turn.flops / turn.seconds / rate
        for turn, rate in zip(result.turns, product.rates) if turn.flops
    ])


def entry(result: Result, plan: Plan, race: Race) -> dict[str, object]:
    """Return all that is known of one contestant, as JSON holds it."""
    try:
        outcome = plan.finish(result)
    except Exception as error:  # a peer's work may return anything
        outcome, result.error = {}, f"what its work returned cannot be read: {in_words(error)}"
    other = plan.against.get(result.name)
    rival = next((r for r in race.results if r.name == other), None)
    comparable = rival is not None and rival.turns and result.turns
    return {
        "name": result.name,
        **({} if result.at is None else {"at": result.at}),
        "rate": spread(result.rates),
        "shares": {
            product.name.removesuffix(PRODUCT): reached
            for product in race.results
            if product.name.endswith(PRODUCT) and (reached := share(result, product))
        },
        "peak_memory": result.memory,
        "against": other,
        "ratio": spread([a / b for a, b in zip(result.rates, rival.rates)]) if comparable else None,
        "error": result.error,
        **outcome,
        "repeats": [asdict(turn) for turn in result.turns],
    }


def curves(entries: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Return a growth curve for each name: its points, and the exponents of time and memory."""
    found = []
    for name in dict.fromkeys(e["name"] for e in entries):
        points = [e for e in entries if e["name"] == name and e["rate"]]
        at = [point["at"] for point in points]
        low, seconds, high = (
            [1 / point["rate"][key] for point in points] for key in ("upper", "median", "lower")
        )
        memory = [point["peak_memory"] for point in points]
        by_round = zip(*([turn["seconds"] / turn["amount"] for turn in point["repeats"]]
                         for point in points))
        found.append({
            "name": name,
            "at": at,
            "seconds": seconds,
            "seconds_quartiles": [low, high],
            "peak_memory": memory,
            "time_exponent": exponent(at, seconds) if len(at) > 1 else None,
            "time_exponent_of_rounds": (
                spread([exponent(at, costs) for costs in by_round]) if len(at) > 1 else None),
            "memory_exponent": exponent(at, memory) if len(at) > 1 and all(memory) else None,
        })
    return found


def report_of(plan: Plan, race: Race, rounds: int, device: str, threads: int, command: str,
              load: float | None) -> dict[str, object]:
    """Return the report of a race, as JSON holds it: seconds, bytes, and rates a second."""
    from course.device import device_name, instruction_sets, versions

    entries = [entry(result, plan, race) for result in race.results]
    contestants = [e for e in entries if not e["name"].endswith(PRODUCT)]
    return {
        "bench": plan.what,
        "command": command,
        "device": device_name(device),
        "device_type": device,
        "instruction_sets": instruction_sets(),
        "threads": threads,
        "load_before": load,
        "versions": versions(),
        "corpus": plan.corpus,
        "sizes": dict(plan.sizes),
        "unit": plan.unit,
        "rounds": rounds,
        "stopped": race.stopped,
        "contestants": contestants,
        **({} if plan.over is None else {"over": plan.over, "curves": curves(contestants)}),
        "matrix_products": [e for e in entries if e["name"].endswith(PRODUCT)],
        "left_out": dict(plan.left_out),
        "notes": list(plan.notes),
    }


# --- to read ----------------------------------------------------------------------------------


def number(value: float) -> str:
    """Return a figure with three digits that count, or all before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def megabytes(value: int | None) -> str:
    """Return bytes as megabytes."""
    return "not measured" if value is None else f"{number(value / 1e6)} MB"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    )


def percent(reached: Mapping[str, float] | None) -> str:
    """Return a share in percent."""
    return "" if reached is None else f"{100 * reached['median']:.1f} %"


def table(report: Mapping) -> str:
    """Return the contestants of a race as a table."""
    kinds = [product["name"].removesuffix(PRODUCT) for product in report["matrix_products"]]
    tokens = any("tokens_a_sentence" in e for e in report["contestants"])
    last = {"train": "loss", "decode": "alike"}[report["bench"]]
    head = ["", f"{report['unit']}/s", "quartiles", *(["tokens/s"] if tokens else []),
            "peak memory", *(f"of {kind}" for kind in kinds), "speed", last]
    rows = [head]
    for e in report["contestants"]:
        if not (rate := e["rate"]):
            continue
        rows.append([
            e["name"],
            number(rate["median"]),
            f"{number(rate['lower'])} to {number(rate['upper'])}",
            *([tokens_a_second(e)] if tokens else []),
            megabytes(e["peak_memory"]),
            *(percent(e["shares"].get(kind)) for kind in kinds),
            f"{number(e['ratio']['median'])} x {e['against']}" if e["ratio"] else "",
            what_came_out(e),
        ])
    return aligned(rows)


def tokens_a_second(e: Mapping) -> str:
    """Return how many tokens a decoder wrote in a second, if it is known what it wrote."""
    many = e.get("tokens_a_sentence")
    return "" if many is None else number(e["rate"]["median"] * many)


def what_came_out(e: Mapping) -> str:
    """Return a trainer's loss, or how many of a decoder's translations are its rival's."""
    if "alike" in e:
        return f"{e['alike']:,} of {e['sentences']:,}"
    return f"{e['loss']:.3f}" if "loss" in e else ""


def cells(point: Mapping | None, as_rate: bool) -> list[str]:
    """Return one point of a growth curve for the table: as it was measured, or its time in ms."""
    if point is None:
        return ["", "", ""]
    low, mid, high = (point["rate"][key] for key in ("lower", "median", "upper"))
    if not as_rate:
        low, mid, high = 1000 / high, 1000 / mid, 1000 / low
    columns = [number(mid), f"{number(low)} to {number(high)}", megabytes(point["peak_memory"])]
    return [*columns, percent(point["shares"].get("float32"))] if as_rate else columns


def growth_table(report: Mapping) -> str:
    """Return the growth curves of a race as a table, and their laws."""
    one = {"passes": "pass"}.get(report["unit"], report["unit"].removesuffix("s"))
    as_rate = report["bench"] == "train"
    heading = f"{report['unit']}/s" if as_rate else f"ms a {one}"
    points = {(e["name"], e["at"]): e for e in report["contestants"] if e["rate"]}
    names = [curve["name"] for curve in report["curves"]]
    lines = [[report["over"]]]
    for name in names:
        lines[0] += [f"{name}: {heading}", "quartiles", "peak memory",
                     *(["of float32"] if as_rate else [])]
    for at in dict.fromkeys(at for _, at in points):
        row = [cell for name in names for cell in cells(points.get((name, at)), as_rate)]
        lines.append([str(at), *row])
    laws = [law(curve, one, report["over"]) for curve in report["curves"]
            if curve["time_exponent"] is not None]
    return "\n".join([aligned(lines), *laws])


def law(curve: Mapping, one: str, over: str) -> str:
    """Return in a sentence how a curve grows."""
    points = min(len(curve["at"]), DOUBLINGS + 1)
    memory = curve["memory_exponent"] if over == "length" else None  # else other things fill it
    rounds = curve["time_exponent_of_rounds"]
    return (f"{curve['name']}: the time of a {one} grows with {over}^{curve['time_exponent']:.2f} "
            f"({rounds['lower']:.2f} to {rounds['upper']:.2f}, quartiles of the rounds)"
            + ("" if memory is None else f", its memory with {over}^{memory:.2f}")
            + f" (fitted to the last {points} points).")


def findings(report: Mapping) -> list[str]:
    """Return the comparisons in sentences."""
    said = []
    for e in report["contestants"]:
        if not e["ratio"]:
            continue
        faster, slower = e["name"], e["against"]
        low, mid, high = (e["ratio"][key] for key in ("lower", "median", "upper"))
        if mid < 1:
            faster, slower = slower, faster
            low, mid, high = 1 / high, 1 / mid, 1 / low
        said.append(f"{faster} is {number(mid)} times as fast as {slower} "
                    f"(quartiles {number(low)} to {number(high)}).")
    return said


def processor(report: Mapping) -> str:
    """Return the instruction sets of the processor, in brackets, where they are known."""
    known = report["instruction_sets"]
    return f" ({', '.join(known)})" if known else ""


def text_of(report: Mapping) -> str:
    """Return a report to read."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    rounds = max((len(e["repeats"]) for e in report["contestants"]), default=0)
    corpus = f", {report['corpus']}" if report["corpus"] else ""
    lines = [
        f"bench {report['bench']}{corpus}: {report['device']}{processor(report)}, "
        f"{report['threads']} threads, "
        f"{versions}; {rounds} rounds",
        "",
        growth_table(report) if "curves" in report else table(report),
        "",
        *(f"{p['name']}: {p['rate']['median'] / 1e9:,.0f} GFLOP/s."
          for p in report["matrix_products"] if p["rate"]),
        *findings(report),
        *(textwrap.fill(note, 100, subsequent_indent="  ") for note in report["notes"]),
    ]
    return "\n".join(lines)


def failed(report: Mapping) -> list[Mapping]:
    """Return the contestants that left the race with an error."""
    return [e for e in [*report["contestants"], *report["matrix_products"]] if e["error"]]


def troubles(report: Mapping) -> list[str]:
    """Return who failed, who was left out, and what makes the figures doubtful."""
    said = [f"{e['name']} failed: {e['error']}" for e in failed(report)]
    said += [f"{name} is left out: {why}" for name, why in report["left_out"].items()]
    load = report["load_before"]
    if load is not None and report["device_type"] == "cpu" and load > 0.3 * report["threads"]:
        said.append(f"other work kept {load} cores busy before the race: the figures will be low "
                    "and spread; repeat it when the machine is calm")
    return list(dict.fromkeys(said))
