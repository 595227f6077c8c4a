"""Pictures of lesson 05: positions, depth, the parameter count, and the model itself."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch
from torch import Tensor, nn

from course.viz import BLUE, GREEN, GREY, ORANGE, RED, STYLES, finish, plain


def starts(
    word_size: Mapping[str, float],
    first_loss: Mapping[str, float],
    position_size: float,
    uniform: float,
) -> Figure:
    """Draw for each way to start an embedding how large a word is, and the first loss."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 2.9), sharey=True)
    panels = (
        (left, word_size, position_size, "a position: {:.2f}", "standard deviation of a component",
         "Two starts make words quieter than positions"),
        (right, first_loss, uniform, "ln V = {:.2f}", "loss before training (nats)",
         "One start is wrong with great certainty"),
    )
    for axis, values, line, words, label, title in panels:
        bars = axis.barh(list(values), list(values.values()), color=BLUE, height=0.55)
        axis.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
        axis.axvline(line, color=RED, ls="--", label=words.format(line))
        axis.set(xlabel=label, title=title, xlim=(0, 1.25 * max(values.values())))
        axis.legend(loc="lower right", fontsize=9)
    left.invert_yaxis()
    return finish(figure)


def counting(digits: Tensor) -> Figure:
    """Draw binary numbers as a grid: digits (numbers, digits), the highest digit first."""
    figure, axis = plt.subplots(figsize=(8, 2.2))
    axis.imshow(digits.T, cmap="Greys", vmin=0, vmax=3, aspect="auto")
    for (number, digit), value in np.ndenumerate(np.asarray(digits)):
        axis.text(number, digit, int(value), ha="center", va="center", fontsize=8)
    n_digits = digits.shape[1]
    axis.set_yticks(range(n_digits), [str(2**d) for d in reversed(range(n_digits))])
    axis.set(xlabel="number", ylabel="digit worth")
    axis.set_title("Each digit flips half as often as the one below it")
    return finish(figure)


def encoding_map(table: Tensor, columns: Sequence[int]) -> Figure:
    """Draw encodings (length, D) as a heat map, and some of their columns as waves."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), width_ratios=(1.25, 1))
    image = left.imshow(table, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    figure.colorbar(image, ax=left, label="value")
    left.set(xlabel="component (column)", ylabel="position (row)")
    left.set_title("Fast waves on the left, slow ones on the right")
    for column, (colour, line, marker) in zip(columns, STYLES):
        label = f"component {column}"
        right.plot(table[:, column], color=colour, marker=marker, markevery=8, ms=4, ls=line,
                   label=label)
    right.set(xlabel="position", ylabel="value", ylim=(-1.15, 1.75))
    right.legend(ncols=2, loc="upper center", fontsize=8)
    right.set_title("Four of the columns")
    return finish(figure)


def dot_products(products: Tensor, positions: Sequence[int]) -> Figure:
    """Draw the dot product of each given position's encoding with all: products (rows, length)."""
    figure, axis = plt.subplots(figsize=(8, 3))
    for row, position, (colour, line, marker) in zip(products, positions, STYLES):
        offset = np.arange(len(row)) - position
        axis.plot(offset, row, color=colour, ls=line, marker=marker, markevery=9, ms=4,
                  label=f"from position {position}")
    axis.set(xlabel="distance k to the other position", ylabel="dot product")
    axis.legend()
    axis.set_title("Near positions look alike, and only the distance counts")
    return finish(figure)


def lines_by_depth(
    panels: Sequence[tuple[str, str, str, Mapping[str, Mapping[int, float]]]],
    names: Sequence[str] = (),
) -> Figure:
    """Draw one panel for each (title, y label, y scale, {curve: {depth: value}}).

    names: all curves of the page, so that one looks the same in every picture. Where curves lie on
    each other, the large hollow marker of one frames the small one of the next.
    """
    names = names or list(dict.fromkeys(name for *_, curves in panels for name in curves))
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 3.6), squeeze=False)
    for axis, (title, label, scale, curves) in zip(axes[0], panels):
        for number, (name, (colour, line, marker)) in enumerate(zip(names, STYLES)):
            if name in curves:
                depths, values = zip(*curves[name].items())
                axis.plot(depths, values, color=colour, marker=marker, ls=line, label=name,
                          ms=13 - 2.4 * number, mfc="none", mew=1.5)
        axis.set(xlabel="layers in the stack", ylabel=label, yscale=scale)
        axis.set_xticks(sorted({depth for points in curves.values() for depth in points}))
        axis.set_title(title, fontsize=10)
        if scale == "linear":
            axis.set_ylim(bottom=0)
        axis.legend(fontsize=8)
    return finish(figure)


def decision_maps(
    maps: Mapping[str, Tensor], points: Tensor, labels: Tensor, extent: float
) -> Figure:
    """Draw for each model the probability of class 1 over a square, and the data on top.

    maps: title -> (rows, columns) over [-extent, extent]²; points (n, 2), labels (n,).
    """
    figure, axes = plt.subplots(1, len(maps), figsize=(4.1 * len(maps), 3.6), squeeze=False)
    for axis, (title, chance) in zip(axes[0], maps.items()):
        image = axis.imshow(chance, origin="lower", extent=(-extent, extent) * 2, cmap="PuOr",
                            vmin=0, vmax=1)
        for value, marker, colour, name in ((0, "o", "white", "no -s"), (1, "^", "black", "-s")):
            chosen = points[labels == value]
            axis.scatter(*chosen.T, marker=marker, c=colour, edgecolors="grey", s=22, label=name)
        axis.set(xlabel="noun (−1) or verb (+1)", ylabel="singular (−1) or plural (+1)")
        axis.set_title(title, fontsize=9)
        figure.colorbar(image, ax=axis, label="probability of -s", shrink=0.8)
    axes[0][0].legend(loc="center", fontsize=8)
    return finish(figure)


def influence_maps(panels: Sequence[tuple[str, str, Tensor]]) -> Figure:
    """Draw for each (title, x label, matrix) how much each column moves each row (T, L)."""
    figure, axes = plt.subplots(1, len(panels), figsize=(4.4 * len(panels), 3.6), squeeze=False)
    for axis, (title, label, matrix) in zip(axes[0], panels):
        image = axis.imshow(matrix, cmap="Blues", vmin=0, aspect="auto")
        for (row, column), value in np.ndenumerate(np.asarray(matrix)):
            if value == 0:
                axis.text(column, row, "0", ha="center", va="center", fontsize=8, color="black")
        axis.set_xticks(range(matrix.shape[1]))
        axis.set_yticks(range(matrix.shape[0]))
        axis.set(xlabel=label, ylabel="output position")
        axis.set_title(title, fontsize=10)
        figure.colorbar(image, ax=axis, label="size of the gradient", shrink=0.8)
    return finish(figure)


def vocabulary_intervals(
    intervals: Mapping[str, tuple[float, float]], common: tuple[float, float], stated: float
) -> Figure:
    """Draw for each row of a table the vocabularies that give its figure: name -> (low, high)."""
    figure, axis = plt.subplots(figsize=(8, 4.2))
    last = len(intervals) - 1
    axis.axvspan(*common, color=GREEN, alpha=0.4, lw=0)
    axis.annotate(f"fits every row but big:\n{common[0]:,.0f} to {common[1]:,.0f}",
                  (common[0], last), xytext=(-8, 0), textcoords="offset points",
                  ha="right", va="center", fontsize=9)
    axis.axvline(stated, color=RED, ls="--")
    axis.annotate(f"“about {stated:,.0f}”\n(section 5.1)", (stated, 0.4), xytext=(6, 0),
                  textcoords="offset points", va="center", fontsize=9, color=RED)
    for y, (low, high) in enumerate(intervals.values()):
        axis.plot([low, high], [y, y], color=BLUE, ls="-", lw=5, solid_capstyle="butt")
    axis.set_yticks(range(len(intervals)), list(intervals))
    axis.invert_yaxis()
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.set(xlabel="size of the shared vocabulary (tokens)", ylabel="row of table 3")
    axis.set_title("One vocabulary explains every row of table 3 except the big model")
    return finish(figure)


def learning_curve(losses: Sequence[float], baselines: Mapping[str, float]) -> Figure:
    """Draw a loss by step, against baselines given by name."""
    figure, axis = plt.subplots(figsize=(8, 3.4))
    axis.plot(range(1, len(losses) + 1), losses, color=BLUE, lw=1.5)
    for (name, value), line in zip(baselines.items(), ("--", ":", "-.")):
        axis.axhline(value, color=GREY, ls=line)
        axis.annotate(name, (len(losses), value), xytext=(0, 3), textcoords="offset points",
                      ha="right", fontsize=9)
    axis.set(xlabel="training step", ylabel="loss (nats per token)", xlim=(0, len(losses) + 2))
    axis.set_ylim(0, max(*losses, *baselines.values()) * 1.05)
    axis.set_title("The loss falls below what is possible without reading the source")
    return finish(figure)


def training_curves(
    losses: Mapping[str, Sequence[float]], baseline: tuple[str, float], names: Sequence[str]
) -> Figure:
    """Draw several losses by step on a logarithmic scale; names: as in `lines_by_depth`."""
    figure, axis = plt.subplots(figsize=(8, 3.8))
    for name, (colour, line, _) in zip(names, STYLES):
        if name in losses:
            smooth = [sum(losses[name][max(0, i - 9):i + 1]) / min(10, i + 1)
                      for i in range(len(losses[name]))]
            axis.plot(range(1, len(smooth) + 1), smooth, color=colour, ls=line, label=name)
    label, value = baseline
    axis.axhline(value, color="black", lw=0.8)
    axis.annotate(label, (1, value), xytext=(0, 3), textcoords="offset points", fontsize=8)
    axis.set(xlabel="training step", ylabel="loss (nats per token, mean of 10 steps)",
             yscale="log",
             title="Six layers: pre-norm copies, post-norm has begun, the residual only is lost")
    axis.legend(fontsize=8)
    return finish(figure)


def attention_heads(
    weights: Tensor, rows: Sequence[str], columns: Sequence[str], title: str
) -> Figure:
    """Draw the weights of each head (H, T, S) with its tokens."""
    n_heads = len(weights)
    figure, axes = plt.subplots(1, n_heads, figsize=(2.6 * n_heads, 2.9), sharey=True,
                                squeeze=False)
    for head, axis in enumerate(axes[0]):
        image = axis.imshow(weights[head], cmap="Blues", vmin=0, vmax=1)
        axis.set_xticks(range(len(columns)), map(plain, columns), fontsize=9)
        axis.set_yticks(range(len(rows)), map(plain, rows), fontsize=9)
        axis.set_xlabel("source token")
        axis.set_title(f"head {head}", fontsize=9)
    axes[0][0].set_ylabel("token being written")
    figure.suptitle(title, x=0.02, ha="left")
    figure.tight_layout(rect=(0, 0, 0.93, 1))
    figure.colorbar(image, ax=axes[0].tolist(), label="attention weight", shrink=0.7)
    return finish(figure)


# The model, drawn from a run --------------------------------------------------------------------

TINTS = {
    "TokenEmbedding": RED,
    "PositionalEncoding": RED,
    "MultiHeadAttention": ORANGE,
    "FeedForward": BLUE,
    "LayerNorm": GREEN,
    "Linear": GREY,
    "Dropout": "white",
}  # these are drawn as boxes; every other module is only a way to call them
Point = tuple[float, float]
WIDTH = 3.4  # of a box, in inches


@dataclass(eq=False)
class Call:
    """One call of a module: its path in the model, its class, its shapes, the calls inside it.

    fed_by: for each tensor that went in, the calls whose results it depends on with no box between.
    joins: the same of its result, where it is no box itself: two or more are a sum.
    tied: whether its matrix serves under another name, too.
    """

    name: str
    kind: str
    shapes_in: list[tuple[int, ...]] = field(default_factory=list)
    shape_out: tuple[int, ...] = ()
    inner: list["Call"] = field(default_factory=list)
    fed_by: list[list["Call"]] = field(default_factory=list)
    joins: list["Call"] = field(default_factory=list)
    tied: bool = False

    @property
    def source(self) -> "Call":
        """The call that made its result: itself, unless it only hands on what another made."""
        return self.joins[0] if len(self.joins) == 1 else self

    def walk(self) -> Iterator["Call"]:
        """Yield this call and all calls inside it, in the order in which they began."""
        yield self
        for call in self.inner:
            yield from call.walk()


def trace(model: nn.Module, **inputs: Tensor) -> Call:
    """Run a copy of the model once on named inputs; return the tree of calls that it made.

    What feeds what is not read from the code. Each box's result is cut off from its past, so that
    autograd finds in the next box's input the last boxes before it, and only where the slope is not
    zero. A module with two names is called by each under that name.
    """
    named = list(model.named_parameters(remove_duplicate=False))
    tied = {name.rpartition(".")[0] for name, parameter in named
            if sum(parameter is other for _, other in named) > 1}
    model, known = copy.deepcopy(model), set()
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module in known:
            parent, _, child = name.rpartition(".")
            module = copy.deepcopy(module)
            setattr(model.get_submodule(parent), child, module)
        known.add(module)
    root, results = Call("", ""), []  # results: (a call, what it made, cut off from its past)
    for name, tensor in inputs.items():
        root.inner.append(Call(name, "input", shape_out=tuple(tensor.shape)))
        results.append((root.inner[-1], tensor))
    open_calls = [root]

    def sources(tensor: Tensor) -> list[Call]:
        if not tensor.requires_grad:
            return [call for call, made in results if made is tensor]
        cut = [(call, made) for call, made in results if made.requires_grad]
        direction = torch.linspace(0.5, 1.5, tensor.numel()).view_as(tensor)
        slopes = torch.autograd.grad(tensor, [made for _, made in cut], direction,
                                     retain_graph=True, allow_unused=True)
        return [call for (call, _), slope in zip(cut, slopes)
                if slope is not None and slope.ne(0).any()]

    def inside_a_box() -> bool:
        return any(call.kind in TINTS for call in open_calls)

    def enter(name: str):
        def hook(module, args) -> None:
            call = Call(name, type(module).__name__, tied=name in tied)
            for tensor in (arg for arg in args if isinstance(arg, Tensor)):
                call.shapes_in.append(tuple(tensor.shape))
                if not inside_a_box():
                    call.fed_by.append(sources(tensor))
            open_calls[-1].inner.append(call)
            open_calls.append(call)
        return hook

    def leave(module, args, output: Tensor) -> Tensor:
        call = open_calls.pop()
        call.shape_out = tuple(output.shape)
        if inside_a_box():
            return output
        if call.kind not in TINTS:
            call.joins = sources(output)
            if len(call.joins) < 2:
                return output
        results.append((call, output.detach().requires_grad_()))
        return results[-1][1]

    for name, module in model.named_modules():
        module.register_forward_pre_hook(enter(name))
        module.register_forward_hook(leave)
    model(*inputs.values())
    return root.inner[-1]


def sizes(shape: Sequence[int]) -> str:
    """Write a shape: (2, 7, 512) -> 2×7×512."""
    return "×".join(map(str, shape))


def describe(call: Call) -> str:
    """Say what goes into a call and what comes out, with what lies between for a feed-forward."""
    between = [sizes(inner.shape_out) for inner in call.inner if inner.kind == "Linear"]
    if call.kind == "FeedForward":
        return " → ".join([sizes(call.shapes_in[0]), *between])
    read = list(dict.fromkeys(sizes(shape) for shape in call.shapes_in[:3]))
    return f"{', '.join(read)} → {sizes(call.shape_out)}"


def wiring(layer: Call, before: Call) -> list:
    """Return what makes two layers alike: their boxes and sums, and what feeds each."""
    parts = [call for call in layer.walk() if call.kind in TINTS or len(call.joins) > 1]
    places = {id(call): place for place, call in enumerate(parts)} | {id(before): "before"}
    return [
        (call.kind, [[places.get(id(source), source.name) for source in feed]
                     for feed in [*call.fed_by, call.joins]])
        for call in parts
    ]


class Column:
    """A stack of boxes that grows upwards from (x, 0); `trace` found every line in it."""

    def __init__(self, axis: Axes, x: float, side: int, start: Call) -> None:
        self.axis, self.x, self.y, self.side = axis, x, 0.2, side
        self.last = start  # whose result stands at height y
        self.leaves = {id(start): self.y}  # the height at which a line may leave a call's result
        self.beside: list[tuple[Call, float]] = []  # what feeds it from elsewhere, and where
        words = f"{start.name}  {sizes(start.shape_out)}"
        axis.text(x, 0, words, ha="center", va="center", fontsize=9)

    def arrow(self, start: Point, end: Point, head: bool = True) -> None:
        """Draw a straight line, with an arrow's head or without."""
        style = {"arrowstyle": "-|>" if head else "-", "color": "black", "lw": 1,
                 "shrinkA": 0, "shrinkB": 0}
        self.axis.annotate("", end, start, arrowprops=style)

    def rise(self, height: float, joined: bool = True, head: bool = False) -> None:
        """Go up, and draw the line if there is one."""
        if joined:
            self.arrow((self.x, self.y), (self.x, self.y + height), head)
        self.y += height

    def reach(self, call: Call) -> None:
        """Keep that the result of a call stands at the height reached."""
        self.last = call
        self.leaves[id(call)] = self.y + 0.1

    def around(self, source: Call, height: float, inside: float) -> None:
        """Draw the line from an earlier result of this column, around what lies between."""
        start, outside = self.leaves[id(source)], self.x + self.side * (WIDTH / 2 + 0.2)
        self.arrow((self.x, start), (outside, start), head=False)
        self.arrow((outside, start), (outside, height), head=False)
        self.arrow((outside, height), (self.x + self.side * inside, height))

    def add(self, sources: Sequence[Call]) -> None:
        """Draw a sum, and the lines to it."""
        self.rise(0.18, self.last in sources, head=True)
        self.y += 0.11
        self.axis.add_patch(
            Circle((self.x, self.y), 0.11, facecolor="white", edgecolor="black")
        )
        self.axis.text(self.x, self.y, "+", ha="center", va="center", fontsize=10)
        for source in sources:
            if source is not self.last and id(source) in self.leaves:
                self.around(source, self.y, inside=0.11)
        self.y += 0.11

    def box(self, call: Call, joined: bool = False) -> None:
        """Draw a call as a box above what is there, with what feeds it."""
        thin = call.kind == "Dropout"
        height = 0.26 if thin else 0.52
        middle = self.y + 0.26 + height / 2
        for feed in call.fed_by:
            if len(feed) > 1 and not joined:
                self.add(feed)
                middle, joined = self.y + 0.26 + height / 2, True
        alone = {id(feed[0]): feed[0] for feed in call.fed_by if len(feed) == 1}
        for source in alone.values():
            if source is self.last:
                joined = True
            elif id(source) in self.leaves:
                self.around(source, middle, inside=WIDTH / 2)
            else:
                self.beside.append((source, middle))
        self.rise(0.26, joined, head=True)
        colour = "grey" if thin else TINTS[call.kind]
        self.axis.add_patch(
            FancyBboxPatch(
                (self.x - WIDTH / 2, self.y), WIDTH, height,
                boxstyle="round,pad=0,rounding_size=.08",
                facecolor="white" if thin else (colour, 0.25), edgecolor=colour,
                linestyle="--" if thin else "-", lw=1.2,
            )
        )
        label, kwargs = call.name.split(".")[-1], {"ha": "center", "va": "center"}
        if thin:
            self.axis.text(self.x, middle, label, fontsize=8, color="0.3", **kwargs)
        else:
            label += " ◆" * call.tied
            self.axis.text(self.x, middle + 0.11, label, fontsize=9, weight="bold", **kwargs)
            shapes = f"{call.kind}:  {describe(call)}"
            self.axis.text(self.x, middle - 0.13, shapes, fontsize=7.5, **kwargs)
        self.y += height
        self.reach(call)

    def draw(self, call: Call) -> None:
        """Draw a call with what it calls."""
        if call.kind in TINTS:
            self.box(call)
            if call.kind == "PositionalEncoding":
                for inner in call.inner:
                    self.box(inner, joined=True)
                self.reach(call)
            return
        layers = [inner for inner in call.inner if inner.kind.endswith("Layer")]
        if layers:
            self.stack(layers)
        for inner in call.inner[len(layers):]:
            self.draw(inner)
        if len(call.joins) > 1:
            self.add(call.joins)
            self.reach(call)

    def stack(self, layers: list[Call]) -> None:
        """Draw the first of a stack's layers in a frame, and say how many are wired like it."""
        ends = [self.last, *(layer.source for layer in layers)]
        alike = [wiring(layer, before) for layer, before in zip(layers, ends)]
        n = alike.count(alike[0])
        self.rise(0.2)
        self.leaves[id(self.last)] = self.y + 0.1
        bottom = self.y - 0.07
        for inner in layers[0].inner:
            self.draw(inner)
        left, top = self.x - WIDTH / 2 - 0.32, self.y + 0.1
        self.axis.add_patch(
            FancyBboxPatch(
                (left, bottom), WIDTH + 0.64, top - bottom, facecolor=(0, 0, 0, 0.04),
                boxstyle="round,pad=0,rounding_size=.12", edgecolor="grey", lw=1, zorder=0,
            )
        )
        many = f"{n}" if n == len(layers) else f"{n} of {len(layers)}"
        self.axis.text(left + 0.05, top + 0.06, f"{many} × {layers[0].kind}", fontsize=11)
        self.rise(0.25)
        if self.last is ends[1]:
            self.reach(ends[-1])


def draw_model(call: Call, title: str) -> Figure:
    """Draw what `trace` found of an encoder-decoder: encoder left, decoder right, shapes inside."""
    figure, axis = plt.subplots(figsize=(9.6, 11))
    turn = next(i for i, inner in enumerate(call.inner) if inner.kind == "Encoder") + 1
    (src,), (tgt_in,) = call.fed_by[:2]
    left, right = Column(axis, 0, -1, src), Column(axis, 5, 1, tgt_in)
    for column, calls in ((left, call.inner[:turn]), (right, call.inner[turn:])):
        for inner in calls:
            column.draw(inner)
    right.rise(0.3, call.source is right.last, head=True)
    axis.text(5, right.y + 0.12, f"logits  {sizes(call.shape_out)}", ha="center", va="center",
              fontsize=9)
    gap, top = 2.3, left.y + 0.2
    for _, height in [(s, height) for s, height in right.beside if s is left.last][:1]:
        left.rise(0.2)
        left.arrow((0, top), (gap, top), head=False)
        left.arrow((gap, top), (gap, height), head=False)
        left.arrow((gap, height), (5 - WIDTH / 2, height))
        axis.text(0.1, top + 0.08, f"memory  {sizes(left.last.shape_out)}", fontsize=9)
    if any(inner.tied for inner in call.walk()):
        axis.text(-2, right.y + 0.12, "◆ one and the same matrix", va="center", fontsize=9)
    axis.set(xlim=(-2.2, 7.2), ylim=(-0.2, max(left.y + 0.6, right.y + 0.3)), aspect="equal")
    axis.axis("off")
    axis.set_title(title)
    return finish(figure)
