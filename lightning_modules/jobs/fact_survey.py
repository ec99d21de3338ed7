"""Which facts of the data a model states, and which it would be edited at its first token for."""

import sys
from collections.abc import Sequence
from typing import Any

from data_modules.records import EditRequest

from ..editing.watched import WatchedModel
from ..language_model.judging import stated
from ..language_model.tokens import edit_span


class FactSurvey(WatchedModel):
    """Under ``predict``, asks the unedited model for the requests' true answers.

    Args:
        asked: number of requests to ask for, the first ones; all if null. The others are only
            looked at for their subject's place, which takes no model.

    Raises:
        ValueError: if ``asked`` is negative.
    """

    def __init__(self, asked: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        if asked is not None and asked < 0:
            raise ValueError(f"asked must not be negative, got {asked}")
        self.asked = asked
        self.left = 0

    def on_predict_start(self) -> None:
        """Nothing has been asked."""
        self.left = sys.maxsize if self.asked is None else self.asked

    def layers_under_edit(self) -> list[int]:
        """Nothing is edited."""
        return [0]

    def predict_step(self, batch: Sequence[EditRequest], batch_idx: int) -> list[dict[str, Any]]:
        """Per request its ``case_id``, and two answers.

        ``stated``: whether every token of the true answer is the model's greedy choice;
        ``first_token``: whether the subject is the first token that the model reads.
        """
        known = stated(self.score, self.tokenizer, batch[: self.left])
        self.left = max(0, self.left - len(batch))
        return [
            {
                "case_id": request.case_id,
                "stated": request in known,
                "first_token": edit_span(self.tokenizer, request).subject == 0,
            }
            for request in batch
        ]
