"""A device that is not there: tensors marked as standing on it; a CPU then sees a GPU's mistakes.

Everything is computed on the CPU. Inside of `Elsewhere`, a tensor that was made on DEVICE or moved
there says so, and so do all results. Where a marked tensor meets an unmarked one, RuntimeError is
raised, as a GPU does (it forgives numbers without a dimension, and indices); where a value of a
marked tensor is read back, so that the processor must wait, the place is written down.
"""

import traceback
from collections import Counter
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

DEVICE = torch.device("privateuseone")
ATEN = torch.ops.aten
SIZES_DEPEND_ON_VALUES = {  # the processor waits, to know how large the result is
    ATEN.nonzero.default, ATEN.masked_select.default, ATEN._unique2.default,
    ATEN.repeat_interleave.Tensor,
}
READS = {ATEN._local_scalar_dense.default, ATEN.equal.default, ATEN.is_nonzero.default}
INDEXES = {ATEN.index.Tensor, ATEN.index_put_.default, ATEN._index_put_impl_.default,
           ATEN._unsafe_index.Tensor}
GET_DEVICE = torch.Tensor.device.__get__
READERS = {torch.Tensor.tolist: "tolist", torch.Tensor.numpy: "numpy"}


def is_there(device: object) -> bool:
    """Return whether this names the device that is not there."""
    return device is not None and not isinstance(device, int) and (
        str(device).partition(":")[0] == DEVICE.type)


def place() -> str:
    """Return the function of the course that is being run, as module.function."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.parent.name in ("course", "viz"):
            return f"{path.stem}.{frame.name}"
    return "test"


class Elsewhere(TorchDispatchMode):
    """The marks, and the read-backs as a counter of (place, what)."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, object] = {}  # a storage that is kept is not made anew elsewhere
        self.read_back: Counter[tuple[str, str]] = Counter()
        self.functions = Functions(self)

    def __enter__(self):
        super().__enter__()
        self.functions.__enter__()
        return self

    def __exit__(self, *error):
        self.functions.__exit__(*error)
        return super().__exit__(*error)

    def mark(self, x: torch.Tensor) -> torch.Tensor:
        """Say that a tensor stands on the device."""
        storage = x.untyped_storage()
        self.kept[storage._cdata] = storage
        return x

    def marked(self, x: torch.Tensor) -> bool:
        """Return whether a tensor stands on the device."""
        return x.untyped_storage()._cdata in self.kept

    def reads(self, what: str) -> None:
        """Write down that a value is read back here."""
        self.read_back[place(), what] += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        there = [x for x in tensors if self.marked(x)]
        if there and func in READS:
            self.reads(func._schema.name.partition("::")[2].strip("_"))
            return func(*args, **kwargs)
        if there:
            here = [x for x in tensors if x.dim() and not self.marked(x)]
            if func in INDEXES:
                indices = [x for x in args[1] if x is not None]
                here = [x for x in here if not any(x is index for index in indices)]
                if any(x.dtype == torch.bool for x in indices):
                    self.reads("boolean index")
            if here and func is not ATEN.copy_.default and here[0].numel():
                raise RuntimeError(f"{func}: a tensor {tuple(here[0].shape)} stands on the "
                                   f"processor, another one on the device (in {place()})")
            if func is ATEN.copy_.default and not self.marked(args[0]):
                self.reads("copy")
                return func(*args, **kwargs)
            if func in SIZES_DEPEND_ON_VALUES:
                self.reads(func._schema.name.partition("::")[2])
        found = func(*args, **kwargs)
        if there:
            tree_map_only(torch.Tensor, self.mark, found)
        return found


class Functions(TorchFunctionMode):
    """What has to be seen before it reaches the operations: devices that are named, and lists."""

    def __init__(self, marks: Elsewhere) -> None:
        super().__init__()
        self.marks = marks

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, marks = dict(kwargs or {}), self.marks
        if func == GET_DEVICE:
            return DEVICE if marks.marked(args[0]) else func(*args, **kwargs)
        if func in READERS and marks.marked(args[0]):
            marks.reads(READERS[func])
            return func(*args, **kwargs)
        if func is torch.Tensor.cpu:
            return self.moved((args[0], torch.device("cpu")), kwargs)
        if func is torch.Tensor.to:
            return self.moved(args, kwargs)
        if is_there(kwargs.get("device")):
            kwargs["device"] = torch.device("cpu")
            found = func(*args, **kwargs)
            return marks.mark(found) if isinstance(found, torch.Tensor) else found
        return func(*args, **kwargs)

    def moved(self, args, kwargs):
        """Move a tensor: to the device with a mark, away from it as a read-back."""
        x, rest = args[0], list(args[1:])
        target = kwargs.get("device", rest[0] if rest else None)
        if isinstance(target, torch.Tensor):
            target = DEVICE if self.marks.marked(target) else torch.device("cpu")
        named = isinstance(target, (torch.device, str))
        if not named:
            return torch.Tensor.to(*args, **kwargs)
        if rest:
            rest[0] = torch.device("cpu")
        else:
            kwargs["device"] = torch.device("cpu")
        kwargs.pop("non_blocking", None)
        if is_there(target):
            copy = x if self.marks.marked(x) else x.clone()
            return self.marks.mark(copy.to(*rest, **kwargs))
        if self.marks.marked(x):
            if traceback.extract_stack(limit=4)[0].filename.endswith("clip_grad.py"):
                return x  # torch asks its C++ for the device, which does not know of the marks
            self.marks.reads("to cpu")
            x = torch.Tensor.clone(x).detach()
            self.marks.kept.pop(x.untyped_storage()._cdata, None)
        return torch.Tensor.to(x, *rest, **kwargs)
