"""A run that fails before it begins leaves no folder."""

import shutil
from pathlib import Path
from typing import Any

import lightning as L

from callbacks.keeping.run_folder import folder_of, is_removed


class FailedStart(L.Callback):
    """Removes the run's folder if an error ends the run before its first edit or evaluation.

    Args:
        folder: of the run; it did not exist before.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.begun = False

    def on_train_start(self, *args: Any) -> None:
        """Leaves the folder alone from now on."""
        self.begun = True

    def on_test_batch_start(self, *args: Any) -> None:
        """Leaves the folder alone from now on."""
        self.begun = True

    def on_predict_batch_start(self, *args: Any) -> None:
        """Leaves the folder alone from now on."""
        self.begun = True

    def on_validation_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """The pass over the unedited model is no beginning."""
        self.begun = self.begun or not trainer.sanity_checking

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Removes it, and its parent if nothing else is there."""
        if self.begun or not self.folder.is_dir():
            return
        for logger in trainer.loggers:
            logger.finalize("failed")  # what it still writes would have no place
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.parent.is_dir() and not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()


def watch_start(trainer: L.Trainer) -> None:
    """Lets a trainer whose folder does not exist yet remove it if the start fails."""
    if not trainer.is_global_zero:
        return
    folder = folder_of(trainer)
    if not folder.exists() and not is_removed(folder):
        trainer.callbacks.append(FailedStart(folder))  # type: ignore[attr-defined] # it comes last
