"""Downstream tasks from the hub, from local files in their public formats, or embedded."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..embedded import FOLDER
from ..records import TaskItem
from ..text.corpora import rows
from ..text.files import values
from .task_forms import TASKS, TaskRow, flat


@dataclass(frozen=True)
class TaskOptions:
    """Downstream tasks to judge the model on.

    Args:
        names: among lambada, hellaswag, piqa, mmlu, nq_open and squad_v2; all if null.
        source: ``embedded``, ``hub``, or a folder with files such as ``piqa.jsonl``.
        files: a file, or another hub dataset, for single tasks, by name.
        limit: items per task judged after edits, the same every time; all if null. ``test`` always
            judges all.
        subjects: of MMLU, such as ``abstract_algebra``; all if null.
    """

    names: list[str] | None = None
    source: str = "embedded"
    files: dict[str, str] = field(default_factory=dict)
    limit: int | None = 20
    subjects: list[str] | None = None

    @property
    def chosen(self) -> list[str]:
        """Names of the tasks to judge."""
        return list(TASKS) if self.names is None else self.names

    def check(self) -> None:
        """Finds mistakes without reading a file.

        Raises:
            ValueError: if a task is unknown, none is named, or the limit is not positive.
        """
        unknown = sorted({*self.chosen, *self.files} - set(TASKS))
        if unknown:
            raise ValueError(f"tasks {unknown} are unknown; choose from {', '.join(TASKS)}")
        if not self.chosen:
            raise ValueError("tasks.names is empty; name a task, or leave data.tasks out")
        if self.limit is not None and self.limit <= 0:
            raise ValueError(f"tasks.limit must be positive, got {self.limit}")
        if self.subjects is not None and ("mmlu" not in self.chosen or not self.subjects):
            raise ValueError(
                f"tasks.subjects must be some of MMLU's with mmlu among tasks.names, got "
                f"{self.subjects} for {', '.join(self.chosen)}"
            )


def read_tasks(options: TaskOptions) -> dict[str, list[TaskItem]]:
    """All items of the chosen tasks, in the order of their sources.

    Raises:
        FileNotFoundError: if a file, folder or hub dataset cannot be reached.
        ValueError: if a record is faulty, a task has no item, or MMLU has no such subject.
    """
    return {name: _read(name, options) for name in options.chosen}


def _read(name: str, options: TaskOptions) -> list[TaskItem]:
    path = options.files.get(name) or _located(name, options.source)
    found = [part for row in _rows(path, name) for part in flat(row)]
    if name == "mmlu" and options.subjects is not None:
        found = _of_subjects(path, found, options.subjects)
    if not found:
        raise ValueError(f"{path}: there is no item of {name} in it; give a file that holds some")
    return [TASKS[name].item(row) for row in found]


def _located(name: str, source: str) -> str:
    """The hub dataset or the file of a task."""
    if source == "hub":
        return TASKS[name].hub
    folder = FOLDER / "tasks" if source == "embedded" else Path(source)
    if not folder.is_dir():
        raise FileNotFoundError(f"tasks.source must be embedded, hub or a folder, got {source!r}")
    files = (f for f in sorted(folder.iterdir()) if f.name.partition(".")[0] == name)
    file = next((file for file in files if {".json", ".jsonl"} & set(file.suffixes)), None)
    if file is None:
        raise FileNotFoundError(
            f"{source} holds no {name}.jsonl or {name}.json; add it, name it by "
            f"tasks.files.{name}, or leave {name} out of tasks.names"
        )
    return str(file)


def _rows(path: str, name: str) -> Iterator[TaskRow]:
    """Unchanged records of a file, or of the evaluation split of a hub dataset."""
    task = TASKS[name]
    held: Any = (
        values(path)
        if Path(path).is_file()
        else (
            (f"record {number}", fields)
            for number, fields in enumerate(
                rows(path, task.config if path == task.hub else None, task.split)
            )
        )
    )
    for number, (place, fields) in enumerate(held):
        if not isinstance(fields, Mapping):
            raise ValueError(f"{path}: {place} must be a JSON object, got {fields!r}")
        yield TaskRow(path, place, number, dict(fields))


def _of_subjects(path: str, found: list[TaskRow], subjects: list[str]) -> list[TaskRow]:
    known = {row.text("subject") for row in found}
    if not known >= set(subjects):
        raise ValueError(
            f"{path}: tasks.subjects {sorted(set(subjects) - known)} are not among MMLU's subjects "
            f"there, which are {', '.join(sorted(known))}"
        )
    return [row for row in found if row.text("subject") in subjects]


def subset(items: list[TaskItem], limit: int | None) -> list[TaskItem]:
    """The first items after a fixed shuffle; all if the limit is null."""
    return items if limit is None else random.Random(0).sample(items, len(items))[:limit]
