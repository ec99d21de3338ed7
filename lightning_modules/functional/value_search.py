"""Search of the value that makes a model answer with the target (Meng et al. 2022, equation 4)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .descent import OPTIMIZERS

LEARNT = 0.5  # share of the target's NLL that a search must take away
LIKELY = 0.5  # probability per token above which a target counts as learnt anyway
WINDOW = 3  # evaluations within which the loss must fall, if a search stops for want of progress


@dataclass(frozen=True)
class ValueSearchOptions:
    """Steps, rates and bounds of the value search.

    Attributes:
        steps: most evaluations of the loss; no step follows the last one.
        learning_rate: Adam's; L-BFGS's first step is as long as Adam's.
        weight_decay: weight of ``‖δ‖ / ‖v‖²`` in the loss.
        clamp: largest ``‖δ‖`` as a multiple of ``‖v‖``.
        kl_weight: weight of the KL divergence that preserves the subject's essence.
        goal: loss below which the search stops.
        stop: at the ``goal``, with ``most_probable`` also once the target was the most probable
            answer in every context at ``patience`` evaluations (ENCORE's early stopping).
        patience: number of such evaluations.
        optimizer: Adam, as published, or limited-memory BFGS, which needs fewer evaluations.
        progress: the search also stops if the loss has fallen by less than this share of itself
            within three evaluations; 0 never stops it.
        precision: of the linear maps' products during a search; ``bfloat16`` is quicker on a
            processor with instructions for it, and leaves weights, sums and all else in float32.
        packed: GiB for weights that are kept rearranged for the processor between searches.
        divided: whether several devices divide the contexts of a search among them if there are
            fewer searches than devices; the change differs from one device's in rounding.
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
    optimizer: Literal["adam", "lbfgs"] = "adam"
    progress: float = 0.0
    precision: Literal["model", "bfloat16"] = "model"
    packed: float = 1.0
    divided: bool = False
    anchor: float | Literal["stored"] | None = None

    def longest(self, value: Tensor) -> float:
        """Length that Adam's change of a value ``(d,)`` does not exceed: its ball, or all steps.

        L-BFGS's steps may be longer than Adam's; it stays within the ball.
        """
        ball = self.clamp * float(value.float().norm())
        return min(ball, self.steps * self.learning_rate * len(value) ** 0.5)


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
        losses: the loss at every evaluation (L-BFGS: the lowest so far); the last one is that of
            ``change``.
        target_log_prob: mean log-probability of the target's tokens at the last evaluation, nats.
        scale: factor by which the MLP's output with the change was scaled afterwards.
    """

    change: Tensor
    losses: list[float]
    target_log_prob: float
    scale: float = 1.0

    @property
    def converged(self) -> bool:
        """Whether the search made the target likely.

        The target's NLL, per token and in the mean over contexts, has fallen by at least half, or
        its probability is above one half, so that nothing is likelier. The first loss is the
        target's NLL on the unchanged model: without a change, KL and decay are 0.
        """
        return -self.target_log_prob <= max(-math.log(LIKELY), (1 - LEARNT) * self.losses[0])

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
    """The changes δ of n values, each in a ball around its value, that minimise their losses.

    The loss is ``nll + kl_weight · kl + weight_decay · ‖δ‖ / ‖v‖²`` for each. The values are
    independent: one whose search is over leaves the batch. A loss that is not finite ends its
    search; call :meth:`FoundValue.checked`. The host waits for the device once per step, to know
    which searches are over.

    Args:
        answers: of the values numbered by its second argument, given their changes ``(m, d)``.
        values: ``(n, d)``, the original values v.
        options: steps, rates and bounds.
    """
    norm = values.float().norm(dim=1)
    descent = OPTIMIZERS[options.optimizer](
        torch.zeros_like(values, dtype=torch.float32), options.clamp * norm, options.learning_rate
    )
    change = descent.points
    losses: list[list[float]] = [[] for _ in values]
    found: dict[int, FoundValue] = {}
    searching = list(range(len(values)))
    probable = torch.zeros(len(values), device=values.device)
    index = torch.tensor(searching, device=values.device)
    for step in range(options.steps):
        heard = answers(change[index], searching)
        decay = options.weight_decay * change[index].norm(dim=1) / norm[index] ** 2
        loss = heard.nll + options.kl_weight * heard.kl + decay
        best, nll = descent.keep(index, loss, heard.nll)
        enough = best < options.goal
        if options.stop == "most_probable":
            probable[index] += heard.most_probable
            enough = enough | (probable[index] >= options.patience)
        told = torch.stack([best, nll, enough | ~best.isfinite()])
        for number, (value, own, over) in zip(searching, told.T.tolist(), strict=True):
            losses[number].append(value)
            if over or step == options.steps - 1 or stalled(losses[number], options.progress):
                found[number] = FoundValue(descent.at(number), losses[number], -own)
        if len(found) == len(values):
            break
        descent.step(index, *torch.autograd.grad(loss.sum(), [change]))
        if any(number in found for number in searching):
            searching = [number for number in searching if number not in found]
            index = torch.tensor(searching, device=values.device)
    return [found[number] for number in range(len(values))]


def stalled(losses: Sequence[float], progress: float) -> bool:
    """Whether the lowest loss has fallen by less than a share of itself in the last evaluations."""
    before = losses[:-WINDOW]
    return bool(before) and min(losses) > (1 - progress) * min(before)
