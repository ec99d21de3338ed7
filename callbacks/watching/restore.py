"""Single edits: each starts from the original model."""

from itertools import islice
from typing import Any

import lightning as L

from lightning_modules.editing.editor import Editor
from lightning_modules.editing.replicas import Place

from ..keeping.schedule import StandsAlone


class RestoreWeights(StandsAlone):
    """Restores the original weights before every edit.

    With it a run is the papers' single-edit sweep; without it edits accumulate.

    Args:
        together: edits that are made ahead and evaluated in one pass, with the same results; bounds
            memory.
    """

    def __init__(self, together: int = 16) -> None:
        if together <= 0:
            raise ValueError(f"together must be positive, got {together}")
        self.together = together

    def setup(self, trainer: L.Trainer, pl_module: Editor, stage: str) -> None:
        """Moves to the first place, so that others measure the original model before an edit."""
        trainer.callbacks.sort(  # type: ignore[attr-defined] # as above
            key=lambda callback: callback is not self
        )
        data: Any = trainer.datamodule  # type: ignore[attr-defined] # as above
        if data is not None:
            data.alone = True

    def on_fit_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Lets each device make edits of its own."""
        pl_module.share = Place()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: Editor, batch: Any, batch_idx: int
    ) -> None:
        """Undoes the previous edit; makes the next ones if none was made ahead."""
        pl_module.restore()
        if not batch:  # another device makes the last edit
            return
        if self.together == 1 or (pl_module.sweep is not None and pl_module.sweep.find(batch)):
            return
        loader: Any = trainer.train_dataloader
        first = batch_idx - batch_idx % self.together  # the same groups after a resume
        coming = list(islice(loader.batch_sampler, first, first + self.together))
        batches = [loader.collate_fn([loader.dataset[n] for n in numbers]) for numbers in coming]
        pl_module.make_ahead([batch for batch in batches if batch])
