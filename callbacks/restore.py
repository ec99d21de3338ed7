"""Single edits: each starts from the original model."""

from typing import Any

import lightning as L

from lightning_modules.editor import Editor


def restores(trainer: L.Trainer) -> bool:
    """Whether every edit of this run starts from the original model."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined] # set by Lightning's connector
    return any(isinstance(callback, RestoreWeights) for callback in callbacks)


class RestoreWeights(L.Callback):
    """Gives the edited weights their original values before every edit.

    With it a run is the papers' single-edit sweep; without it edits accumulate.
    """

    def setup(self, trainer: L.Trainer, pl_module: Editor, stage: str) -> None:
        """Takes the first place, so that what is measured before an edit is the original model."""
        trainer.callbacks.sort(  # type: ignore[attr-defined] # as above
            key=lambda callback: callback is not self
        )

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: Editor, batch: Any, batch_idx: int
    ) -> None:
        """Undoes the previous edit."""
        pl_module.restore()
