"""Leaves out the edits of facts that the model states anyway."""

from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from data_modules.records import EditRequest
from lightning_modules.editing.editor import Editor
from lightning_modules.editing.sweep import Made, Sweep

STATED = "efficacy_exact_match_before"


class KnownFacts(L.Callback):
    """Skips a fact that the model already states, word by word and greedily.

    Its line in the journal has the status ``skipped``. It stands behind ``EditMetrics``, which asks
    the model before each edit. A batch is skipped only if the model states all of it. Of several
    such callbacks the last one counts.

    Args:
        edit: edit such a fact nevertheless.
    """

    def __init__(self, edit: bool = False) -> None:
        self.edit = edit
        self.skipping = False

    def setup(self, trainer: L.Trainer, pl_module: Editor, stage: str) -> None:
        """Leaves if another one counts."""
        callbacks = trainer.callbacks  # type: ignore[attr-defined] # set by Lightning's connector
        later = callbacks[callbacks.index(self) + 1 :]
        if any(isinstance(callback, KnownFacts) for callback in later):
            others = [callback for callback in callbacks if callback is not self]
            trainer.callbacks = others  # type: ignore[attr-defined] # a new list: this is read

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: Editor, batch: list[EditRequest], batch_idx: int
    ) -> None:
        """Puts an edit without a change in the place of one that is not needed."""
        self.skipping = not self.edit and pl_module.record.get(STATED) == 1.0
        if self.skipping:
            stated = f"{batch[0].text!r} with {batch[0].target_new!r}"
            reason = f"the model already completes {stated}"
            rank_zero_info(f"Edit {pl_module.record.get('edit')} is left out: {reason}")
            record = {"status": "skipped", "reason": reason}
            nothing = Made(batch, [], dict(pl_module.history), record)
            pl_module.sweep = Sweep(pl_module.edited, [nothing])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Editor, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Lets the model be watched as it is."""
        if self.skipping:
            pl_module.sweep = None
