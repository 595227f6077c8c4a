"""Question 6: each way to say a place against a twin of its own, and what the experiment finds."""

import ast
import math
import os
import re
from pathlib import Path

import jupytext
import matplotlib.pyplot as plt
import pytest
import torch
from nbgrader.preprocessors import ClearSolutions
from torch import Tensor

from course.homework import questions
from course.homework.questions import positions as p
from course.transformer import positional_encoding

PAGE = Path(__file__).parents[2] / "notebooks/homework/source/questions/questions.py"
ANSWER = Path(questions.__file__).parent / "answers/6.md"
SMALL = p.Sizes(d_model=16, n_heads=2, clip=3, longest=24)


def attention(kind: str, sizes: p.Sizes = SMALL, seed: int = 0) -> p.Attention:
    torch.manual_seed(seed)
    return p.Attention(sizes, p.KINDS[kind](sizes))


def words(length: int, sizes: p.Sizes = SMALL, seed: int = 1) -> Tensor:
    return torch.randn(2, length, sizes.d_model, generator=torch.Generator().manual_seed(seed))


# -- each one against a twin ---------------------------------------------------------------------


@pytest.mark.parametrize("length, d_model", [(1, 2), (40, 64), (128, 512)])
def test_the_sinusoids_are_those_of_lesson_05(length: int, d_model: int):
    assert torch.allclose(p.sinusoids(length, d_model), positional_encoding(length, d_model))
    x = torch.randn(2, length, d_model)
    added = p.Sinusoidal(SMALL).embed(x) - x
    assert torch.allclose(added, positional_encoding(length, d_model).expand_as(x), atol=1e-5)


def test_rotary_is_a_product_of_complex_numbers():
    x, places = torch.randn(3, 5, 8, dtype=torch.float64), torch.tensor([0.0, 1, 2, 7, 100])
    turned = torch.zeros_like(x)
    for place, row in enumerate(places.tolist()):
        for pair in range(4):
            number = torch.complex(x[:, place, 2 * pair], x[:, place, 2 * pair + 1])
            angle = row * 10_000 ** (-2 * pair / 8)
            number = number * complex(math.cos(angle), math.sin(angle))
            turned[:, place, 2 * pair] = number.real
            turned[:, place, 2 * pair + 1] = number.imag
    assert torch.allclose(p.rotate(x, places), turned, atol=1e-5)


def test_rotary_scores_keep_when_both_places_shift_and_norms_stay():
    query, key = torch.randn(4, 8), torch.randn(6, 8)
    q_place, k_place = torch.tensor([0, 3, 9, 20]), torch.tensor([0, 1, 5, 8, 13, 21])

    def scores(shift: int) -> Tensor:
        return p.rotate(query, q_place + shift) @ p.rotate(key, k_place + shift).T

    for shift in (1, 7, 50):
        assert torch.allclose(scores(shift), scores(0), atol=1e-4)
    moved = p.rotate(query, q_place) @ p.rotate(key, k_place + 1).T
    assert not torch.allclose(moved, scores(0), atol=0.1)  # shifting one alone does count
    for vectors, places in ((query, q_place), (key, k_place)):
        norms = p.rotate(vectors, places).norm(dim=-1)
        assert torch.allclose(norms, vectors.norm(dim=-1), atol=1e-5)


def test_rotary_turns_queries_and_keys_but_not_values():
    layer, x = attention("rotary"), words(7)
    query, key = (layer.split(w(x)) for w in (layer.w_q, layer.w_k))
    places = torch.arange(7)
    scores = p.rotate(query, places) @ p.rotate(key, places).transpose(-2, -1) / math.sqrt(8)
    assert torch.allclose(layer.scores(x), scores, atol=1e-5)
    weights = scores.masked_fill(torch.ones(7, 7).triu(1).bool(), -math.inf).softmax(-1)
    heads = weights @ layer.split(layer.w_v(x))  # the values as they are
    assert torch.allclose(layer(x), layer.w_o(heads.transpose(1, 2).flatten(2)), atol=1e-5)


def shaw_by_hand(layer: p.Attention, x: Tensor) -> Tensor:
    """Equations 3 and 4 of Shaw et al. 2018, pair by pair, with the causal mask."""
    sizes, table = layer.sizes, layer.positions
    d_k, k = sizes.d_model // sizes.n_heads, sizes.clip
    batch, length, _ = x.shape
    out = torch.zeros(batch, length, sizes.d_model)
    for b in range(batch):
        for h in range(sizes.n_heads):
            part = slice(h * d_k, (h + 1) * d_k)
            query, key, value = (w(x[b])[:, part] for w in (layer.w_q, layer.w_k, layer.w_v))
            for i in range(length):
                clipped = [max(-k, min(k, j - i)) + k for j in range(i + 1)]
                e = [query[i] @ (key[j] + table.keys[r]) / math.sqrt(d_k)
                     for j, r in enumerate(clipped)]
                weights = torch.stack(e).softmax(0)
                for j, r in enumerate(clipped):
                    out[b, i, part] += weights[j] * (value[j] + table.values[r])
    return layer.w_o(out)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 3, 9])  # 9 is three times the clipping distance
def test_relative_is_the_slow_loop_of_the_paper(length: int):
    layer = attention("relative")
    for table in (layer.positions.keys, layer.positions.values):
        table.normal_()
    x = words(length)
    assert torch.allclose(layer(x), shaw_by_hand(layer, x), atol=1e-5)


@torch.no_grad()
def test_relative_cannot_tell_far_distances_apart():
    layer = attention("relative")
    layer.positions.keys.normal_()
    query = words(10)[:, :1, None, :8].expand(-1, 2, 10, 8)  # the same query everywhere
    bias = layer.positions.bias(query)[0, 0, 9].flip(-1)  # by distance, from the last place
    assert torch.allclose(bias[3:], bias[3].expand(7))
    assert len(bias[:4].unique()) == 4


def test_alibi_has_the_slopes_of_the_paper():
    assert p.slopes(8).tolist() == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    sixteen = [2 ** (-k / 2) for k in range(1, 17)]
    assert torch.allclose(p.slopes(16), torch.tensor(sixteen))


def test_alibi_takes_slope_times_distance_from_the_scaled_scores():
    sizes = p.Sizes(d_model=64, n_heads=8)
    with_it, without, x = attention("alibi", sizes), attention("none", sizes), words(12, sizes)
    bias = with_it.scores(x) - without.scores(x)  # the same seed, so the same matrices
    for h in range(8):
        for i in range(12):
            for j in range(i + 1):
                expected = torch.full((2,), -(i - j) / 2 ** (h + 1))
                assert torch.allclose(bias[:, h, i, j], expected, atol=1e-5)
    by_distance = bias[0, :, -1].flip(-1)  # (H, distance)
    assert torch.allclose(by_distance.diff().diff(), torch.zeros(8, 10), atol=1e-5)  # a line
    assert (by_distance.diff() < 0).all()


def test_learned_positions_end_with_an_error_that_says_why():
    model = p.Recall("learned", SMALL)
    model(torch.zeros(1, SMALL.longest, dtype=torch.long))
    with pytest.raises(ValueError, match="position 24 has no row"):
        model(torch.zeros(1, SMALL.longest + 1, dtype=torch.long))


def test_rows_beyond_the_trained_length_stay_as_they_were():
    torch.manual_seed(5)
    before = p.Recall("learned", p.Sizes()).positions.table.detach().clone()
    after = p.train("learned", 5, 5, p.Sizes()).positions.table.detach()
    assert torch.equal(after[16:], before[16:])
    assert (after[:16] != before[:16]).any(dim=1).all()


@torch.no_grad()
@pytest.mark.parametrize("kind", p.KINDS)
def test_without_mask_and_positions_shuffled_words_give_shuffled_outputs(kind: str):
    sizes = p.Sizes(causal=False)
    torch.manual_seed(0)
    model = p.Recall(kind, sizes)
    letters = torch.randint(8, (3, 16))
    order = torch.randperm(16)
    same = torch.allclose(model(letters[:, order]), model(letters)[:, order], atol=1e-4)
    assert same == (kind == "none")


@torch.no_grad()
def test_the_causal_mask_is_no_position_but_breaks_the_symmetry():
    torch.manual_seed(0)
    model = p.Recall("none", p.Sizes())
    letters = torch.tensor([[1, 2, 3, 4, 5, 6]])
    order = torch.tensor([3, 0, 4, 2, 1, 5])  # what comes before the last letter is shuffled
    assert torch.allclose(model(letters[:, order])[:, -1], model(letters)[:, -1], atol=1e-5)
    assert not torch.allclose(model(letters[:, order]), model(letters)[:, order], atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("kind", p.KINDS)
def test_scores_of_equal_letters_depend_on_the_distance_for_the_relative_four(kind: str):
    torch.manual_seed(0)
    model = p.Recall(kind, p.Sizes())
    near, far = (p.scores_by_distance(model, place)[:, :30] for place in (40, 90))
    relative = torch.allclose(near, far, atol=1e-3)
    assert relative == (kind in ("none", "relative", "rotary", "alibi"))
    assert bool((near.std(dim=1) < 1e-4).all()) == (kind == "none")


def test_what_each_one_adds_to_the_parameters():
    def count(kind: str) -> int:
        return sum(parameter.numel() for parameter in p.Recall(kind, SMALL).parameters())

    extra = {kind: count(kind) - count("none") for kind in p.KINDS}
    assert extra == {
        "none": 0, "sinusoidal": 0, "learned": 24 * 16, "relative": 2 * (2 * 3 + 1) * 8,
        "rotary": 0, "alibi": 0,
    }


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="'rope' are unknown: choose from none, sinusoidal"):
        p.Recall("rope", SMALL)


# -- the experiment ------------------------------------------------------------------------------


def test_the_answers_are_the_letters_back():
    letters, answers = p.draw_rows(3, 12, p.Sizes(), torch.Generator().manual_seed(0))
    for t in range(4, 12):
        for column, distance in enumerate((1, 2, 3, 4)):
            assert torch.equal(answers[:, t, column], letters[:, t - distance])


@torch.no_grad()
def test_a_place_of_a_long_row_is_the_end_of_a_short_one():
    for kind in p.KINDS:
        model = p.Recall(kind, SMALL)
        letters = torch.randint(8, (2, 24))
        assert torch.allclose(model(letters)[:, 9], model(letters[:, :10])[:, -1], atol=1e-5)


def test_accuracy_counts_right_letters_and_nothing_before_the_first():
    class Knowing(torch.nn.Module):
        sizes = p.Sizes()

        def forward(self, letters: Tensor) -> Tensor:
            back = [letters.roll(1, 1), letters.roll(2, 1), letters * 0, letters.roll(4, 1)]
            return torch.nn.functional.one_hot(torch.stack(back, -1), 8).float()

    right = p.accuracy(Knowing())
    assert right.shape == (128, 4) and right[:4].isnan().all()
    assert torch.allclose(right[4:, [0, 1, 3]], torch.ones(124, 3))
    assert abs(right[4:, 2].mean().item() - 1 / 8) < 0.02


def test_training_is_seeded():
    first, again, other = (p.train("relative", seed, 3, SMALL) for seed in (1, 1, 2))
    assert torch.equal(first.output.weight, again.output.weight)
    assert not torch.equal(first.output.weight, other.output.weight)


@pytest.fixture(scope="module")
def runs() -> list[p.Run]:
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "COURSE_SCALE", "smoke")
        found = p.experiment()
    assert torch.get_num_threads() == threads
    return found


def test_every_kind_is_run(runs: list[p.Run]):
    assert [(run.kind, run.seed) for run in runs] == [(kind, 0) for kind in p.KINDS]


def test_inside_the_trained_length_all_with_exact_places_succeed(runs: list[p.Run]):
    inside = {kind: spans["trained length"] for kind, spans in p.means(runs).items()}
    assert min(inside[kind] for kind in ("learned", "relative", "rotary")) > 0.95
    assert inside["sinusoidal"] > 0.7
    assert 0.6 < inside["alibi"] < 0.97


def test_absolute_positions_fail_just_beyond_it(runs: list[p.Run]):
    means = p.means(runs)
    for kind in ("sinusoidal", "learned"):
        assert means[kind]["up to twice"] < 0.35 and means[kind]["four to eight times"] < 0.25


def test_rotary_goes_on_for_a_while_and_then_fails(runs: list[p.Run]):
    rotary = p.means(runs)["rotary"]
    assert rotary["up to twice"] > 0.8 and rotary["four to eight times"] < 0.3
    model = next(run.model for run in runs if run.kind == "rotary")
    scores = p.scores_by_distance(model, 127)[p.looks_back_one(model)]
    assert scores[16:].max() > scores[1] == scores[:16].max()  # why: waves come back


def test_relative_and_alibi_go_on_to_eight_times(runs: list[p.Run]):
    means = p.means(runs)
    assert means["relative"]["four to eight times"] > 0.98
    alibi = means["alibi"]
    assert alibi["four to eight times"] > alibi["trained length"] - 0.12


def test_alibi_prefers_the_near(runs: list[p.Run]):
    back = p.by_distance(runs)["alibi"]
    assert back[0] > 0.95 and back[0] > back[1] > back[2] > back[3] and back[0] - back[3] > 0.25


def test_without_positions_a_layer_can_only_count(runs: list[p.Run]):
    counting = p.commonest_so_far(p.Sizes())
    for name, span in p.spans(p.Sizes()).items():
        assert abs(p.means(runs)["none"][name] - counting[span].mean().item()) < 0.04


def test_the_pictures_say_what_was_found(runs: list[p.Run]):
    before = plt.get_fignums()
    effects, curves, reasons = p.draw_effects(), p.draw(runs), p.draw_reasons(runs)
    assert plt.get_fignums() == before
    assert [axis.get_title("left") for axis in effects.axes] == list(p.KINDS)
    left, right = curves.axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == list(p.KINDS)
    assert "trained up to here" in {text.get_text() for text in left.texts}
    assert left.get_xlabel() == "letters read so far" and right.get_xlabel() == "letters back"
    relative = left.lines[list(p.KINDS).index("relative")]
    assert relative.get_xdata()[0] == 6.5 and relative.get_xdata()[-1] == 126.5
    assert min(relative.get_ydata()) > 0.98
    assert [axis.get_title("left") for axis in reasons.axes] == ["relative", "rotary", "alibi"]


def test_source_shows_code():
    text = p.source(p.slopes, p.ALiBi).data
    assert "def slopes" in text and "class ALiBi" in text


# -- the answer and the page ---------------------------------------------------------------------


def test_the_model_answer_has_points_and_references():
    body, points, references = re.split(
        r"^## (?:Points|References)$", ANSWER.read_text("utf-8"), flags=re.M
    )
    title, body = body.split("\n", 1)
    assert title == f"# {questions.QUESTIONS[6]}"
    assert 150 <= len(body.split()) <= 300
    assert 4 <= points.count("\n- ") <= 7
    entries = references.strip().splitlines()
    assert all(re.search(r"arXiv \d{4}\.\d{4,5}", entry) for entry in entries)
    for number in ("1706.03762", "1803.02155", "2104.09864", "2108.12409"):
        assert number in references


def section() -> list:
    cells = jupytext.read(PAGE).cells
    first = next(n for n, cell in enumerate(cells) if cell.source.startswith("## Question 6"))
    return cells[first:]


def test_the_section_asks_before_it_shows():
    cells = section()
    text = "\n".join(cell.source for cell in cells)
    assert f"## Question 6 · {questions.QUESTIONS[6]}" in text
    assert "<!-- question 6 -->" not in PAGE.read_text("utf-8")
    steps = ["**Guess first.**", "positions.experiment()", "\nanswer(6, ", "\nmodel_answer(6)"]
    found = [text.index(step) for step in steps]
    assert found == sorted(found)


def test_the_answer_cell_is_long_enough_and_polite_when_released():
    (cell,) = (c for c in section() if "nbgrader" in c.metadata)
    settings = dict(cell.metadata.nbgrader)
    assert settings["grade_id"] == "answer-6" and settings["points"] == 7  # of the model answer
    assert settings["solution"] and settings["grade"] and not settings["locked"]
    call = ast.parse(cell.source).body[0].value
    text = re.sub(r"### (BEGIN|END) SOLUTION", "", call.args[1].value)
    assert call.args[0].value == 6 and 100 <= len(text.split()) <= 150
    released = cell.copy()
    assert ClearSolutions()._replace_solution_region(released, "python")
    assert "SOLUTION" not in released.source
    left = ast.parse(released.source).body[0].value.args[1].value
    assert questions.count_words(left) < 10


def test_the_cells_of_the_section_run(
    runs: list[p.Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(p, "experiment", lambda: runs)
    monkeypatch.setenv("COURSE_PROGRESS", "off")
    space: dict[str, object] = {"answer": questions.answer, "model_answer": questions.model_answer}
    for cell in section():
        if cell.cell_type == "code":
            exec(cell.source, space)
    assert "by a line" in capsys.readouterr().out
