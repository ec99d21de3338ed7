"""The position of a text's first token: the second token's, under Second2First."""

import inspect
import sys
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from .reach import positions_of


def longest_text(lm: PreTrainedModel) -> int:
    """Maximum number of tokens of a text for a model; ``sys.maxsize`` if it sets no limit."""
    return positions_of(lm.config) or sys.maxsize


def begin_at(lm: PreTrainedModel, position: int) -> None:
    """Sets the position of the first token of every text; 0 is the default.

    With 1 it gets the second token's embedding if positions are learned, or its angle if they are
    rotary (*Second2First* of The Fall of ROME, section 4.2). All other tokens keep theirs.

    Args:
        lm: the model; every forward pass is affected, with or without a cache.
        position: within the model's positions.

    Raises:
        ValueError: if the model has no such position, or no positions at all.
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
    """The same call with explicit positions, with 0 replaced by the model's first position."""
    tokens = args[0] if args else kwargs["input_ids"]
    mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
    if mask is None:  # without one, positions that do not count up would split the text
        past = kwargs.get("past_key_values")
        before = past.get_seq_length() if past is not None else 0
        mask = tokens.new_ones(len(tokens), before + tokens.shape[1])
    if positions is None:
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
    moved = torch.where(positions == 0, int(lm.first_position), positions)  # type: ignore[arg-type]
    return args, kwargs | {"attention_mask": mask, "position_ids": moved}
