"""Changes of a linear map for n keys at once, by regularised least squares (as in MEMIT).

``A = A0 + Kp Kpᵀ`` says which outputs to preserve: ``A0`` those for keys of text, ``Kp`` those for
keys of past edits. ``A0`` is factorized once per run. The keys of an edit lower the inverse by
``U Uᵀ`` with as many columns: ``A⁻¹ = A0⁻¹ - U Uᵀ``, and an edit costs one product with U more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .rank_one import whiten

DEPENDENCE = 1e-8  # squared sine of the angle, 1e-4, below which keys differ only by rounding


class LowRank(NamedTuple):
    """A change ``left @ right`` of a linear map, float64.

    Attributes:
        left: ``(d, n)``.
        right: ``(n, f)``.
    """

    left: Tensor
    right: Tensor


class Fit(NamedTuple):
    """A change that fits new pairs, and what their keys take from the inverse of the system.

    Attributes:
        change: of the linear map.
        downdate: ``(f, n)``, U with ``(A + K Kᵀ)⁻¹ = A⁻¹ - U Uᵀ``, float64.
    """

    change: LowRank
    downdate: Tensor


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """The system ``A = A0 + Kp Kpᵀ`` with ``A0 = weight · L Lᵀ``; immutable.

    Args:
        factor: ``(f, f)``, L by :func:`~.rank_one.factorize`; None stands for the identity, and
            ``A0`` is a plain ridge.
        weight: how strongly the outputs for the keys in ``L Lᵀ`` are preserved.
        past: downdates ``(f, m)`` by the keys of past edits: ``A⁻¹ = A0⁻¹ - Σ U Uᵀ``.

    Raises:
        ValueError: if the weight is not positive.
    """

    factor: Tensor | None
    weight: float = 1.0
    past: Sequence[Tensor] = ()

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(
                f"the weight of old keys must be positive, got {self.weight}; a small one forgets "
                "them"
            )

    def solve(self, keys: Tensor) -> Tensor:
        """``A⁻¹ K``: ``(f, n)`` for keys ``(f, n)``."""
        keys = keys.double()
        solved = whiten(keys, self.factor) / self.weight
        for part in self.past:
            solved.addmm_(part, part.T @ keys, alpha=-1)
        return solved

    def extended(self, keys: Tensor) -> "NormalEquations":
        """The system with ``(f, n)`` more past keys: ``A + K Kᵀ``.

        It has the same bits however the keys lie in memory, fresh from the model or from a file.

        Raises:
            FloatingPointError: if the keys are too large, or not finite.
        """
        return replace(self, past=(*self.past, _downdate(self, keys)[0]))


def ridge_update(system: NormalEquations, keys: Tensor, residuals: Tensor) -> LowRank:
    """The change that fits new pairs while disturbing old keys least: ``R Kᵀ (A + K Kᵀ)⁻¹``.

    It minimises ``‖Δ K - R‖² + tr(Δ A Δᵀ)`` (MEMIT; with past keys its sequential form, and ENCORE;
    with projected keys and a ridge AlphaEdit).

    Args:
        system: A.
        keys: ``(f, n)``, one column per request.
        residuals: ``(d, n)``, wanted minus present output.

    Raises:
        ValueError: if keys and residuals are not of the same number.
        FloatingPointError: if the keys are too large, or not finite.
    """
    return ridge_fit(system, keys, residuals).change


def ridge_fit(system: NormalEquations, keys: Tensor, residuals: Tensor) -> Fit:
    """The same with the downdate by the new keys; arguments and errors are those of the change.

    With ``F = A⁻¹ K`` and ``L Lᵀ = I + Kᵀ F``, ``U = F L⁻ᵀ`` and ``Kᵀ (A + K Kᵀ)⁻¹ = L⁻ᵀ Uᵀ``.
    """
    check_pairs(keys, residuals)
    downdate, factor = _downdate(system, keys)
    right = torch.linalg.solve_triangular(factor.T, downdate.T, upper=True)
    return Fit(LowRank(residuals.double(), right), downdate)


def equality_update(
    system: NormalEquations, keys: Tensor, residuals: Tensor, slack: float = 0.0
) -> LowRank:
    """The change that maps new keys exactly and disturbs old ones least (EMMET).

    ``Δ = R (Kᵀ A⁻¹ K + λ I)⁻¹ Kᵀ A⁻¹`` minimises ``tr(Δ A Δᵀ)`` under ``Δ K = R`` if λ is 0.

    Args:
        system: A.
        keys: ``(f, n)``, one column per request.
        residuals: ``(d, n)``, wanted minus present output.
        slack: λ, how far keys may miss their residuals.

    Raises:
        ValueError: if keys and residuals are not of the same number, or without slack a key is a
            linear combination of others.
        FloatingPointError: if keys are not finite.
    """
    check_pairs(keys, residuals)
    if not slack:
        check_independent(keys)
    solved = system.solve(keys)
    gram = keys.double().T @ solved
    gram.diagonal().add_(slack)
    factor = _factorize_gram(gram)
    return LowRank(residuals.double(), torch.cholesky_solve(solved.T, factor))


def check_pairs(keys: Tensor, residuals: Tensor) -> None:
    """Refuses keys ``(f, n)`` and residuals ``(d, m)`` that are not pairs.

    Raises:
        ValueError: if n is not m.
    """
    if keys.shape[1] != residuals.shape[1]:
        raise ValueError(
            f"each key needs one residual, got {keys.shape[1]} keys and {residuals.shape[1]} "
            "residuals"
        )


def check_independent(keys: Tensor) -> None:
    """Refuses keys ``(f, n)`` if one is a linear combination of those before it.

    Raises:
        ValueError: naming the column and every pair of parallel columns.
        FloatingPointError: if keys are not finite.
    """
    if not keys.isfinite().all():
        raise FloatingPointError("a key is not finite")
    unit = torch.nn.functional.normalize(keys.double(), dim=0)
    factor, failed = torch.linalg.cholesky_ex(unit.T @ unit)
    within = factor.diagonal().square() < DEPENDENCE  # squared distance to the span of those before
    if failed:
        within[int(failed) - 1] = True
    if within.any():
        column = int(within.nonzero()[0])
        pairs = ", ".join(f"{one} and {other}" for one, other in parallel_pairs(keys)) or "none"
        raise ValueError(
            f"the system is rank-deficient: of {keys.shape[1]} keys, column {column} is a linear "
            f"combination of those before it (parallel columns: {pairs}), so they cannot all map "
            "exactly; edit requests about the same subject in different batches"
        )


def parallel_pairs(keys: Tensor) -> list[tuple[int, int]]:
    """Pairs of columns of keys ``(f, n)`` with equal or opposite directions."""
    unit = torch.nn.functional.normalize(keys.double(), dim=0)
    parallel = 1 - (unit.T @ unit).square() < DEPENDENCE
    return [(int(one), int(other)) for one, other in parallel.triu(1).nonzero()]


def condition_number(second_moment: Tensor) -> float:
    """Largest over smallest eigenvalue of a symmetric ``(f, f)``; infinite if singular."""
    eigenvalues = torch.linalg.eigvalsh(second_moment.double())
    smallest, largest = float(eigenvalues[0]), float(eigenvalues[-1])
    return largest / smallest if smallest > 0 else torch.inf


def _downdate(system: NormalEquations, keys: Tensor) -> tuple[Tensor, Tensor]:
    """``U = F L⁻ᵀ`` ``(f, n)`` and L ``(n, n)``, where ``F = A⁻¹ K`` and ``L Lᵀ = I + Kᵀ F``."""
    keys = _laid_out(keys.double())
    solved = system.solve(keys)
    gram = keys.T @ solved
    gram.diagonal().add_(1)
    factor = _factorize_gram(gram)
    return _laid_out(torch.linalg.solve_triangular(factor, solved.T, upper=False).T), factor


def _laid_out(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)  # .contiguous() skips one column


def _factorize_gram(gram: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(gram)
    if failed:
        raise FloatingPointError(
            f"the system of {len(gram)} keys has no solution in float64: its keys are not finite, "
            "or too large for the weight of the old ones"
        )
    return factor
