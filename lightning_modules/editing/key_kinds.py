"""The kinds of keys that a request has in the edited layer, for studies of keys."""

from collections.abc import Mapping, Sequence

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_modules.records import EditRequest

from ..language_model.keys import Keyed, first_token_keys
from ..language_model.values import Located
from .contexts import Contexts


def key_kinds(contexts: Contexts, request: EditRequest, located: Located) -> dict[str, Tensor]:
    """A request's keys at its subject, ``(f,)`` each: plain, mean, and after one context."""
    kinds = {"plain": located.keys[0], "mean": located.keys.mean(0)}
    if len(contexts.templates) > 1:
        kinds["prefixed"] = located.keys[contexts.number_of(request)]
    return kinds


def keyed(
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    layer: int,
    requests: Sequence[EditRequest],
    located: Sequence[Located],
    kinds: Sequence[Mapping[str, Tensor]],
) -> list[Keyed]:
    """Requests with their keys at the subject and at their prompt's first token.

    Args:
        lm: the model.
        tokenizer: its tokenizer.
        layer: the edited layer.
        requests: n of them.
        located: each one's keys and values in the layer.
        kinds: each one's keys at its subject, ``(f,)``, by kind.
    """
    firsts, places = first_token_keys(lm, tokenizer, layer, requests)
    return [
        Keyed(
            request,
            where.subject_position == at,
            {kind: key.float().cpu() for kind, key in (*keys.items(), ("first", first))},
        )
        for request, where, keys, first, at in zip(
            requests, located, kinds, firsts, places, strict=True
        )
    ]
