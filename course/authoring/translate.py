"""The Chinese edition: markdown is cut into blocks, kept in po/zh_CN, and put into notebooks/zh.

A block is what one translates at once: a paragraph, an item of a list, a row of a table, a
heading, the summary of a fold, the signature on a card of homework, the comment behind a command,
what a picture shows. Other fences and displayed formulas are copied. Babel keeps the messages; a
block that is missing there, or whose English has changed, is shown in English with a mark.
"""

import hashlib
import json
import os
import posixpath
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from pathlib import Path

import jupytext
import nbformat
from babel.messages.catalog import Catalog, Message
from babel.messages.pofile import read_po, write_po

from course import authoring
from course.authoring import is_homework, lint, runtime, sources
from course.homework.cards import wrapped
from course.messages import CHARTS, WHY, catalogue, say_in_picture

LANGUAGE = "zh_CN"
MARK = "〔英〕"  # stands before English that has no translation
TEXTS = {"README": "README.md", "book/index": "course/authoring/book/index.md",
         "book/translator": "course/authoring/book/translator.md"}  # pages that are no notebooks
COMPLETE = "# complete"  # a line in a catalogue's head: nothing may be missing or fuzzy
BLOCK_TAG = r"</?(?:details|summary|ol|ul|li|div|p)\b[^>]*>"
HAN = r"[\u3400-\u9fff]"


# Blocks


@dataclass(frozen=True)
class Block:
    """A run of lines: `before` + the words + `after` if it is to be translated, else copied."""

    raw: str
    kind: str = "copied"
    before: str = ""
    words: str = ""
    after: str = ""


def cut(markdown: str) -> list[Block]:
    """Cut markdown into blocks; their `raw` texts joined are the markdown again."""
    blocks, lines, margin = [], markdown.splitlines(keepends=True), " " * 4  # margin: of code
    while lines:
        if lines[0].startswith(margin) and not (blocks and blocks[-1].raw.strip()):
            ends = (i for i, line in enumerate(lines) if not line.startswith(margin))
            count, kind = next(ends, len(lines)), "copied"
        else:
            count, kind = _extent(lines, ordered="item" in {b.kind for b in blocks[-1:]})
        if kind == "item":  # what is indented like its words goes on in it
            margin = " " * (4 + len(re.match(_PLACE + _ITEM, lines[0])[0]))
        elif lines[0].strip() and not lines[0].startswith(" "):
            margin = " " * 4
        raw, lines = "".join(lines[:count]), lines[count:]
        card = markdown.startswith("<!-- card:") and raw.startswith("```text\n")
        if raw.lstrip().startswith("```\n"):
            blocks += map(_command, raw.splitlines(keepends=True))
        elif picture := re.fullmatch(r'((?:<a [^>]*>)?<img [^>]*alt=")([^"]+)(".*)', raw, re.S):
            blocks.append(Block(raw, "picture", *picture.groups()))
        else:
            blocks.append(_signature(raw) if card else _block(raw, kind))
    return blocks


_ITEM = r"(?:[-*+]|\d+[.)])[ \t]+"
_PLACE = r"(?:[ \t]*>)*[ \t]*"  # where a line stands: in quotes, indented


def _extent(lines: list[str], ordered: bool) -> tuple[int, str]:
    """Return how many lines the first block has, and its kind."""
    bare = [re.sub(rf"^{_PLACE}", "", line).rstrip("\n") for line in lines]
    if fence := re.match(r"```+|~~~+", bare[0]):
        end = (i for i, line in enumerate(bare[1:], 1) if line.startswith(fence[0]))
        return next(end, len(bare) - 1) + 1, "copied"
    if bare[0].startswith("$$"):
        if bare[0].count("$$") > 1:
            return 1, "copied"
        return next((i for i, line in enumerate(bare[1:], 1) if "$$" in line), 0) + 1, "copied"
    if not bare[0].strip() or bare[0].startswith("<!--"):
        return 1, "copied"
    if bare[0].startswith("#"):
        return 1, "heading"
    if bare[0].startswith("|"):
        return 1, "copied" if re.fullmatch(r"[|: -]+", bare[0]) else "row"
    kind = "item" if re.match(r"(?:[-*+]|\d{1,2}[.)])[ \t]", bare[0]) else "text"
    if re.match(BLOCK_TAG, bare[0]):
        kind = "fold" if "<summary" in bare[0] else "html"
    for i, line in enumerate(bare):
        number = re.match(r"(\d{1,2})[.)] ", line)
        begins = re.match(r"```|~~~|\$\$|#+ |\||<!--|[-*+] |" + BLOCK_TAG, line) or (
            number and (number[1] == "1" or kind == "item" or ordered))
        if i and (not line.strip() or begins):
            return i, kind
        if re.search(BLOCK_TAG + "$", line):
            return i + 1, kind
    return len(bare), kind


def _block(raw: str, kind: str) -> Block:
    """Take a block's structure from its words, which are unwrapped into one line."""
    if kind == "copied":
        return Block(raw)
    marks = {"heading": r"#+[ \t]+", "row": r"\|[ \t]*", "item": _ITEM}
    mark = marks.get(kind, rf"(?:{BLOCK_TAG})*")
    before = re.match(_PLACE + mark, raw)[0]
    after = re.search(r"[ \t]*\|?\s*$" if kind == "row" else rf"(?:{BLOCK_TAG})*\s*$", raw)[0]
    after = after if len(before) + len(after) <= len(raw) else ""
    inside = raw[len(before):len(raw) - len(after)]
    words = " ".join(re.sub(rf"^{_PLACE}", "", line) if i else line
                     for i, line in enumerate(line.rstrip() for line in inside.split("\n")))
    if is_chinese(words):
        return Block(raw, "chinese")
    if not re.search(r"[^\W\d_]", lint.without_signs(words)):
        return Block(raw)
    return Block(raw, kind, before, words, after)


def _signature(raw: str) -> Block:
    """Return what a card says of shapes and results, its lines joined as before `wrapped`."""
    before, after = "```text\n", re.search(r"\n```\s*$", raw)[0]
    words = raw.removeprefix(before).removesuffix(after).replace("\n    ", " ")
    return Block(raw, "signature", before, words.replace("\n", "; "), after)


def _command(line: str) -> Block:
    """Take what a line of a fence says behind its command; the command is copied."""
    comment = re.fullmatch(r"(.*\S +# +)(.*\S)(\s*)", line)
    return Block(line, "comment", *comment.groups()) if comment else Block(line)


def is_chinese(words: str) -> bool:
    """Whether a block of an English page is one of its Chinese summary."""
    plain = lint.without_signs(re.sub("（[^）]*）|《[^》]*》", "", words))
    return len(re.findall(HAN, plain)) > len(re.findall("[A-Za-z]", plain))


def translated(markdown: str, of: Callable[[str], str | None]) -> str:
    """Return markdown with the words of each block replaced by what `of` gives for them.

    Where it gives None the English stays, marked. A Chinese summary is left out where the same is
    said in English, in its section or in one before.
    """
    blocks, made, section, twice = cut(markdown), [], 0, False
    for i, block in enumerate(blocks):
        if block.kind == "heading":
            section = i
            twice = block.words.endswith("小结") and "Summary" in {b.words for b in blocks[:i]}
        if twice:
            continue
        if block.kind == "chinese":
            rest = (b.kind for b in blocks[section + 1:])
            here = list(iter(partial(next, rest, "heading"), "heading"))
            if set(here) <= {"chinese", "copied"}:
                made.append(block.raw)
        elif block.kind == "copied":
            blank = not block.raw.strip(" >\n") and made and not made[-1].strip(" >\n")
            made += [] if blank and blocks[i - 1].kind == "chinese" else [block.raw]
        elif (words := of(block.words)) is None:
            made.append(block.before + MARK + block.raw[len(block.before):])
        else:
            words = wrapped(words) if block.kind == "signature" else words
            made.append(block.before + words + block.after)
    text = re.sub(r'<div lang="zh">\s*</div>\n*', "", "".join(made))  # where a summary was left out
    return text if markdown.endswith("\n") else text.rstrip("\n")


# Catalogues


def originals(names: list[str] | None = None) -> dict[str, Path]:
    """Return the English pages that are translated, README too: {name: stored notebook}.

    Of homework it is the learner's copy: the solutions are not translated.
    """
    texts = {name: authoring.ROOT / TEXTS[name] for name in names or TEXTS if name in TEXTS}
    found = {name: path for name, path in texts.items() if path.exists()}
    pages = [name for name in names or () if name not in TEXTS]
    for source in sources(pages) if pages or not names else ():
        name = source.stem
        if is_homework(source):
            found[f"homework/{name}"] = source.parents[2] / "release" / name / f"{name}.ipynb"
        else:
            found[name] = source.with_suffix(".ipynb")
    return found


def catalogue_path(name: str) -> Path:
    return authoring.ROOT / "po" / LANGUAGE / f"{name}.po"


def empty() -> Catalog:
    """Return a catalogue without messages, the same on every day."""
    day = datetime(2026, 1, 1, tzinfo=UTC)
    return Catalog(LANGUAGE, header_comment="#", project="attention-course", version="1",
                   creation_date=day, revision_date=day, last_translator="attention-course",
                   msgid_bugs_address="attention-course", language_team=LANGUAGE, fuzzy=False)


def read_catalogue(path: Path) -> Catalog:
    """Read a catalogue, an empty one where there is no file."""
    if not path.exists():
        return empty()
    with path.open("rb") as file:
        return read_po(file, LANGUAGE, abort_invalid=True)


def written(catalogue: Catalog) -> bytes:
    """Return a catalogue as the bytes of its file."""
    file = BytesIO()
    write_po(file, catalogue, width=0, ignore_obsolete=True)
    return file.getvalue()


def save(path: Path, data: bytes) -> bool:
    """Write a file if that changes it; return whether it did."""
    if path.exists() and path.read_bytes() == data:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return True


def translation(message: Message | None) -> str | None:
    """Return a message's translation if it has one that may be shown."""
    return message.string if message and message.string and not message.fuzzy else None


def cells_of(stored: Path) -> list[dict]:
    """Return the cells of a notebook; a file of markdown is one cell."""
    text = stored.read_text("utf-8")
    return (json.loads(text)["cells"] if stored.suffix == ".ipynb" else
            [{"cell_type": "markdown", "source": [text]}])


def extracted(stored: Path, name: str) -> Catalog:
    """Return the messages of an English page in its order, each with its cells, counted from 1."""
    catalogue = empty()
    for number, cell in enumerate(cells_of(stored), 1):
        if cell["cell_type"] == "markdown":
            for block in cut("".join(cell["source"])):
                if block.words:
                    catalogue.add(block.words, locations=[(name, number)],
                                  auto_comments=[] if block.kind == "text" else [block.kind])
    return catalogue


def spoken(name: str) -> Catalog:
    """Return the sentences of a catalogue that is spoken at run time; cards stand in the pages."""
    catalogue = empty()
    cards = catalogue_path("homework").with_suffix("").glob("*.po")
    in_pages = {m.id.removeprefix(WHY) for path in cards for m in read_catalogue(path) if m.id}
    for words, where in runtime.extracted(name):
        if words not in in_pages:
            catalogue.add(words, locations=[(where, 0)])
    return catalogue


def fresh(name: str) -> Catalog:
    """Return the messages of a page, or of a catalogue of run time, as they are in English."""
    if name.startswith("course/"):
        return spoken(name)
    return extracted(originals([name])[name], name)


def merged(name: str, known: dict[str, str]) -> bytes:
    """Return the bytes of a catalogue, brought up to date with its English.

    known: translations from elsewhere, taken where this one has none for the same words.
    """
    catalogue = read_catalogue(catalogue_path(name))
    catalogue.update(fresh(name), update_creation_date=False)
    for message in catalogue:
        if message.id and not translation(message) and message.id in known:
            message.string, message.flags = known[message.id], message.flags - {"fuzzy"}
    return written(catalogue)


def known() -> dict[str, str]:
    """Return all that is translated anywhere: {English: Chinese}."""
    paths = sorted((authoring.ROOT / "po" / LANGUAGE).rglob("*.po"), reverse=True)
    return {message.id: message.string for path in paths for message in read_catalogue(path)
            if message.id and translation(message)}


# Pages


def page_path(stored: Path) -> Path:
    """Return where an English page's Chinese one is: notebooks/zh/NAME, zh/homework/NAME/NAME."""
    if stored.suffix == ".md":
        return stored.with_suffix(".zh.md")
    within = stored.relative_to(authoring.NOTEBOOKS).as_posix()
    return authoring.NOTEBOOKS / "zh" / within.replace("homework/release/", "homework/")


def relinked(text: str, stored: Path, translated_pages: set[Path]) -> str:
    """Return text whose links lead from the Chinese page to where the English ones lead.

    To the Chinese page, where there is one.
    """
    def link(found: re.Match[str]) -> str:
        path, _, anchor = found[2].partition("#")
        target = Path(os.path.normpath(stored.parent / path))
        if not path or ":" in path or not target.exists():
            return found[0]
        target = page_path(target) if target in translated_pages else target
        way = posixpath.relpath(target.as_posix(), page_path(stored).parent.as_posix())
        return found[1] + way + "#" * bool(anchor) + anchor + found[3]

    return re.sub(r'(\]\(|(?:href|src)=")([^\s()"]+)([)"])', link, text)


def page(stored: Path, of: Callable[[str], str | None], translated_pages: set[Path]) -> dict:
    """Return a stored notebook with Chinese words; code and outputs stay the same.

    What stands for a picture is said in Chinese, too, where the catalogue of pictures knows it.
    """
    notebook = json.loads(stored.read_text("utf-8"))
    relink = partial(relinked, stored=stored, translated_pages=translated_pages)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            text = relink(translated("".join(cell["source"]), of))
            cell["source"] = text.splitlines(keepends=True)
        for output in cell.get("outputs", ()):
            for shown in output.get("metadata", {}).values():
                if "alt" in shown:
                    shown["alt"] = say_in_picture(shown["alt"], LANGUAGE)
            for kind in {"text/html", "text/markdown"} & output.get("data", {}).keys():
                output["data"][kind] = [*map(relink, output["data"][kind])] if isinstance(
                    output["data"][kind], list) else relink(output["data"][kind])
    return notebook


def generated(name: str, stored: Path) -> dict[Path, bytes]:
    """Return the files of a page's Chinese pair; none if nothing of it is translated."""
    catalogue = read_catalogue(catalogue_path(name))
    if not any(message.id and translation(message) for message in catalogue):
        return {}
    pages = {path for other, path in originals().items() if catalogue_path(other).exists()}
    def of(words: str) -> str | None:
        return translation(catalogue.get(words))

    path = page_path(stored)
    if stored.suffix == ".md":
        text = relinked(translated(stored.read_text("utf-8"), of), stored, pages - {stored})
        return {path: text.encode()}
    made = page(stored, of, pages)
    stored_text = json.dumps(made, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    text = jupytext.writes(nbformat.reads(stored_text, as_version=4), fmt="py:percent")
    return {path: stored_text.encode(), path.with_suffix(".py"): text.encode()}


# What is said of them


def counts(name: str) -> tuple[int, int, int]:
    """Return how many messages of a page are translated, fuzzy, and missing."""
    messages = [message for message in read_catalogue(catalogue_path(name)) if message.id]
    done = sum(translation(message) is not None for message in messages)
    fuzzy = sum(message.fuzzy for message in messages)
    return done, fuzzy, len(messages) - done - fuzzy


def lint_problems(name: str) -> list[str]:
    """Return what is wrong with a page's translations."""
    path, found = catalogue_path(name), []
    catalogue = read_catalogue(path)
    where = path.relative_to(authoring.ROOT).as_posix()
    for message in catalogue:
        if message.id and translation(message):
            found += [f"{where}, {key(message.id)}: {fault}" for fault in lint.faults(message)]
    done, fuzzy, missing = counts(name)
    if COMPLETE in catalogue.header_comment.splitlines() and (fuzzy or missing):
        found.append(f"{name} is complete in Chinese no more: {fuzzy} blocks changed in English, "
                     f"{missing} are new; they are shown in English, marked {MARK}. Mend: python "
                     f"-m course.authoring translate todo {name}, then translate fill {name} FILE")
    return found


def problems(names: list[str] | None = None) -> list[str]:
    """Return which catalogues and Chinese pages are not current, what lint finds, what mends it."""
    found = []
    for name, stored in originals(names).items():
        path = catalogue_path(name)
        if not path.exists():
            continue
        files = generated(name, stored)
        old = [p for p, data in files.items() if not p.exists() or p.read_bytes() != data]
        if merged(name, {}) != path.read_bytes() or old:
            found.append(f"the Chinese page of {name} is not that of its English one. Mend: "
                         f"python -m course.authoring translate {name} (and translate what "
                         "`translate todo` lists)")
        found += lint_problems(name)
    for name in () if names else runtime.sources():
        if (path := catalogue_path(name)).exists():
            complete = COMPLETE in read_catalogue(path).header_comment.splitlines()
            if complete and merged(name, {}) != path.read_bytes():
                found.append(f"sentences of {name} have changed. Mend: python -m course.authoring "
                             "translate runtime (and translate what `translate todo` lists)")
            found += lint_problems(name)
    return found


def refresh(name: str, words: dict[str, str]) -> None:
    """Bring a catalogue up to date, and the Chinese page with it, if it is a page's."""
    save(catalogue_path(name), merged(name, words))
    catalogue.cache_clear()
    for page_of in originals() if name == CHARTS else [] if name.startswith("course/") else [name]:
        for path, data in generated(page_of, originals([page_of])[page_of]).items():
            save(path, data)


def follow(source: Path) -> None:
    """Bring a page's Chinese edition, if it has one, up to date with what an author changed."""
    name = f"homework/{source.stem}" if is_homework(source) else source.stem
    if catalogue_path(name).exists():
        refresh(name, {})


# For who translates


def key(words: str) -> str:
    """Return a short name for a message, which stays when blocks move."""
    return hashlib.sha1(words.encode()).hexdigest()[:8]


def todo(name: str, every: bool = False) -> Iterator[dict]:
    """Give the messages that wait, or every one, as {key, cell, kind, en, zh, fuzzy}."""
    for message in read_catalogue(catalogue_path(name)):
        if message.id and (every or not translation(message)):
            kind = message.auto_comments[0] if message.auto_comments else "text"
            yield {"key": key(message.id), "cell": message.locations[0][1], "kind": kind,
                   "en": message.id, "zh": message.string or "", "fuzzy": message.fuzzy}


def fill(name: str, given: dict[str, str | dict]) -> list[str]:
    """Put translations, by their keys, into a page's catalogue; return what is wrong with them.

    A value is the Chinese, or {"zh": ..., "ok": [...]}: faults of lint that are none here.
    """
    path, found = catalogue_path(name), []
    catalogue = read_catalogue(path)
    by_key = {key(message.id): message for message in catalogue if message.id}
    for name_of, value in given.items():
        if name_of not in by_key:
            found.append(f"{name_of}: no message has this key (has the English changed?)")
            continue
        message = by_key[name_of]
        value = {"zh": value} if isinstance(value, str) else value
        message.string = lint.tidy(value["zh"])
        message.flags.discard("fuzzy")
        if "ok" in value:
            message.user_comments = [f"ok: {fault}" for fault in value["ok"]]
        found += [f"{name_of}: {fault}" for fault in lint.faults(message)]
    save(path, written(catalogue))
    return found


def names_of(words: list[str]) -> list[str]:
    """Return the catalogues that are meant: those named, else of all pages and of run time."""
    spoken_of = [word for word in words if word.startswith("course/")]
    pages = [word for word in words if word not in spoken_of]
    return [*(originals(pages) if pages or not words else ()),
            *(runtime.sources() if not words else spoken_of)]


def main(words: list[str]) -> int:
    """Do what `python -m course.authoring translate ...` says; return the exit status."""
    words = [word for word in words if word != LANGUAGE]
    commands = ("pages", "lint", "todo", "fill", "runtime")
    does = words.pop(0) if words and words[0] in commands else "merge"
    if does == "fill":
        name, source = words
        text = sys.stdin.read() if source == "-" else Path(source).read_text("utf-8")
        found = fill(name, json.loads(text))
        print("\n".join(found), end="\n" if found else "")
        refresh(name, {})
        print("{}: {} translated, {} fuzzy, {} missing".format(name, *counts(name)))
        return 0
    if does == "todo":
        every = "all" in words
        for name in names_of([word for word in words if word != "all"]):
            print(json.dumps(list(todo(name, every)), ensure_ascii=False, indent=1))
        return 0
    found, everywhere = [], known()
    for name in runtime.sources() if does == "runtime" else names_of(words):
        if does in ("merge", "runtime"):
            refresh(name, everywhere)
        elif does == "pages" and not name.startswith("course/"):
            for path, data in generated(name, originals([name])[name]).items():
                save(path, data)
        elif does == "lint" and catalogue_path(name).exists():
            found += lint_problems(name)
        print("{:28} {:4} translated {:4} fuzzy {:4} missing".format(name, *counts(name)))
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0
