"""The closed form of a rank-one edit (Meng et al. 2022, equation 2; The Fall of ROME, eq. 1-3)."""

from typing import NamedTuple

import torch
from torch import Tensor


class RankOne(NamedTuple):
    """A change ``left rightᵀ`` of a linear map, and the figures that tell whether it is safe.

    Attributes:
        left: ``(d,)``, residual over denominator.
        right: ``(f,)``, unit direction of ``C⁻¹ k``.
        numerator_norm: norm of the residual, wanted minus present value.
        denominator: ``right · key``; an edit collapses the model when this nearly vanishes.
    """

    left: Tensor
    right: Tensor
    numerator_norm: float
    denominator: float


def whiten(keys: Tensor, second_moment: Tensor | None) -> Tensor:
    """``C⁻¹ k`` for each column, by Cholesky in float64; the keys themselves where C is None.

    Args:
        keys: ``(f, n)``.
        second_moment: ``(f, f)``, symmetric, uncentred; None stands for the identity.

    Returns:
        ``(f, n)``, float64.

    Raises:
        ValueError: if the second moment is not positive definite.
    """
    keys = keys.double()
    if second_moment is None:
        return keys
    factor, failed = torch.linalg.cholesky_ex(second_moment.double())
    if failed:
        raise ValueError(
            f"the second moment of {len(keys)} dimensions is singular; estimate it from at least "
            "that many tokens"
        )
    return torch.cholesky_solve(keys, factor)


def rank_one_update(direction_key: Tensor, key: Tensor, residual: Tensor) -> RankOne:
    """The rank-one change that sends ``key`` to its present value plus ``residual``.

    ``Δ = residual (C⁻¹ k̄)ᵀ / ((C⁻¹ k̄)ᵀ key)``, in float64. With one key throughout this is the
    paper's equation; the published code divides by another key than gives the direction.

    Args:
        direction_key: ``(f,)``, ``C⁻¹ k̄``.
        key: ``(f,)``, the key that is mapped exactly.
        residual: ``(d,)``, wanted minus present value.
    """
    right = direction_key.double() / direction_key.double().norm()
    denominator = right @ key.double()
    residual = residual.double()
    return RankOne(
        left=residual / denominator,
        right=right,
        numerator_norm=float(residual.norm()),
        denominator=float(denominator),
    )
