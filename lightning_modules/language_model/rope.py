"""Rotary positions whose scale depends on the longest text of a batch (longrope, as in Phi-3)."""

from functools import partial
from typing import Any

from transformers import PreTrainedModel


def rope_boundary(lm: PreTrainedModel) -> int | None:
    """Longest text read with the short scale; None for a model with one scale.

    transformers reads a whole batch with the long scale as soon as one text is longer, padding
    included. Texts on both sides must not share a batch, or a score would depend on its neighbors.
    """
    config = lm.config.get_text_config(decoder=True)
    parameters = getattr(config, "rope_parameters", None) or {}
    kinds = [parameters, *(part for part in parameters.values() if isinstance(part, dict))]
    found = [
        kind["original_max_position_embeddings"]
        for kind in kinds
        if kind.get("rope_type") == "longrope"
    ]
    return min(found, default=None)


def refuse_mixed_lengths(lm: PreTrainedModel) -> None:
    """Makes the model refuse batches with texts on both sides of the boundary.

    Such a pass raises a ValueError. Models with one scale are unaffected.
    """
    boundary = rope_boundary(lm)
    if boundary is None or hasattr(lm, "rope_boundary"):
        return
    lm.rope_boundary = boundary  # type: ignore[assignment] # a number, not a module
    for module in (lm, lm.base_model):  # either may be called
        module.register_forward_pre_hook(partial(_require_one_side, boundary), with_kwargs=True)


def _require_one_side(boundary: int, module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
    mask = kwargs.get("attention_mask")
    if mask is None or mask.ndim != 2 or mask.shape[1] <= boundary:
        return
    lengths = mask.sum(1)
    if (lengths <= boundary).any():
        raise ValueError(
            f"texts of {int(lengths.min())} and of {int(lengths.max())} tokens are in one batch, "
            f"and this model reads texts of more than {boundary} with other rotary positions "
            "(longrope); give texts on one side of that length"
        )
