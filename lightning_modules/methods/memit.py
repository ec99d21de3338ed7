"""MEMIT: many requests, several layers, least squares; optionally none of the past is forgotten."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..functional.least_squares import LowRank, NormalEquations, ridge_update
from .spread import SpreadEditor


class RidgeEditor(SpreadEditor):
    """Solves ``Δ = R Kᵀ (A + Kp Kpᵀ + K Kᵀ)⁻¹`` at each layer; a subclass chooses A.

    With a history, Kp are the keys of all past edits; else they are forgotten. Only the keys are
    kept, what solving needs is made from them. An edit's cost then grows with their number.

    Args:
        history: keep the keys of past edits.
    """

    def __init__(self, history: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.keeps_keys = history
        self.systems: dict[int, NormalEquations] = {}
        self.known: dict[int, tuple[Tensor | None, NormalEquations]] = {}

    @abstractmethod
    def protect(self, layer: int, moment: Tensor | None) -> None:
        """Says by :meth:`start_from` what A is, given C; here C is factorized."""
        super().protect(layer, moment)

    def fit(self, layer: int, keys: Tensor, residuals: Tensor) -> LowRank:
        """The ridge solution; adds the keys to the history if there is one."""
        system = self.system(layer)
        if self.keeps_keys:
            self.remember(layer, system, keys)
        return ridge_update(system, keys, residuals)

    def start_from(self, layer: int, system: NormalEquations) -> None:
        """Takes A as the layer's system before any edit."""
        self.systems[layer] = system
        self.known[layer] = None, system

    def system(self, layer: int) -> NormalEquations:
        """``A + Kp Kpᵀ`` with the past keys in ``history``, which an undo may have shortened."""
        past = self.history.get(f"keys/{layer}")
        known, system = self.known[layer]
        if past is not known:
            count = 0 if past is None else past.shape[1]
            if known is not None and (past is None or torch.equal(past, known[:, :count])):
                system = system.first(count)
            elif past is not None:
                system = self.systems[layer]
                for keys in past.split(self.history[f"batches/{layer}"].tolist(), 1):
                    system = system.extended(keys)
        self.known[layer] = past, system
        return system

    def remember(self, layer: int, system: NormalEquations, keys: Tensor) -> None:
        """Adds the keys ``(f, n)`` of an edit to the history, and their number."""
        size = torch.tensor([keys.shape[1]], device=keys.device)
        for name, new in (("keys", keys), ("batches", size)):
            past = self.history.get(f"{name}/{layer}")
            self.history[f"{name}/{layer}"] = new if past is None else torch.cat([past, new], -1)
        self.known[layer] = self.history[f"keys/{layer}"], system.extended(keys)

    def card(self) -> dict[str, Any]:
        """Adds whether past keys are kept."""
        return super().card() | {"history": self.keeps_keys}


class MEMIT(RidgeEditor):
    """MEMIT (Meng et al. 2023): ``A = λ C``, C being the second moment of the keys of text.

    Args:
        preservation: λ, the number of tokens of text that outweigh an edit's key.
    """

    def __init__(self, preservation: float = 1000.0, **options: Any) -> None:
        super().__init__(**options)
        self.preservation = preservation

    def protect(self, layer: int, moment: Tensor | None) -> None:
        """Factorizes C."""
        super().protect(layer, moment)
        self.start_from(layer, NormalEquations(self.factors[layer], self.preservation))

    def card(self) -> dict[str, Any]:
        """Adds λ."""
        return super().card() | {"preservation": self.preservation}
