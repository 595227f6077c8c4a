"""JupyterLab beside the course: a page that is opened and saved is the same file."""

import asyncio
import json
import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from ipykernel.ipkernel import IPythonKernel
from jupyter_client.kernelspec import get_kernel_spec
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from jupyterlab_server.config import get_page_config
from jupyterlab_server.settings_utils import _get_overrides
from jupytext import build_async_jupytext_contents_manager_class
from nbconvert import ScriptExporter

from course.__main__ import main
from course.authoring import NOTEBOOKS, ROOT
from course.authoring.pair import as_text
from course.homework import pairs
from course.lab import Pages
from course.pages import LANGUAGE

PAGES = sorted(page for place in ("*", "zh/**/*", "homework/*/*/*")
               for page in NOTEBOOKS.glob(f"{place}.ipynb"))
SETTINGS = ROOT / "assets" / "jupyter"


@pytest.fixture(scope="module")
def kernel():
    """What JupyterLab stores of the kernel: its specification and its language."""
    spec, told = get_kernel_spec("python3"), IPythonKernel()
    return {"kernelspec": {"name": "python3", "display_name": spec.display_name,
                           "language": spec.language},
            "language_info": {**told.language_info}}


def ended(work):
    """Run a coroutine to its end, in a thread: a browser's tests leave a loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def open_and_save(folder, name, kernel, manager=Pages):
    """Do to a page what JupyterLab does; return what its tab shows as changed, and what git does.

    In the browser the notebook gets the kernel's metadata; where they are others, the tab is dirty.
    """
    contents = build_async_jupytext_contents_manager_class(manager)(root_dir=str(folder))
    halves = [folder / name, (folder / name).with_suffix(".py")]
    before = [half.read_bytes() for half in halves]

    async def use():
        model = await contents.get(name, type="notebook")
        shown = json.loads(json.dumps(model["content"]))  # as it goes over the wire
        dirty = [key for key, value in kernel.items() if shown["metadata"].get(key) != value]
        shown["metadata"] |= kernel
        await contents.save({"type": "notebook", "format": "json", "content": shown}, name)
        return dirty

    dirty = ended(use())
    return dirty, [half.name for half, b in zip(halves, before) if half.read_bytes() != b]


@pytest.mark.parametrize(("version", "pages"), [("3.11.7", PAGES[-3:]), ("3.13.2", PAGES)])
def test_opening_and_saving_changes_no_page(tmp_path, monkeypatch, kernel, version, pages):
    monkeypatch.setattr(platform, "python_version", lambda: version)
    kernel["language_info"]["version"] = version
    for page in pages:
        for half in (page, page.with_suffix(".py")):
            shutil.copy2(half, tmp_path)
        assert open_and_save(tmp_path, page.name, kernel) == ([], []), page


def test_a_page_without_its_metadata_would_be_changed(tmp_path, kernel):
    page = PAGES[0]
    notebook = nbformat.read(page, 4)
    del notebook.metadata["language_info"]
    nbformat.write(notebook, tmp_path / page.name)
    shutil.copy(page.with_suffix(".py"), tmp_path)
    assert open_and_save(tmp_path, page.name, kernel) == (["language_info"], [page.name])
    kernel["language_info"]["version"] = "3.9.9"
    dirty, changed = open_and_save(tmp_path, page.name, kernel, AsyncLargeFileManager)
    assert dirty and changed  # without the course's setting


def test_what_a_learner_writes_is_saved(tmp_path):
    (tmp_path / "notes.txt").write_text("words")
    mine = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("a = 1")])

    async def use():
        contents = build_async_jupytext_contents_manager_class(Pages)(root_dir=str(tmp_path))
        await contents.save({"type": "notebook", "content": mine}, "mine.ipynb")
        return [(await contents.get(name))["content"] for name in ("mine.ipynb", "notes.txt")]

    page, notes = ended(use())
    assert page["cells"][0]["source"] == "a = 1" and notes == "words"


def test_every_text_half_is_as_jupytext_writes_it():
    for page in PAGES:
        script = page.with_suffix(".py")
        assert as_text(script) == script.read_text("utf-8"), script


def test_a_pair_made_one_is_stored_alike(tmp_path):
    shutil.copy(NOTEBOOKS / "homework" / "release" / "masking" / "masking.py", tmp_path)
    pairs.sync(tmp_path / "masking.py")
    assert nbformat.read(tmp_path / "masking.ipynb", 4).metadata.language_info == LANGUAGE
    assert as_text(tmp_path / "masking.py") == (tmp_path / "masking.py").read_text("utf-8")


def test_a_page_as_a_script_is_a_py():
    text, told = ScriptExporter().from_filename(str(PAGES[0]))
    assert told["output_extension"] == ".py" and "import" in text


def test_every_way_to_jupyterlab_takes_the_settings(monkeypatch):
    assert json.loads((SETTINGS / "jupyter_server_config.json").read_text("utf-8")) == {
        "ServerApp": {"contents_manager_class": "course.lab.Pages"}}
    monkeypatch.delenv("JUPYTER_CONFIG_PATH", raising=False)
    started = []
    monkeypatch.setattr(subprocess, "run", lambda call, **_: started.append(
        (call, os.environ["JUPYTER_CONFIG_PATH"])) or subprocess.CompletedProcess(call, 0))
    assert main(["lab"]) == 0
    (call, path), = started
    assert Path(path) == SETTINGS and Path(call[-1]).name == "00_start_here.ipynb"
    assert "assets/jupyter" in (ROOT / "Dockerfile").read_text("utf-8")
    assert "assets/jupyter" in (ROOT / "binder" / "start").read_text("utf-8")
    assert "-m course lab" in (ROOT / "Makefile").read_text("utf-8")


def test_a_page_is_never_read_while_another_save_writes_it(tmp_path, monkeypatch):
    done = []

    async def read(self, path, **_):
        done.append("read")
        return {"type": "notebook", "content": {"metadata": {}}}

    async def write(self, model, path=""):
        done.append("begin")
        await asyncio.sleep(0)  # others may go on here
        done.append("end")

    async def use():
        manager = Pages(root_dir=str(tmp_path))
        model = {"type": "notebook", "content": {"metadata": {}}}
        await asyncio.gather(*(manager.save(model, "a.ipynb") for _ in range(2)))

    (tmp_path / "a.ipynb").touch()
    monkeypatch.setattr(AsyncLargeFileManager, "get", read)
    monkeypatch.setattr(AsyncLargeFileManager, "save", write)
    ended(use())
    assert done == ["read", "begin", "end"] * 2


def test_jupyterlab_asks_for_no_news(monkeypatch):
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(SETTINGS))
    told = _get_overrides("nowhere")[0]["@jupyterlab/apputils-extension:notification"]
    assert told == {"fetchNews": "false", "checkForUpdates": False}


def test_learners_see_no_formgrader(monkeypatch):
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(SETTINGS))
    assert "@jupyter/nbgrader" in get_page_config([])["disabledExtensions"]
