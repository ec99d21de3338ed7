"""The state of a run, saved after every edit: a killed run loses at most the edit in flight."""

import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from lightning_modules.editing.editor import Editor

from .run_folder import folder_of
from .schedule import watched_next


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint as a whole or not at all, whenever the machine stops."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Puts the file, once it is on the disk, in the place of the one before."""
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        try:
            with partial.open("wb") as written:
                torch.save(checkpoint, written)
                written.flush()
                os.fsync(written.fileno())
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)


class EditCheckpoint(Checkpoint):
    """Keeps ``checkpoints/last.ckpt``: the state behind the last edit, after its line was written.

    It holds what edits change and what the run has seen, not the language model.
    """

    def setup(self, trainer: L.Trainer, pl_module: Editor, stage: str) -> None:
        """Lets all checkpoints of the run be written whole."""
        trainer.strategy.checkpoint_io = WholeFiles()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Editor, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves behind an edit that is not watched."""
        if not watched_next(trainer):
            self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Saves behind an edit that was watched."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Replaces the file."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined] # set by Lightning's connector
            file = folder_of(trainer) / "checkpoints" / "last.ckpt"
            trainer.save_checkpoint(file, weights_only=False)  # unasked, it says so each time

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: Editor, checkpoint: dict[str, Any]
    ) -> None:
        """Leaves it to the loader whether the last batch was the last: more may be asked for."""
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False
