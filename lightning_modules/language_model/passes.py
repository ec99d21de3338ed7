"""Forward passes that leave out what an edit cannot change."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from .layout import blocks, layout_of, norm_behind, output_map
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
    """Inside, blocks below ``layer`` do nothing and what follows them receives ``hidden``.

    Args:
        lm: the model; its own embedding, masks, norm and head still run.
        layer: the first block that runs, at least 1; their number if none is to run.
        hidden: ``(b, t, d)``, the output of the block before.
    """
    returns_tuple = layout_of(lm.config).returns_tuple

    def replaced(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor | tuple:
        return (hidden, None) if returns_tuple else hidden

    skipped = blocks(lm)[:layer]
    try:
        for block in skipped:
            block.forward = replaced
        yield
    finally:
        for block in skipped:
            del block.forward


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


@contextmanager
def read_only_at(lm: PreTrainedModel, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Inside, what comes behind the last attention runs only at ``(rows, columns)``, each ``(n,)``.

    The model then returns logits of shape ``(1, n, v)``; elsewhere the last MLP gives zeros, which
    nothing reads.
    """
    layout = layout_of(lm.config)
    mlp = blocks(lm)[-1].get_submodule(layout.output.rpartition(".")[0])

    def forward(hidden_states: Tensor) -> Tensor:
        picked = type(mlp).forward(mlp, hidden_states[rows, columns])
        return torch.zeros_like(hidden_states).index_put((rows, columns), picked)

    with heads_only_at(lm, rows, columns):
        if mlp is blocks(lm)[-1]:  # OPT's MLP is no module of its own
            yield
            return
        mlp.forward = forward
        try:
            yield
        finally:
            del mlp.forward


class Suffixes(NamedTuple):
    """Texts from the subject's last token on, with all that lies before and below recorded.

    Attributes:
        tokens: ``(b, s)``, from the subject's last token on, right-padded.
        positions: ``(b, s)``, their positions in the whole texts.
        mask: ``(b, p + s)``, over the recorded positions and then the suffix.
        hidden: ``(b, s, d)``, output of the edited block.
        past: per block its keys and values before the subject's last token,
            ``(b, heads, p, width)``, right-aligned; of length p but empty up to the edited block.
        keys: ``(b, f)``, the edited map's input at the subject's last token.
        values: ``(b, d)``, its output there.
        normed: ``(b, d)``, input there of the norm behind the value, where the family has one.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    hidden: Tensor
    past: list[tuple[Tensor, Tensor]]
    keys: Tensor
    values: Tensor
    normed: Tensor | None

    def chosen(self, rows: Tensor) -> "Suffixes":
        """Those of some texts, ``rows (m,)``."""
        return Suffixes(
            self.tokens[rows],
            self.positions[rows],
            self.mask[rows],
            self.hidden[rows],
            [(k, v) if len(k) < len(self.tokens) else (k[rows], v[rows]) for k, v in self.past],
            self.keys[rows],
            self.values[rows],
            None if self.normed is None else self.normed[rows],
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

    def at_subject(states: Tensor) -> Tensor:
        return states.reshape(count, length, -1)[rows, subjects]

    block_output = seen["block"][1]
    hidden = block_output[0] if isinstance(block_output, tuple) else block_output
    return Suffixes(
        tokens=batch.tokens.gather(1, after),
        positions=after,
        mask=torch.cat([(before >= 0).long(), batch.mask.gather(1, after) * inside], 1),
        hidden=hidden[rows[:, None], after],
        past=[
            _positions_before(entry, before, used=number > layer)
            for number, entry in enumerate(cache.layers)
        ],
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
    with read_only_at(lm, rows, columns), starting_at(lm, layer + 1, changed):
        return lm(
            suffixes.tokens,
            attention_mask=suffixes.mask,
            position_ids=suffixes.positions,
            past_key_values=DynamicCache(suffixes.past),
            use_cache=True,
        ).logits[0]
