"""Whether a model may be run in parts: each shortcut compared with complete passes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .experts import count_experts, keys_at
from .hooks import first, moving
from .inspection import probe_tokens, tolerance
from .layout import blocks, layout_of, output_map
from .passes import picked_logits, recording, run, starting_at
from .rope import refuse_mixed_lengths
from .shortcuts import shortcuts_of
from .suffixes import record_suffixes, suffix_logits
from .tokens import TokenBatch, collate

SHORT = 5  # tokens of the second text, a padded prefix of the first
SUBJECTS = (3, 1)
SEARCHES: tuple[Mapping[str, Any], ...] = (  # from the fastest to the exact one
    {},
    {"masks": False},
    {"last_mlp": False},
    {"masks": False, "last_mlp": False},
)


class Texts(NamedTuple):
    """Two texts in one batch, and the results of a complete pass.

    Attributes:
        batch: the texts.
        subjects: ``(b,)``, positions where values are shifted.
        rows: ``(n,)``, text of every token from its subject on.
        columns: ``(n,)``, the token's position.
        logits: ``(n, v)``, there.
        inputs: ``(b, t, d)`` each, inputs of the tested layers' blocks.
        sizes: root mean square of these blocks' outputs.
    """

    batch: TokenBatch
    subjects: Tensor
    rows: Tensor
    columns: Tensor
    logits: Tensor
    inputs: dict[int, Tensor]
    sizes: dict[int, float]


class Trial(NamedTuple):
    """A layer's value shifted at each subject.

    Attributes:
        layer: the layer.
        change: ``(b, d)``, added to the value.
        logits: ``(n, v)``, of a complete pass.
    """

    layer: int
    change: Tensor
    logits: Tensor


@torch.no_grad()
def self_test(lm: PreTrainedModel, edited: Sequence[int]) -> None:
    """Decides which shortcuts a model allows, by passes over a few tokens.

    Afterwards ``lm.shortcuts`` holds them, and a longrope model refuses batches across its
    boundary; nothing else changes. Layers are tested only once.

    Args:
        lm: the model, in eval mode.
        edited: layers; the lowest and the highest, where values are searched, are tested, and at
            least two.

    Raises:
        ValueError: if even complete passes are inconsistent: the model looks ahead, padding or
            explicit positions change its logits, or a value does not reach them. The message
            states the difference relative to the logits' own spread.
    """
    refuse_mixed_lengths(lm)
    before = shortcuts_of(lm)
    layers = tried_layers(len(blocks(lm)), edited) - {*before.layers}
    if not layers:
        return
    texts = _texts(lm, layers)
    trials = [_trial(lm, layer, texts) for layer in sorted(layers)]
    _settle(lm, "head", lambda: _head_difference(lm, texts))
    _settle_search(lm, texts, trials)
    _settle(lm, "lower", lambda: max(_lower_difference(lm, texts, trial) for trial in trials))
    tested = tuple(sorted({*layers, *before.layers}))
    lm.shortcuts = shortcuts_of(lm)._replace(layers=tested)  # type: ignore[assignment] # no module


def tried_layers(count: int, edited: Sequence[int]) -> set[int]:
    """The lowest and the highest edited layer; if these are one, also the last or the middle."""
    ends = {min(edited), max(edited)}
    other = count - 1 if max(edited) < count - 1 else count // 2
    return ends if len(ends) > 1 else ends | {other}


def difference(logits: Tensor, right: Tensor) -> float:
    """Largest difference at a token, relative to the spread of the correct logits there.

    Args:
        logits: ``(n, v)``.
        right: ``(n, v)``, the correct ones.

    Returns:
        Infinity if one of them is not finite.
    """
    spread = (right.double() - right.double().mean(-1, keepdim=True)).norm(dim=-1)
    found = ((logits.double() - right.double()).norm(dim=-1) / spread).max()
    return float(found.nan_to_num(float("inf")))


def _whole_logits(lm: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """Logits ``(b, t, v)`` of a complete pass."""
    return run(lm, batch).logits


def _texts(lm: PreTrainedModel, layers: set[int]) -> Texts:
    """A text and its padded beginning, after checking that neither affects the other."""
    long = probe_tokens(lm)[0].tolist()
    batch = collate([long, long[:SHORT]], lm.device)
    with recording({layer: blocks(lm)[layer] for layer in layers}) as seen:
        logits = _whole_logits(lm, batch)
    _require_sound(lm, batch, logits)
    _require_stacked_keys(lm, batch, layers)
    lengths = (len(long), SHORT)
    places = [(row, at) for row in range(2) for at in range(SUBJECTS[row], lengths[row])]
    rows, columns = torch.tensor(places, device=lm.device).T
    sizes = {
        layer: float(first(output).float().square().mean().sqrt())
        for layer, (_, output) in seen.items()
    }
    inputs = {layer: received for layer, (received, _) in seen.items()}
    subjects = torch.tensor(SUBJECTS, device=lm.device)
    return Texts(batch, subjects, rows, columns, logits[rows, columns], inputs, sizes)


def _require_sound(lm: PreTrainedModel, batch: TokenBatch, logits: Tensor) -> None:
    """Refuses a model whose logits depend on later tokens, on padding or on explicit positions."""
    own = lm(batch.tokens[:1], use_cache=False).logits[0]
    cut = lm(batch.tokens[:1, :SHORT], use_cache=False).logits[0]
    found = {
        "later tokens change the logits before them": difference(cut, own[:SHORT]),
        "a mask and explicit positions change the logits": difference(logits[0], own),
        "padding on the right changes the logits": difference(logits[1, :SHORT], own[:SHORT]),
    }
    for what, by in found.items():
        if by > tolerance(lm.dtype):
            raise ValueError(_refusal(lm, f"{what}, by {by:.2g} of their spread"))


def _require_stacked_keys(lm: PreTrainedModel, batch: TokenBatch, layers: set[int]) -> None:
    """Refuses experts whose output is not that of their stacked keys."""
    maps = {layer: output_map(lm, layer) for layer in layers}
    maps = {layer: experts for layer, experts in maps.items() if count_experts(experts)}
    with recording(maps) as seen:
        _ = maps and _whole_logits(lm, batch)
    for layer, (inputs, output) in seen.items():
        keys = keys_at(inputs, torch.arange(batch.tokens.numel(), device=lm.device))
        real = batch.mask.flatten().bool()
        by = difference(inputs.output(keys)[real], output.reshape(len(keys), -1)[real])
        if by > tolerance(lm.dtype):
            why = f"the experts of layer {layer} are no sum of gated maps: they differ by {by:.2g}"
            raise ValueError(_refusal(lm, why))


def _refusal(lm: PreTrainedModel, why: str) -> str:
    return f"{lm.config.model_type!r} cannot be edited: {why}"


def _trial(lm: PreTrainedModel, layer: int, texts: Texts) -> Trial:
    """A complete pass with values shifted by the size of the block's output."""
    width = texts.inputs[layer].shape[-1]
    chance = torch.Generator().manual_seed(layer)
    noise = torch.randn(len(SUBJECTS), width, generator=chance, device="cpu")
    change = (noise * texts.sizes[layer]).to(lm.device, lm.dtype)
    with moving(output_map(lm, layer), change, texts.subjects):
        logits = _whole_logits(lm, texts.batch)[texts.rows, texts.columns]
    reached = difference(logits, texts.logits)
    if not tolerance(lm.dtype) < reached < float("inf"):
        why = f"a change of {layout_of(lm).output!r} in layer {layer} moves the logits"
        raise ValueError(_refusal(lm, f"{why} by {reached:.2g} of their spread"))
    return Trial(layer, change, logits)


def _settle(lm: PreTrainedModel, name: str, found: Callable[[], float]) -> bool:
    """Tries a shortcut; disables it with a note if it differs or fails."""
    try:
        by = found()
        note = f"would differ by {by:.2g} of the logits' spread"
    except Exception as error:  # of any kind: the model's code was not written for this
        by, note = float("inf"), f"fails in the model's code ({type(error).__name__})"
    if by <= tolerance(lm.dtype):
        return True
    shortcuts = shortcuts_of(lm)
    notes = (*shortcuts.notes, (name, note))
    given_up: dict[str, Any] = {name: False}
    lm.shortcuts = shortcuts._replace(notes=notes, **given_up)  # type: ignore[assignment]
    return False


def _settle_search(lm: PreTrainedModel, texts: Texts, trials: list[Trial]) -> None:
    """Finds the fastest value search that is correct."""
    before = shortcuts_of(lm)

    def worst() -> float:
        return max(_search_difference(lm, texts, trial) for trial in trials)

    slow = before._replace(suffix=False)
    for options in SEARCHES if before.suffix else ():
        lm.shortcuts = before._replace(**options)  # type: ignore[assignment]
        if _settle(lm, "suffix", worst):
            return
        slow = slow._replace(notes=shortcuts_of(lm).notes)
    lm.shortcuts = slow  # type: ignore[assignment]
    if worst() > tolerance(lm.dtype):
        raise ValueError(_refusal(lm, f"whole passes differ by {worst():.2g} among themselves"))


def _head_difference(lm: PreTrainedModel, texts: Texts) -> float:
    """Difference of logits computed only where they are read."""
    return difference(picked_logits(lm, texts.batch, texts.rows, texts.columns), texts.logits)


def _search_difference(lm: PreTrainedModel, texts: Texts, trial: Trial) -> float:
    """Difference of the changed suffix."""
    suffixes = record_suffixes(lm, trial.layer, texts.batch, texts.subjects)
    columns = texts.columns - texts.subjects[texts.rows]
    logits = suffix_logits(lm, trial.layer, suffixes, trial.change, texts.rows, columns)
    return difference(logits, trial.logits)


def _lower_difference(lm: PreTrainedModel, texts: Texts, trial: Trial) -> float:
    """Difference of a pass that starts at the edited layer."""
    with (
        moving(output_map(lm, trial.layer), trial.change, texts.subjects),
        starting_at(lm, trial.layer, texts.inputs[trial.layer]),
    ):
        logits = picked_logits(lm, texts.batch, texts.rows, texts.columns)
    return difference(logits, trial.logits)
