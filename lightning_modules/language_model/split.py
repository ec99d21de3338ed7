"""Models whose layers lie on several devices, or wait on the CPU or on disk for their pass."""

from collections.abc import Iterator
from types import MethodType
from typing import Any

from accelerate.utils import align_module_device
from torch import Tensor, nn
from transformers import PreTrainedModel


def is_split(lm: PreTrainedModel) -> bool:
    """Whether a model's layers lie in several places."""
    return len(set(map(str, getattr(lm, "hf_device_map", {}).values()))) > 1


def give(owner: nn.Module, lm: PreTrainedModel) -> None:
    """Sets ``owner.lm``, and moves the owner to where texts enter it.

    A split model becomes no submodule, so that nothing moves its layers.
    """
    if is_split(lm):
        vars(owner)["lm"] = lm
    else:
        owner.lm = lm
    owner.to(lm.device)


def weights_of(lm: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Every parameter by name, read from where it waits; one at a time is in memory."""
    for name, parameter in lm.named_parameters():
        if parameter.is_meta:
            module, own = owner_of(lm, name)
            with align_module_device(module):
                yield name, module.get_parameter(own)
        else:
            yield name, parameter


def turn_into(module: nn.Module, kind: type[nn.Module]) -> None:
    """Changes a module's class, and so its ``forward``, behind accelerate's hook too."""
    module.__class__ = kind
    if "_old_forward" in vars(module):  # of accelerate, which binds the class' method of then
        vars(module)["_old_forward"] = MethodType(kind.forward, module)


def owner_of(lm: PreTrainedModel, name: str) -> tuple[Any, str]:
    """The module of a parameter, and the parameter's name there."""
    path, _, own = name.rpartition(".")
    return lm.get_submodule(path), own
