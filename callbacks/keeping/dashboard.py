"""What the loggers receive: an edit's figures, its request, and their tags."""

import math
from typing import Any

import lightning as L
from lightning.pytorch.loggers import CometLogger, MLFlowLogger, TensorBoardLogger
from matplotlib.figure import Figure
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from lightning_modules.editing.record import place_of

from .summary import numbers


def log(trainer: L.Trainer, record: dict[str, Any], step: int) -> None:
    """Sends a record's figures, and its request as text, to every logger."""
    for logger in trainer.loggers:
        logger.log_metrics({tag(k): v for k, v in numbers(record).items()}, step=step)
        if "prompt" in record and isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text("request", describe(record), step)


def purge(trainer: L.Trainer, step: int) -> None:
    """Purges what a killed run sent to TensorBoard for this step and later ones."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and step > 1:
            restart = Event(step=step, session_log=SessionLog(status=SessionLog.START))
            logger.experiment.file_writer.add_event(restart)


def show(trainer: L.Trainer, figure: Figure, name: str) -> None:
    """Sends a figure to every logger that accepts images."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(name, figure, trainer.global_step)
        elif hasattr(logger, "log_image"):  # Weights & Biases
            logger.log_image(name, [figure], step=trainer.global_step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_figure(logger.run_id, figure, f"{name}.png")
        elif isinstance(logger, CometLogger):
            logger.experiment.log_figure(name, figure, step=trainer.global_step)


def tag(name: str) -> str:
    """The figure's tag on the dashboard."""
    place = place_of(name)
    return name if name.startswith("tasks/") else f"{place}/{name.removeprefix(f'{place}_')}"


def describe(record: dict[str, Any]) -> str:
    """An edit as one line of Markdown."""
    outcome = f"{record['status']}; perplexity {record.get('perplexity', math.nan):.4g}"
    return (
        f"**{record['prompt']}** · {record['subject']} · {record['target_true']} → "
        f"**{record['target_new']}** ({outcome})"
    )
