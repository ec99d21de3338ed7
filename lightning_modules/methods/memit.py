"""MEMIT: many requests, several layers, least squares; optionally past keys are preserved."""

from typing import Any

from .spread import SpreadEditor
from .systems import Ridge


class MEMIT(SpreadEditor):
    """MEMIT (Meng et al. 2023): ``Δ = R Kᵀ (λ C + K Kᵀ)⁻¹``, C the second moment of text's keys.

    With a history it is MEMIT-seq: ``Kp Kpᵀ`` of all past keys is added to ``λ C``.

    Args:
        preservation: λ, the number of tokens of text that outweigh an edit's key.
        history: keep the keys of past edits.
    """

    def __init__(self, preservation: float = 1000.0, history: bool = False, **options: Any) -> None:
        super().__init__(system=Ridge(preservation, history=history), **options)
