"""Runs the declared leaderboards and writes their page: python -m docs.leaderboard."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from callbacks.keeping.run_folder import Claim, TakenError
from command_line.mistakes import in_a_sentence
from docs.courses import quiet
from docs.leaderboard.boards import RUNS, Board, Cell, cells, read_boards
from docs.leaderboard.clock import Clock, in_words
from docs.leaderboard.costs import measured
from docs.leaderboard.launching import make
from docs.leaderboard.results import courses
from docs.leaderboard.trials import copy_to, options_of
from docs.leaderboard.writing import write

OF_METHODS = (FloatingPointError, torch.linalg.LinAlgError)  # other errors are ours


def run(board: Board, clock: Clock, rows: Sequence[str]) -> None:
    """Runs what is not done yet and fits into the budget, and says how long the rest takes."""
    lacking: set[str] = set()
    for row in set(board.rows).intersection(rows):
        if courses(board, row) and clock.affords(Cell(board, row, board.seeds[0], 0)):
            # more trials may change its choice
            alone(board, row, lacking, partial(options_of, board, row))
    todo = [cell for cell in cells(board) if cell.row in rows and not cell.done]
    for number, cell in enumerate(todo):
        if clock.affords(cell):
            alone(board, cell.row, lacking, partial(attempt, cell, clock, todo[number + 1 :]))
            # ratios are of one machine
            alone(board, board.reference, lacking, partial(measured, board, board.reference))
    left = [cell for cell in todo if not cell.done]
    if left:
        needed = in_words(clock.needed(left))
        sys.stdout.write(
            f"{board.name}: {len(left)} runs are left, about {needed}; the same command continues\n"
        )


def alone(board: Board, row: str, lacking: set[str], work: Callable[[], object]) -> None:
    """Works on a row that no other command is at; leaves it to that command otherwise.

    Tuning, runs and costs of a row are written by one command at a time.

    Args:
        board: of the row.
        row: locked meanwhile.
        lacking: gets the row if its model or statistics must be made by another command.
        work: what to do.
    """
    if row in lacking:
        return
    try:
        claim = Claim(RUNS / board.name / row)
    except TakenError:
        return
    try:
        work()
    except FileNotFoundError as error:
        lacking.add(row)
        sys.stdout.write(f"{board.name} {row} is left out: {error}\n")
    finally:
        claim.release()


def attempt(cell: Cell, clock: Clock, others: Sequence[Cell]) -> None:
    """Makes a run with its row's settings, measures the row's cost unless it is known, and tells.

    Args:
        cell: nothing is done if it collapsed at a shorter length, or another command made it.
        clock: notes what it took.
        others: what is to do after it.
    """
    if cell.done:
        return
    settings, todo_edits = options_of(cell.board, cell.row), cell.todo
    started = time.perf_counter()
    try:
        make(cell, settings, OF_METHODS)
    finally:
        if cell.folder.is_dir():  # an interrupted run has its settings too
            copy_to(cell.folder, cell.board, cell.row)
    clock.add(cell, todo_edits - cell.todo, time.perf_counter() - started)
    measured(cell.board, cell.row)
    tell(cell, clock, others)


def tell(cell: Cell, clock: Clock, todo: Sequence[Cell]) -> None:
    """Says what was run and how long the rest takes."""
    left = [other for other in todo if not other.done]
    needed = in_words(clock.needed(left))
    sys.stdout.write(
        f"{cell.board.name} {cell.name}: {cell.made} edits; {len(left)} runs left, about {needed}\n"
    )
    sys.stdout.flush()


def main(args: Sequence[str] | None = None) -> None:
    """Runs what is declared, then writes the page, the table and the CSV from all runs.

    Runs of other machines count by their records.

    Raises:
        ValueError: if a board or a row is unknown, or the budget is not positive.
    """
    parser = argparse.ArgumentParser(prog="python -m docs.leaderboard", description=__doc__)
    parser.add_argument("--boards", help="of configs/leaderboard, by commas; all if left out")
    parser.add_argument("--rows", help="by commas; all if left out")
    parser.add_argument("--hours", type=float, help="budget: more seeds first, then lengths")
    parser.add_argument("--page-only", action="store_true", help="run nothing")
    options = parser.parse_args(args)
    if options.hours is not None and options.hours <= 0:
        raise ValueError(f"hours must be positive, got {options.hours}")
    boards = read_boards(options.boards)
    rows = options.rows.split(",") if options.rows else [r for b in boards for r in b.rows]
    known = {row for board in boards for row in board.rows}
    if unknown := sorted(set(rows) - known):
        raise ValueError(f"rows {unknown} are not declared; choose from {sorted(known)}")
    quiet()
    clock = Clock(options.hours)
    for board in boards if not options.page_only else ():
        run(board, clock, rows)
    write(read_boards())


if __name__ == "__main__":
    with in_a_sentence():
        main()
