"""What the run folders of a board say: who survived how long, and how every request stands."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from callbacks.keeping.run_folder import read_journal
from callbacks.watching.standing import FILE, read_standing
from data_modules.records import case_of
from docs.leaderboard.boards import FAILED, RUNS, Board, Cell, read_json

Scores = Mapping[int, float]  # of a case


class Protocol(NamedTuple):
    """A column of the page.

    Attributes:
        name: in the CSV.
        head: on the page.
        field: of the journal or of ``standing.jsonl``.
        at_edit: whether it is measured just after each edit, rather than on all edits so far.
        meaning: a sentence.
    """

    name: str
    head: str
    field: str
    at_edit: bool
    meaning: str


PROTOCOLS = (
    Protocol("at_edit", "at the edit", "efficacy", True,
             "P(new) > P(true), teacher-forced, just after the edit."),
    Protocol("retained", "retained", "efficacy", False,
             "The same of all edits so far, on the model as it is at the mark."),
    Protocol("exact", "exact", "efficacy_exact_match", False,
             "Every token of the new answer is the greedy one, teacher-forced."),
    Protocol("generation", "question", "efficacy_generation", False,
             "Free text after the prompt alone begins with the new answer (WILD's question)."),
    Protocol("instruction", "instruction", "efficacy_generation_instruction", False,
             "The same behind WILD's instruction."),
    Protocol("chat", "chat", "efficacy_generation_chat", False,
             "The same in the model's chat template."),
    Protocol("paraphrase", "paraphrase", "paraphrase", False,
             "P(new) > P(true) after other wordings."),
    Protocol("neighborhood", "neighbors", "neighborhood", False,
             "P(true) > P(new) after prompts about other subjects."),
    Protocol("agreement", "neighbors as before", "neighborhood_agreement", False,
             "Greedy tokens after these prompts that are the unedited model's."),
    Protocol("negation", "negation", "negation", False,
             "After the denied fact (X is not ...) the model prefers the true answer to the new."),
    Protocol("reversal", "reversal", "reversal", False,
             "The new answer calls up the subject rather than one with another answer."),
    Protocol("one_hop", "one hop", "one_hop", False,
             "A fact about the new answer, asked by way of the subject, beats the old one."),
)  # fmt: skip


class Course(NamedTuple):
    """A run as its folder tells it.

    Attributes:
        seed: of order and sample.
        length: asked for, of a row that trains on all requests at once; else None.
        journal: a record per edit.
        standing: a line per mark and request.
        baseline: the unedited model's scores.
        error: what the method ended in, if it did.
    """

    seed: int
    length: int | None
    journal: list[dict[str, Any]]
    standing: list[dict[str, Any]]
    baseline: dict[str, float]
    error: str | None

    @property
    def collapsed_at(self) -> int | None:
        """The edit at which perplexity exceeded its limit."""
        return next((line["edit"] for line in self.journal if line.get("collapsed")), None)

    def lost_at(self, share: float) -> int | None:
        """The first evaluation at which the mean task score had lost a share of the unedited's."""
        before = task_mean({k: v for k, v in self.baseline.items() if k.startswith("tasks/")})
        for line in self.journal:
            if line.get("tasks") and task_mean(line["tasks"]) <= (1 - share) * before:
                return line["edit"]
        return None

    def lines_at(self, mark: int) -> list[dict[str, Any]]:
        """Lines of ``standing.jsonl`` after so many edits."""
        if self.length is not None:
            return self.standing if self.length == mark else []
        return [line for line in self.standing if line["after"] == mark]


def task_mean(scores: Mapping[str, float]) -> float:
    """Mean score of the tasks; each counts once, by its first measure."""
    return sum(scores.values()) / len(scores) if scores else 0.0


def courses(board: Board, row: str) -> list[Course]:
    """A row's runs, in the order of seeds and lengths."""
    together = row in board.together
    made = [
        Cell(board, row, seed, length)
        for seed in board.seeds
        for length in (board.lengths if together else board.lengths[:1])
    ]
    return [
        read_course(cell.folder, cell.seed, cell.length if together else None)
        for cell in made
        if cell.folder.is_dir() and (cell.made or (cell.folder / FAILED).is_file())
    ]


def read_course(folder: Path, seed: int, length: int | None) -> Course:
    """A run's folder."""
    summary, failed = read_json(folder / "summary.json"), read_json(folder / FAILED)
    return Course(
        seed=seed,
        length=length,
        journal=read_journal(folder),
        standing=read_standing(folder / FILE),
        baseline=(summary or {}).get("baseline", {}),
        error=failed["error"] if failed else None,
    )


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


def row_file(board: Board, row: str, name: str) -> Any:
    """A JSON file of a row, such as its tuning; None if it is missing."""
    return read_json(RUNS / board.name / row / name)
