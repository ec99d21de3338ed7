"""ENCORE: values found with few steps, updates held small, nothing of the past forgotten."""

from typing import Any

from torch import Tensor

from ..functional.least_squares import NormalEquations
from ..functional.rank_one import factorize
from ..functional.value_search import ValueSearchOptions
from .memit import RidgeEditor


class ENCORE(RidgeEditor):
    """ENCORE (Gupta et al. 2025): ``A = λ C + μ I``, history, and most-probable early stopping.

    A value's search stops as soon as the target is the most probable continuation in every
    context, the plain one included.

    Args:
        preservation: λ, the number of tokens of text that outweigh an edit's key.
        norm_weight: μ, how strongly the size of a change is held down.
        value: how values are searched.
        history: keep the keys of past edits.
    """

    def __init__(
        self,
        preservation: float = 100.0,
        norm_weight: float = 0.1,
        value: ValueSearchOptions = ValueSearchOptions(clamp=0.75, stop="most_probable"),  # noqa: B008 - frozen
        history: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(value=value, history=history, **options)
        for name, weight in (("preservation", preservation), ("norm_weight", norm_weight)):
            if not weight > 0:
                raise ValueError(f"{name} must be positive, got {weight}")
        self.preservation = preservation
        self.norm_weight = norm_weight

    def protect(self, layer: int, moment: Tensor | None) -> None:
        """Factorizes ``λ C + μ I``."""
        if moment is None:
            weight = self.preservation + self.norm_weight
            self.start_from(layer, NormalEquations(None, weight))
        else:
            held = self.preservation * moment.double()
            held.diagonal().add_(self.norm_weight)
            self.start_from(layer, NormalEquations(factorize(held)))

    def card(self) -> dict[str, Any]:
        """Adds λ and μ."""
        weights = {"preservation": self.preservation, "norm_weight": self.norm_weight}
        return super().card() | weights
