import warnings
from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from data_modules.records import EditRequest
from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.language_model.tokens import request_span
from lightning_modules.language_model.values import alike, record_requests, search_values
from lightning_modules.methods.rome import ROME
from tests.oracles import full_value_search
from tests.tiny import (
    CONTEXTS,
    EDITED_LAYER,
    OPTIONS,
    tiny_editor,
    tiny_model,
    tiny_tokenizer,
)

TOKENIZER = tiny_tokenizer()
REQUESTS = [
    EditRequest(1, "{} plays the", "He", "violin"),  # one token, at position 0
    EditRequest(2, "The mother tongue of {} is", "Danielle Vinson", "Latin"),
    EditRequest(3, "{}", "Paris", "is old"),
    EditRequest(4, "The capital is {}", "Rome", ","),
    EditRequest(5, "While {} spoke", "Anna", "German music"),  # within reach of a sliding window
]


@pytest.mark.parametrize("options", [OPTIONS, ValueSearchOptions(steps=6, kl_weight=1.0)])
def test_requests_of_any_length_searched_together_are_searched_as_alone(tiny_lm, options):
    recorded = record_requests(tiny_lm, TOKENIZER, EDITED_LAYER, CONTEXTS, REQUESTS)
    together = search_values(tiny_lm, EDITED_LAYER, recorded, options)
    editor = tiny_editor(ROME, tiny_lm, options=options)
    for request, found in zip(REQUESTS, together, strict=True):
        oracle = full_value_search(editor, request)
        assert found.losses == pytest.approx(oracle.losses, rel=1e-5, abs=1e-6)
        assert float((found.change - oracle.change).norm() / oracle.change.norm()) < 1e-4
        assert found.target_log_prob == pytest.approx(oracle.target_log_prob, rel=1e-5)


def test_a_request_that_is_done_leaves_and_the_others_do_not_notice(tiny_lm):
    recorded = record_requests(tiny_lm, TOKENIZER, EDITED_LAYER, CONTEXTS, REQUESTS)
    free = search_values(tiny_lm, EDITED_LAYER, recorded, OPTIONS)
    middle = sorted(found.losses[3] for found in free)[2]
    options = ValueSearchOptions(steps=6, weight_decay=0.02, clamp=20.0, goal=middle)
    ended = search_values(tiny_lm, EDITED_LAYER, recorded, options)
    assert len({len(found.losses) for found in ended}) > 1
    for before, after in zip(free, ended, strict=True):
        assert after.losses == pytest.approx(before.losses[: len(after.losses)], rel=1e-5)


def test_most_probable_means_in_the_plain_prompt_too(tiny_gpt2):
    options = ValueSearchOptions(steps=40, weight_decay=0.0, clamp=50.0, stop="most_probable")
    editor = tiny_editor(ROME, tiny_gpt2, options=options)
    request = EditRequest(6, "{}", "He", "is")
    ((_, found),) = editor.seek([request])
    oracle = full_value_search(editor, request)
    assert found.losses == pytest.approx(oracle.losses, rel=1e-4)
    assert 1 < len(found.losses) < 40


def test_keys_and_values_are_each_requests_own(tiny_gpt2):
    recorded = record_requests(tiny_gpt2, TOKENIZER, EDITED_LAYER, CONTEXTS, REQUESTS)
    for number, (request, located) in enumerate(zip(REQUESTS, recorded.located, strict=True)):
        (alone,) = record_requests(tiny_gpt2, TOKENIZER, EDITED_LAYER, CONTEXTS, [request]).located
        torch.testing.assert_close(located.keys, alone.keys, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(located.values, alone.values, rtol=1e-5, atol=1e-5)
        assert located.subject_position == alone.subject_position
        assert (located.subject_position == 0) == (number == 0)
        assert located.keys.shape == (len(CONTEXTS), 48)
    chosen = recorded.chosen([3, 1])
    torch.testing.assert_close(chosen.located[0].keys, recorded.located[3].keys)
    torch.testing.assert_close(chosen.located[1].values, recorded.located[1].values)


def test_parts_to_search_together_are_of_one_length():
    parts = alike(TOKENIZER, REQUESTS * 3, 2)
    widths = [
        len(span.tokens) - span.subject
        for span in (
            request_span(TOKENIZER, r.prompt, r.subject, r.target_new) for r in REQUESTS * 3
        )
    ]
    assert sorted(n for part in parts for n in part) == list(range(15))
    assert all(len(part) <= 2 and len({widths[n] for n in part}) == 1 for part in parts)
    assert any(len(part) == 2 for part in parts)


class Calls(TorchFunctionMode):
    """Counts calls that would move numbers between the host and a device."""

    def __init__(self, asked: Counter):
        super().__init__()
        self.asked = asked

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is Tensor.tolist or (function is torch.tensor and "device" in kwargs):
            self.asked[function.__name__] += 1
        return function(*args, **kwargs)


class Kernels(TorchDispatchMode):
    """Counts kernels whose result the host would wait for."""

    WAITED_FOR = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "bincount")

    def __init__(self, asked: Counter):
        super().__init__()
        self.asked = asked

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        places = args[1] if name in ("index", "index_put", "index_put_") else []
        masks = [place for place in places if place is not None and place.dtype == torch.bool]
        if name in self.WAITED_FOR or masks:
            self.asked[name] += 1
        return function(*args, **(kwargs or {}))


PLACES = pytest.mark.parametrize(
    ("requests", "contexts"),
    [(REQUESTS, CONTEXTS), (REQUESTS[:1], CONTEXTS[:1])],
    ids=["anywhere", "first token"],
)


@PLACES
def test_a_step_asks_the_device_nothing_but_whether_it_is_over(tiny_lm, requests, contexts):
    recorded = record_requests(tiny_lm, TOKENIZER, EDITED_LAYER, contexts, requests)
    asked = []
    for steps in (2, 5):
        asked.append(Counter())
        with Calls(asked[-1]), Kernels(asked[-1]):
            options = ValueSearchOptions(steps=steps, goal=0.0)
            found = search_values(tiny_lm, EDITED_LAYER, recorded, options)
        assert {len(value.losses) for value in found} == {steps}
    # Adam reads the number of its steps, a tensor that stands on the CPU wherever the weights are
    assert asked[1] - asked[0] == {"tolist": 3, "_local_scalar_dense": 3}


@pytest.mark.gpu
@PLACES
def test_a_step_makes_the_host_wait_for_a_gpu_once(family, requests, contexts):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    lm = tiny_model(family).to("cuda")
    recorded = record_requests(lm, TOKENIZER, EDITED_LAYER, contexts, requests)
    waits = []
    for steps in (2, 2, 5):  # the first warms up, and its libraries may wait for themselves
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                options = ValueSearchOptions(steps=steps, goal=0.0)
                search_values(lm, EDITED_LAYER, recorded, options)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        waits.append(sum("synchronizing" in str(warning.message) for warning in said))
    assert waits[2] - waits[1] == 3
