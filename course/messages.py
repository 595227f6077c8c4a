"""What the course says at run time, in the reader's language: `COURSE_LANG=zh`.

English is the language of the code. A sentence is translated where it is shown: `say` looks it up
in the catalogues of po/zh_CN as a whole, then as one made from a template ("You change argument
{1} in place"), then piece by piece. What has no translation stays English.
"""

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHARTS = "course/charts"  # the catalogue of what pictures say, and of nothing else
# fonts with Chinese characters; where none is installed, pictures say it in English
FONTS = ("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN",
         "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei", "WenQuanYi Micro Hei",
         "WenQuanYi Zen Hei", "Arial Unicode MS", "Noto Sans CJK JP")
PLACE = r"\{\w+\}"  # where a template has a value: {1}, {n}
AXIS = r"[xy]:\\? "  # what stands before an axis in the words for a picture, escaped or not
FULL = tuple("，。：；？！）")  # behind these there is no space
HEADING = r"^\d+ · | ?· (?:more|选读)$"  # its number, and that a first reader may leave it out
WHY = "*Why it matters.* "  # what a card says before it


def language() -> str | None:
    """Return the folder of catalogues of the reader's language, None for English.

    COURSE_LANG says it. Where it says nothing, a notebook of notebooks/zh is Chinese.
    """
    told = os.environ.get("COURSE_LANG", "").lower()
    here = Path.cwd().as_posix() + "/"
    return "zh_CN" if told.startswith("zh") or (not told and "/notebooks/zh/" in here) else None


def say(text: str) -> str:
    """Return a sentence, or several, in the reader's language."""
    folder = language()
    return _said(text, folder) if folder and text else text


def say_in_picture(text: str, folder: str | None = None) -> str:
    """Return what a picture says, or the words that stand for it, in the reader's language.

    folder: that of another language than the reader's. What has no translation, such as a word of
    a sentence that is drawn, stays as it is.
    """
    folder = folder or language()
    if not folder:
        return text
    place, words = f"{folder}/{CHARTS}.po", " ".join(text.split())
    said = _whole(words, place) or "".join(_pieces(_sentences(words), place))
    return text if said == words else said


@cache
def catalogue(folder: str) -> tuple[dict[str, str], list[tuple[str, re.Pattern, str, str]]]:
    """Return what is translated: sentences, and templates, those with the most words first.

    folder: of po/, without what pictures say; or one file. A template: its longest run of words,
    its pattern, English, Chinese.
    """
    try:
        from babel.messages.pofile import read_po  # `doctor` speaks without any package
    except ImportError:
        return {}, []
    sentences, templates, place = {}, [], ROOT / "po" / folder
    paths = (path for path in place.rglob("*.po") if path.stem != Path(CHARTS).name)
    for path in [place] if place.is_file() else sorted(paths):
        with path.open("rb") as file:
            for message in read_po(file):
                if not message.id or not message.string or message.fuzzy:
                    continue
                sentences.setdefault(message.id, message.string)
                if re.search(HEADING, message.id):  # as a reason names it
                    title, said = (re.sub(HEADING, "", text) for text in
                                   (message.id, message.string))
                    sentences.setdefault(title, said)
                if message.id.startswith(WHY):
                    said = re.sub(r"^\*+[^*]+\*+[：:]?\s*", "", message.string)
                    sentences.setdefault(message.id.removeprefix(WHY), said)
                if "course" in path.parts[-2:-1] and re.search(PLACE, message.id):
                    value = _in_picture if place.is_file() else _spoken
                    pattern = re.sub(r"\\{\w+\\}", value, re.escape(message.id))
                    pattern = re.compile(pattern, re.S)
                    part = max(re.split(PLACE, message.id), key=len).rstrip(".")
                    templates.append((part, pattern, message.id, message.string))
    templates.sort(key=lambda template: (not re.match(AXIS, template[2]),
                                         -len(re.sub(PLACE, "", template[2]))))
    return sentences, templates


def _spoken(place: re.Match) -> str:
    """Return what a place in a sentence's template takes; of "{1} below" no other sentence."""
    words = re.sub(r"\\{\w+\\}|\\", "", place.string)
    return "(.*?)" if len(words) > 8 else "((?:(?![.?!] ).)*?)"


def _in_picture(place: re.Match) -> str:
    """Return what a place in a picture's template takes: of sentences one, at the end no list.

    Of an axis all its words; where a template is hardly more than "of", a number.
    """
    words = re.sub(r"\\{\w+\\}", "", place.string)
    if not re.search("[A-Za-z]{4}|[A-Z]{2}|:", words):
        return r"([\d.,%+-]*[\d%])"
    if re.match(AXIS, words):
        return r"((?:(?!\.(?: |$)).)*?)"
    listed = r"|\w, " if place.end() == len(place.string) else ""
    return rf"((?:(?![.:](?: |$){listed}).)*?)"


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.?!:]) (?=\S)|(?<=[.?!]\)) (?=\S)", text)


def _said(text: str, folder: str) -> str:
    if (bare := text.strip(" ")) != text:
        said = _said(bare, folder)
        return said if said.endswith(FULL) else text.replace(bare, said)
    whole = _whole(text, folder)
    if whole is not None:
        return whole
    for sign, between in (("\n", "\n"), (". And: ", "。另外：")):
        said = _parts(text, sign, between, folder)
        if said is not None:
            return said
    if len(sentences := _sentences(text)) > 1:
        return "".join(_pieces(sentences, folder))
    return _parts(text, "; ", "；", folder) or text


def _parts(text: str, sign: str, between: str, folder: str) -> str | None:
    """Return a text whose parts between signs are said one by one; None if none can be."""
    parts = text.split(sign)
    said = [_said(part, folder) for part in parts] if len(parts) > 1 else parts
    return None if said == parts else between.join(said)


def _whole(text: str, folder: str) -> str | None:
    """Return the translation of a text that is one message; None if it is none."""
    sentences, templates = catalogue(folder)
    bare, end = (text[:-1], text[-1]) if text.endswith((".", ":")) else (text, "")
    mark = {".": "。", ":": "：", "": ""}[end]
    small, large = bare[:1].lower() + bare[1:], bare[:1].upper() + bare[1:]
    if folder.endswith(".po"):  # in a picture Kind is a child
        small = large = bare
    for words, more in ((text, ""), (bare, mark), (small, mark), (large, mark)):
        if words in sentences:
            return sentences[words] + more
    if text + "." in sentences:
        return sentences[text + "."].removesuffix("。")
    for part, pattern, english, chinese in templates:
        if part not in text:
            continue
        # a value at the end leaves the full stop; a template may have one that the text has not
        for words, more in ((bare, mark), (text, ""), (text + ".", None)):
            if found := pattern.fullmatch(words):
                values = {place: _said(value, folder) for place, value in
                          zip(re.findall(PLACE, english), found.groups())}
                said = re.sub(PLACE, lambda place: values.get(place[0], ""), chinese)  # noqa: B023
                return said.removesuffix("。") if more is None else said + more
    return None


def _pieces(sentences: list[str], folder: str) -> Iterator[str]:
    """Give the sentences of a text, as many together as are one message."""
    while sentences:
        for count in range(len(sentences), 0, -1):
            words = " ".join(sentences[:count])
            whole = _whole(words, folder)
            if whole is not None or count == 1:
                break
        sentences = sentences[count:]
        if whole is None:  # behind a number, or a shape, the full stop is Chinese, too
            number = re.fullmatch(r"[^A-Za-z]+\.", words) and sentences
            whole = words[:-1] + "。" if number else _parts(words, "; ", "；", folder) or words
        yield whole if not sentences or whole.endswith(FULL) else whole + " "
