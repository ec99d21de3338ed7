"""The progress bar of an editing run, and a line per edit beside it."""

import math
import sys
import time
from functools import partial
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.editing.search import ValueSearch
from lightning_modules.editing.sweep import Sweep

from .edit_lines import Stated, line_of, stated_at_edits
from .run_folder import folder_of, read_journal
from .schedule import restores


class EditBar(TQDMProgressBar):
    """One bar that counts edits, with a line above it for each; watching has no bar of its own.

    It shows perplexity, efficacy, and how many facts were stated after their edits. Where nobody
    sees a bar move, as in a log file, there are only the lines. A guard that undoes an edit sets
    ``perplexity`` to that of the restored model.
    """

    perplexity: float | None = None
    stated = Stated()

    @property
    def is_disabled(self) -> bool:
        """Also without a terminal or a notebook."""
        return super().is_disabled or not (sys.stdout.isatty() or "ipykernel" in sys.modules)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes up the count of a resumed run; hears of the steps of searches."""
        super().on_train_start(trainer, pl_module)
        search = getattr(pl_module, "search", None)
        if isinstance(search, ValueSearch):
            search.told = partial(self.tell_search, trainer)
        self.began, self.told = time.perf_counter(), 0
        self.stated = stated_at_edits(read_journal(folder_of(trainer)))

    def tell(self, record: dict[str, Any]) -> None:
        """Writes the line of an edit that is complete."""
        self.told += 1
        total = self.trainer.estimated_stepping_batches
        total *= self.trainer.world_size if restores(self.trainer) else 1
        spent = time.perf_counter() - self.began
        left = spent / self.told * (total - record["edit"]) if math.isfinite(total) else None
        also = stated_at_edits([record])
        self.stated = Stated(self.stated.facts + also.facts, self.stated.stated + also.stated)
        line = line_of(record, total, left)
        if self.train_progress_bar.disable:
            rank_zero_info(line)
        else:
            self.train_progress_bar.write(line, file=sys.stdout)

    def tell_search(self, trainer: L.Trainer, wanted: int, found: int, step: int) -> None:
        """Shows how far the search of several values is."""
        if wanted > 1:
            how_far = f"Searching {wanted} values: {found} found, step {step}"
            self.announce(trainer, how_far if found < wanted else None)

    @property
    def sanity_check_description(self) -> str:
        """Describes the pass before the first edit."""
        return "Watching the unedited model"

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, *args: Any
    ) -> None:
        """Removes the loader's number from the name; tells when a sweep's edits are watched."""
        super().on_validation_batch_start(trainer, pl_module, batch, *args)
        sweep = getattr(pl_module, "sweep", None)
        if trainer.sanity_checking:
            self.val_progress_bar.set_description(self.sanity_check_description)
        elif isinstance(sweep, Sweep) and sweep.awaits(batch):
            self.announce(trainer, f"Watching {len(sweep.made)} edits")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gives the bar its usual name."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.announce(trainer, None)

    def init_validation_tqdm(self) -> Tqdm:
        """A silent bar while edits are watched; a visible one under ``validate``."""
        return (
            Tqdm(disable=True) if self.trainer.state.fn == "fit" else super().init_validation_tqdm()
        )

    def on_train_epoch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Names the bar after what it counts; a further epoch edits the same facts again."""
        super().on_train_epoch_start(trainer, *args)
        self.stated = Stated() if trainer.current_epoch else self.stated
        self.train_progress_bar.set_description("Editing")

    def on_test_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Removes the loader's number from the name."""
        super().on_test_batch_start(trainer, *args)
        self.test_progress_bar.set_description(self.test_description)

    def finish(self, trainer: L.Trainer) -> None:
        """Ends the bar, so that the last words of a run begin on a line of their own."""
        if trainer.state.fn == "fit":
            self.train_progress_bar.close()
        elif trainer.state.fn == "validate":
            self.val_progress_bar.close()
        else:
            self.test_progress_bar.close()

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
        """Facts stated, efficacy and perplexity, without the run's number."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        if self.stated.facts:
            metrics["stated"] = str(self.stated)
        return metrics if self.perplexity is None else metrics | {"perplexity": self.perplexity}
