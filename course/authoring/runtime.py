"""The sentences that the course says at run time, read from its sources for po/zh_CN/course."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from course import authoring

PACKAGE = "course"
# a catalogue, and the files whose sentences it holds
SOURCES = {
    "course/check": ["homework/*.py"],
    "course/reasons": ["homework/reasons/*.toml", "homework/reasons/*.py", "homework/illnesses.*"],
    "course/questions": ["homework/questions/*.py"],
    "course/commands": ["doctor.py", "__main__.py", "look.py", "progress.py", "grading/*.py"],
}
# sentences that are made of pieces, as a learner reads them
COMPOSED = {"course/reasons": ["See lesson {1}, “{2}”"],
            "course/check": ["above", "below", "exactly", "{1} above", "{1} below",
                             "Right for {1}. Not for {2}: {3}. Probably {4}",
                             "Right for {1}. Not for {2}: {3}"]}
PIECES = {"Right for {1}. Not for {2}:", ". Probably {1}"}
NO_SENTENCE = re.compile(
    r"\\|^python -m|^echo |\w\|\w|\.\*|DejaVu|Noto |YaHei|PingFang|Arial|</?\w+[ >]|style=|"
    r"^\s*[-\w./{}]+\s*$|\n.*\n.*\n")


def sources() -> dict[str, list[Path]]:
    """Return the files of each catalogue; each module of exercises has one of its own."""
    package = authoring.ROOT / PACKAGE
    found = {name: [path for pattern in patterns for path in sorted(package.glob(pattern))]
             for name, patterns in SOURCES.items()}
    for path in sorted(package.glob("homework/exercises/[!_]*.py")):
        found[f"course/exercises_{path.stem}"] = [path]
    return {name: paths for name, paths in found.items() if paths}


def extracted(name: str) -> Iterator[tuple[str, str]]:
    """Give the sentences of a catalogue, each with the file that it stands in."""
    for words in COMPOSED.get(name, ()):
        yield words, "course/homework/checking.py"
    for path in sources()[name]:
        for words in sentences(path):
            yield words, path.relative_to(authoring.ROOT).as_posix()


def sentences(path: Path) -> Iterator[str]:
    """Give the sentences of a file, the values in them as {1}, {2} ..."""
    text = path.read_text("utf-8")
    if path.suffix == ".toml":
        yield from _of_toml(tomllib.loads(text))
        return
    tree, skipped = ast.parse(text), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(node.value)  # a docstring
        elif isinstance(node, ast.keyword) and node.arg == "signature" or (
                isinstance(node, ast.Call) and ast.unparse(node.func).startswith("re.")):
            skipped.update(ast.walk(node))
        elif isinstance(node, ast.JoinedStr):
            skipped.update(part for part in node.values if isinstance(part, ast.Constant))
    told = {word for node in ast.walk(tree) if isinstance(node, ast.Call)
            and ast.unparse(node.func) == "say" for argument in node.args
            for word in ast.walk(argument) if isinstance(word, ast.Constant)}
    yield from sorted(word.value for word in told - skipped if isinstance(word.value, str))
    for node in ast.walk(tree):
        if node not in skipped and (words := _words(node)):
            yield words


def _words(node: ast.AST) -> str:
    """Return the sentence of a string, "" if it is none that anybody reads."""
    if isinstance(node, ast.JoinedStr):
        count, parts = 0, []
        for part in node.values:
            count += isinstance(part, ast.FormattedValue)
            parts.append(part.value if isinstance(part, ast.Constant) else f"{{{count}}}")
        words = "".join(parts)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        words = node.value
    else:
        return ""
    words = words.strip()
    read = len(re.findall(r"[A-Za-z]{2,}", words)) >= 2 and " " in words
    return words if read and words not in PIECES and not NO_SENTENCE.search(words) else ""


def _of_toml(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for name, entry in value.items():
            if name not in ("where", "planted"):  # a page's heading, a line of code
                yield from _of_toml(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _of_toml(entry)
    elif isinstance(value, str) and " " in value:
        yield value
