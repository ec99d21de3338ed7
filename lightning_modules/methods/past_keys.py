"""The keys of past edits in an editor's history, which is undone and saved with the weights."""

import torch
from torch import Tensor

History = dict[str, Tensor]  # entries are replaced, never changed in place


class PastKeys:
    """Keys of the past edits of one layer, batch by batch.

    Args:
        history: of the editor; holds ``keys/LAYER`` ``(f, t)`` and ``batches/LAYER``, the number of
            keys of each edit.
        layer: the layer.
    """

    def __init__(self, history: History, layer: int) -> None:
        self.history = history
        self.layer = layer

    @property
    def keys(self) -> Tensor | None:
        """``(f, t)``; None before the first edit."""
        return self.history.get(f"keys/{self.layer}")

    def batches(self, skipped: int = 0) -> list[Tensor]:
        """The keys of each edit ``(f, n)``, in order, without the first ``skipped`` keys."""
        if self.keys is None:
            return []
        batches = self.keys.split(self.history[f"batches/{self.layer}"].tolist(), 1)
        ends = self.history[f"batches/{self.layer}"].cumsum(0).tolist()
        return [keys for keys, end in zip(batches, ends, strict=True) if end > skipped]

    def append(self, keys: Tensor) -> None:
        """Adds the keys ``(f, n)`` of an edit."""
        size = torch.tensor([keys.shape[1]], device=keys.device)
        for name, new in (("keys", keys), ("batches", size)):
            past = self.history.get(f"{name}/{self.layer}")
            self.history[f"{name}/{self.layer}"] = (
                new if past is None else torch.cat([past, new], -1)
            )
