"""The check of the assignment seq2seq, against candidates that make learners' mistakes."""

import math

import pytest
import torch
from bank import accepted, rejected

from course.homework.exercises.seq2seq import additive
from course.seq2seq import AdditiveAttention


def test_the_reference_is_the_lessons_attention():
    torch.manual_seed(0)
    lesson = AdditiveAttention(6).double()
    lesson.w_k.bias.data.zero_()
    query, keys = torch.randn(3, 6).double(), torch.randn(3, 4, 6).double()
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
    expected = lesson(query[:, None], lesson.w_k(keys), mask[:, None, None])[:, 0]
    weights = (lesson.w_q.weight.T, lesson.w_k.weight.T, lesson.v.weight[0])
    context, found = additive(query, keys, *weights, mask)
    assert torch.allclose(found, expected) and torch.allclose(
        context, torch.einsum("bk,bkd->bd", expected, keys)
    )


def by_matrices(query, keys, w_q, w_k, v, mask=None):
    scores = torch.tanh((query @ w_q)[:, None] + keys @ w_k) @ v
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    weights = torch.softmax(scores, dim=-1)
    return (weights[:, None] @ keys).squeeze(1), weights


def by_einsum(query, keys, w_q, w_k, v, mask=None):
    q = torch.einsum("bd,da->ba", query, w_q)
    k = torch.einsum("bkd,da->bka", keys, w_k)
    scores = torch.einsum("bka,a->bk", (q.unsqueeze(1) + k).tanh(), v)
    e = torch.exp(scores - scores.max(dim=1, keepdim=True).values)
    if mask is not None:
        e = e * mask
    weights = e / e.sum(1, keepdim=True)
    return [torch.einsum("bk,bkd->bd", weights, keys), weights]


def by_loops(query, keys, w_q, w_k, v, mask=None):
    contexts, weights = [], []
    for b in range(len(query)):
        scores = torch.stack([torch.dot(v, torch.tanh(query[b] @ w_q + k @ w_k)) for k in keys[b]])
        if mask is not None:
            scores[~mask[b]] = -1e9
        weights.append(scores.softmax(0))
        contexts.append(weights[-1] @ keys[b])
    return torch.stack(contexts), torch.stack(weights)


def by_columns(query, keys, w_q, w_k, v, mask=None):
    """Three dimensions throughout, the scores a column, the mask where it is needed."""
    mixed = torch.tanh(query.unsqueeze(1).matmul(w_q) + keys.matmul(w_k))
    scores = (mixed * v).sum(-1, keepdim=True)
    if mask is not None:
        scores = torch.where(mask.unsqueeze(-1), scores, torch.finfo(scores.dtype).min)
    weights = scores.softmax(1)
    return (weights * keys).sum(1), weights.squeeze(-1)


@pytest.mark.parametrize("style", [by_matrices, by_einsum, by_loops, by_columns])
def test_additive_attention_accepts(style):
    accepted("additive_attention", style)


def attention_with(misconception, **replaced):
    """A right attention with some lines replaced by eval."""

    def attend(query, keys, w_q, w_k, v, mask=None):
        lines = {
            "q": "query @ w_q",
            "k": "keys @ w_k",
            "mixed": "torch.tanh(q[:, None] + k)",
            "scores": "mixed @ v",
            "masked": "scores.masked_fill(~mask, -math.inf)",
            "weights": "scores.softmax(-1)",
            "finished": "weights",
            "context": "(weights[..., None] * keys).sum(1)",
            "result": "(context, weights)",
        } | replaced
        s = dict(query=query, keys=keys, w_q=w_q, w_k=w_k, v=v, mask=mask, math=math, torch=torch)
        for name in ("q", "k", "mixed", "scores"):
            s[name] = eval(lines[name], s)
        if mask is not None:
            s["scores"] = eval(lines["masked"], s)
        s["weights"] = eval(lines["weights"], s)
        if mask is not None:
            s["weights"] = eval(lines["finished"], s)
        s["context"] = eval(lines["context"], s)
        return eval(lines["result"], s)

    return attend, misconception


def in_place(query, keys, w_q, w_k, v, mask=None):
    context, weights = by_matrices(query, keys, w_q, w_k, v, mask)
    keys *= weights[..., None]
    return keys.sum(1), weights


WRONG = {
    "no tanh": attention_with("tanh is missing", mixed="q[:, None] + k"),
    "sigmoid": attention_with("You use the sigmoid: additive",
                              mixed="torch.sigmoid(q[:, None] + k)"),
    "relu": attention_with("You use relu", mixed="torch.relu(q[:, None] + k)"),
    "bent apart": attention_with("query makes no difference",
                                 mixed="torch.tanh(q)[:, None] + torch.tanh(k)"),
    "bent after v": attention_with("bend after v", mixed="q[:, None] + k",
                                   scores="torch.tanh(mixed @ v)"),
    "weights exchanged": attention_with("exchange w_q and w_k", q="query @ w_k", k="keys @ w_q"),
    "keys by w_q": attention_with("keys through w_q", k="keys @ w_q"),
    "no w_q": attention_with("query goes through no w_q", q="query"),
    "transposed": attention_with("wrong side", q="query @ w_q.T", k="keys @ w_k.T"),
    "w_k transposed": attention_with("w_k from the wrong side", k="keys @ w_k.T"),
    "no query": attention_with("query makes no difference", mixed="torch.tanh(k)"),
    "multiplied": attention_with("multiply query and keys", mixed="torch.tanh(q[:, None] * k)"),
    "dot product": attention_with("dot product", scores="(k @ q[..., None]).squeeze(-1)"),
    "dot product of the raw": attention_with(
        "dot product", scores="torch.einsum('bd,bkd->bk', query, keys)"),
    "no dimension for keys": attention_with("needs a dimension for the keys",
                                            mixed="torch.tanh(q + k)"),
    "no v": attention_with("v is missing: you sum", scores="mixed.sum(-1)"),
    "mean over features": attention_with("average over the features",
                                         scores="(mixed * v).mean(-1)"),
    "scaled": attention_with("has no scale", scores="mixed @ v / math.sqrt(v.numel())"),
    "no softmax": attention_with("softmax is missing", weights="scores"),
    "sigmoid weights": attention_with("sigmoid for the weights", weights="scores.sigmoid()"),
    "over sentences": attention_with("over the sentences", weights="scores.softmax(0)"),
    "over the batch": attention_with("over the whole batch",
                                     weights="scores.flatten().softmax(0).view_as(scores)"),
    "unstable": attention_with("exp overflows",
                               weights="scores.exp() / scores.exp().sum(-1, keepdim=True)"),
    "hard": attention_with("to the best key",
                           weights="(scores == scores.amax(-1, True)).to(scores.dtype)"),
    "inverted": attention_with("inverted", masked="scores.masked_fill(mask, -math.inf)"),
    "inverted, big": attention_with("inverted", masked="scores.masked_fill(mask, -1e9)"),
    "inverted, mended": attention_with("inverted", masked="scores.masked_fill(mask, -math.inf)",
                                       finished="weights.nan_to_num()"),
    "ignored": attention_with("ignore the mask", masked="scores"),
    "added": attention_with("add the mask", masked="scores + mask"),
    "multiplied by the mask": attention_with("multiply the scores", masked="scores * mask"),
    "zero where False": attention_with("put 0 where", masked="scores.masked_fill(~mask, 0)"),
    "after the softmax": attention_with("mask after", masked="scores", finished="weights * mask"),
    "padding takes part": attention_with("the mask forbids", masked="scores - 2.0 * ~mask"),
    "first mask for all": attention_with("mask of the first",
                                         masked="scores.masked_fill(~mask[:1], -math.inf)"),
    "mask transposed": attention_with("mask", masked="scores.masked_fill(~mask.T, -math.inf)"),
    "projected keys": attention_with("projected keys", context="(weights[..., None] * k).sum(1)"),
    "sum of the query": attention_with("made of the query",
                                       context="(weights[..., None] * query[:, None]).sum(1)"),
    "mean of weighted": attention_with("mean of the weighted",
                                       context="(weights[..., None] * keys).mean(1)"),
    "plain mean": attention_with("plain mean", context="keys.mean(1)"),
    "not summed": attention_with("do not add them up", context="weights[..., None] * keys"),
    "context too deep": attention_with("context has one dimension too many",
                                       context="weights[:, None] @ keys"),
    "weights too deep": attention_with("weights have one dimension too many",
                                       result="(context, weights[..., None])"),
    "swapped": attention_with("the order is", result="(weights, context)"),
    "context alone": attention_with("you return a tensor", result="context"),
    "two at once": attention_with("Two things.*tanh is missing.*over the sentences|over the sent",
                                  mixed="q[:, None] + k", weights="scores.softmax(0)"),
    "weights and context": attention_with("v is missing", scores="mixed.sum(-1)",
                                          context="(weights[..., None] * k).sum(1)"),
    "batch of one": attention_with("as many sentences|two sentences|dimension",
                                   context="weights[0] @ keys[0][None]"),
    "squeezed": attention_with("squeeze|shape", result="(context, weights.squeeze())"),
    "through float32": attention_with(
        "float32", q="(query.float() @ w_q.float()).to(w_q.dtype)"),
    "its input": attention_with("wrong values|shape", result="(query, keys)"),
    "constant": attention_with("does not depend|plain mean|same",
                               result="(keys.mean(1) * 0, weights * 0 + 1 / keys.size(1))"),
    "in place": (in_place, "in place"),
    "the course's": (
        lambda query, keys, *others: AdditiveAttention(query.size(-1))(
            query[:, None], keys, torch.ones(len(keys), 1, 1, keys.size(1)).bool()),
        "ready-made"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_additive_attention_rejects(mistake: str):
    rejected("additive_attention", *WRONG[mistake])


# memory_hop


def one_product(question, found_by, says):
    weights = (found_by @ question[..., None]).squeeze(-1).softmax(-1)
    return question + (weights[:, None] @ says).squeeze(1), weights


def hop_by_einsum(question, found_by, says):
    weights = torch.softmax(torch.einsum("bd,bnd->bn", question, found_by), dim=1)
    return [question + torch.einsum("bn,bnd->bd", weights, says), weights]


def hop_by_loops(question, found_by, says):
    """Pure Python over torch's numbers: slow, and gradients flow."""
    rows, answers = [], []
    for b in range(question.shape[0]):
        scores = [sum(question[b, i] * found_by[b, n, i] for i in range(question.shape[1]))
                  for n in range(found_by.shape[1])]
        top = max(score.item() for score in scores)
        exps = [torch.exp(score - top) for score in scores]
        weights = [e / sum(exps) for e in exps]
        rows.append(torch.stack(weights))
        answers.append(question[b] + sum(w * c for w, c in zip(weights, says[b])))
    return torch.stack(answers), torch.stack(rows)


@pytest.mark.parametrize("right", [one_product, hop_by_einsum, hop_by_loops])
def test_memory_hop_accepts(right):
    accepted("memory_hop", right)


def hop_with(score="(found_by @ question[..., None])[..., 0]", weights="scores.softmax(-1)",
             answer="(weights[:, None] @ says)[:, 0]", new="question + answer",
             result="(new, weights)"):
    def candidate(question, found_by, says):
        names = {"torch": torch, "question": question, "found_by": found_by, "says": says}
        names["scores"] = eval(score, names)
        names["weights"] = eval(weights, names)
        names["answer"] = eval(answer, names)
        names["new"] = eval(new, names)
        return eval(result, names)

    return candidate


WRONG_HOPS = [
    (hop_with("(says @ question[..., None])[..., 0]", answer="(weights[:, None] @ found_by)[:, 0]"),
     "exchange found_by and says"),
    (hop_with("(says @ question[..., None])[..., 0]"), "what the facts say"),
    (hop_with("(found_by @ question[..., None])[..., 0] / question.size(-1) ** 0.5"), "no scale"),
    (hop_with("torch.cosine_similarity(found_by, question[:, None], dim=-1)"), "cosine"),
    (hop_with(weights="scores"), "softmax is missing"),
    (hop_with(weights="scores.softmax(0)"), "over the questions"),
    (hop_with(weights="scores.sigmoid()"), "sigmoid"),
    (hop_with(weights="scores.exp() / scores.exp().sum(-1, keepdim=True)"), "exp overflows"),
    (hop_with(weights="torch.nn.functional.one_hot(scores.argmax(-1), scores.size(1))"
                      ".to(scores.dtype)"), "best fact"),
    (hop_with(new="answer"), "answer alone"),
    (hop_with(new="question"), "question as it came"),
    (hop_with(new="torch.cat([question, answer], -1)"), "side by side"),
    (hop_with(answer="(weights[:, None] @ found_by)[:, 0]"), "found by"),
    (hop_with(answer="says.mean(1)"), "plain mean"),
    (hop_with(result="(new[:, None], weights)"), "one dimension too many"),
    (hop_with(result="(weights, new)"), "the order is"),
    (hop_with(result="new"), "you return a tensor"),
    (hop_with(answer="(weights.detach()[:, None] @ says)[:, 0]"), "cut the gradient"),
    (hop_with(new="question.data + answer.data"), "cut the gradient"),
    (lambda *args: tuple(part.detach() for part in one_product(*args)), "cut the gradient"),
]


@pytest.mark.parametrize(("wrong", "why"), WRONG_HOPS)
def test_memory_hop_rejects(wrong, why):
    rejected("memory_hop", wrong, why)
