"""Changes of a linear map for n keys at once, by regularised least squares (as in MEMIT).

``A = A0 + Kp Kpᵀ`` says which outputs to preserve: ``A0`` those for keys of text, ``Kp`` those for
keys of past edits. ``A0`` is factorized once per run; an edit solves a system of its n keys only.
"""

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


class Past(NamedTuple):
    """The keys of t past edits and the factors for solving with them, float64.

    Attributes:
        keys: ``(f, t)``, Kp; the others can be recomputed from it.
        solved: ``(f, t)``, ``A0⁻¹ Kp``.
        factor: ``(t, t)``, lower Cholesky factor of ``I + Kpᵀ A0⁻¹ Kp``.
    """

    keys: Tensor
    solved: Tensor
    factor: Tensor


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """The system ``A = A0 + Kp Kpᵀ`` with ``A0 = weight · L Lᵀ``; immutable.

    Past keys suffice to rebuild it: ``NormalEquations(factor, weight).extended(past.keys)``.

    Args:
        factor: ``(f, f)``, L by :func:`~.rank_one.factorize`; None stands for the identity, and
            ``A0`` is a plain ridge.
        weight: how strongly the outputs for the keys in ``L Lᵀ`` are preserved.
        past: keys of past edits; only :meth:`extended` sets it.

    Raises:
        ValueError: if the weight is not positive.
    """

    factor: Tensor | None
    weight: float = 1.0
    past: Past | None = None

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(
                f"the weight of old keys must be positive, got {self.weight}; a small one forgets "
                "them"
            )

    def solve(self, keys: Tensor) -> Tensor:
        """``A⁻¹ K``: ``(f, n)`` for keys ``(f, n)``."""
        solved = self._solve_base(keys)
        if self.past is None:
            return solved
        return solved - self.past.solved @ torch.cholesky_solve(
            self.past.keys.T @ solved, self.past.factor
        )

    def extended(self, keys: Tensor) -> "NormalEquations":
        """The system with ``(f, n)`` more past keys: ``A + K Kᵀ``.

        It has the same bits however the keys lie in memory, fresh from the model or from a file.

        Raises:
            FloatingPointError: if the keys are too large, or not finite.
        """
        keys, solved = (
            part.clone(memory_format=torch.contiguous_format)  # .contiguous() skips a single column
            for part in (keys.double(), self._solve_base(keys.double()))
        )
        corner = _plus_identity(keys.T @ solved)
        if self.past is None:
            return replace(self, past=Past(keys, solved, _factorize_gram(corner)))
        below = torch.linalg.solve_triangular(
            self.past.factor, self.past.solved.T @ keys, upper=False
        )
        factor = torch.block_diag(self.past.factor, _factorize_gram(corner - below.T @ below))
        factor[len(below) :, : len(below)] = below.T
        return replace(
            self,
            past=Past(
                torch.cat([self.past.keys, keys], 1),
                torch.cat([self.past.solved, solved], 1),
                factor,
            ),
        )

    def first(self, count: int) -> "NormalEquations":
        """Exactly the system as it was with that many past keys."""
        if self.past is None or count == 0:
            return replace(self, past=None)
        keys, solved, factor = self.past
        parts = keys[:, :count], solved[:, :count], factor[:count, :count]
        return replace(self, past=Past(*(part.contiguous() for part in parts)))

    def _solve_base(self, keys: Tensor) -> Tensor:
        return whiten(keys, self.factor) / self.weight


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
    check_pairs(keys, residuals)
    return LowRank(residuals.double(), gain(keys, system.solve(keys)))


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


def gain(keys: Tensor, solved: Tensor) -> Tensor:
    """Right factor of an update, ``Kᵀ (A + K Kᵀ)⁻¹ = (I + Kᵀ F)⁻¹ Fᵀ``, ``(n, f)``.

    Args:
        keys: ``(f, n)``.
        solved: ``(f, n)``, ``F = A⁻¹ K``.

    Raises:
        FloatingPointError: if the keys are too large, or not finite.
    """
    factor = _factorize_gram(_plus_identity(keys.double().T @ solved))
    return torch.cholesky_solve(solved.T, factor)


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


def _plus_identity(gram: Tensor) -> Tensor:
    return gram + torch.eye(len(gram), dtype=gram.dtype, device=gram.device)


def _factorize_gram(gram: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(gram)
    if failed:
        raise FloatingPointError(
            f"the system of {len(gram)} keys has no solution in float64: its keys are not finite, "
            "or too large for the weight of the old ones"
        )
    return factor
