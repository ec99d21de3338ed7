"""Facts that a model states before any edit: some with the subject first, some others."""

from collections.abc import Mapping, Sequence

from data_modules.records import EditRequest

from ..language_model.judging import stated
from ..language_model.tokens import first_token, located_span
from .watched import WatchedModel


def known_of_both_kinds(
    model: WatchedModel, requests: Sequence[EditRequest], wanted: Mapping[bool, int]
) -> dict[EditRequest, bool]:
    """The first known facts of each kind, and whether their subject is the prompt's first token.

    Args:
        model: that must state them.
        requests: to choose from.
        wanted: how many whose subject is the first token (true), and how many others.

    Raises:
        ValueError: if the model states none of a kind.
    """
    facts = stated(model.score, model.tokenizer, requests)
    kinds = {request: begins(model, request) for request in requests if request in facts}
    chosen = {
        request: first
        for first, number in wanted.items()
        for request in [r for r, kind in kinds.items() if kind is first][:number]
    }
    if set(chosen.values()) != set(wanted):
        raise ValueError(
            f"{model.lm_name!r} states {len(facts)} of the {len(requests)} facts, and none of one "
            "kind (subject one token at the beginning, or not); give others by --data.path"
        )
    return chosen


def begins(model: WatchedModel, request: EditRequest) -> bool:
    """Whether the subject's last token is the prompt's first, special tokens aside."""
    subject = located_span(model.tokenizer, request).subject
    return subject == first_token(model.tokenizer, request.text).subject
