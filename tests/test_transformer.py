"""Lesson 05: each part against PyTorch's with copied weights, the whole by its promises."""

import copy
import math
import random
from dataclasses import FrozenInstanceError, replace

import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.patches import FancyBboxPatch
from torch import nn

from course.attention import MultiHeadAttention, record_attention
from course.masking import Batch, causal_mask, padding_mask
from course.transformer import (
    Decoder,
    DecoderLayer,
    Encoder,
    EncoderLayer,
    FeedForward,
    LayerNorm,
    PositionalEncoding,
    Residual,
    TokenEmbedding,
    Transformer,
    TransformerConfig,
    layer_norm,
    positional_encoding,
)
from course.viz import transformer as draw

SMALL = TransformerConfig(30, 30, d_model=16, n_heads=4, d_ff=24, n_layers=2, dropout=0.0)
NORMS = pytest.mark.parametrize("norm", ["post", "pre"])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def shake(module: nn.Module) -> nn.Module:
    """Give every parameter a random value: gains of 1 and biases of 0 would hide mistakes."""
    for parameter in module.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return module


# Copying weights into PyTorch's modules -------------------------------------------------------


def copy_attention(twin: nn.MultiheadAttention, ours: MultiHeadAttention) -> None:
    packed = [ours.w_q.weight, ours.w_k.weight, ours.w_v.weight]
    twin.in_proj_weight.data = torch.cat([w.data for w in packed])
    twin.in_proj_bias.data.zero_()
    twin.out_proj.weight.data = ours.w_o.weight.data.clone()
    twin.out_proj.bias.data.zero_()


def copy_norm(twin: nn.LayerNorm, ours: LayerNorm) -> None:
    twin.weight.data, twin.bias.data = ours.gain.data.clone(), ours.bias.data.clone()


def copy_layer(twin: nn.Module, ours: EncoderLayer | DecoderLayer) -> None:
    copy_attention(twin.self_attn, ours.self_attention)
    if isinstance(ours, DecoderLayer):
        copy_attention(twin.multihead_attn, ours.cross_attention)
    twin.linear1.load_state_dict(ours.feed_forward.w_1.state_dict())
    twin.linear2.load_state_dict(ours.feed_forward.w_2.state_dict())
    for number, residual in enumerate(ours.residuals, start=1):
        copy_norm(getattr(twin, f"norm{number}"), residual.norm)


def options(config: TransformerConfig) -> dict:
    return dict(
        d_model=config.d_model,
        nhead=config.n_heads,
        dim_feedforward=config.d_ff,
        dropout=0.0,
        norm_first=config.norm == "pre",
        batch_first=True,
    )


def torch_transformer(ours: Transformer) -> nn.Transformer:
    """nn.Transformer with our weights; of its final norms only those that we have."""
    n = ours.config.n_layers
    twin = nn.Transformer(num_encoder_layers=n, num_decoder_layers=n, **options(ours.config))
    for stack, own in ((twin.encoder, ours.encoder), (twin.decoder, ours.decoder)):
        for layer, own_layer in zip(stack.layers, own.layers, strict=True):
            copy_layer(layer, own_layer)
        if ours.config.norm == "pre":
            copy_norm(stack.norm, own.norm)
        else:
            stack.norm = None
    return twin


def assert_same(ours, twin, inputs, our_output, twin_output, pairs) -> None:
    """Outputs are equal, and so are the gradients of the inputs and of pairs of parameters."""
    torch.testing.assert_close(our_output, twin_output, atol=1e-5, rtol=1e-4)
    direction = torch.randn_like(our_output)
    first = torch.autograd.grad(our_output, [*inputs, *(a for a, _ in pairs)], direction)
    second = torch.autograd.grad(twin_output, [*inputs, *(b for _, b in pairs)], direction)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def some_pairs(ours, twin) -> list:
    pairs = [
        (ours.feed_forward.w_1.weight, twin.linear1.weight),
        (ours.feed_forward.w_2.bias, twin.linear2.bias),
        (ours.self_attention.w_o.weight, twin.self_attn.out_proj.weight),
    ]
    numbered = enumerate(ours.residuals, start=1)
    return pairs + [(r.norm.gain, getattr(twin, f"norm{n}").weight) for n, r in numbered]


# Parts against their twins --------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 4), max_size=2),
    st.integers(2, 40),
    st.floats(0.1, 30),
    st.integers(0, 9),
)
def test_layer_norm_equals_torch(leading, d_model, scale, number):
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(*leading, d_model, generator=generator, dtype=torch.float64) * scale + number
    gain, bias = torch.randn(2, d_model, generator=generator, dtype=torch.float64)
    expected = F.layer_norm(x, (d_model,), gain, bias)
    torch.testing.assert_close(layer_norm(x, gain, bias), expected)
    ours, twin = LayerNorm(d_model).double(), nn.LayerNorm(d_model).double()
    ours.gain.data, ours.bias.data = gain, bias
    copy_norm(twin, ours)
    torch.testing.assert_close(ours(x), twin(x))


def normalises(norm) -> bool:
    """The checker for the bank below: equal to torch in value, and in gradient where x is flat."""
    x = torch.randn(5, 4, dtype=torch.float64)
    flat = torch.full((4,), 2.0, dtype=torch.float64, requires_grad=True)
    gain, bias = torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    if not torch.allclose(norm(x, gain, bias), F.layer_norm(x, (4,)), atol=1e-7):
        return False
    (norm(flat, gain, bias) * torch.arange(4.0)).sum().backward()
    return bool(flat.grad.isfinite().all())


WRONG_NORMS = {
    "unbiased variance": lambda x, g, b: (x - x.mean(-1, True)) / x.std(-1, keepdim=True) * g + b,
    "epsilon outside": lambda x, g, b: (x - x.mean(-1, True))
    / (x.var(-1, unbiased=False, keepdim=True).sqrt() + 1e-5)
    * g
    + b,
    "over the whole batch": lambda x, g, b: (x - x.mean()) / x.std(unbiased=False) * g + b,
    "no mean": lambda x, g, b: x / (x.square().mean(-1, True) + 1e-5).sqrt() * g + b,
}


def test_right_norm_passes_the_checker():
    assert normalises(layer_norm)


@pytest.mark.parametrize("name", WRONG_NORMS)
def test_wrong_norms_are_caught(name):
    assert not normalises(WRONG_NORMS[name])


@NORMS
def test_encoder_layer_equals_torch(norm):
    config = replace(SMALL, norm=norm)
    ours = shake(EncoderLayer(config))
    twin = nn.TransformerEncoderLayer(**options(config))
    copy_layer(twin, ours)
    x = torch.randn(3, 7, 16, requires_grad=True)
    mask = padding_mask(torch.tensor([[1] * 7, [1] * 5 + [0] * 2, [1] + [0] * 6]), pad_id=0)
    twin_output = twin(x, src_key_padding_mask=~mask[:, 0, 0])
    assert_same(ours, twin, [x], ours(x, mask), twin_output, some_pairs(ours, twin))


@NORMS
def test_decoder_layer_equals_torch(norm):
    config = replace(SMALL, norm=norm)
    ours = shake(DecoderLayer(config))
    twin = nn.TransformerDecoderLayer(**options(config))
    copy_layer(twin, ours)
    x = torch.randn(2, 5, 16, requires_grad=True)
    memory = torch.randn(2, 7, 16, requires_grad=True)
    mask = padding_mask(torch.tensor([[1] * 7, [1] * 4 + [0] * 3]), pad_id=0)
    causal = causal_mask(5)
    our_output = ours(x, memory, mask, causal)
    twin_output = twin(
        x, memory, tgt_mask=~causal[0, 0], memory_key_padding_mask=~mask[:, 0, 0]
    )
    pairs = some_pairs(ours, twin)
    pairs.append((ours.cross_attention.w_o.weight, twin.multihead_attn.out_proj.weight))
    assert_same(ours, twin, [x, memory], our_output, twin_output, pairs)


@NORMS
def test_whole_model_equals_torch(norm):
    ours = shake(Transformer(replace(SMALL, norm=norm)))
    twin = torch_transformer(ours)
    src = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 0, 0]])
    tgt_in = torch.tensor([[1, 4, 9, 3], [1, 8, 2, 7]])
    mask, causal = padding_mask(src, pad_id=0), causal_mask(4)
    states = twin(
        ours.positions(ours.src_embedding(src)),
        ours.positions(ours.tgt_embedding(tgt_in)),
        tgt_mask=~causal[0, 0],
        src_key_padding_mask=~mask[:, 0, 0],
        memory_key_padding_mask=~mask[:, 0, 0],
    )
    logits = F.linear(states, ours.w_vocab.weight)
    pairs = []
    for own_stack, stack in ((ours.encoder, twin.encoder), (ours.decoder, twin.decoder)):
        for own, layer in zip(own_stack.layers, stack.layers):
            pairs += some_pairs(own, layer)
    output = ours(src, tgt_in, mask, causal)
    assert_same(ours, twin, [ours.src_embedding.weight], output, logits, pairs)


def test_a_final_norm_too_many_would_be_noticed():
    ours = shake(Encoder(SMALL))
    x = torch.randn(1, 3, 16)
    assert not torch.allclose(ours(x), F.layer_norm(ours(x), (16,)), atol=1e-2)
    assert isinstance(Encoder(replace(SMALL, norm="pre")).norm, LayerNorm)
    assert isinstance(Decoder(replace(SMALL, norm="pre")).norm, LayerNorm)
    assert not list(Encoder(SMALL).norm.parameters())


def test_feed_forward_is_equation_2_at_each_position():
    ours = FeedForward(6, 10)
    x = torch.randn(2, 3, 6)
    w_1, w_2 = ours.w_1.weight.T, ours.w_2.weight.T
    expected = (x @ w_1 + ours.w_1.bias).clamp(min=0) @ w_2 + ours.w_2.bias
    torch.testing.assert_close(ours(x), expected)
    torch.testing.assert_close(ours(x)[:, 1], ours(x[:, 1]))


@NORMS
def test_residual_is_the_equation(norm):
    ours = shake(Residual(replace(SMALL, norm=norm)))
    x = torch.randn(2, 3, 16)
    expected = x + (ours.norm(x)) ** 2 if norm == "pre" else ours.norm(x + x**2)
    torch.testing.assert_close(ours(x, torch.square), expected)


# Embeddings and positions ---------------------------------------------------------------------


def test_embedding_has_unit_variance_and_is_a_scaled_row():
    embedding = TokenEmbedding(5000, 64)
    assert embedding(torch.arange(5000)).std().item() == pytest.approx(1, abs=0.02)
    assert embedding.weight.std().item() == pytest.approx(1 / 8, abs=0.003)
    torch.testing.assert_close(embedding(torch.tensor([[7]]))[0, 0], embedding.weight[7] * 8)


def test_xavier_on_the_table_would_make_words_too_quiet():
    table = nn.init.xavier_uniform_(torch.empty(10_000, 512)) * math.sqrt(512)
    assert table.std().item() == pytest.approx(0.31, abs=0.01)
    model = Transformer(TransformerConfig(10_000, 10_000, d_model=64, n_layers=1, d_ff=64))
    assert model.src_embedding(torch.arange(10_000)).std().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("tied", [True, False])
def test_the_first_loss_is_close_to_uniform(tied):
    config = replace(SMALL, src_vocab=400, tgt_vocab=400, d_model=64, tie_embeddings=tied)
    states = F.layer_norm(torch.randn(500, 64), (64,))
    loss = F.cross_entropy(Transformer(config).project(states), torch.randint(400, (500,)))
    assert math.log(400) - 0.2 < loss < math.log(400) + 1


def test_positions_are_the_papers_formula():
    table = positional_encoding(50, 12)
    for pos in (0, 1, 7, 49):
        for i in range(6):
            angle = pos / 10_000 ** (2 * i / 12)
            assert table[pos, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert table[pos, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)
    assert positional_encoding(4, 7).shape == (4, 7)
    torch.testing.assert_close(positional_encoding(4, 7)[:, 6], torch.sin(
        torch.arange(4) * 10_000 ** (-6 / 7)
    ))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60), st.sampled_from([2, 8, 32]))
def test_one_matrix_moves_every_position(k, d_model):
    table = positional_encoding(100, d_model).double()
    omega = 10_000.0 ** (-torch.arange(0, d_model, 2).double() / d_model) * k
    blocks = [
        torch.tensor([[math.cos(w), math.sin(w)], [-math.sin(w), math.cos(w)]], dtype=torch.float64)
        for w in omega.tolist()
    ]
    moved = table[:-k] @ torch.block_diag(*blocks).T
    torch.testing.assert_close(moved, table[k:], atol=1e-4, rtol=0)


def test_sinusoids_extend_beyond_max_len_and_learned_positions_do_not():
    config = replace(SMALL, max_len=6)
    sinusoidal, learned = (
        PositionalEncoding(replace(config, positions=p)) for p in ("sinusoidal", "learned")
    )
    x = torch.randn(2, 9, 16)
    torch.testing.assert_close(sinusoidal(x), x + positional_encoding(9, 16))
    torch.testing.assert_close(sinusoidal(x[:, :3]), x[:, :3] + positional_encoding(3, 16))
    torch.testing.assert_close(learned(x[:, :6]), x[:, :6] + learned.table)
    with pytest.raises(ValueError, match="9 tokens.*max_len=6"):
        learned(x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_positions_keep_the_type_when_they_extend(dtype):
    positions = PositionalEncoding(replace(SMALL, max_len=4)).to(dtype)
    assert positions(torch.zeros(1, 9, 16, dtype=dtype)).dtype == dtype


def test_learned_positions_are_parameters_and_sinusoids_are_not_even_stored():
    sinusoidal = Transformer(SMALL)
    learned = Transformer(replace(SMALL, positions="learned", max_len=40))
    assert "positions.table" not in sinusoidal.state_dict()
    assert learned.state_dict()["positions.table"].shape == (40, 16)
    assert learned.positions.table.std() < 0.05  # Xavier has kept away
    src = torch.randint(30, (1, 5))
    learned(src, src).square().sum().backward()
    assert learned.positions.table.grad[:5].abs().sum() > 0
    assert learned.positions.table.grad[5:].eq(0).all()


def test_without_positions_a_sentence_is_a_bag_of_words():
    model = Transformer(SMALL).eval()
    src, order = torch.randint(30, (1, 7)), torch.randperm(7)
    with_positions = model.encode(src)[:, order] - model.encode(src[:, order])
    model.positions = nn.Identity()
    without = model.encode(src)[:, order] - model.encode(src[:, order])
    assert without.abs().max() < 1e-5 < 0.1 < with_positions.abs().max()


# The whole model ------------------------------------------------------------------------------


def count(config: TransformerConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in Transformer(config).parameters())


def test_base_and_big_are_counted():
    assert count(TransformerConfig.base(37_000)) == 63_045_632
    assert count(TransformerConfig.big(37_000)) == 214_171_648
    assert count(TransformerConfig.base(40_817)) == pytest.approx(65e6, rel=1e-4)
    assert count(TransformerConfig.big(35_856)) == pytest.approx(213e6, rel=1e-4)


@pytest.mark.parametrize(
    ("millions", "sizes"),
    [
        (65, {}),
        (58, {"d_k": 16}),
        (60, {"d_k": 32}),
        (36, {"n_layers": 2}),
        (50, {"n_layers": 4}),
        (80, {"n_layers": 8}),
        (28, {"d_model": 256}),
        (168, {"d_model": 1024}),
        (53, {"d_ff": 1024}),
        (90, {"d_ff": 4096}),
    ],
)
def test_table_3_rounds_to_the_papers_figures_for_one_vocabulary(millions, sizes):
    assert round(count(TransformerConfig(41_100, 41_100, **sizes)) / 1e6) == millions


@NORMS
@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_no_logit_depends_on_the_future(norm, positions):
    model = Transformer(replace(SMALL, norm=norm, positions=positions)).double().eval()
    src, tgt_in = torch.randint(1, 30, (1, 6)), torch.randint(1, 30, (1, 7))
    memory = model.encode(src)
    x = model.tgt_embedding(tgt_in).detach().requires_grad_()
    logits = model.project(model.decoder(model.positions(x), memory, None, causal_mask(7)))
    for t in range(7):
        to = torch.autograd.grad(logits[0, t].square().sum(), x, retain_graph=True)[0][0]
        assert to[t + 1 :].eq(0).all()
        assert to[: t + 1].abs().sum(-1).gt(0).all()


def test_later_tokens_change_no_earlier_logit():
    model = Transformer(SMALL).eval()
    src, tgt_in = torch.randint(1, 30, (1, 6)), torch.randint(1, 30, (1, 7))
    changed = tgt_in.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 30
    before, after = (model(src, t, None, causal_mask(7)) for t in (tgt_in, changed))
    torch.testing.assert_close(before[:, :4], after[:, :4], atol=1e-6, rtol=0)
    assert not torch.allclose(before[:, 4:], after[:, 4:], atol=1e-2)


@NORMS
def test_padding_changes_nothing_and_gets_no_gradient(norm):
    model = Transformer(replace(SMALL, norm=norm)).double().eval()
    sources, targets = [[5, 6, 7, 2], [8, 2]], [[9, 4, 2], [3, 5, 6, 7, 2]]
    together = Batch.from_sequences(sources, targets, pad_id=0, bos_id=1)
    logits = model(together.src, together.tgt_in, together.src_mask, together.tgt_mask)
    for i, (source, target) in enumerate(zip(sources, targets)):
        alone = Batch.from_sequences([source], [target], pad_id=0, bos_id=1)
        expected = model(alone.src, alone.tgt_in, alone.src_mask, alone.tgt_mask)[0]
        torch.testing.assert_close(logits[i, : len(target)], expected)
    x = model.src_embedding(together.src).detach().requires_grad_()
    tgt = model.tgt_embedding(together.tgt_in)
    memory = model.encoder(model.positions(x), together.src_mask)
    states = model.decoder(model.positions(tgt), memory, together.src_mask, together.tgt_mask)
    states.square().sum().backward()
    assert x.grad[1, 2:].eq(0).all() and x.grad[1, :2].abs().sum() > 0


def test_the_three_steps_are_the_forward_pass():
    model = Transformer(SMALL).eval()
    src, tgt_in = torch.randint(1, 30, (2, 6)), torch.randint(1, 30, (2, 4))
    mask = padding_mask(src, 0)
    states = model.decode(tgt_in, model.encode(src, mask), mask, causal_mask(4))
    assert states.shape == (2, 4, 16)
    torch.testing.assert_close(model.project(states), model(src, tgt_in, mask, causal_mask(4)))


def test_tying_makes_three_one():
    tied = Transformer(SMALL)
    assert tied.src_embedding.weight is tied.tgt_embedding.weight is tied.w_vocab.weight
    assert sum("embedding" in name or "w_vocab" in name for name, _ in tied.named_parameters()) == 1
    untied = Transformer(replace(SMALL, tie_embeddings=False, src_vocab=50))
    tables = {untied.src_embedding.weight, untied.tgt_embedding.weight, untied.w_vocab.weight}
    assert len(tables) == 3
    assert untied(torch.randint(50, (1, 3)), torch.randint(30, (1, 2))).shape == (1, 2, 30)
    extra = sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in tied.parameters())
    assert extra == (50 + 30) * 16


def test_a_tied_padding_row_still_gets_gradient_from_the_projection():
    model = Transformer(SMALL)
    batch = Batch.from_sequences([[5, 6, 2]], [[7, 8, 2]], pad_id=0, bos_id=1)
    logits = model(batch.src, batch.tgt_in, batch.src_mask, batch.tgt_mask)
    F.cross_entropy(logits.flatten(0, 1), batch.tgt_out.flatten(), ignore_index=0).backward()
    assert not batch.src.eq(0).any()
    assert model.w_vocab.weight.grad[0].abs().sum() > 0


@pytest.mark.parametrize("tied", [True, False])
def test_deepcopy_and_state_dict_keep_the_model(tied):
    model = shake(Transformer(replace(SMALL, tie_embeddings=tied))).eval()
    src, tgt_in = torch.randint(30, (2, 600)), torch.randint(30, (2, 4))  # longer than max_len
    expected = model(src, tgt_in)
    twin = copy.deepcopy(model)
    torch.testing.assert_close(twin(src, tgt_in), expected)
    assert (twin.w_vocab.weight is twin.src_embedding.weight) == tied
    other = Transformer(model.config).eval()
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(src, tgt_in), expected)
    assert (other.w_vocab.weight is other.src_embedding.weight) == tied


def test_configuration_errors_say_what_to_do():
    with pytest.raises(ValueError, match="src_vocab=80 and tgt_vocab=50.*tie_embeddings=False"):
        TransformerConfig(80, 50)
    with pytest.raises(ValueError, match="norm='sandwich'.*post.*pre"):
        replace(SMALL, norm="sandwich")
    with pytest.raises(ValueError, match="positions='rotary'.*sinusoidal.*learned"):
        replace(SMALL, positions="rotary")
    for d_k, d_v in ((None, None), (5, None), (None, 5)):
        with pytest.raises(ValueError, match="d_model=16.*n_heads=3.*give d_k and d_v"):
            replace(SMALL, n_heads=3, d_k=d_k, d_v=d_v)
    for dropout in (-0.1, 2):
        with pytest.raises(ValueError, match=f"dropout={dropout} is no probability.*from 0 to 1"):
            replace(SMALL, dropout=dropout)
    with pytest.raises(FrozenInstanceError):
        SMALL.d_model = 32


def test_d_k_and_d_v_reach_every_attention():
    model = Transformer(replace(SMALL, n_heads=3, d_k=5, d_v=7))
    for module in model.modules():
        if isinstance(module, MultiHeadAttention):
            assert module.w_q.out_features == module.w_k.out_features == 15
            assert module.w_v.out_features == module.w_o.in_features == 21


def test_float64_throughout():
    model = Transformer(SMALL).double()
    src = torch.randint(30, (1, 5))
    assert model(src, src, padding_mask(src, 0), causal_mask(5)).dtype == torch.float64


# Dropout --------------------------------------------------------------------------------------


def test_dropout_0_is_deterministic_in_training_and_eval_ignores_dropout():
    src, tgt_in = torch.randint(30, (2, 6)), torch.randint(30, (2, 4))
    model = Transformer(SMALL).train()
    assert torch.equal(model(src, tgt_in), model(src, tgt_in))
    dropping = Transformer(replace(SMALL, dropout=0.5)).train()
    assert not torch.equal(dropping(src, tgt_in), dropping(src, tgt_in))
    dropping.load_state_dict(model.state_dict())
    torch.testing.assert_close(dropping.eval()(src, tgt_in), model(src, tgt_in))


@NORMS
def test_dropout_1_silences_every_part(norm):
    config = replace(SMALL, dropout=1.0, norm=norm)
    x, memory = torch.randn(1, 3, 16), torch.randn(1, 4, 16)
    assert PositionalEncoding(config).train()(x).eq(0).all()
    encoder_layer, decoder_layer = EncoderLayer(config).train(), DecoderLayer(config).train()
    silent = x if norm == "pre" else F.layer_norm(x, (16,))
    torch.testing.assert_close(encoder_layer(x), silent, atol=1e-3, rtol=0)
    torch.testing.assert_close(decoder_layer(x, memory), silent, atol=1e-3, rtol=0)


def test_dropout_has_the_places_of_the_paper_and_no_other():
    model = Transformer(replace(SMALL, dropout=0.3))
    places = [name for name, m in model.named_modules() if isinstance(m, nn.Dropout)]
    assert len(places) == 1 + 2 * 2 + 2 * 3
    assert all(name == "positions.dropout" or ".residuals." in name for name in places)
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} == {0.3}


# Learning -------------------------------------------------------------------------------------


def test_the_copy_task_is_learned_without_a_mistake():
    config = TransformerConfig(10, 10, d_model=32, n_heads=4, d_ff=64, n_layers=1, dropout=0.0)
    model, rng = Transformer(config), random.Random(0)

    def rows(n: int) -> Batch:
        made = [[rng.randrange(3, 10) for _ in range(rng.randint(3, 6))] + [2] for _ in range(n)]
        return Batch.from_sequences(made, made, pad_id=0, bos_id=1)

    unseen, steps = rows(50), 400
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-9)
    for step in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = 4e-3 * min(step / 40, 1.2 * (1 - step / steps), 1)
        batch = rows(48)
        logits = model(batch.src, batch.tgt_in, batch.src_mask, batch.tgt_mask)
        loss = F.cross_entropy(logits.flatten(0, 1), batch.tgt_out.flatten(), ignore_index=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad(), record_attention(model.eval()) as recorded:
        memory = model.encode(unseen.src, unseen.src_mask)
        written = torch.ones(50, 1, dtype=torch.long)
        for _ in range(unseen.src.size(1)):
            states = model.decode(written, memory, unseen.src_mask, causal_mask(written.size(1)))
            written = torch.cat([written, model.project(states[:, -1:]).argmax(-1)], dim=1)
    real = unseen.src != 0
    assert torch.equal(written[:, 1:][real], unseen.src[real])
    weights = recorded["decoder.layers.0.cross_attention"]
    assert weights.diagonal(dim1=2, dim2=3).mean() > 2 / unseen.src.size(1)  # twice uniform


# Pictures -------------------------------------------------------------------------------------


def traced(model: nn.Module) -> draw.Call:
    src, tgt_in = torch.randint(30, (2, 7)), torch.randint(30, (2, 5))
    return draw.trace(model.eval(), src=src, tgt_in=tgt_in)


class OwnWay(nn.Module):
    """A connection around a sub-layer that is not the model's own."""

    def __init__(self, d_model: int, way) -> None:
        super().__init__()
        self.norm, self.way = LayerNorm(d_model), way

    def forward(self, x, sublayer):
        return self.way(x, sublayer, self.norm)


def rewire(model: Transformer, way, numbers=(0, 1, 2)) -> Transformer:
    for layer in [*model.encoder.layers, *model.decoder.layers]:
        for number in numbers:
            if number < len(layer.residuals):
                layer.residuals[number] = OwnWay(model.config.d_model, way)
    return model


def texts(figure: plt.Figure) -> str:
    return "\n".join(t.get_text() for t in figure.findobj(plt.Text))


def box_overlaps(figure: plt.Figure) -> int:
    """Count pairs of boxes that partly overlap (one wholly inside another is a frame)."""
    boxes = [p.get_window_extent() for p in figure.findobj(FancyBboxPatch)]
    overlaps = 0
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            apart = a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0
            inside = a.containsx(b.x0) and a.containsy(b.y0) and a.containsx(b.x1)
            outside = b.containsx(a.x0) and b.containsy(a.y0) and b.containsx(a.x1)
            overlaps += not (apart or inside or outside)
    return overlaps


@NORMS
def test_the_model_is_drawn_with_its_shapes(norm):
    figure = draw.draw_model(traced(Transformer(replace(SMALL, norm=norm))), "the title")
    words = texts(figure)
    for expected in (
        "the title", "2 × EncoderLayer", "2 × DecoderLayer", "src  2×7", "memory  2×7×16",
        "2×5×16, 2×7×16 → 2×5×16", "2×7×16 → 2×7×24 → 2×7×16", "logits  2×5×30",
    ):
        assert expected in words
    lines = words.split("\n")
    assert lines.count("norm") == 5 + 2 * (norm == "pre")
    assert lines.count("+") == 5 and lines.count("dropout") == 5 + 2
    assert lines.count("src_embedding ◆") == lines.count("tgt_embedding ◆") == 1
    assert box_overlaps(figure) == 0
    assert not plt.get_fignums()  # closed: shown once, by the cell that returns it


WITHOUT = {
    "the sum": lambda x, f, norm: norm(f(x)),
    "what the sub-layer says": lambda x, f, norm: norm(x),
    "a slope": lambda x, f, norm: norm(f(x) + 0 * x),
    "gradient": lambda x, f, norm: norm(f(x) + x.detach()),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_a_sum_that_the_model_does_not_make_is_not_drawn(name):
    model = rewire(Transformer(SMALL), WITHOUT[name])
    lines = texts(draw.draw_model(traced(model), "t")).split("\n")
    assert "+" not in lines and lines.count("norm") == 5


def test_only_the_sums_that_are_there_are_drawn():
    model = rewire(Transformer(SMALL), WITHOUT["the sum"], numbers=[1])
    lines = texts(draw.draw_model(traced(model), "t")).split("\n")
    assert lines.count("+") == 5 - 2
    other = rewire(Transformer(SMALL), lambda x, f, norm: x + f(x))  # sums that no norm follows
    lines = texts(draw.draw_model(traced(other), "t")).split("\n")
    assert lines.count("+") == 5 and "norm" not in lines


def test_the_memory_is_drawn_only_where_it_goes_in():
    model = Transformer(SMALL)
    assert "memory" in texts(draw.draw_model(traced(model), "t"))
    for layer in model.decoder.layers:  # cross-attention to itself
        attend = layer.cross_attention.forward
        layer.cross_attention.forward = lambda q, k, v, mask=None, a=attend: a(q, q, q, mask)
    heard = draw.draw_model(traced(model), "t")
    assert "memory" in texts(heard)  # it is handed over, whatever the box does with it
    model = Transformer(SMALL)
    model.decode = lambda x, memory, *masks: Transformer.decode(model, x, torch.ones(2, 7, 16))
    deaf = traced(model)
    assert "memory" not in texts(draw.draw_model(deaf, "t"))


def test_layers_that_differ_are_not_counted_as_alike():
    model = Transformer(replace(SMALL, n_layers=3))
    model.encoder.layers[2].residuals[1] = OwnWay(16, WITHOUT["the sum"])
    words = texts(draw.draw_model(traced(model), "t"))
    assert "2 of 3 × EncoderLayer" in words and "3 × DecoderLayer" in words.split("\n")


def test_tracing_leaves_the_model_as_it_was_and_tells_two_tables_apart():
    model = Transformer(SMALL)
    before = {name: module for name, module in model.named_modules()}
    traced(model)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert dict(model.named_modules()) == before
    untied = texts(draw.draw_model(traced(Transformer(replace(SMALL, tie_embeddings=False))), "t"))
    assert "◆" not in untied and {"src_embedding", "tgt_embedding"} <= set(untied.split("\n"))


def test_a_writer_builds_few_tables(monkeypatch):
    positions = PositionalEncoding(replace(SMALL, max_len=4))
    built = []
    monkeypatch.setattr("course.transformer.positional_encoding",
                        lambda *sizes: built.append(sizes) or positional_encoding(*sizes))
    for length in range(1, 65):
        x = torch.zeros(1, length, 16)
        torch.testing.assert_close(positions(x)[0], positional_encoding(length, 16))
    assert len(built) == 4  # 8, 16, 32, 64


def test_each_chart_draws_what_it_is_given():
    table = positional_encoding(20, 8)
    curve = {"post-norm": {2: 1.0, 4: 0.9}, "pre-norm": {2: 1.0, 4: 0.7}}
    square = torch.rand(5, 5)
    figures = {
        "quieter": draw.starts({"a": 1.0}, {"a": 9.0}, position_size=0.7, uniform=9.2),
        "half as often": draw.counting(torch.randint(0, 2, (8, 3))),
        "slow": draw.encoding_map(table, columns=[0, 2]),
        "distance": draw.dot_products(table[[3, 5]] @ table.T, [3, 5]),
        "by depth": draw.lines_by_depth([
            ("by depth", "size", "log", curve), ("too", "size", "linear", curve)
        ]),
        "corners": draw.decision_maps(
            {"corners": square}, torch.randn(6, 2), torch.tensor([0, 1] * 3), extent=2.0
        ),
        "influence": draw.influence_maps([("influence", "source", square.tril())]),
        "12 to 18": draw.vocabulary_intervals({"base": (10, 20)}, (12, 18), stated=15),
        "ln V": draw.learning_curve([3.0, 1.0], {"ln V": 2.0}),
        "diagonal": draw.attention_heads(square[None], list("abcde"), list("fghij"), "diagonal"),
    }
    for expected, figure in figures.items():
        assert expected in texts(figure), expected
        for axis in figure.axes:
            assert axis.get_xlabel() or axis.get_ylabel()
    assert texts(figures["influence"]).split("\n").count("0") >= 10  # the future, written out
    assert not plt.get_fignums()
