"""Which facts a model states before any edit."""

from collections.abc import Sequence

from data_modules.records import EditRequest

from ..language_model.tokens import target_span
from .watched import WatchedModel


def known(model: WatchedModel, requests: Sequence[EditRequest]) -> set[EditRequest]:
    """Requests whose true answer is the model's greedy choice, token by token."""
    asked = [request for request in requests if request.target_true]
    spans = [target_span(model.tokenizer, r.text, r.target_true) for r in asked]
    scores = model.score(spans)
    right = (scores.greedy == scores.length).tolist()
    return {request for request, knows in zip(asked, right, strict=True) if knows}
