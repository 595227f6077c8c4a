"""Lesson 07: loss, schedule, step, averages, recipes."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small import PAIRS, RECIPE, SMALL

from course.masking import Batch
from course.text import BOS, EOS, PAD
from course.training import (
    PRESETS,
    TrainingConfig,
    average_checkpoints,
    batch_loss,
    evaluate_loss,
    groups_of,
    label_smoothed_loss,
    learning_rate,
    linear_learning_rate,
    load_weights,
    make_optimizer,
    paper_learning_rate,
    preset_model,
    recipe_of,
    train_step,
    weights_of,
)
from course.transformer import Transformer, TransformerConfig


@pytest.fixture(autouse=True)
def one_thread():
    """The order of sums depends on the number of threads: exactness is tested with one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def equal(left, right) -> bool:
    left, right = weights_of(left), weights_of(right)
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def sequences(*lengths: int) -> list[list[int]]:
    return [[*torch.randint(4, 40, (n - 1,)).tolist(), EOS] for n in lengths]


def make(some: list[list[int]]) -> Batch:
    return Batch.from_sequences(some, some, PAD, BOS)


# ---------------------------------------------------------------- loss


@given(st.integers(1, 6), st.integers(2, 30), st.floats(0, 0.9), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_loss_and_gradient_equal_torch(n, vocab, epsilon, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, vocab, dtype=torch.double, generator=generator, requires_grad=True)
    target = torch.randint(vocab, (n,), generator=generator)
    ours = label_smoothed_loss(logits, target, epsilon)
    theirs = F.cross_entropy(logits, target, label_smoothing=epsilon, reduction="sum")
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs))
    )


def test_a_forbidden_word_costs_nothing_without_smoothing():
    logits = torch.randn(3, 6)
    logits[:, 4] = -math.inf  # never the target
    logits.requires_grad_()
    target = torch.tensor([0, 1, 5])
    ours = label_smoothed_loss(logits, target, 0.0)
    torch.testing.assert_close(ours, F.cross_entropy(logits, target, reduction="sum"))
    assert torch.autograd.grad(ours, logits)[0].isfinite().all()
    assert label_smoothed_loss(logits, target, 0.1).item() == math.inf  # asked for, and forbidden


def test_the_sum_of_16_bit_logits_is_kept_in_32_bits():
    logits, target = torch.randn(500, 50).bfloat16(), torch.randint(50, (500,))
    with torch.autocast("cpu", torch.bfloat16):
        ours = label_smoothed_loss(logits, target, 0.1)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, label_smoothed_loss(logits.double(), target, 0.1).float())
    assert ours.item() != ours.bfloat16().item()  # 16 bits would have lost some of it


def test_the_smoothing_is_spread_over_all_words_and_has_a_floor():
    logits, target = torch.randn(1, 8, dtype=torch.double), torch.tensor([3])
    log_p = logits.log_softmax(-1)
    ours = label_smoothed_loss(logits, target, 0.1)
    for n_wrong in (7, 6):  # the spreads of other libraries: without the right word, or the padding
        rest = log_p.sum() - log_p[0, 3] - (log_p[0, PAD] if n_wrong == 6 else 0)
        assert not torch.isclose(ours, -0.9 * log_p[0, 3] - 0.1 / n_wrong * rest)
    soft = torch.full((1, 8), 0.1 / 8, dtype=torch.double)
    soft[0, 3] += 0.9
    floor = -(soft * soft.log()).sum()
    torch.testing.assert_close(label_smoothed_loss(soft.log(), target, 0.1), floor)
    assert ours > floor


def test_batch_loss_is_the_loss_of_all_logits_without_the_padding():
    model, some = Transformer(SMALL).double(), sequences(3, 9, 5)
    batch = make(some)
    rows = []
    model.w_vocab.register_forward_hook(lambda module, x, y: rows.append(x[0].shape[:-1]))
    ours = batch_loss(model, batch, 0.1)
    assert rows == [(17,)]
    logits = model(batch.src, batch.tgt_in, batch.src_mask, batch.tgt_mask)
    theirs = F.cross_entropy(
        logits.flatten(0, 1),
        batch.tgt_out.flatten(),
        ignore_index=PAD,
        reduction="sum",
        label_smoothing=0.1,
    )
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(ours, sum(batch_loss(model, make([s]), 0.1) for s in some))


def test_a_batch_of_padding_gives_zero_not_nan():
    model = Transformer(SMALL)
    nothing = make([[PAD, PAD]])
    loss = batch_loss(model, nothing, 0.1)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad.abs().max() == 0 for p in model.parameters())
    loss, norm = train_step(model, [nothing], make_optimizer(model, RECIPE), 1e-3, RECIPE)
    assert (loss, norm) == (0, 0)
    assert all(p.isfinite().all() for p in model.parameters())


# ---------------------------------------------------------------- schedule


@pytest.mark.parametrize("d_model, warmup", [(512, 4000), (64, 10), (16, 1)])
def test_the_papers_rate_peaks_at_warmup(d_model, warmup):
    rates = [paper_learning_rate(t, d_model, warmup) for t in range(1, 3 * warmup + 1)]
    assert rates.index(max(rates)) + 1 == warmup
    assert math.isclose(max(rates), 1 / math.sqrt(d_model * warmup))
    assert math.isclose(rates[-1], 1 / math.sqrt(d_model * 3 * warmup))
    assert math.isclose(rates[0] * warmup, max(rates))


def test_step_0_raises_as_in_lambda_lr():
    with pytest.raises(ValueError, match="counted from 1, not 0"):
        paper_learning_rate(0, 512)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    with pytest.raises(ValueError):
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: paper_learning_rate(t, 512))


def test_the_linear_rate_rises_and_ends_at_zero():
    assert linear_learning_rate(5, 0.0, 0.1, 10) == pytest.approx(0.05)
    assert linear_learning_rate(50, 0.5, 0.1, 10) == pytest.approx(0.05)
    assert linear_learning_rate(50, 1.0, 0.1, 10) == 0


def test_the_configuration_chooses_the_schedule():
    paper = TrainingConfig(schedule="paper", warmup=7)
    assert learning_rate(paper, 64, 3, 0.9) == paper_learning_rate(3, 64, 7)
    ours = TrainingConfig(peak_lr=0.2, warmup=7)
    assert learning_rate(ours, 64, 3, 0.1) == linear_learning_rate(3, 0.1, 0.2, 7)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"accumulate": 0},
        {"warmup": 0},
        {"peak_lr": -1.0},
        {"clip": math.nan},
        {"schedule": "cosine"},
        {"label_smoothing": 1.0},
    ],
)
def test_impossible_configurations_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainingConfig(**wrong)


# ---------------------------------------------------------------- the step


def gradient_by_sgd(model: Transformer, batches: list[Batch], step=train_step) -> torch.Tensor:
    """Return the gradient that a step follows: with SGD at rate 1 the weights move by it."""
    trial = Transformer(model.config).double()
    trial.load_state_dict(model.state_dict())
    before = torch.nn.utils.parameters_to_vector(trial.parameters()).detach().clone()
    optimizer = torch.optim.SGD(trial.parameters(), lr=0.5)
    step(trial, batches, optimizer, 1.0, replace(RECIPE, clip=math.inf))
    return before - torch.nn.utils.parameters_to_vector(trial.parameters()).detach()


def mean_of_means(model, batches, optimizer, rate, config):
    for batch in batches:
        mean = batch_loss(model, batch, config.label_smoothing) / batch.n_tokens
        (mean / len(batches)).backward()
    optimizer.param_groups[0]["lr"] = rate
    optimizer.step()


def last_batch_only(model, batches, optimizer, rate, config):
    train_step(model, batches[-1:], optimizer, rate, config)


def test_accumulated_equals_full_batch_with_unequal_token_counts():
    torch.manual_seed(0)
    model, some = Transformer(SMALL).double(), sequences(3, 3, 9, 12, 8, 11)
    whole = gradient_by_sgd(model, [make(some)])
    parts = [make(some[:2]), make(some[2:5]), make(some[5:])]
    torch.testing.assert_close(gradient_by_sgd(model, parts), whole)
    for wrong in (mean_of_means, last_batch_only):
        with pytest.raises(AssertionError):
            torch.testing.assert_close(gradient_by_sgd(model, parts, wrong), whole)


def test_the_step_reports_loss_and_norm_sets_the_rate_and_clips():
    torch.manual_seed(0)
    model, batch = Transformer(SMALL), make(sequences(4, 6))
    expected = batch_loss(model, batch, RECIPE.label_smoothing) / batch.n_tokens
    expected.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=9.0)
    # the gradient left over from above must not be added
    got = train_step(model, [batch], optimizer, 2.0, replace(RECIPE, clip=1e-3))
    assert got == pytest.approx((expected.item(), norm.item()))
    assert optimizer.param_groups[0]["lr"] == 2.0
    moved = torch.nn.utils.parameters_to_vector(model.parameters()).detach() - before
    assert moved.norm().item() == pytest.approx(2e-3, rel=1e-3)


def test_a_loss_that_is_not_finite_leaves_the_weights():
    model = Transformer(SMALL)
    with torch.no_grad():
        model.decoder.layers[0].feed_forward.w_1.bias[0] = math.inf
    before = weights_of(model)
    with pytest.raises(FloatingPointError, match="loss nan"):
        train_step(model, [make(sequences(4))], make_optimizer(model, RECIPE), 1e-3, RECIPE)
    assert all(torch.equal(before[n], w) for n, w in weights_of(model).items())


def test_the_optimizer_is_the_papers():
    defaults = make_optimizer(Transformer(SMALL), TrainingConfig()).defaults
    assert (defaults["betas"], defaults["eps"], defaults["weight_decay"]) == ((0.9, 0.98), 1e-9, 0)


@given(st.integers(0, 20), st.integers(1, 6))
def test_groups_drop_nothing(n, size):
    groups = list(groups_of(range(n), size))
    assert [item for group in groups for item in group] == list(range(n))
    assert all(len(group) == size for group in groups[:-1])
    assert len(groups) == math.ceil(n / size)


def test_evaluation_is_without_dropout_and_leaves_no_trace():
    model = Transformer(replace(SMALL, dropout=0.5)).train()
    some, before = sequences(3, 7, 5), torch.get_rng_state()
    together = evaluate_loss(model, [make(some)])
    apart = evaluate_loss(model, (make([s]) for s in some))
    assert together == pytest.approx(apart, rel=1e-5)
    assert torch.equal(before, torch.get_rng_state()) and model.training
    assert evaluate_loss(model.eval(), [make(some)]) == together and not model.training
    with pytest.raises(ValueError, match="no real token"):
        evaluate_loss(model, [])


# ---------------------------------------------------------------- averages


def test_the_average_is_the_mean_of_the_weights():
    states = [{"a": torch.randn(3, 2), "b": torch.randn(4)} for _ in range(5)]
    mean = average_checkpoints(iter(states))
    for name in ("a", "b"):
        expected = torch.stack([s[name] for s in states]).double().mean(0).float()
        assert torch.equal(mean[name], expected) and mean[name].dtype == torch.float32
    halves = average_checkpoints([{"a": torch.ones(2).half()}, {"a": torch.zeros(2).half()}])
    assert halves["a"].tolist() == [0.5, 0.5]
    first = {"a": torch.ones(2)}
    average_checkpoints([first, first])
    assert first["a"].tolist() == [1, 1]


def test_nothing_or_different_models_cannot_be_averaged():
    with pytest.raises(ValueError, match="no checkpoint"):
        average_checkpoints([])
    with pytest.raises(ValueError, match="different models"):
        average_checkpoints([{"a": torch.ones(1)}, {"b": torch.ones(1)}])


def test_weights_are_compared_by_name_and_shape():
    model = Transformer(SMALL)
    weights = weights_of(model)
    name = next(iter(weights))
    with pytest.raises(ValueError, match=f"{name} is on one side only"):
        load_weights(model, {n: w for n, w in weights.items() if n != name})
    with pytest.raises(ValueError, match="has shape"):
        load_weights(model, weights | {name: weights[name][0]})


# ---------------------------------------------------------------- presets, pictures


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_build(preset):
    with torch.device("meta"):  # shapes without memory
        model, bpe = preset_model(preset, [s for pair in PAIRS for s in pair], seed=0)
    assert model.config.src_vocab == len(bpe) <= PRESETS[preset][0]["vocab"]
    if preset == "base":
        paper = TransformerConfig.base(len(bpe))
        assert model.config == paper and PRESETS[preset][1].schedule == "paper"


def test_a_preset_is_fresh_by_seed_and_known_by_name():
    sentences = [s for pair in PAIRS for s in pair]
    first, again, other = (preset_model("tiny", sentences, seed)[0] for seed in (0, 0, 1))
    assert equal(first, again) and not equal(first, other)
    with pytest.raises(ValueError, match="'huge' is unknown: choose from tiny"):
        preset_model("huge", sentences, 0)


def test_pictures():
    import matplotlib.pyplot as plt

    from course.viz import training as draw

    log = [
        {"step": s, "loss": 5.0 - s / 20, "rate": 1e-3, "norm": 1.0 + s} for s in range(10, 60, 10)
    ] + [{"step": 50, "val_loss": 3.0}, {"step": 50, "val_loss": 2.9, "averaged": 3}]
    curve = [0.5, 1.0, 0.25]
    figures = {
        2: draw.smoothed_target(
            ["a", "b"], [0, 1], [0.05, 0.95], curve, {"0": curve, "0.1": curve}, (0.9, 0.2)
        ),
        3: draw.run_curves(log, {"uniform": 6.0, "floor": 1.0}),
        1: draw.resumed({1: 3.0, 2: 2.0}, {"first": {1: 3.0}, "second": {2: 2.0}}),
    }
    for n_axes, figure in figures.items():
        assert len(figure.axes) == n_axes
    two = [
        draw.schedules({"paper": curve}, {"ours": curve}, warmup=2),
        draw.overfitting({"0": [(1, 3.0, 3.1), (2, 1.0, 4.0)], "0.3": [(1, 3.0, 3.1)]}),
        draw.averages({"ours": (curve, 0.2), "paper": (curve, 0.1)}),
        draw.bowl({"a": [(1.0, 2.0), (0.5, 0.0)], "b": [(0.0, 0.0)]}, (1.0, 3.0), last=1),
    ]
    assert [len(figure.axes) for figure in two] == [2, 2, 2, 2]
    paper, ours = two[0].axes  # two schedules are compared on one scale
    assert paper.get_ylim() == ours.get_ylim()
    assert len(draw.step_lengths({"0.98": curve, "0.999": curve}, curve).axes) == 1
    assert plt.get_fignums() == []  # none is left open to be shown a second time


def test_a_recipe_changes_sizes_and_training():
    changes = {"dropout": 0, "d_ff": 1024, "betas": [0.9, 0.99], "vocab": 600}
    sizes, config = recipe_of("cpu", changes)
    assert sizes["dropout"] == 0.0 and isinstance(sizes["dropout"], float)
    assert sizes["d_ff"] == 1024 and sizes["vocab"] == 600 and config.betas == (0.9, 0.99)
    assert recipe_of("cpu") == PRESETS["cpu"] and PRESETS["cpu"][0]["d_ff"] == 512  # as it was
    model, bpe = recipe_of("tiny", {"d_model": 32}).fresh([s for pair in PAIRS for s in pair], 0)
    assert model.config.d_model == 32


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"droput": 0.3}, "droput is nothing that a recipe sets: it sets max_tokens"),
        ({"src_vocab": 5}, "src_vocab is nothing"),
        ({"d_model": "wide"}, "give an int, such as 512"),
        ({"dropout": "much"}, "give a float, such as 0.1"),
        ({"tie_embeddings": 1}, "give a bool, such as True"),
        ({"dropout": True}, "give a float, such as 0.1"),
        ({"d_k": 2.5}, "give an int, such as 64"),
        ({"d_v": "wide"}, "give an int, such as 64"),
        ({"seed": 5}, "seed is nothing that a recipe sets"),
        ({"betas": 5}, "give a tuple"),
        ({"betas": [0.9]}, "betas are two numbers"),
        ({"average": -1}, "give a number of snapshots"),
        ({"average_span": 2}, "a share of the run up to 1"),
        ({"n_heads": 0}, "n_heads is 1 or more, not 0"),
        ({"n_layers": 0}, "n_layers is 1 or more"),
        ({"norm": "mid"}, "norm='mid' is unknown"),
        ({"warmup": 0}, "warmup is more than 0"),
    ],
)
def test_a_wrong_recipe_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        recipe_of("tiny", changes).fresh([s for pair in PAIRS for s in pair], 0)
