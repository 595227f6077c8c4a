"""`bench gpu`, tried on the CPU: every part answers; a run that breaks off keeps what it has."""

import json
import time

import pytest

from course.__main__ import main
from course.bench import gpu


def asked(path) -> tuple[int, list[dict]]:
    """Run the command at sizes of seconds; return its status and the lines of its file."""
    words = ["bench", "gpu", "--quick", "--device", "cpu", "--minutes", "60", "--out", str(path)]
    status = main(words)
    return status, [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def parts_of(path, monkeypatch, names) -> dict[str, list[dict]]:
    """Ask these parts only; return the lines of each."""
    monkeypatch.setattr(gpu, "PARTS", {name: gpu.PARTS[name] for name in names})
    status, lines = asked(path)
    by_part = {}
    for line in lines:
        by_part.setdefault(line["part"], []).append(line)
    assert list(by_part) == ["machine", *names, "end"]
    assert not [line for line in lines if "error" in line] and status == 0
    return by_part


COMMANDS = ("clock", "ranks", "notebooks")  # parts that start the course anew: a minute or two


def test_every_part_answers_on_a_cpu(tmp_path, monkeypatch):
    names = [name for name in gpu.PARTS if name not in COMMANDS]
    by_part = parts_of(tmp_path / "gpu.jsonl", monkeypatch, names)
    machine = by_part["machine"][0]
    assert machine["command"] == (
        "python -m course bench gpu --minutes 60 --device cpu --quick") and machine["quick"]
    assert machine["versions"]["torch"] and "instruction_sets" in machine
    assert {line["precision"] for line in by_part["products"]} == {"float32", "bfloat16"}
    trained = {line["contestant"]: line for line in by_part["training"]}
    assert trained["ours, bfloat16, compiled"]["left_out"] and len(trained) == 4
    assert trained["naive, float32"]["rate"]["median"] > 0
    assert {line["contestant"] for line in by_part["decoding"]} == {"greedy", "beam 4"}
    assert {line["way"] for line in by_part["attention"]} == {"by hand", "fused", "flash"}


@pytest.mark.long
def test_every_part_that_starts_commands_answers_on_a_cpu(tmp_path, monkeypatch):
    by_part = parts_of(tmp_path / "gpu.jsonl", monkeypatch, COMMANDS)
    assert [line["split"] for line in by_part["clock"]] == ["val", "test"]
    assert by_part["clock"][-1]["training_seconds"] > 0
    assert [line["ranks"] for line in by_part["ranks"]] == [1, 2]
    assert by_part["notebooks"][0]["page"] == "04_masking" and not by_part["notebooks"][0]["failed"]


def broken(asked, until):
    yield {"answer": 1}
    raise RuntimeError("no such kernel")


def stopped(asked, until):
    yield {"answer": 1}
    raise KeyboardInterrupt


def slow(asked, until):
    time.sleep(0.05)
    yield {"answer": 2}


@pytest.mark.parametrize(("part", "status", "rest"), [
    (broken, 1, [{"part": "first", "error": "RuntimeError: no such kernel"},
                 {"part": "second", "answer": 2}]),
    (stopped, 130, []),
])
def test_what_fails_or_is_stopped_keeps_what_it_has(part, status, rest, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "PARTS", {"first": (0.5, part), "second": (1.0, slow)})
    found, lines = asked(tmp_path / "gpu.jsonl")
    assert found == status
    told = [{key: value for key, value in line.items() if key != "at"} for line in lines[1:-1]]
    assert told == [{"part": "first", "answer": 1}, *rest]
    assert lines[-1]["part"] == "end" and ("stopped" in lines[-1]) == (status == 130)


def test_a_part_without_time_is_left_out_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "PARTS", {"first": (1.0, slow), "second": (1.0, slow)})
    path = tmp_path / "gpu.jsonl"
    assert main(["bench", "gpu", "--quick", "--device", "cpu", "--minutes", "0.0005",
                 "--out", str(path)]) == 0
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert lines[2]["left_out"] == "no time was left"


def test_without_a_gpu_the_command_says_what_to_do(capsys):
    assert main(["bench", "gpu", "--device", "cpu"]) == 1
    assert "`--quick` tries every part on the CPU" in capsys.readouterr().err


def test_minutes_are_a_number_above_0(capsys):
    for wrong in ("0", "-1", "many", "nan"):
        with pytest.raises(SystemExit):
            main(["bench", "gpu", "--minutes", wrong])
    assert "is not a number of minutes above 0" in capsys.readouterr().err
