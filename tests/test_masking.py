"""Masks: by gradient, by output, against PyTorch, and against a bank of wrong ones."""

import dataclasses
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from course import masking
from course.attention import MultiHeadAttention, attention_weights, scaled_dot_product_attention
from course.masking import Batch, causal_mask, combine_masks, pad, padding_mask, shift_right
from course.viz import masking as draw

PAD, BOS, EOS = 7, 1, 2  # padding is not 0 here: nothing may take 0 for it
quick = settings(max_examples=40, deadline=None)
sentence = st.lists(st.integers(8, 30), min_size=0, max_size=7).map(lambda ids: [*ids, EOS])
sentence_pairs = st.lists(st.tuples(sentence, sentence), min_size=1, max_size=5)


def batch_of(pairs, pad_id=PAD, bos_id=BOS) -> Batch:
    return Batch.from_sequences([s for s, _ in pairs], [t for _, t in pairs], pad_id, bos_id)


@pytest.fixture
def layer() -> MultiHeadAttention:
    torch.manual_seed(0)
    return MultiHeadAttention(16, 4).double()


# --- pad -----------------------------------------------------------------------------------------


@quick
@given(st.lists(sentence, min_size=1, max_size=6), st.integers(-1, 7))
def test_pad_keeps_every_sentence_and_fills_up_on_the_right(sentences, pad_id):
    rows = pad(sentences, pad_id)
    assert rows.dtype == torch.long
    assert rows.shape == (len(sentences), max(map(len, sentences)))
    for row, ids in zip(rows.tolist(), sentences):
        assert row[: len(ids)] == ids
        assert set(row[len(ids) :]) <= {pad_id}


def test_pad_gives_integers_even_for_empty_sentences():
    assert pad([[], []], PAD).dtype == torch.long
    assert pad([[], []], PAD).shape == (2, 0)
    assert pad([[], [5]], PAD).tolist() == [[PAD], [5]]


def test_pad_refuses_a_batch_without_sentences():
    with pytest.raises(ValueError, match="no sequences to pad"):
        pad([], PAD)


def test_pad_accepts_tuples():
    assert pad([(3, 4), (5,)], PAD).tolist() == [[3, 4], [5, PAD]]


# --- padding_mask --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8])
@pytest.mark.parametrize("pad_id", [0, 1, 99])
def test_padding_mask_marks_what_is_not_padding(dtype, pad_id):
    tokens = torch.tensor([[5, 6, pad_id], [5, pad_id, pad_id]], dtype=dtype)
    mask = padding_mask(tokens, pad_id)
    assert mask.dtype == torch.bool and mask.shape == (2, 1, 1, 3)
    assert mask[:, 0, 0].tolist() == [[True, True, False], [True, False, False]]


def test_padding_mask_looks_at_the_pad_id_alone():
    tokens = torch.tensor([[0, 4, PAD]])
    assert padding_mask(tokens, PAD).flatten().tolist() == [True, True, False]


@quick
@given(st.lists(sentence, min_size=2, max_size=4))
def test_padding_changes_no_output(sentences):
    torch.manual_seed(0)
    layer, embedding = MultiHeadAttention(16, 4).double(), nn.Embedding(31, 16).double()
    tokens = pad(sentences, PAD)
    x = embedding(tokens)
    together = layer(x, x, x, padding_mask(tokens, PAD))
    for row, ids in zip(together, sentences):
        alone = embedding(torch.tensor([ids]))
        torch.testing.assert_close(row[: len(ids)], layer(alone, alone, alone)[0])


def test_without_the_mask_padding_does_change_the_output(layer):
    x = torch.randn(1, 3, 16, dtype=torch.double)
    padded = torch.cat([x, torch.randn(1, 2, 16, dtype=torch.double)], dim=1)
    careless = layer(padded, padded, padded)[:, :3]
    assert (careless - layer(x, x, x)).abs().max() > 1e-2


def test_no_gradient_reaches_padding_in_cross_attention(layer):
    src = torch.tensor([[5, 6, PAD, PAD]])
    memory = torch.randn(1, 4, 16, dtype=torch.double, requires_grad=True)
    query = torch.randn(1, 3, 16, dtype=torch.double)
    layer(query, memory, memory, padding_mask(src, PAD)).square().sum().backward()
    assert (memory.grad[0, 2:] == 0).all() and (memory.grad[0, :2] != 0).any(-1).all()


# --- causal_mask ---------------------------------------------------------------------------------


@quick
@given(st.integers(0, 12))
def test_causal_mask_is_the_lower_triangle(size):
    mask = causal_mask(size)
    assert mask.dtype == torch.bool and mask.shape == (1, 1, size, size)
    assert mask[0, 0].tolist() == [[j <= i for j in range(size)] for i in range(size)]


def test_causal_mask_is_made_on_the_device_asked_for():
    assert causal_mask(3, "meta").device.type == "meta"
    assert causal_mask(3, torch.device("cpu")).device.type == "cpu"


@pytest.mark.parametrize("length", [1, 2, 7])
def test_no_gradient_comes_from_the_future(layer, length):
    x = torch.randn(1, length, 16, dtype=torch.double, requires_grad=True)
    output = layer(x, x, x, causal_mask(length))
    for i in range(length):
        (gradient,) = torch.autograd.grad(output[0, i].square().sum(), x, retain_graph=True)
        assert (gradient[0, i + 1 :] == 0).all()
        assert (gradient[0, : i + 1] != 0).any(-1).all()


@quick
@given(st.integers(1, 9), st.data())
def test_later_words_do_not_move_earlier_outputs(length, data):
    cut = data.draw(st.integers(1, length))
    torch.manual_seed(length)
    layer = MultiHeadAttention(16, 4)
    x = torch.randn(1, length, 16)
    other = x.clone()
    other[:, cut:] = torch.randn_like(other[:, cut:]) * 100
    mask = causal_mask(length)
    assert torch.equal(layer(x, x, x, mask)[:, :cut], layer(other, other, other, mask)[:, :cut])


def test_one_pass_equals_step_by_step(layer):
    x = torch.randn(2, 6, 16, dtype=torch.double)
    in_one_pass = layer(x, x, x, causal_mask(6))
    steps = [layer(x[:, :t], x[:, :t], x[:, :t])[:, -1] for t in range(1, 7)]
    torch.testing.assert_close(in_one_pass, torch.stack(steps, dim=1))
    everything = layer(x, x, x)
    assert (everything - torch.stack(steps, dim=1)).abs().max() > 1e-2


# --- combine_masks -------------------------------------------------------------------------------


def test_combining_nothing_restricts_nothing():
    assert combine_masks() is None
    assert combine_masks(None, None) is None
    mask = causal_mask(3)
    assert torch.equal(combine_masks(None, mask, None), mask)


@quick
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 99))
def test_combined_masks_allow_what_all_allow(count, size, seed):
    torch.manual_seed(seed)
    tokens = torch.where(torch.rand(count, size) < 0.4, PAD, 9)
    both = combine_masks(padding_mask(tokens, PAD), None, causal_mask(size))
    assert both.shape == (count, 1, size, size) and both.dtype == torch.bool
    for b in range(count):
        for i in range(size):
            for j in range(size):
                assert both[b, 0, i, j].item() == (tokens[b, j].item() != PAD and j <= i)


def test_combining_leaves_its_arguments_alone():
    padding, causal = padding_mask(torch.tensor([[5, PAD]]), PAD), causal_mask(2)
    combine_masks(padding, causal)
    assert padding.flatten().tolist() == [True, False] and torch.equal(causal, causal_mask(2))


# --- shift_right ---------------------------------------------------------------------------------


@quick
@given(st.integers(1, 4), st.integers(1, 6), st.sampled_from([torch.int64, torch.int32]))
def test_shift_right_moves_every_token_one_place(count, length, dtype):
    tgt = torch.arange(count * length).reshape(count, length).to(dtype)
    before = tgt.clone()
    shifted = shift_right(tgt, BOS)
    assert shifted.dtype == dtype and shifted.shape == tgt.shape
    assert (shifted[:, 0] == BOS).all() and torch.equal(shifted[:, 1:], tgt[:, :-1])
    assert torch.equal(tgt, before)


def test_shift_right_of_nothing_is_nothing():
    assert shift_right(torch.zeros(2, 0, dtype=torch.long), BOS).shape == (2, 0)


# --- Batch ---------------------------------------------------------------------------------------


@quick
@given(sentence_pairs, st.sampled_from([0, 7, 50]))
def test_batch_says_what_the_sentences_say(pairs, pad_id):
    batch = batch_of(pairs, pad_id)
    count = len(pairs)
    s, t = max(len(src) for src, _ in pairs), max(len(tgt) for _, tgt in pairs)
    assert batch.src.shape == (count, s) and batch.src_mask.shape == (count, 1, 1, s)
    assert batch.tgt_in.shape == batch.tgt_out.shape == (count, t)
    assert batch.tgt_mask.shape == (count, 1, t, t)
    assert batch.n_tokens == sum(len(tgt) for _, tgt in pairs)
    assert isinstance(batch.n_tokens, int)
    for b, (src, tgt) in enumerate(pairs):
        assert batch.src[b, : len(src)].tolist() == src
        assert batch.src_mask[b].sum() == len(src)
        assert batch.tgt_out[b, : len(tgt)].tolist() == tgt
        assert batch.tgt_in[b, : len(tgt)].tolist() == [BOS, *tgt[:-1]]
    before = torch.ones(t, t, dtype=torch.bool).tril()
    assert torch.equal(batch.tgt_mask, before & (batch.tgt_in != pad_id)[:, None, None, :])
    assert batch.tgt_mask.any(-1).all() and batch.src_mask.any(-1).all()  # no empty row


@quick
@given(sentence_pairs)
def test_a_batch_passes_the_checker(pairs):
    assert check(batch_of(pairs)) == []


def test_batch_is_frozen_and_compares_by_identity():
    batch, same = batch_of([([5, EOS], [6, EOS])]), batch_of([([5, EOS], [6, EOS])])
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.src = batch.tgt_out
    assert batch == batch and batch != same and hash(batch)  # tensors have no single truth value


def test_batch_moves_all_its_tensors():
    batch = batch_of([([5, EOS], [6, 8, EOS])])
    moved = batch.to("meta")
    for field in dataclasses.fields(Batch):
        value = getattr(moved, field.name)
        if field.name == "n_tokens":
            assert value == 3
        else:
            assert value.device.type == "meta"
            assert value.shape == getattr(batch, field.name).shape
    assert batch.src.device.type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batch_on_a_gpu_passes_the_checker_after_the_way_back():
    batch = batch_of([([5, EOS], [6, 8, EOS]), ([5, 9, 10, EOS], [6, EOS])]).to("cuda")
    assert batch.tgt_mask.is_cuda and check(batch.to("cpu")) == []


def test_batch_refuses_sentences_without_partners():
    with pytest.raises(ValueError, match="2 sources but 1 targets"):
        Batch.from_sequences([[5, EOS], [6, EOS]], [[5, EOS]], PAD, BOS)


def test_batch_refuses_a_start_token_that_is_padding():
    with pytest.raises(ValueError, match="bos_id and pad_id are both 7"):
        Batch.from_sequences([[5, EOS]], [[5, EOS]], pad_id=PAD, bos_id=PAD)


def test_batch_refuses_no_sentences():
    with pytest.raises(ValueError, match="no sequences"):
        Batch.from_sequences([], [], PAD, BOS)


# --- a checker, and the bank of wrong masks that it must catch -----------------------------------


def check(batch: Batch) -> list[str]:
    """Return what is wrong with a batch, found by use: by gradient and by counting."""
    torch.manual_seed(0)
    layer = MultiHeadAttention(8, 2).double()
    wrong = []
    for name in ("src_mask", "tgt_mask"):
        if getattr(batch, name).dtype != torch.bool:
            return [f"{name} is not boolean"]
    real_src, real_tgt = batch.src != PAD, batch.tgt_out != PAD
    if not torch.equal(batch.tgt_in, shift_right(batch.tgt_out, BOS)):
        wrong.append("tgt_in is not tgt_out shifted")
    if batch.n_tokens != real_tgt.sum():
        wrong.append("n_tokens counts padding")
    length = batch.tgt_in.size(1)
    cases = [
        ("src_mask", batch.src, real_src, torch.ones_like(real_src[:, :, None])),
        ("tgt_mask", batch.tgt_in, real_tgt, torch.ones(1, length, length).tril().bool()),
    ]
    for name, tokens, asked, order in cases:
        x = torch.randn(*tokens.shape, 8, dtype=torch.double, requires_grad=True)
        output = layer(x, x, x, getattr(batch, name))
        may = (order & (tokens != PAD)[:, None, :]).expand(-1, tokens.size(1), -1)  # (B, Q, K)
        for b, i in asked.nonzero().tolist():
            (gradient,) = torch.autograd.grad(output[b, i].square().sum(), x, retain_graph=True)
            reached = (gradient[b] != 0).any(-1)
            others = torch.arange(len(reached)) != i  # its own word also comes in as the query
            if (reached & ~may[b, i] & others).any():
                wrong.append(f"{name}: a query reads what it must not")
            if (may[b, i] & ~reached).any():
                wrong.append(f"{name}: a query is kept from what it may read")
    return sorted(set(wrong))


def replaced(**changes):
    return lambda b: dataclasses.replace(b, **{k: make(b) for k, make in changes.items()})


def causal_like(triangle):
    """Return a mutation: the target mask made from another triangle."""
    return replaced(
        tgt_mask=lambda b: (
            padding_mask(b.tgt_in, PAD) & triangle(torch.ones(1, 1, *[b.tgt_in.size(1)] * 2).bool())
        )
    )


WRONG = {
    "inverted source mask": replaced(src_mask=lambda b: ~b.src_mask),
    "inverted target mask": replaced(tgt_mask=lambda b: ~b.tgt_mask),
    "no causal mask": causal_like(lambda m: m),
    "upper triangle": causal_like(lambda m: m.triu()),
    "one place too far": causal_like(lambda m: m.tril(1)),
    "one place too few": causal_like(lambda m: m.tril(-1)),
    "target mask transposed": replaced(tgt_mask=lambda b: b.tgt_mask.transpose(-2, -1)),
    "0/1 floats, added": replaced(tgt_mask=lambda b: b.tgt_mask.float()),
    "source padding on the query axis": replaced(
        src_mask=lambda b: padding_mask(b.src, PAD).transpose(-2, -1)
    ),
    "no source mask": replaced(src_mask=lambda b: torch.ones_like(b.src_mask)),
    "padding by the wrong id": replaced(src_mask=lambda b: padding_mask(b.src, 0)),
    "eos taken for padding": replaced(
        src_mask=lambda b: padding_mask(b.src, PAD) & padding_mask(b.src, EOS)
    ),
    "padding counted": replaced(n_tokens=lambda b: b.tgt_out.numel()),
    "tgt_in counted": replaced(n_tokens=lambda b: int((b.tgt_in != PAD).sum())),
    "not shifted": replaced(tgt_in=lambda b: b.tgt_out),
    "shifted twice": replaced(tgt_in=lambda b: shift_right(b.tgt_in, BOS)),
    "shifted left": replaced(tgt_in=lambda b: b.tgt_out.roll(-1, 1)),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_checker_catches(name):
    pairs = [([8, 9, 10, EOS], [11, EOS]), ([8, EOS], [11, 12, 13, 14, EOS])]
    batch = batch_of(pairs)
    assert check(batch) == []
    assert check(WRONG[name](batch)) != []


# --- traps: rows that may see nothing ------------------------------------------------------------


ROW = torch.tensor([[True, True, False, False], [False] * 4])
SCORES = torch.tensor([[1.0, 0.5, 2.0, 1.5]] * 2)
KEY = SCORES[:1].T  # with d_k = 1 and a query of ones, the scores are the keys


def test_a_row_without_keys_is_zero_forward_and_backward(layer):
    x = torch.randn(2, 5, 16, dtype=torch.double, requires_grad=True)
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    mask[0, :, 2] = False
    output = layer(x, x, x, mask)
    assert (output[0, 2] == 0).all()
    output.sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_explicit_and_fused_attention_agree_on_rows_without_keys():
    query, value = torch.ones(2, 1, requires_grad=True), torch.eye(4)
    ours, _ = scaled_dot_product_attention(query, KEY, value, ROW)
    fused = F.scaled_dot_product_attention(
        query[None, None], KEY[None, None], value[None, None], attn_mask=ROW
    )[0, 0]
    torch.testing.assert_close(ours, fused)
    assert (ours[1] == 0).all()
    (gradient,) = torch.autograd.grad(ours.square().sum(), query)
    assert gradient.isfinite().all() and (gradient[1] == 0).all()


def test_minus_infinity_by_hand_gives_nan():
    weights = SCORES.masked_fill(~ROW, float("-inf")).softmax(-1)
    torch.testing.assert_close(weights[0], attention_weights(torch.ones(1, 1), KEY, ROW[:1])[0])
    assert weights[1].isnan().all()


def test_minus_1e9_gives_the_mean_of_what_is_forbidden_and_overflows_in_half_precision():
    assert SCORES.masked_fill(~ROW, -1e9).softmax(-1)[1].tolist() == [0.25] * 4
    with pytest.raises(RuntimeError, match="overflow"):
        SCORES.half().masked_fill(~ROW, -1e9)
    added = SCORES[1].half() + torch.tensor(-1e9).half()
    assert added.softmax(-1).isnan().all()


def test_a_float_mask_of_0_and_1_is_added_not_applied():
    fused = F.scaled_dot_product_attention(
        torch.ones(1, 1, 2, 1), KEY[None, None], torch.eye(4)[None, None], attn_mask=ROW.float()
    )[0, 0]
    torch.testing.assert_close(fused, (SCORES + ROW.float()).softmax(-1))
    assert fused[0, 2:].sum() > 0.3  # forbidden keys


def test_masking_after_the_softmax_loses_weight():
    late = SCORES.softmax(-1) * ROW
    assert late[0].sum() < 0.9
    assert attention_weights(torch.ones(1, 1), KEY, ROW[:1]).sum() == pytest.approx(1.0)


# --- traps: is_causal, polarity, broadcasting ----------------------------------------------------


def seen(n_queries: int, n_keys: int, **how) -> torch.Tensor:
    query, key = torch.zeros(1, 1, n_queries, 8), torch.zeros(1, 1, n_keys, 8)
    value = torch.eye(n_keys)[None, None]
    return F.scaled_dot_product_attention(query, key, value, **how)[0, 0] > 0


def test_is_causal_is_our_mask_when_there_are_as_many_queries_as_keys():
    assert torch.equal(seen(5, 5, is_causal=True), causal_mask(5)[0, 0])


def test_is_causal_aligns_top_left_which_is_wrong_for_a_cached_step():
    assert seen(1, 5, is_causal=True).tolist() == [[True, False, False, False, False]]
    assert seen(1, 5, attn_mask=causal_mask(5)[:, :, -1:]).all()
    assert seen(2, 5, attn_mask=causal_mask(5)[:, :, -2:]).sum(-1).tolist() == [4, 5]


def test_mask_and_is_causal_together_are_refused_by_the_reference_kernel():
    with sdpa_kernel(SDPBackend.MATH), pytest.raises(RuntimeError, match="is_causal"):
        seen(4, 4, attn_mask=causal_mask(4), is_causal=True)


def foreign(layer: MultiHeadAttention) -> nn.MultiheadAttention:
    """Return PyTorch's module with the same weights."""
    theirs = nn.MultiheadAttention(16, 4, bias=False, batch_first=True).double()
    with torch.no_grad():
        packed = torch.cat([layer.w_q.weight, layer.w_k.weight, layer.w_v.weight])
        theirs.in_proj_weight.copy_(packed)
        theirs.out_proj.weight.copy_(layer.w_o.weight)
    return theirs


@pytest.mark.parametrize("need_weights", [True, False])
def test_masks_converted_at_the_border_give_the_same_answer(layer, need_weights):
    tokens = torch.tensor([[5, 6, 8, 9], [5, 6, PAD, PAD]])
    x = torch.randn(2, 4, 16, dtype=torch.double)
    expected = layer(x, x, x, combine_masks(padding_mask(tokens, PAD), causal_mask(4)))
    theirs, _ = foreign(layer)(
        x, x, x, attn_mask=~causal_mask(4)[0, 0], need_weights=need_weights,
        key_padding_mask=~padding_mask(tokens, PAD)[:, 0, 0],
    )
    torch.testing.assert_close(theirs, expected)


def test_the_wrong_polarity_is_silent_and_reads_the_future(layer):
    x = torch.randn(1, 4, 16, dtype=torch.double, requires_grad=True)
    wrong, _ = foreign(layer)(x, x, x, attn_mask=causal_mask(4)[0, 0], need_weights=False)
    assert wrong.isfinite().all()
    assert (wrong - layer(x, x, x, causal_mask(4))).abs().max() > 1e-2
    (gradient,) = torch.autograd.grad(wrong[0, 0].square().sum(), x)
    assert (gradient[0, 1:] != 0).any()


def test_a_padding_mask_of_two_dimensions_broadcasts_in_torch_and_is_refused_here(layer):
    tokens = torch.tensor([[5, 6, 8], [5, 6, PAD], [5, PAD, PAD]])  # as many sentences as words
    x = torch.randn(3, 1, 3, 16, dtype=torch.double)
    right = F.scaled_dot_product_attention(x, x, x, attn_mask=padding_mask(tokens, PAD))
    flat = F.scaled_dot_product_attention(x, x, x, attn_mask=tokens != PAD)
    assert (flat - right).abs().max() > 1e-2
    for some in (tokens, tokens[:2], tokens[:1]):  # one sentence would be right by luck
        x = torch.randn(len(some), 3, 16, dtype=torch.double)
        for mask in (some != PAD, (some != PAD)[:, None]):
            with pytest.raises(ValueError, match=r"\(B, H, Q, K\) with a 1 for each"):
                layer(x, x, x, mask)


def test_the_masks_of_this_lesson_have_the_rank_of_the_scores(layer):
    tokens = torch.tensor([[5, 6, 8], [5, 6, PAD], [5, PAD, PAD]])
    padding, causal = padding_mask(tokens, PAD), causal_mask(3)
    x = torch.randn(3, 3, 16, dtype=torch.double)
    for mask in (padding, causal, combine_masks(padding, causal)):
        assert mask.dim() == 4 and layer(x, x, x, mask).shape == x.shape


def test_padding_on_the_left_under_a_causal_mask_leaves_rows_without_keys():
    tokens = torch.tensor([[PAD, PAD, 5, 6]])
    mask = combine_masks(padding_mask(tokens, PAD), causal_mask(4))
    assert mask.any(-1).flatten().tolist() == [False, False, True, True]


def test_the_module_states_what_it_exports():
    names = {"padding_mask", "causal_mask", "combine_masks", "shift_right", "pad", "Batch"}
    assert names <= set(vars(masking))
    for name in names:
        assert re.search(r"\w", getattr(masking, name).__doc__)


# --- the pictures --------------------------------------------------------------------------------


def test_a_mask_is_drawn_over_its_words_and_padding_is_set_apart():
    words = ["A", "cat", "<pad>"]
    figure = draw.masks({"one": (causal_mask(3)[0, 0], words, words)}, "title")
    axis = figure.axes[0]
    assert [t.get_text() for t in axis.get_xticklabels()] == words
    assert [t.get_style() for t in axis.get_yticklabels()] == ["normal", "normal", "italic"]
    assert axis.collections[0].get_array().reshape(3, 3).tolist() == causal_mask(3)[0, 0].tolist()
    assert axis.yaxis_inverted()


def test_panels_without_a_mask_stay_empty():
    panel = (causal_mask(2)[0, 0], ["a", "b"], ["a", "b"])
    figure = draw.masks({"1": panel, "2": panel, "3": panel}, "title")
    assert [axis.get_visible() for axis in figure.axes] == [True, True, True, False]


def test_broadcasting_draws_strip_triangle_and_both_for_each_sentence():
    tokens = torch.tensor([[5, 6, PAD], [5, 6, 8]])
    figure = draw.broadcast(padding_mask(tokens, PAD), causal_mask(3), [["a"] * 3] * 2)
    tables = [axis.collections[0].get_array().reshape(3, 3) for axis in figure.axes]
    assert len(tables) == 6
    both = combine_masks(padding_mask(tokens, PAD), causal_mask(3))
    assert (tables[2] == both[0, 0].numpy()).all() and (tables[5] == both[1, 0].numpy()).all()


def test_exercises_name_what_each_row_must_predict():
    figure = draw.exercises(causal_mask(2)[0, 0], ["<s>", "A"], ["A", "cat"], "title")
    assert {"→ A", "→ cat"} <= {text.get_text() for text in figure.axes[0].texts}


def test_learning_curves_draw_both_losses_and_the_levels():
    run = {"steps": [0, 1, 2], "train": [3.0, 2, 1], "checked": [0, 2], "alone": [3.0, 4]}
    figure = draw.learning_curves({"a": run, "b": run}, {"level": 2.5}, "title")
    assert len(figure.axes) == 2 and len(figure.axes[0].lines) == 3
    assert figure.axes[0].get_ylabel() == "loss (nats per word)"


def test_influence_leaves_exact_zeros_white_with_a_dot():
    table = torch.tensor([[1.0, 0.0], [0.5, 2.0]])
    figure = draw.influence({"a": table}, ["x", "y"], "title")
    axis = figure.axes[0]
    assert axis.collections[0].get_array().mask.reshape(2, 2).tolist() == [[0, 1], [0, 0]]
    assert axis.lines[0].get_xydata().tolist() == [[1.5, 0.5]]


def test_ways_write_every_weight_and_nan():
    rows = {"a": [torch.tensor([0.25, 0.75])], "b": [torch.tensor([float("nan")] * 2)]}
    figure = draw.ways(rows, ["column"], ["k1", "k2"], "title")
    assert [t.get_text() for t in figure.axes[0].texts] == ["0.25", "0.75", "NaN", "NaN"]


def test_rectangles_are_as_wide_as_their_longest_sentence():
    figure = draw.rectangles({"a": [3, 5], "b": [2, 2]}, "title")
    ends = [max(p.get_x() + p.get_width() for p in axis.patches) for axis in figure.axes]
    assert ends == [5, 2]


def test_drawn_figures_are_closed():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    draw.rectangles({"a": [1]}, "title")
    assert plt.get_fignums() == before
