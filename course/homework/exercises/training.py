"""Exercises of the assignment training: loss, learning rate, optimizer, mean of checkpoints."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, combinations, islice, product

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.optim.adam import adam as adam_of_torch

from course.homework.checking import Candidate, Case, Exercise, Wrong, function_exam, normal
from course.homework.probe import whole
from course.homework.values import kind, mismatch, show


def rate_cases(generator: Generator) -> Iterator[Case]:
    """Arguments: steps, d_model, warmup."""

    def case(label: str, blame: str, d_model: int, warmup: int) -> Case:
        near = {1, warmup // 2, warmup - 1, warmup, warmup + 1, 2 * warmup}
        late = {warmup * whole(generator, 3, 9), warmup * whole(generator, 10, 20)}
        return Case(label, (tuple(sorted(near | late)), d_model, warmup), blame)

    d_model, warmup = whole(generator, 17, 40), whole(generator, 6, 9)
    yield case("a short warm-up", "", d_model, warmup)
    yield case("another d_model", "you wrote one d_model into the code", 64, warmup)
    yield case("the paper's base model", "you wrote one warm-up into the code", 512, 4000)


def curve(rate: Callable, args: tuple) -> dict[str, float]:
    """Return what rate(step, d_model, warmup) gives at each of several steps."""
    steps, *others = args
    rates = {f"step {step}": rate(step, *others) for step in steps}
    if isinstance(rate, Candidate):
        rate.given = "The function at each of these steps, with this d_model and this warmup:"
    return rates


def paper_rate(step: int, d_model: int, warmup: int) -> float:
    return d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)


def kink(change: Callable[[int], float]) -> Callable[[int, int], float]:
    """Return the paper's two halves with the change from rising to falling at another step."""
    return lambda t, w: t * w**-1.5 if t <= change(w) else t**-0.5


UNEQUAL = "The two halves must meet at step = warmup, and yours do not: "
FACTORS: dict[str, Callable[[int], float]] = {  # of d_model
    "": lambda d: d**-0.5,
    "The factor d_model ** -0.5 is missing": lambda d: 1.0,
    "You multiply by the square root of d_model: a wider model takes smaller steps, the exponent "
    "is -0.5": lambda d: d**0.5,
    "You divide by d_model: divide by its square root": lambda d: 1 / d,
    "You wrote d_model = 512 into the code: take the argument": lambda d: 512**-0.5,
}
SHAPES: dict[str, Callable[[int, int], float]] = {  # of step and warmup
    "": lambda t, w: min(t**-0.5, t * w**-1.5),
    "You take the larger of the two: it needs the smaller, min":
        lambda t, w: max(t**-0.5, t * w**-1.5),
    f"{UNEQUAL}the exponent of warmup is -1.5, not -0.5": lambda t, w: min(t**-0.5, t * w**-0.5),
    f"{UNEQUAL}the line is step * warmup ** -1.5, not step / warmup":
        lambda t, w: min(t**-0.5, t / w),
    f"{UNEQUAL}the exponent of warmup is -1.5, not -2": lambda t, w: min(t**-0.5, t * w**-2),
    f"{UNEQUAL}the line rises to 1, the curve begins at warmup ** -0.5":
        lambda t, w: t / w if t <= w else t**-0.5,
    "You wrote warmup = 4000 into the code: take the argument":
        lambda t, w: min(t**-0.5, t * 4000**-1.5),
    "The exponent -1.5 belongs to warmup alone: step * warmup ** -1.5":
        lambda t, w: min(t**-0.5, (t * w) ** -1.5),
    "The rate never falls: the half with step ** -0.5 is missing": lambda t, w: t * w**-1.5,
    "The rate never rises: the warm-up is missing, or the exponent of warmup has lost its sign, it "
    "is -1.5": lambda t, w: t**-0.5,
    "You add the two: the paper takes the smaller one, min": lambda t, w: t**-0.5 + t * w**-1.5,
    "You multiply the two: the paper takes the smaller one, min": lambda t, w: t**0.5 * w**-1.5,
    "The rate falls like 1 / step: the exponent is -0.5, the square root (and -1 // 2 is -1)":
        lambda t, w: min(1 / t, t * w**-1.5),
    "Your rate grows with the root of the step: the exponent of the first half is -0.5":
        lambda t, w: min(t**0.5, t * w**-1.5),
    "After the warm-up your rate stays at the peak: it should fall with step ** -0.5":
        lambda t, w: min(w**-0.5, t * w**-1.5),
    "You count the steps from 0, so you add 1: here the first step is 1 already":
        lambda t, w: min((t + 1) ** -0.5, (t + 1) * w**-1.5),
    "You subtract 1 from the step: here the first step is 1, take it as it comes":
        lambda t, w: min((t - 1) ** -0.5 if t > 1 else math.inf, (t - 1) * w**-1.5),
    "You subtract 1 from the step, from step 2 on: here the first step is 1, take it as it comes":
        lambda t, w: min(max(t - 1, 1) ** -0.5, max(t - 1, 1) * w**-1.5),
    "Your two halves have changed places: the line comes first, for step <= warmup":
        lambda t, w: t**-0.5 if t < w else t * w**-1.5,
    "The curve begins again after the warm-up: the step counts from the beginning of training, not "
    "from the end of the warm-up": lambda t, w: t * w**-1.5 if t <= w else (t - w) ** -0.5,
    "The change comes too late, at step = 2 * warmup": kink(lambda w: 2 * w),
    "The change comes too early, at step = warmup / 2": kink(lambda w: w / 2),
    "The change comes one step too late: step warmup + 1 falls already": kink(lambda w: w + 1),
    "The change comes too early: the line goes on up to step = warmup": kink(lambda w: w - 2),
    "After the warm-up your rate is 0: it should fall with step ** -0.5":
        lambda t, w: t * w**-1.5 if t <= w else 0.0,
}


def rate_mistakes() -> Iterator[tuple[str, Callable]]:
    def twin(factor: str, shape: str, *args: object) -> dict:
        return curve(lambda t, d, w: FACTORS[factor](d) * SHAPES[shape](t, w), args)

    both = sorted(product(FACTORS, SHAPES), key=lambda names: sum(map(bool, names)))
    for factor, shape in both[1:]:
        yield ". Besides: ".join(filter(None, (shape, factor))), partial(twin, factor, shape)


def explain_rate(args: tuple, actual: dict, expected: dict) -> str | None:
    """Say which half of the curve is wrong, or that only its height is."""
    try:
        yours = {step: float(actual[f"step {step}"] + 0.0) for step in args[0]}  # no string
    except (TypeError, ValueError):
        return None  # not numbers
    right = {step: expected[f"step {step}"] for step in args[0]}
    wrong = [step for step in args[0] if mismatch(yours[step], right[step])]
    ratios = {float(f"{yours[step] / right[step]:.4g}") for step in args[0]}
    if len({*yours.values()}) == 1:
        return "Your rate is the same at every step: it does not depend on the step"
    if all(yours[step] == step for step in args[0]):
        return "You return the step"
    if len(ratios) == 1:
        return (
            f"The curve has the right form, but is {ratios.pop():g} times as high as it should be: "
            "look at the factor, d_model ** -0.5"
        )
    if min(wrong) > args[2]:
        return "The warm-up is right, the rate after it is not: it falls with step ** -0.5"
    if max(wrong) < args[2]:
        return "The rate after the warm-up is right, the warm-up is not: it is a straight line"
    return None


RATE = Exercise(
    name="paper_learning_rate",
    assignment="training",
    signature="paper_learning_rate(step, d_model, warmup) -> float; steps count from 1, so step 1 "
    "is the first, and it is never called with step 0",
    what="Equation 3 of the paper: the rate rises on a straight line for `warmup` steps, then "
    "falls like 1 / sqrt(step).",
    why="Without a warm-up, Adam's first steps have full length on gradients that are mostly "
    "noise, and the paper's model may not learn at all.",
    difficulty=1,
    minutes=10,
    hints=(
        "Two curves, one rising and one falling. Which of them is smaller early, which one late?",
        "The line is step * warmup ** -1.5, the curve step ** -0.5: they meet at step = warmup, so "
        "min chooses. (At step 0 the curve would be 0 ** -0.5, which Python refuses.)",
        "d_model ** -0.5 * min(..., ...)",
    ),
    examine=function_exam(
        lambda *args: curve(paper_rate, args),
        rate_cases,
        mistakes=[*rate_mistakes()],
        returns="the rate",
        explain=explain_rate,
        call=curve,
    ),
)


def loss_cases(generator: Generator) -> Iterator[Case]:
    def case(label, lengths, words, pad_id, epsilon, blame="", size=1.0, dtype=torch.float32):
        logits = normal(generator, len(lengths), max(lengths), words, dtype=dtype) * size
        target = torch.randint(words - 1, logits.shape[:2], generator=generator)
        target[target >= pad_id] += 1  # any word but the padding
        for row, length in zip(target, lengths):
            row[length:] = pad_id
        return Case(label, (logits, target, pad_id, epsilon), blame)

    yield case("two sentences", [3, 3], 4, 0, 0.3)
    yield case("one sentence", [2], 5, 0, 0.1, "you lose the batch")
    yield case("epsilon 0", [3, 2], 4, 0, 0.0, "you take the logarithm of a target that is 0")
    yield case("two sentences, one padded", [3, 1], 4, 0, 0.1,
               "padding counts somewhere: in the sum, or in the number you divide by")
    yield case("three sentences, pad_id 2", [1, 4, 2], 5, 2, 0.2,
               "you take for granted that the padding is token 0")
    yield case("large logits", [2, 1], 4, 0, 0.1,
               "exp overflows: log_softmax does both steps at once, without it", 300.0)
    # float32 holds these targets exactly: who makes only them in float32 loses nothing here
    yield case("float64", [2, 3], 4, 0, 0.25, "somewhere you go through float32",
               dtype=torch.float64)


def smoothed_loss(logits: Tensor, target: Tensor, pad_id: int, epsilon: float) -> Tensor:
    real = target != pad_id
    return F.cross_entropy(logits[real], target[real], label_smoothing=epsilon)


def hard(log_probs: Tensor, target: Tensor) -> Tensor:
    """Return what the right word gets: (B, T, V), (B, T) -> (B, T)."""
    return log_probs.gather(-1, target[..., None])[..., 0]


def without(logits: Tensor, pad_id: int) -> Tensor:
    return logits.index_fill(-1, torch.tensor([pad_id]), -math.inf)


def others(log_probs: Tensor, target: Tensor, pad_id: int, share: float) -> Tensor:
    """Give `share` to each word but the right one and the padding."""
    right, pad = hard(log_probs, target), log_probs[..., pad_id]
    return share * (log_probs.sum(-1) - right - pad)


# of log-probabilities x (B, T, V), target y, pad_id p and epsilon e -> (B, T)
SPREADS: dict[str, Callable] = {
    "": lambda x, y, p, e: (1 - e) * hard(x, y) + e * x.mean(-1),
    "There is no smoothing: you ignore epsilon": lambda x, y, p, e: hard(x, y),
    "epsilon and 1 - epsilon have changed places: the right word gets 1 - epsilon":
        lambda x, y, p, e: e * hard(x, y) + (1 - e) * x.mean(-1),
    "You spread epsilon over the V - 1 wrong words: here the right one gets its share, too, "
    "epsilon / V for each of all V, as F.cross_entropy does it":
        lambda x, y, p, e: (1 - e) * hard(x, y) + e * (x.sum(-1) - hard(x, y)) / (x.size(-1) - 1),
    "You spread epsilon over V - 2 words, without the right one and the padding: here each of all "
    "V gets epsilon / V":
        lambda x, y, p, e: (1 - e) * hard(x, y) + others(x, y, p, e / max(x.size(-1) - 2, 1)),
    "You spread epsilon over V - 1 words, without the padding: here each of all V gets epsilon / V":
        lambda x, y, p, e:
            (1 - e) * hard(x, y) + e * (x.sum(-1) - x[..., p]) / (x.size(-1) - 1),
    "You write 1 - epsilon over the right word's own share: it gets 1 - epsilon + epsilon / V, or "
    "the targets do not sum to one":
        lambda x, y, p, e: (1 - e) * hard(x, y) + e * (x.sum(-1) - hard(x, y)) / x.size(-1),
    "You divide epsilon by V - 1, but give it to all V words: the targets sum to more than one":
        lambda x, y, p, e: (1 - e) * hard(x, y) + e * x.sum(-1) / (x.size(-1) - 1),
    "You set the padding's column of the target to zero: then the targets no longer sum to one; "
    "the padding is a word like any other there, only padded positions do not count":
        lambda x, y, p, e: (1 - e) * hard(x, y) + e * (x.sum(-1) - x[..., p]) / x.size(-1),
    "You give epsilon to every word: it is shared, epsilon / V for each":
        lambda x, y, p, e: (1 - e) * hard(x, y) + e * x.sum(-1),
    "You add epsilon / V without taking epsilon from the right word: the targets sum to more than "
    "one": lambda x, y, p, e: hard(x, y) + e * x.mean(-1),
    "You leave the right word with 1 - epsilon and give the rest to nobody: spread it, epsilon / V "
    "for each": lambda x, y, p, e: (1 - e) * hard(x, y),
    "You give all the words epsilon / V and the right one nothing more: the share 1 - epsilon is "
    "missing": lambda x, y, p, e: e * x.mean(-1),
    "That is the Kullback-Leibler divergence: it leaves out the entropy of the target. The "
    "cross-entropy is -sum(q * log p)":
        lambda x, y, p, e: (1 - e) * hard(x, y) + e * x.mean(-1) + entropy(x.size(-1), e),
}
LOGS: dict[str, Callable] = {  # of logits and pad_id
    "": lambda x, p: x.log_softmax(-1),
    "The softmax is missing: logits are not log-probabilities yet": lambda x, p: x,
    "The logarithm is missing: those are probabilities": lambda x, p: x.softmax(-1),
    "You take the softmax over the positions: over the words, dim=-1":
        lambda x, p: x.log_softmax(1),
    "You take the softmax over the sentences: over the words, dim=-1":
        lambda x, p: x.log_softmax(0),
    "You take the softmax twice: log_softmax of the logits, once":
        lambda x, p: x.softmax(-1).log_softmax(-1),
    "You leave the padding out of the softmax: here it is a word like any other, and only padded "
    "positions do not count": lambda x, p: without(x, p).log_softmax(-1),
    "exp overflows for large logits: softmax first, log afterwards loses what log_softmax keeps":
        lambda x, p: x.softmax(-1).log(),
    "exp overflows for large logits: log_softmax does both steps at once, without it":
        lambda x, p: x - x.exp().sum(-1, keepdim=True).log(),
    "You add a small number inside the log: log_softmax needs none, and is exact":
        lambda x, p: (x.softmax(-1) + 1e-9).log(),
    "You clamp inside the log: log_softmax needs no clamp, and is exact":
        lambda x, p: x.softmax(-1).clamp_min(1e-9).log(),
}
REDUCTIONS: dict[str, Callable] = {  # (loss of each token, real tokens)
    "": lambda loss, real: loss[real].mean(),
    "You return the sum over the tokens: divide it by the number of real ones":
        lambda loss, real: loss[real].sum(),
    "Padding counts in the mean: you divide by all B * T positions, divide by the real ones":
        lambda loss, real: (loss * real).mean(),
    "You do not leave the padding out: its positions add their loss, too":
        lambda loss, real: loss.mean(),
    "The loss of padded positions is in your sum, though you divide by the real ones":
        lambda loss, real: loss.sum() / real.sum(),
    "You take the mean of each sentence and then the mean of these: a word of a short sentence "
    "would weigh more. One mean, over all real tokens":
        lambda loss, real: ((loss * real).sum(-1) / real.sum(-1)).mean(),
    "You divide by the number of sentences: divide by the number of real tokens":
        lambda loss, real: (loss * real).sum() / len(loss),
    "You divide by the length T: divide by the number of real tokens, of all sentences":
        lambda loss, real: (loss * real).sum() / loss.size(1),
    "The mask is inverted: you count the padding, and leave the real tokens out":
        lambda loss, real: loss[~real].mean(),
    "You return one loss for each token: return their mean, one number":
        lambda loss, real: loss,
    "You return one loss for each token: return their mean over the real ones, one number":
        lambda loss, real: loss * real,
    "You return one loss for each real token: return their mean, one number":
        lambda loss, real: loss[real],
    "You return one loss for each sentence: return one mean over all real tokens":
        lambda loss, real: (loss * real).sum(-1) / real.sum(-1),
}


def entropy(words: int, epsilon: float) -> float:
    """Return the entropy, in nats, of a smoothed target."""
    right, wrong = 1 - epsilon + epsilon / words, epsilon / words
    return -right * math.log(right) - ((words - 1) * wrong * math.log(wrong) if wrong else 0.0)


def loss_mistakes() -> Iterator[tuple[str, Callable]]:
    """Each way of going wrong, then each two common ways of a different kind."""

    def twin(spread, log, reduction, sign, divisor, pad, logits, target, pad_id, epsilon):
        tokens = SPREADS[spread](LOGS[log](logits, pad_id), target, pad_id, epsilon)  # (B, T)
        real = target != (pad_id if pad is None else pad)
        loss = REDUCTIONS[reduction](sign * tokens, real)
        return loss / (logits.size(-1) if divisor else 1)

    for place, kinds in enumerate((SPREADS, LOGS, REDUCTIONS)):
        for fault in filter(None, kinds):
            parts = [fault if place == i else "" for i in range(3)]
            yield fault, partial(twin, *parts, -1, False, None)
    yield ("The sign is wrong: log-probabilities are negative, a loss is positive",
           partial(twin, "", "", "", 1, False, None))
    for mean in REDUCTIONS:
        besides = f". Besides: {mean}" if mean else ""
        yield (f"You divide by the number of words V, too: the sum over the V words is one token's "
               f"loss, the mean runs over tokens only{besides}",
               partial(twin, "", "", mean, -1, True, None))
    yield ("Your loss is in bits: here it is in nats, with the natural logarithm, not log2",
           partial(twin, "", "", "", -1 / math.log(2), False, None))
    yield ("You leave the last position out: the target is what each position should predict, and "
           "every real token counts", lambda logits, target, pad_id, epsilon:
           smoothed_loss(logits[:, :-1], target[:, :-1], pad_id, epsilon))
    yield ("You shift the target: position t of the logits predicts position t of the target",
           lambda logits, target, pad_id, epsilon:
           smoothed_loss(logits[:, :-1], target[:, 1:], pad_id, epsilon))
    yield ("You take token 0 for the padding, whatever pad_id says",
           partial(twin, "", "", "", -1, False, 0))
    for parts in product(*(islice(kinds, 8) for kinds in (SPREADS, LOGS, REDUCTIONS))):
        faults = [part for part in parts if part]
        if len(faults) == 2:
            yield ". Besides: ".join(faults), partial(twin, *parts, -1, False, None)


LOSS = Exercise(
    name="label_smoothing_loss",
    assignment="training",
    signature="label_smoothing_loss(logits, target, pad_id, epsilon): logits (B, T, V), target "
    "(B, T) -> scalar tensor, the mean over all real tokens of the batch, in nats; epsilon is "
    "spread over all V words, the right one too; positions whose target is pad_id do not count",
    what="The cross-entropy against a softened target: 1 - epsilon for the right word, and "
    "epsilon / V more for each of all V words.",
    why="A model that is asked for probability 1 becomes too sure of itself. Smoothing made the "
    "paper's perplexity worse and its translations better.",
    difficulty=3,
    minutes=25,
    hints=(
        "What is the loss of one token, if the target is a distribution q and not a single word?",
        "-sum(q * log p) = -(1 - epsilon) * log p[right] - epsilon * (mean of log p over the V "
        "words). log_softmax gives log p, gather picks the right word's.",
        "loss = -((1 - epsilon) * right + epsilon * log_p.mean(-1))  # (B, T); now the mean of "
        "loss[target != pad_id].",
    ),
    forbidden=(
        "cross_entropy(label_smoothing)", "cross_entropy_loss(label_smoothing)",
        "cross_entropy_loss(5)", "linear_cross_entropy(label_smoothing)",
    ),
    examine=function_exam(
        smoothed_loss, loss_cases, mistakes=[*loss_mistakes()], returns="the loss",
        learns=lambda loss: loss,
    ),
)


class State(dict):
    """What Adam keeps, prepared: who reads a name before it was written finds zeros."""

    __module__ = "builtins"  # not forbidden to the candidate, as the course's own code is

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.like = like

    def __missing__(self, name: object) -> Tensor | int:
        counter = re.search("^[tnik]$|step|count|iter|time", str(name), re.IGNORECASE)
        self[name] = 0 if counter else torch.zeros_like(self.like)
        return self[name]


@dataclass(frozen=True, repr=False)
class Run:
    """Some steps of Adam: gradients[step][parameter], rates[step]."""

    params: list[Tensor]
    gradients: list[list[Tensor]]
    rates: list[float]
    betas: tuple[float, float]
    eps: float

    def __repr__(self) -> str:
        def numbers(tensors: list[Tensor]) -> str:
            return " and ".join(show(tensor).partition("\n")[2] for tensor in tensors)

        lines = [f"param {show(self.params[0])}"]
        if len(self.params) > 1:
            lines = [f"parameters {numbers(self.params)}"]
        for step, (gradients, rate) in enumerate(zip(self.gradients, self.rates), 1):
            lines.append(f"step {step}: lr {rate:.3g}, grad {numbers(gradients)}")
        return "\n".join([*lines, f"betas {self.betas}, eps {self.eps:g}"])


def adam_cases(generator: Generator) -> Iterator[Case]:
    """Argument: a run."""

    def case(label, blame, steps, *shapes, betas=(0.9, 0.999), eps=1e-8, lr=0.05, zero=False,
             fixed=True, dtype=torch.float32):
        def draw() -> list[Tensor]:
            return [normal(generator, *shape, dtype=dtype) for shape in shapes]

        params, gradients = draw(), [draw() for _ in range(steps)]
        gradients[0][0].view(-1)[0].abs_()  # not all negative: a root of them is not all NaN
        if zero:
            for step in gradients:
                step[0][0] = 0.0
        rates = [lr if fixed else lr / step for step in range(1, steps + 1)]
        return Case(label, (Run(params, gradients, rates, betas, eps),), blame)

    yield case("three steps", "", 3, (3,))
    yield case("two parameters in turn, each with a state", "you keep something outside state, so "
               "that one parameter's averages meet the other", 3, (3,), (3,))
    yield case("four steps, a matrix", "you wrote the betas into the code", 4, (2, 2),
               betas=(0.8, 0.98))
    yield case("a weight whose gradient is 0", "you divide 0 by 0: eps is there for this", 2, (3,),
               zero=True)
    yield case("a large eps", "eps stands in the wrong place: it is added to the root of the "
               "corrected v", 2, (3,), eps=0.5)
    yield case("a rate that changes", "you keep the rate of the first step: lr comes anew with "
               "each call", 3, (2,), fixed=False)
    yield case("a single number, shape ()", "you count on a dimension", 2, ())
    # 1 - beta ** step, its root and lr over it are exact in float32: a step count in a tensor of
    # whole numbers loses nothing here
    yield case("float64", "somewhere you go through float32", 2, (3,), betas=(0.5, 0.0), lr=3.0,
               dtype=torch.float64)


def after_steps(paths: list[list[Tensor]]) -> dict[str, Tensor]:
    """Name the parameters after each step: paths[step][parameter]."""
    several = len(paths[0]) > 1
    return {
        f"after step {step}" + (f", parameter {number}" if several else ""): param
        for step, params in enumerate(paths, 1)
        for number, param in enumerate(params, 1)
    }


def torch_adam(run: Run) -> dict[str, Tensor]:
    """Torch's Adam as a function: the class would load the compiler first, which takes seconds."""
    params = [param.clone() for param in run.params]
    averages = [torch.zeros_like(param) for param in params]  # m
    squares = [torch.zeros_like(param) for param in params]  # v
    counts = [torch.zeros(()) for _ in params]
    paths = []
    for gradients, rate in zip(run.gradients, run.rates):
        adam_of_torch(
            params, gradients, averages, squares, [], counts, foreach=False, amsgrad=False,
            beta1=run.betas[0], beta2=run.betas[1], lr=rate, weight_decay=0, eps=run.eps,
            maximize=False,
        )
        paths.append([param.clone() for param in params])
    return after_steps(paths)


ADAM_RETURNS = "return the new parameter (or the parameter and the state)"


def step_with_learners(candidate: Candidate, args: tuple) -> dict[str, Tensor]:
    """Follow the candidate from empty states; if it misses a name in them, from prepared ones."""
    try:
        return follow(candidate, *args, prepare=lambda param: {})
    except Wrong as wrong:
        if not isinstance(wrong.__cause__, KeyError):
            raise
        try:
            return follow(candidate, *args, prepare=State)
        except Wrong as other:
            prepared = isinstance(other.__cause__, ZeroDivisionError | None)
            raise other if prepared else wrong from None


def follow(candidate: Candidate, run: Run, prepare: Callable[[Tensor], dict]) -> dict[str, Tensor]:
    params = [param.clone() for param in run.params]
    gradients = [[gradient.clone() for gradient in step] for step in run.gradients]
    states: list = [prepare(param) for param in params]
    paths = []
    for number, (step, rate) in enumerate(zip(gradients, run.rates), 1):
        for i, gradient in enumerate(step):
            before = params[i].clone()
            try:
                result = candidate(params[i], gradient, states[i], rate, run.betas, run.eps)
            except Wrong as wrong:
                if "ZeroDivisionError" in wrong.message:
                    wrong.message += COUNT_FROM_1
                raise
            params[i], states[i] = read_step(result, params[i], states[i], before)
        for old, new in zip(chain(*run.gradients[:number]), chain(*gradients[:number])):
            if mismatch(new, old):
                raise Wrong(
                    "You change the gradient of an earlier step: a tensor in state is the gradient "
                    "itself, and you write into it. Keep a new tensor", show(old), show(new),
                )
        paths.append([param.clone() for param in params])
    candidate.given = "The function step after step, beginning with an empty state:"
    return after_steps(paths)


COUNT_FROM_1 = (
    ". 1 - beta ** step is 0 if step is 0: count the steps from 1, add 1 before you use the number"
)


def read_step(result: object, param: Tensor, state: dict, before: Tensor) -> tuple[Tensor, dict]:
    """Return parameter and state after a step, in whatever way the learner hands them back."""
    if isinstance(result, tuple | list):
        tensors = [item for item in result if isinstance(item, Tensor)]
        states = [item for item in result if isinstance(item, Mapping)]
        if len(result) != 2 or len(tensors) != 1 or len(states) != 1:
            raise Wrong(f"You return {kind(result)}: {ADAM_RETURNS}")
        (result,), (state,) = tensors, states
    elif isinstance(result, Mapping):
        result, state = None, result
    if result is None:
        if torch.equal(param, before):
            raise Wrong(
                "You return no parameter, and param has not changed: param = param - ... only "
                f"gives a new tensor the name param, inside the function. So {ADAM_RETURNS}"
            )
        return param, state
    if not isinstance(result, Tensor):
        raise Wrong(f"You return {kind(result)}: {ADAM_RETURNS}")
    if result.shape != before.shape or result.dtype != before.dtype:
        found = mismatch(result, before, "the new parameter")
        raise Wrong(found.message, found.expected, found.actual)
    return result, state


TOO_SMALL = "it begins at 0, so at first it is too small; divide it by"
KEPT = (
    "what the next call needs must stay in state: write it there, state['m'] = m, or return the "
    "state, too"
)
COMMON_MISTAKES: dict[str, dict] = {  # the misconception: what it changes in `adam`
    "You do not correct the bias: m and v begin at 0, so at first they are too small; divide them "
    "by 1 - beta ** step": {"correct_m": False, "correct_v": False},
    f"You do not correct m: {TOO_SMALL} 1 - beta_1 ** step": {"correct_m": False},
    f"You do not correct v: {TOO_SMALL} 1 - beta_2 ** step": {"correct_v": False},
    "You correct by 1 - beta, without the power: it is 1 - beta ** step, or your step count stays "
    "at 1": {"count": lambda t: 1},
    "You count the steps from 0: 1 - beta ** 0 is 0, and you divide by it. Add 1 first":
        {"count": lambda t: t - 1},
    "You count the steps from 2: add 1 once, before the correction": {"count": lambda t: t + 1},
    "You correct by (1 - beta) * step: it is 1 - beta ** step": {"power": lambda b, t: (1 - b) * t},
    "You multiply by 1 - beta ** step: divide by it":
        {"power": lambda b, t: 1 / (1 - b**t)},
    "You take eps under the root: it is added to the root, sqrt(v) + eps":
        {"root": lambda v, c, eps: (v / c + eps).sqrt()},
    "You add eps before v is corrected, so that the correction shrinks or stretches eps, too: "
    "sqrt(v / (1 - beta_2 ** step)) + eps": {"root": lambda v, c, eps: (v.sqrt() + eps) / c**0.5},
    "eps is missing: where v is 0 you divide by 0": {"root": lambda v, c, eps: (v / c).sqrt()},
    "You wrote eps = 1e-8 into the code: take the one that you are given":
        {"root": lambda v, c, eps: (v / c).sqrt() + 1e-8},
    "The square root is missing: divide by sqrt(v) + eps": {"root": lambda v, c, eps: v / c + eps},
    "You take the root of the correction twice: sqrt(v / (1 - beta_2 ** step))":
        {"root": lambda v, c, eps: v.sqrt() / c + eps},
    "The sign is wrong: you climb. The step goes against the gradient": {"sign": -1.0},
    "The betas have changed places: betas[0] belongs to m, betas[1] to v":
        {"exchange": True},
    "beta and 1 - beta have changed places: the old average keeps the share beta":
        {"swap": True},
    f"You do not keep m and v from step to step: {KEPT}": {"keep_m": False, "keep_v": False},
    f"You do not keep m from step to step: {KEPT}": {"keep_m": False},
    f"You do not keep v from step to step: {KEPT}": {"keep_v": False},
}
RARE_MISTAKES: dict[str, dict] = {
    "You keep the corrected m and v in state: keep them as they are, and correct them for this "
    "step only": {"keep_corrected": True},
    "The gradient enters m in full: its share is 1 - beta_1": {"gain_m": lambda b: 1.0},
    "The gradient enters m with the share beta_1: it should be 1 - beta_1":
        {"gain_m": lambda b: b},
    "The squared gradient enters v with the share beta_2: it should be 1 - beta_2":
        {"gain_v": lambda b: b},
    "The new values enter m and v with the share beta: it should be 1 - beta":
        {"gain_m": lambda b: b, "gain_v": lambda b: b},
    "The squared gradient enters v in full: its share is 1 - beta_2": {"gain_v": lambda b: 1.0},
    "m and v are sums: the old one keeps the share beta, the new gradient gets 1 - beta":
        {"gain_m": lambda b: 1.0, "gain_v": lambda b: 1.0, "fade": lambda b: 1.0},
    "v averages the gradient, not its square (so its root may be NaN)": {"square": lambda g: g},
    "v averages |g|, the size of the gradient: it needs the square": {"square": torch.abs},
    "v takes the mean square of the whole tensor: each weight has its own v":
        {"square": lambda g: (g**2).mean().expand_as(g)},
    "v squares m: it averages the square of the gradient": {"square_of_m": True},
    "You use the gradient itself instead of m above the fraction line": {"top": lambda m, g: g},
    "You use the sign of m only": {"top": lambda m, g: m.sign() * 1.0},
    "You decay the weights, too: that is AdamW. Adam takes nothing but the gradient":
        {"decay": 0.01},
    "You add weight decay to the gradient: Adam takes nothing but the gradient": {"penalty": 0.01},
    "You do not use lr": {"rate": lambda lr: 1.0},
    "You wrote lr = 0.001 into the code: take the one that you are given":
        {"rate": lambda lr: 1e-3},
}


def adam(run: Run, correct_m=True, correct_v=True, count=lambda t: t,
         power=lambda b, t: 1 - b**t, root=lambda v, c, eps: (v / c).sqrt() + eps, exchange=False,
         swap=False, keep_m=True, keep_v=True, keep_corrected=False, gain_m=lambda b: 1 - b,
         gain_v=lambda b: 1 - b, fade=lambda b: b, square=torch.square, square_of_m=False,
         top=lambda m, g: m, sign=1.0, decay=0.0, penalty=0.0, rate=lambda lr: lr,
         of_change=lambda param, new: new) -> dict[str, Tensor]:
    """Follow Adam with one piece replaced."""
    one, two = reversed(run.betas) if exchange else run.betas
    kept_one, kept_two = (1 - one, 1 - two) if swap else (one, two)
    params = list(run.params)
    m, v = ([torch.zeros_like(param) for param in params] for _ in range(2))
    paths = []
    for t, (step, lr) in enumerate(zip(run.gradients, run.rates), 1):
        changes = []
        for i, gradient in enumerate(step):
            gradient = gradient + penalty * params[i]
            old_m, old_v = m[i] * keep_m, v[i] * keep_v
            m[i] = fade(kept_one) * old_m + gain_m(kept_one) * gradient
            squared = square(m[i] if square_of_m else gradient)
            v[i] = fade(kept_two) * old_v + gain_v(kept_two) * squared
            c_m = torch.tensor(power(one, count(t)) if correct_m else 1.0, dtype=gradient.dtype)
            c_v = torch.tensor(power(two, count(t)) if correct_v else 1.0, dtype=gradient.dtype)
            change = top(m[i] / c_m, gradient) / root(v[i], c_v, run.eps)
            if keep_corrected:
                m[i], v[i] = m[i] / c_m, v[i] / c_v
            shrunk = params[i] * (1 - rate(lr) * decay)
            new = shrunk - sign * rate(lr) * change
            changes.append(of_change(params[i], new))
            params[i] = new
        paths.append(changes)
    return after_steps(paths)


def adam_mistakes() -> Iterator[tuple[str, Callable]]:
    """Plain rules, then each mistake, then each two common ones that touch different pieces."""
    still = {"rate": lambda lr: 0.0}
    yield "You return param as it came: subtract the step from it", partial(adam, **still)
    yield "You return grad as it came", lambda run: after_steps(run.gradients)
    plain = {"root": lambda v, c, eps: 1.0, "top": lambda m, g: g}
    yield "That is plain gradient descent: m and v are missing", partial(adam, **plain)
    yield (f"Each step is lr times the sign of the gradient, as if it were the first: {KEPT}",
           partial(adam, keep_m=False, keep_v=False, count=lambda t: 1))
    yield ("v is missing: that is gradient descent with momentum, divide by sqrt(v) + eps",
           partial(adam, root=lambda v, c, eps: 1.0))
    yield ("v is missing, and so is the correction of m: divide by sqrt(v) + eps",
           partial(adam, root=lambda v, c, eps: 1.0, correct_m=False))
    for message, change in (COMMON_MISTAKES | RARE_MISTAKES).items():
        yield message, partial(adam, **change)
    yield ("You return the change alone: subtract it from param",
           partial(adam, of_change=lambda param, new: param - new))
    yield ("You return the change alone: add it to param",
           partial(adam, of_change=lambda param, new: new - param))
    for (first, one), (second, two) in combinations(COMMON_MISTAKES.items(), 2):
        if not one.keys() & two.keys():
            yield f"{first}. Besides: {second}", partial(adam, **one, **two)


def explain_adam(args: tuple, actual: dict, expected: dict) -> str | None:
    """Name a result that does not depend on the step, or the first step that is wrong."""
    first, *others = actual.values()
    if len(args[0].params) == 1 and all(torch.equal(first, other) for other in others):
        return "You return the same after every step: it does not depend on the gradient"
    return None


ADAM = Exercise(
    name="adam_step",
    assignment="training",
    signature="adam_step(param, grad, state, lr, betas, eps) -> the new parameter, like param; "
    "grad like param; state a dict of this parameter, {} before the first step, which you fill "
    "as you like and get again at the next step (a function that needs a prepared state passes, "
    "too: the check lends it zeros); betas (beta_1, beta_2). Also right: change param in place, or "
    "return (param, state)",
    what="One step of Adam: the running average m of the gradient, divided by the root of v, the "
    "running average of its square; both corrected, since they begin at 0.",
    why="Nearly every Transformer is trained with Adam or with its child AdamW. Now its step, and "
    "the state that a checkpoint must keep, hold no secret for you.",
    difficulty=3,
    minutes=25,
    hints=(
        "What must the next call know of this one? Three things: put them into state.",
        "m = beta_1 m + (1 - beta_1) g and v = beta_2 v + (1 - beta_2) g²; then divide m by "
        "1 - beta_1 ** step and v by 1 - beta_2 ** step, where the first step has the number 1.",
        "param - lr * m_hat / (v_hat.sqrt() + eps), with state.get('m', 0) at the beginning and "
        "state.update(step=step, m=m, v=v), where m and v are not yet corrected.",
    ),
    forbidden=("torch.optim.", "torch.distributed.optim.", "_fused_adam_", "_fused_adamw_",
               "_fused_adam", "_fused_adamw"),
    mutable=(0, 2),
    examine=function_exam(
        torch_adam,
        adam_cases,
        mistakes=[*adam_mistakes()],
        returns="the parameter",
        explain=explain_adam,
        call=step_with_learners,
    ),
)


def checkpoint_cases(generator: Generator) -> Iterator[Case]:
    def states(count: int, dtype: torch.dtype = torch.float32, **shapes: tuple) -> list[dict]:
        return [
            {name: normal(generator, *shape, dtype=dtype) for name, shape in shapes.items()}
            for _ in range(count)
        ]

    yield Case("four checkpoints, one tensor", (states(4, w=(3,)),))
    yield Case("two checkpoints", (states(2, w=(2,)),), "you take for granted that there are four")
    yield Case("three checkpoints, three tensors", (states(3, w=(2, 3), bias=(3,), scale=()),),
               "you take for granted one tensor, or one shape")
    mixed = states(2, w=(2,), bias=(2,))
    yield Case("names in another order", ([mixed[0], dict(reversed(mixed[1].items()))],),
               "you pair tensors by their order: pair them by name")
    yield Case("one checkpoint", (states(1, w=(2,), bias=(2,)),),
               "you take for granted that there is more than one")
    yield Case("float64", (states(3, torch.float64, w=(3,)),), "somewhere you go through float32")


def each_name(mean: Callable[[list[Tensor]], Tensor]) -> Callable[[list[dict]], dict]:
    return lambda states: {name: mean([state[name] for state in states]) for name in states[0]}


mean_by_name = each_name(lambda tensors: torch.stack(tensors).mean(0))


def running_halves(tensors: list[Tensor]) -> Tensor:
    mean = tensors[0]
    for tensor in tensors[1:]:
        mean = (mean + tensor) / 2
    return mean


def by_order(states: list[dict]) -> dict:
    columns = zip(*(state.values() for state in states))
    return {name: torch.stack(column).mean(0) for name, column in zip(states[0], columns)}


def average_with_learners(candidate: Candidate, args: tuple) -> object:
    result = candidate(*args)
    if mismatch(result, mean_by_name(*args)) is None:
        memory = {t.untyped_storage().data_ptr() for state in args[0] for t in state.values()}
        for name, mean in result.items():
            if mean.untyped_storage().data_ptr() in memory:
                raise Wrong(
                    f"Your mean of {name!r} shares its memory with a checkpoint: whoever goes on "
                    "training from the mean changes the checkpoint, too. Make a new tensor (clone, "
                    "or total = total + tensor)",
                    given=candidate.given,
                )
    return result


def explain_keys(args: tuple, actual: object, expected: dict) -> str | None:
    """Say which names are lost, or what was made of them."""
    if isinstance(actual, Mapping) and actual.keys() < expected.keys():
        lost = ", ".join(repr(name) for name in expected if name not in actual)
        return f"The names {lost} are lost: the mean has every name of the checkpoints"
    if isinstance(actual, list | tuple) and len(actual) == len(expected):
        return "You return the means without their names: return a dict, name -> mean"
    if isinstance(actual, Mapping) and all(
        isinstance(mean, float) or getattr(mean, "shape", None) == () for mean in actual.values()
    ):
        return (
            "You take the mean over the numbers of a tensor, too: only over the checkpoints, so "
            "that each tensor keeps its shape (torch.stack(...).mean(0))"
        )
    return None


AVERAGE = Exercise(
    name="average_checkpoints",
    assignment="training",
    signature="average_checkpoints(states): list of one or more dicts name -> tensor, the same "
    "names and shapes in each -> a new dict name -> mean, like the tensors; the states "
    "stay as they are",
    what="The mean of the weights of several checkpoints, name by name, as in the paper's section "
    "6.1.",
    why="The paper's results are those of a mean of 5 or 20 checkpoints. It costs nothing at "
    "translation time, and it evens out the noise of the last batches.",
    difficulty=1,
    minutes=10,
    hints=(
        "What is the mean of three tensors of the same shape? And who else holds the first one?",
        "For each name, add that name's tensors up into a new tensor, then divide once by "
        "len(states). total += would write into the first checkpoint.",
        "torch.stack([state[name] for state in states]).mean(0), for each name of states[0]",
    ),
    forbidden=("torch.optim.",),
    examine=function_exam(
        mean_by_name,
        checkpoint_cases,
        mistakes=[
            ("You return the sum: divide it by the number of checkpoints",
             each_name(lambda tensors: sum(tensors))),
            ("You return the first checkpoint only", each_name(lambda tensors: tensors[0])),
            ("You return the last checkpoint only: each one overwrites the one before it",
             each_name(lambda tensors: tensors[-1])),
            ("You halve again and again, ((a + b) / 2 + c) / 2: the last checkpoint weighs more "
             "than the first. Add all up, then divide once", each_name(running_halves)),
            ("You divide by 2, however many checkpoints there are: divide by len(states)",
             each_name(lambda tensors: sum(tensors) / 2)),
            ("You average the first and the last only",
             each_name(lambda tensors: (tensors[0] + tensors[-1]) / 2)),
            ("You leave the first checkpoint out of the sum",
             each_name(lambda tensors: sum(tensors[1:]) / len(tensors))),
            ("You leave the last checkpoint out of the sum",
             each_name(lambda tensors: sum(tensors[:-1]) / len(tensors))),
            ("You leave the last checkpoint out",
             each_name(lambda tensors: sum(tensors[:-1]) / (len(tensors) - 1))),
            ("You leave the first checkpoint out",
             each_name(lambda tensors: sum(tensors[1:]) / (len(tensors) - 1))),
            ("The first checkpoint counts twice: it is the start of your sum and the first of the "
             "loop", each_name(lambda tensors: (tensors[0] + sum(tensors)) / len(tensors))),
            ("You divide by the number of names, len(state): divide by the number of checkpoints, "
             "len(states)",
             lambda states: {k: sum(s[k] for s in states) / len(states[0]) for k in states[0]}),
            ("You divide by one less than the number of checkpoints",
             each_name(lambda tensors: sum(tensors) / (len(tensors) - 1))),
            ("You divide by one more than the number of checkpoints",
             each_name(lambda tensors: sum(tensors) / (len(tensors) + 1))),
            ("You take the median: it needs the mean",
             each_name(lambda tensors: torch.stack(tensors).median(0).values)),
            ("You take the largest value: it needs the mean",
             each_name(lambda tensors: torch.stack(tensors).amax(0))),
            ("You pair the tensors by their order: pair them by name, state[name]", by_order),
            ("You put the checkpoints side by side: take their mean, torch.stack(...).mean(0)",
             each_name(torch.stack)),
            ("You put the checkpoints side by side: take their mean, torch.stack(...).mean(0)",
             each_name(torch.cat)),
        ],
        returns="the mean",
        explain=explain_keys,
        call=average_with_learners,
    ),
)

EXERCISES = (RATE, LOSS, ADAM, AVERAGE)
