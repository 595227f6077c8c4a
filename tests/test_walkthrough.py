"""The walkthrough: what it draws, what it promises, what it must not paste."""

import importlib
import inspect
import re

import jupytext
import pytest
import torch

from course.attention import MultiHeadAttention
from course.authoring import NOTEBOOKS
from course.text import token_batches
from course.viz.walkthrough import architecture, table_three, waiting

SECTIONS = ("3.1", "3.2", "3.2.3", "3.3", "3.4", "3.5")


def cells(name: str, kind: str) -> list[str]:
    return [c.source for c in jupytext.read(NOTEBOOKS / f"{name}.py").cells if c.cell_type == kind]


def defined(name: str, function: str) -> dict:
    """Run the one cell of a notebook that defines a function; return its names."""
    found = [c for c in cells(name, "code") if f"def {function}(" in c]
    names: dict = {"torch": torch, "Tensor": torch.Tensor, "nn": torch.nn, "inspect": inspect}
    imports = "import re\nfrom collections.abc import Callable\n"
    exec(imports + found[0].split("\n\nlengths =")[0].split("\n\nassert")[0], names)
    return names


# The notebooks


def test_the_walkthrough_has_every_section_of_the_paper_in_order():
    text = "\n".join(cells("walkthrough", "markdown"))
    headings = re.findall(r"^##+ (\d(?:\.\d)*)", text, flags=re.M)
    assert headings == [
        "1", "2", "3", "3.1", "3.2.1", "3.2.2", "3.2.3", "3.3", "3.4", "3.5",
        "4", "5", "5.1", "5.2", "5.3", "5.4", "6", "6.1", "6.2", "6.3", "7",
    ]


def test_the_walkthrough_pastes_nothing_of_the_package():
    code = "\n".join(cells("walkthrough", "code"))
    own = set(re.findall(r"^(?:class|def) (\w+)", code, flags=re.M))
    modules = ("attention", "masking", "transformer", "text", "training", "decoding")
    packaged = {n for m in modules for n in importlib.import_module(f"course.{m}").__all__}
    assert own and own & packaged == set()
    shown = re.findall(r"^source\((.+)\)$", code, flags=re.M)
    assert len({n for line in shown for n in line.split(", ")} & packaged) >= 20


# The helpers


def test_longest_chain_counts_what_must_wait():
    longest_chain = defined("walkthrough", "longest_chain")["longest_chain"]
    x = torch.ones(2, requires_grad=True)
    one = longest_chain(x.exp())
    assert longest_chain(x.exp().exp().exp()) == one + 2
    side = x.exp() + x.sin().sin().sin().sin()
    assert longest_chain(side) == one + 4  # the longer of two ways
    y = x
    for _ in range(30):
        y = y * y  # 2 ** 30 ways, each 30 long
    assert longest_chain(y) == one + 29


def test_lesson_of_reads_the_header_of_the_module():
    lesson_of = defined("walkthrough", "lesson_of")["lesson_of"]
    assert lesson_of(MultiHeadAttention) == "03_attention"
    assert lesson_of(token_batches) == "06_text"


# The pictures


def words(figure) -> list[str]:
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_the_architecture_names_section_and_class():
    text = " | ".join(words(architecture("title")))
    for section in SECTIONS:
        assert section in text
    for kind in ("TokenEmbedding", "PositionalEncoding", "MultiHeadAttention", "FeedForward"):
        assert kind in text
    assert text.count("add and normalise") == 5 and text.count("N ×") == 2


def test_waiting_draws_the_counts():
    (axis,) = waiting([1, 2], {"a": [3, 4], "b": [5, 5]}, "title").axes
    assert [line.get_ydata().tolist() for line in axis.lines] == [[3, 4], [5, 5]]
    assert len({line.get_marker() for line in axis.lines}) == 2


def test_table_three_draws_the_difference():
    figure = table_three([("A", "x", 24.9), ("C", "y", 26.0)], 25.8, "title")
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == pytest.approx([-0.9, 0.2])
    assert words(figure) == ["-0.9", "+0.2"]
    assert [bar.get_hatch() for bar in figure.axes[0].patches] == ["", "////"]
