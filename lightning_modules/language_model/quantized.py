"""A model whose linear maps, but for those under edit, are kept in 8 or 4 bits."""

from collections.abc import Collection
from typing import Any, Literal

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, quantize
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .layout import blocks, layout_of, oriented
from .split import is_split
from .streamed import Fetching
from .treatments import ROUNDINGS

Bits = Literal["int8", "int4"]


class QuantizedMap(nn.Module):
    """A frozen linear map in groups of 32 weights of a row, dequantised for each product.

    Rounded as GGUF's Q8_0 (``int8``: 8.5 bits a weight, with the scales) and Q4_1 (``int4``: 5
    bits), so its weights are those of ``treatments.round_weights``.

    Args:
        weight: ``(out, in)``, of rows of whole groups.
        bias: ``(out,)``, kept as it is.
        kind: of the codes.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, kind: Bits) -> None:
        super().__init__()
        group, _ = GGML_QUANT_SIZES[ROUNDINGS[kind]]
        rows = np.ascontiguousarray(weight.detach().float().cpu().numpy())
        packed = torch.from_numpy(quantize(rows, ROUNDINGS[kind]))
        packed = packed.view(len(rows), weight.shape[1] // group, -1)
        scales = 2 if kind == "int8" else 4  # bytes of the scale, and of the offset behind it
        self.scale: Tensor
        self.codes: Tensor
        self.register_buffer("scale", packed[..., :scales].contiguous().view(torch.float16))
        self.register_buffer("codes", packed[..., scales:].contiguous())
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.kind, self.dtype = kind, weight.dtype
        self.to(weight.device)

    def fetched(self) -> Tensor:
        """The weight, ``(out, in)``."""
        scale = self.scale.float()
        if self.kind == "int8":
            groups = self.codes.view(torch.int8) * scale
        else:
            codes = torch.cat([self.codes & 15, self.codes >> 4], -1)
            groups = codes * scale[..., :1] + scale[..., 1:]
        return groups.flatten(1).to(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """The map's output ``(..., out)``; its gradient dequantises again and keeps no weight."""
        return Fetching.apply(x, self)

    @property
    def weight(self) -> Tensor:
        """Refuses: codes take no update.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"a layer that is kept in {self.kind} cannot be edited or read as a weight; name it in "
            "--model.layers from the start, or leave --model.quantized out"
        )


def quantize_rest(lm: PreTrainedModel, kind: Bits, edited: Collection[str]) -> None:
    """Keeps the linear maps of all layers in few bits, in place, but for the weights under edit.

    Embeddings, norms, biases, the head and maps whose rows are no whole groups stay as they are.

    Args:
        lm: the model, loaded whole.
        kind: of the codes.
        edited: full names of the weights under edit.

    Raises:
        ValueError: if the model is split, or no map can be quantised.
    """
    if is_split(lm):
        raise ValueError(
            f"--model.quantized {kind} does not go with --model.device_map; choose one of them"
        )
    group, _ = GGML_QUANT_SIZES[ROUNDINGS[kind]]
    prefix, found = layout_of(lm).blocks, 0
    for path, module in list(blocks(lm).named_modules()):
        name = f"{prefix}.{path}.weight"
        if not isinstance(module, nn.Linear | Conv1D) or name in edited:
            continue
        weight: Any = oriented(lm, name)
        if weight.shape[1] % group == 0:
            parent, _, own = f"{prefix}.{path}".rpartition(".")
            setattr(lm.get_submodule(parent), own, QuantizedMap(weight, module.bias, kind))
            found += 1
    if not found and not any(isinstance(module, QuantizedMap) for module in lm.modules()):
        raise ValueError(f"no map of the model has rows of whole groups of {group} weights")


def bytes_of(lm: PreTrainedModel) -> tuple[int, int]:
    """Bytes of the quantised maps, and of the weights that they stand for."""
    maps = [module for module in lm.modules() if isinstance(module, QuantizedMap)]
    kept = sum(part.nbytes for module in maps for part in (module.scale, module.codes))
    whole = sum(
        module.codes.numel() * (1 if module.kind == "int8" else 2) * module.dtype.itemsize
        for module in maps
    )
    return kept, whole
