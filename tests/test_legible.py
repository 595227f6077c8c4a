"""What the course writes into HTML can be read on a white page and on a black one."""

import json
import re
from pathlib import Path

import pytest

from course.homework import CheckResult
from course.homework.reasons import ask, reasons
from course.viz.start_here import figure_one, glossary_table, read_glossary

ROOT = Path(__file__).parents[1]
PAGES = ("#ffffff", "#f3f4f5", "#111111", "#14181e")  # JupyterLab and the book, light and dark
STYLES = re.compile(r'style="([^"]*)"|\{([^{}]*)\}')
COLOUR = re.compile(r"#[0-9a-fA-F]{3,6}\b|\b(?:white|black|gr[ae]y|red|green|blue|orange)\b")


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    named = {"white": "#fff", "black": "#000", "grey": "#808080", "gray": "#808080"}
    digits = named.get(colour, colour).lstrip("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    parts = (int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4))
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def faint(html: str, pages: tuple[str, ...] = PAGES) -> list[str]:
    """Return the styles whose letters have less than 4.5:1 on their ground, or on a page."""
    found = []
    for style in map("".join, STYLES.findall(html)):
        rules = dict(re.findall(r"(?:^|;)\s*([a-z-]+)\s*:\s*([^;]+)", style))
        ink = COLOUR.search(rules.get("color", ""))
        ground = COLOUR.search(rules.get("background-color", rules.get("background", "")))
        if ink and min(contrast(ink[0], g) for g in ([ground[0]] if ground else pages)) < 4.5:
            found.append(style)
    return found


def test_contrast_is_that_of_the_standard():
    assert contrast("#000", "#fff") == pytest.approx(21)
    assert contrast("#D55E00", "#ffffff") == pytest.approx(3.87, abs=0.01)  # as verdicts once were
    assert faint('<b style="color:#D55E00">') and faint('<p style="color: grey">')
    assert not faint('<b style="color:#111;background:#fff">')


def stored_html() -> list[tuple[str, str]]:
    """Return (notebook, HTML) of every stored output and of the HTML in the text."""
    found = []
    for path in sorted(ROOT.glob("notebooks/**/*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            texts = [out.get("data", {}).get("text/html", "") for out in cell.get("outputs", [])]
            if cell["cell_type"] == "markdown":
                texts.append(cell["source"])
            found += [(path.name, "".join(text)) for text in texts if text]
    return found


def test_what_pages_have_stored_is_legible_in_both_themes():
    assert not {(name, style) for name, html in stored_html() for style in faint(html)}


def test_what_the_course_writes_now_is_legible_in_both_themes():
    cards = [CheckResult("softmax", passed, "why", ("a hint",), "1", "2", "x=1")._repr_html_()
             for passed in (True, False)]
    question = ask(next(iter(reasons())))
    written = [*cards, question.as_html(folds=True), question.as_html(folds=False), figure_one(),
               glossary_table(read_glossary()[:3], [])]
    assert not [style for html in written for style in faint(html)]


def test_the_report_is_legible_on_its_white_page():
    from course.homework.report import STYLE

    assert not faint(STYLE, pages=("#ffffff",))
