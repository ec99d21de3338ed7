"""UltraEdit: a ridge solution from standardized keys and gradients; no subject, no statistics."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from data_modules.records import EditRequest

from ..editing.editor import Editor, Update
from ..functional.gradient_transform import RunningMoments, lifelong_values
from ..functional.least_squares import NormalEquations, ridge_update
from ..language_model.gradients import Factors, gradient_factors
from ..language_model.layout import output_weight_name
from ..language_model.tokens import target_span

MOMENTS = tuple(f"moments/{name}" for name in RunningMoments._fields)


class UltraEdit(Editor):
    """Edits MLP output maps in one step from the gradient of the requests' loss (Gu et al. 2025).

    With a row per token of keys H and of gradients at the outputs, both standardized by running
    moments to h̃ and ṽ: ``V = -η ‖h̃‖² ṽ`` and ``Δᵀ = (HᵀH + I)⁻¹ HᵀV``. The moments are those of
    all edits so far, this one included, and of all edited layers.

    Args:
        layers: the edited layers.
        rate: η.
    """

    def __init__(
        self, layers: Sequence[int] = (1, 2, 3, 4), rate: float = 1e-6, **options: Any
    ) -> None:
        super().__init__(**options)
        if rate <= 0:
            raise ValueError(f"rate must be positive, got {rate}")
        if not layers:
            raise ValueError("layers is empty; name at least one")
        self.layers = list(layers)
        self.rate = rate

    def edited_weights(self) -> list[str]:
        """The output maps of the edited layers."""
        return [output_weight_name(self.lm, layer) for layer in self.layers]

    def edit(self, requests: Sequence[EditRequest]) -> Iterator[Update]:
        """One update per layer, for all requests together, of rank the number of tokens."""
        spans = [target_span(self.tokenizer, r.text, r.target_new) for r in requests]
        factors = gradient_factors(self.lm, spans, self.edited_weights())
        moments = self.moments_with(factors.values())
        self.history |= dict(zip(MOMENTS, moments, strict=True))
        for name, (keys, gradients) in factors.items():
            keys, gradients = keys.double(), gradients.double()
            rows = moments.standardized(torch.cat([keys, gradients], -1))
            standard, gradients = rows.split([keys.shape[1], gradients.shape[1]], -1)
            values = lifelong_values(standard, gradients, self.rate)
            change = ridge_update(NormalEquations(factor=None), keys.T, values.T)
            yield Update(name, change.left, change.right)

    def moments_with(self, factors: Iterable[Factors]) -> RunningMoments:
        """The moments of past edits, if any, and of these factors."""
        rows = torch.cat([torch.cat(pair, -1) for pair in factors])
        past = [self.history[name] for name in MOMENTS if name in self.history]
        moments = RunningMoments(*past) if past else RunningMoments.none(rows)
        return moments.extended(rows)

    def card(self) -> dict[str, Any]:
        """Adds layers and rate."""
        return super().card() | {"layers": self.layers, "rate": self.rate}
