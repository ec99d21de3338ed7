"""Edit requests from a file or the hub, in any known form."""

import ast
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.utilities import rank_zero_warn
from safetensors import SafetensorError, safe_open

from ..records import EditRequest
from ..text.corpora import files_of, rows
from ..text.files import SHEETS, TABLES, Value, is_arrow_folder, listed, suffixes_of, values
from .counterfact import TARGET_TRUE, flat_counterfact
from .fields import FaultyRecordError, Record, described
from .mquake import ASKED, rewrites
from .neighborhood import PARAPHRASES
from .notes import Notes
from .zsre import qaedit, zsre


class Form(NamedTuple):
    """A dataset's form of a case, identified by a field that only this form has."""

    field: str
    name: str
    parse: Callable[[Record], list[EditRequest]]


FORMS = (
    Form("requested_rewrite", "CounterFact", rewrites),
    Form("target_new", "CounterFact as in EasyEdit", lambda record: [flat_counterfact(record)]),
    Form("src", "zsRE", lambda record: [zsre(record)]),
    Form("target", "QAEdit", lambda record: [qaedit(record)]),
)
KNOWN = {
    *("case_id", "id", "prompt", "subject", "locality_prompt", "locality_ground_truth", "loc_ans"),
    *("neighborhood_prompts", "neighborhood_targets", "locality", "portability", "question", "alt"),
    *("attribute_prompts", "generation_prompts", "requested_rewrite.relation_id"),
    *(form.field for form in FORMS),
    *(f"requested_rewrite.{name}" for name in ("prompt", "subject", "target_new", "target_true")),
    *(*TARGET_TRUE, *PARAPHRASES, *ASKED, "loc"),
}


def read_requests(path: str, skip_faulty: bool = False) -> list[EditRequest]:
    """Edit requests of a dataset, in its order.

    Record content missing from the requests is counted and reported.

    Args:
        path: a file: a JSON list, a JSON object or JSON lines, CSV, Parquet or Arrow, plain or
            compressed (gz, bz2, xz, zip); or a folder of tables, or the name of a dataset on the
            hub; or the folder of a run, for the requests it edited.
        skip_faulty: skip records that cannot become a request, with a warning.

    Raises:
        FileNotFoundError: if there is no such file and no such dataset can be reached.
        ValueError: if the file cannot be read, holds no record or one of unknown form, or has a
            faulty record that may not be skipped.
    """
    return requests_of(_rows(path), path, skip_faulty)


def requests_of(
    records: Iterable[Value], source: str, skip_faulty: bool = False
) -> list[EditRequest]:
    """Edit requests of records, in their order.

    Args:
        records: the place of each in its source, and its fields.
        source: of the records.
        skip_faulty: skip records that cannot become a request, with a warning.

    Raises:
        ValueError: if there is none, or one is faulty and may not be skipped.
    """
    requests, faults, notes = [], [], Notes()
    for number, (place, fields) in enumerate(records):
        record = Record(source, number, fields if isinstance(fields, dict) else {}, place, notes)
        try:
            if not isinstance(fields, dict):
                raise FaultyRecordError(
                    f"{record.located} must be a JSON object, got {described(fields)}"
                )
            requests += _requests(record)
        except FaultyRecordError as fault:
            if not skip_faulty:
                raise
            faults.append(fault)
        else:
            notes.unread.update(record.unread())
    if faults:
        rank_zero_warn(f"{len(faults)} faulty records are left out; the first: {faults[0]}")
    if not requests:
        raise ValueError(f"{source}: there is no edit request in it; give a file that holds some")
    notes.say(source, KNOWN)
    return requests


def read_union(paths: str | Sequence[str], skip_faulty: bool = False) -> list[EditRequest]:
    """Edit requests of one or several datasets, such as the hard cases of several models.

    A request in several of them, by case, text and target, is kept once, at its first place.

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


def _requests(record: Record) -> list[EditRequest]:
    found = {name for name, value in record.fields.items() if value is not None}
    for names in (found, record.fields):  # a null answer tells the form too, if nothing else does
        for form in FORMS:
            if form.field in names:
                return form.parse(record)
    lists = [name for name in sorted(found) if _holds_records(record.fields[name])]
    if lists:
        raise ValueError(
            f"{record.located} is an object whose records stand in a list under "
            f"{' and '.join(map(repr, lists))}; give a file that holds such a list alone"
        )
    known = ", ".join(f"{form.name} (has {form.field!r})" for form in FORMS)
    raise FaultyRecordError(
        f"{record.located} has the fields {sorted(found)}, which is none "
        f"of the known forms: {known}; rename the fields to one of these"
    )


def _holds_records(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _rows(path: str) -> Iterator[Value]:
    ledger = sorted(Path(path, "ledger").glob("*.safetensors"))
    if ledger:
        yield from _ledger_rows(ledger)
    elif not Path(path).exists():
        yield from ((f"record {number}", row) for number, row in enumerate(rows(path)))
    else:
        for file in _files(path):
            cells = SHEETS & suffixes_of(file)
            for value in values(file):
                yield from listed(opened(value) if cells else value)


def opened(value: Value) -> Value:
    """A row of cells; a list or an object that a cell writes in JSON or in Python is one."""
    place, row = value
    return place, {name: _opened(cell) for name, cell in row.items()}


def _opened(cell: str | None) -> Any:
    if not cell or cell[0] not in "[{":
        return cell
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return read(cell) or cell
    return cell


def _files(path: str) -> list[str]:
    """The file itself, or the tables of a folder.

    Raises:
        ValueError: if the folder has none.
    """
    if Path(path).is_file() or is_arrow_folder(path):
        return [path]
    kinds = {*TABLES, *SHEETS}
    tables = [str(f) for f in files_of(path) if f.is_dir() or kinds & suffixes_of(f)]
    if not tables:
        raise ValueError(f"{path} is a folder without a run's ledger; give one of its files")
    return tables


def _ledger_rows(files: list[Path]) -> Iterator[Value]:
    """Requests of a run's edits, from the headers of its ledger, in CounterFact's form."""
    for file in files:
        try:
            with safe_open(file, "pt") as shard:
                requests = json.loads(shard.metadata()["requests"])
        except (KeyError, OSError, SafetensorError, TypeError, ValueError) as error:
            if file != files[-1]:
                raise ValueError(f"{file} is damaged ({error}); give an intact copy") from error
            rank_zero_warn(f"{file} is damaged ({error}); its edit, the last one, is left out")
            return
        yield from ((f"record {number}", request) for number, request in enumerate(requests))
