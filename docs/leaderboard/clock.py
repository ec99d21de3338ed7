"""How long runs took, how long others will take, and whether the budget has room for them."""

import json
import math
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from callbacks.keeping.run_folder import append
from docs.leaderboard.boards import RUNS, Cell
from docs.leaderboard.trials import trials_left

FILE = "clock.jsonl"
UNKNOWN = 2.0  # seconds per edit before anything was measured
FIXED = 20.0  # seconds of a run's start and end


class Clock:
    """A budget in wall-clock time, and what is known about the time that edits take.

    Args:
        hours: the budget; unlimited if None.
    """

    def __init__(self, hours: float | None = None) -> None:
        self.end = time.monotonic() + 3600 * hours if hours else math.inf

    def expected(self, cell: Cell) -> float:
        """Seconds that the rest of a cell takes, by what its row took, or else other rows."""
        return FIXED + cell.todo * self.per_edit(cell)

    def per_edit(self, cell: Cell) -> float:
        """Seconds per edit: the median of the row's runs, or of all runs of the board."""
        lines = [line for line in read_clock(cell) if line["edits"] > 0]
        own = [line for line in lines if line["row"] == cell.row]
        speeds = [max(line["seconds"] - FIXED, 0.0) / line["edits"] for line in own or lines]
        return median(speeds) if speeds else UNKNOWN

    def needed(self, cells: Sequence[Cell]) -> float:
        """Seconds that some cells take with the trials that their rows lack."""
        trials = sum(
            trials_left(cell.board, row) * cell.board.tuning.edits * self.per_edit(cell)
            for row, cell in {cell.row: cell for cell in cells}.items()
        )
        return sum(map(self.expected, cells)) + trials

    def affords(self, cell: Cell) -> bool:
        """Whether the rest of a cell is expected to end within the budget."""
        return time.monotonic() + self.needed([cell]) <= self.end

    def add(self, cell: Cell, edits: int, seconds: float) -> None:
        """Notes what a run took."""
        told = {"row": cell.row, "seed": cell.seed, "edits": edits, "seconds": round(seconds, 1)}
        append(RUNS / cell.board.name / FILE, json.dumps(told))


def read_clock(cell: Cell) -> list[dict[str, Any]]:
    """What the runs of a board took so far."""
    file = RUNS / cell.board.name / FILE
    return (
        [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        if file.is_file()
        else []
    )


def in_words(seconds: float) -> str:
    """A duration, such as ``1.5 h`` or ``12 min``."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{math.ceil(seconds / 60)} min"
