"""Exercises of the assignment seq2seq: the first attention, and a hop of a memory network."""

import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import torch
from torch import Generator, Tensor

from course.homework.checking import Case, Exercise, function_exam, normal
from course.homework.twins import (
    FLOAT32,
    INVERTED,
    Fault,
    alike,
    double_twins,
    named_part,
    near,
    twins,
)
from course.homework.values import mismatch


def additive_cases(generator: Generator) -> Iterator[Case]:
    def case(label, blame, b, k, d, a, mask=None, dtype=torch.float32, loud=1.0):
        shapes = (b, d), (b, k, d), (d, a), (d, a), (a,)
        args = tuple(normal(generator, *shape, dtype=dtype) for shape in shapes)
        args = (*args[:4], args[4] * loud)
        return Case(label, args if mask is None else (*args, torch.tensor(mask)), blame)

    yield case("one sentence, A = D", "", 1, 3, 4, 4)
    yield case("as many sentences as keys", "you add the query to the keys without a dimension "
               "for the keys: q[:, None] makes (B, 1, A)", 3, 3, 4, 4)
    yield case("two sentences of four words, A = 3", "the query lacks a dimension for the keys "
               "(q[:, None] makes (B, 1, A)), or you take for granted that A = D",
               2, 4, 2, 3)
    yield case("one word", "you squeeze a dimension of size 1", 2, 1, 3, 2)
    yield case("a padded sentence", "something is wrong with the mask: (B, K), True = may attend",
               2, 4, 3, 2, [[True, True, False, False], [True] * 4])
    yield case("a mask with holes, as many sentences as keys", "the mask does not stand beside the "
               "scores as (B, K)", 3, 3, 2, 4, [[True, False, True], [False, True, True],
                                                [False, False, True]])
    yield case("float64", FLOAT32, 4, 3, 4, 3, None, torch.float64)
    yield case("large scores", "exp overflows: use a stable softmax", 2, 4, 3, 2, None,
               torch.float64, loud=3000.0)


def additive(
    query: Tensor, keys: Tensor, w_q: Tensor, w_k: Tensor, v: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return (context, weights), score by score and word by word."""
    contexts, rows = [], []
    for b, sentence in enumerate(keys):
        scores = [((query[b] @ w_q + key @ w_k).tanh() * v).sum() for key in sentence]
        if mask is not None:
            scores = [s if real else s - math.inf for s, real in zip(scores, mask[b].tolist())]
        rows.append(torch.stack(scores).softmax(0))
        contexts.append(sum(weight * key for weight, key in zip(rows[-1], sentence)))
    return torch.stack(contexts), torch.stack(rows)


def hide(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(~mask, -math.inf)


def additive_twin(
    q=lambda s: s.query @ s.w_q, k=lambda s: s.keys @ s.w_k,
    join=lambda q, k: q[:, None] + k, bend=Tensor.tanh, score=lambda mixed, s: mixed @ s.v,
    fill=hide, weigh=lambda scores, s: scores.softmax(-1), tidy=lambda weights, mask: weights,
    pool=lambda weights, s: (weights[:, None] @ s.keys)[:, 0],
    result=lambda context, weights: (context, weights),
):
    """Return an additive attention with one step replaced."""

    def attend(query, keys, w_q, w_k, v, mask=None):
        s = SimpleNamespace(query=query, keys=keys, w_q=w_q, w_k=w_k, v=v)
        s.q, s.k = q(s), k(s)
        s.mixed = bend(join(s.q, s.k))
        scores = score(s.mixed, s)
        weights = weigh(scores if mask is None else fill(scores, mask), s)
        if mask is not None:
            weights = tidy(weights, mask)
        return result(pool(weights, s), weights)

    return attend


def normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True)


def sum_of(values: Callable[[SimpleNamespace], Tensor]) -> Callable:
    return lambda weights, s: (weights[..., None] * values(s)).sum(1)


# how the weights are made
WEIGHT_FAULTS: list[Fault] = [
    ("The tanh is missing: without it the query adds the same number to every score, and the "
     "softmax takes it away again", {"bend": lambda mixed: mixed}),
    ("You use the sigmoid: additive attention bends with tanh", {"bend": Tensor.sigmoid}),
    ("You use relu: additive attention bends with tanh", {"bend": Tensor.relu}),
    ("You bend after v: tanh comes before, tanh(q w_q + k w_k) @ v",
     {"bend": lambda mixed: mixed, "score": lambda mixed, s: (mixed @ s.v).tanh()}),
    ("You exchange w_q and w_k: the query goes through w_q, the keys through w_k",
     {"q": lambda s: s.query @ s.w_k, "k": lambda s: s.keys @ s.w_q}),
    ("You send the keys through w_q: they have w_k", {"k": lambda s: s.keys @ s.w_q}),
    ("You send the query through w_k: it has w_q", {"q": lambda s: s.query @ s.w_k}),
    ("The query goes through no w_q", {"q": lambda s: s.query}),
    ("The keys go through no w_k", {"k": lambda s: s.keys}),
    *((f"You multiply {names} from the wrong side: weights multiply from the right, x @ w, without "
       "a transpose", dials) for names, dials in (
          ("both w_q and w_k", {"q": lambda s: s.query @ s.w_q.T, "k": lambda s: s.keys @ s.w_k.T}),
          ("w_q", {"q": lambda s: s.query @ s.w_q.T}), ("w_k", {"k": lambda s: s.keys @ s.w_k.T}))),
    ("The query makes no difference to your weights, so every decoder step would look at the same "
     "words: it must be added inside, tanh(q w_q + k w_k). Left out, or added after the tanh, it "
     "is the same in every score, and the softmax takes it away", {"join": lambda q, k: k}),
    ("You ignore the keys: every word gets the same score",
     {"join": lambda q, k: q[:, None].expand_as(k)}),
    ("You multiply query and keys: in additive attention they are added, tanh(q w_q + k w_k)",
     {"join": lambda q, k: q[:, None] * k}),
    ("You subtract: query and keys are added, tanh(q w_q + k w_k)",
     {"join": lambda q, k: q[:, None] - k}),
    ("You subtract: query and keys are added, tanh(q w_q + k w_k)",
     {"join": lambda q, k: k - q[:, None]}),
    ("You add query b to key b of every sentence, since (B, A) meets the words of (B, K, A): the "
     "query needs a dimension for the keys, q[:, None] makes (B, 1, A)",
     {"join": lambda q, k: q + k}),
    ("You take the dot product of query and keys: that is the other attention (Luong), here a "
     "small network scores, tanh(q w_q + k w_k) @ v",
     {"score": lambda mixed, s: (s.k @ s.q[..., None])[..., 0]}),
    ("You take the dot product of query and keys: that is the other attention (Luong), here a "
     "small network scores, tanh(q w_q + k w_k) @ v",
     {"score": lambda mixed, s: (s.keys @ s.query[..., None])[..., 0]}),
    ("v is missing: you sum the features, where v weighs them",
     {"score": lambda mixed, s: mixed.sum(-1)}),
    ("v is missing: you average the features, where v weighs them",
     {"score": lambda mixed, s: mixed.mean(-1)}),
    ("You average over the features: tanh(q w_q + k w_k) @ v is a sum",
     {"score": lambda mixed, s: (mixed * s.v).mean(-1)}),
    *(("Additive attention has no scale: tanh keeps the scores small already, the division by a "
       "square root belongs to the dot product",
       {"score": lambda mixed, s, scale=scale: mixed @ s.v / scale(s)})
      for scale in (lambda s: math.sqrt(s.v.numel()), lambda s: math.sqrt(s.query.size(-1)))),
    ("The softmax is missing: the scores are not weights yet", {"weigh": lambda scores, s: scores}),
    ("You use the sigmoid for the weights: each score alone, so they do not sum to one; the "
     "softmax runs over the keys", {"weigh": lambda scores, s: scores.sigmoid()}),
    ("exp alone: the weights do not sum to one yet, divide by their sum",
     {"weigh": lambda scores, s: scores.exp()}),
    ("You forgot exp: the scores divided by their sum can be negative; take the softmax",
     {"weigh": lambda scores, s: normalised(scores)}),
    ("That is the logarithm of the weights: take softmax, not log_softmax",
     {"weigh": lambda scores, s: scores.log_softmax(-1)}),
    ("Your weights sum to one over the sentences: softmax runs over the keys, dim=-1",
     {"weigh": lambda scores, s: scores.softmax(0)}),
    ("Your weights sum to one over the whole batch: each sentence has a softmax of its own, dim=-1",
     {"weigh": lambda scores, s: scores.flatten().softmax(0).view_as(scores)}),
    ("exp overflows: take the largest score of each sentence away before exp, or use torch's "
     "softmax", {"weigh": lambda scores, s: normalised(scores.exp())}),
    ("You give all weight to the best key: attention is soft, take the softmax",
     {"weigh": lambda scores, s: torch.zeros_like(scores).scatter(
         -1, scores.argmax(-1, keepdim=True), 1)}),
    *((INVERTED, {"fill": lambda scores, mask, low=low: scores.masked_fill(mask, low)})
      for low in (-math.inf, -1e9)),
    (INVERTED, {"fill": lambda scores, mask: scores.masked_fill(mask, -math.inf),
                "tidy": lambda weights, mask: weights.nan_to_num()}),
    (INVERTED, {"fill": lambda scores, mask: scores,
                "tidy": lambda weights, mask: weights.masked_fill(mask, 0)}),
    ("You give every sentence the mask of the first: each row of mask belongs to its own sentence",
     {"fill": lambda scores, mask: hide(scores, mask[:1])}),
    ("You ignore the mask", {"fill": lambda scores, mask: scores}),
    ("You add the mask to the scores: a boolean mask is 0 and 1, which hides nothing; put -inf "
     "where it is False", {"fill": lambda scores, mask: scores + mask}),
    ("You multiply the scores by the mask, or put 0 where it is False: a score of 0 is still "
     "exp(0) = 1 in the softmax; put -inf", {"fill": lambda scores, mask: scores * mask}),
    ("You mask after the softmax: the weights that are left no longer sum to one; mask the scores, "
     "before it", {"fill": lambda scores, mask: scores,
                   "tidy": lambda weights, mask: weights * mask}),
]

# how the context is made of them
POOL_FAULTS: list[Fault] = [
    ("Your context is made of the projected keys: it is the weighted sum of the keys as they came, "
     "and w_k serves the scores alone", {"pool": sum_of(lambda s: s.k)}),
    ("Your context is made of tanh(q w_q + k w_k): that serves the scores alone, the context is "
     "the weighted sum of the keys", {"pool": sum_of(lambda s: s.mixed)}),
    ("Your context is made of the query: it is the weighted sum of the keys",
     {"pool": sum_of(lambda s: s.query[:, None])}),
    ("Your context is the plain mean of the keys: weigh them first",
     {"pool": lambda weights, s: s.keys.mean(1)}),
    ("Your context is the mean of the weighted keys: the weights sum to one already, so take "
     "the sum", {"pool": lambda weights, s: (weights[..., None] * s.keys).mean(1)}),
    ("You weigh the keys, but do not add them up: the context is one vector for each sentence, "
     "(B, D)", {"pool": lambda weights, s: weights[..., None] * s.keys}),
    ("Your context has one dimension too many: (B, 1, K) @ (B, K, D) is (B, 1, D), take squeeze(1)",
     {"pool": lambda weights, s: weights[:, None] @ s.keys}),
    ("Your context is the best key: attention is soft, the context is the weighted sum of all",
     {"pool": lambda weights, s: s.keys[torch.arange(len(s.keys)), weights.argmax(-1)]}),
    ("You sum over the sentences: the weighted keys are added over the words, dim=1",
     {"pool": lambda weights, s: (weights[..., None] * s.keys).sum(0)}),
    ("You return (weights, context): the order is (context, weights)",
     {"result": lambda context, weights: (weights, context)}),
    ("Your weights have one dimension too many: they are (B, K), one number for each key",
     {"result": lambda context, weights: (context, weights[..., None])}),
    ("Your weights have one dimension too many: they are (B, K), one number for each key",
     {"result": lambda context, weights: (context, weights[:, None])}),
]


def explain_additive(args: tuple, actual: object, expected: tuple) -> str | None:
    """Look at the weights first: the context is made of them."""
    if not isinstance(actual, tuple | list) or len(actual) != 2 or all(map(near, actual, expected)):
        return None
    context, weights = actual
    if mismatch(weights, expected[1]) is None:
        if message := named_part(0, args, actual, twins(additive_twin, POOL_FAULTS)):
            return message
        if alike(context, expected[0]):
            return "The weights are right, the context is not: it is the weighted sum of the keys"
        return None
    if not alike(weights, expected[1]):
        return None
    faults = twins(additive_twin, WEIGHT_FAULTS)
    if message := named_part(1, args, actual, faults):
        return message
    if len(args) == 6 and (blind := ~args[5] & (weights != 0)).any():
        b, k = blind.nonzero()[0].tolist()
        return (
            f"In sentence {b} key {k} gets weight, which the mask forbids: put -inf into its score "
            "before the softmax; True = may attend"
        )
    if message := named_part(1, args, actual, double_twins(additive_twin, WEIGHT_FAULTS)):
        return message
    sums = weights.sum(-1)
    if not sums.isnan().any() and not torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        return f"Your weights for the first sentence sum to {sums[0]:.3f}, not to 1"
    return None


ADDITIVE_ATTENTION = Exercise(
    name="additive_attention",
    assignment="seq2seq",
    signature="additive_attention(query, keys, w_q, w_k, v, mask=None) -> (context, weights); "
    "query (B, D), keys (B, K, D), w_q and w_k (D, A), v (A,); weights multiply from the right, "
    "query @ w_q, as in the formula (nn.Linear keeps them transposed), there is no bias; mask "
    "(B, K) boolean, True = may attend; each sentence has at least one True. context (B, D), "
    "weights (B, K)",
    what="Bahdanau's attention for one step of the decoder: score each key by a small network, "
    "tanh(query w_q + key w_k) v; turn the scores into weights by a softmax over the keys; the "
    "context is the weighted sum of the keys.",
    why="This is the attention that opened the bottleneck of the fixed vector. The paper keeps "
    "its idea and replaces the small network by a dot product, which one matrix product does for "
    "all queries at once.",
    difficulty=2,
    minutes=15,
    hints=(
        "Every key meets the one query of its sentence. Which shapes do query @ w_q and keys @ w_k "
        "have, and which dimension is missing in one of them?",
        "(query @ w_q)[:, None] is (B, 1, A), and broadcasts over the keys. tanh, then @ v gives "
        "scores (B, K). Where the mask is False, a score of -inf becomes a weight of 0.",
        "weights = scores.softmax(-1); context = (weights[:, None] @ keys).squeeze(1).",
    ),
    examine=function_exam(
        additive,
        additive_cases,
        mistakes=twins(additive_twin, WEIGHT_FAULTS + POOL_FAULTS),
        returns="(context, weights)",
        explain=explain_additive,
        learns=lambda result: result[0],
    ),
)


# memory_hop


def hop_cases(generator: Generator) -> Iterator[Case]:
    def case(label, blame, b, n, d, dtype=torch.float32, loud=1.0):
        question, found_by, says = (normal(generator, *shape, dtype=dtype)
                                    for shape in ((b, d), (b, n, d), (b, n, d)))
        return Case(label, (question * loud, found_by, says), blame)

    yield case("one question, four facts", "", 1, 4, 3)
    yield case("as many questions as facts", "you add the question to the facts without a "
               "dimension for them, or a question looks at another one's facts", 3, 3, 3)
    yield case("two questions of five facts", "a question looks at the facts of another one, or "
               "the softmax runs over the questions", 2, 5, 2)
    yield case("one fact", "you squeeze a dimension of size 1", 2, 1, 3)
    yield case("float64", FLOAT32, 3, 4, 2, torch.float64)
    yield case("large scores", "exp overflows: use a stable softmax", 2, 4, 3, torch.float64, 2e3)


def hop(question: Tensor, found_by: Tensor, says: Tensor) -> tuple[Tensor, Tensor]:
    """Return (question + answer, weights), fact by fact."""
    new, rows = [], []
    for u, m, c in zip(question, found_by, says):
        weights = torch.stack([(u * fact).sum() for fact in m]).softmax(0)
        rows.append(weights)
        new.append(u + sum(weight * fact for weight, fact in zip(weights, c)))
    return torch.stack(new), torch.stack(rows)


def hop_twin(
    score=lambda s: (s.found_by @ s.question[..., None])[..., 0],
    weigh=lambda scores: scores.softmax(-1),
    pool=lambda weights, s: (weights[:, None] @ s.says)[:, 0],
    add=lambda s, answer: s.question + answer, result=lambda new, weights: (new, weights),
):
    """Return a hop with one step replaced."""

    def look(question, found_by, says):
        s = SimpleNamespace(question=question, found_by=found_by, says=says)
        weights = weigh(score(s))
        return result(add(s, pool(weights, s)), weights)

    return look


HOP_WEIGHT_FAULTS: list[Fault] = [
    ("You exchange found_by and says: a fact is found by found_by, and answers with says",
     {"score": lambda s: (s.says @ s.question[..., None])[..., 0],
      "pool": lambda weights, s: (weights[:, None] @ s.found_by)[:, 0]}),
    ("You compare the question with what the facts say: it is compared with what they are found "
     "by", {"score": lambda s: (s.says @ s.question[..., None])[..., 0]}),
    ("A memory network has no scale: the score is the dot product as it is", {"score": lambda s: (
        (s.found_by @ s.question[..., None])[..., 0] / s.question.size(-1) ** 0.5)}),
    ("You average over the features: a dot product is a sum",
     {"score": lambda s: (s.found_by * s.question[:, None]).mean(-1)}),
    ("You measure the cosine: the score is the dot product, and lengths count",
     {"score": lambda s: torch.cosine_similarity(s.found_by, s.question[:, None], dim=-1)}),
    ("You compare every question with the facts of one: question b belongs to the facts b",
     {"score": lambda s: s.question @ s.found_by[0].T}),
    ("The softmax is missing: the scores are not weights yet", {"weigh": lambda scores: scores}),
    ("Your weights sum to one over the questions: the softmax runs over the facts, dim=-1",
     {"weigh": lambda scores: scores.softmax(0)}),
    ("You use the sigmoid: each fact alone, so the weights do not sum to one",
     {"weigh": Tensor.sigmoid}),
    ("exp alone: the weights do not sum to one yet, divide by their sum", {"weigh": Tensor.exp}),
    ("You forgot exp: the scores divided by their sum can be negative; take the softmax",
     {"weigh": normalised}),
    ("That is the logarithm of the weights: take softmax, not log_softmax",
     {"weigh": lambda scores: scores.log_softmax(-1)}),
    ("exp overflows: take the largest score away before exp, or use torch's softmax",
     {"weigh": lambda scores: normalised(scores.exp())}),
    ("You give all weight to the best fact: a hop is soft, or nothing could be learned",
     {"weigh": lambda scores: torch.zeros_like(scores).scatter(
         -1, scores.argmax(-1, keepdim=True), 1)}),
]
HOP_ANSWER_FAULTS: list[Fault] = [
    ("You return the answer alone: the new question is the old one plus the answer",
     {"add": lambda s, answer: answer}),
    ("You return the question as it came: add the answer to it",
     {"add": lambda s, answer: s.question}),
    ("You subtract: the new question is the old one plus the answer",
     {"add": lambda s, answer: s.question - answer}),
    ("You take the mean of question and answer: they are added",
     {"add": lambda s, answer: (s.question + answer) / 2}),
    ("You put question and answer side by side: they are added, so that the next hop can ask "
     "again", {"add": lambda s, answer: torch.cat([s.question, answer], -1)}),
    ("You multiply question and answer: they are added",
     {"add": lambda s, answer: s.question * answer}),
    ("Your answer is made of what the facts are found by: it is made of what they say",
     {"pool": lambda weights, s: (weights[:, None] @ s.found_by)[:, 0]}),
    ("Your answer is the plain mean of the facts: weigh them",
     {"pool": lambda weights, s: s.says.mean(1)}),
    ("Your answer is the mean of the weighted facts: the weights sum to one already, take the "
     "sum", {"pool": lambda weights, s: (weights[..., None] * s.says).mean(1)}),
    ("Your answer is the best fact: a hop is soft, the answer is the weighted sum of all",
     {"pool": lambda weights, s: s.says[torch.arange(len(s.says)), weights.argmax(-1)]}),
    ("You sum over the questions: the weighted facts are added over the facts, dim=1",
     {"pool": lambda weights, s: (weights[..., None] * s.says).sum(0)}),
    ("Your new question has one dimension too many: (B, 1, N) @ (B, N, D) is (B, 1, D)",
     {"result": lambda new, weights: (new[:, None], weights)}),
    ("You return (weights, question): the order is (question, weights)",
     {"result": lambda new, weights: (weights, new)}),
    ("Your weights have one dimension too many: they are (B, N), one number for each fact",
     {"result": lambda new, weights: (new, weights[..., None])}),
    ("Your weights have one dimension too many: they are (B, N), one number for each fact",
     {"result": lambda new, weights: (new, weights[:, None])}),
]


def explain_hop(args: tuple, actual: object, expected: tuple) -> str | None:
    """Look at the weights first: the answer is made of them."""
    if not isinstance(actual, tuple | list) or len(actual) != 2 or all(map(near, actual, expected)):
        return None
    if mismatch(actual[1], expected[1]):
        if not alike(actual[1], expected[1]):
            return None
        faults = twins(hop_twin, HOP_WEIGHT_FAULTS)
        return named_part(1, args, actual, faults) or named_part(
            1, args, actual, double_twins(hop_twin, HOP_WEIGHT_FAULTS))
    if message := named_part(0, args, actual, twins(hop_twin, HOP_ANSWER_FAULTS)):
        return message
    if alike(actual[0], expected[0]):
        return "The weights are right, the new question is not: it is question + weights @ says"
    return None


MEMORY_HOP = Exercise(
    name="memory_hop",
    assignment="seq2seq",
    signature="memory_hop(question, found_by, says) -> (question + answer, weights); question "
    "(B, D), found_by and says (B, N, D): two vectors for each of N facts; question + answer "
    "(B, D), weights (B, N)",
    what="One hop of an end-to-end memory network: score each fact by the dot product of the "
    "question with what it is found by; turn the scores into weights by a softmax over the facts; "
    "the answer is the weighted sum of what the facts say; add it to the question.",
    why="Look at it once more after lesson 05: a query, keys, values, and the input added to the "
    "output. A stack of hops is half a Transformer, two years before the paper.",
    difficulty=1,
    minutes=10,
    hints=(
        "Which of the two vectors of a fact meets the question, and which is summed? It is "
        "attention with one query for each sentence.",
        "(found_by @ question[..., None]) is (B, N, 1), one score for each fact. After the softmax "
        "over the facts, (weights[:, None] @ says) is (B, 1, D).",
        "weights = (found_by @ question[..., None]).squeeze(-1).softmax(-1); "
        "return question + (weights[:, None] @ says).squeeze(1), weights.",
    ),
    forbidden=("scaled_dot_product_attention", "multi_head_attention_forward"),
    examine=function_exam(
        hop,
        hop_cases,
        mistakes=twins(hop_twin, HOP_WEIGHT_FAULTS + HOP_ANSWER_FAULTS),
        returns="(question + answer, weights)",
        explain=explain_hop,
        learns=lambda result: result[0],
    ),
)

EXERCISES = (ADDITIVE_ATTENTION, MEMORY_HOP)
