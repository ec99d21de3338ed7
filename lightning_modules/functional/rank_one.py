"""The closed form of a rank-one edit (Meng et al. 2022, equation 2; The Fall of ROME, eq. 1-3)."""

from typing import NamedTuple

import torch
from torch import Tensor


class RankOne(NamedTuple):
    """A change ``left rightᵀ`` of a linear map, and the figures that show whether it is safe.

    Attributes:
        left: ``(d,)``, residual over denominator.
        right: ``(f,)``, unit direction of ``C⁻¹ k``.
        numerator_norm: norm of the residual, wanted minus present value.
        denominator: ``right · key``; a value near 0 collapses the model.
    """

    left: Tensor
    right: Tensor
    numerator_norm: float
    denominator: float


def factorize(second_moment: Tensor) -> Tensor:
    """Lower Cholesky factor of a second moment, ``(f, f)``, float64; computed once per layer.

    Of ``(E, f, f)``, the blocks of a block-diagonal one, the factor of each; NaN if it is singular.

    Args:
        second_moment: ``(f, f)`` or ``(E, f, f)``, symmetric, uncentred.

    Raises:
        ValueError: if a single one is not positive definite.
    """
    factor, failed = torch.linalg.cholesky_ex(second_moment.double())
    if factor.ndim == 3:
        factor[failed > 0] = torch.nan
        return factor
    if failed:
        raise ValueError(
            f"the second moment of {len(factor)} dimensions is singular; estimate it from at "
            "least that many tokens"
        )
    return factor


def whiten(keys: Tensor, factor: Tensor | None) -> Tensor:
    """``C⁻¹ k`` for each column, in float64; the keys themselves without C.

    Args:
        keys: ``(f, n)``; stacked ones ``(E f, n)`` for a factor of E blocks.
        factor: ``(f, f)`` or ``(E, f, f)``, of C by :func:`factorize`; None is the identity's.

    Returns:
        Of the keys' shape, float64.

    Raises:
        FloatingPointError: if a key has a part in a block whose moment is singular.
    """
    if factor is None:
        return keys.double()
    if factor.ndim == 3:
        return _whiten_blocks(keys.double().unflatten(0, (len(factor), -1)), factor).flatten(0, 1)
    # torch.cholesky_solve copies the factor: 18 times as slow for one key at f = 6400
    half = torch.linalg.solve_triangular(factor, keys.double(), upper=False)
    return torch.linalg.solve_triangular(factor.T, half, upper=True)


def _whiten_blocks(blocks: Tensor, factors: Tensor) -> Tensor:
    """``C_e⁻¹ k_e`` for blocks ``(E, f, n)``; those that are 0 are not solved."""
    used = blocks.ne(0).flatten(1).any(1)
    singular = (used & factors[:, 0, 0].isnan()).nonzero().flatten().tolist()
    if singular:
        raise FloatingPointError(
            f"the second moment of the keys of experts {singular} is singular: they served too few "
            "tokens of the key statistics; estimate them from more text, or edit another layer"
        )
    half = torch.linalg.solve_triangular(factors[used], blocks[used], upper=False)
    solved = torch.zeros_like(blocks)
    solved[used] = torch.linalg.solve_triangular(factors[used].mT, half, upper=True)
    return solved


def sink_free(direction: Tensor, sink: Tensor, factor: Tensor | None) -> Tensor:
    """``C⁻¹ (k - β s)`` orthogonal to the sink key s, so that an update along it keeps ``W s``.

    ``β = sᵀ C⁻¹ k / sᵀ C⁻¹ s``. Of all updates with ``Δ k = r`` and ``Δ s = 0``, the one along it
    has the least ``tr(Δ C Δᵀ)``: it disturbs the corpus least.

    Args:
        direction: ``(f,)``, ``C⁻¹ k``.
        sink: ``(f,)``, s.
        factor: ``(f, f)``, of C by :func:`factorize`; None stands for the identity.

    Returns:
        ``(f,)``, float64; 0 if k is a multiple of s.
    """
    kept = sink.double()
    across = whiten(kept[:, None], factor)[:, 0]
    return direction.double() - (kept @ direction.double()) / (kept @ across) * across


def rank_one_update(direction_key: Tensor, key: Tensor, residual: Tensor) -> RankOne:
    """Rank-one change that maps ``key`` to its present value plus ``residual``.

    ``Δ = residual (C⁻¹ k̄)ᵀ / ((C⁻¹ k̄)ᵀ key)``, in float64. With one key throughout this is the
    paper's equation; the published code takes different keys for the direction and the denominator.

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
