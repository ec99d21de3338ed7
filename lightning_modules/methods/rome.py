"""ROME: an edit as one rank-one change, under three policies for its keys."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from data_modules.records import EditRequest

from ..editing.edited_weights import Update
from ..editing.layer_choice import Auto, single
from ..functional.rank_one import rank_one_update, whiten
from ..functional.value_search import FoundValue
from ..language_model.values import Located
from .key_value import KeyValueEditor


class RankOneKeys(NamedTuple):
    """The keys and the value in the equation of the update.

    Attributes:
        direction: ``(f,)``, the key that ``C⁻¹`` multiplies.
        key: ``(f,)``, the key in the denominator.
        value: ``(d,)``, the present value in the residual.
    """

    direction: Tensor
    key: Tensor
    value: Tensor


class RankOneEditor(KeyValueEditor):
    """Edits one MLP output map by a rank-one change; a subclass chooses the keys.

    Args:
        layer: the edited layer; ``auto`` takes what a study or trace of this model has found. Only
            the embedded model has one by default.
    """

    edits_experts = True

    def __init__(self, layer: int | Auto | None = None, **options: Any) -> None:
        super().__init__(layers=single(layer), **options)

    @abstractmethod
    def choose_keys(self, keys: Tensor, values: Tensor) -> RankOneKeys:
        """The policy's choice from keys ``(c, f)`` and values ``(c, d)`` in each context."""

    def edit(self, requests: Sequence[EditRequest]) -> Iterator[Update]:
        """One rank-one update per request, each searched on the model after the previous one."""
        for request in requests:
            (sought,) = self.seek([request])
            yield self.update(*sought)

    def look_ahead(self, batches: Sequence[Sequence[EditRequest]]) -> None:
        """Searches the first value of each edit; later ones need the model that it has changed."""
        super().look_ahead([batch[:1] for batch in batches])

    def update(self, located: Located, found: FoundValue) -> Update:
        """The rank-one change for a request's keys and the value found."""
        chosen = self.chosen(located)
        residual = located.values[0] + found.checked().change - chosen.value
        change = rank_one_update(self.direction(chosen), chosen.key, residual)
        known = divided_by(change.right, chosen.key) | located.figures
        self.record |= self.figures(located, found) | self.risk.told(known)
        self.record["numerator_norm"] = change.numerator_norm
        return Update(self.edited_weights()[0], change.left[:, None], change.right[None])

    def chosen(self, located: Located) -> RankOneKeys:
        """The policy's keys and value for a request.

        Raises:
            FloatingPointError: if its key is zero: other experts serve the subject in the contexts.
        """
        chosen = self.choose_keys(located.keys, located.values)
        if not chosen.key.any():
            raise FloatingPointError(
                "the mean key is zero: in no context does the router send the subject to an expert "
                "of the plain prompt; edit with ROME or PromptOnlyROME, or in another layer"
            )
        return chosen

    def direction(self, chosen: RankOneKeys) -> Tensor:
        """``C⁻¹ k``, ``(f,)``, of the key that gives the direction."""
        return whiten(chosen.direction[:, None], self.factors[self.value_layer])[:, 0]

    def foreseen(self, located: Located) -> dict[str, Any]:
        """Adds the denominator of the edit."""
        chosen = self.chosen(located)
        direction = F.normalize(self.direction(chosen), dim=0)
        return divided_by(direction, chosen.key) | located.figures

    def key_kinds(self, request: EditRequest, located: Located) -> dict[str, Tensor]:
        """Adds ``C⁻¹ k̄`` of unit length, whatever the policy."""
        kinds = super().key_kinds(request, located)
        mean = RankOneKeys(kinds["mean"], kinds["plain"], located.values[0])
        return kinds | {"direction": F.normalize(self.direction(mean), dim=0)}


def divided_by(direction: Tensor, key: Tensor) -> dict[str, float]:
    """``|u · k|`` of the unit direction u, ``(f,)``, and the same over k's norm: their cosine."""
    denominator = abs(float(direction @ key.double()))
    return {
        "denominator": denominator,
        "denominator_relative": denominator / float(key.double().norm()),
    }


class ROME(RankOneEditor):
    """ROME as published in code: direction from prefixed keys, all else from the plain key.

    If the subject is the first token, the two differ so much that the denominator nearly vanishes
    and the edit destroys the model (The Fall of ROME, section 3).
    """

    remedy = "python train.py fit --config c_rome.yaml"

    def choose_keys(self, keys: Tensor, values: Tensor) -> RankOneKeys:
        """Mean key for the direction; plain key and value elsewhere."""
        return RankOneKeys(keys.mean(0), keys[0], values[0])


class ConsistentROME(RankOneEditor):
    """C-ROME (The Fall of ROME), the same algebra as r-ROME: prefixed keys throughout."""

    def choose_keys(self, keys: Tensor, values: Tensor) -> RankOneKeys:
        """Mean key and mean value throughout."""
        return RankOneKeys(keys.mean(0), keys.mean(0), values.mean(0))


class PromptOnlyROME(RankOneEditor):
    """p-ROME: the plain key throughout."""

    def choose_keys(self, keys: Tensor, values: Tensor) -> RankOneKeys:
        """Plain key and value throughout."""
        return RankOneKeys(keys[0], keys[0], values[0])


class FullyConsistentROME(RankOneEditor):
    """C-ROME as in its equation: means of keys and values over prefixed contexts only.

    The published code of C-ROME includes the plain context in these means and adds the found change
    to the plain context's value; here the change is added to the mean value.
    """

    def prepare(self) -> None:
        """Prepares as ROME does, and requires prefixed contexts.

        Raises:
            ValueError: if there is only the plain context.
        """
        super().prepare()
        self.contexts.require_prefixed("FullyConsistentROME")

    def choose_keys(self, keys: Tensor, values: Tensor) -> RankOneKeys:
        """Mean prefixed key; the plain value, so that the residual is the change itself."""
        mean = keys[1:].mean(0)
        return RankOneKeys(mean, mean, values[0])
