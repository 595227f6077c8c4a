"""Question 3: a difference of two places, which no single head can take."""

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from course.attention import MultiHeadAttention
from course.device import by_scale, one_thread
from course.viz import BLUE, GREEN, GREY, ORANGE, RED, finish

PLACES, NUMBERS, WIDTH = 8, 8, 16  # places on a ring, numbers at each, their one-hot sum
# name -> heads, width of a head
LAYERS = {
    "1 head of width 16": (1, 16),
    "1 head of width 64": (1, 64),
    "2 heads of width 8": (2, 8),
    "4 heads of width 4": (4, 4),
}
STYLES = ((RED, "-"), (ORANGE, ":"), (BLUE, "--"), (GREEN, "-."))
FLOOR = 0.5


def rises(n: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Make n rings (n, L, D) and what is asked at each place: the place after minus the one before.

    Each place holds its own number (one-hot) and eight random numbers; the answers are (n, L, 8).
    """
    contents = torch.randn(n, PLACES, NUMBERS, generator=random)
    rings = torch.cat([torch.eye(PLACES).expand(n, -1, -1), contents], dim=-1)
    return rings, contents.roll(-1, 1) - contents.roll(1, 1)


def error_of(layer: MultiHeadAttention, rings: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean squared error over the variance of the answers: 1 is doing nothing."""
    return (layer(rings, rings, rings)[..., -NUMBERS:] - wanted).square().mean() / 2


def train(n_heads: int, d_head: int) -> tuple[MultiHeadAttention, list[float]]:
    """Train one attention layer; return it with its error at each step."""
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    layer = MultiHeadAttention(WIDTH, n_heads, d_head, d_head)
    adam = torch.optim.Adam(layer.parameters(), lr=0.02)
    n_steps, errors = by_scale(smoke=300, cpu=400, gpu=400), []
    for step in range(n_steps):
        adam.param_groups[0]["lr"] = 0.02 * min(1, 2 - 2 * step / n_steps)
        error = error_of(layer, *rises(64, random))
        adam.zero_grad()
        error.backward()
        adam.step()
        errors.append(error.item())
    return layer, errors


@one_thread()
def experiment() -> tuple[dict[str, dict[str, float]], Figure]:
    """Train four attention layers to take a difference, and look at where they look.

    Returns layer -> {"error" on new rings, relative to doing nothing; "parameters"}, and a figure
    of the errors over training and of the attention weights of two of the layers.
    """
    trained = {name: train(*sizes) for name, sizes in LAYERS.items()}
    test = rises(2000, torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = {
            name: {
                "error": error_of(layer, *test).item(),
                "parameters": sum(p.numel() for p in layer.parameters()),
            }
            for name, (layer, _) in trained.items()
        }
        one, two = (trained[name][0].weights(test[0], test[0]).mean(0)
                    for name in ("1 head of width 16", "2 heads of width 8"))
    maps = {"one head": one[0], "two heads: head 1": two[0], "two heads: head 2": two[1]}
    return found, _picture({name: errors for name, (_, errors) in trained.items()}, maps)


def _picture(curves: dict[str, list[float]], maps: dict[str, Tensor]) -> Figure:
    figure, axes = plt.subplots(
        1, 4, figsize=(12.5, 3.7), width_ratios=(2.1, 1, 1, 1), layout="constrained"
    )
    left = axes[0]
    for (name, errors), (colour, line) in zip(curves.items(), STYLES):
        smooth = torch.tensor(errors).unfold(0, 5, 1).mean(-1)
        left.plot(smooth, line, color=colour, label=name)
    left.axhline(FLOOR, color=GREY, lw=1)
    left.text(len(errors), FLOOR + 0.07, "floor of one head: 0.5", ha="right", fontsize=9)
    left.set(xlabel="training step", ylabel="squared error, 1 = doing nothing", ylim=(-0.03, 1.3))
    left.set_title("One head stops half-way, however wide", fontsize=10)
    left.legend(fontsize=8, ncols=2, loc="upper right")
    for axis, (name, table) in zip(axes[1:], maps.items()):
        axis.imshow(table, cmap="Blues", vmin=0, vmax=1)
        axis.set(xlabel="key: which place answers")
        axis.set_xticks(range(PLACES))
        axis.set_yticks(range(PLACES))
        axis.set_title(name, fontsize=10)
    axes[1].set_ylabel("query: which place asks")
    figure.suptitle("A difference of two places needs two heads", x=0.01, ha="left")
    return finish(figure)
