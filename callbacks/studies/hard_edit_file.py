"""The file of HardEdit's data points."""

import json
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from ..keeping.run_folder import folder_of, replace_text


class HardEditFile(L.Callback):
    """Writes all data points so far to ``hard_edit.json``, after each batch."""

    def __init__(self) -> None:
        self.points: list[dict[str, str]] = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Clears the data points."""
        self.points = []

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Adds the data points of a batch."""
        self.points += outputs
        if outputs:
            folder = folder_of(trainer)
            folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self.points, indent=1, ensure_ascii=False) + "\n"
            replace_text(folder / "hard_edit.json", text)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reports the file."""
        if self.points:
            rank_zero_info(f"{len(self.points)} data points: {folder_of(trainer)}/hard_edit.json")
