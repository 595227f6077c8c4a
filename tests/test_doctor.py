"""The doctor names what is missing and what mends it, and lets pass what the course can spare."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from course import doctor as module
from course.corpora import CorpusError, multi30k
from course.doctor import doctor

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def sound_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine on which every check passes, offline; returns its requirements.txt."""
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# pins\n-c constraints.txt\npytest  # any\n", encoding="utf-8")
    monkeypatch.setattr(module, "REQUIREMENTS", requirements)
    monkeypatch.setattr(module, "_device", lambda: "cpu")
    monkeypatch.setattr(module, "_captions", lambda: "1,000 test sentences generated")
    monkeypatch.setattr(multi30k, "found", lambda: True)
    monkeypatch.setattr(multi30k, "available", lambda: False)
    return requirements


def report(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The line of each subject."""
    lines = capsys.readouterr().out.splitlines()
    return {line[6:].partition(":")[0]: line for line in lines[:-1]}


def test_a_sound_machine(capsys: pytest.CaptureFixture[str]):
    assert doctor()
    lines = report(capsys)
    assert list(lines) == ["Python", "pytest", "device", "spaCy", "captions", "multi30k"]
    assert all(line.startswith("OK ") for line in lines.values())


def test_this_machine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.undo()
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    assert doctor(), capsys.readouterr().out
    assert "FAIL" not in capsys.readouterr().out


@pytest.mark.parametrize("version", [(3, 10, 9), (3, 14, 0)])
def test_python_of_another_version(version, monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", version)
    assert not doctor()
    line = report(capsys)["Python"]
    assert line.startswith("FAIL") and "Install Python 3.11, 3.12 or 3.13" in line


def test_a_missing_package_fails(sound_machine: Path, capsys: pytest.CaptureFixture[str]):
    sound_machine.write_text("no-such-package==1.0\n", encoding="utf-8")
    assert not doctor()
    line = report(capsys)["no-such-package"]
    assert line.startswith("FAIL") and "pip install -r requirements.txt" in line


def test_without_any_package_it_still_says_what_to_do():
    done = subprocess.run([sys.executable, "-S", "-m", "course", "doctor"], cwd=ROOT,
                          capture_output=True, encoding="utf-8")
    assert done.returncode == 1 and not done.stderr
    for subject in ("torch", "device", "spaCy", "multi30k"):
        assert re.search(rf"^FAIL  {subject}.*pip install -r requirements.txt", done.stdout, re.M)
    assert done.stdout.splitlines()[-1].startswith("Not ready")


def test_another_version_is_only_a_note(sound_machine: Path, capsys: pytest.CaptureFixture[str]):
    sound_machine.write_text("pytest==0.1\n", encoding="utf-8")
    assert doctor()
    line = report(capsys)["pytest"]
    assert line.startswith("NOTE") and f"{pytest.__version__}, but" in line and "==0.1" in line


def test_without_requirements_the_rest_is_checked(
    sound_machine: Path, capsys: pytest.CaptureFixture[str]
):
    sound_machine.unlink()
    assert doctor()
    lines = report(capsys)
    assert lines["packages"].startswith("NOTE") and lines["captions"].startswith("OK")


@pytest.mark.parametrize(
    ("check", "subject"), [("_device", "device"), ("_tokenise", "spaCy"), ("_captions", "captions")]
)
def test_what_is_needed_fails_and_the_report_goes_on(check, subject, monkeypatch, capsys):
    def broken() -> str:
        raise OSError("the disk is gone")

    monkeypatch.setattr(module, check, broken)
    assert not doctor()
    lines = report(capsys)
    assert lines[subject].startswith("FAIL") and "the disk is gone" in lines[subject]
    assert lines["multi30k"].startswith("OK")


def test_multi30k_that_can_be_downloaded(monkeypatch, capsys):
    monkeypatch.setattr(multi30k, "found", lambda: False)
    monkeypatch.setattr(multi30k, "available", lambda: True)
    assert doctor()
    assert "can be downloaded" in report(capsys)["multi30k"]


def test_multi30k_that_cannot_be_had_is_a_note(monkeypatch, capsys):
    monkeypatch.setattr(multi30k, "found", lambda: False)
    assert doctor()
    line = report(capsys)["multi30k"]
    assert line.startswith("NOTE") and multi30k.BASE_URL in line and "COURSE_DATA" in line


def test_a_damaged_multi30k_is_a_note(monkeypatch, capsys):
    def damaged() -> bool:
        raise CorpusError("train.de.gz is damaged.")

    monkeypatch.setattr(multi30k, "found", damaged)
    assert doctor()
    line = report(capsys)["multi30k"]
    assert line.startswith("NOTE") and "train.de.gz is damaged" in line
