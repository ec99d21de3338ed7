"""Reports a run's settings, and doubts about its requests, before anything is edited."""

from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info

from data_modules.records import EditRequest
from lightning_modules.editing.editor import Editor
from lightning_modules.editing.model_card import model_card
from lightning_modules.language_model.tokens import edit_span


class ModelCard(L.Callback):
    """Under ``validate``, shows for the first request what would be edited, and where.

    Before the first edit it warns of requests whose subject is the first token.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Warns, once a run."""
        doubt = first_token_doubt(pl_module, requests_of(trainer))
        if doubt:
            rank_zero_info(f"Warning: {doubt}")

    def on_validation_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Writes the card to the terminal and to the logger."""
        requests = requests_of(trainer)
        if trainer.state.fn != "validate" or not requests:
            return
        card = model_card(pl_module, requests[0])
        rank_zero_info("\n".join(f"{name:>20}  {value}" for name, value in card.items()))
        if trainer.is_global_zero and isinstance(trainer.logger, TensorBoardLogger):
            table = "\n".join(
                f"|{name}|{value.replace('|', '&#124;')}|" for name, value in card.items()
            )
            trainer.logger.experiment.add_text("model card", f"|what|found|\n|---|---|\n{table}")


def requests_of(trainer: L.Trainer) -> Sequence[EditRequest]:
    """The requests of a run's data; none if it has none."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined] # set by Lightning's connector
    return getattr(data, "requests", None) or ()


def first_token_doubt(editor: Editor, requests: Sequence[EditRequest]) -> str:
    """A sentence about requests that are edited at the first token read; empty if there are none.

    Args:
        editor: with its model.
        requests: to be edited.
    """
    named = [request for request in requests if request.subject] * editor.needs_subject
    spans = ((request, edit_span(editor.tokenizer, editor.as_edited(request))) for request in named)
    first = [request for request, span in spans if span.subject == 0]
    if not first:
        return ""
    return (
        f"{len(first)} of {len(requests)} requests begin with a subject of one token, such as "
        f"{first[0].subject!r} in {first[0].text!r}; edited there, a fact often is not stated, and "
        "ROME destroys the model: put words before the subject"
    )
