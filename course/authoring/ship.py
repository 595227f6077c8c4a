"""python -m course.authoring.ship: make a finished run a checkpoint that comes with the course."""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file

from course.ablations import Trial, read_trials
from course.cache import beam_search, cached_log_probs
from course.corpora import CorpusError, pairs
from course.decoding import Hypothesis, bleu, length_penalty
from course.device import pick
from course.evaluation import evaluate, score, with_interval
from course.look import SEEN, Seen
from course.masking import pad
from course.runs import SHIPPED, CheckpointError, load_checkpoint, save_checkpoint, snapshot_paths
from course.text import BPE, PAD, Pair, encode_pairs, encode_sentence, make_batches, tokenize
from course.training import average_checkpoints, evaluate_loss, load_weights
from course.transformer import Transformer

BEAMS, ALPHAS = (1, 2, 3, 4, 5, 6, 8), (0.0, 0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.1, 2.4)
FIXED = {"greedy": (1, 0.6), "beam5": (5, 0.6)}  # measured on each test set, besides what val chose
TESTS = ("test_2016_flickr", "test_2017_flickr", "test_2017_mscoco", "test_2018_flickr")
CARD = Path(__file__).with_name("card.md")


def ship(run: Path, name: str, trial: Trial) -> Path:
    """Copy a run's model in half precision, choose its decoding on val, measure it, write a card.

    Returns the checkpoint's directory. Raises CheckpointError or CorpusError for what is missing.
    """
    model, bpe = load_checkpoint(run)
    target = SHIPPED / name
    save_checkpoint(target, model, bpe, torch.float16)
    shutil.copy(run / "log.jsonl", target)
    Seen.of(bpe, (german for german, _ in pairs("multi30k", "train"))).save(target / SEEN)
    averaging = compare_averages(run)
    model, bpe = load_checkpoint(target)  # measured is what is shipped
    results = {**asdict(trial), "vocabulary": len(bpe), "averaging": averaging,
               **measure(model.to(pick()), bpe)}
    (target / "results.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    (target / "README.md").write_text(card(name, results), "utf-8")
    return target


def compare_averages(run: Path) -> list[dict[str, float]]:
    """Return val loss and greedy BLEU on val of the mean of a run's last 1, 2, 4, ... snapshots."""
    model, bpe = load_checkpoint(run)
    val_pairs = pairs("multi30k", "val")
    batches = list(make_batches(encode_pairs(bpe, val_pairs), 4000))
    paths, found = list(snapshot_paths(run).values()), []
    for n in (2**i for i in range(len(paths).bit_length())):
        load_weights(model, average_checkpoints(load_file(path) for path in paths[-n:]))
        val_bleu = evaluate(model.to(pick()), bpe, val_pairs, beam=1)[0].bleu
        found.append({"snapshots": n, "val_loss": round(evaluate_loss(model, batches), 5),
                      "val_bleu": round(val_bleu, 2)})
    return found


def measure(model: Transformer, bpe: BPE) -> dict[str, object]:
    """Return the decoding that is best on val, and the scores on every test set that is there."""
    chosen = choose_decoding(model, bpe, pairs("multi30k", "val"))
    found: dict[str, object] = {"decoding": chosen}
    for split in TESTS:
        try:
            sentence_pairs = pairs("multi30k", split)
        except CorpusError:
            continue
        found[split] = scores(model, bpe, sentence_pairs, chosen["beam"], chosen["length_penalty"])
        for decoding, (beam, alpha) in FIXED.items():
            found[f"{split}_{decoding}"] = scores(model, bpe, sentence_pairs, beam, alpha)
    sentence_pairs = pairs("multi30k", TESTS[0])
    _, said = evaluate(model, bpe, sentence_pairs, beam=1)
    sides = said, [english for _, english in sentence_pairs]
    cut = [[tokenize(sentence.lower(), "en") for sentence in side] for side in sides]
    return found | {"tutorial_metric": {"bleu": bleu(*cut),
                                        "metric": "BLEU of lowercased spaCy tokens, greedy"}}


def choose_decoding(model: Transformer, bpe: BPE, val_pairs: list[Pair]) -> dict[str, object]:
    """Return beam and length penalty with the best BLEU on val, and all that was tried."""
    sources, references = zip(*val_pairs)
    tried = []
    for beam in BEAMS:
        found = search_once(model, bpe, sources, beam)
        for alpha in ALPHAS if beam > 1 else (0.6,):
            said = [bpe.decode(choose_by(some, alpha).ids) for some in found]
            tried.append((score(said, references).bleu, beam, alpha))
    best, beam, alpha = max(tried)
    return {"beam": beam, "length_penalty": alpha, "val_bleu": best,
            "tried": [[beam, alpha, round(value, 2)] for value, beam, alpha in tried]}


def search_once(
    model: Transformer, bpe: BPE, sentences: Sequence[str], beam: int, batch_size: int = 50
) -> list[list[Hypothesis]]:
    """Return all that a beam search finds for each sentence, scored without length penalty."""
    device = next(model.parameters()).device
    sources = [encode_sentence(bpe, sentence) for sentence in sentences]
    found = []
    for begin in range(0, len(sources), batch_size):
        chunk = sources[begin : begin + batch_size]
        score = cached_log_probs(model, pad(chunk, PAD).to(device))
        limits = [len(source) + 50 for source in chunk]
        found += beam_search(score, len(chunk), limits, beam, alpha=0.0, device=device,
                             follow=score.follow)
    return found


def choose_by(hypotheses: Sequence[Hypothesis], alpha: float) -> Hypothesis:
    """Return the best of hypotheses that were scored with alpha 0, under another alpha."""

    def key(h: Hypothesis) -> tuple[bool, float]:
        return h.finished, h.score / length_penalty(len(h.ids) + h.finished, alpha)

    return max(hypotheses, key=key)


def scores(
    model: Transformer, bpe: BPE, sentence_pairs: list[Pair], beam: int, alpha: float
) -> dict[str, object]:
    """Return the scores on a split, with the decoding that they belong to."""
    found, said = evaluate(model, bpe, sentence_pairs, beam, alpha)
    margin = with_interval(said, [english for _, english in sentence_pairs]).margin
    return {**asdict(found), "margin": margin, "beam": beam, "length_penalty": alpha}


def card(name: str, results: dict) -> str:
    """Return the model card: data, recipe, results, limits."""
    rows = []
    measured = [(test, results.get(test + ending))
                for test in TESTS for ending in (*(f"_{name}" for name in FIXED), "")]
    for split, found in (pair for pair in measured if pair[1]):
        decoding = "greedy" if found["beam"] == 1 else (
            f"beam {found['beam']}, α {found['length_penalty']:g}"
            + (" ¹" if found is results[split] else ""))
        cells = (split, decoding,
                 f"{found['bleu']:.2f} ± {found['margin']:.1f}",
                 f"{found['bleu_lowercased']:.2f}", f"{found['chrf']:.2f}")
        rows.append(f"| {' | '.join(cells)} |")
    decoding, signatures = results["decoding"], results[TESTS[0]]["signatures"]
    changes = ", ".join(f"{key} {value}" for key, value in results["changes"].items())
    return CARD.read_text("utf-8").format(
        name=name,
        rows="\n".join(rows),
        beam=decoding["beam"],
        alpha=decoding["length_penalty"],
        grid=len(decoding["tried"]),
        signature_bleu=signatures["bleu"],
        signature_lowercased=signatures["bleu_lowercased"],
        signature_chrf=signatures["chrf"],
        tutorial=results["tutorial_metric"]["bleu"],
        python=results["versions"]["python"],
        torch=results["versions"]["torch"],
        **{**results, "changes": changes or "unchanged", "note": results.get("note", "")},
    )


def main(arguments: list[str] | None = None) -> int:
    """Ship one run; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m course.authoring.ship", description=__doc__)
    parser.add_argument("run", type=Path, help="directory of the finished run")
    parser.add_argument("name", help="name of the checkpoint, like multi30k-de-en")
    parser.add_argument("--trials", type=Path, required=True,
                        help="what `train --record` wrote; its last line is of this run")
    options = parser.parse_args(arguments)
    try:
        trial = read_trials(options.trials)[-1]
        print(ship(options.run, options.name, trial))
    except (CheckpointError, CorpusError, OSError, ValueError, IndexError) as error:
        print(f"ship: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
