from copy import deepcopy

import pytest
import torch

from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.methods.memit import MEMIT
from lightning_modules.methods.nas import (
    AnchoredAlphaEdit,
    AnchoredConsistentROME,
    AnchoredMEMIT,
    AnchoredROME,
    NormAnchored,
)
from lightning_modules.methods.rome import ROME
from tests.batches import REQUESTS, check_resumed, check_undone, ready, weights
from tests.tiny import tiny_model

LIGHT = {"preservation": 1e-9, "layers": [1], "lm": "tiny"}


def anchored_memit(lm) -> AnchoredMEMIT:
    return ready(AnchoredMEMIT(**LIGHT), lm, ["{}"])


def original_norms(lm, requests=REQUESTS, method=MEMIT) -> torch.Tensor:
    editor = ready(method(**({"lm": "tiny"} if method is ROME else LIGHT)), lm, ["{}"])
    return torch.stack([located.values[0].norm() for located in editor.locate(requests)])


def test_every_value_gets_the_mean_norm_and_keeps_its_direction(tiny_gpt2):
    plain = ready(MEMIT(**LIGHT), tiny_gpt2, ["{}"])
    norm = original_norms(tiny_gpt2).mean()
    for (where, found), (_, scaled) in zip(
        plain.seek(REQUESTS), anchored_memit(tiny_gpt2).seek(REQUESTS), strict=True
    ):
        value, short = where.values[0] + found.change, where.values[0] + scaled.change
        torch.testing.assert_close(short, value / value.norm() * norm, rtol=1e-4, atol=1e-4)


def test_edited_model_has_values_of_the_anchors_size():
    lm = tiny_model("gpt2")
    norm = original_norms(lm).mean()
    editor = anchored_memit(lm)
    editor.make_edit(REQUESTS)
    for located in editor.locate(REQUESTS):
        assert float(located.values[0].norm()) == pytest.approx(float(norm), rel=1e-3)


def test_anchor_is_the_mean_over_all_requests_of_the_unedited_model():
    lm = tiny_model("gpt2")
    norms = original_norms(lm)
    editor = anchored_memit(lm)
    for count, request in enumerate(REQUESTS, 1):
        editor.make_edit([request])
        assert editor.record["anchor"] == pytest.approx(float(norms[:count].mean()), rel=1e-5)


def test_edits_made_ahead_are_anchored_each_by_its_own_request():
    lm = tiny_model("gpt2")
    editor = anchored_memit(lm)
    editor.make_ahead([[request] for request in REQUESTS])
    anchors = [made.record["anchor"] for made in editor.sweep.made]
    assert anchors == pytest.approx(original_norms(lm).tolist(), rel=1e-5)
    assert editor.history == {}


def test_asking_the_unedited_model_leaves_the_edited_one_alone():
    editor = anchored_memit(tiny_model("gpt2"))
    editor.make_edit(REQUESTS[:2])
    before = weights(editor)
    editor.anchor(REQUESTS[2:])
    assert all(torch.equal(one, other) for one, other in zip(before, weights(editor), strict=True))


def test_value_far_beyond_the_anchor_is_edited_all_the_same():  # B37
    editor = anchored_memit(tiny_model("gpt2"))
    editor.value = ValueSearchOptions(steps=3, learning_rate=100.0, clamp=9.0)
    before = weights(editor)
    editor.make_edit(REQUESTS[:1])
    assert editor.record["status"] == "applied"
    assert editor.record["value_scale"] < 0.5
    assert not torch.equal(weights(editor)[0], before[0])


@pytest.mark.parametrize("method", [AnchoredROME, AnchoredConsistentROME, AnchoredAlphaEdit])
def test_other_methods_are_anchored_too(tiny_gpt2, method):
    lm = deepcopy(tiny_gpt2)
    editor = ready(
        method(lm="tiny", layers=[1]) if method is AnchoredAlphaEdit else method(lm="tiny"),
        lm,
        ["{}"],
    )
    space = ROME if method is not AnchoredAlphaEdit else MEMIT
    norm = float(original_norms(lm, REQUESTS[:1], space).mean())
    ((located, found),) = editor.seek(REQUESTS[:1])
    assert float((located.values[0] + found.change).norm()) == pytest.approx(norm, rel=1e-5)
    editor.make_edit(REQUESTS)
    assert (editor.record["status"], editor.record["method"]) == ("applied", method.__name__)
    assert issubclass(method, NormAnchored)


def test_resumed_run_is_bit_for_bit_the_uninterrupted_one(tiny_gpt2):  # B18
    check_resumed(lambda: AnchoredMEMIT(1.0, layers=[0, 1], lm="tiny", history=True), tiny_gpt2)


def test_undone_edit_leaves_no_trace_in_the_anchor():
    editor = AnchoredMEMIT(1.0, layers=[0, 1], lm="tiny", history=True)
    check_undone(ready(editor, tiny_model("gpt2")))
