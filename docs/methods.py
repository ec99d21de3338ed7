"""Table and figure of docs/methods.md: python -m docs.methods (make methods)."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from docs.courses import KINDS, MARKS, Job, marks, run
from docs.tables import SCORES

METHODS = (  # configs, in the order of the table
    "ft", "locft-bf", "mend", "ultra_edit", "rome", "c_rome", "p_rome", "emmet",
    "memit", "memit-seq", "memit-rect", "memit-prune", "memit-sphere",
    "alpha_edit", "encore", "nas", "rls_edit",
)  # fmt: skip
BEGIN, END = "<!-- table: make methods -->", "<!-- end of the table -->"


def table(runs: Sequence[dict[str, Any]], edits: int) -> str:
    """The table in Markdown."""
    heads = ["config", "requests", *(f"after {mark}" for mark in marks(edits)), "collapse", "s"]
    lines = [heads, ["---"] * len(heads)]
    for row in sorted(runs, key=place):
        failed = f" ({row['failed']} failed)" if row["failed"] else ""
        cells = [cell(row, mark) for mark in marks(edits)]
        collapse = f"{row['collapsed'] or '-'}{failed}"
        seconds = f"{row['seconds_per_edit']:.2f}"
        lines.append([row["method"], row["kind"], *cells, collapse, seconds])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def place(row: dict[str, Any]) -> tuple[int, int]:
    """By kind of requests, then in the list's order."""
    return KINDS.index(row["kind"]), METHODS.index(row["method"])


def cell(row: dict[str, Any], mark: int) -> str:
    """Retention and perplexity after so many edits, or after all that the requests allow."""
    number = min(mark, row["available"])
    scores = dict(map(tuple, row["retained"])).get(number)
    if scores is None:
        return "-"
    percent = " / ".join(f"{100 * scores[name]:.0f}" for name in SCORES)
    fewer = f" (after {number})" if number < mark else ""
    return f"{percent}, {dict(map(tuple, row['curve']))[number]:.4g}{fewer}"


def figure(runs: Sequence[dict[str, Any]], file: Path) -> None:
    """Perplexity and retained efficacy over edits, one column per kind of requests."""
    picture = Figure(figsize=(11, 7), layout="constrained")
    panels = picture.subplots(2, 2, sharex=True, sharey="row")
    for row in runs:
        number = METHODS.index(row["method"])
        style = {"color": f"C{number % 10}", "linestyle": "-" if number < 10 else "--"}
        above, below = panels[:, KINDS.index(row["kind"])]
        above.plot(*zip(*row["curve"], strict=True), label=row["method"], linewidth=1.2, **style)
        if row["collapsed"]:
            above.plot(row["collapsed"], row["limit"], "x", color=style["color"])
        retained = [(edits, 100 * scores["efficacy"]) for edits, scores in row["retained"]]
        if retained:
            below.plot(*zip(*retained, strict=True), marker=".", linewidth=1.2, **style)
    for panel, kind in zip(panels[0], KINDS, strict=True):
        panel.axhline(runs[0]["limit"], color="#c1121f", linestyle=":", linewidth=0.8)
        panel.set(yscale="log", title=kind)
    start = runs[0]["curve"][0][1]
    panels[0, 0].set(ylabel="perplexity of watched sentences", ylim=(0.8 * start, 10 * start))
    panels[1, 0].set(ylabel="efficacy of all edits so far, %", ylim=(-3, 103))
    ticks = [0, *marks(runs[0]["edits"])]
    for panel in panels.flat:
        panel.set_xscale("symlog", linthresh=1)
        panel.set_xlim(-0.1, 1.2 * ticks[-1])
        panel.set_xticks(ticks, [str(tick) for tick in ticks])
        panel.tick_params(axis="x", which="minor", bottom=False)
        panel.grid(alpha=0.3)
    lines = {
        line.get_label(): line for p in panels[0] for line in p.lines if line.get_label()[0] != "_"
    }
    picture.supxlabel("edit")
    picture.legend(lines.values(), lines.keys(), loc="outside right center", frameon=False)
    picture.savefig(file, dpi=120)


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


def around(page: Path, begin: str = BEGIN, end: str = END) -> tuple[str, str]:
    """What stands before and behind the table, whose marks are kept.

    Raises:
        ValueError: if the page does not mark the table's place.
    """
    before, _, rest = page.read_text("utf-8").partition(begin)
    _, found, behind = rest.partition(end)
    if not found:
        raise ValueError(f"{page} has no place for the table; write {begin} and {end} into it")
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
    main()
