"""Table and figure of docs/methods.md: python -m docs.methods (make methods)."""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from command_line.mistakes import in_a_sentence
from docs.courses import KINDS, MARKS, Job, marks, run
from docs.tables import SCORES

METHODS = (  # configs, in the order of the table
    "ft", "locft-bf", "mend", "ultra_edit", "rome", "c_rome", "p_rome", "emmet",
    "sink_free", "memit", "memit-seq", "memit-rect", "memit-prune", "memit-sphere",
    "alpha_edit", "encore", "nas", "rls_edit",
)  # fmt: skip
MARKS_OF = dict(
    zip(
        KINDS,
        (
            {"marker": "o", "color": "#1b4965", "markersize": 6},
            {"marker": "^", "color": "#e07a1f", "markersize": 6, "fillstyle": "none"},
        ),
        strict=True,
    )
)
BEGIN, END = "<!-- table: make methods -->", "<!-- end of the table -->"


def table(runs: Sequence[dict[str, Any]], edits: int) -> str:
    """The table in Markdown."""
    heads = ["config", "requests", *(f"after {mark}" for mark in marks(edits)), "collapse"]
    lines = [heads, ["---"] * len(heads)]
    for row in sorted(runs, key=place):
        failed = f" ({row['failed']} failed)" if row["failed"] else ""
        cells = [cell(row, mark) for mark in marks(edits)]
        collapse = f"{row['collapsed'] or '-'}{failed}"
        lines.append([row["method"], row["kind"], *cells, collapse])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def place(row: dict[str, Any]) -> tuple[int, int]:
    """By kind of requests, then in the list's order."""
    return KINDS.index(row["kind"]), METHODS.index(row["method"])


def cell(row: dict[str, Any], mark: int) -> str:
    """Retention and perplexity after a number of edits, or after all if there are fewer."""
    number = min(mark, row["available"])
    scores = dict(map(tuple, row["retained"])).get(number)
    if scores is None:
        return "-"
    percent = " / ".join(f"{100 * scores[name]:.0f}" for name in SCORES)
    fewer = f" (after {number})" if number < mark else ""
    return f"{percent}, {dict(map(tuple, row['curve']))[number]:.4g}{fewer}"


def figure(runs: Sequence[dict[str, Any]], file: Path) -> None:
    """Who survives and who remembers: a line per method, a mark per kind of requests.

    Methods come in the order of what both kinds leave: surviving ones first, then by efficacy.
    """
    names = sorted({row["method"] for row in runs}, key=partial(_worth, runs), reverse=True)
    picture = Figure(figsize=(9.5, 1.6 + 0.29 * len(names)), layout="constrained")
    panels = picture.subplots(1, 3, sharey=True)
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.tick_params(axis="y", length=0)
    for row in runs:
        _dots(panels, row, names.index(row["method"]))
    survives, healthy, remembers = panels
    ticks = marks(max(row["edits"] for row in runs))
    survives.set(title="who survives", xlabel=f"edits until the collapse\n({ticks[-1]}: none)")
    survives.set_xscale("log")
    survives.set_xlim(0.8, 1.5 * ticks[-1])
    survives.set_xticks(ticks, list(map(str, ticks)))
    survives.xaxis.set_minor_locator(NullLocator())
    healthy.set(title="how well", xlabel="perplexity after the last edit", xscale="log")
    healthy.set_xlim(0.8 * runs[0]["curve"][0][1], 1.5 * runs[0]["limit"])
    healthy.xaxis.set_major_formatter("{x:g}")
    healthy.xaxis.set_minor_locator(NullLocator())
    healthy.set_xticks([200, 500, 1000])
    healthy.axvline(runs[0]["curve"][0][1], color="#8d99ae", linestyle=":", label="unedited")
    healthy.axvline(runs[0]["limit"], color="#c1121f", linestyle="--", label="collapse")
    remembers.set(title="who remembers", xlim=(-4, 104))
    remembers.set_xlabel("efficacy of all edits so far, %\n(faint: before the collapse)")
    survives.set_yticks(range(len(names)), names)
    survives.set_ylim(len(names) - 0.4, -0.6)
    handles = [Line2D([], [], linestyle="", label=kind, **MARKS_OF[kind]) for kind in KINDS]
    collapsed = Line2D([], [], linestyle="", marker="x", color="#c1121f", label="collapsed")
    handles += [collapsed, *healthy.get_legend_handles_labels()[0]]
    picture.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
    picture.savefig(file, dpi=120)


def _worth(runs: Sequence[dict[str, Any]], method: str) -> tuple[float, float]:
    """Survived runs, and efficacy at their ends; of one that collapsed nothing is left."""
    ends = [_end(row) for row in runs if row["method"] == method and not row["collapsed"]]
    return len(ends), sum(efficacy for _, efficacy in ends)


def _end(row: dict[str, Any]) -> tuple[int, float]:
    """The last mark at which edits were judged, and their efficacy in per cent."""
    edits, scores = row["retained"][-1] if row["retained"] else (0, {"efficacy": math.nan})
    return edits, 100 * scores["efficacy"]


def _dots(panels: Sequence[Axes], row: dict[str, Any], line: int) -> None:
    """A run's three marks; a collapse is a cross, what was judged before it is faint."""
    collapsed, (last, efficacy) = row["collapsed"], _end(row)
    look = MARKS_OF[row["kind"]]
    height = line + 0.18 * (2 * KINDS.index(row["kind"]) - 1)
    cross = {"marker": "x", "color": "#c1121f", "markersize": 6}
    survived = collapsed or row["edits"]
    panels[0].plot([0.8, survived], [height] * 2, color=look["color"], linewidth=0.8, alpha=0.5)
    panels[0].plot(survived, height, **(cross if collapsed else look))
    perplexity = min(row["curve"][-1][1], 1.35 * row["limit"])
    panels[1].plot(perplexity, height, **(cross if collapsed else look))
    panels[2].plot(efficacy, height, **look, alpha=0.35 if collapsed else 1)
    if last and last < row["edits"]:
        side = -1 if efficacy > 50 else 1
        beside = {"xytext": (7 * side, 0), "textcoords": "offset points", "va": "center"}
        ends = {1: "left", -1: "right"}
        panels[2].annotate(
            f"of {last}", (efficacy, height), **beside, ha=ends[side], fontsize="x-small"
        )


def work(jobs: Sequence[Job], processes: int) -> Iterator[dict[str, Any]]:
    """The jobs' rows as they come; in processes of one thread each."""
    if processes == 1:
        yield from map(run, jobs)
        return
    one: Callable[[int], None] = torch.set_num_threads
    with ProcessPoolExecutor(processes, get_context("spawn"), one, (1,)) as pool:
        futures = [pool.submit(run, job) for job in jobs]
        try:
            yield from (future.result() for future in as_completed(futures))
        finally:
            pool.shutdown(cancel_futures=True)


def around(page: Path, first: str = BEGIN, last: str = END) -> tuple[str, str]:
    """What stands before and behind the table, which lies between two marks.

    Raises:
        ValueError: if the page does not mark the table's place.
    """
    before, begin, rest = page.read_text("utf-8").partition(first)
    _, end, behind = rest.partition(last)
    if not end:
        raise ValueError(f"{page} has no place for the table; write {first} and {last} into it")
    return before + begin, end + behind


def main(args: Sequence[str] | None = None) -> None:
    """Runs the methods asked for; rows that the page has of others, made alike, stay.

    Raises:
        ValueError: if a method is not in the list, a number is not positive, or the page does not
            mark the table's place.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", default=",".join(METHODS), help="configs, by commas")
    parser.add_argument("--edits", type=int, default=MARKS[-1], help="of each run, at most")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="at a time")
    parser.add_argument("--page", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args(args)
    asked = options.methods.split(",")
    unknown = sorted(set(asked) - set(METHODS))
    if unknown:
        raise ValueError(f"methods {unknown} are not in the table; choose from {METHODS}")
    if min(options.edits, options.processes) <= 0:
        raise ValueError(
            f"edits and processes must be positive, got {options.edits} and {options.processes}"
        )
    before, behind = around(options.page)
    file = options.page.with_suffix(".json")
    rows = json.loads(file.read_text("utf-8")) if file.exists() else []
    rows = [row for row in rows if row["edits"] == options.edits and row["method"] in METHODS]
    jobs = [Job(method, kind, options.edits) for method in asked for kind in KINDS]
    for new in work(jobs, options.processes):
        rows = sorted([row for row in rows if place(row) != place(new)] + [new], key=place)
        file.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", "utf-8")
        edits, perplexity = new["curve"][-1]
        sys.stdout.write(f"{new['method']}, {new['kind']}: {edits} edits, {perplexity:.4g}\n")
    options.page.write_text(f"{before}\n{table(rows, options.edits)}\n{behind}", "utf-8")
    figure(rows, options.page.with_suffix(".png"))


if __name__ == "__main__":
    with in_a_sentence():
        main()
