"""Residuals spread over layers: each layer takes its share of the remaining residual (MEMIT)."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from data_modules.records import EditRequest

from ..editing.edited_weights import Update
from ..editing.layer_choice import Auto
from ..functional.value_search import FoundValue, ValueSearchOptions
from ..language_model.context_sampling import sample_contexts
from ..language_model.keys import key_energy, subject_states
from ..language_model.layout import output_weight_name, values_add_up
from ..language_model.values import Recorded
from .batch import Batch, counting, seek_batch
from .key_value import KeyValueEditor
from .systems import System


class SpreadEditor(KeyValueEditor):
    """Edits a range of layers from the lowest up, each by the solution of a system.

    A value is the residual stream after the last layer, at the plain prompt's subject. Layer l
    takes ``1 / (L - l + 1)`` of the residual that remains once the layers below have changed. Its
    keys are averaged in two steps: over the contexts of one length, then over the lengths.

    Args:
        system: the equation of a layer's change.
        layers: the edited layers; values are searched at the last one. ``auto`` takes the layer of
            a study or a causal trace of this model, and the four before it. Only the embedded
            model has some by default.
        value: how values are searched.
    """

    auto_width = 5
    edits_experts = True
    embedded_layers: Sequence[int] = (1, 2)
    usual_contexts = {10: 5}  # noqa: RUF012 - declared as a Mapping

    def __init__(
        self,
        system: System,
        layers: Sequence[int] | Auto | None = None,
        value: ValueSearchOptions = ValueSearchOptions(clamp=0.75),  # noqa: B008 - frozen
        **options: Any,
    ) -> None:
        super().__init__(layers=layers, value=value, **options)
        self.system = system

    def choose_layers(self) -> None:
        """Looks them up; a single one where layers cannot share a residual."""
        super().choose_layers()
        if isinstance(self.wanted_layers, str) and not self.values_add_up:
            self.layers = self.layers[-1:]

    def edited_weights(self) -> list[str]:
        """The output maps of the edited layers.

        Raises:
            ValueError: if there are several and their outputs do not simply add up.
        """
        names = super().edited_weights()
        if len(names) > 1 and not self.values_add_up:
            raise ValueError(
                f"layers {self.layers} of {self.lm.config.model_type!r} cannot share a residual: "
                "the MLP outputs are scaled or normed on their way; give a single layer"
            )
        return names

    @property
    def values_add_up(self) -> bool:
        """Whether MLP outputs are simply added to the residual stream."""
        return values_add_up(self.lm)

    def protect(self, layer: int, moment: Tensor | None) -> None:
        """Passes the second moment to the system; ``identity`` has the size of C.

        λ counts tokens of text, so the identity is multiplied by the mean square of a key's
        component over the contexts, as if keys of that size pointed in all directions alike.
        """
        self.system.prepare(layer, self.mean_square(layer) if moment is None else moment)

    def mean_square(self, layer: int) -> float:
        """Of the components of a layer's keys, over the contexts or over text like theirs."""
        texts = self.contexts.templates[1:]
        if not texts:
            chance = torch.Generator().manual_seed(self.seed)
            lengths = SpreadEditor.usual_contexts
            texts = sample_contexts(self.lm, self.tokenizer, lengths, chance)[1:]
        plain = [text.removesuffix(" {}") for text in texts]
        return key_energy(self.lm, self.tokenizer, layer, plain)

    def recorded(
        self,
        requests: Sequence[EditRequest],
        templates: Sequence[str] | None = None,
        layer: int | None = None,
    ) -> Recorded:
        """The requests' texts, with values of the residual stream."""
        recorded = super().recorded(requests, templates, layer)
        if not self.values_add_up:
            return recorded
        return recorded._replace(values=recorded.suffixes.hidden[:, 0].to(self.device))

    def edit(self, requests: Sequence[EditRequest]) -> Iterator[Update]:
        """One update per layer, for all requests together."""
        yield from self.solved(seek_batch(self, requests))

    def solved(self, batch: Batch) -> Iterator[Update]:
        """One update per layer, for the values of a batch."""
        for number, layer in enumerate(self.layers):
            keys, values = self.states(layer, batch)
            residuals = (batch.wanted() - values) / (len(self.layers) - number)
            change = self.system.fit(layer, keys, residuals, self.history)
            yield Update(output_weight_name(self.lm, layer), change.left, change.right)

    def values_of(self, requests: Sequence[EditRequest], updates: Sequence[Update]) -> Tensor:
        """The values ``(d, n)`` that updates were solved for, on the model before the edit.

        The left factor of the first layer's update is that layer's share of the residual.
        """
        located = self.search.located(counting(requests), self.recorded)
        present = torch.stack([where.values[0].float() for where in located], 1)
        return present + len(self.layers) * updates[0].left

    def edit_to(self, requests: Sequence[EditRequest], values: Tensor) -> Iterator[Update]:
        """One update per layer, for given values ``(d, n)`` in place of a search."""
        kept = counting(requests)
        located = self.search.located(kept, self.recorded)
        found = [
            FoundValue(value.float() - where.values[0].float(), [0.0], 0.0)
            for value, where in zip(values.T, located, strict=True)
        ]
        yield from self.solved(Batch(kept, located, found))

    def states(self, layer: int, batch: Batch) -> tuple[Tensor, Tensor]:
        """Present keys of a layer ``(f, n)`` and values ``(d, n)``, float32."""
        if len(self.layers) == 1:  # nothing has changed since they were recorded
            keys = torch.stack([located.keys for located in batch.located])
            values = torch.stack([located.values[0] for located in batch.located])
            return self.mean_keys(keys), values.T.float()
        layers, templates = (layer, self.value_layer), self.contexts.templates
        parts = [
            subject_states(self.lm, self.tokenizer, layers, templates, part)
            for part in self.search.parts(batch.requests)
        ]
        keys, values = (torch.cat(part) for part in zip(*parts, strict=True))
        return self.mean_keys(keys), values.T.float()

    def mean_keys(self, keys: Tensor) -> Tensor:
        """Means ``(f, n)`` of keys ``(n, c, f)`` over contexts, each length with equal weight."""
        kinds = keys.float().split([1, *self.contexts.lengths.values()], 1)
        return torch.stack([kind.mean(1) for kind in kinds]).mean(0).T

    def card(self) -> dict[str, Any]:
        """Adds the system's parameters."""
        return super().card() | self.system.card()
