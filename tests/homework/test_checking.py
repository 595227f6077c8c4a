"""The engine: whatever a candidate does, the learner gets a message, never a traceback."""

import os
import re
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from torch import nn

import course.attention
from course.homework import CheckFailed, check, code_hash
from course.homework.checking import Case, Exercise, examine, function_exam, normal
from course.homework.exercises import EXERCISES, MODULES, entries
from course.homework.values import alike, mismatch


def cases(generator):
    yield Case("two numbers", (normal(generator, 2), 3.0))
    yield Case("a matrix", (normal(generator, 2, 3), 0.5), "you count on one dimension")
    yield Case("float64", (normal(generator, 2, dtype=torch.float64), 2.0), "you lose float64")


TIMES = Exercise(
    name="times", assignment="toy", signature="times(x, factor) -> x times factor",
    what="Multiply.", why="It is needed.", difficulty=1, minutes=1, hints=("a", "b", "c"),
    examine=function_exam(
        lambda x, factor: x * factor, cases,
        mistakes=[("You add: multiply", lambda x, factor: x + factor)], returns="the product",
    ),
    forbidden=("mul", "torch.nn.init."), seconds=1.0,
)


def good(x, factor):
    return x / (1 / factor)


def message(candidate) -> str:
    wrong = examine(TIMES, candidate, seed=1)
    assert wrong is not None, "a wrong candidate passed"
    return wrong.message


def raises(error):
    def candidate(x, factor):
        raise error

    return candidate


def swallows(x, factor):
    try:
        return x * factor
    except BaseException:
        return x / (1 / factor)


def late(x, factor):
    if x.dim() == 2:
        raise IndexError("too many indices")
    return good(x, factor)


def in_place(x, factor):
    x /= 1 / factor
    return x


def itself(x, factor):
    return itself(x, factor)


class Ready(nn.Module):
    def forward(self, x, factor):
        return torch.mul(x, factor)


def test_a_right_candidate_passes():
    assert examine(TIMES, good, 1) is None
    assert examine(TIMES, lambda *both: good(*both), 2) is None


@pytest.mark.parametrize(
    ("candidate", "says"),
    [
        (lambda x, factor: x + factor, "^You add: multiply$"),
        (raises(ZeroDivisionError("oh")), r"raises ZeroDivisionError: oh, in line \d+: raise"),
        (raises(NotImplementedError()), "^Not written yet"),
        (raises(SystemExit(1)), "leaves Python"),
        (raises(KeyboardInterrupt()), "raises KeyboardInterrupt"),
        (itself, "calls itself without end"),
        (late, "Right for two numbers. Not for a matrix: .*too many indices.*one dimension"),
        (in_place, "change argument 1 in place"),
        (swallows, "call torch's mul"),
        (Ready(), "call torch's mul"),
        (lambda x, factor: nn.init.ones_(torch.empty(2)), "ready-made"),
        (lambda x, factor: course.attention.attention_weights(x[None], x[None]), "ready-made"),
        (lambda x: x, "can't be called as .*too many positional"),
        (lambda x, factor: x, "return argument 1 as it came"),
        (lambda x, factor: torch.ones(2), "does not depend on them"),
        (lambda x, factor: None, "the product: None .is a return missing.*should be a tensor"),
        (lambda x, factor: good(x, factor).tolist(), "a list of 2, it should be a tensor"),
        (lambda x, factor: good(x, factor).numpy(), "a numpy array, it should be a tensor"),
        (lambda x, factor: good(x, factor)[None], r"shape \(1, 2\), it should be \(2,\)"),
        (lambda x, factor: good(x, factor).double(), "torch.float64, it should be torch.float32"),
        (lambda x, factor: good(x, factor).to("meta"), "on device meta, it should be on cpu"),
        (lambda x, factor: good(x, factor) * float("nan"), "ready-made|NaN"),
        (lambda x, factor: (good(x, factor) / 0) / (x / 0), "NaN"),
        (lambda x, factor: good(x.float(), factor).to(x.dtype), "float64: .*lose float64"),
        (lambda x, factor: good(x, factor) - 1e-3, "wrong values, first at"),
        (3, "check got an int: hand over the function"),
        (torch.ones(2), "check got a tensor"),
    ],
)
def test_every_kind_of_failure_has_a_message_of_its_own(candidate, says: str):
    assert re.search(says, message(candidate)), message(candidate)


def in_a_thread(x, factor):
    results = []
    thread = threading.Thread(target=lambda: results.append(x * factor))
    thread.start()
    thread.join()
    return results[0]


def from_the_stack(x, factor):
    return sys._getframe(5).f_locals["expected"]


def switched_off(x, factor):
    with torch._C.DisableTorchFunction():
        return x * factor


@pytest.mark.parametrize(
    ("candidate", "says"),
    [
        (in_a_thread, "threading.Thread.start"),
        (from_the_stack, "_getframe, to look into the check"),
        (switched_off, "DisableTorchFunction"),
        (lambda x, factor: torch._refs.mul(x, factor), "uses _refs"),
        (lambda x, factor: torch.jit.trace(lambda a: a + a, x)(x), "ready-made"),
        (course.attention.attention_weights, "course.attention holds that ready-made"),
        (course.attention.MultiHeadAttention, "course.attention holds that ready-made"),
    ],
)
def test_ways_round_the_watch_are_closed(candidate, says: str):
    assert re.search(says, message(candidate)), message(candidate)


def test_the_answer_is_not_there_before_the_candidate_has_given_its_own():
    seen = []

    def peeping(x, factor):
        frame = vars(sys)["_get" + "frame"]()
        while frame := frame.f_back:
            seen.append(frame.f_locals.get("expected"))
        return good(x, factor)

    assert examine(TIMES, peeping, 1) is None and len(seen) > 5
    assert all(value is None for value in seen[: len(seen) // 3])


def test_a_default_dtype_stays_with_its_owner():
    def sets_it(x, factor):
        torch.set_default_dtype(torch.float64)
        return good(x, factor)

    assert examine(TIMES, sets_it, 1) is None and torch.get_default_dtype() == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert examine(TIMES, good, 1) is None and torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_candidate_that_never_returns_is_stopped_and_the_next_check_works():
    def endless(x, factor):
        while True:
            pass

    begun = time.monotonic()
    assert "had not returned after 1 s" in message(endless)
    assert time.monotonic() - begun < 4
    assert examine(TIMES, good, 1) is None


def test_a_candidate_that_does_not_listen_is_left_behind():
    def deaf(x, factor):
        until = time.monotonic() + 8
        while time.monotonic() < until:
            with suppress(BaseException):
                time.sleep(0.5)

    begun = time.monotonic()
    assert "had not returned" in message(deaf)
    assert time.monotonic() - begun < 5


def test_the_learners_random_numbers_go_on_undisturbed():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    examine(TIMES, good, 5)
    assert torch.equal(torch.rand(3), expected)


def test_the_example_shows_what_was_given_expected_and_returned():
    wrong = examine(TIMES, lambda x, factor: x + factor, 1)
    assert "tensor (2,) float32" in wrong.given and "shape (2,)" in wrong.expected
    assert wrong.actual != wrong.expected


def test_the_course_can_be_used_again_after_a_check():
    message(lambda x, factor: course.attention.attention_weights(x[None], x[None]))
    assert course.attention.attention_weights(torch.ones(1, 2), torch.ones(1, 2)).item() == 1
    assert sys.getprofile() is None


def test_check_never_raises_but_with_strict():
    def wrong(x, dim):
        return x

    result = check("softmax", wrong)
    assert not result.passed and result.message and len(result.hints) == 1
    assert str(result).startswith("NOT YET  softmax: ") and "✗ not yet" in result._repr_html_()
    with pytest.raises(CheckFailed, match="NOT YET  softmax"):
        check("softmax", wrong, strict=True)
    assert issubclass(CheckFailed, AssertionError)


def test_a_pass_says_so_in_text_and_in_html():
    result = check("split_heads", lambda x, n: x.unflatten(-1, (n, -1)).transpose(1, 2), True)
    assert result.passed and repr(result).startswith("PASSED  split_heads")
    assert "✓ passed" in result._repr_html_()


def test_a_notebook_shows_a_strict_failure_without_a_traceback():
    shell = InteractiveShell()
    code = "from course.homework import check\ncheck('softmax', lambda x, dim: x, strict=True)"
    try:
        shell.run_cell(code).raise_error()
    except CheckFailed as error:
        shown = "\n".join(error._render_traceback_())
    assert "NOT YET" in shown and "Traceback" not in shown


def test_html_is_escaped():
    def script(x, dim):
        raise ValueError("<script>alert(1)</script>")

    assert "<script>" not in check("softmax", script)._repr_html_()


def test_an_unknown_name_is_the_callers_mistake():
    with pytest.raises(ValueError, match="did you mean 'softmax'"):
        check("sofmax", None)
    with pytest.raises(ValueError, match="There are: "):
        check("no such thing", None)


def test_fresh_numbers_each_time(monkeypatch):
    seen = []
    for _ in range(2):
        check("softmax", lambda x, dim: seen.append(x.clone()) or x)
    assert not torch.equal(seen[0], seen[-1])


def test_code_hash_forgets_comments_and_layout():
    def plain():
        def one(x):
            return x + 1

        return one

    def remarked():
        def one(x):
            # a remark
            return (x +
                    1)

        return one

    def other():
        def one(x):
            return x + 2

        return one

    hashes = [code_hash(make()) for make in (plain, remarked, other)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert all(re.fullmatch(r"[0-9a-f]{12}", h) for h in hashes)
    assert code_hash(Ready) != code_hash(nn.Identity) and len(code_hash(len)) == 12


def test_every_exercise_has_a_whole_card():
    for exercise in EXERCISES.values():
        assert exercise.signature.startswith(exercise.name)
        assert 1 <= exercise.difficulty <= 5 and 1 <= exercise.minutes <= 240
        assert len(exercise.hints) == 3 and len(set(exercise.hints)) == 3
        assert min(map(len, (exercise.what, exercise.why))) > 20
    assert len(EXERCISES) == sum(len(list(entries(module))) for module in MODULES)


def test_the_names_of_the_specification_are_all_there():
    wanted = """rnn_backward lstm_cell gru_cell additive_attention softmax
        scaled_dot_product_attention split_heads merge_heads MultiHeadAttention padding_mask
        causal_mask shift_right positional_encoding layer_norm feed_forward EncoderLayer
        DecoderLayer learn_bpe apply_bpe token_batches paper_learning_rate label_smoothing_loss
        adam_step average_checkpoints greedy_decode beam_search bleu build_transformer
        receptive_field conv1d_backward lstm_backward memory_hop dropout mask_for_bert rotary
        alibi_bias nucleus kv_cache_step linearise bracket_f1"""
    assert sorted(EXERCISES) == sorted(wanted.split())


@pytest.mark.parametrize("name", sorted(EXERCISES))
def test_every_stub_fails_politely(name: str):
    def stub(*arguments):
        raise NotImplementedError

    class Stub(nn.Module):
        def __init__(self, *sizes):
            raise NotImplementedError

    for candidate in (stub, Stub, lambda *arguments: None, lambda *arguments: 0.5):
        wrong = examine(replace(EXERCISES[name], seconds=5), candidate, 1)
        assert wrong is not None and "breaks the check" not in wrong.message
        if candidate in (stub, Stub):
            assert "Not written yet" in wrong.message


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent as a POSIX signal")
def test_ctrl_c_during_a_check_reaches_the_learner():
    code = (
        "import time\nfrom course.homework import check\n"
        "from course.homework.exercises import EXERCISES\nEXERCISES['softmax']\n"
        "print('begin', flush=True)\ncheck('softmax', lambda x, dim: time.sleep(15))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True)
    process.stdout.readline()
    time.sleep(0.5)
    process.send_signal(2)
    begun = time.monotonic()
    _, errors = process.communicate(timeout=20)
    assert "KeyboardInterrupt" in errors and time.monotonic() - begun < 10


def test_alike_finds_what_mismatch_finds():
    one, nan = torch.ones(2, 3), torch.tensor([1.0, float("nan")])
    values = [one, one + 1e-7, one + 1, one.double(), one[:1], one.int(), torch.ones(2, dtype=bool),
              nan, nan.nan_to_num(), None, 1, 1.0, True, 1.5, "a", [1, 2], (1, 2), [1], (one, 1.0),
              (one + 1, 1.0), [one, None], {"a": one}, {"a": one + 1}, {"b": one}, []]
    for actual in values:
        for expected in values:
            try:
                wanted = mismatch(actual, expected) is None
            except RuntimeError as error:  # a tensor where a plain value is due
                assert "more than one value" in str(error)
                continue
            assert alike(actual, expected) == wanted, (actual, expected)
