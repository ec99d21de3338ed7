"""What a board's results teach, as sentences; every one has its interval or its test."""

import math
from collections.abc import Iterator, Mapping, Sequence

from docs.leaderboard.course import Course
from docs.leaderboard.intervals import Mean, paired
from docs.leaderboard.protocols import PROTOCOLS, Protocol
from docs.leaderboard.results import scores_of
from docs.leaderboard.tables import Line, Results, Survivor

BASELINES = ("no-edit", "in-context", "in-context-bm25")
BY_NAME = {protocol.name: protocol for protocol in PROTOCOLS}


def counted(edits: int) -> str:
    """A number of edits."""
    return "one edit" if edits == 1 else f"{edits} edits"


def edits_in_words(results: Results, mark: int) -> str:
    """A number of edits, and of their requests."""
    batch = results.board.batch
    return f"{counted(mark)} of {'one request' if batch == 1 else f'{batch} requests'}"


def lessons(results: Results) -> list[str]:
    """The sentences; those whose rows were not run are left out."""
    told = list(_horizons(results))
    mark = _mark(results)
    if mark is not None:
        told += _best(results, mark, "retained", "the new answers after")
        told += _best(results, mark, "generation", "them in free text after")
        told += _best(results, mark, "paraphrase", "them after other wordings, after")
        told += _denied(results, mark)
        told += _against(results, mark, "in-context", "retained", "The fact in the context")
        told += _against(results, mark, "lora", "retained", "LoRA")
    return told


def _mark(results: Results) -> int | None:
    """The longest mark of those that most runs were to reach; None if no two rows compare."""
    runs = {
        mark: sum(line.runs[1] for line in lines)
        for mark, lines in results.marks.items()
        if len(lines) > 1
    }
    return max(runs, key=lambda mark: (runs[mark], mark), default=None)


def _horizons(results: Results) -> Iterator[str]:
    reference = results.board.reference
    lines = {line.row: line for line in results.survivors if "perplexity" in line.medians}
    if reference not in lines:
        return
    yield _reference(lines[reference])
    own = lines[reference].medians["perplexity"]
    tested = {row: line.pvalue for row, line in lines.items() if line.pvalue is not None}
    later = [
        row
        for row, p in tested.items()
        if p < 0.05 and lines[row].medians["perplexity"].edits > own.edits
    ]
    if later:
        worst = max(tested[row] for row in later)
        yield (
            f"{len(later)} of {len(lines) - 1} other rows survive longer than {reference} "
            f"(log-rank p at most {worst:.2g}, not corrected for their number): {', '.join(later)}."
        )
    dead = sorted(
        (_median(line), row)
        for row, line in lines.items()
        if row != reference and results.horizons[row]["perplexity"].died
    )
    if dead:
        told = ", ".join(f"{row} ({lines[row].medians['perplexity']})" for _, row in dead)
        yield f"Others of which at least one run collapsed, with the median horizon: {told}."


def _reference(line: Survivor) -> str:
    own, limit = line.medians["perplexity"], "the perplexity's limit"
    survives = math.isinf(own.edits)
    if line.runs == 1:
        verb, when = ("stays below", "for") if survives else ("exceeds", "after")
        edits = counted(own.followed if survives else int(own.edits))
        return f"The only run of {line.row} {verb} {limit} {when} {edits}."
    runs = f"of the {line.runs} runs of {line.row} exceed {limit}"
    if survives:
        return f"Fewer than half {runs} within {counted(own.followed)}."
    return f"Half {runs} after {own} edits."


def _median(line: Survivor) -> float:
    return line.medians["perplexity"].edits


def _best(results: Results, mark: int, name: str, what: str) -> Iterator[str]:
    lines = [line for line in _edited(results, mark) if name in line.means and line.runs[0] > 1]
    lines.sort(key=lambda line: line.means[name].value, reverse=True)
    if len(lines) < 2:
        return
    first, second = lines[0], lines[1]
    gap = paired(
        *(_scores(results.found[line.row], mark, BY_NAME[name]) for line in (first, second))
    )
    beside = ""
    if gap is not None:
        how = "more than" if gap.certain else "which is no certain difference to"
        beside = f", {how} {second.row} ({_points(gap)})"
    done = edits_in_words(results, mark)
    yield (
        f"Of the rows all of whose runs survive, {first.row} keeps most of {what} {done}: "
        f"{_percent(first.means[name])}{beside}."
    )


def _edited(results: Results, mark: int) -> list[Line]:
    """Rows that edit and of which every run reached the mark: a survivors' mean flatters others."""
    return [
        line
        for line in results.marks[mark]
        if line.row not in BASELINES and line.runs[0] == line.runs[1]
    ]


def _denied(results: Results, mark: int) -> Iterator[str]:
    lines = {line.row: line for line in results.marks[mark] if "negation" in line.means}
    edited = {line.row: line for line in _edited(results, mark) if line.row in lines}
    keeping = {row: line for row, line in edited.items() if line.means["retained"].value > 0.5}
    if "no-edit" not in lines or not keeping:
        return
    best = max(keeping, key=lambda row: keeping[row].means["negation"].value)
    yield (
        "Of the rows whose runs all survive and retain more than half of the new answers, "
        f"{best} assents least to their denial: it prefers the true answer after "
        f"{_percent(keeping[best].means['negation'])} of the "
        f"denied facts, the unedited model after {_percent(lines['no-edit'].means['negation'])}."
    )


def _against(results: Results, mark: int, row: str, name: str, what: str) -> Iterator[str]:
    lines = {line.row: line for line in results.marks[mark]}
    if row in lines and name in lines[row].differences:
        gap = lines[row].differences[name]
        certain = "" if gap.certain else ", which is no certain difference"
        done = edits_in_words(results, mark)
        reached, begun = lines[row].runs
        where = f" in the {reached} of {begun} runs that survive" if reached < begun else ""
        yield (
            f"{what} ({row}) retains {_percent(lines[row].means[name])} of the new answers after "
            f"{done}{where}, against {results.board.scores_against} {_points(gap)}{certain}."
        )


def _scores(runs: Sequence[Course], mark: int, protocol: Protocol) -> Mapping[int, float]:
    return scores_of([course for course in runs if course.lines_at(mark)], protocol, mark)


def _percent(mean: Mean) -> str:
    return f"{100 * mean.value:.0f} % [{100 * mean.low:.0f}, {100 * mean.high:.0f}]"


def _points(mean: Mean) -> str:
    return f"{100 * mean.value:+.0f} points [{100 * mean.low:+.0f}, {100 * mean.high:+.0f}]"
