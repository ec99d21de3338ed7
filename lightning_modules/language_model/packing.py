"""Weights of linear maps in oneDNN's own layouts, kept for passes that use them again and again."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .layout import blocks

ROWS = 64  # of an input, that layouts suit; the same in every run, since bits may depend on it


class Packed(NamedTuple):
    """A weight in layouts that only oneDNN reads.

    Attributes:
        onward: ``(out, in)``, for the map.
        backward: ``(in, out)``, for gradients of its input.
        state: storage and version of the weight that was packed; any change alters it.
    """

    onward: Tensor
    backward: Tensor
    state: tuple[int, int]


class Packs:
    """Packed weights; without them oneDNN reorders a weight for every product.

    A weight that changes is packed anew. Weights are packed at their first use, while they fit into
    the budget; products with float32 packs have the same bits as without.

    Args:
        dtype: that products are computed in; sums are float32 in either case.
        budget: most bytes of all packs.
    """

    def __init__(self, dtype: torch.dtype, budget: float) -> None:
        self.dtype, self.budget = dtype, budget
        self.kept: dict[nn.Module, Packed] = {}

    def of(self, module: nn.Module, weight: Tensor) -> Packed | None:
        """A map's packed weight, given its weight ``(out, in)``; None if it does not fit."""
        state = weight.data_ptr(), weight._version
        held = self.kept.get(module)
        if held is None or held.state != state:
            size = self._size(weight)
            self.budget += size if self.kept.pop(module, None) else 0
            if size > self.budget:
                return None
            self.budget -= size
            part = weight.detach().to(self.dtype)
            self.kept[module] = Packed(_packed(part), _packed(part.T), state)
        return self.kept[module]

    def most(self, lm: PreTrainedModel, layer: int) -> float:
        """Bytes that searches at a layer keep at most, in a model that was not searched yet."""
        if lm.dtype != torch.float32 or lm.device.type != "cpu":
            return 0
        below = {part for block in blocks(lm)[: layer + 1] for part in block.modules()}
        maps = [part for part in lm.modules() if _packable(part) and part not in below]
        return min(self.budget, sum(self._size(part.get_parameter("weight")) for part in maps))

    def _size(self, weight: Tensor) -> int:
        return 2 * weight.numel() * self.dtype.itemsize

    @contextmanager
    def used(self, lm: PreTrainedModel) -> Iterator[None]:
        """Inside, the model's fast linear maps multiply with packed weights."""
        maps = list(filter(_packable, lm.modules()))
        for module in maps:
            module.packs = self  # type: ignore[assignment] # no module
        try:
            yield
        finally:
            for module in maps:
                module.packs = None  # type: ignore[assignment] # likewise


def require_bfloat16(lm: PreTrainedModel) -> None:
    """Refuses products in bfloat16 that would not be quicker.

    Raises:
        ValueError: if the model is not float32 on a CPU with instructions for bfloat16, or its
            linear maps are of kinds that cannot be packed.
    """
    known = torch.cpu.get_capabilities()
    instructions = known.get("avx512_bf16") or known.get("amx_bf16")
    wrong = {
        f"the model is {lm.dtype}".replace("torch.", ""): lm.dtype != torch.float32,
        f"the model is on {lm.device}, where --model.dtype chooses": lm.device.type != "cpu",
        "this processor has no instructions for it": not instructions,
        "this model's maps cannot be packed": not any(map(_packable, lm.modules())),
    }
    for reason in (reason for reason, applies in wrong.items() if applies):
        raise ValueError(f"value.precision bfloat16 does not apply, since {reason}; leave it out")


def _packable(module: nn.Module) -> bool:
    return hasattr(module, "packs")


def _packed(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)
