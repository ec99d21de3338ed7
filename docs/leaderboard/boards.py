"""What a leaderboard consists of: the rows, seeds and lengths that its file declares."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from callbacks.keeping.run_folder import read_journal
from callbacks.keeping.schedule import FINISHED
from command_line.configs import CONFIGS
from docs.leaderboard.course import FAILED, Course, read_course, read_json
from docs.leaderboard.recorded import Record, recorded

FOLDER = CONFIGS / "leaderboard"
RUNS = Path("runs/leaderboard")
PROTOCOL, RANGES, NOT_BOARDS = "protocol", "ranges", ("protocol", "ranges", "together", "verify")
TUNING, COST = "tuning.json", "cost.json"  # of a row


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
        of_length = f"-{self.length}" if self.own_length else ""
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
        record = self.recorded
        return self.done_here or (record is not None and record.reached(self.length))

    @property
    def done_here(self) -> bool:
        """The same of the run's folder."""
        if (self.folder / FAILED).is_file():
            return True
        journal, finished = read_journal(self.folder), (self.folder / FINISHED).is_file()
        if self.row in self.board.together:
            return finished and bool(journal)
        if len(journal) > self.length:  # killed or not, it was on its way to a longer one
            return True
        whole = len(journal) == self.length or bool(journal and journal[-1].get("collapsed"))
        return finished and whole

    @property
    def course(self) -> Course | None:
        """The run by its folder, or by its record if that has more edits; None if there is none.

        Part of a training on all requests at once is no run.
        """
        whole = self.own_length is None or self.done_here
        own = read_course(self.folder, self.seed, self.own_length) if whole else None
        told = filter(None, (own, self.recorded))
        return max(told, key=lambda run: len(run.journal), default=None)

    @property
    def recorded(self) -> Course | None:
        """The run by its row's record."""
        record = record_of(self.board, self.row)
        runs = record.runs if record else []
        asked = self.seed, self.own_length
        return next((run for run in runs if (run.seed, run.length) == asked), None)

    @property
    def own_length(self) -> int | None:
        """The length if every length is a run of its own."""
        return self.length if self.row in self.board.together else None


def runs_of(board: Board, row: str) -> list[Cell]:
    """A row's runs, each once, in the order of seeds and lengths."""
    lengths = board.lengths if row in board.together else board.lengths[:1]
    return [Cell(board, row, seed, length) for seed in board.seeds for length in lengths]


def row_file(board: Board, row: str, name: str) -> Any:
    """A JSON file of a row's folder, such as its tuning; None if it is missing."""
    return read_json(RUNS / board.name / row / name)


def record_of(board: Board, row: str) -> Record | None:
    """A row's record; None if there is none, or if the row has chosen other settings since."""
    found, own = recorded(board.name, row), row_file(board, row, TUNING)
    if found and found.tuning and own and own["choice"] != found.tuning["choice"]:
        return None
    return found


def costs_of(board: Board, row: str) -> tuple[dict[str, float] | None, dict[str, float] | None]:
    """What an edit of a row, and of the board's reference, costs on one machine; None: unknown."""
    own, record = row_file(board, row, COST), record_of(board, row)
    if own is None and record is not None:
        return record.cost, record.reference
    return own, row_file(board, board.reference, COST)


def tuning_of(board: Board, row: str) -> dict[str, Any] | None:
    """A row's trials and choice, by its file or else its record; None before the first one."""
    own, record = row_file(board, row, TUNING), recorded(board.name, row)
    return own or (record.tuning if record else None)


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
