"""What an editor offers whose edits can be fitted again to the values once found for them."""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from data_modules.records import EditRequest

from .edited_weights import Update


@runtime_checkable
class Refitting(Protocol):
    """An editor that solves for given values, and reads the values of an edit from its updates."""

    def values_of(self, requests: Sequence[EditRequest], updates: Sequence[Update]) -> Tensor:
        """The values ``(d, n)`` that updates were solved for, on the model before the edit."""

    def edit_to(self, requests: Sequence[EditRequest], values: Tensor) -> Iterator[Update]:
        """The edit that gives values ``(d, n)``, without a search; each update is applied next."""
