"""The embedded corpus: German-English image captions with gold alignments and English trees.

Every sentence comes from a small synchronous grammar written for this course, so that every
lesson runs without a network. To translate one needs to look around: German gender, case and
number, adjective endings, separable verbs, verb-final clauses, and compounds against phrases.

The alignment links tokens that stand for each other, after these rules:

- Nouns, adjectives, numerals, adverbs, prepositions and pronouns are linked to their like, an
  article to the article. A compound is linked to every word of its phrase (Bushaltestelle: bus,
  stop), vor to in, front and of, a contraction to preposition and article (im: in, the).
- A German verb is linked to the English verb and its auxiliary (liest: is, reading). A separable
  prefix is linked to the particle or preposition that translates it (hebt ... auf: picking, up;
  schaut ... an: looking, at), and to the verb where none does (macht ... auf: opening). Where the
  verb is one word at the end of its clause, that word has the links of both parts. A reflexive
  sich, and a preposition that English lacks (reitet auf: riding), are linked to the English verb,
  not to its auxiliary.
- An article, or an "of" or "to", that only one language has goes with the word that it belongs
  to: eine Brille to glasses, Gitarre to the guitar, eines Hauses to of a house.
- "um" and "zu" are both linked to "to"; commas and "There" are linked to nothing unless both
  languages have them at the same place; the full stops are linked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from course.corpora import actions
from course.corpora.actions import Action
from course.corpora.grammar import (
    Predicate,
    Subject,
    attribute,
    be,
    because_clause,
    followed,
    group_of,
    infinitive_clause,
    main_clause,
    make_subject,
    possible,
    predicate,
    relative_clause,
    together,
    wardrobe,
    while_clause,
    with_attribute,
)
from course.corpora.lexicon import GROUPS, TIMES, Noun
from course.corpora.phrases import Dice, Phrase, Tree, Word, leaf, node, place_phrase

SIZES = {"train": 12_000, "val": 500, "test": 500}
LENGTHS = (4, 26)  # tokens, either side
SEED = 1706

POSTURES = actions.rows(actions.POSTURES)
SEATED = actions.rows(actions.SEATED)
SOLITARY = actions.rows(actions.SOLITARY)
FREE = actions.rows(actions.FREE)
THINGS = actions.rows(actions.THINGS)
PURPOSES = [(actions.parse(row), aims) for row, aims in actions.nested(actions.PURPOSES)]
REASONS = actions.nested(actions.REASONS)
GRAZING = [action for action in FREE if action.acc == ["grass"]]
ANY = FREE + SEATED + SOLITARY
INDEFINITE = ("ein", "ein", "ein", "zwei", "drei", "mehrere")
WEAR = actions.parse(actions.WEAR)
TRY = actions.parse(actions.TRY)


@dataclass(frozen=True)
class Caption:
    """A German caption and its English translation.

    `alignment` holds pairs (i, j): de_tokens[i] and en_tokens[j] stand for each other. The leaves
    of `tree`, a bracketing with the Penn Treebank's labels, are exactly en_tokens. It is flatter
    than Penn's: a clause, or an adverb that tells how, stands in the verb phrase beside the rest.
    """

    de: str
    en: str
    de_tokens: tuple[str, ...]
    en_tokens: tuple[str, ...]
    alignment: tuple[tuple[int, int], ...]
    tree: str


# ---- scenes: what is said ------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """What the parts of one caption have in common, and the choices that they share."""

    dice: Dice
    detail: float  # 0 to 1: how much is said
    zone: str  # "in" or "out" of doors

    def says(self, weight: float = 1.0) -> bool:
        return self.dice.chance(weight * self.detail)

    def choose(self, table: Sequence[Action]) -> Action:
        return self.dice.pick([action for action in table if possible(action, self.zone)])

    def someone(
        self, action: Action, besides: Sequence[Noun | None] = (), determiner: str = ""
    ) -> Subject:
        nouns = candidates(action, besides)
        if "alone" in action.flags:
            determiner = self.dice.pick(["ein", "ein", "ein", "der"])
        return make_subject(self.dice, self.dice.pick(nouns), 0.6 * self.detail, determiner)

    def those_who(self, action: Action) -> Subject:
        """One, several, two of a kind each, or a group; perhaps with what they wear."""
        if "group" in action.flags and self.dice.chance(0.1):
            noun = self.dice.pick([*GROUPS["kid"], *GROUPS["visitor"]])
            if noun.group in action.who:
                return group_of(self.dice, noun)
        pair = {"grown", "kid"} <= {*action.who} and "alone" not in action.flags
        if pair and self.dice.chance(0.1):
            first = self.dice.pick(GROUPS["grown"])
            second = self.dice.pick([n for n in GROUPS["grown"] + GROUPS["kid"] if n != first])
            return together(self.dice, [first, second])
        subject = self.someone(action)
        return subject if "plain" in action.flags else self.dressed(subject)

    def dressed(self, subject: Subject) -> Subject:
        """The subject, perhaps with an attribute or a relative clause on what it wears."""
        if not self.says(0.7):
            return subject
        more = (attribute if self.dice.chance(0.5) else wearing)(self.dice, subject)
        return with_attribute(subject, more) if more else subject

    def told(self, action: Action, subject: Subject, spare: bool = False) -> Predicate:
        about = POSTURES + THINGS if "rel" in action.flags else []
        if "watch" in action.flags:
            about = POSTURES + ANY
        chance = 0.2 if spare else 0.75 * self.detail
        return predicate(self.dice, action, subject, chance, self.zone, about, spare)

    def time(self) -> Phrase:
        name = self.dice.pick(["day", "sunny"] if self.zone == "out" else ["day"])
        return place_phrase(self.dice, self.dice.pick(TIMES[name]), 0)


def candidates(action: Action, besides: Sequence[Noun | None]) -> list[Noun]:
    """Who may do it, besides those who do something else."""
    return [noun for group in action.who for noun in GROUPS[group] if noun not in besides]


def wearing(dice: Dice, subject: Subject) -> Phrase | None:
    """A relative clause on the clothes: der einen Hut trägt."""
    groups = [group for group in wardrobe(subject.noun) if group != "pack"]
    return relative_clause(dice, replace(WEAR, acc=groups), subject, 0.6) if groups else None


def fragment(at: Setting) -> Phrase:
    """No verb: Ein alter Mann mit einem langen Bart."""
    action = at.choose(POSTURES)
    subject = at.someone(action)
    place = at.told(action, subject).place
    more = wearing(at.dice, subject) if at.says(0.6) else attribute(at.dice, subject)
    if more is None or at.dice.chance(0.4):
        more = place
    return with_attribute(subject, more).phrase if more else subject.phrase


def simple(at: Setting) -> Phrase:
    """Subject, verb, and what belongs to it."""
    action = at.choose(ANY if at.dice.chance(0.9) else POSTURES)
    subject = at.those_who(action)
    verb = at.told(action, subject)
    if not verb.tail and at.says(0.15):
        verb = replace(verb, time=at.time())
    return main_clause(subject, verb)


def fronted(at: Setting) -> Phrase:
    """The place or the time first: Im Park spielt ein kleiner Hund."""
    action = at.choose(ANY)
    subject = at.those_who(action)
    verb = at.told(action, subject)
    front, verb = verb.place or at.time(), replace(verb, place=None)
    return main_clause(subject, verb, front=front)


def existential(at: Setting) -> Phrase:
    """Auf dem Tisch liegt ein Buch, there is a book lying on the table."""
    finding = [action for action in THINGS if action.de[0] in ("liegt", "steht", "hängt")]
    action = at.choose(POSTURES if at.dice.chance(0.6) else finding)
    subject = at.someone(action, determiner=at.dice.pick(INDEFINITE))
    more = attribute(at.dice, subject) if at.says(0.5) else None
    if more:
        subject = with_attribute(subject, more)
    verb = at.told(action, subject)
    assert verb.place is not None
    german = [*verb.place.de, *verb.finite(subject.plural), *subject.phrase.de]
    found = node("NP", subject.phrase.en, verb.english())
    there = node("NP", leaf("EX", "there"))
    return Phrase(german, node("S", there, node("VP", be(subject.plural, verb.key), found)))


def things(at: Setting) -> Phrase:
    """What a thing does, or where it is."""
    action = at.choose(THINGS)
    subject = at.someone(action)
    return main_clause(subject, at.told(action, subject))


def double(at: Setting) -> Phrase:
    """Two verbs: Eine Frau sitzt auf einer Bank und liest ein Buch."""
    action = at.choose(POSTURES)
    subject = at.someone(action)
    fitting = {
        "sitzt": SEATED,
        "steht": [a for a in SEATED if a.de[0] != "schreibt"] + GRAZING,
        "liegt": [a for a in SEATED + FREE if a.de[0] in ("liest", "schläft")],
    }[action.de[0]]
    fitting = [a for a in fitting if subject.noun.group in a.who and possible(a, at.zone)]
    dressed = at.dressed(subject)
    verbs = [at.told(action, subject)]
    if fitting:
        verbs.append(replace(at.told(at.dice.pick(fitting), subject), place=None))
    return main_clause(dressed, *verbs)


def meanwhile(at: Setting) -> Phrase:
    """Two clauses: ..., während eine Frau ein Buch liest; or the other way round."""
    action = at.choose(ANY + POSTURES)
    subject = at.those_who(action)
    first = at.told(action, subject)
    known = (subject.noun, subject.also)
    free = not (first.place or action.goal)
    other = at.choose([a for a in ANY + POSTURES if is_aside(a, known, free)])
    second = at.someone(other, known, at.dice.pick(INDEFINITE))
    aside = while_clause(second, at.told(other, second, spare=True))
    if at.dice.chance(0.7) or first.tail:
        return followed(main_clause(subject, first), aside)
    return main_clause(subject, first, front=before(aside))


def is_aside(action: Action, besides: Sequence[Noun | None], moving: bool) -> bool:
    """Whether the action fits beside another one, wherever that goes on, and of somebody else."""
    elsewhere = {"zoo", "monkey", "horse", "farm"} & {*action.who}
    spot = "must" not in action.flags or {*action.where} <= {"bench", "sofa", "lawn", "rug"}
    fits = spot and not elsewhere and (moving or not action.goal)
    return fits and bool(candidates(action, besides))


def before(clause: Phrase) -> Phrase:
    """A clause to be said first: its comma is one in both languages."""
    return Phrase([*clause.de, Word(",", (object(),))], clause.en)


def reason(at: Setting) -> Phrase:
    """The weather, and what one does then: ..., weil es regnet."""
    weather, table = at.dice.pick(REASONS)
    action = at.dice.pick(table)
    subject = at.someone(action)
    main = replace(at, zone="").told(action, subject)
    if at.dice.chance(0.6):
        return followed(main_clause(subject, main), because_clause(weather))
    return main_clause(subject, main, front=before(because_clause(weather)))


def purpose(at: Setting) -> Phrase:
    """What for: Ein Hund springt in die Luft, um den Ball zu fangen."""
    action, aims = at.dice.pick([pair for pair in PURPOSES if possible(pair[0], "out")])
    subject = at.those_who(action)
    main = replace(at, zone="out")
    aim = infinitive_clause(main.told(at.dice.pick(aims), subject), um=True)
    return followed(main_clause(subject, main.told(action, subject)), aim)


def attempt(at: Setting) -> Phrase:
    """Ein Junge versucht, auf einen Baum zu klettern."""
    action = at.choose([action for action in ANY if "try" in action.flags])
    subject = at.those_who(action)
    clause = infinitive_clause(replace(at.told(action, subject), manner=None), um=False)
    return main_clause(subject, Predicate(TRY, [], [], [clause.en], tail=[Word(","), *clause.de]))


SCENES: list[Callable[[Setting], Phrase]] = (
    [simple] * 7
    + [fronted] * 4
    + [existential] * 2
    + [double] * 4
    + [meanwhile] * 5
    + [fragment, things, reason, purpose, attempt]
)


# ---- from a scene to a caption -------------------------------------------------------------


def tidy(words: Sequence[Word]) -> list[Word]:
    """One comma where clauses meet, none before the full stop; the first word capitalised."""
    kept: list[Word] = []
    for word in words:
        if kept and kept[-1].form == "," and word.form in (",", "."):
            kept.pop()
        kept.append(word)
    return [replace(kept[0], form=capital(kept[0].form)), *kept[1:]]


def capital(word: str) -> str:
    return word[0].upper() + word[1:]


def capitalised(tree: Tree) -> Tree:
    if tree.word:
        return replace(tree, word=replace(tree.word, form=capital(tree.word.form)))
    return replace(tree, children=(capitalised(tree.children[0]), *tree.children[1:]))


def detokenised(tokens: Sequence[str]) -> str:
    """The sentence as it is written: no blank before comma and full stop."""
    return " ".join(tokens).replace(" ,", ",").replace(" .", ".")


def caption(dice: Dice) -> Caption:
    """Draw one caption."""
    setting = Setting(dice, dice.uniform(), dice.pick(["in", "out", "out"]))
    said = dice.pick(SCENES)(setting)
    stop = object()
    german = tidy([*said.de, Word(".", (stop,))])
    tree = capitalised(node(said.en.label, *said.en.children, leaf(".", ".", stop)))
    english = list(tree.leaves())
    where = [(key, j) for j, word in enumerate(english) for key in word.keys]
    links = {(i, j) for i, word in enumerate(german) for key, j in where if key in word.keys}
    de_tokens = tuple(word.form for word in german)
    en_tokens = tuple(word.form for word in english)
    de, en = detokenised(de_tokens), detokenised(en_tokens)
    return Caption(de, en, de_tokens, en_tokens, tuple(sorted(links)), str(tree))


def generate(n: int, seed: int = 0) -> list[Caption]:
    """Draw n captions; no German and no English sentence comes twice."""
    dice = Dice(seed)
    german: set[str] = set()
    english: set[str] = set()
    captions: list[Caption] = []
    shortest, longest = LENGTHS
    while len(captions) < n:
        one = caption(dice)
        lengths = (len(one.de_tokens), len(one.en_tokens))
        fits = shortest <= min(lengths) and max(lengths) <= longest
        nouns = [token for token in one.de_tokens[1:] if token[0].isupper()]
        fits = fits and len(set(nouns)) == len(nouns)  # "Ein Pferd ..., während ein Pferd ..."
        if fits and one.de not in german and one.en not in english:
            german.add(one.de)
            english.add(one.en)
            captions.append(one)
    return captions


@cache
def _corpus() -> list[Caption]:
    return generate(sum(SIZES.values()), SEED)


@cache
def load(split: str) -> list[Caption]:
    """The captions of a split, "train", "val" or "test"; the same on every machine.

    Raises ValueError for another name.
    """
    if split not in SIZES:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SIZES)}")
    corpus = _corpus()
    every = len(corpus) // SIZES["val"]
    held_out = {"val": 0, "test": every // 2}
    if split in held_out:
        return corpus[held_out[split] :: every]
    return [one for i, one in enumerate(corpus) if i % every not in held_out.values()]


def constituents(tree: str) -> list[tuple[str, int, int]]:
    """The constituents of a bracketing, parts of speech left out, in the order of their brackets.

    Returns (label, start, end) over the leaves, end not included. Raises ValueError where the
    brackets do not balance.
    """
    stack: list[tuple[str, int, int]] = []  # label, first leaf, rank of the bracket
    found: dict[int, tuple[str, int, int]] = {}
    leaves = rank = 0
    previous = ""
    for token in re.findall(r"\([^\s()]+|\)|[^\s()]+", tree):
        if token.startswith("("):
            stack.append((token[1:], leaves, rank))
            rank += 1
        elif token != ")":
            leaves += 1
        elif not stack:
            raise ValueError(f"a bracket closes that was not opened: {tree}")
        else:
            label, start, place = stack.pop()
            if previous == ")":
                found[place] = (label, start, leaves)
        previous = token
    if stack:
        raise ValueError(f"{len(stack)} brackets are not closed: {tree}")
    return [found[place] for place in sorted(found)]
