"""A device beside the CPU on every machine: torch's lazy backend, and what it does wrong put right.

It computes on the CPU, but a tensor of its own does not meet one of the CPU's without an error, as
on a GPU.
"""

from functools import cache
from typing import Any

import torch
import torch._lazy.ts_backend
from torch import Tensor
from torch.overrides import TorchFunctionMode

NAME = "lazy"


def elsewhere(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.device.type == NAME


def parts(tensor: Tensor, sizes: int | list[int], dim: int = 0) -> tuple[Tensor, ...]:
    """The backend itself splits into tensors of the CPU."""
    length = tensor.shape[dim]
    if isinstance(sizes, int):
        sizes = [min(sizes, length - at) for at in range(0, length, sizes)]
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    return tuple(tensor.narrow(dim, *place) for place in zip(starts, sizes, strict=True))


def halves(tensor: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    return parts(tensor, -(-tensor.shape[dim] // chunks), dim)


def rows(tensor: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    return tuple(tensor.select(dim, at) for at in range(tensor.shape[dim]))


def joined(tensors: Any, *args: Any, **kwargs: Any) -> Tensor:
    """The backend itself refuses an empty tensor of one dimension."""
    return torch.cat([part for part in tensors if part.numel()] or tensors[:1], *args, **kwargs)


MENDED = {
    Tensor.unbind: rows,
    torch.unbind: rows,
    Tensor.__iter__: lambda tensor: iter(rows(tensor)),
    Tensor.split: parts,
    torch.split: parts,
    Tensor.chunk: halves,
    torch.chunk: halves,
    Tensor.tolist: lambda tensor: tensor.cpu().tolist(),
}


class SecondDevice(TorchFunctionMode):
    """Inside, the lazy backend behaves like any device."""

    def __init__(self) -> None:
        super().__init__()
        start()

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if args and function in MENDED and elsewhere(args[0]):
            return MENDED[function](*args, **kwargs)
        if function is torch.cat and any(elsewhere(part) for part in args[0]):
            with torch._C.DisableTorchFunction():
                return joined(*args, **kwargs)
        found = function(*args, **kwargs)
        if kwargs.get("generator") is not None and elsewhere(found):  # all generators are the CPU's
            raise RuntimeError(f"Expected a '{NAME}' device type for generator but found 'cpu'")
        return found


@cache
def start() -> None:
    torch._lazy.ts_backend.init()
