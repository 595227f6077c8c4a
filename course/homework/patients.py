"""The clinic's patients: a healthy case with one thing changed. TO READ ON IS TO CHEAT YOURSELF.

`patient(7)` gives the sick case, `check("patient_7", "...")` takes the name of its illness. Which
number has which illness follows from the learner, so that no answer can be passed on.





















"""

import math
from functools import cache

import torch
from torch import nn

from course.attention import MultiHeadAttention
from course.clinic import Case, learned
from course.text import PAD
from course.training import label_smoothed_loss
from course.transformer import DecoderLayer, PositionalEncoding, Transformer


@cache
def sick(illness: str, steps: int) -> Case:
    """Return a case that has an illness, trained."""
    return case_with(illness)(steps).fit()


def case_with(illness: str) -> type[Case]:
    """Return the class of the cases that have an illness; its name tells nothing."""
    return type("Case", (Case,), PLANTED[illness]())


def modules(kind: type[nn.Module], which: slice = slice(None), **methods) -> dict:
    """Return a `build` that replaces methods of some of the model's modules of a kind."""
    def build(self: Case) -> Transformer:
        model = Case.build(self)
        for module in [m for m in model.modules() if isinstance(m, kind)][which]:
            module.__class__ = type(kind.__name__, (type(module),), methods)
        return model

    return {"build": build}


def attention(weigh) -> dict:
    """Return an attention that makes its weights otherwise: weigh(scores, mask, d_k)."""
    def weights(self, query, key, value=None, mask=None):
        query, key = self.split_heads(self.w_q(query)), self.split_heads(self.w_k(key))
        return weigh(query @ key.transpose(-2, -1), mask, query.size(-1))

    def forward(self, query, key, value, mask=None):
        heads = self.weights(query, key, value, mask) @ self.split_heads(self.w_v(value))
        return self.w_o(self.merge_heads(heads))

    return modules(MultiHeadAttention, weights=weights, forward=forward)


def mask_inverted() -> dict:
    def masks(self, src, tgt_in):
        src_mask, tgt_mask = Case.masks(self, src, tgt_in)
        return ~src_mask, tgt_mask

    return {"masks": masks}


def causal_missing() -> dict:
    def forward(self, x, memory, src_mask=None, tgt_mask=None):
        seen = None if tgt_mask is None else tgt_mask[:, :, -1:]  # padding only
        return DecoderLayer.forward(self, x, memory, src_mask, seen)

    return modules(DecoderLayer, slice(1, 2), forward=forward)


def wrong_axis() -> dict:
    def weigh(scores, mask, d_k):
        scores = scores / math.sqrt(d_k)
        if mask is not None:
            scores = scores.masked_fill(~mask, -1e9)
        return scores.softmax(-2)

    return attention(weigh)


def no_scale() -> dict:
    def weigh(scores, mask, d_k):
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return scores.softmax(-1).nan_to_num(0.0)

    return attention(weigh)


def view_for_transpose() -> dict:
    def split_heads(self, x):
        return x.reshape(x.size(0), self.n_heads, x.size(1), -1)

    def merge_heads(self, x):
        return x.reshape(x.size(0), x.size(2), -1)

    return modules(MultiHeadAttention, split_heads=split_heads, merge_heads=merge_heads)


def positions_by_row() -> dict:
    def forward(self, x):
        return self.dropout(x + self.table[: x.size(0), None])

    return modules(PositionalEncoding, forward=forward)


def not_shifted() -> dict:
    def batch(self, pairs):
        src, _, tgt_out = Case.batch(self, pairs)
        return src, tgt_out, tgt_out

    return {"batch": batch}


def pad_in_loss() -> dict:
    def loss(self, src, tgt_in, tgt_out):
        logits = self.logits(src, tgt_in).flatten(0, 1)
        return label_smoothed_loss(logits, tgt_out.flatten(), self.smoothing) / tgt_out.numel()

    return {"loss": loss}


def mean_of_means() -> dict:
    def loss(self, src, tgt_in, tgt_out):
        logits, real = self.logits(src, tgt_in), tgt_out != PAD
        means = [label_smoothed_loss(row[r], tgt[r], self.smoothing) / r.sum()
                 for row, tgt, r in zip(logits, tgt_out, real)]
        return torch.stack(means).mean()

    return {"loss": loss}


def smoothing_over_pads() -> dict:
    def loss(self, src, tgt_in, tgt_out):
        logits, real = self.logits(src, tgt_in), tgt_out != PAD
        sharp = label_smoothed_loss(logits[real], tgt_out[real], 0.0)
        spread = -logits.log_softmax(-1).mean(-1).sum()
        return ((1 - self.smoothing) * sharp + self.smoothing * spread) / real.sum()

    return {"loss": loss}


def warmup_stands_still() -> dict:
    def rate(self, step):
        return Case.rate(self, 0)

    return {"rate": rate}


def half_optimizer() -> dict:
    def make_optimizer(self):
        kept, self.model = self.model, self.model.decoder
        optimizer = Case.make_optimizer(self)
        self.model = kept
        return optimizer

    return {"make_optimizer": make_optimizer}


def eval_forgotten() -> dict:
    return {"eval": lambda self: None}


def pieces_from_test() -> dict:
    def learn_pieces(self):
        return learned([*self.train, *self.held_out], self.vocab)

    return {"learn_pieces": learn_pieces}


def cross_to_itself() -> dict:
    def forward(self, x, memory, src_mask=None, tgt_mask=None):
        x = self.residuals[0](x, lambda x: self.self_attention(x, x, x, tgt_mask))
        x = self.residuals[1](x, lambda x: self.cross_attention(x, x, x, tgt_mask))
        return self.residuals[2](x, self.feed_forward)

    return modules(DecoderLayer, forward=forward)


def untied() -> dict:
    def build(self):
        model = Case.build(self)
        model.w_vocab.weight = nn.Parameter(model.tgt_embedding.weight.detach().clone())
        return model

    return {"build": build}


PLANTED = {plant.__name__: plant for plant in (
    mask_inverted, causal_missing, wrong_axis, no_scale, view_for_transpose, positions_by_row,
    not_shifted, pad_in_loss, mean_of_means, smoothing_over_pads, warmup_stands_still,
    half_optimizer, eval_forgotten, pieces_from_test, cross_to_itself, untied)}
