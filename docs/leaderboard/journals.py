"""What a board's runs say in full: the journals of one seed."""

import gzip
from pathlib import Path

from docs.leaderboard.boards import Board, runs_of
from docs.leaderboard.course import JOURNALS

MOST = 5 * 2**20  # bytes of a board's journals


def hand_over(board: Board, folder: Path) -> None:
    """Writes the compressed journal of each row's first seed, as long as they fit into the limit.

    Args:
        board: whose runs.
        folder: where to write; the journals of runs of other machines stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    left = MOST
    runs = [cell for row in board.rows for cell in runs_of(board, row)]
    for cell in (cell for cell in runs if cell.seed == board.seeds[0] and cell.made):
        packed = gzip.compress((cell.folder / JOURNALS[0]).read_bytes(), mtime=0)
        left -= len(packed)
        if left >= 0:
            name = cell.name.replace("/", "-")
            (folder / f"{name}.jsonl.gz").write_bytes(packed)
