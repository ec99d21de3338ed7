"""The journal's file: append-only, with a digest that shows whether it is complete."""

import json
from collections import Counter
from hashlib import blake2b
from pathlib import Path

from .run_folder import append, rewind


class JournalFile:
    """``edits.jsonl``, written by one process.

    Args:
        file: its path.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lines = 0
        self.sum = blake2b(digest_size=16)
        self.known: tuple[int, int] | None = None

    @property
    def digest(self) -> str:
        """Digest of all lines."""
        return self.sum.hexdigest()

    def take_up(self, lines: int) -> None:
        """Keeps the first ``lines``; the next one follows them."""
        rewind(self.file, lines)
        kept = self._lines()
        self.lines, self.sum = len(kept), digest_of(kept)
        self.known = self._identity()

    def add(self, line: str) -> None:
        """Appends a line.

        Raises:
            OSError: if it cannot be written, or another program has changed the file.
        """
        if self._identity() != self.known:
            raise self._changed("was changed or replaced by another program")
        append(self.file, line)
        self.lines += 1
        self.sum.update(f"{line}\n".encode())
        self.known = self._identity()

    def require_whole(self) -> None:
        """Checks that the file holds what was written.

        Raises:
            OSError: if it does not.
        """
        why = self.misfit(self.lines, self.digest)
        if why:
            raise self._changed(why)

    def misfit(self, lines: int, digest: str) -> str:
        """Why the file's first ``lines`` do not match a digest; empty if they do."""
        held = self._lines()
        first = held[:lines]
        if len(held) < lines:
            return f"holds {len(held)} of the {lines} lines that the run wrote"
        if digest_of(first).hexdigest() == digest:
            return ""
        edits = []
        for number, line in enumerate(first, 1):
            try:
                edits.append(json.loads(line)["edit"])
            except (ValueError, KeyError, TypeError):
                return f"is broken at line {number}"
        edit, count = Counter(edits).most_common(1)[0]
        return f"holds edit {edit} {count} times" if count > 1 else "is not what the run wrote"

    def _lines(self) -> list[bytes]:
        return self.file.read_bytes().split(b"\n")[:-1] if self.file.exists() else []

    def _identity(self) -> tuple[int, int] | None:
        """The file's inode and size."""
        found = self.file.stat() if self.file.exists() else None
        return None if found is None else (found.st_ino, found.st_size)

    def _changed(self, why: str) -> OSError:
        return OSError(
            f"{self.file} {why} during the run; put the journal back, and continue with "
            "--ckpt_path last"
        )


def digest_of(lines: list[bytes]) -> blake2b:
    """The running digest of lines."""
    return blake2b(b"".join(line + b"\n" for line in lines), digest_size=16)
