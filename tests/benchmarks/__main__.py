"""Measures speed: python -m tests.benchmarks [PART …] writes docs/performance.json.

Parts: value_search, perplexity, sweep, kernels, key_statistics, end_to_end, checkpoints, large
(needs a GPU); all of them by default. Rows of other parts stay in the file.
"""

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from .timing import measured

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
            REPORT.write_text(json.dumps({"rows": kept}, indent=2) + "\n")
    print(f"written to {REPORT}")


if __name__ == "__main__":
    main()
