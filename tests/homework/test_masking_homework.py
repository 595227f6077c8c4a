"""The checks of the assignment masking, against candidates that make learners' mistakes."""

import math

import pytest
import torch
import torch.nn.attention.bias
from bank import accepted, rejected
from torch import nn


def padded(tokens, pad_id):
    return (tokens != pad_id)[:, None, None, :]


def padding_loop(tokens, pad_id):
    mask = torch.zeros(tokens.size(0), 1, 1, tokens.size(1), dtype=torch.bool)
    for b, row in enumerate(tokens.tolist()):
        for k, token in enumerate(row):
            mask[b, 0, 0, k] = token != pad_id
    return mask


PADDING_RIGHT = {
    "None": padded,
    "unsqueeze": lambda t, p: ~t.eq(p).unsqueeze(1).unsqueeze(2),
    "view": lambda t, p: torch.ne(t, p).view(t.size(0), 1, 1, -1),
    "float to bool": lambda t, p: torch.where(t == p, 0.0, 1.0).bool()[:, None, None],
    "loop": padding_loop,
}
PADDING_WRONG = {
    "inverted": (lambda t, p: (t == p)[:, None, None], "^Your mask is inverted"),
    "no dimensions": (lambda t, p: t != p, r"^The shape is \(B, K\)"),
    "one dimension": (lambda t, p: (t != p)[:, None], r"^The shape is \(B, 1, K\)"),
    "inverted without dimensions": (lambda t, p: t == p, r"inverted.* And: The shape is \(B, K\)"),
    "in front": (lambda t, p: (t != p)[None, None], r"^The shape is \(1, 1, B, K\)"),
    "queries": (lambda t, p: (t != p)[:, None, :, None], "closes the queries"),
    "both": (
        lambda t, p: padded(t, p) & padded(t, p).transpose(-2, -1), "close the queries, too"),
    "expanded": (
        lambda t, p: padded(t, p).expand(-1, -1, t.size(1), -1), "repeat the mask"),
    "compares with 0": (lambda t, p: padded(t, 0), "compare with 0"),
    "larger": (lambda t, p: (t > p)[:, None, None], "larger than pad_id"),
    "float": (lambda t, p: padded(t, p).float(), r"^Your mask holds 1\.0"),
    "int": (lambda t, p: padded(t, p).long(), "whole numbers"),
    "additive": (
        lambda t, p: torch.zeros(padded(t, p).shape).masked_fill(~padded(t, p), -math.inf),
        "additive"),
    "additive and inverted": (
        lambda t, p: torch.zeros(padded(t, p).shape).masked_fill(padded(t, p), -1e9),
        "inverted.*additive"),
    "batch of one": (lambda t, p: (t[0] != p)[None, None, None], "batch dimension"),
    "pad counted": (lambda t, p: torch.ones_like(padded(t, p)), "the padding too"),
    "lengths": (
        lambda t, p: (torch.arange(t.size(1)) < (t != p).sum(1)[:, None])[:, None, None],
        "come first"),
    "its input": (lambda t, p: t, "as they came"),
    "a list": (lambda t, p: padded(t, p).tolist(), "a list of 1"),
}


@pytest.mark.parametrize("style", PADDING_RIGHT)
def test_padding_mask_accepts(style: str):
    accepted("padding_mask", PADDING_RIGHT[style])


@pytest.mark.parametrize("mistake", PADDING_WRONG)
def test_padding_mask_rejects(mistake: str):
    rejected("padding_mask", *PADDING_WRONG[mistake])


def triangle(size, diagonal=0):
    return torch.ones(size, size, dtype=torch.bool).tril(diagonal)


def causal_loop(size):
    mask = torch.zeros(1, 1, size, size, dtype=torch.bool)
    for i in range(size):
        mask[:, :, i, : i + 1] = True
    return mask


CAUSAL_RIGHT = {
    "tril": lambda size: triangle(size)[None, None],
    "triu": lambda size: torch.triu(torch.ones(1, 1, size, size), diagonal=1) == 0,
    "arange": lambda size: (torch.arange(size) <= torch.arange(size)[:, None]).view(
        1, 1, size, size),
    "loop": causal_loop,
    "list": lambda size: torch.tensor([[[[j <= i for j in range(size)] for i in range(size)]]]),
}
CAUSAL_WRONG = {
    "inverted": (lambda n: ~triangle(n)[None, None], "^Your mask is inverted"),
    "triu": (lambda n: triangle(n).T[None, None], "Rows and columns"),
    "no diagonal": (lambda n: triangle(n, -1)[None, None], "can't see itself"),
    "off by one": (lambda n: triangle(n, 1)[None, None], "^Off by one"),
    "two dimensions": (triangle, r"^The shape is \(size, size\)"),
    "three dimensions": (lambda n: triangle(n)[None], r"^The shape is \(1, size, size\)"),
    "inverted, two dimensions": (lambda n: ~triangle(n), r"inverted.*\(size, size\)"),
    "float": (lambda n: torch.ones(1, 1, n, n).tril(), r"^Your mask holds 1\.0"),
    "additive": (
        lambda n: torch.full((1, 1, n, n), -math.inf).triu(1), "^Your mask is additive"),
    "int": (lambda n: triangle(n).int()[None, None], "whole numbers"),
    "all": (lambda n: torch.ones(1, 1, n, n, dtype=torch.bool), "every word see its future"),
    "only itself": (lambda n: torch.eye(n, dtype=torch.bool)[None, None], "itself alone"),
    "flipped": (lambda n: triangle(n).flip(-1)[None, None], "leans the other way"),
    "three only": (lambda n: triangle(3)[None, None], "ignore size"),
    "a window": (
        lambda n: (triangle(n) & ~triangle(n, -4))[None, None], "Token 4 can't see token 0"),
    "squeezed": (lambda n: triangle(n).squeeze()[None, None], "squeeze"),
    "torch's": (
        lambda n: (nn.Transformer.generate_square_subsequent_mask(n) == 0)[None, None],
        "ready-made"),
    "torch's bias": (
        lambda n: torch.nn.attention.bias.causal_lower_right(n, n)._materialize()[None, None],
        "ready-made"),
}


@pytest.mark.parametrize("style", CAUSAL_RIGHT)
def test_causal_mask_accepts(style: str):
    accepted("causal_mask", CAUSAL_RIGHT[style])


@pytest.mark.parametrize("mistake", CAUSAL_WRONG)
def test_causal_mask_rejects(mistake: str):
    rejected("causal_mask", *CAUSAL_WRONG[mistake])


def column(tgt, bos_id):
    return torch.full((tgt.size(0), 1), bos_id)


def by_roll(tgt, bos_id):
    moved = torch.roll(tgt, 1, dims=1)
    moved[:, 0] = bos_id
    return moved


def by_copy(tgt, bos_id):
    moved = torch.empty_like(tgt)
    moved[:, 0], moved[:, 1:] = bos_id, tgt[:, :-1]
    return moved


def in_place(tgt, bos_id):
    tgt[:, 1:] = tgt[:, :-1].clone()
    tgt[:, 0] = bos_id
    return tgt


def overwritten(tgt, bos_id):
    moved = tgt.clone()
    for t in range(1, tgt.size(1)):
        moved[:, t] = moved[:, t - 1]
    moved[:, 0] = bos_id
    return moved


def without_eos(tgt, bos_id):
    moved = by_roll(tgt, bos_id)
    return moved.masked_fill(moved == 2, 0)


SHIFT_RIGHT = {
    "cat": lambda t, b: torch.cat([column(t, b), t[:, :-1]], 1),
    "roll": by_roll,
    "copy": by_copy,
    "pad": lambda t, b: nn.functional.pad(t, (1, 0), value=b)[:, : t.size(1)],
    "lists": lambda t, b: torch.tensor([[b, *row[:-1]] for row in t.tolist()]),
}
SHIFT_WRONG = {
    "longer": (lambda t, b: torch.cat([column(t, b), t], 1), "Nothing falls out"),
    "shorter": (lambda t, b: t[:, :-1], "start token is missing"),
    "left": (lambda t, b: torch.cat([t[:, 1:], column(t, b)], 1), "shift to the left"),
    "first column out": (lambda t, b: t[:, 1:], "one step to the left"),
    "roll": (lambda t, b: t.roll(1, 1), "You roll: the last"),
    "roll all": (lambda t, b: t.roll(1), "You roll: the last|one long row|batch|wrong"),
    "written over": (lambda t, b: torch.cat([column(t, b), t[:, 1:]], 1), "over the first word"),
    "sentences": (
        lambda t, b: torch.cat([torch.full_like(t[:1], b), t[:-1]]),
        "shift the sentences",
    ),
    "at the end": (lambda t, b: torch.cat([t[:, :-1], column(t, b)], 1), "stands at the end"),
    "in place": (in_place, "in place"),
    "overwritten": (overwritten, "fills the whole row"),
    "float": (lambda t, b: torch.cat([torch.ones(len(t), 1) * b, t[:, :-1]], 1), "as float"),
    "zero": (lambda t, b: by_roll(t, 0), "You put 0 in front"),
    "one": (lambda t, b: by_roll(t, 1), "You put 1 in front"),
    "batch of one": (lambda t, b: torch.tensor([[b, *t[0, :-1].tolist()]]), "first sentence alone"),
    "without </s>": (without_eos, "take </s> out"),
    "its input": (lambda t, b: t, "as it came"),
    "lists": (lambda t, b: [[b, *row[:-1]] for row in t.tolist()], "a list of 1"),
}


@pytest.mark.parametrize("style", SHIFT_RIGHT)
def test_shift_right_accepts(style: str):
    accepted("shift_right", SHIFT_RIGHT[style])


@pytest.mark.parametrize("mistake", SHIFT_WRONG)
def test_shift_right_rejects(mistake: str):
    rejected("shift_right", *SHIFT_WRONG[mistake])
