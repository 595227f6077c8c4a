"""The checks of the assignment decoding, against candidates that make learners' mistakes."""

import math
from collections import Counter, defaultdict

import pytest
import sacrebleu
import torch
from bank import accepted, rejected

# -------------------------------------------------------------------------- greedy_decode


def greedy_plain(next_log_probs, bos_id, eos_id, max_len):
    ids = [bos_id]
    for _ in range(max_len):
        ids.append(next_log_probs(torch.tensor([ids]))[0].argmax().item())
        if ids[-1] == eos_id:
            break
    return ids


def greedy_tensor(next_log_probs, bos_id, eos_id, max_len):
    prefix = torch.full((1, 1), bos_id, dtype=torch.long)
    while prefix.size(1) <= max_len and prefix[0, 1:].ne(eos_id).all():
        best = next_log_probs(prefix).topk(1, dim=-1).indices
        prefix = torch.cat([prefix, best], dim=1)
    return prefix[0]


def greedy_then_cut(next_log_probs, bos_id, eos_id, max_len):
    ids = [torch.tensor(bos_id)]
    for _ in range(max_len):
        log_probs = next_log_probs(torch.stack(ids)[None]).squeeze(0).tolist()
        ids.append(torch.tensor(max(range(len(log_probs)), key=log_probs.__getitem__)))
    ended = [t for t, i in enumerate(ids) if i == eos_id and t > 0]
    return tuple(ids[: ended[0] + 1]) if ended else tuple(ids)


def greedy(steps=lambda n: n, start=lambda bos, eos: bos, pick=lambda row: row.argmax().item(),
           shown=lambda ids: torch.tensor([ids]), ends=lambda token, eos: token == eos,
           tidy=lambda ids, bos, eos, n: ids):
    """A greedy_decode with one step replaced."""

    def greedy_decode(next_log_probs, bos_id, eos_id, max_len):
        ids = [start(bos_id, eos_id)]
        for _ in range(steps(max_len)):
            ids.append(pick(next_log_probs(shown(ids))[0]))
            if ends(ids[-1], eos_id):
                break
        return tidy(ids, bos_id, eos_id, max_len)

    return greedy_decode


def until_eos(next_log_probs, bos_id, eos_id, max_len):
    ids = [bos_id]
    while ids[-1] != eos_id:
        ids.append(next_log_probs(torch.tensor([ids]))[0].argmax().item())
    return ids[: max_len + 1]


GREEDY_WRONG = {
    "until eos": (until_eos, "eos never comes.*eos may never come"),
    "no stop": (greedy(ends=lambda token, eos: False), "go on after eos"),
    "eos dropped": (greedy(tidy=lambda ids, b, e, n: [i for i in ids if i != e]), "lack eos"),
    "bos dropped": (greedy(tidy=lambda ids, b, e, n: ids[1:]), "lack bos"),
    "both dropped": (
        greedy(tidy=lambda ids, b, e, n: [i for i in ids if i not in (b, e)]), "bos and eos"),
    "bos counted": (greedy(steps=lambda n: n - 1), "One token too few"),
    "one too many": (greedy(steps=lambda n: n + 1), "One token too many"),
    "samples": (
        greedy(pick=lambda row: row.exp().multinomial(1).item()), "does not sample"),
    "last token only": (greedy(shown=lambda ids: torch.tensor([ids[-1:]])), "only the last token"),
    "starts with eos": (greedy(start=lambda b, e: e), "begins with eos_id"),
    "one dimension": (greedy(shown=torch.tensor), "shape .n, t."),
    "a list": (greedy(shown=lambda ids: [ids]), "takes a LongTensor"),
    "always bos": (greedy(shown=lambda ids: torch.tensor([ids[:1]])), "same prefix in every step"),
    "argmin": (greedy(pick=lambda row: row.argmin().item()), "argmin"),
    "second best": (greedy(pick=lambda row: row.topk(2).indices[1].item()), "second"),
    "eos added": (greedy(tidy=lambda ids, b, e, n: ids if ids[-1] == e else [*ids, e]),
                  "did not write it"),
    "filled up": (greedy(tidy=lambda ids, b, e, n: ids + [e] * (n + 1 - len(ids))
                         if e in ids else ids), "fill up"),
    "eos is 2": (greedy(ends=lambda token, eos: token == 2), "whatever eos_id is|go on after eos"),
    "eos is 0": (greedy(ends=lambda token, eos: token == 0), "whatever eos_id is|go on after eos"),
    "a batch": (greedy(tidy=lambda ids, b, e, n: [ids]), "flat list"),
    "a constant": (lambda f, b, e, n: [b, e], "most probable id is"),
    "a text": (greedy(tidy=lambda ids, b, e, n: str(ids)), "list of numbers"),
}


@pytest.mark.parametrize("style", [greedy_plain, greedy_tensor, greedy_then_cut])
def test_greedy_accepts(style):
    accepted("greedy_decode", style)


@pytest.mark.parametrize("mistake", GREEDY_WRONG)
def test_greedy_rejects(mistake: str):
    rejected("greedy_decode", *GREEDY_WRONG[mistake])


# ---------------------------------------------------------------------------- beam_search


def lp(length, alpha):
    return ((5 + length) / 6) ** alpha


def beam_lists(next_log_probs, bos_id, eos_id, max_len, beam, length_penalty):
    """Finished ones in a list of their own, until there are `beam` of them."""
    live, finished = [([bos_id], 0.0)], []
    for _ in range(max_len):
        children = []
        for ids, total in live:
            log_probs = next_log_probs(torch.tensor([ids]))[0].tolist()
            children += [([*ids, i], total + log) for i, log in enumerate(log_probs)]
        children.sort(key=lambda c: c[1], reverse=True)
        finished += [c for c in children[:beam] if c[0][-1] == eos_id]
        live = [c for c in children[:beam] if c[0][-1] != eos_id]
        if len(finished) >= beam or not live:
            break
    scored = [(ids, t / lp(len(ids) - 1, length_penalty)) for ids, t in (finished or live)]
    return sorted(scored, key=lambda h: h[1], reverse=True)[:beam]


def beam_in_place(next_log_probs, bos_id, eos_id, max_len, beam, length_penalty):
    """Tensors; a finished hypothesis keeps its place and goes on with eos for nothing."""
    prefixes, totals = torch.tensor([[bos_id]]), torch.zeros(1)
    for _ in range(max_len):
        log_probs = next_log_probs(prefixes)
        done = (prefixes[:, 1:] == eos_id).any(1)
        log_probs = log_probs.masked_fill(done[:, None], -math.inf)
        log_probs[done, eos_id] = 0.0
        size = log_probs.size(-1)
        totals, place = (totals[:, None] + log_probs).flatten().topk(beam)
        prefixes = torch.cat([prefixes[place // size], place[:, None] % size], 1)
        if (prefixes[:, 1:] == eos_id).any(1).all():
            break
    found = []
    for ids, total in zip(prefixes.tolist(), totals.tolist()):
        if eos_id in ids[1:]:
            ids = ids[: ids.index(eos_id, 1) + 1]
        found.append((torch.tensor(ids), torch.tensor(total / lp(len(ids), length_penalty))))
    return sorted(found, key=lambda h: -h[1].item())


def beam_copies(next_log_probs, bos_id, eos_id, max_len, beam, length_penalty):
    """`beam` copies of bos, all but one at -inf; 2 x beam candidates; length without eos."""
    live = torch.full((beam, 1), bos_id)
    totals = torch.tensor([0.0] + [-math.inf] * (beam - 1))
    finished = []
    for step in range(max_len):
        candidates = totals[:, None] + next_log_probs(live)
        best = torch.topk(candidates.reshape(-1), 2 * beam)
        parents = torch.div(best.indices, candidates.shape[1], rounding_mode="floor")
        tokens = best.indices - parents * candidates.shape[1]
        kept = []
        for rank, (p, i, total) in enumerate(zip(parents, tokens, best.values)):
            ids = torch.cat([live[p], i[None]])
            if i == eos_id:
                if rank < beam and total > -math.inf:
                    finished.append((ids.tolist(), total.item() / lp(step, length_penalty)))
            elif len(kept) < beam:
                kept.append((ids, total))
        live = torch.stack([ids for ids, _ in kept])
        totals = torch.stack([total for _, total in kept])
        if len(finished) >= beam:
            break
    if not finished:
        scale = lp(live.size(1) - 1, length_penalty)
        finished = [(ids.tolist(), t.item() / scale) for ids, t in zip(live, totals)]
    finished.sort(key=lambda pair: pair[1], reverse=True)
    return finished[:beam]


def beam(score=lambda total, n, alpha: total / lp(n, alpha), start=lambda bos, k: [([bos], 0.0)],
         choose=lambda grown, k: sorted(sum(grown, []), key=lambda c: -c[1])[:k],
         keep=lambda ended: ended, stop=None,
         grow=lambda ids, total, i, log: ([*ids, i], total + log),
         steps=lambda n: n, freeze=True, tidy=lambda found, bos, eos: found):
    """A beam_search with one step replaced."""

    def beam_search(next_log_probs, bos_id, eos_id, max_len, beam, length_penalty):
        live, finished = start(bos_id, beam), []
        for _ in range(steps(max_len)):
            grown = []
            for ids, total in live:
                log_probs = next_log_probs(torch.tensor([ids]))[0].tolist()
                grown.append([grow(ids, total, i, log) for i, log in enumerate(log_probs)])
            live = choose(grown, beam)
            if freeze:
                finished += keep([c for c in live if c[0][-1] == eos_id])
                live = [c for c in live if c[0][-1] != eos_id]
            if not live or len(finished) >= (stop or beam):
                break
        found = [(ids, score(total, len(ids) - 1, length_penalty))
                 for ids, total in (finished or live)]
        return tidy(sorted(found, key=lambda h: -h[1])[:beam], bos_id, eos_id)

    return beam_search


def own_best(grown, k):
    """Each prefix goes on with its own best id; the first one gives `beam` children."""
    if len(grown) == 1:
        return sorted(grown[0], key=lambda c: -c[1])[:k]
    return [max(children, key=lambda c: c[1]) for children in grown]


def drops_ended(next_log_probs, bos_id, eos_id, max_len, beam, length_penalty):
    live = [([bos_id], 0.0)]
    for _ in range(max_len):
        children = []
        for ids, total in live:
            log_probs = next_log_probs(torch.tensor([ids]))[0].tolist()
            children += [([*ids, i], total + log) for i, log in enumerate(log_probs)]
        live = sorted(children, key=lambda c: -c[1])[:beam]
        alive = [c for c in live if c[0][-1] != eos_id]
        if not alive:
            break
        live = alive
    return [(ids, total / lp(len(ids) - 1, length_penalty)) for ids, total in live]


def never_stops(next_log_probs, bos_id, eos_id, max_len, beam, length_penalty):
    prefixes, totals = torch.tensor([[bos_id]]), torch.zeros(1)
    for _ in range(max_len):
        log_probs = next_log_probs(prefixes)
        done = (prefixes[:, 1:] == eos_id).any(1)
        log_probs = log_probs.masked_fill(done[:, None], -math.inf)
        log_probs[done, eos_id] = 0.0
        totals, place = (totals[:, None] + log_probs).flatten().topk(beam)
        size = log_probs.size(-1)
        prefixes = torch.cat([prefixes[place // size], place[:, None] % size], 1)
    found = []
    for ids, total in zip(prefixes.tolist(), totals.tolist()):
        ids = ids[: ids.index(eos_id, 1) + 1] if eos_id in ids[1:] else ids
        found.append((ids, total / lp(len(ids) - 1, length_penalty)))
    return sorted(found, key=lambda h: -h[1])


def mask_multiplied(next_log_probs, bos_id, eos_id, max_len, beam, length_penalty):
    prefixes, totals = torch.tensor([[bos_id]]), torch.zeros(1)
    for _ in range(max_len):
        done = (prefixes[:, 1:] == eos_id).any(1)
        if done.all():
            break
        log_probs = next_log_probs(prefixes) * ~done[:, None]
        log_probs[done] += torch.where(torch.arange(log_probs.size(1)) == eos_id, 0.0, -1e9)
        totals, place = (totals[:, None] + log_probs).flatten().topk(beam)
        size = log_probs.size(-1)
        prefixes = torch.cat([prefixes[place // size], place[:, None] % size], 1)
    return [(ids[: (ids + [eos_id]).index(eos_id, 1) + 1], t / lp(len(ids) - 1, length_penalty))
            for ids, t in zip(prefixes.tolist(), totals.tolist())]


def greedy_pair(f, bos, eos, n, k, alpha):
    ids = greedy_plain(f, bos, eos, n)
    logs = [f(torch.tensor([ids[:t]]))[0, ids[t]].item() for t in range(1, len(ids))]
    return [(ids, sum(logs) / lp(len(logs), alpha))]


def by_last(next_log_probs, bos_id, eos_id, max_len, beam, length_penalty):
    live, finished = [([bos_id], 0.0)], []
    for _ in range(max_len):
        children = []
        for ids, total in live:
            log_probs = next_log_probs(torch.tensor([ids]))[0].tolist()
            children += [(log, [*ids, i], total + log) for i, log in enumerate(log_probs)]
        best = sorted(children, reverse=True)[:beam]
        finished += [(ids, total) for _, ids, total in best if ids[-1] == eos_id]
        live = [(ids, total) for _, ids, total in best if ids[-1] != eos_id]
        if len(finished) >= beam or not live:
            break
    found = [(ids, t / lp(len(ids) - 1, length_penalty)) for ids, t in (finished or live)]
    return sorted(found, key=lambda h: -h[1])[:beam]


def flat(parent_of):
    """Tensors, and a rule for the parent of a place in the flat list of candidates."""

    def beam_search(next_log_probs, bos_id, eos_id, max_len, beam, length_penalty):
        live, totals, found = torch.tensor([[bos_id]]), torch.zeros(1), []
        for _ in range(max_len):
            grown = totals[:, None] + next_log_probs(live)
            totals, place = grown.flatten().topk(beam)
            parent, token = parent_of(place, *grown.shape), place % grown.size(1)
            live = torch.cat([live[parent], token[:, None]], 1)
            done = token == eos_id
            found += zip(live[done].tolist(), totals[done].tolist())
            live, totals = live[~done], totals[~done]
            if len(found) >= beam or len(live) == 0:
                break
        found = found or list(zip(live.tolist(), totals.tolist()))
        found = [(ids, t / lp(len(ids) - 1, length_penalty)) for ids, t in found]
        return sorted(found, key=lambda h: -h[1])[:beam]

    return beam_search


def sorted_too_early(f, bos, eos, n, k, alpha):
    found = beam_lists(f, bos, eos, n, k, alpha)
    return sorted(found, key=lambda h: -h[1] * lp(len(h[0]) - 1, alpha))


BEAM_WRONG = {
    "by the last": (by_last, "by the last log-probability alone"),
    "parent % n": (flat(lambda place, n, size: place % n), "same parent|the parent is place // V"),
    "parent // n": (flat(lambda place, n, size: (place // n).clamp(max=n - 1)), "parent"),
    "sorted too early": (sorted_too_early, "sorted by their sums"),
    "always 0.6": (beam(score=lambda t, n, a: t / lp(n, 0.6)), "length_penalty = 0.6"),
    "no penalty": (beam(score=lambda t, n, a: t), "length penalty is missing"),
    "multiplied": (beam(score=lambda t, n, a: t * lp(n, a)), "multiply by the length penalty"),
    "wrong sign": (beam(score=lambda t, n, a: t / lp(n, -a)), "exponent is negative"),
    "mean": (beam(score=lambda t, n, a: t / n), "mean of the log-prob"),
    "length ** alpha": (beam(score=lambda t, n, a: t / n**a), "length .. length_penalty"),
    "part of it": (beam(score=lambda t, n, a: t / ((5 + n) ** a / 6)), "part of your penalty"),
    "no brackets": (beam(score=lambda t, n, a: t / (5 + n / 6) ** a), "sum comes before"),
    "subtracted": (beam(score=lambda t, n, a: t - lp(n, a)), "subtract"),
    "positive": (beam(score=lambda t, n, a: -t / lp(n, a)), "wrong sign"),
    "probability": (beam(score=lambda t, n, a: math.exp(t) / lp(n, a)), "return a probability"),
    "adds probabilities": (
        beam(grow=lambda ids, t, i, log: ([*ids, i], t + math.exp(log))), "add up probabilities"),
    "last one only": (beam(grow=lambda ids, t, i, log: ([*ids, i], log)), "last id's"),
    "every step": (
        beam(score=lambda t, n, a: t,
             grow=lambda ids, t, i, log: ([*ids, i], (t + log) / lp(len(ids), 0.7))),
        "length penalty|does not belong"),
    "own best": (beam(choose=own_best), "Each of your prefixes goes on with its own"),
    "greedy": (greedy_pair, "That is greedy"),
    "dropped": (drops_ended, "ended early with a high score is lost"),
    "nothing kept": (beam(keep=lambda ended: []), "What has ended is lost"),
    "grows on": (beam(freeze=False), "goes on after eos"),
    "first wins": (beam(stop=1), "as soon as one hypothesis has ended"),
    "alike": (beam(start=lambda bos, k: [([bos], 0.0)] * k), "comes twice"),
    "not sorted": (beam(tidy=lambda found, b, e: found[::-1]), "worst hypothesis comes first"),
    "no eos": (beam(tidy=lambda found, b, e: [([i for i in ids if i != e], s) for ids, s in found]),
               "keep eos"),
    "no bos": (beam(tidy=lambda found, b, e: [(ids[1:], s) for ids, s in found]), "begin with bos"),
    "the best alone": (beam(tidy=lambda found, b, e: found[0]), "list of pairs|one for each"),
    "swapped": (beam(tidy=lambda found, b, e: [(s, ids) for ids, s in found]), "in this order|ids"),
    "too few": (beam(steps=lambda n: n - 1), "max_len"),
    "too many": (beam(steps=lambda n: n + 1), "max_len = 3 are allowed"),
    "starts with eos": (beam(start=lambda bos, k: [([bos + 1], 0.0)]), "begins with"),
    "never stops": (never_stops, "after every hypothesis has ended"),
    "NaN": (mask_multiplied, "NaN|does not belong|length|after eos|sorted"),
    "all of them": (beam(choose=lambda grown, k: sorted(sum(grown, []), key=lambda c: -c[1])[:9],
                         tidy=lambda found, b, e: found + found[-1:] * 9), "hypotheses for a beam"),
    "last token": (
        lambda f, b, e, n, k, a: beam()(lambda p: f(p[:, -1:]), b, e, n, k, a), "only the last"),
    "one dimension": (
        lambda f, b, e, n, k, a: beam()(lambda p: f(p[0])[None], b, e, n, k, a), "shape .n, t."),
    "a constant": (lambda f, b, e, n, k, a: [([b, e], -1.0)], "does not belong"),
    "nothing": (lambda f, b, e, n, k, a: [], "no hypothesis"),
}


@pytest.mark.parametrize(
    "style",
    [
        beam_lists, beam_in_place, beam_copies, beam(), flat(lambda place, n, size: place // size),
        beam(score=lambda t, n, a: t / lp(n + 1, a)),
        beam(choose=lambda grown, k: sorted(sum(grown, []), key=lambda c: -c[1])[: k + 1]),
        beam(tidy=lambda found, bos, eos: found[:1]),
    ],
)
def test_beam_accepts(style):
    accepted("beam_search", style)


@pytest.mark.parametrize("mistake", BEAM_WRONG)
def test_beam_rejects(mistake: str):
    rejected("beam_search", *BEAM_WRONG[mistake])


def test_one_reading_of_the_length_for_all_scores():
    """Each score alone may count eos or not; all together must do the same."""
    rejected("beam_search", beam(score=lambda t, n, a: t / lp(n + n % 2, a)), "does not belong")


# ----------------------------------------------------------------------------------- bleu


def grams(tokens, n):
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def bleu_plain(hypotheses, references):
    matched, total = [0] * 4, [0] * 4
    for h, r in zip(hypotheses, references):
        for n in range(4):
            found = grams(h, n + 1)
            matched[n] += (found & grams(r, n + 1)).total()
            total[n] += found.total()
    if not all(matched):
        return 0
    c, r = sum(map(len, hypotheses)), sum(map(len, references))
    logs = sum(math.log(m / t) for m, t in zip(matched, total)) / 4
    return 100 * math.exp(min(0, 1 - r / c) + logs)


def bleu_loops(hypotheses, references):
    product = torch.ones((), dtype=torch.float64)
    for n in (1, 2, 3, 4):
        good = everything = 0
        for h, r in zip(hypotheses, references):
            left = defaultdict(int)
            for i in range(len(r) - n + 1):
                left[" ".join(r[i : i + n])] += 1
            for i in range(len(h) - n + 1):
                everything += 1
                if left[" ".join(h[i : i + n])] > 0:
                    left[" ".join(h[i : i + n])] -= 1
                    good += 1
        product *= good / everything if everything else 0.0
    c, r = sum(len(h) for h in hypotheses), sum(len(r) for r in references)
    bp = 1.0 if c > r else math.exp(1 - r / c)
    return 100 * bp * product**0.25


def bleu_zip(hypotheses, references):
    precisions = []
    for n in range(1, 5):
        pairs = [[Counter(zip(*(s[i:] for i in range(n)))) for s in pair]
                 for pair in zip(hypotheses, references)]
        good = sum(min(k, r[g]) for h, r in pairs for g, k in h.items())
        precisions.append(good / max(1, sum(sum(h.values()) for h, _ in pairs)))
    if min(precisions) == 0:
        return 0.0
    ratio = sum(map(len, references)) / sum(map(len, hypotheses))
    return 100.0 * min(1.0, math.exp(1.0 - ratio)) * math.prod(precisions) ** (1 / 4)


def bleu(matches=lambda h, r: (h & r).total(), totals=lambda h, r: h.total(), longest=4,
         brevity=lambda c, r: min(1.0, math.exp(1 - r / c)), scale=100, plus=0,
         mean=lambda p: math.prod(p) ** (1 / len(p)), safe=True):
    """A BLEU with one step replaced."""

    def bleu(hypotheses, references):
        precisions = []
        for n in range(1, longest + 1):
            pairs = [(grams(h, n), grams(r, n)) for h, r in zip(hypotheses, references)]
            good = sum(matches(h, r) for h, r in pairs) + plus
            precisions.append(good / (sum(totals(h, r) for h, r in pairs) + plus))
        if safe and min(precisions) == 0:
            return 0.0
        c, r = sum(map(len, hypotheses)), sum(map(len, references))
        return scale * brevity(c, r) * mean(precisions)

    return bleu


def by_sentence(hypotheses, references):
    return sum(bleu_plain([h], [r]) for h, r in zip(hypotheses, references)) / len(references)


def penalty_by_sentence(hypotheses, references):
    pairs = list(zip(hypotheses, references))
    factors = [min(1.0, math.exp(1 - len(r) / len(h))) if h else 0.0 for h, r in pairs]
    return bleu(brevity=lambda c, r: sum(factors) / len(factors))(hypotheses, references)


def precisions_by_sentence(hypotheses, references):
    precisions = []
    for n in range(1, 5):
        each = []
        for h, r in zip(hypotheses, references):
            found = grams(h, n)
            each.append((found & grams(r, n)).total() / found.total() if found else 0.0)
        precisions.append(sum(each) / len(each))
    c, r = sum(map(len, hypotheses)), sum(map(len, references))
    return 100 * min(1, math.exp(1 - r / c)) * math.prod(precisions) ** 0.25


def below_zero(hypotheses, references):
    total = [sum(len(h) - n for h in hypotheses) for n in range(4)]
    pairs = list(zip(hypotheses, references))
    matched = [sum((grams(h, n) & grams(r, n)).total() for h, r in pairs) for n in range(1, 5)]
    if not all(matched):
        return 0.0
    c, r = sum(map(len, hypotheses)), sum(map(len, references))
    root = math.prod(m / t for m, t in zip(matched, total)) ** 0.25
    return 100 * min(1, math.exp(1 - r / c)) * root


def joined(hypotheses, references):
    return bleu_plain([sum(hypotheses, [])], [sum(references, [])])


def ready(hypotheses, references):
    texts = [" ".join(h) for h in hypotheses], [" ".join(r) for r in references]
    return sacrebleu.corpus_bleu(texts[0], [texts[1]], tokenize="none").score


def rewritten(change):
    """BLEU of other tokens."""
    return lambda h, r: bleu_plain(*([[change(t) for t in s] for s in side] for side in (h, r)))


def glued(hypotheses, references):
    matched, total = [0] * 4, [0] * 4
    for h, r in zip(hypotheses, references):
        for n in range(1, 5):
            found, wanted = (
                Counter("".join(s[i : i + n]) for i in range(len(s) - n + 1)) for s in (h, r)
            )
            matched[n - 1] += (found & wanted).total()
            total[n - 1] += found.total()
    if not all(matched):
        return 0
    c, r = sum(map(len, hypotheses)), sum(map(len, references))
    root = math.prod(m / t for m, t in zip(matched, total)) ** 0.25
    return 100 * min(1, math.exp(1 - r / c)) * root


def words_for_all(hypotheses, references):
    words = sum(map(len, hypotheses))
    return bleu(mean=lambda p: (math.prod(p) * math.prod(
        sum(max(0, len(h) - n) for h in hypotheses) / words for n in range(4))) ** 0.25,
    )(hypotheses, references)


BLEU_WRONG = {
    "glued": (glued, "without a space"),
    "lower case": (rewritten(str.lower), "'The' and 'the'"),
    "exchanged": (lambda h, r: bleu_plain(r, h), "have changed places"),
    "exp(-r / c)": (bleu(brevity=lambda c, r: min(1, math.exp(-r / c))), "1 for equal lengths"),
    "all words": (words_for_all, "number of words for every n"),
    "mean of sentences": (by_sentence, "mean of the sentences' BLEUs"),
    "no clipping": (bleu(matches=lambda h, r: sum(k for g, k in h.items() if g in r)),
                    "do not clip"),
    "sets": (bleu(matches=lambda h, r: len(h.keys() & r.keys()), totals=lambda h, r: len(h)),
             "compare sets"),
    "no brevity": (bleu(brevity=lambda c, r: 1), "brevity penalty is missing"),
    "brevity by sentence": (penalty_by_sentence, "penalty for each sentence"),
    "brevity upside down": (bleu(brevity=lambda c, r: min(1, math.exp(1 - c / r))), "upside down"),
    "brevity without min": (bleu(brevity=lambda c, r: math.exp(1 - r / c)), "never above 1"),
    "brevity c / r": (bleu(brevity=lambda c, r: min(1, c / r)), "is c / r"),
    "arithmetic": (bleu(mean=lambda p: sum(p) / len(p), safe=False), "arithmetic"),
    "product": (bleu(mean=math.prod), "fourth root is missing"),
    "recall": (bleu(totals=lambda h, r: r.total()), "which is recall"),
    "recall, no brevity": (bleu(totals=lambda h, r: r.total(), brevity=lambda c, r: 1), "recall"),
    "from 0 to 1": (bleu(scale=1), "0 to 1"),
    "bigrams": (bleu(longest=2), "1 and 2 words"),
    "single words": (bleu(longest=1), "single words only"),
    "range(1, 4)": (bleu(longest=3), "up to 3"),
    "five": (bleu(longest=5), "up to 5"),
    "smoothed": (bleu(plus=1), "smooth"),
    "precisions by sentence": (precisions_by_sentence, "sentences' precisions"),
    "one text": (joined, "join the sentences"),
    "below zero": (below_zero, "below"),
    "log of 0": (
        bleu(mean=lambda p: math.exp(sum(map(math.log, p)) / 4), safe=False),
        "ValueError.*before you take its logarithm"),
    "sacrebleu": (ready, "ready-made"),
    "a constant": (lambda h, r: 50.0, "should be"),
    "a tensor of one": (lambda h, r: None, "should be a number"),
    "emptied": (lambda h, r: [bleu_plain(h, r), h.clear()][0], "in place"),
    "mean and from 0 to 1": (
        lambda h, r: by_sentence(h, r) / 100, "0 to 1"),
}


@pytest.mark.parametrize("style", [bleu_plain, bleu_loops, bleu_zip])
def test_bleu_accepts(style):
    accepted("bleu", style)


@pytest.mark.parametrize("mistake", BLEU_WRONG)
def test_bleu_rejects(mistake: str):
    rejected("bleu", *BLEU_WRONG[mistake])


@pytest.mark.parametrize(
    "name, style",
    [("greedy_decode", greedy_plain), ("greedy_decode", greedy_tensor), ("beam_search", beam_lists),
     ("beam_search", beam_in_place), ("beam_search", beam_copies), ("bleu", bleu_loops)],
)
def test_accepts_where_float64_is_the_default(name: str, style):
    torch.set_default_dtype(torch.float64)
    try:
        accepted(name, style)
    finally:
        torch.set_default_dtype(torch.float32)
