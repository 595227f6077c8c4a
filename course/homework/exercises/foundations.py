"""Exercises of the assignment foundations: gradients by hand, and two cells with gates."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace

import torch
from torch import Generator, Tensor

from course.homework.checking import Case, Exercise, function_exam, normal
from course.homework.guard import AUTOGRAD
from course.homework.twins import FLOAT32, Fault, alike, double_twins, named_part, near, twins
from course.homework.values import mismatch

# rnn_backward


def rnn_cases(generator: Generator) -> Iterator[Case]:
    def case(label, blame, b, t, d, h, dtype=torch.float32, loud=1.0):
        def draw(*shape: int) -> Tensor:
            return normal(generator, *shape, dtype=dtype)

        grad_h = draw(b, t, h)
        grad_h[0] *= loud
        args = (draw(b, t, d), draw(b, h), draw(d, h) / 2, draw(h, h) / 2, draw(h) / 2, grad_h)
        return Case(label, args, blame)

    yield case("one word", "", 1, 1, 3, 3)
    yield case("three words", "you lose what comes back from later steps, or a weight's gradient "
               "is not summed over them (x[:, t] is word t)", 1, 3, 2, 3)
    yield case("two sentences", "you do not sum a weight's gradient over the sentences, or you mix "
               "batch and time", 2, 3, 4, 2)
    yield case("as many sentences as words", "you mix batch and time: word t is x[:, t]",
               3, 3, 2, 4)
    yield case("twelve words", "you stop after a few steps: the gradient walks back to the first "
               "word, however far it is", 2, 12, 2, 3)
    yield case("float64", FLOAT32, 2, 3, 2, 3, torch.float64)
    yield case("a loud sentence beside a quiet one", "you measure the gradients by nudging: use "
               "the formula, which is exact", 2, 3, 2, 3, torch.float64, loud=1e4)


def rnn_gradients(
    x: Tensor, h0: Tensor, w_x: Tensor, w_h: Tensor, b: Tensor, grad_h: Tensor
) -> dict[str, Tensor]:
    """Return the gradients by torch's RNN and autograd."""
    named = {"x": x, "h0": h0, "w_x": w_x, "w_h": w_h, "b": b}
    leaves = {name: value.detach().clone().requires_grad_() for name, value in named.items()}
    weights = [leaves["w_x"].T, leaves["w_h"].T, leaves["b"], torch.zeros_like(b)]
    states, _ = torch.rnn_tanh(
        leaves["x"], leaves["h0"][None], weights, True, 1, 0.0, False, False, True
    )
    return dict(zip(leaves, torch.autograd.grad(states, [*leaves.values()], grad_h)))


def rnn_twin(
    start=lambda h0: h0, bias=1, act=torch.tanh, steps=reversed,
    meet=lambda own, later, last: own + later,
    slope=lambda h, previous, a: 1 - h**2, bend=lambda own, later, slope: (own + later) * slope,
    back=lambda ds, total, own, w_h: ds @ w_h.T, scale=lambda grad_h: 1, **parts,
):
    """Return a backward pass by hand, with one step replaced.

    meet: what arrives at h_t; bend: what arrives at the pre-activation a_t; back: what goes on to
    h_{t-1}; parts: a gradient's name -> how it is made of all these.
    """

    def backward(x, h0, w_x, w_h, b, grad_h):
        states, pre = [start(h0)], []
        for x_t in x.unbind(1):
            pre.append(x_t @ w_x + states[-1] @ w_h + bias * b)
            states.append(act(pre[-1]))
        length, later = x.size(1), torch.zeros_like(h0)
        total, ds = [later] * length, [later] * length
        for t in steps(range(length)):
            own = grad_h[:, t] * scale(grad_h)
            slope_t = slope(states[t + 1], states[t], pre[t])
            total[t] = meet(own, later, t == length - 1)
            ds[t] = bend(own, total[t] - own, slope_t)
            later = back(ds[t], total[t], own * slope_t, w_h)
        s = SimpleNamespace(
            x=x, h0=h0, w_x=w_x, w_h=w_h, ds=torch.stack(ds, 1), total=torch.stack(total, 1),
            h=torch.stack(states[1:], 1), previous=torch.stack(states[:-1], 1), later=later,
            grad_h=grad_h,
        )
        made = {
            "x": lambda s: s.ds @ s.w_x.T,
            "h0": lambda s: s.later,
            "w_x": lambda s: outer(s.x, s.ds),
            "w_h": lambda s: outer(s.previous, s.ds),
            "b": lambda s: s.ds.sum((0, 1)),
        } | parts
        return {name: make(s) for name, make in made.items()}

    return backward


def outer(x: Tensor, ds: Tensor) -> Tensor:
    return torch.einsum("btd,bth->dh", x, ds)


def without_h0(s: SimpleNamespace) -> Tensor:
    return torch.cat([torch.zeros_like(s.h0)[:, None], s.previous[:, 1:]], 1)


SLOPE_AT_A = (
    "You take the slope at the pre-activation a, 1 - a ** 2, or you forget tanh on the way "
    "forward: h_t = tanh(a), and the slope of tanh at a is 1 - tanh(a) ** 2, which is 1 - h_t ** 2"
)
NO_TANH_BACK = (
    "What you send back from h_t to the state before it (h0, at the end) has not passed the tanh: "
    "multiply by 1 - h_t ** 2 first, then by w_h transposed"
)
NO_W_H_BACK = (
    "What you send back from a step to the state before it (h0, at the end) has not passed w_h: "
    "forward is h @ w_h, back is grad @ w_h.T"
)
NOT_TRANSPOSED_BACK = (
    "You walk back through w_h without transposing it: forward is h @ w_h, back is grad @ w_h.T"
)
# what arrives at the pre-activations: wrong in all five gradients
RNN_SHARED: list[Fault] = [
    ("You forget the gradient that comes back from the later steps: h_t also makes h_{t+1}, so "
     "what returns from there is added to grad_h[:, t]",
     {"meet": lambda own, later, last: own}),
    ("You take grad_h of the last step alone: every h_t has a gradient of its own, which is added "
     "when you come to it", {"meet": lambda own, later, last: own if last else later}),
    ("The slope of tanh is missing: the gradient at the pre-activation is that of h_t times "
     "(1 - h_t ** 2)", {"slope": lambda h, previous, a: 1}),
    (SLOPE_AT_A, {"slope": lambda h, previous, a: 1 - a**2}),
    ("You apply tanh once more to h_t: h_t is tanh(a) already, its slope is 1 - h_t ** 2",
     {"slope": lambda h, previous, a: 1 - h.tanh() ** 2}),
    ("The slope of tanh is 1 - h_t ** 2: you forgot the square",
     {"slope": lambda h, previous, a: 1 - h}),
    ("h (1 - h) is the slope of the sigmoid: that of tanh is 1 - h_t ** 2",
     {"slope": lambda h, previous, a: h * (1 - h)}),
    ("The slope of tanh is 1 - h_t ** 2: your sign is turned",
     {"slope": lambda h, previous, a: 1 + h**2}),
    ("The slope of tanh is 1 - h_t ** 2: you multiply by h_t ** 2 itself",
     {"slope": lambda h, previous, a: h**2}),
    ("The slope of tanh is 1 - h_t ** 2: you multiply by tanh itself",
     {"slope": lambda h, previous, a: h}),
    ("You take the slope at h_{t-1}: step t made h_t, so its slope is 1 - h_t ** 2 (is your list "
     "of states shifted by one, with h0 in front?)",
     {"slope": lambda h, previous, a: 1 - previous**2}),
    ("You stop after one step back: what you send from h_t to h_{t-1} must hold everything that "
     "arrived at h_t, not only grad_h[:, t]", {"back": lambda ds, total, own, w_h: own @ w_h.T}),
    (NO_TANH_BACK, {"back": lambda ds, total, own, w_h: total @ w_h.T}),
    ("You add what comes back after the slope of tanh: both gradients arrive at h_t, so add first, "
     "then multiply by 1 - h_t ** 2", {"bend": lambda own, later, slope: own * slope + later}),
    (NOT_TRANSPOSED_BACK, {"back": lambda ds, total, own, w_h: ds @ w_h}),
    (NO_W_H_BACK, {"back": lambda ds, total, own, w_h: ds}),
    ("Your loop runs forward in time: the gradient comes from the later steps, so begin with the "
     "last word", {"steps": iter}),
    ("You forget h0 on the way forward: the first step starts from h0, not from zeros",
     {"start": torch.zeros_like}),
    ("You forget b on the way forward: without it the states, and so the slopes, are others",
     {"bias": 0}),
    (SLOPE_AT_A, {"act": lambda a: a}),
    ("You bend with the sigmoid on the way forward: h_t = tanh(x_t @ w_x + h_{t-1} @ w_h + b)",
     {"act": torch.sigmoid}),
    ("You have built a network of sigmoids: h_t = tanh(...), whose slope is 1 - h_t ** 2",
     {"act": torch.sigmoid, "slope": lambda h, previous, a: h * (1 - h)}),
    ("All your gradients have the opposite sign: a gradient points uphill, and minus comes "
     "with the step, not here", {"scale": lambda grad_h: -1}),
    *((f"You divide by {of}: grad_h is the gradient of the whole loss already, so gradients that "
       "meet are added, not averaged", {"scale": scale}) for of, scale in (
          ("the number of sentences", lambda grad_h: 1 / grad_h.size(0)),
          ("the number of words", lambda grad_h: 1 / grad_h.size(1)),
          ("the number of sentences and words", lambda grad_h: 1 / grad_h[..., 0].numel()))),
]


def weight_faults(name: str, left: Callable[[SimpleNamespace], Tensor]) -> list[Fault]:
    """Return what goes wrong with w_x and w_h, whose gradient is `left` times that at a_t."""
    return [
        (f"Your gradient of {name} is transposed: {name} multiplies from the right, so it is "
         "input.T @ grad, in the shape of the weight",
         {name: lambda s: outer(left(s), s.ds).T}),
        (f"Your gradient of {name} skips the slope of tanh: it meets the gradient at the "
         "pre-activation", {name: lambda s: outer(left(s), s.total)}),
        (f"Your gradient of {name} is not summed over the sentences: all share one weight, so "
         "their gradients are added", {name: lambda s: left(s).mT @ s.ds}),
        (f"Your gradient of {name} is not summed over the words: every step uses the same weight, "
         "so their gradients are added",
         {name: lambda s: torch.einsum("btd,bth->tdh", left(s), s.ds)}),
    ]


def shared_over_steps(names: Sequence[str]) -> list[Fault]:
    """Return what goes wrong with the sum over steps and sentences, in one weight or in all."""
    made = {"w_x": lambda s: s.x, "w_h": lambda s: s.previous,
            "b": lambda s: torch.ones_like(s.x[..., :1])}

    def with_ds(change: Callable[[Tensor], Tensor]) -> dict[str, object]:
        def dial(name):
            flat = (lambda g: g[0]) if name == "b" else (lambda g: g)
            return lambda s: flat(outer(made[name](s), change(s.ds)))

        return {name: dial(name) for name in names}

    def only(place: int) -> Callable[[Tensor], Tensor]:
        return lambda ds: torch.zeros_like(ds).index_copy(1, torch.tensor([place % ds.size(1)]),
                                                          ds[:, [place]])

    whose = "the weights" if len(names) > 1 else names[0]
    return [
        (f"You keep the gradient of {whose} from one step only, the first word's: every step uses "
         "the same weight, so add them up (+=, not =)", with_ds(only(0))),
        (f"You keep the gradient of {whose} from one step only, the last word's: every step uses "
         "the same weight, so add them up (+=, not =)", with_ds(only(-1))),
        (f"You average the gradient of {whose} over the sentences: gradients that meet are added, "
         "so take the sum, not the mean", with_ds(lambda ds: ds / ds.size(0))),
        (f"You average the gradient of {whose} over the words: gradients that meet are added, so "
         "take the sum, not the mean", with_ds(lambda ds: ds / ds.size(1))),
        (f"You average the gradient of {whose} over sentences and words: gradients that meet are "
         "added, so take the sum, not the mean", with_ds(lambda ds: ds / ds[..., 0].numel())),
        (f"Your gradient of {whose} holds the first sentence only: sum over all of them",
         with_ds(lambda ds: torch.cat([ds[:1], torch.zeros_like(ds[1:])]))),
    ]


ONE_BIAS = (
    "You sum the gradient of b over one dimension only: b is added in every sentence and at every "
    "step, so sum over both, down to (H,)"
)
# how the five gradients are made of that
RNN_PARTS: list[Fault] = [
    ("Your gradient of x goes through w_x without transposing it: forward is x @ w_x, back is "
     "grad @ w_x.T", {"x": lambda s: s.ds @ s.w_x}),
    ("Your gradient of x stops at the pre-activation: go on through w_x, grad @ w_x.T",
     {"x": lambda s: s.ds}),
    ("Your gradient of x skips the slope of tanh: multiply by 1 - h_t ** 2 before w_x.T",
     {"x": lambda s: s.total @ s.w_x.T}),
    ("Your gradients of x stand in reverse order: you collect them from the last word to the "
     "first, so turn the list round before you stack it",
     {"x": lambda s: (s.ds @ s.w_x.T).flip(1)}),
    ("Your gradient of h0 is zero: h0 makes h_1 through w_h, so what flows out of the first step "
     "is its gradient", {"h0": lambda s: torch.zeros_like(s.h0)}),
    (NO_W_H_BACK, {"h0": lambda s: s.ds[:, 0]}),
    ("You give h0 the gradient of h_1: go one step further, through the tanh and w_h.T",
     {"h0": lambda s: s.total[:, 0]}),
    (NO_TANH_BACK, {"h0": lambda s: s.total[:, 0] @ s.w_h.T}),
    ("You add grad_h[:, 0] to the gradient of h0: it belongs to h_1, the state after the first "
     "word", {"h0": lambda s: s.later + s.grad_h[:, 0]}),
    (NOT_TRANSPOSED_BACK, {"h0": lambda s: s.ds[:, 0] @ s.w_h}),
    ("Your gradient of h0 is summed over the sentences: each sentence has an h0 of its own",
     {"h0": lambda s: s.later.sum(0)}),
    ("Your gradient of h0 is summed over all steps: only the first step uses h0, the others pass "
     "theirs back to it", {"h0": lambda s: (s.ds @ s.w_h.T).sum(1)}),
    ("Your gradient of h0 comes from the last word: h0 is used by the first step",
     {"h0": lambda s: s.ds[:, -1] @ s.w_h.T}),
    ("Your gradient of w_h meets h_t: forward is h_{t-1} @ w_h, so step t meets the state before "
     "it, h_{t-1}", {"w_h": lambda s: outer(s.h, s.ds)}),
    ("Your gradient of w_h leaves the first step out, or starts from zeros there: the state before "
     "the first word is h0", {"w_h": lambda s: outer(without_h0(s), s.ds)}),
    ("Your gradient of w_x meets the old state: forward is x_t @ w_x, so step t meets x_t",
     {"w_x": lambda s: outer(s.previous, s.ds)}),
    ("Your gradient of w_h meets x_t: forward is h_{t-1} @ w_h, so step t meets h_{t-1}",
     {"w_h": lambda s: outer(s.x, s.ds)}),
    *weight_faults("w_x", lambda s: s.x),
    *weight_faults("w_h", lambda s: s.previous),
    *((ONE_BIAS, {"b": b}) for b in (lambda s: s.ds.sum(1), lambda s: s.ds.sum(0),
                                     lambda s: s.ds.sum(1, keepdim=True))),
    ("Your gradient of b skips the slope of tanh: b is added before it",
     {"b": lambda s: s.total.sum((0, 1))}),
    ("Your gradient of b is not summed at all: b is added in every sentence and at every step",
     {"b": lambda s: s.ds}),
    *shared_over_steps(("w_x", "w_h", "b")),
    *(fault for name in ("w_x", "w_h", "b") for fault in shared_over_steps((name,))),
]

RNN_TIPS = {
    "x": "word t gets the gradient at its pre-activation, times w_x transposed",
    "h0": "it is what flows out of the first step: the gradient at its pre-activation, times w_h "
    "transposed",
    "w_x": "at each step x_t meets the gradient at the pre-activation; sum over steps and "
    "sentences",
    "w_h": "at each step h_{t-1} (h0 at the first) meets the gradient at the pre-activation; sum "
    "over steps and sentences",
    "b": "sum the gradients at the pre-activations over steps and sentences",
}


def explain_rnn(args: tuple, actual: object, expected: dict[str, Tensor]) -> str | None:
    """Name the mistake by the first wrong gradient, or say which of the five are right."""
    if not isinstance(actual, dict) or actual.keys() != expected.keys():
        return None
    wrong = [name for name in expected if mismatch(actual[name], expected[name])]
    if all(near(actual[name], expected[name]) for name in wrong):
        return (
            "Your gradients are nearly right, but not exact: either you measure them by nudging "
            f"(use the formula), or {FLOAT32}"
        )
    if all(alike(actual[name], expected[name]) and not actual[name].any() for name in expected):
        return (
            "All your gradients are zero: nothing walked back. Does your loop reach every step? "
            "range(T - 1, -1, -1) holds the last and the first"
        )
    if message := named_part(wrong[0], args, actual, twins(rnn_twin, RNN_SHARED + RNN_PARTS)):
        return message
    short = args[0].size(1) < 5  # two mistakes at once have shown before the long sentence
    if short and (
        message := named_part(wrong[0], args, actual, double_twins(rnn_twin, RNN_SHARED))
    ):
        return message
    if not all(alike(actual[name], expected[name]) for name in wrong):
        return None  # its shape or type says more
    right = [name for name in expected if name not in wrong]
    if right:
        return (
            f"Right: the gradient of {', '.join(right)}. Wrong: {', '.join(wrong)}. "
            f"For {wrong[0]}: {RNN_TIPS[wrong[0]]}"
        )
    return None


def echo(x, h0, w_x, w_h, b, grad_h):
    return {"x": x, "h0": h0, "w_x": w_x, "w_h": w_h, "b": b}


def from_the_left(x, h0, w_x, w_h, b, grad_h):
    return rnn_twin()(x, h0, w_x.T, w_h.T, b, grad_h)


def from_the_left_and_back(*args):
    grads = from_the_left(*args)
    return grads | {name: grads[name].T for name in ("w_x", "w_h")}


FROM_THE_LEFT = (
    "You transpose the weights on the way forward, as torch's Linear does: here they multiply from "
    "the right, x_t @ w_x + h_{t-1} @ w_h + b, and are transposed on the way back"
)


RNN_BACKWARD = Exercise(
    name="rnn_backward",
    assignment="foundations",
    signature="rnn_backward(x, h0, w_x, w_h, b, grad_h) -> dict with the keys x, h0, w_x, w_h, b, "
    "each gradient in the shape of its tensor; x (B, T, D), h0 (B, H), w_x (D, H), w_h (H, H), "
    "b (H,); weights multiply from the right: h_t = tanh(x_t @ w_x + h_{t-1} @ w_h + b), t = 1 to "
    "T. grad_h (B, T, H) is the gradient of the loss by each h_t as an output, without what "
    "comes back from later steps: that is yours to add",
    what="Backpropagation through time, written by hand, without autograd: run the network forward "
    "once, then walk back from the last word to the first.",
    why="You see with your own eyes why far apart is hard to learn: on each step back the gradient "
    "is multiplied by w_h and by a slope below one. Attention was made to shorten this walk.",
    difficulty=4,
    minutes=40,
    hints=(
        "h_t is used twice: by the loss, and by h_{t+1}. What happens to gradients that meet? And "
        "how often is w_h used?",
        "Forward: keep every state, h0 too. Backward, t from the last to the first: "
        "total = grad_h[:, t] + what came back; da = total * (1 - h_t ** 2). All five come from "
        "da: da @ w_x.T, x_t.T @ da, h_{t-1}.T @ da, da.sum(0), and what goes back.",
        "later = da @ w_h.T; after the loop, later is the gradient of h0. The gradients of w_x, "
        "w_h and b start from zeros_like and grow with += at each step.",
    ),
    forbidden=AUTOGRAD,
    examine=function_exam(
        rnn_gradients,
        rnn_cases,
        mistakes=[
            *twins(rnn_twin, RNN_SHARED + RNN_PARTS),
            (FROM_THE_LEFT, from_the_left),
            (FROM_THE_LEFT, from_the_left_and_back),
            ("You return the inputs themselves: return their gradients", echo),
        ],
        returns="the gradients",
        explain=explain_rnn,
    ),
)


# lstm_cell


def lstm_cases(generator: Generator) -> Iterator[Case]:
    def case(label, blame, b, d, h, dtype=torch.float32):
        shapes = (b, d), (b, h), (b, h), (d, 4 * h), (h, 4 * h), (4 * h,)
        return Case(label, tuple(normal(generator, *s, dtype=dtype) for s in shapes), blame)

    yield case("one sentence", "", 1, 3, 2)
    yield case("three sentences", "you lose the batch dimension, or cut the sentences, not the "
               "features (dim=-1)", 3, 2, 3)
    yield case("one feature, one unit", "you squeeze a dimension of size 1", 2, 1, 1)
    yield case("float64", FLOAT32, 4, 3, 4, torch.float64)


def lstm(x: Tensor, h: Tensor, c: Tensor, w_x: Tensor, w_h: Tensor, b: Tensor) -> tuple:
    """torch's LSTM cell, whose weights stand the other way round, with two biases."""
    return torch.lstm_cell(x, (h, c), w_x.T, w_h.T, b, torch.zeros_like(b))


def interleaved(gates: Tensor, n: int) -> tuple[Tensor, ...]:
    return gates.unflatten(-1, (-1, n)).unbind(-1)


def blocks(gates: Tensor, n: int) -> tuple[Tensor, ...]:
    return gates.chunk(n, -1)


def reshaped(gates: Tensor, n: int) -> tuple[Tensor, ...]:
    return gates.reshape(n, len(gates), -1).unbind(0)


def raw(a: Tensor) -> Tensor:
    return a


def lstm_twin(
    order="ifgo", cut=blocks, linear=lambda x, h, w_x, w_h, b: x @ w_x + h @ w_h + b,
    cell=lambda i, f, g, c: f * c + i * g, shown=lambda o, c, old, g: o * c.tanh(),
    result=lambda h, c: (h, c), **bends,
):
    """Return an LSTM cell with one step replaced; bends: i, f, g, o -> their function."""
    bends = gates_by(Tensor.sigmoid, "ifo") | gates_by(Tensor.tanh, "g") | bends

    def step(x, h, c, w_x, w_h, b):
        gates = dict(zip(order, cut(linear(x, h, w_x, w_h, b), 4)))
        gates = {name: bends[name](a) for name, a in gates.items()}
        new_c = cell(gates["i"], gates["f"], gates["g"], c)
        return result(shown(gates["o"], new_c, c, gates["g"]), new_c)

    return step


def gates_by(function: Callable, names: str) -> dict[str, Callable]:
    return dict.fromkeys(names, function)


CUT_IN_BLOCKS = (
    "You give every {n} neighbouring columns to one unit: the blocks stand side by side, the "
    "first H columns belong to {first}: chunk({n}, dim=-1)"
)
RESHAPED = (
    "You reshape (B, {n}H) to ({n}, B, H): the numbers keep their order in memory, so sentences "
    "and blocks are mixed. Cut along the last dimension: chunk({n}, dim=-1)"
)
LSTM_FAULTS: list[Fault] = [
    ("You exchange input and forget gate: torch's order is i, f, g, o", {"order": "figo"}),
    ("You exchange proposal and output gate: torch's order is i, f, g, o, with the proposal g "
     "third", {"order": "ifog"}),
    (CUT_IN_BLOCKS.format(n=4, first="i"), {"cut": interleaved}),
    (RESHAPED.format(n=4), {"cut": reshaped}),
    ("You forget the bias b", {"linear": lambda x, h, w_x, w_h, b: x @ w_x + h @ w_h}),
    ("You add b twice: torch has two biases, here one b holds their sum",
     {"linear": lambda x, h, w_x, w_h, b: x @ w_x + h @ w_h + 2 * b}),
    ("You ignore the old state h: the gates see x @ w_x + h @ w_h + b",
     {"linear": lambda x, h, w_x, w_h, b: x @ w_x + b}),
    ("You ignore x: the gates see x @ w_x + h @ w_h + b",
     {"linear": lambda x, h, w_x, w_h, b: h @ w_h + b}),
    ("The proposal g goes through tanh, not through the sigmoid: it must be able to be negative",
     gates_by(Tensor.sigmoid, "g")),
    ("The proposal g goes through tanh: you leave it as it is", gates_by(raw, "g")),
    ("You exchange sigmoid and tanh: the gates i, f, o are between 0 and 1 (sigmoid), the proposal "
     "g between -1 and 1 (tanh)", gates_by(Tensor.tanh, "ifo") | gates_by(Tensor.sigmoid, "g")),
    ("A gate is between 0, shut, and 1, open: the gates i, f and o go through the sigmoid, only "
     "the proposal g through tanh", gates_by(Tensor.tanh, "ifo")),
    ("The gates i, f and o go through no sigmoid in your code: a gate is between 0 and 1",
     gates_by(raw, "ifo")),
    ("No sigmoid, no tanh: the gates i, f, o need a sigmoid, the proposal g a tanh",
     gates_by(raw, "ifgo")),
    *((f"The {gate} is between 0 and 1: it goes through the sigmoid", gates_by(function, name))
      for gate, name in (("input gate", "i"), ("forget gate", "f"), ("output gate", "o"))
      for function in (Tensor.tanh, raw)),
    ("You keep the whole old cell: the forget gate f is missing, c = f * c + i * g",
     {"cell": lambda i, f, g, c: c + i * g}),
    ("You drop the old cell: the new one is f * c + i * g",
     {"cell": lambda i, f, g, c: i * g}),
    ("The input gate is missing: c = f * c + i * g", {"cell": lambda i, f, g, c: f * c + g}),
    ("The forget gate is turned: open (1) means keep, so it is f * c, not (1 - f) * c",
     {"cell": lambda i, f, g, c: (1 - f) * c + i * g}),
    ("You write with 1 - f, as a GRU does: the LSTM has an input gate i for that",
     {"cell": lambda i, f, g, c: f * c + (1 - f) * g}),
    ("You put the forget gate on the sum: it acts on the old cell alone, f * c + i * g",
     {"cell": lambda i, f, g, c: f * (c + i * g)}),
    ("You multiply what is kept and what is written: they are added, c = f * c + i * g",
     {"cell": lambda i, f, g, c: f * c * i * g}),
    ("You squash the new cell itself: c stays as it is, only h sees tanh(c)",
     {"cell": lambda i, f, g, c: (f * c + i * g).tanh(), "shown": lambda o, c, old, g: o * c}),
    ("You squash the new cell itself: c stays as it is, only h sees tanh(c)",
     {"cell": lambda i, f, g, c: (f * c + i * g).tanh()}),
    ("You return (c, h): the order is (h, c)", {"result": lambda h, c: (c, h)}),
    ("The tanh of the cell is missing: h = o * tanh(c)", {"shown": lambda o, c, old, g: o * c}),
    ("h is made of the old cell: first make the new c, then h = o * tanh(c)",
     {"shown": lambda o, c, old, g: o * old.tanh()}),
    ("The output gate is missing: h = o * tanh(c)", {"shown": lambda o, c, old, g: c.tanh()}),
    ("The cell goes through tanh, not through the sigmoid: h = o * tanh(c)",
     {"shown": lambda o, c, old, g: o * c.sigmoid()}),
    ("You take tanh of the product: the output gate acts after it, h = o * tanh(c)",
     {"shown": lambda o, c, old, g: (o * c).tanh()}),
    ("h is made of the proposal g: it is made of the new cell, h = o * tanh(c)",
     {"shown": lambda o, c, old, g: o * g.tanh()}),
    ("h is made of the proposal g: it is made of the new cell, h = o * tanh(c)",
     {"shown": lambda o, c, old, g: o * g}),
]
LSTM_ORDERS: list[Fault] = [
    (f"You read the blocks as {', '.join(order)}: torch's order is i, f, g, o", {"order": order})
    for order in map("".join, itertools.permutations("ifgo"))
    if order not in ("ifgo", "figo", "ifog")
]


def explain_lstm(args: tuple, actual: object, expected: tuple) -> str | None:
    """Look at the new cell first: h is made of it."""
    if not isinstance(actual, tuple | list) or len(actual) != 2 or all(map(near, actual, expected)):
        return None
    if mismatch(actual[1], args[2]) is None:
        return "You return the old c: return the new one, f * c + i * g"
    if mismatch(actual[1], expected[1]):
        singles = twins(lstm_twin, LSTM_FAULTS + LSTM_ORDERS)
        return named_part(1, args, actual, singles) or named_part(
            1, args, actual, double_twins(lstm_twin, LSTM_FAULTS)
        )
    if message := named_part(0, args, actual, twins(lstm_twin, LSTM_FAULTS)):
        return message
    if alike(actual[0], expected[0]):
        return "The new c is right, h is not: h = o * tanh(c), with the new c and the fourth gate o"
    return None


LSTM_CELL = Exercise(
    name="lstm_cell",
    assignment="foundations",
    signature="lstm_cell(x, h, c, w_x, w_h, b) -> (h, c), the new ones; x (B, D), h and c (B, H), "
    "w_x (D, 4H), w_h (H, 4H), b (4H,); weights multiply from the right, in four blocks of H "
    "columns, torch's order: input gate i, forget gate f, proposal g, output gate o. One b, where "
    "torch adds two",
    what="One step of an LSTM: three gates and a proposal, the new cell, the new state.",
    why="The cell is carried on by adding, so a gradient can pass many steps unharmed. The "
    "Transformer's residual connections do the same from layer to layer.",
    difficulty=2,
    minutes=15,
    hints=(
        "One sum x @ w_x + h @ w_h + b holds all four blocks, (B, 4H). Which of the four must be "
        "between 0 and 1, and which may be negative?",
        "chunk(4, dim=-1) cuts. i, f, o go through the sigmoid, g through tanh. The new cell keeps "
        "some of the old (f) and writes some of the proposal (i).",
        "c = f * c + i * g; then h = o * torch.tanh(c), with the new c.",
    ),
    forbidden=(
        "lstm_cell", "lstm", "_thnn_fused_lstm_cell", "quantized_lstm_cell", "mkldnn_rnn_layer",
        "quantized_lstm", "_lstm_mps",
    ),
    examine=function_exam(
        lstm,
        lstm_cases,
        mistakes=twins(lstm_twin, LSTM_FAULTS + LSTM_ORDERS),
        returns="(h, c)",
        explain=explain_lstm,
        learns=lambda result: torch.stack(tuple(result)),
    ),
)


# gru_cell


def gru_cases(generator: Generator) -> Iterator[Case]:
    def case(label, blame, b, d, h, dtype=torch.float32):
        shapes = (b, d), (b, h), (d, 3 * h), (h, 3 * h), (3 * h,), (3 * h,)
        return Case(label, tuple(normal(generator, *s, dtype=dtype) for s in shapes), blame)

    yield case("one sentence", "", 1, 3, 2)
    yield case("two sentences", "you lose the batch dimension, or cut the sentences, not the "
               "features (dim=-1)", 2, 2, 3)
    yield case("one feature, one unit", "you squeeze a dimension of size 1", 2, 1, 1)
    yield case("float64", FLOAT32, 4, 3, 4, torch.float64)


def gru(x: Tensor, h: Tensor, w_x: Tensor, w_h: Tensor, b_x: Tensor, b_h: Tensor) -> Tensor:
    """torch's GRU cell, whose weights stand the other way round."""
    return torch.gru_cell(x, h, w_x.T, w_h.T, b_x, b_h)


def gru_twin(
    order="rzn", cut=blocks, biases=lambda b_x, b_h: (b_x, b_h), gate=Tensor.sigmoid,
    bend=Tensor.tanh, proposal=lambda s: s.x_n + s.r * s.h_n,
    mix=lambda z, n, h, r: (1 - z) * n + z * h,
):
    """Return a GRU cell with one step replaced."""

    def step(x, h, w_x, w_h, b_x, b_h):
        b_x, b_h = biases(b_x, b_h)
        from_x = dict(zip(order, cut(x @ w_x + b_x, 3)))
        from_h = dict(zip(order, cut(h @ w_h + b_h, 3)))
        r, z = (gate(from_x[name] + from_h[name]) for name in "rz")
        s = SimpleNamespace(
            x_n=from_x["n"], h_n=from_h["n"], r=r, z=z, h=h,
            weight=lambda: dict(zip(order, cut(w_h, 3)))["n"],
            bias=lambda: dict(zip(order, cut(b_h, 3)))["n"],
        )
        return mix(z, bend(proposal(s)), h, r)

    return step


GRU_FAULTS: list[Fault] = [
    ("You apply the reset gate before the matrix product, as the article of 2014 does: torch "
     "applies it after, n = tanh(x_n + r * (h @ w_hn + b_hn))",
     {"proposal": lambda s: s.x_n + (s.r * s.h) @ s.weight() + s.bias()}),
    ("You leave b_h outside the reset gate's product: in torch it stands inside, "
     "r * (h @ w_hn + b_hn)", {"proposal": lambda s: s.x_n + s.r * (s.h_n - s.bias()) + s.bias()}),
    ("You exchange z and 1 - z: z keeps the old state, h = (1 - z) * n + z * h",
     {"mix": lambda z, n, h, r: z * n + (1 - z) * h}),
    ("You exchange the gates: torch's order is r, z, n, reset before update", {"order": "zrn"}),
    *((f"You read the blocks as {', '.join(order)}: torch's order is r, z, n", {"order": order})
      for order in ("rnz", "znr", "nrz", "nzr")),
    (CUT_IN_BLOCKS.format(n=3, first="r"), {"cut": interleaved}),
    (RESHAPED.format(n=3), {"cut": reshaped}),
    ("You forget b_h: torch's GRU has two biases, b_x beside x @ w_x and b_h beside h @ w_h",
     {"biases": lambda b_x, b_h: (b_x, 0 * b_h)}),
    ("You forget b_x: torch's GRU has two biases, b_x beside x @ w_x and b_h beside h @ w_h",
     {"biases": lambda b_x, b_h: (0 * b_x, b_h)}),
    ("You forget both biases: b_x stands beside x @ w_x, b_h beside h @ w_h",
     {"biases": lambda b_x, b_h: (0 * b_x, 0 * b_h)}),
    ("You exchange the biases: b_x stands beside x @ w_x, b_h beside h @ w_h",
     {"biases": lambda b_x, b_h: (b_h, b_x)}),
    ("You put both biases inside the reset gate's product: b_x stays beside x @ w_x",
     {"biases": lambda b_x, b_h: (0 * b_x, b_x + b_h)}),
    ("b_h is missing in the proposal: it stands inside the reset gate's product, "
     "r * (h @ w_hn + b_hn)", {"proposal": lambda s: s.x_n + s.r * (s.h_n - s.bias())}),
    ("You apply the reset gate before the matrix product, as the article of 2014 does, and leave "
     "b_h out: in torch n = tanh(x_n + r * (h @ w_hn + b_hn))",
     {"proposal": lambda s: s.x_n + (s.r * s.h) @ s.weight()}),
    ("The reset gate is missing: n = tanh(x_n + r * h_n)",
     {"proposal": lambda s: s.x_n + s.h_n}),
    ("You let the reset gate act on x, too: it belongs to the old state alone, "
     "n = tanh(x_n + r * h_n)", {"proposal": lambda s: s.r * (s.x_n + s.h_n)}),
    ("You let the reset gate act on x: it belongs to the old state, n = tanh(x_n + r * h_n)",
     {"proposal": lambda s: s.r * s.x_n + s.h_n}),
    ("You reset with the update gate z: n = tanh(x_n + r * h_n)",
     {"proposal": lambda s: s.x_n + s.z * s.h_n}),
    ("The reset gate is turned: open (1) lets the old state through, r * h_n, not (1 - r) * h_n",
     {"proposal": lambda s: s.x_n + (1 - s.r) * s.h_n}),
    ("The proposal ignores the old state: n = tanh(x_n + r * h_n)",
     {"proposal": lambda s: s.x_n}),
    ("The proposal ignores x: n = tanh(x_n + r * h_n)", {"proposal": lambda s: s.r * s.h_n}),
    ("The proposal n goes through tanh, not through the sigmoid: it must be able to be negative",
     {"bend": Tensor.sigmoid}),
    ("The proposal n goes through tanh: you leave it as it is", {"bend": raw}),
    ("A gate is between 0, shut, and 1, open: r and z go through the sigmoid, only n through tanh",
     {"gate": Tensor.tanh}),
    ("r and z go through no sigmoid in your code: a gate is between 0 and 1", {"gate": raw}),
    ("You exchange sigmoid and tanh: the gates r, z need the sigmoid, the proposal n the tanh",
     {"gate": Tensor.tanh, "bend": Tensor.sigmoid}),
    ("You return the proposal n: the update gate mixes it with the old state, "
     "h = (1 - z) * n + z * h", {"mix": lambda z, n, h, r: n}),
    ("The old state is missing in the sum: h = (1 - z) * n + z * h",
     {"mix": lambda z, n, h, r: (1 - z) * n}),
    ("What is kept and what is written must sum to one: h = (1 - z) * n + z * h, a weighted mean",
     {"mix": lambda z, n, h, r: n + z * h}),
    ("What is kept and what is written must sum to one: h = (1 - z) * n + z * h, a weighted mean",
     {"mix": lambda z, n, h, r: (1 - z) * n + h}),
    ("What is kept and what is written must sum to one: h = (1 - z) * n + z * h, a weighted mean",
     {"mix": lambda z, n, h, r: z * n + h}),
    ("You mix with the reset gate: the update gate z decides what is kept, "
     "h = (1 - z) * n + z * h", {"mix": lambda z, n, h, r: (1 - r) * n + r * h}),
    ("You reset the old state in the mean, too: h = (1 - z) * n + z * h, with h as it came",
     {"mix": lambda z, n, h, r: (1 - z) * n + z * r * h}),
]


def explain_gru(args: tuple, actual: object, expected: Tensor) -> str | None:
    if not alike(actual, expected) or near(actual, expected):
        return None
    return named_part(None, args, actual, double_twins(gru_twin, GRU_FAULTS))


GRU_CELL = Exercise(
    name="gru_cell",
    assignment="foundations",
    signature="gru_cell(x, h, w_x, w_h, b_x, b_h) -> h, the new one; x (B, D), h (B, H), w_x "
    "(D, 3H), w_h (H, 3H), b_x and b_h (3H,); weights multiply from the right, in three blocks of "
    "H columns, torch's order: reset gate r, update gate z, proposal n. torch's equations: the "
    "reset gate acts after the matrix product, and z = 1 keeps the old state",
    what="One step of a GRU: two gates, a proposal, and the weighted mean of old and new.",
    why="It does nearly what the LSTM does with one state less, and it read the sentences of the "
    "first translators with attention. The mean (1 - z) n + z h is the shortcut for its gradient.",
    difficulty=3,
    minutes=15,
    hints=(
        "Why are there two biases here, and one in lstm_cell? Look at where r stands.",
        "Make x @ w_x + b_x and h @ w_h + b_h apart, and cut each into three. For r and z add the "
        "two and take the sigmoid; for n multiply the part of h by r before you add.",
        "n = torch.tanh(x_n + r * h_n), where h_n holds its bias already; "
        "then (1 - z) * n + z * h.",
    ),
    forbidden=("gru_cell", "gru", "_thnn_fused_gru_cell", "quantized_gru_cell", "quantized_gru"),
    examine=function_exam(
        gru,
        gru_cases,
        mistakes=twins(gru_twin, GRU_FAULTS),
        returns="the new h",
        explain=explain_gru,
        learns=lambda h: h,
    ),
)

EXERCISES = (RNN_BACKWARD, LSTM_CELL, GRU_CELL)
