"""Data files, read value by value, each with its location."""

import csv
import json
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec

TABLES = {".parquet": "parquet", ".arrow": "arrow"}
SHEETS = {".csv", ".tsv"}
ARROW_FOLDER = ("dataset_info.json", "dataset_dict.json")
DAMAGED = (EOFError, OSError, lzma.LZMAError, zipfile.BadZipFile, zlib.error)
MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}

Value = tuple[str, Any]


def values(path: str) -> Iterator[Value]:
    """Values of a JSON, JSON-lines, CSV, TSV, Parquet or Arrow file, or of an Arrow folder.

    Yields:
        The location, such as ``line 3`` or ``record 2``, and the value; a table row is an object.

    Raises:
        ValueError: if the file is damaged, not UTF-8, or none of these.
    """
    suffixes = suffixes_of(path)
    if Path(path).is_dir():
        yield from _saved_to_disk(path)
    elif kind := next((TABLES[suffix] for suffix in suffixes if suffix in TABLES), None):
        yield from _table(path, kind)
    elif suffixes & SHEETS:
        yield from _sheet(path)
    else:
        yield from json_values(path)


def suffixes_of(path: str | Path) -> set[str]:
    """A file's suffixes in lower case; a compressed file has two."""
    return {suffix.lower() for suffix in Path(path).suffixes}


def is_arrow_folder(path: str) -> bool:
    """Whether a folder was written by ``save_to_disk`` of `datasets`."""
    return any(Path(path, name).is_file() for name in ARROW_FOLDER)


def listed(value: Value) -> Iterator[Value]:
    """The values of a list under ``data`` in an object, or else the value itself."""
    place, held = value
    inner = held.get("data") if isinstance(held, dict) else None
    if isinstance(inner, list) and isinstance(next(iter(inner), ""), dict | str):
        yield from ((f"record {number}", item) for number, item in enumerate(inner))
    else:
        yield place, held


def json_values(path: str) -> Iterator[Value]:
    """Values of a JSON list or of JSON lines, or a single JSON object.

    Values are read unchanged: `datasets` turns texts that look like dates into dates, and quotes
    every text of a field if one record holds a number. JSON lines are read one by one.

    Raises:
        ValueError: if the file, plain or compressed, holds none of these.
    """
    try:
        yield from _json_values(path)
    except (json.JSONDecodeError, RecursionError, *DAMAGED) as error:
        if getattr(error, "errno", None):
            raise
        raise ValueError(
            f"{path} is neither a JSON list nor JSON lines, plain or compressed ({error}); "
            "convert it to one of these"
        ) from error


def _json_values(path: str) -> Iterator[Value]:
    numbered = lines(path)
    head = next(((number, line) for number, line in numbered if line.strip()), None)
    if head is None:
        return
    number, line = head
    if not _is_one_value(line):
        held = json.loads(line + "".join(rest for _, rest in numbered))
        held = held if isinstance(held, list) else [held]
        yield from ((f"record {place}", value) for place, value in enumerate(held))
        return
    yield f"line {number}", json.loads(line)
    for number, line in numbered:
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{path}: line {number} is not valid JSON ({error.msg} at character "
                    f"{error.pos + 1}); correct that line"
                ) from error


def _is_one_value(line: str) -> bool:
    """Whether a line is a JSON value of its own, as in JSON lines; a list is a whole file."""
    try:
        return not isinstance(json.loads(line), list)
    except json.JSONDecodeError:
        return False


def lines(path: str) -> Iterator[tuple[int, str]]:
    """Lines of a UTF-8 file, plain or compressed, with line ends, numbered from 1.

    Raises:
        ValueError: if a line is not UTF-8.
    """
    with fsspec.open(path, "rb", compression="infer") as file:
        for number, line in enumerate(file, 1):
            known = _other_encoding(line[:4]) if number == 1 else None
            try:
                if known is None:
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
                    continue
                fault = "its first bytes say so"
            except UnicodeDecodeError as error:
                byte = line[error.start]
                known, fault = "Latin-1 or Windows-1252, perhaps", f"line {number}, {byte:#04x}"
            raise ValueError(
                f"{path} is not UTF-8 but {known} ({fault}); convert it to UTF-8, such as with "
                "iconv"
            )


def is_whole(text: str) -> bool:
    """Whether a text has no lone surrogate, half of a character, which JSON can write."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _other_encoding(head: bytes) -> str | None:
    """The encoding of a file that begins so; None if that tells of none but UTF-8."""
    return MARKS.get(head[:2]) or ("UTF-16, perhaps" if b"\0" in head else None)


def _sheet(path: str) -> Iterator[Value]:
    """Rows of a table file whose first row names the fields; an empty cell counts as missing."""
    texts = (line for _, line in lines(path))
    try:
        head = next(texts, "")
        delimiter = max(",;\t", key=head.count)
        names = next(csv.reader([head], delimiter=delimiter), [])
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{path}: line 1 names the field {twice[0]!r} twice; rename one")
        reader = csv.DictReader(texts, names, delimiter=delimiter, strict=True)
        for row in reader:
            place = f"line {reader.line_num + 1}"
            if None in row:
                raise ValueError(f"{path}: {place} has more cells than the {len(names)} of line 1")
            yield place, {name: cell or None for name, cell in row.items()}
    except (csv.Error, *DAMAGED) as error:
        if getattr(error, "errno", None):
            raise
        raise ValueError(f"{path} is not a readable CSV file ({error}); correct it") from error


def _table(path: str, kind: str) -> Iterator[Value]:
    import datasets  # here, as most runs read none of these, and it takes long

    try:
        rows = datasets.load_dataset(kind, data_files=[path], split="train", streaming=True)
        yield from ((f"record {number}", row) for number, row in enumerate(rows))
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise ValueError(
            f"{path} is not an intact {kind.title()} file ({error}); get an intact copy"
        ) from error


def _saved_to_disk(path: str) -> Iterator[Value]:
    import datasets

    try:
        held = datasets.load_from_disk(path)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise ValueError(f"{path} is not an intact Arrow folder ({error})") from error
    if isinstance(held, datasets.DatasetDict):
        if len(held) > 1 and "train" not in held:
            raise ValueError(f"{path} holds the splits {sorted(held)}; name the folder of one")
        held = held.get("train", next(iter(held.values())))
    yield from ((f"record {number}", row) for number, row in enumerate(held))
