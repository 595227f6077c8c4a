"""The bench: the race itself, what is counted, the contestants, and the command."""

import importlib.util
import json
import re
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from course.__main__ import main
from course.bench import attention, command, decode, plans, torch_peer, train
from course.bench.flops import flops_of, matrix_product
from course.bench.jobs import AttentionJob, DecodeJob, TrainJob, corpus_pairs, evenly, wider
from course.bench.memory import PeakMemory
from course.bench.race import (
    Contestant,
    Race,
    Result,
    Turn,
    Work,
    quartiles,
    race,
    race_here,
    record,
    resolve,
    take_turn,
)
from course.bench.report import aligned, curves, exponent, number
from course.masking import Batch
from course.runs import save_checkpoint
from course.text import BOS, BPE, EOS, PAD
from course.training import batch_loss, label_smoothed_loss
from course.transformer import Transformer, TransformerConfig
from course.viz import bench as draw

PEER = """
import os, signal, sys, time
from course.bench.race import Work

def writer(name, log, memory=0):
    def work(case=None):
        with open(log, "a") as file:
            print(name if case is None else f"{name}{case}", file=file)
        print("noise on standard output")
        block = bytearray(memory * (case or 1))
        return Work(10, 100, name)
    return work

def broken(log):
    raise RuntimeError("no such engine\\nsecond line")

def fails_later(log, after=1):
    turns = iter(range(after))
    def work():
        next(turns)
        return 1
    return work

def dies(log):
    def work():
        os._exit(7)
    return work

def stops_the_race(log, by):
    turns = iter(range(9))
    def work():
        if next(turns) == 2:
            os.kill(os.getppid(), getattr(signal, by))
            time.sleep(1)
        return 1
    return work

def torch_loaded(log):
    return lambda: Work(1, outcome="torch" in sys.modules)

def fleeing(log):
    sys.exit("I am off")
"""


@pytest.fixture
def peer(tmp_path):
    """Return a maker of contestants out of the file above."""
    path, log = tmp_path / "peer.py", tmp_path / "log"
    path.write_text(PEER)
    log.write_text("")

    def contestant(name, function="writer", at=None, **settings):
        if function == "writer":
            settings["name"] = name
        return Contestant(name, f"{path}:{function}", {"log": str(log), **settings}, at)

    contestant.log = lambda: log.read_text().split()
    return contestant


# --- the race ---------------------------------------------------------------------------------


def test_contestants_take_turns_and_a_failing_one_does_not_stop_the_others(peer, capfd):
    contestants = [peer("a"), peer("broken", "broken"), peer("b"), peer("late", "fails_later"),
                   peer("dead", "dies"), peer("fleeing", "fleeing"), peer("c")]
    result = race(contestants, rounds=3)
    assert peer.log() == ["a", "b", "c"] * 4  # one round warms up
    assert [len(result[name].turns) for name in "abc"] == [3, 3, 3]
    assert result["a"].outcome == "a" and result["a"].turns[0].flops == 100
    errors = {r.name: r.error for r in result.results if r.error}
    assert errors == {
        "broken": "RuntimeError: no such engine",
        "late": "StopIteration",
        "dead": "its process ended with exit code 7",
        "fleeing": "SystemExit: I am off",
    }
    assert result["late"].turns == [] and not result.stopped
    assert capfd.readouterr().out == ""  # what a contestant prints is not the bench's output


def test_cases_rise_within_a_round(peer):
    result = race([peer("a"), peer("b")], rounds=1, cases=(1, 2))
    assert peer.log() == ["a1", "b1", "a2", "b2"] * 2
    assert [(r.name, r.at, len(r.turns)) for r in result.results] == [
        ("a", 1, 1), ("a", 2, 1), ("b", 1, 1), ("b", 2, 1)]


def test_a_contestant_for_each_point_of_a_curve(peer):
    result = race([peer("a", at=64), peer("a", at=128)], rounds=2)
    assert [(r.at, len(r.turns)) for r in result.results] == [(64, 2), (128, 2)]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("by", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_stopped_race_keeps_what_has_been_measured(peer, by, capsys):
    handlers = [signal.getsignal(getattr(signal, name)) for name in ("SIGTERM", "SIGHUP")]
    result = race([peer("a"), peer("boss", "stops_the_race", by=by)], rounds=5)
    assert result.stopped
    assert handlers == [signal.getsignal(getattr(signal, name)) for name in ("SIGTERM", "SIGHUP")]
    told = capsys.readouterr().err
    assert re.search(r"warmed up; about \d+ s for 5 rounds of 2 turns", told)
    assert "round 1 of 5 done, about" in told and "round 2" not in told
    assert len(result["a"].turns) == 2 and len(result["boss"].turns) == 1
    assert result["a"].error is None


def test_a_contestant_without_torch_gets_none(peer):
    result = race([peer("free", "torch_loaded")], rounds=1)
    assert result["free"].outcome is False


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured anew on Linux alone")
def test_memory_is_the_peak_of_each_contestant(peer):
    result = race([peer("small", memory=10_000_000), peer("large", memory=90_000_000)], rounds=1)
    assert 9e6 < result["small"].memory < 25e6
    assert 85e6 < result["large"].memory < 110e6


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured anew on Linux alone")
def test_memory_is_the_peak_of_each_case(peer):
    result = race([peer("a", memory=1_000_000)], rounds=1, cases=(8, 40, 80))
    for point in result.results:
        assert abs(point.memory - 1e6 * point.at) < 2e6


def test_race_here_interleaves_in_this_process():
    log = []

    def contestant(name, amount):
        def work():
            log.append(name)
            return amount
        return work

    result = race_here({"a": contestant("a", 3), "b": contestant("b", Work(5, 50, "out"))}, 2)
    assert log == ["a", "b"] * 3
    assert [turn.amount for turn in result["a"].turns] == [3, 3]
    assert result["b"].outcome == "out" and result["b"].memory is None


def test_race_here_raises_what_goes_wrong():
    with pytest.raises(ZeroDivisionError):
        race_here({"a": lambda: 1 / 0}, 1)


@pytest.mark.parametrize("values", [[4.0], [1.0, 9.0], [3.0, 1.0, 2.0, 10.0, 7.0]])
def test_quartiles_are_numpys(values):
    assert quartiles(values) == pytest.approx(np.percentile(values, [25, 50, 75]))


def test_ratios_are_taken_within_rounds():
    # the second round is ten times slower for both: their ratio is 2 all the same
    a = Result("a", turns=[Turn(1.0, 2), Turn(10.0, 2), Turn(1.0, 2)])
    b = Result("b", turns=[Turn(2.0, 2), Turn(20.0, 2), Turn(2.0, 2)])
    assert Race([a, b]).ratio("a", "b") == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("factory, message", [
    ("nowhere.py:train", "no file 'nowhere.py'"),
    ("course.nowhere:train", "No module named"),
    ("course.bench.flops:nothing", "has no function 'nothing'"),
])
def test_a_factory_that_is_not_there(factory, message):
    with pytest.raises(ValueError, match=message):
        resolve(factory)


# --- what is counted --------------------------------------------------------------------------

SMALL = TransformerConfig(90, 90, d_model=32, n_heads=4, d_ff=48, n_layers=2, dropout=0.0)
CONFIGS = [
    SMALL,
    replace(SMALL, norm="pre", n_layers=1),
    replace(SMALL, d_k=5, d_v=11),
    replace(SMALL, tie_embeddings=False, tgt_vocab=70, positions="learned"),
]


def sentences(n, src, tgt, vocab=70):
    draw = torch.Generator().manual_seed(0)
    def ids(length):
        return [*torch.randint(4, vocab, (length - 1,), generator=draw).tolist(), EOS]
    return [(ids(src), ids(tgt)) for _ in range(n)]


def counted(config, pairs, backward):
    model = Transformer(config)
    batch = Batch.from_sequences(*zip(*pairs), PAD, BOS)
    # the fused attention of the CPU is unknown to the counter: it would count nothing
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss = batch_loss(model, batch)
        if backward:
            loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("config", CONFIGS)
def test_flops_are_those_that_torch_counts(config):
    pairs = sentences(3, 7, 9)
    assert flops_of(config, pairs) == counted(config, pairs, backward=False)
    assert 3 * flops_of(config, pairs) == counted(config, pairs, backward=True)


def test_padding_is_no_useful_work():
    short, long = sentences(1, 4, 5), sentences(1, 20, 22)
    useful = flops_of(SMALL, short) + flops_of(SMALL, long)
    assert flops_of(SMALL, short + long) == useful < counted(SMALL, short + long, False)


def test_a_matrix_product_counts_two_operations_for_each_of_n_cubed():
    work = matrix_product("float32", 64, "cpu", 1, seconds=0.001)()
    with FlopCounterMode(display=False) as counter:
        torch.randn(64, 64) @ torch.randn(64, 64)
    assert work.flops == work.amount
    assert work.flops % counter.get_total_flops() == 0


def test_exponent_fits_the_last_four_doublings():
    sizes = [2**i for i in range(4, 12)]
    assert exponent(sizes, [3 * n**1.7 for n in sizes]) == pytest.approx(1.7)
    bent = [1000.0 if n < 128 else n**2 for n in sizes]  # the first points do not count
    assert exponent(sizes, bent) == pytest.approx(2)
    x, y = np.log(sizes[-5:]), np.log([1, 3, 2, 9, 8])
    assert exponent(sizes[-5:], [1, 3, 2, 9, 8]) == pytest.approx(np.polyfit(x, y, 1)[0])


def test_evenly_takes_the_middle_of_each_part():
    assert evenly(range(100), 4) == [12, 37, 62, 87]
    assert evenly(range(3), 5) == [0, 1, 2]


def test_a_sample_by_length_stands_for_the_corpus():
    lengths = sorted(len(en) for _, en in corpus_pairs("test", quick=True)[1])
    assert np.mean(evenly(lengths, 20)) == pytest.approx(np.mean(lengths), rel=0.03)


# --- training ---------------------------------------------------------------------------------

SIZES = dict(src_vocab=90, tgt_vocab=90, d_model=32, n_heads=4, d_ff=48, n_layers=2, dropout=0.1,
             norm="pre")


@pytest.fixture
def job():
    pairs = sentences(3, 7, 9) + sentences(2, 4, 5)
    return TrainJob("cpu", 1, "none", "none", SIZES, [pairs[:2], pairs[2:]], [pairs], 100)


def test_naive_pads_every_sentence_to_72(job):
    src, tgt = train.naive_batch(job.shuffled[0], job)
    assert src.shape == tgt.shape == (5, 72)
    assert [row[row != PAD].tolist() for row in src] == [s for s, _ in job.shuffled[0]]
    assert [row[row != PAD].tolist() for row in tgt] == [t for _, t in job.shuffled[0]]


def test_naive_works_on_72_columns_and_learns_what_ours_learns(job, monkeypatch):
    seen = []
    forward = Transformer.forward
    monkeypatch.setattr(Transformer, "forward",
                        lambda self, *args: seen.append(args) or forward(self, *args))
    job = replace(job, model={**SIZES, "dropout": 0.0})
    naive, lesson = train.naive(job), train.lesson_07(replace(job, batches=job.shuffled))
    first = naive()
    assert [tuple(x.shape) for x in seen[0]] == [(5, 72), (5, 72), (5, 1, 1, 72), (5, 1, 72, 72)]
    assert first.amount == 3 * 9 + 2 * 5
    assert first.outcome["loss"] == pytest.approx(lesson().outcome["loss"], rel=1e-5)
    assert naive().outcome["loss"] == pytest.approx(lesson().outcome["loss"], rel=1e-4)


def test_ours_and_lesson_07_make_the_same_steps(job):
    job = replace(job, model={**SIZES, "dropout": 0.0})
    ours, lesson = train.ours(job)(), train.lesson_07(job)()
    assert ours.amount == lesson.amount == job.tokens == 3 * 9 + 2 * 5
    assert ours.flops == lesson.flops
    assert ours.outcome["loss"] == pytest.approx(lesson.outcome["loss"], rel=1e-4)
    half = train.ours(job, bfloat16=True)()
    assert half.outcome["loss"] == pytest.approx(lesson.outcome["loss"], rel=2e-2)


def test_the_losses_fall(job):
    for factory in (train.ours, train.lesson_07, train.naive, torch_peer.nn_transformer):
        work = factory(replace(job, rate=3e-3))
        before = work().outcome["loss"]
        for _ in range(5):
            after = work().outcome["loss"]
        assert after < before, factory


def copied(ours: Transformer, peer: torch_peer.TorchTransformer) -> None:
    """Put our weights into nn.Transformer, its biases in attention to zero."""
    def attention(theirs, mine):
        theirs.in_proj_weight.copy_(torch.cat([mine.w_q.weight, mine.w_k.weight, mine.w_v.weight]))
        theirs.in_proj_bias.zero_()
        theirs.out_proj.weight.copy_(mine.w_o.weight)
        theirs.out_proj.bias.zero_()

    def layer(theirs, mine):
        attention(theirs.self_attn, mine.self_attention)
        if hasattr(mine, "cross_attention"):
            attention(theirs.multihead_attn, mine.cross_attention)
        theirs.linear1.load_state_dict(mine.feed_forward.w_1.state_dict())
        theirs.linear2.load_state_dict(mine.feed_forward.w_2.state_dict())
        for i, residual in enumerate(mine.residuals, 1):
            norm(getattr(theirs, f"norm{i}"), residual.norm)

    def norm(theirs, mine):
        theirs.weight.copy_(mine.gain)
        theirs.bias.copy_(mine.bias)

    with torch.no_grad():
        peer.embedding.weight.copy_(ours.src_embedding.weight)
        for stack in ("encoder", "decoder"):
            mine, theirs = getattr(ours, stack), getattr(peer.transformer, stack)
            for pair in zip(theirs.layers, mine.layers):
                layer(*pair)
            if ours.config.norm == "pre":
                norm(theirs.norm, mine.norm)
            else:
                theirs.norm = torch.nn.Identity()  # nn.Transformer has one more norm here


def jiggle(model):
    """Move the norms off 1 and 0, so that a wrong copy shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_nn_transformer_is_the_same_model(job, norm):
    sizes = {**SIZES, "norm": norm, "dropout": 0.0}
    ours, peer = Transformer(TransformerConfig(**sizes)), torch_peer.TorchTransformer(**sizes)
    jiggle(ours)
    copied(ours, peer)
    pairs = sentences(3, 7, 9) + sentences(2, 4, 5)
    batch = Batch.from_sequences(*zip(*pairs), PAD, BOS)
    src, tgt_in, tgt = torch_peer.batch_of(pairs, job)
    real = tgt != PAD
    assert torch.equal(src, batch.src) and torch.equal(tgt, batch.tgt_out)
    assert torch.equal(tgt_in[real], batch.tgt_in[real])  # ours puts EOS before the padding
    mine = ours(batch.src, batch.tgt_in, batch.src_mask, batch.tgt_mask)[real]
    theirs = peer(src, tgt_in)[real]
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    losses = [label_smoothed_loss(mine, tgt[real], 0.1) / real.sum(),
              F.cross_entropy(peer(src, tgt_in).flatten(0, 1), tgt.flatten(), ignore_index=PAD,
                              label_smoothing=0.1)]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("norm, norms", [("pre", 0), ("post", 2)])
def test_nn_transformer_has_our_parameters_and_the_biases_of_attention(norm, norms):
    sizes = {**SIZES, "norm": norm}
    ours, peer = Transformer(TransformerConfig(**sizes)), torch_peer.TorchTransformer(**sizes)
    d, attentions = 32, 3 * SIZES["n_layers"]
    size = {m: sum(p.numel() for p in m.parameters()) for m in (ours, peer)}
    assert size[peer] == size[ours] + attentions * 4 * d + norms * 2 * d


def test_same_dropout_draws_as_many_random_numbers_as_ours(job):
    sizes = {**SIZES, "dropout": 0.5}
    pairs = sentences(2, 7, 9)
    batch = Batch.from_sequences(*zip(*pairs), PAD, BOS)

    def dropped(model, *args):
        """Return how many numbers go through dropout, attention weights not counted."""
        counts = []
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.register_forward_hook(lambda _, __, out: counts.append(out.numel()))
        model(*args)
        return sum(counts)

    ours = dropped(Transformer(TransformerConfig(**sizes)).train(), batch.src, batch.tgt_in,
                   batch.src_mask, batch.tgt_mask)
    same = torch_peer.TorchTransformer(**sizes, same_dropout=True).train()
    plain = torch_peer.TorchTransformer(**sizes).train()
    assert dropped(same, batch.src, batch.tgt_in) == ours < dropped(plain, batch.src, batch.tgt_in)
    rates = [{m.dropout for m in model.modules() if isinstance(m, torch.nn.MultiheadAttention)}
             for model in (same, plain)]
    assert rates == [{0.0}, {0.5}]


def test_wider_keeps_the_proportion(job):
    assert wider(job, 64).model == {**SIZES, "d_model": 64, "d_ff": 96}


# --- decoding ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def decode_job(tmp_path_factory):
    """Return 20 sentences of captions for the shipped checkpoint, the model and its tokeniser."""
    from course.bench.jobs import decode_job

    exported = tmp_path_factory.mktemp("exported") / "ctranslate2"
    return decode_job("cpu", 1, "multi30k-de-en", exported, quick=True)


@pytest.mark.parametrize("slow", [decode.uncached, decode.naive])
def test_without_a_cache_the_same_is_written(decode_job, slow):
    job, _, bpe = decode_job
    ours, slow = decode.ours(job)(), slow(job)()
    assert ours.amount == len(job.sentences) == 20 and slow.amount == len(job.sample) == 4
    written = plans.by_number(slow.outcome, bpe)
    assert written == {i: ours.outcome[i] for i in job.sample}
    assert any(written.values())


def test_naive_pads_to_72_and_goes_on_after_the_end(decode_job, monkeypatch):
    job, _, _ = decode_job
    job = replace(job, sample=job.sample[:1])
    widths, columns, scores = [], [], decode.next_log_probs

    def watched(model, src):
        columns.append(src.size(1))
        score = scores(model, src)
        return lambda prefixes, rows: widths.append(prefixes.size(1)) or score(prefixes, rows)

    monkeypatch.setattr(decode, "next_log_probs", watched)
    written = decode.naive(job)().outcome[job.sample[0]]
    assert columns == [72] and widths == list(range(1, 72)) and len(written) < 40


def test_ctranslate2_writes_what_ours_writes(decode_job):
    pytest.importorskip("ctranslate2")
    from course.bench import ctranslate2_peer
    from course.to_ctranslate2 import export_ctranslate2

    job, model, bpe = decode_job
    export_ctranslate2(model, bpe, job.exported)
    ours, theirs = decode.ours(job)(), ctranslate2_peer.decode(job)()
    written = plans.by_number(theirs.outcome, bpe)
    assert sum(written[i] == text for i, text in enumerate(ours.outcome)) >= 19  # ties


def test_growing_writes_the_length_with_and_without_the_cache(decode_job, monkeypatch):
    job, _, _ = decode_job
    written = []
    search = decode.greedy_search
    monkeypatch.setattr(decode, "greedy_search",
                        lambda *args: written.append(search(*args)) or written[-1])
    for cached in (True, False):
        assert decode.growing(job, cached)(12).amount == 1
    assert [len(out[0]) for out in written] == [4, 12] * 2
    assert written[1] == written[3]


def test_a_recurrent_checkpoint_is_refused(tmp_path, capsys):
    from course.seq2seq import RNNTranslator, Seq2SeqConfig

    bpe = BPE.learn(["ein Hund", "a dog"] * 4, 300)
    save_checkpoint(tmp_path / "rnn", RNNTranslator(Seq2SeqConfig(len(bpe), len(bpe))), bpe)
    assert main(["bench", "decode", "--quick", "--checkpoint", str(tmp_path / "rnn")]) == 1
    assert "needs a Transformer" in capsys.readouterr().err


# --- attention --------------------------------------------------------------------------------


def test_both_paths_compute_the_same(monkeypatch):
    job = AttentionJob("cpu", 1, (128, 512))
    gradients = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad",
                        lambda *args: gradients.append(grad(*args)) or gradients[-1])
    for factory in (attention.manual, attention.fused):
        work = factory(job)
        gradients.clear()
        assert work(512) == job.passes(512) == 4
        factory.gradients = gradients[0]
    for mine, theirs in zip(attention.manual.gradients, attention.fused.gradients):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert job.passes(4096) == 1


# --- the command ------------------------------------------------------------------------------


def in_process(contestants, rounds, device="cpu", cases=(None,), pause=0.0):
    """Race without processes: quick, for tests; an error ends a contestant as in a process."""
    results, works = {}, []
    for c in contestants:
        for case in cases:
            at = c.at if case is None else case
            results[c.name, at] = Result(c.name, at)
        try:
            works.append((c, resolve(c.factory)(**c.settings)))
        except Exception as error:
            results[c.name, c.at].error = str(error)
    for number_, case, (c, work) in product(range(rounds + 1), cases, works):
        at = c.at if case is None else case
        answer = (*take_turn(work, case, device), 1_000_000)
        record(results[c.name, at], number_, answer, memory=True)
    return Race(list(results.values()))


@pytest.fixture
def bench(monkeypatch, capsys):
    """Return a function that runs the command with tiny sizes, in this process."""
    monkeypatch.setattr(command, "race", in_process)
    monkeypatch.setattr("course.device.load_average", lambda: 0.0)
    monkeypatch.setattr("course.speed.bfloat16_gain", lambda *_, **__: 2.0)

    def run(*arguments):
        status = main(["bench", *arguments, "--quick", "--device", "cpu", "--rounds", "2"])
        printed = capsys.readouterr()
        return SimpleNamespace(status=status, out=printed.out, err=printed.err,
                               json=json.loads(printed.out) if "--json" in arguments else None)

    return run


FIELDS = {"bench", "command", "device", "device_type", "instruction_sets", "threads",
          "load_before", "versions",
          "corpus", "sizes", "unit", "rounds", "stopped", "contestants", "matrix_products",
          "left_out", "notes"}


def test_train_reports_everybody(bench, tmp_path):
    out = tmp_path / "train.json"
    done = bench("train", "--json", "--out", str(out))
    report = done.json
    assert done.status == 0, done.err
    assert report.keys() == FIELDS and json.loads(out.read_text()) == report
    assert report["versions"].keys() >= {"python", "torch"} and report["device"]
    assert report["command"] == "python -m course bench train --device cpu --rounds 2 --quick"
    assert report["corpus"] == "captions" and report["sizes"]["d_model"] == 64
    names = [e["name"] for e in report["contestants"]]
    assert names == ["ours", "ours-bfloat16", "lesson-07", "nn.Transformer",
                     "nn.Transformer same-dropout", "naive"]
    assert [p["name"] for p in report["matrix_products"]] == ["float32 product", "bfloat16 product"]
    rates = report["matrix_products"][0]["repeats"]
    for e in report["contestants"]:
        assert len(e["repeats"]) == 2 and e["error"] is None
        assert 3 < e["loss"] < 12 and e["peak_memory"] == 1_000_000
        shares = [turn["flops"] / turn["seconds"] / (rate["flops"] / rate["seconds"])
                  for turn, rate in zip(e["repeats"], rates)]
        assert e["shares"]["float32"]["median"] == pytest.approx(np.median(shares))
        if e["name"] != "ours":
            assert e["against"] == "ours" and e["ratio"]["lower"] <= e["ratio"]["upper"]
    picture = draw.bars(report)
    assert picture.axes[0].get_title(loc="left").startswith("ours is ")


def test_a_precision_that_is_slower_is_left_out_and_named(bench, monkeypatch):
    monkeypatch.setattr("course.speed.bfloat16_gain", lambda *_, **__: 0.04)
    report = bench("train", "--peer", "naive", "--json").json
    assert [e["name"] for e in report["contestants"]] == ["ours", "lesson-07", "naive"]
    assert [p["name"] for p in report["matrix_products"]] == ["float32 product"]
    assert report["left_out"]["ours-bfloat16"].startswith("a product takes 25.0 times as long")


def test_train_prints_a_table(bench):
    done = bench("train", "--peer", "naive")
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    header, row = lines[2], next(line for line in lines if line.startswith("naive "))
    assert "target tokens/s" in header and "peak memory" in header and "of float32" in header
    assert " x ours" in row and "nn.Transformer  " not in done.out


def test_train_growth(bench):
    report = bench("train", "--growth", "--json").json
    assert report["over"] == "width" and report["curves"][0]["at"] == [64, 128]
    assert report["curves"][0]["time_exponent"] == pytest.approx(
        np.log2(report["curves"][0]["seconds"][1] / report["curves"][0]["seconds"][0]))
    assert report["contestants"][0]["shares"]["float32"]["median"] > 0
    assert "the width" in draw.growth(report).axes[0].get_title(loc="left")
    assert "of float32" in bench("train", "--growth").out


def test_decode_reports_everybody(bench):
    done = bench("decode", "--json")
    assert done.status == 0, done.err
    report = done.json
    assert report.keys() == FIELDS
    entries = {e["name"]: e for e in report["contestants"]}
    assert {"ours greedy", "ours beam 4", "uncached", "naive"} <= entries.keys()
    assert entries["uncached"]["alike"] == entries["naive"]["alike"] == 4
    assert "alike" not in entries["ours greedy"]
    assert entries["ours greedy"]["tokens_a_sentence"] > 1
    assert entries["ours beam 4"]["against"] == "ours greedy"
    if importlib.util.find_spec("ctranslate2"):
        assert entries["ctranslate2 beam 4"]["against"] == "ours beam 4"
        assert entries["ctranslate2 greedy"]["alike"] >= 19
    assert "outcome" not in entries["ours greedy"]  # figures, and no sentence of a corpus


def test_decode_without_ctranslate2_goes_on_and_names_the_command(bench, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name, *rest: None if name == "ctranslate2" else find(name, *rest))
    done = bench("decode", "--peer", "ctranslate2")
    assert done.status == 0
    assert "ctranslate2 is left out" in done.err and "pip install ctranslate2" in done.err
    assert "ours beam 4" in done.out


def test_decode_growth(bench):
    done = bench("decode", "--growth", "--json")
    assert [c["name"] for c in done.json["curves"]] == ["cached", "uncached"]
    assert done.json["curves"][0]["at"] == [8, 16, 32]
    assert "times the time" in draw.growth(done.json).axes[0].get_title(loc="left")


def test_decoding_grows_over_the_beam(bench):
    done = bench("decode", "--growth", "beam", "--json").json
    assert done["over"] == "beam" and done["command"].count("--growth beam") == 1
    [curve] = done["curves"]
    assert curve["name"] == "cached" and curve["at"] == [1, 2, 4]
    assert bench("train", "--growth", "beam").status == 1


def test_an_exponent_has_the_interval_of_its_rounds():
    repeats = [[{"seconds": at ** power, "amount": 2} for power in (1.0, 1.2, 1.4)]
               for at in (1, 2, 4)]
    rate = {"median": 1.0, "lower": 1.0, "upper": 1.0}
    [curve] = curves([{"name": "a", "at": at, "rate": rate, "peak_memory": None, "repeats": turns}
                      for at, turns in zip((1, 2, 4), repeats)])
    found = curve["time_exponent_of_rounds"]
    assert found == pytest.approx({"median": 1.2, "lower": 1.1, "upper": 1.3})


def test_attention_in_processes_of_its_own():
    words = ["bench", "attention", "--quick", "--json", "--rounds", "2", "--device", "cpu"]
    done = subprocess.run([sys.executable, "-m", "course", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report.keys() == {*FIELDS, "over", "curves"}
    assert [(e["name"], e["at"]) for e in report["contestants"]] == [
        (name, length) for name in ("manual", "fused") for length in (64, 128, 256)]
    assert all(len(e["repeats"]) == 2 for e in report["contestants"])
    if sys.platform == "linux":
        manual, fused = report["curves"]
        # at 256, one matrix of scores alone: 4 heads x 256 x 256 x 4 bytes; the fused path has none
        assert manual["peak_memory"][-1] > 2 * 4 * 256 * 256 * 4
        assert fused["peak_memory"][-1] < manual["peak_memory"][-1]
        assert "the memory" in draw.growth(report).axes[1].get_title(loc="left")


def test_a_growth_table_and_its_law(bench):
    done = bench("attention")
    assert "manual: ms a pass" in done.out
    assert "fused: the time of a pass grows with length^" in done.out


def test_a_peer_by_path_takes_part(bench, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(textwrap.dedent("""
        import time
        def train(job):
            def work():
                time.sleep(0.01)
                return job.tokens
            return work
        def attention(job):
            return lambda length: job.passes(length)
        def decode(job):
            return lambda: 1 / 0
    """))
    report = bench("train", "--peer", str(mine), "--json").json
    entry = report["contestants"][-1]
    assert entry["name"] == "mine" and entry["shares"] == {} and entry["ratio"]
    assert len(report["contestants"]) == 4  # ours, in its kinds, and the one that was named
    assert report["command"].endswith("--peer mine.py --rounds 2 --quick")
    assert "mine: ms a pass" in bench("attention", "--peer", str(mine)).out


def test_a_failing_peer_is_named_and_the_others_go_on(bench, tmp_path):
    (tmp_path / "bad.py").write_text("def train(job):\n    raise RuntimeError('no engine')\n")
    done = bench("train", "--peer", str(tmp_path / "bad.py"))
    assert done.status == 1
    assert "bench: bad failed: no engine" in done.err
    assert "lesson-07" in done.out


def test_a_peer_whose_translations_make_no_sense_is_named(bench, tmp_path):
    (tmp_path / "odd.py").write_text(textwrap.dedent("""
        from course.bench import Work
        def decode(job):
            return lambda: Work(1, outcome=[[10**9]])
    """))
    done = bench("decode", "--peer", str(tmp_path / "odd.py"))
    assert done.status == 1 and "ours beam 4" in done.out
    assert "odd failed: what its work returned cannot be read: ValueError" in done.err


@pytest.mark.parametrize("text, message", [
    (None, "there is no such file"),
    ("def other(job):\n    pass\n", r"does not define train\(job\)"),
    ("def train(job:\n", "is no Python file"),
])
def test_bad_peer_files(bench, tmp_path, text, message):
    path = tmp_path / "peer.py"
    if text is not None:
        path.write_text(text)
    done = bench("train", "--peer", str(path))
    assert done.status == 1 and done.out == ""
    assert done.err.count("\n") == 1 and re.search(message, done.err)


@pytest.mark.parametrize("arguments, message", [
    (["train", "--peer", "torch"], "no peer 'torch' for bench train: choose from nn.Transformer"),
    (["train", "--preset", "huge"], "no Transformer preset 'huge'"),
    (["train", "--preset", "rnn-attention"], "no Transformer preset"),
    (["train", "--growth", "--peer", "naive"], "leave --peer out"),
    (["--peer", "naive"], "--peer goes with one of"),
    (["train", "--device", "toaster"], "no device 'toaster'"),
    (["decode", "--checkpoint", "nowhere"], "no checkpoint 'nowhere'"),
    (["train", "--out", "no/such/place.json"], "no such directory"),
])
def test_what_cannot_be_is_said_in_one_line(arguments, message, capsys):
    assert main(["bench", *arguments, "--quick"]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_two_peers_of_one_name_are_refused(bench, tmp_path):
    path = tmp_path / "naive.py"
    path.write_text("def train(job):\n    pass\n")
    assert "two contestants are called 'naive'" in bench(
        "train", "--peer", "naive", str(path)).err


def test_a_busy_machine_is_said(bench, monkeypatch):
    monkeypatch.setattr("course.device.load_average", lambda: 9.0)
    assert "other work kept 9.0 cores busy" in bench("attention").err


def test_help_teaches_the_peer_protocol(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "python -m course bench train" in printed and "def train(job):" in printed


# --- to read ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value, text", [
    (12345.6, "12,346"), (100, "100"), (99.94, "99.9"), (7.891, "7.89"), (0.5, "0.500"),
    (0.00123, "0.00123"), (0, "0"),
])
def test_figures_show_three_digits(value, text):
    assert number(value) == text


def test_tables_are_aligned():
    assert aligned([["", "a"], ["long", "1"], ["b", "100"]]) == "        a\nlong    1\nb     100"


def test_a_ladder_says_what_each_rung_gains():
    figure = draw.ladder({"naive": [1.0, 1.0, 1.0], "sorted": [3.0, 3.0, 3.0]}, "target tokens")
    axis = figure.axes[0]
    assert axis.get_title(loc="left") == "From the first rung to the last: 3.0 times as fast"
    assert [text.get_text() for text in axis.texts] == ["1", "3   x 3.00"]


def test_jobs_carry_no_tensor(job, decode_job):
    for some in (job, decode_job[0], AttentionJob("cpu", 1, (64,))):
        values = vars(some).values()
        assert not any(isinstance(v, torch.Tensor) for v in values)
    assert isinstance(decode_job[0], DecodeJob)


def test_memory_of_a_gpu_is_torchs_and_unknown_without_it(monkeypatch):
    held = {"cuda:1": {"now": 5, "peak": 5}}  # asking another GPU would be a KeyError
    cuda = SimpleNamespace(
        is_initialized=lambda: True, memory_allocated=lambda gpu: held[gpu]["now"],
        reset_peak_memory_stats=lambda gpu: held[gpu].update(peak=held[gpu]["now"]),
        max_memory_allocated=lambda gpu: held[gpu]["peak"],
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    memory = PeakMemory("cuda:1")
    held["cuda:1"].update(peak=12)
    assert memory.growth() == 7
    monkeypatch.delitem(sys.modules, "torch")
    assert PeakMemory("cuda").growth() is None
    assert PeakMemory("mps").growth() is None


def test_a_system_that_cannot_start_anew_counts_from_the_first_reset(monkeypatch, tmp_path):
    peaks = iter([100, 130, 190])
    monkeypatch.setattr("course.bench.memory.PROC", tmp_path / "nothing")
    monkeypatch.setattr("course.bench.memory.host_peak", lambda: next(peaks))
    memory = PeakMemory()
    assert memory.growth() == 30
    memory.reset()
    assert memory.growth() == 90


@pytest.mark.parametrize("what", [["train"], ["decode"], ["decode", "--growth"], ["attention"]])
def test_ctrl_c_prints_what_there_is_even_if_that_is_nothing(bench, monkeypatch, what):
    monkeypatch.setattr(command, "race", lambda contestants, rounds, *rest, **named: Race(
        in_process(contestants[:1], 0, *rest, **named).results, stopped=True))
    done = bench(*what)
    assert done.status == 130
    assert "stopped before the last round" in done.err and done.out.startswith(f"bench {what[0]}")


def test_without_multi30k_captions_and_the_reason_is_said(monkeypatch, capsys):
    from course import corpora

    pairs = corpora.pairs

    def offline(corpus, split, directory=None):
        if corpus == "multi30k":
            raise corpora.CorpusError("tried the network in vain")
        return pairs(corpus, split)

    monkeypatch.setattr(corpora, "pairs", offline)
    corpus, found = corpus_pairs("test_2016_flickr", quick=False)
    assert corpus == "captions" and found == pairs("captions", "test")
    said = capsys.readouterr().err
    assert "in vain" in said and "going on with captions" in said
