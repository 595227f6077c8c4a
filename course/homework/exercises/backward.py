"""More exercises of the assignment foundations: how far a stack of convolutions sees, and two
backward passes by hand."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from course.homework.checking import Case, Exercise, function_exam, normal
from course.homework.guard import AUTOGRAD
from course.homework.probe import dice, first_to_show
from course.homework.twins import (
    FLOAT32,
    Fault,
    Mistake,
    alike,
    double_twins,
    named_part,
    near,
    twins,
)
from course.homework.values import mismatch

# receptive_field

Layers = Sequence[tuple[int, int, int]]  # (kernel, stride, dilation), the bottom first


def span(layers: Layers) -> int:
    field, step = 1, 1
    for kernel, stride, dilation in layers:
        field += (kernel - 1) * dilation * step
        step *= stride
    return field


def span_from_the_top(layers: Layers) -> int:
    field = 1
    for kernel, stride, dilation in reversed(layers):
        field = (field - 1) * stride + (kernel - 1) * dilation + 1
    return field


def heard(layers: Layers) -> int:
    """Count the words that are heard; with holes they are fewer than the span."""
    places = {0}
    for kernel, stride, dilation in reversed(layers):
        places = {p * stride + k * dilation for p in places for k in range(kernel)}
    return len(places)


def field_twin(
    start=1, add=lambda kernel, stride, dilation, step, gap: (kernel - 1) * dilation * step,
    grow=lambda step, stride: step * stride, late=True, order=iter,
) -> Callable[[Layers], int]:
    """Return a receptive field with one step replaced. late: the stride counts from the next
    layer on."""

    def field(layers: Layers) -> int:
        total, step, gap = start, 1, 1
        for kernel, stride, dilation in order(list(layers)):
            gap *= dilation
            if not late:
                step = grow(step, stride)
            total += add(kernel, stride, dilation, step, gap)
            if late:
                step = grow(step, stride)
        return total

    return field


FIELD_FAULTS: list[Fault] = [
    ("You ignore the strides: above a layer with stride s, neighbours are s words apart, so "
     "whatever stands higher reaches s times as far", {"grow": lambda step, stride: step}),
    ("You ignore the dilation: it sets the words of a window apart, (kernel - 1) * dilation",
     {"add": lambda kernel, stride, dilation, step, gap: (kernel - 1) * step}),
    ("A layer's own stride does not widen its window: it counts for the layers above it, so "
     "multiply the step after you have added", {"late": False}),
    ("Strides multiply: two layers with stride 2 set the outputs 4 words apart. You add them",
     {"grow": lambda step, stride: step + stride - 1}),
    ("You begin with the top layer: the list goes from the bottom up", {"order": reversed}),
    ("The window itself is missing at the start: with no layer one output is one word, so begin "
     "with 1", {"start": 0}),
    ("A window of K words adds K - 1 to the field, for the first of them was there before: you "
     "add K", {"start": 0, "add": lambda kernel, stride, dilation, step, gap:
               kernel * dilation * step}),
    ("A window of K words adds K - 1 to the field, for the first of them was there before: you "
     "add K", {"add": lambda kernel, stride, dilation, step, gap: kernel * dilation * step}),
    ("A window with dilation spans (K - 1) * dilation + 1 words: you take K * dilation, which "
     "counts a gap behind the last one",
     {"add": lambda kernel, stride, dilation, step, gap: (kernel * dilation - 1) * step}),
    ("You count the gaps alone: between two words of a window there are `dilation` steps, "
     "(kernel - 1) * dilation in all", {"add": lambda kernel, stride, dilation, step, gap:
                                        (kernel - 1) * (dilation - 1) * step}),
    ("You multiply the dilations of all layers: strides multiply, a dilation belongs to its own "
     "layer", {"add": lambda kernel, stride, dilation, step, gap: (kernel - 1) * gap * step}),
    ("You multiply by the layer's own stride, not by the strides of all layers below it",
     {"add": lambda kernel, stride, dilation, step, gap: (kernel - 1) * dilation * stride}),
]
FIELD_MISTAKES: list[Mistake] = [
    ("You count the words that are heard, but the field runs from the first of them to the last: "
     "the holes between count, too", heard),
    *twins(field_twin, FIELD_FAULTS),
    ("You multiply the kernels: each further layer adds to the field, it does not multiply it",
     lambda layers: prod(kernel for kernel, _, _ in layers)),
    ("You look at the top layer alone: its inputs have fields of their own",
     lambda layers: span(list(layers)[-1:])),
    ("You look at the first layer alone: each layer above it widens the field",
     lambda layers: span(list(layers)[:1])),
    ("You take the widest layer: the fields of the layers add up",
     lambda layers: max((span([layer]) for layer in layers), default=1)),
    ("That is how far apart two outputs of the top layer are: the product of the strides",
     lambda layers: prod(stride for _, stride, _ in layers)),
]


def field_cases(generator: Generator) -> Iterator[Case]:
    random = dice(generator)

    def stack(depth: int, kernel=(2, 5), stride=(1, 1), dilation=(1, 1), show=()) -> tuple:
        def draw() -> tuple:
            return ([tuple(random.randint(*limits) for limits in (kernel, stride, dilation))
                     for _ in range(depth)],)

        return first_to_show(draw, [span, span_from_the_top], show)

    def mistakes(*starts: str) -> list[Mistake]:
        return [mistake for mistake in FIELD_MISTAKES if mistake[0].startswith(starts)]

    yield Case("one layer", stack(1, (3, 7)))
    yield Case("two plain layers", stack(2, (2, 6)),
               "you do not add up what each layer adds, K - 1")
    yield Case("three plain layers", stack(3, (2, 6)))
    yield Case("two layers with dilation", stack(
        2, (2, 4), (1, 1), (2, 5), mistakes("You ignore the dilation", "You count the words")),
        "you forget the dilation: the window spans (K - 1) * dilation + 1 words")
    yield Case("three layers with dilation", stack(3, (2, 4), dilation=(1, 5)),
               "you let a dilation act on other layers than its own")
    yield Case("two layers with strides", stack(
        2, (2, 4), (2, 3), (1, 1),
        mistakes("You ignore the strides", "A layer's own stride", "You begin")),
        "you forget that above a stride neighbours are further apart")
    yield Case("strides and dilations", stack(
        3, (2, 4), (2, 3), (1, 3),
        mistakes("A layer's own stride", "Strides multiply", "You begin")),
        "you treat the strides wrongly: a step is the product of the strides of the layers below")
    yield Case("no layer", ([],), "with no layer one output is one word: 1")
    yield Case("six layers", stack(6, (1, 4), (1, 3), (1, 4)))


RECEPTIVE_FIELD = Exercise(
    name="receptive_field",
    assignment="foundations",
    signature="receptive_field(layers) -> int; layers: a list of (kernel, stride, dilation), from "
    "the bottom up, all whole numbers, 1 or more. The result: over how many words one output of "
    "the top layer reaches, from the first that it hears of to the last, both counted",
    what="How far a stack of convolutions sees: the number of words from the first to the last "
    "that can change one of its outputs.",
    why="Section 2 of the paper argues with this number: in ConvS2S the layers between two words "
    "grow with their distance, in ByteNet with its logarithm. Your function counts both.",
    difficulty=1,
    minutes=10,
    hints=(
        "One layer with kernel K sees K neighbours. A second one on top: how many words does each "
        "further layer add, and how far apart are the words on which its neighbours stand?",
        "Keep two numbers: field = 1 and step = 1, the distance between neighbours. A layer adds "
        "(kernel - 1) times dilation times step; what is above it stands stride times as far "
        "apart.",
        "for kernel, stride, dilation in layers: field += (kernel - 1) * dilation * step; "
        "then step *= stride.",
    ),
    forbidden=("backward", "grad", "conv1d"),
    examine=function_exam(span, field_cases, mistakes=FIELD_MISTAKES, returns="the field"),
)


# what both backward passes share


def other_sign(grads: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: -grad for name, grad in grads.items()}


OPPOSITE = (
    "All your gradients have the opposite sign: a gradient points uphill, and minus comes with "
    "the step, not here"
)
NUDGED = (
    "Your gradients are nearly right, but not exact: either you measure them by nudging (use the "
    f"formula), or {FLOAT32}"
)


def explain_gradients(
    make: Callable[..., Callable], faults: Sequence[Fault], tips: Mapping[str, str]
) -> Callable[[tuple, object, dict[str, Tensor]], str | None]:
    """Return an `explain` that names the mistake by the first wrong gradient, or says which of
    them are right. tips: name -> how its gradient is made, in the order of their making."""

    def explain(args: tuple, actual: object, expected: dict[str, Tensor]) -> str | None:
        if not isinstance(actual, dict) or actual.keys() != expected.keys():
            return None
        wrong = [name for name in tips if mismatch(actual[name], expected[name])]
        if all(near(actual[name], expected[name]) for name in wrong):
            return NUDGED
        if all(alike(actual[name], expected[name]) and not actual[name].any() for name in tips):
            return "All your gradients are zero: nothing walked back"
        for part in (None, wrong[0]):
            if message := named_part(part, args, actual, twins(make, faults)):
                return message
        if message := named_part(None, args, actual, double_twins(make, faults)):
            return message
        if not all(alike(actual[name], expected[name]) for name in wrong):
            return None  # its shape or type says more
        if right := [name for name in tips if name not in wrong]:
            return (
                f"Right: the gradient of {', '.join(right)}. Wrong: {', '.join(wrong)}. "
                f"For {wrong[0]}: {tips[wrong[0]]}"
            )
        return None

    return explain


# conv1d_backward


def conv_cases(generator: Generator) -> Iterator[Case]:
    def case(label, blame, b, length, d, o, k, dtype=torch.float32, loud=1.0):
        def draw(*shape: int) -> Tensor:
            return normal(generator, *shape, dtype=dtype)

        grad = draw(b, length - k + 1, o)
        grad[:, 0] *= loud
        return Case(label, (draw(b, length, d), draw(o, d, k), draw(o), grad), blame)

    yield case("one window", "", 1, 3, 2, 2, 3)
    yield case("four windows", "you lose what a word gets from its other windows, or a weight's "
               "gradient is not summed over the windows", 1, 5, 2, 2, 2)
    yield case("two sentences", "you do not sum the gradients of weight and bias over the "
               "sentences", 2, 5, 3, 2, 3)
    yield case("a window of one word", "you squeeze a dimension of size 1, or take it for granted "
               "that windows overlap", 2, 3, 2, 4, 1)
    yield case("a window as wide as the sentence", "you take for granted that there are several "
               "windows", 3, 4, 2, 3, 4)
    yield case("a long sentence", "you stop after a few windows", 2, 12, 2, 3, 3)
    yield case("float64", FLOAT32, 2, 5, 3, 2, 3, torch.float64)
    yield case("a loud window beside quiet ones", "you measure the gradients by nudging: use the "
               "formula, which is exact", 2, 6, 2, 3, 2, torch.float64, 1e4)


def conv_gradients(x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor) -> dict[str, Tensor]:
    """Return the gradients by torch's convolution and autograd."""
    named = {"x": x, "weight": weight, "bias": bias}
    leaves = {name: value.detach().clone().requires_grad_() for name, value in named.items()}
    output = F.conv1d(leaves["x"].mT, leaves["weight"], leaves["bias"]).mT  # (B, P, O)
    return dict(zip(leaves, torch.autograd.grad(output, [*leaves.values()], grad)))


def put_back(pieces: Tensor, shape: Sequence[int], shift: int = 0) -> Tensor:
    """Add the gradient of every window, (B, P, D, K), to the words where it was cut."""
    result, count = pieces.new_zeros(shape), pieces.size(1)
    for k in range(pieces.size(3)):
        result[:, k : k + count] += pieces[..., k]
    return result.roll(shift, 1)


def last_wins(pieces: Tensor, shape: Sequence[int]) -> Tensor:
    result, count = pieces.new_zeros(shape), pieces.size(1)
    for k in range(pieces.size(3)):
        result[:, k : k + count] = pieces[..., k]
    return result


def last_window_wins(pieces: Tensor, shape: Sequence[int]) -> Tensor:
    result = pieces.new_zeros(shape)
    for p in range(pieces.size(1)):
        result[:, p : p + pieces.size(3)] = pieces[:, p].mT
    return result


def averaged(pieces: Tensor, shape: Sequence[int]) -> Tensor:
    return put_back(pieces, shape) / put_back(torch.ones_like(pieces), shape)


def only_places(pieces: Tensor, *places: int) -> Tensor:
    kept = torch.zeros_like(pieces)
    for k in places:
        kept[..., k] = pieces[..., k]
    return kept


def conv_twin(
    scale=lambda grad: 1, pieces=lambda s: torch.einsum("bpo,odk->bpdk", s.grad, s.weight),
    place=put_back, **parts,
) -> Callable[..., dict[str, Tensor]]:
    """Return a backward pass by hand, with one step replaced.

    pieces: the gradient of every window (B, P, D, K); place: how the words collect it; parts: a
    gradient's name -> how it is made.
    """

    def backward(x, weight, bias, grad):
        s = SimpleNamespace(x=x, weight=weight, grad=grad * scale(grad))
        s.windows = x.unfold(1, weight.size(2), 1)  # (B, P, D, K)
        made = {
            "x": lambda s: place(pieces(s), s.x.shape),
            "weight": lambda s: torch.einsum("bpo,bpdk->odk", s.grad, s.windows),
            "bias": lambda s: s.grad.sum((0, 1)),
        } | parts
        return {name: make(s) for name, make in made.items()}

    return backward


def windows_of(s: SimpleNamespace, p: slice, b: slice = slice(None)) -> Tensor:
    return torch.einsum("bpo,bpdk->odk", s.grad[b, p], s.windows[b, p])


MET = (
    "A word stands in up to K windows, and each sends it a gradient: add them (+=), you keep the "
    "last one"
)
CONV_FAULTS: list[Fault] = [
    (MET, {"place": last_wins}),
    (MET, {"place": last_window_wins}),
    ("You average what a word gets from its windows: gradients that meet are added",
     {"place": averaged}),
    ("You send back through a kernel that is turned round: place k of a window met weight[..., k] "
     "on the way forward, and meets it on the way back",
     {"pieces": lambda s: torch.einsum("bpo,odk->bpdk", s.grad, s.weight.flip(2))}),
    ("Only the first place of each window gets a gradient: all K places made the output",
     {"pieces": lambda s: only_places(torch.einsum("bpo,odk->bpdk", s.grad, s.weight), 0)}),
    ("Only the last place of each window gets a gradient: all K places made the output",
     {"pieces": lambda s: only_places(torch.einsum("bpo,odk->bpdk", s.grad, s.weight), -1)}),
    ("Your gradient of x stands one word too far to the right: window p begins with word p",
     {"place": lambda pieces, shape: put_back(pieces, shape, 1)}),
    ("Your gradient of x stands one word too far to the left: window p begins with word p",
     {"place": lambda pieces, shape: put_back(pieces, shape, -1)}),
    ("You send back through the weight without transposing it: forward sums over D, so back sums "
     "over O", {"pieces": lambda s: torch.einsum("bpo,dok->bpdk", s.grad, s.weight)}),
    ("Your gradient of x never met the weight: forward is window times weight, so back is gradient "
     "times weight", {"pieces": lambda s: s.grad[..., None].expand(*s.grad.shape,
                                                                   s.weight.size(2))}),
    ("Your gradient of x is that of the windows, (B, P, D, K): add each window's back to the words "
     "where it was cut", {"place": lambda pieces, shape: pieces}),
    ("Your gradient of x is summed over the sentences: each sentence keeps its own",
     {"x": lambda s: put_back(torch.einsum("bpo,odk->bpdk", s.grad, s.weight), s.x.shape).sum(0)}),
    ("Your gradient of the weight is turned round along the kernel: weight[..., k] met word p + k",
     {"weight": lambda s: torch.einsum("bpo,bpdk->odk", s.grad, s.windows).flip(2)}),
    ("Your gradient of the weight takes the same words for every place k: weight[..., k] met "
     "word p + k, so shift x by k",
     {"weight": lambda s: torch.einsum("bpo,bpd->od", s.grad, s.x[:, : s.grad.size(1)])[..., None]
      .expand(s.weight.shape)}),
    ("Your gradient of the weight has its first two axes exchanged: it is (O, D, K), as the weight",
     {"weight": lambda s: torch.einsum("bpo,bpdk->dok", s.grad, s.windows)}),
    ("Your gradient of the weight has its last two axes exchanged: it is (O, D, K), as the weight",
     {"weight": lambda s: torch.einsum("bpo,bpdk->okd", s.grad, s.windows)}),
    ("Your gradient of the weight holds the first window only: all windows share the weight, so "
     "sum over them", {"weight": lambda s: windows_of(s, slice(0, 1))}),
    ("Your gradient of the weight holds the last window only: all windows share the weight, so "
     "sum over them (+=, not =)", {"weight": lambda s: windows_of(s, slice(-1, None))}),
    ("Your gradient of the weight holds the first sentence only: sum over all of them",
     {"weight": lambda s: windows_of(s, slice(None), slice(0, 1))}),
    ("Your gradient of the weight holds the last sentence only: sum over all of them (+=, not =)",
     {"weight": lambda s: windows_of(s, slice(None), slice(-1, None))}),
    ("Your gradient of the weight is not summed over the sentences: all share one weight",
     {"weight": lambda s: torch.einsum("bpo,bpdk->bodk", s.grad, s.windows)}),
    *((f"You average the gradient of the {name} over {what}: gradients that meet are added",
       {name: lambda s, name=name, by=by: (
           torch.einsum("bpo,bpdk->odk", s.grad, s.windows) if name == "weight"
           else s.grad.sum((0, 1))) / by(s.grad)})
      for name in ("weight", "bias")
      for what, by in (("the windows", lambda grad: grad.size(1)),
                       ("the sentences", lambda grad: grad.size(0)),
                       ("sentences and windows", lambda grad: grad[..., 0].numel()))),
    *(("You sum the gradient of the bias over one axis only: it is added in every window of every "
       "sentence, so sum down to (O,)", {"bias": bias})
      for bias in (lambda s: s.grad.sum(0), lambda s: s.grad.sum(1))),
    ("Your gradient of the bias is one number: each of the O outputs has a bias of its own",
     {"bias": lambda s: s.grad.sum()}),
    ("You count the outputs: the bias moves each of them by 1, but each also has its gradient; "
     "sum grad", {"bias": lambda s: torch.full_like(s.grad[0, 0], s.grad[..., 0].numel())}),
    *((f"You divide by {of}: grad is the gradient of the whole loss already", {"scale": scale})
      for of, scale in (("the number of sentences", lambda grad: 1 / grad.size(0)),
                        ("the number of windows", lambda grad: 1 / grad.size(1)))),
    (OPPOSITE, {"scale": lambda grad: -1}),
]

CONV1D_BACKWARD = Exercise(
    name="conv1d_backward",
    assignment="foundations",
    signature="conv1d_backward(x, weight, bias, grad) -> dict with the keys x, weight, bias, each "
    "gradient in the shape of its tensor; x (B, L, D), weight (O, D, K), bias (O,), grad "
    "(B, L - K + 1, O), that of the output; output p sees the words p to p + K - 1: nothing is "
    "padded, the stride is 1, and out[:, p] = bias + the sum over k of x[:, p + k] @ "
    "weight[:, :, k].T",
    what="The way back through a convolution, written by hand, without autograd.",
    why="A convolution is one linear layer, used at every place: its gradient shows both rules of "
    "lesson 01 at once. A weight collects from all places, a word from all windows that saw it.",
    difficulty=3,
    minutes=25,
    hints=(
        "Forget the convolution: fix one k. What is left is a linear layer on x[:, k : k + P], and "
        "you know its three gradients.",
        "P = L - K + 1 windows. For each k: grad @ weight[:, :, k] goes back to the words k to "
        "k + P - 1, and is added there; weight[:, :, k] gets grad times these words, summed over "
        "sentences and windows.",
        "grad_x[:, k : k + P] += grad @ weight[:, :, k]; grad_weight[:, :, k] = "
        "torch.einsum('bpo,bpd->od', grad, x[:, k : k + P]); the bias gets grad.sum((0, 1)).",
    ),
    forbidden=(*AUTOGRAD, "conv1d", "conv_transpose1d", "convolution", "convolution_backward",
               "conv1d_weight", "conv1d_input", "torch.nn.grad."),
    examine=function_exam(
        conv_gradients,
        conv_cases,
        mistakes=twins(conv_twin, CONV_FAULTS),
        returns="the gradients",
        explain=explain_gradients(conv_twin, CONV_FAULTS, {
            "x": "each window sends its gradient times the weight back to its K words; add",
            "weight": "weight[:, :, k] meets word p + k at window p; sum over windows and "
            "sentences",
            "bias": "sum grad over windows and sentences",
        }),
    ),
)


# lstm_backward


def lstm_back_cases(generator: Generator) -> Iterator[Case]:
    def case(label, blame, b, d, h, dtype=torch.float32, loud=1.0):
        shapes = (b, d), (b, h), (b, h), (d, 4 * h), (h, 4 * h), (4 * h,), (b, h), (b, h)
        args = [normal(generator, *shape, dtype=dtype) for shape in shapes]
        for grad in args[6:]:
            grad[0] *= loud
        return Case(label, tuple(args), blame)

    yield case("one sentence, one unit", "", 1, 1, 1)
    yield case("one sentence, three units", "you mix the units, or cut the four blocks wrongly",
               1, 2, 3)
    yield case("three sentences", "you do not sum the gradients of w_x, w_h and b over the "
               "sentences", 3, 2, 2)
    yield case("float64", FLOAT32, 2, 3, 2, torch.float64)
    yield case("a loud sentence beside a quiet one", "you measure the gradients by nudging: use "
               "the formula, which is exact", 2, 2, 3, torch.float64, 1e4)


def lstm_gradients(
    x: Tensor, h: Tensor, c: Tensor, w_x: Tensor, w_h: Tensor, b: Tensor, grad_h: Tensor,
    grad_c: Tensor,
) -> dict[str, Tensor]:
    """Return the gradients by torch's LSTM cell and autograd."""
    named = {"x": x, "h": h, "c": c, "w_x": w_x, "w_h": w_h, "b": b}
    leaves = {name: value.detach().clone().requires_grad_() for name, value in named.items()}
    x, h, c, w_x, w_h, b = leaves.values()
    new = torch.lstm_cell(x, (h, c), w_x.T, w_h.T, b, torch.zeros_like(b))
    return dict(zip(leaves, torch.autograd.grad(new, [*leaves.values()], (grad_h, grad_c))))


def lstm_back_twin(
    order="ifgo", start=lambda s: s, meet=lambda own, shown: own + shown,
    shown=lambda s: s.grad_h * s.o * (1 - s.new.tanh() ** 2),
    at_i=lambda s: s.grad * s.g, at_f=lambda s: s.grad * s.c, at_g=lambda s: s.grad * s.i,
    at_o=lambda s: s.grad_h * s.new.tanh(), slope_i=lambda i: i * (1 - i),
    slope_f=lambda f: f * (1 - f), slope_g=lambda g: 1 - g**2, slope_o=lambda o: o * (1 - o),
    scale=1, **parts,
) -> Callable[..., dict[str, Tensor]]:
    """Return a backward pass by hand, with one step replaced.

    meet: what arrives at the new cell; at_*: what arrives at a gate or the proposal; slope_*: how
    it goes through the bend; parts: a gradient's name -> how it is made.
    """

    def backward(x, h, c, w_x, w_h, b, grad_h, grad_c):
        s = start(SimpleNamespace(x=x, h=h, c=c, w_x=w_x, w_h=w_h, grad_h=scale * grad_h,
                                  grad_c=scale * grad_c))
        cut = dict(zip(order, (x @ w_x + h @ w_h + b).chunk(4, -1)))
        s.i, s.f, s.g, s.o = (cut[n].tanh() if n == "g" else cut[n].sigmoid() for n in "ifgo")
        s.new = s.f * s.c + s.i * s.g
        s.grad = meet(s.grad_c, shown(s))
        at = {"i": at_i(s) * slope_i(s.i), "f": at_f(s) * slope_f(s.f),
              "g": at_g(s) * slope_g(s.g), "o": at_o(s) * slope_o(s.o)}
        s.gates = torch.cat([at[name] for name in order], -1)
        made = {
            "x": lambda s: s.gates @ s.w_x.T,
            "h": lambda s: s.gates @ s.w_h.T,
            "c": lambda s: s.grad * s.f,
            "w_x": lambda s: s.x.T @ s.gates,
            "w_h": lambda s: s.h.T @ s.gates,
            "b": lambda s: s.gates.sum(0),
        } | parts
        return {name: make(s) for name, make in made.items()}

    return backward


def one(a: Tensor) -> float:
    return 1.0


LSTM_BACK_FAULTS: list[Fault] = [
    ("The new cell is used twice: by the next step (grad_c) and by h = o * tanh(c). You forget "
     "what comes back through h: add grad_h * o * (1 - tanh(c) ** 2)",
     {"meet": lambda own, shown: own}),
    ("The new cell is used twice: by h, and by the next step. You forget the second: add grad_c",
     {"meet": lambda own, shown: shown}),
    ("On the way from h to the cell the slope of tanh is missing: grad_h * o * (1 - tanh(c) ** 2)",
     {"shown": lambda s: s.grad_h * s.o}),
    ("On the way from h to the cell you take the slope at c, 1 - c ** 2: the slope of tanh at c is "
     "1 - tanh(c) ** 2", {"shown": lambda s: s.grad_h * s.o * (1 - s.new**2)}),
    ("On the way from h to the cell the output gate is missing: a product hands on its gradient "
     "times the other factor, grad_h * o * (1 - tanh(c) ** 2)",
     {"shown": lambda s: s.grad_h * (1 - s.new.tanh() ** 2)}),
    ("On the way from h to the cell you take the slope at the old c: h was made of the new one",
     {"shown": lambda s: s.grad_h * s.o * (1 - s.c.tanh() ** 2)}),
    ("The output gate's gradient meets tanh of the new c: you take c itself",
     {"at_o": lambda s: s.grad_h * s.new}),
    ("The output gate's gradient meets tanh of the new c: you take the old one",
     {"at_o": lambda s: s.grad_h * s.c.tanh()}),
    ("The output gate made h, not c: its gradient is grad_h * tanh(c), not that of the cell",
     {"at_o": lambda s: s.grad * s.new.tanh()}),
    ("The forget gate's gradient meets the old cell, which it multiplied: you take the new one",
     {"at_f": lambda s: s.grad * s.new}),
    ("The input gate's gradient meets the proposal g, its other factor: you take the gate itself",
     {"at_i": lambda s: s.grad * s.i}),
    ("The input gate's gradient meets the proposal g, its other factor: you take the old cell",
     {"at_i": lambda s: s.grad * s.c}),
    ("The proposal's gradient meets the input gate i, its other factor: you take g itself",
     {"at_g": lambda s: s.grad * s.g}),
    ("The gates' slopes are missing: behind a sigmoid stands i * (1 - i), and so for f and o",
     {"slope_i": one, "slope_f": one, "slope_o": one}),
    ("No bend has its slope: i, f and o need gate * (1 - gate), the proposal 1 - g ** 2",
     {"slope_i": one, "slope_f": one, "slope_o": one, "slope_g": one}),
    ("1 - x ** 2 is the slope of tanh: the gates i, f and o went through the sigmoid, whose slope "
     "is gate * (1 - gate)", dict.fromkeys(("slope_i", "slope_f", "slope_o"), lambda a: 1 - a**2)),
    ("g * (1 - g) is the slope of the sigmoid: the proposal went through tanh, 1 - g ** 2",
     {"slope_g": lambda g: g * (1 - g)}),
    ("The slope of the proposal's tanh is missing: 1 - g ** 2", {"slope_g": one}),
    ("The slope of tanh is 1 - g ** 2, with the proposal itself: you take tanh once more",
     {"slope_g": lambda g: 1 - g.tanh() ** 2}),
    *((f"The slope of the {gate}'s sigmoid is missing: {n} * (1 - {n})", {f"slope_{n}": one})
      for gate, n in (("input gate", "i"), ("forget gate", "f"), ("output gate", "o"))),
    ("Your gradient of the old cell lacks the forget gate: c was multiplied by f, so its gradient "
     "is that of the new cell times f", {"c": lambda s: s.grad}),
    ("Your gradient of the old cell holds grad_c alone: what came to the new cell through h goes "
     "on to the old one, too", {"c": lambda s: s.grad_c * s.f}),
    ("Your gradient of the old cell holds what came through h alone: grad_c goes on, too",
     {"c": lambda s: (s.grad - s.grad_c) * s.f}),
    ("Your gradient of the old cell meets the input gate: c was multiplied by f",
     {"c": lambda s: s.grad * s.i}),
    ("You give the old h the gradient of the new one: it reaches the old h only through the gates "
     "and w_h", {"h": lambda s: s.grad_h}),
    ("You add grad_h to the gradient of the old h: grad_h belongs to the new one, and reaches the "
     "old one only through the gates", {"h": lambda s: s.gates @ s.w_h.T + s.grad_h}),
    ("Your gradient of the old h is zero: all four blocks were made of it, through w_h",
     {"h": lambda s: torch.zeros_like(s.h)}),
    ("You read the blocks as f, i, g, o: torch's order is i, f, g, o", {"order": "figo"}),
    ("You read the blocks as i, f, o, g: torch's order is i, f, g, o", {"order": "ifog"}),
    ("You go back through w_h without transposing it: forward is h @ w_h, back is grad @ w_h.T",
     {"h": lambda s: s.gates @ s.w_h}),
    *((f"Your gradient of {name} is transposed: {name} multiplies from the right, so it is "
       "input.T @ grad", {name: lambda s, left=left: s.gates.T @ getattr(s, left)})
      for name, left in (("w_x", "x"), ("w_h", "h"))),
    ("Your gradient of w_h meets the new h: the old one was multiplied by w_h",
     {"w_h": lambda s: (s.o * s.new.tanh()).T @ s.gates}),
    ("Your gradient of b is not summed over the sentences: all share one b",
     {"b": lambda s: s.gates}),
    ("Your gradient of b is summed over the units: each has a bias of its own, sum over the "
     "sentences, dim 0", {"b": lambda s: s.gates.sum(-1)}),
    *((f"You average the gradient of {name} over the sentences: gradients that meet are added",
       {name: lambda s, make=make: make(s) / len(s.x)}) for name, make in (
          ("w_x", lambda s: s.x.T @ s.gates), ("w_h", lambda s: s.h.T @ s.gates),
          ("b", lambda s: s.gates.sum(0)))),
    ("You average the gradients of w_x, w_h and b over the sentences: gradients that meet are "
     "added", {"w_x": lambda s: s.x.T @ s.gates / len(s.x),
               "w_h": lambda s: s.h.T @ s.gates / len(s.x), "b": lambda s: s.gates.mean(0)}),
    (OPPOSITE, {"scale": -1}),
]

LSTM_BACKWARD = Exercise(
    name="lstm_backward",
    assignment="foundations",
    signature="lstm_backward(x, h, c, w_x, w_h, b, grad_h, grad_c) -> dict with the keys x, h, c, "
    "w_x, w_h, b, each gradient in the shape of its tensor; the step is lstm_cell's: x (B, D), "
    "h and c (B, H), w_x (D, 4H), w_h (H, 4H), b (4H,), blocks i, f, g, o; grad_h and grad_c "
    "(B, H): the gradients of the new h and the new c, each without what comes through the other",
    what="The way back through one step of an LSTM, written by hand, without autograd.",
    why="Here you see what a gate does to a gradient: along the cell it meets f and nothing else, "
    "no matrix and no bend. That is the way that makes far words learnable.",
    difficulty=4,
    minutes=35,
    hints=(
        "The new c is used twice: by h = o * tanh(c), and by the next step. Add the two first; all "
        "other gradients follow from the sum and from grad_h.",
        "dc = grad_c + grad_h * o * (1 - tanh(c) ** 2). A product hands on its gradient times the "
        "other factor: i gets dc * g, f gets dc * c_old, g gets dc * i, o gets grad_h * tanh(c). "
        "Then each goes through its bend.",
        "gates = torch.cat([dc * g * i * (1 - i), dc * c_old * f * (1 - f), dc * i * (1 - g ** 2), "
        "grad_h * tanh(c) * o * (1 - o)], 1); then x: gates @ w_x.T, w_x: x.T @ gates, and so for "
        "h; b: gates.sum(0); c: dc * f.",
    ),
    forbidden=(*AUTOGRAD, "lstm_cell", "lstm", "_thnn_fused_lstm_cell",
               "_thnn_fused_lstm_cell_backward", "_thnn_differentiable_lstm_cell_backward"),
    examine=function_exam(
        lstm_gradients,
        lstm_back_cases,
        mistakes=twins(lstm_back_twin, LSTM_BACK_FAULTS),
        returns="the gradients",
        explain=explain_gradients(lstm_back_twin, LSTM_BACK_FAULTS, {
            "c": "what arrives at the new cell, times f",
            "b": "the gradients before the four bends, side by side, summed over the sentences",
            "w_x": "x transposed times the gradients before the four bends",
            "w_h": "the old h transposed times the gradients before the four bends",
            "x": "the gradients before the four bends, times w_x transposed",
            "h": "the gradients before the four bends, times w_h transposed",
        }),
    ),
)

EXERCISES = (RECEPTIVE_FIELD, CONV1D_BACKWARD, LSTM_BACKWARD)
