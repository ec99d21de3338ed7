"""What a board's runs say in full: the journals of one seed, and digests of all."""

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path

from callbacks.keeping.run_folder import write_json
from callbacks.watching.standing import FILE
from docs.leaderboard.boards import Board, Cell

FILES = ("edits.jsonl", FILE)
MOST = 5 * 2**20  # bytes of a board's journals


def hand_over(board: Board, folder: Path) -> None:
    """Writes each row's journal of the first seed, compressed, and the digests of every run.

    Rows whose journal no longer fits into the limit have only digests.

    Args:
        board: whose runs.
        folder: where to write; other files in it stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    left, digests = MOST, {}
    for cell in runs_of(board):
        files = [cell.folder / name for name in FILES if (cell.folder / name).is_file()]
        digests[cell.name] = {file.name: hashlib.sha256(file.read_bytes()).hexdigest()
                              for file in files}  # fmt: skip
        if cell.seed == board.seeds[0]:
            packed = gzip.compress((cell.folder / FILES[0]).read_bytes(), mtime=0)
            left -= len(packed)
            if left >= 0:
                name = cell.name.replace("/", "-")
                (folder / f"{name}.jsonl.gz").write_bytes(packed)
    write_json(folder / "digests.json", digests)


def runs_of(board: Board) -> Iterator[Cell]:
    """The board's runs that have a journal, each once."""
    seen = set()
    for row in board.rows:
        for seed in board.seeds:
            for length in board.lengths:
                cell = Cell(board, row, seed, length)
                if cell.name not in seen and cell.made:
                    seen.add(cell.name)
                    yield cell
