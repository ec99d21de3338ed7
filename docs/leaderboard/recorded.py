"""What the page needs of every run, kept in the repository: a clone has no run folders."""

import json
import lzma
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from docs.leaderboard.course import Course
from docs.leaderboard.protocols import PROTOCOLS

FOLDER = Path(__file__).with_name("records")
FIELDS = {protocol.field for protocol in PROTOCOLS}
OF_EDITS = {"edit", "case_id", "status", "collapsed", "tasks"} | {
    protocol.field for protocol in PROTOCOLS if protocol.at_edit
}
OF_STANDING = {"after", "identity", "perplexity"} | FIELDS


class Record(NamedTuple):
    """A row of a board.

    Attributes:
        tuning: its trials and choice; None if it has none.
        cost: of an edit; None if it was not measured.
        reference: what an edit of the board's reference costs on the same machine.
        runs: in the order of seeds and lengths.
    """

    tuning: dict[str, Any] | None
    cost: dict[str, float] | None
    reference: dict[str, float] | None
    runs: list[Course]


def recorded(board: str, row: str) -> Record | None:
    """A row's record; None if there is none.

    Raises:
        ValueError: if the file is broken.
    """
    file = FOLDER / board / f"{row}.json.xz"
    return _read(file, file.stat().st_mtime_ns) if file.is_file() else None


@cache
def _read(file: Path, changed: int) -> Record:
    try:
        content = json.loads(lzma.decompress(file.read_bytes()))
        runs = [Course(**run) for run in content.pop("runs")]
        return Record(**content, runs=runs)
    except (lzma.LZMAError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is broken ({error}); restore it: git checkout {file}") from error


def write_record(board: str, row: str, record: Record) -> None:
    """Writes a row's record, the same bytes for the same runs."""
    runs = [slim(run)._asdict() for run in record.runs]
    text = json.dumps({**record._asdict(), "runs": runs}, ensure_ascii=False)
    file = FOLDER / board / f"{row}.json.xz"
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_bytes(lzma.compress(text.encode()))
    partial.replace(file)


def slim(run: Course) -> Course:
    """The run without what no page shows."""
    return run._replace(
        journal=[_only(OF_EDITS, line) for line in run.journal],
        standing=[_only(OF_STANDING, line) for line in run.standing],
        baseline={k: v for k, v in run.baseline.items() if k.startswith("tasks/")},
    )


def _only(fields: set[str], line: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name in fields}
