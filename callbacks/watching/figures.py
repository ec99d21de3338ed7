"""Figures of a run, in TensorBoard and as PNG files in its folder."""

import math
from pathlib import Path
from typing import Any

import lightning as L
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from data_modules.records import one_word_first
from lightning_modules.editing.editor import Editor

from ..keeping.dashboard import show
from ..keeping.hyper_parameters import in_words
from ..keeping.run_folder import folder_of, read_journal
from ..keeping.schedule import restores
from .beyond import end_of, mark_infinite, shown

SHARP = 150  # dots per inch
FEW = 40  # edits that are drawn as points too, since a single one makes no line
DECADES = 1000  # the ratio of two perplexities from which an axis has powers of ten only
WIDE = (4.8, 4.0)  # inches; TensorBoard shows it so narrow that a wider one cannot be read
INK, ALARM, FAINT = "#1b4965", "#c1121f", "#8d99ae"


class HealthFigure(L.Callback):
    """Draws perplexity over edits with the collapse marked, when the run ends.

    A sequential run gives a curve with its first collapse, a single-edit sweep one dot per case.
    """

    def on_train_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Reads the journal and draws."""
        watched = [edit for edit in read_journal(folder_of(trainer)) if "perplexity" in edit]
        if not trainer.is_global_zero or not watched:
            return
        figure = health_figure(watched, pl_module.baseline, restores(trainer))
        publish(trainer, figure, "health")


def health_figure(
    edits: list[dict[str, Any]], baseline: dict[str, float], single: bool = False
) -> Figure:
    """Perplexity after each edit, on a logarithmic axis; infinite ones are marked at its end.

    Args:
        edits: watched records of a journal.
        baseline: figures of the unedited model: ``perplexity``, ``collapse_limit``.
        single: whether each edit starts from the original model, so that no line joins them.
    """
    limit = baseline.get("collapse_limit", math.inf)
    lines = [baseline[name] for name in ("perplexity", "collapse_limit") if name in baseline]
    points = [(edit["edit"], edit["perplexity"]) for edit in edits]
    end = end_of([*lines, *(perplexity for _, perplexity in points)])
    refused = [edit for edit in edits if edit.get("status") == "rolled_back"]
    edits = [edit for edit in edits if edit not in refused]
    figure = Figure(figsize=WIDE, dpi=SHARP, layout="constrained")
    axes = figure.subplots()
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    heights = [shown(edit["perplexity"], end) for edit in edits]
    numbers = [edit["edit"] for edit in edits]
    for (style, label), chosen in marks(edits, single).items():
        drawn = [numbers[n] for n in chosen], [heights[n] for n in chosen]
        axes.plot(*drawn, style, color=INK, markersize=4, label=label)
    if "perplexity" in baseline:
        axes.axhline(baseline["perplexity"], color=FAINT, linestyle=":", label="unedited")
    if math.isfinite(limit):
        axes.axhline(limit, color=ALARM, linestyle="--", label=f"collapse above {limit:.4g}")
    collapsed = [n for n, edit in enumerate(edits) if edit.get("collapsed")]
    name = f"collapsed ({len(collapsed)} of {len(edits)})"
    if not single and collapsed:
        name, collapsed = f"first collapse, at edit {numbers[collapsed[0]]}", collapsed[:1]
    drawn = [numbers[n] for n in collapsed], [heights[n] for n in collapsed]
    if collapsed:
        axes.plot(*drawn, "x", color=ALARM, markersize=9, label=name)
    taken_back = [(edit["edit"], shown(edit["perplexity"], end)) for edit in refused]
    if taken_back:
        name = f"taken back ({len(refused)})"
        drawn = [number for number, _ in taken_back], [height for _, height in taken_back]
        axes.plot(*drawn, "o", color=FAINT, fillstyle="none", label=name)
    case = "case, by its place in the data" if single else "edit"
    axes.set(yscale="log", xlabel=case, ylabel="perplexity of watched text")
    mark_infinite(axes, points, end, ALARM)
    few_ticks(axes.yaxis)
    axes.grid(alpha=0.3)
    columns = 1 if len(axes.get_legend_handles_labels()[1]) == 1 else 2
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=columns, frameon=False)
    return figure


def marks(edits: list[dict[str, Any]], single: bool) -> dict[tuple[str, str], list[int]]:
    """Positions of the edits that share a line style and a label."""
    kinds: dict[tuple[str, str], list[int]] = {}
    line = "o-" if len(edits) <= FEW else "-"
    for place, edit in enumerate(edits):
        if single and one_word_first(str(edit.get("prompt")), str(edit.get("subject"))):
            kind = "^", "after it, one-word subject first"
        else:
            kind = "." if single else line, "after the edit"
        kinds.setdefault(kind, []).append(place)
    return kinds


def few_ticks(axis: Axis) -> None:
    """Gives a logarithmic axis few labels: 1, 2 and 5, or some powers of ten if it is long."""
    low, high = axis.get_view_interval()
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())
    if high / low < DECADES:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
    else:
        axis.set_major_locator(LogLocator(numticks=6))


def headline(model: L.LightningModule) -> str:
    """What a picture is of: method, model and layers."""
    known: Any = getattr(model, "card", dict)
    card = known()
    layers = in_words(card.get("layers", []))
    named = [Path(card["lm"]).name] if "lm" in card else []
    where = [f"layer{'s' * (not layers.isdigit())} {layers}"] if layers else []
    return ", ".join([card.get("method", type(model).__name__), *named, *where])


def publish(trainer: L.Trainer, figure: Figure, name: str) -> None:
    """Names method and model on a figure, sends it to the loggers and writes ``NAME.png``."""
    title = headline(trainer.lightning_module)
    if figure.legends:  # a legend of the whole figure stands where its title would
        figure.legends[0].set_title(title)
    else:
        parts = [title, figure.get_suptitle()]
        figure.suptitle("\n".join(part for part in parts if part), fontsize="medium")
    file = folder_of(trainer) / f"{name}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=SHARP)
    show(trainer, figure, name)
