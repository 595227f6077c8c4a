"""Pictures of lesson 00: figure 1 with links, the map, the glossary, gold word alignments."""

import base64
import csv
import re
from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import altair as alt
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from course.messages import say_in_picture
from course.viz import BLUE, GREY, ORANGE, finish, plain

GLOSSARY = Path(__file__).parents[2] / "assets" / "glossary.tsv"

INK, LINE = "#1A1A1A", "#808080"  # letters in boxes; lines that show on white and on black
TINTS = {  # lesson -> (fill, edge) of its boxes: fills so light that INK is easy to read
    "03_attention": ("#FBE6BF", "#B87900"),
    "04_masking": ("#F6D9C4", "#B04E00"),
    "05_transformer": ("#D3E6F3", "#0072B2"),
    "06_text": ("#E4E4E4", "#6E6E6E"),
    "08_decoding": ("#CDEBE1", "#007A5A"),
}


class Block(NamedTuple):
    """A box of figure 1: its left upper corner [px], what it says, and the lesson it leads to."""

    x: int
    y: int
    name: str
    section: str
    lesson: str
    width: int = 240


LEFT, RIGHT, HIGH = 90, 430, 40  # where the encoder's and the decoder's boxes begin; a box's height
BLOCKS = (
    Block(RIGHT, 10, "output probabilities", "section 6.1", "08_decoding"),
    Block(RIGHT, 72, "softmax", "section 3.4", "03_attention"),
    Block(RIGHT, 134, "linear", "section 3.4", "05_transformer"),
    Block(RIGHT, 222, "add and norm", "section 3.1", "05_transformer"),
    Block(RIGHT, 276, "feed forward", "section 3.3", "05_transformer"),
    Block(RIGHT, 354, "add and norm", "section 3.1", "05_transformer"),
    Block(RIGHT, 408, "multi-head attention", "section 3.2.3", "03_attention"),
    Block(RIGHT, 486, "add and norm", "section 3.1", "05_transformer"),
    Block(RIGHT, 540, "masked multi-head attention", "section 3.2.3", "04_masking"),
    Block(RIGHT, 648, "positional encoding, added", "section 3.5", "05_transformer"),
    Block(RIGHT, 710, "output embedding", "section 3.4", "05_transformer"),
    Block(RIGHT, 772, "outputs (shifted right)", "section 3.1", "04_masking"),
    Block(LEFT, 354, "add and norm", "section 3.1", "05_transformer"),
    Block(LEFT, 408, "feed forward", "section 3.3", "05_transformer"),
    Block(LEFT, 486, "add and norm", "section 3.1", "05_transformer"),
    Block(LEFT, 540, "multi-head attention", "section 3.2.2", "03_attention"),
    Block(LEFT, 648, "positional encoding, added", "section 3.5", "05_transformer"),
    Block(LEFT, 710, "input embedding", "section 3.4", "05_transformer"),
    Block(LEFT, 772, "inputs", "section 5.1", "06_text"),
    Block(LEFT, 214, "the encoder's output", "gives keys and values", "05_transformer"),
    Block(2, 460, "N ×", "", "05_transformer", 46),
    Block(712, 394, "N ×", "", "05_transformer", 46),
)
FRAMES = ((56, 332, 308, 278), (396, 200, 308, 410))  # one layer of each stack: x, y, width, height
FIGURE_SIZE = (760, 822)

# data's way through the package: (x, y) of each station, and what travels between two of them
PLACES = {
    "corpora": (0, 1), "text": (1, 1), "masking": (2, 1), "transformer": (3, 1),
    "training": (4, 1), "runs": (4, 0), "decoding": (3, 0), "evaluation": (2, 0),
    "attention": (3, 2), "cache": (3, -1),
}
WAYS = [
    ("corpora", "text", "sentences"), ("text", "masking", "token ids"),
    ("masking", "transformer", "batches"), ("transformer", "training", "logits"),
    ("training", "runs", "steps"), ("runs", "decoding", "checkpoint"),
    ("decoding", "evaluation", "translations"), ("attention", "transformer", "is a part of"),
    ("cache", "decoding", "makes faster"),
]


def ways_among(here: Collection[str]) -> list[tuple[str, str, str]]:
    """Return the ways between the stations that are there; a way goes past one that is not."""
    found = []
    for start, end, what in WAYS:
        while start not in here:
            start = next((a for a, b, _ in WAYS if b == start), "")
            if not start:
                break
        if start and end in here:
            found.append((start, end, what))
    return found


def _path(*points: tuple[int, int], head: bool = True) -> str:
    """Return a line through the points, with an arrow head at its end."""
    way = " ".join(f"{x},{y}" for x, y in points)
    end = ' marker-end="url(#figure-one-head)"' if head else ""
    return f'<polyline points="{way}" fill="none" stroke="{LINE}" stroke-width="2"{end}/>'


def _ways() -> list[str]:
    """Return the arrows of figure 1: upwards in both columns, around each sub-layer, across."""
    encoder, decoder = LEFT + 120, RIGHT + 120
    lines = []
    for centre in (encoder, decoder):
        tops = sorted(b.y for b in BLOCKS if b.x + b.width // 2 == centre)
        for above, below in zip(tops, tops[1:]):
            lines.append(_path((centre, below), (centre, above + HIGH)))
    for centre, side, tops in ((encoder, -1, (354, 486)), (decoder, 1, (222, 354, 486))):
        edge, outside = centre + side * 120, centre + side * 140
        for top in tops:  # the residual connection leaves below the sub-layer, ends at its norm
            start, end = top + 112, top + HIGH // 2
            lines.append(_path((centre, start), (outside, start), (outside, end), (edge, end)))
    across = (encoder + 170, 234)
    lines.append(_path((encoder + 120, 234), across, (across[0], 428), (RIGHT, 428)))
    return lines


def figure_one() -> str:
    """Return the paper's figure 1 as SVG, drawn anew, each box a link to its lesson.

    Letters stand in boxes with a fill of their own, and lines are of a middle grey: so it can be
    read on a white and on a black page. The links are HTML inside the SVG, since JupyterLab 4
    stops at a link that is SVG's own ("Cannot set property href of #<SVGAElement>").
    """
    width, height = FIGURE_SIZE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        'style="max-width:100%;height:auto" '
        'aria-label="The Transformer: encoder on the left, decoder on the right">',
        '<defs><marker id="figure-one-head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="9" '
        'markerHeight="9" markerUnits="userSpaceOnUse" orient="auto">'
        f'<path d="M0,0L8,4L0,8z" fill="{LINE}"/></marker></defs>',
    ]
    for x, y, across, high in FRAMES:
        parts.append(f'<rect x="{x}" y="{y}" width="{across}" height="{high}" rx="14" fill="none" '
                     f'stroke="{LINE}" stroke-width="1.5" stroke-dasharray="6 4"/>')
    parts += _ways()
    for block in BLOCKS:
        fill, edge = TINTS[block.lesson]
        below = say_in_picture(f"{block.section} · lesson {block.lesson[:2]}")
        second = f'<br/><span style="font-size:11px">{below}</span>' if block.section else ""
        style = (
            f"display:inline-block;box-sizing:border-box;width:{block.width}px;height:{HIGH}px;"
            f"padding:{2 if second else 10}px 0 0 0;border:1.5px solid {edge};border-radius:8px;"
            f"font:13px/17px Arial,sans-serif;text-align:center;text-decoration:none;"
            f"color:{INK};background-color:{fill}"
        )
        parts.append(
            f'<foreignObject x="{block.x}" y="{block.y}" width="{block.width}" height="{HIGH}">'
            f'<a xmlns="http://www.w3.org/1999/xhtml" href="{block.lesson}.ipynb" '
            f'title="Open lesson {block.lesson}" style="{style}"><b>'
            f"{escape(say_in_picture(block.name))}</b>{second}</a></foreignObject>"
        )
    return "\n".join([*parts, "</svg>"])


def with_still(svg: str, text: str) -> str:
    """Return HTML that shows an SVG, and in front of it a still picture of it where it must not.

    A notebook that was not run on this machine is shown without its SVG and style elements, but
    with its links and pictures. Then, and only then, the picture is seen. text: what it shows.
    """
    data = base64.b64encode(svg.encode()).decode()
    return (
        "<style>.still-of-svg{display:none !important}</style>"
        f'<img class="still-of-svg" alt="{escape(text)}" src="data:image/svg+xml;base64,{data}"/>'
        f"\n{svg}"
    )


class Term(NamedTuple):
    """An entry of the glossary: a term in three languages, what it means, and its lesson."""

    term_en: str
    term_zh: str
    term_de: str
    meaning_en: str
    meaning_zh: str
    lesson: str


def read_glossary(path: Path = GLOSSARY) -> list[Term]:
    """Return the entries of a glossary, in the order of its lines.

    Raises ValueError, with the line's number, where a line has not six cells.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    for number, row in enumerate(rows, 1):
        if len(row) != len(Term._fields) or not all(cell.strip() for cell in row):
            raise ValueError(f"{path.name}, line {number}: six cells with text, between tabs, "
                             f"are needed; found {row}")
    return [Term(*row) for row in rows[1:]]


def find_terms(terms: Sequence[Term], word: str) -> list[Term]:
    """Return the entries that hold a word in any cell, the best first; case does not matter.

    Best is a term that is the word, then one that begins with it, then one that holds it, then an
    entry that only explains something with it.
    """
    wanted = word.strip().lower()

    def rank(term: Term) -> int:
        names = _names(term)
        ways = (f"\n{wanted}\n" in names, f"\n{wanted}" in names, wanted in names, True)
        return ways.index(True)

    return sorted((t for t in terms if wanted in "\n".join(t).lower()), key=rank)


def _names(term: Term) -> str:
    """Return the names of an entry, each between line breaks; German nouns also without article."""
    bare = term.term_de.split(" ", 1)[-1]
    return "\n".join(["", term.term_en, term.term_zh, term.term_de, bare, ""]).lower()


def glossary_table(terms: Sequence[Term], linked: Collection[str]) -> str:
    """Return entries as an HTML table; the lessons in `linked` become links."""
    heads = ("English", "中文", "Deutsch", "meaning", "含义", "lesson")
    tongues = ("", ' lang="zh"', ' lang="de"', "", ' lang="zh"', "")
    lines = ["".join(f"<th{tongue}>{head}</th>" for tongue, head in zip(tongues, heads))]
    for term in terms:
        lesson = term.lesson.split("_")[0]
        if term.lesson in linked:
            lesson = f'<a href="{term.lesson}.ipynb">{lesson}</a>'
        cells = [f"<b>{escape(term.term_en)}</b>", *map(escape, term[1:5]), lesson]
        style = "text-align:left;min-width:{}em"  # a Chinese term should not be cut every two signs
        widths = (0, 6, 0, 0, 9, 0)
        lines.append("".join(
            f'<td style="{style.format(width)}"{tongue}>{cell}</td>'
            for cell, width, tongue in zip(cells, widths, tongues)
        ))
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table>\n{body}\n</table>"


def glossary_search(terms: Sequence[Term], first: str, most: int = 6) -> alt.LayerChart:
    """Return a chart with a box to type into, that lists the entries which hold what was typed.

    It needs no kernel. first: the word in the box at the beginning; most: how many entries it
    shows. The best come first, as in find_terms.
    """
    rows = [
        {**term._asdict(), "everything": "\n".join(term).lower(), "names": _names(term),
         "place": re.sub(r"^(\d+)_.*", r"lesson \1", term.lesson)}
        for term in terms
    ]
    box = alt.binding(input="search", name="Search in three languages: ", debounce=150)
    typed = alt.param(name="typed", value=first, bind=box)
    # names holds a line break before and after each name: so "begins" and "is" can be seen
    score = (
        "indexof(datum.everything, word) < 0 ? 9"
        " : indexof(datum.names, '\\n' + word + '\\n') >= 0 ? 0"
        " : indexof(datum.names, '\\n' + word) >= 0 ? 1 : indexof(datum.names, word) >= 0 ? 2 : 3"
    )
    label = (
        "datum.hits == 0 ? 'Nothing found. Try a shorter part of the word.' : datum.hits"
        " + (datum.hits == 1 ? ' entry holds “' : ' entries hold “') + trim(typed) + '”'"
        f" + (datum.hits > {most} ? '; the best {most}:' : ':')"
    )
    ranked = (
        alt.Chart(alt.Data(values=rows))
        .transform_calculate(score=score.replace("word", "lower(trim(typed))"))
        .transform_calculate(hit="datum.score < 9 ? 1 : 0")
        .transform_joinaggregate(hits="sum(hit)")
        .transform_window(rank="row_number()", sort=[alt.SortField("score")])
    )
    shown = ranked.transform_filter(f"datum.hit && datum.rank <= {most}")
    place = alt.Y("rank:O", axis=None, scale=alt.Scale(domain=list(range(1, most + 1))))

    def line(field: str, x: int, dy: int, size: float, **style) -> alt.Chart:
        marks = shown.mark_text(align="left", dy=dy, font="sans-serif", fontSize=size, **style)
        return marks.encode(x=alt.value(x), y=place, text=f"{field}:N")

    count = ranked.transform_filter("datum.rank == 1").transform_calculate(label=label)
    above = count.mark_text(align="left", font="sans-serif", fontSize=12, color=GREY)
    chart = alt.layer(
        above.encode(x=alt.value(0), y=alt.value(-10), text="label:N"),
        line("term_en", 0, -16, 15, fontWeight="bold", color="#005A8C"),
        line("term_zh", 235, -16, 13.5, color=INK),
        line("term_de", 385, -16, 13.5, color=INK),
        line("place", 715, -16, 11, color=GREY),
        line("meaning_en", 0, 3, 12.5, color=INK),
        line("meaning_zh", 0, 20, 12.5, color=INK),
    )
    size = {"width": 775, "height": 64 * most}
    return (
        chart.add_params(typed)
        .properties(**size, background="white", padding=14)
        .configure_view(stroke=None)
    )


def _box(
    axis: Axes, x: float, y: float, width: float, name: str, below: str, here: bool, colour: str,
    size: float = 9,
) -> None:
    """Draw a box around (x, y) with a name in bold; dashed and pale if it is still to come."""
    frame = FancyBboxPatch(
        (x - width / 2, y - 0.3), width, 0.6, boxstyle="round,pad=0,rounding_size=.06",
        facecolor=(colour, 0.2) if here else "white", edgecolor=colour if here else GREY,
        linestyle="-" if here else "--", lw=1.3,
    )
    axis.add_patch(frame)
    ink = "black" if here else GREY
    kwargs = {"ha": "center", "va": "center", "color": ink}
    axis.text(x, y + 0.12, name, weight="bold", fontsize=size, **kwargs)
    axis.text(x, y - 0.12, below, fontsize=7.5, **kwargs)


def course_map(
    lessons: Sequence[tuple[str, str, str, bool]], numbers: Mapping[str, str], title: str
) -> Figure:
    """Draw the path and the other rooms, and below them the way of the data through the package.

    lessons: (number, title, module, is it there?), the number "" for a page outside the order;
    numbers: module -> the number of the lesson that it comes from.
    """
    figure, axis = plt.subplots(figsize=(12.4, 7.2), layout="constrained")
    path = [lesson for lesson in lessons if lesson[0].isdigit() and lesson[0] < "10"]
    others = [lesson for lesson in lessons if lesson not in path]
    for row, y in ((path, 6.75), (others, 5.55)):
        for i, (number, name, module, here) in enumerate(row):
            x = 0.1 + 1.22 * i
            label = f"{number} · {name}" if number else name
            _box(axis, x, y, 1.08, label, module if here else "to come", here, BLUE, 7.5)
            if i and row is path:
                style = {"arrowstyle": "-|>", "color": GREY, "lw": 1, "shrinkA": 0, "shrinkB": 0}
                axis.annotate("", (x - 0.54, y), (x - 0.68, y), arrowprops=style)
    heads = {
        7.25: "The path, in order",
        6.05: "Beside the path: machine room (07b, 07c, 08b), deeper rooms, the paper as a whole",
        4.85: "The way of the data through the modules that they make",
    }
    for y, head in heads.items():
        axis.text(-0.45, y, head, fontsize=10, weight="bold")
    there = {name for name in PLACES if name in numbers or name == "corpora"}
    at = {name: (0.7 + 2.55 * PLACES[name][0], 1.9 + 1.15 * PLACES[name][1]) for name in there}
    for name, (x, y) in at.items():
        label = f"lesson {numbers[name]}" if name in numbers else "no lesson: the data"
        _box(axis, x, y, 1.5, name, label, True, ORANGE)
    for start, end, what in ways_among(there):
        (x0, y0), (x1, y1) = at[start], at[end]
        if y0 == y1:
            side = 0.75 if x1 > x0 else -0.75
            ends, place = ((x0 + side, y0), (x1 - side, y1)), ((x0 + x1) / 2, y0 + 0.1)
            how = {"ha": "center", "va": "bottom"}
        else:
            side = 0.3 if y1 > y0 else -0.3
            ends, place = ((x0, y0 + side), (x1, y1 - side)), (x0 + 0.1, (y0 + y1) / 2)
            how = {"ha": "left", "va": "center"}
        style = {"arrowstyle": "-|>", "color": "black", "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
        axis.annotate("", ends[1], ends[0], arrowprops=style)
        axis.text(*place, what, fontsize=8, **how)
    axis.set(xlim=(-0.55, 11.8), ylim=(0.35, 7.5))
    axis.axis("off")
    axis.set_title(title)
    return finish(figure)


def alignments(
    pairs: Sequence[tuple[Sequence[str], Sequence[str], Sequence[tuple[int, int]]]], title: str
) -> Figure:
    """Draw sentence pairs with a line for each link; links that cross another one are orange.

    A pair is (German words, English words, links (i, j)).
    """
    longest = max(max(len(german), len(english)) for german, english, _ in pairs)
    figure, axes = plt.subplots(
        len(pairs), 1, figsize=(0.95 * longest + 0.6, 1.55 * len(pairs) + 0.3),
        squeeze=False, layout="constrained",
    )
    for axis, (german, english, links) in zip(axes[:, 0], pairs):
        for words, y, va in ((german, 1, "bottom"), (english, 0, "top")):
            for x, word in enumerate(words):
                axis.text(x, y, plain(word), ha="center", va=va, fontsize=10)
        for i, j in links:
            crossed = any((i - k) * (j - m) < 0 for k, m in links)
            axis.plot([i, j], [0.97, 0.03], color=ORANGE if crossed else BLUE, lw=1.4,
                      ls="-" if crossed else "--")
        axis.set(xlim=(-0.6, longest - 0.4), ylim=(-0.35, 1.35))
        axis.axis("off")
    return finish(figure, title)
