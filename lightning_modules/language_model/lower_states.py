"""Hidden states below an edit; constant during a run, so computed once per text."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor
from transformers import PreTrainedModel

from .layout import blocks
from .passes import recording, starting_at
from .shortcuts import shortcuts_of


class LowerStates:
    """Inputs of the lowest edited block, cached for batches of text that recur.

    Args:
        layer: the lowest edited layer; below layer 0 there is nothing to cache.
        budget: maximum bytes cached on the model's device.
        host_budget: maximum bytes cached on the host; batches beyond both budgets run through all
            layers every time.
        newest: evict the oldest batch to make room for the newest, instead of keeping the first.
    """

    def __init__(
        self, layer: int, budget: float, host_budget: float = 0, newest: bool = False
    ) -> None:
        self.layer = layer
        self.budget = budget
        self.host_budget = host_budget
        self.newest = newest
        self.kept: dict[tuple, Tensor] = {}

    def anew(self) -> "LowerStates":
        """Below the same layer, but without a cache: these may be states that take no gradient."""
        return LowerStates(self.layer, 0)

    @contextmanager
    def reused(
        self, lm: PreTrainedModel, rows: Sequence[Sequence[int]], copies: int = 1
    ) -> Iterator[None]:
        """Inside, a pass over ``copies`` of these rows starts at the edited layer if possible."""
        key = tuple(map(tuple, rows))
        if self.layer == 0 or not shortcuts_of(lm).lower:
            yield
        elif key in self.kept:
            hidden = self.kept[key].to(lm.device).repeat(copies, 1, 1)
            with starting_at(lm, self.layer, hidden):
                yield
        else:
            with recording({"block": blocks(lm)[self.layer]}) as seen:
                yield
            self._keep(key, seen["block"][0][: len(rows)])

    def _keep(self, key: tuple, hidden: Tensor) -> None:
        while self.newest and self.kept and hidden.nbytes > self.budget:
            self.budget += self.kept.pop(next(iter(self.kept))).nbytes
        if hidden.nbytes <= self.budget:
            self.budget -= hidden.nbytes
            self.kept[key] = hidden
        elif hidden.nbytes <= self.host_budget:
            self.host_budget -= hidden.nbytes
            self.kept[key] = hidden.cpu()
