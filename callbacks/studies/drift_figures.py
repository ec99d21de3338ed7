"""Heat maps of a weight's change, and its singular values over edits."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..watching.figures import ALARM, FAINT, INK, SHARP

ROWS, COLUMNS = 192, 384  # of a heat map; larger weights are pooled
NOTHING = 1e-6  # of the largest singular value: smaller ones are rounding errors


class Panel(NamedTuple):
    """One heat map.

    Attributes:
        caption: describes the edit.
        weight: its label.
        cells: ``(rows, columns)``, by :func:`pooled`.
        shape: of the weight, ``(out, in)``.
    """

    caption: str
    weight: str
    cells: Tensor
    shape: tuple[int, ...]


def pooled(change: Tensor) -> Tensor:
    """The largest ``|Δ|`` in each cell of a coarse grid, ``(rows, columns)``.

    Args:
        change: ``(out, in)``.
    """
    out, width = change.shape
    size = (min(out, ROWS), min(width, COLUMNS))
    return F.adaptive_max_pool2d(change.abs()[None].float(), size)[0].cpu()


def heat_maps(panels: Sequence[Panel], columns: int, ceiling: float | None) -> Figure:
    """Panels side by side, on one scale: a row per edit, a column per weight.

    Args:
        panels: row by row; the panels of a single weight are side by side.
        columns: number of weights.
        ceiling: upper end of the scale; None takes that of the most changed panel.
    """
    across = len(panels) if columns == 1 else columns
    down = len(panels) // across
    largest = max(float(panel.cells.max()) for panel in panels)
    top = ceiling or max(float(panel.cells.quantile(0.99)) for panel in panels) or 1.0
    figure = Figure(
        figsize=(max(5.0, 4.2 * across), 0.6 + 2.8 * down), dpi=SHARP, layout="constrained"
    )
    grid = figure.subplots(down, across, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=True):
        out, width = panel.shape
        image = axes.imshow(
            panel.cells.numpy(),
            cmap="Greys",
            vmin=0,
            vmax=top,
            aspect="auto",
            interpolation="nearest",
            extent=(0, width, out, 0),
        )
        axes.set_title(f"{panel.caption}\nlayer {panel.weight.replace('_', ', ', 1)}", fontsize=9)
        axes.set(xlabel="inner neuron (input)", ylabel="hidden dimension (output)")
    figure.colorbar(
        image,
        ax=grid,
        label="|W' - W| of an entry, largest per cell",
        extend="max" if largest > top else "neither",
    )
    return figure


def spectra(edits: Sequence[dict[str, Any]], labels: Sequence[str], single: bool) -> Figure:
    """Singular values of the change and the largest of the weight, over edits, by weight.

    Args:
        edits: of a journal; those without these figures are left out.
        labels: of the weights.
        single: whether each edit starts from the original model, so that no line joins them.
    """
    figure = Figure(figsize=(4.8, 0.8 + 2.4 * len(labels)), dpi=SHARP, layout="constrained")
    panels = figure.subplots(len(labels), 1, squeeze=False, sharex=True, sharey=True).flat
    handles: dict[str, Any] = {}
    for axes, label in zip(panels, labels, strict=True):
        suffix = f"_{label}" if len(labels) > 1 else ""
        _spectrum(axes, [e for e in edits if f"drift_spectrum{suffix}" in e], suffix, single)
        axes.set_title(f"layer {label.replace('_', ', ', 1)}", fontsize=9)
        axes.set(yscale="log", ylabel="singular value")
        axes.grid(alpha=0.3)
        handles |= {label: h for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    axes.set_xlabel("edit")
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=2, frameon=False)
    return figure


def _spectrum(axes: Axes, edits: Sequence[dict[str, Any]], suffix: str, single: bool) -> None:
    numbers = [edit["edit"] for edit in edits]
    values = np.array([edit[f"drift_spectrum{suffix}"] for edit in edits])
    values[values <= NOTHING * values[:, :1]] = math.nan
    line = "." if single else "-"
    for place, column in enumerate(values.T):
        if np.isfinite(column).any():
            label = {0: "W' - W, largest", 1: "W' - W, next ones"}.get(place)
            axes.plot(numbers, column, line, color=FAINT if place else INK, label=label)
    weight = [edit[f"drift_weight_spectral_norm{suffix}"] for edit in edits]
    axes.plot(numbers, weight, "+" if single else "--", color="black", label="W', largest")
    collapsed = [n for n, edit in enumerate(edits) if edit.get("collapsed")]
    if collapsed:
        axes.plot(
            [numbers[n] for n in collapsed],
            values[collapsed, 0],
            "x",
            color=ALARM,
            markersize=9,
            label="collapsed",
        )
