"""Scores of tasks against perplexity, with the papers' digitised points."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from ..watching.beyond import end_of, mark_infinite, shown
from ..watching.figures import ALARM, FAINT, INK, SHARP

COLUMNS = 2
TICK = 4  # levels from one tick of the papers' axis to the next
TICKS = {  # perplexity at each; the deck of the papers, page 13
    "GPT-2-XL": (68.39, 247.68, 438.55, 644.51, 844.96, 4320.67),
    "GPT-J": (50.34, 229.5, 444.75, 646.14, 860.99, 4390.19),
    "Llama2-7b": (37.25, 241.96, 445.54, 636.18, 834.88, 5193.73),
}
STEP = 50  # perplexity from level to level after the fifth tick
NAMES = {
    "LAMBADA": "lambada",
    "Hellaswag": "hellaswag",
    "PIQA": "piqa",
    "MMLUsub": "mmlu",
    "NQ": "nq_open",
    "SQuAD2.0": "squad_v2_f1",
}
MARKERS = dict(zip(TICKS, "^sD", strict=True))


class Published(NamedTuple):
    """A score that the papers report for an edited model.

    Attributes:
        model: which language model.
        task: by our name.
        perplexity: of the edited model; interpolated between the papers' ticks.
        score: in [0, 1].
    """

    model: str
    task: str
    perplexity: float
    score: float


def published_scores(path: str) -> list[Published]:
    """Points of a CSV file with a header and the columns model, task, level, score.

    Levels after the last tick are left out: their perplexity is unknown.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line is not of this form, or names an unknown model or task.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"reference {path!r} is not a file; name a CSV file, or omit the option"
        )
    with Path(path).open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))[1:]
    found = [_published(path, number, line) for number, line in enumerate(lines, 2)]
    return [point for point in found if not math.isnan(point.perplexity)]


def _published(path: str, number: int, line: list[str]) -> Published:
    try:
        model, task, level, score = line
        return Published(model, NAMES[task], perplexity_at(model, int(level)), float(score))
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{path}: line {number} must be model, task, level, score with a model of "
            f"{', '.join(TICKS)} and a task of {', '.join(NAMES)}, got {','.join(line)!r}"
        ) from error


def perplexity_at(model: str, level: int) -> float:
    """Perplexity of a level of the papers; NaN if unknown."""
    ticks = TICKS[model]
    last = TICK * (len(ticks) - 1)
    if level < last - TICK:
        return float(np.interp(level / TICK, range(len(ticks)), ticks))
    if level < last:
        return ticks[-2] + STEP * (level - last + TICK)
    return ticks[-1] if level == last else math.nan


def levels_figure(
    points: Sequence[Mapping[str, Any]],
    chances: Mapping[str, float],
    rhos: Mapping[str, float],
    reference: Sequence[Published] = (),
) -> Figure:
    """Score against perplexity, a panel per task.

    Args:
        points: evaluated models, the unedited one first: ``perplexity``, ``tasks``.
        chances: each task's score of random guessing; 0 if absent.
        rhos: Spearman's rho by name, where known.
        reference: the papers' points.
    """
    names = list(dict.fromkeys(name for point in points for name in point["tasks"]))
    columns = min(COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(
        figsize=(2.4 * columns + 0.6, 1.8 * rows + 1.4), dpi=SHARP, layout="constrained"
    )
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    handles: dict[str, Any] = {}
    end = end_of(point["perplexity"] for point in points)
    for name, axes in zip(names, panels, strict=False):
        _draw_published(axes, [point for point in reference if point.task == name])
        _draw(axes, [point for point in points if name in point["tasks"]], name, end)
        axes.axhline(chances.get(name, 0.0), color=INK, linestyle="--", lw=1, label="random guess")
        rho = f", rho = {rhos[name]:.2f}" if name in rhos else ""
        axes.set(title=f"{name}{rho}", xscale="log", ylim=(-0.05, 1.05))
        found = [(p["tasks"][name], p["perplexity"]) for p in points if name in p["tasks"]]
        mark_infinite(axes, found, end, ALARM, along="x")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
        handles |= {label: h for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    for number, axes in enumerate(panels[len(names) :], len(names)):
        axes.set_axis_off()
        panels[number - columns].tick_params(labelbottom=True)
    how = "\n(of the digitised points: interpolated between ticks)" if reference else ""
    figure.supxlabel(f"perplexity of watched text{how}")
    figure.supylabel("accuracy, exact match or F1")
    figure.legend(
        handles.values(), handles, loc="outside upper center", ncols=columns, frameon=False
    )
    return figure


def _draw(axes: Axes, points: Sequence[Mapping[str, Any]], name: str, end: float) -> None:
    """Draws the evaluated models; a perplexity that is not finite is at the axis' end."""
    perplexities = [shown(point["perplexity"], end) for point in points]
    scores = [point["tasks"][name] for point in points]
    axes.plot(
        perplexities[1:],
        scores[1:],
        "o",
        color=INK,
        markersize=5,
        label="edited, first of its level",
    )
    axes.plot(perplexities[:1], scores[:1], "*", color=ALARM, markersize=11, label="unedited")


def _draw_published(axes: Axes, points: Sequence[Published]) -> None:
    for model, marker in MARKERS.items():
        own = [point for point in points if point.model == model]
        if own:
            axes.plot(
                [point.perplexity for point in own],
                [point.score for point in own],
                marker,
                color=FAINT,
                markersize=4,
                fillstyle="none",
                label=f"{model} (digitised)",
            )
