"""The mean norm of solved values in the unedited model: the norm anchor of NAS."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_modules.editing.norm_anchors import anchor_content, anchor_file
from lightning_modules.editing.replicas import in_turn
from lightning_modules.functional.norm_anchor import anchor_norm

from ..keeping.run_folder import write_json


class ValueNorms(L.Callback):
    """Under ``predict``, solves the values of all requests and writes the model's norm anchor.

    Args:
        trimmed: share of the largest values to leave out.
    """

    def __init__(self, trimmed: float = 0.05) -> None:
        self.trimmed = trimmed
        self.outputs: list[list[Tensor]] = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Clears an earlier measurement."""
        self.outputs = []

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Solves the values of a batch, and stores the MLP's outputs with their changes."""
        with torch.inference_mode(False), torch.enable_grad():
            sought = pl_module.seek(batch) if batch else []
        self.outputs.append([(where.output + found.change).cpu() for where, found in sought])

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Writes the mean norm to the file that NAS reads."""
        outputs = [one for batch in in_turn(self.outputs) for one in batch]
        if not trainer.is_global_zero:
            return
        norm = anchor_norm(torch.stack(outputs), self.trimmed)
        file = anchor_file(pl_module.lm_name, pl_module.fingerprint)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, anchor_content(pl_module.card(), norm, len(outputs)))
        rank_zero_info(f"{len(outputs)} solved values, mean norm {norm:.5g}: {file}")
