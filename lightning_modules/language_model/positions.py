"""Which position a text's first token has: the second one's, under Second2First."""

import inspect
import sys
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from .reach import positions_of


def longest_text(lm: PreTrainedModel) -> int:
    """Most tokens that a model has positions for; ``sys.maxsize`` where it sets no limit."""
    return positions_of(lm.config) or sys.maxsize


def begin_at(lm: PreTrainedModel, position: int) -> None:
    """From now on gives the first token of every text this position; 0 is its own.

    With 1 it has the second token's embedding where positions are learned, and its angle where
    they are rotary (*Second2First* of The Fall of ROME, section 4.2). All other tokens keep theirs.

    Args:
        lm: the model, whose every forward pass is meant, with a cache or without.
        position: within the positions that the model knows.

    Raises:
        ValueError: if the model does not know the position, or none at all.
    """
    known = longest_text(lm)
    takes = inspect.signature(type(lm.base_model).forward).parameters
    if position and "position_ids" not in takes:
        raise ValueError(
            f"{lm.config.model_type!r} takes no positions (ALiBi or recurrence); leave "
            f"first_position at 0, got {position}"
        )
    if not 0 <= position < known:
        raise ValueError(f"first_position must be in [0, {known}) for this model, got {position}")
    hooked = hasattr(lm, "first_position")
    if not hooked and position == 0:
        return
    lm.first_position = position  # type: ignore[assignment] # of a number, not a module
    if not hooked:
        for module in (lm, lm.base_model):  # either may be called, and one may not call the other
            module.register_forward_pre_hook(partial(_moved, lm), with_kwargs=True)


def _moved(
    lm: PreTrainedModel, module: Any, args: tuple, kwargs: dict[str, Any]
) -> tuple[tuple, dict[str, Any]]:
    """The same call with explicit positions, in which 0 has become the model's first position."""
    tokens = args[0] if args else kwargs["input_ids"]
    mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
    if mask is None:  # without one, positions that do not count up would part the text in two
        past = kwargs.get("past_key_values")
        before = past.get_seq_length() if past is not None else 0
        mask = tokens.new_ones(len(tokens), before + tokens.shape[1])
    if positions is None:
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
    moved = torch.where(positions == 0, int(lm.first_position), positions)  # type: ignore[arg-type]
    return args, kwargs | {"attention_mask": mask, "position_ids": moved}
