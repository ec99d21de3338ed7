"""Plain text, from a file, a folder or the hub, one document at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_info

from ..records import WatchedText
from .files import (
    SHEETS,
    TABLES,
    Value,
    is_arrow_folder,
    is_whole,
    lines,
    listed,
    suffixes_of,
    values,
)
from .hub_datasets import look_up_dataset

TEXT_FIELDS = ("text", "Text", "content")
RECORDS = {".json", ".jsonl", *SHEETS, *TABLES}
Unit = Literal["line", "document"]


def documents(path: str, config: str | None = None) -> Iterator[str]:
    """Documents of a corpus, in stored order.

    Null or blank ones are left out, and counted at the end.

    Args:
        path: a text, JSON, JSON-lines, CSV, Parquet or Arrow file (plain or compressed), a folder
            of such files, or the name of a dataset on the hub. A text file is one document.
        config: the hub dataset's configuration, such as ``20231101.en``.

    Raises:
        FileNotFoundError: if the path names neither a file, a folder nor a reachable dataset.
        ValueError: if a file cannot be read or a record has no text field.
    """
    blank = 0
    for text in texts(path, config, "document"):
        if text:
            yield text
        else:
            blank += 1
    if blank:
        rank_zero_info(f"{path}: {blank} documents are null or blank and are left out")


def texts(path: str, config: str | None = None, unit: Unit = "line") -> Iterator[str]:
    """The same, with an empty text for null or blank ones.

    Args:
        path: as above.
        config: as above.
        unit: of a text file: a text per ``line``, blank lines aside, or a single ``document``.
    """
    if not Path(path).exists():
        for number, row in enumerate(rows(path, config)):
            yield _text(path, (f"record {number}", row))
        return
    for file in files_of(path):
        if RECORDS & suffixes_of(file) or file.is_dir():
            for value in values(str(file)):
                yield from (_text(str(file), item) for item in listed(value))
        elif unit == "line":
            yield from (line.rstrip("\r\n") for _, line in lines(str(file)) if line.strip())
        else:
            whole = "".join(line for _, line in lines(str(file)))
            yield whole if whole.strip() else ""


def files_of(path: str) -> list[Path]:
    """A file, or all files of a folder and its subfolders, in order; hidden ones are skipped.

    An Arrow folder counts as a file.
    """
    place = Path(path)
    if place.is_file() or is_arrow_folder(path):
        return [place]
    found = (inner for inner in sorted(place.iterdir()) if not inner.name.startswith("."))
    return [file for inner in found for file in files_of(str(inner))]


def _text(path: str, value: Value) -> str:
    """The text of a record, empty if it is null or blank."""
    place, row = value
    if isinstance(row, dict):
        field = next((name for name in TEXT_FIELDS if name in row), None)
        if field is None:
            raise ValueError(
                f"{path}: {place} has the fields {sorted(row)}, but text is expected in "
                f"one of {', '.join(TEXT_FIELDS)}"
            )
        place, row = f"{place}: field {field!r}", row[field]
    if row is not None and not isinstance(row, str):
        raise ValueError(f"{path}: {place} must be text, got {row!r:.60}")
    if row and not is_whole(row):
        raise ValueError(f"{path}: {place} holds half of a character (a lone surrogate)")
    return row if row and row.strip() else ""


def rows(path: str, config: str | None = None, split: str = "train") -> Iterator[dict[str, Any]]:
    """Records of a split of a hub dataset, streamed; a mistyped path is refused at once.

    Raises:
        FileNotFoundError: if no such dataset can be reached.
    """
    import datasets  # here, as it takes long and most text comes from files

    try:
        look_up_dataset(path)
        yield from datasets.load_dataset(path, config, split=split, streaming=True)
    except (datasets.exceptions.DatasetNotFoundError, ConnectionError, OSError) as error:
        raise FileNotFoundError(
            f"{path!r} is neither a file or folder here nor a hub dataset that can be "
            f"reached ({type(error).__name__}); check the spelling, or give a local file"
        ) from error


def watched_text(batch: list[tuple[int, str]]) -> WatchedText:
    """Numbered texts as one batch."""
    indices, held = zip(*batch, strict=True)
    return WatchedText(list(indices), list(held))
