"""course.seq2seq against slow twins, PyTorch's own, wrong variants of itself, and its pictures."""

import inspect
import json
from dataclasses import asdict
from functools import cache

import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from torch import nn

from course.corpora import captions
from course.seq2seq import (
    DECODERS,
    AdditiveAttention,
    AdditiveDecoder,
    DotDecoder,
    FixedDecoder,
    RNNEncoder,
    RNNTranslator,
    Seq2SeqConfig,
    Translator,
    alignment_error_rate,
    all_real,
    edit_distance,
    fixed_vector,
    lengths_of,
    masked_softmax,
    memory_hop,
    word_accuracy,
)
from course.transformer import Transformer, TransformerConfig
from course.viz import seq2seq as draw

KINDS = ("none", "additive", "dot")
small = settings(max_examples=25, deadline=None)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def words(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(4, 20, shape, generator=torch.Generator().manual_seed(seed))


def mask_of(lengths: list[int], width: int) -> torch.Tensor:
    return (torch.arange(width) < torch.tensor(lengths)[:, None])[:, None, None]


def translator(kind: str, seed: int = 0, **sizes) -> RNNTranslator:
    torch.manual_seed(seed)
    sizes = {"d_model": 8, "dropout": 0.0, **sizes}
    return RNNTranslator(Seq2SeqConfig(20, 30, attention=kind, **sizes)).double()


# ---- the configuration ---------------------------------------------------------------------


def test_config_defaults_and_json():
    config = Seq2SeqConfig(100, 200)
    assert (config.d_model, config.attention, config.dropout) == (256, "additive", 0.1)
    assert Seq2SeqConfig(**json.loads(json.dumps(asdict(config)))) == config


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"src_vocab": 0}, "src_vocab is 1 or more, not 0"),
        ({"tgt_vocab": -1}, "tgt_vocab is 1 or more"),
        ({"d_model": 0}, "d_model is 1 or more"),
        ({"d_model": 7}, "d_model=7 is odd.*even"),
        ({"attention": "soft"}, "attention='soft' is unknown: choose none, additive or dot"),
        ({"dropout": 1.0}, r"dropout is in \[0, 1\), not 1.0"),
        ({"dropout": -0.1}, "dropout"),
    ],
)
def test_config_names_what_is_wrong(wrong, message):
    with pytest.raises(ValueError, match=message):
        Seq2SeqConfig(**{"src_vocab": 5, "tgt_vocab": 5, **wrong})


# ---- masks and the encoder -----------------------------------------------------------------


def test_lengths_of_masks():
    assert lengths_of(mask_of([3, 1, 4], 4)).tolist() == [3, 1, 4]
    assert all_real(words(2, 5)).shape == (2, 1, 1, 5) and all_real(words(2, 5)).all()


def test_masks_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="pad on the right"):
        lengths_of(torch.tensor([[[[False, True]]]]))
    with pytest.raises(ValueError, match="no word"):
        lengths_of(mask_of([2, 0], 2))


def test_encoder_equals_two_grus_run_by_hand():
    torch.manual_seed(0)
    encoder, x = RNNEncoder(8).double(), random(2, 5, 8)
    memory = encoder(x, torch.tensor([5, 3]))
    for row, length in ((0, 5), (1, 3)):
        for reverse, half in ((False, slice(0, 4)), (True, slice(4, 8))):
            cell = nn.GRUCell(8, 4).double()
            suffix = "_l0_reverse" if reverse else "_l0"
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(cell, name).data = getattr(encoder.gru, name + suffix).data
            state, order = torch.zeros(4).double(), range(length)
            for j in reversed(order) if reverse else order:
                state = cell(x[row, j], state)
                torch.testing.assert_close(memory[row, j, half], state)
    assert not memory[1, 3:].any()


def test_fixed_vector_is_the_last_state_of_both_directions():
    torch.manual_seed(0)
    encoder, x = RNNEncoder(6).double(), random(3, 4, 6)
    for row, length in enumerate([4, 2, 1]):
        _, last = encoder.gru(x[row : row + 1, :length])  # (2, 1, 3)
        memory = encoder(x, torch.tensor([4, 2, 1]))
        fixed = fixed_vector(memory, mask_of([4, 2, 1], 4))
        torch.testing.assert_close(fixed[row], last.flatten())


# ---- attention -----------------------------------------------------------------------------


@small
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 6),
       st.integers(0, 99))
def test_additive_attention_equals_a_slow_loop(b, t, s, d, seed):
    torch.manual_seed(seed)
    layer = AdditiveAttention(d).double()
    query, memory = random(b, t, d, seed=seed), random(b, s, d, seed=seed + 1)
    lengths = [1 + (seed + row) % s for row in range(b)]
    weights = layer(query, layer.w_k(memory), mask_of(lengths, s))
    w_q, w_k, bias, v = layer.w_q.weight, layer.w_k.weight, layer.w_k.bias, layer.v.weight[0]
    for i in range(b):
        for j in range(t):
            scores = [v @ torch.tanh(w_q @ query[i, j] + w_k @ memory[i, k] + bias)
                      for k in range(lengths[i])]
            expected = torch.stack(scores).exp() / sum(score.exp() for score in scores)
            torch.testing.assert_close(weights[i, j, : lengths[i]], expected)
            assert not weights[i, j, lengths[i] :].any()


@small
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(0, 99))
def test_dot_attention_equals_torch(b, t, s, seed):
    torch.manual_seed(seed)
    decoder = DotDecoder(6).double()
    y, start, memory = random(b, t, 6, seed=seed), random(b, 6), random(b, s, 6, seed=seed + 1)
    mask = mask_of([1 + (seed + row) % s for row in range(b)], s)
    states, contexts, weights = decoder(y, start, memory, mask)
    expected = F.scaled_dot_product_attention(
        states, memory, memory, attn_mask=mask[:, 0], scale=1.0
    )
    torch.testing.assert_close(contexts, expected)
    torch.testing.assert_close(weights @ memory, expected)
    torch.testing.assert_close(states, FixedDecoder.forward(decoder, y, start, memory, mask)[0])


def test_additive_decoder_step_by_step():
    torch.manual_seed(0)
    decoder, mask = AdditiveDecoder(6).double(), mask_of([4, 2], 4)
    y, start, memory = random(2, 3, 6), random(2, 6, seed=1), random(2, 4, 6, seed=2)
    states, contexts, weights = decoder(y, start, memory, mask)
    before = torch.cat([start[:, None], states[:, :-1]], dim=1)  # who asks: the state BEFORE
    asked = decoder.attention(before, decoder.attention.w_k(memory), mask)
    torch.testing.assert_close(weights, asked)
    torch.testing.assert_close(contexts, weights @ memory)
    for t in range(3):
        state = decoder.cell(torch.cat([y[:, t], contexts[:, t]], dim=-1), before[:, t])
        torch.testing.assert_close(states[:, t], state)


def test_fixed_decoder_has_one_context_and_no_weights():
    decoder, memory, mask = FixedDecoder(6).double(), random(2, 4, 6), mask_of([4, 3], 4)
    _, contexts, weights = decoder(random(2, 3, 6), random(2, 6), memory, mask)
    assert weights is None
    for t in range(3):
        torch.testing.assert_close(contexts[:, t], fixed_vector(memory, mask))


def test_gradients_by_differences():
    for cls in DECODERS.values():
        torch.manual_seed(0)
        decoder, mask = cls(4).double(), mask_of([3, 2], 3)
        inputs = [random(2, 2, 4).requires_grad_(), random(2, 4, seed=1).requires_grad_(),
                  random(2, 3, 4, seed=2).requires_grad_()]
        assert torch.autograd.gradcheck(lambda *x, d=decoder, m=mask: d(*x, m)[:2], inputs)


# ---- the translator ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_interface_and_shapes(kind):
    model, src, tgt = translator(kind), words(3, 5), words(3, 4, seed=1)
    mask = mask_of([5, 3, 1], 5)
    memory = model.encode(src, mask)
    states = model.decode(tgt, memory, mask, torch.ones(1, 1, 4, 4, dtype=torch.bool).tril())
    logits = model.project(states)
    assert memory.shape == (3, 5, 8) and states.shape == (3, 4, 8) and logits.shape == (3, 4, 30)
    torch.testing.assert_close(model(src, tgt, mask), logits)
    torch.testing.assert_close(model(src, tgt), model(src, tgt, all_real(src)))
    assert model.config.attention == kind and list(DECODERS) == list(KINDS)


def test_a_translator_is_what_has_the_parts_with_the_same_arguments():
    models = [translator("dot"), Transformer(TransformerConfig(20, 20, 8, 2, 8, 1))]
    for model in models:
        assert isinstance(model, Translator)
        for name in ("encode", "decode", "project"):
            asked = inspect.signature(getattr(Translator, name)).parameters
            assert inspect.signature(getattr(type(model), name)).parameters == asked
    assert not isinstance(models[1].encoder, Translator)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind):
    model, tgt = translator(kind), words(2, 4, seed=1)
    src = words(2, 7)
    src[1, 4:] = 0
    batched = model(src, tgt, mask_of([7, 4], 7))
    torch.testing.assert_close(batched[1:], model(src[1:, :4], tgt[1:]))
    rubbish = src.clone()
    rubbish[1, 4:] = 7  # what stands in padded places is never read
    assert torch.equal(model(rubbish, tgt, mask_of([7, 4], 7)), batched)
    memory = model.encode(src, mask_of([7, 4], 7))
    spoiled = memory.clone()
    spoiled[1, 4:] = 1e3
    states = model.decode(tgt, memory, mask_of([7, 4], 7))
    torch.testing.assert_close(model.decode(tgt, spoiled, mask_of([7, 4], 7)), states)


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_mask_padding_does_change_it(kind):
    model, src, tgt = translator(kind), words(1, 4), words(1, 3, seed=1)
    assert not torch.allclose(model(F.pad(src, (0, 3)), tgt), model(src, tgt), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_future_is_not_seen_and_a_prefix_is_enough(kind):
    model, src, tgt = translator(kind), words(2, 5), words(2, 6, seed=1)
    memory = model.encode(src)
    states = model.decode(tgt, memory)
    for t in range(1, 7):
        torch.testing.assert_close(model.decode(tgt[:, :t], memory), states[:, :t])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_can_be_taken_from_a_memory(kind):
    """As a search does it: memory and mask of some rows, others again."""
    model, src, mask = translator(kind), words(3, 5), mask_of([5, 2, 4], 5)
    rows, prefixes = torch.tensor([2, 0, 2, 1]), words(4, 3, seed=1)
    memory = model.encode(src, mask)
    states = model.decode(prefixes, memory[rows], mask[rows])
    torch.testing.assert_close(model.project(states), model(src[rows], prefixes, mask[rows]))


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind):
    model = translator(kind)
    model(words(2, 5), words(2, 4, seed=1)).logsumexp(-1).sum().backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_acts_in_training_only_and_everywhere(kind):
    src, tgt = words(2, 5), words(2, 4, seed=1)
    model = translator(kind)
    assert torch.equal(model.train()(src, tgt), model(src, tgt))  # dropout 0: deterministic
    model = translator(kind, dropout=0.5)
    assert not torch.equal(model.train()(src, tgt), model(src, tgt))
    assert not torch.equal(model.encode(src), model.encode(src))
    memory = model.encode(src)
    assert not torch.equal(model.decode(tgt, memory), model.decode(tgt, memory))
    assert torch.equal(model.eval()(src, tgt), model(src, tgt))


@pytest.mark.parametrize("kind", ["additive", "dot"])
def test_attend_returns_the_weights_that_were_used(kind):
    model, src, tgt, mask = translator(kind), words(2, 5), words(2, 4, seed=1), mask_of([5, 3], 5)
    weights = model.attend(src, tgt, mask)
    assert weights.shape == (2, 4, 5) and not weights[1, :, 3:].any()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4).double())
    memory = model.encode(src, mask)
    torch.testing.assert_close(model.run(tgt, memory, mask)[1], weights @ memory)


def test_attend_needs_attention():
    with pytest.raises(ValueError, match="none.*additive or dot"):
        translator("none").attend(words(1, 3), words(1, 2))


def test_dot_has_the_parameters_of_none_and_additive_few_more():
    models = {k: RNNTranslator(Seq2SeqConfig(5000, 5000, attention=k)) for k in KINDS}
    counts = {k: sum(p.numel() for p in model.parameters()) for k, model in models.items()}
    assert counts["dot"] == counts["none"] < counts["additive"] < 1.1 * counts["dot"]


@pytest.mark.parametrize("kind", ["additive", "dot"])
def test_attention_learns_to_reverse(kind):
    """The word to write is the one at the mirrored place: only looking back can find it."""
    torch.manual_seed(0)
    model = RNNTranslator(Seq2SeqConfig(12, 12, d_model=32, attention=kind, dropout=0.0))
    adam = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(250):
        src = torch.randint(4, 12, (32, 6))
        tgt = src.flip(1)
        tgt_in = torch.cat([torch.ones_like(tgt[:, :1]), tgt[:, :-1]], dim=1)
        loss = F.cross_entropy(model(src, tgt_in).flatten(0, 1), tgt.flatten())
        adam.zero_grad()
        loss.backward()
        adam.step()
        if loss < 0.05:
            break
    assert loss < 0.2


# ---- wrong variants: each must be caught ---------------------------------------------------


class ReadsPadding(RNNEncoder):
    def forward(self, x, lengths):
        return self.gru(x)[0]


class LooksAtPadding(DotDecoder):
    def forward(self, y, start, memory, mask):
        return super().forward(y, start, memory, torch.ones_like(mask))


class SeesTheFuture(DotDecoder):
    def forward(self, y, start, memory, mask):
        states, _, _ = FixedDecoder.forward(self, y.flip(1), start, memory, mask)
        weights = masked_softmax(states.flip(1) @ memory.mT, mask)
        return states.flip(1), weights @ memory, weights


@pytest.mark.parametrize("part, wrong", [("encoder", ReadsPadding), ("decoder", LooksAtPadding)])
def test_reading_padding_is_caught(part, wrong):
    model = translator("dot")
    setattr(model, part, wrong(8).double())
    with pytest.raises(AssertionError):
        src, tgt = words(1, 4), words(1, 3)
        padded = model(F.pad(src, (0, 3), value=5), tgt, mask_of([4], 7))
        torch.testing.assert_close(padded, model(src, tgt))


def test_seeing_the_future_is_caught():
    model = translator("dot")
    model.decoder = SeesTheFuture(8).double()
    memory, tgt = model.encode(words(2, 5)), words(2, 6, seed=1)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(
            model.decode(tgt[:, :3], memory), model.decode(tgt, memory)[:, :3]
        )


# ---- distances and alignments --------------------------------------------------------------


def slow_distance(a: str, b: str) -> int:
    @cache
    def d(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        return min(d(i - 1, j) + 1, d(i, j - 1) + 1, d(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return d(len(a), len(b))


@small
@given(st.text("abc", max_size=7), st.text("abc", max_size=7))
def test_edit_distance_equals_its_slow_twin(a, b):
    assert edit_distance(a, b) == slow_distance(a, b) == edit_distance(b, a)
    assert 0 <= word_accuracy(a, b) <= 1


def test_edit_distance_by_hand():
    assert edit_distance("kitten", "sitting") == 3 and edit_distance("", "abc") == 3
    assert word_accuracy([1, 2, 3, 4], [1, 9, 3, 4]) == 0.75
    assert word_accuracy([], []) == 1 and word_accuracy([], [1]) == 0


def test_alignment_error_rate_by_hand():
    sure, possible = [{(0, 0), (1, 1)}], [{(0, 0), (1, 1), (2, 1)}]
    assert alignment_error_rate(sure, sure) == 0
    assert alignment_error_rate(possible, sure, possible) == 0  # a possible link does no harm
    assert alignment_error_rate([{(5, 5)}], sure) == 1
    assert alignment_error_rate([{(0, 0)}], sure, possible) == pytest.approx(1 - 2 / 3)
    found = [{(0, 0), (2, 1), (3, 3)}]
    assert alignment_error_rate(found, sure, possible) == pytest.approx(1 - (1 + 2) / (3 + 2))
    assert alignment_error_rate([[(0, 0)]], [[(0, 0)]], [[]]) == 0  # sure is always possible


def test_alignment_error_rate_sums_over_the_corpus():
    found, sure = [{(0, 0)}, set()], [{(0, 0)}, {(0, 0), (1, 1), (2, 2)}]
    assert alignment_error_rate(found, sure) == pytest.approx(1 - 2 / 5)  # not the mean of 0 and 1


@small
@given(st.lists(st.tuples(st.frozensets(st.tuples(st.integers(0, 3), st.integers(0, 3)))
                          .filter(len),
                          st.frozensets(st.tuples(st.integers(0, 3), st.integers(0, 3)))
                          .filter(len)), min_size=1, max_size=4))
def test_alignment_error_rate_is_one_minus_f1(pairs):
    found, sure = zip(*pairs)
    hits = sum(len(a & s) for a, s in pairs)
    precision, recall = hits / sum(map(len, found)), hits / sum(map(len, sure))
    f1 = 2 * precision * recall / (precision + recall) if hits else 0
    assert alignment_error_rate(found, sure) == pytest.approx(1 - f1)


def test_alignment_error_rate_refuses_nonsense():
    with pytest.raises(ValueError, match="links of 1, 2 and 2 sentences"):
        alignment_error_rate([set()], [{(0, 0)}, {(1, 1)}])
    with pytest.raises(ValueError, match="no link at all"):
        alignment_error_rate([set()], [set()])


def test_gold_alignments_have_no_error_and_shifted_ones_do():
    gold = [c.alignment for c in captions.load("val")]
    assert alignment_error_rate(gold, gold) == 0
    shifted = [[(i + 1, j) for i, j in links] for links in gold]
    assert alignment_error_rate(shifted, gold) > 0.7


# ---- memory network ------------------------------------------------------------------------


def test_memory_hop_equals_torch_and_its_slow_twin():
    u, m, c = random(2, 4), random(2, 5, 4, seed=1), random(2, 5, 4, seed=2)
    new, weights = memory_hop(u, m, c)
    expected = F.scaled_dot_product_attention(u[:, None], m, c, scale=1.0)[:, 0]
    torch.testing.assert_close(new, u + expected)
    for b in range(2):
        scores = torch.stack([u[b] @ m[b, i] for i in range(5)]).exp()
        torch.testing.assert_close(weights[b], scores / scores.sum())
        by_hand = sum(weights[b, i] * c[b, i] for i in range(5))
        torch.testing.assert_close(new[b], u[b] + by_hand)


# ---- pictures ------------------------------------------------------------------------------


def drawn(figure: Figure, panels: int = 1) -> Figure:
    """A figure with so many panels, closed so that a notebook shows it once."""
    assert isinstance(figure, Figure) and len(figure.axes) == panels
    assert not plt.fignum_exists(figure.number)
    figure.canvas.draw()
    return figure


def test_crossings():
    assert draw.crossings([(0, 0), (1, 1)]) == 0 and draw.crossings([(0, 1), (1, 0)]) == 1
    assert draw.crossings([(0, 2), (1, 1), (2, 0)]) == 3
    assert draw.crossings([(0, 0), (0, 1)]) == 0  # two links of one word do not cross


def test_picture_of_links_colours_crossings():
    figure = drawn(draw.links(["a", "b", "c"], ["x", "y", "z"], [(0, 0), (1, 2), (2, 1)], "t"))
    assert [line.get_linestyle() for line in figure.axes[0].lines] == ["--", "-", "-"]


@pytest.mark.parametrize("attention", [True, False])
def test_picture_of_the_machine(attention):
    axis = drawn(draw.machine(["a", "b", "c"], ["x", "y"], attention)).axes[0]
    assert len(axis.lines) == (6 if attention else 2)  # source words times steps, or a c each step
    places = {t.get_text(): t.get_position()[0] for t in axis.texts}
    assert ("$c$" in places) is not attention and ("$c_2$" in places) is attention
    if attention:  # Bahdanau looks first, then steps
        order = sorted((x, name) for name, x in places.items() if name[:2] in ("$c", "$s"))
        assert [name for _, name in order] == ["$s_0$", "$c_1$", "$s_1$", "$c_2$", "$s_2$"]


def test_pictures_of_lines():
    rows = {"none": [0.1, 0.2], "additive": [0.3, 0.4], "dot": [0.5, 0.6]}
    pictures = {2: draw.after_a_mistake(rows, dict.fromkeys(rows, (0.3, 0.4))),
                1: draw.quality_over_length([5, 9], rows, "t")}
    for panels, figure in pictures.items():
        axis = drawn(figure, panels).axes[0]
        assert [list(line.get_ydata()) for line in axis.lines] == list(rows.values())
    drawn(draw.wall_time([8, 16], {"a": [0.1, 0.2], "b": [0.01, 0.01]}, "t"))


def test_picture_of_alignments_frames_the_gold_links():
    weights = torch.rand(2, 3)
    figure = draw.alignment_maps({"a": weights, "b": weights}, list("xyz"), list("uv"), [(2, 0)])
    assert [p.get_xy() for p in drawn(figure, 3).axes[0].patches] == [(1.5, -0.5)]


def test_pictures_of_bars():
    axis = drawn(draw.error_rates({"all": {"uniform": 0.9, "additive": 0.2}})).axes[0]
    assert [bar.get_width() for bar in axis.patches] == [0.9, 0.2]
    axis = drawn(draw.hops(["f", "g"], torch.eye(2), "Where?")).axes[0]
    assert [bar.get_width() for bar in axis.patches] == [1, 0, 0, 1]
