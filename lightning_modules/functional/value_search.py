"""Search of the value that makes a model answer with the target (Meng et al. 2022, equation 4)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class ValueSearchOptions:
    """Steps, rates and bounds of the value search.

    Attributes:
        steps: most evaluations of the loss; no step follows the last one.
        learning_rate: Adam's.
        weight_decay: weight of ``‖δ‖ / ‖v‖²`` in the loss.
        clamp: largest ``‖δ‖`` as a multiple of ``‖v‖``.
        kl_weight: weight of the KL divergence that preserves the subject's essence.
        goal: loss below which the search stops.
        stop: at the ``goal``, with ``most_probable`` also once the target was the most probable
            answer in every context at ``patience`` evaluations (ENCORE's early stopping).
        patience: number of such evaluations.
        anchor: norm that the MLP's output with the change is scaled to (NAS), ``stored`` takes it
            from this model's file; null leaves the output unscaled.
    """

    steps: int = 20
    learning_rate: float = 0.5
    weight_decay: float = 0.5
    clamp: float = 4.0
    kl_weight: float = 0.0625
    goal: float = 0.05
    stop: Literal["goal", "most_probable"] = "goal"
    patience: int = 1
    anchor: float | Literal["stored"] | None = None


class Answers(NamedTuple):
    """A model's answers to m requests with changed values.

    Attributes:
        nll: ``(m,)``, mean NLL of the target, in nats.
        kl: ``(m,)``, KL divergence of the next token after the subject's essence prompt, in nats.
        most_probable: ``(m,)``, whether every target token is the greedy choice in every context.
    """

    nll: Tensor
    kl: Tensor
    most_probable: Tensor


class FoundValue(NamedTuple):
    """A value's change, and the losses on the way to it.

    Attributes:
        change: ``(d,)``, wanted minus original value, float32.
        losses: the loss at every evaluation; the last one is that of ``change``.
        target_log_prob: mean log-probability of the target's tokens at the last evaluation, nats.
        scale: factor by which the MLP's output with the change was scaled afterwards.
    """

    change: Tensor
    losses: list[float]
    target_log_prob: float
    scale: float = 1.0

    def checked(self) -> "FoundValue":
        """Itself.

        Raises:
            FloatingPointError: if the search met a loss that is not finite.
        """
        if not -torch.inf < self.losses[-1] < torch.inf:
            raise FloatingPointError(
                f"the value search's loss is {self.losses[-1]} at step {len(self.losses)}"
            )
        return self


def value_search(
    answers: Callable[[Tensor, Sequence[int]], Answers],
    values: Tensor,
    options: ValueSearchOptions,
) -> list[FoundValue]:
    """Adam on the changes δ of n values, each clamped to a ball around its value.

    The loss is ``nll + kl_weight · kl + weight_decay · ‖δ‖ / ‖v‖²`` for each. The values are
    independent: one whose search is over leaves the batch. A loss that is not finite ends its
    search; call :meth:`FoundValue.checked`. The host waits for the device once per step, to know
    which searches are over.

    Args:
        answers: of the values numbered by its second argument, given their changes ``(m, d)``.
        values: ``(n, d)``, the original values v.
        options: steps, rates and bounds.
    """
    change = torch.zeros_like(values, dtype=torch.float32, requires_grad=True)
    adam = torch.optim.Adam([change], lr=options.learning_rate)
    norm = values.float().norm(dim=1)
    losses: list[list[float]] = [[] for _ in values]
    found: dict[int, FoundValue] = {}
    searching = list(range(len(values)))
    probable = torch.zeros(len(values), device=values.device)
    index = torch.tensor(searching, device=values.device)
    for step in range(options.steps):
        heard = answers(change[index], searching)
        decay = options.weight_decay * change[index].norm(dim=1) / norm[index] ** 2
        loss = heard.nll + options.kl_weight * heard.kl + decay
        enough = loss < options.goal
        if options.stop == "most_probable":
            probable[index] += heard.most_probable
            enough = enough | (probable[index] >= options.patience)
        told = torch.stack([loss, heard.nll, enough | ~loss.isfinite()])
        for number, (value, nll, over) in zip(searching, told.T.tolist(), strict=True):
            losses[number].append(value)
            if over or step == options.steps - 1:
                found[number] = FoundValue(change[number].detach().clone(), losses[number], -nll)
        if len(found) == len(values):
            break
        (change.grad,) = torch.autograd.grad(loss.sum(), [change])
        adam.step()
        with torch.no_grad():
            change *= (options.clamp * norm / change.norm(dim=1)).clamp(max=1.0)[:, None]
        if any(number in found for number in searching):
            searching = [number for number in searching if number not in found]
            index = torch.tensor(searching, device=values.device)
    return [found[number] for number in range(len(values))]
