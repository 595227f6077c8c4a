"""The checks of the assignment foundations, against candidates that make learners' mistakes."""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from bank import accepted, rejected
from torch import nn

NAMES = ("x", "h0", "w_x", "w_h", "b")


# rnn_backward: right


def by_loop(x, h0, w_x, w_h, b, grad_h):
    states = [h0]
    for t in range(x.shape[1]):
        states.append(torch.tanh(x[:, t] @ w_x + states[t] @ w_h + b))
    grads = {name: torch.zeros_like(value) for name, value in zip(NAMES, (x, h0, w_x, w_h, b))}
    later = torch.zeros_like(h0)
    for t in reversed(range(x.shape[1])):
        da = (grad_h[:, t] + later) * (1 - states[t + 1] ** 2)
        grads["x"][:, t] = da @ w_x.T
        grads["w_x"] += x[:, t].T @ da
        grads["w_h"] += states[t].T @ da
        grads["b"] += da.sum(0)
        later = da @ w_h.T
    grads["h0"] = later
    return grads


def by_einsum(x, h0, w_x, w_h, b, grad_h):
    """All pre-activation gradients first, the products at once, keys in another order."""
    h, states = h0, []
    with torch.no_grad():
        for x_t in x.unbind(1):
            h = (x_t @ w_x + torch.matmul(h, w_h) + b).tanh()
            states.append(h)
    h = torch.stack([h0, *states], 1)
    da = torch.empty_like(h[:, 1:])
    back = 0
    for t in range(x.size(1) - 1, -1, -1):
        da[:, t] = (grad_h[:, t] + back) / torch.cosh(torch.atanh(h[:, t + 1])).square()
        back = torch.einsum("bh,gh->bg", da[:, t], w_h)
    return {
        "b": torch.einsum("bth->h", da),
        "w_h": torch.einsum("btg,bth->gh", h[:, :-1], da),
        "w_x": x.flatten(0, 1).T @ da.flatten(0, 1),
        "h0": back,
        "x": torch.einsum("bth,dh->btd", da, w_x),
    }


def by_sentence(x, h0, w_x, w_h, b, grad_h):
    """One sentence at a time, by recursion over the words."""

    def walk(words, h, grads):
        if not len(words):
            return torch.zeros_like(h), [], 0, 0, 0
        new = torch.tanh(words[0] @ w_x + h @ w_h + b)
        later, xs, g_x, g_h, g_b = walk(words[1:], new, grads[1:])
        da = (grads[0] + later) * (1 - new * new)
        return (
            w_h @ da, [w_x @ da, *xs], g_x + torch.outer(words[0], da), g_h + torch.outer(h, da),
            g_b + da,
        )

    parts = [walk(*sentence) for sentence in zip(x, h0, grad_h)]
    return dict(
        x=torch.stack([torch.stack(part[1]) for part in parts]),
        h0=torch.stack([part[0] for part in parts]),
        w_x=sum(part[2] for part in parts),
        w_h=sum(part[3] for part in parts),
        b=sum(part[4] for part in parts),
    )


def by_vmap(*args):
    """One sentence under vmap: a tool for batches, not for gradients."""

    def sentence(x, h0, grad_h, w_x, w_h, b):
        return {
            name: value[0] if name in ("x", "h0") else value
            for name, value in by_loop_plain(x[None], h0[None], w_x, w_h, b, grad_h[None]).items()
        }

    x, h0, w_x, w_h, b, grad_h = args
    grads = torch.vmap(sentence, (0, 0, 0, None, None, None))(x, h0, grad_h, w_x, w_h, b)
    return {name: g if name in ("x", "h0") else g.sum(0) for name, g in grads.items()}


def by_loop_plain(x, h0, w_x, w_h, b, grad_h):
    states = [h0]
    for x_t in x.unbind(1):
        states.append(torch.tanh(x_t @ w_x + states[-1] @ w_h + b))
    dx, dw_x, dw_h, db, later = [], 0, 0, 0, 0
    for t in reversed(range(x.size(1))):
        da = (grad_h[:, t] + later) * (1 - states[t + 1].pow(2))
        dx.insert(0, da @ w_x.T)
        dw_x, dw_h, db = dw_x + x[:, t].T @ da, dw_h + states[t].T @ da, db + da.sum(0)
        later = da @ w_h.T
    return {"x": torch.stack(dx, 1), "h0": later, "w_x": dw_x, "w_h": dw_h, "b": db}


def by_torch_forward(x, h0, w_x, w_h, b, grad_h):
    """The way forward is not what is asked: torch's RNN may walk it."""
    net = nn.RNN(*w_x.shape, batch_first=True, dtype=x.dtype)
    with torch.no_grad():
        net.weight_ih_l0.copy_(w_x.T)
        net.weight_hh_l0.copy_(w_h.T)
        net.bias_ih_l0.copy_(b)
        net.bias_hh_l0.zero_()
        h, _ = net(x, h0[None])
    before = torch.cat([h0[:, None], h[:, :-1]], 1)
    da, later = [], torch.zeros_like(h0)
    for t in reversed(range(x.size(1))):
        da.append((grad_h[:, t] + later) * (1 - h[:, t] ** 2))
        later = da[-1] @ w_h.T
    da = torch.stack(da[::-1], 1)
    return {"x": da @ w_x.T, "h0": later, "w_x": (x.mT @ da).sum(0), "w_h": (before.mT @ da).sum(0),
            "b": da.sum((0, 1))}


@pytest.mark.parametrize(
    "style", [by_loop, by_einsum, by_sentence, by_vmap, by_loop_plain, by_torch_forward]
)
def test_rnn_backward_accepts(style):
    accepted("rnn_backward", style)


# rnn_backward: wrong


def rnn_with(misconception, **replaced):
    """A right loop with some lines replaced by eval."""

    def backward(x, h0, w_x, w_h, b, grad_h):
        lines = {
            "first": "h0",
            "a": "x[:, t] @ w_x + states[t] @ w_h + b",
            "act": "torch.tanh(pre[t])",
            "steps": "reversed(range(x.shape[1]))",
            "total": "grad_h[:, t] + later",
            "slope": "1 - states[t + 1] ** 2",
            "da": "total * slope",
            "dx": "da @ w_x.T",
            "dw_x": "grads['w_x'] + x[:, t].T @ da",
            "dw_h": "grads['w_h'] + states[t].T @ da",
            "db": "grads['b'] + da.sum(0)",
            "later": "da @ w_h.T",
            "dh0": "later",
            "result": "grads",
        } | replaced
        s = dict(x=x, h0=h0, w_x=w_x, w_h=w_h, b=b, grad_h=grad_h, torch=torch, n=x.shape[1])
        s["states"], s["pre"] = [eval(lines["first"], s)], []
        for t in range(x.shape[1]):
            s["t"] = t
            s["pre"].append(eval(lines["a"], s))
            s["states"].append(eval(lines["act"], s))
        s["grads"] = {name: torch.zeros_like(s[name]) for name in NAMES}
        s["later"] = torch.zeros_like(h0)
        for t in eval(lines["steps"], s):
            s["t"] = t
            for name in ("total", "slope", "da"):
                s[name] = eval(lines[name], s)
            s["grads"]["x"][:, t] = eval(lines["dx"], s)
            for name in ("w_x", "w_h", "b"):
                s["grads"][name] = eval(lines[f"d{name}"], s)
            s["later"] = eval(lines["later"], s)
        s["grads"]["h0"] = eval(lines["dh0"], s)
        return eval(lines["result"], s)

    return backward, misconception


def nudging(dtype, little):
    """Measure each gradient by two walks forward."""

    def backward(*args):
        *inputs, grad_h = (value.to(dtype) for value in args)
        grads = {}
        for place, name in enumerate(NAMES):
            grads[name] = torch.zeros_like(inputs[place])
            for i in range(inputs[place].numel()):
                sides = []
                for sign in (1, -1):
                    moved = [value.clone() for value in inputs]
                    moved[place].view(-1)[i] += sign * little
                    sides.append((forward(*moved) * grad_h).sum())
                grads[name].view(-1)[i] = (sides[0] - sides[1]) / (2 * little)
        return {name: grad.to(args[0].dtype) for name, grad in grads.items()}

    return backward


def through_float32(*args):
    grads = by_loop(*(value.float() for value in args))
    return {name: grad.to(args[0].dtype) for name, grad in grads.items()}


def float32_buffer(x, *others):
    grads = by_loop(x, *others)
    return grads | {"x": torch.zeros(x.shape).copy_(grads["x"])}


def in_place(x, h0, w_x, w_h, b, grad_h):
    states = [h0]
    for x_t in x.unbind(1):
        states.append(torch.tanh(x_t @ w_x + states[-1] @ w_h + b))
    dx, dw_x, dw_h, db = [], 0, 0, 0
    for t in reversed(range(x.size(1))):
        grad_h[:, t] *= 1 - states[t + 1] ** 2
        da = grad_h[:, t]
        dx.insert(0, da @ w_x.T)
        dw_x, dw_h, db = dw_x + x[:, t].T @ da, dw_h + states[t].T @ da, db + da.sum(0)
        later = da @ w_h.T
        if t:
            grad_h[:, t - 1] += later
    return {"x": torch.stack(dx, 1), "h0": later, "w_x": dw_x, "w_h": dw_h, "b": db}


def time_first(x, h0, w_x, w_h, b, grad_h):
    states = [h0]
    for x_t in x:
        states.append(torch.tanh(x_t @ w_x + states[-1] @ w_h + b))
    dx, dw_x, dw_h, db, later = [], 0, 0, 0, 0
    for t in reversed(range(len(x))):
        da = (grad_h[t] + later) * (1 - states[t + 1] ** 2)
        dx.insert(0, da @ w_x.T)
        dw_x, dw_h, db = dw_x + x[t].T @ da, dw_h + states[t].T @ da, db + da.sum(0)
        later = da @ w_h.T
    return {"x": torch.stack(dx), "h0": later, "w_x": dw_x, "w_h": dw_h, "b": db}


def from_the_left(x, h0, w_x, w_h, b, grad_h):
    grads = by_loop(x, h0, w_x.T, w_h.T, b, grad_h)
    return grads | {"w_x": grads["w_x"].T, "w_h": grads["w_h"].T}


def truncated(steps):
    """What comes back is dropped every few steps."""
    return f"(da @ w_h.T) * ((n - t) % {steps} != 0)"


RNN_WRONG = {
    "no later steps": rnn_with("forget the gradient that comes back", total="grad_h[:, t]"),
    "last step alone": rnn_with("grad_h of the last step alone",
                                total="grad_h[:, t] if t == n - 1 else later"),
    "no slope": rnn_with("slope of tanh is missing", slope="1"),
    "slope at a": rnn_with("slope at the pre-activation", slope="1 - pre[t] ** 2"),
    "tanh twice": rnn_with("tanh once more", slope="1 - torch.tanh(states[t + 1]) ** 2"),
    "slope without square": rnn_with("forgot the square", slope="1 - states[t + 1]"),
    "slope of the sigmoid": rnn_with("slope of the sigmoid",
                                     slope="states[t + 1] * (1 - states[t + 1])"),
    "slope of h_{t-1}": rnn_with(r"slope at h_\{t-1\}", slope="1 - states[t] ** 2"),
    "slope with plus": rnn_with("sign is turned", slope="1 + states[t + 1] ** 2"),
    "one step back": rnn_with("stop after one step", later="(grad_h[:, t] * slope) @ w_h.T"),
    "back without slope": rnn_with("has not passed the tanh", later="total @ w_h.T"),
    "added after the slope": rnn_with("after the slope", da="grad_h[:, t] * slope + later"),
    "w_h not transposed": rnn_with("w_h without transposing", later="da @ w_h"),
    "no w_h": rnn_with("has not passed w_h", later="da"),
    "forward in time": rnn_with("runs forward in time", steps="range(n)"),
    "h0 forgotten": rnn_with("forget h0 on the way forward", first="torch.zeros_like(h0)"),
    "b forgotten": rnn_with("forget b on the way forward",
                            a="x[:, t] @ w_x + states[t] @ w_h"),
    "sign": rnn_with("opposite sign", result="{k: -v for k, v in grads.items()}"),
    "batch mean of all": rnn_with(
        "divide by the number of sentences",
        result="{k: v / len(x) for k, v in grads.items()}"),
    "batch mean of weights": rnn_with(
        "average the gradient of the weights over the sentences",
        dw_x="grads['w_x'] + x[:, t].T @ da / len(x)", db="grads['b'] + da.mean(0)",
        dw_h="grads['w_h'] + states[t].T @ da / len(x)"),
    "batch mean of b": rnn_with("average the gradient of b over the sentences",
                                db="grads['b'] + da.mean(0)"),
    "mean of b over words": rnn_with("average the gradient of b over the words",
                                     db="grads['b'] + da.sum(0) / n"),
    "b over time only": rnn_with("over one dimension only", db="grads['b'] + da"),
    "b as a row": rnn_with("over one dimension only", db="grads['b'] + da.sum(0, True)"),
    "overwritten": rnn_with("gradient of the weights from one step only, the first",
                            dw_x="x[:, t].T @ da", dw_h="states[t].T @ da", db="da.sum(0)"),
    "w_h overwritten": rnn_with("gradient of w_h from one step only", dw_h="states[t].T @ da"),
    "w_h with h_t": rnn_with("w_h meets h_t", dw_h="grads['w_h'] + states[t + 1].T @ da"),
    "w_h without h0": rnn_with("leaves the first step out",
                               dw_h="grads['w_h'] + (states[t].T @ da if t else 0)"),
    "w_h transposed": rnn_with("gradient of w_h is transposed",
                               dw_h="grads['w_h'] + da.T @ states[t]"),
    "w_x transposed": rnn_with("gradient of w_x is transposed",
                               dw_x="grads['w_x'] + da.T @ x[:, t]"),
    "x by w_x": rnn_with("through w_x without transposing", dx="da @ w_x"),
    "x stops at a": rnn_with("stops at the pre-activation", dx="da"),
    "w_x without slope": rnn_with("gradient of w_x skips the slope",
                                  dw_x="grads['w_x'] + x[:, t].T @ total"),
    "h0 zero": rnn_with("gradient of h0 is zero", dh0="torch.zeros_like(h0)"),
    "h0 at a": rnn_with("has not passed w_h", dh0="da"),
    "h0 as h_1": rnn_with("gradient of h_1", dh0="total"),
    "h0 with grad_h": rnn_with(r"add grad_h\[:, 0\]", dh0="later + grad_h[:, 0]"),
    "h0 over the batch": rnn_with("h0 is summed over the sentences", dh0="later.sum(0)"),
    "x in reverse": rnn_with("reverse order",
                             result="grads | {'x': grads['x'].flip(1)}"),
    "first sentence": rnn_with("first sentence only", dw_x="grads['w_x'] + x[:1, t].T @ da[:1]",
                               dw_h="grads['w_h'] + states[t][:1].T @ da[:1]",
                               db="grads['b'] + da[0]"),
    "two shared": rnn_with("Two things.*square.*forget b", slope="1 - states[t + 1]",
                           a="x[:, t] @ w_x + states[t] @ w_h"),
    "two apart": rnn_with("slope of tanh is missing", slope="1", db="grads['b'] + da.mean(0)"),
    "cut after four": rnn_with("stop after a few steps", later=truncated(4)),
    "cut after eight": rnn_with("stop after a few steps", later=truncated(8)),
    "w_x unknown": rnn_with("Right: the gradient of x, h0, w_h, b. Wrong: w_x",
                            dw_x="grads['w_x'] + x[:, t].T @ da * 1.5"),
    "T = 1 only": rnn_with("three words", steps="[0]"),
    "time first": (time_first, r"x\[:, t\] is word t"),
    "w_x gradient with h": rnn_with("w_x meets the old state",
                                   dw_x="grads['w_x'] + states[t].T @ da"),
    "one sentence": rnn_with("two sentences", result="{k: v[:1] if k in ('x', 'h0') else v "
                             "for k, v in grads.items()}"),
    "a tuple": rnn_with("dict with the keys", result="tuple(grads.values())"),
    "no h0": rnn_with("'h0' is missing", result="{k: v for k, v in grads.items() if k != 'h0'}"),
    "its inputs": (lambda *args: dict(zip(NAMES, args)), "the inputs themselves"),
    "zeros": (lambda *args: {k: torch.zeros_like(v) for k, v in zip(NAMES, args)},
              "gradients are zero"),
    "loop too short": rnn_with("gradients are zero.*every step",
                               steps="range(n - 2, -1, -1)"),
    "in place": (in_place, "in place"),
    "through float32": (through_float32, "float32"),
    "float32 buffer": (float32_buffer, "float32"),
    "nudged in float32": (nudging(torch.float32, 1e-3), "nearly right.*nudging"),
    "nudged in float64": (nudging(torch.float64, 1e-5), "nearly right.*nudging"),
    "transposed weights": (lambda x, h0, w_x, w_h, b, g: by_loop(x, h0, w_x.T, w_h.T, b, g),
                           "as torch's Linear does"),
    "nn.Linear's way": (from_the_left, "as torch's Linear does"),
    "no tanh forward": rnn_with("forget tanh on the way ", act="pre[t]"),
    "sigmoid forward": rnn_with("sigmoid on the way forward", act="torch.sigmoid(pre[t])"),
    "sigmoid network": rnn_with("network of sigmoids", act="torch.sigmoid(pre[t])",
                                slope="states[t + 1] * (1 - states[t + 1])"),
}


@pytest.mark.parametrize("mistake", RNN_WRONG)
def test_rnn_backward_rejects(mistake: str):
    rejected("rnn_backward", *RNN_WRONG[mistake])


# rnn_backward: every door to autograd


def forward(x, h0, w_x, w_h, b):
    h, states = h0, []
    for x_t in x.unbind(1):
        h = torch.tanh(x_t @ w_x + h @ w_h + b)
        states.append(h)
    return torch.stack(states, 1)


def tracked(*args):
    leaves = [value.clone().requires_grad_() for value in args[:5]]
    return leaves, forward(*leaves)


def named(grads):
    return dict(zip(NAMES, grads))


def tensor_backward(*args):
    leaves, states = tracked(*args)
    states.backward(args[5])
    return named(leaf.grad for leaf in leaves)


def loss_backward(*args):
    leaves, states = tracked(*args)
    (states * args[5]).sum().backward()
    return named(leaf.grad for leaf in leaves)


def autograd_backward(*args):
    leaves, states = tracked(*args)
    torch.autograd.backward([states], [args[5]])
    return named(leaf.grad for leaf in leaves)


def autograd_grad(*args):
    leaves, states = tracked(*args)
    return named(torch.autograd.grad(states, leaves, args[5]))


def func_grad(*args):
    loss = lambda *inputs: (forward(*inputs) * args[5]).sum()  # noqa: E731
    return named(torch.func.grad(loss, argnums=(0, 1, 2, 3, 4))(*args[:5]))


def func_vjp(*args):
    return named(torch.func.vjp(forward, *args[:5])[1](args[5]))


def func_jacobian(make):
    def backward(*args):
        jacobians = make(forward, argnums=(0, 1, 2, 3, 4))(*args[:5])
        return named(torch.tensordot(args[5], jacobian, 3) for jacobian in jacobians)

    return backward


def func_jvp(*args):
    grads = []
    for place in range(5):
        grad = torch.zeros_like(args[place])
        for i in range(grad.numel()):
            tangents = [torch.zeros_like(value) for value in args[:5]]
            tangents[place].view(-1)[i] = 1
            moved = torch.func.jvp(forward, args[:5], tuple(tangents))[1]
            grad.view(-1)[i] = (moved * args[5]).sum()
        grads.append(grad)
    return named(grads)


def functional_vjp(*args):
    return named(torch.autograd.functional.vjp(forward, args[:5], args[5])[1])


def functional_jacobian(*args):
    jacobians = torch.autograd.functional.jacobian(forward, args[:5])
    return named(torch.tensordot(args[5], jacobian, 3) for jacobian in jacobians)


def dual_numbers(*args):
    grads = []
    for place in range(5):
        grad = torch.zeros_like(args[place])
        for i in range(grad.numel()):
            one = torch.zeros_like(grad)
            one.view(-1)[i] = 1
            with forward_ad.dual_level():
                inputs = list(args[:5])
                inputs[place] = forward_ad.make_dual(inputs[place], one)
                moved = forward_ad.unpack_dual(forward(*inputs)).tangent
                grad.view(-1)[i] = (moved * args[5]).sum()
        grads.append(grad)
    return named(grads)


def the_engine_itself(*args):
    leaves, states = tracked(*args)
    engine = torch.autograd.Variable._execution_engine
    return named(engine.run_backward((states,), (args[5],), False, False, tuple(leaves),
                                     allow_unreachable=True, accumulate_grad=False))


def the_nodes_themselves(*args):
    _, states = tracked(*args)
    return named(states.grad_fn(args[5]) for _ in NAMES)


def by_hooks(*args):
    leaves, states = tracked(*args)
    grads = {}
    for name, leaf in zip(NAMES, leaves):
        leaf.register_hook(lambda grad, name=name: grads.__setitem__(name, grad))
    states.backward(args[5])
    return grads


def without_watch(*args):
    with torch._C.DisableTorchFunction():
        return tensor_backward(*args)


def swallowed(*args):
    try:
        return tensor_backward(*args)
    except BaseException:
        return by_loop(*args)


def a_module(x, h0, w_x, w_h, b, grad_h):
    net = nn.RNN(*w_x.shape, batch_first=True, dtype=x.dtype)
    with torch.no_grad():
        net.weight_ih_l0.copy_(w_x.T)
        net.weight_hh_l0.copy_(w_h.T)
        net.bias_ih_l0.copy_(b)
        net.bias_hh_l0.zero_()
    x, h0 = x.clone().requires_grad_(), h0.clone().requires_grad_()
    net(x, h0[None])[0].backward(grad_h)
    return named([x.grad, h0.grad, net.weight_ih_l0.grad.T, net.weight_hh_l0.grad.T,
                  net.bias_ih_l0.grad])


AUTOGRAD = {
    "Tensor.backward": tensor_backward,
    "loss.backward": loss_backward,
    "autograd.backward": autograd_backward,
    "autograd.grad": autograd_grad,
    "func.grad": func_grad,
    "func.vjp": func_vjp,
    "func.jvp": func_jvp,
    "func.jacrev": func_jacobian(torch.func.jacrev),
    "func.jacfwd": func_jacobian(torch.func.jacfwd),
    "functional.vjp": functional_vjp,
    "functional.jacobian": functional_jacobian,
    "forward_ad": dual_numbers,
    "engine": the_engine_itself,
    "nodes": the_nodes_themselves,
    "hooks": by_hooks,
    "without watch": without_watch,
    "swallowed": swallowed,
    "nn.RNN": a_module,
}


@pytest.mark.parametrize("door", AUTOGRAD)
def test_rnn_backward_without_autograd(door: str):
    rejected("rnn_backward", AUTOGRAD[door], "ready-made|round it")


# lstm_cell


def lstm_chunk(x, h, c, w_x, w_h, b):
    i, f, g, o = (x @ w_x + h @ w_h + b).chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def lstm_slices(x, h, c, w_x, w_h, b):
    n = h.shape[1]
    bias = b.view(4, n)

    def block(k):
        return x @ w_x[:, k * n : (k + 1) * n] + h @ w_h[:, k * n : (k + 1) * n] + bias[k]

    i, f, o = (1 / (1 + torch.exp(-block(k))) for k in (0, 1, 3))
    new = f * c + i * block(2).tanh()
    return [o * new.tanh(), new]


def lstm_joined(x, h, c, w_x, w_h, b):
    gates = torch.cat([x, h], 1) @ torch.cat([w_x, w_h]) + b
    gates = gates.unflatten(1, (4, -1))
    i, f, o = gates[:, [0, 1, 3]].sigmoid().unbind(1)
    new = torch.addcmul(f * c, i, gates[:, 2].tanh())
    return o * torch.tanh(new), new


def lstm_by_sentence(x, h, c, w_x, w_h, b):
    both = [lstm_chunk(*row, w_x, w_h, b) for row in zip(x, h, c)]
    return tuple(torch.stack(part) for part in zip(*both))


@pytest.mark.parametrize("style", [lstm_chunk, lstm_slices, lstm_joined, lstm_by_sentence])
def test_lstm_cell_accepts(style):
    accepted("lstm_cell", style)


def lstm_with(misconception, **replaced):
    def cell(x, h, c, w_x, w_h, b):
        lines = {
            "gates": "x @ w_x + h @ w_h + b",
            "blocks": "gates.chunk(4, -1)",
            "i, f, g, o": "blocks",
            "gate": "torch.sigmoid",
            "bend": "torch.tanh",
            "acts": "(gate(i), gate(f), bend(g), gate(o))",
            "new": "f * c + i * g",
            "out": "o * torch.tanh(new)",
            "result": "(out, new)",
        } | replaced
        s = dict(x=x, h=h, c=c, w_x=w_x, w_h=w_h, b=b, torch=torch)
        s["gates"] = eval(lines["gates"], s)
        s["blocks"] = eval(lines["blocks"], s)
        s["i"], s["f"], s["g"], s["o"] = eval(lines["i, f, g, o"], s)
        s["gate"], s["bend"] = eval(lines["gate"], s), eval(lines["bend"], s)
        s["i"], s["f"], s["g"], s["o"] = eval(lines["acts"], s)
        for name in ("new", "out"):
            s[name] = eval(lines[name], s)
        return eval(lines["result"], s)

    return cell, misconception


def order(text):
    """The learner's names for torch's four blocks."""
    return f"(lambda {', '.join(text)}: (i, f, g, o))(*blocks)"


def lstm_in_place(x, h, c, w_x, w_h, b):
    i, f, g, o = (x @ w_x + h @ w_h + b).chunk(4, -1)
    c *= f.sigmoid()
    c += i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def torch_cell(x, h, c, w_x, w_h, b):
    cell = nn.LSTMCell(*x.shape[1:], *h.shape[1:], dtype=x.dtype)
    with torch.no_grad():
        cell.weight_ih.copy_(w_x.T)
        cell.weight_hh.copy_(w_h.T)
        cell.bias_ih.copy_(b)
        cell.bias_hh.zero_()
        return cell(x, (h, c))


def torch_layer(x, h, c, w_x, w_h, b):
    weights = [w_x.T, w_h.T, b, torch.zeros_like(b)]
    return torch.lstm(x[:, None], (h[None], c[None]), weights, True, 1, 0.0, False, False, True)[1:]


LSTM_WRONG = {
    "i, f, o, g": lstm_with("exchange proposal and output", **{"i, f, g, o": order("ifog")}),
    "f, i, g, o": lstm_with("exchange input and forget", **{"i, f, g, o": order("figo")}),
    "f, i, o, g": lstm_with("blocks as f, i, o, g", **{"i, f, g, o": order("fiog")}),
    "g, i, f, o": lstm_with("blocks as g, i, f, o", **{"i, f, g, o": order("gifo")}),
    "o, f, i, g": lstm_with("blocks as o, f, i, g", **{"i, f, g, o": order("ofig")}),
    "interleaved": lstm_with("neighbouring columns",
                             blocks="gates.view(len(x), -1, 4).unbind(-1)"),
    "reshaped": lstm_with("sentences and blocks are mixed",
                          blocks="gates.view(4, len(x), -1).unbind()"),
    "no bias": lstm_with("forget the bias", gates="x @ w_x + h @ w_h"),
    "two biases": lstm_with("b twice", gates="(x @ w_x + b) + (h @ w_h + b)"),
    "no h": lstm_with("ignore the old state h", gates="x @ w_x + b"),
    "proposal by sigmoid": lstm_with("proposal g goes through tanh", bend="torch.sigmoid"),
    "exchanged": lstm_with("exchange sigmoid and tanh", gate="torch.tanh", bend="torch.sigmoid"),
    "tanh gates": lstm_with("i, f and o go through the sigmoid", gate="torch.tanh"),
    "tanh at o": lstm_with("output gate is between 0 and 1",
                           acts="(gate(i), gate(f), bend(g), bend(o))"),
    "raw gates": lstm_with("through no sigmoid", gate="lambda a: a"),
    "all raw": lstm_with("No sigmoid, no tanh", gate="lambda a: a", bend="lambda a: a"),
    "h without tanh": lstm_with("tanh of the cell is missing", out="o * new"),
    "h by the sigmoid": lstm_with("cell goes through tanh", out="o * torch.sigmoid(new)"),
    "h from the old cell": lstm_with("made of the old cell", out="o * torch.tanh(c)"),
    "no output gate": lstm_with("output gate is missing", out="torch.tanh(new)"),
    "no forget gate": lstm_with("forget gate f is missing", new="c + i * g"),
    "forgets all": lstm_with("drop the old cell", new="i * g"),
    "no input gate": lstm_with("input gate is missing", new="f * c + g"),
    "forget turned": lstm_with("forget gate is turned", new="(1 - f) * c + i * g"),
    "coupled": lstm_with("as a GRU does", new="f * c + (1 - f) * g"),
    "squashed cell": lstm_with("squash the new cell", new="torch.tanh(f * c + i * g)"),
    "(c, h)": lstm_with(r"You return \(c, h\)", result="(new, out)"),
    "h alone": lstm_with("you return a tensor", result="out"),
    "old c": lstm_with("old c", result="(out, c)"),
    "both, apart": lstm_with("exchange input and forget", out="o * new",
                             **{"i, f, g, o": order("figo")}),
    "both, in the cell": lstm_with("Two things.*bias.*forget gate f|Two things.*input and forget",
                                   gates="x @ w_x + h @ w_h", new="c + i * g"),
    "unknown h": lstm_with("new c is right, h is not", out="o * torch.tanh(new) * 0.7"),
    "cut by sentences": lstm_with("raises", blocks="gates.chunk(4, 0)"),
    "one sentence": lstm_with("lose the batch", result="(out[:1], new[:1])"),
    "squeezed": lstm_with("squeeze", result="(out.squeeze(-1), new.squeeze(-1))"),
    "transposed": lstm_with("raises", gates="x @ w_x.T + h @ w_h.T + b"),
    "in place": (lstm_in_place, "in place"),
    "through float32": lstm_with(
        "float32", gates="(x.float() @ w_x.float() + (h @ w_h + b).float()).to(x.dtype)"),
    "its inputs": lstm_with(r"old c|new c|wrong values", result="(h, c)"),
    "constant": lstm_with("does not depend",
                          result="(torch.zeros_like(h), torch.zeros_like(c))"),
    "nn.LSTMCell": (torch_cell, "ready-made"),
    "torch.lstm": (torch_layer, "ready-made"),
}


@pytest.mark.parametrize("mistake", LSTM_WRONG)
def test_lstm_cell_rejects(mistake: str):
    rejected("lstm_cell", *LSTM_WRONG[mistake])


# gru_cell


def gru_chunk(x, h, w_x, w_h, b_x, b_h):
    x_r, x_z, x_n = (x @ w_x + b_x).chunk(3, dim=-1)
    h_r, h_z, h_n = (h @ w_h + b_h).chunk(3, dim=-1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + r * h_n)
    return (1 - z) * n + z * h


def gru_slices(x, h, w_x, w_h, b_x, b_h):
    n = h.size(-1)
    gates = x @ w_x[:, : 2 * n] + h @ w_h[:, : 2 * n] + (b_x + b_h)[: 2 * n]
    r, z = gates.sigmoid()[:, :n], gates.sigmoid()[:, n:]
    old = torch.einsum("bh,hg->bg", h, w_h[:, 2 * n :]) + b_h[2 * n :]
    new = (x @ w_x[:, 2 * n :] + b_x[2 * n :] + r * old).tanh()
    return new + z * (h - new)


def gru_lerp(x, h, w_x, w_h, b_x, b_h):
    from_x = (x @ w_x + b_x).view(len(x), 3, -1)
    from_h = (h @ w_h + b_h).view(len(x), 3, -1)
    r, z = (from_x + from_h)[:, :2].sigmoid().unbind(1)
    return torch.lerp((from_x[:, 2] + r * from_h[:, 2]).tanh(), h, z)


@pytest.mark.parametrize("style", [gru_chunk, gru_slices, gru_lerp])
def test_gru_cell_accepts(style):
    accepted("gru_cell", style)


def gru_with(misconception, **replaced):
    def cell(x, h, w_x, w_h, b_x, b_h):
        lines = {
            "from_x": "x @ w_x + b_x",
            "from_h": "h @ w_h + b_h",
            "x_parts": "from_x.chunk(3, -1)",
            "h_parts": "from_h.chunk(3, -1)",
            "order": "lambda r, z, n: (r, z, n)",
            "r": "torch.sigmoid(x_r + h_r)",
            "z": "torch.sigmoid(x_z + h_z)",
            "n": "torch.tanh(x_n + r * h_n)",
            "result": "(1 - z) * n + z * h",
        } | replaced
        s = dict(x=x, h=h, w_x=w_x, w_h=w_h, b_x=b_x, b_h=b_h, torch=torch, H=h.size(1))
        s["from_x"], s["from_h"] = eval(lines["from_x"], s), eval(lines["from_h"], s)
        order = eval(lines["order"], s)
        s["x_r"], s["x_z"], s["x_n"] = order(*eval(lines["x_parts"], s))
        s["h_r"], s["h_z"], s["h_n"] = order(*eval(lines["h_parts"], s))
        for name in ("r", "z", "n"):
            s[name] = eval(lines[name], s)
        return eval(lines["result"], s)

    return cell, misconception


def gru_in_place(x, h, w_x, w_h, b_x, b_h):
    new = gru_chunk(x, h, w_x, w_h, b_x, b_h)
    h.copy_(new)
    return h


def torch_gru(x, h, w_x, w_h, b_x, b_h):
    cell = nn.GRUCell(*x.shape[1:], *h.shape[1:], dtype=x.dtype)
    with torch.no_grad():
        cell.weight_ih.copy_(w_x.T)
        cell.weight_hh.copy_(w_h.T)
        cell.bias_ih.copy_(b_x)
        cell.bias_hh.copy_(b_h)
        return cell(x, h)


def torch_gru_layer(x, h, w_x, w_h, b_x, b_h):
    weights = [w_x.T, w_h.T, b_x, b_h]
    return torch.gru(x[:, None], h[None], weights, True, 1, 0.0, False, False, True)[1][0]


ARTICLE = "torch.tanh(x_n + (r * h) @ w_h[:, 2 * H:] + b_h[2 * H:])"
GRU_WRONG = {
    "the article's reset": gru_with("before the matrix product", n=ARTICLE),
    "bias outside": gru_with(
        "leave b_h outside", n="torch.tanh(x_n + r * (h @ w_h[:, 2 * H:]) + b_h[2 * H:])"),
    "z exchanged": gru_with("exchange z and 1 - z", result="z * n + (1 - z) * h"),
    "z, r, n": gru_with("exchange the gates", order="lambda z, r, n: (r, z, n)"),
    "n, r, z": gru_with("blocks as n, r, z", order="lambda n, r, z: (r, z, n)"),
    "r, n, z": gru_with("blocks as r, n, z", order="lambda r, n, z: (r, z, n)"),
    "interleaved": gru_with("neighbouring columns",
                            x_parts="from_x.view(len(x), -1, 3).unbind(-1)",
                            h_parts="from_h.view(len(x), -1, 3).unbind(-1)"),
    "reshaped": gru_with("sentences and blocks are mixed", x_parts="from_x.view(3, len(x), -1)",
                         h_parts="from_h.view(3, len(x), -1)"),
    "no b_h": gru_with("forget b_h", from_h="h @ w_h"),
    "no b_x": gru_with("forget b_x", from_x="x @ w_x"),
    "no bias": gru_with("forget both biases", from_x="x @ w_x", from_h="h @ w_h"),
    "biases exchanged": gru_with("exchange the biases", from_x="x @ w_x + b_h",
                                 from_h="h @ w_h + b_x"),
    "both inside": gru_with("both biases inside", from_x="x @ w_x",
                            from_h="h @ w_h + b_x + b_h"),
    "no b_h in n": gru_with("b_h is missing in the proposal",
                            n="torch.tanh(x_n + r * (h @ w_h[:, 2 * H:]))"),
    "the article's, no bias": gru_with("before the matrix product.*leave b_h out",
                                       n="torch.tanh(x_n + (r * h) @ w_h[:, 2 * H:])"),
    "no reset": gru_with("reset gate is missing", n="torch.tanh(x_n + h_n)"),
    "reset of all": gru_with("act on x, too", n="torch.tanh(r * (x_n + h_n))"),
    "reset by z": gru_with("reset with the update gate", n="torch.tanh(x_n + z * h_n)"),
    "reset turned": gru_with("reset gate is turned", n="torch.tanh(x_n + (1 - r) * h_n)"),
    "proposal by sigmoid": gru_with("n goes through tanh", n="torch.sigmoid(x_n + r * h_n)"),
    "gates by tanh": gru_with("r and z go through the sigmoid", r="torch.tanh(x_r + h_r)",
                              z="torch.tanh(x_z + h_z)"),
    "proposal alone": gru_with("return the proposal", result="n"),
    "no old state": gru_with("old state is missing", result="(1 - z) * n"),
    "no complement": gru_with("sum to one", result="n + z * h"),
    "mixed by r": gru_with("mix with the reset gate", result="(1 - r) * n + r * h"),
    "two at once": gru_with("Two things.*before the matrix product.*exchange z and 1 - z",
                            n=ARTICLE, result="z * n + (1 - z) * h"),
    "Keras": gru_with("Two things.*before the matrix product.*exchange the gates",
                      order="lambda z, r, n: (r, z, n)", n=ARTICLE),
    "two results": gru_with("it should be a tensor", result="((1 - z) * n + z * h, n)"),
    "one sentence": gru_with("lose the batch", result="((1 - z) * n + z * h)[:1]"),
    "squeezed": gru_with("squeeze", result="((1 - z) * n + z * h).squeeze(-1)"),
    "through float32": gru_with("float32",
                                from_x="(x.float() @ w_x.float() + b_x.float()).to(x.dtype)"),
    "its input": gru_with("argument 2 as it came", result="h"),
    "constant": gru_with("does not depend", result="torch.zeros_like(h)"),
    "in place": (gru_in_place, "in place"),
    "nn.GRUCell": (torch_gru, "ready-made"),
    "torch.gru": (torch_gru_layer, "ready-made"),
}


@pytest.mark.parametrize("mistake", GRU_WRONG)
def test_gru_cell_rejects(mistake: str):
    rejected("gru_cell", *GRU_WRONG[mistake])
