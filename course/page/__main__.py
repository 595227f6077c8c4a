"""python -m course.page: count what the shipped checkpoint's training saw, for authors."""

import json

from course.corpora import pairs
from course.page import SEEN, count_seen
from course.runs import load_checkpoint

if __name__ == "__main__":
    _, bpe = load_checkpoint("multi30k-de-en")
    seen = count_seen(bpe, [german for german, _ in pairs("multi30k", "train")])
    SEEN.write_text(json.dumps(seen, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{len(seen['words']):,} words, {sum(seen['counts']):,} pieces -> {SEEN}")
