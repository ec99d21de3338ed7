"""The journal's file: lines are only added to it, and a digest tells whether they are all there."""

import json
from collections import Counter
from hashlib import blake2b
from pathlib import Path

from .run_folder import append, rewind


class JournalFile:
    """``edits.jsonl``, to which one process writes.

    Args:
        file: where it lies.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lines = 0
        self.sum = blake2b(digest_size=16)
        self.known: tuple[int, int] | None = None

    @property
    def digest(self) -> str:
        """Of all lines up to the last one."""
        return self.sum.hexdigest()

    def take_up(self, lines: int) -> None:
        """Leaves the first lines, behind which the next one goes."""
        rewind(self.file, lines)
        kept = self._lines()
        self.lines, self.sum = len(kept), digest_of(kept)
        self.known = self._identity()

    def add(self, line: str) -> None:
        """Adds a line.

        Raises:
            OSError: if the disk does not take it, or somebody else has changed the file.
        """
        if self._identity() != self.known:
            raise self._changed("was changed or replaced by another program")
        append(self.file, line)
        self.lines += 1
        self.sum.update(f"{line}\n".encode())
        self.known = self._identity()

    def require_whole(self) -> None:
        """Makes sure that the file holds what was written.

        Raises:
            OSError: if it does not.
        """
        why = self.misfit(self.lines, self.digest)
        if why:
            raise self._changed(why)

    def misfit(self, lines: int, digest: str) -> str:
        """What speaks against the file's first lines being those of a digest; empty if nothing."""
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
        return f"tells of edit {edit} {count} times" if count > 1 else "is not what the run wrote"

    def _lines(self) -> list[bytes]:
        return self.file.read_bytes().split(b"\n")[:-1] if self.file.exists() else []

    def _identity(self) -> tuple[int, int] | None:
        """Which file it is, and how long."""
        found = self.file.stat() if self.file.exists() else None
        return None if found is None else (found.st_ino, found.st_size)

    def _changed(self, why: str) -> OSError:
        return OSError(
            f"{self.file} {why} while the run went on; put the journal back, and go on by "
            "--ckpt_path last"
        )


def digest_of(lines: list[bytes]) -> blake2b:
    """The running digest of lines."""
    return blake2b(b"".join(line + b"\n" for line in lines), digest_size=16)
