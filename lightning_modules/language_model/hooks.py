"""Hooks for the length of a block: who is called with what, and a map's output moved."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Call(NamedTuple):
    """A call of a module between hidden states.

    Attributes:
        inputs: its first argument.
        output: what it returned, or the first of several.
        several: whether it returned a sequence.
    """

    inputs: Tensor
    output: Tensor
    several: bool


Calls = Mapping[nn.Module, list[Call]]  # in the order in which the modules first returned


def first(output: Any) -> Any:
    """What a module returned, or the first of several."""
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
    """Inside, a linear map returns ``change (b, d)`` more at token ``places (b,)`` of each text."""
    rows = torch.arange(len(places), device=places.device)

    def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        texts = output.reshape(len(places), -1, output.shape[-1])
        return texts.index_put((rows, places), change, accumulate=True).view_as(output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
