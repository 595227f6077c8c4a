"""Exercises of the assignment text: subwords, and batches with a budget of tokens."""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import ceil
from operator import index

from torch import Generator

from course.homework.checking import Candidate, Case, Exercise, Wrong, function_exam
from course.homework.probe import dice, first_to_show
from course.homework.twins import Mistake
from course.homework.values import kind, show

END = "</w>"
Pair = tuple[str, str]


# ---------------------------------------------------------------------------- byte-pair encoding


def symbols_of(word: str, end: str = "last") -> list[str]:
    """Cut a word into characters. end: where </w> goes."""
    if end == "last":
        return [*word[:-1], word[-1] + END]
    return [*word, END] if end == "own" else [*word]


def merged(symbols: Sequence[str], pair: Pair, how: str = "left") -> list[str]:
    """Join a pair wherever it stands. how: from the left, or in one of the wrong ways."""
    if how == "text":
        return " ".join(symbols).replace(" ".join(pair), "".join(pair)).split(" ")
    if how == "pattern":
        pattern = rf"(?<!\S){' '.join(pair)}(?!\S)"
        return re.sub(pattern, lambda match: "".join(pair), " ".join(symbols)).split(" ")
    if how == "right":
        backwards = merged([s[::-1] for s in symbols[::-1]], (pair[1][::-1], pair[0][::-1]))
        return [s[::-1] for s in backwards[::-1]]
    result, i = [], 0
    while i < len(symbols):
        if tuple(symbols[i : i + 2]) == tuple(pair):
            result.append("".join(pair))
            if how == "once":
                return [*result, *symbols[i + 2 :]]
            i += 1 if how == "overlap" and tuple(symbols[i + 1 : i + 3]) == tuple(pair) else 2
        else:
            result.append(symbols[i])
            i += 1
    return result


def count_pairs(words: list[tuple[list[str], int]], weigh: str = "count") -> dict[Pair, int]:
    """Count neighbours, in the order in which they are seen. weigh: what one of them counts."""
    counts: dict[Pair, int] = {}
    for symbols, n in words:
        pairs: Sequence[Pair] = list(pairwise(symbols))
        if weigh == "words":
            pairs = list(dict.fromkeys(pairs))
        elif weigh == "disjoint":
            pairs = [p for p in dict.fromkeys(pairs)
                     for _ in range(len(symbols) - len(merged(symbols, p)))]
        for pair in pairs:
            counts[pair] = counts.get(pair, 0) + (1 if weigh == "once" else n)
    return counts


CHOICES: dict[str, Callable[[dict[Pair, int]], Pair]] = {
    "smallest": lambda counts: min(counts, key=lambda p: (-counts[p], p)),
    "by the joined text": lambda counts: min(counts, key=lambda p: (-counts[p], "".join(p))),
    "by the spaced text": lambda counts: min(counts, key=lambda p: (-counts[p], " ".join(p))),
    "first": lambda counts: max(counts, key=lambda p: counts[p]),
    "last": lambda counts: max(reversed(counts), key=lambda p: counts[p]),
    "largest": lambda counts: max(counts, key=lambda p: (counts[p], p)),
    "longest": lambda counts: min(counts, key=lambda p: (-counts[p], -len("".join(p)), p)),
    "rarest": lambda counts: min(counts, key=lambda p: (counts[p], p)),
}


def bpe(end: str = "last", weigh: str = "count", choose: str = "smallest", how: str = "left",
        recount: bool = True, across: bool = False, more: int = 0, least: int = 1,
        ) -> Callable:
    """Return a learn_bpe, right with the defaults. least: what a pair must count to be merged."""

    def learn(word_counts: Mapping[str, int], n_merges: int) -> list[Pair]:
        words = [(symbols_of(word, end), n) for word, n in word_counts.items()]
        if across:
            words = [([s for symbols, n in words for s in symbols * n], 1)]
        counts = count_pairs(words, weigh)
        merges: list[Pair] = []
        while counts and len(merges) < n_merges + more:
            best = CHOICES[choose](counts)
            if counts[best] < least:
                break
            merges.append(best)
            words = [(merged(symbols, best, how), n) for symbols, n in words]
            counts = count_pairs(words, weigh) if recount else counts
            if not recount:
                del counts[best]
        return merges

    return learn


BPE_READINGS = [
    bpe(weigh=weigh, choose=choose)
    for weigh in ("count", "disjoint")
    for choose in ("smallest", "by the joined text", "by the spaced text")
]
PATTERN = (
    "You take a symbol for a regular expression, in which a point is any character: re.escape it, "
    "or compare whole symbols"
)
BPE_MISTAKES: dict[str, Mistake] = {
    "more": ("You make one merge too many: n_merges is their number", bpe(more=1)),
    "fewer": ("You make one merge too few: n_merges is their number", bpe(more=-1)),
    "rarest": ("You merge the rarest pair: the most frequent one is merged", bpe(choose="rarest")),
    "once": ("You count each word once: a pair counts as often as its word occurs, "
             "counts[pair] += n", bpe(weigh="once")),
    "no end": ("The end of the word is not marked: the last symbol is its character with </w>, "
               "so that 'er' at the end of a word is not 'er' inside one", bpe(end="none")),
    "own end": ("Your </w> is a symbol of its own: here it belongs to the last character, 'r</w>' "
                "is one symbol", bpe(end="own")),
    "words": ("A pair that stands twice in a word must count twice: you count it once for each "
              "word that holds it", bpe(weigh="words")),
    "no recount": ("You count the pairs only once, at the beginning: after a merge the words have "
                   "other neighbours, so count again, over the merged symbols", bpe(recount=False)),
    "across": ("You merge across words: the last symbol of a word and the first of the next are "
               "no neighbours", bpe(across=True)),
    "first": ("On equal counts you take the pair that you saw first (as max over a dict and "
              "most_common do): ties go to the lexicographically smallest pair, "
              "min(counts, key=lambda pair: (-counts[pair], pair))", bpe(choose="first")),
    "last": ("On equal counts you take the pair that you saw last: ties go to the "
             "lexicographically smallest pair", bpe(choose="last")),
    "largest": ("On equal counts you take the lexicographically largest pair, as max over "
                "(count, pair) does: ties go to the smallest, so negate the count and use min",
                bpe(choose="largest")),
    "longest": ("On equal counts you take the longest pair: ties go to the lexicographically "
                "smallest", bpe(choose="longest")),
    "overlap": ("You use a symbol twice: 'a a a' holds the pair twice, but merged from the left it "
                "is 'aa a'. After a merge go on behind both symbols", bpe(how="overlap")),
    "right": ("You merge from the right: 'a a a' becomes 'aa a', from the left", bpe(how="right")),
    "once a word": ("You merge a pair only where it first stands in a word: join it everywhere",
                    bpe(how="once")),
    "pattern": (PATTERN, bpe(how="pattern")),
    "text": ("You merge with str.replace on text: 'a b' is found inside 'xa b', too, and its end "
             "or beginning is cut off a longer symbol. Compare whole symbols", bpe(how="text")),
}
MORE_MISTAKES: list[Mistake] = [
    *((BPE_MISTAKES[name][0], bpe(choose="first", **change)) for name, change in (
        ("no end", {"end": "none"}), ("own end", {"end": "own"}), ("once", {"weigh": "once"}))),
    *((f"You stop before pairs that stand fewer than {least} times: n_merges merges are asked "
            "for, and fewer only if no word has two symbols left", bpe(least=least))
      for least in (2, 3)),
]
ENDLESS = "you don't stop when no word has two symbols left: return the merges made so far"


def a_clause(verdict: str) -> str:
    """Return a verdict as it stands behind "Probably"."""
    return verdict[0].lower() + verdict[1:]


def bpe_cases(generator: Generator) -> Iterator[Case]:
    rng = dice(generator)
    seen: list[str] = []

    def case(label: str, shows: str, n_words: int, lengths: tuple[int, int], n_letters: int,
             n_merges: int, blame: str = "", counts: tuple[int, int] = (2, 9)) -> Case:
        def draw() -> tuple:
            letters = rng.sample("abcdefghiklmnoprstuwz", n_letters)
            sizes = (rng.randint(*lengths) for _ in range(n_words))
            words = ("".join(rng.choices(letters, k=size)) for size in sizes)
            word_counts = {word: rng.randint(*counts) for word in words}
            enough = len(BPE_READINGS[0](word_counts, n_merges + 1)) > n_merges
            return (word_counts, n_merges) if enough else draw()

        names = list(filter(None, shows.split(", ")))
        hidden = [m for name, m in BPE_MISTAKES.items() if name not in (*seen, *names)]
        seen.extend(names)
        args = first_to_show(draw, BPE_READINGS, [BPE_MISTAKES[name] for name in names], hidden)
        return Case(label, args, blame)

    yield case("one merge", "more, fewer, rarest", 3, (3, 4), 4, 1)
    yield case("frequent words", "once", 3, (3, 4), 4, 1, a_clause(BPE_MISTAKES["once"][0]))
    yield case("the end of a word", "no end, own end", 3, (3, 4), 4, 1)
    yield case("a pair twice in a word", "words", 3, (4, 5), 4, 1)
    yield case("two merges", "no recount", 3, (4, 5), 4, 2)
    yield case("no neighbours across words", "across", 3, (2, 4), 4, 2)
    yield case("equal counts", "first, largest, last", 3, (3, 4), 4, 2, "ties go wrong", (2, 3))
    yield case("ties after a merge", "longest", 3, (3, 4), 4, 3, "ties go wrong", (2, 3))
    yield case("a pair more than once in a word", "once a word", 3, (4, 6), 3, 3)
    yield case("a letter three times in a row", "overlap, right", 3, (4, 6), 2, 3)
    yield case("symbols that begin alike", "text", 3, (4, 6), 3, 4)
    letter = rng.choice("ax")
    yield Case("words of one letter, which have no pair", ({letter: 9, "io": 3}, 1),
               "you count on two symbols")
    rare = {"".join(rng.sample("aeinrst", 3)): 1, "".join(rng.sample("bdklmou", 4)): 2}
    yield Case("pairs that stand once", (rare, 4))
    few = {"".join(rng.sample("aeinrst", 3)): 5, "".join(rng.sample("bdklmou", 4)): 3}
    yield Case("more merges than the words have pairs", (few, 50), ENDLESS)
    yield Case("letters and signs", ({"a.b": 4, "acb": 2, "x+": 3, "(x": 5}, 8),
               a_clause(PATTERN))
    yield Case("no words", ({}, 3), ENDLESS)


def explain_bpe(args: tuple, actual: object, expected: object) -> str | None:
    """Say how often the first wrong pair stands in the words as they are by then."""
    word_counts, n_merges = args
    if not isinstance(actual, tuple | list):
        return None
    if any(not isinstance(p, tuple | list) or len(p) != 2 for p in actual):
        return "Each merge is a pair of symbols: ('l', 'o'), not a text or a number"
    words = [(symbols_of(word), n) for word, n in word_counts.items()]
    for number, right in enumerate(expected):
        if number == len(actual):
            return (
                f"You stop after {number} merges: {n_merges} are asked for, and {right} can still "
                "be merged"
            )
        counts, yours = count_pairs(words), tuple(actual[number])
        if yours != right:
            mine = f"Yours, {yours}, stands nowhere"
            if yours in counts:
                mine = f"Yours, {yours}, stands {counts[yours]} times"
            if counts.get(yours) == counts[right]:
                mine = f"Yours, {yours}, does so, too: ties go to the smaller pair"
            return (
                f"Merge {number + 1} should be {right}, which then stands {counts[right]} times "
                f"(each word as often as it occurs). {mine}"
            )
        words = [(merged(symbols, right), n) for symbols, n in words]
    return f"{len(expected)} merges are wanted, you return {len(actual)}"


LEARN = Exercise(
    name="learn_bpe",
    assignment="text",
    signature="learn_bpe(word_counts, n_merges): word_counts a dict word -> how often it occurs -> "
    "a list of n_merges pairs of symbols, in the order learned; fewer only if no word has two "
    "symbols left. Symbols begin as characters, the last one with </w>: low is l, o, w</w>. Ties "
    "go to the "
    "lexicographically smallest pair, as Python compares tuples",
    what="Merge the most frequent pair of neighbours into one symbol, everywhere and from the "
    "left; count again; and so on. A pair counts at each place where it stands, and each time as "
    "often as its word occurs: in *banana*, `a n` stands twice.",
    why="The paper's models read subwords learned like this: frequent words become one token, "
    "rare ones a few, and no word is unknown. The paper's vocabulary has about 37,000.",
    difficulty=3,
    minutes=30,
    hints=(
        "Which three steps are repeated? Write each as a function: count the pairs, choose one, "
        "merge it in a word.",
        "Keep a dict from the tuple of a word's symbols to its count. Pairs of neighbours: "
        "zip(symbols, symbols[1:]), each adding the word's count. Merge with an index i that goes "
        "on by 2 after a merge, else by 1.",
        "best = min(counts, key=lambda pair: (-counts[pair], pair)): negative counts put the most "
        "frequent first, and the pair decides a tie. Stop when counts is empty.",
    ),
    examine=function_exam(
        BPE_READINGS[0],
        bpe_cases,
        [*BPE_MISTAKES.values(), *MORE_MISTAKES],
        "the list of merges",
        explain_bpe,
    ),
)


def longest_first(word: str, merges: Sequence[Pair]) -> list[str]:
    """Cut off the longest known symbol, again and again."""
    known, symbols, i = {"".join(pair) for pair in merges}, symbols_of(word), 0
    result = []
    while i < len(symbols):
        ends = [j for j in range(len(symbols), i, -1) if "".join(symbols[i:j]) in known]
        j = ends[0] if ends else i + 1
        result.append("".join(symbols[i:j]))
        i = j
    return result


def one_pass(word: str, merges: Sequence[Pair]) -> list[str]:
    """Go through the word once, from the left, and join what may be joined."""
    result: list[str] = []
    for symbol in symbols_of(word):
        if result and (result[-1], symbol) in merges:
            result[-1] += symbol
        else:
            result.append(symbol)
    return result


def leftmost(word: str, merges: Sequence[Pair]) -> list[str]:
    """Join the leftmost pair that is known, until there is none."""
    symbols = symbols_of(word)
    while known := [i for i, pair in enumerate(pairwise(symbols)) if pair in merges]:
        symbols[known[0] : known[0] + 2] = ["".join(symbols[known[0] : known[0] + 2])]
    return symbols


def by_rank(word: str, merges: Sequence[Pair]) -> list[str]:
    """Join the pair that was learned first, until none is known."""
    symbols = symbols_of(word)
    while known := [p for p in pairwise(symbols) if p in merges]:
        symbols = merged(symbols, min(known, key=merges.index))
    return symbols


def in_order(end: str = "last", how: str = "left", order: Callable = list) -> Callable:
    """Return an apply_bpe that makes one merge after the other, right with the defaults."""

    def apply(word: str, merges: Sequence[Pair]) -> list[str]:
        symbols = symbols_of(word, end)
        for pair in order(merges):
            symbols = merged(symbols, pair, how)
        return symbols

    return apply


APPLY_MISTAKES: dict[str, Mistake] = {
    "no end": ("The end of the word is not marked: the last symbol is its character with </w>",
               in_order(end="none")),
    "own end": ("Your </w> is a symbol of its own: it belongs to the last character, 'r</w>' is "
                "one symbol", in_order(end="own")),
    "none": ("You merge nothing: the word's characters come back", lambda word, merges:
             symbols_of(word)),
    "first only": ("You make only the first merge of the list", in_order(order=lambda m: m[:1])),
    "last missing": ("You leave the last merge of the list out", in_order(order=lambda m: m[:-1])),
    "once": ("You join a pair only where it first stands in the word: join it everywhere",
             in_order(how="once")),
    "pattern": (PATTERN, in_order(how="pattern")),
    "one pass": ("You go through the word once and join whatever is known: a merge can need the "
                 "symbols of earlier ones at a place that you have passed. The outer loop goes "
                 "over the merges, in their order", one_pass),
    "longest": ("You take the longest known piece first: BPE repeats the merges in the order in "
                "which they were learned, and that can end in other pieces", longest_first),
    "leftmost": ("You join the leftmost pair that is known, whatever its place in the list: the "
                 "pair learned first goes first", leftmost),
    "backwards": ("You apply the merges backwards: the one learned first goes first",
                  in_order(order=lambda m: m[::-1])),
    "sorted": ("You apply the merges in alphabetical order: keep the order in which they were "
               "learned", in_order(order=sorted)),
    "long before short": ("You apply the longest merges first: keep the order in which they were "
                          "learned", in_order(order=lambda m: sorted(m, key=lambda p:
                                                                     -len("".join(p))))),
    "overlap": ("You use a symbol twice: 'a a a' becomes 'aa a'. After a merge go on behind both "
                "symbols", in_order(how="overlap")),
    "right": ("You merge from the right: 'a a a' becomes 'aa a', from the left",
              in_order(how="right")),
    "text": ("You merge with str.replace on text: 'a b' is found inside 'xa b', too. Compare whole "
             "symbols", in_order(how="text")),
}


def apply_cases(generator: Generator) -> Iterator[Case]:
    rng = dice(generator)
    seen = ["no end", "own end", "none", "first only", "last missing"]  # by the first two cases

    def case(label: str, shows: str, lengths: tuple[int, int], n_letters: int, n_merges: int,
             blame: str = "") -> Case:
        def draw() -> tuple:
            letters = rng.sample("abcdefghiklmnoprstuwz", n_letters)
            word = "".join(rng.choices(letters, k=rng.randint(*lengths)))
            states, merges = [symbols_of(word)], []
            for _ in range(n_merges):  # pairs that compete, each made of symbols made before
                symbols = rng.choice(states)
                pair = rng.choice([*pairwise(symbols)] or [*pairwise(states[0])])
                if pair not in merges:
                    merges.append(pair)
                    states.append(merged(symbols, pair))
            return word, merges

        names = list(filter(None, shows.split(", ")))
        hidden = [m for name, m in APPLY_MISTAKES.items() if name not in (*seen, *names)]
        seen.extend(names)
        readings = [in_order(), by_rank]
        args = first_to_show(draw, readings, [APPLY_MISTAKES[name] for name in names], hidden)
        return Case(label, args, blame)

    yield Case("no merges", ("".join(rng.sample("aeimnorst", 4)), []))
    a, b, c, d, e, f = rng.sample("aeimnorstu", 6)
    pairs = rng.sample([(a, b), (c, d), (e, f + END)], 3)
    yield Case("three merges", (a + b + c + d + e + f, pairs))
    yield case("a pair twice in the word", "once", (4, 6), 4, 2)
    yield case("merges that compete, and build on one another",
               "one pass, longest, leftmost, backwards, sorted, long before short, text", (8, 8), 8,
               12, "the merges do not keep their order")
    yield case("a letter three times in a row", "overlap, right", (4, 6), 2, 4)
    ends = [(a, b), (a, b + END), (c, a + b + END)]
    yield Case("the same letters inside a word and at its end", (a + b + c + a + b, ends),
               "you take 'b' and 'b</w>' for the same symbol")
    yield Case("a word of one letter", (a, ends), "you count on two characters")
    yield Case("letters that no merge knows", ("öß" + a + b, ends), "you drop what is not known")
    signs = [("a", "."), ("a.", "+")]
    yield Case("letters and signs", ("abca.+b", signs),
               a_clause(PATTERN))


def explain_apply(args: tuple, actual: object, expected: object) -> str | None:
    word, merges = args
    if isinstance(actual, str):
        return "You return one text: return the list of its symbols"
    if not isinstance(actual, tuple | list) or not all(isinstance(s, str) for s in actual):
        return None
    text = "".join(actual)
    if text == word:
        return APPLY_MISTAKES["no end"][0]
    if text != word + END:
        return f"Your symbols, joined, spell {text!r}: it should be {word + END!r}"
    left = [p for p in merges if p in pairwise(actual)]
    if left:
        return f"{left[0]} still stand side by side, and the list of merges holds them: join them"
    return None


APPLY = Exercise(
    name="apply_bpe",
    assignment="text",
    signature="apply_bpe(word, merges): merges a list of pairs, as learn_bpe returns it -> the "
    "list of the word's symbols, the last one ending in </w>",
    what="Cut a word, seen or never seen, by repeating the merges in the order learned: each one "
    "wherever it stands, from the left.",
    why="Training and translation must cut words alike: the model knows symbols, and a word cut "
    "in another way is a word it has never read.",
    difficulty=2,
    minutes=15,
    hints=(
        "Where does a word stand before the first merge of learn_bpe? Begin there.",
        "Then do what learning did: for each pair of merges, in order, join it everywhere in the "
        "word. Nothing is counted any more.",
        "symbols = [*word[:-1], word[-1] + '</w>'], and the function that merges a pair in a word "
        "is the one you have written for learn_bpe.",
    ),
    examine=function_exam(
        in_order(), apply_cases, list(APPLY_MISTAKES.values()), "the list of symbols",
        explain_apply,
    ),
)

# --------------------------------------------------------------------------------- token batches

WIDTH = "Each sentence of a batch takes as much room as the longest one"


def fill(lengths: Sequence[int], order: Sequence[int], fits: Callable) -> list[list[int]]:
    """Cut an order into batches; a new one begins where the sentence does not fit any more."""
    batches: list[list[int]] = []
    for i in order:
        if not batches or not fits([lengths[j] for j in (*batches[-1], i)]):
            batches.append([])
        batches[-1].append(i)
    return batches


def sorted_places(lengths: Sequence[int], budget: int) -> list[list[list[int]]]:
    """Return the batches of those who take places in sorted(lengths) for indices into lengths."""
    return [
        fill(by_length, range(len(lengths)), lambda s: len(s) * max(s) <= budget)
        for by_length in (sorted(lengths), sorted(lengths, reverse=True))
    ]


def uneven(rng: random.Random) -> tuple[list[int], int]:
    """Return 12 lengths and a budget that each wrong way to count a batch exceeds."""
    while True:
        lengths, budget = [rng.randint(2, 12) for _ in range(12)], rng.randint(24, 30)

        def real(chosen: list[int], budget: int = budget) -> bool:
            return sum(chosen) <= budget

        def narrow(chosen: list[int], budget: int = budget) -> bool:
            return len(chosen) * chosen[-1] <= budget

        order = sorted(range(12), key=lambda i: lengths[i])
        too_narrow = fill(lengths, order[::-1], narrow)
        ways = (fill(lengths, order, real), fill(lengths, range(12), real), too_narrow,
                *sorted_places(lengths, budget))
        over = [any(cost(lengths, batch) > budget for batch in batches) for batches in ways]
        if all(over) and any(sum(lengths[i] for i in batch) > budget for batch in too_narrow):
            return lengths, budget


def batch_cases(generator: Generator) -> Iterator[Case]:
    rng = dice(generator)
    length, n = rng.randint(4, 6), rng.choice((19, 20, 22, 23))  # more than the budget
    yield Case(f"{n} sentences of {length} tokens", ([length] * n, 3 * length))
    lengths, budget = uneven(rng)
    yield Case("sentences of different lengths", (lengths, budget))
    yield Case("a single sentence", ([5], 12), "you count on a second one")
    long_tail = [1 + int(rng.lognormvariate(2.5, 0.6)) for _ in range(1000)]
    long_tail = [min(n, 100) for n in long_tail]
    yield Case("1000 sentences, a few of them long", (long_tail, 400))
    yield Case("a sentence exactly as long as the budget", ([3, 12, 4, 5, 3], 12),
               "you test < where <= is meant")
    lengths = rng.sample([30, *(rng.randint(2, 9) for _ in range(5))], 6)
    yield Case("a sentence longer than the budget", (lengths, 20))
    yield Case("no sentence within the budget", ([9, 9], 5))


def cost(lengths: Sequence[int], batch: Sequence[int]) -> int:
    """Return the padded size of a batch."""
    return len(batch) * max(lengths[i] for i in batch)


def look_at_batches(candidate: Candidate, args: tuple) -> None:
    """Call a candidate and raise Wrong for the first property that its batches lack."""
    lengths, budget = args
    too_long = max(lengths) > budget
    try:
        result = candidate(*args)
    except Wrong as wrong:
        if too_long and isinstance(wrong.__cause__, ValueError | AssertionError):
            return
        raise
    given = candidate.given

    def wrong(message: str) -> Wrong:
        return Wrong(message, actual=show(result), given=given)

    if isinstance(result, Iterator):  # a generator is fine; it runs now, and may not end
        result = candidate.call(list, result, watched=False)
    if not isinstance(result, tuple | list) or any(isinstance(b, int | str) for b in result):
        raise wrong(f"You return {kind(result)}: it should be a list of batches, each a list of "
                    "indices")
    try:
        batches = [[index(i) for i in batch] for batch in result]
    except TypeError:
        raise wrong("A batch holds indices: whole numbers that say which sentences") from None
    if problem := what_is_lost(lengths, budget, batches) or what_is_over(lengths, budget, batches):
        raise wrong(problem)
    if not too_long and (problem := what_is_wasted(lengths, budget, batches)):
        raise wrong(problem)


def what_is_lost(lengths: Sequence[int], budget: int, batches: list[list[int]]) -> str | None:
    """Name what is wrong if not every index comes exactly once."""
    n = len(lengths)
    flat = [i for batch in batches for i in batch]
    if sorted(flat) == sorted(lengths) != list(range(n)):
        return "You return lengths: return the indices of the sentences"
    if not all(batches):
        return "You return an empty batch: begin a new one only if the old one holds something"
    if sorted(flat) == list(range(1, n + 1)):
        return "Your indices begin at 1: the first sentence is number 0"
    if strange := [i for i in flat if not 0 <= i < n]:
        return f"You return the index {strange[0]}: {n} sentences have the indices 0 to {n - 1}"
    if twice := [i for i, times in Counter(flat).items() if times > 1]:
        return (
            f"Sentence {twice[0]} comes {flat.count(twice[0])} times: every index comes exactly "
            "once. When a batch is full, is the new one a new list?"
        )
    lost = sorted(set(range(n)) - set(flat))
    if not lost:
        return None
    names = f"{len(lost)} of {n} sentences are in no batch, the first of them is {lost[0]}"
    if lost == [i for i in range(n) if lengths[i] > budget]:
        return (
            f"{names}: it is longer than max_tokens, and you drop it. Raise ValueError, or give it "
            "a batch of its own"
        )
    ends = (range(n)[-len(lost) :], range(len(lost)))
    by_length = sorted(lengths)
    tails = (by_length[-len(lost) :], by_length[: len(lost)])
    different = len(set(lengths)) > 1 and sorted(lengths[i] for i in lost) in tails
    if any(lost == list(end) for end in ends) or different:
        return (
            f"{names}: the last batch is missing. Nothing comes after it that would not fit, so "
            "append it behind the loop"
        )
    return (
        f"{names}: the sentence that does not fit any more is lost. It is the first one of the "
        "next batch"
    )


def what_is_over(lengths: Sequence[int], budget: int, batches: list[list[int]]) -> str | None:
    """Name why a batch is larger than its budget, if one is."""
    sizes = [[lengths[i] for i in batch] for batch in batches]
    over = [s for s in sizes if len(s) * max(s) > budget and len(s) > 1]
    if not over:
        return None
    first = over[0]
    seen = f"the lengths {first}" if len(first) <= 12 else f"as many as {len(first)} sentences"
    found = (
        f"A batch with {seen}, the longest of {max(first)} tokens, costs {len(first)} x "
        f"{max(first)} = {len(first) * max(first)}, padded: more than max_tokens = {budget}"
    )
    if max(lengths) > budget:
        return f"{found}. Raise ValueError for a sentence longer than that, or leave it alone"
    if batches in sorted_places(lengths, budget):
        return (
            f"{found}. These are places in the sorted list, not in lengths: sort the indices, "
            "sorted(range(len(lengths)), key=lambda i: lengths[i])"
        )
    if all(sum(s) <= budget for s in sizes):
        return f"{found}. You count the real tokens: padding counts, too. {WIDTH}"
    if all(len(s) * min(s) <= budget for s in sizes):
        return f"{found}. You take the shortest for the width of the batch. {WIDTH}"
    if len(sizes) == 1:
        return f"{found}. All sentences are in one batch: begin a new one when the next cannot fit"
    if all(len(s) == budget for s in sizes[:-1]) and len(sizes[-1]) <= budget:
        return f"{found}. You count sentences: max_tokens is a number of tokens"
    if all((len(s) - 1) * max(s) <= budget for s in sizes):
        return f"{found}. One sentence too many: look whether it fits before you add it"
    return f"{found}. {WIDTH}"


def what_is_wasted(lengths: Sequence[int], budget: int, batches: list[list[int]]) -> str | None:
    """Name why there is too much padding or why there are too many batches, if it is so."""
    padded = sum(cost(lengths, batch) for batch in batches)
    used = sum(lengths) / (len(batches) * budget)
    fewest = ceil(len(lengths) / (budget // lengths[0]))
    equal = len(set(lengths)) == 1 and len(batches) > fewest
    if len(lengths) > 1 and len(batches) == len(lengths) and (equal or used < 0.5):
        return "Each of your batches holds one sentence: put in as many as fit"
    if equal:
        return (
            f"You make {len(batches)} batches, {fewest} are enough: {budget // lengths[0]} x "
            f"{lengths[0]} = {budget // lengths[0] * lengths[0]} is at most {budget}, and that fits"
        )
    if len(lengths) < 100:
        return None
    if (waste := 1 - sum(lengths) / padded) >= 0.1:
        return (
            f"{waste:.0%} of your positions are padding: short sentences share a batch with long "
            "ones. Sort the indices by length first"
        )
    if len(sizes := {len(batch) for batch in batches[:-1]}) == 1:
        return (
            f"Each of your batches holds {sizes.pop()} sentences: of short ones more fit. Close a "
            "batch only when the next sentence does not fit any more"
        )
    if used < 0.4:
        return (
            f"You make {len(batches)} batches, and use {used:.0%} of their budget: close a batch "
            "only when the next sentence does not fit any more"
        )
    return None


BATCHES = Exercise(
    name="token_batches",
    assignment="text",
    signature="token_batches(lengths, max_tokens): lengths a list of numbers of tokens -> a "
    "list of batches, each a list of indices into lengths, every index once. A batch costs its "
    "number of sentences times its longest length, at most max_tokens, and is closed only when the "
    "next sentence does not fit. Similar lengths stand together: of 1000 sentences, less than a "
    "tenth is padding. A sentence longer than max_tokens: ValueError, or a batch of its own",
    what="Cut a corpus into batches by their number of tokens, padding counted.",
    why="A batch takes memory and time for each position, padding or not. The paper's batches hold "
    "about 25,000 tokens, whatever the number of sentences; bad batches waste half the machine.",
    difficulty=2,
    minutes=20,
    hints=(
        "In which order should the sentences come, so that neighbours have similar lengths? And "
        "what does a batch of n sentences cost, if the longest has L tokens?",
        "order = sorted(range(len(lengths)), key=lambda i: lengths[i]); fill a batch along it, and "
        "begin a new one when the next sentence would make it cost too much. In this order the "
        "next sentence is the longest.",
        "if batch and (len(batch) + 1) * lengths[i] > max_tokens: append the batch to batches and "
        "begin a new one, []. In each case batch.append(i). And after the loop?",
    ),
    examine=function_exam(lambda *args: None, batch_cases, call=look_at_batches),
)

EXERCISES = (LEARN, APPLY, BATCHES)
