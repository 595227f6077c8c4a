"""Watch a candidate while it runs: which functions it calls, and whether it ever returns."""

import ctypes
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType

from torch.overrides import TorchFunctionMode

# libraries that hold ready answers: no exercise may be solved by calling them
READY_MADE = (
    "course", "sacrebleu", "nltk", "tokenizers", "sentencepiece", "transformers", "torchtext",
    "torchmetrics", "evaluate", "xformers", "x_transformers",
)
# ways round this watch: compiled code, a thread or a process that nobody watches
DETOURS = ("torch.jit.", "threading.Thread.start.", "multiprocessing.", "subprocess.")
# every door to autograd; torch.no_grad and torch.vmap, which live beside them, stay open
AUTOGRAD = (
    "backward", "grad", "grad_fn", "torch._functorch.eager_transforms.",
    "torch._functorch.aot_autograd.", "torch._functorch._aot_autograd.", "torch._C.run_backward.",
    "torch.autograd.functional.", "torch.autograd.graph.", "torch.autograd.forward_ad.",
    "torch.autograd.gradcheck.",
)
# what only somebody writes who wants to see, to switch off or to get round the check
INSIDE = {"_getframe", "currentframe", "setprofile", "settrace", "DisableTorchFunction",
          "DisableTorchFunctionSubclass", "__torch_function__", "_refs", "_decomp",
          "_prims"}


class ForbiddenCall(BaseException):
    """The candidate called what it was asked to write. Not an Exception: `except` lets it pass."""


class Stopped(BaseException):
    """Raised inside a candidate's thread when its time is over."""


class _TorchCalls(TorchFunctionMode):
    """Sees torch's functions under the names by which they are called."""

    def __init__(self, see: Callable[[str, tuple, dict], None]) -> None:
        super().__init__()
        self.see = see

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", str(func))
        reader = sys._getframe(1).f_globals.get("__name__") or ""
        if name == "__get__" and not reader.startswith("torch."):  # an attribute: tensor.grad_fn
            name = getattr(func.__self__, "__name__", name)
        self.see(name, args, kwargs or {})
        return func(*args, **kwargs or {})


def looks_inside(thing: object) -> str | None:
    """Return a name by which a candidate's code looks into the check, or None."""
    parts = vars(thing).values() if isinstance(thing, type) else [thing]
    codes = [getattr(part, "__code__", None) for part in parts]
    codes = [code for code in codes if isinstance(code, CodeType)]
    while codes:
        code = codes.pop()
        if found := INSIDE.intersection(code.co_names):
            return found.pop()
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return None


@contextmanager
def forbidding(names: tuple[str, ...], allowed: set[CodeType]) -> Iterator[None]:
    """Raise ForbiddenCall, inside the block and on leaving it, for a call that is not allowed.

    names: names of torch functions or attributes ("softmax", "grad_fn"), of modules or what they
    hold, with a final dot ("torch.optim.", "torch._C.run_backward."), or a function with a number
    for one argument ("cross_entropy(label_smoothing)", or by its place, "cross_entropy_loss(5)").
    READY_MADE is always forbidden. allowed: the code of functions and methods that were handed to
    the candidate.
    """
    modules = (*DETOURS, *(name for name in names if name.endswith(".")))
    caught: list[str] = []

    def refuse(name: str) -> None:
        caught.append(name)
        raise ForbiddenCall(name)

    def see_torch(name: str, args: tuple, kwargs: dict) -> None:
        arguments = (*enumerate(args), *kwargs.items())
        given = (key for key, value in arguments if isinstance(value, float) and value)
        name = name.removeprefix("special_")
        used = {name, *(f"{name}({key})" for key in given)}
        if used & set(names):
            refuse(f"torch's {name}")

    def see_python(frame, event: str, argument) -> None:
        if event == "call" and frame.f_code not in allowed:
            module, name = frame.f_globals.get("__name__") or "", frame.f_code.co_qualname
            if module == "torch._ops" and frame.f_code.co_name == "__call__":
                operator = frame.f_locals["self"]  # torch.ops.aten.softmax and the like
                args, kwargs = frame.f_locals["args"], frame.f_locals["kwargs"]
                see_torch(operator.__name__.partition(".")[0], args, kwargs)
        elif event == "c_call":
            owner = getattr(argument, "__self__", None)
            module = getattr(argument, "__module__", None) or type(owner).__module__ or ""
            name = argument.__name__
        else:
            return
        if module in (__name__, "course.homework.checking", "course.homework.errors"):
            return  # the watch itself
        if module.partition(".")[0] in READY_MADE or f"{module}.{name}.".startswith(modules):
            refuse(f"{module}.{name}".removesuffix(".<module>").removesuffix(".__init__"))

    with _TorchCalls(see_torch):
        sys.setprofile(see_python)
        try:
            yield
        finally:
            sys.setprofile(None)
    if caught:  # the candidate swallowed the exception
        raise ForbiddenCall(caught[0])


class Clock:
    """How long the present call to the candidate has lasted; read by another thread."""

    def __init__(self) -> None:
        self.begun: float | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        self.begun = time.monotonic()
        try:
            yield
        finally:
            self.begun = None

    def seconds(self) -> float:
        begun = self.begun
        return 0.0 if begun is None else time.monotonic() - begun


def run_in_time(body: Callable[[], object], clock: Clock, limit: float) -> object:
    """Run body in a thread of its own; return its result or raise what it raised.

    Raises TimeoutError when one call timed by `clock` lasts longer than `limit` seconds. The thread
    is then asked to stop; one that does not listen goes on as a daemon.
    """
    outcome: dict[str, object] = {}

    def run() -> None:
        try:
            outcome["result"] = body()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.05)
            if clock.seconds() > limit:
                raise TimeoutError
    finally:
        patience = time.monotonic() + 1
        while thread.is_alive() and time.monotonic() < patience:  # an `except:` can swallow a stop
            ident = ctypes.c_ulong(thread.ident)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(Stopped))
            thread.join(0.05)
    if "error" in outcome:
        raise outcome["error"]
    return outcome.get("result")
