"""Hidden states below an edit: constant during a run, so computed once per text."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .layout import blocks
from .passes import recording, starting_at
from .tokens import TokenBatch


class LowerStates:
    """Inputs of the lowest edited block, kept for batches of text that come again.

    Args:
        layer: the lowest edited layer.
        budget: most bytes kept; batches beyond it run through all layers every time.
    """

    def __init__(self, layer: int, budget: float) -> None:
        self.layer = layer
        self.budget = budget
        self.kept: dict[bytes, Tensor] = {}

    @contextmanager
    def reused(self, lm: PreTrainedModel, batch: TokenBatch) -> Iterator[None]:
        """Inside, a pass over ``batch`` starts at the edited layer if its states are kept."""
        # the mask too: a padded place holds token 0, which is also a real one ("!" for GPT-2)
        rows = torch.stack([batch.tokens, batch.mask]).cpu()
        key = str(tuple(rows.shape)).encode() + rows.numpy().tobytes()
        if key in self.kept:
            with starting_at(lm, self.layer, self.kept[key]):
                yield
            return
        with recording({"block": blocks(lm)[self.layer]}) as seen:
            yield
        hidden = seen["block"][0]
        if hidden.nbytes <= self.budget:
            self.budget -= hidden.nbytes
            self.kept[key] = hidden
