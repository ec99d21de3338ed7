"""RLSEdit: recursive least squares over all edits, each at the cost of the first."""

from typing import Any

import torch
from torch import Tensor

from ..functional.least_squares import LowRank
from ..functional.recursive_least_squares import initial_covariance, recursive_update
from ..language_model.layout import oriented, output_weight_name
from .spread import SpreadEditor


class RLSEdit(SpreadEditor):
    """RLSEdit: minimises the squared errors of all edits so far plus what holds the model.

    What is remembered is one covariance ``(f, f)`` per layer: ``C₀ = (λ² I + μ² K0 K0ᵀ)⁻¹``, then
    ``C_t = C_{t-1} - F (I + Kᵀ F)⁻¹ Fᵀ`` with ``F = C_{t-1} K``, and ``Δ = R Kᵀ C_t``.

    Args:
        ridge: λ, how strongly weights are held where they are.
        preservation: μ, how strongly the outputs for the keys of text are; their second moment
            stands for ``K0 K0ᵀ``, so μ² is a number of tokens.
    """

    def __init__(self, ridge: float = 0.3, preservation: float = 30.0, **options: Any) -> None:
        super().__init__(**options)
        self.ridge = ridge
        self.preservation = preservation
        self.initial: dict[int, Tensor] = {}

    def protect(self, layer: int, moment: Tensor | None) -> None:
        """Makes the covariance before any edit."""
        if moment is None:
            name = output_weight_name(self.lm, layer)
            moment = torch.eye(oriented(self.lm, name).shape[1], device=self.device)
        self.initial[layer] = initial_covariance(moment, self.ridge, self.preservation)

    def fit(self, layer: int, keys: Tensor, residuals: Tensor) -> LowRank:
        """The recursion's change; the covariance after it is remembered."""
        name = f"covariance/{layer}"
        covariance = self.history.get(name, self.initial[layer])
        change, self.history[name] = recursive_update(covariance, keys, residuals)
        return change

    def card(self) -> dict[str, Any]:
        """Adds λ and μ."""
        return super().card() | {"ridge": self.ridge, "preservation": self.preservation}
