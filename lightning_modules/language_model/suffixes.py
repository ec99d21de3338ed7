"""Texts from the subject's last token on: recorded once, then run with the value changed there."""

from copy import copy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.masking_utils import create_masks_for_generate

from .layout import blocks, norm_behind, output_map
from .passes import read_only_at, recording, starting_at
from .tokens import TokenBatch


class Suffixes(NamedTuple):
    """Texts from the subject's last token on, with all that lies before and below recorded.

    Attributes:
        tokens: ``(b, s)``, from the subject's last token on, right-padded.
        positions: ``(b, s)``, their positions in the whole texts.
        mask: ``(b, 1, s, p + s)``, over the recorded positions and then the suffix; by kind of
            layer where a family has several; None where none is needed. It is made once, since
            transformers asks the device whether one is needed.
        hidden: ``(b, s, d)``, output of the edited block.
        past: per block its keys and values before the subject's last token,
            ``(b, heads, p, width)``, right-aligned; of length p but empty up to the edited block.
        keys: ``(b, f)``, the edited map's input at the subject's last token.
        values: ``(b, d)``, its output there.
        normed: ``(b, d)``, input there of the norm behind the value, where the family has one.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor | dict[str, Tensor | None] | None
    hidden: Tensor
    past: DynamicCache
    keys: Tensor
    values: Tensor
    normed: Tensor | None

    def chosen(self, rows: Tensor) -> "Suffixes":
        """Those of some texts, ``rows (m,)``."""

        def kept(part: Tensor | None) -> Tensor | None:
            return part if part is None or len(part) < len(self.tokens) else part[rows]

        masks = self.mask
        layers: list[Any] = self.past.layers
        return Suffixes(
            self.tokens[rows],
            self.positions[rows],
            {k: kept(m) for k, m in masks.items()} if isinstance(masks, dict) else kept(masks),
            self.hidden[rows],
            DynamicCache([(kept(entry.keys), kept(entry.values)) for entry in layers]),
            self.keys[rows],
            self.values[rows],
            kept(self.normed),
        )


@torch.no_grad()
def record_suffixes(
    lm: PreTrainedModel, layer: int, batch: TokenBatch, subjects: Tensor
) -> Suffixes:
    """Runs the whole texts once and keeps what an edit of ``layer`` needs.

    Args:
        lm: the model.
        layer: the edited layer.
        batch: the texts, ``(b, t)``.
        subjects: ``(b,)``, index of each subject's last token.
    """
    cache = DynamicCache()  # without a config: no layer forgets what lies outside its window
    modules = {"map": output_map(lm, layer), "block": blocks(lm)[layer]}
    norm = norm_behind(lm, layer)
    with recording(modules if norm is None else modules | {"norm": norm}) as seen:
        lm.base_model(
            batch.tokens,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            past_key_values=cache,
            use_cache=True,
        )
    count, length = batch.tokens.shape
    rows = torch.arange(count, device=subjects.device)
    width = int((batch.mask.sum(1) - subjects).max())
    after = subjects[:, None] + torch.arange(width, device=subjects.device)
    inside = (after < length).long()
    after = after.clamp(max=length - 1)
    longest = int(subjects.max())
    before = torch.arange(longest, device=subjects.device) - longest + subjects[:, None]
    mask = torch.cat([(before >= 0).long(), batch.mask.gather(1, after) * inside], 1)

    def at_subject(states: Tensor) -> Tensor:
        return states.reshape(count, length, -1)[rows, subjects]

    output = seen["block"][1]
    hidden = (output[0] if isinstance(output, tuple) else output)[rows[:, None], after]
    past = DynamicCache(
        _positions_before(entry, before, at > layer) for at, entry in enumerate(cache.layers)
    )
    return Suffixes(
        tokens=batch.tokens.gather(1, after),
        positions=after,
        mask=create_masks_for_generate(lm.config, hidden, mask, past, after),
        hidden=hidden,
        past=past,
        keys=at_subject(seen["map"][0]),
        values=at_subject(seen["map"][1]),
        normed=None if norm is None else at_subject(seen["norm"][0]),
    )


def _positions_before(entry: Any, before: Tensor, used: bool) -> tuple[Tensor, Tensor]:
    """Keys and values at positions ``before (b, p)``; negative ones are masked padding."""
    if not used:
        empty = entry.keys.new_zeros(1, 1, before.shape[1], 1)
        return empty, empty
    index = before.clamp(min=0)[:, None, :, None]
    return tuple(
        part.gather(2, index.expand(-1, part.shape[1], -1, part.shape[3]))
        for part in (entry.keys, entry.values)
    )


def suffix_logits(
    lm: PreTrainedModel,
    layer: int,
    suffixes: Suffixes,
    change: Tensor,
    rows: Tensor,
    columns: Tensor,
) -> Tensor:
    """Logits ``(n, v)`` if the edited map's value at each subject were changed.

    Args:
        lm: the model.
        layer: the edited layer.
        suffixes: of the texts, from :func:`record_suffixes`.
        change: ``(b, d)``, added to the value at each subject's last token.
        rows: ``(n,)``, texts whose logits are read.
        columns: ``(n,)``, where, counted from the subject's last token.
    """
    change = change.to(suffixes.hidden.dtype)
    norm = norm_behind(lm, layer)
    if norm is not None and suffixes.normed is not None:
        change = norm(suffixes.normed + change) - norm(suffixes.normed)
    changed = suffixes.hidden + F.pad(change[:, None], (0, 0, 0, suffixes.hidden.shape[1] - 1))
    past = DynamicCache()
    past.layers = [copy(entry) for entry in suffixes.past.layers]  # they grow, each by itself
    with read_only_at(lm, rows, columns), starting_at(lm, layer + 1, changed):
        return lm(
            suffixes.tokens,
            attention_mask=suffixes.mask,
            position_ids=suffixes.positions,
            past_key_values=past,
            use_cache=True,
        ).logits[0]
