"""Your own sentence through a checkpoint: tokens, translation, every head, and what is new to it.

`python -m course look "Ein Hund rennt."` writes it as one HTML file; lessons 00 and 09 show it.
"""

import base64
import html
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import altair as alt
import numpy as np
import vl_convert
from safetensors.numpy import load_file, save_file

from course.cache import translate
from course.homework.reasons import ask
from course.inside import Head, Look, labels_of, look_inside, sharpness
from course.page import SEEN
from course.progress import record_sentence
from course.runs import SHIPPED, load_checkpoint
from course.text import BPE, BYTE_NAMES, FIRST_SYMBOL, normalise
from course.transformer import Transformer
from course.viz import show
from course.viz.inside import explorer

EXAMPLE = "Ein Hund rennt durch den Schnee."  # the pages' own
LONGEST = 60  # tokens: more would be a picture that nobody can read
RARE = 5  # a word seen less often than this was hardly learned


def words_of(text: str) -> list[str]:
    """Return the words of a text, in lower case, without punctuation."""
    return [word.lower() for word in re.findall(r"\w+", normalise(text))]


def fnv1a(word: str) -> int:
    """Return a number of 32 bits for a word, from which the word cannot be read. FNV-1a."""
    number = 0x811C9DC5
    for byte in word.encode("utf-8"):
        number = (number ^ byte) * 0x01000193 & 0xFFFFFFFF
    return number


@dataclass(frozen=True)
class Seen:
    """What the source side of a training corpus held: counts, without any of its sentences.

    tokens (V): how often each token was read. words (n): hashes in rising order; counts (n): how
    often each of these words came. All counts end at 255. Another word shares a hash by accident
    about five times in a million.
    """

    tokens: np.ndarray
    words: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, bpe: BPE, sentences: Iterable[str]) -> "Seen":
        """Count the tokens and the words of training sentences."""
        tokens, words = np.zeros(len(bpe), np.int64), Counter()
        for sentence in sentences:
            np.add.at(tokens, bpe.encode(sentence), 1)
            words.update(map(fnv1a, words_of(sentence)))
        hashes = sorted(words)
        counts = [min(words[number], 255) for number in hashes]
        return cls(tokens.clip(max=255).astype(np.uint8), np.array(hashes, np.uint32),
                   np.array(counts, np.uint8))

    def save(self, path: Path) -> None:
        """Write the counts beside a checkpoint."""
        save_file({"tokens": self.tokens, "words": self.words, "counts": self.counts}, path)

    @classmethod
    def load(cls, path: Path) -> "Seen":
        """Read what `save` wrote."""
        return cls(**load_file(path))

    def count(self, word: str) -> int:
        """Return how often training saw a word, in any case; 255 stands for that and more."""
        number = fnv1a(word.lower())
        place = int(np.searchsorted(self.words, np.uint32(number)))
        found = place < len(self.words) and self.words[place] == number
        return int(self.counts[place]) if found else 0


@dataclass(frozen=True)
class OwnSentence:
    """A sentence, what a model makes of it, and what of it the model has never seen.

    new_words: never seen in training; rare_words: with their small counts; new_signs: characters
    that have no token and are read as bytes; new_tokens: other tokens that were never read as a
    source. `known` is False where a checkpoint has no such counts.
    """

    german: str
    english: str
    tokens: list[str]
    written: list[str]
    new_words: list[str]
    rare_words: dict[str, int]
    new_signs: list[str]
    new_tokens: list[str]
    known: bool
    look: Look
    labels: dict[str, tuple[list[str], list[str]]]

    def __str__(self) -> str:
        return (f"you:    {self.german}\ntokens: {' '.join(self.tokens)}\n"
                f"model:  {self.english}\ntokens: {' '.join(self.written)}\n{self.note()}")

    def note(self) -> str:
        """Return what of the sentence lies outside what the model has read, in a few lines."""
        if not self.known:
            return "This checkpoint has no counts of what its training saw."
        if not words_of(self.german):
            return "There is no word in it: the translation is made of nothing."
        lines = []
        if self.new_words:
            lines.append(f"Never seen in training: {', '.join(self.new_words)}. What the model "
                         "says about that is a guess.")
        if self.rare_words:
            rare = ", ".join(f"{word} ({n})" for word, n in self.rare_words.items())
            lines.append(f"Hardly ever seen (how often): {rare}.")
        if self.new_signs:
            lines.append(f"Signs without a token, read byte by byte: {' '.join(self.new_signs)}")
        if self.new_tokens:
            lines.append(f"Pieces that it never read: {' '.join(self.new_tokens)}.")
        if lines:
            lines.append("The model knows captions of photographs only: who does what, where.")
        return "\n".join(lines or [f"Training saw each of its words {RARE} times or more."])

    @cached_property
    def head(self) -> Head:
        """The head of the last layer's cross-attention that looks most narrowly."""
        layer = len(self.look.weights["cross"]) - 1
        return Head("cross", layer, int(sharpness(self.look, "cross")[layer].argmax()))

    def cell(self) -> tuple[str, str, float]:
        """Return the largest cell of this head: its row, its column, its weight.

        The row that writes </s> and the column </s> are left out: they are no words.
        """
        weights = self.look.weights["cross"][self.head[1:]][:-1, :-1]  # (T - 1, S - 1)
        row, column = divmod(int(weights.argmax()), weights.size(1))
        rows, columns = self.labels["cross"]
        return rows[row], columns[column], weights.max().item()

    def chart(self) -> alt.LayerChart:
        """Return the attention explorer of lesson 09b on this sentence alone."""
        records = [(kind, self.german, *self.labels[kind], weights)
                   for kind, weights in self.look.weights.items()]
        sharp = {kind: sharpness(self.look, kind) for kind in self.look.weights}
        return explorer(records, sharp, self.head, "Where each head looks: choose one")

    def question(self) -> str:
        """Return one cell of the picture in words; `check("one_cell")` asks what it says."""
        row, column, weight = self.cell()
        place = f"layer {self.head.layer + 1}, head {self.head.head + 1}"
        return (f"one cell (cross-attention, {place}): row {row!r}, column {column!r}, "
                f"weight {weight:.2f}")

    def _ipython_display_(self) -> None:
        print(self)
        show(self.chart(), alt=self.question())
        print(self.question())

    def to_html(self) -> str:
        """Return the same as one page that needs no network."""
        said = {name: html.escape(text) for name, text in (
            ("german", self.german), ("english", self.english or "(nothing)"),
            ("note", self.note()), ("cell", self.question()))}
        tokens, written = (
            " ".join(f'<span class="{"new" if token in marked else "token"}">{html.escape(token)}'
                     "</span>" for token in side)
            for side, marked in ((self.tokens, (*self.new_tokens, *BYTE_NAMES)), (self.written, ()))
        )
        spec = self.chart().to_dict()
        picture = base64.b64encode(vl_convert.vegalite_to_png(spec, vl_version="5.20")).decode()
        return PAGE.format(
            **said, tokens=tokens, written=written, picture=picture, alt=said["cell"],
            question=ask("one_cell").as_html(folds=True),
            spec=json.dumps(spec).replace("</", "<\\/"), bundle=vl_convert.javascript_bundle(),
        )


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>A look at: {german}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 48rem; margin: 2rem auto }}
body {{ padding: 0 1rem }}
.token, .new {{ border: 1px solid #767676; border-radius: 3px; padding: 0 .3em; white-space: pre }}
.new {{ border: 2px dashed #D55E00 }}
.note {{ white-space: pre-line; border-left: 6px solid #E69F00; padding: .3em 1em }}
img {{ max-width: 100% }}
</style>
<script type="module">{bundle}
window.vegaEmbed("#chart", {spec}, {{"actions": false}});</script>
</head><body>
<h1 lang="de">{german}</h1>
<p>{tokens}</p>
<h2>{english}</h2>
<p>{written}</p>
<p class="note">{note}</p>
<div id="chart"></div>
<noscript><img alt="{alt}" src="data:image/png;base64,{picture}"></noscript>
<p>{cell}</p>
{question}
</body></html>
"""


class NoSentence(ValueError):
    """Raised for what can't be looked at; a notebook shows its message without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def checked(sentence: str, bpe: BPE) -> str:
    """Return a sentence in one line; raises TypeError or ValueError that says what to write."""
    if not isinstance(sentence, str):
        raise TypeError(f"look takes one sentence, a text in quotes, not {type(sentence).__name__}")
    sentence = normalise(sentence)
    if not sentence:
        raise NoSentence('there is no sentence: write one, like "Ein Hund rennt durch den Schnee."')
    length = len(bpe.encode(sentence)) if len(sentence) < 100 * LONGEST else len(sentence)
    if length > LONGEST:
        raise NoSentence(f"this is long: {length:,} tokens, and the picture can show {LONGEST}. "
                         "The model knows single sentences of a dozen words: give it one of them")
    return sentence


def look(sentence: str, checkpoint: str | Path = "multi30k-de-en") -> OwnSentence:
    """Put one German sentence through a checkpoint, by beam 4, and look at every head.

    Raises TypeError, ValueError for what is no sentence of at most 60 tokens, CheckpointError.
    """
    model, bpe = load_checkpoint(checkpoint)
    if not isinstance(model, Transformer):
        raise ValueError(f"{checkpoint} is a recurrent network: it has no heads to look at")
    sentence = checked(sentence, bpe)
    english = translate(model, bpe, [sentence], beam=4)[0]
    inside = look_inside(model, bpe, [(sentence, english)])[0]
    path = (Path(checkpoint) if Path(checkpoint).is_dir() else SHIPPED / checkpoint) / SEEN
    seen = Seen.load(path) if path.exists() else None
    if sentence != EXAMPLE:
        record_sentence(sentence, english)
    words = list(dict.fromkeys(words_of(sentence)))
    counted = {word: seen.count(word) for word in words} if seen else {}
    tokens = [bpe.names[i] for i in inside.src[:-1]]
    unread = [bpe.names[i] for i in dict.fromkeys(inside.src[:-1])
              if seen and not seen.tokens[i] and i >= FIRST_SYMBOL]
    return OwnSentence(
        sentence, english, tokens, [bpe.names[i] for i in inside.tgt[:-1]],
        [word for word, n in counted.items() if not n],
        {word: n for word, n in counted.items() if 0 < n < RARE},
        [sign for sign in dict.fromkeys(sentence) if sign not in bpe.ids],
        unread, seen is not None, inside,
        {kind: labels_of(inside, kind, bpe) for kind in inside.weights},
    )
