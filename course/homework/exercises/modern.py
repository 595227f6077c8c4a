"""Exercises of the assignment beyond: what came after the paper, in today's decoders."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Generator, Tensor

from course.homework.checking import Case, Exercise, function_exam, normal
from course.homework.probe import whole
from course.homework.twins import alike, twins
from course.homework.values import mismatch

# ---------------------------------------------------------------------------------- rotary


def rotary_twin(exponent: Callable = lambda i, d: -2 * i / d, turn: float = 1, halves: bool = False,
                ignore: bool = False, add: bool = False, swapped: bool = False,
                stretch: bool = False, axis: int = -2) -> Callable:
    """Return rotary positions, right with the defaults."""

    def rotary(x: Tensor, positions: Tensor) -> Tensor:
        d = x.size(-1)
        if axis == -3:
            positions = torch.arange(x.size(1))
        if ignore:
            positions = torch.arange(len(positions))
        frequency = 10_000.0 ** exponent(torch.arange(d // 2, dtype=torch.float64), d)
        angle = turn * positions.double()[:, None] * frequency  # (L, Dk / 2)
        if axis == -3:
            angle = angle[:, None]
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        if swapped:
            cos, sin = sin, cos
        if add:
            return x + torch.stack([sin, cos], -1).flatten(-2)
        first, second = x.chunk(2, -1) if halves else (x[..., 0::2], x[..., 1::2])
        turned = first * cos - second * sin, first * sin + second * cos
        if stretch:
            turned = first * cos, second * cos
        return torch.cat(turned, -1) if halves else torch.stack(turned, -1).flatten(-2)

    return rotary


rotary_reference = rotary_twin()


def rotary_cases(generator: Generator) -> Iterator[Case]:
    yield Case("one pair of numbers", (normal(generator, 1, 2, 3, 2), torch.arange(3)))
    yield Case("several pairs", (normal(generator, 1, 1, 4, 8), torch.arange(4)),
               "all pairs turn equally fast: pair i turns by position * 10000^(-2i/Dk)")
    start = whole(generator, 5, 30)
    yield Case("positions that do not begin at 0",
               (normal(generator, 2, 3, 5, 6), torch.arange(start, start + 5)),
               "you count the places of x yourself: the positions are given")
    places = torch.randperm(40, generator=generator)[:4]
    yield Case("positions in any order", (normal(generator, 2, 2, 4, 4), places))
    x = normal(generator, 1, 2, 3, 4, dtype=torch.float64)
    yield Case("float64", (x, torch.arange(3)), "somewhere you go through float32")


def explain_rotary(args: tuple, actual: object, expected: object) -> str | None:
    if alike(actual, args[0]):
        lengths = actual.norm(dim=-1), args[0].norm(dim=-1)
        if mismatch(lengths[0], lengths[1]) is not None:
            return ("Some vector gets longer or shorter: a rotation keeps its length. Each pair "
                    "(a, b) becomes (a cos - b sin, a sin + b cos)")
    return None


ROTARY = Exercise(
    name="rotary",
    assignment="beyond",
    signature="rotary(x, positions): x (B, H, L, Dk) with Dk even, positions (L,) -> like x; the "
    "pair (2i, 2i + 1) is turned by the angle position * 10000^(-2i / Dk)",
    what="Say where a word stands by turning its query and its key, pair of numbers by pair: "
    "(a, b) becomes (a cos - b sin, a sin + b cos).",
    why="The dot product of two turned vectors depends on the distance of their places only. Most "
    "language models of today use it (Su et al. 2021) instead of adding sines.",
    difficulty=3,
    minutes=20,
    hints=(
        "Which numbers form a pair, which angle has pair i at position p? Write both for Dk = 4.",
        "An outer product, positions[:, None] * frequencies, gives all angles (L, Dk / 2). "
        "x[..., 0::2] are the first numbers of all pairs, x[..., 1::2] the second ones.",
        "torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2) puts the pairs "
        "together again.",
    ),
    examine=function_exam(
        rotary_reference, rotary_cases, explain=explain_rotary, learns=lambda result: result,
        mistakes=twins(rotary_twin, [
            ("You pair number i with number i + Dk/2, as some programs do: here neighbours are a "
             "pair, (2i, 2i + 1)", {"halves": True}),
            ("You turn the other way round: (a, b) becomes (a cos - b sin, a sin + b cos)",
             {"turn": -1}),
            ("You add sines and cosines, as the paper does: here the vector is turned, nothing is "
             "added", {"add": True}),
            ("Sine and cosine are exchanged: position 0 must change nothing, and cos 0 = 1",
             {"swapped": True}),
            ("Your angles are position * 10000^(-i/Dk): the exponent counts numbers, not pairs, "
             "so pair i has -2i/Dk", {"exponent": lambda i, d: -i / d}),
            ("Your angles grow with i: the exponent is negative, -2i/Dk",
             {"exponent": lambda i, d: 2 * i / d}),
            ("You stretch by the cosine only: each number also gets a part of its partner, or "
             "lengths change", {"stretch": True}),
            ("You count the places of x yourself: the positions are given, and need not begin at "
             "0", {"ignore": True}),
            ("You count heads, not words: the words are the axis before the last, of x (B, H, L, "
             "Dk)", {"axis": -3}),
        ]),
    ),
)

# ----------------------------------------------------------------------------------- ALiBi


def alibi_twin(first: int = 1, sign: int = -1, power: Callable = lambda h, n: -8 * h / n,
               distance: Callable = torch.abs, equal: bool = False, closed: bool = False
               ) -> Callable:
    """Return ALiBi's biases, right with the defaults."""

    def alibi_bias(n_heads: int, length: int) -> Tensor:
        h = torch.arange(first, first + n_heads, dtype=torch.float64)
        slopes = torch.full((n_heads,), 0.5).double() if equal else 2.0 ** power(h, n_heads)
        places = torch.arange(length, dtype=torch.float64)
        bias = sign * slopes[:, None, None] * distance(places[None, :] - places[:, None])
        if closed:
            bias = bias.masked_fill(places[None, :] > places[:, None], -math.inf)
        return bias.float()

    return alibi_bias


def alibi_cases(generator: Generator) -> Iterator[Case]:
    yield Case("two heads", (2, 3))
    yield Case("eight heads", (8, whole(generator, 3, 6)))
    yield Case("four heads", (4, whole(generator, 4, 7)),
               "your slopes do not depend on the number of heads: they are 2^(-8h/H)")
    yield Case("one head", (1, 3))
    yield Case("one word", (2, 1))


ALIBI = Exercise(
    name="alibi_bias",
    assignment="beyond",
    signature="alibi_bias(n_heads, length) -> (H, L, L), float: minus slope times |i - j| for "
    "query i and key j; head h, counted from 1, has the slope 2^(-8h / H)",
    what="Say how far apart words stand by a number that is added to their scores: the farther, "
    "the lower, in each head with another slope.",
    why="No vector for a position, nothing to learn, and it goes on for texts longer than any in "
    "training (Press et al. 2022).",
    difficulty=2,
    minutes=10,
    hints=(
        "Write the table |i - j| for three words. Which head forgets the distance fastest?",
        "positions[:, None] - positions[None, :] is the table of differences; slopes[:, None, "
        "None] broadcasts over it.",
        "-(2.0 ** (-8 * torch.arange(1, H + 1) / H))[:, None, None] * (i - j).abs()",
    ),
    examine=function_exam(
        alibi_twin(), alibi_cases,
        mistakes=twins(alibi_twin, [
            ("Your bias rewards distance: it is minus the slope times the distance", {"sign": 1}),
            ("You count heads from 0: then one head has the slope 1. h runs from 1 to H",
             {"first": 0}),
            ("You take i - j with its sign: |i - j| counts the distance on both sides",
             {"distance": lambda d: d}),
            ("You take j - i with its sign: |i - j| counts the distance on both sides",
             {"distance": lambda d: -d}),
            ("You square the distance: the bias falls in a straight line, with |i - j|",
             {"distance": lambda d: d * d}),
            ("Your slopes are 2^(-h), whatever H is: they are 2^(-8h/H)",
             {"power": lambda h, n: -h}),
            ("All heads have the same slope: it is 2^(-8h/H), another one in each",
             {"equal": True}),
            ("You close what comes later, too: that is the causal mask's task, this is a bias",
             {"closed": True}),
        ]),
    ),
)

# --------------------------------------------------------------------------------- nucleus


def nucleus_twin(crossing: bool = True, renormalise: bool = True, out: float = -math.inf,
                 probabilities: bool = False, single: bool = False, back: bool = True,
                 rising: bool = False) -> Callable:
    """Return the nucleus of a distribution, right with the defaults."""

    def nucleus(log_probs: Tensor, top_p: float) -> Tensor:
        p = log_probs.double().exp()
        ordered, order = p.sort(dim=-1, descending=not rising)
        reached = ordered.cumsum(-1)
        kept = (reached - ordered < top_p) if crossing else (reached <= top_p)
        if single:
            kept = ordered >= top_p
        if back:
            kept = torch.zeros_like(kept).scatter(-1, order, kept)
            chosen = log_probs
        else:
            chosen = log_probs.gather(-1, order)
        result = chosen.double().masked_fill(~kept, -math.inf)
        if renormalise:
            result = result - result.logsumexp(-1, keepdim=True)
        result = result.exp() if probabilities else result.masked_fill(~kept, out)
        return result.to(log_probs.dtype)

    return nucleus


def distribution(generator: Generator, *shape: int) -> Tensor:
    """Return log-probabilities whose cumulated sums stay away from round numbers."""
    while True:
        p = torch.rand(shape, generator=generator, dtype=torch.float64).pow(2) + 0.02
        p = p / p.sum(-1, keepdim=True)
        reached = p.sort(dim=-1, descending=True).values.cumsum(-1)[..., :-1]
        near = [((reached - wanted).abs() < 1e-3).any() for wanted in (0.1, 0.5, 0.9)]
        if not any(near) and (len(shape) > 1 or p.max() < 0.45):
            return p.log().float()


def nucleus_cases(generator: Generator) -> Iterator[Case]:
    yield Case("five words", (distribution(generator, 5), 0.5))
    yield Case("several distributions at once", (distribution(generator, 3, 7), 0.9),
               "you treat all rows as one: each has a nucleus of its own, along the last axis")
    sure = torch.tensor([0.05, 0.8, 0.1, 0.05])[torch.randperm(4, generator=generator)]
    yield Case("a word that has more than top_p alone", (sure.log(), 0.5),
               "you leave out the word that crosses top_p: at least one must stay")
    yield Case("two axes in front", (distribution(generator, 2, 2, 6), 0.1))
    gone = distribution(generator, 6)
    gone[whole(generator, 0, 5)] = -math.inf
    yield Case("a word of probability 0", (gone.log_softmax(-1), 0.9))


def explain_nucleus(args: tuple, actual: object, expected: object) -> str | None:
    if isinstance(actual, Tensor) and actual.is_floating_point() and actual.isnan().any():
        return ("A row is NaN, so no word of it stayed: the word that crosses top_p belongs to the "
                "set. It is the sum from the top that counts, not each probability alone")
    return None


NUCLEUS = Exercise(
    name="nucleus",
    assignment="beyond",
    signature="nucleus(log_probs, top_p): log_probs (..., V) -> (..., V), log-probabilities of the "
    "smallest set of words that holds top_p, renormalised, -inf for all others",
    what="Keep the likeliest words until together they hold top_p, and share the whole probability "
    "among them.",
    why="A sample from all words picks a bad one sooner or later: thousands of unlikely words "
    "weigh together. Cut by probability, not by number (Holtzman et al. 2020).",
    difficulty=3,
    minutes=20,
    hints=(
        "Order the words by probability, and add up from the top. Which word is the last to stay?",
        "A word stays if what stands *before* it is less than top_p: cumsum minus the word's own.",
        "kept is known in the sorted order: torch.zeros_like(kept).scatter(-1, order, kept) brings "
        "it back. Then masked_fill(~kept, -inf).log_softmax(-1).",
    ),
    examine=function_exam(
        nucleus_twin(), nucleus_cases, explain=explain_nucleus,
        mistakes=twins(nucleus_twin, [
            ("You leave out the word that crosses top_p: without it the set holds less than top_p",
             {"crossing": False}),
            ("You do not renormalise: the words that stay must sum to one",
             {"renormalise": False}),
            ("You return probabilities: log-probabilities are asked for, -inf for what is out",
             {"probabilities": True}),
            ("What is out gets 0, and exp(0) is 1: its log-probability is -inf", {"out": 0.0}),
            ("You compare each probability with top_p: it is their sum, from the top, that counts",
             {"single": True}),
            ("Your words come out sorted: bring them back to their places", {"back": False}),
            ("You begin with the least likely words: sort from the top, descending=True",
             {"rising": True}),
        ]),
    ),
)

# --------------------------------------------------------------------------- kv_cache_step

Cache = tuple[Tensor, Tensor] | None


def cache_twin(scale: Callable = lambda d, t: d**-0.5, left: bool = False, front: bool = False,
               lost: bool = False, itself: bool = True, swapped: bool = False,
               inputs: bool = False, over: int = -1) -> Callable:
    """Return a step with a cache, right with the defaults."""

    def step(x: Tensor, cache: Cache, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> tuple:
        if left:
            w_q, w_k, w_v = w_q.mT, w_k.mT, w_v.mT
        query, key, value = x @ w_q, x @ w_k, x @ w_v
        keys, values = (x[:, :0], x[:, :0]) if cache is None else cache
        joined = [(new, old) if front else (old, new)
                  for old, new in ((keys, key), (values, value))]
        all_keys, all_values = (torch.cat(pair, dim=1) for pair in joined)
        seen = slice(None) if itself or cache is None else slice(-1)
        scores = query @ all_keys[:, seen].mT * scale(query.size(-1), all_keys.size(1))
        output = scores.softmax(over) @ all_values[:, seen]
        new = (all_values, all_keys) if swapped else (all_keys, all_values)
        new = (keys, values) if lost and cache is not None else new
        return output, (x, x) if inputs and cache is None else new

    return step


def cache_cases(generator: Generator) -> Iterator[Case]:
    def drawn(batch: int, before: int | None, dtype=torch.float32) -> tuple:
        def some(*shape: int) -> Tensor:
            return normal(generator, *shape, dtype=dtype)

        cache = None if before is None else (some(batch, before, 4), some(batch, before, 4))
        return 0.4 * some(batch, 1, 4), cache, some(4, 4), some(4, 4), some(4, 4)

    yield Case("the first word", drawn(1, None))
    yield Case("the second word", drawn(1, 1), "you forget what stands in the cache")
    yield Case("a longer cache", drawn(1, whole(generator, 3, 6)))
    yield Case("three sentences", drawn(3, 4), "you lose the batch dimension")
    yield Case("float64", drawn(2, 3, dtype=torch.float64), "somewhere you go through float32")


KV_CACHE = Exercise(
    name="kv_cache_step",
    assignment="beyond",
    signature="kv_cache_step(x, cache, w_q, w_k, w_v): x (B, 1, D), cache None or (keys, values) "
    "each (B, t, D), weights (D, D), used as x @ w, as in the paper's formulas (nn.Linear keeps "
    "them transposed) -> (output (B, 1, D), new cache)",
    what="Let one new word attend to all words before it and to itself, without computing theirs "
    "again: one head, scores divided by the square root of D.",
    why="Without a cache the n-th word costs n words' work. With it, writing is as fast as it is.",
    difficulty=3,
    minutes=20,
    hints=(
        "What of the new word is needed later: its query, its key or its value?",
        "Project x three times; put the new key and value behind those of the cache (dim=1); then "
        "it is plain attention with one query, and no mask.",
        "keys = key if cache is None else torch.cat([cache[0], key], dim=1), the same for values; "
        "softmax(query @ keys.mT / sqrt(D)) @ values.",
    ),
    examine=function_exam(
        cache_twin(), cache_cases, returns="(output, new cache)", learns=lambda result: result[0],
        mistakes=twins(cache_twin, [
            ("You do not divide by the square root of D", {"scale": lambda d, t: 1.0}),
            ("You divide by D: the scale is its square root", {"scale": lambda d, t: 1 / d}),
            ("You divide by the root of the number of words: the scale comes from D, the width",
             {"scale": lambda d, t: t**-0.5}),
            ("You multiply by the weights' transpose: here it is x @ w", {"left": True}),
            ("The new key and value stand in front: the cache keeps the order of the words, new "
             "ones behind", {"front": True}),
            ("You return the old cache: the next word would not see this one", {"lost": True}),
            ("The new word does not see itself: put its key and value into the cache first, then "
             "attend", {"itself": False}),
            ("Keys and values are exchanged in the cache", {"swapped": True}),
            ("You keep the words themselves: then every step projects all of them again. Keep "
             "keys and values", {"inputs": True}),
            ("The softmax runs over the queries, of which there is one: every weight becomes 1. "
             "It runs over the keys, dim=-1", {"over": -2}),
        ]),
    ),
)

EXERCISES = (ROTARY, ALIBI, NUCLEUS, KV_CACHE)
