"""AlphaEdit: changes confined to directions with almost no energy of the keys of text."""

from typing import Any, Literal

from .spread import SpreadEditor
from .systems import NullSpaceRidge


class AlphaEdit(SpreadEditor):
    """AlphaEdit (Fang et al. 2025): least squares with keys projected into a null space of C.

    With P the projector, ``Δ = R Kᵀ P (Kp Kpᵀ P + K Kᵀ P + L2 I)⁻¹``: outputs for keys outside the
    null space do not change at all.

    Args:
        energy: largest share of the trace of C that the null space may hold.
        ridge: L2, weight of the penalty on the size of a change.
        history: keep the keys of past edits.
        second_moment: of the keys, whose null space is used; always estimated.
    """

    edits_experts = False

    def __init__(
        self,
        energy: float = 0.1,
        ridge: float = 0.1,
        history: bool = True,
        second_moment: Literal["estimated"] = "estimated",
        **options: Any,
    ) -> None:
        system = NullSpaceRidge(energy, ridge, history)
        super().__init__(system=system, second_moment=second_moment, **options)
