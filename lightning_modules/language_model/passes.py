"""Forward passes that leave out what an edit cannot change."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from .layout import blocks, layout_of, output_map
from .tokens import TokenBatch


class _StopForwardError(Exception):
    """Ends a forward pass at the module that raised it."""


@contextmanager
def recording(modules: Mapping[Any, nn.Module], stop_at: nn.Module | None = None) -> Iterator[dict]:
    """Collects ``name -> (first input, output)`` of modules; ends the pass after ``stop_at``."""
    seen: dict[Hashable, tuple[Tensor, Tensor]] = {}

    def hook_for(name: Hashable) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            first = args[0] if args else kwargs["hidden_states"]
            seen[name] = first, output
            if module is stop_at:
                raise _StopForwardError

        return hook

    with ExitStack() as stack:
        for name, module in modules.items():
            handle = module.register_forward_hook(hook_for(name), with_kwargs=True)
            stack.callback(handle.remove)
        with suppress(_StopForwardError):
            yield seen


@contextmanager
def starting_at(lm: PreTrainedModel, layer: int, hidden: Tensor) -> Iterator[None]:
    """Inside, blocks below ``layer`` do nothing and block ``layer`` receives ``hidden``.

    Args:
        lm: the model; its own embedding, masks, norm and head still run.
        layer: the first block that runs.
        hidden: ``(b, t, d)``, that block's input.
    """
    returns_tuple = layout_of(lm.config).returns_tuple

    def unchanged(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor | tuple:
        return (hidden_states, None) if returns_tuple else hidden_states

    def replace(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return (hidden, *args[1:]), {k: v for k, v in kwargs.items() if k != "hidden_states"}

    skipped = blocks(lm)[:layer]
    handle = blocks(lm)[layer].register_forward_pre_hook(replace, with_kwargs=True)
    try:
        for block in skipped:
            block.forward = unchanged
        yield
    finally:
        handle.remove()
        for block in skipped:
            del block.forward


@contextmanager
def adding(module: nn.Module, change: Tensor) -> Iterator[None]:
    """Inside, ``change (b, d)`` is added to the module's output at position 0 of each row."""

    def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        rows = output.view(len(change), -1, change.shape[-1])  # OPT's MLP flattens (b, t)
        padded = F.pad(change[:, None], (0, 0, 0, rows.shape[1] - 1))
        return (rows + padded.to(rows.dtype)).view_as(output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def heads_only_at(lm: PreTrainedModel, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Inside, the output head sees only the hidden states at ``(rows, columns)``, each ``(n,)``.

    The model then returns logits of shape ``(1, n, v)``.
    """

    def pick(module: nn.Module, args: tuple) -> tuple:
        return (args[0][rows, columns][None],)

    handle = lm.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


class Suffixes(NamedTuple):
    """Texts from the subject's last token on, with all that lies before and below recorded.

    Attributes:
        tokens: ``(b, s)``, from the subject's last token on, right-padded.
        positions: ``(b, s)``, their positions in the whole texts.
        mask: ``(b, p + s)``, over the recorded positions and then the suffix.
        hidden: ``(b, s, d)``, input of the edited block.
        past: per block its keys and values before the subject's last token,
            ``(b, heads, p, width)``, right-aligned; of length p but empty below the edited block.
        keys: ``(b, f)``, the edited map's input at the subject's last token.
        values: ``(b, d)``, its output there.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    hidden: Tensor
    past: list[tuple[Tensor, Tensor]]
    keys: Tensor
    values: Tensor


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
    edited = output_map(lm, layer)
    with recording({"map": edited, "block": blocks(lm)[layer]}) as seen:
        lm(
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
    keys, values = (part.reshape(count, length, -1)[rows, subjects] for part in seen["map"])
    return Suffixes(
        tokens=batch.tokens.gather(1, after),
        positions=after,
        mask=torch.cat([(before >= 0).long(), batch.mask.gather(1, after) * inside], 1),
        hidden=seen["block"][0][rows[:, None], after],
        past=[
            _positions_before(entry, before, used=number >= layer)
            for number, entry in enumerate(cache.layers)
        ],
        keys=keys,
        values=values,
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
    with (
        starting_at(lm, layer, suffixes.hidden),
        adding(output_map(lm, layer), change),
        heads_only_at(lm, rows, columns),
    ):
        return lm(
            suffixes.tokens,
            attention_mask=suffixes.mask,
            position_ids=suffixes.positions,
            past_key_values=DynamicCache(suffixes.past),
            use_cache=True,
        ).logits[0]
