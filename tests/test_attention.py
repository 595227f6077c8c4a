"""course.attention against PyTorch's own, against wrong variants of itself, and its pictures."""

import copy
import math

import altair as alt
import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from torch import nn

from course.attention import (
    MultiHeadAttention,
    attention_weights,
    record_attention,
    scaled_dot_product_attention,
)
from course.viz import attention as draw

small = settings(max_examples=25, deadline=None)


def random(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_mask(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return a boolean mask in which every query may attend to its first key at least."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask[..., 0] = True
    return mask


def twin_of(ours: MultiHeadAttention, d_model: int) -> nn.MultiheadAttention:
    theirs = nn.MultiheadAttention(d_model, ours.n_heads, bias=False, batch_first=True).double()
    with torch.no_grad():
        packed = torch.cat([ours.w_q.weight, ours.w_k.weight, ours.w_v.weight])
        theirs.in_proj_weight.copy_(packed)
        theirs.out_proj.weight.copy_(ours.w_o.weight)
    return theirs


# ---- the function --------------------------------------------------------------------------


@small
@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 6), st.integers(1, 6),
    st.integers(1, 8), st.integers(1, 5), st.booleans(), st.integers(0, 999),
)
def test_equals_torch_for_any_shape(b, h, q, k, d_k, d_v, masked, seed):
    query, key, value = random(b, h, q, d_k, seed=seed), random(b, h, k, d_k), random(b, h, k, d_v)
    mask = random_mask(b, 1, q, k, seed=seed) if masked else None
    output, weights = scaled_dot_product_attention(query, key, value, mask)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(output, expected)
    assert weights.shape == (b, h, q, k)
    torch.testing.assert_close(weights.sum(-1), torch.ones(b, h, q, dtype=torch.float64))


@pytest.mark.parametrize("dtype, atol", [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_gradients_equal_torch(dtype, atol):
    made = [random(2, 3, n, 4, seed=n, dtype=dtype) for n in (4, 5, 5)]
    mask = random_mask(2, 1, 4, 5)
    ours = [t.clone().requires_grad_() for t in made]
    theirs = [t.clone().requires_grad_() for t in made]
    scaled_dot_product_attention(*ours, mask)[0].square().sum().backward()
    F.scaled_dot_product_attention(*theirs, attn_mask=mask).square().sum().backward()
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a.grad, b.grad, atol=10 * atol, rtol=1e-4)


def test_gradient_by_differences():
    inputs = [random(1, n, 3, seed=n).requires_grad_() for n in (2, 4, 4)]
    mask = torch.tensor([[[True, True, False, True], [False, True, True, False]]])
    assert torch.autograd.gradcheck(
        lambda q, k, v: scaled_dot_product_attention(q, k, v, mask)[0], inputs
    )


def test_softmax_gradient_is_p_times_one_minus_p():
    scores = random(6).requires_grad_()
    p = scores.softmax(-1)
    jacobian = torch.autograd.functional.jacobian(lambda s: s.softmax(-1), scores)
    torch.testing.assert_close(jacobian, torch.diag(p) - torch.outer(p, p))


@pytest.mark.parametrize("d_k", [4, 64, 1024])
def test_dot_products_have_variance_d_k_and_scores_one(d_k):
    query, key = random(400, 1, d_k, seed=1), random(400, 20, d_k, seed=2)
    assert (query @ key.mT).var().item() / d_k == pytest.approx(1, abs=0.1)
    log_ratio = attention_weights(query, key).log()
    spread = (log_ratio - log_ratio.mean(-1, keepdim=True)).var(unbiased=False) * 20 / 19
    assert spread.item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 5), (1, 1, 4, 5), (2, 1, 1, 5), (2, 3, 4, 5), (1, 3, 4, 1)]
)
def test_masks_broadcast_to_batch_heads_query_key(shape):
    query, key, value = random(2, 3, 4, 8), random(2, 3, 5, 8, seed=1), random(2, 3, 5, 6, seed=2)
    mask = random_mask(*shape)
    output, weights = scaled_dot_product_attention(query, key, value, mask)
    full = mask.expand(2, 3, 4, 5)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=full)
    torch.testing.assert_close(output, expected)
    assert not weights[~full].any() and (weights[full] > 0).all()


@pytest.mark.parametrize(
    "shape", [(), (4,), (4, 4), (4, 4, 4), (1, 4, 4), (1, 4, 4, 4, 4)]
)
def test_a_mask_that_has_not_the_rank_of_the_scores_is_refused(shape):
    query = random(4, 4, 4, 2)  # B = H = Q = K: any of these would broadcast without an error
    mask = torch.ones(shape, dtype=torch.bool)
    wanted = r"give it 4 dimensions, as the scores have, \(B, H, Q, K\)"
    for attend in (attention_weights, lambda q, k, m: scaled_dot_product_attention(q, k, k, m)):
        with pytest.raises(ValueError, match=wanted):
            attend(query, query, mask)
    layer, x = MultiHeadAttention(8, 4).double(), random(4, 4, 8)
    for call in (lambda: layer(x, x, x, mask), lambda: layer.weights(x, x, mask=mask)):
        with pytest.raises(ValueError, match=wanted):
            call()


def test_the_rank_of_a_mask_is_that_of_the_scores_for_any_rank():
    for rank, wanted in ((2, r"\(Q, K\)"), (3, r"\(B, Q, K\)"), (5, r"\(..., Q, K\)")):
        query = random(*[2] * rank)
        mask = torch.ones([2] * rank, dtype=torch.bool)
        assert attention_weights(query, query, mask).shape == mask.shape
        with pytest.raises(ValueError, match=f"give it {rank} dimensions, .* {wanted}"):
            attention_weights(query, query, mask[0])


def test_a_fully_masked_row_is_zeros_forward_and_finite_backward():
    mask = torch.tensor([[[True, False, True], [False, False, False]]])
    inputs = [random(1, n, 4, seed=n).requires_grad_() for n in (2, 3, 3)]
    output, weights = scaled_dot_product_attention(*inputs, mask)
    assert not weights[0, 1].any() and not output[0, 1].any()
    torch.testing.assert_close(
        output, F.scaled_dot_product_attention(*inputs, attn_mask=mask)
    )
    output.sum().backward()
    assert all(t.grad.isfinite().all() for t in inputs)
    assert not inputs[0].grad[0, 1].any()  # a query that saw nothing learns nothing


def test_what_others_give_for_a_fully_masked_row():
    scores, nothing = torch.zeros(1, 4), torch.zeros(1, 4, dtype=torch.bool)
    assert scores.masked_fill(~nothing, float("-inf")).softmax(-1).isnan().all()
    assert (scores.masked_fill(~nothing, -1e9).softmax(-1) == 0.25).all()
    with pytest.raises(RuntimeError):
        scores.half().masked_fill(~nothing, -1e9)  # does not fit


def test_half_precision_masks_do_not_overflow():
    query, key = random(1, 2, 8).half(), random(1, 3, 8).half()
    weights = attention_weights(query, key, torch.tensor([[[True, False, True], [False] * 3]]))
    assert weights.dtype == torch.float16 and weights.isfinite().all()
    assert not weights[0, 1].any()


def test_permutation():
    x, order = random(2, 7, 8), torch.randperm(7, generator=torch.Generator().manual_seed(0))
    output, _ = scaled_dot_product_attention(x, x, x)
    permuted, _ = scaled_dot_product_attention(x[:, order], x[:, order], x[:, order])
    torch.testing.assert_close(permuted, output[:, order])
    torch.testing.assert_close(
        scaled_dot_product_attention(x, x[:, order], x[:, order])[0], output
    )


# ---- traps of PyTorch's function -----------------------------------------------------------


def test_trap_a_float_mask_is_added_and_ours_refuses_it():
    query, key = random(1, 2, 3, 4), random(1, 2, 5, 4, seed=1)
    may = random_mask(3, 5)
    applied = F.scaled_dot_product_attention(query, key, key, attn_mask=may)
    added = F.scaled_dot_product_attention(query, key, key, attn_mask=may.double())
    assert not torch.allclose(applied, added)
    by_hand = (query @ key.mT / 2 + may.double()).softmax(-1) @ key
    torch.testing.assert_close(added, by_hand)
    for wrong in (may.double(), may.int()):
        with pytest.raises(TypeError, match="boolean, True = may attend"):
            attention_weights(query, key, wrong[None, None])
        with pytest.raises(TypeError, match="boolean, True = may attend"):
            MultiHeadAttention(4, 2).double()(query[0], key[0], key[0], wrong[None, None])


def test_trap_dropout_acts_in_eval_too():
    x = random(1, 1, 50, 4)
    dropped = F.scaled_dot_product_attention(x, x, x, dropout_p=0.5)
    assert not torch.allclose(dropped, F.scaled_dot_product_attention(x, x, x))


def test_trap_is_causal_aligns_top_left():
    query, key = random(1, 1, 2, 4), random(1, 1, 5, 4, seed=1)
    causal = F.scaled_dot_product_attention(query, key, key, is_causal=True)
    top_left = torch.ones(1, 1, 2, 5, dtype=torch.bool).tril()
    cached_step = torch.ones(1, 1, 2, 5, dtype=torch.bool).tril(diagonal=3)
    torch.testing.assert_close(causal, scaled_dot_product_attention(query, key, key, top_left)[0])
    assert not torch.allclose(causal, scaled_dot_product_attention(query, key, key, cached_step)[0])


# ---- several heads -------------------------------------------------------------------------


@small
@given(
    st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 2, 4]),
    st.integers(1, 3), st.booleans(), st.integers(0, 999),
)
def test_equals_multihead_attention_of_torch(b, q, k, n_heads, d_k, masked, seed):
    d_model = n_heads * d_k
    torch.manual_seed(seed)
    ours = MultiHeadAttention(d_model, n_heads).double()
    theirs = twin_of(ours, d_model)
    x, memory = random(b, q, d_model, seed=seed), random(b, k, d_model, seed=seed + 1)
    real = random_mask(b, k, seed=seed) if masked else torch.ones(b, k, dtype=torch.bool)
    pairs = random_mask(q, k, seed=seed + 2) if masked else torch.ones(q, k, dtype=torch.bool)
    mask = real[:, None, None, :] & pairs
    output, weights = theirs(
        x, memory, memory, key_padding_mask=~real, attn_mask=~pairs, average_attn_weights=False
    )
    torch.testing.assert_close(ours(x, memory, memory, mask), output)
    torch.testing.assert_close(ours.weights(x, memory, memory, mask), weights)


def test_gradients_equal_multihead_attention_of_torch():
    torch.manual_seed(0)
    ours = MultiHeadAttention(12, 3).double()
    theirs = twin_of(ours, 12)
    x = random(2, 5, 12)
    ours(x, x, x).square().sum().backward()
    theirs(x, x, x)[0].square().sum().backward()
    packed = torch.cat([ours.w_q.weight.grad, ours.w_k.weight.grad, ours.w_v.weight.grad])
    torch.testing.assert_close(packed, theirs.in_proj_weight.grad)
    torch.testing.assert_close(ours.w_o.weight.grad, theirs.out_proj.weight.grad)


def test_forward_equals_its_own_weights_times_values():
    layer = MultiHeadAttention(12, 3).double()
    x, memory, mask = random(2, 4, 12), random(2, 6, 12, seed=1), random_mask(2, 1, 4, 6)
    value = layer.split_heads(layer.w_v(memory))
    heads = layer.weights(x, memory, mask=mask) @ value
    expected = layer.w_o(layer.merge_heads(heads))
    torch.testing.assert_close(layer(x, memory, memory, mask), expected)


def test_split_and_merge_are_inverse_and_keep_words_apart():
    layer, x = MultiHeadAttention(12, 3), random(2, 5, 12)
    split = layer.split_heads(x)
    assert split.shape == (2, 3, 5, 4)
    for head in range(3):
        assert torch.equal(split[:, head], x[..., 4 * head : 4 * head + 4])
    assert torch.equal(layer.merge_heads(split), x)


def test_key_and_value_widths_of_their_own():
    layer = MultiHeadAttention(10, 4, d_k=3, d_v=7)
    assert layer.w_q.weight.shape == layer.w_k.weight.shape == (12, 10)
    assert layer.w_v.weight.shape == (28, 10) and layer.w_o.weight.shape == (10, 28)
    x, memory = random(2, 5, 10).float(), random(2, 6, 10).float()
    assert layer(x, memory, memory).shape == (2, 5, 10)
    assert layer.weights(x, memory).shape == (2, 4, 5, 6)
    assert MultiHeadAttention(12, 4, d_k=2).w_v.weight.shape == (12, 12)


def test_error_names_the_sizes_and_the_way_out():
    with pytest.raises(ValueError, match="d_model=10 does not divide into n_heads=4.*d_k and d_v"):
        MultiHeadAttention(10, 4)
    with pytest.raises(ValueError, match="n_heads=4"):
        MultiHeadAttention(10, 4, d_k=2)


@pytest.mark.parametrize("n_heads", [1, 2, 4, 8])
def test_parameters_do_not_depend_on_the_heads(n_heads):
    layer = MultiHeadAttention(16, n_heads)
    assert sum(p.numel() for p in layer.parameters()) == 4 * 16 * 16
    assert sorted(dict(layer.named_parameters())) == [f"w_{c}.weight" for c in "koqv"]


# ---- wrong variants: each must be told from the right one ----------------------------------


class ViewSplit(MultiHeadAttention):
    def split_heads(self, x):
        return x.reshape(x.size(0), self.n_heads, x.size(1), -1)


class MergeWithoutTranspose(MultiHeadAttention):
    def merge_heads(self, x):
        return x.reshape(x.size(0), x.size(2), -1)


class Interleaved(MultiHeadAttention):
    def split_heads(self, x):
        return x.unflatten(-1, (-1, self.n_heads)).permute(0, 3, 1, 2)


class By(MultiHeadAttention):
    """Equation 1 written out, with one thing to spoil in a subclass."""

    def scores(self, query, key):
        return query @ key.mT / math.sqrt(query.size(-1))

    def normalise(self, scores, mask):
        return scores.masked_fill(~mask, float("-inf")).softmax(-1)

    def forward(self, query, key, value, mask=None):
        query, key, value = (
            self.split_heads(w(x))
            for w, x in ((self.w_q, query), (self.w_k, key), (self.w_v, value))
        )
        weights = self.normalise(self.scores(query, key), mask)
        return self.w_o(self.merge_heads(weights @ value))


class NoScale(By):
    def scores(self, query, key):
        return query @ key.mT


class ScaleByDk(By):
    def scores(self, query, key):
        return query @ key.mT / query.size(-1)


class ScaleByModel(By):
    def scores(self, query, key):
        return query @ key.mT / math.sqrt(query.size(-1) * self.n_heads)


class SoftmaxOverQueries(By):
    def normalise(self, scores, mask):
        return scores.masked_fill(~mask, float("-inf")).softmax(-2).nan_to_num()


class MaskInverted(By):
    def normalise(self, scores, mask):
        return scores.masked_fill(mask, float("-inf")).softmax(-1).nan_to_num()


class MaskAfterSoftmax(By):
    def normalise(self, scores, mask):
        return scores.softmax(-1) * mask


class MaskIgnored(By):
    def normalise(self, scores, mask):
        return scores.softmax(-1)


def parity(cls: type[MultiHeadAttention]) -> bool:
    """Say whether a class equals nn.MultiheadAttention on a masked example."""
    torch.manual_seed(1)
    layer = cls(12, 3).double()
    x, memory, mask = random(2, 4, 12), random(2, 6, 12, seed=1), random_mask(1, 1, 4, 6)
    expected, _ = twin_of(layer, 12)(x, memory, memory, attn_mask=~mask[0, 0])
    return torch.allclose(layer(x, memory, memory, mask), expected, atol=1e-10)


def test_the_right_ones_pass():
    assert parity(MultiHeadAttention) and parity(By)


@pytest.mark.parametrize(
    "wrong",
    [ViewSplit, MergeWithoutTranspose, Interleaved, NoScale, ScaleByDk, ScaleByModel,
     SoftmaxOverQueries, MaskInverted, MaskAfterSoftmax, MaskIgnored],
)
def test_every_wrong_one_is_caught(wrong):
    assert not parity(wrong)


# ---- recording -----------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(8, 2)
        self.layers = nn.ModuleList(MultiHeadAttention(8, h) for h in (2, 4))

    def forward(self, x, mask=None):
        x = x + self.attention(x, x, x, mask)
        for layer in self.layers:
            x = x + layer(x, key=x, value=x, mask=mask)
        return x


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_record_attention_in_nested_modules():
    model, x = nn.Sequential(Block(), Block()), random(3, 5, 8).float()
    plain = model(x)
    with record_attention(model) as recorded:
        assert hooks(model) == 6
        assert torch.equal(model(x), plain)  # looking changes nothing
    names = [f"{i}.{n}" for i in (0, 1) for n in ("attention", "layers.0", "layers.1")]
    assert list(recorded) == names and hooks(model) == 0
    assert recorded["0.layers.1"].shape == (3, 4, 5, 5)
    torch.testing.assert_close(recorded["0.attention"], model[0].attention.weights(x, x).detach())
    assert not any(w.requires_grad for w in recorded.values())


def test_record_attention_sees_the_mask_and_the_latest_call():
    model, mask = Block(), torch.ones(1, 1, 5, 5, dtype=torch.bool).tril()
    with record_attention(model) as recorded:
        model(random(1, 3, 8).float())
        model(random(1, 5, 8).float(), mask)
    assert all(w.shape[-2:] == (5, 5) and not w[..., ~mask[0, 0]].any() for w in recorded.values())


def test_record_attention_of_a_bare_layer_has_a_name():
    layer, x = MultiHeadAttention(8, 2), random(1, 3, 8).float()
    with record_attention(layer) as recorded:
        layer(x, x, x)
    assert list(recorded) == ["attention"]


def test_record_attention_leaves_no_hooks_after_an_error():
    model = Block()
    with pytest.raises(RuntimeError, match="stop"), record_attention(model):
        raise RuntimeError("stop")
    assert hooks(model) == 0


def test_deepcopy_and_training_work_while_and_after_recording():
    model, x = Block(), random(2, 5, 8).float()
    with record_attention(model) as recorded:
        model(x).sum().backward()
        twin = copy.deepcopy(model)
    assert torch.equal(twin(x), model(x)) and hooks(model) == 0
    assert all(p.grad is not None for p in model.parameters())
    assert not any(isinstance(v, torch.Tensor) for m in model.modules() for v in vars(m).values())
    copy.deepcopy(recorded)


def test_deepcopy_breaks_when_weights_are_stored():
    class Hoarder(MultiHeadAttention):
        def forward(self, query, key, value, mask=None):
            self.last = self.weights(query, key, value, mask)
            return super().forward(query, key, value, mask)

    layer, x = Hoarder(8, 2), random(1, 3, 8).float()
    layer(x, x, x)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(layer)


# ---- pictures ------------------------------------------------------------------------------


def drawn(figure: Figure, panels: int) -> None:
    """A figure with so many titled or filled panels, closed so that it is shown once."""
    assert isinstance(figure, Figure) and len(figure.axes) == panels
    assert not plt.fignum_exists(figure.number)
    figure.canvas.draw()


def test_picture_of_the_look_up():
    times, hours = torch.linspace(0, 24, 10), torch.linspace(0, 24, 5)
    curves = {0.5: hours, 2.0: hours}
    weights = {0.5: torch.full((10,), 0.1), 2.0: torch.full((10,), 0.1)}
    drawn(draw.soft_lookup(times, times, hours, hours, curves, 12.0, weights), 2)


def test_picture_of_saturation():
    rows = {4: torch.rand(16), 64: torch.rand(16)}
    profiles, shares = {"plain": rows, "scaled": rows}, {"plain": [0.1, 0.01], "scaled": [0.1, 0.1]}
    drawn(draw.saturation(profiles, shares, [4, 64]), 3)


def test_picture_of_the_worked_example():
    steps = [("Q", torch.eye(2)), ("weights", torch.eye(2)), ("zero", torch.zeros(2, 1))]
    figure = draw.worked_example(["a", "b"], steps, ("weights",), "title")
    drawn(figure, 3)
    assert [t.get_text() for t in figure.axes[1].get_xticklabels()] == ["a", "b"]


def test_picture_of_split_heads():
    x = torch.arange(12).view(3, 4)
    layer = MultiHeadAttention(4, 2)
    figure = draw.split_heads(x, layer.split_heads(x[None])[0], x.view(2, 3, 2))
    drawn(figure, 5)
    cells = [int(t.get_text()) for t in figure.axes[1].texts if t.get_text().isdigit()]
    assert cells == [0, 1, 4, 5, 8, 9]  # head 1: the first two columns of each word


def test_picture_of_maps():
    weights, words = torch.eye(3), ["a", "b", "c"]
    figure = draw.maps([("one", weights, words, words), ("two", weights, words, words)], "t")
    drawn(figure, 3)
    figure = draw.maps([("x", torch.rand(2, 3), words[:2], words)], "t", frames=[(0, 1), (1, 2)])
    drawn(figure, 2)
    assert [p.get_xy() for p in figure.axes[0].patches] == [(0.5, -0.5), (1.5, 0.5)]


def test_picture_of_costs_and_times():
    series = {"a": [1, 2, 4], "b": [1, 4, 16]}
    drawn(draw.costs([1, 2, 4], series, series, 8, 8), 2)
    drawn(draw.wall_time([1, 2, 4], {"a": [0.1, 0.2, 0.4]}), 1)


def test_picture_of_heads():
    drawn(draw.heads_needed({1: [0.5, 0.6], 2: [0.0, 0.2]}, width=4, floor=0.5), 1)
    figure = draw.head_grid({"a": torch.rand(3, 2, 2), "b": torch.rand(3, 2, 2)}, ["x", "y"], "t")
    drawn(figure, 7)
    assert [axis.get_title("left") for axis in figure.axes[:4]] == [
        "a, head 1", "a, head 2", "a, head 3", "b, head 1"
    ]


def test_gallery_offers_every_layer_head_and_sentence():
    records = [
        {"layer": layer, "head": head, "sentence": "a b", "note": f"{layer} {head}",
         "queries": ["a", "b"], "keys": ["a", "b"], "weights": torch.eye(2)}
        for layer in ("lower", "upper") for head in ("1", "2")
    ]
    chart = draw.gallery(records, "title", start=3)
    assert isinstance(chart, alt.LayerChart)
    spec = chart.to_dict()
    chosen = {p["name"]: (p["value"], p["bind"]["options"]) for p in spec["params"]}
    assert chosen["choose_layer"] == ("upper", ["lower", "upper"])
    assert chosen["choose_head"] == ("2", ["1", "2"])
    (values,) = [v for v in spec["datasets"].values()] if "datasets" in spec else [
        spec["data"]["values"]
    ]
    assert len(values) == 4 * 2 and values[0]["weight"].split(draw.SEPARATOR) == ["1.000", "0.000"]
