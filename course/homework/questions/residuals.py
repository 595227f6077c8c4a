"""Question 2: the same deep stack, trained with its residual connections and without them."""

import math
from dataclasses import replace

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from course.device import by_scale, one_thread
from course.transformer import Encoder, Residual, Transformer, TransformerConfig
from course.viz import BLUE, GREY, RED, finish

LETTERS, LENGTH = 8, 6
BASELINE = math.log(LETTERS)  # all letters equally probable
STYLES = {"with": (BLUE, "-", "o"), "without": (RED, "--", "s")}


class WithoutSum(Residual):
    """The sub-layer replaces its input: the same norm, the same weights, only no `x +`."""

    def forward(self, x: Tensor, sublayer) -> Tensor:
        return sublayer(self.norm(x))


def build(kind: str, depth: int) -> Transformer:
    """Return a fresh pre-norm encoder of this depth with its embedding and output."""
    torch.manual_seed(0)
    one = TransformerConfig(LETTERS, LETTERS, 32, 4, 32, 1, dropout=0.0, norm="pre")
    model = Transformer(one)
    model.encoder = Encoder(replace(one, n_layers=depth))
    for parameter in model.encoder.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    if kind == "without":
        for layer in model.encoder.layers:
            layer.residuals = nn.ModuleList(WithoutSum(one) for _ in range(2))
    return model


def train(kind: str, depth: int) -> dict[str, list[float]]:
    """Learn to name, at each place of a ring of letters, the letter before it.

    Returns for every step the loss in nats, and the norm of the gradient in the lowest layer.
    """
    model, random = build(kind, depth), torch.Generator().manual_seed(1)
    adam = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98))
    lowest = list(model.encoder.layers[0].parameters())
    log: dict[str, list[float]] = {"loss": [], "gradient": []}
    for step in range(1, by_scale(smoke=80, cpu=200, gpu=200) + 1):
        adam.param_groups[0]["lr"] = 5e-3 * min(1, step / 30)
        letters = torch.randint(LETTERS, (32, LENGTH), generator=random)  # (B, L)
        logits = model.project(model.encode(letters))  # (B, L, V)
        loss = F.cross_entropy(logits.flatten(0, 1), letters.roll(1, 1).flatten())
        adam.zero_grad()
        loss.backward()
        log["loss"].append(loss.item())
        log["gradient"].append(math.hypot(*(p.grad.norm().item() for p in lowest)))
        adam.step()
    return log


@one_thread()
def experiment() -> tuple[dict[str, dict[int, dict[str, float]]], Figure]:
    """Train stacks of several depths twice, and follow the loss and the lowest gradient.

    Returns "with" and "without" -> depth -> {"loss", "gradient"}, the means over the last ten
    steps, and a figure with a line at the loss of a model that knows nothing.
    """
    deepest = by_scale(smoke=16, cpu=24, gpu=24)
    depths = sorted({2, 8, deepest}) if deepest > 16 else [2, deepest]
    logs = {kind: {depth: train(kind, depth) for depth in depths} for kind in STYLES}
    ends = {
        kind: {
            depth: {name: sum(values[-10:]) / 10 for name, values in log.items()}
            for depth, log in runs.items()
        }
        for kind, runs in logs.items()
    }
    return ends, _picture({kind: runs[deepest] for kind, runs in logs.items()}, ends, deepest)


def _picture(logs: dict[str, dict], ends: dict[str, dict], deepest: int) -> Figure:
    figure, axes = plt.subplots(1, 3, figsize=(12.5, 3.8), layout="constrained")
    left, middle, right = axes
    for kind, (colour, line, marker) in STYLES.items():
        left.plot(logs[kind]["loss"], line, color=colour, label=f"{kind} residuals")
        middle.semilogy(logs[kind]["gradient"], line, color=colour, label=f"{kind} residuals")
        by_depth = {depth: end["loss"] for depth, end in ends[kind].items()}
        right.plot(list(by_depth), list(by_depth.values()), line, marker=marker, color=colour,
                   label=f"{kind} residuals")
    for axis in (left, right):
        axis.axhline(BASELINE, color=GREY, lw=1, ls=":")
        axis.set(ylabel="loss [nats]", ylim=(-0.05, 3))
    left.text(len(logs["with"]["loss"]), BASELINE + 0.1, f"knows nothing: ln {LETTERS}",
              ha="right", fontsize=9)
    right.text(2, BASELINE + 0.1, f"knows nothing: ln {LETTERS}", fontsize=9)
    left.set(xlabel="training step")
    left.set_title(f"{deepest} layers: one learns, one does not", fontsize=10)
    middle.set(xlabel="training step", ylabel="norm of the gradient")
    middle.set_title("What reaches the lowest layer", fontsize=10)
    right.set(xlabel="layers in the stack")
    right.set_xticks(list(ends["with"]))
    right.set_title("After training: the deeper, the worse without", fontsize=10)
    for axis, place in zip(axes, ("lower left", "center right", "center right")):
        axis.legend(fontsize=8, loc=place)
    figure.suptitle("Without residual connections a deep stack stays where it began", x=0.01,
                    ha="left")
    return finish(figure)
