"""A model's forward pass through torch.compile, for as long as that works."""

from collections.abc import Callable
from textwrap import shorten
from typing import Any, TypeVar

import torch
from lightning.pytorch.utilities import rank_zero_warn
from transformers import PreTrainedModel

Found = TypeVar("Found")


class Compilation:
    """A model's forward pass, compiled for texts of any length; on a GPU with CUDA graphs.

    Args:
        lm: the model; its weights may change.
    """

    def __init__(self, lm: PreTrainedModel) -> None:
        self.lm = lm
        self.works = True
        self._compiled = torch.compile(
            lm.forward, fullgraph=True, dynamic=True, mode="reduce-overhead"
        )

    def __call__(self, search: Callable[[], Found]) -> Found:
        """What ``search`` finds while the model is compiled; as it is from the first failure on."""
        if not self.works:
            return search()
        self.lm.forward = self._forward
        try:
            return search()
        except Exception as error:  # of many kinds; the search's own comes again, below
            self.works = False
            reason = shorten(str(error.__cause__ or error), 120)
            rank_zero_warn(f"values are searched uncompiled from here on: {reason}")
        finally:
            del self.lm.forward
        return search()

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()  # what a CUDA graph gave before is read by now
        return self._compiled(*args, **kwargs)
