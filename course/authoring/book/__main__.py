"""python -m course.authoring.book: every stored notebook as a page, into build/book."""

import argparse
import importlib.resources
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
import vl_convert
from fontTools import subset
from sphinx.cmd.build import main as sphinx

from course import ASSETS
from course.authoring import NOTEBOOKS, ROOT, merge_marks
from course.authoring.book import pages
from course.page import write_page

HERE = Path(__file__).parent
# what formulas are set with: letters upright, slanted, bold, script and double; Greek; operators
MATH_LETTERS = (
    (0x20, 0x7E), (0xA0, 0xFF), (0x2C6, 0x2DC), (0x300, 0x338), (0x391, 0x3F5), (0x2016, 0x2064),
    (0x210A, 0x2135), (0x2190, 0x21FF), (0x2200, 0x22FF), (0x2308, 0x230B), (0x239B, 0x23B3),
    (0x23DE, 0x23DF), (0x27E8, 0x27E9), (0x2A7D, 0x2A7E), (0x1D400, 0x1D467), (0x1D49C, 0x1D4CF),
    (0x1D538, 0x1D56B), (0x1D6A8, 0x1D71B),
)


def suffix(name: str) -> str:
    return ".md" if name in ("glossary", "translator") else ".ipynb"


def front_page(parts: dict[str, list[str]], told: dict[str, tuple[str, str]]) -> str:
    """Return the first page: what this is, and every page with a sentence on it."""
    lines = [(HERE / "index.md").read_text("utf-8").rstrip()]
    for part, names in parts.items():
        if names:
            lines.append(f"## {part}")
            lines.append("\n".join(
                f"- [{title}]({name}{suffix(name)})" + f": {promise}" * bool(promise)
                for name in names for title, promise in [told[name]]))
    return "\n\n".join([*lines, *pages.toctrees(parts)]) + "\n"


def math_font(target: Path) -> None:
    """Write STIX Two Math (SIL Open Font License), cut to what formulas are set with."""
    whole = importlib.resources.files("ziamath.fonts") / "STIXTwoMath-Regular.ttf"
    options = subset.Options(flavor="woff2", name_IDs=["*"])
    font = subset.load_font(str(whole), options)
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=[code for low, high in MATH_LETTERS for code in range(low, high + 1)])
    cutter.subset(font)
    subset.save_font(font, str(target), options)


def prepare(made: Path, language: str) -> list[pages.Page]:
    """Write into a folder all that Sphinx is to read; return the pages."""
    source, static, extra = made / "source", made / "static", made / "extra"
    for folder in (source, static, extra):
        folder.mkdir(parents=True)
    parts = pages.contents(NOTEBOOKS)
    every = [page for found in parts.values() for page in found]
    told = {}
    for page in every:
        if marks := merge_marks(page.stored):
            raise SystemExit(marks)
        notebook = nbformat.read(page.stored, as_version=4)
        told[page.name] = pages.title_and_promise(notebook)
        target = source / f"{page.name}.ipynb"
        target.parent.mkdir(exist_ok=True)
        nbformat.write(pages.adapt(notebook, page, extra / "figures"), target)
    terms = pages.read_glossary(ASSETS / "glossary.tsv")
    titles = {name: title for name, (title, _) in told.items()}
    (source / "glossary.md").write_text(pages.glossary_page(terms, titles), "utf-8")
    shutil.copy(HERE / "translator.md", source)
    write_page("multi30k-de-en", extra / "translator" / "index.html", "../{}.html")
    told["translator"] = ("The translator, alive", "type German, and watch every part at work")
    told["glossary"] = ("Glossary", "the words that stop a first reader, in three languages")
    names = {part: [page.name for page in found] for part, found in parts.items()}
    names["Begin"].append("translator")
    names["To look up"] = ["glossary"]
    (source / "index.md").write_text(front_page(names, told), "utf-8")
    for name in ("transformer.png", "translator.png"):
        shutil.copy(ASSETS / name, extra / "figures")
    settings = {"language": language, "terms": terms}
    (made / "settings.json").write_text(json.dumps(settings), "utf-8")
    # a plain script, since a page opened from a disk may load no module
    vega = vl_convert.javascript_bundle()
    (static / "vega.js").write_text(f"(() => {{\n{vega}\n}})();\n", "utf-8")
    math_font(static / "STIXTwoMath.woff2")
    return every


def build(target: Path, language: str = "en", jobs: str = "auto") -> int:
    """Write the book into a folder, in place of what is there; return Sphinx's exit status."""
    with tempfile.TemporaryDirectory() as folder:
        made, done = Path(folder), Path(folder) / "book"
        every = prepare(made, language)
        os.environ["COURSE_BOOK"] = str(made)
        status = sphinx(["-b", "html", "-q", "-W", "--keep-going", "-j", jobs, "-c", str(HERE),
                         "-d", str(made / "doctrees"), str(made / "source"), str(done)])
        # what no reader's browser asks for
        unread = [done / ".buildinfo", done / "objects.inv", *done.glob("_static/**/*.map")]
        for path in unread:
            path.unlink(missing_ok=True)
        for path in (done / "jupyter_execute", done / "_static" / "locales"):
            shutil.rmtree(path, ignore_errors=True)
        for page in every:  # the download is the stored notebook, not our copy of it
            download = pages.without_pictures(nbformat.read(page.stored, as_version=4))
            nbformat.write(download, done / "_sources" / f"{page.name}.ipynb")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(done, target)
    return status


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m course.authoring.book", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "book")
    parser.add_argument("--language", default="en", help="of the book's own words, like zh_CN")
    parser.add_argument("--jobs", default="auto", help="how many processes")
    options = parser.parse_args(arguments)
    status = build(options.out, options.language, options.jobs)
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{options.out / 'index.html'} ({size / 1e6:.1f} MB): open it in any browser")
    return status


if __name__ == "__main__":
    sys.exit(main())
