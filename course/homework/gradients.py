"""Compare gradients: a function that models are trained through must let them pass."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from types import CodeType

import torch
from torch import Generator, Tensor
from torch.nn import Parameter

from course.homework.values import Mismatch, show

# names in a candidate's code that cut a tensor off from its past: how it is written, the way out
CUTS = {
    "no_grad": ("torch.no_grad", "leave it out, who only uses the model says so outside"),
    "inference_mode": ("torch.inference_mode", "leave it out, who only uses the model says so "
                       "outside"),
    "decorate_context": ("torch.no_grad", "leave it out, who only uses the model says so outside"),
    "detach": (".detach()", "leave it out"),
    "detach_": (".detach_()", "leave it out"),
    "data": (".data", "take the tensor itself"),
    "numpy": ("numpy", "stay with torch's functions, numpy knows no gradients"),
    "item": (".item()", "calculate with x[i] itself, and join tensors by torch.stack"),
    "tolist": (".tolist()", "calculate with the tensors themselves, and join them by torch.stack"),
    "tensor": ("torch.tensor(...)", "join tensors by torch.stack, which keeps their past"),
    "as_tensor": ("torch.as_tensor(...)", "join tensors by torch.stack, which keeps their past"),
    "FloatTensor": ("torch.FloatTensor(...)", "join tensors by torch.stack"),
}


def cut(
    run: Callable[[tuple], object], reference: Callable, args: tuple, names: Sequence[str],
    learns: Callable[[object], Tensor], generator: Generator, thing: object,
) -> Mismatch | None:
    """Return how gradients differ from the reference's, for arguments whose values were right.

    run: calls the candidate with a tuple of arguments. names: of the arguments. learns: picks from
    a result the tensor that a model learns through. thing: what the learner wrote.
    """
    def with_leaves() -> tuple:
        return tuple(a.detach().clone().requires_grad_() if _floats(a) else a for a in args)

    def slopes(function: Callable[[tuple], object]) -> list[Tensor] | None:
        given = with_leaves()
        result = learns(function(given))
        if not result.requires_grad:
            return None
        leaves = [a for a in given if _floats(a)]
        return list(torch.autograd.grad(result, leaves, probe, materialize_grads=True))

    right = learns(reference(*with_leaves()))
    if not right.requires_grad:
        return None
    probe = torch.randn(right.shape, generator=generator, dtype=torch.float64).to(right.dtype)
    expected = slopes(lambda given: reference(*given))
    try:
        actual = slopes(run)
    except Exception as error:
        if "inplace operation" in str(error):
            return Mismatch("The values are right, but the gradient can't flow back: you change a "
                            f"tensor in place which it needs. Make a new one. ({error})")
        return Mismatch(_verdict(f"gradients can't flow back through it ({error})", thing))
    if actual is None:
        return Mismatch(_verdict("no gradient flows back from your result", thing))
    floating = [name for name, a in zip(names, args) if _floats(a)]
    for name, a, e in zip(floating, actual, expected):
        finite = e.isfinite()
        a, e = torch.where(finite, a, 0), torch.where(finite, e, 0)
        if not bool(((a - e).abs() <= 1e-3 * e.abs().max() + 1e-6).all()):
            what = (f"what flows back to {name} is not right" if a.any() else
                    f"nothing flows back to {name}")
            title = f"the gradient for {name}\n"
            return Mismatch(_verdict(what, thing), title + show(e), title + show(a))
    return None


def cut_module(
    run: Callable[[], Tensor], leaves: dict[str, Tensor], generator: Generator, thing: object
) -> str | None:
    """Say where the gradients of a module are cut, which has no reference; None: nowhere.

    Each leaf (float64) is moved a little in a random direction. What the output then does is
    compared with what its gradient promised. run: the output, computed anew from the leaves.
    """
    trained = [leaf for leaf in leaves.values() if not leaf.requires_grad]
    for leaf in trained:
        leaf.requires_grad_(True)
    try:
        output = run()
        probe = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        if not output.requires_grad:
            return _verdict("no gradient flows back from your output", thing)
        slopes = torch.autograd.grad(
            (output * probe).sum(), [*leaves.values()], allow_unused=True, materialize_grads=True
        )
    finally:
        for leaf in trained:
            leaf.requires_grad_(False)
    ways = [torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
            for leaf in leaves.values()]

    def promised(which: Sequence[int], step: float) -> tuple[float, float]:
        """Return the change that gradients promise, and the one measured, for these leaves."""
        ends = []
        with torch.no_grad():
            for factor in (1, -2, 1):
                for i in which:
                    [*leaves.values()][i].add_(ways[i], alpha=factor * step)
                if factor < 2 and len(ends) < 2:
                    ends.append((run() * probe).sum().item())
        found = sum((slopes[i] * ways[i]).sum().item() for i in which)
        return found, (ends[0] - ends[1]) / (2 * step)

    def differ(which: Sequence[int]) -> bool:
        # a cut shows at every step; a small one drowns where something is rounded to float32
        for step, share in ((1e-6, 1e-3), (1e-4, 1e-2), (1e-3, 3e-2)):
            found, measured = promised(which, step)
            if abs(found - measured) <= share * max(abs(found), abs(measured)) + 1e-5:
                return False
        return True

    # each input alone: among the slopes of all weights, half of its own would not be seen
    inputs = [i for i, leaf in enumerate(leaves.values()) if not isinstance(leaf, Parameter)]
    if not any(map(differ, [range(len(leaves)), *([i] for i in inputs)])):
        return None
    guilty = [name for i, name in enumerate(leaves) if differ([i])]
    what = f"what flows back to {guilty[0]} is not right" if guilty else "not what flows back"
    return _verdict(what, thing)


def _floats(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _verdict(what: str, thing: object) -> str:
    """Name the misconception and the way out."""
    used = {name for code in _codes(thing) for name in (*code.co_names, code.co_name)}
    found = [f"{how} cuts a tensor off from its past: {way}"
             for name, (how, way) in CUTS.items() if name in used]
    if not found:
        found = ["Somewhere the calculation leaves torch's tensors (detach, .data, no_grad, item, "
                 "numpy, torch.tensor, or a change in place): go on with the tensors themselves"]
    return (f"You cut the gradient: the values are right, but {what}, so nothing before it could "
            f"learn. {'. '.join(dict.fromkeys(found))}")


def _codes(thing: object) -> Iterator[CodeType]:
    """Yield the code of a function or a class, of what is nested in it, and of its helpers."""
    waiting, seen = [*thing] if isinstance(thing, list) else [thing], set()
    while waiting:
        part = waiting.pop()
        if isinstance(part, type):
            waiting += [value for value in vars(part).values() if inspect.isfunction(value)]
        elif inspect.isfunction(part):
            waiting += [part.__code__, getattr(part, "__wrapped__", None)]
            if part.__code__ not in seen and not (part.__module__ or "").startswith("torch."):
                near = [cell.cell_contents for cell in part.__closure__ or ()]
                near += [part.__globals__.get(name) for name in part.__code__.co_names]
                waiting[:0] = [helper for helper in near if inspect.isfunction(helper)
                               and helper.__module__ == part.__module__]
        elif isinstance(part, CodeType) and part not in seen:
            seen.add(part)
            yield part
            waiting += part.co_consts
