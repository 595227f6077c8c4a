"""Phrases and clauses of the captions corpus, both languages at once.

Every rule makes a German and an English side together. Words that translate each other share a
key (an anonymous object), whatever their order; the alignment is read off the keys at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import TypeVar

from course.corpora.actions import Action
from course.corpora.lexicon import (
    ADJECTIVES,
    ATTRIBUTES,
    GOALS,
    GROUPS,
    MANNERS,
    PEOPLE,
    PLACES,
    WARDROBE,
    Noun,
    Place,
)

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


@dataclass(frozen=True)
class Subject:
    """A noun phrase in the nominative, with what agrees with it."""

    phrase: Phrase
    noun: Noun
    plural: bool  # of the verb
    many: bool  # several in fact, as in "a group of children"
    indefinite: bool
    owner: tuple[str, str]  # sein, his; "" where the corpus uses no possessive
    blond: bool = False
    also: Noun | None = None  # the other one of a pair, the members of a group

    @property
    def pronoun(self) -> str:
        return ending(DER, "nom", self.noun.gender, self.plural)


OWNERS = {"m": ("sein", "his"), "f": ("ihr", "her"), "n": ("", "")}


def make_subject(
    dice: Dice, noun: Noun, chance: float, determiner: str = ""
) -> Subject:
    """Draw determiner, number and adjectives of a subject."""
    dets = ["ein"] * 11 + ["der"] * 3 + ["zwei", "zwei", "drei", "mehrere", "beide"]
    det = determiner or dice.pick(dets)
    plural = det in NUMERALS
    adjs = adjectives(dice, noun, chance)
    person = noun.group in PEOPLE
    owner = ("", "")
    if person:
        owner = ("ihr", "their") if plural else OWNERS[noun.gender]
    return Subject(
        noun_phrase(noun, "nom", det, plural, adjs),
        noun,
        plural,
        plural,
        det not in ("der", "beide"),
        owner,
        any(stem == "blond" for stem, _ in adjs),
    )


def group_of(dice: Dice, noun: Noun) -> Subject:
    """Eine Gruppe von Kindern, a group of children: one verb, many people."""
    group = Noun("", "Gruppe", "f", "Gruppen", "group", "groups", (), False, "", False)
    adjs = adjectives(dice, noun, 0.3)
    outer = noun_phrase(group, "nom", "ein")
    inner = prepositional("von", "of", noun_phrase(noun, "dat", "", True, adjs))
    phrase = Phrase(outer.de + inner.de, node("NP", outer.en, inner.en))
    return Subject(phrase, group, False, True, True, ("", ""), also=noun)


def together(dice: Dice, nouns: Sequence[Noun]) -> Subject:
    """Ein Mann und eine Frau: two noun phrases and a plural verb."""
    first, second = (make_subject(dice, noun, 0.25, "ein") for noun in nouns)
    key = object()
    phrase = Phrase(
        [*first.phrase.de, Word("und", (key,)), *second.phrase.de],
        node("NP", first.phrase.en, leaf("CC", "and", key), second.phrase.en),
    )
    return Subject(phrase, first.noun, True, True, True, ("ihr", "their"), also=second.noun)


@dataclass(frozen=True)
class Predicate:
    """A verb with all that belongs to it, before word order is decided."""

    action: Action
    before: list[Word]  # German: what comes early between the two places of the verb
    after: list[Word]  # German: what comes late there
    objects: list[Tree]  # English
    manner: Phrase | None = None
    time: Phrase | None = None
    place: Phrase | None = None
    tail: list[Word] = field(default_factory=list)  # German, after the clause: ", die ... ,"
    key: object = field(default_factory=object)
    prefix_key: object = field(default_factory=object)

    @property
    def middle(self) -> list[Word]:
        """German order: early objects, time, manner, place, late objects, direction."""
        adverbials = [part.de for part in (self.time, self.manner, self.place) if part]
        return [*self.before, *(word for part in adverbials for word in part), *self.after]

    def finite(self, plural: bool) -> list[Word]:
        sich = [Word("sich", (self.key,))] if "sich" in self.action.flags else []
        return [Word(self.action.de[plural], (self.key,)), *sich]

    def prefix(self) -> list[Word]:
        return [Word(form, (self.prefix_key,)) for form in self.action.de[2:]]

    def final(self, plural: bool) -> list[Word]:
        """The clause with its verb at the end, after its prefix in one word: anschaut."""
        verb, *sich = self.finite(plural)
        if self.action.de[2:]:
            verb = Word(self.action.de[2] + verb.form, (self.key, self.prefix_key))
        return [*sich, *self.middle, verb, *self.tail]

    def infinitive(self, to: object) -> list[Word]:
        """The clause with its zu-infinitive at the end: zu fangen, aufzuheben."""
        _, *sich = self.finite(True)
        prefix, base = "".join(self.action.de[2:]), self.action.de[1]
        verb = [Word("zu", (to,)), Word(base, (self.key,))]
        if prefix:
            verb = [Word(f"{prefix}zu{base}", (self.key, self.prefix_key, to))]
        return [*sich, *self.middle, *verb, *self.tail]

    def english(self, base: bool = False) -> Tree:
        """The English verb phrase, with the participle or the base form."""
        tag = "VB" if base else "VBN" if self.action.en[0] == "parked" else "VBG"
        has_object = self.action.acc or "-" in self.action.governs
        manner = self.manner.en if self.manner else None
        # A prefix translates a particle or preposition, or else it is part of the verb.
        _, _, *particles = self.action.en
        separate = particles and self.action.de[2:]
        governs = self.action.acc_en or self.action.governs[2] or (
            self.action.dat_en and not self.action.acc
        )
        keys = (self.key,) if separate or governs else (self.key, self.prefix_key)
        particle_keys = (self.prefix_key,) if separate else (self.key,)
        return node(
            "VP",
            manner if has_object else None,
            leaf(tag, self.action.en[base], *keys),
            *(node("PRT", leaf("RP", word, *particle_keys)) for word in particles),
            None if has_object else manner,
            *self.objects,
            self.place.en if self.place else None,
            self.time.en if self.time else None,
        )


def wardrobe(noun: Noun) -> list[str]:
    """Groups of the clothes that fit."""
    groups = WARDROBE.get(noun.group, "").split()
    if noun.gender == "f" and noun.group in ("grown", "singer") or noun.en == "girl":
        groups.append("dress")
    return groups


def places(tables: dict[str, list[Place]], names: Sequence[str], zone: str) -> list[Place]:
    """The places of these tables that can be in the zone."""
    found = [place for name in names for place in tables[name]]
    return [place for place in found if not zone or place.zone in ("", zone)]


def possible(action: Action, zone: str) -> bool:
    """Whether the action can go on in the zone."""
    return (
        (not zone or action.zone in ("", zone))
        and (not action.where or bool(places(PLACES, action.where, zone)))
        and (not action.goal or bool(places(GOALS, action.goal, zone)))
    )


OWNED = ("coat", "hat", "glasses", "dog", "car", "bicycle")


def make_object(
    dice: Dice, action: Action, subject: Subject, groups: Sequence[str], case: str, chance: float
) -> Subject:
    """An object in its case; a relative clause may make it a subject."""
    others = [noun for name in groups for noun in GROUPS[name]]
    noun = dice.pick([noun for noun in others if noun not in (subject.noun, subject.also)])
    det, owner, plural = dice.pick(action.dets), "", False
    everyone = subject.many and "each" in action.flags
    if noun.mass:
        det = ""
    elif det == "poss" and noun.group in OWNED and subject.owner[0]:
        (det, owner), plural = subject.owner, everyone
    elif det == "plural" or everyone:
        det, plural = "", True
    elif det == "many":
        det, plural = dice.pick(["zwei", "zwei", "drei", "mehrere"]), True
    elif det == "poss":
        det = "ein"
    adjs = [] if det == "the" else adjectives(dice, noun, chance)
    phrase = noun_phrase(noun, case, det, plural, adjs, owner)
    indefinite = det not in ("der", "sein", "ihr")
    return Subject(phrase, noun, plural, plural, indefinite, (owner, owner))


def predicate(
    dice: Dice,
    action: Action,
    subject: Subject,
    chance: float,
    zone: str = "",
    about: Sequence[Action] = (),
    spare: bool = False,
) -> Predicate:
    """Draw the objects, the place and the manner of an action.

    `about` are the actions that a relative clause may tell of the object; `spare` leaves out
    what need not be said.
    """
    key, prefix_key = object(), object()
    before: list[Word] = []
    after: list[Word] = []
    english: list[Tree] = []
    thing: Subject | None = None  # the last one in English: a relative clause may follow it
    prefix = (prefix_key,) if action.de[2:] else (key,)

    if action.dat:
        thing = make_object(dice, action, subject, action.dat, "dat", chance)
        first = action.acc or not thing.indefinite
        (before if first else after).extend(thing.phrase.de)
        tree = thing.phrase.en
        if action.dat_en:
            keys = thing.phrase.de[0].keys if action.acc else prefix
            tree = node("PP", *english_preposition(action.dat_en, *keys), tree)
        english.append(tree)
    if action.acc:
        thing = make_object(dice, action, subject, action.acc, "acc", chance)
        (after if thing.indefinite or action.dat else before).extend(thing.phrase.de)
        tree = thing.phrase.en
        if action.acc_en:
            tree = node("PP", *english_preposition(action.acc_en, *prefix), tree)
        english.insert(0 if action.dat_en else len(english), tree)
    if action.prep:
        preposition, case, en = action.governs
        thing = make_object(dice, action, subject, action.prep, case, chance)
        keys = (prefix_key,) if action.de[2:] else (key,) if en == "-" else ()
        phrase = prepositional(preposition, en, thing.phrase, *keys)
        after += phrase.de
        english.append(phrase.en)
    if action.goal:
        goal = place_phrase(dice, dice.pick(places(GOALS, action.goal, zone)), chance)
        after += goal.de
        english.append(goal.en)

    manner = place = relative = None
    if action.how and not spare and dice.chance(0.3):
        manner_key, en = object(), dice.pick(action.how)
        manner = Phrase(
            [Word(MANNERS[en], (manner_key,))], node("ADVP", leaf("RB", en, manner_key))
        )
    if thing and not thing.owner[0] and not action.goal and dice.chance(chance):
        fitting = [a for a in about if thing.noun.group in a.who and possible(a, zone)]
        if fitting:
            relative = relative_clause(dice, dice.pick(fitting), thing, 0.25, zone)
            english[-1] = attach(english[-1], relative.en)
    where = places(PLACES, action.where, zone)
    crowded = spare or relative or (manner and english)
    if where and ("must" in action.flags or (not crowded and dice.chance(chance))):
        place = place_phrase(dice, dice.pick(where), chance)
    tail = relative.de if relative else []
    return Predicate(
        action, before, after, english, manner, None, place, tail, key, prefix_key
    )


def attach(english: Tree, clause: Tree) -> Tree:
    """Put a relative clause on the noun phrase that ends a constituent."""
    if english.label == "PP":
        *rest, last = english.children
        return node("PP", *rest, attach(last, clause))
    return node("NP", english, clause)


def be(plural: bool, *keys: object) -> Tree:
    return leaf("VBP", "are", *keys) if plural else leaf("VBZ", "is", *keys)


def relative_clause(
    dice: Dice, action: Action, subject: Subject, chance: float, zone: str = ""
) -> Phrase:
    """", die einen Hut trägt," and "who is wearing a hat"."""
    key = object()
    told = predicate(dice, action, subject, chance, zone)
    human = subject.noun.group in PEOPLE
    pronoun = leaf("WP", "who", key) if human else leaf("WDT", "that", key)
    german = [Word(","), Word(subject.pronoun, (key,)), *told.final(subject.plural), Word(",")]
    verb = node("VP", be(subject.plural, told.key), told.english())
    return Phrase(german, node("SBAR", node("WHNP", pronoun), node("S", verb)))


def attribute(dice: Dice, subject: Subject) -> Phrase | None:
    """What somebody wears or looks like: mit langen Haaren, in a red dress."""
    groups = wardrobe(subject.noun)
    if subject.noun.group in ("grown", "kid", "visitor") and not subject.blond:
        groups += ["hair"]
    if subject.noun.de in ("Mann", "Bauer", "Künstler") and not subject.plural:
        groups += ["beard"]
    if not groups or subject.noun.de == "Gruppe":
        return None
    noun = dice.pick(GROUPS[dice.pick(groups)])
    de, en = ATTRIBUTES[noun.group]
    adjs = adjectives(dice, noun, 0.5)
    if noun.group in ("hair", "beard"):
        adjs = adjs or adjectives(dice, noun, 1)[:1]
    hair = noun.group == "hair"
    many = subject.many or hair
    phrase = noun_phrase(noun, "dat", "" if many else "ein", many, adjs)
    return prepositional(de, en, phrase)


def with_attribute(subject: Subject, more: Phrase) -> Subject:
    """The subject with a prepositional phrase or a relative clause after it."""
    phrase = Phrase(subject.phrase.de + more.de, node("NP", subject.phrase.en, more.en))
    return replace(subject, phrase=phrase)
