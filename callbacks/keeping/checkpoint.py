"""The state of a run, saved after every edit; a killed run loses at most the current edit."""

import os
import pickle
import zipfile
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, cast

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_warn

from lightning_modules.editing.editor import Editor

from .run_folder import folder_of
from .schedule import watched_next

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
ZIP_END = b"PK\5\6"  # begins the last 22 bytes of a zip without a comment
SEAL = b"KEEL blake2b "  # ends a file, with the digest of its content; torch.load ignores it
DIGEST = 32  # bytes


class Digested:
    """A file whose digest is computed while it is written.

    Args:
        file: open for writing.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = blake2b(digest_size=DIGEST)

    def write(self, data: bytes) -> int:
        """Writes bytes and adds them to the digest."""
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        """Flushes the file."""
        self.file.flush()

    def seal(self) -> None:
        """Appends the digest and syncs the file to disk."""
        self.file.write(SEAL + self.digest.digest())
        self.file.flush()
        os.fsync(self.file.fileno())


def intact(file: Path) -> bool:
    """Whether a checkpoint is intact, by its digest; by its zip checksums if it has none.

    A file whose digest is damaged does not pass for one without: that ends as a zip does.
    """
    seal = len(SEAL) + DIGEST
    with file.open("rb") as read:
        left, digest = max(file.stat().st_size - seal, 0), blake2b(digest_size=DIGEST)
        while left and (data := read.read(min(left, 2**24))):
            digest.update(data)
            left -= len(data)
        end = read.read()
    if end.startswith(SEAL) or not end[-22:].startswith(ZIP_END):
        return end == SEAL + digest.digest()
    try:
        with zipfile.ZipFile(file) as parts:
            return parts.testzip() is None
    except (EOFError, OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return False


def readable(file: Path) -> Path:
    """A checkpoint; of a damaged ``last.ckpt`` the one before it, with a warning.

    Raises:
        ValueError: if it is damaged and there is no other.
    """
    if intact(file):
        return file
    previous = file.with_name(PREVIOUS)
    if file.name != LAST or not previous.is_file() or not intact(previous):
        raise ValueError(
            f"{file} is damaged (its checksum does not match) and no intact one is beside it; give "
            "an intact copy, or start a new run"
        )
    rank_zero_warn(
        f"{file} is damaged (its checksum does not match): the run continues from {previous}, one "
        "edit earlier"
    )
    return previous


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints atomically, even if the machine stops, and reads only intact ones.

    The replaced ``last.ckpt`` stays as ``previous.ckpt``.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Replaces the previous file once the new one is on disk.

        Raises:
            OSError: if it cannot be written; the previous one stays.
        """
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        try:
            with partial.open("wb") as written:
                sealed = Digested(written)
                torch.save(checkpoint, cast(BinaryIO, sealed))
                sealed.seal()
            if file.name == LAST and file.exists():
                file.replace(file.with_name(PREVIOUS))
            partial.replace(file)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            raise OSError(
                f"{file} cannot be written ({error}); the checkpoint before it is whole: make "
                "room, and continue with --ckpt_path last"
            ) from error
        finally:
            partial.unlink(missing_ok=True)

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


class EditCheckpoint(Checkpoint):
    """Keeps ``checkpoints/last.ckpt``: the state after the last edit, once its line was written.

    The previous one stays beside it in case the last is damaged. They hold what edits change and
    what the run has recorded, not the language model.
    """

    def setup(self, trainer: L.Trainer, pl_module: Editor, stage: str) -> None:
        """Makes all checkpoints of the run atomic."""
        trainer.strategy.checkpoint_io = WholeFiles()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Editor, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves after an edit that is not watched."""
        if not watched_next(trainer):
            self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Saves after an edit that was watched."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Replaces the file."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined] # set by Lightning's connector
            file = folder_of(trainer) / "checkpoints" / LAST
            trainer.save_checkpoint(file, weights_only=False)  # by default it warns each time

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: Editor, checkpoint: dict[str, Any]
    ) -> None:
        """Leaves it to the loader whether the last batch was the last: the limit may be raised."""
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False
