"""Right values that cut the gradient: every check of a trained function sees it and says why."""

import math

import pytest
import torch
from bank import accepted, cutters, rejected
from exam_bank import toy
from test_attention_homework import (
    MERGE_RIGHT,
    SOFTMAX_RIGHT,
    SPLIT_RIGHT,
    MultiHead,
    masked,
    sdpa,
    variant,
)
from test_foundations_homework import gru_chunk, lstm_chunk
from test_seq2seq_homework import by_matrices
from test_training_homework import loss_by_gather
from test_transformer_homework import FEED_RIGHT, Decoder, Encoder, norm
from torch import nn

from course.homework.checking import (
    Candidate,
    Case,
    Exercise,
    Wrong,
    examine,
    function_exam,
    normal,
)
from course.homework.exercises import EXERCISES
from course.homework.exercises.exam import Probe, every_weight_learns

RIGHT = {
    "softmax": SOFTMAX_RIGHT["shifted"],
    "scaled_dot_product_attention": sdpa,
    "split_heads": SPLIT_RIGHT["unflatten"],
    "merge_heads": MERGE_RIGHT["flatten"],
    "additive_attention": by_matrices,
    "lstm_cell": lstm_chunk,
    "gru_cell": gru_chunk,
    "layer_norm": norm,
    "feed_forward": FEED_RIGHT["matmul"],
    "label_smoothing_loss": loss_by_gather,
}
WAYS = [(name, way) for name, right in RIGHT.items() for way in cutters(right)]


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_right_values_without_a_gradient_are_rejected(name, way):
    candidate, verdict = cutters(RIGHT[name])[way]
    rejected(name, candidate, f"^You cut the gradient: the values are right, but .*{verdict}")


def scores_of(query, key):
    return query @ key.mT / math.sqrt(query.size(-1))


def weights_detached(query, key, value, mask=None):
    scores = scores_of(query, key)
    weights = scores.softmax(-1) if mask is None else masked(scores, mask)
    return weights.detach() @ value, weights


def values_detached(query, key, value, mask=None):
    return sdpa(query, key, value.detach(), mask)


def key_data(query, key, value, mask=None):
    return sdpa(query, key.data, value, mask)


def in_a_helper(query, key, value, mask=None):
    return weights_detached(query, key, value, mask)


def shown_weights_detached(query, key, value, mask=None):
    output, weights = sdpa(query, key, value, mask)
    return output, weights.detach()  # to look at: nothing learns through them


PARTS = {
    "weights": (weights_detached, r"nothing flows back to query.*\.detach\(\) cuts"),
    "values": (values_detached, r"nothing flows back to value.*\.detach\(\) cuts"),
    "key": (key_data, r"nothing flows back to key.*\.data cuts"),
    "in a helper": (in_a_helper, r"\.detach\(\) cuts"),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_cut_off_is_named(part):
    rejected("scaled_dot_product_attention", *PARTS[part])


def test_weights_that_are_only_shown_may_be_detached():
    accepted("scaled_dot_product_attention", shown_weights_detached)


class DetachedKeys(MultiHead):
    def forward(self, query, key, value, mask=None):
        return super().forward(query, key.detach(), value, mask)


HEADS = {
    "weights": (variant(attend=lambda q, k, v, m: weights_detached(q, k, v, m)[0]),
                "You cut the gradient.*flows back to query"),
    "keys": (DetachedKeys, "You cut the gradient.*nothing flows back to key"),
}


@pytest.mark.parametrize("part", HEADS)
def test_several_heads_learn_through_every_part(part):
    rejected("MultiHeadAttention", *HEADS[part])


def lstm_old_state(x, h, c, w_x, w_h, b):
    return lstm_chunk(x, h, c.detach(), w_x, w_h, b)


def lstm_shown_state(x, h, c, w_x, w_h, b):
    h, c = lstm_chunk(x, h, c, w_x, w_h, b)
    return h, c.detach()


@pytest.mark.parametrize("candidate", [lstm_old_state, lstm_shown_state])
def test_both_states_of_an_lstm_carry_the_gradient(candidate):
    rejected("lstm_cell", candidate, r"You cut the gradient.*\.detach\(\) cuts")


class HalfCut(Encoder):
    """Right values, and every weight gets some gradient: only its size is wrong."""

    def forward(self, x, mask):
        return super().forward((x + x.detach()) / 2, mask)


class HalfCutMemory(Decoder):
    def forward(self, x, memory, src_mask, tgt_mask):
        return super().forward(x, (memory + memory.detach()) / 2, src_mask, tgt_mask)


@pytest.mark.parametrize(
    ("name", "layer", "part"),
    [("EncoderLayer", HalfCut, "x"), ("DecoderLayer", HalfCutMemory, "memory")],
)
def test_a_layer_is_measured_where_it_has_no_reference(name, layer, part):
    rejected(name, layer, rf"cut the gradient.*back to {part} is not right.*\.detach\(\) cuts")


def split_by_loops(x, n_heads):
    B, L, D = x.shape
    result = torch.empty(B, n_heads, L, D // n_heads, dtype=x.dtype)
    for b in range(B):
        for h in range(n_heads):
            for i in range(L):
                for j in range(D // n_heads):
                    result[b, h, i, j] = x[b, i, h * (D // n_heads) + j]
    return result


def merge_by_stack(x):
    return torch.stack([torch.stack([torch.cat([x[b, h, i] for h in range(x.size(1))])
                                     for i in range(x.size(2))]) for b in range(x.size(0))])


def softmax_with_a_detached_maximum(x, dim):
    e = (x - x.detach().amax(dim, keepdim=True)).exp()  # the shift changes nothing, nor its slope
    return e / e.sum(dim, keepdim=True)


@pytest.mark.parametrize(
    ("name", "candidate"),
    [("split_heads", split_by_loops), ("merge_heads", merge_by_stack),
     ("softmax", softmax_with_a_detached_maximum)],
)
def test_loops_and_harmless_detaching_pass(name, candidate):
    accepted(name, candidate)


def double(x):
    return double(x) if False else 2 * x.detach()  # names itself: the search for causes ends


def test_a_case_can_be_left_out():
    def exercise(learn: bool) -> Exercise:
        def cases(generator):
            yield Case("a row", (normal(generator, 3),), learn=learn)

        exam = function_exam(lambda x: 2 * x, cases, learns=lambda result: result)
        return Exercise("double", "", "double(x)", "", "", 1, 1, ("", "", ""), exam)

    assert "cut the gradient" in examine(exercise(True), double, 1).message
    assert examine(exercise(False), double, 1) is None


def test_modules_are_not_searched_for_causes_without_end():
    class Silent(nn.Module):
        def forward(self, x):
            return x

    rejected("MultiHeadAttention", lambda d_model, n_heads: Silent(), "called|has no w_q")


class HalfTrained(nn.Module):
    """A whole model with right logits, half of whose gradient is thrown away."""

    def __init__(self, *sizes):
        super().__init__()
        self.model = toy()(*sizes)

    def forward(self, *args):
        logits = self.model(*args)
        return (logits + logits.detach()) / 2


def test_the_exam_measures_slopes_too():
    def slopes(thing):
        candidate = Candidate(thing, EXERCISES["build_transformer"])
        every_weight_learns(Probe(candidate, torch.Generator().manual_seed(3)))

    slopes(toy())
    with pytest.raises(Wrong, match=r"cut the gradient.*is not right.*\.detach\(\) cuts"):
        slopes(HalfTrained)
