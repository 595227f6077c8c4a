"""The export: scores and translations are ours, or its search's; nothing is left half-written."""

import math
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from course import to_ctranslate2
from course.__main__ import main
from course.cache import CachedLogProbs, cached_log_probs, translate
from course.corpora import pairs
from course.decoding import ranked
from course.masking import causal_mask, pad, padding_mask
from course.runs import CheckpointError, load_checkpoint, save_checkpoint
from course.seq2seq import RNNTranslator, Seq2SeqConfig
from course.text import BOS, BPE, EOS, PAD, SPECIAL_TOKENS, UNK, encode_pairs, make_batches
from course.to_ctranslate2 import (
    ExportedTranslator,
    export_ctranslate2,
    translate_exported,
    vocabulary,
)
from course.training import batch_loss
from course.transformer import Transformer, TransformerConfig, positional_encoding

CLOSE = 1e-4  # how near log-probabilities in float32 come when the sums run in another order
WORDS = {"Hund": "dog", "Mann": "man", "Ball": "ball", "Baum": "tree", "rot": "red", "und": "and",
         "sieht": "sees", "ein": "a"}
STRANGE = ["x", "日本 🙂", "<s> </s> <unk> <pad>", "<0x41>", "▁ ' \\ \"", "ein\u00a0Hund\tund", "?"]

real_corpus = pytest.mark.skipif(
    not os.environ.get("COURSE_DATA"), reason="needs Multi30k: set COURSE_DATA to its directory"
)


# ---------------------------------------------------------------- models and slow twins


def phrases(n: int, seed: int) -> list[tuple[str, str]]:
    """Sentence pairs of one to seven words, word for word."""
    dice = random.Random(seed)
    chosen = [dice.choices(list(WORDS), k=dice.randint(1, 7)) for _ in range(n)]
    return [(" ".join(w) + ".", " ".join(WORDS[x] for x in w) + ".") for w in chosen]


TRAIN = phrases(400, seed=0)
TEST = [*STRANGE, *(source for source, _ in phrases(40, seed=1))]
SMALL_BPE = BPE.learn((side for pair in TRAIN for side in pair), 320)
BASE = TransformerConfig(
    len(SMALL_BPE), len(SMALL_BPE), d_model=24, n_heads=4, d_ff=40, n_layers=2, dropout=0.0
)
CONFIGS = {
    "post-norm": BASE,
    "pre-norm": replace(BASE, norm="pre"),
    "learned positions": replace(BASE, norm="pre", positions="learned", max_len=60),
    "untied": replace(BASE, tie_embeddings=False),
    "narrow keys": replace(BASE, d_k=3, d_v=9),
    "narrow values": replace(BASE, norm="pre", d_k=10, d_v=2),
    "seven heads": replace(BASE, n_heads=7, d_k=5, d_v=5, n_layers=1),
    "one head": replace(BASE, n_heads=1, n_layers=3, norm="pre", tie_embeddings=False),
    "odd width": replace(BASE, d_model=15, n_heads=3),
}


@cache
def trained(config: TransformerConfig) -> Transformer:
    """A model after six short epochs: no weight is as it began, and not every sentence ends."""
    torch.manual_seed(0)
    model = Transformer(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for epoch in range(6):
        for batch in make_batches(encode_pairs(SMALL_BPE, TRAIN), 400, seed=epoch):
            optimizer.zero_grad()
            (batch_loss(model, batch) / batch.n_tokens).backward()
            optimizer.step()
    return model.eval()


def exported(model: Transformer, directory: Path, bpe: BPE = SMALL_BPE) -> ExportedTranslator:
    export_ctranslate2(model, bpe, directory)
    return ExportedTranslator(directory, threads=1)


@torch.no_grad()
def our_log_probs(model: Transformer, src: Sequence, tgt: Sequence) -> torch.Tensor:
    """The log-probability of each target token, EOS too, in one pass; 0 behind it: (n, T + 1)."""
    source = pad([[*ids, EOS] for ids in src], PAD)
    read, wanted = pad([[BOS, *ids] for ids in tgt], PAD), pad([[*ids, EOS] for ids in tgt], PAD)
    causal = causal_mask(read.size(1), read.device)
    logits = model(source, read, padding_mask(source, PAD), causal)
    logits[..., [PAD, BOS, UNK]] = -math.inf
    found = logits.log_softmax(-1).gather(-1, wanted[..., None])[..., 0]
    return found.masked_fill(wanted == PAD, 0.0)


def their_log_probs(translator: ExportedTranslator, src: Sequence, tgt: Sequence) -> torch.Tensor:
    """The same from CTranslate2."""
    named = [[[translator.names[i] for i in ids] for ids in side] for side in (src, tgt)]
    scores = translator.translator.score_batch(*named)
    return pad_sequence([torch.tensor(s.log_probs) for s in scores], batch_first=True)


def distance(model: Transformer, translator: ExportedTranslator, sentence_pairs: Sequence) -> float:
    """The largest difference between our log-probabilities and theirs; inf for NaN."""
    src, tgt = ([translator.bpe.encode(s) for s in side] for side in zip(*sentence_pairs))
    difference = our_log_probs(model, src, tgt) - their_log_probs(translator, src, tgt)
    return difference.abs().nan_to_num(math.inf).max().item()


def their_search(
    score: CachedLogProbs, limit: int, beam: int, alpha: float
) -> list[tuple[float, tuple[int, ...]]]:
    """CTranslate2's rules for one sentence, spelled out: the finished prefixes with their totals.

    Of the 2 * beam likeliest candidates the first `beam` count: those that end are finished, and
    the next ones that do not end move up.
    """
    alive, finished, best_ended = [(0.0, (BOS,))], [], False
    for length in range(1, limit + 1):
        prefixes = torch.tensor([prefix for _, prefix in alive])
        totals = torch.tensor([total for total, _ in alive])[:, None]
        totals = totals + score(prefixes, torch.zeros(len(alive), dtype=torch.long))  # (k, V)
        values, places = totals.flatten().topk(2 * beam)
        candidates = [
            (value, (*alive[place // totals.size(1)][1], place % totals.size(1)))
            for value, place in zip(values.tolist(), places.tolist())
        ]
        ends = [prefix[-1] == EOS or length == limit for _, prefix in candidates]
        finished += [c for c, end in zip(candidates[:beam], ends) if end]
        before = [prefix for _, prefix in alive]
        alive = [c for c, end in zip(candidates, ends) if not end][:beam]
        score.follow(torch.tensor([before.index(prefix[:-1]) for _, prefix in alive]))
        best_ended |= ends[0]
        if best_ended and len(finished) >= (beam if alpha else 1):
            break
    return finished


def by_their_rules(model: Transformer, bpe: BPE, sentence: str, beam: int, alpha: float) -> str:
    """Our model's translation, found by CTranslate2's search and our length penalty."""
    source = [*bpe.encode(sentence), EOS]
    room = model.config.max_len if model.config.positions == "learned" else 10_000
    score = cached_log_probs(model, torch.tensor([source]))
    finished = their_search(score, min(len(source) + 50, room), beam, alpha)
    totals, prefixes = zip(*(finished if alpha else [max(finished)]))
    return bpe.decode(ranked(prefixes, totals, alpha)[0].ids)


def are_ties(model: Transformer, bpe: BPE, source: str, a: str, b: str) -> bool:
    """Whether two greedy translations part where their next tokens are equally likely."""
    src, tgt = bpe.encode(source), [[*bpe.encode(text), EOS] for text in (a, b)]
    fork = next(i for i, (x, y) in enumerate(zip(*tgt)) if x != y)
    score = our_log_probs(model, [src, src], [ids[: fork + 1] for ids in tgt])[:, fork]
    return bool((score[0] - score[1]).abs() < CLOSE)


# ---------------------------------------------------------------- small models, every choice


@pytest.mark.parametrize("name", CONFIGS)
def test_scores_and_translations_are_ours(name, tmp_path):
    model = trained(CONFIGS[name])
    translator = exported(model, tmp_path / "out")
    targets = [target for _, target in phrases(len(TEST), seed=2)]
    assert distance(model, translator, list(zip(TEST, targets))) < CLOSE
    ours = translate(model, SMALL_BPE, TEST, beam=1)
    assert translator.translate(TEST) == ours
    assert translator.translate(TEST, max_tokens=30) == ours
    assert len(set(ours)) > 10
    for beam, alpha in ((2, 0.0), (4, 0.6)):
        for sentence in TEST[3:11]:
            expected = by_their_rules(model, SMALL_BPE, sentence, beam, alpha)
            assert translator.translate([sentence], beam, alpha) == [expected]


def test_the_comparison_catches_wrong_weights_positions_and_scales(tmp_path, monkeypatch):
    model = trained(CONFIGS["pre-norm"])
    assert distance(model, exported(model, tmp_path / "right"), TRAIN[:20]) < CLOSE

    def sabotaged(name: str, wrong) -> float:
        with monkeypatch.context() as patch:
            patch.setattr(to_ctranslate2, name, wrong)
            return distance(model, exported(model, tmp_path / name), TRAIN[:20])

    def norm_without_bias(spec, norm):
        spec.gamma, spec.beta = norm.gain.detach(), torch.zeros_like(norm.bias)

    def scale_of_d_model(spec, attention, norm, set_attention=to_ctranslate2.set_attention):
        set_attention(spec, attention, norm)
        spec.queries_scale = model.config.d_model**-0.5

    def one_late(length, d_model):
        return positional_encoding(length + 1, d_model)[1:]

    for name, wrong in (("set_norm", norm_without_bias), ("set_attention", scale_of_d_model),
                        ("positional_encoding", one_late)):
        assert sabotaged(name, wrong) > 10 * CLOSE, name


def test_the_search_can_say_nothing_at_all(tmp_path):
    model = Transformer(CONFIGS["pre-norm"]).eval()
    with torch.no_grad():
        model.decoder.norm.gain.zero_()
        model.decoder.norm.bias.fill_(1.0)
        model.w_vocab.weight[EOS] = 9.0
    translator = exported(model, tmp_path / "out")
    for beam in (1, 4):
        assert translator.translate(TEST[:3], beam) == translate(model, SMALL_BPE, TEST[:3], beam)
        assert translator.translate(TEST[:3], beam) == ["", "", ""]


def test_nothing_in_nothing_out(tmp_path):
    translator = exported(trained(CONFIGS["pre-norm"]), tmp_path / "out")
    assert translator.translate([]) == [] and translator.translate(["", " "]) == ["", ""]
    assert translator.translate(["", TEST[-1], "\n"]) == ["", *translator.translate([TEST[-1]]), ""]
    with pytest.raises(TypeError, match=r"\[sentence\]"):
        translator.translate("Ein Hund.")


def test_long_sentences_are_read_as_far_as_there_are_positions(tmp_path):
    model = trained(CONFIGS["pre-norm"])
    translator = exported(model, tmp_path / "sinusoidal")
    long = "Hund " * 600  # beyond the 512 places of the model's own table
    assert len(SMALL_BPE.encode(long)) > model.config.max_len
    assert distance(model, translator, [(long, "dog."), ("ein Hund.", "dog " * 530)]) < CLOSE
    with pytest.raises(ValueError, match=r"sentences\[1\] has [\d,]+ tokens.* 2,048"):
        translator.translate(["x", "Hund " * 2048])
    assert translator.translate(["x" * 2040])
    model = trained(CONFIGS["one head"])
    translator = exported(model, tmp_path / "one head")
    longer = ["Hund " * 1018 + "Mann. " * 30]  # than 1,024 tokens
    assert translator.translate(longer) == translate(model, SMALL_BPE, longer)
    learned = exported(trained(CONFIGS["learned positions"]), tmp_path / "learned")
    with pytest.raises(ValueError, match=r"sentences\[0\] has .* 60"):
        learned.translate([long])


def test_every_token_has_a_name_of_its_own(tmp_path):
    merges = [(" ", "a"), ("▁", "a"), ("a", "'"), ("▁", "'"), ("<", "s"), ("<s", ">")]
    bpe = BPE(" ▁a'<s>", merges)
    names = vocabulary(bpe)
    assert len(set(bpe.names)) < len(bpe) == len(names) == len(set(names))
    assert names[:260] == bpe.names[:260] and vocabulary(SMALL_BPE) == SMALL_BPE.names
    model = Transformer(replace(BASE, src_vocab=len(bpe), tgt_vocab=len(bpe))).eval()
    translator = exported(model, tmp_path / "out", bpe)
    ids = [list(range(len(SPECIAL_TOKENS), len(bpe)))]
    ours, theirs = our_log_probs(model, ids, ids), their_log_probs(translator, ids, ids)
    assert (ours - theirs).abs().max() < CLOSE


# ---------------------------------------------------------------- the directory


def test_half_precision_and_training_mode_change_nothing(tmp_path):
    model = trained(CONFIGS["post-norm"])
    save_checkpoint(tmp_path / "half", model, SMALL_BPE, torch.float16)
    loaded, bpe = load_checkpoint(tmp_path / "half")
    translator = exported(loaded.train(), tmp_path / "out", bpe)
    assert distance(loaded.eval(), translator, TRAIN[:10]) < CLOSE
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"model.bin", "config.json", "shared_vocabulary.json", "tokenizer.json"}


def test_it_runs_without_torch_and_without_the_course(tmp_path):
    model = trained(CONFIGS["pre-norm"])
    export_ctranslate2(model, SMALL_BPE, tmp_path / "out")
    program = (
        "import json, sys; sys.modules.update(torch=None, course=None); import ctranslate2\n"
        "names = json.load(open(sys.argv[1] + '/shared_vocabulary.json', encoding='utf-8'))\n"
        "translator = ctranslate2.Translator(sys.argv[1], intra_threads=1)\n"
        "source = [[names[int(i)] for i in sys.argv[2:]]]\n"
        "found = translator.translate_batch(source, beam_size=1)[0].hypotheses[0]\n"
        "print(*(names.index(name) for name in found))"
    )
    source = SMALL_BPE.encode("Hund und Mann.")
    command = [sys.executable, "-c", program, str(tmp_path / "out"), *map(str, source)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    ids = [int(i) for i in run.stdout.split()]
    assert SMALL_BPE.decode(ids) == translate(model, SMALL_BPE, ["Hund und Mann."])[0]


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(self, path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(BPE, "save", full)
    with pytest.raises(OSError, match="No space left"):
        export_ctranslate2(trained(CONFIGS["pre-norm"]), SMALL_BPE, tmp_path / "new" / "out")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.bin"])
def test_half_an_export_is_refused(missing, tmp_path):
    export_ctranslate2(trained(CONFIGS["pre-norm"]), SMALL_BPE, tmp_path / "out")
    (tmp_path / "out" / missing).unlink()
    with pytest.raises(CheckpointError, match="no whole export.*course export"):
        ExportedTranslator(tmp_path / "out")


def test_a_cut_off_file_and_a_training_checkpoint_are_no_exports(tmp_path):
    model = trained(CONFIGS["pre-norm"])
    export_ctranslate2(model, SMALL_BPE, tmp_path / "out")
    weights = tmp_path / "out" / "model.bin"
    weights.write_bytes(weights.read_bytes()[:-1000])
    save_checkpoint(tmp_path / "run", model, SMALL_BPE)
    for directory in ("out", "run", "nowhere"):
        with pytest.raises(CheckpointError, match="no whole export"):
            translate_exported(tmp_path / directory, ["x"])


# ---------------------------------------------------------------- the command


def test_the_command_says_how_to_use_what_it_wrote(tmp_path, capsys):
    out = tmp_path / "a directory" / "it's new"
    assert main(["export", "--format", "ctranslate2", "--checkpoint", "multi30k-de-en",
                 "--out", str(out)]) == 0
    done, *program = capsys.readouterr().out.splitlines()
    assert str(out) in done and out.is_dir() and [out] == list(out.parent.iterdir())
    exec("\n".join(program), {})
    assert "dog" in capsys.readouterr().out


def test_help_teaches_by_an_example(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["export", "--help"])
    assert stop.value.code == 0 and "python -m course export --" in capsys.readouterr().out


def refused(arguments: Sequence[object], capsys) -> str:
    """The one line that a wrong request gets."""
    assert main(["export", *map(str, arguments)]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


def test_wrong_requests_are_told_in_one_line(tmp_path, monkeypatch, capsys):
    new, old, file = tmp_path / "new", tmp_path / "old", tmp_path / "file"
    old.mkdir()
    file.write_text("mine")
    recurrent = RNNTranslator(Seq2SeqConfig(len(SMALL_BPE), len(SMALL_BPE), d_model=8))
    save_checkpoint(tmp_path / "rnn", recurrent, SMALL_BPE)
    shipped = ["--checkpoint", "multi30k-de-en", "--out"]
    assert "no checkpoint 'nowhere'" in refused(["--checkpoint", "nowhere", "--out", new], capsys)
    assert "nothing is overwritten" in refused([*shipped, old], capsys)
    assert "nothing is overwritten" in refused([*shipped, file], capsys)
    said = refused(["--checkpoint", tmp_path / "rnn", "--out", new], capsys)
    assert "recurrent model (RNNTranslator)" in said
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    assert "python -m pip install ctranslate2" in refused([*shipped, new], capsys)
    assert not new.exists() and not list(old.iterdir()) and file.read_text() == "mine"


# ---------------------------------------------------------------- the shipped model


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    model, bpe = load_checkpoint("multi30k-de-en")
    return model, bpe, exported(model, tmp_path_factory.mktemp("shipped") / "out", bpe)


def differing(a: Sequence[str], b: Sequence[str]) -> list[int]:
    """Where two lists of translations differ; a failing test prints these numbers, no sentence."""
    assert len(a) == len(b)
    return [i for i, (x, y) in enumerate(zip(a, b)) if x != y]


def check_greedy(model, bpe, translator, sources: Sequence[str]) -> None:
    ours, theirs = translate(model, bpe, sources), translator.translate(sources)
    places = differing(ours, theirs)
    assert len(places) <= 2, places
    assert all(are_ties(model, bpe, sources[i], ours[i], theirs[i]) for i in places)


def check_beam(model, bpe, translator, sources: Sequence[str], alpha: float) -> None:
    """Where the two beams differ, the rules do: our scores under their rules say the same."""
    ours, theirs = translate(model, bpe, sources, 4, alpha), translator.translate(sources, 4, alpha)
    places = differing(ours, theirs)
    assert len(places) <= 0.05 * len(sources), places
    for i in [*places, *range(0, len(sources), len(sources) // 5)]:
        same = theirs[i] == by_their_rules(model, bpe, sources[i], 4, alpha)
        assert same, i


def test_the_shipped_model_on_captions(shipped):
    captions = pairs("captions", "test")
    sources = [source for source, _ in captions]
    assert distance(shipped[0], shipped[2], captions[:100]) < CLOSE
    check_greedy(*shipped, sources[:100])
    check_beam(*shipped, sources[:20], 0.0)


@real_corpus
def test_the_shipped_model_on_multi30k(shipped):
    test = pairs("multi30k", "test_2016_flickr")
    sources = [source for source, _ in test]
    assert len(test) == 1000
    assert distance(shipped[0], shipped[2], test[::5]) < CLOSE
    check_greedy(*shipped, sources)
    check_beam(*shipped, sources[::25], 0.0)
    check_beam(*shipped, sources[::25], 0.6)
