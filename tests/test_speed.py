"""Lesson 07c: every switch leaves the training what it was, and many ranks make one step."""

import json
import math
import platform
import signal
import time
from dataclasses import replace
from functools import partial, partialmethod
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from course import speed
from course.corpora import pairs
from course.masking import Batch
from course.runs import Budget, CheckpointError, Trainer, read_log
from course.speed import (
    ByteDropout,
    FastStep,
    Objective,
    Ranks,
    Switches,
    ahead,
    bfloat16_gain,
    byte_mask,
    device_of_rank,
    joined,
    keep_freed_memory,
    recorded_switches,
    replace_dropout,
    restarted,
)
from course.text import BOS, PAD
from course.training import (
    PRESETS,
    TrainingConfig,
    batch_loss,
    make_optimizer,
    preset_model,
    train_step,
    weights_of,
)
from course.transformer import Transformer, TransformerConfig

SMALL = TransformerConfig(50, 50, d_model=32, n_heads=4, d_ff=64, n_layers=2, dropout=0.0)
PAIRS, VAL = pairs("captions", "train")[:60], pairs("captions", "val")[:20]
RECIPE = replace(PRESETS["tiny"][1], max_tokens=150, accumulate=2, warmup=10)


def batch_of(*lengths: int, seed: int = 0) -> Batch:
    """Return a batch of random sentences of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(4, 50, (n,), generator=generator).tolist() for n in lengths]
    return Batch.from_sequences(rows, rows[::-1], PAD, BOS)


def model_of(seed: int = 0, **changes) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(replace(SMALL, **changes)).train()


# ---------------------------------------------------------------- dropout


@pytest.mark.parametrize("drop", [0.0, 0.1, 0.15, 0.3, 0.5])
def test_bytes_drop_the_right_share_and_keep_the_mean(drop):
    torch.manual_seed(1)
    mask = byte_mask(torch.empty(400, 1001), drop)
    share = (mask == 0).float().mean().item()
    assert abs(share - round(drop * 256) / 256) < 0.003
    assert abs(mask.mean().item() - 1) < 0.005 and len(mask.unique()) <= 2


def test_all_eight_bytes_of_a_word_are_random():
    torch.manual_seed(2)
    dropped = (byte_mask(torch.empty(800_000), 0.3) == 0).view(-1, 8).float()
    assert ((dropped.mean(0) - 77 / 256).abs() < 0.01).all()
    off_diagonal = torch.corrcoef(dropped.T) - torch.eye(8)
    assert off_diagonal.abs().max() < 0.02


def test_63_bits_would_be_noticed():
    """The wrong twin: `random_()` without limits leaves the highest bit 0."""
    words = torch.empty(100_000, dtype=torch.int64).random_()
    dropped = (words.view(torch.uint8) < 77).view(-1, 8).float()
    assert not ((dropped.mean(0) - 77 / 256).abs() < 0.01).all()


def test_byte_dropout_is_dropout_only_in_training_and_follows_the_generator():
    layer, x = ByteDropout(0.2), torch.randn(3, 5, 7, requires_grad=True)
    torch.manual_seed(3)
    first = layer(x)
    torch.manual_seed(3)
    assert torch.equal(layer(x), first) and not torch.equal(layer(x), first)
    (gradient,) = torch.autograd.grad(first.sum(), x)
    assert torch.equal(gradient == 0, first == 0)  # the same elements on the way back
    assert torch.equal(layer.eval()(x), x)


def test_every_dropout_is_replaced_with_its_probability_and_mode():
    model = model_of(dropout=0.3).eval()
    before = [m.p for m in model.modules() if isinstance(m, nn.Dropout)]
    names = list(dict(model.named_parameters()))
    replace_dropout(model)
    after = [m for m in model.modules() if isinstance(m, ByteDropout)]
    assert [m.drop for m in after] == before and len(before) == 11
    assert not any(m.training for m in after)
    assert not any(isinstance(m, nn.Dropout) for m in model.modules())
    assert list(dict(model.named_parameters())) == names


# ---------------------------------------------------------------- switches


def loss_and_gradient(switches: Switches, batch: Batch) -> tuple[float, torch.Tensor]:
    model = model_of()
    loss = Objective(model, switches, 0.1)(batch)
    gradients = torch.autograd.grad(loss, [*model.parameters()])
    return loss.item(), torch.cat([g.flatten() for g in gradients])


@pytest.mark.parametrize(
    "switches", [Switches(cheap_dropout=True), Switches(keep_memory=True), Switches(True, True)]
)
def test_switches_without_rounding_change_nothing(switches):
    batch = batch_of(5, 6, 9)
    loss, gradient = loss_and_gradient(switches, batch)
    wanted = loss_and_gradient(Switches(), batch)
    assert loss == wanted[0] and torch.equal(gradient, wanted[1])
    assert math.isclose(loss, batch_loss(model_of(), batch, 0.1).item())


def test_bfloat16_is_within_a_percent_and_keeps_the_direction():
    batch = batch_of(5, 6, 9, 12)
    loss, gradient = loss_and_gradient(Switches(bfloat16=True), batch)
    wanted, exact = loss_and_gradient(Switches(), batch)
    assert 0 < abs(loss / wanted - 1) < 0.01  # not equal: it did round
    assert torch.nn.functional.cosine_similarity(gradient, exact, dim=0) > 0.99
    assert gradient.dtype == torch.float32


def test_bfloat16_gives_zero_for_a_batch_of_padding():
    batch = Batch.from_sequences([[PAD, PAD]], [[PAD, PAD]], PAD, BOS)
    loss, gradient = loss_and_gradient(Switches(bfloat16=True), batch)
    assert loss == 0 and gradient.abs().max() == 0


@pytest.mark.parametrize("backend", [
    "aot_eager", pytest.param("inductor", marks=pytest.mark.long)])  # its kernels take minutes
def test_compiled_equals_eager(backend, monkeypatch):
    """One program for all shapes; skipped where there is no compiler, and says so."""
    monkeypatch.setattr(torch.nn.Module, "compile",
                        partialmethod(torch.nn.Module.compile, backend=backend))
    model, plain = model_of(n_layers=1), model_of(n_layers=1)
    objective = Objective(model, Switches(compile=True), 0.1)
    for batch in (batch_of(5, 6, 9), batch_of(3, 4, 4, 11, seed=1)):
        try:
            loss = objective(batch)
        except torch._inductor.exc.InductorError as error:
            pytest.skip(f"torch.compile finds no C++ compiler here: {str(error)[:100]}")
        wanted = batch_loss(plain, batch, 0.1)
        torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-4)
        ours = torch.autograd.grad(loss, [*model.parameters()])
        theirs = torch.autograd.grad(wanted, [*plain.parameters()])
        for a, b in zip(ours, theirs):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert list(dict(model.named_parameters())) == list(dict(plain.named_parameters()))


def test_memory_is_kept_where_the_library_can(monkeypatch):
    glibc = platform.libc_ver()[0] == "glibc"
    assert keep_freed_memory() is glibc and keep_freed_memory(False) is glibc

    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(speed.ctypes, "CDLL", missing)
    assert keep_freed_memory() is False


def test_nearly_all_dropped_is_not_divided_by_zero():
    mask = byte_mask(torch.ones(100_000), 1.0)
    assert mask.isfinite().all() and mask.mean().item() == pytest.approx(1, abs=0.3)


def test_the_best_switches_follow_the_measurement(monkeypatch):
    ticks = iter([0, 6, 10, 14, 20, 23, 30, 32])  # float32: 6 and 4 seconds; bfloat16: 3 and 2
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(ticks))
    assert bfloat16_gain(torch.device("cpu"), repeats=2) == 2
    for gain, wanted in ((3.0, True), (0.4, False)):
        monkeypatch.setattr(speed, "bfloat16_gain", lambda device, gain=gain: gain)
        assert Switches.best("cpu") == Switches(True, True, wanted)
    assert Switches.best("meta") == Switches()


def test_the_fast_step_without_switches_is_lesson_07s_step():
    batches = [batch_of(5, 6, 9), batch_of(3, 4, 12, seed=1)]
    ours, theirs, config = model_of(), model_of(), TrainingConfig()
    fast = FastStep(ours, make_optimizer(ours, config), config, Switches())
    optimizer = make_optimizer(theirs, config)
    for rate in (1e-3, 2e-3):
        got = fast.update(batches, rate)
        assert got == pytest.approx(train_step(theirs, batches, optimizer, rate, config), rel=1e-5)
    for a, b in zip(weights_of(ours).values(), weights_of(theirs).values()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_step_that_is_not_finite_leaves_the_weights():
    model, config = model_of(), TrainingConfig()
    fast = FastStep(model, make_optimizer(model, config), config, Switches())
    model.decoder.layers[0].feed_forward.w_1.bias.data[0] = math.inf
    before = weights_of(model)
    with pytest.raises(FloatingPointError, match="loss nan"):
        fast.update([batch_of(4, 5)], 1e-3)
    assert all(torch.equal(before[n], w) for n, w in weights_of(model).items())


# ---------------------------------------------------------------- ahead


def test_ahead_keeps_order_passes_errors_on_and_ends_early():
    assert list(ahead(range(10))) == list(range(10)) and list(ahead([])) == []

    def failing():
        yield 1
        raise KeyError("two")

    items = ahead(failing())
    assert next(items) == 1
    with pytest.raises(KeyError, match="two"):
        next(items)
    begun = time.monotonic()
    endless = ahead(iter(int, 1))
    assert next(endless) == 0
    endless.close()  # the thread does not go on for ever
    assert time.monotonic() - begun < 5


# ---------------------------------------------------------------- ranks


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_shares_have_every_sentence_once(world):
    batch = batch_of(3, 4, 4, 5, 9)
    shares = [Ranks(rank, world).share(batch) for rank in range(world)]
    assert sum(share.n_tokens for share in shares) == batch.n_tokens
    rows = [row for s in shares if s.n_tokens for row in s.tgt_out.tolist()]
    assert sorted(rows) == sorted(batch.tgt_out.tolist())
    assert [share.n_tokens == 0 for share in shares] == [rank >= 5 for rank in range(world)]
    assert all(s.tgt_mask.shape[0] == s.src.shape[0] == s.src_mask.shape[0] for s in shares)


def test_moving_touches_every_tensor():
    twice = batch_of(3, 5).map(lambda x: torch.cat([x, x]))
    assert len(twice.src) == len(twice.tgt_mask) == len(twice.src_mask) == 4


def one_rank(rank: int, world: int, directory: Path) -> None:
    """Make two steps as one of several processes, and write the weights and what was said."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{directory}/meet", rank=rank, world_size=world)
    model, config = model_of(seed=rank).double(), TrainingConfig()  # DDP begins with rank 0's
    fast = FastStep(model, make_optimizer(model, config), config, Switches(), Ranks(rank, world))
    said = [fast.update([batch_of(3, 4, 12), batch_of(7, seed=1)], 1e-3) for _ in range(2)]
    torch.save((said, weights_of(model)), directory / f"{rank}.pt")
    dist.destroy_process_group()


def test_several_ranks_are_one(tmp_path):
    """Unequal tokens, two batches a step, and two ranks without a sentence in one of them."""
    world = 3
    mp.spawn(one_rank, (world, tmp_path), nprocs=world)
    model, config = model_of(seed=0).double(), TrainingConfig()
    fast = FastStep(model, make_optimizer(model, config), config, Switches())
    wanted = [fast.update([batch_of(3, 4, 12), batch_of(7, seed=1)], 1e-3) for _ in range(2)]
    for rank in range(world):
        said, weights = torch.load(tmp_path / f"{rank}.pt")
        for got, want in zip(said, wanted):
            assert got == pytest.approx(want, rel=1e-6)
        for name, weight in weights_of(model).items():
            torch.testing.assert_close(weights[name], weight, rtol=1e-6, atol=1e-9)


def test_alone_without_torchrun(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    with joined(torch.device("cpu")) as ranks:
        assert ranks == Ranks(0, 1) and ranks.chief and not dist.is_initialized()
    assert device_of_rank().type in ("cpu", "cuda", "mps")


def test_only_the_launch_that_began_a_run_goes_on_by_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "monday")
    assert not restarted(tmp_path)
    assert trainer(tmp_path, switches=Switches()).run(PAIRS, VAL)
    assert restarted(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "tuesday")
    assert not restarted(tmp_path)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert not restarted(tmp_path)


def test_torchruns_variables_make_a_group(monkeypatch):
    values = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "1",
              "MASTER_ADDR": "localhost", "MASTER_PORT": "0", "GROUP_WORLD_SIZE": "1",
              "TORCHELASTIC_RESTART_COUNT": "0"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with joined(torch.device("cpu")) as ranks:
        assert ranks == Ranks(0, 1) and dist.is_initialized()
    assert not dist.is_initialized()


# ---------------------------------------------------------------- the trainer


def trainer(directory: Path, kind=Trainer, **choices) -> Trainer:
    """Return a tiny trainer; with `choices`, of a fast step."""
    model, bpe = preset_model("tiny", [s for pair in PAIRS for s in pair], seed=0)
    stepper = {"stepper": partial(FastStep, **choices)} if choices else {}
    return kind(model, bpe, RECIPE, Budget(epochs=2), directory, quiet=True, **stepper)


def test_the_trainer_without_switches_is_lesson_07s(tmp_path):
    ours = trainer(tmp_path / "ours", switches=Switches())
    theirs = trainer(tmp_path / "theirs")
    assert ours.run(PAIRS, VAL) and theirs.run(PAIRS, VAL)
    for a, b in zip(weights_of(ours.model).values(), weights_of(theirs.model).values()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    logs = [read_log(tmp_path / name) for name in ("ours", "theirs")]
    assert logs[0][-1]["val_loss"] == pytest.approx(logs[1][-1]["val_loss"], rel=1e-3)


def test_a_broken_run_with_all_tricks_ends_at_the_same_bits(tmp_path):
    tricks = Switches(True, True, True)
    unbroken = trainer(tmp_path / "unbroken", switches=tricks)
    assert unbroken.run(PAIRS, VAL)

    class Pressed(Trainer):
        def step(self, group):
            if self.position.step == 3:
                signal.raise_signal(signal.SIGINT)
            return super().step(group)

    assert not trainer(tmp_path / "broken", Pressed, switches=tricks).run(PAIRS, VAL)
    again = trainer(tmp_path / "broken", switches=recorded_switches(tmp_path / "broken"))
    assert again.stepper.switches == tricks and again.run(PAIRS, VAL, resume=True)
    left, right = weights_of(unbroken.model), weights_of(again.model)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_other_switches_are_named_on_resuming(tmp_path):
    assert trainer(tmp_path, switches=Switches()).run(PAIRS, VAL)
    with pytest.raises(CheckpointError, match=r"switches\.bfloat16=False, not True"):
        trainer(tmp_path, switches=Switches(bfloat16=True)).run(PAIRS, VAL, resume=True)


def test_a_run_of_lesson_07_has_no_switches(tmp_path):
    (tmp_path / "training.json").write_text(json.dumps({"seed": 0}))
    assert recorded_switches(tmp_path) == Switches()


def one_trainer(rank: int, world: int, directory: Path) -> None:
    """Train as one of two ranks; the second hears Ctrl-C in the middle of its fourth step."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{directory}/meet", rank=rank, world_size=world)

    class Pressed(Trainer):
        def step(self, group):
            if self.position.step == 3 and rank == 1:
                signal.raise_signal(signal.SIGINT)
            return super().step(group)

    ranks = Ranks(rank, world)
    first = trainer(directory / "run", Pressed, switches=Switches(), ranks=ranks)
    assert not first.run(PAIRS, VAL) and first.position.step == 4
    second = trainer(directory / "run", switches=Switches(), ranks=ranks)
    assert second.run(PAIRS, VAL, resume=True)
    (directory / f"{rank}.json").write_text(json.dumps(
        [second.position.step, second.position.seconds, second.position.tokens]))
    dist.destroy_process_group()


def test_one_clock_one_log_and_a_stop_of_one_rank_stops_both(tmp_path):
    mp.spawn(one_trainer, (2, tmp_path), nprocs=2)
    ends = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    alone = trainer(tmp_path / "alone", switches=Switches())
    assert alone.run(PAIRS, VAL)
    assert ends[0] == ends[1]  # steps, seconds and tokens
    assert ends[0][0] == alone.position.step and ends[0][2] == alone.position.tokens
    lines = [(line["step"], "averaged" in line) for line in read_log(tmp_path / "run")]
    assert len(lines) == len(set(lines))  # written once, by one
    snapshots = [
        sorted(path.name for path in (tmp_path / name / "snapshots").iterdir())
        for name in ("run", "alone")
    ]
    assert snapshots[0] == snapshots[1]


def test_the_batches_of_a_gpu_are_pinned_ahead(tmp_path, monkeypatch):
    step = trainer(tmp_path, switches=Switches()).stepper
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: x)
    seen = {}
    for kind in ("cpu", "cuda"):
        step.device = torch.device(kind)
        fed = step.feed(iter([batch_of(3, 5), batch_of(2)]))
        seen[kind] = [batch.src.tolist() for batch in fed]
    assert seen["cpu"] == seen["cuda"] and len(seen["cpu"]) == 2

