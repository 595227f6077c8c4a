"""Containers and hosted notebooks: one list of versions for all of them."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

from course.authoring import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
BINDER = ROOT / "binder"
README = (ROOT / "README.md").read_text("utf-8")


def lines(text: str) -> list[str]:
    return [line for line in map(str.strip, text.splitlines()) if line and line[0] != "#"]


def test_nobody_has_pins_of_their_own():
    ours = lines((ROOT / "requirements.txt").read_text("utf-8"))
    assert set(lines((BINDER / "hosted.txt").read_text("utf-8"))) < set(ours)
    for text in (DOCKERFILE, (BINDER / "requirements.txt").read_text("utf-8"),
                 (ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8")):
        assert "==" not in text
    assert "-r requirements.txt" in DOCKERFILE
    named = lines((BINDER / "requirements.txt").read_text("utf-8"))[-1].removeprefix("-r ")
    assert (BINDER / named).resolve() == ROOT / "requirements.txt"


def test_each_takes_a_python_that_the_course_knows():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    low, high = map(int, re.findall(r"3\.(\d+)", wanted["requires-python"]))
    for found in (re.search(r"^FROM python:3\.(\d+)", DOCKERFILE, re.M),
                  re.fullmatch(r"python-3\.(\d+)\n", (BINDER / "runtime.txt").read_text("utf-8"))):
        assert low <= int(found[1]) < high


def test_torch_comes_without_cuda_from_the_same_place():
    places = {re.search(r"https://\S+/whl/cpu", text)[0]
              for text in (DOCKERFILE, (BINDER / "requirements.txt").read_text("utf-8"))}
    assert len(places) == 1


def test_the_container_runs_as_nobody_special_and_needs_no_network():
    commands = re.split(r"\n(?=[A-Z]+ )", DOCKERFILE)
    user = next(i for i, command in enumerate(commands) if command.startswith("USER"))
    assert commands[user] == "USER learner"
    assert all("pip install" not in command for command in commands[:user])
    assert "COURSE_OFFLINE=1" in DOCKERFILE and "jupyter" in commands[-1]
    assert set(lines((ROOT / ".dockerignore").read_text("utf-8"))) >= {".git", ".venv*", "build"}


def test_the_dev_container_is_the_same_container():
    folder = ROOT / ".devcontainer"
    told = json.loads((folder / "devcontainer.json").read_text("utf-8"))
    assert (folder / told["build"]["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert (folder / told["build"]["context"]).resolve() == ROOT
    assert f"USER {told['remoteUser']}" in DOCKERFILE


def test_a_hosted_notebook_installs_what_the_pages_import():
    cell = README.split("On Colab or Kaggle")[1].split("```")[1]
    assert "-r ../binder/hosted.txt" in cell and "git clone" in cell
    installed = {re.split("==", line)[0].replace("-python", "").replace("-", "_")
                 for line in lines((BINDER / "hosted.txt").read_text("utf-8"))}
    theirs = {"torch", "numpy", "matplotlib", "IPython", "packaging",
              "nbformat", "nbclient", "nbconvert"}
    authors = {"authoring", "bench", "grading", "to_ctranslate2.py", "lab.py"}
    files = [file for file in ROOT.glob("course/**/*.py")
             if file.relative_to(ROOT / "course").parts[0] not in authors]
    used = {name.partition(".")[0] for file in [*files, *ROOT.glob("notebooks/*.py")]
            for name in re.findall(r"^\s*(?:import|from) (\w[\w.]*)(?: import|$| as|,)",
                                   file.read_text("utf-8"), re.M)}
    assert used - installed - theirs - set(sys.stdlib_module_names) <= {"course", "ctranslate2"}


def can_build() -> bool:
    """A docker whose daemon answers."""
    return bool(shutil.which("docker")) and not subprocess.run(
        ["docker", "info"], capture_output=True, check=False).returncode


@pytest.mark.skipif(not can_build(), reason="no docker that runs here: the image is not built")
def test_the_image_can_be_built():
    done = subprocess.run(["docker", "build", "--quiet", str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_wheel_says_that_a_clone_is_needed(tmp_path):
    source = tmp_path / "source"  # without what a build leaves behind
    shutil.copytree(ROOT / "course", source / "course")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation",
                    "--no-index", "--quiet", "--wheel-dir", tmp_path, source], check=True)
    wheel, = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "installed", "zip")
    for arguments in (["doctor"], ["homework", "list"]):
        done = subprocess.run(
            [sys.executable, "-m", "course", *arguments], cwd=tmp_path, capture_output=True,
            text=True, env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")})
        assert done.returncode == 1 and "Clone or unpack the course's folder" in done.stderr


LIKE_WINDOWS = """
import importlib.abc, os, signal, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in {"resource", "fcntl", "pwd", "grp", "termios", "pty", "syslog"}:
            raise ImportError(f"no {name} on this system")
sys.meta_path.insert(0, Missing())
for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGALRM", "setitimer", "alarm"):
    delattr(signal, name)
for name in ("fork", "killpg", "setsid", "getloadavg"):
    delattr(os, name)
sys.path.insert(0, os.getcwd())
from course.__main__ import main
"""


def test_a_learner_needs_nothing_that_windows_lacks(tmp_path):
    """No fork, no hang-up, a console in cp1252: translate, list, check a page, train."""
    page, text, run = tmp_path / "mine.py", tmp_path / "in.txt", tmp_path / "run"
    page.write_text("# Übung\ndef residual(x, sublayer):\n    return x + sublayer(x)\n", "utf-8")
    text.write_text("Ein Mädchen läuft über die Straße.\n", "utf-8")
    train = ["train", "--corpus", "captions", "--preset", "tiny", "--out", str(run)]
    program = LIKE_WINDOWS + f"""
sys.stdin = open({str(text)!r}, encoding="utf-8")
assert main(["translate", "--checkpoint", "multi30k-de-en"]) == 0
assert main(["homework", "list"]) == 0
main(["homework", "check", {str(page)!r}])
assert main({[*train, "--minutes", "0.01"]}) == 0
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, encoding="utf-8",
        env={**os.environ, "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONIOENCODING": "cp1252",
             "COURSE_PROGRESS": "off", "COURSE_BUILD": str(tmp_path), "USERNAME": "me"})
    assert done.returncode == 0, done.stderr
    assert "girl" in done.stdout and "why_scale" in done.stdout
    assert "residual" in done.stdout.split("why_scale")[1]
    assert (run / "model.safetensors").is_file()
