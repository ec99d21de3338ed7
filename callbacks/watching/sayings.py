"""The model's own words after a prompt, before and after its edit."""

import math
from collections.abc import Sequence
from typing import Any

import lightning as L

from data_modules.records import EditRequest
from lightning_modules.editing.editor import Editor
from lightning_modules.editing.replies import replies


class Sayings(L.Callback):
    """Records how the model greedily continues a request's prompt, around each of the first edits.

    The prompt is that of the evaluation: behind its context, in a chat if the run judges in one.

    Args:
        first_edits: how many of them.
        new_tokens: of a continuation.
        requests: of an edit of several, at most.

    Raises:
        ValueError: if a number is negative, or no token or request is asked for.
    """

    def __init__(self, first_edits: int = 24, new_tokens: int = 10, requests: int = 4) -> None:
        if first_edits < 0 or min(new_tokens, requests) <= 0:
            raise ValueError(
                "first_edits must not be negative, new_tokens and requests must be positive, got "
                f"{first_edits}, {new_tokens} and {requests}"
            )
        self.first_edits = first_edits
        self.new_tokens = new_tokens
        self.requests = requests

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: Editor, batch: Any, batch_idx: int
    ) -> None:
        """Asks the model before the edit."""
        self.ask(pl_module, batch, "says_before")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Editor, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Asks it after the edit."""
        self.ask(pl_module, batch, "says")

    def ask(self, editor: Editor, batch: Sequence[EditRequest], field: str) -> None:
        """Completes the record, if the edit is one of the first."""
        if not batch or editor.record.get("edit", math.inf) > self.first_edits:
            return
        said = replies(editor, batch[: self.requests], self.new_tokens)
        editor.record[field] = said[0] if len(batch) == 1 else said
