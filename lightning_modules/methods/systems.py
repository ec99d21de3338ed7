"""The equation of a layer's change: the part in which the methods that spread residuals differ."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..functional.least_squares import (
    LowRank,
    NormalEquations,
    equality_update,
    ridge_fit,
)
from ..functional.null_space import NullSpace, null_space
from ..functional.rank_one import factorize
from .past_edits import History, PastEdits

Moment = Tensor | float | None  # C (f, f), a multiple of the identity, or the identity


class System(ABC):
    """Finds the change of a linear map for new keys, given the second moment of old ones."""

    @abstractmethod
    def prepare(self, layer: int, moment: Moment) -> None:
        """Takes a layer's second moment C before any edit."""

    @abstractmethod
    def fit(self, layer: int, keys: Tensor, residuals: Tensor, history: History) -> LowRank:
        """The layer's change.

        Args:
            layer: the layer.
            keys: ``(f, n)``, one column per request.
            residuals: ``(d, n)``, wanted minus present output.
            history: the method's memory of past edits; entries are replaced, never changed in
                place.
        """

    def card(self) -> dict[str, Any]:
        """The system's parameters, for the summary of a run."""
        return {}


class Ridge(System):
    """``Δ = R Kᵀ (A + Kp Kpᵀ + K Kᵀ)⁻¹`` with ``A = λ C + μ I``.

    With a history, Kp are the keys of all past edits; without one they are forgotten. Of each edit
    the history keeps what its keys take from the inverse, ``A⁻¹ = (λ C + μ I)⁻¹ - U Uᵀ``; so an
    edit costs one product with U more than the first, and at most one with 2 f columns.

    Args:
        preservation: λ, the number of tokens of text that outweigh an edit's key.
        norm_weight: μ, how strongly the size of a change is held down.
        history: whether past keys are kept.
    """

    def __init__(
        self, preservation: float, norm_weight: float = 0.0, history: bool = False
    ) -> None:
        self.preservation = preservation
        self.norm_weight = norm_weight
        self.history = history
        self.initial: dict[int, NormalEquations] = {}

    def prepare(self, layer: int, moment: Moment) -> None:
        """Factorizes A."""
        self.initial[layer] = self._initial(moment)

    def fit(self, layer: int, keys: Tensor, residuals: Tensor, history: History) -> LowRank:
        """The ridge solution; adds the keys' downdate to the history if there is one."""
        past = PastEdits(history, layer)
        system = replace(self.initial[layer], past=past.parts())
        change, downdate = ridge_fit(system, keys, residuals)
        if self.history:
            past.append(downdate)
        return change

    def card(self) -> dict[str, Any]:
        """λ, μ, and whether past keys are kept."""
        return {
            "preservation": self.preservation,
            "norm_weight": self.norm_weight,
            "history": self.history,
        }

    def _initial(self, moment: Moment) -> NormalEquations:
        """A alone."""
        if not isinstance(moment, Tensor):
            return NormalEquations(None, self.preservation * _multiple(moment) + self.norm_weight)
        if not self.norm_weight:
            return NormalEquations(factorize(moment), self.preservation)
        held = self.preservation * moment.double()
        held.diagonal(dim1=-2, dim2=-1).add_(self.norm_weight)
        return NormalEquations(factorize(held))


class NullSpaceRidge(Ridge):
    """``Δ = R Kᵀ P (Kp Kpᵀ P + K Kᵀ P + L2 I)⁻¹``: outputs outside a null space of C do not change.

    P projects on the null space; past keys are projected too.

    Args:
        energy: the smallest eigenvectors of C that together hold at most this share of its trace
            span the null space, whatever the model and the size of its keys.
        ridge: L2, how strongly the size of a change is held down.
        history: whether past keys are kept.
    """

    def __init__(self, energy: float, ridge: float, history: bool = True) -> None:
        super().__init__(ridge, history=history)
        self.energy = energy
        self.null_spaces: dict[int, NullSpace] = {}

    def prepare(self, layer: int, moment: Moment) -> None:
        """Finds the null space.

        Raises:
            ValueError: if there is no second moment, or its null space is empty.
        """
        if not isinstance(moment, Tensor):
            raise ValueError("second_moment identity has no null space; AlphaEdit needs estimated")
        self.null_spaces[layer] = null_space(moment, self.energy)
        super().prepare(layer, None)

    def fit(self, layer: int, keys: Tensor, residuals: Tensor, history: History) -> LowRank:
        """The ridge solution for projected keys."""
        return super().fit(layer, self.null_spaces[layer].project(keys), residuals, history)

    def card(self) -> dict[str, Any]:
        """The null spaces' energy and dimensions, L2, and whether past keys are kept."""
        return {
            "energy": self.energy,
            "ridge": self.preservation,
            "history": self.history,
            "null_dimensions": {n: space.dimension for n, space in self.null_spaces.items()},
        }


class Equality(System):
    """``Δ = R (Kᵀ A⁻¹ K + λ I)⁻¹ Kᵀ A⁻¹`` with ``A = w C``: keys map to their values, up to λ.

    Args:
        preservation: w, the weight of C.
        slack: λ, how far keys may miss their values.
    """

    def __init__(self, preservation: float, slack: float) -> None:
        self.preservation = preservation
        self.slack = slack
        self.systems: dict[int, NormalEquations] = {}

    def prepare(self, layer: int, moment: Moment) -> None:
        """Factorizes C."""
        if isinstance(moment, Tensor):
            self.systems[layer] = NormalEquations(factorize(moment), self.preservation)
        else:
            weight = self.preservation * _multiple(moment)
            self.systems[layer] = NormalEquations(None, weight)

    def fit(self, layer: int, keys: Tensor, residuals: Tensor, history: History) -> LowRank:
        """Change under equality constraints.

        Raises:
            FloatingPointError: if without slack a key is a linear combination of others.
        """
        try:
            return equality_update(self.systems[layer], keys, residuals, self.slack)
        except ValueError as error:
            raise FloatingPointError(str(error)) from error

    def card(self) -> dict[str, Any]:
        """W and λ."""
        return {"preservation": self.preservation, "slack": self.slack}


class Recursive(Ridge):
    """``Δ = R Kᵀ C_t`` with ``C_t = C_{t-1} - F (I + Kᵀ F)⁻¹ Fᵀ`` and ``F = C_{t-1} K``.

    The recursion starts from ``C₀ = (λ² I + μ² K0 K0ᵀ)⁻¹``, so that it is a ridge with a history,
    and ``C_t`` is kept as its ``A⁻¹``: the factor of ``C₀⁻¹``, and ``C₀ - C_t = U Uᵀ``.

    Args:
        ridge: λ, how strongly weights are kept at their originals.
        preservation: μ, how strongly the outputs for keys of text are preserved; their second
            moment stands for ``K0 K0ᵀ``, so μ² is a number of tokens.

    Raises:
        ValueError: if λ is negative.
    """

    def __init__(self, ridge: float, preservation: float) -> None:
        if not ridge >= 0:
            raise ValueError(f"ridge must not be negative, got {ridge}")
        super().__init__(preservation**2, ridge**2, history=True)
        self.told = {"ridge": ridge, "preservation": preservation}

    def card(self) -> dict[str, Any]:
        """λ and μ."""
        return dict(self.told)


def _multiple(moment: float | None) -> float:
    """Of the identity."""
    return 1.0 if moment is None else moment
