"""MEND: a trained network turns the gradient of an edit into an update (Mitchell et al. 2022)."""

from collections.abc import Iterator, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_modules.records import EditRequest

from ..editing.edited_weights import Update
from ..editing.editor import Editor
from ..editing.hypernetwork import load_hypernetwork
from ..language_model.gradients import gradient_factors
from ..language_model.loading import fingerprint
from ..language_model.tokens import edit_span


class MEND(Editor):
    """Edits by the gradient of the requests' loss, transformed by a trained hypernetwork.

    The gradient of each weight is ``Σ δ uᵀ`` over tokens; the change is ``-rate · Σ δ̃ ũᵀ``. The
    training decides which weights are edited.

    Args:
        hypernetwork: file of the trained hypernetwork; by default the one that
            ``mend-training.yaml`` writes for this model.
    """

    needs_subject = False

    def __init__(self, hypernetwork: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.hypernetwork_path = hypernetwork

    def attach(self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        """Takes the model to edit, and loads its hypernetwork."""
        model = fingerprint(lm, tokenizer)
        self.hypernetwork = load_hypernetwork(self.hypernetwork_path, self.lm_name, model)
        super().attach(lm, tokenizer)

    def edited_weights(self) -> list[str]:
        """The weights that the hypernetwork was trained for."""
        return list(self.hypernetwork.shapes)

    def edit(self, requests: Sequence[EditRequest]) -> Iterator[Update]:
        """One update per weight for all requests together; its rank is the number of tokens."""
        spans = [edit_span(self.tokenizer, request) for request in requests]
        factors = gradient_factors(self.lm, spans, self.edited_weights())
        for name, (left, right) in self.hypernetwork(factors).items():
            yield Update(name, left, right)
