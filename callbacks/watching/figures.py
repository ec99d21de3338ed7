"""Figures of a run, in TensorBoard and as PNG files in its folder."""

import math
from typing import Any

import lightning as L
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from data_modules.records import one_word_first
from lightning_modules.editing.editor import Editor

from ..keeping.dashboard import show
from ..keeping.run_folder import folder_of, read_journal
from ..keeping.schedule import restores

CEILING = 1e100  # an infinite perplexity is drawn here, and whatever a logarithmic axis cannot show
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
    """Perplexity after each edit, on a logarithmic axis.

    Args:
        edits: watched records of a journal.
        baseline: figures of the unedited model: ``perplexity``, ``collapse_limit``.
        single: whether each edit starts from the original model, so that no line joins them.
    """
    refused = [edit for edit in edits if edit.get("status") == "rolled_back"]
    edits = [edit for edit in edits if edit not in refused]
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    finite = [min(edit["perplexity"], CEILING) for edit in edits]
    numbers = [edit["edit"] for edit in edits]
    for (style, label), chosen in marks(edits, single).items():
        drawn = [numbers[n] for n in chosen], [finite[n] for n in chosen]
        axes.plot(*drawn, style, color=INK, markersize=4, label=label)
    if "perplexity" in baseline:
        axes.axhline(baseline["perplexity"], color=FAINT, linestyle=":", label="unedited")
    limit = baseline.get("collapse_limit", math.inf)
    if math.isfinite(limit):
        axes.axhline(limit, color=ALARM, linestyle="--", label=f"collapse above {limit:g}")
    collapsed = [n for n, edit in enumerate(edits) if edit.get("collapsed")]
    name = f"collapsed ({len(collapsed)} of {len(edits)})"
    if not single and collapsed:
        name, collapsed = f"first collapse, at edit {numbers[collapsed[0]]}", collapsed[:1]
    drawn = [numbers[n] for n in collapsed], [finite[n] for n in collapsed]
    axes.plot(*drawn, "x", color=ALARM, markersize=9, label=name)
    if refused:
        axes.plot(
            [edit["edit"] for edit in refused],
            [min(edit["perplexity"], CEILING) for edit in refused],
            "o",
            color=FAINT,
            fillstyle="none",
            label=f"taken back ({len(refused)})",
        )
    case = "case, by its place in the data" if single else "edit"
    axes.set(yscale="log", xlabel=case, ylabel="perplexity of watched text")
    axes.grid(alpha=0.3)
    axes.legend(loc="best", frameon=False)
    return figure


def marks(edits: list[dict[str, Any]], single: bool) -> dict[tuple[str, str], list[int]]:
    """Positions of the edits that share a line style and a label."""
    kinds: dict[tuple[str, str], list[int]] = {}
    for place, edit in enumerate(edits):
        if single and one_word_first(str(edit.get("prompt")), str(edit.get("subject"))):
            kind = "^", "after the edit, subject one word that begins the prompt"
        else:
            kind = "." if single else "-", "after the edit"
        kinds.setdefault(kind, []).append(place)
    return kinds


def publish(trainer: L.Trainer, figure: Figure, name: str) -> None:
    """Sends a figure to the loggers and writes it as ``NAME.png`` to the run's folder."""
    file = folder_of(trainer) / f"{name}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
    show(trainer, figure, name)
