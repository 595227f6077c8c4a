"""What the experiments of questions 1 to 5 find, and the page and the answers around them."""

import ast
import math
import re
import time
from collections.abc import Callable
from pathlib import Path

import jupytext
import matplotlib.pyplot as plt
import pytest
import torch
from nbgrader.preprocessors import ClearSolutions

from course.attention import MultiHeadAttention
from course.homework import questions
from course.homework.questions import cost, heads, masks, residuals, self_attention

PAGE = Path(__file__).parents[2] / "notebooks/homework/source/questions/questions.py"
ANSWERS = Path(questions.__file__).parent / "answers"
NUMBERS = range(1, 6)


def run(experiment: Callable[[], tuple]) -> tuple:
    """Run an experiment; it must be quick, open no window and leave the threads as they were."""
    threads, begun = torch.get_num_threads(), time.process_time()
    found, figure = experiment()
    assert time.process_time() - begun < 30
    assert torch.get_num_threads() == threads
    assert not plt.get_fignums() and figure.get_suptitle()
    assert all(axis.get_title("left") for axis in figure.axes)
    return found, figure


def test_self_attention_moves_with_its_own_sentence_only():
    moved, figure = run(self_attention.experiment)
    assert moved["encoder self-attention"]["English"] == 0
    assert moved["decoder self-attention"]["German"] == 0
    assert moved["encoder self-attention"]["German"] > 0.05
    assert moved["decoder self-attention"]["English"] > 0.05
    assert min(moved["cross-attention"].values()) > 0.05
    sides = [(axis.get_ylabel(), axis.get_xlabel()) for axis in figure.axes[:3]]
    assert sides == [
        ("who asks: German", "who answers: German"),
        ("who asks: English", "who answers: English"),
        ("who asks: English", "who answers: German"),
    ]
    assert "17 x 14" in figure.axes[2].get_title("left")


def test_a_deep_stack_without_residuals_stays_at_the_baseline():
    ends, _ = run(residuals.experiment)
    deepest = max(ends["with"])
    assert pytest.approx(math.log(8)) == residuals.BASELINE and deepest >= 16
    assert abs(ends["without"][deepest]["loss"] - residuals.BASELINE) < 0.06
    assert ends["with"][deepest]["loss"] < residuals.BASELINE - 0.45
    assert ends["without"][2]["loss"] < residuals.BASELINE - 0.4
    assert ends["without"][deepest]["gradient"] < ends["with"][deepest]["gradient"] / 50


def test_both_stacks_have_the_same_weights():
    one, other = (residuals.build(kind, 3).state_dict() for kind in ("with", "without"))
    same = [name for name in one if "residuals" not in name]
    assert len(same) > 12 and all(torch.equal(one[name], other[name]) for name in same)
    assert sum(p.numel() for p in one.values()) == sum(p.numel() for p in other.values())


def test_one_head_cannot_take_a_difference():
    found, _ = run(heads.experiment)
    one, wide, two, four = found.values()
    assert one["parameters"] == two["parameters"] == four["parameters"] == 1024
    assert wide["parameters"] == 4096
    assert 0.47 < one["error"] < 0.56 and 0.47 < wide["error"] < 0.56
    assert two["error"] < 0.02 and four["error"] < 0.02


def test_the_floor_of_one_head_is_reached_by_hand_and_two_heads_are_exact():
    rings, wanted = heads.rises(4000, torch.Generator().manual_seed(3))
    place, content = (torch.zeros(16, 16) for _ in range(2))
    place[:8, :8], content[8:, 8:] = torch.eye(8), torch.eye(8)
    after, before = (torch.zeros(16, 16) for _ in range(2))
    after[:8, :8], before[:8, :8] = torch.eye(8).roll(1, 1), torch.eye(8).roll(-1, 1)
    one = MultiHeadAttention(16, 1, 16, 16)
    two = MultiHeadAttention(16, 2, 16, 16)
    with torch.no_grad():
        for layer, queries in ((one, [after]), (two, [after, before])):
            layer.w_q.weight.copy_(400 * torch.cat([q.T for q in queries]))
            layer.w_k.weight.copy_(torch.cat([place] * len(queries)))
            layer.w_v.weight.copy_(torch.cat([content] * len(queries)))
        one.w_o.weight.copy_(content)
        two.w_o.weight.copy_(torch.cat([content, -content], dim=1))
        assert heads.error_of(one, rings, wanted).item() == pytest.approx(heads.FLOOR, abs=0.02)
        assert heads.error_of(two, rings, wanted).item() < 1e-6


def test_the_two_parts_of_the_cost_grow_in_two_ways():
    found, _ = run(cost.experiment)
    over_n, over_d, memory = (found[name] for name in cost.MEASURED)
    assert over_n["attention"] > over_n["projections"] + 0.4
    assert over_d["projections"] > over_d["attention"] + 0.4
    assert memory["attention"] > 1.75
    assert memory["projections"] == pytest.approx(1) and memory["attention, fused"] < 1.1
    assert cost.WIDTH / 8 < found["crossing"]["time"] < 8 * cost.WIDTH


def test_cost_measures_what_it_says():
    assert cost.exponent([2, 4, 8, 16], [9.0, 48.0, 192.0, 768.0]) == pytest.approx(2)
    assert cost.crossing([1, 2, 4, 8], [1, 2, 4, 8], [0.5, 2, 8, 32]) == pytest.approx(2)
    assert cost.crossing([1, 4], [1, 4], [0.5, 8]) == pytest.approx(2)
    n, d = 64, 32
    works = cost.parts(n, d)
    table = cost.HEADS * n * n * 4 / 2**20  # one number for each pair and head
    assert cost.mebibytes(works["attention"]) > table > 0
    assert cost.mebibytes(works["projections"]) == n * d * 4 / 2**20  # the words, kept once
    assert works["attention"]().shape == works["attention, fused"]().shape
    assert torch.allclose(works["attention"](), works["attention, fused"](), atol=1e-5)


def test_the_leak_beats_the_floor_and_cannot_write():
    found, _ = run(masks.experiment)
    honest, leaky = "with the causal mask", "without"
    assert pytest.approx(math.log(2) * 5.5 / 6.5) == masks.FLOOR
    assert found["loss"][leaky] < 0.4 < masks.FLOOR - 0.03 < found["loss"][honest] < 0.75
    assert found["right"][honest] > 0.8 and found["right"][leaky] < 0.15
    assert abs(found["padding"]["kept"] - found["right"][honest]) < 0.03
    assert found["padding"]["forgotten"] < 0.3


def test_a_row_is_right_with_either_word_and_its_end():
    a, b = 3, 4
    src = torch.tensor([[a, b, masks.EOS], [a, masks.EOS, masks.PAD]])
    good = torch.tensor([[a + 10, b + 20, 2, 9], [a + 20, 2, 7, 9]])  # what follows does not count
    assert masks.share_right(good, src) == 1
    for row, column, word in ((0, 0, b + 10), (0, 2, a + 10), (1, 1, a + 10), (0, 1, b)):
        bad = good.clone()
        bad[row, column] = word
        assert masks.share_right(bad, src) == 0.5


@pytest.fixture(scope="module")
def cells() -> dict[str, object]:
    found = (cell for cell in jupytext.read(PAGE).cells if "nbgrader" in cell.metadata)
    return {cell.metadata.nbgrader.grade_id: cell for cell in found}


def answer_of(source: str) -> list[tuple[int, str]]:
    """Run an answer cell, and return what it hands to `answer`."""
    given: list[tuple[int, str]] = []
    exec(source, {"answer": lambda number, text: given.append((number, text))})
    return given


@pytest.mark.parametrize("number", NUMBERS)
def test_each_question_has_an_answer_long_enough_and_a_polite_release(cells, number: int):
    cell = cells[f"answer-{number}"]
    settings = dict(cell.metadata.nbgrader)
    model = (ANSWERS / f"{number}.md").read_text("utf-8")
    points = model.split("## Points")[1].split("##")[0].count("\n- ")
    assert settings["points"] == points and settings["solution"] and settings["grade"]
    ((given, text),) = answer_of(cell.source)
    text = re.sub(r"### (BEGIN|END) SOLUTION", "", text)
    assert given == number and 100 <= len(text.split()) <= 150
    released = cell.copy()
    assert ClearSolutions()._replace_solution_region(released, "python")
    assert "SOLUTION" not in released.source
    ((given, text),) = answer_of(released.source)  # runs, and the next experiment can be started
    assert given == number and questions.count_words(text) < 10
    assert "not yet" in repr(questions.answer(given, text))
    mine = released.source.replace(text, "\n" + r"the \nu in $\sqrt{d_k}$ " * 30)
    assert questions.count_words(answer_of(mine)[0][1]) >= 100  # a backslash stays one


def test_the_page_asks_all_five_and_leaves_room_for_the_sixth():
    sources = [cell.source for cell in jupytext.read(PAGE).cells]
    text = "\n".join(sources)
    for number in NUMBERS:
        assert f"## Question {number} · {questions.QUESTIONS[number]}" in text
        assert f"\nmodel_answer({number})" in text
    assert text.count("**Guess first.**") >= 5


@pytest.mark.parametrize("number", NUMBERS)
def test_a_model_answer_has_points_and_references(number: int):
    text = (ANSWERS / f"{number}.md").read_text("utf-8")
    body, points, references = re.split(r"^## (?:Points|References)$", text, flags=re.M)
    title, body = body.split("\n", 1)
    assert title == f"# {questions.QUESTIONS[number]}"
    assert 150 <= len(body.split()) <= 300
    assert 4 <= points.count("\n- ") <= 7
    entries = references.strip().splitlines()
    assert len(entries) >= 3 and all(re.search(r"arXiv \d{4}\.\d{4,5}", e) for e in entries)
    assert "1706.03762" in references


def test_the_code_cells_of_the_page_are_python():
    for cell in jupytext.read(PAGE).cells:
        if cell.cell_type == "code":
            ast.parse(cell.source)
