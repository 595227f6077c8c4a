"""Checked counts: Table 1 of the paper in numbers, for sizes that are drawn afresh each time."""

import random
from collections.abc import Callable
from dataclasses import dataclass

KEYS = ("multiplications", "steps", "path")


@dataclass(frozen=True)
class Count:
    """What is to be counted of one kind of layer, and what people count instead.

    sizes: the letters that are given. mistakes: (key, what a wrong value shows, its formula).
    """

    name: str
    question: str
    sizes: tuple[str, ...]
    right: Callable[..., dict[str, int]]
    mistakes: tuple[tuple[str, str, Callable[..., int]], ...]

    def draw(self, seed: str) -> dict[str, int]:
        """Return sizes that follow from a seed."""
        dice = random.Random(f"{seed}/{self.name}")
        ranges = {"n": range(6, 60), "d": range(8, 130, 2), "k": range(3, 8)}
        return {letter: dice.choice(ranges[letter]) for letter in self.sizes}

    def judge(self, answer: object, sizes: dict[str, int]) -> tuple[bool, str]:
        """Return whether a dictionary holds the right three numbers, and what is to be said."""
        if not isinstance(answer, dict) or set(answer) != set(KEYS):
            return False, f"answer with a dictionary of three numbers: {', '.join(KEYS)}"
        right = self.right(**sizes)
        given = ", ".join(f"{letter} = {value}" for letter, value in sizes.items())
        for key in KEYS:
            if answer[key] == right[key]:
                continue
            for wrong, message, formula in self.mistakes:
                if wrong == key and answer[key] == formula(**sizes):
                    return False, f"For {given}: {key} is not {answer[key]}. {message}"
            return False, f"For {given}: {key} is not {answer[key]!r}"
        return True, f"right for {given}"


def ceil(a: int, b: int) -> int:
    return -(-a // b)


PATH = ("path: through how many layers or cells a signal from the first word goes until it is "
        "in the "
        "last word's output. steps: how many of the layer's computations must wait for one "
        "another.")

COUNTS = {
    count.name: count
    for count in (
        Count(
            "count_self_attention",
            "One self-attention layer without a mask, n words of width d, one head. Count the "
            "multiplications of the scores and of the weighted sum (no projections, no scale). "
            "" + PATH,
            ("n", "d"),
            lambda n, d: {"multiplications": 2 * n * n * d, "steps": 1, "path": 1},
            (
                ("multiplications", "Those are the scores alone: the weighted sum of the values "
                 "costs "
                 "as much again", lambda n, d: n * n * d),
                ("multiplications", "You count projections or a recurrence, n·d²: here n² pairs of "
                 "words meet, each with d multiplications, twice", lambda n, d: n * d * d),
                ("multiplications", "You count each pair once. Word i asks j and j asks i, two "
                 "different scores, and each word asks itself", lambda n, d: n * (n - 1) * d),
                ("multiplications", "You count pairs: each is a dot product of d "
                 "multiplications, and "
                 "is needed twice", lambda n, d: n * n),
                ("steps", "No word waits for another one: all rows of the table are computed at "
                 "once",
                 lambda n, d: n),
                ("path", "Every word's output reads every word directly", lambda n, d: n),
                ("path", "Every word's output reads every word directly, the last one, too",
                 lambda n, d: n - 1),
            ),
        ),
        Count(
            "count_recurrence",
            "One recurrent layer, h = tanh(W_x x + W_h h), n words, x and h of width d. Count the "
            "multiplications of both matrices. " + PATH,
            ("n", "d"),
            lambda n, d: {"multiplications": 2 * n * d * d, "steps": n, "path": n},
            (
                ("multiplications", "There are two matrices of d × d at each word: one for the "
                 "word, "
                 "one for the state", lambda n, d: n * d * d),
                ("multiplications", "You count one word: the cell runs n times",
                 lambda n, d: 2 * d * d),
                ("multiplications", "You count pairs of words. No two words meet here, each "
                 "meets the "
                 "state", lambda n, d: 2 * n * n * d),
                ("steps", "Each state is made from the one before it: n cells wait in a row",
                 lambda n, d: 1),
                ("path", "From the first word to the last output a signal goes through every "
                 "cell, the "
                 "first and the last one counted", lambda n, d: n - 1),
                ("path", "The last state sees the first word only through all the states between",
                 lambda n, d: 1),
            ),
        ),
        Count(
            "count_convolution",
            "A convolution that reads its own word and the k − 1 words before it (the front is "
            "filled "
            "up), n words of width d in and out. Count the multiplications of one layer, filled "
            "places "
            "included. For the path stack as many such layers as are needed. " + PATH,
            ("n", "d", "k"),
            lambda n, d, k: {
                "multiplications": k * n * d * d, "steps": 1, "path": ceil(n - 1, k - 1)
            },
            (
                ("multiplications", "Each word has a matrix of d × d for each of the k places "
                 "that it "
                 "reads", lambda n, d, k: n * d * d),
                ("multiplications", "A kernel maps all d components to all d: d² for each "
                 "place, not "
                 "d", lambda n, d, k: k * n * d),
                ("multiplications", "The front is filled up, so that there are n outputs",
                 lambda n, d, k: k * (n - k + 1) * d * d),
                ("steps", "No place waits for another one inside a layer", lambda n, d, k: n),
                ("path", "A layer brings you k − 1 places further back, and the first word is n "
                 "− 1 "
                 "places away", lambda n, d, k: ceil(n, k)),
                ("path", "One layer reaches k words, not all", lambda n, d, k: 1),
                ("path", "Each layer reaches further by k − 1 places, so fewer layers than "
                 "words are "
                 "needed", lambda n, d, k: n),
            ),
        ),
    )
}
