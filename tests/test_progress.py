"""What is remembered: it survives rubbish, and many writers at once."""

import json
import multiprocessing

import pytest

from course import progress
from course.homework import CheckFailed, check


@pytest.fixture
def kept(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "progress.json"
    monkeypatch.setenv("COURSE_PROGRESS", str(path))
    return path


def right(x):
    return x.transpose(1, 2).flatten(-2)


def test_hints_of_an_unknown_mistake_come_one_by_one_and_a_pass_is_remembered(kept):
    hints = [len(check("merge_heads", lambda x: x).hints) for _ in range(4)]
    assert hints == [1, 2, 2, 2]
    assert check("merge_heads", right).passed
    entry = progress.load()["exercises"]["merge_heads"]
    assert entry["checks"] == 5 and entry["failures"] == 0 and len(entry["code"]) == 12
    assert len(check("merge_heads", lambda x: x).hints) == 1
    assert progress.load()["exercises"]["merge_heads"]["passed"] == entry["passed"]


def test_what_was_not_written_yet_and_a_strict_check_unlock_no_hint(kept):
    def unwritten(x):
        raise NotImplementedError

    assert check("merge_heads", unwritten).hints == ()
    with pytest.raises(CheckFailed):
        check("merge_heads", lambda x: x, strict=True)
    assert len(check("merge_heads", lambda x: x).hints) == 1


RUBBISH = [b"", b"{", b"[1, 2]", b'{"exercises": 3}', b"\xff\xfe", b"null"]


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_an_unreadable_file_is_moved_aside_not_lost(kept, rubbish):
    kept.parent.mkdir()
    kept.write_bytes(rubbish)
    with pytest.warns(UserWarning, match="can't be read"):
        assert progress.load() == progress.EMPTY
    aside = list(kept.parent.glob("*unreadable*"))
    assert len(aside) == 1 and aside[0].read_bytes() == rubbish
    progress.record_answer(2, "because")
    assert progress.load()["answers"]["2"]["text"] == "because"


def write_many(number: int) -> None:
    for i in range(10):
        progress.record_run(f"{number}-{i}", {"bleu": i})


def test_many_writers_lose_nothing(kept):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(n,)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert len(progress.load()["runs"]) == 40
    assert not list(kept.parent.glob("*.tmp"))


def test_a_place_that_can_not_be_written_is_said_and_nothing_raised(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "file" / "progress.json"))
    with pytest.warns(UserWarning, match="progress is not kept"):
        assert check("merge_heads", right).passed


def test_off_keeps_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_PROGRESS", "off")
    assert progress.location() is None and progress.load() == progress.EMPTY
    assert progress.record_check("softmax", False, "x") == 1


def test_the_file_is_readable_json(kept):
    progress.record_answer(1, "因为")
    assert json.loads(kept.read_text("utf-8"))["answers"]["1"]["text"] == "因为"
    assert "因为" in kept.read_text("utf-8")
