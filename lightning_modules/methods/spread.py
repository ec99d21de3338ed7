"""Residuals spread over layers: each layer takes its share of what is still missing (MEMIT)."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from data_modules.records import EditRequest

from ..editing.edited_weights import Update
from ..functional.least_squares import LowRank
from ..functional.value_search import ValueSearchOptions
from ..language_model.keys import subject_states
from ..language_model.layout import norm_behind, output_weight_name
from ..language_model.values import Recorded
from .batch import BatchEditor, Sought


class SpreadEditor(BatchEditor):
    """Edits a range of layers, the lowest first, by a closed form that a subclass gives.

    A value is the residual stream behind the last layer, at the plain prompt's subject. Layer l
    takes ``1 / (L - l + 1)`` of what the value still lacks once the layers below have changed. Its
    keys are means of two steps: over the contexts of one length, then over the lengths.

    Args:
        layers: the edited layers; values are searched at the last one.
        value: how values are searched.
    """

    usual_contexts = {10: 5}  # noqa: RUF012 - declared as a Mapping

    def __init__(
        self,
        layers: Sequence[int] = (1, 2),
        value: ValueSearchOptions = ValueSearchOptions(clamp=0.75),  # noqa: B008 - frozen
        **options: Any,
    ) -> None:
        super().__init__(layers=layers, value=value, **options)

    @abstractmethod
    def fit(self, layer: int, keys: Tensor, residuals: Tensor) -> LowRank:
        """The layer's change for keys ``(f, n)`` whose outputs lack ``(d, n)``."""

    def edited_weights(self) -> list[str]:
        """The output maps of the edited layers.

        Raises:
            ValueError: if there are several and a norm keeps their outputs from adding up.
        """
        names = super().edited_weights()
        if len(names) > 1 and not self.values_add_up:
            raise ValueError(
                f"layers {self.layers} of {self.lm.config.model_type!r} cannot share a residual: a "
                "norm stands behind each MLP; give a single layer"
            )
        return names

    @property
    def values_add_up(self) -> bool:
        """Whether MLP outputs are simply added to the residual stream."""
        return norm_behind(self.lm, self.value_layer) is None

    def recorded(self, requests: Sequence[EditRequest], contexts: Sequence[str]) -> Recorded:
        """The requests' texts, their values being those of the residual stream."""
        recorded = super().recorded(requests, contexts)
        if not self.values_add_up:
            return recorded
        suffixes = recorded.suffixes
        return recorded._replace(suffixes=suffixes._replace(values=suffixes.hidden[:, 0]))

    def edit(self, requests: Sequence[EditRequest]) -> Iterator[Update]:
        """One update per layer, for all requests together."""
        sought = self.seek_batch(requests)
        for number, layer in enumerate(self.layers):
            keys, values = self.states(layer, sought)
            residuals = (sought.wanted() - values) / (len(self.layers) - number)
            change = self.fit(layer, keys, residuals)
            yield Update(output_weight_name(self.lm, layer), change.left, change.right)

    def states(self, layer: int, sought: Sought) -> tuple[Tensor, Tensor]:
        """Present keys of a layer ``(f, n)`` and values ``(d, n)``, float32."""
        if len(self.layers) == 1:  # nothing has changed since they were recorded
            keys = torch.stack([located.keys for located in sought.located])
            values = torch.stack([located.values[0] for located in sought.located])
            return self.mean_keys(keys), values.T.float()
        parts = [
            subject_states(self.lm, self.tokenizer, (layer, self.value_layer), self.contexts, part)
            for part in self.groups(sought.requests)
        ]
        keys, values = (torch.cat(part) for part in zip(*parts, strict=True))
        return self.mean_keys(keys), values.T.float()

    def mean_keys(self, keys: Tensor) -> Tensor:
        """Means ``(f, n)`` over contexts of keys ``(n, c, f)``, each kind of context alike."""
        kinds = keys.float().split([1, *self.context_lengths.values()], 1)
        return torch.stack([kind.mean(1) for kind in kinds]).mean(0).T
