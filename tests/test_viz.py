"""Pictures: what stands for them where they are not seen."""

import inspect
from html import unescape

import altair as alt
import matplotlib.pyplot as plt
import pytest
import torch
import vl_convert
from matplotlib.text import Text

from course import ASSETS, viz
from course.corpora import captions
from course.messages import language, say_in_picture
from course.viz import (
    attention,
    beyond,
    decoding,
    foundations,
    inside,
    masking,
    seq2seq,
    start_here,
    text,
    training,
    transformer,
)


def test_a_figure_says_its_titles_and_axes_once():
    figure, axes = plt.subplots(1, 2)
    for part in axes:
        part.set_title("it grows", loc="left")
        part.set_xlabel("length")
    data, metadata = viz.finish(figure, "Twice\nas long")._repr_mimebundle_()
    assert data == {}
    assert metadata == {"image/png": {"alt": "Twice as long. it grows. x: length"}}
    assert viz.finish(figure, alt="short")._repr_mimebundle_()[1]["image/png"]["alt"] == "short"


def test_a_chart_says_its_titles(monkeypatch):
    shown = []
    monkeypatch.setattr(viz, "display", lambda *_, **options: shown.append(options["metadata"]))
    chart = alt.Chart(alt.Data(values=[{"a": 1}]), title=alt.Title(["A", "find"], subtitle="no"))
    chart = chart.mark_bar().encode(x=alt.X("a:Q", title="length"))
    viz.show(chart)
    viz.show(chart, alt="short")
    assert [m["image/png"]["alt"] for m in shown] == ["A find. length", "short"]


def labelled() -> plt.Figure:
    figure, axis = plt.subplots(layout="constrained")
    axis.plot([0, 1], label="query: who asks", linestyle=":", color="red")
    axis.set_xticks([0, 1], ["set by hand", "dog"])
    axis.set_title("$d_k$ of 8 heads")
    axis.legend(loc="upper left")
    return viz.finish(figure, "From layer 2 of 3 on,\nthe first choice is mostly the final one")


def test_a_picture_says_its_titles_labels_and_legends_in_chinese(monkeypatch):
    monkeypatch.setenv("COURSE_LANG", "zh")
    monkeypatch.setattr(viz, "chinese_font", lambda: "DejaVu Sans")
    figure = labelled()
    shown = {text.get_text() for text in figure.findobj(Text)}
    assert {"共 3 层：从第 2 层起，排第一的词多半就是最终的选择", "查询：谁在问", "手工设定", "dog",
            "$d_k$ of 8 heads"} <= shown
    assert figure._repr_mimebundle_()[1]["image/png"]["alt"].startswith("共 3 层：")
    chart = alt.Chart(alt.Data(values=[{"weight": 1}]), title="Four of the columns")
    spec = viz.spoken(chart.mark_bar().encode(x=alt.X("weight:Q", title="weight")).to_dict())
    assert (spec["title"], spec["encoding"]["x"]) == (
        "其中四列", {"field": "weight", "title": "权重", "type": "quantitative"})


def test_figure_one_says_its_boxes_in_chinese(monkeypatch):
    monkeypatch.setenv("COURSE_LANG", "zh")
    assert "<b>多头注意力</b><br/><span" in (drawn := start_here.figure_one())
    assert "3.2.3 节 · 第 03 课" in drawn and "section" not in drawn


@pytest.mark.parametrize(("tongue", "font"), [("zh", None), ("", "DejaVu Sans")])
def test_without_a_font_or_a_wish_it_stays_english(monkeypatch, tongue, font):
    monkeypatch.setenv("COURSE_LANG", tongue)
    monkeypatch.setattr(viz, "chinese_font", lambda: font)
    assert bool(tongue) == bool(language())
    assert "query: who asks" in {text.get_text() for text in labelled().findobj(Text)}


def test_no_sentence_that_is_drawn_and_no_word_of_one_is_taken_for_a_label():
    probes = (ASSETS / "probe_sentences.tsv").read_text("utf-8").splitlines()[1:]
    sentences = [sentence for row in probes for sentence in row.split("\t")[1:3]]
    sentences += [part for pair in captions.generate(300) for part in (pair.de, pair.en)]
    shown = {*sentences, *(word for part in sentences for word in [*part.split(), part[:-1]])}
    assert {words for words in shown if say_in_picture(words, "zh_CN") != words} == set()


# what TeX, a chart's separators, fields and labels, or HTML would read as their own
WORDS = ["$x$", "$", r"a_b^2\frac{", "|", "<b>&amp;", "%d{0}", "[0].y#", "_c"]
N = len(WORDS)
SQUARE, LINKS = torch.full((N, N), 1 / N), [(i, i) for i in range(N)]
PAIR = torch.stack([SQUARE, SQUARE])
SEEN = torch.ones(N, N, dtype=torch.bool).tril()
RECORD = {"layer": "1", "head": "1", "sentence": "|".join(WORDS), "note": "$", "queries": WORDS,
          "keys": WORDS, "weights": SQUARE}
GATES = {"forget": torch.full((N + 1,), 0.5)}
NODES = {tuple(WORDS[: i + 1]): (0.5, "kept") for i in range(N)}
BRACKETS = [(word, i, i + 1) for i, word in enumerate(WORDS)]
CURVE = [0.1, 0.2]
DRAWN = {
    attention.maps: lambda: attention.maps([("one", SQUARE, WORDS, WORDS)], "t"),
    attention.head_grid: lambda: attention.head_grid({"layer 1": PAIR}, WORDS, "t"),
    attention.gallery: lambda: attention.gallery([RECORD], "t"),
    beyond.blanks: lambda: beyond.blanks({"$a$ and $b$": [(word, 0.5) for word in WORDS]}, "t"),
    beyond.bracketings: lambda: beyond.bracketings(WORDS, BRACKETS, BRACKETS, "t"),
    decoding.beam_tree: lambda: decoding.beam_tree(NODES, "t"),
    decoding.length_penalties: lambda: decoding.length_penalties(
        lambda n, alpha: n**alpha, {" ".join(WORDS): (-1.0, 5)}, [0.0], 0.5),
    decoding.ngram_boxes: lambda: decoding.ngram_boxes(WORDS, WORDS),
    foundations.unrolled: lambda: foundations.unrolled(WORDS),
    foundations.gates: lambda: foundations.gates(
        [([*WORDS, "is"], GATES, torch.ones(N + 1))], "t"),
    inside.explorer: lambda: inside.explorer(
        [("cross", "|".join(WORDS), WORDS, WORDS, SQUARE[None, None])],
        {"cross": torch.ones(1, 1)}, ("cross", 0, 0), "t"),
    inside.lens_grid: lambda: inside.lens_grid([WORDS, WORDS], SQUARE[:2], WORDS, "t"),
    inside.attention_grid: lambda: inside.attention_grid(PAIR, WORDS, WORDS, "t"),
    inside.need_and_weight: lambda: inside.need_and_weight(WORDS, [0.1] * N, [0.1] * N, "t"),
    masking.masks: lambda: masking.masks({"one": (SEEN, WORDS, WORDS)}, "t"),
    masking.exercises: lambda: masking.exercises(SEEN, WORDS, WORDS, "t"),
    masking.broadcast: lambda: masking.broadcast(SEEN[-1:, None, None], SEEN[None, None], [WORDS]),
    masking.influence: lambda: masking.influence({"one": SQUARE}, WORDS, "t"),
    masking.ways: lambda: masking.ways({"one": [SQUARE[0]]}, ["column"], WORDS, "t"),
    seq2seq.links: lambda: seq2seq.links(WORDS, WORDS, LINKS, "t"),
    seq2seq.machine: lambda: seq2seq.machine(WORDS, WORDS, attention=True),
    seq2seq.alignment_maps: lambda: seq2seq.alignment_maps({"one": SQUARE}, WORDS, WORDS, LINKS),
    seq2seq.hops: lambda: seq2seq.hops(WORDS, SQUARE[:2], "$a$ or $b$?"),
    start_here.alignments: lambda: start_here.alignments([(WORDS, WORDS, LINKS)], "t"),
    text.merge_panels: lambda: text.merge_panels(dict.fromkeys("ab", [tuple(WORDS)]), "t"),
    text.build_up: lambda: text.build_up([("$a$", tuple(WORDS))], "t"),
    training.smoothed_target: lambda: training.smoothed_target(
        WORDS, [0.1] * N, [0.1] * N, CURVE, {"one": CURVE}, (0.5, 0.5)),
    transformer.attention_heads: lambda: transformer.attention_heads(PAIR, WORDS, WORDS, "t"),
}
TAKE_WORDS = {"words", "keys", "source", "target", "read", "reads", "facts", "hypothesis"}


def letters(text: Text) -> str:
    """Return what matplotlib draws of a text letter by letter; "" where it is TeX."""
    shown, parsed = text._preprocess_math(text.get_text())
    return "" if parsed else shown


def seen_in(drawn: object) -> list[str]:
    if isinstance(drawn, alt.TopLevelMixin):
        svg = vl_convert.vegalite_to_svg(drawn.to_dict(), vl_version="5.20")
        return [unescape(piece.partition("<")[0]) for piece in svg.split(">")]
    return [letters(part) for part in drawn.findobj(Text)]


@pytest.mark.parametrize("function", DRAWN, ids=lambda f: f"{f.__module__[11:]}.{f.__name__}")
def test_no_word_is_parsed_by_a_picture(function):
    seen = seen_in(DRAWN[function]())
    for word in WORDS:
        assert any(word in shown for shown in seen), f"{word} is not in {seen}"


def test_every_picture_that_takes_words_is_among_them():
    rooms = {function.__module__: inspect.getmodule(function) for function in DRAWN}
    missing = [
        f"{room}.{name}"
        for room, module in rooms.items()
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == room and not name.startswith("_") and function not in DRAWN
        and "axis" not in (takes := inspect.signature(function).parameters)
        and any("str" in str(takes[name].annotation) for name in TAKE_WORDS & set(takes))
    ]
    assert not missing
