"""What the runs of a board say: who survived how long, and how every request stands."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_modules.records import case_of
from docs.leaderboard.boards import Board, runs_of
from docs.leaderboard.course import Course, task_mean
from docs.leaderboard.protocols import Protocol

Scores = Mapping[int, float]  # of a case


def courses(board: Board, row: str) -> list[Course]:
    """A row's runs that have edits, in the order of seeds and lengths."""
    return [course for cell in runs_of(board, row) if (course := cell.course)]


def marks_of(found: Mapping[str, Sequence[Course]]) -> list[int]:
    """The marks at which all edits were judged: 1, 10, 100, and the lengths that were reached."""
    marks = defaultdict(int)
    for course in (course for runs in found.values() for course in runs):
        for mark in {course.length or line["after"] for line in course.standing}:
            marks[mark] += course.collapsed_at != mark
    return sorted(mark for mark, runs in marks.items() if runs > 1)


def scores_of(runs: Sequence[Course], protocol: Protocol, mark: int) -> dict[int, float]:
    """Each case's score at a mark, the mean over the runs that edited it and reached the mark."""
    told = defaultdict(list)
    for course in runs:
        lines = course.lines_at(mark)
        for case, line in _at_edit(course, mark) if protocol.at_edit and lines else _cases(lines):
            if line.get(protocol.field) is not None:
                told[case].append(line[protocol.field])
    return {case: sum(scores) / len(scores) for case, scores in told.items()}


def _cases(lines: Sequence[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    for line in lines:
        yield case_of(line["identity"]), line


def _at_edit(course: Course, mark: int) -> Iterator[tuple[int, dict[str, Any]]]:
    for line in course.journal[:mark] if course.length is None else ():
        cases = line["case_id"]
        for case in cases if isinstance(cases, list) else [cases]:  # a batch has its mean scores
            yield case, line


def perplexities_at(runs: Sequence[Course], mark: int) -> list[float]:
    """Perplexity of each run at a mark."""
    return [lines[0]["perplexity"] for course in runs if (lines := course.lines_at(mark))]


def tasks_at(runs: Sequence[Course], mark: int) -> list[float]:
    """Mean task score of each run at a mark."""
    told = []
    for course in runs:
        at = [line for line in course.journal if line["edit"] == mark or course.length == mark]
        scores = [line["tasks"] for line in at if line.get("tasks")]
        told += [task_mean(scores[-1])] if scores and course.lines_at(mark) else []
    return told


def found_in(board: Board) -> dict[str, list[Course]]:
    """The runs of every row of a board."""
    return {row: courses(board, row) for row in board.rows}
