"""Writes the page, the Markdown table, the CSV, the figures and the records of all boards."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from callbacks.keeping.run_folder import replace_text
from docs.leaderboard.boards import Board
from docs.leaderboard.cells import beside, cost_cells, share, survivor_notes
from docs.leaderboard.figure import figure
from docs.leaderboard.intervals import Mean
from docs.leaderboard.journals import hand_over
from docs.leaderboard.lessons import edits_in_words, lessons
from docs.leaderboard.page import page, section, status
from docs.leaderboard.protocols import PROTOCOLS
from docs.leaderboard.recorded import Record, write_record
from docs.leaderboard.survival import EVENTS
from docs.leaderboard.tables import Line, Results, results_of
from docs.methods import around

FOLDER = Path(__file__).parent
MARKDOWN = FOLDER.with_suffix(".md")
BEGIN, END = "<!-- tables: make leaderboard -->", "<!-- end of the tables -->"
INTRO = """<p>Every figure is made from runs by <code>make leaderboard</code>. Below each
mean stands its 95&nbsp;% bootstrap interval over requests; green and red differ from the row that
scores are compared with, by a paired bootstrap over the requests of both. A horizon is a
Kaplan-Meier median with its 95&nbsp;% interval, or &ldquo;&gt; N&rdquo; where more than half of the
runs were still alive after N edits. Press a column's head to sort by it.</p>
<p class="small"><a href="leaderboard.csv">CSV</a>. The repository has the same in
<code>docs/leaderboard.md</code>, and <code>docs/leaderboard/SUBMIT.md</code> tells how to bring
your own method.</p>"""
HEADS = (
    *("board", "row", "mark", "measure", "value", "low", "high", "cases"),
    *("difference", "difference_low", "difference_high"),
)


def write(boards: Sequence[Board]) -> None:
    """Makes all files anew from the runs, and records the runs.

    What the files say of boards without runs or records stays, behind the others.
    """
    found = [results_of(board) for board in boards]
    found = [results for results in found if results.survivors]
    for results in found:
        name, reference = results.board.name, results.board.reference
        figure(results.horizons, reference, FOLDER / f"{name}.png")
        hand_over(results.board, FOLDER / "journals" / name)
        for line in results.survivors:
            row = Record(line.tuning, line.cost, line.reference, results.found[line.row])
            write_record(name, line.row, row)
    others = [board for board in boards if board not in {results.board for results in found}]
    parts = [section(results) for results in found]
    kept = published(FOLDER / "index.html", r'^<h2 id="(.+?)">', [b.name for b in others])
    replace_text(FOLDER / "index.html", page([*parts, *kept], INTRO))
    lines = published(FOLDER / "leaderboard.csv", r"^(.+?),", [b.name for b in others])
    replace_text(FOLDER / "leaderboard.csv", csv_of(found) + "".join(f"{s}\n" for s in lines))
    before, behind = around(MARKDOWN, BEGIN, END)
    tables = published(MARKDOWN, r"^## (.+)$", [b.title for b in others])
    text = "\n\n".join([*map(markdown, found), *tables])
    replace_text(MARKDOWN, f"{before}\n\n{text}\n\n{behind}")


def published(file: Path, head: str, names: Sequence[str]) -> list[str]:
    """The parts of a file that are about some boards.

    Args:
        file: may be missing.
        head: pattern of a part's first line, whose group is what the part is about.
        names: of the boards.
    """
    text = file.read_text("utf-8") if file.is_file() else ""
    ends = r"^<h2>|^<!-- "  # what stands behind the boards
    starts = [*re.finditer(f"{head}|{ends}", text, re.M), None]
    parts = [
        (one[1], text[one.start() : other.start() if other else len(text)].rstrip("\n"))
        for one, other in pairwise(starts)
        if one
    ]
    return [part for name, part in parts if name in names]


def markdown(results: Results) -> str:
    """A board for the repository's readers."""
    board = results.board
    learnt = [f"- {text}" for text in lessons(results)]
    parts = [f"## {board.title}", status(results)]
    parts += ["### What we learnt", "\n".join(learnt)] if learnt else []
    parts += ["### Collapse horizon and cost", horizons_table(results)]
    parts += [f"![Kaplan-Meier curves of {board.title}](leaderboard/{board.name}.png)"]
    for mark, lines in results.marks.items():
        parts += [f"### After {edits_in_words(results, mark)}", mark_table(lines)]
    return "\n\n".join(parts)


def horizons_table(results: Results) -> str:
    """Horizons and costs in Markdown."""
    heads = ["row", "runs", "perplexity", "tasks - 1 %", "tasks - 10 %", "log-rank p"]
    heads += ["CPU time", "memory", "operations", "kept", "notes"]
    rows = []
    for line in results.survivors:
        medians = [str(line.medians[event]) if event in line.medians else "" for event in EVENTS]
        pvalue = "" if line.pvalue is None else f"{line.pvalue:.2g}"
        ratios = [f"{text} ({small})" if small else text for text, _, small in cost_cells(line)]
        rows.append([line.row, str(line.runs), *medians, pvalue, *ratios, survivor_notes(line)])
    return _table(heads, rows)


def mark_table(lines: Sequence[Line]) -> str:
    """A mark's protocols in Markdown, in per cent; ``≠`` marks what differs from the reference."""
    known = [p for p in PROTOCOLS if any(p.name in line.means for line in lines)]
    heads = ["row", "runs", *(p.head for p in known), "perplexity", "tasks"]
    rows = [
        [
            line.row,
            "{} of {}".format(*line.runs),
            *(_score(line, p.name) for p in known),
            "" if line.perplexity is None else f"{line.perplexity:.4g}",
            "" if line.tasks is None else share(line.tasks),
        ]
        for line in lines
    ]
    return _table(heads, rows)


def _score(line: Line, name: str) -> str:
    if name not in line.means:
        return ""
    sign = " ≠" if name in line.differences and line.differences[name].certain else ""
    return f"{share(line.means[name].value)}{sign} ({beside(line.means[name])})"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def csv_of(found: Sequence[Results]) -> str:
    """A line per board, row, mark and measure."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(HEADS)
    for results in found:
        writer.writerows(_horizon_lines(results))
        writer.writerows(_mark_lines(results))
    return file.getvalue()


def _horizon_lines(results: Results) -> Iterator[list[object]]:
    for line in results.survivors:
        for event, median in line.medians.items():
            about = [results.board.name, line.row, "", f"horizon_{event}"]
            yield [*about, median.edits, median.low, median.high, line.runs, "", "", ""]
        for name, value in (line.cost or {}).items():
            yield [results.board.name, line.row, "", f"cost_{name}", value, *[""] * 6]


def _mark_lines(results: Results) -> Iterator[list[object]]:
    for mark, lines in results.marks.items():
        for line in lines:
            about = [results.board.name, line.row, mark]
            for name, mean in line.means.items():
                yield [*about, name, *_figures(mean), *_difference(line.differences.get(name))]
            for name, value in (("perplexity", line.perplexity), ("tasks", line.tasks)):
                if value is not None:
                    yield [*about, name, f"{value:.6g}", *[""] * 6]


def _figures(mean: Mean) -> list[object]:
    return [f"{mean.value:.4f}", f"{mean.low:.4f}", f"{mean.high:.4f}", mean.cases]


def _difference(mean: Mean | None) -> list[str]:
    return ["", "", ""] if mean is None else [f"{v:.4f}" for v in (mean.value, mean.low, mean.high)]
