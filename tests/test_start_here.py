"""Lesson 00: figure 1 with its links, the glossary and its search, the plan, the map."""

import ast
import base64
import difflib
import html
import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

import jupytext
import nbformat
import pytest
import vl_convert
from IPython.display import HTML
from matplotlib.colors import to_hex, to_rgb

from course.authoring import NOTEBOOKS
from course.authoring.minutes import ROW, measure, refreshed
from course.pages import to_html
from course.viz import BLUE, ORANGE
from course.viz import start_here as draw
from course.viz.start_here import (
    BLOCKS,
    FIGURE_SIZE,
    FRAMES,
    HIGH,
    PLACES,
    TINTS,
    WAYS,
    Term,
    alignments,
    course_map,
    figure_one,
    find_terms,
    glossary_search,
    glossary_table,
    read_glossary,
    ways_among,
    with_still,
)

SVG, XHTML = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xhtml}"
PAGES = {"white": "#FFFFFF", "JupyterLab dark": "#111111", "GitHub dark": "#0D1117"}
CODE = [c.source for c in jupytext.read(NOTEBOOKS / "00_start_here.py").cells
        if c.cell_type == "code"]


def assigned(name: str):
    """The value that a cell of the lesson gives to a name."""
    for node in ast.walk(ast.parse("\n".join(CODE))):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
            return ast.literal_eval(node.value)
    raise KeyError(name)


LESSONS = assigned("LESSONS")
ON_DISK = [path.stem for path in sorted(NOTEBOOKS.glob("*.py"))]
README = (NOTEBOOKS.parent / "README.md").read_text(encoding="utf-8")
PAPER = {word for words in assigned("PAPER_WORDS").values() for word in words.split(", ")}
ELSEWHERE = {"activation function", "element-wise", "induction"}
OWN = {"claim", "core"}  # words of the course itself, which lesson 00 introduces
GLOSSARY = read_glossary()  # ELSEWHERE: what a reader meets in every other text on the subject


# The glossary


def stems(text: str) -> str:
    """Lower case without marks, British and American spelling alike, lines joined."""
    joined = re.sub(r"\n# ?", " ", text.lower())
    return re.sub(r"[^a-z0-9 ]", "", joined).replace("iz", "is")


def is_taught(term: Term) -> bool:
    """Whether a term is a word of the paper, or each of its words is in its lesson."""
    page = NOTEBOOKS / f"{term.lesson}.py"
    if term.term_en in PAPER | ELSEWHERE or not page.exists():  # a lesson that is still to come
        return True
    text = stems(page.read_text(encoding="utf-8"))
    return all(word[:4] in text for word in stems(term.term_en.replace("-", " ")).split())


def faults(term: Term) -> list[str]:
    """What is wrong with an entry."""
    noun = re.fullmatch(r"(der|die|das) \w.*", term.term_de)
    other = re.search(r"\((Verb|Adj\.|Adv\.|Wendung|Konjunktion)\)$", term.term_de)
    return [fault for fault, wrong in {
        "empty": not all(cell.strip() == cell != "" for cell in term),
        "lesson": term.lesson not in {*LESSONS, "00_start_here", "walkthrough"},
        "no Chinese": not all(re.search("[\u4e00-\u9fff]", c) for c in (term[1], term[4])),
        "half-width mark": bool(re.search("[\u4e00-\u9fff][,;:]", term[1] + term[4])),
        "neither article nor kind of word": not noun and not other,
        "article and kind of word": bool(noun and other),
        "meaning is no sentence": not term.meaning_en.endswith((".", "..."))
        or not term.meaning_zh.endswith("。"),
        "meaning too long": len(term.meaning_en) > 100 or len(term.meaning_zh) > 55,
        "not taught": not is_taught(term),
    }.items() if wrong]


GOOD = Term("mask", "掩码", "die Maske", "Hides.", "遮住。", "04_masking")
WRONG = {
    "empty": {"meaning_en": " "},
    "lesson": {"lesson": "11_nowhere"},
    "no Chinese": {"term_zh": "mask"},
    "half-width mark": {"meaning_zh": "遮住,不看。"},
    "neither article nor kind of word": {"term_de": "Maske"},
    "article and kind of word": {"term_de": "die Maske (Verb)"},
    "meaning is no sentence": {"meaning_en": "hides"},
    "meaning too long": {"meaning_en": "Hides " * 20 + "."},
    "not taught": {"term_en": "zebra"},
}


@pytest.mark.parametrize("fault", WRONG)
def test_the_check_of_an_entry_finds_what_is_wrong(fault: str):
    assert faults(GOOD) == []
    assert fault in faults(GOOD._replace(**WRONG[fault]))


def test_every_entry_of_the_glossary_is_sound():
    assert {term.term_en: faults(term) for term in GLOSSARY if faults(term)} == {}


def test_the_glossary_is_large_ordered_and_without_doubles():
    names = [term.term_en.casefold() for term in GLOSSARY]
    assert len(GLOSSARY) >= 200
    assert names == sorted(set(names))


def test_the_words_that_stop_a_first_reader_are_there():
    names = {term.term_en for term in GLOSSARY}
    asked = "transduction gating induction ablation perplexity auto-regressive extrapolate eschew"
    asked += " albeit counteract establish constituency_parsing beam_search dispense_with"
    asked += " jointly_attend residual_connection recurrent_neural_network"
    assert {word.replace("_", " ") for word in asked.split()} <= names


def test_ordinary_words_are_words_of_the_paper():
    ordinary = {term.term_en for term in GLOSSARY if term.lesson == "00_start_here"}
    assert ordinary <= PAPER | ELSEWHERE | OWN


@pytest.mark.parametrize("line", ["a\tb\tc", "a\tb\tc\td\te\t ", "a\tb\tc\td\te\tf\tg"])
def test_a_broken_line_is_named(tmp_path: Path, line: str):
    path = tmp_path / "words.tsv"
    path.write_text("\t".join(Term._fields) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="words.tsv, line 2: six cells"):
        read_glossary(path)


# Its search


@pytest.mark.parametrize("word, best", [
    ("residual", "residual connection"), ("RESIDUAL ", "residual connection"),
    ("残差", "residual connection"), ("Residualverbindung", "residual connection"),
    ("Skalarprodukt", "dot product"), ("das skalarprodukt", "dot product"),
    ("困惑度", "perplexity"), ("Maske", "mask"), ("GRU", "gated recurrent unit"),
])
def test_the_search_finds_three_languages(word: str, best: str):
    assert find_terms(GLOSSARY, word)[0].term_en == best


def test_the_search_puts_names_before_explanations():
    found = [term.term_en for term in find_terms(GLOSSARY, "attention")]
    assert found[:2] == ["attention", "attention head"]
    assert found.index("multi-head attention") < found.index("key")
    assert find_terms(GLOSSARY, "zebra") == []
    assert len(find_terms(GLOSSARY, "")) == len(GLOSSARY)


def chart_rows(word: str) -> list[set[str]]:
    """What the chart shows at the beginning: the line above the entries, then each entry."""
    spec = glossary_search(GLOSSARY, word).to_dict()
    picture = ET.fromstring(vl_convert.vegalite_to_svg(spec, vl_version="5.20"))
    rows = defaultdict(set)
    for text in picture.iter(f"{SVG}text"):
        if text.text:
            height = float(re.search(r",(-?[\d.]+)\)", text.attrib["transform"])[1])
            rows[height // 64].add(text.text)
    return [rows[height] for height in sorted(rows)]


@pytest.mark.parametrize("word", ["connection", "Aufmerksamkeit", "残差", "Skalarprodukt", "a", ""])
def test_the_chart_shows_what_the_function_finds(word: str):
    found, (above, *rows) = find_terms(GLOSSARY, word), chart_rows(word)
    count = len(found)
    noun = "entry holds" if count == 1 else "entries hold"
    assert above == {f"{count} {noun} “{word}”" + ("; the best 6:" if count > 6 else ":")}
    places = [re.sub(r"^(\d+)_.*", r"lesson \1", term.lesson) for term in found]
    assert rows == [{*term[:5], place} for term, place in zip(found[:6], places)]


def test_the_chart_says_so_when_nothing_is_found():
    assert chart_rows("zebra (") == [{"Nothing found. Try a shorter part of the word."}]


def test_the_table_links_only_what_is_there():
    text = glossary_table([GOOD, GOOD._replace(term_en="<b>", lesson="10_beyond")], {"04_masking"})
    assert re.findall('href="(.*?)"', text) == ["04_masking.ipynb"]
    assert "&lt;b&gt;" in text and ">10</td>" in text
    assert ET.fromstring(text).tag == "table"


@pytest.fixture
def look_up():
    names = {"draw": draw, "difflib": difflib, "HTML": HTML, "here": dict.fromkeys(LESSONS, True)}
    cell = next(source for source in CODE if "def look_up" in source)
    exec(cell.split("\n\nlook_up(")[0], names)
    return names["look_up"]


def test_look_up_shows_entries_and_suggests(look_up, capsys: pytest.CaptureFixture[str]):
    assert "点积" in look_up("Skalarprodukt").data and capsys.readouterr().out == ""
    assert "<b>transduction</b>" in look_up("transducton").data
    assert "Did you mean one of these?" in capsys.readouterr().out
    assert "<td" not in look_up("qqqq").data
    assert capsys.readouterr().out == "Nothing holds 'qqqq'.\n"


# Figure 1


def contrast(first: str, second: str) -> float:
    """The contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    lights = []
    for colour in (first, second):
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
                   for c in to_rgb(colour))
        lights.append(0.2126 * r + 0.7152 * g + 0.0722 * b)
    return (max(lights) + 0.05) / (min(lights) + 0.05)


@pytest.fixture(scope="module")
def figure() -> ET.Element:
    return ET.fromstring(figure_one())


def style_of(element: ET.Element) -> dict[str, str]:
    return dict(part.split(":", 1) for part in element.attrib["style"].split(";"))


def lines(figure: ET.Element) -> list[list[tuple[int, int]]]:
    """The points of every arrow."""
    ways = (line.attrib["points"].split() for line in figure.iter(f"{SVG}polyline"))
    return [[tuple(map(int, point.split(","))) for point in way] for way in ways]


def test_contrast_is_that_of_the_standard():
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert contrast("#767676", "#FFFFFF") == pytest.approx(4.54, abs=0.01)
    assert contrast("#FFFF00", "#FFFFFF") < 4.5


def test_letters_are_legible_whatever_the_page(figure: ET.Element):
    links = list(figure.iter(f"{XHTML}a"))
    assert len(links) == len(BLOCKS)
    for link in links:
        style = style_of(link)
        assert contrast(style["color"], style["background-color"]) >= 4.5
        assert to_rgb(style["background-color"])  # opaque: the page does not shine through


def test_lines_are_visible_on_light_and_dark_pages(figure: ET.Element):
    strokes = {e.attrib["stroke"] for e in figure.iter() if "stroke" in e.attrib}
    assert strokes
    for stroke in strokes:
        assert min(contrast(stroke, page) for page in PAGES.values()) >= 3


def test_each_box_leads_to_its_lesson_and_says_so(figure: ET.Element):
    for link, block in zip(figure.iter(f"{XHTML}a"), BLOCKS):
        assert link.attrib["href"] == f"{block.lesson}.ipynb"
        assert (NOTEBOOKS / f"{block.lesson}.py").exists()
        text = "".join(link.itertext())
        assert text.startswith(block.name)
        assert not block.section or text.endswith(f"lesson {block.lesson[:2]}")
        assert style_of(link)["background-color"] == TINTS[block.lesson][0]


def test_all_text_stands_in_links_so_that_no_letter_is_lost_without_the_svg(figure: ET.Element):
    within = "".join(t for link in figure.iter(f"{XHTML}a") for t in link.itertext())
    assert "".join(figure.itertext()).replace("\n", "") == within


def test_no_link_is_an_svg_link_at_which_jupyterlab_stops(figure: ET.Element):
    assert not [*figure.iter(f"{SVG}a")]


def test_boxes_lie_apart_and_within_the_figure():
    spans = [(b.x, b.y, b.x + b.width, b.y + HIGH) for b in BLOCKS]
    for number, (x0, y0, x1, y1) in enumerate(spans):
        assert min(x0, y0) >= 0 and x1 <= FIGURE_SIZE[0] and y1 <= FIGURE_SIZE[1]
        for a0, b0, a1, b1 in spans[:number]:
            assert x1 <= a0 or a1 <= x0 or y1 <= b0 or b1 <= y0


def test_arrows_end_at_boxes(figure: ET.Element):
    for way in lines(figure):
        x, y = way[-1]
        assert any(x in (b.x, b.x + b.width) and b.y < y < b.y + HIGH
                   or y == b.y + HIGH and b.x < x < b.x + b.width for b in BLOCKS)


def test_each_sub_layer_has_a_line_around_it(figure: ET.Element):
    around = [way for way in lines(figure) if len(way) == 4 and way[0][1] > way[-1][1]]
    closed = set()
    for way in around:
        start, end = way[0][1], way[-1][1]
        column = sorted((b for b in BLOCKS if b.x < way[0][0] < b.x + b.width), key=lambda b: b.y)
        (norm,) = [n for n, b in enumerate(column) if b.y < end < b.y + HIGH]
        assert column[norm].name == "add and norm"
        assert column[norm + 1].y + HIGH < start < column[norm + 2].y  # below the sub-layer
        closed.add(column[norm])
    assert len(around) == len(closed) == 5


def test_the_encoder_hands_its_output_to_the_decoder(figure: ET.Element):
    memory = next(b for b in BLOCKS if b.name == "the encoder's output")
    across = [way for way in lines(figure) if way[0] == (memory.x + memory.width, memory.y + 20)]
    (target,) = [b for b in BLOCKS if (b.x, b.y + HIGH // 2) == across[0][-1]]
    assert target.name == "multi-head attention" and len(across) == 1


def test_a_frame_holds_whole_boxes():
    for x, y, width, height in FRAMES:
        for b in BLOCKS:
            across = x < b.x and b.x + b.width < x + width
            inside = across and y < b.y and b.y + HIGH < y + height
            outside = b.y + HIGH <= y or y + height <= b.y or b.x >= x + width or b.x + b.width <= x
            assert inside != outside


def test_the_still_picture_is_the_figure():
    text = with_still(figure_one(), 'a "still"')
    assert base64.b64decode(re.search(r"base64,([^\"]+)", text)[1]).decode() == figure_one()
    assert 'alt="a &quot;still&quot;"' in text
    assert text.startswith("<style>.still-of-svg{display:none !important}</style>")
    assert text.endswith(figure_one())


def test_in_a_built_page_the_links_lead_to_notebooks(tmp_path: Path):
    output = nbformat.v4.new_output(
        "display_data", {"text/html": with_still(figure_one(), "figure 1")}
    )
    cell = nbformat.v4.new_code_cell("figure", outputs=[output], execution_count=1)
    notebook = nbformat.v4.new_notebook(cells=[cell])
    to_html(notebook, tmp_path / "x.html", NOTEBOOKS, "x")
    page = (tmp_path / "x.html").read_text("utf-8")
    links = re.findall(r'<a [^>]*href="([\w./-]+)"[^>]*title="Open lesson', page)
    there = [NOTEBOOKS / f"{block.lesson}.ipynb" for block in BLOCKS]
    assert [(tmp_path / link).resolve() for link in links] == there


# The plan


def test_the_lists_hold_every_lesson_that_is_there():
    assert {*ON_DISK} - {"00_start_here", "walkthrough"} <= {*LESSONS}


def path_of(names: dict) -> list[str]:
    """What the lesson's own line takes for the path."""
    line = next(line for cell in CODE for line in cell.splitlines() if line.startswith("PATH = "))
    found = {"LESSONS": names, "number_of": {name: name.split("_")[0] for name in names}}
    exec(line, found)
    return found["PATH"]


def test_the_plan_is_the_path_of_numbers_without_letters():
    assert path_of(LESSONS) == [name for name in ON_DISK if re.match(r"0\d_", name)]
    assert path_of({"02_b": 0, "07b_x": 0, "10_y": 0}) == ["00_start_here", "02_b"]


# README: its table of lessons, its floor plan


def wrong_minutes(readme: str) -> list[str]:
    """The pages whose minutes (core / all) in README's table are not the measured ones."""
    told = {row[2]: [*map(int, re.findall(r"\d+", row[0].rsplit("|", 2)[1]))]
            for row in ROW.finditer(readme)}
    return [name for name in ON_DISK
            if max(abs(a - b) for a, b in zip(told.get(name, (-99, -99)),
                                              measure(NOTEBOOKS / f"{name}.py"), strict=True)) > 5]


def test_readme_tells_the_measured_minutes_of_every_page():
    assert wrong_minutes(README) == [], "python -m course.authoring minutes --readme mends it"


def test_wrong_minutes_are_found_and_mended():
    row = "| [w](notebooks/walkthrough.ipynb) | x | {} / {} |"
    core, whole = measure(NOTEBOOKS / "walkthrough.py")
    assert "walkthrough" in wrong_minutes(row.format(core + 10, whole))
    assert "walkthrough" in wrong_minutes(row.format(core, whole - 10))
    assert wrong_minutes("") == ON_DISK
    mended = refreshed(row.format(1, 2), NOTEBOOKS)
    assert mended == row.format(core, whole) and "walkthrough" not in wrong_minutes(mended)


def test_the_floor_plan_names_every_room_of_the_package_and_no_other():
    plan = README.split("## Floor plan")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+) \|", plan, flags=re.M)
    named = [room for row in rows for room in re.findall(r"`(\w+)`", row)]
    rooms = {path.stem for path in (NOTEBOOKS.parent / "course").iterdir()
             if path.suffix == ".py" or path.is_dir() and path.name[0] not in "_."}
    assert sorted(named) == sorted(rooms)


def test_the_stored_page_has_a_verdict_and_live_links():
    cells = nbformat.read(NOTEBOOKS / "00_start_here.ipynb", as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    printed = "".join(output.get("text", "") for output in outputs)
    assert re.search("^VERDICT: ready", printed, flags=re.M)
    pages = "".join(output.get("data", {}).get("text/html", "") for output in outputs)
    assert "</svg>" in pages and html.escape("term") in pages
    for target in re.findall(r'href="([^"#]+)"', pages):
        assert (NOTEBOOKS / target).with_suffix(".py").exists(), target
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert {"application/vnd.vegalite.v5+json", "image/png"} <= kinds


# The map and the alignments


def words(figure) -> list[str]:
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_the_map_shows_what_is_there_and_what_is_to_come():
    lessons = [("01", "One", "", False), ("03", "Three", "attention", True)]
    lessons += [("03b", "Deep", "", False)]
    figure = course_map([*lessons, ("", "walk", "x", True)], {"attention": "03"}, "title")
    text = words(figure)
    assert "01 · One" in text and "to come" in text and "lesson 03" in text and "walk" in text
    styles = [patch.get_linestyle() for patch in figure.axes[0].patches[:2]]
    assert styles[0] != styles[1]
    heights = {t.get_text(): t.get_position()[1] for t in figure.axes[0].texts}
    assert heights["01 · One"] == heights["03 · Three"] > heights["03b · Deep"] == heights["walk"]
    assert {name for way in WAYS for name in way[:2]} == set(PLACES)


def test_a_way_goes_past_a_station_that_is_not_there():
    everything = ways_among(PLACES)
    assert everything == WAYS
    without = ways_among({*PLACES} - {"runs", "cache"})
    assert ("training", "decoding", "checkpoint") in without
    assert not [way for way in without if {"runs", "cache"} & {*way}]


def test_the_stations_of_the_map_are_modules_of_lessons_or_the_data():
    lessons = {name.split("_")[1] for name in LESSONS}
    assert {*PLACES} - lessons == {"corpora"}
    assert (NOTEBOOKS.parent / "course" / "corpora").is_dir()


def test_alignments_show_which_links_cross():
    pairs = [(["a", "b", "c"], ["A", "B", "C"], [(0, 1), (1, 0), (2, 2)])]
    figure = alignments(pairs, "title")
    colours = [to_hex(line.get_color()).upper() for line in figure.axes[0].lines]
    assert colours == [ORANGE, ORANGE, BLUE]
    assert [line.get_xdata()[1] for line in figure.axes[0].lines] == [1, 0, 2]
    assert words(figure) == ["a", "b", "c", "A", "B", "C"]
