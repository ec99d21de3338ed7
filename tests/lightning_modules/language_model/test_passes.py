from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from lightning_modules.language_model.layout import blocks, output_map
from lightning_modules.language_model.passes import (
    Suffixes,
    heads_only_at,
    record_suffixes,
    recording,
    starting_at,
    suffix_logits,
)
from lightning_modules.language_model.tokens import collate
from tests.tiny import LAYERS, WINDOW, tiny_model

CPU = torch.device("cpu")
TEXTS = [
    [7, 31, 90, 12, 55, 260, 301, 18, 77, 410, 5],
    [44, 402, 9, 27, 66, 3, 350, 128, 211, 33, 8, 97, 150, 61],
    [391, 13, 222, 47, 60, 181],
    [10, 275, 91, 14, 333, 29, 100, 86, 2],
]
SUBJECTS = [0, 7, 5, 3]  # the first token, beyond a window, the last token, an ordinary place
PLACES = [(row, at) for row, s in enumerate(SUBJECTS) for at in range(len(TEXTS[row]) - s)]
ROWS, COLUMNS = torch.tensor(PLACES).T


def naive_logits(lm: PreTrainedModel, layer: int, change: Tensor) -> Tensor:
    """Logits of each text, run alone and whole, its subject's value changed by a plain hook."""
    results = []
    for text, subject, delta in zip(TEXTS, SUBJECTS, change, strict=True):
        place = F.one_hot(torch.tensor(subject), len(text)).float()
        added = torch.outer(place, delta)
        handle = output_map(lm, layer).register_forward_hook(
            lambda module, args, output, added=added: output + added.view_as(output)
        )
        results.append(lm(torch.tensor([text])).logits[0, subject:])
        handle.remove()
    return torch.cat(results)


def recorded(lm: PreTrainedModel, layer: int) -> Suffixes:
    return record_suffixes(lm, layer, collate(TEXTS, CPU), torch.tensor(SUBJECTS))


def hooks(lm: PreTrainedModel) -> Iterator[tuple]:
    """All that a pass may leave behind on a module."""
    for name, module in lm.named_modules():
        yield name, len(module._forward_hooks), len(module._forward_pre_hooks)
        yield name, "forward" in vars(module)


def test_texts_are_longer_than_the_window():
    assert all(len(text) > WINDOW for text in TEXTS)
    assert max(SUBJECTS) > WINDOW


@pytest.mark.parametrize("layer", range(LAYERS))
def test_unchanged_suffix_has_the_logits_of_the_whole_text(tiny_lm, layer):
    suffixes = recorded(tiny_lm, layer)
    ours = suffix_logits(tiny_lm, layer, suffixes, torch.zeros(4, 32), ROWS, COLUMNS)
    whole = [
        tiny_lm(torch.tensor([text])).logits[0, subject:]
        for text, subject in zip(TEXTS, SUBJECTS, strict=True)
    ]
    torch.testing.assert_close(ours, torch.cat(whole), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", range(LAYERS))
def test_changed_suffix_equals_a_whole_pass_with_a_hook(tiny_lm, layer):
    generator = torch.Generator().manual_seed(layer)
    change = torch.randn(4, 32, generator=generator).requires_grad_()
    weights = torch.randn(len(PLACES), tiny_lm.config.vocab_size, generator=generator)

    suffixes = recorded(tiny_lm, layer)
    ours = suffix_logits(tiny_lm, layer, suffixes, change, ROWS, COLUMNS)
    naive = naive_logits(tiny_lm, layer, change)
    torch.testing.assert_close(ours, naive, atol=1e-5, rtol=1e-5)

    (ours_gradient,) = torch.autograd.grad((ours * weights).sum(), [change])
    (naive_gradient,) = torch.autograd.grad((naive * weights).sum(), [change])
    scale = float(naive_gradient.abs().max())
    torch.testing.assert_close(ours_gradient, naive_gradient, atol=1e-5 * scale, rtol=1e-5)


def test_change_reaches_the_logits(tiny_lm):
    suffixes, at_subject = recorded(tiny_lm, 0), torch.zeros(4, dtype=torch.long)
    change = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    still, moved = (
        suffix_logits(tiny_lm, 0, suffixes, delta, torch.arange(4), at_subject)
        for delta in (torch.zeros(4, 32), change)
    )
    assert (still - moved).abs().amax(-1).min() > 0.1


def test_recorded_keys_and_values_are_those_at_the_subject(tiny_lm):
    suffixes = recorded(tiny_lm, 1)
    for row, (text, subject) in enumerate(zip(TEXTS, SUBJECTS, strict=True)):
        with recording({"map": output_map(tiny_lm, 1)}) as seen:
            tiny_lm(torch.tensor([text]))
        key, value = (part.reshape(len(text), -1)[subject] for part in seen["map"])
        torch.testing.assert_close(suffixes.keys[row], key, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(suffixes.values[row], value, atol=1e-5, rtol=1e-5)


def test_passes_leave_the_model_untouched(tiny_lm):
    state = {name: value.clone() for name, value in tiny_lm.state_dict().items()}
    before, logits = list(hooks(tiny_lm)), tiny_lm(torch.tensor(TEXTS[:1])).logits
    suffix_logits(tiny_lm, 2, recorded(tiny_lm, 2), torch.ones(4, 32), ROWS, COLUMNS)
    assert list(hooks(tiny_lm)) == before
    assert torch.equal(tiny_lm(torch.tensor(TEXTS[:1])).logits, logits)
    assert all(torch.equal(value, state[name]) for name, value in tiny_lm.state_dict().items())


def test_suffix_of_a_bfloat16_model_follows_a_float32_change():
    lm = tiny_model("llama").to(torch.bfloat16)
    change = torch.ones(4, 32, requires_grad=True)
    ours = suffix_logits(lm, 1, recorded(lm, 1), change, ROWS, COLUMNS)
    assert ours.dtype == torch.bfloat16
    (gradient,) = torch.autograd.grad(ours.float().logsumexp(-1).sum(), [change])
    assert gradient.dtype == torch.float32
    assert gradient.abs().min() > 0


def test_pass_that_starts_at_a_layer_skips_those_below(tiny_lm):
    tokens, other = torch.tensor([TEXTS[2]]), torch.tensor([TEXTS[0][:6]])
    with recording({"block": blocks(tiny_lm)[2]}) as seen:
        logits = tiny_lm(tokens).logits
    hidden, output = seen["block"]
    last = output[0] if isinstance(output, tuple) else output
    for layer, states in ((2, hidden), (LAYERS, last)):
        with starting_at(tiny_lm, layer, states):
            resumed = tiny_lm(other).logits
        torch.testing.assert_close(resumed, logits, atol=1e-6, rtol=1e-6)


def test_exception_leaves_nothing_behind(tiny_lm):
    before = list(hooks(tiny_lm))
    nowhere = torch.tensor([0])
    for context in (
        starting_at(tiny_lm, 2, torch.zeros(1, 6, 32)),
        heads_only_at(tiny_lm, nowhere, nowhere),
        recording({"map": output_map(tiny_lm, 1)}),
    ):
        with pytest.raises(RuntimeError, match="in the middle"), context:  # noqa: PT012
            assert list(hooks(tiny_lm)) != before
            raise RuntimeError("in the middle")
        assert list(hooks(tiny_lm)) == before


def test_recording_stops_before_later_blocks(tiny_lm):
    called = []
    handle = blocks(tiny_lm)[2].register_forward_pre_hook(lambda *_: called.append(2))
    first, second = output_map(tiny_lm, 0), output_map(tiny_lm, 1)
    with recording({0: first, 1: second}, stop_at=second) as seen:
        tiny_lm(torch.tensor([TEXTS[2]]))
    assert called == []
    assert list(seen) == [0, 1]
    with recording({0: first}) as seen:
        tiny_lm(torch.tensor([TEXTS[2]]))
    handle.remove()
    assert called == [2]


def test_recording_holds_first_input_and_output(tiny_lm):
    module = output_map(tiny_lm, 1)
    with recording({"map": module}) as seen:
        tiny_lm(torch.tensor([TEXTS[2]]))
    torch.testing.assert_close(module(seen["map"][0]), seen["map"][1])


def test_head_runs_only_where_it_is_read(tiny_lm):
    tokens = torch.tensor([TEXTS[0][:6], TEXTS[2]])
    rows, columns = torch.tensor([1, 0, 1]), torch.tensor([5, 0, 2])
    everywhere = tiny_lm(tokens).logits
    with heads_only_at(tiny_lm, rows, columns):
        logits = tiny_lm(tokens).logits
    assert logits.shape == (1, 3, tiny_lm.config.vocab_size)
    torch.testing.assert_close(logits[0], everywhere[rows, columns], atol=1e-5, rtol=1e-5)
