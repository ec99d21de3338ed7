"""Downstream tasks: what else the model can still do, edit by edit."""

import math
from collections.abc import Sequence
from typing import Any

import lightning as L
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_modules.records import TaskItem
from lightning_modules.editing.editor import Editor
from lightning_modules.editing.replicas import Place

from ..keeping.means import mean_scores
from ..keeping.progress import EditBar
from ..keeping.run_folder import folder_of, read_journal
from ..keeping.schedule import restores
from .figures import ALARM, FAINT, INK, SHARP, publish

AT_ONCE = 200  # items between two updates of the progress bar
COLUMNS = 2


class Downstream(L.Callback):
    """Evaluates the tasks of ``data.tasks`` before the first edit and after edits.

    Accuracy of LAMBADA, HellaSwag, PIQA and MMLU, exact match of Natural Questions, exact match
    and F1 of SQuAD 2.0. After edits and under ``validate`` it takes the same items of each task
    every time, under ``test`` all. It always evaluates after the last edit and after one that
    collapses the model, and never after one that a guard undid. Of several such callbacks the last
    one counts, so that a config can replace the default one.

    Args:
        every_n_edits: edits between two evaluations.
        new_tokens: most tokens of a generated answer; 256 in lm-evaluation-harness.

    Raises:
        ValueError: if one of them is not positive.
    """

    def __init__(self, every_n_edits: int = 1, new_tokens: int = 256) -> None:
        if every_n_edits <= 0 or new_tokens <= 0:
            raise ValueError(
                "every_n_edits and new_tokens must be positive, got "
                f"{every_n_edits} and {new_tokens}"
            )
        self.every_n_edits = every_n_edits
        self.new_tokens = new_tokens
        self.chances: dict[str, float] = {}

    def setup(self, trainer: L.Trainer, pl_module: Editor, stage: str) -> None:
        """Moves behind the callbacks that judge or undo an edit; leaves if another one counts."""
        callbacks = trainer.callbacks  # type: ignore[attr-defined] # set by Lightning's connector
        others = [callback for callback in callbacks if callback is not self]  # the list is read
        later = callbacks[callbacks.index(self) + 1 :]
        replaced = any(isinstance(callback, Downstream) for callback in later)
        trainer.callbacks = others if replaced else [*others, self]  # type: ignore[attr-defined]

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Completes the baseline or the edit's record; logs the scores under ``validate``."""
        if not judged(trainer, in_full=False):
            return
        if trainer.sanity_checking:
            pl_module.baseline |= logged(self.evaluate(trainer, pl_module, in_full=False))
        elif trainer.state.fn == "validate":
            scores = self.evaluate(trainer, pl_module, in_full=False)
            pl_module.log_dict(logged(scores), batch_size=1)
        elif self.due(trainer, pl_module):
            self.chances |= chances_of(trainer)
            pl_module.record["tasks"] = self.evaluate(trainer, pl_module, in_full=False)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Logs every task's scores on all its items; all devices hold the same model."""
        if judged(trainer, in_full=True):
            own, pl_module.share = pl_module.share, Place(trainer.global_rank, trainer.world_size)
            scores = self.evaluate(trainer, pl_module, in_full=True)
            pl_module.share = own
            pl_module.log_dict(logged(scores), batch_size=1)

    def on_train_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Draws the scores over edits."""
        edits = [edit for edit in read_journal(folder_of(trainer)) if "tasks" in edit]
        if trainer.is_global_zero and edits:
            chances = self.chances | chances_of(trainer)
            figure = tasks_figure(edits, pl_module.baseline, chances, restores(trainer))
            publish(trainer, figure, "tasks")

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keeps scores of random guessing: a resumed run may lack the tasks of its journal."""
        checkpoint["chances"] = checkpoint.get("chances", {}) | self.chances

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restores them."""
        self.chances = dict(checkpoint.get("chances", {}))

    def due(self, trainer: L.Trainer, editor: Editor) -> bool:
        """Whether to evaluate the tasks after the current edit."""
        record = editor.record
        if "edit" not in record or record.get("status") == "rolled_back":
            return False
        last = trainer.global_step >= trainer.estimated_stepping_batches
        often = record["edit"] % self.every_n_edits == 0
        return often or last or (record.get("collapsed", False) and collapses(trainer))

    def evaluate(self, trainer: L.Trainer, editor: Editor, in_full: bool) -> dict[str, float]:
        """Mean scores of every task on the current model."""
        scores: dict[str, float] = {}
        for name, items in judged(trainer, in_full).items():
            found: list[dict[str, Any]] = []
            for begin in range(0, len(items), AT_ONCE):
                announce(trainer, f"Judging {name} {begin}/{len(items)}")
                found += editor.answer(items[begin : begin + AT_ONCE], self.new_tokens)
            scores |= mean_scores(found)
        announce(trainer, None)
        return scores


def collapses(trainer: L.Trainer) -> bool:
    """Whether the model is collapsed now and was not before the edit."""
    before = any(edit.get("collapsed") for edit in read_journal(folder_of(trainer)))
    return restores(trainer) or not trainer.strategy.broadcast(before)


def judged(trainer: L.Trainer, in_full: bool) -> dict[str, list[TaskItem]]:
    """Items of each task to evaluate; none if the data has no tasks."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined] # set by Lightning's connector
    return data.judged(in_full) if hasattr(data, "judged") else {}


def chances_of(trainer: L.Trainer) -> dict[str, float]:
    """Score of random guessing at each of the run's tasks."""
    return {name: chance(items) for name, items in judged(trainer, in_full=False).items()}


def announce(trainer: L.Trainer, what: str | None) -> None:
    """Shows an activity on the progress bar, if there is one; None clears it."""
    if isinstance(trainer.progress_bar_callback, EditBar):
        trainer.progress_bar_callback.announce(trainer, what)


def logged(scores: dict[str, float]) -> dict[str, float]:
    """Scores under their names on the dashboard."""
    return {f"tasks/{name}": score for name, score in scores.items()}


def chance(items: Sequence[TaskItem]) -> float:
    """Mean score of random guessing among the choices; 0 without choices."""
    guesses = [1 / len(item.choices) if len(item.choices) > 1 else 0.0 for item in items]
    return sum(guesses) / len(guesses)


def tasks_figure(
    edits: Sequence[dict[str, Any]],
    baseline: dict[str, float],
    chances: dict[str, float],
    single: bool = False,
) -> Figure:
    """Each score over the edits, one panel per score.

    Args:
        edits: records of a journal that have tasks.
        baseline: the unedited model's scores, as ``tasks/NAME``.
        chances: each task's score of random guessing, 0 if absent; none if nothing is known.
        single: whether each edit starts from the original model, so that no line joins them.
    """
    names = list(dict.fromkeys(name for edit in edits for name in edit["tasks"]))
    columns = min(COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(
        figsize=(2.2 * columns + 0.6, 1.5 * rows + 1.1), dpi=SHARP, layout="constrained"
    )
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for name, axes in zip(names, panels, strict=False):
        _draw(axes, [edit for edit in edits if name in edit["tasks"]], name, single)
        if f"tasks/{name}" in baseline:
            unedited = baseline[f"tasks/{name}"]
            axes.axhline(unedited, color=FAINT, linestyle=":", label="unedited")
        if chances:
            guess = chances.get(name, 0.0)
            axes.axhline(guess, color=INK, linestyle="--", lw=1, label="random guess")
        axes.set(title=name, ylim=(-0.05, 1.05))
        axes.xaxis.get_major_locator().set_params(nbins=5, integer=True)
        axes.grid(alpha=0.3)
    for number, axes in enumerate(panels[len(names) :], len(names)):
        axes.set_axis_off()
        panels[number - columns].tick_params(labelbottom=True)
    for axes in panels[: len(names)][-columns:]:
        axes.set_xlabel("edit")
    figure.supylabel("accuracy, exact match or F1")
    entries = {str(line.get_label()): line for axes in panels for line in axes.get_lines()}
    figure.legend(
        list(entries.values()), list(entries), loc="outside upper center", ncols=2, frameon=False
    )
    return figure


def _draw(axes: Axes, edits: Sequence[dict[str, Any]], name: str, single: bool) -> None:
    numbers, scores = [edit["edit"] for edit in edits], [edit["tasks"][name] for edit in edits]
    axes.plot(numbers, scores, "." if single else ".-", color=INK, label="after the edit")
    collapsed = [(edit["edit"], edit["tasks"][name]) for edit in edits if edit.get("collapsed")]
    if collapsed:
        x, y = zip(*collapsed, strict=True)
        axes.plot(x, y, "x", color=ALARM, markersize=9, label="collapsed")
