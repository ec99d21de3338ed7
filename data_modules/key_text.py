"""The corpus for key statistics, document by document, split among devices."""

from collections.abc import Iterator
from itertools import islice

import lightning as L
from torch.utils.data import DataLoader, IterableDataset

from .records import WatchedText
from .text.corpora import documents, watched_text


class DocumentShards(IterableDataset):
    """Batches of one device's share of a corpus, read lazily.

    The devices take turns, document by document; where the corpus ends, empty texts numbered -1
    fill up, so that all devices have the same number of batches of the same size.

    Args:
        path: a text, JSON or JSON-lines file, a folder of them, or a hub dataset.
        config: the hub dataset's configuration.
        limit: maximum number of documents; all if null.
        batch_size: documents per batch and device.
        rank: of this device.
        devices: number of devices.
    """

    def __init__(
        self,
        path: str,
        config: str | None,
        limit: int | None,
        batch_size: int,
        rank: int,
        devices: int,
    ) -> None:
        self.path = path
        self.config = config
        self.limit = limit
        self.batch_size = batch_size
        self.rank = rank
        self.devices = devices

    def __iter__(self) -> Iterator[WatchedText]:
        numbered = enumerate(islice(documents(self.path, self.config), self.limit))
        while round_of_all := list(islice(numbered, self.batch_size * self.devices)):
            round_of_all += [(-1, "")] * (-len(round_of_all) % self.devices)
            yield watched_text(round_of_all[self.rank :: self.devices])


class TextDataModule(L.LightningDataModule):
    """Documents of a corpus, to test on: the source of key statistics.

    Args:
        path: a text, JSON or JSON-lines file, a folder of them, or a hub dataset.
        config: the hub dataset's configuration.
        limit: maximum number of documents; if null, as many as the job needs.
        batch_size: documents per batch.
    """

    def __init__(
        self,
        path: str = "wikimedia/wikipedia",
        config: str | None = None,
        limit: int | None = None,
        batch_size: int = 16,
    ) -> None:
        super().__init__()
        self.path = path
        self.config = config
        self.limit = limit
        self.batch_size = batch_size

    def test_dataloader(self) -> DataLoader:
        """Batches of documents, in the corpus' order; on several devices, each its own."""
        rank, devices = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        shards = DocumentShards(self.path, self.config, self.limit, self.batch_size, rank, devices)
        return DataLoader(shards, batch_size=None)
