"""Words, trees and noun phrases of the captions corpus, both languages at once.

Words that translate each other share a key (an anonymous object), whatever their order; the
alignment is read off the keys at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from course.corpora.lexicon import ADJECTIVES, Noun, Place

T = TypeVar("T")


class Dice:
    """Chance that falls alike in every version of Python: it draws on Random.random alone."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def uniform(self) -> float:
        return self._random.random()

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self._random.random() * len(options))]


@dataclass(frozen=True)
class Word:
    """A token of either language; words that share a key are aligned."""

    form: str
    keys: tuple[object, ...] = ()


@dataclass(frozen=True)
class Tree:
    """An English constituent: a label over children, or a part of speech over a word."""

    label: str
    children: tuple[Tree, ...] = ()
    word: Word | None = None

    def leaves(self) -> Iterator[Word]:
        if self.word:
            yield self.word
        for child in self.children:
            yield from child.leaves()

    def __str__(self) -> str:
        inside = [self.word.form] if self.word else map(str, self.children)
        return f"({self.label} {' '.join(inside)})"


def node(label: str, *children: Tree | None) -> Tree:
    return Tree(label, tuple(child for child in children if child))


def leaf(tag: str, form: str, *keys: object) -> Tree:
    return Tree(tag, word=Word(form, keys))


@dataclass(frozen=True)
class Phrase:
    """One constituent in both languages."""

    de: list[Word]
    en: Tree


# Endings in the order masculine, feminine, neuter, plural.
DER = {
    "nom": "der die das die",
    "acc": "den die das die",
    "dat": "dem der dem den",
    "gen": "des der des der",
}
EIN = {"nom": "- e - e", "acc": "en e - e", "dat": "em er em en", "gen": "es er es er"}
WEAK = {"nom": "e e e en", "acc": "en e e en", "dat": "en en en en", "gen": "en en en en"}
MIXED = {"nom": "er e es en", "acc": "en e es en", "dat": "en en en en", "gen": "en en en en"}
STRONG = {"nom": "er e es e", "acc": "en e es e", "dat": "em er em en", "gen": "en er en er"}

NUMERALS = {"zwei": "two", "drei": "three", "mehrere": "several", "beide": "two"}
CONTRACTIONS = {
    ("in", "dem"): "im",
    ("in", "das"): "ins",
    ("an", "dem"): "am",
    ("an", "das"): "ans",
    ("zu", "dem"): "zum",
    ("zu", "der"): "zur",
}
# Parts of speech of the English prepositions that are not plain IN.
PREPOSITION_TAGS = {"front": "NN", "next": "JJ", "to": "TO"}


def ending(table: dict[str, str], case: str, gender: str, plural: bool) -> str:
    return table[case].split()[3 if plural else "mfn".index(gender)].strip("-")


def article(det: str, case: str, gender: str, plural: bool) -> str:
    """The German determiner: "der", "ein", "sein", "ihr", a numeral, or "" for none."""
    if det == "der":
        return ending(DER, case, gender, plural)
    if det in ("ein", "sein", "ihr"):
        return det + ending(EIN, case, gender, plural)
    if det == "mehrere":
        return "mehrer" + ending(STRONG, case, gender, plural)
    return det


def german_noun(noun: Noun, case: str, plural: bool) -> str:
    if plural:
        return noun.de_plural + ("n" if case == "dat" and noun.de_plural[-1] not in "ns" else "")
    if noun.weak and case != "nom":
        return noun.de_plural
    return noun.genitive if case == "gen" else noun.de


def adjectives(dice: Dice, noun: Noun, chance: float) -> list[tuple[str, str]]:
    """At most one adjective of each class that suits the noun: (German stem, English)."""
    chances = [chance / 2 if name == "hair" else chance for name in noun.adjectives]
    chosen = [name for name, p in zip(noun.adjectives, chances) if dice.chance(p)]
    return [dice.pick(ADJECTIVES[name]) for name in chosen]


def noun_phrase(
    noun: Noun,
    case: str,
    det: str,
    plural: bool = False,
    adjs: Sequence[tuple[str, str]] = (),
    owner: str = "",
) -> Phrase:
    """A determiner, adjectives and a noun.

    `det` is ein, der, sein, ihr (with the English `owner`), zwei, drei, mehrere, beide (die
    beiden), the (German without article, English with) or "" (no article in either).
    """
    det_key, noun_key = object(), object()
    tables = {"der": WEAK, "beide": WEAK, "ein": MIXED, "sein": MIXED, "ihr": MIXED}
    table = tables.get(det, STRONG)
    english = noun.en_plural if plural else noun.en
    many = (plural or noun.en_number == "+") and noun.en_number != "%"
    *modifiers, head = english.split()
    spoken = [en for _, en in adjs] + english.split()

    de: list[Word] = []
    form = article(det, case, noun.gender, plural)
    leaves: list[Tree] = []
    if det == "ein" and many:
        det_key = noun_key  # eine Brille, glasses
    elif det == "ein":
        leaves.append(leaf("DT", "an" if spoken[0][0] in "aeiou" else "a", det_key))
    elif det == "der":
        leaves.append(leaf("DT", "the", det_key))
    elif det == "the":
        leaves.append(leaf("DT", "the", noun_key))
    elif det == "beide":
        leaves.append(leaf("DT", "the", det_key))
    elif owner:
        leaves.append(leaf("PRP$", owner, det_key))
    if det in NUMERALS:
        number_key = object()
        leaves.append(leaf("JJ" if det == "mehrere" else "CD", NUMERALS[det], number_key))
        if det == "beide":
            de.append(Word(article("der", case, noun.gender, True), (det_key,)))
            form = "beiden"
        de.append(Word(form, (number_key,)))
    elif det not in ("", "the"):
        de.append(Word(form, (det_key,)))
    for stem, en in adjs:
        key = object()
        de.append(Word(stem + ending(table, case, noun.gender, plural), (key,)))
        leaves.append(leaf("JJ", en, key))
    de.append(Word(german_noun(noun, case, plural), (noun_key,)))
    leaves += [leaf("NN", word, noun_key) for word in modifiers]
    leaves.append(leaf("NNS" if many else "NN", head, noun_key))
    return Phrase(de, node("NP", *leaves))


def english_preposition(words: str, *keys: object) -> list[Tree]:
    """Leaves of "at", "in front of": flat, every word with the keys."""
    several = " " in words
    return [
        leaf(PREPOSITION_TAGS.get(word, "IN") if several or word == "to" else "IN", word, *keys)
        for word in words.split()
    ]


def prepositional(de: str, en: str, np: Phrase, *more_keys: object) -> Phrase:
    """A preposition and its noun phrase; German contracts it with a definite article.

    Without an English preposition ("-") the German one belongs to the verb of `more_keys`.
    """
    key = object()
    keys = (key,) if en != "-" else more_keys
    first, *rest = np.de
    if contraction := CONTRACTIONS.get((de, first.form)):
        german = [Word(contraction, (*keys, *first.keys)), *rest]
    else:
        german = [Word(de, keys), *np.de]
    if en == "-":
        return Phrase(german, np.en)
    return Phrase(german, node("PP", *english_preposition(en, key, *more_keys), np.en))


def place_phrase(dice: Dice, place: Place, chance: float) -> Phrase:
    """A place, time or direction; its noun may have adjectives after an indefinite article."""
    plural = place.det in NUMERALS
    adjs = [] if place.det == "der" else adjectives(dice, place.noun, chance)
    if "sunny" in place.noun.adjectives:
        adjs = list(ADJECTIVES["sunny"])
    np = noun_phrase(place.noun, place.case, place.det, plural, adjs)
    if place.of:
        whole = noun_phrase(place.of, "gen", "ein", adjs=adjectives(dice, place.of, chance))
        of = node("PP", leaf("IN", "of", *whole.de[0].keys), whole.en)
        np = Phrase(np.de + whole.de, node("NP", np.en, of))
    return prepositional(place.de, place.en, np)
