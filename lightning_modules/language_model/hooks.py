"""Hooks within a context: record module calls, or shift a linear map's output."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Call(NamedTuple):
    """A module's call from hidden states to hidden states.

    Attributes:
        inputs: its first argument.
        output: the returned tensor, or the first of several.
        several: whether the module returned a sequence.
    """

    inputs: Tensor
    output: Tensor
    several: bool


Calls = Mapping[nn.Module, list[Call]]  # in the order in which the modules first returned


def first(output: Any) -> Any:
    """A module's output, or the first of several."""
    return output[0] if isinstance(output, tuple | list) and output else output


@contextmanager
def tracing_calls(root: nn.Module) -> Iterator[dict[nn.Module, list[Call]]]:
    """Collects the calls of all modules of a model."""
    calls: dict[nn.Module, list[Call]] = {}

    def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        given = args[0] if args else kwargs.get("hidden_states")
        if isinstance(given, Tensor) and isinstance(first(output), Tensor):
            call = Call(given, first(output), isinstance(output, tuple | list))
            calls.setdefault(module, []).append(call)

    with ExitStack() as stack:
        for module in root.modules():
            handle = module.register_forward_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        yield calls


@contextmanager
def moving(module: nn.Module, change: Tensor, places: Tensor) -> Iterator[None]:
    """Inside, ``change (b, d)`` is added to a linear map's output at tokens ``places (b,)``."""
    rows = torch.arange(len(places), device=places.device)

    def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        texts = output.reshape(len(places), -1, output.shape[-1])
        there = rows.to(output.device), places.to(output.device)
        moved = texts.index_put(there, change.to(output.device), accumulate=True)
        return moved.view_as(output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
