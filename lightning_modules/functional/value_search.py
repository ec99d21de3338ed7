"""Search of the value that makes a model answer with the target (Meng et al. 2022, equation 4)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class ValueSearchOptions:
    """How far and how fast a value is searched.

    Attributes:
        steps: losses evaluated at most; the last is not followed by a step.
        learning_rate: Adam's.
        weight_decay: weight of ``‖δ‖ / ‖v‖²`` in the loss.
        clamp: largest ``‖δ‖`` as a multiple of ``‖v‖``.
        kl_weight: weight of the KL divergence that keeps what the subject is.
        goal: loss below which the search stops.
    """

    steps: int = 20
    learning_rate: float = 0.5
    weight_decay: float = 0.5
    clamp: float = 4.0
    kl_weight: float = 0.0625
    goal: float = 0.05


class FoundValue(NamedTuple):
    """A value's change and the way to it.

    Attributes:
        change: ``(d,)``, wanted minus original value, float32.
        losses: the loss at every evaluation, the last one belonging to ``change``.
        target_log_prob: mean log-probability of the target's tokens at the last evaluation, nats.
    """

    change: Tensor
    losses: list[float]
    target_log_prob: float


def value_search(
    nll_and_kl: Callable[[Tensor], tuple[Tensor, Tensor]],
    value: Tensor,
    options: ValueSearchOptions,
) -> FoundValue:
    """Adam on the change δ of a value, clamped to a ball around it.

    The loss is ``nll + kl_weight · kl + weight_decay · ‖δ‖ / ‖v‖²``.

    Args:
        nll_and_kl: maps δ ``(d,)`` to the target's mean NLL and the KL divergence, both scalars.
        value: ``(d,)``, the original value v.
        options: steps, rates and bounds.

    Raises:
        FloatingPointError: if the loss is not finite.
    """
    change = torch.zeros_like(value, dtype=torch.float32, requires_grad=True)
    adam = torch.optim.Adam([change], lr=options.learning_rate)
    norm = value.float().norm()
    losses: list[float] = []
    for step in range(options.steps):
        nll, kl = nll_and_kl(change)
        decay = options.weight_decay * change.norm() / norm**2
        loss = nll + options.kl_weight * kl + decay
        losses.append(loss.item())
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the value search's loss is {losses[-1]} at step {step + 1}")
        if losses[-1] < options.goal or step == options.steps - 1:
            break
        (change.grad,) = torch.autograd.grad(loss, [change])
        adam.step()
        with torch.no_grad():
            change.mul_((options.clamp * norm / change.norm()).clamp(max=1.0))
    return FoundValue(change.detach(), losses, -nll.item())
