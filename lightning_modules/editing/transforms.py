"""Transforms of any method's update before it is applied; chosen in YAML."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..functional.update_transforms import largest_singular_value, prune, rect, sphere
from .edited_weights import Update


class UpdateTransform(ABC):
    """Replaces an update by another of the same weight."""

    @abstractmethod
    def __call__(
        self, update: Update, weight: Tensor, original: Tensor, history: dict[str, Tensor]
    ) -> Update:
        """The update to apply instead.

        Args:
            update: as the method yielded it.
            weight: ``(out, in)``, the current weight.
            original: ``(out, in)``, before any edit.
            history: memory of past edits; entries are replaced, never changed.
        """


class RECT(UpdateTransform):
    """RECT (Gu et al. 2024): only the entries that change most relative to the weight.

    Args:
        keep: share of entries kept.
    """

    def __init__(self, keep: float = 0.4) -> None:
        self.keep = keep

    def __call__(
        self, update: Update, weight: Tensor, original: Tensor, history: dict[str, Tensor]
    ) -> Update:
        """The update's largest entries relative to the present weight."""
        return Update(update.weight, rect(update.dense().to(weight), weight, self.keep))


class PRUNE(UpdateTransform):
    """PRUNE (Ma et al. 2025): original weight plus all updates, large singular values damped.

    After every edit the weight is ``W0 + prune(Σ Δ)``. The sum is that of the methods' own updates,
    so nothing is pruned twice. Its authors prune once, after all edits: ``test
    --config replay.yaml --model.transform PRUNE`` does so.

    Args:
        base: of the logarithm; published values are 1.2, 1.5, 2 and e.
    """

    def __init__(self, base: float = math.e) -> None:
        self.base = base

    def __call__(
        self, update: Update, weight: Tensor, original: Tensor, history: dict[str, Tensor]
    ) -> Update:
        """The step from the present weight to the original one plus the pruned sum."""
        name, limit = f"total/{update.weight}", f"limit/{update.weight}"
        history[name] = history.get(name, 0) + update.dense().to(weight)
        if limit not in history:
            history[limit] = torch.tensor(largest_singular_value(original), dtype=torch.float64)
        pruned = prune(history[name], original, self.base, float(history[limit]))
        return Update(update.weight, original + pruned - weight)


class SPHERE(UpdateTransform):
    """SPHERE (2026): updates without the main input directions of the weight's rows.

    Args:
        energy: η, least share of the rows' energy that those directions hold.
        strength: a, the share of the update along them that is removed.
    """

    def __init__(self, energy: float = 0.5, strength: float = 0.8) -> None:
        self.energy = energy
        self.strength = strength

    def __call__(
        self, update: Update, weight: Tensor, original: Tensor, history: dict[str, Tensor]
    ) -> Update:
        """The update without its component along the present weight's principal directions.

        It acts on the input side alone, so a low-rank update stays low-rank.
        """
        if update.right is None:
            return update._replace(left=sphere(update.left, weight, self.energy, self.strength))
        right = sphere(update.right, weight, self.energy, self.strength)
        return update._replace(left=update.left.to(right), right=right)
