"""EMMET: ROME for a batch, every key mapped exactly to its value."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from data_modules.records import EditRequest

from ..editing.edited_weights import Update
from ..functional.least_squares import NormalEquations, equality_update
from .batch import seek_batch
from .key_value import KeyValueEditor


class EMMET(KeyValueEditor):
    """Edits one layer under equality constraints (Gupta et al. 2024): ``W K = V`` afterwards.

    ``Δ = R (Kᵀ C⁻¹ K)⁻¹ Kᵀ C⁻¹`` with ``R = V - W K`` and mean keys throughout, so that an edit of
    one request is C-ROME's. Requests whose keys depend on each other cannot all be met: that edit
    fails.

    Args:
        layer: the edited layer.
    """

    def __init__(self, layer: int = 1, **options: Any) -> None:
        super().__init__(layers=[layer], **options)

    def edit(self, requests: Sequence[EditRequest]) -> Iterator[Update]:
        """One update for all requests together.

        Raises:
            FloatingPointError: if a key is a linear combination of others.
        """
        batch = seek_batch(self, requests)
        keys = torch.stack([located.keys.double().mean(0) for located in batch.located], 1)
        values = torch.stack([located.values.double().mean(0) for located in batch.located], 1)
        system = NormalEquations(self.factors[self.value_layer])
        try:
            change = equality_update(system, keys, batch.wanted() - values)
        except ValueError as error:
            raise FloatingPointError(str(error)) from error
        yield Update(self.edited_weights()[0], change.left, change.right)
