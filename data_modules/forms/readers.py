"""Edit requests from a file or the hub, whatever form their dataset gives them."""

import json
import lzma
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
from lightning.pytorch.utilities import rank_zero_warn
from safetensors import SafetensorError, safe_open

from ..records import EditRequest
from ..text.corpora import rows
from .counterfact import flat_counterfact, published_counterfact
from .fields import FaultyRecordError, Record
from .zsre import qaedit, zsre


class Form(NamedTuple):
    """A dataset's way to write a case, told by a field that only this form has."""

    field: str
    name: str
    parse: Callable[[Record], EditRequest]


FORMS = (
    Form("requested_rewrite", "CounterFact", published_counterfact),
    Form("target_new", "CounterFact as in EasyEdit", flat_counterfact),
    Form("src", "zsRE", zsre),
    Form("target", "QAEdit", qaedit),
)


def read_requests(path: str, skip_faulty: bool = False) -> list[EditRequest]:
    """Edit requests of a dataset, in its order.

    Args:
        path: a file, a JSON list or JSON lines, plain or compressed (gz, bz2, xz, zip); or the
            name of a dataset on the hub; or the folder of a run, for the requests it edited.
        skip_faulty: leave out records that cannot become a request, with a warning.

    Raises:
        FileNotFoundError: if there is no such file and no such dataset can be reached.
        ValueError: if the file holds no JSON, no record, a record of unknown form, or a faulty
            record that is not to be skipped.
    """
    requests, faults = [], []
    for number, fields in enumerate(_rows(path)):
        try:
            requests.append(_request(Record(path, number, fields)))
        except FaultyRecordError as fault:
            if not skip_faulty:
                raise
            faults.append(fault)
    if faults:
        rank_zero_warn(f"{len(faults)} faulty records are left out; the first: {faults[0]}")
    if not requests:
        raise ValueError(f"{path}: there is no edit request in it; give a file that holds some")
    return requests


def read_union(paths: str | Sequence[str], skip_faulty: bool = False) -> list[EditRequest]:
    """Edit requests of one dataset or of several, such as the hard cases of several models.

    A request that several of them have, by case, text and target, is there once, in the place
    where it is met first.

    Raises:
        ValueError: if no dataset is named.
    """
    if isinstance(paths, str):
        return read_requests(paths, skip_faulty)
    if not paths:
        raise ValueError("path is an empty list; name a file, or give null for the embedded facts")
    union: dict[tuple[int, str, str], EditRequest] = {}
    for path in paths:
        for request in read_requests(path, skip_faulty):
            union.setdefault((request.case_id, request.text, request.target_new), request)
    return list(union.values())


def _request(record: Record) -> EditRequest:
    found = {name for name, value in record.fields.items() if value is not None}
    for form in FORMS:
        if form.field in found:
            return form.parse(record)
    known = ", ".join(f"{form.name} (has {form.field!r})" for form in FORMS)
    raise ValueError(
        f"{record.source}: record {record.number} has the fields {sorted(found)}, which is none "
        f"of the known forms: {known}; rename the fields to one of these"
    )


def _rows(path: str) -> Iterable[dict[str, Any]]:
    ledger = sorted(Path(path, "ledger").glob("*.safetensors"))
    if ledger:
        return _ledger_rows(ledger)
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder without a run's ledger; give one of its files")
    return _json_rows(path) if Path(path).is_file() else rows(path)


def _ledger_rows(files: list[Path]) -> Iterator[dict[str, Any]]:
    """Requests of a run's edits, which stand in the headers of its ledger in CounterFact's form."""
    for file in files:
        try:
            with safe_open(file, "pt") as shard:
                requests = json.loads(shard.metadata()["requests"])
        except (KeyError, OSError, SafetensorError, TypeError, ValueError) as error:
            if file != files[-1]:
                raise ValueError(f"{file} is damaged ({error}); give an intact copy") from error
            rank_zero_warn(f"{file} is damaged ({error}); its edit, the last one, is left out")
            return
        yield from requests


def _json_rows(path: str) -> Iterator[dict[str, Any]]:
    """Objects of a JSON list or of JSON lines."""
    for number, (_, value) in enumerate(json_values(path)):
        if not isinstance(value, dict):
            raise ValueError(f"{path}: record {number} must be a JSON object, got {value!r}")
        yield value


def json_values(path: str) -> list[tuple[str, Any]]:
    """Where each value of a JSON list or of JSON lines stands, such as ``line 3``, and the value.

    Read as they stand: `datasets` makes dates of texts that look like dates, and quotes every
    text of a field in which one record holds a number.

    Raises:
        ValueError: if the file, plain or compressed, holds neither.
    """
    try:
        with fsspec.open(path, "rt", compression="infer", encoding="utf-8-sig") as file:
            text = file.read()
        if text.lstrip().startswith("["):
            return [(f"record {n}", value) for n, value in enumerate(json.loads(text))]
        lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        return [(f"line {n}", json.loads(line)) for n, line in lines]
    except (ValueError, EOFError, OSError, lzma.LZMAError) as error:
        raise ValueError(
            f"{path} is neither a JSON list nor JSON lines, plain or compressed ({error}); "
            "convert it to one of these"
        ) from error
