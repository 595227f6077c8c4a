"""The exam, against Transformers of many makes and against such with one organ missing."""

import logging
import random
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from exam_bank import (
    HandMadeTransformer,
    PackedTransformer,
    RotaryTransformer,
    Toy,
    WithoutDevice,
    toy,
)
from torch import nn

from course.homework.checking import Wrong, examine
from course.homework.exercises import exam

EXAM = exam.EXAM
ORGANS = replace(EXAM, examine=exam.examine_organs)  # all but the training


class Unscaled(Toy):
    """First weights far too large: the organs are right all the same."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter)


class Silent(Toy):
    """First weights that are zero wherever one may set them so."""

    def __init__(self, *sizes):
        super().__init__(*sizes, order="pre", positions="learned")
        for name, parameter in self.named_parameters():
            if name.endswith(("w_o.weight", "w_2.weight", "table", "w_vocab.weight")):
                nn.init.zeros_(parameter)


class Keeper(Toy):
    """Keeps what has nothing to do with weights, and leads back to itself."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.log, self.random, self.note = logging.getLogger("exam"), random, SimpleNamespace()
        self.note.again = self.note


RIGHT = {
    "post-norm": toy(),
    "pre-norm": toy(order="pre"),
    "pre-norm, no final norm": toy("final norm", order="pre"),
    "packed QKV, pre-norm, no bias, learned positions": PackedTransformer,
    "a loop over heads, gated, frozen sinusoids, tied": HandMadeTransformer,
    "rotary, one key for all heads, RMSNorm, tanh": RotaryTransformer,
    "RMSNorm, no bias": toy(order="pre", norm="rms", bias=False),
    "mask made (B, 1, 1, S) again": toy("key padding"),
    "a causal mask of its own besides": toy("own causal besides"),
    "-1e9": toy("big"),
    "log_softmax": toy("log_softmax"),
    "log_softmax, pre-norm, tied to nothing": toy("log_softmax", order="pre"),
    "a table that is no buffer": toy(positions="attribute"),
    "positions from the CPU": WithoutDevice,
    "GELU": toy("ff: gelu"),
    "learned": toy(positions="learned"),
    "large first weights": Unscaled,
    "first weights of zero": Silent,
    "a logger, a module, a circle": Keeper,
}
TRAINED = [name for name in RIGHT if name.startswith(("post-norm", "packed", "a loop", "rotary"))]


# the exam asks those that are trained for their organs, too
SHORT = ["pre-norm", "pre-norm, no final norm"]


@pytest.mark.parametrize("style", [
    pytest.param(name, marks=() if name in SHORT else pytest.mark.long) for name in RIGHT
])
def test_organs_are_accepted(style: str):
    for seed in (1, 2):
        wrong = examine(ORGANS, RIGHT[style], seed)
        assert wrong is None, wrong.message


@pytest.mark.parametrize("style", [pytest.param(name, marks=pytest.mark.long) if "loop" in name
                                   else name for name in TRAINED])
def test_exam_is_passed(style: str):
    wrong = examine(EXAM, RIGHT[style], 3)
    assert wrong is None, wrong.message


# what is broken: a word of the message; in post-norm and in pre-norm models
BROKEN = {
    "encoder: positions": "Positions are missing in the encoder",
    "decoder: positions": "Positions are missing in the decoder",
    "positions by sentence": "position is dimension 1",
    "tgt_mask": "No causal mask",
    "src_mask": "src_mask is ignored",
    "encoder: src_mask": "src_mask is ignored",
    "cross: src_mask": "src_mask is ignored",
    "own causal only": "ignore tgt_mask",
    "inverted": "Both masks are inverted",
    "tgt inverted": "tgt_mask is inverted",
    "src inverted": "src_mask is inverted",
    "exchanged": "masks are exchanged",
    "added": "added as 0 and 1",
    "first sentence": "mixes the sentences",
    "cross-attention": "Cross-attention is missing",
    "cross on itself": "looks at the decoder itself",
    "encoder: self-attention": "No self-attention in the encoder",
    "decoder: self-attention": "No self-attention in the decoder",
    "encoder bypassed": "does not read the encoder's output",
    "encoder: residual": "No residual around the encoder's self-attention",
    "decoder: residual": "No residual around the decoder's self-attention",
    "encoder: self residual": "No residual around the encoder's self-attention",
    "decoder: self residual": "No residual around the decoder's self-attention",
    "cross residual": "No residual around cross-attention",
    "encoder: ff residual": "residual around the feed-forward network in the encoder",
    "decoder: ff residual": "residual around the feed-forward network in the decoder",
    "norm": "No normalisation in the decoder",
    "encoder: norm": "No normalisation in the encoder",
    "decoder: norm": "No normalisation in the decoder",
    "encoder: inner norms": "No normalisation in the encoder",
    "decoder: inner norms": "No normalisation in the decoder",
    "norm: centred": "No normalisation",
    "norm: words": "or a norm over the words",
    "feed-forward": "the feed-forward network is missing",
    "encoder: feed-forward": "No feed-forward in the encoder",
    "decoder: feed-forward": "No feed-forward in the decoder",
    "encoder: ff: none": "feed-forward network in the encoder is linear",
    "decoder: ff: none": "feed-forward network in the decoder is linear",
    "encoder: norm 0": "A normalisation is missing in the encoder",
    "encoder: norm 2": "A normalisation is missing in the encoder",
    "decoder: norm 0": "A normalisation is missing in the decoder",
    "decoder: norm 1": "A normalisation is missing in the decoder",
    "decoder: norm 2": "A normalisation is missing in the decoder",
    "no w_o": "missing in the decoder's self-attention and in the encoder's .* and in cross-",
    "decoder: self: no w_o": "projection is missing in the decoder's self-attention: ",
    "encoder: self: no w_o": "missing in the encoder's self-attention or cross-attention: ",
    "cross: no w_o": "missing in the encoder's self-attention or cross-attention: ",
    "no w_v": "A projection is missing",
    "encoder: same layer": r"your encoder has equally many .*\[layer\] \* n",
    "decoder: same layer": r"your decoder has equally many .*\[layer\] \* n",
    "eight heads": "n_heads is ignored in the decoder's self-attention: .* more patterns",
    "cross: eight heads": "n_heads is ignored in cross-attention: .* more patterns",
    "inverted, big": "Both masks are inverted",
    "split by view": "With one head your masks hide what they should",
    "merged by view": "With one head your masks hide what they should",
    "mask after softmax": "applied after the softmax",
    "cross residual to the input": "adds to the result of self-attention",
    "one layer": r"your decoder runs 1\. Is",
    "encoder: one layer": "your encoder runs 1",
    "decoder: one layer": "your decoder runs 1",
    "encoder: runs one": "your encoder runs 1",
    "decoder: runs one": "your decoder runs 1",
    "encoder: one head": "n_heads is ignored in the encoder's self-attention",
    "decoder: one head": "n_heads is ignored in the decoder's self-attention",
    "cross: one head": "n_heads is ignored in cross-attention",
    "shared pattern": "there is 1 pattern",
}
# the same in both orders of the norm
FAULTS = {
    "positions": "Positions are missing",
    "self-attention": "No self-attention",
    "residual": "No residual",
    "ff: late": "is linear",
    "ff: unused": "feed_forward.w_1.weight gets no gradient",
    "list": "Toy.encoder keeps modules in a list .* nn.ModuleList",
    "in place": "^You change argument 1 in place",
    "padded": "output projection is missing",
    "causal, one more": "off by one: each position",
    "same layer": r"\[layer\] \* n",
    "one head": "n_heads is ignored",
    "one head, wrong scale": "n_heads is ignored",
    "mean": "do not come from a softmax|w_q.weight gets no gradient",
    "no softmax": "do not come from a softmax",
    "over queries": "softmax over the queries",
    "frozen": "is frozen",
    "frozen embedding": "src_embedding.weight is frozen",
    "detached": "detaches it",
    "projection": "output projection is missing",
    "softmax": "You apply softmax to the output",
    "relu": "an activation follows",
    "batch of one": "you lose all sentences but one",
    "transposed": "exchange the last two",
    "tuple": "returns a tuple",
    "nan": "NaN",
    "length": "60 words must fit",
    "float32": r"After model.double\(\)",
    "dropout in eval": "dropout must stop",
}


def rejected(candidate: object, misconception: str, seed: int = 1) -> Wrong:
    wrong = examine(ORGANS, candidate, seed)
    assert wrong is not None, "a model with something missing passed"
    assert re.search(misconception, wrong.message), wrong.message
    return wrong


@pytest.mark.parametrize("order", ["post", "pre"])
@pytest.mark.parametrize("organ", BROKEN)
def test_every_organ_is_missed(organ: str, order: str):
    rejected(toy(organ, order=order), BROKEN[organ])


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(fault: str):
    rejected(toy(fault), FAULTS[fault], seed=2)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_a_missing_network_is_named_where_its_norm_stays(side: str):
    rejected(toy(f"{side}: feed-forward", "norms stay"), f"No feed-forward in the {side}")


def test_a_causal_mask_without_its_diagonal_is_off_by_one():
    rejected(toy("causal, one less", "big"), "off by one: position 0")


@pytest.mark.parametrize(
    "organ", ["encoder: self-attention", "encoder: one head", "cross: one head"]
)
def test_organs_are_missed_behind_a_mask_of_another_shape(organ: str):
    """A model that makes (B, 1, 1, S) of any source mask can't be asked with one row a word."""
    rejected(toy(organ, "key padding"), re.sub(" in .*|^No ", "", BROKEN[organ]))


def ready_made(src_vocab, tgt_vocab, d_model, n_heads, d_ff, n_layers):
    class Ready(nn.Module):
        def __init__(self):
            super().__init__()
            self.src, self.tgt = nn.Embedding(src_vocab, d_model), nn.Embedding(tgt_vocab, d_model)
            sizes = d_model, n_heads, n_layers, n_layers, d_ff
            self.inner = nn.Transformer(*sizes, batch_first=True)
            self.out = nn.Linear(d_model, tgt_vocab)

        def forward(self, src, tgt_in, src_mask, tgt_mask):
            return self.out(self.inner(self.src(src), self.tgt(tgt_in), tgt_mask=~tgt_mask[0, 0]))

    return Ready()


class TorchsAttention(PackedTransformer):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.inner = nn.MultiheadAttention(sizes[2], sizes[3], batch_first=True)

    def forward(self, src, tgt_in, src_mask, tgt_mask):
        x = self.tgt(tgt_in)
        return self.head(self.inner(x, x, x)[0])


class OneVocabulary(Toy):
    def forward(self, src, tgt_in, src_mask, tgt_mask):
        self.tgt_embedding = self.src_embedding
        return super().forward(src, tgt_in, src_mask, tgt_mask)


class SameVocabulary(Toy):
    """Tables of the two languages exchanged: fails for one order of the sizes."""

    def __init__(self, src_vocab, tgt_vocab, *sizes):
        super().__init__(src_vocab, tgt_vocab, *sizes)
        self.src_embedding, self.tgt_embedding = self.tgt_embedding, self.src_embedding


class OneMask(Toy):
    def forward(self, src, tgt_in, mask):
        return super().forward(src, tgt_in, mask, mask)


class BatchNorm(Toy):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.extra = nn.BatchNorm1d(sizes[2])


OTHERS = {
    "nn.Transformer": (ready_made, "ready-made"),
    "nn.MultiheadAttention": (TorchsAttention, "ready-made"),
    "one vocabulary": (OneVocabulary, "vocabularies of their own"),
    "vocabularies exchanged": (SameVocabulary, "vocabularies of their own"),
    "BatchNorm": (BatchNorm, "BatchNorm mixes"),
    "not written": (lambda *sizes: None, "make it an nn.Module"),
    "a model, not its maker": (
        lambda src_vocab, tgt_vocab: Toy(src_vocab, tgt_vocab, 8, 2, 8, 1), "signature"),
    "one mask for all": (OneMask, "can't be called"),
}


@pytest.mark.parametrize("candidate", OTHERS)
def test_others_are_named(candidate: str):
    rejected(*OTHERS[candidate])


def test_the_table_shows_who_sees_whom():
    wrong = rejected(toy("encoder: self-attention"), "No self-attention in the encoder")
    assert wrong.expected.splitlines()[1] == "logits 0  . x x ."
    assert wrong.actual.splitlines()[1] == "logits 0  . x . ."


def test_a_model_that_does_not_learn(monkeypatch):
    monkeypatch.setattr(exam, "STEPS", 30)
    wrong = examine(replace(EXAM, examine=exam.learns_to_copy), toy(), 1)
    assert "does not learn to copy" in wrong.message
    assert wrong.expected.startswith("shape")
    assert wrong.actual.splitlines()[0] == wrong.expected.splitlines()[0]


def test_a_model_that_is_too_slow(monkeypatch):
    monkeypatch.setattr(exam, "PATIENCE", 0.1)
    wrong = examine(replace(EXAM, examine=exam.learns_to_copy), toy(), 1)
    assert "too slow" in wrong.message
