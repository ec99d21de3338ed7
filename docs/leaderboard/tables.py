"""The figures of a board's page, computed once from its runs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from docs.leaderboard.boards import Board, costs_of, tuning_of
from docs.leaderboard.course import Course
from docs.leaderboard.intervals import Mean, mean_of, paired
from docs.leaderboard.protocols import PROTOCOLS
from docs.leaderboard.results import (
    found_in,
    marks_of,
    perplexities_at,
    scores_of,
    tasks_at,
)
from docs.leaderboard.survival import EVENTS, Horizon, Median, difference, horizon, median


class Line(NamedTuple):
    """A row at a mark.

    Attributes:
        row: its name.
        runs: how many reached the mark, of how many.
        means: by protocol.
        differences: to ``scores_against``, over the cases of both, by protocol.
        perplexity: median over runs.
        tasks: mean over runs.
    """

    row: str
    runs: tuple[int, int]
    means: dict[str, Mean]
    differences: dict[str, Mean]
    perplexity: float | None
    tasks: float | None


class Survivor(NamedTuple):
    """A row's horizons, costs and settings.

    Attributes:
        row: its name.
        runs: how many there are.
        medians: by event; none of a row that trains on all requests at once.
        pvalue: log-rank test of the perplexity's horizon against the reference's.
        failed: edits that failed, of how many.
        errors: what runs ended in.
        cost: of an edit, as measured; None if it was not.
        reference: what an edit of the board's reference costs on the same machine.
        tuning: trials and choice; None before the first run.
    """

    row: str
    runs: int
    medians: dict[str, Median]
    pvalue: float | None
    failed: tuple[int, int]
    errors: list[str]
    cost: dict[str, float] | None
    reference: dict[str, float] | None
    tuning: dict[str, Any] | None


class Results(NamedTuple):
    """All that a board's page shows.

    Attributes:
        board: its declaration.
        found: the runs of every row.
        horizons: by row and event.
        survivors: a line per row that has runs.
        marks: a table per number of edits.
        left: rows without a run.
    """

    board: Board
    found: dict[str, list[Course]]
    horizons: dict[str, dict[str, Horizon]]
    survivors: list[Survivor]
    marks: dict[int, list[Line]]
    left: list[str]


def results_of(board: Board) -> Results:
    """What the runs of a board say."""
    found = found_in(board)
    horizons = {row: {e: horizon(runs, e) for e in EVENTS} for row, runs in found.items()}
    rows = [row for row in board.rows if found[row]]
    return Results(
        board,
        found,
        horizons,
        [survivor(board, row, found[row], horizons) for row in rows],
        {mark: lines_at(board, found, mark) for mark in marks_of(found)},
        [row for row in board.rows if not found[row]],
    )


def survivor(
    board: Board,
    row: str,
    runs: Sequence[Course],
    horizons: Mapping[str, Mapping[str, Horizon]],
) -> Survivor:
    """A row's line of the table of horizons."""
    known = {e: h for e, h in horizons[row].items() if h.died or h.alive}
    reference = horizons[board.reference]["perplexity"]
    own = horizons[row]["perplexity"]
    comparable = row != board.reference and bool(known) and bool(reference.died or reference.alive)
    cost, reference_cost = costs_of(board, row)
    statuses = [line["status"] for course in runs for line in course.journal]
    return Survivor(
        row=row,
        runs=len(runs),
        medians={event: median(h) for event, h in known.items()},
        pvalue=difference(own, reference) if comparable else None,
        failed=(statuses.count("failed"), len(statuses)),
        errors=sorted({course.error for course in runs if course.error}),
        cost=cost,
        reference=reference_cost,
        tuning=tuning_of(board, row),
    )


def lines_at(board: Board, found: Mapping[str, Sequence[Course]], mark: int) -> list[Line]:
    """The table of a mark: rows of which a run reached it, or collapsed before it."""
    against = {p.name: scores_of(found[board.scores_against], p, mark) for p in PROTOCOLS}
    lines = []
    for row, runs in found.items():
        asked = [course for course in runs if course.length in (None, mark)]
        begun = [c for c in asked if c.lines_at(mark) or c.collapsed_at or len(c.journal) >= mark]
        if not begun:
            continue
        reached = [c for c in begun if c.lines_at(mark) and c.collapsed_at != mark]
        scores = {p.name: scores_of(reached, p, mark) for p in PROTOCOLS}
        pairs = {name: paired(own, against[name]) for name, own in scores.items()}
        perplexities, tasks = perplexities_at(reached, mark), tasks_at(reached, mark)
        lines.append(
            Line(
                row,
                (len(reached), len(begun)),
                {name: mean for name, own in scores.items() if (mean := mean_of(own))},
                {name: p for name, p in pairs.items() if p and row != board.scores_against},
                float(np.median(perplexities)) if perplexities else None,
                float(np.mean(tasks)) if tasks else None,
            )
        )
    return lines
