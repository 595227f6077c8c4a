"""Exercises of the assignment decoding: from probabilities to a sentence, and to a number."""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product

import torch
from torch import Generator, Tensor

from course.homework.checking import Candidate, Case, Exercise, Wrong, function_exam
from course.homework.probe import dice, first_to_show
from course.homework.twins import Mistake
from course.homework.values import kind, show

Row = dict[int, float]
Table = dict[tuple[int, ...], Row]
LONGEST = 100  # a prefix; every max_len is far smaller

# -------------------------------------------------------------------- models of a few words


def toy(table: Table, size: int, bos_id: int, eos_id: int, rng: random.Random,
        impossible: Sequence[int] = ()) -> Callable[[Tensor], Tensor]:
    """Return a model: prefixes (n, t) -> log-probabilities (n, V), from a table of probabilities.

    table: what was written, without bos -> some next ids and their probabilities; the other ids
    share the rest, bos and eos hardly any of it. impossible: ids of probability 0.
    The function has `rows`, log-probabilities as a list for ids without bos, and `calls`, the
    prefixes that it was shown.
    """
    weights = [0 if i in impossible else rng.uniform(1, 2) for i in range(size)]
    weights[eos_id] = 1e-6
    weights[bos_id] = 0 if bos_id in impossible else 1e-7

    def whole(row: Row) -> list[float]:
        rest = 1 - math.fsum(row.values())
        share = rest / sum(w for i, w in enumerate(weights) if i not in row)
        return [math.log(p) if (p := row.get(i, w * share)) > 0 else -math.inf
                for i, w in enumerate(weights)]

    filled = {ids: whole(row) for ids, row in table.items()}
    other = whole({})
    calls: list[list[list[int]]] = []

    def next_log_probs(prefixes):
        if not isinstance(prefixes, Tensor):
            what = type(prefixes).__name__  # no helper of the course: the guard would refuse it
            raise Wrong(f"next_log_probs takes a LongTensor of shape (n, t), you give it a {what}")
        if prefixes.dim() != 2 or prefixes.is_floating_point():
            dtype = str(prefixes.dtype).removeprefix("torch.")
            raise Wrong(
                f"next_log_probs takes prefixes of shape (n, t), a LongTensor. Yours: shape "
                f"{tuple(prefixes.shape)}, {dtype}. For a single prefix: torch.tensor([ids])"
            )
        if prefixes.size(1) > LONGEST:
            raise Wrong(
                f"You have shown the model a prefix of {LONGEST} ids, and go on: max_len is far "
                "smaller. eos may never come, so count the new ids inside the loop, too"
            )
        shown = prefixes.tolist()
        result = []
        for prefix in shown:
            if prefix[:1] != [bos_id]:
                start = "eos_id" if prefix[:1] == [eos_id] else str(prefix[:1])
                why = (
                    "You show the model only the last token: it needs the whole prefix, from bos on"
                    if calls and len(prefix) == 1
                    else f"Your prefix begins with {start}: every prefix begins with bos_id"
                )
                raise Wrong(f"{why} (bos_id = {bos_id}; the model was shown {prefix})")
            result.append(filled.get(tuple(prefix[1:]), other))
        calls.append(shown)
        return torch.tensor(result)

    lines = [
        f"after {[bos_id, *ids]}: {', '.join(f'{i} {p:.3g}' for i, p in row.items())}"
        for ids, row in list(table.items())[:12]
    ]
    next_log_probs.__doc__ = "\n".join(
        [f"next_log_probs: ids 0 to {size - 1}, bos {bos_id}, eos {eos_id}; probabilities", *lines,
         "(other ids share the rest)"]
    )
    next_log_probs.rows = lambda ids: filled.get(tuple(ids), other)
    next_log_probs.calls = calls
    return next_log_probs


def ids_of(value: object) -> list[int]:
    """Return ids as a list of ints, or raise Wrong."""
    value = value.tolist() if isinstance(value, Tensor) else value
    if not isinstance(value, tuple | list):
        raise Wrong(f"ids should be a list of numbers, you return {kind(value)}")
    ids = [i.item() if isinstance(i, Tensor) and i.numel() == 1 else i for i in value]
    if any(isinstance(i, tuple | list | Tensor) for i in ids):
        raise Wrong(f"You return ids inside ids, {show(value)}: one flat list is asked for")
    if any(not isinstance(i, int) or isinstance(i, bool) for i in ids):
        raise Wrong(f"ids should be whole numbers, you return {show(ids)}")
    return ids


def some_ids(rng: random.Random, n_words: int) -> tuple[int, int, int, list[int]]:
    """Return the size of a vocabulary, bos, eos and words, in any order."""
    size = n_words + 3  # one more is never listed
    bos_id, eos_id, *words = rng.sample(range(size), n_words + 2)
    return size, bos_id, eos_id, words


def chain(rng: random.Random, size: int, bos_id: int, eos_id: int, path: Sequence[int],
          words: Sequence[int]) -> Callable:
    """Return a model whose likeliest ids are those of a path; after eos it would go on."""
    table: Table = {}
    steps = [*path, *rng.choices(words, k=12)]
    for t, token in enumerate(steps):
        rival = rng.choice([w for w in words if w != token])
        sure, less = rng.randint(40, 60) / 100, rng.randint(20, 30) / 100
        table[tuple(steps[:t])] = {token: sure, rival: less}
    return toy(table, size, bos_id, eos_id, rng)


# ---------------------------------------------------------------------------------- greedy


def greedy(pick: Callable = max, stop: bool = True, more: int = 0, frozen: bool = False,
           tidy: Callable = lambda ids, bos, eos, n: ids) -> Callable:
    """Return a greedy search, right with the defaults."""

    def decode(model: Callable, bos_id: int, eos_id: int, max_len: int) -> list[int]:
        ids: list[int] = []
        while len(ids) < max_len + more and not (stop and eos_id in ids):
            row = model.rows([] if frozen else ids)
            ids.append(row.index(pick(row)))
        return tidy([bos_id, *ids], bos_id, eos_id, max_len)

    return decode


def own_eos(number: int) -> Callable:
    return lambda model, bos_id, eos_id, max_len: greedy()(model, bos_id, number, max_len)


def fill_up(ids: list[int], bos_id: int, eos_id: int, max_len: int) -> list[int]:
    return ids + [eos_id] * (1 + max_len - len(ids)) if eos_id in ids else ids


GREEDY_MISTAKES: list[Mistake] = [
    ("The ids lack bos: they begin with it", greedy(tidy=lambda ids, b, e, n: ids[1:])),
    ("The ids lack eos: where it came, it stays, as the last one",
     greedy(tidy=lambda ids, b, e, n: [i for i in ids if i != e])),
    ("The ids lack bos and eos: both belong to the result",
     greedy(tidy=lambda ids, b, e, n: [i for i in ids if i not in (b, e)])),
    ("You go on after eos: a sentence that has ended stops growing", greedy(stop=False)),
    ("You fill up with eos: return the ids up to the first eos", greedy(tidy=fill_up)),
    ("One token too few: max_len new ones are allowed, bos is not counted", greedy(more=-1)),
    ("One token too many: at most max_len new ones", greedy(more=1)),
    ("You add eos where the model did not write it: a sentence cut off at max_len has none",
     greedy(tidy=lambda ids, b, e, n: ids if ids[-1] == e else [*ids, e])),
    ("You put eos in place of the last token: a sentence cut off at max_len has none",
     greedy(tidy=lambda ids, b, e, n: ids if ids[-1] == e else [*ids[:-1], e])),
    ("You take the least probable id: argmax, not argmin", greedy(pick=min)),
    ("You take the second most probable id", greedy(pick=lambda row: sorted(row)[-2])),
    ("You show the model the same prefix in every step: append the new id to it first",
     greedy(frozen=True)),
    *((f"You stop at {number}, whatever eos_id is: take the argument eos_id", own_eos(number))
      for number in range(4)),
]


def greedy_cases(generator: Generator) -> Iterator[Case]:
    rng = dice(generator)

    def case(label: str, n: int, max_len: int, blame: str = "", again: bool = False) -> Case:
        size, bos_id, eos_id, words = some_ids(rng, 5)
        path = [*rng.sample(words, min(n, 5)), *rng.choices(words, k=max(0, n - 5)), eos_id]
        if again:  # the same word twice, with another one after it
            path[2] = path[0]
        while n > 1 and path[-2] <= 3:  # so that whoever takes 2 for eos does not only lack eos
            path[-2] = rng.choice(words)
        model = chain(rng, size, bos_id, eos_id, path, words)
        return Case(label, (model, bos_id, eos_id, max_len), blame)

    yield case("four words and eos", 4, 12)
    yield case("other ids for bos and eos", 3, 10, "you write the numbers of bos and eos yourself")
    yield case("a word that comes twice", 4, 10, "you look only at the last word", again=True)
    yield case("eos at once", 0, 6, "you look for eos only from the second token on")
    yield case("max_len before eos", 8, 5, "you count bos as a new token, or go on until eos comes")
    yield case("max_len of one", 3, 1, "you do not stop at max_len")
    yield case("eos as the last token allowed", 4, 5, "you stop one token too early")
    size, bos_id, eos_id, words = some_ids(rng, 5)
    endless = chain(rng, size, bos_id, eos_id, words, words)
    yield Case("eos never comes", (endless, bos_id, eos_id, 6), "you stop only at eos")


def call_greedy(candidate: Candidate, args: tuple) -> list[int]:
    """Call a candidate three times: whoever samples gives different answers."""
    answers = []
    for _ in range(3):
        args[0].calls.clear()
        answers.append(ids_of(candidate(*args)))
    if answers.count(answers[0]) < 3:
        raise Wrong(
            "The same model, and your answer changes from call to call: greedy search does not "
            "sample, it takes the most probable id (argmax)",
            actual="\n".join(map(show, answers)), given=candidate.given,
        )
    return answers[0]


def explain_greedy(args: tuple, actual: object, expected: object) -> str | None:
    model, bos_id, eos_id, max_len = args
    for t, (mine, right) in enumerate(zip(actual, expected)):
        if mine != right:
            if t == 0:
                return f"Your ids begin with {mine}: they begin with bos_id = {bos_id}"
            before, row = expected[:t], model.rows(expected[1:t])
            if not 0 <= mine < len(row):
                return f"{mine} is no id of this model: it has the ids 0 to {len(row) - 1}"
            return (
                f"After {before} the most probable id is {right} ({math.exp(row[right]):.2f}): "
                f"you take {mine} ({math.exp(row[mine]):.2g})"
            )
    if len(actual) < len(expected):
        return f"You stop after {actual}: go on until eos comes or {max_len} ids are written"
    return f"You go on after {expected}: stop at eos, and after {max_len} new ids"


SEARCH = (
    "next_log_probs(prefixes) takes a LongTensor (n, t), prefixes that begin with bos_id, and "
    "returns the log-probabilities (n, V) of the next id"
)
GREEDY = Exercise(
    name="greedy_decode",
    assignment="decoding",
    signature="greedy_decode(next_log_probs, bos_id, eos_id, max_len) -> list of ids: bos, then at "
    f"most max_len new ones, the last of them eos if it came. {SEARCH}",
    what="Take the most probable id, append it, ask again; stop at eos or after max_len new ids.",
    why="A model gives probabilities, not sentences. Greedy search is the cheapest way to write "
    "one, and the measure for every better search.",
    difficulty=2,
    minutes=15,
    hints=(
        "What does the model see in the first step, and what in the second?",
        "Keep a plain list of ids, and make a tensor of it for each call: torch.tensor([ids]) is "
        "(1, t).",
        "for _ in range(max_len): ids.append(next_log_probs(torch.tensor([ids]))[0].argmax()"
        ".item()), and leave the loop when the last id is eos_id.",
    ),
    examine=function_exam(
        greedy(), greedy_cases, GREEDY_MISTAKES, "the list of ids", explain_greedy, call_greedy
    ),
)

# ------------------------------------------------------------------------------------ beam

Hypothesis = tuple[list[int], float]
LENGTHS: dict[str, Callable[[int, bool], int]] = {  # from the number of new ids, and whether ended
    "with eos": lambda n, ended: n,
    "with bos and eos": lambda n, ended: n + 1,
    "without eos": lambda n, ended: n - ended,
}


def penalty(length: int, alpha: float) -> float:
    return ((5 + length) / 6) ** alpha


def logs_of(model: Callable, ids: Sequence[int]) -> list[float]:
    """Return the log-probability of each new id."""
    return [model.rows(ids[:t])[i] for t, i in enumerate(ids)]


def beam_search(pool: bool = False, wide: int = 1, stop: str = "full", by_score: bool = False,
                length: str = "with eos", mixed: bool = False, mistake: str = "",
                ) -> Callable:
    """Return a beam search that gives the ids of the best hypothesis, right with the defaults.

    pool: finished hypotheses leave the beam for a pool (else they keep their place). wide: how many
    times `beam` candidates are looked at for a pool. stop: when the pool holds `beam` ("full"),
    one ("first"), or when max_len is reached ("never"). by_score: the beam keeps the best by the
    penalised score. mixed: one cut off at max_len may win against one that has ended.
    mistake: "greedy chains", "last" if only the last ids' probabilities are compared, or "dropped"
    for finished ones that are thrown away.
    """

    def search(model, bos_id, eos_id, max_len, beam, alpha) -> list[int]:
        def score(ids: tuple[int, ...], total: float) -> float:
            ended = ids[-1] == eos_id
            return total / penalty(LENGTHS[length](len(ids), ended), alpha)

        kept, finished = [((), 0.0)], []
        for _ in range(max_len):
            children = []
            for ids, total in kept:
                if ids and ids[-1] == eos_id:
                    children.append((ids, total))
                    continue
                grown = [((*ids, i), total + log) for i, log in enumerate(model.rows(ids))]
                if mistake == "greedy chains" and ids:
                    grown = [max(grown, key=lambda c: c[1])]
                children += grown
            rank = (lambda c: score(*c)) if by_score else (lambda c: c[1])
            if mistake == "last":
                rank = lambda c: logs_of(model, c[0])[-1]  # noqa: E731
            children = sorted(children, key=rank, reverse=True)[: beam * wide]
            if pool or mistake == "dropped":
                finished += [c for c in children if c[0][-1] == eos_id]
                kept = [c for c in children if c[0][-1] != eos_id][:beam]
                done = len(finished) >= {"full": beam, "first": 1}.get(stop, math.inf)
            else:
                kept, done = children, stop == "first" and any(c[0][-1] == eos_id for c in children)
            if mistake == "dropped" and not kept:
                kept = children
            if done or not kept or all(c[0][-1] == eos_id for c in kept):
                break
        found = kept if mistake == "dropped" else [*finished, *kept]
        best = max(found, key=lambda c: (not mixed and c[0][-1] == eos_id, score(*c)))
        return [bos_id, *best[0]]

    return search


BEAM_READINGS = [
    beam_search(length=length, **style)
    for length in LENGTHS
    for style in (
        {}, {"mixed": True}, {"by_score": True}, {"pool": True}, {"pool": True, "wide": 2},
        {"pool": True, "wide": 2, "stop": "never"}, {"pool": True, "by_score": True},
    )
]
BEAM_MISTAKES: dict[str, Mistake] = {
    "greedy": ("That is greedy search: keep `beam` prefixes alive, not one",
               lambda model, bos, eos, n, beam, alpha: greedy()(model, bos, eos, n)),
    "last": ("You choose the beam by the last log-probability alone: choose it by the sum over all "
             "new ids", beam_search(mistake="last", pool=True)),
    "chains": ("Each of your prefixes goes on with its own best id: choose the best `beam` among "
               "all beam x V candidates together; a prefix may have two children, another none",
               beam_search(mistake="greedy chains")),
    "dropped": ("A hypothesis that ended early with a high score is lost: keep what has ended, and "
                "compare it with the others at the end",
                beam_search(mistake="dropped", stop="never")),
    "first": ("You stop as soon as one hypothesis has ended: a longer one can still win, so go on "
              "until `beam` have ended or max_len is reached", beam_search(stop="first")),
}


def draw_fork(rng: random.Random, shape: str, beam: int, max_len: int, alpha: float) -> tuple:
    """Return a small tree of percentages as arguments. shape: which story it should tell."""
    size, bos_id, eos_id, (a, b, c, d, e) = some_ids(rng, 5)

    def percent(low: int, high: int) -> float:
        return rng.randint(low, high) / 100

    p = {"late": percent(50, 56), "other": percent(34, 40)}
    end = {eos_id: percent(90, 98)}
    if shape == "greedy loses":
        table = {(): {a: p["late"], b: p["other"]}, (a,): {c: percent(34, 42), d: percent(26, 32)},
                 (b,): {c: percent(85, 95)}, (a, c): end, (a, d): end, (b, c): end}
    elif shape == "siblings":
        table = {(): {a: percent(60, 66), b: percent(22, 28)},
                 (a,): {c: percent(38, 41), d: percent(34, 37)},
                 (b,): {c: percent(46, 50), d: percent(42, 45)},
                 (a, c): {eos_id: percent(30, 40), e: percent(20, 29)}, (a, d): end,
                 (b, c): {eos_id: percent(42, 50), e: percent(20, 30)}, (b, d): end,
                 (a, c, e): end, (b, c, e): end}
    elif shape == "early end":
        table = {
            (): {a: p["late"], b: p["other"]},
            (a,): {eos_id: percent(80, 90)},
            (b,): {c: percent(60, 70)},
            (b, c): {d: percent(60, 70)},
            (b, c, d): end,
        }
    elif shape == "long wins":
        table = {(): {a: percent(88, 96)}, (a,): {eos_id: percent(42, 46), b: percent(52, 54)},
                 (a, b): {c: percent(88, 95)}, (a, b, c): {d: percent(88, 95)},
                 (a, b, c, d): end}
    else:
        table = {(): {a: p["late"], b: p["other"]}, (a,): {c: percent(90, 96)},
                 (b,): {d: percent(90, 96)}, (a, c): end, (b, d): end}
    impossible = {"impossible": (bos_id,)}.get(shape, ())
    return toy(table, size, bos_id, eos_id, rng, impossible), bos_id, eos_id, max_len, beam, alpha


def draw_tree(rng: random.Random, n_words: int, depth: int, beam: int, alpha: float) -> tuple:
    """Return a model with probabilities of its own for each prefix, as arguments."""
    size, bos_id, eos_id, words = some_ids(rng, n_words)
    table: Table = {}
    for t in range(depth):
        for prefix in product(words, repeat=t):
            weights = [rng.expovariate(1) ** 2 for _ in words]
            end = (0.02, 0.2, 0.5)[min(t, 2)] if t + 1 < depth else 0.9
            total = sum(weights) / (1 - end - 0.01)
            table[prefix] = {eos_id: end, **{i: w / total for i, w in zip(words, weights)}}
    return toy(table, size, bos_id, eos_id, rng), bos_id, eos_id, depth, beam, alpha


def beam_cases(generator: Generator) -> Iterator[Case]:
    rng = dice(generator)
    truth = beam_search()

    def case(label: str, draw: Callable[[], tuple], shows: str = "", blame: str = "") -> Case:
        shown = [BEAM_MISTAKES[name] for name in shows.split(", ") if name]
        return Case(label, first_to_show(draw, BEAM_READINGS, shown), blame)

    def long_wins() -> tuple:
        while True:
            *args, _ = draw_fork(rng, "long wins", 2, 8, alpha)
            if truth(*args, alpha) != truth(*args, 0.0):
                return *args, alpha

    def best_of_all() -> tuple:
        while True:
            *args, beam, alpha = draw_tree(rng, 5, 4, 4, 0.6)
            if truth(*args, 60, alpha) == truth(*args, beam, alpha):
                return *args, beam, alpha

    def single() -> tuple:
        size, bos_id, eos_id, words = some_ids(rng, 5)
        path = [*rng.sample(words, 3), eos_id]
        return chain(rng, size, bos_id, eos_id, path, words), bos_id, eos_id, 6, 1, 0.0

    def cut_off() -> tuple:
        size, bos_id, eos_id, words = some_ids(rng, 5)
        return chain(rng, size, bos_id, eos_id, words, words), bos_id, eos_id, 3, 2, 0.0

    alpha = rng.choice((0.6, 0.7, 0.8))
    yield case("a beam of 1, which is greedy search", single)
    yield case("a beam of 2 that finds what greedy search misses",
               lambda: draw_fork(rng, "greedy loses", 2, 6, 0.0), "greedy")
    yield case("two children of one prefix", lambda: draw_fork(rng, "siblings", 2, 6, 0.0),
               "last, chains")
    yield case("a hypothesis that ends early", lambda: draw_fork(rng, "early end", 2, 6, 0.0),
               "dropped")
    yield case(f"a length penalty of {alpha}", long_wins, "first")
    yield case("max_len before eos", cut_off, "", "you count bos, or you need an eos")
    yield case("an id of probability 0", lambda: draw_fork(rng, "impossible", 2, 6, 0.6))
    yield case("sentences that end soon, and a large max_len",
               lambda: draw_fork(rng, "soon", 2, 30, 0.6))
    yield case("a beam of 4, as good as looking at every sentence", best_of_all)


def look_at_hypotheses(candidate: Candidate, args: tuple, readings: set[str]) -> list[int]:
    """Call a candidate, raise Wrong for a property that its hypotheses lack; return the best ids.

    readings: the lengths that explain all scores so far; those that do not explain these go out.
    """
    model, bos_id, eos_id, max_len, beam, alpha = args
    model.calls.clear()
    result = candidate(*args)
    given = "\n".join([candidate.given, show(model)])

    def wrong(message: str, expected: str = "") -> Wrong:
        return Wrong(message, expected, show(result), given)

    if isinstance(result, tuple | list) and not result:
        raise wrong(
            "You return no hypothesis. What has ended is lost: keep it in a list of its own (and "
            "return what is alive at max_len if nothing has ended)"
        )
    if not isinstance(result, tuple | list):
        raise wrong(f"You return {kind(result)}: it should be a list of pairs (ids, score)")
    if any(not isinstance(pair, tuple | list) or len(pair) != 2 for pair in result):
        raise wrong("You should return a list of pairs (ids, score), one for each hypothesis")
    try:
        found = [(ids_of(ids), float(score)) for ids, score in result]
    except (TypeError, ValueError):
        raise wrong("Each pair is (ids, score), in this order: a list and one number") from None
    if len(found) > beam:
        raise wrong(f"You return {len(found)} hypotheses for a beam of {beam}")
    for ids, score in found:
        if problem := what_ids_lack(ids, bos_id, eos_id, max_len):
            raise wrong(problem)
        if math.isnan(score):
            raise wrong("A score is NaN: 0 x -inf, or -inf - -inf. Do not multiply "
                        "log-probabilities by a mask: put -inf or 0 in their place")
        if not set(ids) <= set(range(len(model.rows([])))):
            raise wrong(f"{ids} holds an id that the model does not have")
        if (total := math.fsum(logs_of(model, ids[1:]))) == -math.inf:
            raise wrong(f"{ids} has probability 0: such a hypothesis can't be returned")
        if score == -math.inf:
            raise wrong(f"The score of {ids} is -inf, but its probability is {math.exp(total):.3g}")
    if len({tuple(ids) for ids, _ in found}) < len(found):
        copies = sum(call.count([bos_id]) for call in model.calls) > 1
        raise wrong(
            "The same hypothesis comes twice. " + (
            "Equal prefixes have equal children: begin with one prefix, not with `beam` copies of "
            "bos, or give the copies -inf" if copies else
            "Two children got the same parent (in a flat list of n x V candidates the parent is "
            "place // V, the new id place % V), or you put what has ended into your list again")
        )
    for ids, score in found:
        still = {
            name for name in readings if close(score, score_of(model, ids, alpha, name, eos_id))
        }
        if not still:
            raise wrong(*blame_score(model, ids, score, alpha, eos_id))
        readings &= still
    ended = [score for ids, score in found if ids[-1] == eos_id]
    scores = [score for _, score in found]
    by_end = [*ended, *(score for ids, score in found if ids[-1] != eos_id)]
    if not (falls(scores) or (scores == by_end and falls(ended) and falls(by_end[len(ended) :]))):
        sums = [math.fsum(logs_of(model, ids[1:])) for ids, _ in found]
        if alpha and falls(sums):
            raise wrong("The hypotheses are sorted by their sums: the length penalty changes the "
                        "order, so divide first, then sort by the scores")
        upside_down = falls(scores[::-1])
        raise wrong("The worst hypothesis comes first: sort with reverse=True" if upside_down else
                    "The hypotheses are not sorted: the best score comes first")
    if any(all(eos_id in prefix for prefix in call) for call in model.calls):
        raise wrong("You ask the model again after every hypothesis has ended: stop then")
    return found[0][0]


def falls(scores: Sequence[float]) -> bool:
    return all(a >= b for a, b in pairwise(scores))


def close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-5)


def score_of(model: Callable, ids: list[int], alpha: float, reading: str, eos_id: int) -> float:
    logs = logs_of(model, ids[1:])
    return math.fsum(logs) / penalty(LENGTHS[reading](len(logs), ids[-1] == eos_id), alpha)


def what_ids_lack(ids: list[int], bos_id: int, eos_id: int, max_len: int) -> str | None:
    """Name what is wrong with the form of a hypothesis."""
    if ids[:1] != [bos_id]:
        return f"{ids} does not begin with bos_id = {bos_id}: the ids of a hypothesis do"
    new = ids[1:]
    if eos_id in new[:-1]:
        return (
            f"{ids} goes on after eos (eos_id = {eos_id}): a finished hypothesis stops growing, "
            "and its ids end with the first eos"
        )
    if len(new) > max_len:
        return f"{ids} has {len(new)} new ids: max_len = {max_len} are allowed, bos is not counted"
    if len(new) < max_len and eos_id not in new:
        return (
            f"{ids} has neither eos at its end (eos_id = {eos_id}) nor max_len = {max_len} new "
            "ids: keep eos in the ids, and go on until it comes"
        )
    return None


def blame_score(
    model: Callable, ids: list[int], score: float, alpha: float, eos_id: int
) -> tuple[str, str]:
    """Name what a score is instead of what it should be; and show how it is computed."""
    logs = logs_of(model, ids[1:])
    total, n = math.fsum(logs), len(logs)
    running = 0.0
    for t, log in enumerate(logs, 1):
        running = (running + log) / penalty(t, alpha)
    lengths = [length(n, ids[-1] == eos_id) for length in LENGTHS.values()]
    by_length = [
        pair
        for k in lengths
        if k > 0
        for pair in (
            ("You multiply by the length penalty (or its exponent is negative): divide by it. The "
             "sum is negative, so a larger divisor makes it better", total * penalty(k, alpha)),
            ("You add up probabilities: they multiply, so it is their logarithms that are added",
             math.fsum(map(math.exp, logs)) / penalty(k, alpha)),
            ("You return a probability: the score is the sum of the logarithms over the penalty",
             math.exp(total / penalty(k, alpha))),
            ("You return a probability: the score is the sum of the logarithms over the penalty",
             math.exp(total) / penalty(k, alpha)),
            ("Your score has the wrong sign: a log-probability is negative, and larger is better",
             -total / penalty(k, alpha)),
            ("Your score holds the last id's log-probability alone: add up those of all new ids",
             logs[-1] / penalty(k, alpha)),
            ("The log-probability of the last id (eos) is not in your score: add it, too",
             (total - logs[-1]) / penalty(k, alpha)),
            ("The log-probability of the first new id is not in your score: add it, too",
             (total - logs[0]) / penalty(k, alpha)),
            ("Your score is the mean of the log-probabilities: the paper's penalty is "
             "((5 + length) / 6) ** length_penalty", total / k),
            ("You divide by length ** length_penalty: the paper's penalty is "
             "((5 + length) / 6) ** length_penalty", total / k**alpha),
            ("Only a part of your penalty has the exponent: ((5 + length) / 6) ** length_penalty",
             total * 6 / (5 + k) ** alpha),
            ("You write 5 + length / 6: the sum comes before the division, (5 + length) / 6",
             total / (5 + k / 6) ** alpha),
            ("length_penalty is the exponent: ((5 + length) / 6) ** length_penalty",
             total * 6 / (5 + k)),
            ("length_penalty is the exponent: ((5 + length) / 6) ** length_penalty",
             total / (penalty(k, 1) * (alpha or 1))),
            ("You wrote length_penalty = 0.6 into the code: take the argument",
             total / penalty(k, 0.6)),
            ("You subtract the length penalty: divide by it", total - penalty(k, alpha)),
            ("You add the length penalty: divide by it", total + penalty(k, alpha)),
        )
    ]
    named = [
        ("The length penalty is missing: divide the sum of the log-probabilities by "
         "((5 + length) / 6) ** length_penalty", total),
        *by_length,
        ("You divide the running sum in every step: keep the plain sum, and divide once, for the "
         "score", running),
    ]
    right = total / penalty(n, alpha)
    sums = " + ".join(f"log {math.exp(log):.3g}" for log in logs)
    expected = f"{ids}\n{sums} = {total:.4f}\nover ((5 + {n}) / 6) ** {alpha}: {right:.4f}"
    for message, value in named:
        if close(value, score) and not close(value, right):
            return message, expected
    return (
        f"The score {score:.4f} does not belong to the ids {ids}: it should be {right:.4f}, the "
        "sum of the log-probabilities of their new ids over the penalty for their length. (Is it "
        "the score of other ids? In a flat list of n x V candidates the parent is place // V)"
    ), expected


def explain_beam(args: tuple, actual: object, expected: object) -> str | None:
    model, _, eos_id, _, _, alpha = args
    mine, best = (score_of(model, ids, alpha, "with eos", eos_id) for ids in (actual, expected))
    if best <= mine:
        return None
    return (
        f"Your best hypothesis is {actual}, score {mine:.3f}. {expected} has {best:.3f}: it was "
        "lost on the way. In each step keep the best `beam` of all beam x V candidates, by the sum "
        "of their log-probabilities, and keep what has ended until the end"
    )


def examine_beam(candidate: Candidate, generator: Generator) -> None:
    readings = set(LENGTHS)
    function_exam(
        beam_search(), beam_cases, list(BEAM_MISTAKES.values()), "the best hypothesis' ids",
        explain_beam, lambda candidate, args: look_at_hypotheses(candidate, args, readings),
    )(candidate, generator)


BEAM = Exercise(
    name="beam_search",
    assignment="decoding",
    signature="beam_search(next_log_probs, bos_id, eos_id, max_len, beam, length_penalty) -> list "
    "of 1 to `beam` pairs (ids, score), the best first. ids: bos, then new ids, the last one eos, "
    "or max_len of them. score: the sum of their log-probabilities over "
    f"((5 + length) / 6) ** length_penalty, length the number of new ids, eos counted (the "
    f"check also accepts eos not counted, or bos counted, if all scores do the same). {SEARCH}",
    what="Keep the `beam` most probable prefixes, let each go on with every id, keep the best "
    "`beam` of all. What ends with eos stops growing and waits for the end.",
    why="The paper's translations come from a beam of 4 with a length penalty of 0.6. Greedy "
    "search is fooled by a good first word; without the penalty short sentences win too often.",
    difficulty=5,
    minutes=60,
    hints=(
        "Write one step first: from a list of (ids, sum) to the best `beam` of all their children. "
        "What should a hypothesis that ends with eos do in this step?",
        "Begin with the single pair ([bos_id], 0.0). Children: (ids + [i], total + log_probs[i]) "
        "for all i; sort by the sum. Those that end with eos go to a second list, finished. The "
        "length penalty is needed only for the scores at the end.",
        "for _ in range(max_len): children of all live prefixes, sorted, [:beam]; move the ended "
        "ones to finished; stop when len(finished) >= beam or nothing is alive. At the end "
        "sorted(finished or live by total / ((5 + length) / 6) ** length_penalty, reverse=True).",
    ),
    examine=examine_beam,
)

# ------------------------------------------------------------------------------------ BLEU

Corpus = list[list[str]]


def sacre_bleu(hypotheses: Corpus, references: Corpus) -> float:
    """The program that papers use, on tokens, without smoothing."""
    import sacrebleu

    texts = [[" ".join(tokens) for tokens in side] for side in (hypotheses, references)]
    options = {"tokenize": "none", "smooth_method": "none", "force": True}
    return sacrebleu.corpus_bleu(texts[0], [texts[1]], **options).score


def ngrams(tokens: Sequence[str], n: int, key: Callable = tuple) -> Counter:
    return Counter(map(key, zip(*(tokens[i:] for i in range(n)))))


def bleu(longest: int = 4, shortest: int = 1, clip: bool = True, per: str = "hypothesis",
         brevity: str = "corpus", mean: str = "geometric", pool: str = "counts", plus: int = 0,
         negative: bool = False, scale: float = 100.0, key: Callable = tuple,
         ) -> Callable:
    """Return a BLEU, right with the defaults. key: what stands for an n-gram."""

    def count(hypothesis: list[str], reference: list[str], n: int) -> tuple[int, int]:
        found, wanted = ngrams(hypothesis, n, key), ngrams(reference, n, key)
        total = len(hypothesis) - n + 1 if negative else found.total()
        if pool == "sets":
            return len(found & wanted), len(found)
        matched = found & wanted if clip else {g: k for g, k in found.items() if g in wanted}
        total = {"reference": wanted.total(), "words": len(hypothesis)}.get(per, total)
        return sum(matched.values()), total

    def short(c: int, r: int) -> float:
        ways = {
            "none": lambda: 1.0, "inverted": lambda: min(1.0, math.exp(1 - c / r)),
            "ratio": lambda: min(1.0, c / r), "no min": lambda: math.exp(1 - r / c),
            "no one": lambda: math.exp(-r / c),
        }
        return ways.get(brevity, lambda: min(1.0, math.exp(1 - r / c)))()

    def score(hypotheses: Corpus, references: Corpus) -> float:
        pairs = list(zip(hypotheses, references))
        if pool == "sentences":
            return sum(bleu()([h], [r]) if h else 0.0 for h, r in pairs) / len(pairs)
        if pool == "all references":
            flat = [[t for sentence in side for t in sentence] for side in (hypotheses, references)]
            pairs = [(flat[0], flat[1])]
        precisions = []
        for n in range(shortest, longest + 1):
            counts = [count(h, r, n) for h, r in pairs]
            if pool == "precisions":
                precisions.append(sum(m / t if t else 0.0 for m, t in counts) / len(counts))
            else:
                matched, total = (sum(part) for part in zip(*counts))
                precisions.append((matched + plus) / (total + plus) if total + plus else 0.0)
        if mean == "geometric":
            together = math.prod(precisions) ** (1 / len(precisions))
        elif mean == "product":
            together = math.prod(precisions)
        else:
            together = sum(precisions) / len(precisions)
        if brevity == "sentences":
            factor = sum(short(len(h), len(r)) if h else 0.0 for h, r in pairs) / len(pairs)
        else:
            factor = short(sum(map(len, hypotheses)), sum(map(len, references)))
        return scale * factor * together

    return score


BLEU_MISTAKES: dict[str, Mistake] = {
    "scale": ("Your BLEU goes from 0 to 1: here it goes from 0 to 100", bleu(scale=1.0)),
    "arithmetic": ("You take the arithmetic mean of the precisions: BLEU is the geometric one, the "
                   "fourth root of their product", bleu(mean="arithmetic")),
    "product": ("You multiply the precisions, and the fourth root is missing: each has the weight "
                "1/4", bleu(mean="product")),
    "bigrams": ("You count n-grams of 1 and 2 words only: n goes up to 4", bleu(longest=2)),
    "words": ("You count single words only: n goes from 1 to 4", bleu(longest=1)),
    "trigrams": ("You count n-grams up to 3: range(1, 5) goes up to 4", bleu(longest=3)),
    "five": ("You count n-grams up to 5: n goes from 1 to 4", bleu(longest=5)),
    "only four": ("You count runs of 4 words only: n goes from 1 to 4", bleu(shortest=4)),
    "from two": ("Your single words are missing: n goes from 1 to 4", bleu(shortest=2)),
    "plus one": ("You smooth (add one to the counts): here BLEU has no smoothing", bleu(plus=1)),
    "no clip": ("You do not clip: an n-gram counts at most as often as the reference has it, or "
                "'the the the' is a perfect translation", bleu(clip=False)),
    "sets": ("You compare sets: an n-gram that both sides have twice counts twice. Counter & "
             "Counter takes the smaller count", bleu(pool="sets")),
    "no penalty": ("The brevity penalty is missing: hypotheses shorter than the references pay "
                   "exp(1 - r / c)", bleu(brevity="none")),
    "ratio": ("Your brevity penalty is c / r: it is exp(1 - r / c)", bleu(brevity="ratio")),
    "inverted": ("Your brevity penalty is upside down: it is exp(1 - r / c), with c tokens in the "
                 "hypotheses and r in the references, and short hypotheses pay",
                 bleu(brevity="inverted")),
    "recall": ("You divide by the n-grams of the reference, which is recall: precision divides by "
               "those of the hypothesis", bleu(per="reference")),
    "no min": ("Long hypotheses gain from your brevity penalty: it is never above 1, "
               "min(1, exp(1 - r / c))", bleu(brevity="no min")),
    "sentences": ("You take the mean of the sentences' BLEUs: add the counts of all sentences "
                  "first, and divide then", bleu(pool="sentences")),
    "precisions": ("You take the mean of the sentences' precisions: add the counts of all "
                   "sentences first, and divide then", bleu(pool="precisions")),
    "penalties": ("You compute a brevity penalty for each sentence: there is one for the corpus, "
                  "from the sums of all lengths", bleu(brevity="sentences")),
    "all references": ("You join the sentences to one text: a hypothesis is compared with its own "
                       "reference only", bleu(pool="all references")),
    "negative": ("A sentence shorter than n has no n-grams: your count, length - n + 1, goes below "
                 "0 there; max(0, ...)", bleu(negative=True)),
}
BLEU_MISTAKES |= {
    "no one": ("Your brevity penalty is exp(-r / c): it is exp(1 - r / c), 1 for equal lengths",
               bleu(brevity="no one")),
    "all words": ("You divide by the number of words for every n: n words have one n-gram, and L "
                  "words L - n + 1", bleu(per="words")),
    "exchanged": ("Hypotheses and references have changed places: the hypotheses are the first "
                  "argument, and precision divides by their n-grams",
                  lambda hypotheses, references: bleu()(references, hypotheses)),
    "glued": ("You join the words of an n-gram without a space, so that 'a nice' equals 'an ice': "
              "take the tuple of words", bleu(key="".join)),
    "lower case": ("You take 'The' and 'the' for the same word: compare the tokens as they come",
                   bleu(key=lambda words: tuple(map(str.lower, words)))),
}
ZERO = "a precision is 0: return 0 before you take its logarithm"


def bleu_cases(generator: Generator) -> Iterator[Case]:
    rng = dice(generator)
    seen: list[str] = []
    words = str.split(
        "a the red old dog cat man sees has on in sofa park ball and two is big . one"
    )

    def case(label: str, make: Callable[[], list[tuple[list[str], list[str]]]], shows: str,
             blame: str = "") -> Case:
        names = list(filter(None, shows.split(", ")))
        hidden = [m for name, m in BLEU_MISTAKES.items() if name not in (*seen, *names)]
        seen.extend(names)

        def draw() -> tuple:
            return tuple(map(list, zip(*make())))

        shown = [BLEU_MISTAKES[name] for name in names]
        return Case(label, first_to_show(draw, [sacre_bleu, bleu()], shown, hidden), blame)

    def changed(tokens: list[str], k: int = 1, pool: Sequence[str] = words) -> list[str]:
        result = list(tokens)
        for i in rng.sample(range(len(tokens)), k):
            result[i] = rng.choice([w for w in pool if w not in tokens] or pool)
        return result

    def same() -> list:
        tokens = rng.sample(words, 6)
        return [(tokens, list(tokens))]

    def one_wrong() -> list:
        tokens = rng.sample(words, 9)
        hypothesis = list(tokens)
        hypothesis[rng.choice((0, 1, 2, 6, 7, 8))] = "xyz"
        return [(hypothesis, tokens)]

    def repeated() -> list:
        tokens = rng.choices(words[:6], k=10)
        return [(changed(tokens, 2, words[:6]), tokens)]

    def shorter() -> list:
        tokens = rng.sample(words, 10)
        return [(tokens[: rng.randint(6, 8)], tokens)]

    def longer() -> list:
        tokens = rng.sample(words, 8)
        return [([*tokens, *rng.sample([w for w in words if w not in tokens], 2)], tokens)]

    def alike() -> list:
        first, *others = rng.sample([w for w in words if w.isalpha() and w != "a"], 9)
        before, after = [first, *others[:4]], others[4:]
        hypothesis = [first.title(), *before[1:], "a", "nice", *after]
        return [(hypothesis, [*before, "an", "ice", *after])]

    def several() -> list:
        references = [rng.choices(words, k=rng.randint(6, 12)) for _ in range(3)]
        return [(changed(t)[: rng.randint(5, 12)], t) for t in references]

    yield case("a perfect translation", same, "scale, no one, all words")
    yield case("one wrong word", one_wrong, "arithmetic, product, bigrams, words, trigrams, five, "
               "only four, from two, plus one")
    yield case("words that come twice", repeated, "no clip, sets", BLEU_MISTAKES["no clip"][0])
    yield case("a hypothesis that is too long", longer, "inverted, no min, recall, exchanged",
               "short hypotheses pay, long ones neither pay nor gain")
    yield case("a hypothesis that is too short", shorter, "no penalty, ratio",
               "the brevity penalty is wrong")
    yield case("words that only look alike", alike, "glued, lower case",
               "'The' is not 'the', 'a nice' is not 'an ice'")
    yield case("three sentences", several, "sentences, precisions, penalties, all references",
               "you do not add the counts of all sentences before you divide")
    tokens = rng.sample(words, 8)
    pairs = [(tokens[:2], tokens[:3]), (changed(tokens), tokens), (["one"], ["two"])]
    pairs = [([w for w in h], r) for h, r in pairs]
    yield Case("sentences of fewer than four words", tuple(map(list, zip(*pairs))),
               "you divide by 0 or count below 0, where a sentence is shorter than n")
    pairs = [
        (rng.sample(words, 7), ["on", "a", "sofa"]),
        (tokens, list(tokens)),
        ([], ["a", "dog"]),
    ]
    yield Case("an empty hypothesis", tuple(map(list, zip(*pairs))),
               "you divide by the length of a sentence")
    a, b, c, d = rng.sample(words, 4)
    yield Case("no run of four words in common",
               ([[a, b, c, d, a, b, c]], [[a, b, c, a, d, b, c]]), ZERO)
    yield Case("no word in common", ([[a, b, a, b, a]], [[c, d, d, c, d]]), ZERO)


BLEU = Exercise(
    name="bleu",
    assignment="decoding",
    signature="bleu(hypotheses, references) -> a number from 0 to 100; both are lists of "
    "sentences, a sentence is a list of tokens (strings, compared as they come), and each has one "
    "reference",
    what="Corpus BLEU: the geometric mean of the precisions of n-grams of 1 to 4 words, their "
    "counts clipped and added over all sentences, times the brevity penalty "
    "min(1, exp(1 - r / c)). No smoothing: 0 if a precision is 0.",
    why="Table 2 of the paper is a table of BLEU. Who has written it knows what 28.4 says, and "
    "what it does not.",
    difficulty=3,
    minutes=30,
    hints=(
        "Which ten numbers does the corpus have? Four of matches, four of totals, two of lengths. "
        "Add them up over all sentences before anything is divided.",
        "Counter(zip(*(tokens[i:] for i in range(n)))) counts n-grams, and (a & b).total() is the "
        "clipped number of matches of two Counters.",
        "If min(matched) is 0, return 0.0. Else 100 * min(1, exp(1 - r / c)) * exp of the mean of "
        "log(matched / total) over n = 1 to 4.",
    ),
    examine=function_exam(sacre_bleu, bleu_cases, list(BLEU_MISTAKES.values()), "BLEU"),
)

EXERCISES = (GREEDY, BEAM, BLEU)
