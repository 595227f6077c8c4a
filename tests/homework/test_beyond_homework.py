"""The checks of the assignment beyond, against candidates that make learners' mistakes."""

import math
import re
from collections import Counter

import pytest
import torch
from bank import accepted, cutters, rejected

# ---------------------------------------------------------------------------------- rotary


def rotary_pairs(x, positions):
    i = torch.arange(0, x.size(-1), 2, dtype=torch.float64)
    angle = positions[:, None].double() / 10_000 ** (i / x.size(-1))
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


def rotary_complex(x, positions):
    d = x.size(-1)
    frequency = 10_000.0 ** (-torch.arange(d // 2, dtype=torch.float64) * 2 / d)
    turn = torch.polar(torch.ones(len(positions), d // 2).double(), positions[:, None] * frequency)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turn.to(pairs.dtype)).flatten(-2)


def rotary_loop(x, positions):
    d, columns = x.size(-1), []
    for i in range(d // 2):
        a = [float(p) * 10_000 ** (-2 * i / d) for p in positions]
        cos = torch.tensor([math.cos(v) for v in a], dtype=x.dtype)
        sin = torch.tensor([math.sin(v) for v in a], dtype=x.dtype)
        columns += [x[..., 2 * i] * cos - x[..., 2 * i + 1] * sin,
                    x[..., 2 * i] * sin + x[..., 2 * i + 1] * cos]
    return torch.stack(columns, dim=-1)


def halves(x, positions):
    first, second = x.chunk(2, -1)
    together = torch.stack([first, second], -1).flatten(-2)
    turned = rotary_pairs(together, positions)
    return torch.cat([turned[..., ::2], turned[..., 1::2]], -1)


ROTARY_WRONG = {
    "halves": (halves, r"number i with number i \+ Dk/2"),
    "other way": (lambda x, p: rotary_pairs(x, -p), "other way round"),
    "adds": (lambda x, p: x + rotary_pairs(torch.ones_like(x), p) * 0 + torch.stack(
        [(a := p[:, None].double() / 10_000 ** (torch.arange(0, x.size(-1), 2) / x.size(-1))
          ).sin(), a.cos()], -1).flatten(-2).to(x.dtype), "nothing is added"),
    "counts itself": (lambda x, p: rotary_pairs(x, torch.arange(x.size(-2))), "count the places"),
    "one speed": (lambda x, p: rotary_pairs(x.unflatten(-1, (-1, 2)).movedim(-2, 0), p)
                  .movedim(0, -2).flatten(-2), "equally fast"),
    "numbers, not pairs": (
        lambda x, p: torch.stack([
            x[..., ::2] * (a := (p[:, None] * 10_000.0 ** (
                -torch.arange(x.size(-1) // 2).double() / x.size(-1))).to(x.dtype)).cos()
            - x[..., 1::2] * a.sin(), x[..., ::2] * a.sin() + x[..., 1::2] * a.cos()], -1
        ).flatten(-2), "exponent counts numbers"),
    "only cosine": (lambda x, p: rotary_pairs(x, p) / 2 + rotary_pairs(x, -p) / 2, "stretch"),
    "as it came": (lambda x, p: x, "argument 1 as it came"),
    "heads": (lambda x, p: rotary_pairs(x.transpose(1, 2), torch.arange(x.size(1))).transpose(
        1, 2), "count heads|argument 1"),
    "longer": (lambda x, p: 1.5 * rotary_pairs(x, p), "keeps its length"),
    "float32": (lambda x, p: rotary_pairs(x.float(), p), "float64"),
}


@pytest.mark.parametrize("style", [rotary_pairs, rotary_complex, rotary_loop])
def test_rotary_accepts(style):
    accepted("rotary", style)


@pytest.mark.parametrize("mistake", ROTARY_WRONG)
def test_rotary_rejects(mistake):
    rejected("rotary", *ROTARY_WRONG[mistake])


@pytest.mark.parametrize("how", cutters(rotary_pairs))
def test_rotary_wants_gradients(how):
    rejected("rotary", *cutters(rotary_pairs)[how])


def test_rotary_knows_only_distances():
    q, k = torch.randn(2, 1, 1, 1, 8).double()
    scores = [(rotary_pairs(q, torch.tensor([a])) * rotary_pairs(k, torch.tensor([b]))).sum()
              for a, b in ((3, 7), (20, 24))]
    assert torch.allclose(*scores)


# ----------------------------------------------------------------------------------- ALiBi


def alibi_table(n_heads, length):
    i = torch.arange(length)
    slopes = 2.0 ** (-8 * torch.arange(1, n_heads + 1) / n_heads)
    return -slopes[:, None, None] * (i[:, None] - i).abs()


def alibi_loops(n_heads, length):
    return torch.tensor([[[-(2 ** (-8 * h / n_heads)) * abs(i - j) for j in range(length)]
                          for i in range(length)] for h in range(1, n_heads + 1)])


def alibi_cdist(n_heads, length):
    place = torch.arange(length).float()[:, None]
    distance = torch.cdist(place, place, p=1)
    return torch.stack([-distance / 2 ** (8 * h / n_heads) for h in range(1, n_heads + 1)])


ALIBI_WRONG = {
    "rewards": (lambda h, n: -alibi_table(h, n), "rewards distance"),
    "from 0": (lambda h, n: alibi_table(h, n) * 2 ** (8 / h), "count heads from 0"),
    "signed": (lambda h, n: -(2.0 ** (-8 * torch.arange(1, h + 1) / h))[:, None, None]
               * (torch.arange(n) - torch.arange(n)[:, None]), "with its sign"),
    "squared": (lambda h, n: alibi_table(h, n) * (torch.arange(n)[:, None] - torch.arange(n)).abs(),
                "square the distance"),
    "one slope": (lambda h, n: alibi_table(1, n).repeat(h, 1, 1) * 2**7, "same slope"),
    "any H": (lambda h, n: -(2.0 ** -torch.arange(1, h + 1))[:, None, None]
              * (torch.arange(n)[:, None] - torch.arange(n)).abs(), "whatever H is"),
    "causal": (lambda h, n: alibi_table(h, n).masked_fill(
        torch.ones(n, n).triu(1).bool(), -math.inf), "causal mask's task"),
    "batch axis": (lambda h, n: alibi_table(h, n)[None], "shape"),
    "integers": (lambda h, n: alibi_table(h, n).long(), "int64|whole|type"),
}


@pytest.mark.parametrize("style", [alibi_table, alibi_loops, alibi_cdist])
def test_alibi_accepts(style):
    accepted("alibi_bias", style)


@pytest.mark.parametrize("mistake", ALIBI_WRONG)
def test_alibi_rejects(mistake):
    rejected("alibi_bias", *ALIBI_WRONG[mistake])


# --------------------------------------------------------------------------------- nucleus


def nucleus_sorted(log_probs, top_p):
    ordered, order = log_probs.sort(dim=-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    ordered = ordered.masked_fill(before >= top_p, -math.inf)
    return torch.full_like(log_probs, -math.inf).scatter(-1, order, ordered).log_softmax(-1)


def nucleus_loops(log_probs, top_p):
    rows = []
    for row in log_probs.reshape(-1, log_probs.size(-1)).tolist():
        left, total = [], 0.0
        for i in sorted(range(len(row)), key=lambda i: -row[i]):
            if total >= top_p:
                break
            left.append(i)
            total += math.exp(row[i])
        rows.append([row[i] - math.log(total) if i in left else -math.inf
                     for i in range(len(row))])
    return torch.tensor(rows).reshape(log_probs.shape)


def nucleus_threshold(log_probs, top_p):
    p = log_probs.exp()
    above = (p[..., None, :] * (p[..., None, :] > p[..., :, None])).sum(-1)
    kept = torch.where(above < top_p, p, 0)
    return (kept / kept.sum(-1, keepdim=True)).log()


def cut_before(log_probs, top_p):
    ordered, order = log_probs.sort(dim=-1, descending=True)
    ordered = ordered.masked_fill(ordered.exp().cumsum(-1) > top_p, -math.inf)
    result = torch.full_like(log_probs, -math.inf).scatter(-1, order, ordered)
    return result - result.logsumexp(-1, keepdim=True)


def raw(log_probs, top_p):
    return log_probs.masked_fill(nucleus_sorted(log_probs, top_p).isinf(), -math.inf)


NUCLEUS_WRONG = {
    "crossing word out": (cut_before, "crosses top_p"),
    "not renormalised": (raw, "do not renormalise"),
    "probabilities": (lambda x, p: nucleus_sorted(x, p).exp(), "return probabilities"),
    "zeros": (lambda x, p: (n := nucleus_sorted(x, p)).masked_fill(n.isinf(), 0), "is -inf"),
    "each alone": (lambda x, p: x.masked_fill(x.exp() < p, -math.inf).log_softmax(-1),
                   "each probability (with top_p|alone)"),
    "sorted": (lambda x, p: nucleus_sorted(x, p).sort(descending=True).values, "come out sorted"),
    "from below": (lambda x, p: (lambda o, i: torch.full_like(x, -math.inf).scatter(
        -1, i, o.masked_fill(o.exp().cumsum(-1) - o.exp() >= p, -math.inf)).log_softmax(-1))(
        *x.sort(dim=-1)), "least likely"),
    "everything": (lambda x, p: x, "as it came"),
    "two best": (lambda x, p: x.masked_fill(x < x.topk(2).values[..., -1:], -math.inf)
                 .log_softmax(-1), ""),
}


@pytest.mark.parametrize("style", [nucleus_sorted, nucleus_loops, nucleus_threshold])
def test_nucleus_accepts(style):
    accepted("nucleus", style)


@pytest.mark.parametrize("mistake", NUCLEUS_WRONG)
def test_nucleus_rejects(mistake):
    rejected("nucleus", *NUCLEUS_WRONG[mistake])


# --------------------------------------------------------------------------- kv_cache_step


def cached(x, cache, w_q, w_k, w_v):
    keys, values = x @ w_k, x @ w_v
    if cache is not None:
        keys, values = torch.cat([cache[0], keys], 1), torch.cat([cache[1], values], 1)
    weights = (x @ w_q @ keys.transpose(1, 2) / x.size(-1) ** 0.5).softmax(-1)
    return weights @ values, (keys, values)


def cached_einsum(x, cache, w_q, w_k, w_v):
    new = [torch.einsum("bld,de->ble", x, w) for w in (w_k, w_v)]
    keys, values = new if cache is None else (torch.cat(p, 1) for p in zip(cache, new))
    scores = torch.einsum("bqd,de,bke->bqk", x, w_q, keys) / math.sqrt(w_q.size(1))
    return torch.einsum("bqk,bkd->bqd", scores.exp() / scores.exp().sum(-1, True), values), (
        keys, values)


def cached_one_by_one(x, cache, w_q, w_k, w_v):
    outputs, caches = [], []
    for n in range(len(x)):
        part = None if cache is None else (cache[0][n : n + 1], cache[1][n : n + 1])
        output, new = cached(x[n : n + 1], part, w_q, w_k, w_v)
        outputs.append(output)
        caches.append(new)
    return torch.cat(outputs), tuple(torch.cat(parts) for parts in zip(*caches))


def cached_but(**changes):
    """A step with something else in one place: scale, join, seen, kept, over."""
    def step(x, cache, w_q, w_k, w_v):
        new = x @ w_k, x @ w_v
        join = changes.get("join", lambda old, new: torch.cat([old, new], 1))
        full = new if cache is None else tuple(map(join, cache, new))
        seen = full if cache is None else changes.get("seen", lambda f: f)(full)
        scores = x @ w_q @ seen[0].mT * changes.get("scale", lambda d, t: d**-0.5)(
            x.size(-1), full[0].size(1))
        kept = changes.get("kept", lambda cache, full: full)(cache, full)
        return scores.softmax(changes.get("over", -1)) @ seen[1], kept

    return step


CACHE_WRONG = {
    "no scale": (cached_but(scale=lambda d, t: 1), "do not divide"),
    "scale by D": (cached_but(scale=lambda d, t: 1 / d), "divide by D"),
    "scale by words": (cached_but(scale=lambda d, t: t**-0.5), "number of words"),
    "in front": (cached_but(join=lambda old, new: torch.cat([new, old], 1)), "in front"),
    "lost": (cached_but(kept=lambda cache, full: cache or full), "return the old cache"),
    "not itself": (cached_but(seen=lambda f: (f[0][:, :-1], f[1][:, :-1])), "does not see itself"),
    "swapped": (cached_but(kept=lambda cache, full: full[::-1]), "exchanged"),
    "forgets": (lambda x, cache, *w: cached(x, None, *w), "forget what stands|shape"),
    "from the left": (lambda x, c, *w: cached(x, c, *(m.mT for m in w)), "transpose"),
    "over queries": (cached_but(over=1), "runs over the queries"),
    "output only": (lambda *a: cached(*a)[0], "tuple|pair|tensor"),
}


@pytest.mark.parametrize("style", [cached, cached_einsum, cached_one_by_one])
def test_cache_accepts(style):
    accepted("kv_cache_step", style)


@pytest.mark.parametrize("mistake", CACHE_WRONG)
def test_cache_rejects(mistake):
    rejected("kv_cache_step", *CACHE_WRONG[mistake])


def test_cache_wants_gradients():
    def detached(*args):
        output, cache = cached(*args)
        return output.detach(), cache

    rejected("kv_cache_step", detached, r"\.detach\(\) cuts")


# ------------------------------------------------------------------------------- linearise


def linear_find(tree):
    symbols, opened = [], []
    for token in re.findall(r"\([^\s()]+ [^\s()]+\)|\([^\s()]+|\)", tree):
        if token == ")":
            symbols.append(")" + opened.pop())
        elif token.endswith(")"):
            symbols.append("XX")
        else:
            opened.append(token[1:])
            symbols.append(token)
    return symbols


def linear_letters(tree):
    symbols, stack, i = [], [], 0
    while i < len(tree):
        if tree[i] == "(":
            end = i + 1
            while tree[end] not in " ()":
                end += 1
            label, rest = tree[i + 1:end], tree[end:].lstrip()
            if rest.startswith("("):
                symbols.append("(" + label)
                stack.append(label)
            else:
                symbols.append("XX")
                stack.append(None)
            i = end
        elif tree[i] == ")":
            label = stack.pop()
            symbols += [")" + label] if label else []
            i += 1
        else:
            i += 1
    return symbols


def linear_recursive(tree):
    tokens = tree.replace("(", " ( ").replace(")", " ) ").split()

    def read(at):
        label = tokens[at + 1]
        if tokens[at + 2] != "(":
            return ["XX"], at + 4
        found, at = ["(" + label], at + 2
        while tokens[at] == "(":
            more, at = read(at)
            found += more
        return [*found, ")" + label], at + 1

    return read(0)[0]


def relinearised(change):
    return lambda tree: [new for symbol in linear_find(tree) for new in change(symbol)]


LINEAR_WRONG = {
    "no labels at the end": (relinearised(lambda s: [")"] if s[0] == ")" else [s]),
                             "carries its label"),
    "label first": (relinearised(lambda s: [s[1:] + ")"] if s[0] == ")" else [s]), "not NP"),
    "no words": (relinearised(lambda s: [] if s == "XX" else [s]), "leave out the words"),
    "never closes": (relinearised(lambda s: [] if s[0] == ")" else [s]), "never close"),
    "two symbols": (relinearised(lambda s: ["(", s[1:]] if s[0] == "(" else [s]), "one symbol"),
    "words": (lambda tree: [re.sub(r"\(\S+ (\S+)\)", r"\1", s) for s in with_leaves(tree)],
              "keep the words"),
    "tags": (lambda tree: [re.sub(r"\((\S+) \S+\)", r"\1", s) for s in with_leaves(tree)],
             "keep the tags"),
    "a text": (lambda tree: " ".join(linear_find(tree)), "one text"),
    "brackets for tags": (lambda tree: [part for s in with_leaves(tree) for part in (
        [f"({s[1:].split()[0]}", "XX", f"){s[1:].split()[0]}"] if " " in s else [s])],
        "tag as a phrase"),
}


def with_leaves(tree):
    leaves = iter(re.findall(r"\([^\s()]+ [^\s()]+\)", tree))
    return [next(leaves) if symbol == "XX" else symbol for symbol in linear_find(tree)]


@pytest.mark.parametrize("style", [linear_find, linear_letters, linear_recursive])
def test_linearise_accepts(style):
    accepted("linearise", style)


@pytest.mark.parametrize("mistake", LINEAR_WRONG)
def test_linearise_rejects(mistake):
    rejected("linearise", *LINEAR_WRONG[mistake])


# ------------------------------------------------------------------------------ bracket_f1


def f1_counters(predicted, gold):
    right = sum((Counter(p) & Counter(g)).total() for p, g in zip(predicted, gold))
    return 100 * 2 * right / max(1, sum(map(len, predicted)) + sum(map(len, gold)))


def f1_removing(predicted, gold):
    right = said = true = 0
    for ours, theirs in zip(predicted, gold):
        left = list(theirs)
        for bracket in ours:
            if bracket in left:
                left.remove(bracket)
                right += 1
        said, true = said + len(ours), true + len(theirs)
    precision, recall = right / said if said else 0, right / true if true else 0
    return 200 * precision * recall / (precision + recall) if right else 0.0


def f1_numbered(predicted, gold):
    def keys(trees):
        found = set()
        for n, tree in enumerate(trees):
            seen = Counter()
            for bracket in tree:
                seen[bracket] += 1
                found.add((n, bracket, seen[bracket]))
        return found

    ours, theirs = keys(predicted), keys(gold)
    return 200 * len(ours & theirs) / (len(ours) + len(theirs))


def on_sets(predicted, gold):
    return f1_counters([set(p) for p in predicted], [set(g) for g in gold])


F1_WRONG = {
    "a share": (lambda p, g: f1_counters(p, g) / 100, "in percent"),
    "precision": (lambda p, g: 100 * sum((Counter(a) & Counter(b)).total() for a, b in zip(p, g))
                  / max(1, sum(map(len, p))), "precision only"),
    "recall": (lambda p, g: 100 * sum((Counter(a) & Counter(b)).total() for a, b in zip(p, g))
               / sum(map(len, g)), "recall only"),
    "no labels": (lambda p, g: f1_counters([[b[1:] for b in t] for t in p],
                                           [[b[1:] for b in t] for t in g]), "ignore the labels"),
    "labels only": (lambda p, g: f1_counters([[b[0] for b in t] for t in p],
                                             [[b[0] for b in t] for t in g]), "where a bracket"),
    "sets": (on_sets, "twice counts twice"),
    "means": (lambda p, g: sum(f1_counters([a], [b]) for a, b in zip(p, g)) / len(p),
              "mean over sentences"),
    "pooled": (lambda p, g: f1_counters([sum(p, [])], [sum(g, [])]), "across sentences"),
    "in order": (lambda p, g: 200 * sum(a == b for x, y in zip(p, g) for a, b in zip(x, y))
                 / (sum(map(len, p)) + sum(map(len, g))), "place by place"),
    "divides by zero": (lambda p, g: f1_counters(p, g) if any(p) else 1 / 0, "can be 0"),
}


@pytest.mark.parametrize("style", [f1_counters, f1_removing, f1_numbered])
def test_f1_accepts(style):
    accepted("bracket_f1", style)


@pytest.mark.parametrize("mistake", F1_WRONG)
def test_f1_rejects(mistake):
    rejected("bracket_f1", *F1_WRONG[mistake])
