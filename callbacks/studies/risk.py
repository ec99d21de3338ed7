"""The risk of each edit, written before any edit."""

import json
from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.editing.editor import Editor
from lightning_modules.editing.replicas import in_turn

from ..keeping.run_folder import folder_of

CALIBRATE = (
    "For one, fit this method on this model by `python train.py fit --config "
    "papers/risk-calibration.yaml` and give its risk_calibration.json by --model.calibration"
)


class RiskTable(BasePredictionWriter):
    """Writes ``risk.jsonl``, one line per request, the most dangerous first."""

    def __init__(self) -> None:
        super().__init__("epoch")

    def write_on_epoch_end(
        self,
        trainer: L.Trainer,
        pl_module: Editor,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Sorts by collapse probability, or else by denominator, or by key cosine."""
        batches = in_turn(predictions)
        if not trainer.is_global_zero:
            return
        rows = [row for rows in batches for row in rows]
        rows.sort(
            key=lambda row: (
                -row.get("collapse_probability", 0.0),
                row.get("denominator", row["key_cosine"]),
            )
        )
        file = folder_of(trainer) / "risk.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        file.write_text("".join(lines), encoding="utf-8")
        rank_zero_info(f"{len(rows)} requests, the riskiest first: {file}")
        if not any("collapse_probability" in row for row in rows):
            rank_zero_info(f"Without a probability of collapse. {CALIBRATE}")
