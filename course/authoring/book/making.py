"""The making of the book: both editions side by side, and what they share kept once."""

import importlib.resources
import json
import os
import re
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import nbformat
import vl_convert
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from fontTools import subset
from sphinx.cmd.build import main as sphinx

from course import ASSETS
from course.authoring import NOTEBOOKS, merge_marks
from course.authoring.book import pages
from course.authoring.book.words import CHINESE, say
from course.page import write_page

HERE = Path(__file__).parent
EDITIONS = {"en": "", "zh_CN": "zh/"}  # where each is in the book, and beside the English notebooks
# what formulas are set with: letters upright, slanted, bold, script and double; Greek; operators
MATH_LETTERS = (
    (0x20, 0x7E), (0xA0, 0xFF), (0x2C6, 0x2DC), (0x300, 0x338), (0x391, 0x3F5), (0x2016, 0x2064),
    (0x210A, 0x2135), (0x2190, 0x21FF), (0x2200, 0x22FF), (0x2308, 0x230B), (0x239B, 0x23B3),
    (0x23DE, 0x23DF), (0x27E8, 0x27E9), (0x2A7D, 0x2A7E), (0x1D400, 0x1D467), (0x1D49C, 0x1D4CF),
    (0x1D538, 0x1D56B), (0x1D6A8, 0x1D71B),
)


def suffix(name: str) -> str:
    return ".md" if name in ("glossary", "translator") else ".ipynb"


def front_page(head: str, parts: dict[str, list[str]], told: dict[str, tuple[str, str]]) -> str:
    """Return the first page: what this is, and every page with a sentence on it."""
    lines = [head.rstrip()]
    for part, names in parts.items():
        if names:
            lines.append(f"## {say(part)}")
            lines.append("\n".join(
                f"- [{title}]({name}{suffix(name)})" + say(": ") * bool(promise) + promise
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


def own_page(name: str, edition: str) -> str:
    """Return a page that is no notebook, its links into the folders that both editions share."""
    text = (HERE / f"{name}{'.zh' if edition else ''}.md").read_text("utf-8")
    up = "../" * edition.count("/")
    text = text.replace('src="figures/', f'src="{up}figures/')
    asked = "?lang=zh" if edition else ""
    return text.replace("translator/index.html", f"{up}translator/index.html{asked}")


def theme_words(folder: Path, language: str) -> None:
    """Write the theme's words, as `say` has them, to where gettext looks before the theme."""
    catalogue = Catalog(language)
    for english, chinese in CHINESE.items():
        catalogue.add(english, chinese)
    for domain in ("sphinx", "booktheme"):
        target = folder / language / "LC_MESSAGES" / f"{domain}.mo"
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            write_mo(file, catalogue)


def prepare(made: Path, shared: Path, language: str) -> list[pages.Page]:
    """Write into a folder all that Sphinx is to read for an edition; return its pages.

    shared: the folder of what both editions show, like pictures.
    """
    source, edition = made / "source", EDITIONS[language]
    source.mkdir(parents=True)
    parts = pages.contents(NOTEBOOKS, edition)
    every = [page for found in parts.values() for page in found]
    told = {}
    for page in every:
        if marks := merge_marks(page.stored):
            raise SystemExit(marks)
        notebook = nbformat.read(page.stored, as_version=4)
        told[page.name] = pages.title_and_promise(notebook)
        target = source / f"{page.name}.ipynb"
        target.parent.mkdir(exist_ok=True)
        nbformat.write(pages.adapt(notebook, page, shared / "figures"), target)
    terms = pages.read_glossary(ASSETS / "glossary.tsv")
    titles = {name: title for name, (title, _) in told.items()}
    (source / "glossary.md").write_text(pages.glossary_page(terms, titles), "utf-8")
    (source / "translator.md").write_text(own_page("translator", edition), "utf-8")
    told["translator"] = (say("The translator, alive"),
                          say("type German, and watch every part at work"))
    told["glossary"] = (say("Glossary"),
                        say("the words that stop a first reader, in three languages"))
    names = {part: [page.name for page in found] for part, found in parts.items()}
    names["Begin"].append("translator")
    names["To look up"] = ["glossary"]
    front = front_page(own_page("index", edition), names, told)
    (source / "index.md").write_text(front, "utf-8")
    other, = {*EDITIONS.values()} - {edition}
    there = [page.name for found in pages.contents(NOTEBOOKS, other).values() for page in found]
    settings = {"language": language, "terms": terms, "other": "../" if edition else other,
                "there": [*there, "index", "translator", "glossary", "search"]}
    (made / "settings.json").write_text(json.dumps(settings), "utf-8")
    if edition:
        theme_words(made / "locale", language)
    return every


def share(made: Path) -> None:
    """Write what both editions show into folders for Sphinx: charts, formulas, the translator."""
    static, extra = made / "static", made / "extra"
    for folder in (static, extra / "figures"):
        folder.mkdir(parents=True)
    for name in ("transformer.png", "translator.png"):
        shutil.copy(ASSETS / name, extra / "figures")
    write_page("multi30k-de-en", extra / "translator" / "index.html", "../{}.html")
    # a plain script, since a page opened from a disk may load no module
    vega = vl_convert.javascript_bundle()
    (static / "vega.js").write_text(f"(() => {{\n{vega}\n}})();\n", "utf-8")
    math_font(static / "STIXTwoMath.woff2")


def build_edition(language: str, made: Path, jobs: int) -> int:
    """Make an edition in a folder, from what is shared there; return Sphinx's exit status."""
    own = made / language
    os.environ.update(COURSE_LANG=language, COURSE_BOOK=str(own))
    done = own / "book"
    every = prepare(own, made / "extra", language)
    status = sphinx(["-b", "html", "-q", "-W", "--keep-going", "-j", str(jobs), "-c", str(HERE),
                     "-d", str(own / "doctrees"), str(own / "source"), str(done)])
    # what no reader's browser asks for
    unread = [done / ".buildinfo", done / "objects.inv", *done.glob("_static/**/*.map")]
    for path in unread:
        path.unlink(missing_ok=True)
    for path in (done / "jupyter_execute", done / "_static" / "locales"):
        shutil.rmtree(path, ignore_errors=True)
    for page in every:  # the download is the stored notebook, not our copy of it
        download = pages.without_pictures(nbformat.read(page.stored, as_version=4))
        nbformat.write(download, done / "_sources" / f"{page.name}.ipynb")
    return status


def keep_once(chinese: Path) -> None:
    """Let the Chinese edition use the English one's scripts and styles where they are the same."""
    own, there = chinese / "_static", chinese.parent / "_static"
    same = {file.relative_to(own).as_posix() for file in own.rglob("*") if file.is_file()
            and (there / file.relative_to(own)).is_file()
            and file.read_bytes() == (there / file.relative_to(own)).read_bytes()}

    def lead(link: re.Match) -> str:
        return f"{link[1]}../{link[2]}" if link[3] in same else link[0]

    for page in chinese.rglob("*.html"):
        text = page.read_text("utf-8")
        text = re.sub(r'((?:src|href)=")((?:\.\./)*_static/([^"?#]+))', lead, text)
        page.write_text(text, "utf-8")
    for name in same:
        (own / name).unlink()


def build(target: Path, jobs: int) -> int:
    """Write the book into a folder, in place of what is there; return Sphinx's exit status."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        share(made)
        with ProcessPoolExecutor(len(EDITIONS), max_tasks_per_child=1) as together:
            status = max(together.map(partial(build_edition, made=made, jobs=jobs), EDITIONS))
        shutil.rmtree(target, ignore_errors=True)
        for language, edition in EDITIONS.items():
            shutil.copytree(made / language / "book", target / edition)
        shutil.copytree(made / "extra", target, dirs_exist_ok=True)
        keep_once(target / EDITIONS["zh_CN"])
    return status
