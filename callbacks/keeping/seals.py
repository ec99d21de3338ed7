"""The seals of checkpoint files: the digest of all bytes, and the file that one builds on."""

import os
import zipfile
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

ZIP_END = b"PK\5\6"  # begins the last 22 bytes of a zip without a comment
SEAL = b"KEEL blake2b "  # ends a file, with the digest of its content; torch.load ignores it
AFTER = b"KEEL  follows "  # before the seal of an increment, with the digest of the file before it
DIGEST = 32  # bytes
PREVIOUS, EARLIER = "previous.ckpt", "before-*.ckpt"


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

    def seal(self, before: bytes | None = None) -> bytes:
        """Appends the digest, which it returns, and syncs the file to disk.

        Args:
            before: the digest of the checkpoint that this one builds on.
        """
        if before is not None:
            self.write(AFTER + before)
        self.file.write(SEAL + self.digest.digest())
        self.file.flush()
        os.fsync(self.file.fileno())
        return self.digest.digest()


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


def digest_of(file: Path) -> bytes:
    """The digest that ends a file."""
    return _end(file)[-DIGEST:]


def follows(file: Path) -> bytes | None:
    """The digest of the checkpoint that an increment builds on; None of a whole one."""
    link = _end(file)[: len(AFTER) + DIGEST]
    return link.removeprefix(AFTER) if link.startswith(AFTER) else None


def line_of(file: Path) -> list[Path]:
    """A checkpoint and those it builds on, the newest first.

    Raises:
        FileNotFoundError: if one of them is missing.
    """
    line, wanted = [file], follows(file)
    if wanted is None:
        return line
    beside = [*file.parent.glob(EARLIER), *file.parent.glob(PREVIOUS)]
    known = {digest_of(other): other for other in beside if other != file}
    while wanted is not None:
        if wanted not in known:
            raise FileNotFoundError(
                f"{file} builds on a checkpoint that is not beside it; give a checkpoint in the "
                "folder of its run"
            )
        line.append(known.pop(wanted))
        wanted = follows(line[-1])
    return line


def fault(file: Path, intact: Callable[[Path], bool] = intact) -> str | None:
    """Why a checkpoint cannot be read, after its name; None if it can."""
    if not intact(file):
        return "is damaged (its checksum does not match)"
    try:
        damaged = next((part.name for part in line_of(file) if not intact(part)), None)
    except FileNotFoundError:
        return "builds on a checkpoint that is damaged or missing"
    return (
        f"builds on {damaged}, which is damaged (its checksum does not match)" if damaged else None
    )


def _end(file: Path) -> bytes:
    with file.open("rb") as read:
        size = len(AFTER) + DIGEST + len(SEAL) + DIGEST
        read.seek(max(file.stat().st_size - size, 0))
        return read.read()
