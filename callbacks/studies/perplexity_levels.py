"""Perplexity against tasks: scores of models of graded perplexity."""

import json
import math
from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from scipy.stats import spearmanr

from lightning_modules.editing.editor import Editor
from lightning_modules.editing.replicas import gathered

from ..keeping.run_folder import folder_of, nullified, write_json
from ..keeping.schedule import restores
from ..watching.downstream import Downstream, chance, judged
from ..watching.figures import publish
from ..watching.perplexity import Perplexity
from .level_figures import levels_figure, published_scores


class PerplexityLevels(Downstream):
    """Evaluates the tasks on one model of each level of perplexity: the first to reach it.

    The levels are the unedited model, every multiple of ``step`` up to ``top``, and ``above`` more,
    each twice the one before; an edited model belongs to the level nearest on a logarithmic axis.
    With a baseline below 75 these are the papers' 23. A level that no edit reaches stays empty.
    ``perplexity_levels.json`` has the evaluated models and Spearman's rho of perplexity and each
    score, ``perplexity_levels.png`` draws them; rho also goes to the summary and, as
    ``spearman/NAME``, to the logger.

    Args:
        step: perplexity from one level to the next.
        top: the last of these levels.
        above: levels beyond it.
        in_full: evaluate all items of each task, not only ``data.tasks.limit`` of them.
        reference: a CSV file with the papers' digitised points, drawn beside these: columns model,
            task, number of the level, score.
        new_tokens: most tokens of a generated answer.

    Raises:
        ValueError: if step is not positive, top is below it, or above is negative.
    """

    def __init__(
        self,
        step: float = 50.0,
        top: float = 1000.0,
        above: int = 3,
        in_full: bool = True,
        reference: str | None = None,
        new_tokens: int = 256,
    ) -> None:
        super().__init__(new_tokens=new_tokens)
        if step <= 0 or top < step or above < 0:
            raise ValueError(
                "step must be positive, top at least step and above not negative, got "
                f"{step:g}, {top:g} and {above}"
            )
        self.step, self.top, self.above = step, top, above
        self.in_full = in_full
        self.reference = reference
        self.points: list[dict[str, Any]] = []

    def setup(self, trainer: L.Trainer, pl_module: Editor, stage: str) -> None:
        """Checks early that there are tasks, and that the reference can be read.

        Raises:
            FileNotFoundError: if there is no such reference.
            ValueError: if the run has no tasks or no perplexity, or the reference is faulty.
        """
        super().setup(trainer, pl_module, stage)
        callbacks = trainer.callbacks  # type: ignore[attr-defined] # set by Lightning's connector
        if stage == "fit" and not any(isinstance(callback, Perplexity) for callback in callbacks):
            raise ValueError(
                "PerplexityLevels needs callbacks.watching.perplexity.Perplexity among the "
                "callbacks"
            )
        if stage == "fit" and not judged(trainer, in_full=True):
            raise ValueError(
                "PerplexityLevels has no tasks to judge; name them by --data.tasks.names"
            )
        if self.reference is not None:
            published_scores(self.reference)

    def on_train_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Cuts the file back to the edit of the checkpoint."""
        self.write(trainer)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Evaluates a model that is the first of its level, and stores its scores."""
        super().on_validation_epoch_end(trainer, pl_module)
        if trainer.state.fn != "fit":
            return
        own = self.point(pl_module, trainer.sanity_checking)
        found = gathered(own) if restores(trainer) and not trainer.sanity_checking else [own]
        new = [point for point in found if point is not None]
        if new:
            self.points = sorted(self.points + new, key=lambda point: point["level"])
            self.write(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Reports and draws the correlation of perplexity and the tasks."""
        super().on_train_end(trainer, pl_module)
        found = correlations(self.points)
        rhos = {name: result["rho"] for name, result in found.items()}
        for logger in trainer.loggers:
            metrics = {f"spearman/{name}": rho for name, rho in rhos.items()}
            logger.log_metrics(metrics, step=trainer.global_step)
        if not trainer.is_global_zero:
            return
        summary = folder_of(trainer) / "summary.json"
        write_json(summary, json.loads(summary.read_text("utf-8")) | {"spearman": found})
        chances = {name: chance(items) for name, items in judged(trainer, self.in_full).items()}
        reference = published_scores(self.reference) if self.reference else []
        figure = levels_figure(self.points, chances, rhos, reference)
        publish(trainer, figure, "perplexity_levels")
        told = ", ".join(f"{name} {rho:.2f}" for name, rho in rhos.items())
        rank_zero_info(
            f"{len(self.points)} models at {len(self.levels(pl_module.baseline))} levels of "
            f"perplexity; Spearman's rho with each score: {told or 'too few models'}"
        )

    def state_dict(self) -> dict[str, Any]:
        """The models evaluated so far."""
        return {"points": list(self.points)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self.points = list(state_dict["points"])

    def due(self, trainer: L.Trainer, editor: Editor) -> bool:
        """Whether the current model is the first of its level, among all devices' models."""
        level = self.reached(editor)
        if not restores(trainer):
            return level is not None
        levels = gathered(level)
        return level is not None and levels.index(level) == trainer.global_rank

    def evaluate(self, trainer: L.Trainer, editor: Editor, in_full: bool) -> dict[str, float]:
        """Mean scores of every task, with ``in_full`` on all its items."""
        return super().evaluate(trainer, editor, in_full or self.in_full)

    def levels(self, baseline: dict[str, float]) -> list[float]:
        """Perplexities of the levels; the first multiple is at least half a step from the model."""
        lowest = baseline["perplexity"]
        first = math.ceil(lowest / self.step + 0.5)
        multiples = [self.step * n for n in range(first, math.floor(self.top / self.step) + 1)]
        beyond = (self.top * 2**n for n in range(1, self.above + 1))
        return [lowest, *multiples, *(level for level in beyond if level > lowest)]

    def reached(self, editor: Editor) -> float | None:
        """The current model's level; None if it is taken, or the edit was undone."""
        record = editor.record
        log = record.get("log_perplexity", math.nan)
        if "edit" not in record or record.get("status") == "rolled_back" or math.isnan(log):
            return None
        level = min(self.levels(editor.baseline), key=lambda level: abs(math.log(level) - log))
        return None if level in {point["level"] for point in self.points} else level

    def point(self, editor: Editor, unedited: bool) -> dict[str, Any] | None:
        """The entry of the current model, if it was evaluated."""
        record: dict[str, Any] = editor.record
        if unedited:
            tasks = {
                name.removeprefix("tasks/"): score
                for name, score in editor.baseline.items()
                if name.startswith("tasks/")
            }
            record = editor.baseline | {"edit": 0, "tasks": tasks}
        if not record.get("tasks"):
            return None
        level = self.levels(editor.baseline)[0] if unedited else self.reached(editor)
        kept = ("edit", "perplexity", "log_perplexity", "tasks")
        return {"level": level, **{name: record[name] for name in kept}}

    def write(self, trainer: L.Trainer) -> None:
        """Writes the models evaluated so far, and their correlations."""
        if trainer.is_global_zero:
            points = [nullified(point) for point in self.points]
            content = {"models": points, "spearman": correlations(self.points)}
            write_json(folder_of(trainer) / "perplexity_levels.json", content)


def correlations(points: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Spearman's rho of perplexity and each score, its two-sided p value and number of models.

    Scores of fewer than three models, and constant ones, are absent.

    Args:
        points: evaluated models, each with ``log_perplexity`` and ``tasks``.
    """
    found = {}
    for name in dict.fromkeys(name for point in points for name in point["tasks"]):
        pairs = [(p["log_perplexity"], p["tasks"][name]) for p in points if name in p["tasks"]]
        perplexities, scores = zip(*pairs, strict=True)
        if len(pairs) >= 3 and len(set(perplexities)) > 1 and len(set(scores)) > 1:
            result = spearmanr(perplexities, scores)
            rho, p = float(result.statistic), float(result.pvalue)
            found[name] = {"rho": rho, "p": p, "n": len(pairs)}
    return found
