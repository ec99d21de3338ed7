"""Which single edits collapse the model: the hard cases of a sweep, and the worst of its edits."""

import math
from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure

from lightning_modules.editing.editor import Editor

from ..keeping.run_folder import folder_of, read_journal, replace_text, write_cases
from ..keeping.schedule import restores
from ..watching.downstream import chance, judged
from ..watching.figures import FAINT, INK, publish

Edits = Sequence[dict[str, Any]]
COLUMNS = ("case_id", "subject", "prompt", "target_true", "target_new")
FIGURES = ("perplexity", "denominator", "key_cosine")


class HardCases(L.Callback):
    """Writes the requests of a single-edit sweep that collapse the model to ``hard_cases.json``.

    The file holds them in CounterFact's form, the worst first, each with the perplexity it led to,
    including those that a guard undid. ``--data.path`` reads one such file, or those of several
    models.
    The edits of highest perplexity go to ``top.md``, with their mean scores if the run has
    downstream tasks.

    Args:
        top: number of these edits (Butterfly Effect: 30).

    Raises:
        ValueError: if the number is not positive.
    """

    def __init__(self, top: int = 30) -> None:
        if top <= 0:
            raise ValueError(f"top must be positive, got {top}")
        self.top = top

    def on_fit_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Refuses a run whose edits are not single edits of the original model.

        Raises:
            ValueError: if they accumulate, or have several requests each.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined] # set by Lightning's connector
        if not restores(trainer):
            raise ValueError(
                "HardCases identifies the edit that collapses the original model, but here edits "
                "accumulate: add callbacks.watching.restore.RestoreWeights"
            )
        if data.batch_size > 1:
            raise ValueError(
                f"HardCases identifies the request that collapses the model, but {data.batch_size} "
                "are edited at once: set --data.batch_size to 1"
            )
        if any(request.joined for request in data.requests):
            raise ValueError(
                "HardCases identifies the request that collapses the model, but the data hold "
                "lists of rewrites, which are edited at once; give records of one rewrite each"
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Writes from the journal, which has other devices' edits and those before a resume."""
        if not trainer.is_global_zero:
            return
        folder, data = folder_of(trainer), trainer.datamodule  # type: ignore[attr-defined] # as above
        edits = [edit for edit in read_journal(folder) if "perplexity" in edit]
        edits.sort(key=lambda edit: -edit["perplexity"])
        hard = [edit for edit in edits if is_hard(edit)]
        write_cases(
            folder,
            (
                data.requests[edit["edit"] - 1].as_counterfact()
                | {"perplexity": edit["perplexity"]}
                for edit in hard
            ),
        )
        rank_zero_info(f"{len(hard)} of {len(edits)} edits collapse the model: {folder}")
        self.show(trainer, pl_module, edits[: self.top])

    def show(self, trainer: L.Trainer, editor: Editor, worst: Edits) -> None:
        """Writes the table, and the figure if there are tasks, to the folder and the logger."""
        scores = task_scores(worst)
        text = "\n".join([*table(worst), *score_table(scores, editor.baseline)]) + "\n"
        replace_text(folder_of(trainer) / "top.md", text)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("top", text, trainer.global_step)
        if scores:
            items = judged(trainer, in_full=False)
            chances = {name: chance(items[name]) for name in scores if name in items}
            publish(trainer, bars(scores, editor.baseline, chances), "top_tasks")


def is_hard(edit: dict[str, Any]) -> bool:
    """Whether an edit destroyed the model, or was undone because it would."""
    return bool(edit.get("collapsed")) or edit.get("status") == "rolled_back"


def table(worst: Edits) -> list[str]:
    """The edits as lines of Markdown, with the figures that the method has."""
    figures = [name for name in FIGURES if any(name in edit for edit in worst)]
    lines = [row([*COLUMNS, *figures]), row(["---"] * (len(COLUMNS) + len(figures)))]
    for edit in worst:
        numbers = (f"{edit[name]:.4g}" if name in edit else "" for name in figures)
        lines.append(row([*(edit[name] for name in COLUMNS), *numbers]))
    return lines


def task_scores(worst: Edits) -> dict[str, list[float]]:
    """Each task's scores after those of the edits that have some."""
    judged_edits = [edit["tasks"] for edit in worst if "tasks" in edit]
    names = dict.fromkeys(name for tasks in judged_edits for name in tasks)
    return {name: [tasks[name] for tasks in judged_edits if name in tasks] for name in names}


def score_table(scores: dict[str, list[float]], baseline: dict[str, float]) -> list[str]:
    """Mean and standard deviation of each task as lines of Markdown; none without tasks."""
    if not scores:
        return []
    lines = ["", row(["task", "unedited", "mean", "std", "edits"]), row(["---"] * 5)]
    for name, values in scores.items():
        unedited = f"{baseline[key]:.4f}" if (key := f"tasks/{name}") in baseline else ""
        deviation = f"{np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
        lines.append(row([name, unedited, f"{np.mean(values):.4f}", deviation, len(values)]))
    return lines


def row(cells: Sequence[object]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def bars(
    scores: dict[str, list[float]], baseline: dict[str, float], chances: dict[str, float]
) -> Figure:
    """Each task before and after the worst edits; error bars are standard deviations.

    Args:
        scores: of each task after those edits.
        baseline: the unedited model's scores, as ``tasks/NAME``.
        chances: each task's score of random guessing; 0 if absent.
    """
    figure = Figure(figsize=(1.3 * len(scores) + 2.5, 4), layout="constrained")
    axes = figure.subplots()
    places, width = np.arange(len(scores)), 0.36
    unedited = [baseline.get(f"tasks/{name}", math.nan) for name in scores]
    axes.bar(places - width / 2, unedited, width, color=FAINT, label="unedited")
    axes.bar(
        places + width / 2,
        [float(np.mean(values)) for values in scores.values()],
        width,
        yerr=[
            float(np.std(values, ddof=1)) if len(values) > 1 else 0 for values in scores.values()
        ],
        capsize=4,
        color="white",
        edgecolor=INK,
        hatch="///",
        label=f"mean of the {max(map(len, scores.values()))} edits of highest perplexity",
    )
    guesses = [chances.get(name, 0.0) for name in scores]
    axes.hlines(guesses, places - width, places + width, color=INK, ls="--", label="random guess")
    axes.set(xticks=places, ylim=(0, 1), ylabel="accuracy, exact match or F1")
    axes.set_xticklabels(list(scores))
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure
