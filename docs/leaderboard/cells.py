"""How figures read in the page and in the Markdown table."""

import math

from docs.leaderboard.intervals import Mean
from docs.leaderboard.tables import Survivor

COSTS = {
    "seconds": "CPU s per edit",
    "memory": "peak memory",
    "operations": "operations",
    "kept": "bytes kept",
}
UNITS = {"seconds": "s", "memory": "MB", "operations": "GFLOP", "kept": "kB"}
SCALES = {"seconds": 1.0, "memory": 1e6, "operations": 1e9, "kept": 1e3}


def share(value: float) -> str:
    """A share in per cent."""
    return f"{100 * value:.0f}"


def beside(mean: Mean) -> str:
    """The interval of a mean, in per cent; how many cases if there is none."""
    if math.isnan(mean.low):
        return f"n = {mean.cases}"
    return f"{100 * mean.low:.0f} to {100 * mean.high:.0f}"


def signed(mean: Mean) -> str:
    """A difference of shares with its interval, in points."""
    return f"{100 * mean.value:+.0f} points [{100 * mean.low:+.0f}, {100 * mean.high:+.0f}]"


def plain(value: float, digits: int) -> str:
    """A number in so many digits, or all before the point."""
    return f"{value:,.0f}" if value >= 10**digits else f"{value:.{digits}g}"


def cost_cells(line: Survivor) -> list[tuple[str, float | str, str]]:
    """Text, sorting value and small print of each cost: its ratio to the reference's, itself."""
    cost, reference = line.cost, line.reference
    if cost is None:
        return [("", "", "")] * len(COSTS)
    told: list[tuple[str, float | str, str]] = []
    for name in COSTS:
        figure = f"{plain(cost[name] / SCALES[name], 3)} {UNITS[name]}"
        if reference and reference[name]:
            ratio = cost[name] / reference[name]
            told.append((f"{plain(ratio, 2)} x", ratio, figure))
        else:
            told.append((figure, cost[name], ""))
    return told


def survivor_notes(line: Survivor) -> str:
    """What a reader must know about a row's runs."""
    failed, edits = line.failed
    notes = [f"{failed} of {edits} edits failed"] if failed else []
    if line.tuning and line.tuning["all_failed"]:
        notes.append("no trial converged; its config's own settings")
    if line.tuning and line.tuning["choice"]:
        chosen = (f"{k.rpartition('.')[2]} {v:g}" for k, v in line.tuning["choice"].items())
        notes.append(f"tuned: {', '.join(chosen)}")
    return "; ".join([*notes, *line.errors])
