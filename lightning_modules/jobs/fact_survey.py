"""Which facts of the data a model states, and which it would be edited at its first token for."""

from collections.abc import Sequence
from typing import Any

from data_modules.records import EditRequest

from ..editing.watched import WatchedModel
from ..language_model.judging import stated
from ..language_model.tokens import edit_span


class FactSurvey(WatchedModel):
    """Under ``predict``, asks the unedited model for the requests' true answers."""

    def layers_under_edit(self) -> list[int]:
        """Nothing is edited."""
        return [0]

    def predict_step(self, batch: Sequence[EditRequest], batch_idx: int) -> list[dict[str, Any]]:
        """Per request its ``case_id``, and two answers.

        ``stated``: whether every token of the true answer is the model's greedy choice;
        ``first_token``: whether the subject is the first token that the model reads.
        """
        known = stated(self.score, self.tokenizer, batch)
        return [
            {
                "case_id": request.case_id,
                "stated": request in known,
                "first_token": edit_span(self.tokenizer, request).subject == 0,
            }
            for request in batch
        ]
