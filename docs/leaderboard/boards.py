"""What a leaderboard consists of: the rows, seeds and lengths that its file declares."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from callbacks.keeping.run_folder import read_journal
from callbacks.keeping.schedule import FINISHED
from command_line.configs import CONFIGS

FOLDER = CONFIGS / "leaderboard"
RUNS = Path("runs/leaderboard")
PROTOCOL, RANGES, NOT_BOARDS = "protocol", "ranges", ("protocol", "ranges", "together", "verify")
FAILED = "failed.json"


class Tuning(NamedTuple):
    """The budget by which each row chooses its settings.

    Attributes:
        trials: settings tried, the config's own among them.
        edits: of requests of the tuning part, in each trial.
        seed: of their sample and of the search.
    """

    trials: int
    edits: int
    seed: int


class Board(NamedTuple):
    """A model, and what is run on it.

    Attributes:
        name: of its file and its folder of runs.
        title: on the page.
        options: of ``train.py``, for every run.
        reference: the row that horizons and costs are compared with.
        scores_against: the one that scores are compared with: it should survive.
        seeds: of order and sample.
        batch: requests per edit.
        lengths: numbers of edits; a longer run continues the shorter one.
        tuning: budget of each row.
        together: rows that train on all requests at once; every length is a run of its own.
        rows: configs, by name.
    """

    name: str
    title: str
    options: str
    reference: str
    scores_against: str
    seeds: tuple[int, ...]
    batch: int
    lengths: tuple[int, ...]
    tuning: Tuning
    together: tuple[str, ...]
    rows: tuple[str, ...]


class Cell(NamedTuple):
    """A row's run with one seed, up to a length."""

    board: Board
    row: str
    seed: int
    length: int

    @property
    def name(self) -> str:
        """Of the run, inside the board's folder."""
        of_length = f"-{self.length}" if self.row in self.board.together else ""
        return f"{self.row}/seed-{self.seed}{of_length}"

    @property
    def folder(self) -> Path:
        """Where the run's files are."""
        return RUNS / self.board.name / self.name / "version_0"

    @property
    def made(self) -> int:
        """Edits in its journal."""
        return len(read_journal(self.folder))

    @property
    def todo(self) -> int:
        """Edits up to its length that its journal lacks."""
        if self.row in self.board.together:  # a line of its journal is a step
            return 0 if self.made else self.length
        return max(self.length - self.made, 0)

    @property
    def done(self) -> bool:
        """Whether the run is complete up to this length, or ended before it for good."""
        if (self.folder / FAILED).is_file():
            return True
        journal, finished = read_journal(self.folder), (self.folder / FINISHED).is_file()
        if self.row in self.board.together:
            return finished and bool(journal)
        if len(journal) > self.length:  # killed or not, it was on its way to a longer one
            return True
        whole = len(journal) == self.length or bool(journal and journal[-1].get("collapsed"))
        return finished and whole


def read_boards(names: str | None = None) -> list[Board]:
    """The declared boards, all or those named by commas.

    Raises:
        ValueError: if one is unknown or wrongly declared.
    """
    known = {file.stem: file for file in FOLDER.glob("*.yaml") if file.stem not in NOT_BOARDS}
    asked = names.split(",") if names else sorted(known)
    if unknown := sorted(set(asked) - set(known)):
        raise ValueError(f"boards {unknown} are unknown; choose from {sorted(known)}")
    return [board_of(name, yaml.safe_load(known[name].read_text("utf-8"))) for name in asked]


def board_of(name: str, content: Mapping[str, Any]) -> Board:
    """A board from what its file says.

    Raises:
        ValueError: if a key is missing or unknown, a row has no config, or a number is wrong.
    """
    wanted = set(Board._fields) - {"name"}
    if content.keys() != wanted:
        raise ValueError(
            f"{name}.yaml must have the keys {sorted(wanted)}; it differs in "
            f"{sorted(content.keys() ^ wanted)}"
        )
    lists = {key: tuple(content[key]) for key in ("seeds", "lengths", "together", "rows")}
    board = Board(name, **{**content, **lists, "tuning": Tuning(**content["tuning"])})
    homeless = [row for row in board.rows if not (CONFIGS / f"{row}.yaml").is_file()]
    if homeless:
        raise ValueError(f"{name}.yaml: the rows {homeless} have no config in {CONFIGS.name}/")
    if {board.reference, board.scores_against, *board.together} - set(board.rows):
        raise ValueError(
            f"{name}.yaml: reference, scores_against and together must be among its rows"
        )
    counts = *board.lengths, board.batch, board.tuning.trials, board.tuning.edits
    if min(counts) <= 0 or not board.seeds:
        raise ValueError(
            f"{name}.yaml: lengths, batch, trials and edits must be positive, seeds not none"
        )
    return board


def cells(board: Board) -> Iterator[Cell]:
    """All runs of a board in the order of their worth: seeds first, then lengths."""
    for length in sorted(board.lengths):
        for seed in board.seeds:
            for row in board.rows:
                yield Cell(board, row, seed, length)


def ranges_of(row: str) -> dict[str, list[float]]:
    """Bounds of each option that tuning searches for a row; none if nothing is declared.

    Raises:
        ValueError: if a range is empty or not positive.
    """
    file = FOLDER / f"{RANGES}.yaml"
    found = yaml.safe_load(file.read_text("utf-8")).get(row, {})
    for option, bounds in found.items():
        low, high = map(float, bounds)
        if not 0 < low < high:
            raise ValueError(f"{file.name}: {row}: {option} must have 0 < low < high, got {bounds}")
    return {option: [float(bound) for bound in bounds] for option, bounds in found.items()}


def read_json(file: Path) -> Any:
    """A JSON file's content; None if it is missing."""
    return json.loads(file.read_text("utf-8")) if file.is_file() else None
