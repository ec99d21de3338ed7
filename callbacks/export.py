"""Models that outlive the run."""

from copy import deepcopy
from pathlib import Path

import lightning as L
import torch

from lightning_modules.editor import Editor
from lightning_modules.pretraining import Pretraining


class SavePretrained(L.Callback):
    """Saves the language model and its tokenizer in Hugging Face's form when training ends.

    Args:
        folder: where to; below the run's folder if relative.
        dtype: of the saved weights.
    """

    def __init__(self, folder: str = "lm", dtype: str = "float16") -> None:
        self.folder = folder
        self.dtype = getattr(torch, dtype)

    def on_fit_end(self, trainer: L.Trainer, pl_module: Editor | Pretraining) -> None:
        """Writes ``config.json``, ``model.safetensors`` and the tokenizer's files."""
        if trainer.is_global_zero:
            folder = Path(trainer.log_dir or trainer.default_root_dir) / self.folder
            deepcopy(pl_module.lm).to(self.dtype).save_pretrained(folder)
            data = trainer.datamodule  # type: ignore[attr-defined] # set by Lightning's connector
            owner = pl_module if isinstance(pl_module, Editor) else data
            owner.tokenizer.save_pretrained(folder)
