"""The picture of the sink atlas: where a model is dangerous to edit, and for which tokens."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..watching.collapse import MULTIPLE
from ..watching.figures import INK, SHARP

LARGE = 1000.0  # times the unedited perplexity: the darkest cell
NORMS = {"hidden": "hidden state", "value": "MLP output", "key": "MLP key"}
MARKERS = {"hidden": "o", "value": "^", "key": "s"}
NAMES = {  # the papers' names of the policies
    "ConsistentROME": "C-ROME",
    "FullyConsistentROME": "prefixed",
    "SinkFreeROME": "sink-free",
    "PromptOnlyROME": "p-ROME",
}


def sink_figure(
    rows: Sequence[Mapping[str, Any]], profile: Sequence[Mapping[str, Any]], baseline: float
) -> Figure:
    """Norms and attention by layer, and the worst perplexity under each policy.

    Args:
        rows: of the atlas, one per edit.
        profile: by layer, norms at each position and the share of attention on position 0.
        baseline: perplexity of the unedited model.
    """
    moments = list(dict.fromkeys(row["second_moment"] for row in rows))
    groups = len({(row["method"], row["first"]) for row in rows})
    heights = [2.6, *[0.4 + 0.3 * groups] * len(moments)]
    figure = Figure(figsize=(5.4, 0.9 + sum(heights)), dpi=SHARP, layout="constrained")
    grid = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    _norms(grid[0], profile)
    for axes, moment in zip(grid[1:], moments, strict=True):
        own = [row for row in rows if row["second_moment"] == moment]
        image = _harms(axes, own, len(profile), baseline)
        axes.set_title(f"worst perplexity after an edit, {moment} moment", fontsize="medium")
    grid[-1].set_xlabel("edited layer")
    grid[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    bar = figure.colorbar(image, ax=list(grid[1:]), extend="max", location="bottom", aspect=40)
    bar.set_label("times the unedited perplexity; x collapsed, hatched: not studied")
    return figure


def _norms(axes: Axes, profile: Sequence[Mapping[str, Any]]) -> None:
    """Norms at position 0 in black, at later ones in grey; the share of attention as bars."""
    layers = range(len(profile))
    for kind, name in NORMS.items():
        for position, color, line in ((0, "black", "-"), (-1, "0.55", "--")):
            label = f"{name}, {'position 0' if position == 0 else 'later'}"
            norms = [layer[kind][position] for layer in profile]
            style: dict[str, Any] = {
                "color": color,
                "markersize": 3,
                "linewidth": 1,
                "label": label,
            }
            axes.plot(layers, norms, line, marker=MARKERS[kind], **style)
    axes.set(yscale="log", ylabel="mean norm")
    axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    if all("attention" in layer for layer in profile):
        share = axes.twinx()
        heights = [layer["attention"] for layer in profile]
        share.bar(layers, heights, color=INK, alpha=0.15, label="attention on position 0")
        share.set(ylim=(0, 1), ylabel="share of attention")
        handles, labels = (
            one + more
            for one, more in zip((handles, labels), share.get_legend_handles_labels(), strict=True)
        )
    axes.figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize="x-small")


def _harms(axes: Axes, rows: Sequence[Mapping[str, Any]], depth: int, baseline: float) -> Any:
    """A cell per policy, kind of subject and layer: the worst edit's perplexity."""
    groups = list(dict.fromkeys((row["first"], row["method"]) for row in rows))
    groups.sort(key=lambda group: not group[0])  # first tokens on top; the policies keep their turn
    worst = np.full((len(groups), depth), np.nan)
    for row in rows:
        place = groups.index((row["first"], row["method"])), row["layer"]
        found = row["perplexity"] / baseline
        found = min(found, LARGE * 10) if math.isfinite(found) else LARGE * 10
        worst[place] = np.nanmax([worst[place], found])
    axes.patch.set(facecolor="white", hatch="////", edgecolor="0.8")
    image = axes.imshow(
        worst,
        cmap="Greys",
        norm=LogNorm(1, LARGE),
        aspect="auto",
        interpolation="nearest",
        extent=(-0.5, depth - 0.5, len(groups) - 0.5, -0.5),
    )
    for line, layer in np.argwhere(worst > MULTIPLE):
        axes.plot(layer, line, "x", color="white" if worst[line, layer] > 30 else "black", ms=4)
    names = [f"{NAMES.get(m, m)}, {'first token' if first else 'other'}" for first, m in groups]
    axes.set_yticks(range(len(groups)), names, fontsize="small")
    return image
