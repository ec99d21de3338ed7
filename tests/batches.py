"""Requests, tiny editors, and the slow way of the methods that edit batches."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from data_modules.records import EditRequest
from lightning_modules.functional.value_search import FoundValue, ValueSearchOptions
from lightning_modules.language_model.layout import (
    blocks,
    oriented,
    output_map,
    output_weight_name,
)
from lightning_modules.language_model.tokens import request_span, target_span
from lightning_modules.methods.key_value import KeyValueEditor
from tests.tiny import CONTEXTS, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
KINDS = {4: 2}  # the two templates behind the plain one are of one kind
FAST = ValueSearchOptions(steps=4, weight_decay=0.02, clamp=20.0)
LAYERS = (0, 1)
NEAR = EditRequest(6, "{}", "He", "is")  # the target follows at once: random models hear little
REQUESTS = [
    EditRequest(7, "{} plays the", "He", "violin"),  # one token, at position 0
    EditRequest(8, "The mother tongue of {} is", "Danielle Vinson", "Latin"),
    EditRequest(9, "The capital of {} is", "Italy", "Geneva"),
    EditRequest(10, "{} lived in", "Mary", "Athens"),
]
Equation = Callable[[int, Tensor, Tensor], Tensor]


def moment_of(layer: int, width: int = 48) -> Tensor:
    """A second moment of keys of very different sizes, another one for every layer."""
    generator = torch.Generator().manual_seed(layer)
    keys = torch.randn(width, 300, generator=generator, dtype=torch.float64)
    keys *= torch.logspace(-1, 0.5, width, dtype=torch.float64)[:, None]
    return keys @ keys.T / 300


def ready(editor: KeyValueEditor, lm: PreTrainedModel, contexts: Sequence[str] = CONTEXTS) -> Any:
    """The editor with a model in memory and made-up second moments, ready to edit."""
    if editor.search.options.stop == "goal":
        editor.search.options = replace(FAST, anchor=editor.search.options.anchor)
    editor.attach(lm, TOKENIZER)
    editor.contexts.templates = list(contexts)
    editor.contexts.lengths = KINDS if len(contexts) > 1 else {}
    if editor.second_moment == "estimated":
        width = oriented(lm, editor.edited_weights()[0]).shape[1]
        editor.load_moment = lambda layer: moment_of(layer, width)
    editor.prepare()
    return editor


def log_prob(editor: KeyValueEditor, request: EditRequest) -> float:
    """Of the target, behind the prompt alone."""
    span = target_span(TOKENIZER, request.text, request.target_new)
    return float(editor.score([span]).log_prob[0])


def fix_values(editor: KeyValueEditor, wanted: dict[EditRequest, Tensor]) -> None:
    """Makes the editor find these values, ``(d,)`` each, whatever has become of the model."""

    def seek(requests):
        located = editor.locate(requests)
        return [
            (where, FoundValue(wanted[request] - where.values[0], [0.0], 0.0))
            for request, where in zip(requests, located, strict=True)
        ]

    editor.seek = seek


def values_of(editor: KeyValueEditor, requests: Sequence[EditRequest]) -> dict:
    """The value that the editor finds for each request."""
    found = editor.seek(requests)
    return {
        request: located.values[0] + value.change
        for request, (located, value) in zip(requests, found, strict=True)
    }


def weights(editor: KeyValueEditor) -> list[Tensor]:
    """Copies of the edited weights, ``(out, in)``, float64."""
    return [oriented(editor.lm, n).double().clone() for n in editor.edited_weights()]


@torch.no_grad()
def slow_states(
    lm: PreTrainedModel, layers: tuple[int, int], contexts: Sequence[str], request: EditRequest
) -> tuple[Tensor, Tensor]:
    """Keys ``(c, f)`` of one layer, hidden states ``(c, d)`` behind another, one by one."""
    keys, hidden = [], []
    for context in contexts:
        prompt = context.replace("{}", request.prompt, 1)
        span = request_span(TOKENIZER, prompt, request.subject, request.target_new)
        handles = [
            output_map(lm, layers[0]).register_forward_hook(
                lambda module, args, output, at=span.subject: keys.append(
                    args[0].reshape(-1, args[0].shape[-1])[at]
                )
            ),
            blocks(lm)[layers[1]].register_forward_hook(
                lambda module, args, output, at=span.subject: hidden.append(
                    (output[0] if isinstance(output, tuple) else output)[0, at]
                )
            ),
        ]
        lm(torch.tensor([span.tokens]))
        for handle in handles:
            handle.remove()
    return torch.stack(keys).double(), torch.stack(hidden).double()


@torch.no_grad()
def slow_edit(
    editor: KeyValueEditor,
    lm: PreTrainedModel,
    batch: Sequence[EditRequest],
    wanted: Sequence[Tensor],
    equation: Equation,
) -> None:
    """Edits a model layer by layer, every prompt in a pass of its own, by dense matrices."""
    last = editor.layers[-1]
    for number, layer in enumerate(editor.layers):
        keys, residuals = [], []
        for request, value in zip(batch, wanted, strict=True):
            found, hidden = slow_states(lm, (layer, last), editor.contexts.templates, request)
            keys.append(found[0] / 2 + (found[1] + found[2]) / 4)
            residuals.append((value.double() - hidden[0]) / (len(editor.layers) - number))
        change = equation(layer, torch.stack(keys, 1), torch.stack(residuals, 1))
        view = oriented(lm, output_weight_name(lm, layer))
        view += change.to(view)


def check_against(editor: KeyValueEditor, equation: Equation, within: float = 1e-3) -> None:
    """Two edits in sequence change every weight as the equation does, up to rounding."""
    for batch in (REQUESTS[:3], REQUESTS[3:]):
        slow, before = deepcopy(editor.lm), weights(editor)
        wanted = values_of(editor, batch)
        fix_values(editor, wanted)
        slow_edit(editor, slow, batch, list(wanted.values()), equation)
        editor.make_edit(batch)
        del editor.seek
        assert editor.record["status"] == "applied"
        expected = [oriented(slow, name).double() for name in editor.edited_weights()]
        for old, new, slowly in zip(before, weights(editor), expected, strict=True):
            assert (new - slowly).norm() < within * (slowly - old).norm()


def check_resumed(make: Callable[[], KeyValueEditor], lm: PreTrainedModel) -> None:
    """An editor that loads another one's checkpoint goes on with the very same bits."""
    first = ready(make(), deepcopy(lm))
    for batch in (REQUESTS[:2], REQUESTS[2:3]):
        first.make_edit(batch)
    checkpoint = {"state_dict": {n: t.clone() for n, t in first.state_dict().items()}}
    first.on_save_checkpoint(checkpoint)
    second = ready(make(), deepcopy(lm))
    second.on_load_checkpoint(checkpoint)
    for editor in (first, second):
        editor.make_edit(REQUESTS[3:])
        assert editor.record["status"] == "applied"
    for one, other in zip(weights(first), weights(second), strict=True):
        assert torch.equal(one, other)


def check_undone(editor: KeyValueEditor) -> None:
    """An undone edit leaves no trace: the next one is as if it had never been."""
    editor.make_edit(REQUESTS[:1])
    editor.make_edit(REQUESTS[1:2])
    expected = weights(editor)
    editor.undo()
    editor.make_edit(REQUESTS[2:])
    editor.undo()
    editor.make_edit(REQUESTS[1:2])
    for one, other in zip(weights(editor), expected, strict=True):
        assert torch.equal(one, other)
    editor.restore()
    assert editor.history == {}
    editor.make_edit(REQUESTS[:1])
    editor.make_edit(REQUESTS[1:2])
    for one, other in zip(weights(editor), expected, strict=True):
        assert torch.equal(one, other)
