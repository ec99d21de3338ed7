"""An interrupted run finishes its edit, saves everything, and says how to continue."""

import signal
import threading
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.editing.editor import Editor

from .run_folder import how_to_go_on


class Interruption(L.Callback):
    """Ends a fit after the current edit on SIGTERM or Ctrl-C; a second Ctrl-C ends it at once.

    Whichever process gets the signal, all stop after the same edit. After the last edit the run is
    completed first.

    Attributes:
        told: the signal; None if this process got none.
        stopped: whether one came before the last edit had ended.
    """

    def __init__(self) -> None:
        self.told: signal.Signals | None = None
        self.stopped = False

    def on_train_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Handles the signals instead of Lightning, which would stop during an edit."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self.note)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Remembers the signal."""
        self.told = signal.Signals(number)
        rank_zero_info(f"{self.told.name}: the current edit is finished first")
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Editor, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Makes this edit the last one; it is watched if it was due."""
        self.stopped = trainer.strategy.reduce_boolean_decision(self.told is not None, all=False)
        if self.stopped:
            trainer.fit_loop.epoch_loop.max_steps = trainer.global_step

    def on_fit_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Says how to continue."""
        if self.stopped:
            rank_zero_info(
                f"Stopped after edit {trainer.global_step}, all saved: continue with the same "
                f"command and {how_to_go_on(trainer)}"
            )

    @property
    def exit_code(self) -> int:
        """Exit code of an interrupted run: 128 plus the signal's number."""
        return 128 + (self.told or signal.SIGTERM)
