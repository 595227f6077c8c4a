"""python -m course.authoring.alpha: BLEU on val over the length penalty, for two searches."""

import json

import sacrebleu
import torch

from course import ASSETS, cache
from course.corpora import pairs
from course.decoding import Hypothesis, beam_apart, length_penalty, ranked
from course.device import device_name, instruction_sets, versions
from course.masking import pad
from course.runs import load_checkpoint
from course.text import BOS, EOS, PAD, encode_sentence
from course.transformer import Transformer

CHECKPOINT, BEAM, ALPHAS = "multi30k-de-en", 4, (0.6, 1.5, 2.1)
OUT = ASSETS / "results" / "length_penalty.json"


def apart(model: Transformer, sources: list[list[int]]) -> list[dict[float, Hypothesis]]:
    """Return what `beam_apart` finds for many sentences, at every α in one pass.

    Which prefixes live does not depend on α: only who is kept of the finished ones, and the end.
    """
    score = cache.cached_log_probs(model, pad(sources, PAD))
    kept = [{alpha: [] for alpha in ALPHAS} for _ in sources]
    found: list[dict[float, Hypothesis]] = [{} for _ in sources]
    limits = [len(source) + 50 for source in sources]
    rows, prefixes = torch.arange(len(sources)), torch.full((len(sources), 1), BOS)
    totals = torch.zeros(len(sources))
    while len(rows):
        best, words = score(prefixes, rows).topk(2 * BEAM)  # (n, 2k): no more of one can count
        shown, total = [], best + totals[:, None]
        for row in rows.unique().tolist():
            mine = (rows == row).nonzero()[:, 0]
            ordered, place = total[mine].flatten().topk(2 * BEAM)
            parent, token = mine[place // (2 * BEAM)], words[mine].flatten()[place]
            ended = token == EOS
            ids = torch.cat([prefixes[parent], token[:, None]], dim=1)
            for alpha, done in kept[row].items():
                done += ranked(ids[ended].tolist(), ordered[ended].tolist(), alpha)
                done.sort(key=lambda h: h.score, reverse=True)
                del done[BEAM:]
                most = ordered[~ended][0] / length_penalty(limits[row], alpha)
                if alpha not in found[row] and len(done) == BEAM and done[-1].score >= most:
                    found[row][alpha] = done[0]
            live = (~ended).nonzero()[:BEAM, 0]
            if ids.size(1) > limits[row]:
                rest = ranked(ids[live].tolist(), ordered[live].tolist(), 0.0)
                found[row] = {a: (done or rest)[0] for a, done in kept[row].items()} | found[row]
            if len(found[row]) < len(ALPHAS):
                same = torch.full((len(live),), row)
                shown.append((ids[live], ordered[live], parent[live], same))
        if not shown:
            break
        prefixes, totals, going, rows = map(torch.cat, zip(*shown))
        score.follow(going)
    return found


def main() -> None:
    """Measure both searches at every α, and store the table."""
    model, bpe = load_checkpoint(CHECKPOINT)
    german, english = map(list, zip(*pairs("multi30k", "val")))
    rows = []

    def judge(search: str, alpha: float, texts: list[str]) -> None:
        scored = sacrebleu.corpus_bleu(texts, [english])
        rows.append({"finished": search, "alpha": alpha, "bleu": round(scored.score, 2),
                     "length_ratio": round(scored.sys_len / scored.ref_len, 3)})
        print(rows[-1], flush=True)

    for alpha in ALPHAS:
        judge("in the beam", alpha, cache.translate(model, bpe, german, BEAM, alpha))
    sources = [encode_sentence(bpe, sentence) for sentence in german]
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    found: dict[int, dict[float, Hypothesis]] = {}
    for k in range(0, len(order), 100):
        part = order[k : k + 100]
        found |= zip(part, apart(model, [sources[i] for i in part]))
    hold_against_the_page(model, sources, order[::100], found)
    for alpha in ALPHAS:
        judge("kept apart", alpha, [bpe.decode(found[i][alpha].ids) for i in range(len(sources))])
    OUT.write_text(json.dumps({
        "command": "python -m course.authoring.alpha", "checkpoint": CHECKPOINT,
        "corpus": "multi30k", "split": "val", "sentences": len(german), "beam": BEAM,
        "device": device_name("cpu"), "instruction_sets": instruction_sets(),
        "threads": torch.get_num_threads(), "versions": versions(), "rows": rows,
    }, indent=1) + "\n", encoding="utf-8")


def hold_against_the_page(
    model: Transformer, sources: list[list[int]], some: list[int], found: dict
) -> None:
    """Assert that lesson 08's search, one sentence after the other, finds the same."""
    for i in some:
        for alpha in ALPHAS:
            score = cache.cached_log_probs(model, torch.tensor([sources[i]]))
            best = beam_apart(score, 0, len(sources[i]) + 50, BEAM, alpha, score.follow)
            assert best.ids == found[i][alpha].ids, (alpha, best, found[i][alpha])


if __name__ == "__main__":
    main()
