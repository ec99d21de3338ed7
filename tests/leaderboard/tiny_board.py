"""A small board of the tiny model."""

from pathlib import Path

from docs.leaderboard.boards import Board, Cell, Tuning


def board_in(
    place: Path, trials: int = 1, lengths: tuple = (2,), seeds: tuple = (0, 1), batch: int = 1
) -> Board:
    """The board of the model and the requests in a folder."""
    options = (
        f"--config {place / 'tiny.yaml'} --data.path {place / 'requests.json'} "
        f"--data.watch {place / 'watched.json'} --data.tasks null --trainer.accelerator cpu"
    )
    rows = ("ft", "no-edit", "in-context")
    return Board(
        "tiny", "Tiny", options, "ft", "ft", seeds, batch, lengths, Tuning(trials, 2, 0), (), rows
    )


def run_of(place: Path, row: str = "ft", seed: int = 0) -> Cell:
    """A run of two edits."""
    return Cell(board_in(place), row, seed, 2)
