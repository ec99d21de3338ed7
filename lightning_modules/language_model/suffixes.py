"""Texts from the subject's last token on: recorded once, then run with a changed value there."""

from copy import copy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.masking_utils import create_masks_for_generate

from .buckets import PAST, SUFFIX, bucket
from .experts import keys_at
from .hooks import first, moving
from .layout import blocks, layout_of, norm_behind, output_map
from .passes import at, picked_logits, read_only_at, recording, starting_at
from .shortcuts import shortcuts_of
from .tokens import TokenBatch


class Suffixes(NamedTuple):
    """Texts from the subject's last token on, with all states before and below recorded.

    Attributes:
        tokens: ``(b, s)``, from the subject's last token on, right-padded.
        positions: ``(b, s)``, their positions in the whole texts.
        mask: ``(b, 1, s, p + s)``, over the recorded positions and then the suffix; by kind of
            layer if a family has several; None if not needed. It is computed once, since
            transformers queries the device to decide; ``(b, p + s)`` for a model that must
            compute its own.
        hidden: ``(b, s, d)``, output of the edited block.
        past: per block its keys and values before the subject's last token,
            ``(b, heads, p, width)``, right-aligned; of length p but empty up to the edited block.
        keys: ``(b, f)``, the edited map's input at the subject's last token.
        values: ``(b, d)``, its output there.
        normed: ``(b, d)``, input there of the norm after the value, if the family has one.
        whole: the whole texts, for a model that cannot run a suffix alone; ``past`` is then empty.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor | dict[str, Tensor | None] | None
    hidden: Tensor
    past: DynamicCache
    keys: Tensor
    values: Tensor
    normed: Tensor | None
    whole: TokenBatch | None = None

    def chosen(self, rows: Tensor) -> "Suffixes":
        """The part for some of the texts, ``rows (m,)``."""

        def kept(part: Tensor | None) -> Tensor | None:
            if part is None or len(part) < len(self.tokens):
                return part
            return part[rows.to(part.device)]

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
            self.whole and TokenBatch(*(part[rows] for part in self.whole)),
        )


@torch.no_grad()
def record_suffixes(
    lm: PreTrainedModel, layer: int, batch: TokenBatch, subjects: Tensor, rounded: bool = False
) -> Suffixes:
    """Runs the whole texts once and records what an edit of ``layer`` needs.

    Args:
        lm: the model.
        layer: the edited layer.
        batch: the texts, ``(b, t)``.
        subjects: ``(b,)``, index of each subject's last token.
        rounded: whether ``s`` and ``p`` are rounded up (:mod:`.buckets`); the padding is masked.
    """
    alone = shortcuts_of(lm).suffix
    cache = DynamicCache()  # without a config: no layer drops states outside its window
    with recording(_recorded(lm, layer)) as seen:
        lm.base_model(
            batch.tokens,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            past_key_values=cache if alone else None,
            use_cache=alone,
        )
    length, rows = batch.tokens.shape[1], torch.arange(len(subjects), device=subjects.device)
    width, longest = int((batch.mask.sum(1) - subjects).max()), int(subjects.max())
    if rounded:
        width, longest = bucket(width, SUFFIX), bucket(longest, PAST)
    after = subjects[:, None] + torch.arange(width, device=subjects.device)
    inside, after = (after < length).long(), after.clamp(max=length - 1)
    before = torch.arange(longest, device=subjects.device) - longest + subjects[:, None]
    mask = torch.cat([(before >= 0).long(), batch.mask.gather(1, after) * inside], 1)

    def at_subject(states: Tensor) -> Tensor:
        return at(states.reshape(len(rows), length, -1), rows, subjects)

    hidden = at(first(seen["block"][1]), rows[:, None], after)
    past = DynamicCache(
        _positions_before(entry, before, number > layer)
        for number, entry in enumerate(cache.layers)
    )
    return Suffixes(
        tokens=batch.tokens.gather(1, after),
        positions=after,
        mask=_mask(lm, hidden.to(mask.device), mask, past, after),
        hidden=hidden,
        past=past,
        keys=keys_at(seen["map"][0], rows * length + subjects).to(lm.device),
        values=at_subject(seen["map"][1]).to(lm.device),
        normed=at_subject(seen["norm"][0]) if "norm" in seen else None,
        whole=None if alone else batch,
    )


def _recorded(lm: PreTrainedModel, layer: int) -> dict[str, nn.Module]:
    """The edited map, its block, and the norm after the value if there is one."""
    modules = {"map": output_map(lm, layer), "block": blocks(lm)[layer]}
    norm = norm_behind(lm, layer)
    return modules if norm is None else modules | {"norm": norm}


def _mask(
    lm: PreTrainedModel, hidden: Tensor, mask: Tensor, past: DynamicCache, positions: Tensor
) -> Tensor | dict[str, Tensor | None] | None:
    """The mask for every pass, computed once if the model accepts one."""
    shortcuts = shortcuts_of(lm)
    if shortcuts.suffix and shortcuts.masks:
        return create_masks_for_generate(lm.config, hidden, mask, past, positions)
    return mask


def _positions_before(entry: Any, before: Tensor, used: bool) -> tuple[Tensor, Tensor]:
    """Keys and values at positions ``before (b, p)``; negative ones are masked padding."""
    if not used:
        empty = entry.keys.new_zeros(1, 1, before.shape[1], 1)
        return empty, empty
    index = before.clamp(min=0)[:, None, :, None]
    return tuple(
        part.gather(2, index.to(part.device).expand(-1, part.shape[1], -1, part.shape[3]))
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
    """Logits ``(n, v)`` with the edited map's value at each subject changed.

    Runs only from the subject on, above the edited layer; or the whole texts if the model's
    self-test found a difference.

    Args:
        lm: the model.
        layer: the edited layer.
        suffixes: of the texts, from :func:`record_suffixes`.
        change: ``(b, d)``, added to the value at each subject's last token.
        rows: ``(n,)``, texts whose logits are read.
        columns: ``(n,)``, their positions, counted from the subject's last token.
    """
    change = change.to(suffixes.hidden)
    if suffixes.whole is not None:
        subjects = suffixes.positions[:, 0]
        with moving(output_map(lm, layer), change, subjects):
            return picked_logits(lm, suffixes.whole, rows, columns + subjects[rows])
    norm = norm_behind(lm, layer)
    if norm is not None and suffixes.normed is not None:
        change = norm(suffixes.normed + change) - norm(suffixes.normed)
    if (scale := layout_of(lm).scale) not in (1, None):
        change = scale * change
    changed = suffixes.hidden + F.pad(change[:, None], (0, 0, 0, suffixes.hidden.shape[1] - 1))
    past = DynamicCache()
    past.layers = [copy(entry) for entry in suffixes.past.layers]  # each grows separately
    with read_only_at(lm, rows, columns), starting_at(lm, layer + 1, changed):
        return lm(
            suffixes.tokens,
            attention_mask=suffixes.mask,
            position_ids=suffixes.positions,
            past_key_values=past,
            use_cache=True,
        ).logits[0]
