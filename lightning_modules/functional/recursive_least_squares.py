"""Recursive least squares: each edit at the same cost, however many came before (RLSEdit)."""

import torch
from torch import Tensor

from .least_squares import LowRank, check_pairs, gain
from .rank_one import factorize


def initial_covariance(second_moment: Tensor, ridge: float, preservation: float) -> Tensor:
    """``C₀ = (λ² I + μ² K0 K0ᵀ)⁻¹``, ``(f, f)``, float64.

    Args:
        second_moment: ``(f, f)``, ``K0 K0ᵀ``.
        ridge: λ, how strongly the weight is kept at its original.
        preservation: μ, how strongly the outputs for old keys are preserved.

    Raises:
        ValueError: if λ is negative, or 0 with a second moment that is singular.
    """
    if not ridge >= 0:
        raise ValueError(f"ridge must not be negative, got {ridge}")
    held = preservation**2 * second_moment.double()
    held.diagonal().add_(ridge**2)
    return torch.cholesky_inverse(factorize(held))


def recursive_update(covariance: Tensor, keys: Tensor, residuals: Tensor) -> tuple[LowRank, Tensor]:
    """The change ``R Kᵀ C_t`` that fits new pairs, and the covariance ``C_t`` after it.

    ``C_t = C_{t-1} - F (I + Kᵀ F)⁻¹ Fᵀ`` with ``F = C_{t-1} K``. After any number of edits the
    weight minimises the sum of their squared errors plus the penalty of ``C₀``.

    Args:
        covariance: ``(f, f)``, symmetric, ``C_{t-1}``.
        keys: ``(f, n)``, one column per request.
        residuals: ``(d, n)``, wanted minus present output.

    Returns:
        The change, and ``(f, f)``, exactly symmetric.

    Raises:
        ValueError: if keys and residuals are not of the same number.
        FloatingPointError: if the keys are too large, or not finite.
    """
    check_pairs(keys, residuals)
    solved = covariance @ keys.double()
    gained = gain(keys, solved)
    updated = covariance - solved @ gained
    return LowRank(residuals.double(), gained), (updated + updated.T) / 2
