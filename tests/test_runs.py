"""Lesson 07b: checkpoints, stopping and resuming, the trainer."""

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small import PAIRS, RECIPE, SMALL, VAL

from course import rundir, runs, training
from course.decoding import translate
from course.masking import Batch
from course.rundir import CheckpointError, header, move, stop_request, write_atomically
from course.runs import (
    Budget,
    Log,
    Position,
    Trainer,
    load_checkpoint,
    load_state,
    read_log,
    save_checkpoint,
    save_state,
    snapshot_paths,
    snapshots_due,
)
from course.seq2seq import RNNTranslator
from course.text import BOS, BPE, EOS, PAD
from course.training import (
    PRESETS,
    TrainingConfig,
    average_checkpoints,
    preset_model,
    train_step,
    weights_of,
)
from course.transformer import Transformer


def trainer(
    directory: Path,
    kind: type[Trainer] = Trainer,
    seed: int = 0,
    budget: Budget | None = None,
    quiet: bool = True,
    **changes,
) -> Trainer:
    """Return a tiny trainer; `seed` makes the fresh weights, not the run."""
    bpe = BPE.learn([sentence for pair in PAIRS for sentence in pair], 330)
    torch.manual_seed(seed)
    shape = replace(SMALL, src_vocab=len(bpe), tgt_vocab=len(bpe), dropout=0.1, norm="pre")
    model = Transformer(shape)
    config = replace(RECIPE, **changes)
    return kind(model, bpe, config, budget or Budget(epochs=3), directory, quiet=quiet)


class Breaking(Trainer):
    """A trainer that gets Ctrl-C after a step."""

    after = 0

    def step(self, group):
        values = super().step(group)
        if self.position.step == self.after:
            signal.raise_signal(signal.SIGINT)
        return values


def child(interrupted: Path, killed: Path) -> None:
    """Train twice in a process of its own: until SIGINT comes, then until SIGKILL."""
    torch.set_num_threads(1)

    class Waiting(Trainer):
        def step(self, group):
            values = super().step(group)
            if self.position.step == 4:
                print("ready", flush=True)
                while not (interrupted / "go").exists():
                    time.sleep(0.01)
            return values

    run = trainer(interrupted, Waiting)
    print(run.run(PAIRS, VAL), run.position.step, flush=True)

    rename, states = os.replace, []

    def replace_or_die(source, target):
        states.extend([target] if Path(target).name == "state.safetensors" else [])
        if len(states) == 6:  # the new file is written beside the old one, not yet moved
            with (killed / "log.jsonl").open("a") as log:
                log.write('{"step": 1000, "ep')
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)

    rundir.os.replace = replace_or_die
    trainer(killed).run(PAIRS, VAL, save_seconds=-1)


if __name__ == "__main__":
    child(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.exit()


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


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Trainer:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    run = trainer(tmp_path_factory.mktemp("unbroken"))
    assert run.run(PAIRS, VAL)
    torch.set_num_threads(before)
    assert run.position.step >= 9 and run.n_batches % RECIPE.accumulate  # a group is incomplete
    return run


def make(some: list[list[int]]) -> Batch:
    return Batch.from_sequences(some, some, PAD, BOS)


# ---------------------------------------------------------------- files


def test_a_write_that_is_cut_off_leaves_the_old_file(tmp_path):
    path = tmp_path / "new" / "file"
    write_atomically(path, lambda p: p.write_text("old"))

    def cut_off(p):
        p.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, cut_off)
    assert path.read_text() == "old"


def test_a_full_disk_is_named_and_harms_nothing(tmp_path):
    run = trainer(tmp_path)
    save_checkpoint(tmp_path, run.model, run.bpe)
    old = (tmp_path / "model.safetensors").read_bytes()
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(old) // 2, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"cannot write .*model\.safetensors.*make room"):
            save_checkpoint(tmp_path, run.model, run.bpe)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "model.safetensors").read_bytes() == old
    assert not list(tmp_path.glob("*.part"))


def test_the_message_of_a_full_disk_says_so(tmp_path):
    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(CheckpointError, match="No space left on device"):
        write_atomically(tmp_path / "x", full)


def test_files_get_normal_permissions(tmp_path):
    before = os.umask(0o022)
    try:
        run = trainer(tmp_path)
        save_checkpoint(tmp_path, run.model, run.bpe)
        save_state(tmp_path, Position(), run.model, run.optimizer)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert len(modes) == 4 and set(modes.values()) == {0o644}


@pytest.mark.parametrize("tied", [True, False])
def test_a_checkpoint_comes_back_bit_for_bit(tmp_path, tied):
    bpe = trainer(tmp_path).bpe
    shape = replace(SMALL, src_vocab=len(bpe), tgt_vocab=len(bpe), tie_embeddings=tied)
    model = Transformer(shape)
    save_checkpoint(tmp_path / "c", model, bpe)
    loaded, again = load_checkpoint(tmp_path / "c")
    assert equal(loaded, model) and loaded.config == model.config and not loaded.training
    assert (loaded.w_vocab.weight is loaded.tgt_embedding.weight) == tied
    assert again.encode("ein Hund läuft") == bpe.encode("ein Hund läuft")
    stored = load_file(tmp_path / "c" / "model.safetensors")
    assert sum(w.numel() for w in stored.values()) == sum(p.numel() for p in model.parameters())


def test_half_precision_halves_the_file_and_loads_as_float32(tmp_path):
    run = trainer(tmp_path)
    save_checkpoint(tmp_path / "full", run.model, run.bpe)
    save_checkpoint(tmp_path / "half", run.model, run.bpe, torch.float16)
    full, half = ((tmp_path / k / "model.safetensors").stat().st_size for k in ("full", "half"))
    assert half < 0.6 * full
    model, _ = load_checkpoint(tmp_path / "half")
    for name, weight in weights_of(run.model).items():
        loaded = weights_of(model)[name]
        assert loaded.dtype == torch.float32 and torch.equal(loaded, weight.half().float())


def test_an_unknown_checkpoint_lists_the_shipped_ones(tmp_path, monkeypatch):
    run = trainer(tmp_path)
    save_checkpoint(tmp_path / "shipped" / "tiny-captions", run.model, run.bpe)
    monkeypatch.setattr(runs, "SHIPPED", tmp_path / "shipped")
    with pytest.raises(CheckpointError, match="'nope'.*tiny-captions.*course train"):
        load_checkpoint("nope")
    assert equal(load_checkpoint("tiny-captions")[0], run.model)
    monkeypatch.setattr(runs, "SHIPPED", tmp_path / "nothing here")
    with pytest.raises(CheckpointError, match="none"):
        load_checkpoint("nope")


def _edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _reshape(path: Path) -> None:
    weights = load_file(path)
    name = "src_embedding.weight"  # (D,) would broadcast into (V, D)
    save_file(weights | {name: weights[name][0].clone()}, path)


DAMAGE = {
    "no config": ("config.json", Path.unlink, "config.json"),
    "no tokeniser": ("tokenizer.json", Path.unlink, "tokenizer.json"),
    "no weights": ("model.safetensors", Path.unlink, "model.safetensors"),
    "truncated": (
        "model.safetensors",
        lambda p: p.write_bytes(p.read_bytes()[:-9]),
        "SafetensorError",
    ),
    "empty": ("model.safetensors", lambda p: p.write_bytes(b""), "SafetensorError"),
    "not JSON": ("config.json", lambda p: p.write_text("{"), "JSONDecodeError"),
    "unknown key": ("config.json", lambda p: _edit(p, d_modl=3), "d_modl"),
    "other width": ("config.json", lambda p: _edit(p, d_model=32), "has shape"),
    "fewer layers": ("config.json", lambda p: _edit(p, n_layers=2), "layers.1"),
    "other tokeniser": ("tokenizer.json", lambda p: _edit(p, merges=[]), "tokens"),
    "unknown model": ("config.json", lambda p: _edit(p, model="mamba"), "mamba"),
    "another model": ("config.json", lambda p: _edit(p, model="rnn"), "n_heads"),
    "broadcast": ("model.safetensors", _reshape, "src_embedding.weight has shape"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_says_what_is_wrong(tmp_path, damage):
    run = trainer(tmp_path)
    save_checkpoint(tmp_path, run.model, run.bpe)
    name, spoil, words = DAMAGE[damage]
    spoil(tmp_path / name)
    with pytest.raises(CheckpointError, match="no whole checkpoint") as error:
        load_checkpoint(tmp_path)
    assert words in str(error.value) and str(tmp_path) in str(error.value)


# ---------------------------------------------------------------- stop, position, budget, log


SIGHUP = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []  # a lost terminal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, *SIGHUP])
def test_a_signal_sets_the_event_and_a_second_one_stops(number):
    before = signal.getsignal(number)
    with stop_request() as stop:
        assert not stop.is_set()
        signal.raise_signal(number)
        assert stop.is_set()
        signal.raise_signal(signal.SIGTERM)  # at the same moment: the same wish
        time.sleep(1.01)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(number) is before


@pytest.mark.skipif(not SIGHUP, reason="Windows has no SIGHUP")
def test_who_asked_nohup_to_ignore_a_lost_terminal_is_heeded():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_request() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_signals_stay_as_they_are():
    before, seen = signal.getsignal(signal.SIGINT), []

    def other():
        with stop_request() as stop:
            seen.extend([stop.is_set(), signal.getsignal(signal.SIGINT) is before])

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [False, True]


def test_the_state_comes_back_whole(tmp_path):
    run = trainer(tmp_path)
    batch = make([[5, 6, EOS], [7, EOS]])
    train_step(run.model, [batch], run.optimizer, 1e-3, RECIPE)
    position = Position(step=1, epoch=0, batch=2, seconds=1.5, tokens=5)
    save_state(tmp_path, position, run.model, run.optimizer)
    wanted = torch.rand(3)
    other = trainer(tmp_path, seed=5)
    assert load_state(tmp_path, other.model, other.optimizer) == position
    assert torch.equal(torch.rand(3), wanted) and equal(run.model, other.model)
    for p, q in zip(run.model.parameters(), other.model.parameters()):
        for key, value in run.optimizer.state[p].items():
            assert torch.equal(other.optimizer.state[q][key], value)


def test_nothing_to_resume_and_unreadable_states(tmp_path):
    run = trainer(tmp_path)
    with pytest.raises(CheckpointError, match="nothing to resume.*without --resume"):
        run.run(PAIRS, VAL, resume=True)
    (tmp_path / "state.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError, match="cannot resume.*cannot be read"):
        load_state(tmp_path, run.model, run.optimizer)


@pytest.mark.parametrize(
    "wrong",
    [{}, {"epochs": 1, "minutes": 1}, {"epochs": 0}, {"minutes": -1}, {"minutes": math.nan}],
)
def test_impossible_budgets(wrong):
    with pytest.raises(ValueError, match="budget"):
        Budget(**wrong)


def test_progress():
    epochs, minutes = Budget(epochs=4), Budget(minutes=2)
    assert epochs.progress(Position(epoch=1, batch=5), 10) == 1.5 / 4
    assert epochs.progress(Position(epoch=3, batch=10), 10) == 1.0
    assert epochs.progress(Position(epoch=9), 10) == 1.0
    assert minutes.progress(Position(seconds=30), 10) == 0.25
    assert minutes.progress(Position(seconds=999), 10) == 1.0
    assert (epochs.unit, minutes.unit) == ("epochs", "minutes")


@given(st.integers(0, 12), st.floats(0.01, 1), st.floats(0, 1), st.floats(0, 1))
def test_snapshots_fall_due_in_order_and_all_by_the_end(average, span, a, b):
    config = TrainingConfig(average=average, average_span=span)
    a, b = sorted((a, b))
    assert snapshots_due(config, 0) <= snapshots_due(config, a) <= snapshots_due(config, b)
    assert snapshots_due(config, 1.0) == average and snapshots_due(config, 0) == 0
    assert snapshots_due(config, 0.999 * (1 - span)) == 0


def test_the_log_drops_what_comes_after_the_position(tmp_path):
    log = Log(tmp_path / "log.jsonl", Position())
    for batch in range(1, 5):
        log.write(Position(step=batch, epoch=0, batch=batch), loss=1 / 3)
    log.write(Position(step=4, epoch=1, batch=0), val_loss=2.0)
    with log.path.open("a") as file:
        file.write('{"step": 5, "epo')
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3, 4, 4]
    assert read_log(tmp_path)[0]["loss"] == 0.333333
    Log(log.path, Position(step=4, epoch=1, batch=0)).write(Position(step=5, epoch=1), loss=1)
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3, 4, 4, 5]
    # a state written before the validation: that line will be written again
    Log(log.path, Position(step=4, epoch=0, batch=4))
    assert ["val_loss" in line for line in read_log(tmp_path)] == [False] * 4
    Log(log.path, Position())
    assert read_log(tmp_path) == []


# ---------------------------------------------------------------- whole runs


def test_a_run_writes_what_it_promises(unbroken):
    names = {path.name for path in unbroken.directory.iterdir()}
    assert names == {
        "config.json", "tokenizer.json", "model.safetensors", "state.safetensors",
        "training.json", "log.jsonl", "snapshots", "run.lock",
    }
    model, _ = load_checkpoint(unbroken.directory)
    assert equal(model, unbroken.model) and not unbroken.model.training
    snapshots = [load_file(p) for p in sorted((unbroken.directory / "snapshots").iterdir())]
    assert len(snapshots) == 4
    mean = average_checkpoints(snapshots)
    assert all(torch.equal(mean[n], w) for n, w in weights_of(model).items())
    log = read_log(unbroken.directory)
    assert [line["epoch"] for line in log if "val_loss" in line] == [1, 2, 3, 3]
    assert log[-1]["averaged"] == 4
    steps = [line for line in log if "loss" in line]
    assert steps and all(line["step"] % 10 == 0 for line in steps)
    assert steps[0].keys() >= {"rate", "norm", "progress", "seconds", "tokens", "batch"}
    assert unbroken.position.tokens == 3 * sum(
        len(unbroken.bpe.encode(en)) + 1 for _, en in PAIRS
    )  # every token of every epoch, the incomplete groups too


def test_the_seed_decides_the_run(unbroken, tmp_path):
    again = trainer(tmp_path / "same")
    again.run(PAIRS, PAIRS[:2])  # other validation sentences: they leave no trace
    assert equal(again.model, unbroken.model)
    other = trainer(tmp_path / "other")
    other.config = replace(other.config, seed=1)
    other.run(PAIRS, VAL)
    assert not equal(other.model, unbroken.model)


def test_broken_off_after_any_step_the_run_ends_the_same(unbroken, tmp_path):
    total, tried = unbroken.position.step, 0
    per_epoch = total // 3
    for after in (1, per_epoch - 1, per_epoch, per_epoch + 1, total - 1, total):
        first = trainer(tmp_path / str(after), Breaking)
        first.after = after
        finished = first.run(PAIRS, VAL)
        assert finished == (after == total) and first.position.step == after
        second = trainer(tmp_path / str(after), seed=9)
        assert second.run(PAIRS, VAL, resume=True)
        assert equal(second.model, unbroken.model), f"broken off after step {after}"
        lines = [
            {k: v for k, v in line.items() if k != "seconds"} for line in read_log(first.directory)
        ]
        wanted = [
            {k: v for k, v in line.items() if k != "seconds"}
            for line in read_log(unbroken.directory)
        ]
        assert lines == wanted
        tried += 1
    assert tried == 6


@pytest.fixture(scope="module")
def broken_by(tmp_path_factory) -> dict[str, Path]:
    """Two runs in a process of their own: one ended by SIGINT, one by SIGKILL within a save."""
    if os.name == "nt":
        pytest.skip("Windows has no such signals")
    places = {mode: tmp_path_factory.mktemp(mode) for mode in ("SIGINT", "SIGKILL")}
    process = subprocess.Popen(
        [sys.executable, __file__, *map(str, places.values())],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    (places["SIGINT"] / "go").touch()
    assert process.stdout.readline() == "False 4\n"
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    return places


def test_windows_may_wait_for_a_reader_of_the_old_file(tmp_path, monkeypatch):
    source, target, refused = tmp_path / "new", tmp_path / "old", []
    source.write_text("new")
    target.write_text("old")
    rename = os.replace

    def busy(*paths):
        if len(refused) < 2:
            refused.append(paths)
            raise PermissionError("somebody reads it")
        rename(*paths)

    monkeypatch.setattr(os, "replace", busy)
    with pytest.raises(PermissionError):  # elsewhere that is no matter of patience
        move(source, target)
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(PermissionError):
        move(source, target, patience=-1)
    refused.clear()
    move(source, target)
    assert target.read_text() == "new" and len(refused) == 2


@pytest.mark.parametrize("mode", ["SIGKILL", "SIGINT"])
def test_a_killed_process_resumes_to_the_same_bits(unbroken, broken_by, mode):
    place = broken_by[mode]
    assert (place / "state.safetensors.part").exists() == (mode == "SIGKILL")
    second = trainer(place, seed=9)
    assert second.run(PAIRS, VAL, resume=True)
    assert equal(second.model, unbroken.model)
    assert [line["step"] for line in read_log(place)] == [
        line["step"] for line in read_log(unbroken.directory)
    ]


def test_a_run_that_dies_before_its_first_minute_can_be_resumed(unbroken, tmp_path):
    class Dying(Trainer):
        def step(self, group):
            if self.position.step == 2:
                raise MemoryError
            return super().step(group)

    with pytest.raises(MemoryError):
        trainer(tmp_path, Dying).run(PAIRS, VAL)
    assert load_checkpoint(tmp_path)  # the fresh weights: whole, if of no use
    second = trainer(tmp_path, seed=9)
    assert second.run(PAIRS, VAL, resume=True) and equal(second.model, unbroken.model)


def test_resuming_in_the_middle_of_an_epoch_is_not_taken_for_the_end(tmp_path):
    first = trainer(tmp_path, Breaking, accumulate=1)
    first.after = 4
    assert not first.run(PAIRS, VAL) and first.position.batch > first.budget.epochs
    second = trainer(tmp_path, accumulate=1)
    assert second.run(PAIRS, VAL, resume=True) and second.position.epoch == 3


def test_a_run_is_not_overwritten(unbroken, tmp_path):
    with pytest.raises(CheckpointError, match="holds a run already.*--resume"):
        trainer(unbroken.directory).run(PAIRS, VAL)
    run = trainer(tmp_path)
    save_checkpoint(tmp_path, run.model, run.bpe)  # a checkpoint without a run is worth as much
    with pytest.raises(CheckpointError, match="holds a run already"):
        run.run(PAIRS, VAL)


def test_snapshots_of_an_earlier_run_are_not_averaged(tmp_path):
    stale = tmp_path / "snapshots" / "007.safetensors"
    write_atomically(stale, lambda p: p.write_bytes(b"from another life"))
    run = trainer(tmp_path, budget=Budget(epochs=1))
    assert run.run(PAIRS, VAL) and not stale.exists()
    assert read_log(tmp_path)[-1]["averaged"] == len(snapshot_paths(tmp_path)) <= 4


def test_a_finished_run_says_so_and_stays(tmp_path, capsys):
    run = trainer(tmp_path, budget=Budget(epochs=1))
    run.run(PAIRS, VAL)
    files = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    again = trainer(tmp_path, seed=4, budget=Budget(epochs=1), quiet=False)
    capsys.readouterr()
    assert again.run(PAIRS, VAL, resume=True)
    assert "finished already" in capsys.readouterr().out
    assert equal(again.model, run.model)
    assert files == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def test_killed_between_the_last_step_and_the_average(tmp_path, monkeypatch):
    run = trainer(tmp_path / "whole", budget=Budget(epochs=1))
    run.run(PAIRS, VAL)
    cut = trainer(tmp_path / "cut", budget=Budget(epochs=1))
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            cut.run(PAIRS, VAL)
    again = trainer(tmp_path / "cut", seed=3, budget=Budget(epochs=1))
    assert again.run(PAIRS, VAL, resume=True)
    assert equal(again.model, run.model)
    assert equal(load_checkpoint(tmp_path / "cut")[0], run.model)


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_killed_while_validating_the_log_lacks_no_epoch(unbroken, tmp_path, epoch):
    class Dying(Trainer):
        def validate(self, val_batches):
            if self.position.epoch == epoch:
                raise MemoryError
            super().validate(val_batches)

    with pytest.raises(MemoryError):
        trainer(tmp_path, Dying).run(PAIRS, VAL)
    again = trainer(tmp_path, seed=9)
    assert again.run(PAIRS, VAL, resume=True) and equal(again.model, unbroken.model)
    logs = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in read_log(directory)]
        for directory in (tmp_path, unbroken.directory)
    ]
    assert logs[0] == logs[1]


def test_a_larger_budget_goes_on_from_the_last_weights(tmp_path):
    first = trainer(tmp_path, budget=Budget(epochs=1))
    first.run(PAIRS, VAL)
    last = load_file(tmp_path / "state.safetensors")

    class Watching(Trainer):
        def epoch(self, *args):
            name = "src_embedding.weight"
            if self.position.step == first.position.step:
                self.start = torch.equal(weights_of(self.model)[name], last[f"weight.{name}"])
                self.kept = list(snapshot_paths(tmp_path))
            return super().epoch(*args)

    second = trainer(tmp_path, Watching, budget=Budget(epochs=3))
    assert second.run(PAIRS, VAL, resume=True)
    assert second.start and second.kept == []  # the end of one epoch is not the end of three
    assert [line["epoch"] for line in read_log(tmp_path) if "averaged" in line] == [1, 3]
    assert second.position.step == 3 * first.position.step


CHANGES = {
    "seed": {"seed": 1},
    "max_tokens": {"max_tokens": 80},
    "betas": {"betas": (0.9, 0.999)},
    "budget": {"budget": Budget(minutes=1)},
}


@pytest.mark.parametrize("name", [*CHANGES, "corpus", "tokenizer", "model.d_ff"])
def test_resuming_with_something_else_names_it(unbroken, name):
    changes = dict(CHANGES.get(name, {}))
    budget = changes.pop("budget", None)
    run = trainer(unbroken.directory, budget=budget)
    run.config = replace(run.config, **changes)
    if name == "tokenizer":
        run.bpe = BPE(run.bpe.alphabet, run.bpe.merges[:-1])
    if name == "model.d_ff":
        other = Transformer(replace(run.model.config, d_ff=8))
        run = Trainer(other, run.bpe, run.config, run.budget, run.directory, quiet=True)
    before = (unbroken.directory / "log.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=f"was started with {name}="):
        run.run(PAIRS[1:] if name == "corpus" else PAIRS, VAL, resume=True)
    assert (unbroken.directory / "log.jsonl").read_bytes() == before


def test_a_run_without_its_record_is_not_resumed(tmp_path):
    run = trainer(tmp_path, budget=Budget(epochs=1))
    run.run(PAIRS, VAL)
    (tmp_path / "training.json").write_text("{")
    with pytest.raises(CheckpointError, match="training.json"):
        trainer(tmp_path, budget=Budget(epochs=1)).run(PAIRS, VAL, resume=True)


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self, monkeypatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(runs.time, "monotonic", lambda: self.now)


class Ticking(Trainer):
    """Each step takes a second, each validation ten."""

    def step(self, group):
        self.clock.now += 1
        return super().step(group)

    def validate(self, batches):
        self.clock.now += 10
        super().validate(batches)


def test_minutes_are_spent_and_can_be_extended(tmp_path, monkeypatch):
    run = trainer(tmp_path, Ticking, budget=Budget(minutes=0.05), accumulate=1)
    run.clock = Clock(monkeypatch)
    assert run.run(PAIRS, VAL)
    assert run.position.step == 3  # three seconds, a second each
    assert read_log(tmp_path)[-1]["averaged"] == 2  # of 4: three fell due in one step
    more = trainer(tmp_path, Ticking, budget=Budget(minutes=0.3), accumulate=1)
    more.clock = run.clock
    run.clock.now = 1000.0  # the pause between the runs costs nothing
    assert more.run(PAIRS, VAL, resume=True)
    assert more.begun == 1000 - 13  # three steps and a validation were spent before
    assert 3 < more.position.step <= 3 + 5


def test_minutes_that_run_out_during_validation(unbroken, tmp_path, monkeypatch):
    budget = Budget(minutes=(unbroken.position.step / 3 + 5) / 60)
    run = trainer(tmp_path, Ticking, budget=budget)
    run.clock = Clock(monkeypatch)
    assert run.run(PAIRS, VAL)
    assert run.position.epoch == 1 and run.position.batch == 0
    assert run.position.seconds > 10 and run.progress() == 1
    assert 4 in snapshot_paths(tmp_path)  # the end of the run is in the average
    assert load_file(tmp_path / "state.safetensors")
    done = trainer(tmp_path, Ticking, budget=budget)
    done.clock = run.clock
    assert done.run(PAIRS, VAL, resume=True) and done.position == run.position


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_state(tmp_path, monkeypatch):
    real, calls = training.batch_loss, []

    def spoilt(*args):
        calls.append(1)
        return real(*args) * (math.nan if len(calls) == 5 else 1)

    run = trainer(tmp_path)
    monkeypatch.setattr(training, "batch_loss", spoilt)
    with pytest.raises(FloatingPointError, match="step 3 at rate .*lower peak_lr"):
        run.run(PAIRS, VAL, save_seconds=-1)
    state = load_file(tmp_path / "state.safetensors")
    assert all(t.isfinite().all() for t in state.values())


def test_without_pairs_there_is_no_training(tmp_path):
    for train, val in (([], VAL), (PAIRS, [])):
        with pytest.raises(ValueError, match="pairs to"):
            trainer(tmp_path).run(train, val)
    assert not list(tmp_path.iterdir())


def test_no_snapshots_no_average(tmp_path):
    run = trainer(tmp_path, budget=Budget(epochs=1), average=0)
    assert run.run(PAIRS, VAL) and read_log(tmp_path)[-1]["averaged"] == 0
    state = load_file(tmp_path / "state.safetensors")
    for name, weight in weights_of(run.model).items():
        assert torch.equal(weight, state[f"weight.{name}"])


def test_quiet_is_quiet_and_the_bar_is_not(tmp_path, capsys):
    trainer(tmp_path / "quiet", budget=Budget(epochs=1)).run(PAIRS, VAL)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    loud = trainer(tmp_path / "loud", Breaking, budget=Budget(epochs=2), quiet=False)
    loud.after = 5
    assert not loud.run(PAIRS, VAL)
    captured = capsys.readouterr()
    assert "val loss" in captured.out
    assert "%" in captured.err and "tokens/s" in captured.err


def test_the_recurrent_preset_goes_the_same_way(tmp_path, monkeypatch):
    sizes = PRESETS["rnn-attention"][0] | {"d_model": 64, "dropout": 0.0}
    monkeypatch.setitem(PRESETS, "rnn-attention", (sizes, RECIPE))

    def recurrent(directory: Path, kind: type[Trainer] = Trainer) -> Trainer:
        model, bpe = preset_model("rnn-attention", [s for pair in PAIRS for s in pair], seed=0)
        config = replace(RECIPE, peak_lr=1e-2, max_tokens=40, accumulate=1)
        return kind(model, bpe, config, Budget(epochs=16), directory, quiet=True)

    whole, broken = recurrent(tmp_path / "whole"), recurrent(tmp_path / "broken", Breaking)
    broken.after = 5
    assert whole.run(PAIRS, VAL) and not broken.run(PAIRS, VAL)
    assert isinstance(whole.model, RNNTranslator)
    resumed = recurrent(tmp_path / "broken")
    assert resumed.run(PAIRS, VAL, resume=True) and equal(whole.model, resumed.model)
    losses = [line["val_loss"] for line in read_log(tmp_path / "whole") if "val_loss" in line]
    assert losses[-1] < losses[0] - 0.5
    loaded, bpe = load_checkpoint(tmp_path / "whole")
    assert equal(loaded, whole.model)
    sources = [german for german, _ in VAL]
    alone = [translate(loaded, bpe, [source], beam=3)[0] for source in sources]
    assert translate(loaded, bpe, sources, beam=3) == alone and len(set(alone)) > 3


# ---------------------------------------------------------------- disks, kills, damage


def full_disk(monkeypatch, name: str, after: int = 0) -> None:
    """Let the disk be full for the file of this name, from its write number `after` on."""
    rename, seen = os.replace, []

    def refuse(source, target):
        if Path(target).name == name:
            seen.append(target)
            if len(seen) > after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(source, target)

    monkeypatch.setattr(rundir.os, "replace", refuse)


@pytest.mark.parametrize(
    "name", ["training.json", "state.safetensors", "config.json", "tokenizer.json",
             "model.safetensors"]
)
def test_after_a_full_disk_at_the_first_save_the_same_command_begins_again(
    unbroken, tmp_path, monkeypatch, name
):
    with monkeypatch.context() as patch:
        full_disk(patch, name)
        with pytest.raises(CheckpointError, match="make room.*give the same command again"):
            trainer(tmp_path).run(PAIRS, VAL)
    again = trainer(tmp_path)  # the advice, followed
    assert again.run(PAIRS, VAL) and equal(again.model, unbroken.model)


@pytest.mark.parametrize("name", ["state.safetensors", "model.safetensors", "002.safetensors"])
def test_after_a_full_disk_at_a_later_save_the_advice_leads_on(
    unbroken, tmp_path, monkeypatch, name
):
    with monkeypatch.context() as patch:
        full_disk(patch, name, after=0 if name[0] == "0" else 2)
        with pytest.raises(CheckpointError, match="give the same command again"):
            trainer(tmp_path).run(PAIRS, VAL)
    with pytest.raises(CheckpointError, match="go on with --resume"):
        trainer(tmp_path).run(PAIRS, VAL)
    again = trainer(tmp_path, seed=9)
    assert again.run(PAIRS, VAL, resume=True) and equal(again.model, unbroken.model)


def test_a_full_disk_at_a_line_of_the_log_leads_on(unbroken, tmp_path):
    class Full(Trainer):
        def validate(self, val_batches):
            log = self.desk.log.path
            self.desk.log.path = Path("/dev/full")
            try:
                super().validate(val_batches)
            finally:
                self.desk.log.path = log

    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(CheckpointError, match="cannot write .*go on with --resume"):
        trainer(tmp_path, Full).run(PAIRS, VAL)
    again = trainer(tmp_path, seed=9)
    assert again.run(PAIRS, VAL, resume=True) and equal(again.model, unbroken.model)


def of_another_run(path: Path) -> None:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    smaller = {name: tensor[..., :1].contiguous() if tensor.dim() else tensor
               for name, tensor in load_file(path).items()}
    save_file(smaller, path, metadata)


SPOIL = {
    "empty": lambda p: p.write_bytes(b""),
    "cut": lambda p: p.write_bytes(p.read_bytes()[: max(1, p.stat().st_size // 2)]),
    "noise": lambda p: p.write_bytes(bytes(range(256)) * 20 + b"\n"),
    "a list": lambda p: p.write_text("[3]\n"),
    "a number": lambda p: p.write_text("5\n"),
    "of another run": of_another_run,
}
FILES = ["state.safetensors", "model.safetensors", "snapshots/002.safetensors", "log.jsonl",
         "training.json", "config.json", "tokenizer.json"]


@pytest.fixture(scope="module")
def half_done(unbroken, tmp_path_factory) -> Path:
    """A run that was stopped after most of its snapshots."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    run = trainer(tmp_path_factory.mktemp("half"), Breaking)
    run.after = round(0.8 * unbroken.position.step)
    assert not run.run(PAIRS, VAL) and 2 in snapshot_paths(run.directory)
    torch.set_num_threads(before)
    return run.directory


@pytest.mark.parametrize("spoiled", SPOIL)
@pytest.mark.parametrize("name", FILES)
def test_each_damaged_file_has_a_sentence_and_a_way_out(
    unbroken, half_done, tmp_path, name, spoiled
):
    if spoiled == "of another run" and not name.endswith("safetensors"):
        pytest.skip("has no tensors")
    place = tmp_path / "run"
    shutil.copytree(half_done, place)
    good = (place / name).read_bytes()
    SPOIL[spoiled](place / name)

    def resumed() -> Trainer:
        run = trainer(place, seed=9)
        assert run.run(PAIRS, VAL, resume=True)
        return run

    if name in ("model.safetensors", "config.json", "tokenizer.json"):
        with pytest.raises(CheckpointError, match="no whole checkpoint.*whole with --resume"):
            load_checkpoint(place)
        assert equal(resumed().model, unbroken.model)
        assert equal(load_checkpoint(place)[0], unbroken.model)
        return
    if name == "log.jsonl" and spoiled in ("empty", "cut"):
        assert equal(resumed().model, unbroken.model)
        return
    with pytest.raises(CheckpointError) as told:
        resumed()
    message = str(told.value)
    assert str(place / name) in message and len(message) < 600
    if "Delete it" in message:
        (place / name).unlink()
        assert resumed().position.step == unbroken.position.step
        assert read_log(place)[-1]["averaged"] == 3
    elif "Delete this line" in message:
        (place / name).write_bytes(b"")
        assert equal(resumed().model, unbroken.model)
    else:
        assert "Copy it again, or start anew in another directory" in message
        (place / name).write_bytes(good)
        assert equal(resumed().model, unbroken.model)
        anew = trainer(tmp_path / "anew")
        assert anew.run(PAIRS, VAL) and equal(anew.model, unbroken.model)


def test_a_damaged_model_of_a_finished_run_is_averaged_once_more(unbroken, tmp_path):
    place = tmp_path / "run"
    shutil.copytree(unbroken.directory, place)
    (place / "model.safetensors").write_bytes(b"")
    again = trainer(place, seed=9)
    assert again.run(PAIRS, VAL, resume=True)
    assert equal(again.model, unbroken.model) and equal(load_checkpoint(place)[0], unbroken.model)


def test_only_a_run_with_steps_is_worth_keeping(unbroken, tmp_path):
    class Dying(Trainer):
        def step(self, group):
            raise MemoryError

    with pytest.raises(MemoryError):
        trainer(tmp_path, Dying).run(PAIRS, VAL)
    assert header(tmp_path / "state.safetensors")["position"]["step"] == 0
    again = trainer(tmp_path)
    assert again.run(PAIRS, VAL) and equal(again.model, unbroken.model)
    (tmp_path / "state.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="state cannot be read. Choose another directory"):
        trainer(tmp_path).run(PAIRS, VAL)


HOLDER = """
import sys, time
from pathlib import Path
from course.rundir import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_programs_do_not_write_into_one_directory(unbroken, tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)],
                              stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError, match=f"in use by process {holder.pid} on .* since"):
            trainer(tmp_path).run(PAIRS, VAL)
    finally:
        holder.kill()  # it has no time to clear up
        holder.communicate()
    assert (tmp_path / "run.owner").exists()  # stale
    run = trainer(tmp_path)  # the advice: wait until it has ended
    assert run.run(PAIRS, VAL) and equal(run.model, unbroken.model)
    assert not (tmp_path / "run.owner").exists()


def test_a_second_trainer_of_this_program_is_refused_too(tmp_path):
    class Second(Trainer):
        def step(self, group):
            with pytest.raises(CheckpointError, match=f"in use by process {os.getpid()}"):
                trainer(self.directory).run(PAIRS, VAL)
            return super().step(group)

    assert trainer(tmp_path, Second, budget=Budget(epochs=1)).run(PAIRS, VAL)


def test_a_directory_that_cannot_be_written_is_named():
    with pytest.raises(CheckpointError, match="cannot write into /proc/nothing"):
        if not Path("/proc/self").exists():
            pytest.skip("no /proc here")
        trainer(Path("/proc/nothing")).run(PAIRS, VAL)


@pytest.mark.parametrize("number", [signal.SIGTERM, *SIGHUP])
def test_every_polite_signal_saves(unbroken, tmp_path, number):
    class Hung(Trainer):
        def step(self, group):
            values = super().step(group)
            if self.position.step == 4:
                signal.raise_signal(number)
            return values

    assert not trainer(tmp_path, Hung).run(PAIRS, VAL)
    assert header(tmp_path / "state.safetensors")["position"]["step"] == 4
    again = trainer(tmp_path, seed=9)
    assert again.run(PAIRS, VAL, resume=True) and equal(again.model, unbroken.model)
