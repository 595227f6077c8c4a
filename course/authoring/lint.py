"""What can be told of a translation without reading it: signs, numbers, terms, punctuation."""

import csv
import re
from collections import Counter
from functools import cache

from babel.messages.catalog import Message
from markdown_it import MarkdownIt

from course import ASSETS

HAN, WIDE = r"[\u3400-\u9fff]", "，。；：？！、（）《》“”‘’"
CODE, FORMULA, TAG, TARGET = r"`+[^`]+`+", r"\$[^$]+\$", r"</?\w[^<>]*>", r"\]\([^()\s]*\)"
SIGNS = re.compile(f"({CODE})|({FORMULA})|({TAG}|{TARGET})")
NUMBER = re.compile(r"(?<![A-Za-z_\d])\d+(?:[.,]\d+)*")
NUMBER_WORDS = re.compile(r"\b(?:zero|no|one|two|three|four|five|six|seven|eight|nine|ten|eleven|"
                          r"twelve|both|once|twice|double|first|second|third|fourth|half|quarter)",
                          re.I)
# words of the glossary that are ordinary words, too
FREE = {"bend", "core", "judge", "twin", "offset", "reference", "stack", "claim", "factor",
        "concatenate", "normalize", "gating", "generalize", "extrapolate", "dimension",
        "sequential operation"}
# what else a term may be called
ALSO = {
    "alignment": ["对齐"], "attend to": ["看", "注意"], "attention head": ["头"],
    "autograd": ["autograd"], "batch": ["批"], "bias": ["偏差", "偏向"], "BLEU": ["BLEU"],
    "compatibility function": ["打分"], "corpus": ["语料"], "decoding": ["解码"],
    "dropout": ["dropout", "暂退"], "element-wise": ["逐元素", "逐个"], "epoch": ["轮", "遍"],
    "gate": ["门"], "gated recurrent unit": ["GRU"], "hidden state": ["状态"],
    "hypothesis": ["假设", "译文"], "inference": ["推断", "推理"], "kernel": ["核"],
    "layer normalization": ["层规范化", "LayerNorm"], "long short-term memory": ["LSTM"],
    "loss": ["损失"], "machine translation": ["翻译"], "mask": ["遮"], "matrix": ["矩阵"],
    "matrix multiplication": ["矩阵乘", "矩阵相乘"], "memory": ["内存", "显存", "记忆"],
    "path length": ["路径"], "ReLU": ["ReLU"], "repository": ["仓库"],
    "recurrence": ["循环", "递推"], "score": ["得分", "打分", "评分"],
    "seed": ["种子"], "sequence": ["序列", "句子", "句"], "tokenization": ["词元化", "分词"],
    "value": ["值"], "warm-up": ["预热"], "weighted sum": ["加权"],
}  # fmt: skip


def without_signs(words: str) -> str:
    """Return text without its code, formulas, tags and targets of links."""
    return SIGNS.sub(" ", words)


def tidy(zh: str) -> str:
    """Return Chinese with one space where it meets Latin letters, digits, code and formulas.

    No space beside punctuation of full width, nor between two Chinese characters.
    """
    signs = [match[0] for match in SIGNS.finditer(zh)]
    text = SIGNS.sub(lambda m: "\ue001" if m[3] else "\ue000", zh.strip())
    latin = r"[A-Za-z0-9%\ue000]"
    text = re.sub(rf"({HAN})(?={latin})|({latin})(?={HAN})", r"\1\2 ", text)
    text = re.sub(rf"\s+(?=[{WIDE}])|(?<=[{WIDE}])\s+|(?<={HAN})\s+(?={HAN})", "", text)
    rest = iter(signs)
    return re.sub("[\ue000\ue001]", lambda _: next(rest), text)


@cache
def terms() -> list[tuple[str, re.Pattern, list[str]]]:
    """Return the terms that a translation is held to, the longest first, and their Chinese names.

    The words that only readers of the paper's English need (those of lesson 00) are not among them.
    """
    found = []
    with (ASSETS / "glossary.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            en, zh = row["term_en"], row["term_zh"]
            if row["lesson"] == "00_start_here" or en in FREE:
                continue
            names = [name.strip().removesuffix("的") for name in re.split("[，、；（）]", zh)]
            names += [*re.findall(r"[A-Za-z][\w-]+", zh), *ALSO.get(en, ())]
            spelled = re.escape(en).replace(r"\ ", r"[\s-]+").replace(r"\-", r"[\s-]?")
            found.append((en, re.compile(rf"\b{spelled}(?:s|es)?\b", re.I), [*filter(None, names)]))
    return sorted(found, key=lambda term: -len(term[0]))


def faults(message: Message) -> list[str]:
    """Return what is wrong with a translation, each fault with its rule's name first.

    A comment of the translator, `# ok: term layer`, excuses the faults that begin so.
    """
    en, zh = message.id, message.string
    excused = tuple(line.removeprefix("ok: ") for line in message.user_comments)
    signature = "signature" in message.auto_comments  # of a card: names of arguments stay
    found = [*sign_faults(en, zh), *number_faults(en, zh), *term_faults(en, zh, signature),
             *style_faults(zh), *(signature_faults(en, zh) if signature else ())]
    return [fault for fault in found if not (excused and fault.startswith(excused))]


def sign_faults(en: str, zh: str) -> list[str]:
    """Return which code, formulas, links and tags differ, and marks that would not be rendered."""
    found = []
    for rule, pattern, count in (("code", CODE, set), ("formula", FORMULA, set),
                                 ("link", TARGET, Counter), ("tag", TAG, Counter),
                                 ("place", r"\{\d\}", set)):
        bare = (text if rule in ("code", "formula") else re.sub(f"{CODE}|{FORMULA}", "", text)
                for text in (en, zh))
        if rule == "formula":
            bare = (re.sub(CODE, "", text) for text in bare)
        ours, theirs = (count(re.findall(pattern, text)) for text in bare)
        found += [f"{rule} {sign}: only in the English" for sign in sorted(set(ours - theirs))]
        found += [f"{rule} {sign}: not in the English" for sign in sorted(set(theirs - ours))]
    if re.sub(CODE, "", en).count("|") != re.sub(CODE, "", zh).count("|"):
        found.append("row: another number of cells (`|`)")
    (bold, slanted, stars), (ours, _, left) = rendered(en), rendered(zh)
    if not bold <= ours <= bold + slanted:  # what is slanted in English may be bold in Chinese
        found.append(f"bold: {bold} in the English, here {ours} (markdown ends no bold in "
                     "punctuation before a character: put the punctuation behind the **)")
    elif left > stars:
        found.append("star: a * is shown as it is")
    return found


@cache
def rendered(words: str) -> tuple[int, int, int]:
    """Return how many bold and slanted pieces markdown makes of a text, and the * it leaves."""
    inline = MarkdownIt().parseInline(re.sub(FORMULA, "`x`", words))[0].children
    kinds = Counter(token.type for token in inline)
    left = sum(token.content.count("*") for token in inline if token.type == "text")
    return kinds["strong_open"], kinds["em_open"], left


def number_faults(en: str, zh: str) -> list[str]:
    """Return the numbers of the English that are missing in the Chinese, and those that are new."""
    en, zh = without_signs(en), without_signs(zh)
    ours, theirs = set(NUMBER.findall(en)), set(NUMBER.findall(zh))
    for number in re.findall(r"([\d.]+) million", en):  # 65 million is 6500 万
        if f"{float(number) * 100:g}" in theirs:
            theirs = theirs - {f"{float(number) * 100:g}"} | {number}
    new = () if NUMBER_WORDS.search(en) else sorted(theirs - ours)
    return [f"number {n}: only in the English" for n in sorted(ours - theirs)] + [
        f"number {n}: not in the English" for n in new]


def signature_faults(en: str, zh: str) -> list[str]:
    """Return the calls and shapes that are missing in a card's signature, and lines that are."""
    code = re.findall(r"\w+\([^()]*\)|\([^()]*,[^()]*\)", en)
    found = [f"shape {piece}: only in the English" for piece in dict.fromkeys(code)
             if piece not in zh and not re.search("[a-z] [a-z]", piece)]
    lines = len(re.findall("; ", en)), len(re.findall("; |；", zh))
    return found + ["lines: a ； for each ; of the English"] * (lines[0] != lines[1])


def term_faults(en: str, zh: str, names_stay: bool = False) -> list[str]:
    """Return the glossary's terms whose Chinese name does not occur."""
    for title in (title for title in re.findall(r"\*[^*]+\*", en) if title in zh):
        en = en.replace(title, "")
    rest, found = without_signs(en.replace("*", "")), []
    if "`" not in en:  # a sentence of run time: what looks like code is code
        rest = re.sub(r"[\w.\[(]*[_=(\[][\w.=,\])(]*", " ", rest)
    if not re.search(HAN, zh):  # a title of a paper, a name
        return []
    for term, pattern, names in terms():
        rest, times = pattern.subn("|", rest)
        stays = names_stay and pattern.search(zh)
        if times and not stays and not any(name.lower() in zh.lower() for name in names):
            found.append(f"term {term}: none of {', '.join(names)}")
    return found


def style_faults(zh: str) -> list[str]:
    """Return faults of punctuation, spaces and address."""
    found = []
    plain = SIGNS.sub(lambda m: "" if m[3] else "\ue000", zh).replace("*", "")
    if not re.search(HAN, plain):
        return []
    half = re.findall(
        rf"{HAN}[,;:!?\"']|[,;:!?\"']{HAN}|{HAN}\.(?!\w)|\([^()]*{HAN}[^()]*\)", plain)
    half += re.findall(r"[^\W\d_][.,:;?!]$", plain) if len(re.findall(HAN, plain)) > 5 else []
    found += [f"punctuation {piece}: write ，。；：？！（）“”" for piece in half]
    if "您" in zh:
        found.append("您: write 你")
    if tidy(zh) != zh:
        found.append("spaces: one between Chinese and Latin, none beside ，。（）; `fill` does it")
    return found
