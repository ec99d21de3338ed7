"""What the loggers receive: an edit's figures and texts, a run's pictures and outcome."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.utils.tensorboard.summary import hparams

from lightning_modules.editing.editor import Editor
from lightning_modules.editing.record import place_of

from .charts import LIMIT, layout
from .edit_texts import described, table
from .hyper_parameters import OUTCOME, drawn, hyper_parameters, outcome, unedited
from .summary import numbers

LARGEST = float(np.finfo(np.float32).max)  # in which TensorBoard stores a scalar


def log(trainer: L.Trainer, record: dict[str, Any], step: int) -> None:
    """Sends a record's figures, and its request as text, to every logger."""
    baseline: Any = trainer.lightning_module.baseline
    limit = baseline.get("collapse_limit")
    for logger in trainer.loggers:
        logger.log_metrics(points(record, limit), step=step)
        if "prompt" in record and isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text("request", described(record), step)


def points(record: dict[str, Any], limit: Any = None) -> dict[str, float]:
    """A record's figures by their tags, those that can be drawn.

    A chart has no place for a figure that is not finite. The logarithm of the perplexity has one:
    a collapsed model's is drawn at a ceiling, so that the curve shows the collapse.

    Args:
        record: of an edit, or the baseline.
        limit: perplexity above which the model has collapsed; its logarithm is drawn beside.
    """
    found = {tag(name): value for name, value in numbers(record).items()}
    if "log_perplexity" in record:
        found["health/log_perplexity"] = drawn(record["log_perplexity"])
        if limit is not None:
            found[LIMIT] = math.log(limit)
    return {name: value for name, value in found.items() if abs(value) <= LARGEST}


def lay_out(trainer: L.Trainer, record: dict[str, Any]) -> None:
    """Gives TensorBoard the charts that a run's first record has figures for."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_custom_scalars(layout(points(record)))


def introduce(trainer: L.Trainer, editor: Editor) -> None:
    """Sends what distinguishes a run, with the unedited model's figures in place of its outcome.

    TensorBoard's HPARAMS so has a row of a run that still goes on, or was killed.
    """
    settings = hyper_parameters(trainer, editor)
    for logger in trainer.loggers:
        logger.log_hyperparams(settings)
        if isinstance(logger, TensorBoardLogger):
            columns, row, _ = hparams(settings, dict.fromkeys(OUTCOME, 0.0))
            logger.experiment.file_writer.add_summary(columns)
            logger.experiment.file_writer.add_summary(row)
        if not trainer.global_step:
            logger.log_metrics(unedited(editor.baseline), step=0)
        logger.save()


def conclude(
    trainer: L.Trainer, summary: Mapping[str, Any], edits: Sequence[dict[str, Any]]
) -> None:
    """Sends a run's outcome, and its texts at a glance."""
    for logger in trainer.loggers:
        logger.log_metrics(outcome(summary), step=trainer.global_step)
        if isinstance(logger, TensorBoardLogger):
            *_, success = hparams({}, {})
            logger.experiment.file_writer.add_summary(success)
            logger.experiment.add_text("edits", table(edits), trainer.global_step)


def purge(trainer: L.Trainer, step: int) -> None:
    """Purges what a killed run sent to TensorBoard for this step and later ones."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and step > 1:
            restart = Event(step=step, session_log=SessionLog(status=SessionLog.START))
            logger.experiment.file_writer.add_event(restart)


def show(trainer: L.Trainer, figure: Figure, name: str) -> None:
    """Sends a figure to every logger that takes images, through its own interface."""
    step = trainer.global_step
    for logger in trainer.loggers:
        experiment: Any = getattr(logger, "experiment", None)
        if hasattr(experiment, "add_figure"):  # TensorBoard
            experiment.add_figure(name, figure, step)
        elif hasattr(logger, "log_image"):  # Weights & Biases
            logger.log_image(name, [figure], step=step)
        elif hasattr(experiment, "log_figure") and hasattr(logger, "run_id"):  # MLflow
            experiment.log_figure(logger.run_id, figure, f"{name}.png")
        elif hasattr(experiment, "log_figure"):  # Comet
            experiment.log_figure(name, figure, step=step)


def tag(name: str) -> str:
    """The figure's tag on the dashboard."""
    place = place_of(name)
    return name if name.startswith("tasks/") else f"{place}/{name.removeprefix(f'{place}_')}"
