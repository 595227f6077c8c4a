"""Exercises of the assignment beyond: trees as sequences, and how a parser is scored."""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain

from torch import Generator

from course.homework.checking import Case, Exercise, function_exam
from course.homework.probe import dice
from course.homework.twins import twins

LABELS, TAGS = ("S", "NP", "VP", "PP", "ADJP", "SBAR"), ("DT", "NN", "VBZ", "IN", ".")
WORDS = ("a", "dog", "sleeps", "on", "benches", "XX", "VP", "--")


def a_tree(rng: random.Random, depth: int, label: str = "S") -> str:
    """Return a bracketed tree; some words look like labels."""
    parts = []
    for _ in range(rng.randint(1, 3)):
        inner = depth > 0 and rng.random() < 0.6
        parts.append(a_tree(rng, depth - 1, rng.choice(LABELS)) if inner
                     else f"({rng.choice(TAGS)} {rng.choice(WORDS)})")
    return f"({label} {' '.join(parts)})"


def linear_twin(word: Callable = lambda tag, text: ["XX"], close: Callable = lambda s: [")" + s],
                open_: Callable = lambda s: ["(" + s], joined: bool = False) -> Callable:
    """Return a linearisation, right with the defaults."""

    def linearise(tree: str) -> list[str]:
        symbols, opened = [], []
        for label, text, _ in re.findall(r"\(([^\s()]+)(?: ([^\s()]+)\))?|(\))", tree):
            if text:
                symbols += word(label, text)
            elif label:
                opened.append(label)
                symbols += open_(label)
            else:
                symbols += close(opened.pop())
        return " ".join(symbols) if joined else symbols

    return linearise


def tree_cases(generator: Generator) -> Iterator[Case]:
    rng = dice(generator)
    yield Case("a word in a phrase", ("(NP (NN dog))",))
    yield Case("a sentence", ("(S (NP (DT a) (NN dog)) (VP (VBZ sleeps)) (. .))",))
    yield Case("phrases of the same label in each other",
               (f"(NP (NP (DT the) (NN {rng.choice(WORDS)})) (PP (IN on) (NP (NN benches))))",),
               "you look for the label to close by its name: the last one that was opened closes")
    for n in range(1, 4):
        yield Case(f"a tree that was drawn, {n}", (a_tree(rng, n + 1),))


LINEARISE = Exercise(
    name="linearise",
    assignment="beyond",
    signature='linearise(tree): tree like "(S (NP (DT a) (NN dog)) (VP (VBZ sleeps)))" -> list of '
    'symbols: "(NP" where a phrase opens, ")NP" where it closes, "XX" for each word with its tag',
    what="Write a syntax tree as a sequence, so that a translator can write it.",
    why="With it, parsing is translation (Vinyals et al. 2015), and the paper's section 6.3 needs "
    "no change of the model.",
    difficulty=2,
    minutes=20,
    hints=(
        "Go through the text once. What three kinds of things do you meet?",
        "A closing bracket does not say what it closes: keep the open labels in a list, the last "
        "opened is closed first. A word with its tag, (NN dog), opens no phrase.",
        'tree.replace("(", " ( ").replace(")", " ) ").split() gives the pieces. Behind "(" stands '
        'a label; if no other "(" follows it, a word does, and then ")".',
    ),
    examine=function_exam(
        linear_twin(), tree_cases,
        mistakes=twins(linear_twin, [
            ("You keep the words: each becomes XX, so that the symbols are few",
             {"word": lambda tag, text: [text]}),
            ("You keep the tags: a word with its tag is one XX",
             {"word": lambda tag, text: [tag]}),
            ("You write the tag as a phrase round the word: a word with its tag is one XX",
             {"word": lambda tag, text: ["(" + tag, "XX", ")" + tag]}),
            ("You leave out the words: each is an XX, or the tree would not fit its sentence",
             {"word": lambda tag, text: []}),
            ("A closing bracket carries its label: )NP. The model then sees which phrase ends",
             {"close": lambda s: [")"]}),
            ("A closing bracket is written )NP, not NP)", {"close": lambda s: [s + ")"]}),
            ("An opening bracket and its label are one symbol, (NP",
             {"open_": lambda s: ["(", s]}),
            ("You never close a phrase: )NP stands where it ends", {"close": lambda s: []}),
            ("You return one text: a list of symbols is asked for", {"joined": True}),
        ]),
    ),
)

# ------------------------------------------------------------------------------ bracket_f1


def f1_twin(percent: float = 100.0, count: Callable = Counter, key: Callable = lambda b: b,
            score: str = "f1", means: bool = False, pooled: bool = False, order: bool = False
            ) -> Callable:
    """Return bracket F1 over a corpus, right with the defaults."""

    def figure(right: int, said: int, true: int) -> float:
        precision, recall = right / max(1, said), right / max(1, true)
        return {"precision": precision, "recall": recall, "mean": (precision + recall) / 2,
                "f1": 2 * right / max(1, said + true)}[score]

    def bracket_f1(predicted: list, gold: list) -> float:
        if pooled:
            predicted, gold = [list(chain(*predicted))], [list(chain(*gold))]
        counts = []
        for ours, theirs in zip(predicted, gold):
            a, b = ([key(tuple(x)) for x in some] for some in (ours, theirs))
            if order:
                right = sum(x == y for x, y in zip(a, b))
            elif count is set:
                a, b = set(a), set(b)
                right = len(a & b)
            else:
                right = (Counter(a) & Counter(b)).total()
            counts.append((right, len(a), len(b)))
        if means:
            return percent * sum(figure(*c) for c in counts) / len(counts)
        return percent * figure(*map(sum, zip(*counts)))

    return bracket_f1


def brackets(rng: random.Random, n: int) -> list[tuple[str, int, int]]:
    """Return n brackets over few places, so that some come twice."""
    found = []
    for _ in range(n):
        start = rng.randint(0, 3)
        found.append((rng.choice(LABELS[:3]), start, rng.randint(start + 1, 5)))
    return found


def changed(rng: random.Random, gold: list) -> list:
    """Return a prediction: some brackets gone, some relabelled, some new, in another order."""
    said = [(rng.choice(LABELS[:3]), a, b) if rng.random() < 0.3 else (label, a, b)
            for label, a, b in gold if rng.random() > 0.2] + brackets(rng, 1)
    rng.shuffle(said)
    return said


def bracket_cases(generator: Generator) -> Iterator[Case]:
    rng = dice(generator)
    gold = [("S", 0, 4), ("NP", 0, 2), ("VP", 2, 4), ("NP", 3, 4)]
    yield Case("one sentence, two of four right, three that are wrong",
               ([[("VP", 2, 4), ("S", 0, 4), ("PP", 0, 2), ("PP", 3, 4), ("NP", 1, 2)]], [gold]))
    yield Case("a bracket that comes twice in the gold tree",
               ([[("S", 0, 2), ("NP", 0, 1)]], [[("S", 0, 2), ("S", 0, 2), ("NP", 0, 1)]]),
               "you make sets: a bracket that comes twice counts twice")
    short, long = [("S", 0, 1)], brackets(rng, 9)
    yield Case("a short sentence and a long one", ([[], changed(rng, long)], [short, long]),
               "you take the mean over sentences: brackets are counted over the whole corpus")
    yield Case("the brackets of another sentence",
               ([[("S", 0, 2), ("VP", 1, 2)], [("S", 0, 3), ("NP", 0, 1)]],
                [[("S", 0, 2), ("NP", 0, 1)], [("S", 0, 3), ("VP", 1, 2)]]),
               "you compare the brackets of all sentences: each has its own gold tree")
    yield Case("nothing predicted", ([[], []], [gold, short]),
               "you divide by the number of predicted brackets: it can be 0, and F1 is 0 then")
    for _ in range(3):
        trees = [brackets(rng, rng.randint(2, 7)) for _ in range(4)]
        yield Case("trees that were drawn", ([changed(rng, tree) for tree in trees], trees))


BRACKET_F1 = Exercise(
    name="bracket_f1",
    assignment="beyond",
    signature="bracket_f1(predicted, gold): for each sentence a list of brackets (label, start, "
    "end), both lists in the same order of sentences -> F1 in percent, 0 to 100",
    what="Score a parser: count the brackets that it shares with the gold tree, sentence by "
    "sentence, over the whole corpus. A bracket that comes twice counts twice.",
    why="It is the number of the paper's Table 4: 91.3 for the Transformer on the small data.",
    difficulty=2,
    minutes=15,
    hints=(
        "Three counts are enough: brackets that are right, predicted, and in the gold trees.",
        "Counter(a) & Counter(b) is what two lists share, with how often.",
        "100 * 2 * right / (predicted + gold), after all sentences; 0 if nothing is there.",
    ),
    examine=function_exam(
        f1_twin(), bracket_cases,
        mistakes=twins(f1_twin, [
            ("Your score is a share: in percent it goes from 0 to 100", {"percent": 1.0}),
            ("You take precision only: a parser that says one sure bracket would win",
             {"score": "precision"}),
            ("You take recall only: a parser that says every bracket would win",
             {"score": "recall"}),
            ("You take the mean of precision and recall: F1 is their harmonic mean, 2 * right / "
             "(predicted + gold)", {"score": "mean"}),
            ("You ignore the labels: a bracket is right with its label only",
             {"key": lambda b: b[1:]}),
            ("You ignore where a bracket lies: label and both ends must agree",
             {"key": lambda b: b[:1]}),
            ("You make sets: a bracket that comes twice counts twice", {"count": set}),
            ("You take the mean over sentences: brackets are counted over the whole corpus",
             {"means": True}),
            ("You compare brackets across sentences: each sentence with its own gold tree",
             {"pooled": True}),
            ("You compare place by place in the lists: the order of brackets means nothing",
             {"order": True}),
        ]),
    ),
)

EXERCISES = (LINEARISE, BRACKET_F1)
