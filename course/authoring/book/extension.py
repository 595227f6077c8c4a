"""What Sphinx learns for the book: formulas, labels, folds, links to glossary and paper, search."""

import html
import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.search import languages
from sphinx.search.en import SearchEnglish
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

from course.authoring.book.pages import anchor
from course.authoring.book.words import is_chinese, say

LABELS = {
    "exported": "#| export · into course/{module}.py",
    "compared": "NBVAL_CHECK_OUTPUT · compared by the tests",
}
MORE = ("<!-- more -->", "more")  # how `pages` marks the place, and what MyST may make of it
WITHOUT_TERMS = {"index", "glossary", "translator"}
PAPER = "walkthrough"  # the page that has the paper's sections
UNTOUCHED = (nodes.title, nodes.literal, nodes.literal_block, nodes.reference, nodes.math,
             nodes.math_block, nodes.raw, nodes.comment)


# Search: English words, and Chinese in pairs of characters, as a reader types them without blanks

CJK = r"[\u3400-\u9fff\uf900-\ufaff]"


class SearchBoth(SearchEnglish):
    """English words by their stems, and each run of Chinese by its characters and their pairs."""

    js_splitter_code = r"""
var splitQuery = (query) => query
  .split(/[^\p{Letter}\p{Number}_\p{Emoji_Presentation}]+/gu)
  .flatMap((part) => part.split(/([\u3400-\u9fff\uf900-\ufaff]+)/))
  .flatMap((part) => /^[\u3400-\u9fff\uf900-\ufaff]{3,}$/.test(part)
    ? [...part].slice(1).map((character, i) => part[i] + character) : [part])
  .filter((term) => term);
"""

    def split(self, input: str) -> list[str]:
        found = []
        for word in super().split(input):
            for part in re.split(f"({CJK}+)", word):
                if re.fullmatch(f"{CJK}+", part):
                    found += [*part, *(a + b for a, b in zip(part, part[1:]))]
                elif part:
                    found.append(part)
        return found


# Formulas: as MathML, which browsers draw by themselves

MATHML = LatexToMathML(fancy_error=False)
LONG = 30  # in characters of TeX: longer ones may be wider than a phone


def mathml(node: nodes.Node, tex: str, displayed: bool) -> str:
    try:
        return MATHML.convert_with_local_state(tex, displaystyle=displayed)
    except LatexError as error:
        logging.getLogger(__name__).warning("%s in the formula %s", error, tex, location=node)
        return html.escape(tex)


def inline_formula(self: HTML5Translator, node: nodes.math) -> None:
    kind = "formula long" if len(node.astext()) > LONG else "formula"
    self.body.append(f'<span class="{kind}">{mathml(node, node.astext(), False)}</span>')
    raise nodes.SkipNode


def displayed_formula(self: HTML5Translator, node: nodes.math_block) -> None:
    formula = mathml(node, node.astext(), True)
    self.body.append(f'<div class="formula scrolls">{formula}</div>')
    raise nodes.SkipNode


def set_captions(document: nodes.document) -> None:
    """Set the formulas in the captions of pictures, which are HTML already."""
    for node in [*document.findall(nodes.raw)]:
        head, sign, caption = node.astext().rpartition("<figcaption")
        parts = caption.split("$")
        if sign and len(parts) % 2:
            parts[1::2] = [mathml(node, html.unescape(tex), False) for tex in parts[1::2]]
            node.replace_self(nodes.raw("", head + sign + "".join(parts), format="html"))


# Cells and sections


def raw(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")


def label_cells(document: nodes.document, name: str) -> None:
    """Say above a cell what its first lines said to our tools, and shorten what is folded."""
    module = name.split("_", 1)[-1]
    for cell in document.findall(nodes.container):
        for marker, text in LABELS.items():
            if f"tag_{marker}" in cell["classes"]:
                label = nodes.paragraph("", say(text).format(module=module), classes=["marker"])
                cell.insert(0, label)


def fold_sections(document: nodes.document) -> None:
    """Fold what a first reader may leave out: all that stands behind the mark in its section."""
    marks = [node for node in document.findall(nodes.Element)
             if isinstance(node, (nodes.comment, nodes.raw)) and node.astext().strip() in MORE]
    for mark in marks:
        section = mark.parent
        while section is not None and not isinstance(section, nodes.section):
            mark, section = section, section.parent
        if section is None:
            continue
        place = section.index(mark)
        section["classes"].append("more")
        summary = f"<summary>{say('Read this section')}</summary>"
        section[place] = raw(f'<details class="more">{summary}')
        section.append(raw("</details>"))


# Links


def is_prose(text: nodes.Text) -> bool:
    """Whether a text may get links: it is no heading, no code, no formula, and no link yet."""
    node = text.parent
    while node is not None:
        if isinstance(node, UNTOUCHED) or "marker" in getattr(node, "attributes", {}).get(
            "classes", ()
        ):
            return False
        node = node.parent
    return True


def weave(document: nodes.document, pattern: re.Pattern,
          link: Callable[[re.Match, nodes.Text], nodes.Node | None]) -> None:
    """Replace what a pattern finds in the prose by the links that `link` makes of it."""
    for text in [node for node in document.findall(nodes.Text) if is_prose(node)]:
        whole, parts, end = text.astext(), [], 0
        for match in pattern.finditer(whole):
            made = link(match, text)
            if made is not None:
                parts += [nodes.Text(whole[end : match.start()]), made]
                end = match.end()
        if parts:
            text.parent.replace(text, [*parts, nodes.Text(whole[end:])])


# Chinese names of terms that are ordinary words, too
AMBIGUOUS = {"入口", "关注", "分数", "堆叠", "循环", "推断", "表示", "转换"}


def chinese_names(term: dict[str, str]) -> list[str]:
    """Return what a term is called in Chinese prose; none if it is only a word of the paper's.

    Short and ambiguous names count where the English stands behind them, as at a first use.
    """
    if term["lesson"] == "00_start_here":
        return []
    name = re.split("[，、（]", term["term_zh"])[0]
    sure = len(name) > 1 and name not in AMBIGUOUS
    return [re.escape(name) + ("" if sure else "(?=（[A-Za-z])")]


def term_pattern(terms: list[dict[str, str]]) -> re.Pattern:
    """Return a pattern that finds the terms, the longest first, in singular and plural."""
    names = sorted((term["term_en"] for term in terms), key=len, reverse=True)
    loose = "|".join(re.escape(name).replace(r"\ ", r"\s+") for name in names)
    english = rf"(?<![\w-])({loose})(?:s|es)?(?![\w-])"
    if not is_chinese():
        return re.compile(english, flags=re.I)
    names = sorted(sum(map(chinese_names, terms), []), key=len, reverse=True)
    return re.compile(f"({'|'.join(names)})")


def link_terms(app: Sphinx, document: nodes.document, name: str) -> None:
    """Link the first use of each term on a page with its place in the glossary."""
    terms = {term["term_en"].lower(): term for term in app.config.course_terms}
    if is_chinese():
        terms = {re.split("[，、（]", term["term_zh"])[0]: term for term in terms.values()
                 if chinese_names(term)}
    languages = ("zh", "en", "de") if is_chinese() else ("en", "zh", "de")
    glossary = app.builder.get_relative_uri(name, "glossary")
    seen = set()

    def link(match: re.Match, text: nodes.Text) -> nodes.Node | None:
        key = re.sub(r"\s+", " ", match[1].lower()) if not is_chinese() else match[1]
        term = terms[key]
        capitals = sum(letter.isupper() for letter in term["term_en"])
        if key in seen or not is_chinese() and capitals and match[1] != term["term_en"]:
            return None
        seen.add(key)
        told = " · ".join(term[f"term_{language}"] for language in languages)
        return nodes.reference(
            "", match[0], internal=True, refuri=f"{glossary}#{anchor(term['term_en'])}",
            reftitle=f"{told}\n{term[f'meaning_{languages[0]}']}", classes=["term"],
        )

    weave(document, term_pattern(app.config.course_terms), link)


def numbered_sections(document: nodes.document) -> dict[str, str]:
    """Return number -> id of the sections whose titles begin with a number."""
    found = {}
    for section in document.findall(nodes.section):
        number = re.match(r"(\d+(?:\.\d+)*) ", section[0].astext())
        if number and section["ids"]:
            found[number[1]] = section["ids"][0]
            # 3.2 has no heading of its own where its parts have: it begins with the first of them
            found.setdefault(number[1].rpartition(".")[0], section["ids"][0])
    return found


NUMBERS = re.compile(r"(?<![\d.§])(\d+(?:\.\d+)*)(?![\d.]*\d)")
LISTED = re.compile(r"[Ss]ections?\s+\d+(?:\.\d+)*(?:(?:,\s+(?:and\s+)?|\s+and\s+|\s+to\s+)"
                    r"(?:sections?\s+)?\d+(?:\.\d+)*)*")
LISTED_IN_CHINESE = re.compile(r"(?:第\s*)?\d+(?:\.\d+)*(?:\s*节?(?:、|，|和|到|至|\s)\s*(?:第\s*)?"
                               r"\d+(?:\.\d+)*)*\s*节")


def link_sections(app: Sphinx, document: nodes.document, name: str) -> None:
    """Link the numbers of sections: with a dot the paper's, without one this page's own.

    The paper's lead to the walkthrough, which retells the paper in its order. A number of somebody
    else's paper is left alone, and so is a number without a dot where the paper is spoken of.
    """
    if PAPER not in app.env.found_docs:
        return
    paper, own = numbered_sections(app.env.get_doctree(PAPER)), numbered_sections(document)
    page = app.builder.get_relative_uri(name, PAPER)

    def target(number: str, of_paper: bool) -> nodes.reference | None:
        if ("." in number or of_paper) and number in paper:
            title = say("The paper's section {number}, in the walkthrough").format(number=number)
            uri = f"#{paper[number]}" if name == PAPER else f"{page}#{paper[number]}"
        elif "." not in number and number in own and not of_paper:
            title = say("Section {number} of this page").format(number=number)
            uri = f"#{own[number]}"
        else:
            return None
        return nodes.reference("", number, internal=True, refuri=uri, reftitle=title,
                               classes=["section-number"])

    listed = LISTED_IN_CHINESE if is_chinese() else LISTED
    for text in [node for node in document.findall(nodes.Text) if is_prose(node)]:
        block = text.parent
        while isinstance(block, nodes.Inline):
            block = block.parent
        said = " ".join(block.astext().split())
        cited = "1706.03762" in said
        others = re.search(r"et al\.|arXiv", said) and not cited
        head = cited or re.search("In the paper:|Paper:|论文：", said)
        whole = text.astext()
        in_table = isinstance(block.parent, nodes.entry) and re.fullmatch(
            r"\d\.\d(?:\.\d)?(?:, \d\.\d(?:\.\d)?)*", said)
        if others or not (in_table or listed.search(whole)):
            continue
        above = itertools.takewhile(lambda node: node is not text, block.findall(nodes.Text))  # noqa: B023
        told = "".join(above)
        spans = [(0, len(whole))] if in_table else [m.span() for m in listed.finditer(whole)]
        parts, end = [], 0
        for begin, stop in spans:
            for match in NUMBERS.finditer(whole, begin, stop):
                behind = " ".join(whole[stop : stop + 40].split())
                before = (told + whole[:begin]).rstrip()
                ours = re.match(r"(?:are )?(?:those )?of this page", behind) or re.search(
                    "本[课页]的?$", before)
                of_paper = in_table or not ours and (
                    head or behind.startswith("of the paper") or before.endswith("论文"))
                made = target(match[1], bool(of_paper))
                unsure = "." not in match[1] and not (ours or of_paper) and (
                    "paper" in said or "论文" in said
                    or re.search(r"第 \w+ 课的?$|[Ll]esson \w+,$", before))
                if made is None or unsure:
                    continue
                parts += [nodes.Text(whole[end : match.start()]), made]
                end = match.end()
        if parts:
            text.parent.replace(text, [*parts, nodes.Text(whole[end:])])


def when_read(app: Sphinx, document: nodes.document) -> None:
    fold_sections(document)


def when_resolved(app: Sphinx, document: nodes.document, name: str) -> None:
    label_cells(document, name)
    set_captions(document)
    link_sections(app, document, name)
    if name not in WITHOUT_TERMS:
        link_terms(app, document, name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Join the book's parts to Sphinx."""
    languages["en"] = languages["zh"] = SearchBoth
    if is_chinese():  # before the theme's own, which are not complete
        for domain in ("sphinx", "booktheme"):
            app.add_message_catalog(domain, Path(os.environ["COURSE_BOOK"]) / "locale")
    app.add_html_math_renderer("mathml", (inline_formula, None), (displayed_formula, None))
    app.add_config_value("course_terms", [], "env", list)
    app.connect("doctree-read", when_read)
    app.connect("doctree-resolved", when_resolved)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
