"""The progress bar of an editing run."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm


class EditBar(TQDMProgressBar):
    """One bar that counts edits and shows perplexity and efficacy; watching has no bar of its own.

    A guard that undoes an edit sets ``perplexity`` to that of the restored model.
    """

    perplexity: float | None = None

    @property
    def sanity_check_description(self) -> str:
        """Describes the pass before the first edit."""
        return "Watching the unedited model"

    def on_validation_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Removes the loader's number from the name."""
        super().on_validation_batch_start(trainer, *args)
        if trainer.sanity_checking:
            self.val_progress_bar.set_description(self.sanity_check_description)

    def init_validation_tqdm(self) -> Tqdm:
        """A silent bar while edits are watched; a visible one under ``validate``."""
        return (
            Tqdm(disable=True) if self.trainer.state.fn == "fit" else super().init_validation_tqdm()
        )

    def on_train_epoch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Names the bar after what it counts."""
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description("Editing")

    def announce(self, trainer: L.Trainer, what: str | None) -> None:
        """Shows another activity on the current bar; None clears it."""
        if trainer.sanity_checking or trainer.state.fn == "validate":
            bar, usual = self.val_progress_bar, self.sanity_check_description
            usual = usual if trainer.sanity_checking else self.validation_description
        elif trainer.state.fn == "fit":
            bar, usual = self.train_progress_bar, "Editing"
        else:
            bar, usual = self.test_progress_bar, self.test_description
        bar.set_description(usual if what is None else what)

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Perplexity and efficacy, without the run's number."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics if self.perplexity is None else metrics | {"perplexity": self.perplexity}
