"""The sentences that the course says at run time, read from its sources for po/zh_CN/course."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from course import authoring
from course.messages import CHARTS

PACKAGE = "course"
GUESSES = "course/guesses"  # the catalogue of what is guessed, as the report lists it
# a catalogue, and the files whose sentences it holds
SOURCES = {
    "course/check": ["homework/*.py"],
    "course/reasons": ["homework/reasons/*.toml", "homework/reasons/*.py", "homework/illnesses.*"],
    "course/questions": ["homework/questions/*.py"],
    "course/commands": ["doctor.py", "__main__.py", "look.py", "progress.py", "grading/*.py",
                        "corpora/multi30k.py"],
}
# sentences that are made of pieces, as a learner reads them
COMPOSED = {"course/reasons": ["See lesson {1}, “{2}”", "{1}. Planted: {2}. {3}"],
            "course/check": ["above", "below", "exactly", "{1} above", "{1} below",
                             "{1}, in line {2}: {3}", "Probably {1}", "a tensor", "a numpy array",
                             "a string", "a list of {1}", "a tuple of {1}", "a dict", "a list",
                             "a tuple", "torch's {1}", "assignment", "exercises",
                             "points", "exercise", "checks", "topic", "guessed", "measured",
                             "{1} guesses", "reasons", "patients",
                             "Right for {1}. Not for {2}: {3}. Probably {4}",
                             "Right for {1}. Not for {2}: {3}"],
            "course/exercises_layers": ["Called with {1}: {2}. Probably {3}",
                                        "Called with {1}: {2}", "word {1}",
                                        "self-attention", "cross-attention",
                                        "feed-forward network"],
            "course/commands": ["show this help message and exit", "usage:", "options",
                                "positional arguments", "%(prog)s: error: %(message)s",
                                "argument %(argument_name)s: %(message)s",
                                "expected one argument", "expected at least one argument",
                                "invalid choice: %(value)r (choose from %(choices)s)",
                                "not allowed with argument %s",
                                "one of the arguments %s is required",
                                "the following arguments are required: %s",
                                "unrecognized arguments: %s", "A first tour:", "Example:",
                                "is everything here?", "your sentence: translation, every head",
                                "the whole paper, run from top to bottom",
                                "`python -m course COMMAND --help` explains each one.",
                                "Ctrl-C stops after the current step; the same command with "
                                "--resume goes on.",
                                "A budget in epochs is exact: one seed and one --precision, one "
                                "result, broken off", "or not. A budget in minutes follows the "
                                "clock, so its result varies.",
                                "Your own languages (lesson 06), line n of one file the "
                                "translation of line n of the other:",
                                "Several devices (lesson 07c; Linux, macOS, WSL):",
                                "difficulty {1}  {2} min",
                                "1 point", "Notebooks: {1}", "device", "packages",
                                "Multi30k: {1} cannot be had. Tried, in this order:",
                                "What to do: go online and run this again. Or fetch {1} and {2} "
                                "by hand from", "into one directory, still gzipped, and set "
                                "COURSE_DATA to that directory.", 'Or go on with the corpus '
                                '"captions", which works offline.'],
            "course/exercises_exam": [
                "the decoder's self-attention and in the encoder's self-attention and in "
                "cross-attention", "the encoder's self-attention and in cross-attention",
                "the decoder's self-attention and in the encoder's self-attention or "
                "cross-attention"],
            CHARTS: ["x: {1}", "y: {1}", "more", "less", "one token", "{1} tokens",
                     "words in the sentence ...", "pieces of its hardest word ...",
                     "training saw its rarest word ...", "training never saw ...",
                     "at the word before the one that is due", "at the word that is due",
                     "at the word after it", "{1} words away", "layer", "head", "kind",
                     "one cell (cross-attention, layer {1}, head {2}): row {3}, column {4}, "
                     "weight {5}", "Where each head looks: choose one", "width", "target tokens",
                     "padding mask {1}", "padding mask kept", "padding mask forgotten",
                     "with residuals", "without residuals", "causal mask {1}", "gold",
                     "predicted", "everyone", "healthy", "weights", "output", "German", "English",
                     "encoder self-attention ({1})", "decoder self-attention ({1})",
                     "cross-attention ({1})", "cross-attention", "self-attention",
                     "feed-forward", "the whole paper", "steps", "batches", "translations",
                     "checkpoint"]}
PIECES = {"Right for {1}. Not for {2}:", ". Probably {1}", ", in line {1}: {2}",
          "Called with {1}: {2}{3}"}
NO_SENTENCE = re.compile(
    r"\\|^python -m|^echo |\w\|\w|\.\*|DejaVu|Noto |YaHei|PingFang|Arial|"
    r"</?(?!(?:w|s|pad|unk)>)\w+[ >]|style=|"
    r"^\s*[-\w./{}]+\s*$|\n.*\n.*\n|^(upper|lower|center) (left|right|center)$")
# what of the code of a picture is none of its words: places, units, formulas, code, words drawn
NO_LABEL = re.compile(
    r"<(?!pad|/?s>)\w+[ />]|datum|&&|\w:\w|;\w|#[0-9A-F]{6}|\bimport |are needed;|^[a-z]\w* = |\\1|"
    r"^\d[.\d]* (?:introduction|background|model|attention|to |why |training|results|conclusion)|"
    r"^\d[.\d]* · [A-Zc]|"
    r"\b(?:dogs?|puppy|hound|cat)\b|^(?:number|read|attention|offset points|axes fraction)$|"
    r"^(?:(?:outside|upper|lower|center|left|right) ?)+$|"
    r"^(?:\{\d\} of \{\d\}|\{\d\} is \{\d\}|\{layer\}.*)$")
LABELS = {"label", "title", "xlabel", "ylabel", "alt"}
LABELLING = re.compile(
    r"(set_(title|.label)|sup(title|.label)|annotate|\.text|plt\.(title|.label))$")
DRAWING = re.compile(
    r"draw\w*\.(?!glossary_table|find_)|^(show|finish|maps|masks|influence|sheet)$|"
    r"\.(set|set_\w+|sup\w+|plot|bar|barh|annotate|text|legend|colorbar|subplots)$")


def sources() -> dict[str, list[Path]]:
    """Return the files of each catalogue; each module of exercises has one of its own."""
    package = authoring.ROOT / PACKAGE
    found = {name: [path for pattern in patterns for path in sorted(package.glob(pattern))]
             for name, patterns in SOURCES.items()}
    for path in sorted(package.glob("homework/exercises/[!_]*.py")):
        found[f"course/exercises_{path.stem}"] = [path]
    found[GUESSES] = sorted(authoring.NOTEBOOKS.glob("*.py"))
    found[CHARTS] = sorted([*package.glob("viz/[!_]*.py"), *authoring.NOTEBOOKS.glob("*.py"),
                            *authoring.NOTEBOOKS.glob("homework/source/*/*.py"),
                            *package.glob("homework/questions/*.py")])
    return {name: paths for name, paths in found.items() if paths}


def extracted(name: str) -> Iterator[tuple[str, str]]:
    """Give the sentences of a catalogue, each with the file that it stands in."""
    for words in COMPOSED.get(name, ()):
        yield words, "course/homework/checking.py"
    read = {CHARTS: labels, GUESSES: guesses}.get(name, sentences)
    for path in sources()[name]:
        for words in read(path):
            yield words, path.relative_to(authoring.ROOT).as_posix()


def sentences(path: Path) -> Iterator[str]:
    """Give the sentences of a file, the values in them as {1}, {2} ..."""
    text = path.read_text("utf-8")
    if path.suffix == ".toml":
        yield from _of_toml(tomllib.loads(text))
        return
    tree, skipped, drawn = ast.parse(text), set(), path.parent.name == "questions"  # see `labels`
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(node.value)  # a docstring
        elif isinstance(node, ast.keyword) and node.arg == "signature" or (
                isinstance(node, ast.Call) and (name := ast.unparse(node.func)) and (
                    name.startswith("re.") or (drawn and DRAWING.search(name)))):
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
        words = _template(node)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        words = node.value
    else:
        return ""
    words = words.strip()
    read = len(re.findall(r"[A-Za-z]{2,}", words)) >= 2 and " " in words
    return words if read and words not in PIECES and not NO_SENTENCE.search(words) else ""


def _template(node: ast.JoinedStr) -> str:
    """Return an f-string with its values as {1}, {2} ..."""
    count, parts = 0, []
    for part in node.values:
        count += isinstance(part, ast.FormattedValue)
        parts.append(part.value if isinstance(part, ast.Constant) else f"{{{count}}}")
    return "".join(parts)


def _of_toml(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for name, entry in value.items():
            code = name == "planted" and not re.search(r"[a-z]{2,} (?:[a-z]+ ){2}", entry)
            if name != "where" and not code:  # a page's heading, a line of code
                yield from _of_toml(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _of_toml(entry)
    elif isinstance(value, str) and " " in value:
        yield value


def guesses(path: Path) -> Iterator[str]:
    """Give the names of a page's guesses: compare(mine, measured, "03: largest weight")."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("compare"):
            yield from (name.value for name in node.args[2:] if isinstance(name, ast.Constant))


def labels(path: Path) -> Iterator[str]:
    """Give what the pictures of a module of course.viz, or of a notebook, say.

    Of a notebook, or a question: what it hands to a picture, and the names in its tables, which
    legends show.
    """
    tree, shown = ast.parse(path.read_text("utf-8")), set()
    skipped = {part for node in ast.walk(tree) if isinstance(node, ast.Expr | ast.JoinedStr)
               and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
               for part in ast.walk(node) if part is not node}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and LABELLING.search(ast.unparse(node.func)):
            shown.update(node.args)
        elif isinstance(node, ast.keyword) and node.arg in LABELS:
            shown.add(node.value)
    if path.parent == authoring.NOTEBOOKS or "homework" in path.parts:
        nodes = [*_handed_to_pictures(tree), *sorted(shown, key=lambda node: node.lineno)]
    else:
        nodes = [*ast.walk(tree)]
    for node in dict.fromkeys(nodes):
        if node not in skipped and (words := _label(node, alone=node in shown)):
            yield words


def _handed_to_pictures(tree: ast.AST) -> Iterator[ast.AST]:
    named = {node.id for call in ast.walk(tree) if isinstance(call, ast.Call)
             and DRAWING.search(ast.unparse(call.func))
             for node in call.args if isinstance(node, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and DRAWING.search(ast.unparse(node.func)):
            yield from ast.walk(node)
        elif isinstance(node, ast.Dict):
            yield from filter(None, node.keys)
        elif isinstance(node, ast.DictComp):
            yield node.key
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            yield node.targets[0].slice
        elif isinstance(node, ast.For) and "title" in ast.unparse(node.target):
            yield from ast.walk(node.iter)
        elif isinstance(node, ast.Assign) and (
                {ast.unparse(target) for target in node.targets} & named
                or re.search("title|ROWS", ast.unparse(node.targets[0]))):
            yield from ast.walk(node.value)


def _label(node: ast.AST, alone: bool) -> str:
    """Return the words of a label; of one word only if it is known to be a label."""
    if isinstance(node, ast.JoinedStr):
        words = _template(node)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        places = iter(range(1, 10))
        words = re.sub(r"\{(?::[^{}]*)?\}", lambda _: f"{{{next(places)}}}", node.value)
    else:
        return ""
    words = " ".join(words.split())
    read = re.search(r"[A-Za-z]{2}", re.sub(r"\$[^$]*\$|\{\w+\}|BPE|RNN|LSTM|GRU|BOS", "", words))
    return words if read and (" " in words or alone) and not NO_LABEL.search(words) else ""
