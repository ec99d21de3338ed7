"""Figures by layer: effects of restored states, and results of edits."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator
from torch import Tensor

from lightning_modules.functional.causal_trace import ROLES

from ..watching.beyond import end_of, mark_infinite, shown
from ..watching.figures import ALARM, FAINT, INK, SHARP


class Plain(LogFormatter):
    """Writes 0.06, not 6e-02, at the ticks that it labels."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The label of a tick; empty for most of those between powers of ten."""
        return f"{x:g}" if super().__call__(x, pos) else ""


LINES = {"efficacy": "o-", "paraphrase": "s--", "neighborhood": "^:"}


def trace_figure(
    effects: Mapping[str, Tensor], counts: Tensor, layers: Sequence[int], window: int
) -> Figure:
    """Heat maps of average indirect effects, token role by layer, on one scale.

    Args:
        effects: ``(roles, layers)`` each, by kind of state.
        counts: ``(roles,)``, number of facts with the role.
        layers: the traced layers.
        window: layers in which outputs were restored together.
    """
    titles = {
        "hidden": "one hidden state",
        "mlp": f"MLP outputs, {window} layers around",
        "attention": f"attention outputs, {window} layers around",
    }
    top = max(float(np.nanmax(found.numpy())) for found in effects.values())
    figure = Figure(figsize=(5.2, 1 + 2.1 * len(effects)), dpi=SHARP, layout="constrained")
    grid = figure.subplots(len(effects), 1, sharex=True, squeeze=False)[:, 0]
    labels = [f"{role} ({count})" for role, count in zip(ROLES, counts.tolist(), strict=True)]
    step = layers[1] - layers[0] if len(layers) > 1 else 1
    for axes, (kind, found) in zip(grid, effects.items(), strict=True):
        image = axes.imshow(
            found.numpy(),
            cmap="Greys",  # without colours, too, the darkest cells are the largest
            vmin=0,
            vmax=top,
            aspect="auto",
            interpolation="nearest",
            extent=(layers[0] - step / 2, layers[-1] + step / 2, len(ROLES) - 0.5, -0.5),
        )
        axes.set_title(titles[kind], fontsize="medium")
        axes.set_yticks(range(len(ROLES)), labels)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _mark_peak(axes, found.numpy(), layers)
    grid[-1].set_xlabel("layer")
    scale = figure.colorbar(image, ax=list(grid), location="bottom", aspect=40, extend="min")
    scale.set_label("average indirect effect")
    return figure


def _mark_peak(axes: Axes, effects: np.ndarray, layers: Sequence[int]) -> None:
    role, place = divmod(int(np.nanargmax(effects)), effects.shape[1])
    axes.plot(layers[place], role, "o", color="white", markeredgecolor="black", markersize=5)
    name = f"{effects[role, place]:.2f}"
    near_end = layers[place] > (layers[0] + layers[-1]) / 2
    axes.annotate(
        name,
        (layers[place], role),
        xytext=(-7 if near_end else 7, 0),
        textcoords="offset points",
        ha="right" if near_end else "left",
        va="center",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )


def study_figure(rows: Sequence[Mapping[str, Any]], baseline: Mapping[str, float]) -> Figure:
    """Scores, perplexity and denominators of single edits, by edited layer.

    Args:
        rows: by layer, as ``layers.json`` has them.
        baseline: figures of the unedited model.
    """
    figure = Figure(figsize=(4.8, 8.4), dpi=SHARP, layout="constrained")
    upper, middle, lower = figure.subplots(3, 1, sharex=True)
    for name, line in LINES.items():
        _curve(upper, _told(rows, name), line, INK if name == "efficacy" else "black", name)
    upper.set(ylabel="mean over edits", ylim=(-0.03, 1.03))
    mean, worst = _told(rows, "perplexity"), _told(rows, "perplexity_highest")
    end = end_of(value for _, value in [*mean, *worst])
    _curve(middle, mean, "o-", INK, "mean", end)
    _curve(middle, worst, "x:", ALARM, "worst edit", end)
    if "perplexity" in baseline:
        middle.axhline(baseline["perplexity"], color=FAINT, linestyle="--", label="unedited")
    middle.set(ylabel="perplexity of watched text")
    _curve(lower, _told(rows, "denominator"), "o-", INK, "mean")
    _curve(lower, _told(rows, "denominator_lowest"), "x:", ALARM, "lowest")
    lower.set(ylabel="denominator")
    for axes in (middle, lower):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(Plain(minor_thresholds=(2, 0.5)))
    mark_infinite(middle, worst or mean, end, ALARM)
    lower.set(xlabel="edited layer")
    for axes in (upper, middle, lower):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(frameon=False)
    return figure


def _told(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """Layers and their figures, where there are any."""
    told = [(row["layer"], row[name]) for row in rows if name in row]
    return [(layer, value) for layer, value in told if not math.isnan(value)]


def _curve(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    line: str,
    color: str,
    label: str,
    end: float = math.inf,
) -> None:
    if points:
        drawn = [(layer, shown(value, end)) for layer, value in points]
        axes.plot(*zip(*drawn, strict=True), line, color=color, label=label, markersize=4)
