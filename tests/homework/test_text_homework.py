"""The checks of the assignment text, against candidates that make learners' mistakes."""

import heapq
import random
import re
from collections import Counter, defaultdict

import pytest
from bank import accepted, rejected

# ------------------------------------------------------------------------------ learn_bpe


def merge(symbols, pair):
    result, i = [], 0
    while i < len(symbols):
        if tuple(symbols[i : i + 2]) == tuple(pair):
            result.append(symbols[i] + symbols[i + 1])
            i += 2
        else:
            result.append(symbols[i])
            i += 1
    return tuple(result)


def count(words):
    counts = Counter()
    for symbols, n in words.items():
        for pair in zip(symbols, symbols[1:]):
            counts[pair] += n
    return counts


def cut(word):
    return (*word[:-1], word[-1] + "</w>")


def learn_plain(word_counts, n_merges):
    words = {cut(word): n for word, n in word_counts.items()}
    merges = []
    for _ in range(n_merges):
        counts = count(words)
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        words = {merge(symbols, best): n for symbols, n in words.items()}
    return merges


def learn_with_regex(word_counts, n_merges):
    """As Sennrich's programs do: words are texts with spaces between their symbols."""
    vocabulary = {" ".join(cut(word)): n for word, n in word_counts.items()}
    merges = []
    while len(merges) < n_merges:
        pairs = defaultdict(int)
        for word, n in vocabulary.items():
            symbols = word.split()
            for i in range(len(symbols) - 1):
                pairs[symbols[i], symbols[i + 1]] += n
        if not pairs:
            return merges
        most = max(pairs.values())
        best = sorted(pair for pair, n in pairs.items() if n == most)[0]
        merges.append(list(best))
        pattern = re.compile(r"(?<!\S)" + re.escape(" ".join(best)) + r"(?!\S)")
        joined = "".join(best)
        vocabulary = {pattern.sub(lambda m, j=joined: j, w): n for w, n in vocabulary.items()}
    return merges


def learn_with_heap(word_counts, n_merges):
    words = [(list(cut(word)), n) for word, n in word_counts.items()]
    merges = []
    for _ in range(n_merges):
        counts = {}
        for symbols, n in words:
            for a, b in zip(symbols, symbols[1:]):
                counts[a, b] = counts.get((a, b), 0) + n
        heap = [(-n, a + b, a, b) for (a, b), n in counts.items()]
        heapq.heapify(heap)
        if not heap:
            return tuple(merges)
        _, _, a, b = heap[0]
        merges.append((a, b))
        for symbols, _ in words:
            i = 0
            while i < len(symbols) - 1:
                if symbols[i] == a and symbols[i + 1] == b:
                    symbols[i : i + 2] = [a + b]
                i += 1
    return tuple(merges)


def learner(cut=cut, count=count, merge=merge, recount=True, stop=True, more=0,
            best=lambda counts: min(counts, key=lambda p: (-counts[p], p))):
    """A learn_bpe with one step replaced."""

    def learn_bpe(word_counts, n_merges):
        words = [(tuple(cut(word)), n) for word, n in word_counts.items()]
        merges, counts = [], None
        for _ in range(n_merges + more):
            if counts is None or recount:
                counts = Counter()
                for symbols, n in words:
                    counts.update(count({symbols: n}))
            if stop and not counts:
                break
            pair = best(counts)
            merges.append(pair)
            words = [(tuple(merge(symbols, pair)), n) for symbols, n in words]
            if not recount:
                del counts[pair]
        return merges

    return learn_bpe


def overlapping(symbols, pair):
    result, i = [], 0
    while i < len(symbols):
        if tuple(symbols[i : i + 2]) == pair:
            result.append("".join(pair))
            i += 1 if tuple(symbols[i + 1 : i + 3]) == pair else 2
        else:
            result.append(symbols[i])
            i += 1
    return result


def first_only(symbols, pair):
    for i in range(len(symbols) - 1):
        if tuple(symbols[i : i + 2]) == pair:
            return [*symbols[:i], "".join(pair), *symbols[i + 2 :]]
    return symbols


def as_text(symbols, pair):
    return " ".join(symbols).replace(" ".join(pair), "".join(pair)).split()


def unescaped(symbols, pair):
    pattern = r"(?<!\S)" + " ".join(pair) + r"(?!\S)"
    return re.sub(pattern, lambda m: "".join(pair), " ".join(symbols)).split()


def one_text(word_counts, n_merges):
    text = tuple(s for word, n in word_counts.items() for s in cut(word) * n)
    merges = []
    for _ in range(n_merges):
        counts = count({text: 1})
        if not counts:
            break
        merges.append(min(counts, key=lambda p: (-counts[p], p)))
        text = merge(text, merges[-1])
    return merges


def at_least_two(word_counts, n_merges):
    words = {cut(word): n for word, n in word_counts.items()}
    merges = []
    while len(merges) < n_merges and max(count(words).values(), default=0) >= 2:
        counts = count(words)
        merges.append(min(counts, key=lambda pair: (-counts[pair], pair)))
        words = {merge(symbols, merges[-1]): n for symbols, n in words.items()}
    return merges


def emptied(word_counts, n_merges):
    merges = learn_plain(word_counts, n_merges)
    word_counts.clear()
    return merges


LEARN_WRONG = {
    "words once": (learner(count=lambda w: count({s: 1 for s in w})), "count each word once"),
    "no </w>": (learner(cut=list), "end of the word is not marked"),
    "</w> alone": (learner(cut=lambda w: [*w, "</w>"]), "symbol of its own"),
    "first seen": (learner(best=lambda c: c.most_common(1)[0][0] if c else None), "saw first"),
    "max over a dict": (learner(best=lambda c: max(c, key=c.get)), "saw first"),
    "largest": (learner(best=lambda c: max(c, key=lambda p: (c[p], p))), "largest pair"),
    "rarest": (learner(best=lambda c: min(c, key=lambda p: (c[p], p))), "rarest"),
    "counted once and for all": (learner(recount=False), "count the pairs only once"),
    "overlap": (learner(merge=overlapping), "use a symbol twice"),
    "first place only": (learner(merge=first_only), "only where it first stands"),
    "str.replace": (learner(merge=as_text), "str.replace"),
    "once a word": (
        learner(count=lambda w: Counter({p: n for s, n in w.items() for p in zip(s, s[1:])})),
        "must count twice"),
    "across words": (one_text, "merge across words"),
    "one too many": (learner(more=1), "one merge too many"),
    "one too few": (learner(more=-1), "one merge too few"),
    "no end": (learner(stop=False), "ValueError.*(no|empty).*you don't stop"),
    "pattern": (learner(merge=unescaped), "regular expression"),
    "pairs that stand once": (at_least_two, "stand fewer than 2 times"),
    "texts": (lambda w, n: ["".join(p) for p in learn_plain(w, n)], "is a pair of symbols"),
    "in place": (emptied, "in place"),
    "joined and first": (
        learner(cut=list, best=lambda c: max(c, key=c.get)), "end of the word is not marked"),
    "an empty list": (lambda w, n: [], "one merge too few|stop after 0"),
    "nothing": (lambda w, n: None, "you return None"),
}


@pytest.mark.parametrize("style", [learn_plain, learn_with_regex, learn_with_heap])
def test_learn_bpe_accepts(style):
    accepted("learn_bpe", style)


@pytest.mark.parametrize("mistake", LEARN_WRONG)
def test_learn_bpe_rejects(mistake: str):
    rejected("learn_bpe", *LEARN_WRONG[mistake])


# ------------------------------------------------------------------------------ apply_bpe


def apply_plain(word, merges):
    symbols = cut(word)
    for pair in merges:
        symbols = merge(symbols, pair)
    return symbols


def apply_by_rank(word, merges):
    ranks = {tuple(pair): i for i, pair in enumerate(merges)}
    symbols = list(cut(word))
    while len(symbols) > 1:
        found = [(ranks[p], i) for i, p in enumerate(zip(symbols, symbols[1:])) if p in ranks]
        if not found:
            break
        i = min(found)[1]
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    return symbols


def apply_in_place(word, merges):
    symbols = list(word)
    symbols[-1] += "</w>"
    for a, b in merges:
        i = 0
        while i + 1 < len(symbols):
            if symbols[i] == a and symbols[i + 1] == b:
                symbols[i] = a + b
                del symbols[i + 1]
            i += 1
    return symbols


def applier(cut=cut, merge=merge, order=list):
    def apply_bpe(word, merges):
        symbols = cut(word)
        for pair in order(merges):
            symbols = merge(tuple(symbols), pair)
        return list(symbols)

    return apply_bpe


def apply_longest(word, merges):
    known = {a + b for a, b in merges}
    text, symbols = cut(word), []
    while text:
        k = next((k for k in range(len(text), 1, -1) if "".join(text[:k]) in known), 1)
        symbols.append("".join(text[:k]))
        text = text[k:]
    return symbols


def apply_leftmost(word, merges):
    symbols, changed = list(cut(word)), True
    while changed:
        changed = False
        for i in range(len(symbols) - 1):
            if (symbols[i], symbols[i + 1]) in merges:
                symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
                changed = True
                break
    return symbols


def apply_one_pass(word, merges):
    symbols = [cut(word)[0]]
    for s in cut(word)[1:]:
        if (symbols[-1], s) in merges:
            symbols[-1] += s
        else:
            symbols.append(s)
    return symbols


def return_inside_loop(word, merges):
    symbols = cut(word)
    for pair in merges:
        symbols = merge(symbols, pair)
        return list(symbols)
    return list(symbols)


APPLY_WRONG = {
    "longest first": (apply_longest, "longest known piece"),
    "leftmost": (apply_leftmost, "leftmost pair"),
    "one pass": (apply_one_pass, "through the word once"),
    "first place only": (applier(merge=first_only), "only where it first stands"),
    "no </w>": (applier(cut=list), "end of the word is not marked"),
    "</w> alone": (applier(cut=lambda w: [*w, "</w>"]), "symbol of its own"),
    "backwards": (applier(order=lambda m: m[::-1]), "backwards"),
    "sorted": (applier(order=sorted), "alphabetical"),
    "by length": (applier(order=lambda m: sorted(m, key=lambda p: -len("".join(p)))),
                  "longest merges first"),
    "overlap": (applier(merge=overlapping), "use a symbol twice"),
    "str.replace": (applier(merge=as_text), "str.replace"),
    "regular expression": (applier(merge=unescaped), "regular expression"),
    "return in the loop": (return_inside_loop, "only the first merge"),
    "the last left out": (applier(order=lambda m: m[:-1]), "leave the last merge"),
    "text": (lambda w, m: " ".join(apply_plain(w, m)), "one text"),
    "characters": (lambda w, m: cut(w), "merge nothing"),
    "its input": (lambda w, m: w, "one text"),
    "popped": (lambda w, m: [apply_plain(w, m), m.clear()][0], "in place"),
}


@pytest.mark.parametrize("style", [apply_plain, apply_by_rank, apply_in_place])
def test_apply_bpe_accepts(style):
    accepted("apply_bpe", style)


@pytest.mark.parametrize("mistake", APPLY_WRONG)
def test_apply_bpe_rejects(mistake: str):
    rejected("apply_bpe", *APPLY_WRONG[mistake])


# -------------------------------------------------------------------------- token_batches


def batches_plain(lengths, max_tokens):
    batches, batch = [], []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) + 1) * lengths[i] > max_tokens:
            batches.append(batch)
            batch = []
        batch.append(i)
    return [*batches, batch]


def batches_longest_first(lengths, max_tokens):
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    batches = []
    while order:
        n = max_tokens // lengths[order[0]]
        if n == 0:
            raise ValueError(f"sentence {order[0]} is too long")
        batches.append(tuple(order[:n]))
        order = order[n:]
    random.shuffle(batches)
    return tuple(batches)


def batches_by_length(lengths, max_tokens):
    buckets = defaultdict(list)
    for i, n in enumerate(lengths):
        buckets[n].append(i)
    for n, indices in buckets.items():
        size = max(1, max_tokens // n)
        for start in range(0, len(indices), size):
            yield indices[start : start + size]


def batcher(order=lambda lengths: sorted(range(len(lengths)), key=lengths.__getitem__),
            cost=lambda chosen: len(chosen) * max(chosen), last=True, over=lambda a, b: a > b,
            keep=True):
    """A token_batches with one step replaced."""

    def token_batches(lengths, max_tokens):
        batches, batch = [], []
        for i in order(lengths):
            if batch and over(cost([lengths[j] for j in (*batch, i)]), max_tokens):
                batches.append(batch)
                batch = []
                if not keep:
                    continue
            batch.append(i)
        return [*batches, batch] if last and batch else batches

    return token_batches


def too_late(lengths, max_tokens):
    batches, batch = [], []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        batch.append(i)
        if len(batch) * lengths[i] > max_tokens:
            batches.append(batch)
            batch = []
    return [*batches, batch] if batch else batches


def same_list(lengths, max_tokens):
    batches, batch = [], []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[i] > max_tokens:
            batches.append(batch.copy())
        batch.append(i)
    return [*batches, batch]


def of_lengths(lengths, max_tokens):
    return [[lengths[i] for i in batch] for batch in batches_plain(lengths, max_tokens)]


def sorts_its_input(lengths, max_tokens):
    lengths.sort()
    return batches_plain(lengths, max_tokens)


def forgets_the_long(lengths, max_tokens):
    fitting = [i for i, n in enumerate(lengths) if n <= max_tokens]
    batches = batches_plain([lengths[i] for i in fitting], max_tokens)
    return [[fitting[i] for i in batch] for batch in batches]


def closes_an_empty_one(lengths, max_tokens):
    batches, batch = [], []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if (len(batch) + 1) * lengths[i] > max_tokens:
            batches.append(batch)
            batch = []
        batch.append(i)
    return [*batches, batch]


def places(reverse):
    """Indices into the sorted list."""
    in_order = batcher(order=lambda lengths: range(len(lengths)))
    return lambda lengths, max_tokens: in_order(sorted(lengths, reverse=reverse), max_tokens)


def fixed_by_the_longest(lengths, max_tokens):
    size = max(1, max_tokens // max(lengths))
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [order[i : i + size] for i in range(0, len(order), size)]


def refuses_the_exact(lengths, max_tokens):
    if max(lengths) >= max_tokens:
        raise ValueError("too long")
    return batches_plain(lengths, max_tokens)


BATCHES_WRONG = {
    "empty if all are too long": (closes_an_empty_one, "empty batch"),
    "places": (places(False), "places in the sorted list"),
    "places, longest first": (places(True), "places in the sorted list"),
    "fixed by the longest": (fixed_by_the_longest, "holds . sentences"),
    "one batch": (lambda n, m: [list(range(len(n)))], "All sentences are in one batch"),
    "by the first": (batcher(cost=lambda c: len(c) * c[0]), "shortest for the width"),
    "exactly as long": (refuses_the_exact, "ValueError.*you test <"),
    "real tokens": (batcher(cost=sum), "real tokens"),
    "real tokens, unsorted": (batcher(order=lambda n: range(len(n)), cost=sum), "real tokens"),
    "last dropped": (batcher(last=False), "last batch is missing"),
    "overflow lost": (batcher(keep=False), "does not fit any more is lost"),
    "same list": (same_list, "comes . times|comes .. times"),
    "not sorted": (batcher(order=lambda n: range(len(n))), "Sort the indices"),
    "one each": (lambda n, m: [[i] for i in range(len(n))], "holds one sentence"),
    "sentences counted": (batcher(cost=len), "count sentences"),
    "fixed number": (lambda n, m: [list(range(len(n)))[i:i + 8] for i in range(0, len(n), 8)],
                     "costs .* more than max_tokens"),
    "too late": (too_late, "One sentence too many"),
    "strict": (batcher(over=lambda a, b: a >= b), "at most .* fits"),
    "by the shortest": (
        batcher(order=lambda n: sorted(range(len(n)), key=lambda i: -n[i]),
                cost=lambda c: len(c) * c[-1]), "shortest for the width"),
    "lengths": (of_lengths, "return lengths"),
    "from 1": (lambda n, m: [[i + 1 for i in b] for b in batches_plain(n, m)], "begin at 1"),
    "sorted in place": (sorts_its_input, "in place"),
    "a flat list": (lambda n, m: list(range(len(n))), "list of batches"),
    "long ones left out": (forgets_the_long, "longer than max_tokens, and you drop"),
    "a constant": (lambda n, m: [[0, 1], [2]], "in no batch"),
    "an empty batch": (lambda n, m: [[], *batches_plain(n, m)], "empty batch"),
}


@pytest.mark.parametrize("style", [batches_plain, batches_longest_first, batches_by_length])
def test_token_batches_accepts(style):
    accepted("token_batches", style)


@pytest.mark.parametrize("mistake", BATCHES_WRONG)
def test_token_batches_rejects(mistake: str):
    rejected("token_batches", *BATCHES_WRONG[mistake])
