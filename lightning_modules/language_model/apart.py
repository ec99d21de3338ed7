"""Several edits of one model in one pass, without touching its weights."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@contextmanager
def edited_apart(
    lm: PreTrainedModel, changes: dict[str, Sequence[tuple[Tensor, Tensor]]]
) -> Iterator[None]:
    """Inside, a batch is n equal parts; each part sees the model under its own edit.

    A linear map returns ``W k + left_i (right_i k)``: the base product plus the part's own term.

    Args:
        lm: the model, unedited.
        changes: per weight, n pairs ``left (out, r)``, ``right (r, in)``; the rank may differ
            between weights, but not between parts.
    """
    with ExitStack() as stack:
        for name, pairs in changes.items():
            module = lm.get_submodule(name.rpartition(".")[0])
            like = lm.get_parameter(name)
            left, right = (torch.stack(part).to(like) for part in zip(*pairs, strict=True))
            stack.callback(module.register_forward_hook(_adding(left, right)).remove)
        yield


def _adding(left: Tensor, right: Tensor) -> Callable:
    """A hook that adds ``left (n, out, r) @ right (n, r, in)`` to the parts of a map's output."""

    def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        keys = args[0].reshape(len(left), -1, right.shape[-1])
        term = keys @ right.mT @ left.mT
        return output + term.view_as(output)

    return hook
