"""Keys of a layer and states of a later one at the subject's last token, in the current model."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_modules.records import EditRequest

from .experts import Routed, count_experts, keys_at, of_plain_experts
from .hooks import first
from .layout import blocks, experts_in, oriented, output_map, output_weight_name
from .passes import recording, run
from .tokens import Span, collate, encode, first_token, located_span, special_before

Place = int | str  # a layer, or one of its experts: LAYER.expert.NUMBER


class SubjectStates(NamedTuple):
    """A model's states for n requests in c contexts; the first context is the plain one.

    Attributes:
        keys: ``(n, c, f)``, inputs of the layer's output map.
        hidden: ``(n, d)``, the residual stream after the later layer, in the first context.
    """

    keys: Tensor
    hidden: Tensor


class Keyed(NamedTuple):
    """A request and its keys in one layer.

    Attributes:
        request: the request.
        begins: whether the subject's last token is the prompt's first, special tokens aside.
        keys: ``(f,)`` each, float32, on the CPU, by kind: ``plain`` is at the subject's last token
            in the prompt, ``mean`` the mean over all contexts, ``prefixed`` after one of them,
            ``direction`` the mean key multiplied by ``C⁻¹``, of unit length, and ``first`` at the
            prompt's first token.
    """

    request: EditRequest
    begins: bool
    keys: dict[str, Tensor]


def first_token_keys(
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    layer: int,
    requests: Sequence[EditRequest],
) -> tuple[Tensor, list[int]]:
    """Keys ``(n, f)`` at the first token of each prompt, and the indices of these tokens."""
    spans = [first_token(tokenizer, request.frame.around(request.text)) for request in requests]
    return keys_at_subjects(lm, layer, spans), [span.subject for span in spans]


@torch.no_grad()
def keys_at_subjects(lm: PreTrainedModel, layer: int, spans: Sequence[Span]) -> Tensor:
    """Keys of a layer at each span's subject, ``(n, f)``."""
    batch = collate([span.tokens for span in spans], lm.device)
    wanted = output_map(lm, layer)
    with recording({"map": wanted}, stop_at=wanted) as seen:
        run(lm.base_model, batch)
    length = batch.tokens.shape[1]
    places = [row * length + span.subject for row, span in enumerate(spans)]
    return keys_at(seen["map"][0], torch.tensor(places)).to(lm.device)


@torch.no_grad()
def routing(
    lm: PreTrainedModel, layer: int, tokens: Sequence[int], place: int
) -> list[tuple[int, float]]:
    """The experts that a layer's router chooses at a token of a text, with their gates."""
    wanted = output_map(lm, layer)
    with recording({"map": wanted}, stop_at=wanted) as seen:
        run(lm.base_model, collate([tokens], lm.device))
    routed = seen["map"][0]
    pairs = zip(routed.chosen[place].tolist(), routed.gates[place].tolist(), strict=True)
    return [(expert, gate) for expert, gate in pairs if gate and expert < count_experts(wanted)]


def sink_key(
    lm: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, layer: int, texts: Sequence[str]
) -> Tensor:
    """Mean key of a layer at position 0 of texts, ``(f,)``, special tokens included."""
    firsts = [encode(tokenizer, text).tokens[:1] for text in texts]
    return keys_at_subjects(lm, layer, [Span(tokens, 1, 0) for tokens in firsts]).float().mean(0)


@torch.no_grad()
def token_keys(
    lm: PreTrainedModel, maps: Mapping[int, nn.Module], rows: Sequence[Sequence[int]]
) -> dict[Place, Tensor]:
    """Keys of all tokens of texts, ``(n, f)`` by layer, without padding.

    Of experts, the keys of each, times their gates, at the tokens that it serves.

    Args:
        lm: the model, which runs up to the deepest layer.
        maps: output maps by layer.
        rows: tokens of each text.
    """
    batch = collate(rows, lm.device)
    with recording(maps, stop_at=maps[max(maps)]) as seen:
        run(lm, batch)
    real = batch.mask.flatten().bool()
    found: dict[Place, Tensor] = {}
    for layer, (inputs, _) in seen.items():
        if isinstance(inputs, Routed):
            found |= {f"{layer}.expert.{e}": keys.to(lm.device) for e, _, keys in inputs.each(real)}
        else:
            found[layer] = keys_at(inputs, real).to(lm.device)
    return found


def key_widths(lm: PreTrainedModel, layers: Iterable[int]) -> dict[Place, int]:
    """Width f of the keys of layers, and of each expert of those that have some."""
    widths: dict[Place, int] = {}
    for layer in layers:
        name = output_weight_name(lm, layer)
        count = experts_in(lm, name)
        each: list[Place] = [f"{layer}.expert.{expert}" for expert in range(count)]
        width = oriented(lm, f"{name}[0]" if count else name).shape[1]
        widths |= dict.fromkeys(each or [layer], width)
    return widths


@torch.no_grad()
def key_energy(
    lm: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, layer: int, texts: Sequence[str]
) -> float:
    """Mean square of a key's component over the tokens of texts: ``tr C / f``.

    The first token of each text does not count: its key is an attention sink's, unlike all others.
    """
    batch = collate([encode(tokenizer, text).tokens for text in texts], lm.device)
    wanted = output_map(lm, layer)
    with recording({"map": wanted}, stop_at=wanted) as seen:
        run(lm.base_model, batch)
    later = batch.mask.bool()
    later[:, : len(special_before(tokenizer)) + 1] = False
    return float(keys_at(seen["map"][0], later.flatten()).double().square().mean())


def edited_keys(
    lm: PreTrainedModel, layer: int, requests: Sequence[EditRequest], keys: Tensor
) -> Tensor:
    """Keys ``(b, f)`` of all texts; of experts, only those of the plain prompt's.

    Raises:
        FloatingPointError: if the router chooses no expert at a subject.
    """
    experts = count_experts(output_map(lm, layer))
    if not experts:
        return keys
    each = keys.unflatten(0, (len(requests), -1))
    for request, own in zip(requests, each, strict=True):
        if not own[0].any():
            raise FloatingPointError(
                f"the router of layer {layer} chooses no expert at the subject "
                f"{request.subject!r} of {request.text!r}; edit another layer, or leave it out"
            )
    return of_plain_experts(each, experts).flatten(0, 1)


@torch.no_grad()
def subject_states(
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    layers: tuple[int, int],
    contexts: Sequence[str],
    requests: Sequence[EditRequest],
) -> SubjectStates:
    """Runs requests in every context, only up to the subject and the later layer.

    Args:
        lm: the model.
        tokenizer: its tokenizer.
        layers: the one to record keys of, and the one to record hidden states of.
        contexts: templates with one ``{}``, the plain one first.
        requests: the facts to change.
    """
    spans = [
        located_span(tokenizer, request, context) for request in requests for context in contexts
    ]
    batch = collate([span.tokens[: span.subject + 1] for span in spans], lm.device)
    subjects = torch.tensor([span.subject for span in spans], device=lm.device)
    rows = torch.arange(len(spans), device=lm.device)
    last, wanted = blocks(lm)[layers[1]], output_map(lm, layers[0])
    with recording({"map": wanted, "block": last}, stop_at=last) as seen:
        run(lm.base_model, batch)
    keys = keys_at(seen["map"][0], rows * batch.tokens.shape[1] + subjects).to(lm.device)
    hidden = first(seen["block"][1]).to(lm.device)
    return SubjectStates(
        of_plain_experts(keys.unflatten(0, (len(requests), -1)), count_experts(wanted)),
        hidden[rows, subjects][:: len(contexts)],
    )
