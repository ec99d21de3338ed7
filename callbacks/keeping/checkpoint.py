"""The state of a run, saved after every edit; a killed run loses at most the current edit."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from lightning_modules.editing.editor import Editor

from .checkpoint_files import LAST, WholeFiles
from .increments import STATE, Increments
from .run_folder import folder_of
from .schedule import watched_next


class EditCheckpoint(Checkpoint):
    """Keeps ``checkpoints/last.ckpt``: the state after the last edit, once its line was written.

    The previous one stays beside it in case the last is damaged. They hold what edits change and
    what the run has recorded, not the language model. Where weights and history are large, most
    checkpoints hold only what the edit added, and the last of a run is made whole at its end.

    Args:
        whole_every: at most as many checkpoints after a whole one build on it; 0 makes all whole.
        light: MiB of weights and history up to which every checkpoint is whole.

    Raises:
        ValueError: if a number is negative.
    """

    def __init__(self, whole_every: int = 100, light: float = 1.0) -> None:
        if whole_every < 0 or light < 0:
            raise ValueError(
                f"whole_every and light must not be negative, got {whole_every} and {light}"
            )
        self.increments = Increments(whole_every, light * 2**20)
        self.files = WholeFiles()
        self.partial = False  # whether the last checkpoint is an increment

    def setup(self, trainer: L.Trainer, pl_module: Editor, stage: str) -> None:
        """Makes all checkpoints of the run atomic."""
        trainer.strategy.checkpoint_io = self.files

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Editor, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves after an edit that is not watched."""
        if not watched_next(trainer):
            self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Saves after an edit that was watched."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Replaces the file."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined] # set by Lightning's connector
            # by default it warns of weights_only each time
            added = self.increments.of(trainer.lightning_module)
            trainer.save_checkpoint(self.last(trainer), weights_only=False, storage_options=added)
            self.partial = added is not None

    def last(self, trainer: L.Trainer) -> Path:
        """The file."""
        return folder_of(trainer) / "checkpoints" / LAST

    def on_train_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Makes the checkpoint whole that a run continues from, as there may be no edit left."""
        last, loaded = self.last(trainer), self.files.loaded
        if loaded is not None and last.exists() and loaded.samefile(last):
            self.complete(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Makes the last checkpoint whole, if the model still is what it says."""
        if self.partial and self.increments.at(pl_module):
            self.complete(trainer, pl_module)
            self.partial = False

    def complete(self, trainer: L.Trainer, editor: Editor) -> None:
        """Puts the state in the place of the last checkpoint's increment."""
        if trainer.is_global_zero:
            state = editor.state_dict(), editor.history, editor.edited_requests
            self.files.complete(self.last(trainer), dict(zip(STATE, state, strict=True)))

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: Editor, checkpoint: dict[str, Any]
    ) -> None:
        """Leaves it to the loader whether the last batch was the last: the limit may be raised."""
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False
