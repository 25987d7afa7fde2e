"""A stand-in for a GPU: tensors that say they are on another device and compute on the CPU.

`torch.device("meta")` is that device while `elsewhere()` is active. What a GPU would refuse is
refused: to mix its tensors with those of the CPU, and to hand them to numpy.
"""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
# Copies from device to device, and a tensor of the GPU indexed by one of the CPU.
MAY_MIX = {
    torch.ops.aten._to_copy.default,
    torch.ops.aten.copy_.default,
    torch.ops.aten.index.Tensor,
}


class Elsewhere(torch.Tensor):
    """A tensor whose numbers are in `here`, on the CPU."""

    here: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> "Elsewhere":
        """Wrap a tensor of the CPU."""
        made: Elsewhere = torch.Tensor._make_wrapper_subclass(
            cls, here.shape, here.stride(), here.storage_offset(), dtype=here.dtype, device=DEVICE
        )
        made.here = here
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Elsewhere({self.here})"

    def __format__(self, form: str) -> str:
        """Of a single number, as everywhere."""
        return format(self.item() if self.dim() == 0 else repr(self), form)

    def __getitem__(self, index: Any) -> Any:
        """With a list as an index, which `_FromLists` would not see."""
        index = index if isinstance(index, tuple) else (index,)
        return super().__getitem__(
            tuple(torch.tensor(i) if isinstance(i, list) else i for i in index)
        )

    def tolist(self) -> Any:
        """A copy, which a GPU allows; torch does not, of a class that is not its own."""
        return self.here.tolist()

    def new_tensor(self, data: Any, dtype: torch.dtype | None = None) -> torch.Tensor:  # type: ignore[override]
        """As `_FromLists` has it."""
        return torch.tensor(data, dtype=dtype or self.dtype).to(DEVICE)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every operation on such a tensor."""
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute on the CPU and say that the result is on the device of the arguments."""
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    there = [t for t in tensors if isinstance(t, Elsewhere)]
    here = [t for t in tensors if not isinstance(t, Elsewhere) and t.dim() > 0]
    if any(t.device == DEVICE for t in tensors if not isinstance(t, Elsewhere)):
        raise RuntimeError(
            f"{func} of a tensor that torch made on its meta device, with no numbers"
        )
    if there and here and func not in MAY_MIX:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, in {func}: "
            f"{[tuple(t.shape) for t in here]} are on the CPU"
        )
    target = kwargs.get("device")
    if target is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    wrapped = bool(there) if target is None else torch.device(target) == DEVICE
    given = {id(t.here): t for t in there}
    args, kwargs = tree_map(lambda t: t.here if isinstance(t, Elsewhere) else t, (args, kwargs))
    result = func(*args, **kwargs)
    if not wrapped:
        return result
    return tree_map(
        # What an operation changed in place is the tensor it was given.
        lambda t: given.get(id(t), Elsewhere(t)) if isinstance(t, torch.Tensor) else t,
        result,
    )


class _Factories(TorchDispatchMode):
    """New tensors, and those of the CPU that are moved."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class _FromLists(TorchFunctionMode):
    """Tensors of numbers, which torch would make without numbers on its own meta device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        if func in (torch.tensor, torch.as_tensor) and device is not None:
            return func(*args, **kwargs | {"device": "cpu"}).to(device)
        return func(*args, **kwargs)


@contextlib.contextmanager
def elsewhere() -> Iterator[torch.device]:
    """While it is active, tensors can be sent to the device that it yields."""
    fused = "torch.optim.optimizer._get_fused_kernels_supported_devices"
    with mock.patch(fused, lambda: ["cpu", "meta"]), _Factories(), _FromLists():
        yield DEVICE
