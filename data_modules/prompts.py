"""Prompts to continue, one per line of a file."""

from pathlib import Path

import lightning as L
from torch.utils.data import DataLoader

from .embedded import embedded_requests
from .forms.readers import read_requests
from .text.corpora import texts


class Prompts(L.LightningDataModule):
    """Prompts to predict on; on several devices, each takes batches of its own.

    Args:
        prompts: a text file with a prompt per line, a JSON, JSON-lines, CSV or Parquet file of
            texts, or the folder of a run, for the prompts of its edits; those of the embedded facts
            if null.
        limit: maximum number of prompts, the first ones; all if null.
        batch_size: prompts continued together.

    Raises:
        ValueError: if a number is not positive.
    """

    def __init__(
        self, prompts: str | None = None, limit: int | None = 20, batch_size: int = 32
    ) -> None:
        super().__init__()
        for name, number in (("limit", limit), ("batch_size", batch_size)):
            if number is not None and number <= 0:
                raise ValueError(f"{name} must be positive, got {number}")
        self.path = prompts
        self.limit = limit
        self.batch_size = batch_size
        self.prompts: list[str] = []

    def setup(self, stage: str) -> None:
        """Reads the prompts.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it holds no prompt.
        """
        self.prompts = self.read()[: self.limit]
        if not self.prompts:
            raise ValueError(f"{self.path} holds no prompt; write one per line")

    def read(self) -> list[str]:
        """All prompts, without blanks around them."""
        if self.path is None:
            return [request.text for request in embedded_requests()]
        if Path(self.path, "ledger").is_dir():
            return [request.text for request in read_requests(self.path)]
        if not Path(self.path).exists():
            raise FileNotFoundError(f"there is no file of prompts {self.path!r}")
        return [text.strip() for text in texts(self.path) if text.strip()]

    def predict_dataloader(self) -> DataLoader:
        """This device's batches of prompts."""
        trainer = self.trainer
        place, places = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        own = [
            prompt
            for at in range(place * self.batch_size, len(self.prompts), places * self.batch_size)
            for prompt in self.prompts[at : at + self.batch_size]
        ]
        return DataLoader(own, batch_size=self.batch_size, collate_fn=list)  # type: ignore[arg-type]
