"""The checks of the assignment training, against candidates that make learners' mistakes."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bank import accepted, rejected
from torch import nn


def rate_by_cases(step, d_model, warmup):
    if step < warmup:
        return step / (warmup * math.sqrt(warmup)) / math.sqrt(d_model)
    return 1 / math.sqrt(step * d_model)


RATE_RIGHT = {
    "min": lambda step, d_model, warmup: d_model**-0.5 * min(step**-0.5, step * warmup**-1.5),
    "by cases": rate_by_cases,
    "from the peak": lambda t, d, w: (d * w) ** -0.5 * min(t / w, (w / t) ** 0.5),
    "numpy": lambda t, d, w: np.minimum(np.float64(t) ** -0.5, t * w**-1.5) / np.sqrt(d),
    "a tensor": lambda t, d, w: torch.minimum(
        torch.tensor(t) ** -0.5, torch.tensor(t * w**-1.5)) * d**-0.5,
}
RATE_WRONG = {
    "max": (lambda t, d, w: d**-0.5 * max(t**-0.5, t * w**-1.5), "larger of the two"),
    "warmup ** 1.5": (lambda t, d, w: d**-0.5 * min(t**-0.5, t * w**1.5), "it is -1.5"),
    "warmup ** -0.5": (lambda t, d, w: d**-0.5 * min(t**-0.5, t * w**-0.5), "-1.5, not -0.5"),
    "step / warmup": (lambda t, d, w: d**-0.5 * min(t**-0.5, t / w), "not step / warmup"),
    "root of d_model": (lambda t, d, w: d**0.5 * min(t**-0.5, t * w**-1.5), "wider model"),
    "over d_model": (lambda t, d, w: min(t**-0.5, t * w**-1.5) / d, "divide by its square root"),
    "no d_model": (lambda t, d, w: min(t**-0.5, t * w**-1.5), "d_model .* missing"),
    "no d_model, max": (lambda t, d, w: max(t**-0.5, t * w**-1.5), "larger.*d_model .* missing"),
    "no warm-up": (lambda t, d, w: (d * t) ** -0.5, "never rises"),
    "no fall": (lambda t, d, w: d**-0.5 * t * w**-1.5, "never falls"),
    "flat": (lambda t, d, w: (d * w) ** -0.5 * min(1, t / w), "stays at the peak"),
    "sum": (lambda t, d, w: d**-0.5 * (t**-0.5 + t * w**-1.5), "add the two"),
    "1 / step": (lambda t, d, w: d**-0.5 * min(t ** (-1 // 2), t * w**-1.5), "like 1 / step"),
    "from 0": (
        lambda t, d, w: d**-0.5 * min((t + 1) ** -0.5, (t + 1) * w**-1.5), "add 1"),
    "late kink": (
        lambda t, d, w: d**-0.5 * (t * w**-1.5 if t <= 2 * w else t**-0.5), "too late"),
    "late kink by one": (
        lambda t, d, w: d**-0.5 * (t * w**-1.5 if t <= w + 1 else t**-0.5), "one step too late"),
    "begins again": (
        lambda t, d, w: d**-0.5 * (t * w**-1.5 if t <= w else (t - w) ** -0.5), "begins again"),
    "always 512": (lambda t, d, w: 512**-0.5 * min(t**-0.5, t * w**-1.5), "d_model = 512"),
    "always 256": (lambda t, d, w: 256**-0.5 * min(t**-0.5, t * w**-1.5), "look at the factor"),
    "always 4000": (
        lambda t, d, w: d**-0.5 * min(t**-0.5, t * 4000**-1.5), "warmup = 4000"),
    "always 512 and 4000": (
        lambda t, d, w: 512**-0.5 * min(t**-0.5, t * 4000**-1.5), "4000.*Besides.*512"),
    "a string": (lambda t, d, w: str(RATE_RIGHT["min"](t, d, w)), "a string, it should be"),
    "(step * warmup) ** -1.5": (
        lambda t, d, w: d**-0.5 * min(t**-0.5, (t * w) ** -1.5), "to warmup alone"),
    "one step late": (lambda t, d, w: RATE_RIGHT["min"](max(t - 1, 1), d, w), "subtract 1"),
    "a constant": (lambda t, d, w: 1e-3, "does not depend"),
    "its input": (lambda t, d, w: t, "return the step"),
    "printed": (lambda t, d, w: print(end=""), "None .* it should be a number"),
    "a list": (lambda t, d, w: [RATE_RIGHT["min"](t, d, w)], "a list of 1"),
}


@pytest.mark.parametrize("style", RATE_RIGHT)
def test_rate_accepts(style: str):
    accepted("paper_learning_rate", RATE_RIGHT[style])


@pytest.mark.parametrize("mistake", RATE_WRONG)
def test_rate_rejects(mistake: str):
    rejected("paper_learning_rate", *RATE_WRONG[mistake])


def loss_by_gather(logits, target, pad_id, epsilon):
    log_p = logits.log_softmax(-1)
    right = log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    loss = -((1 - epsilon) * right + epsilon * log_p.mean(-1))
    real = (target != pad_id).to(loss.dtype)
    return (loss * real).sum() / real.sum()


def loss_by_soft_targets(logits, target, pad_id, epsilon):
    q = torch.full_like(logits, epsilon / logits.size(-1))
    q.scatter_add_(-1, target[..., None], torch.full_like(q[..., :1], 1 - epsilon))
    real = target != pad_id
    return F.cross_entropy(logits[real], q[real])


def loss_by_loops(logits, target, pad_id, epsilon):
    total, n = 0, 0
    for sentence, words in zip(logits, target):
        for z, word in zip(sentence, words):
            if word == pad_id:
                continue
            log_p = z - z.logsumexp(0)
            total = total - (1 - epsilon) * log_p[word] - epsilon * log_p.sum() / len(z)
            n += 1
    return total / n


def loss_by_ignore_index(logits, target, pad_id, epsilon):
    logits, target = logits.flatten(0, 1), target.flatten()
    plain = nn.CrossEntropyLoss(ignore_index=pad_id)(logits, target)
    uniform = -F.log_softmax(logits, dim=1)[target != pad_id].mean()
    return (1 - epsilon) * plain + epsilon * uniform


def loss_by_one_hot(logits, target, pad_id, epsilon):
    q = F.one_hot(target, logits.size(-1)) * (1 - epsilon) + epsilon / logits.size(-1)
    loss = -(q.to(logits.dtype) * logits.log_softmax(-1)).sum(-1)
    return loss.masked_select(target != pad_id).mean()


def loss_with(change, **replaced):
    """A right loss with a line changed by eval."""

    def loss(logits, target, pad_id, epsilon):
        lines = {
            "log_p": "logits.log_softmax(-1)",
            "real": "target != pad_id",
            "right": "log_p.gather(-1, target[..., None])[..., 0]",
            "loss": "-((1 - epsilon) * right + epsilon * log_p.mean(-1))",
            "result": "(loss * real).sum() / real.sum()",
        } | replaced
        names = dict(logits=logits, target=target, pad_id=pad_id, epsilon=epsilon, torch=torch,
                     V=logits.size(-1), F=F, q_with=q_with)
        for name, line in lines.items():
            names[name] = eval(line, names)
        return names["result"]

    return loss, change


def q_with(logits, target, fill, right, pad_id=None, zero=False):
    q = torch.full_like(logits, fill)
    q.scatter_(-1, target[..., None], right)
    if zero:
        q[..., pad_id] = 0
    return q


def kl(logits, target, pad_id, epsilon):
    q = q_with(logits, target, epsilon / logits.size(-1), 1 - epsilon + epsilon / logits.size(-1))
    real = target != pad_id
    return F.kl_div(logits.log_softmax(-1)[real], q[real], reduction="batchmean")


def entropy_by_log(logits, epsilon):
    q = torch.full_like(logits[0, 0], epsilon / logits.size(-1))
    q[0] += 1 - epsilon
    return (q * q.log()).sum()


def change_in_place(logits, target, pad_id, epsilon):
    logits -= logits.logsumexp(-1, keepdim=True)
    return loss_by_gather(logits, target, pad_id, epsilon)


def reshaped_with(**arguments):
    def loss(logits, target, pad_id, epsilon):
        given = {key: epsilon if value is None else value for key, value in arguments.items()}
        return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=pad_id, **given)

    return loss


def by_operator(logits, target, pad_id, epsilon):
    operator = torch.ops.aten.cross_entropy_loss.default
    return operator(logits.flatten(0, 1), target.flatten(), None, 1, pad_id, epsilon)


def by_module(logits, target, pad_id, epsilon):
    module = nn.CrossEntropyLoss(ignore_index=pad_id, label_smoothing=epsilon)
    return module(logits.flatten(0, 1), target.flatten())


SOFT = "-(q_with(logits, target, {}) * log_p).sum(-1)"
LOSS_WRONG = {
    "over V - 1": loss_with("over the V - 1 wrong words", loss=SOFT.format(
        "epsilon / (V - 1), 1 - epsilon")),
    "over V - 2": loss_with("over V - 2", loss=SOFT.format(
        "epsilon / (V - 2), 1 - epsilon, pad_id, True")),
    "overwritten": loss_with("over the right word's own share", loss=SOFT.format(
        "epsilon / V, 1 - epsilon")),
    "pad column zeroed": loss_with("padding's column", loss=SOFT.format(
        "epsilon / V, 1 - epsilon + epsilon / V, pad_id, True")),
    "too much": loss_with("give it to all V words",
                          loss="-(1 - epsilon) * right - epsilon * log_p.sum(-1) / (V - 1)"),
    "no smoothing": loss_with("no smoothing", loss="-right"),
    "plain torch": (reshaped_with(), "no smoothing"),
    "exchanged": loss_with("changed places",
                           loss="-(epsilon * right + (1 - epsilon) * log_p.mean(-1))"),
    "not shared": loss_with("epsilon / V for each",
                            loss="-((1 - epsilon) * right + epsilon * log_p.sum(-1))"),
    "not taken away": loss_with("without taking", loss="-(right + epsilon * log_p.mean(-1))"),
    "kl": (kl, "Kullback-Leibler"),
    "positive logs": loss_with("sign is wrong",
                               loss="(1 - epsilon) * right + epsilon * log_p.mean(-1)"),
    "no softmax": loss_with("softmax is missing", log_p="logits"),
    "no log": loss_with("logarithm is missing", log_p="logits.softmax(-1)"),
    "softmax over T": loss_with("over the positions", log_p="logits.log_softmax(1)"),
    "softmax over B": loss_with("over the sentences", log_p="logits.log_softmax(0)"),
    "twice": loss_with("twice", log_p="logits.softmax(-1).log_softmax(-1)"),
    "overflow": loss_with("overflows", log_p="logits - logits.exp().sum(-1, True).log()"),
    "log of softmax": loss_with("overflows|log_softmax", log_p="logits.softmax(-1).log()"),
    "epsilon in the log": loss_with("log_softmax needs none",
                                    log_p="(logits.softmax(-1) + 1e-9).log()"),
    "pad counted": loss_with("divide by all B", result="(loss * real).sum() / target.numel()"),
    "pad included": loss_with("not leave the padding out", result="loss.mean()"),
    "pad in the sum": loss_with("in your sum", result="loss.sum() / real.sum()"),
    "mean of sentences": loss_with("mean of each sentence",
                                   result="((loss * real).sum(1) / real.sum(1)).mean()"),
    "sum": loss_with("return the sum", result="loss[real].sum()"),
    "over sentences": loss_with("number of sentences", result="(loss * real).sum() / len(loss)"),
    "over V, too": loss_with("number of words V",
                             result="(loss * real).sum() / real.sum() / V"),
    "per token": loss_with("one loss for each token", result="loss"),
    "per sentence": loss_with("each sentence", result="(loss * real).sum(1) / real.sum(1)"),
    "inverted": loss_with("inverted", result="(loss * ~real).sum() / (~real).sum()"),
    "squeezed": loss_with("lose the batch", log_p="logits.squeeze().log_softmax(-1)"),
    "log of 0": (lambda z, y, p, e: kl(z, y, p, e) - entropy_by_log(z, e), "target that is 0"),
    "pad is 0": loss_with("token 0 for the padding", real="target != 0"),
    "in bits": loss_with("in bits", log_p="logits.log_softmax(-1) / torch.tensor(2.0).log()"),
    "last one out": loss_with("last position out", real="(target != pad_id)[:, :-1]",
                              loss="-((1 - epsilon) * right + epsilon * log_p.mean(-1))[:, :-1]"),
    "shifted": (lambda z, y, p, e: loss_by_gather(z[:, :-1], y[:, 1:], p, e), "shift the target"),
    "over V - 1 and the sum": loss_with(
        "V - 1 wrong words.*Besides.*return the sum",
        loss=SOFT.format("epsilon / (V - 1), 1 - epsilon"), result="loss[real].sum()"),
    "a number": loss_with("float, it should be a tensor", result="loss[real].mean().item()"),
    "detached": loss_with("no gradient", result="loss[real].mean().detach()"),
    "half detached": loss_with("cut the gradient.*flows back to",
                               loss="-((1 - epsilon) * right + epsilon * log_p.detach().mean(-1))"),
    "through float32": loss_with("float32",
                                 log_p="logits.float().log_softmax(-1).to(logits.dtype)"),
    "in place": (change_in_place, "in place"),
    "torch's": (reshaped_with(label_smoothing=None), "ready-made"),
    "torch's module": (by_module, "ready-made"),
    "torch's operator": (by_operator, "ready-made"),
    "not flattened": (lambda z, y, p, e: F.cross_entropy(z, y, ignore_index=p), "raises"),
    "a constant": (lambda z, y, p, e: torch.tensor(1.0), "does not depend"),
    "its input": (lambda z, y, p, e: z, "as it came|shape"),
}


@pytest.mark.parametrize(
    "style",
    [loss_by_gather, loss_by_soft_targets, loss_by_loops, loss_by_ignore_index, loss_by_one_hot],
)
def test_loss_accepts(style):
    accepted("label_smoothing_loss", style)


@pytest.mark.parametrize("mistake", LOSS_WRONG)
def test_loss_rejects(mistake: str):
    rejected("label_smoothing_loss", *LOSS_WRONG[mistake])


def adam_new(param, grad, state, lr, betas, eps):
    step = state["step"] = state.get("step", 0) + 1
    state["m"] = betas[0] * state.get("m", 0) + (1 - betas[0]) * grad
    state["v"] = betas[1] * state.get("v", 0) + (1 - betas[1]) * grad**2
    m, v = state["m"] / (1 - betas[0] ** step), state["v"] / (1 - betas[1] ** step)
    return param - lr * m / (v.sqrt() + eps)


def adam_in_place(param, grad, state, lr, betas, eps):
    if not state:
        state.update(step=0, exp_avg=torch.zeros_like(param), exp_avg_sq=torch.zeros_like(param))
    state["step"] += 1
    state["exp_avg"].mul_(betas[0]).add_(grad, alpha=1 - betas[0])
    state["exp_avg_sq"].mul_(betas[1]).addcmul_(grad, grad, value=1 - betas[1])
    c1, c2 = (1 - beta ** state["step"] for beta in betas)
    param.addcdiv_(state["exp_avg"], (state["exp_avg_sq"] / c2).sqrt_().add_(eps), value=-lr / c1)


def adam_functional(param, grad, state, lr, betas, eps):
    """A state that is made anew, and returned."""
    t = state.get("t", 0) + 1
    m = torch.lerp(grad, state.get("m", torch.zeros_like(grad)), betas[0])
    v = torch.lerp(grad.square(), state.get("v", torch.zeros_like(grad)), betas[1])
    update = (m / (1 - betas[0] ** t)) / (torch.sqrt(v / (1 - betas[1] ** t)) + eps)
    return param - lr * update, {"t": t, "m": m, "v": v}


def adam_unguarded(param, grad, state, lr, betas, eps):
    """Reads the state as if someone had prepared it."""
    state["t"] += 1
    state["m"].mul_(betas[0]).add_((1 - betas[0]) * grad)
    state["v"] = betas[1] * state["v"] + (1 - betas[1]) * grad * grad
    m = state["m"] / (1 - math.pow(betas[0], state["t"]))
    v = state["v"] / (1 - math.pow(betas[1], state["t"]))
    param -= lr * m / (v.sqrt() + eps)
    return param


def adam_counting_tensor(param, grad, state, lr, betas, eps):
    try:
        m, v, step = state["moments"]
    except (KeyError, ValueError, TypeError):
        m, v, step = torch.zeros_like(param), torch.zeros_like(param), torch.tensor(0)
    step = step + 1
    m = betas[0] * m + (1 - betas[0]) * grad
    v = betas[1] * v + (1 - betas[1]) * grad**2
    state["moments"] = (m, v, step)
    rate = lr * torch.sqrt(1 - betas[1] ** step) / (1 - betas[0] ** step)
    return state, param - rate * m / (v.sqrt() + eps * torch.sqrt(1 - betas[1] ** step))


def adam_only_key_error(param, grad, state, lr, betas, eps):
    """Would take what a prepared state lends it for its own."""
    try:
        m, v, step = state["moments"]
    except KeyError:
        m, v, step = torch.zeros_like(param), torch.zeros_like(param), 0
    step += 1
    m, v = betas[0] * m + (1 - betas[0]) * grad, betas[1] * v + (1 - betas[1]) * grad**2
    state["moments"] = m, v, step
    return param - lr * m / (1 - betas[0] ** step) / ((v / (1 - betas[1] ** step)).sqrt() + eps)


def adam_in_place_state(param, grad, state, lr, betas, eps):
    new, _ = adam_functional(param, grad, state, lr, betas, eps)
    state |= adam_functional(param, grad, state, lr, betas, eps)[1]
    param.data = new
    return state


def adam_with(change, before="", **replaced):
    """A right step with a line changed by eval."""

    def adam(param, grad, state, lr, betas, eps):
        lines = {
            "b1": "betas[0]",
            "b2": "betas[1]",
            "t": "state.get('t', 0) + 1",
            "old_m": "state.get('m', 0)",
            "old_v": "state.get('v', 0)",
            "grad": "grad",
            "m": "b1 * old_m + (1 - b1) * grad",
            "v": "b2 * old_v + (1 - b2) * grad**2",
            "kept": "state.update(t=t, m=m, v=v)",
            "m_hat": "m / (1 - b1**t)",
            "v_hat": "v / (1 - b2**t)",
            "root": "v_hat.sqrt() + eps",
            "result": "param - lr * m_hat / root",
        } | replaced
        names = dict(param=param, grad=grad, state=state, lr=lr, betas=betas, eps=eps, torch=torch)
        for name, line in lines.items():
            names[name] = eval(line, names)
        return names["result"]

    return adam, change


def through_optimizer(kind):
    def adam(param, grad, state, lr, betas, eps):
        param = nn.Parameter(param)
        optimizer = kind([param], lr=lr, betas=betas, eps=eps)
        param.grad = grad
        optimizer.step()
        return param.detach()

    return adam


def fused(param, grad, state, lr, betas, eps):
    if not state:
        state.update(m=torch.zeros_like(param), v=torch.zeros_like(param), t=torch.tensor(0.0))
    state["t"] += 1
    torch._fused_adam_(
        [param], [grad], [state["m"]], [state["v"]], [], [state["t"]], lr=lr, beta1=betas[0],
        beta2=betas[1], eps=eps, weight_decay=0, amsgrad=False, maximize=False,
    )


def forgotten_return(param, grad, state, lr, betas, eps):
    param = adam_new(param, grad, state, lr, betas, eps)


def local_state(param, grad, state, lr, betas, eps):
    state = {"step": 0, "m": torch.zeros_like(param), "v": torch.zeros_like(param)}
    return adam_new(param, grad, state, lr, betas, eps)


def make_global_state():
    kept = {}

    def adam(param, grad, state, lr, betas, eps):
        return adam_new(param, grad, kept, lr, betas, eps)

    return adam


def grad_in_place(param, grad, state, lr, betas, eps):
    grad *= 1 - betas[0]
    return param - lr * grad


def gradient_kept(param, grad, state, lr, betas, eps):
    """m is the first gradient itself, scaled later: its first step is right."""
    if "m" not in state:
        state.update(t=1, m=grad, v=(1 - betas[1]) * grad**2, first=True)
        return param - lr * grad / (grad.abs() + eps)
    m = state["m"].mul_(1 - betas[0] if state.pop("first", False) else 1)
    state["t"] += 1
    m.mul_(betas[0]).add_((1 - betas[0]) * grad)
    state["v"] = betas[1] * state["v"] + (1 - betas[1]) * grad**2
    c1, c2 = (1 - beta ** state["t"] for beta in betas)
    return param - lr * m / c1 / ((state["v"] / c2).sqrt() + eps)


ADAM_WRONG = {
    "no correction": adam_with("do not correct the bias", m_hat="m", v_hat="v"),
    "m not corrected": adam_with("do not correct m", m_hat="m"),
    "v not corrected": adam_with("do not correct v", v_hat="v"),
    "step from 0": adam_with("from 0", t="state.get('t', -1) + 1"),
    "step from 2": adam_with("from 2", t="state.get('t', 1) + 1"),
    "step stays": adam_with("without the power", m_hat="m / (1 - b1)", v_hat="v / (1 - b2)"),
    "division by zero": adam_with("count the steps from 1", t="state.get('t', -1) + 1",
                                  root="(v.sqrt() + eps) * (1 / (1 - b2**t))"),
    "eps inside": adam_with("under the root", root="(v_hat + eps).sqrt()"),
    "eps missing": adam_with("eps is missing", root="v_hat.sqrt()"),
    "eps before the correction": adam_with("before v is corrected",
                                           root="(v.sqrt() + eps) / (1 - b2**t) ** 0.5"),
    "eps fixed": adam_with("eps = 1e-8", root="v_hat.sqrt() + 1e-8"),
    "betas exchanged": adam_with("betas have changed places", b1="betas[1]", b2="betas[0]"),
    "1 - beta": adam_with("1 - beta have changed", m="(1 - b1) * old_m + b1 * grad",
                          v="(1 - b2) * old_v + b2 * grad**2"),
    "m not kept": adam_with("do not keep m from", kept="state.update(t=t, v=v)"),
    "v not kept": adam_with("do not keep v from", kept="state.update(t=t, m=m)"),
    "nothing kept": adam_with("as if it were the first", kept="None"),
    "state made anew": (local_state, "as if it were the first"),
    "corrected kept": adam_with("corrected m and v in state",
                                kept="state.update(t=t, m=m/(1-b1**t), v=v/(1-b2**t))"),
    "betas fixed": adam_with("betas into the code", b1="0.9", b2="0.999"),
    "row by row": adam_with("count on a dimension",
                            grad="torch.stack([row for row in grad])"),
    "no square": adam_with("not its square", v="b2 * old_v + (1 - b2) * grad"),
    "absolute": adam_with("needs the square", v="b2 * old_v + (1 - b2) * grad.abs()"),
    "square of m": adam_with("squares m", v="b2 * old_v + (1 - b2) * m**2"),
    "no root": adam_with("square root is missing", root="v_hat + eps"),
    "gain of beta_1": adam_with("with the share beta_1", m="b1 * old_m + b1 * grad"),
    "gain of beta_2": adam_with("with the share beta_2", v="b2 * old_v + b2 * grad**2"),
    "sign and betas": adam_with("climb.*Besides.*betas|betas.*Besides.*climb", b1="betas[1]",
                                b2="betas[0]", result="param + lr * m_hat / root"),
    "missing key": adam_with("KeyError: 'averages'", old_m="(lambda a, b: a)(*state['averages'])"),
    "prepared, from 0": adam_with("count the steps from 1", t="state['step']",
                                  root="(v.sqrt() + eps) * (1 / (1 - b2**t))"),
    "gain of 1": adam_with("enters m in full", m="b1 * old_m + grad"),
    "g above": adam_with("instead of m", m_hat="grad"),
    "sign": adam_with("climb", result="param + lr * m_hat / root"),
    "no lr": adam_with("do not use lr", result="param - m_hat / root"),
    "update alone": adam_with("change alone", result="lr * m_hat / root"),
    "AdamW": adam_with("AdamW", result="param * (1 - lr * 0.01) - lr * m_hat / root"),
    "weight decay": adam_with("weight decay to the gradient", grad="grad + 0.01 * param"),
    "gradient descent": adam_with("plain gradient descent", result="param - lr * grad"),
    "sign of the gradient": adam_with("sign of the gradient", result="param - lr * grad.sign()"),
    "momentum": adam_with("v is missing", result="param - lr * m_hat"),
    "two at once": adam_with("do not correct m", m_hat="m",
                             root="(v_hat + eps).sqrt()"),
    "no correction, no root": adam_with("bias.*Besides.*root is missing", m_hat="m", v_hat="v",
                                        root="v_hat + eps"),
    "first rate": adam_with("rate of the first step",
                            result="param - state.setdefault('lr', lr) * m_hat / root"),
    "through float32": adam_with("float32", grad="grad.float().to(grad.dtype)"),
    "float32 for ever": adam_with("float32, it should be",
                                  result="(param - lr * m_hat / root).float()"),
    "no return": (forgotten_return, "has not changed"),
    "three values": adam_with("a tuple of 3", result="(param, m, v)"),
    "a number": adam_with("return a float", result="1.0"),
    "global state": (make_global_state(), "."),
    "its input": adam_with("as it came", result="param"),
    "the gradient": adam_with(".", result="grad"),
    "a constant": adam_with("does not depend", result="torch.zeros_like(param)"),
    "gradient in place": (grad_in_place, "argument 2 in place"),
    "gradient kept": (gradient_kept, "gradient of an earlier step"),
    "torch's": (through_optimizer(torch.optim.Adam), "ready-made"),
    "torch's AdamW": (through_optimizer(torch.optim.AdamW), "ready-made"),
    "torch's fused": (fused, "ready-made"),
}


@pytest.mark.parametrize(
    "style",
    [
        adam_new, adam_in_place, adam_functional, adam_unguarded, adam_counting_tensor,
        adam_only_key_error, adam_in_place_state,
    ],
)
def test_adam_accepts(style):
    accepted("adam_step", style)


@pytest.mark.parametrize("mistake", ADAM_WRONG)
def test_adam_rejects(mistake: str):
    rejected("adam_step", *ADAM_WRONG[mistake])


def test_adam_names_a_state_that_several_parameters_share():
    """Right for the first parameter of all; the next one finds its averages."""
    rejected("adam_step", shared_state(), "outside state|do not keep|step")


def shared_state():
    kept = {}

    def adam(param, grad, state, lr, betas, eps):
        if not state:  # a new run begins, unless two parameters take turns
            state["begun"] = True
            kept.clear()
        return adam_new(param, grad, kept, lr, betas, eps)

    return adam


def average_by_loop(states):
    total = {}
    for state in states:
        for name, tensor in state.items():
            total[name] = total.get(name, 0) + tensor
    return {name: tensor / len(states) for name, tensor in total.items()}


def average_by_copy(states):
    mean = {name: tensor.clone().double() for name, tensor in states[0].items()}
    for state in states[1:]:
        for name in mean:
            mean[name] += state[name]
    return {name: (mean[name] / len(states)).to(states[0][name].dtype) for name in mean}


def average_running(states):
    mean = dict(states[0])
    for n, state in enumerate(states[1:], 2):
        for name in mean:
            mean[name] = mean[name] + (state[name] - mean[name]) / n
    return {name: tensor.clone() for name, tensor in mean.items()}


AVERAGE_RIGHT = {
    "stack": lambda states: {
        name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]},
    "sum": lambda states: {k: sum(s[k] for s in states) / len(states) for k in states[0]},
    "loop": average_by_loop,
    "copy": average_by_copy,
    "running": average_running,
}


def accumulate_into_the_first(states):
    mean = states[0]
    for state in states[1:]:
        for name in mean:
            mean[name] += state[name]
    return {name: tensor / len(states) for name, tensor in mean.items()}


def shallow_copy(states):
    mean = dict(states[0])
    for state in states[1:]:
        for name, tensor in state.items():
            mean[name] += tensor
    return {name: tensor / len(states) for name, tensor in mean.items()}


def halves(states):
    mean = states[0]
    for state in states[1:]:
        mean = {name: (mean[name] + state[name]) / 2 for name in mean}
    return {name: tensor.clone() for name, tensor in mean.items()}


def shared_for_one(states):
    if len(states) == 1:
        return dict(states[0])
    return AVERAGE_RIGHT["stack"](states)


def twice_the_first(states):
    total = {name: tensor.clone() for name, tensor in states[0].items()}
    for state in states:
        total = {name: total[name] + state[name] for name in total}
    return {name: tensor / len(states) for name, tensor in total.items()}


def per_name(function):
    return lambda states: {k: function(torch.stack([s[k] for s in states])) for k in states[0]}


def by_order(states):
    columns = zip(*(state.values() for state in states))
    return {name: sum(column) / len(states) for name, column in zip(states[0], columns)}


AVERAGE_WRONG = {
    "sum": (per_name(lambda x: x.sum(0)), "return the sum"),
    "into the first": (accumulate_into_the_first, "in place"),
    "shallow copy": (shallow_copy, "in place"),
    "halves": (halves, "halve again"),
    "always 2": (per_name(lambda x: x.sum(0) / 2), "divide by 2"),
    "the first": (per_name(lambda x: x[0].clone()), "first checkpoint only"),
    "the last": (per_name(lambda x: x[-1].clone()), "last checkpoint only"),
    "ends": (per_name(lambda x: (x[0] + x[-1]) / 2), "first and the last only"),
    "without the first": (per_name(lambda x: x[1:].sum(0) / len(x)), "leave the first"),
    "the first twice": (twice_the_first, "counts twice"),
    "by the names": (
        lambda states: {k: sum(s[k] for s in states) / len(states[0]) for k in states[0]},
        "number of names|return the sum"),
    "less one": (per_name(lambda x: x.sum(0) / max(1, len(x) - 1)), "one less"),
    "last left out": (lambda states: AVERAGE_RIGHT["stack"](states[:-1] or states),
                      "leave the last checkpoint out"),
    "median": (per_name(lambda x: x.median(0).values), "median"),
    "scalars": (per_name(lambda x: x.mean()), "keeps its shape"),
    "stacked": (per_name(lambda x: x), "side by side"),
    "by order": (by_order, "by name"),
    "names lost": (
        lambda states: {k: v for k, v in AVERAGE_RIGHT["stack"](states).items() if k != "bias"},
        "'bias' are lost"),
    "a list": (lambda states: list(AVERAGE_RIGHT["stack"](states).values()), "without their names"),
    "shared": (shared_for_one, "shares its memory"),
    "the first state": (lambda states: states[0], "first checkpoint only"),
    "through float32": (
        lambda states: {k: v.float().to(states[0][k].dtype)
                        for k, v in AVERAGE_RIGHT["stack"](states).items()}, "float32"),
    "always float32": (
        lambda states: {k: v.float() for k, v in AVERAGE_RIGHT["stack"](states).items()},
        "float32, it should be torch.float64"),
    "two or more": (
        lambda states: {k: (states[0][k] + sum(s[k] for s in states[1:])) / (
            len(states) if states[1] else 1) for k in states[0]}, "IndexError.*more than one"),
    "a constant": (lambda states: {"w": torch.zeros(3)}, "wrong values"),
    "its input": (lambda states: states, "should be a dict"),
}


@pytest.mark.parametrize("style", AVERAGE_RIGHT)
def test_average_accepts(style: str):
    accepted("average_checkpoints", AVERAGE_RIGHT[style])


@pytest.mark.parametrize("mistake", AVERAGE_WRONG)
def test_average_rejects(mistake: str):
    rejected("average_checkpoints", *AVERAGE_WRONG[mistake])


@pytest.mark.parametrize(
    "name, style",
    [*(("paper_learning_rate", style) for style in RATE_RIGHT.values()),
     *(("label_smoothing_loss", style) for style in (
         loss_by_gather, loss_by_soft_targets, loss_by_loops, loss_by_ignore_index,
         loss_by_one_hot)),
     *(("adam_step", style) for style in (
         adam_new, adam_in_place, adam_functional, adam_unguarded, adam_counting_tensor)),
     *(("average_checkpoints", style) for style in AVERAGE_RIGHT.values())],
)
def test_accepts_where_float64_is_the_default(name: str, style):
    torch.set_default_dtype(torch.float64)
    try:
        accepted(name, style)
    finally:
        torch.set_default_dtype(torch.float32)
