"""A model's forward pass through torch.compile, until compilation fails."""

from collections.abc import Callable
from textwrap import shorten
from typing import Any, TypeVar

import torch
from lightning.pytorch.utilities import rank_zero_warn
from transformers import PreTrainedModel

Found = TypeVar("Found")


class Compilation:
    """A model's forward pass, compiled for texts of any length; with CUDA graphs on a GPU.

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
        """Result of ``search`` on the compiled model; uncompiled from the first failure on."""
        if not self.works:
            return search()
        self.lm.forward = self._forward
        try:
            return search()
        except Exception as error:  # of many kinds; the search's own recurs below
            self.works = False
            reason = shorten(str(error.__cause__ or error), 120)
            rank_zero_warn(f"from here on, values are searched uncompiled: {reason}")
        finally:
            del self.lm.forward
        return search()

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()  # the graph's previous output has been read
        return self._compiled(*args, **kwargs)
