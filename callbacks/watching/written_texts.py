"""When texts that a model writes are measured: after edits, and for all requests under ``test``."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import lightning as L

from data_modules.records import EditRequest
from lightning_modules.editing.editor import Editor
from lightning_modules.editing.replicas import in_turn

from ..keeping.means import mean_scores
from .edit_metrics import log_retained


class WrittenTexts(L.Callback):
    """Completes the record every ``every_n_edits``, and logs means as ``retention/*``."""

    every_n_edits: int
    read: list[list[dict[str, float]]]

    @abstractmethod
    def measured(self, editor: Editor, requests: Sequence[EditRequest]) -> list[dict[str, float]]:
        """Measures of each request's texts; absent where undefined."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Editor, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Completes the record of an edit."""
        edit = pl_module.record.get("edit", trainer.global_step)
        if batch and edit % self.every_n_edits == 0:
            pl_module.record |= mean_scores(self.measured(pl_module, batch))

    def on_test_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Clears the scores."""
        self.on_fit_start(trainer, pl_module)
        self.read = []

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: Editor, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Adds the scores of a batch."""
        self.read.append(self.measured(pl_module, pl_module.tested(batch)))

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Logs the mean scores."""
        log_retained(pl_module, [scores for batch in in_turn(self.read) for scores in batch])
