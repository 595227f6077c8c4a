"""Plain text, a sentence a line: read, decoded, paired; what is wrong is named by file and line."""

import codecs
import gzip
import random
import shlex
import zlib
from pathlib import Path

from course.corpora import CorpusError

MAX_TOKENS = 500  # Multi30k's longest training sentence has 39
HELD_OUT = 20  # one source sentence in so many is kept to check by, at most MOST_HELD_OUT of them
MOST_HELD_OUT = 1000
LINE_ENDS = {  # what ends a line elsewhere, but not here
    "\r": ("carriage returns, the line ends of old Macs", r"tr '\r' '\n'"),
    "\u2028": ("line separators, U+2028", r"sed 's/\xe2\x80\xa8/\n/g'"),
    "\u2029": ("paragraph separators, U+2029", r"sed 's/\xe2\x80\xa9/\n/g'"),
    "\u0085": ("next-line characters, U+0085", r"sed 's/\xc2\x85/\n/g'"),
}


def read_parallel(src_path: Path, tgt_path: Path) -> list[tuple[str, str]]:
    """Read two files, UTF-8 text or gzip of it, whose lines translate each other.

    Returns (source, target) pairs. Raises CorpusError, with file, line and value, where a file is
    missing, truncated or not UTF-8, a line is empty or has more than MAX_TOKENS tokens, or one
    file has more lines than the other.
    """
    src, tgt = read_lines(Path(src_path)), read_lines(Path(tgt_path))
    if len(src) != len(tgt):
        first = min(len(src), len(tgt))
        longer, alone = (src_path, src) if len(src) > first else (tgt_path, tgt)
        raise CorpusError(
            f"{src_path} has {len(src)} lines, {tgt_path} has {len(tgt)}: {longer}, line "
            f"{first + 1}, has no partner ({alone[first][:60]!r}). Give every line its translation."
        )
    return list(zip(src, tgt, strict=True))


def own_pairs(src: Path, tgt: Path) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Read a reader's own pairs from two files: those to learn from, and those held out.

    Held out is one source sentence in HELD_OUT, chosen by chance, the same each time, with all of
    its translations: no sentence is in both parts. Raises CorpusError as `read_parallel` does.
    """
    pairs = read_parallel(src, tgt)
    sources = sorted({source for source, _ in pairs})
    if len(sources) < 2:
        raise CorpusError(
            f"{src} has one sentence only: training needs others to check by. Give it more lines."
        )
    n = min(-(-len(sources) // HELD_OUT), MOST_HELD_OUT)
    chosen = set(random.Random(0).sample(sources, n))
    parts = [[pair for pair in pairs if (pair[0] in chosen) == held] for held in (False, True)]
    return parts[0], parts[1]


def pairs_of(directory: Path) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Read a directory of train.src and train.tgt, and val.src and val.tgt where they are there.

    Returns the pairs to learn from and those to check by; without val files these are held out as
    in `own_pairs`. Raises CorpusError where train is missing, and as `read_parallel` does.
    """
    train, val = ([Path(directory, f"{part}.{side}") for side in ("src", "tgt")]
                  for part in ("train", "val"))
    if not all(path.is_file() for path in train):
        there = sorted(path.name for path in Path(directory).glob("*"))[:8]
        raise CorpusError(
            f"{directory} needs the files train.src and train.tgt, a sentence a line; it has "
            f"{', '.join(there) or 'nothing'}. Rename yours, or name them: --src FILE --tgt FILE"
        )
    if any(path.exists() for path in val):
        return read_parallel(*train), read_parallel(*val)
    return own_pairs(*train)


def read_lines(path: Path) -> list[str]:
    """Read the lines of a file, UTF-8 text or gzip of it; raises CorpusError as `read_parallel`."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CorpusError(
            f"{path} cannot be read ({error.strerror}). Check the name and its permissions."
        ) from error
    if raw.startswith(b"\x1f\x8b"):
        try:
            raw = gzip.decompress(raw)
        except (EOFError, OSError, zlib.error) as error:
            raise CorpusError(
                f"{path} is a broken gzip file ({error}). Delete it and fetch it again."
            ) from error
    if wide := wide_encoding(raw):
        raise CorpusError(f"{path} is not UTF-8 but {wide.upper()}. {converted(wide, path)}")
    # Only \n ends a line: str.splitlines would also cut at U+2028, U+0085 and their like.
    lines = raw.removeprefix(codecs.BOM_UTF8).removesuffix(b"\n").split(b"\n")
    return [_decode(path, number, line) for number, line in enumerate(lines, start=1)]


def wide_encoding(raw: bytes) -> str:
    """Name the encoding of two or four bytes a character that text begins in, "" if it is none."""
    if raw.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    start = raw[:200]
    if start.count(0) * 4 > len(start):  # without its mark: every other byte of Latin text is 0
        return "utf-16le" if start[1:2] == b"\0" else "utf-16be"
    return ""


def narrow_encoding(raw: bytes) -> str:
    """Name the likely encoding of a line that is not UTF-8: latin1, or Windows' own form of it."""
    return "cp1252" if any(0x80 <= byte < 0xA0 for byte in raw) else "latin1"


def converted(encoding: str, path: Path | str) -> str:
    """Say how a file becomes UTF-8."""
    name = shlex.quote(str(path))
    return f"Convert it, for example: iconv -f {encoding} -t utf-8 {name} > utf8.txt"


def other_line_ends(text: str) -> str:
    """Say which characters in a line end lines elsewhere, and how they become ends here; or ""."""
    for character, (name, command) in LINE_ENDS.items():
        if n := text.count(character):
            return f"it holds {n:,} {name}; to make them line ends: {command} < FILE"
    return ""


def _decode(path: Path, number: int, line: bytes) -> str:
    where = f"{path}, line {number}"
    try:
        text = line.removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{where}: byte {error.start + 1} is 0x{line[error.start]:02x}, not UTF-8 "
            f"({line[:60]!r}). Save the file as UTF-8. {converted(narrow_encoding(line), path)}"
        ) from error
    tokens = len(text.split())
    if tokens == 0:
        raise CorpusError(
            f"{where}: empty ({text[:60]!r}). Fill the line, or delete it here and in its partner."
        )
    if tokens > MAX_TOKENS:
        ends = other_line_ends(text)
        raise CorpusError(
            f"{where}: {tokens} tokens, more than the {MAX_TOKENS} allowed ({text[:60]!r}...). "
            "Put one sentence on a line, or delete the line here and in its partner."
            + (f" Also, {ends}" if ends else "")
        )
    return text
