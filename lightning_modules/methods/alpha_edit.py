"""AlphaEdit: changes confined to the directions that the keys of text leave free."""

from typing import Any, Literal

from torch import Tensor

from ..functional.least_squares import LowRank, NormalEquations
from ..functional.null_space import NullSpace, null_space
from .memit import RidgeEditor


class AlphaEdit(RidgeEditor):
    """AlphaEdit (Fang et al. 2025): least squares with keys projected into a null space of C.

    With P the projector, ``Δ = R Kᵀ P (Kp Kpᵀ P + K Kᵀ P + L2 I)⁻¹``: outputs for keys outside the
    null space do not change at all.

    Args:
        energy: the null space is spanned by the least eigenvectors of C that together hold at most
            this share of its trace, whatever the model and the size of its keys.
        ridge: L2, how strongly the size of a change is held down.
        history: keep the keys of past edits.
        second_moment: of the keys, in which the null space is looked for; always estimated.
    """

    def __init__(
        self,
        energy: float = 0.1,
        ridge: float = 0.1,
        history: bool = True,
        second_moment: Literal["estimated"] = "estimated",
        **options: Any,
    ) -> None:
        super().__init__(history=history, second_moment=second_moment, **options)
        self.energy = energy
        self.ridge = ridge
        self.null_spaces: dict[int, NullSpace] = {}

    def protect(self, layer: int, moment: Tensor | None) -> None:
        """Finds the null space.

        Raises:
            ValueError: if there is no moment to find it in, or it is empty.
        """
        if moment is None:
            raise ValueError("second_moment identity has no null space; AlphaEdit needs estimated")
        self.null_spaces[layer] = null_space(moment, self.energy)
        self.start_from(layer, NormalEquations(None, self.ridge))

    def fit(self, layer: int, keys: Tensor, residuals: Tensor) -> LowRank:
        """The ridge solution for projected keys, which the history keeps projected."""
        return super().fit(layer, self.null_spaces[layer].project(keys), residuals)

    def card(self) -> dict[str, Any]:
        """Adds the null spaces' energy and dimensions, and the ridge."""
        return super().card() | {
            "energy": self.energy,
            "ridge": self.ridge,
            "null_dimensions": {n: space.dimension for n, space in self.null_spaces.items()},
        }
