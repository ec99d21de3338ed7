"""Perplexity of watched text, after every edit."""

import math
from itertools import islice
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchmetrics import Metric

from lightning_modules.editing.editor import Editor

from ..keeping.progress import EditBar
from .measures import perplexities
from .validation_table import validation_sentence, validation_table


class CorpusPerplexity(Metric):
    """Collects each text's NLL and length over batches; every device has the values of all."""

    nll: list[Tensor]
    length: list[Tensor]

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False)
        self.add_state("nll", default=[], dist_reduce_fx="cat")
        self.add_state("length", default=[], dist_reduce_fx="cat")

    def update(self, nll: Tensor, length: Tensor) -> None:
        """Adds texts: their mean NLL per token and their number of scored tokens, ``(n,)``."""
        self.nll.append(nll)
        self.length.append(length)

    def compute(self) -> dict[str, float]:
        """``perplexity``, ``log_perplexity`` and ``perplexity_pooled``."""
        parts = [p if isinstance(p, Tensor) else torch.cat(p) for p in (self.nll, self.length)]
        found = perplexities(*parts)
        return {
            "perplexity": found.mean,
            "log_perplexity": found.log_mean,
            "perplexity_pooled": found.pooled,
        }


class Perplexity(L.Callback):
    """Measures perplexity in every validation; the one before the first edit is the baseline.

    The papers' figure has no special tokens. Where the tokenizer puts a BOS before a text, without
    which models such as Gemma predict badly, ``perplexity_bos`` is the same mean behind it.
    """

    def __init__(self) -> None:
        self.metric = CorpusPerplexity()
        self.behind_bos = CorpusPerplexity()

    def on_validation_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Resets the metric; under ``validate`` its table takes the place of Lightning's."""
        self.metric.reset()
        self.behind_bos.reset()
        trainer.validate_loop.verbose = False

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: Editor, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Adds a batch of scored texts, and scores them again behind BOS."""
        self.metric.update(outputs.nll, outputs.length)
        scores = pl_module.watch_behind_bos(batch)
        if scores is not None:
            self.behind_bos.update(scores.nll, scores.length)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Completes the edit's record, or the baseline.

        Raises:
            ValueError: if the unedited model's perplexity is not finite.
        """
        found = self.metric.compute()
        if self.behind_bos.nll:
            found["perplexity_bos"] = self.behind_bos.compute()["perplexity"]
        if trainer.sanity_checking:
            if not math.isfinite(found["perplexity"]):
                raise ValueError(
                    f"the unedited model's perplexity is {found['perplexity']}, so no edit "
                    "can be judged by it; give other watched text by --data.watch, or a model "
                    "whose dtype does not overflow"
                )
            pl_module.baseline |= found
        else:
            pl_module.record |= found
        fitting = trainer.state.fn == "fit"
        for name, value in found.items():
            shown = fitting and name == "perplexity"
            logged = False if fitting else None  # in a fit the journal logs, on the axis of edits
            pl_module.log(name, value, prog_bar=shown, logger=logged, batch_size=1)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Under ``validate``, prints the table of all that was logged, and a sentence."""
        if trainer.state.fn != "validate":
            return
        if isinstance(trainer.progress_bar_callback, EditBar):
            trainer.progress_bar_callback.finish(trainer)
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        known = {name: value for name, value in pl_module.baseline.items() if name in found}
        unedited, edited = (known, found) if pl_module.edited_requests else (found, {})
        limit = pl_module.baseline.get("collapse_limit")
        rank_zero_info(f"\n{validation_table(unedited, edited)}\n")
        rank_zero_info(validation_sentence(unedited, edited, limit))


def measured(trainer: L.Trainer, editor: Editor) -> dict[str, float]:
    """Perplexity of the watched text on the current model, during or after a validation."""
    metric = CorpusPerplexity()
    loader: Any = trainer.val_dataloaders
    for batch in islice(loader, int(trainer.num_val_batches[0])):
        scores = editor.watch(batch)
        metric.update(scores.nll, scores.length)
    return metric.compute()
