"""Subjects, predicates and clauses of the captions corpus: who does what, and where the verb goes.

Every function makes a German and an English side together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from course.corpora.actions import Action
from course.corpora.lexicon import (
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
from course.corpora.phrases import (
    DER,
    NUMERALS,
    Dice,
    Phrase,
    Tree,
    Word,
    adjectives,
    ending,
    english_preposition,
    leaf,
    node,
    noun_phrase,
    place_phrase,
    prepositional,
)


@dataclass(frozen=True)
class Subject:
    """A noun phrase in the nominative, with what agrees with it."""

    phrase: Phrase
    noun: Noun
    plural: bool  # of the verb
    many: bool  # several in fact, as in "a group of children"
    indefinite: bool
    owner: tuple[str, str]  # sein, his; "" for what owns nothing
    blond: bool = False
    also: Noun | None = None  # the other one of a pair, the members of a group

    @property
    def it(self) -> bool:
        """Das Kind, das Mädchen: what is its own is said of what it takes off only."""
        return self.noun.gender == "n" and not self.plural

    @property
    def pronoun(self) -> str:
        return ending(DER, "nom", self.noun.gender, self.plural)


OWNERS = {"m": ("sein", "his"), "f": ("ihr", "her"), "n": ("sein", "its")}


def make_subject(dice: Dice, noun: Noun, chance: float, determiner: str = "") -> Subject:
    """Draw determiner, number and adjectives of a subject."""
    dets = ["ein"] * 11 + ["der"] * 3 + ["zwei", "zwei", "drei", "mehrere", "beide"]
    det = determiner or dice.pick(dets)
    plural = det in NUMERALS
    adjs = adjectives(dice, noun, chance)
    person = noun.group in PEOPLE
    owner = ("", "")
    if person:
        owner = ("ihr", "their") if plural else OWNERS[noun.gender]
        owner = ("sein", "her") if noun.en == "girl" and not plural else owner  # das Mädchen
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
    own_key: object = field(default_factory=object)  # of the English verb without its auxiliary

    @property
    def middle(self) -> list[Word]:
        """German order: early objects, time, manner, place, late objects, direction."""
        adverbials = [part.de for part in (self.time, self.manner, self.place) if part]
        return [*self.before, *(word for part in adverbials for word in part), *self.after]

    def finite(self, plural: bool) -> list[Word]:
        sich = [Word("sich", (self.own_key,))] if "sich" in self.action.flags else []
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
        has_object = (self.action.acc and not self.action.acc_en) or "-" in self.action.governs
        manner = self.manner.en if self.manner else None
        # A prefix translates a particle or preposition, or else it is part of the verb.
        _, _, *particles = self.action.en
        separate = particles and self.action.de[2:]
        governs = (
            self.action.acc_en
            or self.action.governs[2]
            or (self.action.dat_en and not self.action.acc)
        )
        keys = (self.key,) if separate or governs else (self.key, self.prefix_key)
        particle_keys = (self.prefix_key,) if separate else (self.key,)
        return node(
            "VP",
            manner if has_object else None,
            leaf(tag, self.action.en[base], *keys, self.own_key),
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


@cache
def possible(action: Action, zone: str) -> bool:
    """Whether the action can go on in the zone."""
    return (
        (not zone or action.zone in ("", zone))
        and (not action.where or bool(places(PLACES, action.where, zone)))
        and (not action.goal or bool(places(GOALS, action.goal, zone)))
    )


OWNED = ("coat", "hat", "glasses", "shades", "dog", "car", "bicycle")


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
    elif det == "poss" and noun.group in OWNED and (
            subject.owner[0] and (not subject.it or action.dets == ["poss"])):
        (det, owner), plural = subject.owner, everyone
    elif det == "plural" or everyone:
        det, plural = "", True
    elif det == "many":
        det, plural = dice.pick(["zwei", "zwei", "drei", "mehrere"]), True
    elif det == "poss":
        det = "ein" if "ein" in action.dets else "der"
    adjs = [] if det == "the" else adjectives(dice, noun, chance)
    if "cold" in action.flags:
        adjs = [adj for adj in adjs if adj[1] != "hot"]
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
    key, prefix_key, own_key = object(), object(), object()
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
        keys = (prefix_key,) if action.de[2:] else (own_key,) if en == "-" else ()
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
    free = thing and (subject.it or not thing.owner[0])
    if free and not action.goal and dice.chance(chance):
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
        action, before, after, english, manner, None, place, tail, key, prefix_key, own_key
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
    """A clause with its verb at the end: die einen Hut trägt, who is wearing a hat."""
    key = object()
    told = predicate(dice, action, subject, chance, zone)
    human = subject.noun.group in PEOPLE
    pronoun = leaf("WP", "who", key) if human else leaf("WDT", "that", key)
    german = [Word(","), Word(subject.pronoun, (key,)), *told.final(subject.plural), Word(",")]
    verb = node("VP", be(subject.plural, told.key), told.english())
    return Phrase(german, node("SBAR", node("WHNP", pronoun), node("S", verb)))


def attribute(dice: Dice, subject: Subject) -> Phrase | None:
    """What somebody wears or looks like: mit langen Haaren; the woman in the red dress."""
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
    det = "" if many else "ein"
    if not (subject.indefinite or subject.many):
        det = "der"
    phrase = noun_phrase(noun, "dat", det, many, adjs)
    return prepositional(de, en, phrase)


def with_attribute(subject: Subject, more: Phrase) -> Subject:
    """The subject with a prepositional phrase or a relative clause after it."""
    phrase = Phrase(subject.phrase.de + more.de, node("NP", subject.phrase.en, more.en))
    return replace(subject, phrase=phrase)


# ---- clauses: where German puts its verb ---------------------------------------------------


def main_clause(subject: Subject, *verbs: Predicate, front: Phrase | None = None) -> Phrase:
    """Verb second: "Im Park spielt ein Hund"; a second verb follows after "und"."""
    german: list[Word] = []
    finite, *sich = verbs[0].finite(subject.plural)
    prefix = verbs[0].prefix()
    if front:
        subject_de = subject.phrase.de
        if prefix and not verbs[0].middle:  # kauft ein Mann ein, der einen Hut trägt
            ends = [i for i, word in enumerate(subject_de) if word.form == ","][:1]
            at = ends[0] if ends else len(subject_de)
            subject_de, prefix = [*subject_de[:at], *prefix, *subject_de[at:]], []
        german += [*front.de, finite, *sich, *subject_de]
    else:
        german += [*subject.phrase.de, finite, *sich]
    german += [*verbs[0].middle, *prefix, *verbs[0].tail]
    english = verbs[0].english()
    for verb in verbs[1:]:
        key = object()
        finite, *sich = verb.finite(subject.plural)
        german += [Word("und", (key,)), finite, *sich, *verb.middle, *verb.prefix(), *verb.tail]
        english = node("VP", english, leaf("CC", "and", key), verb.english())
    opening = [front.en, leaf(",", ",", *front_comma(front))] if front else []
    verb_phrase = node("VP", be(subject.plural, verbs[0].key), english)
    return Phrase(german, node("S", *opening, subject.phrase.en, verb_phrase))


def front_comma(front: Phrase) -> tuple[object, ...]:
    """The keys of the comma after what is said first, if German has one there too."""
    return front.de[-1].keys if front.de[-1].form == "," else ()


def while_clause(subject: Subject, verb: Predicate) -> Phrase:
    """Verb final: "während ein Hund im Park spielt"."""
    key = object()
    german = [Word("während", (key,)), *subject.phrase.de, *verb.final(subject.plural)]
    verb_phrase = node("VP", be(subject.plural, verb.key), verb.english())
    clause = node("S", subject.phrase.en, verb_phrase)
    return Phrase(german, node("SBAR", leaf("IN", "while", key), clause))


def because_clause(reason: str) -> Phrase:
    """A row of REASONS: "weil es kalt ist", because it is cold."""
    german, english = reason.split(" = ")
    words = [Word(form, (object(),)) for form in german.split()]
    because = Word("weil", (object(),))

    def leaves(part: str) -> list[Tree]:
        fields = (word.split(":") for word in part.split())
        return [leaf(tag, form, *words[int(index)].keys) for tag, form, index in fields]

    subject, verb, rest = english.split(" | ")
    label, _, rest = rest.partition(" ")
    clause = node(
        "S",
        node("NP", *leaves(subject)),
        node("VP", *leaves(verb), node(label, *leaves(rest))),
    )
    return Phrase([because, *words], node("SBAR", leaf("IN", "because", *because.keys), clause))


def infinitive_clause(verb: Predicate, um: bool) -> Phrase:
    """The verb with zu at the end: "(um) einen Ball zu fangen", (to) catch a ball."""
    key = object()
    german = [Word("um", (key,))] if um else []
    inner = node("VP", leaf("TO", "to", key), verb.english(base=True))
    return Phrase([*german, *verb.infinitive(key)], node("S", inner))


def followed(main: Phrase, clause: Phrase) -> Phrase:
    """A main clause, and a subordinate clause after it."""
    *subject, verb_phrase = main.en.children
    english = node("S", *subject, node("VP", *verb_phrase.children, clause.en))
    return Phrase([*main.de, Word(","), *clause.de], english)
