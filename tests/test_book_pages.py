"""From stored notebooks to pages of the book: what needs neither Sphinx nor a browser."""

import ast
import base64
import json
import re
import struct

import jinja2
import pytest
from babel.messages.catalog import Message
from nbformat import v4

from course.authoring import NOTEBOOKS, ROOT, lint
from course.authoring.book import pages, words
from course.authoring.book.pages import Page, adapt, relink, unmark
from course.page import checkpoint_files

LESSON = Page("03_attention", NOTEBOOKS / "03_attention.ipynb")
CHINESE = Page("03_attention", NOTEBOOKS / "zh" / "03_attention.ipynb", "zh/")
EXAM = Page("homework/exam", NOTEBOOKS / "homework" / "release" / "exam" / "exam.ipynb")
PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + struct.pack(">II", 640, 480)


def code(source: str, *outputs, **metadata):
    return v4.new_code_cell(source, outputs=list(outputs), metadata=metadata)


def picture(alt: dict | None = None, **kinds):
    data = {"image/png": base64.b64encode(PNG).decode(), **kinds}
    return v4.new_output("display_data", data, metadata=alt or {})


def html_of(cell) -> str:
    return cell.outputs[0].data["text/html"]


def adapted(tmp_path, *cells, page=LESSON):
    return adapt(v4.new_notebook(cells=list(cells)), page, tmp_path).cells


def test_every_stored_notebook_is_in_one_part_of_the_book():
    found = [page.stored for part in pages.contents(NOTEBOOKS).values() for page in part]
    stored = {*NOTEBOOKS.glob("*.ipynb"), *NOTEBOOKS.glob("homework/release/*/*.ipynb")}
    assert len(found) == len(stored) and {*found} == stored


def test_a_notebook_in_no_part_is_named(tmp_path):
    (tmp_path / "98_new.ipynb").touch()
    with pytest.raises(ValueError, match="98_new is in no part"):
        pages.contents(tmp_path)


@pytest.mark.parametrize(("page", "link", "there"), [
    (LESSON, "05_transformer.ipynb", "05_transformer"),
    (LESSON, "homework/release/exam/exam.ipynb", "homework/exam"),
    (EXAM, "../../../05_transformer.ipynb", "../05_transformer"),
    (EXAM, "../text/text.ipynb", "../homework/text"),
    (CHINESE, "homework/exam/exam.ipynb", "homework/exam"),
    (Page("homework/exam", EXAM.stored, "zh/"), "../../05_transformer.ipynb", "../05_transformer"),
])
def test_links_between_notebooks_lead_to_pages(page, link, there):
    assert relink(f"see [it]({link}).", page, ".ipynb") == f"see [it]({there}.ipynb)."
    assert relink(f'<a href="{link}#top">', page, ".html") == f'<a href="{there}.html#top">'


def test_other_links_stay():
    text = "[a](https://x.org/y.ipynb) [b](#c) `f(x.ipynb)` <a href=\"https://x.org/y.ipynb\">"
    assert relink(text, LESSON, ".html") == text


def test_what_speaks_to_our_tools_becomes_a_label(tmp_path):
    assert unmark("#| export\nimport x") == ("import x", ["exported"])
    assert unmark("# NBVAL_CHECK_OUTPUT\n\nx") == ("x", ["compared"])
    assert unmark("x\n#| export") == ("x\n#| export", [])
    cell, = adapted(tmp_path, code("# NBVAL_CHECK_OUTPUT\nprint(1)"))
    assert cell.metadata.tags == ["compared"] and cell.source == "print(1)"


@pytest.mark.parametrize(("source", "folded"), [
    ("import math\nfrom torch import nn", True),
    ("import math\n\nPI = 3", True),
    ("import torch\n\nx = torch.zeros(3)", False),
    ("def _helper():\n    return 1", True),
    ("def attention(query):\n    return query", False),
    ("x = 3", False),
    ("%matplotlib inline", False),
    ("", False),
])
def test_cells_that_only_fetch_names_start_folded(tmp_path, source, folded):
    cell, = adapted(tmp_path, code(source))
    assert ("hide-input" in cell.metadata.tags) is folded


def test_what_marks_homework_and_what_an_author_hides_starts_folded(tmp_path):
    for metadata in ({"nbgrader": {"grade": True}}, {"jupyter": {"source_hidden": True}},
                     {"tags": ["hide-input"]}):
        cell, = adapted(tmp_path, code("assert f(1)", **metadata))
        assert cell.metadata.tags.count("hide-input") == 1


def test_warnings_and_logs_do_not_show(tmp_path):
    outputs = [v4.new_output("stream", name=name, text=name) for name in ("stdout", "stderr")]
    cell, = adapted(tmp_path, code("x", *outputs))
    assert [output.text for output in cell.outputs] == ["stdout"]


@pytest.mark.parametrize(
    "metadata", [{"image/png": {"alt": 'A "finding"'}}, {"alt": 'A "finding"'}])
def test_a_picture_is_a_file_with_its_alternative_text(tmp_path, metadata):
    cell, = adapted(tmp_path, code("draw()", picture(metadata)))
    shown = html_of(cell)
    assert 'alt="A &quot;finding&quot;"' in shown and 'width="640" height="480"' in shown
    name = re.search(r'src="figures/([^"]+)"', shown)[1]
    assert (tmp_path / name).read_bytes() == PNG


def test_without_a_text_a_picture_says_where_it_stands(tmp_path):
    cells = adapted(tmp_path, v4.new_markdown_cell("## 4 · Equation 1"), code("draw()", picture()))
    assert "section 4 · Equation 1" in html_of(cells[1])


def test_a_page_in_a_folder_finds_its_pictures(tmp_path):
    head = v4.new_markdown_cell("# H\n\ntext")
    cells = adapted(tmp_path, head, code("d()", picture()), page=EXAM)
    assert 'src="../figures/homework/exam-01.png"' in html_of(cells[1])
    assert "notebooks/homework/release/exam/exam.ipynb" in cells[0].source


def test_a_chart_brings_its_data_and_a_still_picture(tmp_path):
    chart = {"$schema": "https://x.org/v5.json", "title": "A </script> b", "mark": "point"}
    cell, = adapted(tmp_path, code("show(c)", picture(**{pages.VEGA_LITE: chart})))
    shown = html_of(cell)
    spec = re.search(r'<script type="application/json">(.*?)</script>', shown)[1]
    assert json.loads(spec) == {"title": "A </script> b", "mark": "point"}
    assert 'alt="A &lt;/script&gt; b"' in shown


def test_a_chinese_page_shows_the_english_ones_pictures_and_says_what_they_show(tmp_path):
    alt = "太窄就照抄噪声，$h$ 太宽就成了平均值。头 1. 横轴：时刻 [h]。"
    cell, = adapted(tmp_path, code("draw()", picture({"alt": alt})), page=CHINESE)
    assert 'src="../figures/03_attention-01.png"' in html_of(cell) and not [*tmp_path.iterdir()]
    caption = re.search(r"</div><figcaption[^>]*>(.*?)</figcaption></figure>$", html_of(cell))[1]
    assert caption == "太窄就照抄噪声，$h$ 太宽就成了平均值。"
    assert pages.finding("Too narrow copies the noise. x: hour") == ""


def test_html_that_a_cell_made_links_to_pages(tmp_path):
    made = v4.new_output("display_data", {"text/html": '<a href="06_text.ipynb">x</a>'})
    cell, = adapted(tmp_path, code("HTML(x)", made))
    assert '<a href="06_text.html">' in html_of(cell)


def test_a_section_for_a_second_reading_is_marked(tmp_path):
    more = v4.new_markdown_cell("## Hooks · more\n\nFor whom.",
                                metadata={"jp-MarkdownHeadingCollapsed": True})
    cell, = adapted(tmp_path, more)
    assert cell.source.endswith("\n\n<!-- more -->")


def test_the_stored_notebook_is_left_as_it_is(tmp_path):
    notebook = v4.new_notebook(cells=[code("#| export\nimport x", picture())])
    before = json.dumps(notebook)
    adapt(notebook, LESSON, tmp_path)
    pages.without_pictures(notebook)
    assert json.dumps(notebook) == before


def test_a_download_has_its_texts_and_no_pictures():
    text = v4.new_output("stream", name="stdout", text="12")
    offered = pages.without_pictures(v4.new_notebook(cells=[code("x", picture(), text),
                                                            v4.new_markdown_cell("y")]))
    assert [output.output_type for output in offered.cells[0].outputs] == ["stream"]
    assert "outputs" not in offered.cells[1]


def test_the_glossary_has_every_term_in_three_languages_once():
    terms = pages.read_glossary(ROOT / "assets" / "glossary.tsv")
    text = pages.glossary_page(terms, {"05_transformer": "05 · The Transformer"})
    places = re.findall(r'<dt id="([^"]+)">', text)
    assert len(places) == len({*places}) == len(terms) > 200
    entry = text.split('id="term-residual-connection"')[1].split("<dt")[0]
    assert '<span lang="zh">残差连接</span>' in entry and '<span lang="de">' in entry
    assert '<a href="05_transformer.html">05 · The Transformer</a>' in entry


def test_a_page_says_what_it_is():
    head = v4.new_markdown_cell("# 04 · Masking\n\n> Who may see\n> whom.\n\nText.")
    assert pages.title_and_promise(v4.new_notebook(cells=[head])) == (
        "04 · Masking", "Who may see whom.")


def test_all_that_the_book_says_is_said_in_chinese(monkeypatch):
    said = {*pages.PARTS, "To look up", pages.NOTE}
    for path in (ROOT / "course" / "authoring" / "book").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "say":
                said |= {part.value for part in node.args if isinstance(part, ast.Constant)}
    assert said <= {*words.CHINESE}
    for english in words.CHINESE.keys() - {pages.NOTE}:  # which names the Chinese notebook
        faults = lint.faults(Message(english, words.CHINESE[english]))
        assert not [fault for fault in faults if not fault.startswith("term attention")]  # a title
    monkeypatch.setenv("COURSE_LANG", "zh_CN")
    assert pages.PARTS and [*pages.toctrees({"Deeper": ["10_beyond"]})][0].count("深入") == 1
    assert '<span lang="zh">残差连接</span> <span lang="en">residual' in pages.glossary_page(
        pages.read_glossary(ROOT / "assets" / "glossary.tsv"), {})


@pytest.mark.parametrize(("name", "there"), [
    ("index", "zh/index"), ("homework/exam", "../zh/homework/exam"),
    ("homework/new", "../zh/index"),
])
def test_the_other_language_has_the_same_page_or_its_first_one(name, there):
    switch = ROOT / "course" / "authoring" / "book" / "templates" / "language.html"
    made = jinja2.Template(switch.read_text("utf-8")).render(
        pagename=name, there=["index", "homework/exam"], other_edition="zh/")
    assert f'href="{there}.html"' in made


def test_contents_name_the_parts_that_have_pages():
    trees = [*pages.toctrees({"The model": ["03_attention"], "Empty": []})]
    assert trees == ["```{toctree}\n:hidden:\n:caption: The model\n\n03_attention\n```"]


def test_the_translator_of_the_book_holds_the_shipped_weights_as_they_are():
    """So the book is made without torch; the page wants float16."""
    stored = checkpoint_files("multi30k-de-en")["model.safetensors"]
    size = struct.unpack("<Q", stored[:8])[0]
    tensors = json.loads(stored[8 : 8 + size])
    assert {tensor["dtype"] for tensor in tensors.values()} == {"F16"}
