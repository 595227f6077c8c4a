"""Question 5: a translator that could read its answer, and one that could not."""

import math
import random

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from course.device import by_scale, one_thread
from course.masking import Batch, causal_mask, padding_mask
from course.transformer import Transformer, TransformerConfig
from course.viz import BLUE, GREEN, GREY, RED, finish

PAD, BOS, EOS = 0, 1, 2
LETTERS, SHORTEST, LONGEST = 10, 3, 8  # source letters 3 to 12; each has two translations
MEAN_LENGTH = (SHORTEST + LONGEST) / 2
# of two right words nobody can know which one comes; the end of the row is certain
FLOOR = math.log(2) * MEAN_LENGTH / (MEAN_LENGTH + 1)
DUMMIES = (0, 2, 4, 8, 16)
STYLES = {"with the causal mask": (BLUE, "-"), "without": (RED, "--")}


def sample(n: int, dice: random.Random) -> Batch:
    """Make n rows of letters and a translation of each: one of its two words for every letter."""
    lengths = [dice.randint(SHORTEST, LONGEST) for _ in range(n)]
    rows = [dice.choices(range(3, 3 + LETTERS), k=length) for length in lengths]
    words = [[letter + LETTERS * dice.choice((1, 2)) for letter in row] for row in rows]
    return Batch.from_sequences(
        [[*row, EOS] for row in rows], [[*row, EOS] for row in words], PAD, BOS
    )


def loss_of(model: Transformer, batch: Batch, causal: bool) -> Tensor:
    """Return the loss with the true answer as input, in nats per word."""
    tgt_mask = batch.tgt_mask if causal else padding_mask(batch.tgt_in, PAD)
    logits = model(batch.src, batch.tgt_in, batch.src_mask, tgt_mask)  # (B, T, V)
    real = batch.tgt_out != PAD
    return F.cross_entropy(logits[real], batch.tgt_out[real])


def train(causal: bool) -> tuple[Transformer, list[float]]:
    """Train a small Transformer with or without the causal mask; return it and its losses."""
    torch.manual_seed(0)
    vocab, dice, losses = 3 + 3 * LETTERS, random.Random(0), []
    model = Transformer(TransformerConfig(vocab, vocab, 32, 4, 64, 1, dropout=0.0))
    adam = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-9)
    n_steps = by_scale(smoke=300, cpu=400, gpu=400)
    for step in range(1, n_steps + 1):
        adam.param_groups[0]["lr"] = 4e-3 * min(step / 50, 1, 1.2 * (1 - step / n_steps))
        loss = loss_of(model, sample(64, dice), causal)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    return model.eval(), losses


@torch.no_grad()
def write(model: Transformer, src: Tensor, src_mask: Tensor | None, causal: bool) -> Tensor:
    """Let the model write word by word, each time the most probable one: (B, LONGEST + 1)."""
    memory = model.encode(src, src_mask)
    written = torch.full_like(src[:, :1], BOS)
    for _ in range(LONGEST + 1):
        mask = causal_mask(written.size(1)) if causal else None
        states = model.decode(written, memory, src_mask, mask)
        best = model.project(states[:, -1]).argmax(-1, keepdim=True)
        written = torch.cat([written, best], dim=1)
    return written[:, 1:]


def share_right(written: Tensor, src: Tensor) -> float:
    """Return the share of rows in which each word is one of the two right ones, and the end too."""
    written = written[:, : src.size(1)]
    word = (written == src + LETTERS) | (written == src + 2 * LETTERS)
    right = torch.where(src == EOS, written == EOS, word) | (src == PAD)
    return right.all(1).float().mean().item()


def share_with_dummies(model: Transformer, batch: Batch, n: int, masked: bool) -> float:
    """Return the share of right rows with n dummies behind each, their mask kept or forgotten."""
    src = F.pad(batch.src, (0, n), value=PAD)
    mask = padding_mask(src, PAD) if masked else None
    return share_right(write(model, src, mask, causal=True), batch.src)


@one_thread()
def experiment() -> tuple[dict[str, dict[str, float]], Figure]:
    """Train with and without the causal mask, let both write, and forget the padding mask.

    Returns "loss" (the last ten steps) and "right" (share of new rows written rightly), each by
    "with the causal mask" and "without", and "padding": the share with 16 dummies behind each row,
    "kept" and "forgotten"; and a figure.
    """
    trained = {name: train(causal) for name, causal in zip(STYLES, (True, False))}
    rows = sample(200, random.Random(2017))
    writers = {name: model for name, (model, _) in trained.items()}
    right = {
        name: share_right(write(writers[name], rows.src, rows.src_mask, causal), rows.src)
        for name, causal in zip(STYLES, (True, False))
    }
    honest = writers["with the causal mask"]
    padding = {
        name: [share_with_dummies(honest, rows, n, masked) for n in DUMMIES]
        for name, masked in (("kept", True), ("forgotten", False))
    }
    losses = {name: curve for name, (_, curve) in trained.items()}
    found = {
        "loss": {name: sum(curve[-10:]) / 10 for name, curve in losses.items()},
        "right": right,
        "padding": {name: shares[-1] for name, shares in padding.items()},
    }
    return found, _picture(losses, right, padding)


def _picture(losses: dict[str, list], right: dict[str, float], padding: dict[str, list]) -> Figure:
    figure, axes = plt.subplots(
        1, 3, figsize=(12.5, 3.8), width_ratios=(1.4, 0.9, 1.2), layout="constrained"
    )
    left, middle, last = axes
    for name, (colour, line) in STYLES.items():
        left.plot(losses[name], line, color=colour, label=name)
    left.axhline(FLOOR, color=GREY, lw=1, ls=":")
    left.text(len(losses["without"]), FLOOR - 0.22, f"nobody can know more: {FLOOR:.2f}",
              ha="right", fontsize=9)
    left.set(xlabel="training step", ylabel="training loss [nats per word]", ylim=(-0.05, 4))
    left.set_title("The better loss is too good", fontsize=10)
    left.legend(fontsize=9)
    bars = middle.bar(range(2), right.values(), 0.55, color=[c for c, _ in STYLES.values()],
                      hatch=["", "//"], edgecolor="white")
    middle.bar_label(bars, [f"{share:.0%}" for share in right.values()])
    middle.set_xticks(range(2), [name.replace(" the ", " the\n") for name in right])
    middle.set(ylabel="rows written rightly", ylim=(0, 1.12))
    middle.set_title("Word by word, it cannot write", fontsize=10)
    for (name, shares), (colour, line, marker) in zip(
        padding.items(), ((BLUE, "-", "o"), (GREEN, "-.", "^"))
    ):
        last.plot(DUMMIES, shares, line, marker=marker, color=colour, label=f"padding mask {name}")
    last.set(xlabel="dummies behind the source", ylabel="rows written rightly", ylim=(-0.03, 1.12))
    last.set_title("And dummies are read as words", fontsize=10)
    last.legend(fontsize=9, loc="center right")
    figure.suptitle("A mask decides what a position may know", x=0.01, ha="left")
    return finish(figure)
