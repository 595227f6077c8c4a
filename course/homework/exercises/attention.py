"""Exercises of the assignment attention: from the softmax to several heads."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from course.homework.checking import Candidate, Case, Exercise, Wrong, function_exam, normal
from course.homework.twins import INVERTED
from course.homework.values import mismatch

OVERFLOW = (
    "exp overflows above 88 in float32: take the largest number of each row away before exp; the "
    "quotient stays the same"
)


def softmax_cases(generator: Generator) -> Iterator[Case]:
    yield Case("two rows", (normal(generator, 2, 3), -1))
    yield Case("one vector", (normal(generator, 5), 0), "you count on a second dimension")
    yield Case("columns, dim=0", (normal(generator, 3, 4), 0), "you ignore dim")
    yield Case("the middle of three dimensions", (normal(generator, 2, 3, 4), 1),
               "you sum without keepdim=True: the sums meet another dimension")
    yield Case("numbers around 10,000", (normal(generator, 2, 3) * 1e4, -1), hint=3)
    rows = normal(generator, 2, 3) + torch.tensor([[0.0], [-500.0]])
    yield Case("one row 500 below the other", (rows, -1), hint=3)
    masked = normal(generator, 2, 4)
    masked[:, 1:3] = -math.inf
    yield Case("some scores of minus infinity", (masked, -1), "-inf does not give exactly 0")
    yield Case("float64", (normal(generator, 2, 3, dtype=torch.float64), -1),
               "somewhere you go through float32")


def quotient(numerator: Tensor, dim: int) -> Tensor:
    return numerator / numerator.sum(dim, keepdim=True)


SOFTMAX = Exercise(
    name="softmax",
    assignment="attention",
    signature="softmax(x, dim) -> like x, summing to one along dim; x may hold -inf: its weight is "
    "0",
    what="Turn any numbers into weights: exp of each, divided by the sum of all along `dim`.",
    why="Attention is a weighted mean, and these are the weights. In float16 exp overflows at 11, "
    "so a softmax that is not stable ruins a real training run.",
    difficulty=2,
    minutes=10,
    hints=(
        "Two steps: exp of each number, then a division by a sum. Over which numbers does one sum "
        "run, if dim is the middle one of three?",
        "e / e.sum(dim, keepdim=True): keepdim leaves the summed dimension there, of size 1, so "
        "that the quotient fits.",
        "exp overflows above 88. Take the same number away from all x of a row, and the quotient "
        "stays: take the largest, x.amax(dim, keepdim=True), and exp never sees more than 0.",
    ),
    forbidden=(
        "softmax", "log_softmax", "softmin", "gumbel_softmax", "_softmax", "_log_softmax",
        "_safe_softmax", "scaled_dot_product_attention", "cross_entropy",
    ),
    examine=function_exam(
        lambda x, dim: x.softmax(dim),
        softmax_cases,
        mistakes=[
            (f"Right for small numbers, but {OVERFLOW}",
             lambda x, dim: quotient(x.exp(), dim), 3),
            ("You take the largest number of the whole tensor away: a row far below it becomes "
             "0 / 0. Each row needs a maximum of its own: amax(dim, keepdim=True)",
             lambda x, dim: quotient((x - x.max()).exp(), dim), 3),
            ("You divide by the sum of everything: sum along dim only, keepdim=True",
             lambda x, dim: x.exp() / x.exp().sum(), 2),
            ("Your weights sum to one along the last dimension, whatever dim says",
             lambda x, dim: x.softmax(-1), 1),
            ("Your weights sum to one along the first dimension, whatever dim says",
             lambda x, dim: x.softmax(0), 1),
            ("You forgot exp: x / x.sum() can be negative", lambda x, dim: quotient(x, dim), 1),
            ("exp alone: the weights do not sum to one yet, divide by their sum",
             lambda x, dim: x.exp()),
            ("exp alone: the weights do not sum to one yet, divide by their sum",
             lambda x, dim: (x - x.amax(dim, keepdim=True)).exp()),
            ("That is the logarithm of the softmax", lambda x, dim: x.log_softmax(dim)),
            ("That is the sigmoid: it looks at each number alone", lambda x, dim: x.sigmoid()),
            ("The sign is turned: the largest number should get the largest weight",
             lambda x, dim: (-x).softmax(dim)),
            ("You divide by the largest exponential: divide by the sum",
             lambda x, dim: x.exp() / x.exp().amax(dim, keepdim=True)),
            ("You divide by the mean of the exponentials: divide by their sum",
             lambda x, dim: x.exp() / x.exp().mean(dim, keepdim=True)),
            ("You divide by the largest number before exp: that changes the quotient; subtract it",
             lambda x, dim: (x / x.amax(dim, keepdim=True)).softmax(dim)),
        ],
        returns="the weights",
        learns=lambda weights: weights,
    ),
)


OVER_QUERIES = "Your weights sum to one over the queries: softmax runs over the keys, dim=-1"


def sdpa_cases(generator: Generator) -> Iterator[Case]:
    def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return normal(generator, *shape, dtype=dtype)

    yield Case("one sentence, Q = K", (draw(1, 2, 3), draw(1, 2, 3), draw(1, 2, 3)))
    yield Case("two sentences", (draw(2, 3, 4), draw(2, 3, 4), draw(2, 3, 4)),
               "you use the first sentence for all")
    yield Case("two queries, five keys", (draw(2, 2, 4), draw(2, 5, 4), draw(2, 5, 4)),
               "you take for granted that Q = K")
    yield Case("values wider than keys", (draw(1, 3, 4), draw(1, 3, 4), draw(1, 3, 6)),
               "you take for granted that d_v = d_k")
    yield Case("three heads", (draw(2, 3, 2, 4), draw(2, 3, 5, 4), draw(2, 3, 5, 4)),
               "you count dimensions from the front: transpose(-2, -1) counts from the end, and "
               "works with heads, too")
    causal = torch.ones(3, 3, dtype=torch.bool).tril()
    yield Case("a causal mask", (draw(1, 3, 2), draw(1, 3, 2), draw(1, 3, 2), causal))
    padding = torch.tensor([[[True, True, True, False]], [[True, False, False, False]]])
    yield Case("a padding mask (B, 1, K)", (draw(2, 3, 4), draw(2, 4, 4), draw(2, 4, 4), padding),
               "you do not let the mask broadcast over the queries")
    large = draw(1, 2, 16) * 40
    yield Case("large scores", (large, large.flip(-1), draw(1, 2, 4)),
               "exp overflows: use a stable softmax")
    nothing = torch.tensor([[True, True], [False, False]])
    yield Case("a query that may attend to nothing", (draw(1, 2, 4), draw(1, 2, 4), draw(1, 2, 4),
               nothing), "such a row should be zeros: fill it after the softmax", learn=False)
    wide = torch.float64
    yield Case("float64", tuple(draw(1, 3, 4, dtype=wide) for _ in range(3)),
               "somewhere you go through float32")


def sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> tuple:
    identity = torch.eye(key.size(-2), dtype=key.dtype).expand(*key.shape[:-1], key.size(-2))
    output, weights = (
        F.scaled_dot_product_attention(query, key, v, attn_mask=mask) for v in (value, identity)
    )
    return output, weights


def sdpa_mistake(scale=lambda q, k, v: math.sqrt(q.size(-1)), masked=None, dim=-1, finish=None):
    """Return an attention with one step replaced."""

    def attend(query, key, value, mask=None):
        scores = query @ key.transpose(-2, -1) / scale(query, key, value)  # (..., Q, K)
        if mask is not None:
            fill = masked or (lambda scores, mask: scores.masked_fill(~mask, -math.inf))
            scores = fill(scores, mask)
        weights = scores.softmax(dim)
        if finish:
            weights = finish(scores, weights, mask)
        return weights @ value, weights

    return attend


def minus_big(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(~mask, -1e9)


def explain_sdpa(args: tuple, actual: object, expected: object) -> str | None:
    """Name what the properties of the weights give away."""
    if not (isinstance(actual, tuple | list) and len(actual) == 2):
        return None
    output, weights = actual
    if isinstance(weights, Tensor) and isinstance(output, Tensor):
        if mismatch((weights, output), expected) is None:
            return "You return (weights, output): the order is (output, weights)"
        if weights.shape == args[0].shape != expected[1].shape:
            return ("Your weights have the shape of the query: * multiplies number by number, and "
                    "each query should meet each key, query @ key.transpose(-2, -1)")
        if weights.shape != expected[1].shape or weights.dtype != expected[1].dtype:
            return None
        if len(args) == 4 and args[3] is not None:
            blind = ~args[3].expand(weights.shape) & (weights > 0)
            if blind.any():
                q, k = blind.nonzero()[0].tolist()[-2:]
                return (
                    f"Token {q} gives weight to token {k}, which its mask forbids: "
                    "mask the scores (with -inf) before the softmax; True = may attend"
                )
        if mismatch(weights, expected[1]) is None:
            return "The weights are right, the output is not: output = weights @ value"
        columns = weights.sum(-2)
        if torch.allclose(columns, torch.ones_like(columns), atol=1e-4):
            return OVER_QUERIES
        sums = weights.sum(-1)
        if not torch.allclose(sums, torch.ones_like(sums), atol=1e-4) and not sums.isnan().any():
            return f"Your weights for the first query sum to {sums.flatten()[0]:.3f}, not to 1"
    return None


SDPA = Exercise(
    name="scaled_dot_product_attention",
    assignment="attention",
    signature="scaled_dot_product_attention(query, key, value, mask=None) -> (output, weights); "
    "query (..., Q, Dk), key (..., K, Dk), value (..., K, Dv), mask boolean, True = may attend, "
    "broadcastable to (..., Q, K); output (..., Q, Dv), weights (..., Q, K)",
    what="Equation 1 of the paper, with a mask. A query that may attend to nothing gets zeros.",
    why="This is the whole idea of the paper in three lines: all the rest of the Transformer "
    "prepares its inputs or tidies up after it.",
    difficulty=3,
    minutes=20,
    hints=(
        "Three steps: scores (..., Q, K), weights (..., Q, K), output (..., Q, Dv). "
        "Write the shape beside each line.",
        "scores = query @ key.transpose(-2, -1) / math.sqrt(Dk). Where the mask is False, a score "
        "of -inf becomes a weight of 0.",
        "A row that is masked as a whole is NaN after the softmax (0 / 0): "
        "weights.masked_fill(~mask, 0) mends it and changes nothing else.",
    ),
    forbidden=(
        "scaled_dot_product_attention", "multi_head_attention_forward",
        "_native_multi_head_attention", "_scaled_dot_product_attention_math",
    ),
    examine=function_exam(
        sdpa,
        sdpa_cases,
        mistakes=[
            ("The scale is missing: divide the scores by the square root of d_k",
             sdpa_mistake(lambda q, k, v: 1.0), 2),
            ("You divide by d_k: the variance of a dot product is d_k, its standard deviation, by "
             "which you divide, is the square root of d_k",
             sdpa_mistake(lambda q, k, v: q.size(-1))),
            ("You multiply by the square root of d_k: divide by it",
             sdpa_mistake(lambda q, k, v: 1 / math.sqrt(q.size(-1))), 2),
            ("You scale by the number of keys: the scale is the square root of d_k, the width of "
             "a key", sdpa_mistake(lambda q, k, v: math.sqrt(k.size(-2)))),
            ("You scale by the width of the values: it is d_k, the width of a key",
             sdpa_mistake(lambda q, k, v: math.sqrt(v.size(-1)))),
            (OVER_QUERIES, sdpa_mistake(dim=-2)),
            ("Your scores are key times query: a row belongs to a query, so query @ key transposed",
             lambda q, k, v, mask=None: sdpa_mistake()(k, q, v, mask)),
            *((INVERTED, sdpa_mistake(masked=lambda s, m, low=low: s.masked_fill(m, low),
                                      finish=lambda s, w, m, tidy=tidy: tidy(w, m)))
              for low in (-math.inf, -1e9)
              for tidy in (lambda w, m: w, lambda w, m: w if m is None else w.masked_fill(m, 0),
                           lambda w, m: w if m is None else w.masked_fill(~m, 0))),
            ("You ignore the mask", sdpa_mistake(masked=lambda s, m: s), 2),
            ("You add the mask to the scores: a boolean mask is 0 and 1, which hides nothing; "
             "put -inf where it is False", sdpa_mistake(masked=lambda s, m: s + m), 2),
            ("You multiply the scores by the mask: a score of 0 is still exp(0) = 1 in the "
             "softmax; put -inf where it is False", sdpa_mistake(masked=lambda s, m: s * m), 2),
            ("You put 0 where the mask is False: a score of 0 is still exp(0) = 1 in the softmax; "
             "put -inf", sdpa_mistake(masked=lambda s, m: s.masked_fill(~m, 0)), 2),
            ("You mask after the softmax: the weights that are left no longer sum to one; mask the "
             "scores, before it",
             sdpa_mistake(masked=lambda s, m: s, finish=lambda s, w, m: w if m is None else w * m)),
            ("A query that may attend to nothing gets NaN from you: softmax of nothing but -inf is "
             "0 / 0. Set such weights to 0 after the softmax",
             sdpa_mistake(), 3),
            ("A query that may attend to nothing attends to everything alike: the same large "
             "negative score in every place. Set such weights to 0 after the softmax",
             sdpa_mistake(masked=minus_big), 3),
            ("The softmax is missing: the scores are not weights yet",
             sdpa_mistake(finish=lambda s, w, m: s), 1),
        ],
        returns="(output, weights)",
        explain=explain_sdpa,
        learns=lambda result: result[0],
    ),
)


def split_cases(generator: Generator) -> Iterator[Case]:
    yield Case("one sentence", (normal(generator, 1, 3, 4), 2))
    yield Case("three sentences", (normal(generator, 3, 2, 8), 2), "you lose the batch dimension")
    yield Case("three heads", (normal(generator, 1, 2, 12), 3), "you do not use n_heads")
    yield Case("as many words as heads", (normal(generator, 2, 4, 8), 4))
    yield Case("one head", (normal(generator, 2, 3, 4), 1), "you squeeze the dimension of heads")
    yield Case("float64", (normal(generator, 1, 2, 4, dtype=torch.float64), 2),
               "somewhere you go through float32")


SPLIT = Exercise(
    name="split_heads",
    assignment="attention",
    signature="split_heads(x, n_heads): x (B, L, D) -> (B, H, L, D / H); head 0 gets the first "
    "D / H features of each word",
    what="Cut the features of every word into n_heads equal pieces, and put the heads before the "
    "words.",
    why="One matrix product then serves all heads at once: heads are one more batch dimension.",
    difficulty=2,
    minutes=10,
    hints=(
        "Two steps: cut the last dimension into two, then exchange two dimensions.",
        "After the cut the shape is (B, L, H, D / H). Which two of them change places?",
        "x.unflatten(-1, (n_heads, -1)) cuts; transpose(1, 2) exchanges.",
    ),
    examine=function_exam(
        lambda x, n: torch.stack(x.chunk(n, dim=-1), dim=1),
        split_cases,
        mistakes=[
            ("You reshape straight to (B, H, L, D / H): the numbers keep their order in memory, so "
             "a head gets whole words instead of a slice of every word. Cut, then transpose",
             lambda x, n: x.reshape(x.size(0), n, x.size(1), -1), 1),
            ("You cut into (D / H, H): head 0 gets every H-th feature. Cut into (H, D / H)",
             lambda x, n: x.unflatten(-1, (-1, n)).permute(0, 3, 1, 2), 2),
            ("The words come before the heads: exchange dimensions 1 and 2",
             lambda x, n: x.unflatten(-1, (n, -1)), 2),
            ("The heads come before the batch: the shape is (B, H, L, D / H)",
             lambda x, n: torch.stack(x.chunk(n, dim=-1))),
        ],
        returns="the heads",
        learns=lambda heads: heads,
    ),
)


def merge_cases(generator: Generator) -> Iterator[Case]:
    yield Case("one sentence", (normal(generator, 1, 2, 3, 2),))
    yield Case("three sentences", (normal(generator, 3, 2, 4, 3),), "you lose the batch dimension")
    yield Case("as many words as heads", (normal(generator, 2, 3, 3, 2),))
    yield Case("one head", (normal(generator, 2, 1, 3, 4),), "you squeeze a dimension of size 1")
    yield Case("one word", (normal(generator, 2, 3, 1, 4),), "you squeeze a dimension of size 1")
    yield Case("float64", (normal(generator, 1, 2, 3, 2, dtype=torch.float64),),
               "somewhere you go through float32")


MERGE = Exercise(
    name="merge_heads",
    assignment="attention",
    signature="merge_heads(x): x (B, H, L, Dv) -> (B, L, H * Dv); head 0's features come first",
    what="Undo split_heads: put what the heads found side by side, for every word.",
    why="The paper's Concat(head_1, ..., head_h). It is where the most silent bug of attention "
    "code lives: a reshape that mixes words and raises no error.",
    difficulty=2,
    minutes=10,
    hints=(
        "Two steps, those of split_heads backwards.",
        "First exchange heads and words, so that H and Dv are neighbours; then join the last two.",
        "x.transpose(1, 2) and then flatten(-2); view would raise here, since a transpose only "
        "renames the strides.",
    ),
    examine=function_exam(
        lambda x: torch.cat(x.unbind(1), dim=-1),
        merge_cases,
        mistakes=[
            ("You reshape without exchanging heads and words first: each row now mixes several "
             "words. transpose(1, 2) comes before",
             lambda x: x.reshape(x.size(0), x.size(2), -1), 2),
            ("Features of different heads alternate: H must stand before Dv when you join them",
             lambda x: x.permute(0, 2, 3, 1).flatten(-2), 2),
            ("You add the heads up: put them side by side", lambda x: x.sum(1), 2),
            ("You average the heads: put them side by side", lambda x: x.mean(1), 2),
            ("You exchange heads and words, but do not join the last two dimensions",
             lambda x: x.transpose(1, 2), 3),
        ],
        returns="the merged heads",
        learns=lambda merged: merged,
    ),
)

NAMES = ("w_q", "w_k", "w_v", "w_o")


def multi_head_cases(generator: Generator) -> Iterator[Case]:
    """Arguments: weights {name: (D, D)}, used as x @ w; n_heads; query, key, value, mask."""

    def case(label, blame, heads, d_model, b, q, k, mask=None, same=False, dtype=torch.float32):
        def draw(*shape):
            return normal(generator, *shape, dtype=dtype)

        weights = {name: draw(d_model, d_model) / math.sqrt(d_model) for name in NAMES}
        query, key, value = draw(b, q, d_model), draw(b, k, d_model), draw(b, k, d_model)
        if same:
            key = value = query
        return Case(label, (weights, heads, query, key, value, mask), blame)

    yield case("two heads, self-attention", "", 2, 4, 1, 3, 3, same=True)
    yield case("one head", "you do not use n_heads", 1, 4, 1, 3, 3, same=True)
    yield case("keys and values from elsewhere", "you project the query three times, or take the "
               "values from the keys: queries, keys and values may be three tensors",
               2, 4, 1, 3, 3)
    yield case("a batch of three", "you lose the batch dimension", 2, 4, 3, 3, 3)
    yield case("two queries, five keys", "you reshape the keys with the length of the queries",
               2, 6, 2, 2, 5)
    causal = torch.ones(3, 3, dtype=torch.bool).tril()[None, None]
    yield case("a causal mask (1, 1, Q, K)", "the mask does not reach every head and sentence",
               3, 6, 2, 3, 3, causal, same=True)
    padding = torch.tensor([[True, True, True, False], [True, True, False, False]])[:, None, None]
    yield case("a padding mask (B, 1, 1, K)", "the mask does not broadcast over heads and queries: "
               "it comes as (B, 1, 1, K) already, do not add dimensions to it",
               2, 4, 2, 3, 4, padding)
    yield case("float64", "somewhere you go through float32", 2, 4, 1, 3, 3, dtype=torch.float64)


def multi_head(query_by="w_q", key_by="w_k", value_by="w_v", out_by="w_o", scale=None, cut=None,
               join=None, fill=None, values_from=None, dim=-1, tidy=lambda weights: weights,
               end=lambda output, query, weights: output):
    """Return a multi-head attention over given weights, with one step replaced."""
    cut = cut or split_reference
    join = join or (lambda x: x.transpose(1, 2).flatten(-2))

    def attend(weights, n_heads, query, key, value, mask):
        value = {"query": query, "key": key}.get(values_from, value)
        q, k = query @ weights[query_by], key @ weights[key_by]
        v = value @ weights[value_by] if value_by else value
        q, k, v = (cut(x, n_heads) for x in (q, k, v))
        width = scale(query, n_heads) if scale else q.size(-1)
        scores = q @ k.transpose(-2, -1) / math.sqrt(width)
        if mask is not None:
            scores = fill(scores, mask) if fill else scores.masked_fill(~mask, -math.inf)
        merged = join(tidy(scores.softmax(dim)) @ v)
        return end(merged @ weights[out_by] if out_by else merged, query, weights)

    return attend


def split_reference(x: Tensor, n_heads: int) -> Tensor:
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def load(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put weights (x @ w) into a learner's module, whose w_q ... are Linear layers or matrices."""
    for name, weight in weights.items():
        part = getattr(module, name, None)
        if isinstance(part, nn.Linear):
            target, weight = part.weight, weight.T
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Parameter):
            target = part
        else:
            raise Wrong(
                f"The module has no {name}: make w_q, w_k, w_v and w_o, each "
                "nn.Linear(d_model, d_model), in __init__ after super().__init__()"
            )
        if target.shape != weight.shape:
            raise Wrong(
                f"{name} has the shape {tuple(target.shape)}: it should be {tuple(weight.shape)}, "
                "one matrix for all heads together"
            )
        with torch.no_grad():
            target.copy_(weight)


def attend_with_learners(candidate: Candidate, args: tuple) -> Tensor:
    weights, n_heads, query, *others = args
    module = candidate.build(query.size(-1), n_heads).to(query.dtype).eval()
    load(module, weights)
    result = candidate.call(module, query, *others)
    return result[0] if isinstance(result, tuple) and result else result


def every_weight_learns(candidate: Candidate, generator: Generator) -> None:
    module = candidate.build(8, 2).eval()
    x = normal(generator, 2, 3, 8)
    result = candidate.call(module, x, x, x)
    result = result[0] if isinstance(result, tuple) else result
    if not result.requires_grad:
        raise Wrong("No gradient flows back from your output: don't detach, and don't use no_grad")
    result.square().sum().backward()
    for name, parameter in module.named_parameters():
        if parameter.grad is None:
            raise Wrong(f"{name} takes no part in the output: it would never learn")


compare_multi_head = function_exam(
    multi_head(),
    multi_head_cases,
    mistakes=[
        ("w_o is missing: the merged heads go through one more linear map",
         multi_head(out_by=None)),
        ("You scale by the whole d_model: each head has d_k = d_model / n_heads",
         multi_head(scale=lambda query, n_heads: query.size(-1))),
        ("The scale is missing: divide the scores by the square root of d_k",
         multi_head(scale=lambda query, n_heads: 1)),
        ("You divide by d_k: divide by its square root",
         multi_head(scale=lambda query, n_heads: (query.size(-1) / n_heads) ** 2)),
        ("You scale by the number of heads: it is d_k = d_model / n_heads",
         multi_head(scale=lambda query, n_heads: n_heads)),
        ("You split the heads by a reshape without a transpose: a head gets whole words instead of "
         "a slice of every word",
         multi_head(cut=lambda x, n: x.reshape(x.size(0), n, x.size(1), -1))),
        ("You split the heads by a reshape without a transpose, and merge them so, too: a head "
         "gets whole words instead of a slice of every word",
         multi_head(cut=lambda x, n: x.reshape(x.size(0), n, x.size(1), -1),
                    join=lambda x: x.reshape(x.size(0), x.size(2), -1))),
        ("You merge the heads by a reshape without a transpose: each row mixes several words",
         multi_head(join=lambda x: x.reshape(x.size(0), x.size(2), -1))),
        ("You do not split: that is one head of width d_model",
         multi_head(cut=lambda x, n: x[:, None])),
        ("The values are not projected: w_v is unused", multi_head(value_by=None)),
        ("You project the values by w_k: they have w_v", multi_head(value_by="w_k")),
        ("You exchange w_q and w_k: the queries go through w_q",
         multi_head(query_by="w_k", key_by="w_q")),
        ("You apply w_o twice", multi_head(end=lambda out, query, w: out @ w["w_o"])),
        ("You add the query to the output: the residual belongs to the layer around it",
         multi_head(end=lambda out, query, w: out + query)),
        ("You project the queries by w_k: they have w_q", multi_head(query_by="w_k")),
        ("You take the values from the keys: the third argument is the value",
         multi_head(values_from="key")),
        ("You take the values from the query: the third argument is the value",
         multi_head(values_from="query")),
        (OVER_QUERIES, multi_head(dim=-2)),
        ("Your weights sum to one over the heads: softmax runs over the keys, dim=-1",
         multi_head(dim=1)),
        ("You ignore the mask", multi_head(fill=lambda s, m: s)),
        (INVERTED, multi_head(fill=lambda s, m: s.masked_fill(m, -1e9))),
        (INVERTED, multi_head(fill=lambda s, m: s.masked_fill(m, -math.inf))),
        (INVERTED, multi_head(fill=lambda s, m: s.masked_fill(m, -math.inf),
                              tidy=torch.nan_to_num)),
        ("You add the mask to the scores: a boolean mask is 0 and 1, which hides nothing; put -inf "
         "where it is False", multi_head(fill=lambda s, m: s + m)),
        ("You multiply the scores by the mask: a score of 0 is still exp(0) = 1 in the softmax; "
         "put -inf where it is False", multi_head(fill=lambda s, m: s * m)),
    ],
    returns="the output",
    call=attend_with_learners,
    learns=lambda output: output,
    names=("weights", "n_heads", "query", "key", "value", "mask"),
)


def examine_multi_head(candidate: Candidate, generator: Generator) -> None:
    compare_multi_head(candidate, generator)
    every_weight_learns(candidate, generator)


MULTI_HEAD = Exercise(
    name="MultiHeadAttention",
    assignment="attention",
    signature="MultiHeadAttention(d_model, n_heads): an nn.Module with w_q, w_k, w_v, w_o, each "
    "nn.Linear(d_model, d_model), biases as you like; called (query, key, value, mask=None) with "
    "query (B, Q, D), key and value (B, K, D), mask broadcastable to (B, H, Q, K) -> (B, Q, D), "
    "or a pair of that and the weights",
    what="Project, split into heads, attend in each, merge, project once more.",
    why="One head makes one weighted mean, so it can look at one place. Several look at several "
    "places, for about the same cost.",
    difficulty=4,
    minutes=30,
    hints=(
        "You have all the parts: four Linear layers, split_heads, "
        "scaled_dot_product_attention, merge_heads.",
        "d_k is d_model / n_heads, and the scale comes from d_k, not from d_model. The mask comes "
        "ready to broadcast over heads: hand it on as it is.",
        "heads, _ = scaled_dot_product_attention(*(split_heads(w(x), n_heads) for each w and x), "
        "mask); return self.w_o(merge_heads(heads)).",
    ),
    forbidden=("multi_head_attention_forward", "_native_multi_head_attention"),
    examine=examine_multi_head,
)

EXERCISES = (SOFTMAX, SDPA, SPLIT, MERGE, MULTI_HEAD)
