"""The page of all boards, from their results: plain HTML, and a little script that sorts."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

from docs.leaderboard.cells import COSTS, beside, cost_cells, share, survivor_notes
from docs.leaderboard.intervals import Mean
from docs.leaderboard.lessons import counted, edits_in_words, lessons
from docs.leaderboard.protocols import PROTOCOLS
from docs.leaderboard.survival import EVENTS
from docs.leaderboard.tables import Line, Results, Survivor

TEMPLATE = Path(__file__).with_name("template.html")
EVENT_HEADS = {
    "perplexity": "edits until perplexity collapses",
    "tasks_1": "until tasks lose 1 %",
    "tasks_10": "until tasks lose 10 %",
}


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: what it says.
        value: what it is sorted by; empty sorts last.
        small: a line below.
        mood: ``up`` or ``down`` if it differs from the reference, ``note`` of a text.
    """

    text: str
    value: str | float = ""
    small: str = ""
    mood: str = ""


def page(sections: Sequence[str], intro: str) -> str:
    """The whole page.

    Args:
        sections: of each board, as HTML.
        intro: what stands before them, as HTML.
    """
    body = [intro, *sections, glossary()]
    return Template(TEMPLATE.read_text("utf-8")).substitute(body="\n".join(body))


def section(results: Results) -> str:
    """A board: what was learnt, horizons and costs, and a table per mark."""
    board = results.board
    parts = [
        f'<h2 id="{escape(board.name)}">{escape(board.title)}</h2>',
        f"<p class=small>{status(results)}</p>",
    ]
    if results.survivors:
        learnt = "".join(f"<li>{escape(text)}</li>" for text in lessons(results))
        parts += [f"<h3>What we learnt</h3><ul>{learnt}</ul>" if learnt else ""]
        parts += ["<h3>Collapse horizon and cost</h3>", survivors_table(results)]
        curves = f"Kaplan-Meier curves of {escape(board.title)}"
        parts += [f'<p><img src="{escape(board.name)}.png" alt="{curves}"></p>']
    for mark, lines in results.marks.items():
        parts += [f"<h3>After {edits_in_words(results, mark)}</h3>", mark_table(lines)]
    return "\n".join(filter(None, parts))


def status(results: Results) -> str:
    """What was run and what was left out, in words."""
    board = results.board
    runs = sum(line.runs for line in results.survivors)
    longest = max(
        (len(c.journal) for r in results.found.values() for c in r if c.length is None), default=0
    )
    trials, edits, _ = board.tuning
    tuned = (
        f"each row chose its settings among {trials} on {edits * board.batch} tuning requests"
        if trials > 1
        else "every row has its config's own settings: no tuning budget was spent"
    )
    fewer = [
        line.row
        for line in results.survivors
        if line.tuning and line.tuning["budget"]["trials"] < trials
    ]
    tuned += f" (so far among fewer: {escape(', '.join(fewer))})" if fewer else ""
    left = f" Not run yet: {escape(', '.join(results.left))}." if results.left else ""
    seeds = sorted({line.runs for line in results.survivors if line.row not in board.together})
    of_row = " to ".join(map(str, sorted({*seeds[:1], *seeds[-1:]})))
    return (
        f"{len(results.survivors)} of {len(board.rows)} rows, {runs} runs, "
        f"up to {counted(longest)}, {of_row} of {len(board.seeds)} seeds per row; "
        f"{tuned}; requests of the held-out part.{left}"
    )


def survivors_table(results: Results) -> str:
    """Horizons by Kaplan-Meier, their log-rank test, and costs as ratios to the reference."""
    reference = results.board.reference
    heads = [
        "row",
        "runs",
        *EVENT_HEADS.values(),
        f"log-rank p against {reference}",
        *COSTS.values(),
        "notes",
    ]
    return table(heads, map(survivor_cells, results.survivors))


def survivor_cells(line: Survivor) -> list[Cell]:
    """A row's cells of the table of horizons."""
    medians = [line.medians.get(event) for event in EVENTS]
    pvalue = Cell("") if line.pvalue is None else Cell(f"{line.pvalue:.2g}", line.pvalue)
    return [
        Cell(line.row, line.row),
        Cell(str(line.runs), line.runs),
        *(Cell("") if m is None else Cell(str(m), min(m.edits, 1e6 + m.followed)) for m in medians),
        pvalue,
        *(Cell(text, value, small) for text, value, small in cost_cells(line)),
        Cell("", small=survivor_notes(line), mood="note"),
    ]


def mark_table(lines: Sequence[Line]) -> str:
    """The protocols at a mark: means, intervals below them, and what differs from the reference."""
    known = [p for p in PROTOCOLS if any(p.name in line.means for line in lines)]
    heads = ["row", "runs that reached it", *(p.head for p in known), "perplexity", "tasks"]
    rows = [
        [
            Cell(line.row, line.row),
            Cell("{} of {}".format(*line.runs), line.runs[0]),
            *(score_cell(line.means.get(p.name), line.differences.get(p.name)) for p in known),
            Cell("")
            if line.perplexity is None
            else Cell(f"{line.perplexity:.4g}", line.perplexity),
            Cell("") if line.tasks is None else Cell(share(line.tasks), line.tasks),
        ]
        for line in lines
    ]
    return table(heads, rows)


def score_cell(mean: Mean | None, difference: Mean | None) -> Cell:
    """A mean with its interval; marked where the paired difference to the reference is certain."""
    if mean is None:
        return Cell("")
    mood = ""
    if difference is not None and difference.certain:
        mood = "up" if difference.value > 0 else "down"
    return Cell(share(mean.value), mean.value, beside(mean), mood)


def table(heads: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """A table whose columns sort when their heads are pressed."""
    head = "".join(f'<th scope="col"><button>{escape(text)}</button></th>' for text in heads)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>\n" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{body}</tbody></table></div>"
    )


def cell(told: Cell) -> str:
    """A cell in HTML."""
    value = "" if isinstance(told.value, float) and math.isnan(told.value) else told.value
    mood = f' class="{told.mood}"' if told.mood else ""
    small = f"<span>{escape(told.small)}</span>" if told.small else ""
    return f'<td{mood} data-value="{escape(str(value))}"><b>{escape(told.text)}</b>{small}</td>'


def glossary() -> str:
    """What the columns mean."""
    told = "".join(f"<dt>{escape(p.head)}</dt><dd>{escape(p.meaning)}</dd>" for p in PROTOCOLS)
    return f"<h2>Columns</h2><dl>{told}</dl>"
