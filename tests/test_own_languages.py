"""Own languages: a pair in another script, from a small grammar, is trained and translated."""

import io
import json
import sys
from itertools import product
from pathlib import Path

import pytest

from course.__main__ import main
from course.text import BPE

SUBJECTS = {  # Hindi: the verb ends in ता after these ...
    "लड़का": "boy", "आदमी": "man", "कुत्ता": "dog", "घोड़ा": "horse",
    "लड़की": "girl", "औरत": "woman", "बिल्ली": "cat", "गाय": "cow",  # ... and in ती after these
}
FEMALE = list(SUBJECTS)[4:]
COLOURS = {"": "", "लाल ": "red ", "सुंदर ": "beautiful ", "गोल ": "round "}
THINGS = {"किताब": "book", "गेंद": "ball", "सेब": "apple", "फूल": "flower", "पत्थर": "stone"}
VERBS = {"देख": "sees", "ला": "brings", "रख": "keeps", "चाह": "wants"}


def sentence(subject: str, colour: str, thing: str, verb: str) -> tuple[str, str]:
    """The verb stands last, agrees with the subject, and no word is an article."""
    ending = "ती" if subject in FEMALE else "ता"
    hindi = f"{subject} {colour}{thing} {verb}{ending} है।"
    return hindi, f"The {SUBJECTS[subject]} {VERBS[verb]} the {COLOURS[colour]}{THINGS[thing]}."


RARE = "".join(map(chr, range(0x4E00, 0x4F00)))  # each comes once: three bytes, three tokens
PAIRS = [sentence(*words) for words in product(SUBJECTS, COLOURS, THINGS, VERBS)]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    paths = tuple(tmp_path_factory.mktemp("own") / f"own.{side}" for side in ("hi", "en"))
    for path, lines in zip(paths, zip(*PAIRS, strict=True), strict=True):
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paths


@pytest.fixture(scope="module")
def run(files, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("hindi") / "run"
    source = ["--src", str(files[0]), "--tgt", str(files[1])]
    assert main(["train", *source, "--preset", "tiny", "--out", str(out), "--epochs", "30"]) == 0
    return out


def test_an_own_pair_in_another_script_is_learned_and_translated(run, files, monkeypatch, capsys):
    from course.corpora.plain import own_pairs

    held_out = own_pairs(*files)[1]
    assert len(held_out) == 32
    text = "\n".join(hindi for hindi, _ in held_out).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text), encoding="utf-8"))
    assert main(["translate", "--checkpoint", str(run), "--beam", "1"]) == 0
    said = capsys.readouterr().out.splitlines()
    right = sum(line == english for line, (_, english) in zip(said, held_out, strict=True))
    assert right >= 28, "of 32 sentences that it never saw"


def test_a_model_is_judged_by_own_pairs(run, files, tmp_path, capsys):
    few = [tmp_path / "few.hi", tmp_path / "few.en"]
    for path, whole in zip(few, files):
        path.write_text("".join(whole.read_text("utf-8").splitlines(True)[:40]), "utf-8")
    arguments = ["evaluate", "--checkpoint", str(run), "--beam", "1", "--src", str(few[0])]
    assert main([*arguments, "--tgt", str(few[1]), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["corpus"], result["split"], result["sentences"]) == ("own", "few.hi", 40)
    assert result["bleu"] > 80
    assert main(arguments) == 1 and "go together" in capsys.readouterr().err


def test_hindi_words_are_tokens_and_not_bytes(run):
    bpe = BPE.load(run / "tokenizer.json")
    assert bpe.tokens("लड़की किताब") == ["▁लड़की", "▁किताब"]


def test_a_run_on_own_pairs_goes_on_with_the_same_pairs_only(run, files, tmp_path, capsys):
    other = tmp_path / "other.en"
    other.write_text("\n".join(english.upper() for _, english in PAIRS), encoding="utf-8")
    goes_on = ["--preset", "tiny", "--out", str(run), "--epochs", "31", "--resume"]
    assert main(["train", "--src", str(files[0]), "--tgt", str(other), *goes_on]) == 1
    assert "corpus" in capsys.readouterr().err
    assert json.loads((run / "training.json").read_text())["corpus"]


@pytest.mark.parametrize(("change", "words"), [
    (lambda src, tgt: tgt.write_bytes(b"One\n"), "line 2, has no partner"),
    (lambda src, tgt: src.write_bytes(src.read_text("utf-8").encode("utf-16")), "iconv -f utf-16"),
    (lambda src, tgt: src.write_text("एक\n" * 640, "utf-8"), "one sentence only"),
    (lambda src, tgt: src.write_text(RARE + "\n" + src.read_text("utf-8"), "utf-8")
     and tgt.write_text("One\n" + tgt.read_text("utf-8"), "utf-8"), "more than a batch of 300"),
], ids=["a line is missing", "UTF-16", "one sentence", "too long for a batch"])
def test_what_is_wrong_with_own_pairs_is_told(change, words, files, tmp_path, capsys):
    src, tgt = tmp_path / "a", tmp_path / "b"
    src.write_bytes(files[0].read_bytes())
    tgt.write_bytes(files[1].read_bytes())
    change(src, tgt)
    arguments = ["train", "--src", str(src), "--tgt", str(tgt), "--preset", "tiny", "--epochs", "1",
                 "--out", str(tmp_path / "run"), "--set", "max_tokens=300"]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


def test_one_file_alone_is_told(files, tmp_path, capsys):
    rest = ["--preset", "tiny", "--epochs", "1", "--out", str(tmp_path / "run")]
    assert main(["train", "--src", str(files[0]), *rest]) == 1
    assert "--src FILE and --tgt FILE go together" in capsys.readouterr().err


def test_a_directory_is_trained_on(files, tmp_path, capsys):
    for path, side in zip(files, ("src", "tgt")):
        (tmp_path / f"train.{side}").write_bytes(path.read_bytes())
    assert main(["train", "--pairs", str(tmp_path), "--preset", "tiny", "--epochs", "1",
                 "--out", str(tmp_path / "run")]) == 0
    assert "608 pairs to learn from, 32 to check by" in capsys.readouterr().err
