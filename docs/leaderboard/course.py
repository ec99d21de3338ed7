"""A run of a board: its edits, and how all of them stood at the marks."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from callbacks.keeping.run_folder import read_journal
from callbacks.watching.standing import FILE, read_standing

FAILED = "failed.json"
JOURNALS = ("edits.jsonl", FILE)


class Course(NamedTuple):
    """A run as its folder or its record tells it.

    Attributes:
        seed: of order and sample.
        length: asked for, of a row that trains on all requests at once; else None.
        journal: a line per edit.
        standing: a line per mark and request.
        baseline: the unedited model's scores.
        error: what the method ended in, if it did.
        digests: SHA-256 of the run's journals, by file.
    """

    seed: int
    length: int | None
    journal: list[dict[str, Any]]
    standing: list[dict[str, Any]]
    baseline: dict[str, float]
    error: str | None
    digests: dict[str, str]

    @property
    def collapsed_at(self) -> int | None:
        """The edit at which perplexity exceeded its limit."""
        return next((line["edit"] for line in self.journal if line.get("collapsed")), None)

    def lost_at(self, share: float) -> int | None:
        """The first evaluation at which the mean task score had lost a share of the unedited's."""
        before = task_mean({k: v for k, v in self.baseline.items() if k.startswith("tasks/")})
        for line in self.journal:
            if line.get("tasks") and task_mean(line["tasks"]) <= (1 - share) * before:
                return line["edit"]
        return None

    def lines_at(self, mark: int) -> list[dict[str, Any]]:
        """Lines of ``standing.jsonl`` after so many edits."""
        if self.length is not None:
            return self.standing if self.length == mark else []
        return [line for line in self.standing if line["after"] == mark]

    def reached(self, edits: int) -> bool:
        """Whether so many edits were made and judged, or the run ended before them for good."""
        if self.error or self.collapsed_at:
            return True
        if self.length is not None:
            return bool(self.standing)
        return len(self.journal) > edits or bool(self.lines_at(edits))


def task_mean(scores: Mapping[str, float]) -> float:
    """Mean score of the tasks; each counts once, by its first measure."""
    return sum(scores.values()) / len(scores) if scores else 0.0


def read_course(folder: Path, seed: int, length: int | None) -> Course | None:
    """A run's folder; None if it has no edits yet."""
    journal, failed = read_journal(folder), read_json(folder / FAILED)
    if not journal and failed is None:
        return None
    files = [folder / name for name in JOURNALS if (folder / name).is_file()]
    return Course(
        seed=seed,
        length=length,
        journal=journal,
        standing=read_standing(folder / FILE),
        baseline=(read_json(folder / "summary.json") or {}).get("baseline", {}),
        error=failed["error"] if failed else None,
        digests={file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
    )


def read_json(file: Path) -> Any:
    """A JSON file's content; None if it is missing."""
    return json.loads(file.read_text("utf-8")) if file.is_file() else None
