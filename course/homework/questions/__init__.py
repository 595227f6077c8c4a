"""The six questions of the reading assignment: the learner's answer first, then a model answer."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from course import progress

QUESTIONS = {
    1: "What is the difference between attention and self-attention?",
    2: "Why does the Transformer have residual connections?",
    3: "Why several heads, and not one?",
    4: "What does a self-attention layer cost, and why?",
    5: "Why does the Transformer need masks?",
    6: "Which position embeddings exist besides the paper's?",
}
LONG_ENOUGH = 100  # words; a Chinese character counts as one


@dataclass(frozen=True)
class Page:
    """Markdown that a notebook renders and a terminal prints."""

    markdown: str

    def _repr_markdown_(self) -> str:
        return self.markdown

    def __repr__(self) -> str:
        return self.markdown


CHINESE = r"[\u3400-\u4dbf\u4e00-\u9fff]"


def count_words(text: str) -> int:
    """Count words; every Chinese character is one."""
    return len(re.findall(CHINESE, text)) + len(re.sub(CHINESE, " ", text).split())


def counted_in(text: str) -> str:
    """Return what a text is counted in: words, or characters where most of it is Chinese."""
    return "characters" if 2 * len(re.findall(CHINESE, text)) > count_words(text) else "words"


def quoted(text: str) -> str:
    """Return a text as a quotation in Markdown, with its lines broken."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    blocks = [textwrap.fill(" ".join(part.split()), 96, initial_indent="> ",
                            subsequent_indent="> ", break_on_hyphens=False) for part in paragraphs]
    return "\n>\n".join(blocks)


def answer(number: int, text: str) -> Page:
    """Keep your answer to a question, for the report; at least 100 words or Chinese characters.

    Raises ValueError for a question that does not exist.
    """
    _check_number(number)
    words = count_words(text)
    if words < LONG_ENOUGH:
        return Page(
            f"**Question {number}, not yet.** {words} of {LONG_ENOUGH} {counted_in(text)} (a "
            "Chinese character counts as a word). Write as to a friend who has read the paper's "
            "section once: what is it, why is it so, what did your experiment show?"
        )
    progress.record_answer(number, text)
    compare = f"Now compare: `model_answer({number})`"
    return Page(f"**Question {number}, kept.** {words} {counted_in(text)}. {compare}\n\n"
                f"{quoted(text)}")


def model_answer(number: int) -> Page:
    """Show a model answer with its points and references, once your own is kept."""
    _check_number(number)
    mine = progress.load()["answers"].get(str(number))
    if mine is None and progress.location() is not None:
        return Page(f"**Question {number}.** First your own answer, then this one: what you wrote "
                    "yourself, even wrongly, is what you will remember. "
                    f"`answer({number}, ...)` keeps it.")
    path = Path(__file__).parent / "answers" / f"{number}.md"
    return Page(path.read_text(encoding="utf-8"))


def _check_number(number: int) -> None:
    if number not in QUESTIONS:
        raise ValueError(f"there is no question {number!r}: they are numbered 1 to 6")
