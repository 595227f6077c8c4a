"""A corpus of a dozen kinds of sentences, a recipe and a model: enough to train in a second."""

from course.training import TrainingConfig
from course.transformer import TransformerConfig

WHO = [("ein Hund", "a dog"), ("eine Frau", "a woman"), ("das Kind", "the child")]
WHAT = [("läuft", "runs"), ("schläft", "sleeps"), ("singt ein Lied", "is singing a song")]
WHERE = [("im Park", "in the park"), ("am Meer", "by the sea"), ("hier", "here"), ("", "")]
PAIRS = [
    (" ".join(de).strip(), " ".join(en).strip())
    for de, en in (zip(*parts) for who in WHO for what in WHAT for parts in
                   ([who, what, where] for where in WHERE))
]
VAL = PAIRS[::7]
RECIPE = TrainingConfig(
    max_tokens=90, accumulate=2, peak_lr=3e-3, warmup=5, average=4, average_span=0.5
)
SMALL = TransformerConfig(40, 40, d_model=16, n_heads=2, d_ff=32, n_layers=1, dropout=0.0)
