"""A browser for the tests, and the book that they read; or a sentence on why they are left out.

The driver (Playwright) is in the book's environment (`make .venv-book/installed`), the browser is
the system's Chromium. A test that asks for `browser` or `book` is skipped where one is missing.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
BOOK_ENVIRONMENT = ROOT / ".venv-book"
PYTHON = BOOK_ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def from_book_environment(name: str) -> ModuleType:
    """Import a package of the tests from the book's environment; skip where it is not there."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for folder in (BOOK_ENVIRONMENT / "lib" / version, BOOK_ENVIRONMENT / "Lib"):
        place = str(folder / "site-packages")
        if folder.exists() and place not in sys.path:
            sys.path.append(place)  # behind this environment's own packages
    return pytest.importorskip(name, reason=f"{name} is not here: make test-book brings it")


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """The system's Chromium, driven by Playwright."""
    chromium = next(filter(None, map(shutil.which, (
        "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None)
    if chromium is None:
        pytest.skip("there is no Chromium here: apt-get install chromium brings it")
    driver = from_book_environment("playwright.sync_api")
    with driver.sync_playwright() as playwright:
        # a container's root has no sandbox; only this course's own pages are opened
        found = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="session")
def book(tmp_path_factory) -> Path:
    """The folder of the book, made from the notebooks as they are, or that of COURSE_BOOK_MADE."""
    if os.environ.get("COURSE_BOOK_MADE"):
        return Path(os.environ["COURSE_BOOK_MADE"]).resolve()  # a browser wants it whole
    if not PYTHON.exists():
        pytest.skip("the book's environment is not here: make test-book makes it")
    folder = tmp_path_factory.mktemp("book") / "a place"  # with a blank, as on many a disk
    done = subprocess.run(
        [PYTHON, "-m", "course.authoring.book", "--out", folder, "--jobs", "1"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core, which looks for what shuts readers out."""
    package = Path(from_book_environment("axe_playwright_python").__file__).parent
    return (package / "axe.min.js").read_text("utf-8")
