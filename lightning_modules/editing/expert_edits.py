"""Edits of experts: which methods make them, and a change of stacked keys as one per expert."""

from collections.abc import Iterable, Iterator
from typing import Any

from transformers import PreTrainedModel

from ..language_model.layout import experts_in, layer_of
from .edited_weights import Update


def editable_weights(editor: Any) -> list[str]:
    """Names of the parameters that an editor may change.

    Raises:
        ValueError: if some of them hold experts, which the method cannot edit.
    """
    lm, names = editor.lm, editor.edited_weights()
    layers = sorted({layer_of(lm, name) for name in names if experts_in(lm, name)})
    method, family = type(editor).__name__, lm.config.model_type
    if layers and not editor.edits_experts:
        raise ValueError(
            f"{method} cannot edit experts, which layers {layers} of {family!r} have; ROME and its "
            "variants, MEMIT, EMMET and ENCORE can (docs/experts.md)"
        )
    return list(names)


def by_expert(lm: PreTrainedModel, updates: Iterable[Update]) -> Iterator[Update]:
    """The same changes, those of a stack of experts as one per expert that changes.

    The stack's change is ``left [right_1 … right_E]``; expert e's is ``left right_e``, 0 where no
    edited key has a part.
    """
    for update in updates:
        experts = experts_in(lm, update.weight)
        if not experts or update.right is None:
            yield update
            continue
        blocks = update.right.unflatten(1, (experts, -1))
        for expert in blocks.ne(0).any(-1).any(0).nonzero().flatten().tolist():
            part = blocks[:, expert].contiguous()
            yield Update(f"{update.weight}[{expert}]", update.left.clone(), part)
