"""What may be done to any method's update before it is applied; chosen in YAML."""

from abc import ABC, abstractmethod

from torch import Tensor

from .edited_weights import Update


class UpdateTransform(ABC):
    """Replaces an update by another one of the same weight."""

    @abstractmethod
    def __call__(
        self, update: Update, weight: Tensor, original: Tensor, history: dict[str, Tensor]
    ) -> Update:
        """The update to apply instead.

        Args:
            update: as the method yielded it.
            weight: ``(out, in)``, as it is now.
            original: ``(out, in)``, before any edit.
            history: what is remembered of past edits; entries are replaced, never changed.
        """
