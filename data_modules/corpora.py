"""Plain text, from a file, a folder or the hub, one document at a time."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import datasets
import lightning as L
from torch.utils.data import DataLoader, IterableDataset

from .records import WatchedText

TEXT_FIELDS = ("text", "Text", "content")


def documents(path: str, config: str | None = None) -> Iterator[str]:
    """Documents of a corpus, in the order in which they are stored.

    Args:
        path: a text, JSON or JSON-lines file (plain or compressed), a folder of such files, or
            the name of a dataset on the hub.
        config: the hub dataset's configuration, such as ``20231101.en``.

    Raises:
        FileNotFoundError: if the path names neither a file, a folder nor a reachable dataset.
        ValueError: if a record has no field that holds text.
    """
    for number, row in enumerate(rows(path, config)):
        field = next((name for name in TEXT_FIELDS if name in row), None)
        if field is None:
            raise ValueError(
                f"{path}: record {number} has the fields {sorted(row)}, but text is expected in "
                f"one of {', '.join(TEXT_FIELDS)}"
            )
        if row[field].strip():
            yield row[field]


def rows(path: str, config: str | None = None, split: str = "train") -> Iterator[dict]:
    """Records of a local file or folder, or of a split of a hub dataset, streamed.

    Raises:
        FileNotFoundError: if there is no such file and no such dataset can be reached.
    """
    if not Path(path).exists():
        try:
            yield from datasets.load_dataset(path, config, split=split, streaming=True)
        except (datasets.exceptions.DatasetNotFoundError, ConnectionError, OSError) as error:
            raise FileNotFoundError(
                f"{path!r} is neither a file or folder here nor a hub dataset that can be "
                f"reached ({type(error).__name__}); check the spelling, or give a local file"
            ) from error
        return
    for file in sorted(Path(path).iterdir()) if Path(path).is_dir() else [Path(path)]:
        is_json = {".json", ".jsonl"} & set(file.suffixes)
        options = {} if is_json else {"sample_by": "document"}
        yield from datasets.load_dataset(
            "json" if is_json else "text",
            data_files=[str(file)],
            split="train",
            streaming=True,
            **options,
        )


class DocumentShards(IterableDataset):
    """Batches of one device's share of a corpus, read as they are asked for.

    The devices take turns, document by document; where the corpus ends, empty texts numbered -1
    fill up, so that all devices have the same number of batches of the same size.

    Args:
        path: a text, JSON or JSON-lines file, a folder of them, or a hub dataset.
        config: the hub dataset's configuration.
        limit: documents read at most; all if null.
        batch_size: documents of one batch of one device.
        rank: which device this is.
        devices: how many there are.
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
    """Documents of a corpus, to test on: what key statistics are computed from.

    Args:
        path: a text, JSON or JSON-lines file, a folder of them, or a hub dataset.
        config: the hub dataset's configuration.
        limit: documents read at most; all if null, or as many as are asked for.
        batch_size: documents of one batch.
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


def watched_text(batch: list[tuple[int, str]]) -> WatchedText:
    """Numbered texts as one batch."""
    indices, texts = zip(*batch, strict=True)
    return WatchedText(list(indices), list(texts))
