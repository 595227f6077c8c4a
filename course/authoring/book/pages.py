"""From a stored notebook to a page: what Sphinx reads is a copy, made here, never the original.

A picture's alternative text is taken from its output's metadata: `{"image/png": {"alt": ...}}`, or
`{"alt": ...}` for an output of several kinds. Where there is none, the page says which section it
belongs to.
"""

import ast
import base64
import csv
import html
import json
import posixpath
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from course.authoring.book.words import is_chinese, say

VEGA_LITE = "application/vnd.vegalite.v5+json"
# what a cell's first lines say to our tools, and how the book says it to a reader
MARKERS = {"#| export": "exported", "# NBVAL_CHECK_OUTPUT": "compared"}
# the parts of the book: a page stands where its number is, or its name
PARTS = {
    "Begin": ("00_",),
    "Before the paper": ("01_", "02_"),
    "The model": ("03_", "04_", "05_"),
    "From text to BLEU": ("06_", "07_", "08_", "09_"),
    "Deeper": ("09b_", "09c_", "10_", "11_", "walkthrough"),
    "Machine room": ("07b_", "07c_", "08b_"),
    "Homework": ("homework/",),
}
HOMEWORK = ("foundations", "seq2seq", "attention", "masking", "transformer", "text", "training",
            "decoding", "beyond", "reasons", "questions", "exam")
NOTE = (
    "To solve these exercises you need the course on your machine: what `check` says, it says "
    "there. `make lab` opens it; the page is `notebooks/homework/release/{name}/{name}.ipynb`. "
    "Here you can read what is asked.")


@dataclass(frozen=True)
class Page:
    """A page of the book: its name in its edition (`homework/exam`), and the stored notebook."""

    name: str
    stored: Path
    edition: str = ""  # the folder of the edition: "" or "zh/"

    @property
    def up(self) -> str:
        """The way from the page to its edition's top, like `../`."""
        return "../" * self.name.count("/")

    @property
    def root(self) -> str:
        """The way from the page to the top of both editions, where the pictures are."""
        return "../" * (self.edition + self.name).count("/")


def contents(notebooks: Path, edition: str = "") -> dict[str, list[Page]]:
    """Return the pages of an edition by part, in reading order. Every stored notebook is in it."""
    lessons = sorted((notebooks / edition).glob("*.ipynb"))
    lessons = [Page(path.stem, path, edition) for path in lessons]
    release = notebooks / (f"{edition}homework" if edition else "homework/release")
    homework = [Page(f"homework/{path.stem}", path, edition) for path in release.glob("*/*.ipynb")]
    order = {f"homework/{name}": number for number, name in enumerate(HOMEWORK)}
    pages = [*lessons, *sorted(homework, key=lambda page: (order.get(page.name, 99), page.name))]
    found = {part: [page for page in pages if page.name.startswith(begins)]
             for part, begins in PARTS.items()}
    homeless = [page.name for page in pages if page not in sum(found.values(), [])]
    if homeless:
        raise ValueError(f"{homeless[0]} is in no part of the book: add it to PARTS in {__file__}")
    return found


# Links


def relink(text: str, page: Page, suffix: str) -> str:
    """Turn links between notebooks, in Markdown or HTML, into links between pages of the book.

    suffix: what a page's file ends with: `.ipynb` where Sphinx follows the link, else `.html`.
    """
    release = "homework" if page.edition else "homework/release"
    here = f"{release}/x/" if page.name.startswith("homework/") else ""

    def target(match: re.Match) -> str:
        path = posixpath.normpath(posixpath.join(here, match[2]))
        path = re.sub(rf"^{release}/(\w+)/\1$", r"homework/\1", path)
        return f"{match[1]}{page.up}{path}{suffix}{match[3]}"

    return re.sub(r'(\]\(|href=")(?!\w+:)([\w./-]+)\.ipynb((?:#[^)"]*)?[)"])', target, text)


# Code cells


def is_plumbing(source: str) -> bool:
    """Whether a cell does nothing but fetch names: imports, constants, helpers of its own."""
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a magic
        return False
    imports = [node for node in body if isinstance(node, (ast.Import, ast.ImportFrom))]
    private = [node for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))
               and node.name.startswith("_")]
    quiet = (ast.Assign, ast.AnnAssign, ast.Expr)
    return bool(imports or private) and all(
        node in imports or node in private or isinstance(node, quiet)
        and not any(isinstance(part, ast.Call) for part in ast.walk(node)) for node in body)


def tags_of(cell: NotebookNode, source: str, markers: list[str]) -> list[str]:
    """Return the tags that say how the book shows a code cell."""
    tags = [*cell.metadata.get("tags", ()), *markers]
    hidden = cell.metadata.get("jupyter", {}).get("source_hidden")
    graded = cell.metadata.get("nbgrader", {}).get("grade")
    if (hidden or graded or is_plumbing(source)) and "hide-input" not in tags:
        tags.append("hide-input")
    return tags


def unmark(source: str) -> tuple[str, list[str]]:
    """Return a cell's code without the lines that speak to our tools, and what they said."""
    lines, found = source.split("\n"), []
    while lines and (lines[0].strip() in MARKERS or not lines[0].strip()):
        found += [MARKERS[line] for line in [lines.pop(0).strip()] if line]
    return "\n".join(lines), found


# Pictures


def size_of(png: bytes) -> tuple[int, int]:
    """Return width and height of a PNG in pixels."""
    return struct.unpack(">II", png[16:24])


def alt_of(output: NotebookNode, section: str) -> str:
    """Return the alternative text of an output's picture."""
    told = output.metadata.get("image/png", {}).get("alt") or output.metadata.get("alt")
    chart = output.data.get(VEGA_LITE, {})
    title = chart.get("description") or chart.get("title", "")
    title = title if isinstance(title, str) else title.get("text", "")
    return told or (title if isinstance(title, str) else " ".join(title)) or \
        say("Picture to the text of the section {section}").format(section=section)


def finding(alt: str) -> str:
    """Return what a Chinese alternative text says of a picture, without names of axes and parts."""
    alt = re.split(r"横轴：|纵轴：|\b[xy]: ", alt)[0]
    said = [part for part in re.split(r"(?<=[。？！]) ?|(?<=\.) ", alt)
            if len(re.findall(r"[\u3400-\u9fff]", part)) > 5]
    return "".join(part for part in said if part is said[0] or not re.search(r"头 \d+。$", part))


def captioned(element: str, alt: str) -> str:
    """Return a picture with what it shows below it, where that is said in Chinese."""
    caption = finding(alt)
    return element if not caption else (
        f'<figure>{element}<figcaption lang="zh">{html.escape(caption)}</figcaption></figure>')


def picture(png: bytes, alt: str, name: str, page: Page, figures: Path) -> str:
    """Keep a picture as a file of the book, and return the element that shows it.

    On a narrow screen it scrolls rather than shrink until its letters cannot be read.
    """
    if not page.edition:  # the others show the same
        target = figures / f"{name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(png)
    width, height = size_of(png)
    return (
        f'<img class="still" src="{page.root}figures/{name}.png" alt="{html.escape(alt)}" '
        f'width="{width}" height="{height}" loading="lazy" '
        f'style="--readable:{width * 0.62:.0f}px;--natural:{width}px">'
    )


def shown(output: NotebookNode, name: str, section: str, page: Page, figures: Path) -> str | None:
    """Return the HTML of an output that is a picture, a chart or HTML; None for any other."""
    if "data" not in output:
        return None
    png, alt = output.data.get("image/png"), alt_of(output, section)
    still = png and picture(base64.b64decode(png), alt, name, page, figures)
    if VEGA_LITE in output.data:
        spec = {key: value for key, value in output.data[VEGA_LITE].items() if key != "$schema"}
        text = json.dumps(spec, ensure_ascii=False).replace("</", "<\\/")
        return captioned(f'<div class="chart scrolls">{still or ""}'
                         f'<script type="application/json">{text}</script></div>', alt)
    if png:
        return captioned(f'<div class="drawing scrolls">{still}</div>', alt)
    if "text/html" in output.data:
        text = relink(output.data["text/html"], page, ".html")
        return f'<div class="made scrolls">{text}</div>'
    return None


# Pages


def adapt(notebook: NotebookNode, page: Page, figures: Path) -> NotebookNode:
    """Return the page that Sphinx is to read for a stored notebook; write its pictures."""
    notebook = nbformat.from_dict(notebook)
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    count, section = 0, ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = relink(cell.source, page, ".ipynb")
            headings = re.findall(r"^#+ (.*)", cell.source, flags=re.M)
            section = headings[-1] if headings else section
            if cell.metadata.get("jp-MarkdownHeadingCollapsed"):
                cell.source += "\n\n<!-- more -->"
            continue
        cell.source, markers = unmark(cell.source)
        cell.metadata["tags"] = tags_of(cell, cell.source, markers)
        # what warns or logs is no part of a page
        kept = [out for out in cell.outputs if out.get("name") != "stderr"]
        for output in kept:
            count += 1
            text = shown(output, f"{page.name}-{count:02d}", section, page, figures)
            if text is not None:
                output["data"], output["metadata"] = {"text/html": text}, {}
            elif "text/markdown" in output.get("data", {}):
                output.data["text/markdown"] = relink(output.data["text/markdown"], page, ".ipynb")
        cell.outputs = kept
    if page.name.startswith("homework/"):
        first, note = notebook.cells[0], say(NOTE).format(name=page.name.split("/")[1])
        title, _, rest = first.source.partition("\n\n")
        first.source = f"{title}\n\n:::{{note}}\n{note}\n:::\n\n{rest}"
    return notebook


def without_pictures(notebook: NotebookNode) -> NotebookNode:
    """Return a notebook as the book offers it for download: pictures come when it is run."""
    notebook = nbformat.from_dict(notebook)
    for cell in notebook.cells:
        cell["outputs"] = [
            output for output in cell.get("outputs", ())
            if not output.get("data", {}).keys() & {VEGA_LITE, "image/png", "text/html"}
        ]
        if cell.cell_type != "code":
            del cell["outputs"]
    return notebook


def title_and_promise(notebook: NotebookNode) -> tuple[str, str]:
    """Return a page's title, and the sentence below it that says what it is."""
    title, *blocks = notebook.cells[0].source.split("\n\n")
    quoted = next((block for block in blocks if block.startswith("> ")), "")
    return title.lstrip("# "), " ".join(line.lstrip("> ") for line in quoted.split("\n"))


# The pages that have no notebook


def read_glossary(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def anchor(term: str) -> str:
    """Return the place of a term on the glossary page: `term-label-smoothing`."""
    return "term-" + re.sub(r"[^a-z0-9]+", "-", term.lower()).strip("-")


def glossary_page(terms: list[dict[str, str]], titles: dict[str, str]) -> str:
    """Return the glossary as Markdown: a heading a letter, an entry a term, in three languages."""
    terms = sorted(terms, key=lambda term: term["term_en"].lower())
    head = say("The words that stop a first reader, in English, Chinese and German: as textbooks "
               "use them.")
    parts = [say("# Glossary · 术语表 · Glossar") + f"\n\n{head}"]
    e = partial(html.escape, quote=False)
    letters: dict[str, list[dict[str, str]]] = {}
    languages = ("zh", "en", "de") if is_chinese() else ("en", "zh", "de")
    for term in terms:
        first = term["term_en"][0].upper()
        letters.setdefault(first if first.isalpha() else "0–9", []).append(term)
    for letter, entries in letters.items():
        lines = [f"## {letter}\n", '<dl class="terms">']
        for term in entries:
            where = titles.get(term["lesson"])
            link = f' <a href="{term["lesson"]}.html">{e(where)}</a>' if where else ""
            names = [f'<span lang="{code}">{e(term[f"term_{code}"])}</span>' for code in languages]
            told = [f'<span lang="{code}">{e(term[f"meaning_{code}"])}</span>'
                    for code in languages[:2]]
            lines.append(f'<dt id="{anchor(term["term_en"])}">{" ".join(names)}</dt>'
                         f'<dd>{" ".join(told)}{link}</dd>')
        parts.append("\n".join([*lines, "</dl>"]))
    return "\n\n".join(parts) + "\n"


def toctrees(parts: dict[str, list[str]]) -> Iterator[str]:
    for part, names in parts.items():
        if names:
            head = ["```{toctree}", ":hidden:", f":caption: {say(part)}", ""]
            yield "\n".join([*head, *names, "```"])
