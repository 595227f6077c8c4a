"""The command line, used as a reader would: its output, its exit status, its messages."""

import errno
import io
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from course import corpora, output_folder
from course.__main__ import joined, lines_of, main, shortened
from course.ablations import read_trials
from course.homework.report import run_lines
from course.text import BPE

WORDS = {"Hund": "dog", "Mann": "man", "Ball": "ball", "Baum": "tree", "Hut": "hat"}
PAIRS = [
    (f"Ein {a} und ein {b} und ein {c}.", f"A {WORDS[a]} and a {WORDS[b]} and a {WORDS[c]}.")
    for a in WORDS for b in WORDS for c in WORDS
]


@pytest.fixture
def small_corpus(monkeypatch):
    splits = {"train": PAIRS[:100], "val": PAIRS[100:110], "test": PAIRS[110:]}
    monkeypatch.setattr(corpora, "pairs", lambda corpus, split, directory=None: splits[split])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    splits = {"train": PAIRS[:100], "val": PAIRS[100:110]}
    patch.setattr(corpora, "pairs", lambda corpus, split, directory=None: splits[split])
    out = tmp_path_factory.mktemp("cli") / "run"
    status = main(["train", "--corpus", "captions", "--preset", "tiny", "--out", str(out),
                   "--epochs", "12"])
    patch.undo()
    assert status == 0
    return out


def feed(monkeypatch, raw: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))


@pytest.mark.parametrize("command", ["", "doctor", "data", "train", "translate", "look", "evaluate",
                                     "export", "bench", "walkthrough", "homework"])
def test_help_teaches_by_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    assert f"python -m course {command}".strip() in capsys.readouterr().out


def test_data_prints_the_statistics_of_captions(capsys):
    assert main(["data", "--corpus", "captions"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()] == ["split", "train", "val", "test"]


def test_data_without_multi30k_says_what_was_tried(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    assert main(["data", "--dir", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_a_training_run_leaves_a_whole_checkpoint_and_a_log(checkpoint):
    names = {path.name for path in checkpoint.iterdir()}
    assert {"config.json", "tokenizer.json", "model.safetensors", "log.jsonl"} <= names
    lines = [json.loads(line) for line in (checkpoint / "log.jsonl").read_text().splitlines()]
    assert sum("val_loss" in line for line in lines) >= 12


def test_translate_keeps_order_and_empty_lines(checkpoint, monkeypatch, capsys):
    feed(monkeypatch, "\ufeffEin Hund und ein Mann und ein Ball.\n\nEin Baum.\n".encode())
    assert main(["translate", "--checkpoint", str(checkpoint), "--beam", "1"]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == 4 and lines[0] and lines[1] == "" and lines[2]


def test_a_mark_that_an_editor_puts_first_is_no_text():
    file = io.BytesIO("\ufeffEin Hund.\n\ufeffx\n".encode())
    assert list(lines_of(file, 9)) == [[(1, "Ein Hund."), (2, "\ufeffx")]]


SHORT = "Ein Hund.\nEin Baum.\n"


@pytest.mark.parametrize(("raw", "lines", "said"), [
    (SHORT.encode(), 2, ""),
    (SHORT.replace("\n", "\r\n").encode(), 2, ""),
    (SHORT.replace("\n", "\r").encode(), 1,
     r"1 line was read, of 19 characters: only LF \(or CR LF\) .*1 carriage returns.*tr '\\r' "),
    (SHORT.replace("\n", "\u2028").encode(), 1, r"it holds 2 line separators, U\+2028.*sed "),
    (SHORT.replace("\n", "\x85").encode(), 1, r"it holds 2 next-line characters"),
    (("Ein Hund. " * 200).encode(), 1, r"1 line was read, of 2,000 characters: only LF"),
    (("Ein Hund. " * 200).encode() + b"\nEin Baum.\n", 2, ""),
], ids=["LF", "CR LF", "CR", "U+2028", "U+0085", "long", "one of two is long"])
def test_only_lf_ends_a_line_and_one_long_line_is_told(raw, lines, said, capsys):
    read = [line for group in lines_of(io.BytesIO(raw), 9) for line in group]
    assert [number for number, _ in read] == list(range(1, lines + 1))
    assert not any(line.endswith(("\r", "\n")) for _, line in read)
    error = capsys.readouterr().err
    assert bool(error) == bool(said) and re.search(said, error)


@pytest.mark.parametrize("code", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_text_in_two_bytes_is_told_the_command_that_converts_it(code, checkpoint, monkeypatch,
                                                                capsys):
    feed(monkeypatch, SHORT.encode(code))
    assert main(["translate", "--checkpoint", str(checkpoint)]) == 1
    error = capsys.readouterr().err
    assert f"iconv -f {code[:6]}" in error and "latin1" not in error


CUT = ["猫猫猫", "u\u0308ber", "q\u0308q\u0308q\u0308", "👩🏽\u200d🚀👩🏽\u200d🚀", "क्षि क्षि",
       "\ufffd\ufffd", "\u0308\u0308\u0308"]


@pytest.mark.parametrize("text", CUT)
def test_the_cut_never_splits_a_character(text, monkeypatch, capsys):
    bpe = BPE([" "], [])  # all else is spelled in bytes
    whole = bpe.decode(bpe.encode(text))
    for longest in range(1, len(bpe.encode(text))):
        monkeypatch.setattr("course.__main__.MAX_LINE_TOKENS", longest)
        cut = shortened(bpe, 1, text)
        assert whole.startswith(cut)
        assert len(bpe.encode(cut)) <= longest or "\ufffd" in text
        seams = [i for i in range(1, len(whole)) if not joined(whole[i - 1], whole[i])]
        seams = [i for i in [*seams, len(whole)] if i <= len(cut)]
        assert not seams or len(cut) == seams[-1], (cut, whole)
    assert "line 1 has" in capsys.readouterr().err


def test_translate_names_the_line_that_is_not_utf8(checkpoint, monkeypatch, capsys):
    feed(monkeypatch, b"Ein Hund.\nEin H\xfcgel.\n")
    assert main(["translate", "--checkpoint", str(checkpoint)]) == 1
    assert "line 2 is not UTF-8 (byte 0xfc)" in capsys.readouterr().err


def test_translate_warns_about_a_line_that_is_too_long(checkpoint, monkeypatch, capsys):
    feed(monkeypatch, ("Hund " * 2000).encode() + b"\n")
    monkeypatch.setattr("course.__main__.MAX_LINE_TOKENS", 12)
    assert main(["translate", "--checkpoint", str(checkpoint), "--beam", "1"]) == 0
    captured = capsys.readouterr()
    assert "line 1 has" in captured.err and len(captured.out.splitlines()) == 1


def test_evaluate_prints_scores_with_signatures(checkpoint, small_corpus, capsys):
    arguments = ["evaluate", "--checkpoint", str(checkpoint), "--corpus", "captions", "--split",
                 "test", "--beam", "2"]
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["sentences"] == 15 and result["beam"] == 2
    assert "tok:13a" in result["signatures"]["bleu"] and "case:lc" in (
        result["signatures"]["bleu_lowercased"])
    assert main(arguments) == 0
    assert f"{result['bleu']:.2f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, words",
    [
        ("translate --checkpoint no-such-model", "no checkpoint 'no-such-model'"),
        ("evaluate --checkpoint x --corpus captions --split dev", "dev"),
        ("train --corpus captions --preset huge --out x --epochs 1", "preset 'huge' is unknown"),
        ("train --corpus captions --preset tiny --out x --epochs 1 --set droput=0.3",
         "droput is nothing that a recipe sets"),
        ("train --corpus captions --preset tiny --out x --epochs 1 --set d_model=wide",
         "d_model='wide': give an int"),
        ("train --corpus captions --preset tiny --out {tmp} --epochs 1 --resume", "to resume"),
        ("train --corpus captions --preset tiny --out {tmp} --minutes -1", "more than 0"),
    ],
)
def test_a_wrong_request_is_told_in_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    feed(monkeypatch, b"")
    assert main(arguments.format(tmp=tmp_path / "run").split()) == 1
    assert words in capsys.readouterr().err


def test_a_run_is_not_overwritten(checkpoint, small_corpus, capsys):
    before = (checkpoint / "model.safetensors").read_bytes()
    assert main(["train", "--corpus", "captions", "--preset", "tiny", "--out", str(checkpoint),
                 "--epochs", "1"]) == 1
    assert "--resume" in capsys.readouterr().err
    assert (checkpoint / "model.safetensors").read_bytes() == before


def test_a_recipe_is_changed_and_remembered(small_corpus, tmp_path, capsys):
    run = ["train", "--corpus", "captions", "--preset", "tiny", "--out", str(tmp_path / "run"),
           "--set", "dropout=0.2", "--set", "norm=post", "--set", "max_tokens=500"]
    assert main([*run, "--epochs", "1", "--precision", "bfloat16"]) == 0
    assert "products in bfloat16" in capsys.readouterr().err
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert record["model.dropout"] == 0.2 and record["model.norm"] == "post"
    assert record["max_tokens"] == 500 and record["switches.bfloat16"] is True
    assert main([*run, "--epochs", "2", "--resume"]) == 0  # with the switches that it began with
    assert main([*run, "--epochs", "3", "--resume", "--precision", "float32"]) == 1
    assert "switches.bfloat16=True, not False" in capsys.readouterr().err


def test_a_run_is_recorded_when_it_is_done(small_corpus, tmp_path, capsys):
    runs, command = tmp_path / "runs.jsonl", ["train", "--corpus", "captions", "--preset", "tiny"]
    for seed in ("0", "1"):
        assert main([*command, "--set", "dropout=0.2", "--out", str(tmp_path / seed), "--epochs",
                     "1", "--seed", seed, "--record", str(runs)]) == 0
    assert f"in {runs}" in capsys.readouterr().out
    first, second = read_trials(runs)
    assert (first.changes, first.seed, second.seed) == ({"dropout": 0.2}, 0, 1)
    assert first.epochs == 1
    assert first.command.startswith("python -m course train --corpus captions --preset tiny")


def test_two_checkpoints_are_compared(checkpoint, small_corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "progress.json"))
    weak = tmp_path / "weak"
    assert main(["train", "--corpus", "captions", "--preset", "tiny", "--out", str(weak),
                 "--epochs", "1"]) == 0
    arguments = ["evaluate", "--corpus", "captions", "--split", "test", "--beam", "1",
                 "--checkpoint", str(weak), "--against"]
    capsys.readouterr()
    assert main([*arguments, str(checkpoint), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    bleu = found["against"]["BLEU"]
    assert bleu["system"] == pytest.approx(found["bleu"])
    assert bleu["difference"] == pytest.approx(bleu["system"] - bleu["baseline"])
    assert bleu["verdict"] == ("significant" if bleu["p_value"] < 0.05 else "may be chance")
    line = f"{bleu['difference']:+.2f} against {checkpoint} (p = {bleu['p_value']:.3f}"
    assert line in dict(run_lines())["weak, test, beam 1"]
    assert main([*arguments[:-3], "--checkpoint", str(checkpoint), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bleu"] == pytest.approx(bleu["baseline"])
    assert main([*arguments, str(weak)]) == 0
    assert "(+0.00), p = 1.000: may be chance" in capsys.readouterr().out
    assert main([*arguments, "no-such-model"]) == 1
    assert "no checkpoint 'no-such-model'" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", ["train --corpus captions --preset tiny --out x",
                                       "train --corpus captions --preset tiny --out x --epochs 1 "
                                       "--set dropout",
                                       "translate --checkpoint x --beam 0", "fly"])
def test_usage_errors_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments.split())
    assert stop.value.code == 2


# ---------------------------------------------------------------- disks, folders, numbers

RUN = ["train", "--corpus", "captions", "--preset", "tiny", "--epochs", "1", "--out"]


@pytest.mark.parametrize("spoiled", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_run_whose_checkpoint_is_cut_goes_on_from_its_state(
    checkpoint, small_corpus, tmp_path, capsys, spoiled
):
    place = tmp_path / "run"
    shutil.copytree(checkpoint, place)
    whole = (place / "model.safetensors").read_bytes()
    (place / spoiled).write_bytes(b"{")
    again = [*RUN, str(place), "--resume"]
    again[again.index("1")] = "12"
    assert main(["translate", "--checkpoint", str(place)]) == 1
    assert "--resume" in capsys.readouterr().err  # the advice
    assert main(again) == 0
    assert "built anew from the state" in capsys.readouterr().err
    assert (place / "model.safetensors").read_bytes() == whole


def test_a_full_disk_at_the_first_save_and_the_same_command(
    small_corpus, tmp_path, monkeypatch, capsys
):
    rename = os.replace

    def full(source, target):
        if Path(target).name == "model.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("course.rundir.os.replace", full)
        assert main([*RUN, str(tmp_path / "run")]) == 1
    assert "give the same command again" in capsys.readouterr().err
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    assert main([*RUN, str(tmp_path / "run")]) == 0
    assert main([*RUN, str(tmp_path / "other"), "--resume"]) == 0  # and from the state


@pytest.mark.parametrize("name", ["training.json", "state.safetensors", "log.jsonl"])
def test_what_cannot_be_resumed_is_named_in_a_line(
    checkpoint, small_corpus, tmp_path, capsys, name
):
    place = tmp_path / "run"
    shutil.copytree(checkpoint, place)
    (place / name).write_bytes(b"[1]\n")
    assert main([*RUN, str(place), "--resume"]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert str(place / name) in told


@pytest.mark.parametrize(
    "arguments, words",
    [
        ("translate --checkpoint x --length-penalty nan", "no length penalty from 0 to 10"),
        ("translate --checkpoint x --length-penalty -1000", "no length penalty from 0 to 10"),
        ("evaluate --checkpoint x --corpus captions --split val --length-penalty 1000",
         "no length penalty from 0 to 10"),
        ("translate --checkpoint x --length-penalty much", "no length penalty from 0 to 10"),
        ("translate --checkpoint x --beam -3", "not a whole number of 1 or more"),
        ("translate --checkpoint x --beam ²", "not a whole number of 1 or more"),
        ("train --corpus captions --preset tiny --out x --epochs 0", "not a whole number of 1"),
        ("train --corpus captions --preset tiny --out x --epochs 1 --seed -1", "number from 0"),
        ("train --corpus captions --preset tiny --out x --epochs 1 --seed 99999999999999999999",
         "whole number from 0"),
    ],
)
def test_a_number_that_means_nothing_is_refused_before_any_work(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments.split())
    assert stop.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize("value", [
    "peak_lr=Infinity", "peak_lr=NaN", "peak_lr=-1", "warmup=0", "max_tokens=0", "dropout=NaN",
    "dropout=-1", "dropout=1.5", "label_smoothing=1", "average=100000", "average=-1", "clip=0",
    "accumulate=0", "eps=-1", "eps=NaN", "betas=[0.9,1.0]", "average_span=2", "d_model=0",
    "n_heads=0", "n_heads=3", "n_layers=0", "d_ff=-4", "vocab=0", "vocab=-7",
])
def test_a_recipes_number_that_means_nothing_has_a_sentence(small_corpus, tmp_path, capsys, value):
    assert main([*RUN, str(tmp_path / "run"), "--set", value]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert value.partition("=")[0] in told and told.startswith("train: ")


def test_minutes_of_nothing(small_corpus, tmp_path, capsys):
    for minutes in ("0", "nan", "inf", "-1"):
        assert main(["train", "--corpus", "captions", "--preset", "tiny", "--minutes", minutes,
                     "--out", str(tmp_path / "run")]) == 1
        assert "more than 0 and finite" in capsys.readouterr().err


def test_a_read_only_course_writes_into_the_users_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("COURSE_BUILD", raising=False)
    monkeypatch.setattr("course.ASSETS", Path("/proc/course/assets"))
    monkeypatch.setattr("platformdirs.user_data_path", lambda name: tmp_path / name)
    assert output_folder() == tmp_path / "attention-course" / "build"
    monkeypatch.setattr("platformdirs.user_data_path", lambda name: Path("~") / name)  # no home
    assert output_folder() == Path(tempfile.gettempdir()) / "attention-course"
    monkeypatch.setattr("platformdirs.user_data_path", lambda name: Path("/proc/home") / name)
    assert output_folder() == Path(tempfile.gettempdir()) / "attention-course"
    assert output_folder(tmp_path / "named") == tmp_path / "named"
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path / "set"))
    assert output_folder() == tmp_path / "set"
    with pytest.raises(OSError, match="cannot write into /proc/x.*--out or by COURSE_BUILD"):
        output_folder(Path("/proc/x"))


def test_the_walkthrough_says_where_it_writes_before_it_works(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("course.__main__.keep_for_report", lambda *_: None)

    def execute(source, target, progress):
        said = capsys.readouterr().out
        assert "ten minutes" in said and str(tmp_path / "mine") in said
        assert os.environ["COURSE_BUILD"] == str(tmp_path / "mine")
        raise ValueError("as far as this")

    monkeypatch.setattr("course.pages.execute", execute)
    monkeypatch.setenv("COURSE_BUILD", "before")
    assert main(["walkthrough", "--out", "mine"]) == 1
    assert "as far as this" in capsys.readouterr().err
    assert main(["walkthrough", "--out", "/proc/no"]) == 1  # at once
    assert "--out" in capsys.readouterr().err


def test_the_report_goes_where_it_is_told_to(tmp_path, capsys):
    assert main(["homework", "report", "--name", "Li Wei", "--out", str(tmp_path / "mine")]) == 0
    assert str(tmp_path / "mine" / "report.html") in capsys.readouterr().out
    assert "Li Wei" in (tmp_path / "mine" / "report.html").read_text("utf-8")
