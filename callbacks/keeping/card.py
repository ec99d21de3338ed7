"""Reports a run's settings before anything is edited."""

from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.editing.editor import Editor
from lightning_modules.editing.model_card import model_card


class ModelCard(L.Callback):
    """Under ``validate``, shows for the first request what would be edited, and where."""

    def on_validation_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Writes the card to the terminal and to the logger."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined] # set by Lightning's connector
        if trainer.state.fn != "validate" or not getattr(data, "requests", None):
            return
        card = model_card(pl_module, data.requests[0])
        rank_zero_info("\n".join(f"{name:>20}  {value}" for name, value in card.items()))
        if trainer.is_global_zero and isinstance(trainer.logger, TensorBoardLogger):
            table = "\n".join(
                f"|{name}|{value.replace('|', '&#124;')}|" for name, value in card.items()
            )
            trainer.logger.experiment.add_text("model card", f"|what|found|\n|---|---|\n{table}")
