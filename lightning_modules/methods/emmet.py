"""EMMET: an edit under equality constraints; and ROME for a batch, which maps all keys exactly."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from data_modules.records import EditRequest

from ..editing.edited_weights import Update
from ..editing.layer_choice import Auto, single
from .batch import seek_batch
from .key_value import KeyValueEditor
from .spread import SpreadEditor
from .systems import Equality


class EMMET(SpreadEditor):
    """EMMET (Gupta et al. 2024) as published: ``Δ = R (Kᵀ A⁻¹ K + λ I)⁻¹ Kᵀ A⁻¹``, ``A = w C``.

    Values, keys and contexts are MEMIT's for one layer, so R is the change that the search found.

    Args:
        layer: the edited layer; ``auto`` takes what a study or trace of this model has found. Only
            the embedded model has one by default.
        preservation: w, the weight of C.
        slack: λ, how far keys may miss their values; 0 maps them exactly.
    """

    auto_width = 1
    embedded_layers = (1,)

    def __init__(
        self,
        layer: int | Auto | None = None,
        preservation: float = 1.0,
        slack: float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(
            system=Equality(preservation, slack),
            layers=single(layer),
            **options,
        )


class BatchROME(KeyValueEditor):
    """C-ROME for a batch: ``Δ = R (Kᵀ C⁻¹ K)⁻¹ Kᵀ C⁻¹`` with ``R = V - W K``; ``W K = V`` after.

    It uses mean keys throughout, so an edit of one request is C-ROME's. If the keys are linearly
    dependent, the edit fails.

    Args:
        layer: the edited layer; ``auto`` takes what a study or trace of this model has found. Only
            the embedded model has one by default.
    """

    edits_experts = True

    def __init__(self, layer: int | Auto | None = None, **options: Any) -> None:
        super().__init__(layers=single(layer), **options)
        self.system = Equality(preservation=1.0, slack=0.0)

    def protect(self, layer: int, moment: torch.Tensor | None) -> None:
        """Gives the second moment to the system."""
        self.system.prepare(layer, moment)

    def edit(self, requests: Sequence[EditRequest]) -> Iterator[Update]:
        """One update for all requests together.

        Raises:
            FloatingPointError: if a key is a linear combination of others.
        """
        batch = seek_batch(self, requests)
        keys = torch.stack([located.keys.double().mean(0) for located in batch.located], 1)
        values = torch.stack([located.values.double().mean(0) for located in batch.located], 1)
        change = self.system.fit(self.value_layer, keys, batch.wanted() - values, self.history)
        yield Update(self.edited_weights()[0], change.left, change.right)
