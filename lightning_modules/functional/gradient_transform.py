"""How MEND and UltraEdit transform a weight's gradient, a sum of one outer product per token."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

DEVIATION_ADDED = 1e-7  # MEND's, published


class RunningMoments(NamedTuple):
    """Mean and spread of all rows so far, in float64.

    Attributes:
        seen: ``()``, number of rows.
        mean: ``(f,)``.
        squares: ``(f,)``, sum of squared deviations from the mean.
    """

    seen: Tensor
    mean: Tensor
    squares: Tensor

    @classmethod
    def none(cls, like: Tensor) -> "RunningMoments":
        """Moments before any row; rows are ``(…, f)`` like ``like``."""
        zero = like.new_zeros(like.shape[-1], dtype=torch.float64)
        return cls(zero.new_zeros(()), zero, zero.clone())

    def extended(self, rows: Tensor, as_published: bool = False) -> "RunningMoments":
        """Moments of all rows so far and of further ones ``(n, f)`` (Chan et al.).

        Args:
            rows: the further ones.
            as_published: use n times their unbiased variance as the sum of their squared
                deviations, as in UltraEdit's code; for a single row it is NaN.
        """
        if not len(rows):
            return self
        rows, added = rows.double(), len(rows)
        mean = rows.mean(0)
        count = self.seen + added
        step = mean - self.mean
        squares = (rows - mean).square().sum(0)
        if as_published:
            squares /= 1 - 1 / added
        return RunningMoments(
            count,
            self.mean + step * (added / count),
            self.squares + squares + step.square() * (self.seen * added / count),
        )

    def standardized(self, rows: Tensor, added: float = 0.0) -> Tensor:
        """Rows ``(n, f)`` in standard deviations from the mean; a constant column becomes 0.

        Before any row was observed, the rows themselves.

        Args:
            rows: to standardize.
            added: to every deviation, so that a nearly constant column stays small.
        """
        if self.seen == 0:
            return rows
        deviation = (self.squares / (self.seen - 1).clamp(min=1)).sqrt()
        return ((rows.double() - self.mean) / (deviation + added).clamp(min=1e-12)).to(rows)


class LowRankLayer(nn.Module):
    """``x + max(0, s ⊙ (U V x + b) + o)``, with U, b and o of 0 before training: the identity.

    Each weight that shares U, V and b has its own scale s and offset o.

    Args:
        width: of x.
        rank: of ``U V``, at most the width.
        sharing: number of weights that share the layer.
    """

    def __init__(self, width: int, rank: int, sharing: int) -> None:
        super().__init__()
        rank = min(rank, width)
        self.up = nn.Parameter(torch.zeros(width, rank))
        self.down = nn.Parameter(torch.randn(rank, width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(sharing, width))
        self.offset = nn.Parameter(torch.zeros(sharing, width))

    def forward(self, rows: Tensor, number: int) -> Tensor:
        """Rows ``(n, width)`` transformed for the weight with that number."""
        added = rows @ self.down.T @ self.up.T + self.bias
        added = self.scale[number] * added + self.offset[number]
        # clamp, not relu: at its 0, where training begins, relu has no gradient
        return rows + added.clamp(min=0)


class GradientTransform(nn.Module):
    """MEND's network g for the weights of one shape: ``(ũ, δ̃) = g(u, δ)`` (Mitchell et al. 2022).

    Two residual low-rank layers on the standardized ``u ‖ δ``. Untrained, and with no moments
    observed, it is the identity. As in the authors' code, both layers clamp what they add at 0, and
    ``DEVIATION_ADDED`` is added to every standard deviation.

    Args:
        inputs: width of u, the weight's input.
        outputs: width of δ, the gradient at the weight's output.
        rank: of each layer.
        sharing: number of weights of this shape.
    """

    seen: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, inputs: int, outputs: int, rank: int, sharing: int) -> None:
        super().__init__()
        width = inputs + outputs
        self.widths = [inputs, outputs]
        self.hidden = LowRankLayer(width, rank, sharing)
        self.last = LowRankLayer(width, rank, sharing)
        for name, moment in RunningMoments.none(torch.empty(width))._asdict().items():
            self.register_buffer(name, moment)

    @property
    def moments(self) -> RunningMoments:
        """Moments of the observed factors."""
        return RunningMoments(self.seen, self.mean, self.squares)

    def observe(self, inputs: Tensor, gradients: Tensor) -> None:
        """Adds factors ``(n, in)`` and ``(n, out)`` to the moments."""
        self.seen, self.mean, self.squares = self.moments.extended(
            torch.cat([inputs, gradients], -1)
        )

    def forward(self, inputs: Tensor, gradients: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """The factors ``(n, in)`` and ``(n, out)`` to descend along, of the weight ``number``."""
        rows = self.moments.standardized(torch.cat([inputs, gradients], -1), DEVIATION_ADDED)
        rows = self.last(self.hidden(rows, number), number)
        transformed, pseudo_gradients = rows.split(self.widths, -1)
        return transformed, pseudo_gradients


def lifelong_values(keys: Tensor, gradients: Tensor, rate: float) -> Tensor:
    """UltraEdit's target change of the outputs, ``-η ‖h̃‖² ṽ`` per row, ``(n, out)``.

    Args:
        keys: ``(n, in)``, h̃, standardized inputs.
        gradients: ``(n, out)``, ṽ, standardized gradients at the output.
        rate: η.
    """
    return -rate * keys.square().sum(-1, keepdim=True) * gradients
