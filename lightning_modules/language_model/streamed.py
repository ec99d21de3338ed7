"""Linear maps whose weight is fetched for each product, so that the gradient keeps none."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.hooks import remove_hook_from_module
from accelerate.utils import align_module_device, has_offloaded_params, set_module_tensor_to_device
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .kernels import FastConv1D, FastLinear, product, use_fast_kernels
from .split import owner_of, turn_into


class Fetching(torch.autograd.Function):
    """``x Wᵀ + b`` of a map whose ``fetched()`` is W; differentiable only with respect to x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: nn.Module) -> Tensor:
        """The product ``(..., out)``."""
        ctx.module = module
        return product(x, module.fetched(), module.bias)  # type: ignore[operator, arg-type]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient of x, with the weight fetched again."""
        with align_module_device(ctx.module):
            return product(gradient, ctx.module.fetched().T, None), None


class StreamedLinear(nn.Linear):
    """A linear map that waits on the CPU or on disk; accelerate loads it around each pass."""

    def fetched(self) -> Tensor:
        """The weight, ``(out, in)``."""
        return self.weight

    def forward(self, input: Tensor) -> Tensor:
        """The map's output ``(..., out)``."""
        return Fetching.apply(input, self)


class StreamedConv1D(Conv1D):
    """The same for GPT-2's linear map, whose weight is transposed."""

    def fetched(self) -> Tensor:
        """The weight, ``(out, in)``."""
        return self.weight.T

    def forward(self, x: Tensor) -> Tensor:
        """The map's output ``(..., out)``."""
        return Fetching.apply(x, self)


STREAMED: dict[type, type] = {
    **dict.fromkeys((nn.Linear, FastLinear), StreamedLinear),
    **dict.fromkeys((Conv1D, FastConv1D), StreamedConv1D),
}
PLAIN: dict[type, type] = {StreamedLinear: nn.Linear, StreamedConv1D: Conv1D}


def use_fast_maps(lm: PreTrainedModel) -> None:
    """Gives a model the faster kernels, and makes maps that wait for their pass wait again.

    Autograd would keep the weights of all layers above an edit on the device until the gradient of
    a search step is known; fetched twice, no more than one is there at a time.
    """
    use_fast_kernels(lm)
    for module in lm.modules():
        if has_offloaded_params(module):
            turn_into(module, STREAMED.get(type(module), type(module)))


def keep_loaded(lm: PreTrainedModel, names: Sequence[str]) -> None:
    """Loads weights for good onto the device that computes with them.

    Args:
        lm: the model.
        names: of parameters; those that are loaded stay as they are.
    """
    for module in {owner_of(lm, name)[0]: None for name in names}:
        if has_offloaded_params(module):
            with align_module_device(module):
                loaded = {name: part.detach() for name, part in module.named_parameters()}
            remove_hook_from_module(module)
            vars(module).pop("forward", None)  # accelerate leaves the method of the class of then
            for name, value in loaded.items():
                set_module_tensor_to_device(module, name, value.device, value)
            module.__class__ = PLAIN.get(type(module), type(module))
            use_fast_kernels(module)
