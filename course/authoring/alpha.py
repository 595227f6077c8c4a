"""python -m course.authoring.alpha: BLEU on val over the length penalty, for two searches."""

import json

import sacrebleu
import torch

from course import ASSETS, cache
from course.corpora import pairs
from course.decoding import beam_apart
from course.device import device_name, versions
from course.runs import load_checkpoint
from course.text import BPE, EOS
from course.transformer import Transformer

CHECKPOINT, BEAM, ALPHAS = "multi30k-de-en", 4, (0.6, 1.5, 2.1)
OUT = ASSETS / "results" / "length_penalty.json"


def apart(model: Transformer, bpe: BPE, sentences: list[str], alpha: float) -> list[str]:
    """Translate by the search that keeps finished prefixes apart, one sentence after the other."""
    written = []
    for sentence in sentences:
        source = [*bpe.encode(sentence), EOS]
        score = cache.cached_log_probs(model, torch.tensor([source]))
        best = beam_apart(score, 0, len(source) + 50, BEAM, alpha, score.follow)
        written.append(bpe.decode(best.ids))
    return written


def main() -> None:
    """Measure both searches at every α, and store the table."""
    model, bpe = load_checkpoint(CHECKPOINT)
    german, english = map(list, zip(*pairs("multi30k", "val")))
    searches = {
        "in the beam": lambda alpha: cache.translate(model, bpe, german, BEAM, alpha),
        "kept apart": lambda alpha: apart(model, bpe, german, alpha),
    }
    rows = []
    for search, run in searches.items():
        for alpha in ALPHAS:
            scored = sacrebleu.corpus_bleu(run(alpha), [english])
            rows.append({"finished": search, "alpha": alpha, "bleu": round(scored.score, 2),
                         "length_ratio": round(scored.sys_len / scored.ref_len, 3)})
            print(rows[-1], flush=True)
    OUT.write_text(json.dumps({
        "command": "python -m course.authoring.alpha", "checkpoint": CHECKPOINT,
        "corpus": "multi30k", "split": "val", "sentences": len(german), "beam": BEAM,
        "device": device_name("cpu"), "threads": torch.get_num_threads(), "versions": versions(),
        "rows": rows,
    }, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
