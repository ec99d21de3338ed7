"""Files of checkpoints: written as a whole or not at all, and read only if they are intact."""

import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from .increments import STATE, joined
from .seals import EARLIER, PREVIOUS, Digested, digest_of, fault, follows, intact, line_of

LAST = "last.ckpt"


def readable(file: Path) -> Path:
    """A checkpoint; if ``last.ckpt`` cannot be read, the newest one before it, with a warning.

    Raises:
        ValueError: if it is damaged and there is no other.
    """
    once = cache(intact)
    why = fault(file, once)
    if why is None:
        return file
    earlier = [file.with_name(PREVIOUS), *file.parent.glob(EARLIER)] if file.name == LAST else []
    there = sorted((f for f in earlier if f.is_file()), key=lambda f: -f.stat().st_mtime_ns)
    found = next((other for other in there if fault(other, once) is None), None)
    if found is None:
        raise ValueError(
            f"{file} {why} and no intact one is beside it; give an intact copy, or start a new run"
        )
    how_far = "one edit" if found.name == PREVIOUS else "some edits"
    rank_zero_warn(f"{file} {why}: the run continues from {found}, {how_far} earlier")
    return found


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints atomically, even if the machine stops, and reads only intact ones.

    The replaced ``last.ckpt`` stays as ``previous.ckpt``. An increment builds on the checkpoint
    before it, and the files of its line stay as ``before-*.ckpt``, back to the last whole
    checkpoint but one.
    """

    digest: bytes | None = None  # of the file written last
    loaded: Path | None = None  # the increment read last

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: dict[str, Any] | None = None,
    ) -> None:
        """Replaces the previous file once the new one is on disk.

        Args:
            checkpoint: the state of the run.
            path: of the file.
            storage_options: an increment to write in place of weights and history.

        Raises:
            OSError: if it cannot be written; the previous one stays.
        """
        before = None
        if storage_options is not None:
            checkpoint = {name: held for name, held in checkpoint.items() if name not in STATE}
            checkpoint["increment"] = storage_options
            before = self.digest if storage_options["follows"] else None
        self.write(checkpoint, Path(path), before)
        if before is None:
            clear(Path(path))

    def write(
        self,
        checkpoint: dict[str, Any],
        file: Path,
        before: bytes | None = None,
        replace: bool = False,
    ) -> None:
        """Writes a file beside its place, and then moves it there.

        Args:
            checkpoint: its content.
            file: its place.
            before: the digest of the checkpoint that it builds on.
            replace: whether it is another form of the same state as the ``last.ckpt`` there.

        Raises:
            OSError: if it cannot be written; the previous one stays.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        try:
            with partial.open("wb") as written:
                sealed = Digested(written)
                torch.save(checkpoint, cast(BinaryIO, sealed))
                self.digest = sealed.seal(before)
            if file.name == LAST and file.exists() and not replace:
                set_back(file)
            partial.replace(file)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            raise OSError(
                f"{file} cannot be written ({error}); the checkpoint before it is whole: make "
                "room, and continue with --ckpt_path last"
            ) from error
        finally:
            partial.unlink(missing_ok=True)

    def complete(self, file: Path, state: dict[str, Any]) -> None:
        """Puts the state in the place of a checkpoint's increment; it then needs no other file."""
        held = super().load_checkpoint(file, weights_only=True)
        whole = {name: value for name, value in held.items() if name != "increment"}
        self.write(whole | state, file, replace=True)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable | None = lambda storage, _: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Reads a checkpoint; if ``last.ckpt`` is damaged, the previous one, with a warning.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it is damaged and there is no other, or no run wrote it.
        """
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"there is no checkpoint {file}; check the spelling")
        file = readable(file)
        line = [self.read(part, map_location, weights_only) for part in line_of(file)]
        if "increment" not in line[0]:
            return line[0]
        self.loaded = file
        return joined(line)

    def read(
        self, file: Path, map_location: Callable | None, weights_only: bool | None
    ) -> dict[str, Any]:
        """The content of one file.

        Raises:
            ValueError: if no run wrote it.
        """
        try:
            checkpoint = super().load_checkpoint(file, map_location, weights_only)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{file} is not read: it holds more than tensors, numbers and strings and could "
                "run code; give a checkpoint that a run has written"
            ) from error
        if not isinstance(checkpoint, dict) or "pytorch-lightning_version" not in checkpoint:
            raise ValueError(f"{file} is no checkpoint of a run; give one that a run has written")
        return checkpoint


def set_back(last: Path) -> None:
    """Renames ``last.ckpt`` to ``previous.ckpt``, and that to another name in a line of several."""
    previous = last.with_name(PREVIOUS)
    if previous.exists() and (follows(previous) or follows(last) == digest_of(previous)):
        previous.replace(last.with_name(EARLIER.replace("*", digest_of(previous).hex()[:16])))
    last.replace(previous)


def clear(last: Path) -> None:
    """Removes the files that the checkpoint before a whole one does not build on."""
    previous = last.with_name(PREVIOUS)
    try:
        kept = line_of(previous) if previous.exists() else []
    except FileNotFoundError:
        kept = []
    for file in last.parent.glob(EARLIER):
        if file not in kept:
            file.unlink()
