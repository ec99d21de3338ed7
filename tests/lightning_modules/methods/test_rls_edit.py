from copy import deepcopy

import pytest
import torch

from lightning_modules.methods.rls_edit import RLSEdit
from tests.batches import (
    LAYERS,
    NEAR,
    REQUESTS,
    check_against,
    check_resumed,
    check_undone,
    fix_values,
    log_prob,
    moment_of,
    ready,
    values_of,
    weights,
)
from tests.tiny import tiny_model

RIDGE, PRESERVATION = 0.3, 0.7


def rls_edit(layers=LAYERS, ridge: float = RIDGE, **options) -> RLSEdit:
    return RLSEdit(ridge, PRESERVATION, layers=layers, lm="tiny", **options)


def held(layer: int) -> torch.Tensor:
    return RIDGE**2 * torch.eye(48) + PRESERVATION**2 * moment_of(layer)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
def test_edits_in_sequence_are_the_batch_solution(family):
    past = {layer: torch.zeros(48, 0).double() for layer in LAYERS}

    def equation(layer, keys, residuals):
        past[layer] = torch.cat([past[layer], keys], 1)
        return residuals @ keys.T @ (held(layer) + past[layer] @ past[layer].T).inverse()

    check_against(ready(rls_edit(), tiny_model(family)), equation)


def test_editing_in_sequence_is_editing_once():
    once, gradual = (ready(rls_edit([1]), tiny_model("gpt2"), ["{}"]) for _ in range(2))
    (original,) = weights(once)
    wanted = values_of(once, REQUESTS)
    fix_values(once, wanted)
    fix_values(gradual, wanted)
    once.make_edit(REQUESTS)
    for request in REQUESTS:
        gradual.make_edit([request])
    (one,), (other,) = weights(once), weights(gradual)
    assert (one - other).norm() < 1e-4 * (one - original).norm()


def test_state_grows_by_a_column_per_request_up_to_twice_the_covariance():
    editor = ready(rls_edit([1]), tiny_model("gpt2"))
    sizes = []
    for request in REQUESTS:
        editor.make_edit([request])
        sizes.append(sum(state.numel() for state in editor.history.values()))
    assert sizes == [48, 2 * 48, 3 * 48, 4 * 48]
    keys = torch.randn(48, 200, generator=torch.Generator().manual_seed(0))
    for key in keys.split(1, 1):
        editor.system.fit(1, key, torch.zeros(32, 1), editor.history)
        assert sum(state.numel() for state in editor.history.values()) <= 2 * 48 * 48


def test_identity_holds_every_direction_alike(tiny_gpt2):
    editor = ready(rls_edit([1], second_moment="identity"), deepcopy(tiny_gpt2))
    square = editor.mean_square(1)
    assert square > 0
    expected = torch.eye(48).double() / (RIDGE**2 + square * PRESERVATION**2)
    editor.make_edit(REQUESTS)
    covariance = editor.system.initial[1].solve(torch.eye(48))
    torch.testing.assert_close(covariance, expected)
    assert editor.record["status"] == "applied"


def test_edit_raises_its_target(tiny_lm):
    editor = ready(RLSEdit(1e-2, 1e-2, layers=[1], lm="tiny"), tiny_lm, ["{}"])
    before = log_prob(editor, NEAR)
    editor.make_edit([NEAR])
    after = log_prob(editor, NEAR)
    editor.restore()
    assert after > before


def test_resumed_run_is_bit_for_bit_the_uninterrupted_one(tiny_gpt2):  # B18
    check_resumed(rls_edit, tiny_gpt2)


def test_undone_edit_leaves_no_trace_in_the_state():
    check_undone(ready(rls_edit(), tiny_model("gpt2")))


def test_ridge_may_be_zero_as_published_but_not_negative(tiny_gpt2):
    editor = ready(rls_edit(ridge=0.0), deepcopy(tiny_gpt2))
    editor.make_edit(REQUESTS)
    assert editor.record["status"] == "applied"
    with pytest.raises(ValueError, match=r"ridge must not be negative, got -1\.0"):
        ready(rls_edit(ridge=-1.0), tiny_gpt2)


def test_card_tells_both_weights(tiny_gpt2):
    card = ready(rls_edit(), tiny_gpt2).card()
    assert (card["ridge"], card["preservation"]) == (RIDGE, PRESERVATION)
