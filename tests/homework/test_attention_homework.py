"""The checks of the assignment attention, against candidates that make learners' mistakes."""

import math

import pytest
import torch
from bank import accepted, rejected
from torch import nn

SOFTMAX_RIGHT = {
    "shifted": lambda x, dim: (e := (x - x.amax(dim, True)).exp()) / e.sum(dim, True),
    "by logsumexp": lambda x, dim: (x - x.logsumexp(dim, keepdim=True)).exp(),
    "moved to the end": lambda x, dim: plain_rows(x.movedim(dim, -1)).movedim(-1, dim),
}


def plain_rows(x):
    rows = []
    for row in x.reshape(-1, x.size(-1)):
        e = torch.exp(row - max(row.tolist()))
        rows.append(e / sum(e))
    return torch.stack(rows).reshape(x.shape)


def in_place_softmax(x, dim):
    x -= x.amax(dim, keepdim=True)
    return x.exp() / x.exp().sum(dim, keepdim=True)


SOFTMAX_WRONG = {
    "unstable": (lambda x, dim: x.exp() / x.exp().sum(dim, keepdim=True), "exp overflows"),
    "sum of everything": (lambda x, dim: x.exp() / x.exp().sum(), "sum of everything"),
    "always the last": (lambda x, dim: SOFTMAX_RIGHT["shifted"](x, -1), "last dimension"),
    "special": (lambda x, dim: torch.special.softmax(x, dim), "ready-made"),
    "special log": (lambda x, dim: torch.special.log_softmax(x, dim).exp(), "ready-made"),
    "clamped": (
        lambda x, dim: SOFTMAX_RIGHT["shifted"]((x - x.amax(dim, True)).clamp(min=-10), dim),
        "below the other: the weights: wrong values|10,000: the weights: wrong values"),
    "no exp": (lambda x, dim: x / x.sum(dim, keepdim=True), "forgot exp"),
    "no keepdim": (lambda x, dim: x.exp() / x.exp().sum(dim), "raises|wrong values"),
    "global maximum": (
        lambda x, dim: (e := (x - x.max()).exp()) / e.sum(dim, keepdim=True), "whole tensor"),
    "through float32": (
        lambda x, dim: SOFTMAX_RIGHT["shifted"](x.float(), dim).to(x.dtype), "float32"),
    "in place": (in_place_softmax, "in place"),
    "torch's": (lambda x, dim: x.softmax(dim), "ready-made"),
    "torch's own operator": (lambda x, dim: torch.ops.aten.softmax.int(x, dim), "ready-made"),
    "by the logarithm": (lambda x, dim: x.log_softmax(dim).exp(), "ready-made"),
    "its input": (lambda x, dim: x, "as it came"),
    "a constant": (lambda x, dim: torch.full_like(x, 1 / x.size(dim)), "does not depend"),
}


@pytest.mark.parametrize("style", SOFTMAX_RIGHT)
def test_softmax_accepts(style: str):
    accepted("softmax", SOFTMAX_RIGHT[style])


@pytest.mark.parametrize("mistake", SOFTMAX_WRONG)
def test_softmax_rejects(mistake: str):
    rejected("softmax", *SOFTMAX_WRONG[mistake])


def sdpa(query, key, value, mask=None):
    scores = query @ key.mT / math.sqrt(query.size(-1))
    weights = scores.softmax(-1) if mask is None else masked(scores, mask)
    return weights @ value, weights


def masked(scores, mask):
    return scores.masked_fill(~mask, -math.inf).softmax(-1).masked_fill(~mask, 0)


def sdpa_einsum(query, key, value, mask=None):
    scores = torch.einsum("...qd,...kd->...qk", query, key) * query.shape[-1] ** -0.5
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    if mask is not None:
        weights = torch.where(mask, weights, torch.zeros_like(weights))
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-30)
    return torch.einsum("...qk,...kd->...qd", weights, value), weights


def sdpa_added(query, key, value, mask=None):
    scores = query @ key.transpose(-1, -2) / query.size(-1) ** 0.5
    if mask is None:
        weights = torch.softmax(scores, -1)
    else:
        weights = torch.softmax(scores + (~mask) * -1e9, -1) * mask
    return [torch.matmul(weights, value), weights]


def sdpa_with(change, **replaced):
    """A right attention with one line changed by eval: quick to write, easy to read."""

    def attend(query, key, value, mask=None):
        lines = {
            "scores": "query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))",
            "masked": "scores.masked_fill(~mask, -math.inf)",
            "weights": "scores.softmax(-1)",
            "finished": "weights if mask is None else weights.masked_fill(~mask, 0)",
            "result": "(weights @ value, weights)",
        } | replaced
        names = dict(query=query, key=key, value=value, mask=mask, math=math, torch=torch)
        names["scores"] = eval(lines["scores"], names)
        if mask is not None:
            names["scores"] = eval(lines["masked"], names)
        names["weights"] = eval(lines["weights"], names)
        names["weights"] = eval(lines["finished"], names)
        return eval(lines["result"], names)

    return attend, change


SDPA_WRONG = {
    "no scale": sdpa_with("scale is missing", scores="query @ key.transpose(-2, -1)"),
    "scale d_k": sdpa_with("divide by d_k", scores="query @ key.mT / query.size(-1)"),
    "scale by keys": sdpa_with("number of keys", scores="query @ key.mT / key.size(-2) ** .5"),
    "over queries": sdpa_with("over the queries", weights="scores.softmax(-2)"),
    "key times query": sdpa_with("key times query", scores="key @ query.mT / query.size(-1)**.5"),
    "no scale, over queries": sdpa_with(
        "over the queries", scores="query @ key.mT", weights="scores.softmax(-2)"),
    "NaN in the weights alone": sdpa_with(
        "NaN", finished="weights", result="((weights.nan_to_num() @ value), weights)"),
    "a smaller fill": sdpa_with("same large negative", finished="weights",
                                masked="scores.masked_fill(~mask, -100)"),
    "inverted": sdpa_with("inverted", masked="scores.masked_fill(mask, -math.inf)"),
    "inverted, big": sdpa_with("inverted", masked="scores.masked_fill(mask, -1e9)"),
    "added": sdpa_with("add the mask", masked="scores + mask.float()",
                       finished="weights"),
    "multiplied": sdpa_with("multiply the scores", masked="scores * mask", finished="weights"),
    "after the softmax": sdpa_with("mask after", masked="scores"),
    "ignored": sdpa_with("ignore the mask", masked="scores", finished="weights"),
    "NaN": sdpa_with("NaN", finished="weights"),
    "uniform": sdpa_with("alike", masked="scores.masked_fill(~mask, -1e9)", finished="weights"),
    "no softmax": sdpa_with("softmax is missing", weights="scores", finished="weights"),
    "batch of one": sdpa_with("first sentence", scores="query @ key[:1].mT / query.size(-1)**.5"),
    "square only": sdpa_with("Q = K", scores="(query @ key.mT / query.size(-1)**.5).reshape("
                             "query.size(0), *query.shape[1:-1], query.size(-2))"),
    "swapped": sdpa_with("the order is", result="(weights, weights @ value)"),
    "output alone": sdpa_with("you return a tensor", result="weights @ value"),
    "unscaled and inverted": sdpa_with("forbids|scale", scores="query @ key.mT",
                                       masked="scores.masked_fill(mask, -1e9)"),
    "through float32": sdpa_with(
        "float32", scores="(query.float() @ key.float().mT / query.size(-1)**.5).to(query.dtype)"),
    "torch's": (
        lambda q, k, v, mask=None: (nn.functional.scaled_dot_product_attention(q, k, v), 0),
        "ready-made"),
}


@pytest.mark.parametrize("style", [sdpa, sdpa_einsum, sdpa_added])
def test_sdpa_accepts(style):
    accepted("scaled_dot_product_attention", style)


@pytest.mark.parametrize("mistake", SDPA_WRONG)
def test_sdpa_rejects(mistake: str):
    rejected("scaled_dot_product_attention", *SDPA_WRONG[mistake])


SPLIT_RIGHT = {
    "unflatten": lambda x, n: x.unflatten(-1, (n, -1)).transpose(1, 2),
    "view": lambda x, n: x.contiguous().view(*x.shape[:2], n, x.size(2) // n).permute(0, 2, 1, 3),
    "slices": lambda x, n: torch.stack(
        [x[..., i * (d := x.size(-1) // n) : (i + 1) * d] for i in range(n)], 1),
}
SPLIT_WRONG = {
    "reshape": (lambda x, n: x.reshape(x.size(0), n, x.size(1), -1), "keep their order in memory"),
    "always two heads": (lambda x, n: SPLIT_RIGHT["unflatten"](x, 2), "do not use n_heads"),
    "every H-th": (lambda x, n: x.unflatten(-1, (-1, n)).permute(0, 3, 1, 2), "every H-th"),
    "no transpose": (lambda x, n: x.unflatten(-1, (n, -1)), "exchange dimensions"),
    "heads first": (lambda x, n: torch.stack(x.chunk(n, -1)), "heads come before"),
    "batch of one": (
        lambda x, n: x[0].unflatten(-1, (n, -1)).transpose(0, 1)[None], "batch"),
    "squeezed": (lambda x, n: SPLIT_RIGHT["unflatten"](x, n).squeeze(1), "squeeze"),
}
MERGE_RIGHT = {
    "flatten": lambda x: x.transpose(1, 2).flatten(-2),
    "reshape": lambda x: x.permute(0, 2, 1, 3).reshape(x.size(0), x.size(2), -1),
    "cat": lambda x: torch.cat(list(x.unbind(1)), -1),
}
MERGE_WRONG = {
    "reshape": (lambda x: x.reshape(x.size(0), x.size(2), -1), "mixes several words"),
    "alternate": (lambda x: x.permute(0, 2, 3, 1).flatten(-2), "alternate"),
    "sum": (lambda x: x.sum(1), "add the heads"),
    "mean": (lambda x: x.mean(1), "average"),
    "view": (lambda x: x.transpose(1, 2).view(x.size(0), x.size(2), -1), "raises RuntimeError"),
    "not joined": (lambda x: x.transpose(1, 2), "do not join"),
    "squeezed": (lambda x: x.transpose(1, 2).flatten(-2).squeeze(1), "squeeze"),
}


@pytest.mark.parametrize("style", SPLIT_RIGHT)
def test_split_heads_accepts(style: str):
    accepted("split_heads", SPLIT_RIGHT[style])


@pytest.mark.parametrize("mistake", SPLIT_WRONG)
def test_split_heads_rejects(mistake: str):
    rejected("split_heads", *SPLIT_WRONG[mistake])


@pytest.mark.parametrize("style", MERGE_RIGHT)
def test_merge_heads_accepts(style: str):
    accepted("merge_heads", MERGE_RIGHT[style])


@pytest.mark.parametrize("mistake", MERGE_WRONG)
def test_merge_heads_rejects(mistake: str):
    rejected("merge_heads", *MERGE_WRONG[mistake])


class MultiHead(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.w_q, self.w_k, self.w_v, self.w_o = (nn.Linear(d_model, d_model) for _ in range(4))

    cut = staticmethod(SPLIT_RIGHT["unflatten"])
    join = staticmethod(MERGE_RIGHT["flatten"])
    attend = staticmethod(lambda q, k, v, mask: sdpa(q, k, v, mask)[0])

    def forward(self, query, key, value, mask=None):
        parts = ((self.w_q, query), (self.w_k, key), (self.w_v, value))
        q, k, v = (self.cut(w(x), self.n_heads) for w, x in parts)
        return self.w_o(self.join(self.attend(q, k, v, mask)))


class WithoutBias(MultiHead):
    def __init__(self, d_model, n_heads):
        super().__init__(d_model, n_heads)
        for name in ("w_q", "w_k", "w_v", "w_o"):
            setattr(self, name, nn.Linear(d_model, d_model, bias=False))

    def forward(self, query, key, value, mask=None):
        heads = []
        d_k = query.size(-1) // self.n_heads
        for i in range(self.n_heads):
            s = slice(i * d_k, (i + 1) * d_k)
            q, k, v = self.w_q(query)[..., s], self.w_k(key)[..., s], self.w_v(value)[..., s]
            heads.append(sdpa(q, k, v, None if mask is None else mask[:, 0])[0])
        return self.w_o(torch.cat(heads, -1)), None


class Matrices(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        for name in ("w_q", "w_k", "w_v", "w_o"):
            setattr(self, name, nn.Parameter(torch.randn(d_model, d_model)))

    def forward(self, query, key, value, mask=None):
        cut = SPLIT_RIGHT["slices"]
        q, k, v = (cut(x, self.n_heads) for x in
                   (query @ self.w_q, key @ self.w_k, value @ self.w_v))
        return MERGE_RIGHT["cat"](sdpa_einsum(q, k, v, mask)[0]) @ self.w_o


def variant(**changes):
    return type("MultiHead", (MultiHead,), {k: staticmethod(f) for k, f in changes.items()})


def plain_attention(scale):
    def attend(q, k, v, mask):
        scores = q @ k.mT / scale(q)
        return (scores.softmax(-1) if mask is None else masked(scores, mask)) @ v

    return attend


class NoOutputMap(MultiHead):
    def forward(self, query, key, value, mask=None):
        self.w_o = nn.Identity()
        return super().forward(query, key, value, mask)


class OnlySelf(MultiHead):
    def forward(self, query, key, value, mask=None):
        return super().forward(query, query, query, mask)


class KeysAsValues(MultiHead):
    def forward(self, query, key, value, mask=None):
        return super().forward(query, key, key, mask)


class Exchanged(MultiHead):
    def forward(self, query, key, value, mask=None):
        parts = ((self.w_k, query), (self.w_q, key), (self.w_v, value))
        q, k, v = (self.cut(w(x), self.n_heads) for w, x in parts)
        return self.w_o(self.join(self.attend(q, k, v, mask)))


class Residual(MultiHead):
    def forward(self, query, key, value, mask=None):
        return query + super().forward(query, key, value, mask)


class Detached(MultiHead):
    def forward(self, query, key, value, mask=None):
        return super().forward(query, key, value, mask).detach()


class Nameless(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.qkv = nn.Linear(d_model, 3 * d_model)

    def forward(self, query, key, value, mask=None):
        return query


class Ready(MultiHead):
    def __init__(self, d_model, n_heads):
        super().__init__(d_model, n_heads)
        self.inner = nn.MultiheadAttention(d_model, n_heads, batch_first=True)

    def forward(self, query, key, value, mask=None):
        return self.inner(query, key, value)[0]


MULTI_WRONG = {
    "no w_o": (NoOutputMap, "w_o is missing"),
    "scale d_model": (
        variant(attend=plain_attention(lambda q: math.sqrt(q.size(-1) * q.size(1)))), "d_model"),
    "scale sqrt of heads": (
        variant(attend=plain_attention(lambda q: math.sqrt(q.size(1)))), "the number of heads"),
    "w_q and w_k exchanged": (Exchanged, "exchange w_q and w_k"),
    "residual": (Residual, "residual belongs to the layer"),
    "no scale": (variant(attend=plain_attention(lambda q: 1)), "scale is missing"),
    "split by reshape": (variant(cut=SPLIT_WRONG["reshape"][0]), "reshape"),
    "merge by reshape": (variant(join=MERGE_WRONG["reshape"][0]), "merge the heads by a reshape"),
    "one head": (
        variant(cut=lambda x, n: x[:, None], join=lambda x: x[:, 0]), "do not split"),
    "self only": (OnlySelf, "keys and values from elsewhere|three tensors"),
    "values from keys": (KeysAsValues, "values from the keys"),
    "mask ignored": (variant(attend=lambda q, k, v, m: sdpa(q, k, v)[0]), "ignore the mask"),
    "mask inverted": (
        variant(attend=lambda q, k, v, m: sdpa(q, k, v, None if m is None else ~m)[0]),
        "inverted"),
    "over queries": (
        variant(attend=lambda q, k, v, m: (q @ k.mT / q.size(-1) ** 0.5).softmax(-2) @ v),
        "over the queries"),
    "detached": (Detached, "cut the gradient: .* no gradient .*detach"),
    "packed": (Nameless, "no w_q"),
    "torch's": (Ready, "ready-made"),
    "not a module": (lambda d_model, n_heads: 3, "nn.Module"),
}


@pytest.mark.parametrize("style", [MultiHead, WithoutBias, Matrices])
def test_multi_head_accepts(style):
    accepted("MultiHeadAttention", style)


@pytest.mark.parametrize("mistake", MULTI_WRONG)
def test_multi_head_rejects(mistake: str):
    rejected("MultiHeadAttention", *MULTI_WRONG[mistake])
