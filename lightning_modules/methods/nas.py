"""NAS: searched values kept at the size that values have in the unedited model."""

from collections.abc import Sequence

import torch

from data_modules.records import EditRequest

from ..functional.norm_anchor import anchored
from ..functional.value_search import FoundValue
from ..language_model.values import Located
from .alpha_edit import AlphaEdit
from .key_value import KeyValueEditor
from .memit import MEMIT
from .rome import ROME, ConsistentROME

ANCHOR = "anchor"


class NormAnchored(KeyValueEditor):
    """Norm-anchor scaling for any method that searches values: ``v* · ‖v‖_anchor / ‖v*‖``.

    The anchor is the mean norm that the values of all requests so far have in the unedited model,
    at their plain prompts. Put this class before a method's among the bases. However far a value
    was from the anchor, it is scaled and the edit made; ``value_scale`` tells by how much.
    """

    def seek(self, requests: Sequence[EditRequest]) -> list[tuple[Located, FoundValue]]:
        """Each request's keys and values, and the value found, scaled."""
        sought = super().seek(requests)
        norm = self.anchor(requests)
        originals = torch.stack([located.values[0].double() for located, _ in sought])
        wanted = originals + torch.stack([found.change for _, found in sought])
        scaled = anchored(wanted, norm)
        self.record["anchor"] = norm
        self.record["value_scale"] = float((norm / wanted.norm(dim=1)).mean())
        return [
            (located, found._replace(change=change.float()))
            for (located, found), change in zip(sought, scaled - originals, strict=True)
        ]

    def anchor(self, requests: Sequence[EditRequest]) -> float:
        """The mean norm of the original values of all requests so far, these included."""
        with self.edited.unedited():
            located = self.locate(requests, self.contexts[:1])
        norms = torch.stack([where.values[0].double().norm() for where in located])
        sums = torch.stack([norms.sum(), norms.new_tensor(len(norms))])
        self.history[ANCHOR] = self.history.get(ANCHOR, torch.zeros_like(sums)) + sums
        total, count = self.history[ANCHOR].tolist()
        return total / count


class AnchoredROME(NormAnchored, ROME):
    """ROME with values at the anchor's size."""


class AnchoredConsistentROME(NormAnchored, ConsistentROME):
    """C-ROME with values at the anchor's size."""


class AnchoredMEMIT(NormAnchored, MEMIT):
    """MEMIT with values at the anchor's size."""


class AnchoredAlphaEdit(NormAnchored, AlphaEdit):
    """AlphaEdit with values at the anchor's size."""
