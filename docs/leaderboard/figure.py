"""Kaplan-Meier curves of a board: which rows' models survive how many edits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from docs.leaderboard.survival import Horizon, curve

PANELS = {
    "perplexity": "perplexity within its limit",
    "tasks_1": "tasks within 1 %",
    "tasks_10": "tasks within 10 %",
}
COLUMNS = 5
INK, BAND = "#1b4965", "#bee9e8"


def figure(found: Mapping[str, Mapping[str, Horizon]], reference: str, file: Path) -> None:
    """A small panel per row: its curve with the interval, and the reference's as a dashed line.

    Args:
        found: horizons by event, by row.
        reference: the row that the others are compared with.
        file: where to write.
    """
    rows = [row for row, events in found.items() if _known(events["perplexity"])]
    lines = -(-len(rows) // COLUMNS)
    picture = Figure(figsize=(11, 0.9 + 1.7 * lines), layout="constrained")
    panels = picture.subplots(lines, COLUMNS, sharex=True, sharey=True, squeeze=False).flatten()
    longest = max(max(h.died + h.alive) for r in rows for h in [found[r]["perplexity"]])
    for row, axes in zip(rows, panels, strict=False):
        if reference in rows and row != reference:
            _steps(
                axes,
                found[reference]["perplexity"],
                color="#8d99ae",
                linestyle="--",
                label=reference,
            )
        _band(axes, found[row]["perplexity"])
        _steps(axes, found[row]["perplexity"], color=INK, label=PANELS["perplexity"], linewidth=3)
        if _known(found[row]["tasks_10"]):
            _steps(axes, found[row]["tasks_10"], color="#e07a1f", label=PANELS["tasks_10"])
        axes.set(title=row, ylim=(-0.03, 1.06), xlim=(0, 1.04 * longest))
        axes.title.set_fontsize("small")
        axes.tick_params(labelsize="small")
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
        axes.grid(alpha=0.3)
    for axes in panels[len(rows) :]:
        axes.set_axis_off()
    for axes in panels[: len(rows)][-COLUMNS:]:  # nothing stands below
        axes.tick_params(labelbottom=True)
    picture.supxlabel("edits", fontsize="small")
    picture.supylabel("share of runs", fontsize="small")
    told = {str(line.get_label()): line for axes in panels for line in axes.get_lines()}
    told = {name: line for name, line in told.items() if not name.startswith("_")}
    picture.legend(
        list(told.values()), list(told), loc="outside upper center", ncols=3, frameon=False
    )
    picture.savefig(file, dpi=120)


def _known(found: Horizon) -> bool:
    return bool(found.died or found.alive)


def _steps(axes: Axes, found: Horizon, **look: Any) -> None:
    told, end = curve(found), max(found.died + found.alive)
    edits, alive = [0, *told.edits, end], [1.0, *told.alive, told.alive[-1]]
    axes.step(edits, alive, where="post", **look)
    lost = sorted(found.alive)
    heights = [alive[max(n for n, at in enumerate(edits[:-1]) if at <= edit)] for edit in lost]
    axes.plot(lost, heights, "|", color=look["color"], markersize=7)  # ended alive


def _band(axes: Axes, found: Horizon) -> None:
    told, end = curve(found), max(found.died + found.alive)
    if found.died:
        low, high = [*told.low, told.low[-1]], [*told.high, told.high[-1]]
        axes.fill_between([*told.edits, end], low, high, step="post", color=BAND, alpha=0.6)
