"""The progress bar of key statistics."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from lightning_modules.jobs.key_statistics import KeyStatistics


class TokenBar(TQDMProgressBar):
    """One bar that counts the tokens read, out of those required."""

    def init_test_tqdm(self) -> Tqdm:
        """A bar in tokens."""
        bar = super().init_test_tqdm()
        bar.unit, bar.unit_scale = " tokens", True
        return bar

    def on_test_start(self, trainer: L.Trainer, pl_module: KeyStatistics) -> None:
        """Sets the budget as the bar's end."""
        super().on_test_start(trainer, pl_module)
        self.test_progress_bar.total = pl_module.tokens
        self.test_progress_bar.set_description("Key statistics")

    def on_test_batch_start(self, *args: Any) -> None:
        """Leaves the bar unchanged: it does not count batches."""

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: KeyStatistics, *args: Any, **kwargs: Any
    ) -> None:
        """Advances by the tokens read."""
        self.test_progress_bar.n = min(pl_module.read, pl_module.tokens)
        self.test_progress_bar.refresh()

    def on_test_end(self, trainer: L.Trainer, pl_module: KeyStatistics) -> None:
        """Shows the last batch too."""
        self.on_test_batch_end(trainer, pl_module)
        super().on_test_end(trainer, pl_module)
