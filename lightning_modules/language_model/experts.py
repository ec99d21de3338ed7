"""Mixtures of experts: all experts of a block as one linear map of stacked keys.

At a token the experts' output is ``Σ g_e W_e k_e``, over the experts that the router chooses. That
is ``[W_1 … W_E] κ``: the stacked key κ, ``(E f)``, holds ``g_e k_e`` in the block of each chosen
expert, and zeros elsewhere.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

EXPERTS = re.compile(r"expert|router", re.IGNORECASE)


def is_experts(module: nn.Module) -> bool:
    """Whether a module holds its experts as transformers' experts interface knows them."""
    weight = getattr(module, "down_proj", None)
    stacked = isinstance(weight, Tensor) and weight.ndim == 3 and hasattr(module, "is_transposed")
    return stacked and not getattr(module, "has_post_expert_norm", False)


def count_experts(module: nn.Module) -> int:
    """Number of experts of a module; 0 for a linear map."""
    return len(module.down_proj) if is_experts(module) else 0  # type: ignore[arg-type]


def require_stacked_experts(lm: PreTrainedModel) -> None:
    """Refuses experts that are stored or computed in another way; the weights need not be loaded.

    Raises:
        ValueError: if the model has some.
    """
    has_experts = any(EXPERTS.search(path) for path, _ in lm.named_modules())
    if has_experts and not any(map(is_experts, lm.modules())):
        raise ValueError(
            f"{lm.config.model_type!r} is a mixture of experts of an unknown kind: experts can be "
            "edited if each of their maps is one three-dimensional parameter, as in Qwen3-MoE"
        )


class Routed(NamedTuple):
    """What the experts of a block received for n tokens.

    Attributes:
        module: holds the experts.
        hidden: ``(n, d)``.
        chosen: ``(n, k)``, the experts of each token.
        gates: ``(n, k)``, the weight of each in the output.
    """

    module: Any
    hidden: Tensor
    chosen: Tensor
    gates: Tensor

    @torch.no_grad()
    def keys(self, tokens: Tensor) -> Tensor:
        """Stacked keys ``(m, E f)`` of the tokens that an index or mask selects."""
        width = self.module.down_proj.shape[1 if self.module.is_transposed else 2]
        count = len(self.hidden[tokens.to(self.hidden.device)])
        stacked = self.hidden.new_zeros(count, count_experts(self.module), width)
        for expert, rows, keys in self.each(tokens):
            stacked[rows, expert] = keys.to(stacked)
        return stacked.flatten(1)

    @torch.no_grad()
    def each(self, tokens: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Each chosen expert, rows ``(r,)`` of its tokens, and keys times gates ``(r, f)``."""
        hidden, chosen, gates = (part[tokens.to(part.device)] for part in self[1:])
        for expert in chosen.unique().tolist():
            rows, slots = torch.where(chosen == expert)
            if expert < count_experts(self.module):  # a greater number stands for no expert
                yield expert, rows, gates[rows, slots, None] * self.key(expert, hidden[rows])

    def key(self, expert: int, hidden: Tensor) -> Tensor:
        """One expert's key: what its output map receives, ``(m, f)``."""
        module = self.module
        name = "gate_up_proj" if module.has_gate else "up_proj"
        weight = getattr(module, name)[expert]
        inner = hidden @ (weight if module.is_transposed else weight.T)
        if module.has_bias:
            inner = inner + getattr(module, f"{name}_bias")[expert]
        # every implementation of transformers' experts interface calls this method
        return module._apply_gate(inner) if module.has_gate else module.act_fn(inner)

    @torch.no_grad()
    def output(self, keys: Tensor) -> Tensor:
        """``[W_1 … W_E] κ`` plus the gated biases, ``(n, d)``, for stacked keys of all tokens."""
        module = self.module
        blocks = keys.unflatten(1, (count_experts(module), -1))
        total = torch.zeros_like(self.hidden)
        for expert in blocks.ne(0).any(-1).any(0).nonzero().flatten().tolist():
            weight = module.down_proj[expert]
            total += blocks[:, expert] @ (weight if module.is_transposed else weight.T)
            if module.has_bias:
                gate = (self.gates * (self.chosen == expert)).sum(1, keepdim=True)
                total += gate.to(total) * module.down_proj_bias[expert]
        return total


def received(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | Routed:
    """What a module was called with: its first argument, or what its experts were."""
    if is_experts(module):
        return Routed(module, *[*args, *kwargs.values()][:3])
    return args[0] if args else kwargs["hidden_states"]


def keys_at(inputs: Tensor | Routed, tokens: Tensor) -> Tensor:
    """Keys of an output map, stacked ones of experts, ``(m, f)``, where the map lies.

    Args:
        inputs: what it received, for texts of n tokens in all, padding included.
        tokens: an index ``(m,)`` or a mask ``(n,)``.
    """
    if isinstance(inputs, Routed):
        return inputs.keys(tokens)
    return inputs.reshape(-1, inputs.shape[-1])[tokens.to(inputs.device)]


def of_plain_experts(keys: Tensor, experts: int) -> Tensor:
    """Keys ``(n, c, E f)`` without blocks of experts that are not chosen in the first context.

    An edit changes the experts that the router chooses at the subject of the plain prompt. A
    context that is routed to others counts with a gate of 0 for those it does not choose.

    Args:
        keys: in each context, the plain one first.
        experts: their number; 0 for a linear map, whose keys stay as they are.
    """
    if not experts:
        return keys
    blocks = keys.unflatten(-1, (experts, -1))
    return (blocks * blocks[:, :1].ne(0).any(-1, keepdim=True)).flatten(-2)
