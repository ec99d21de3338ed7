"""What comes next in a run."""

import math
from pathlib import Path

import lightning as L

from .run_folder import folder_of

FINISHED = "finished"  # the file that marks a completely written run


class StandsAlone(L.Callback):
    """Marks a callback that makes every edit start from the original model."""


def restores(trainer: L.Trainer) -> bool:
    """Whether every edit of this run starts from the original model."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined] # set by Lightning's connector
    return any(isinstance(callback, StandsAlone) for callback in callbacks)


def watched_next(trainer: L.Trainer) -> bool:
    """Whether the model is watched between the latest edit and the next one."""
    interval = trainer.val_check_batch or math.inf
    due = trainer.is_last_batch if interval == math.inf else trainer.global_step % interval == 0
    return trainer.enable_validation and (trainer.should_stop or due)


def nothing_left(trainer: L.Trainer) -> bool:
    """Whether a resumed run has already made all its edits."""
    return bool(trainer.ckpt_path) and trainer.global_step >= trainer.estimated_stepping_batches


def taken_up_here(trainer: L.Trainer) -> bool:
    """Whether a run resumes from a checkpoint in its own folder."""
    return bool(trainer.ckpt_path) and (
        Path(str(trainer.ckpt_path)).resolve().parent.parent == folder_of(trainer).resolve()
    )
