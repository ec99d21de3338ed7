"""A run's folder and its files, each intact whenever the run is killed."""

import errno
import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

TRIAL = "keel-trial-"  # begins the name of a folder that the command line makes and removes


def folder_of(trainer: L.Trainer) -> Path:
    """The run's folder, named by the first process, which alone reads and writes there.

    For a logger without a folder of its own it is made of name and version, like Lightning's
    checkpoints; without a logger it is the default folder.
    """
    logger = trainer.logger
    if logger is None or logger.log_dir:
        return Path((logger and logger.log_dir) or trainer.default_root_dir)
    version = f"version_{logger.version}" if isinstance(logger.version, int) else logger.version
    return Path(logger.save_dir or trainer.default_root_dir, logger.name or "", version or "")


def is_removed(folder: Path) -> bool:
    """Whether a run's folder is removed at its end: a trial's, or that of a run without a place."""
    return any(part.startswith(TRIAL) for part in folder.parts)


def how_to_go_on(trainer: L.Trainer) -> str:
    """The option with which the same command resumes the run."""
    if isinstance(trainer.logger, TensorBoardLogger | CSVLogger) and len(trainer.loggers) == 1:
        return "--ckpt_path last"
    return f"--ckpt_path {folder_of(trainer) / 'checkpoints' / 'last.ckpt'}"


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """All edits of a run, in order; none without a journal. Non-finite figures are infinite.

    Raises:
        ValueError: if a line is broken.
    """
    file = folder / "edits.jsonl"
    lines = file.read_text("utf-8").split("\n")[:-1] if file.exists() else []
    edits = []
    for number, line in enumerate(lines, 1):
        try:
            edits.append(dict(json.loads(line)))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{file} is broken at line {number} ({error}); give an intact copy"
            ) from error
    return [{k: math.inf if v is None else v for k, v in edit.items()} for edit in edits]


def clear_partial(folder: Path) -> None:
    """Removes unfinished files that a killed run left below a folder."""
    for left in list(folder.rglob("*.partial")):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)


def rewind(file: Path, lines: int) -> None:
    """Keeps the first lines of a journal; the rest belong to edits that will be repeated."""
    text = file.read_text("utf-8") if file.exists() else ""
    kept = "".join(f"{line}\n" for line in text.split("\n")[:-1][:lines])
    if kept != text or not file.exists():
        replace_text(file, kept)


def nullified(content: Any) -> Any:
    """The same with null for every non-finite figure, which JSON cannot hold."""
    if isinstance(content, dict):
        return {name: nullified(value) for name, value in content.items()}
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file atomically."""
    replace_text(file, json.dumps(nullified(content), indent=2, ensure_ascii=False) + "\n")


def write_cases(
    folder: Path, cases: Iterable[dict[str, Any]], name: str = "hard_cases.json"
) -> None:
    """Writes requests in CounterFact's form to a file that ``--data.path`` reads."""
    text = json.dumps([nullified(case) for case in cases], indent=1, ensure_ascii=False)
    replace_text(folder / name, text + "\n")


def replace_text(file: Path, text: str) -> None:
    """Replaces a file with a text, atomically."""
    partial = file.with_suffix(".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write files to; they replace the previous ones once all are written.

    The files get the usual modes: some writers, such as safetensors, close theirs to others.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    usual = partial.stat().st_mode & 0o666
    try:
        yield partial
        folder.mkdir(exist_ok=True)
        for file in sorted(partial.iterdir()):
            file.chmod(usual if file.is_file() else file.stat().st_mode)
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(partial)


def append(file: Path, line: str) -> None:
    """Appends a line atomically and syncs it to disk.

    Raises:
        OSError: if it cannot be written.
    """
    data = f"{line}\n".encode()
    with file.open("ab", buffering=0) as journal:
        end = journal.seek(0, os.SEEK_END)
        try:
            if journal.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(journal.fileno())
        except OSError as error:
            journal.truncate(end)
            raise OSError(
                f"{file} takes no further line ({error.strerror}); the lines before it are whole: "
                "make room, and continue with --ckpt_path last"
            ) from error


class TakenError(ValueError):
    """Another process writes to a folder."""


class Claim:
    """A run's folder, locked by this process until it ends or releases it.

    Args:
        folder: created if missing.

    Raises:
        OSError: if the folder cannot be written.
        TakenError: if another process has locked it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise TakenError(
                f"another run is writing to {folder}; wait until it ends, or name another folder"
            ) from error

    def release(self) -> None:
        """Unlocks the folder."""
        os.close(self.descriptor)
