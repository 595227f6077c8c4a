"""More checks of the assignment foundations, against candidates that make learners' mistakes."""

import pytest
import torch
import torch.nn.functional as F
from bank import accepted, rejected

# receptive_field: right


def from_the_bottom(layers):
    field = step = 1
    for kernel, stride, dilation in layers:
        field += (kernel - 1) * dilation * step
        step *= stride
    return field


def by_recursion(layers):
    if not layers:
        return 1
    *below, (kernel, stride, dilation) = layers
    window = (kernel - 1) * dilation + 1  # outputs of the layers below
    step = 1
    for _, below_stride, _ in below:
        step *= below_stride
    return by_recursion(below) + (window - 1) * step


def by_first_and_last(layers):
    """Follow the first and the last word that output 0 sees, from the top down."""
    first = last = 0
    for kernel, stride, dilation in reversed(list(layers)):
        first, last = first * stride, last * stride + (kernel - 1) * dilation
    return last - first + 1


def with_tensors(layers):
    strides = torch.tensor([1, *(stride for _, stride, _ in layers)]).cumprod(0)
    return 1 + sum(int((k - 1) * d * s) for (k, _, d), s in zip(layers, strides))


@pytest.mark.parametrize("right", [from_the_bottom, by_recursion, by_first_and_last, with_tensors])
def test_right_receptive_fields_pass(right):
    accepted("receptive_field", right)


# receptive_field: wrong


def field_with(add, grow=lambda step, stride: step * stride, start=1, before=False, turn=False):
    def candidate(layers):
        field, step = start, 1
        for kernel, stride, dilation in reversed(layers) if turn else layers:
            step = grow(step, stride) if before else step
            field += add(kernel, dilation, step)
            step = step if before else grow(step, stride)
        return field

    return candidate


def plain(kernel, dilation, step):
    return (kernel - 1) * dilation * step


def words_heard(layers):
    heard = {0}
    for kernel, stride, dilation in reversed(layers):
        heard = {place * stride + k * dilation for place in heard for k in range(kernel)}
    return len(heard)


def product(layers):
    field = 1
    for kernel, _, _ in layers:
        field *= kernel
    return field


WRONG_FIELDS = [
    (field_with(plain, grow=lambda step, stride: step), "ignore the strides"),
    (field_with(lambda k, d, step: (k - 1) * step), "ignore the dilation"),
    (field_with(plain, before=True), "own stride does not widen"),
    (field_with(plain, grow=lambda step, stride: step + stride - 1), "Strides multiply"),
    (field_with(plain, turn=True), "begin with the top layer"),
    (field_with(plain, start=0), "begin with 1"),
    (field_with(lambda k, d, step: k * d * step), "adds K - 1"),
    (field_with(lambda k, d, step: (k * d - 1) * step), "spans .K - 1. . dilation"),
    (words_heard, "the holes between count"),
    (product, "does not multiply"),
    (lambda layers: sum(kernel for kernel, _, _ in layers), "adds K - 1"),
    (lambda layers: from_the_bottom(layers[-1:]), "top layer alone"),
    (lambda layers: float(from_the_bottom(layers)) + 0.5, "not what it should be"),
    (lambda layers: from_the_bottom(layers) if layers else 0, "no layer one output is one word"),
]


@pytest.mark.parametrize(("wrong", "why"), WRONG_FIELDS)
def test_wrong_receptive_fields_are_named(wrong, why):
    rejected("receptive_field", wrong, why)


# conv1d_backward: right


def place_by_place(x, weight, bias, grad):
    count = grad.shape[1]
    grad_x, grad_weight = torch.zeros_like(x), torch.zeros_like(weight)
    for k in range(weight.shape[2]):
        grad_x[:, k : k + count] += grad @ weight[:, :, k]
        grad_weight[:, :, k] = torch.einsum("bpo,bpd->od", grad, x[:, k : k + count])
    return {"x": grad_x, "weight": grad_weight, "bias": grad.sum((0, 1))}


def window_by_window(x, weight, bias, grad):
    grads = {"bias": torch.zeros_like(bias), "x": torch.zeros_like(x),
             "weight": torch.zeros_like(weight)}
    for b in range(len(x)):
        for p in range(grad.size(1)):
            window = x[b, p : p + weight.size(2)]  # (K, D)
            grads["x"][b, p : p + weight.size(2)] += torch.einsum("o,odk->kd", grad[b, p], weight)
            grads["weight"] += torch.einsum("o,kd->odk", grad[b, p], window)
            grads["bias"] += grad[b, p]
    return grads


def number_by_number(x, weight, bias, grad):
    """Plain Python on lists: slow, and right."""
    b, length, d = x.shape
    o, _, kernel = weight.shape
    xs, ws, gs = x.tolist(), weight.tolist(), grad.tolist()
    gx = [[[0.0] * d for _ in range(length)] for _ in range(b)]
    gw = [[[0.0] * kernel for _ in range(d)] for _ in range(o)]
    gb = [0.0] * o
    for s in range(b):
        for p in range(length - kernel + 1):
            for out in range(o):
                gb[out] += gs[s][p][out]
                for i in range(d):
                    for k in range(kernel):
                        gx[s][p + k][i] += gs[s][p][out] * ws[out][i][k]
                        gw[out][i][k] += gs[s][p][out] * xs[s][p + k][i]
    return {"x": x.new_tensor(gx), "weight": x.new_tensor(gw), "bias": x.new_tensor(gb)}


def by_padding(x, weight, bias, grad):
    """The gradient of x as a convolution of the padded gradient with the turned kernel."""
    kernel = weight.size(2)
    padded = F.pad(grad, (0, 0, kernel - 1, kernel - 1))
    windows = padded.unfold(1, kernel, 1)  # (B, L, O, K)
    return {
        "x": torch.einsum("blok,odk->bld", windows, weight.flip(2)),
        "weight": torch.einsum("bpo,bpdk->odk", grad, x.unfold(1, kernel, 1)),
        "bias": grad.flatten(0, 1).sum(0),
    }


@pytest.mark.parametrize("right", [place_by_place, window_by_window, number_by_number, by_padding])
def test_right_convolutions_back_pass(right):
    accepted("conv1d_backward", right)


# conv1d_backward: wrong


def changed(right, **changes):
    """Return a right backward pass in which some gradients are made otherwise."""
    def candidate(*args):
        grads = right(*args)
        return grads | {name: change(grads[name], *args) for name, change in changes.items()}

    return candidate


def keeps_the_last(x, weight, bias, grad):
    grads = place_by_place(x, weight, bias, grad)
    for p in range(grad.shape[1]):
        grads["x"][:, p : p + weight.shape[2]] = torch.einsum("bo,odk->bkd", grad[:, p], weight)
    return grads


def turned_kernel(x, weight, bias, grad):
    right = place_by_place(x, weight.flip(2), bias, grad)["x"]
    return place_by_place(x, weight, bias, grad) | {"x": right}


def last_window(x, weight, bias, grad):
    grads = place_by_place(x, weight, bias, grad)
    last = x[:, -weight.shape[2]:]
    return grads | {"weight": torch.einsum("bo,bkd->odk", grad[:, -1], last)}


def with_autograd(x, weight, bias, grad):
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    windows = leaves[0].unfold(1, weight.size(2), 1)
    out = torch.einsum("bpdk,odk->bpo", windows, leaves[1]) + leaves[2]
    return dict(zip(("x", "weight", "bias"), torch.autograd.grad(out, leaves, grad)))


def by_nudging(x, weight, bias, grad):
    def loss(x, weight, bias):
        windows = x.unfold(1, weight.size(2), 1)
        return ((torch.einsum("bpdk,odk->bpo", windows, weight) + bias) * grad).sum()

    grads, values = {}, {"x": x, "weight": weight, "bias": bias}
    for name, value in values.items():
        slope = torch.zeros_like(value)
        for i in range(value.numel()):
            little = torch.zeros_like(value).flatten()
            little[i] = 1e-4
            little = little.view_as(value)
            up, down = (loss(**values | {name: value + s * little}) for s in (1, -1))
            slope.view(-1)[i] = (up - down) / 2e-4
        grads[name] = slope
    return grads


WRONG_CONVOLUTIONS = [
    (keeps_the_last, "keep the last one"),
    (turned_kernel, "kernel that is turned round"),
    (changed(place_by_place, weight=lambda g, *args: g.flip(2)), "turned round along the kernel"),
    (last_window, "last window only"),
    (changed(place_by_place, weight=lambda g, x, *_: g / len(x)), "average the gradient of the"),
    (changed(place_by_place, bias=lambda g, x, w, b, grad: g / grad.size(1)),
     "average the gradient of the bias over the windows"),
    (changed(place_by_place, bias=lambda g, x, w, b, grad: grad.sum(1)), "one axis only"),
    (changed(place_by_place, bias=lambda g, x, w, b, grad: grad.sum()), "one number"),
    (changed(place_by_place, weight=lambda g, *args: g.transpose(0, 1)), "first two axes"),
    (changed(place_by_place, weight=lambda g, *args: g.mT), "last two axes"),
    (changed(place_by_place, x=lambda g, *args: g.roll(1, 1)), "one word too far to the right"),
    (lambda *args: {name: -g for name, g in place_by_place(*args).items()}, "opposite sign"),
    (lambda *args: tuple(place_by_place(*args).values()), "should be a dict"),
    (lambda *args: {name: torch.zeros_like(g) for name, g in place_by_place(*args).items()},
     "nothing walked back"),
    (with_autograd, "ready-made"),
    (by_nudging, "nudging"),
]


@pytest.mark.parametrize(("wrong", "why"), WRONG_CONVOLUTIONS)
def test_wrong_convolutions_back_are_named(wrong, why):
    rejected("conv1d_backward", wrong, why)


# lstm_backward: right


def by_hand(x, h, c, w_x, w_h, b, grad_h, grad_c, **dials):
    i, f, g, o = (x @ w_x + h @ w_h + b).chunk(4, dim=1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    shown = (f * c + i * g).tanh()
    dc = grad_c + grad_h * o * (1 - shown**2)
    gates = torch.cat([dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2),
                       grad_h * shown * o * (1 - o)], dim=1)
    return {"x": gates @ w_x.T, "h": gates @ w_h.T, "c": dc * f, "w_x": x.T @ gates,
            "w_h": h.T @ gates, "b": gates.sum(0)}


def block_by_block(x, h, c, w_x, w_h, b, grad_h, grad_c):
    """Each gate for itself, gradients added as they come."""
    size = h.size(1)
    blocks = [slice(n * size, (n + 1) * size) for n in range(4)]
    i, f, o = (torch.sigmoid(x @ w_x[:, s] + h @ w_h[:, s] + b[s])
               for s in (blocks[0], blocks[1], blocks[3]))
    g = torch.tanh(x @ w_x[:, blocks[2]] + h @ w_h[:, blocks[2]] + b[blocks[2]])
    new = f * c + i * g
    at_c = grad_c + grad_h * o / torch.cosh(new) ** 2
    at = [at_c * g * i * (1 - i), at_c * c * f * (1 - f), at_c * i * (1 - g) * (1 + g),
          grad_h * torch.tanh(new) * o * (1 - o)]
    grads = {"c": at_c * f, "x": 0, "h": 0, "w_x": torch.zeros_like(w_x),
             "w_h": torch.zeros_like(w_h), "b": torch.zeros_like(b)}
    for s, a in zip(blocks, at):
        grads["x"] = grads["x"] + a @ w_x[:, s].T
        grads["h"] = grads["h"] + a @ w_h[:, s].T
        grads["w_x"][:, s] = x.T @ a
        grads["w_h"][:, s] = h.T @ a
        grads["b"][s] = a.sum(0)
    return grads


def sentence_by_sentence(x, h, c, w_x, w_h, b, grad_h, grad_c):
    parts = [by_hand(*(t[n : n + 1] for t in (x, h, c)), w_x, w_h, b,
                     grad_h[n : n + 1], grad_c[n : n + 1]) for n in range(len(x))]
    return {name: torch.cat([part[name] for part in parts]) if name in "xhc"
            else sum(part[name] for part in parts) for name in parts[0]}


@pytest.mark.parametrize("right", [by_hand, block_by_block, sentence_by_sentence])
def test_right_lstms_back_pass(right):
    accepted("lstm_backward", right)


# lstm_backward: wrong


def lstm_with(to_c=None, gates=None, **changes):
    """Return `by_hand` with another way to the cell, other gate gradients, or other parts."""
    def candidate(x, h, c, w_x, w_h, b, grad_h, grad_c):
        i, f, g, o = (x @ w_x + h @ w_h + b).chunk(4, dim=1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        new = f * c + i * g
        shown = new.tanh()
        here = dict(i=i, f=f, g=g, o=o, c=c, new=new, shown=shown, grad_h=grad_h, grad_c=grad_c)
        dc = to_c(**here) if to_c else grad_c + grad_h * o * (1 - shown**2)
        parts = {"i": dc * g * i * (1 - i), "f": dc * c * f * (1 - f), "g": dc * i * (1 - g**2),
                 "o": grad_h * shown * o * (1 - o)}
        parts |= gates(dc=dc, **here) if gates else {}
        all_four = torch.cat([parts[name] for name in "ifgo"], dim=1)
        grads = {"x": all_four @ w_x.T, "h": all_four @ w_h.T, "c": dc * f,
                 "w_x": x.T @ all_four, "w_h": h.T @ all_four, "b": all_four.sum(0)}
        return grads | {name: make(grads[name], dc, here) for name, make in changes.items()}

    return candidate


WRONG_LSTMS = [
    (lstm_with(lambda grad_c, **_: grad_c), "forget what comes back through h"),
    (lstm_with(lambda grad_h, o, shown, **_: grad_h * o * (1 - shown**2)), "add grad_c"),
    (lstm_with(lambda grad_c, grad_h, o, **_: grad_c + grad_h * o), "slope of tanh is missing"),
    (lstm_with(lambda grad_c, grad_h, o, new, **_: grad_c + grad_h * o * (1 - new**2)),
     "slope at c"),
    (lstm_with(lambda grad_c, grad_h, shown, **_: grad_c + grad_h * (1 - shown**2)),
     "output gate is missing"),
    (lstm_with(gates=lambda dc, f, new, **_: {"f": dc * new * f * (1 - f)}), "old cell"),
    (lstm_with(gates=lambda grad_h, new, o, **_: {"o": grad_h * new * o * (1 - o)}),
     "you take c itself"),
    (lstm_with(gates=lambda dc, i, g, c, f, grad_h, shown, **_:
               {"i": dc * g, "f": dc * c, "o": grad_h * shown}), "gates' slopes are missing"),
    (lstm_with(gates=lambda dc, i, g, **_: {"g": dc * i * g * (1 - g)}), "slope of the sigmoid"),
    (lstm_with(gates=lambda dc, i, **_: {"g": dc * i}), "slope of the proposal's tanh is missing"),
    (lstm_with(c=lambda old, dc, here: dc), "lacks the forget gate"),
    (lstm_with(c=lambda old, dc, here: here["grad_c"] * here["f"]), "grad_c alone"),
    (lstm_with(h=lambda old, dc, here: here["grad_h"]), "only through the gates"),
    (lstm_with(b=lambda old, dc, here: old / len(dc)), "average the gradient of b"),
    (lambda *args: {name: -g for name, g in by_hand(*args).items()}, "opposite sign"),
    (lambda *args: {name: g for name, g in by_hand(*args).items() if name != "c"},
     "the key 'c' is missing"),
]


@pytest.mark.parametrize(("wrong", "why"), WRONG_LSTMS)
def test_wrong_lstms_back_are_named(wrong, why):
    rejected("lstm_backward", wrong, why)


def test_ready_made_lstms_are_refused():
    def by_autograd(x, h, c, w_x, w_h, b, grad_h, grad_c):
        named = {"x": x, "h": h, "c": c, "w_x": w_x, "w_h": w_h, "b": b}
        leaves = {name: value.clone().requires_grad_() for name, value in named.items()}
        i, f, g, o = (leaves["x"] @ leaves["w_x"] + leaves["h"] @ leaves["w_h"] + leaves["b"]
                      ).chunk(4, dim=1)
        new = f.sigmoid() * leaves["c"] + i.sigmoid() * g.tanh()
        (o.sigmoid() * new.tanh() * grad_h + new * grad_c).sum().backward()
        return {name: leaf.grad for name, leaf in leaves.items()}

    rejected("lstm_backward", by_autograd, "ready-made")
