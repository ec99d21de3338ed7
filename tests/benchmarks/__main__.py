"""Measures speed: python -m tests.benchmarks [PART …] writes docs/performance.json and the page.

Parts: value_search, perplexity, sweep, kernels, key_statistics, end_to_end, checkpoints, large
(needs a GPU); all of them by default. Rows of other parts stay in the file.
"""

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from .marks import fill, markdown
from .timing import measured

COMMAND = "make benchmark"
REPORT = Path("docs/performance.json")
PARTS = (
    "value_search",
    "perplexity",
    "sweep",
    "kernels",
    "key_statistics",
    "end_to_end",
    "checkpoints",
    "large",
)


def shown(row: dict) -> str:
    """A row of the table."""
    oracle = f"{row['oracle_seconds']:9.3f} s {row['ratio']:6.1f} x" if "ratio" in row else ""
    return f"{row['name']:58} {row['shape']:40} {row['ours_seconds']:9.3f} s {oracle}"


def measured_table(rows: list[dict]) -> str:
    """The rows of all parts but those of checkpoints, in Markdown."""
    head = ["what", "shape", "ours", "published way", "ratio", "10⁹ operations", "of the peak"]
    return markdown(head, [cells(row) for row in rows if row["part"] != "checkpoints"])


def checkpoint_table(rows: list[dict]) -> str:
    """Bytes and seconds of a checkpoint, in Markdown."""
    lines = [
        [
            row["name"],
            *(f"{row[side] / 1e6:,.3g} MB" for side in ("ours_bytes", "oracle_bytes")),
            *(f"{1000 * row[side]:,.3g} ms" for side in ("ours_seconds", "oracle_seconds")),
        ]
        for row in rows
        if row["part"] == "checkpoints"
    ]
    return markdown(["what", "bytes", "if all were whole", "time", "if all were whole"], lines, 1)


def number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def cells(row: dict) -> list[str]:
    """A row of that table; what was not measured stays empty."""
    seconds = [row[side] for side in ("ours_seconds", "oracle_seconds") if side in row]
    compared = [f"{number(each)} s" for each in seconds] + [f"**{row['ratio']:.3g}**"] * (
        "ratio" in row
    )
    counted = [""] * 2
    if "operations" in row:
        counted = [number(row["operations"] / 1e9), f"{row['of_peak']:.0%}"]
    return [row["name"], row["shape"], *compared, *[""] * (3 - len(compared)), *counted]


def main() -> None:
    """Measures, prints, writes."""
    parts = sys.argv[1:] or PARTS
    kept = json.loads(REPORT.read_text())["rows"] if REPORT.exists() else []
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        for part in parts:
            rows = pool.submit(measured, part).result()
            if rows:
                kept = [row for row in kept if row.get("part") != part] + rows
            for row in rows:
                print(shown(row), flush=True)
            kept.sort(key=lambda row: PARTS.index(row["part"]))
            REPORT.write_text(json.dumps({"rows": kept}, indent=2) + "\n")
            fill("benchmark", COMMAND, measured_table(kept))
            fill("checkpoints", COMMAND, checkpoint_table(kept))
    print(f"written to {REPORT}")


if __name__ == "__main__":
    main()
