from collections.abc import Iterator

import pytest
import torch
from transformers import PreTrainedModel

from lightning_modules.language_model.layout import blocks, output_map
from lightning_modules.language_model.passes import heads_only_at, recording, starting_at
from tests.tiny import LAYERS

TEXTS = [
    [7, 31, 90, 12, 55, 260, 301, 18, 77, 410, 5],
    [44, 402, 9, 27, 66, 3, 350, 128, 211, 33, 8, 97, 150, 61],
    [391, 13, 222, 47, 60, 181],
    [10, 275, 91, 14, 333, 29, 100, 86, 2],
]


def hooks(lm: PreTrainedModel) -> Iterator[tuple]:
    """All that a pass may leave behind on a module."""
    for name, module in lm.named_modules():
        yield name, len(module._forward_hooks), len(module._forward_pre_hooks)
        yield name, "forward" in vars(module)


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
