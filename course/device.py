"""What this machine can do: its device, and the sizes that fit it."""

import os

import torch

SCALES = ("smoke", "cpu", "gpu")

# the one table of sizes: (smoke, cpu, gpu); smoke is for tests, cpu for two cores and two minutes
SIZES: dict[str, tuple[float, float, float]] = {
    "decoding_pairs": (2000, 12000, 12000),
    "decoding_epochs": (4, 2, 2),
    "decoding_sentences": (24, 200, 500),
    "decoding_longest_log2": (8, 8, 9),
    "dropout_pairs": (50, 200, 200),
    "dropout_epochs": (40, 40, 40),
    "resume_pairs": (40, 200, 200),
    "training_pairs": (300, 6000, 12000),
    "training_val": (50, 300, 500),
    "training_epochs": (4, 4, 10),
    "training_tokens": (250, 1000, 1000),
    "training_warmup": (30, 100, 100),
    "speed_pairs": (800, 3000, 12000),
    "speed_tokens": (600, 1600, 8000),
    "speed_steps": (3, 8, 8),
    "speed_rounds": (2, 3, 10),
    "speed_epochs": (6, 2, 4),
    "copy_layers": (1, 2, 2),
    "copy_width": (32, 64, 64),
    "copy_steps": (500, 600, 800),
    "seq2seq_words": (8, 26, 26),
    "seq2seq_pairs": (3200, 8000, 12000),
    "seq2seq_val": (240, 300, 500),
    "seq2seq_width": (96, 96, 128),
    "seq2seq_epochs": (3, 2, 4),
    "seq2seq_rate": (0.02, 0.01, 0.01),
    "seq2seq_longest_log2": (8, 10, 10),
    "masking_steps": (100, 300, 300),
    "foundations_steps": (120, 250, 300),
    "foundations_memory_steps": (100, 150, 200),
    "foundations_memory_stride": (4, 1, 1),
    "attention_head_steps": (200, 400, 400),
    "attention_fill_steps": (150, 400, 400),
    "attention_longest_log2": (8, 11, 12),
    "question_residual_depth": (16, 24, 24),
    "question_residual_steps": (80, 200, 200),
    "question_head_steps": (300, 400, 400),
    "question_cost_longest_log2": (10, 11, 11),
    "question_cost_widest_log2": (9, 10, 10),
    "question_mask_steps": (300, 400, 400),
    "walkthrough_minutes": (0.3, 6.0, 3.0),
    "walkthrough_copy_steps": (400, 600, 600),
    "walkthrough_test_sentences": (40, 1000, 1000),
    "walkthrough_beam": (1, 4, 4),
    "multi30k_pairs": (8000, 29000, 29000),
    "multi30k_epochs": (1, 1, 2),
    "multi30k_test_sentences": (20, 100, 1000),
    "inside_sentences": (60, 300, 1000),
    "inside_prune_sentences": (40, 120, 500),
    "inside_bleu_sentences": (20, 80, 500),
    "inside_random_orders": (1, 2, 3),
    "inside_error_sentences": (100, 500, 1014),
    "inside_compare_sentences": (60, 300, 1014),
    "inside_beam_sentences": (60, 100, 500),
    "inside_widest_beam": (4, 10, 10),
    "beyond_width": (64, 128, 256),
    "beyond_layers": (2, 3, 4),
    "beyond_vocab": (2000, 5000, 8000),
    "beyond_longest": (12, 500, 500),
    "beyond_sentences": (4000, 29000, 29000),
    "beyond_val": (300, 1014, 1014),
    "beyond_tokens": (400, 800, 2000),
    "beyond_causal_epochs": (4, 2, 4),
    "beyond_masked_epochs": (10, 4, 12),
    "beyond_texts": (40, 100, 200),
    "beyond_tagging_steps": (60, 40, 60),
    "beyond_tagging_seeds": (1, 3, 5),
    "beyond_trees": (3000, 12000, 12000),
    "beyond_parsing_epochs": (3, 3, 6),
    "beyond_test_trees": (100, 500, 500),
    "ablation_pairs": (1000, 2000, 4000),
    "ablation_seeds": (2, 3, 5),
    "question_positions_steps": (250, 500, 500),
    "question_positions_seeds": (1, 3, 3),
}


def pick() -> torch.device:
    """Return the fastest device there is: cuda, then mps, then cpu; or what COURSE_DEVICE names."""
    if name := os.environ.get("COURSE_DEVICE"):
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def scale() -> str:
    """Return the scale that COURSE_SCALE names, or by itself gpu where there is one, else cpu.

    Raises ValueError for a name that is none of smoke, cpu, gpu, auto.
    """
    name = os.environ.get("COURSE_SCALE", "auto")
    if name == "auto":
        return "cpu" if pick().type == "cpu" else "gpu"
    if name not in SCALES:
        raise ValueError(f"COURSE_SCALE={name!r} is unknown: choose smoke, cpu, gpu or auto")
    return name


def size(name: str) -> float:
    """Return how large `name` is at this scale. Raises KeyError for a name not in SIZES."""
    return SIZES[name][SCALES.index(scale())]
