"""The ledger of a run: what every edit added to the weights, one checksummed file per edit."""

import json
import os
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from data_modules.records import EditRequest

from .edited_weights import Update

FOLDER = "ledger"


class Entry(NamedTuple):
    """One edit of a ledger.

    Attributes:
        edit: its number in ``edits.jsonl``.
        before: number of requests that the model held before it; 0 for the original model.
        case_ids: cases of its requests.
        identities: of its requests, which their case numbers need not be.
        fingerprint: of the unedited model.
        weights: the name of the parameter that each update changes.
        file: holds its updates.
    """

    edit: int
    before: int
    case_ids: list[int]
    identities: list[str]
    fingerprint: str
    weights: list[str]
    file: Path

    def updates(self) -> list[Update]:
        """The edit's updates, in their order.

        Raises:
            ValueError: if the file is damaged.
        """
        try:
            with safe_open(self.file, "pt") as shard:
                metadata = shard.metadata()
                tensors = {name: shard.get_tensor(name).clone() for name in shard.keys()}  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError) as error:
            raise damaged(self.file, str(error)) from error
        if metadata.pop("checksum", None) != checksum(tensors, metadata):
            raise damaged(self.file, "its checksum does not fit")
        return [
            Update(name, tensors[f"{n}.left"], tensors.get(f"{n}.right"))
            for n, name in enumerate(self.weights)
        ]

    def requests(self) -> list[EditRequest]:
        """The edit's requests, as its file's header holds them."""
        with safe_open(self.file, "pt") as shard:
            return list(map(EditRequest.of_counterfact, json.loads(shard.metadata()["requests"])))


def damaged(file: Path, why: str) -> ValueError:
    """The error text for a damaged file."""
    return ValueError(f"{file} is damaged ({why}); give an intact copy")


def shard_file(run: Path, edit: int) -> Path:
    """The file of an edit."""
    return run / FOLDER / f"{edit:06}.safetensors"


def write_entry(entry: Entry, requests: Sequence[EditRequest], updates: Sequence[Update]) -> None:
    """Writes an edit, whole or not at all, and flushes it to the disk.

    Args:
        entry: the edit, whose file is written.
        requests: of the edit; the file's header holds them in CounterFact's format.
        updates: as applied; low-rank ones stay low-rank.

    Raises:
        OSError: if the disk is full or not writable.
    """
    metadata = {
        name: json.dumps(value) for name, value in entry._asdict().items() if name != "file"
    }
    metadata["requests"] = json.dumps([request.as_counterfact() for request in requests])
    factors = {
        f"{n}.{side}": factor.detach().cpu().contiguous()
        for n, update in enumerate(updates)
        for side, factor in (("left", update.left), ("right", update.right))
        if factor is not None
    }
    entry.file.parent.mkdir(parents=True, exist_ok=True)
    partial = entry.file.with_suffix(".partial")
    try:
        save_file(factors, partial, metadata | {"checksum": checksum(factors, metadata)})
        sort_header(partial)
        with partial.open("rb+") as shard:
            os.fsync(shard.fileno())
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise OSError(
            f"edit {entry.edit} cannot be written to {entry.file.parent} ({error}); the edits "
            "before it are whole: make room, and continue with --ckpt_path last"
        ) from error
    partial.replace(entry.file)


def sort_header(file: Path) -> None:
    """Orders a safetensors header, which is else left to chance: equal edits, equal bytes."""
    with file.open("rb+") as shard:
        size = int.from_bytes(shard.read(8), "little")
        header = json.loads(shard.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= size:
            shard.seek(8)
            shard.write(text.ljust(size))


def shards(run: Path) -> list[Path]:
    """The files of a run's ledger, in the order of their edits; others in its folder are named."""
    files = sorted((run / FOLDER).glob("*"))
    named = [file for file in files if file.suffix == ".safetensors" and file.stem.isdigit()]
    own = [file for file in named if file.is_file()]
    strays = [file.name for file in files if file not in own and file.suffix != ".partial"]
    if strays:
        rank_zero_warn(f"{run / FOLDER} holds {', '.join(strays)}, which no run wrote: ignored")
    return own


def files_of(run: Path) -> list[Path]:
    """The files of a run's ledger.

    Raises:
        FileNotFoundError: if there is no ledger.
    """
    if files := shards(run):
        return files
    raise FileNotFoundError(f"{run} holds no ledger; give a run's folder: runs/rome/version_0")


def read_ledger(run: Path) -> list[Entry]:
    """The edits of a run, in order; their updates are read lazily.

    A damaged last file is left out with a warning. A warning also counts edits that only the
    journal has.

    Raises:
        FileNotFoundError: if there is no ledger.
        ValueError: if another file is damaged, or all of them are.
    """
    files = files_of(run)
    entries = [_entry(file) for file in files[:-1]]
    try:
        last = _entry(files[-1])
        last.updates()
        entries.append(last)
    except ValueError as error:
        if not entries:
            raise
        rank_zero_warn(str(error))
    lost = [edit for edit in _applied(run) if edit > entries[-1].edit]
    if lost:
        rank_zero_warn(
            f"the ledger of {run} ends at edit {entries[-1].edit}; {len(lost)} later ones were "
            "applied but cannot be rebuilt"
        )
    return entries


def joined(runs: Iterable[Path]) -> list[Entry]:
    """The edits of several ledgers, one after another.

    A run that continues another keeps its numbers; otherwise they continue those of the previous
    ledger.

    Raises:
        ValueError: if the ledgers are of different models, or an edit is missing.
    """
    entries: list[Entry] = []
    held = 0
    for run in runs:
        part = read_ledger(run)
        last = entries[-1].edit if entries else 0
        shift = last if part[0].edit <= last else 0
        for entry in part:
            if entry.fingerprint != (entries or part)[0].fingerprint:
                raise ValueError(f"{run} holds edits of another model than the ledger before it")
            if entry.before not in (0, held):
                raise ValueError(
                    f"{run}: edit {entry.edit} was made on a model with {entry.before} edited "
                    f"requests, but the ledger holds {held}; give the run it continues first"
                )
            held = entry.before + len(entry.case_ids)
            entries.append(entry._replace(edit=entry.edit + shift))
    return entries


def standing(entries: Sequence[Entry]) -> list[Entry]:
    """The edits that the model holds after the last one: those since it was last restored."""
    first = max((n for n, entry in enumerate(entries) if entry.before == 0), default=0)
    return list(entries[first:])


def cut_behind(run: Path, edit: int) -> None:
    """Removes the edits after a given one; a run that resumes there makes them again."""
    for file in shards(run):
        if int(file.stem) > edit:
            file.unlink()


def checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """A hash of tensors, their names, types and shapes, and of the header; strides do not count."""
    digest = blake2b(json.dumps(metadata, sort_keys=True).encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _entry(file: Path) -> Entry:
    try:
        with safe_open(file, "pt") as shard:
            metadata: dict[str, Any] = shard.metadata() or {}
        fields = {name: json.loads(metadata[name]) for name in Entry._fields if name != "file"}
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise damaged(file, str(error)) from error
    return Entry(**fields, file=file)


def _applied(run: Path) -> list[int]:
    """Numbers of the edits that a run's journal marks as applied.

    Raises:
        ValueError: if a line is broken.
    """
    journal = run / "edits.jsonl"
    lines = journal.read_text("utf-8").split("\n")[:-1] if journal.exists() else []
    try:
        return [line["edit"] for line in map(json.loads, lines) if line["status"] == "applied"]
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(journal, str(error)) from error
