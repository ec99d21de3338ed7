"""Faster kernels for a frozen model's own formulas; results differ only by rounding."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from .packing import Packed, Packs
from .split import turn_into


class _OneDNN(torch.autograd.Function):
    """``x Wᵀ + b`` by oneDNN, differentiable only with respect to x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _OneDNN.apply(gradient, weight.T, None), None, None


class _PackedOneDNN(torch.autograd.Function):
    """The same with a packed weight, in its precision; the result has that of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, packed: Packed) -> Tensor:
        ctx.packed = packed
        if x.dtype == packed.onward.dtype:
            return _product(x, packed.onward, bias)
        found = _product(x.to(packed.onward.dtype), packed.onward, None).to(x.dtype)
        return found if bias is None else found + bias

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        onward, backward, state = ctx.packed
        return _PackedOneDNN.apply(gradient, None, Packed(backward, onward, state)), None, None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # with other strides oneDNN falls back to reference code, which takes seconds
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x Wᵀ + b`` by the faster kernel, for a frozen weight ``(out, in)``."""
    fast = _fast(x, weight) and torch.backends.mkl.is_available()
    if fast and torch.backends.mkldnn.is_available():
        return _OneDNN.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def _fast(x: Tensor, weight: Tensor) -> bool:
    float32 = x.dtype == weight.dtype == torch.float32
    return x.is_cpu and float32 and not torch.compiler.is_compiling()


def _linear(module: "FastLinear | FastConv1D", x: Tensor, weight: Tensor) -> Tensor:
    """``x Wᵀ + b`` of a map with the weight ``(out, in)``."""
    several = x.numel() > x.shape[-1]  # for a single row oneDNN has other code
    packed = module.packs.of(module, weight) if module.packs and several else None
    if packed is None:
        return _OneDNN.apply(x, weight, module.bias)
    return _PackedOneDNN.apply(x, module.bias, packed)


def _suits(module: nn.Linear | Conv1D, x: Tensor) -> bool:
    """Whether torch would multiply with MKL, uncompiled, and need no gradient of the map."""
    weight, bias = module.weight, module.bias
    if weight.requires_grad or not weight.is_contiguous():
        return False
    return (bias is None or not bias.requires_grad) and _fast(x, weight)


class FastLinear(nn.Linear):
    """A linear map that uses oneDNN for float32 on the CPU."""

    packs: Packs | None = None

    def forward(self, input: Tensor) -> Tensor:
        """The map's output ``(..., out)``."""
        if _suits(self, input):
            return _linear(self, input, self.weight)
        return super().forward(input)


class FastConv1D(Conv1D):
    """The same for GPT-2's linear map, whose weight is transposed."""

    packs: Packs | None = None

    def forward(self, x: Tensor) -> Tensor:
        """The map's output ``(..., out)``."""
        return _linear(self, x, self.weight.T) if _suits(self, x) else super().forward(x)


class FastGELU(NewGELUActivation):
    """GELU's tanh approximation in one kernel instead of eight."""

    def forward(self, input: Tensor) -> Tensor:
        """The activation, of the input's shape."""
        return F.gelu(input, approximate="tanh")


def use_fast_kernels(lm: nn.Module) -> None:
    """Makes the model compute its linear maps and its GELU with the faster kernels.

    MKL, torch's float32 backend, uses AVX-512 only on Intel's processors; oneDNN, which torch
    includes, on all that have it.
    """
    faster: dict[type, type] = {NewGELUActivation: FastGELU}
    if torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available():
        faster |= {nn.Linear: FastLinear, Conv1D: FastConv1D}
    for module in lm.modules():
        turn_into(module, faster.get(type(module), type(module)))
