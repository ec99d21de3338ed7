"""Plain text, from a file, a folder or the hub, one document at a time."""

from collections.abc import Iterator
from pathlib import Path

import datasets

from ..records import WatchedText

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


def watched_text(batch: list[tuple[int, str]]) -> WatchedText:
    """Numbered texts as one batch."""
    indices, texts = zip(*batch, strict=True)
    return WatchedText(list(indices), list(texts))
