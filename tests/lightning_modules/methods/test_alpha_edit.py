from copy import deepcopy

import pytest
import torch

from lightning_modules.methods.alpha_edit import AlphaEdit
from tests.batches import (
    LAYERS,
    NEAR,
    REQUESTS,
    check_against,
    check_resumed,
    check_undone,
    log_prob,
    moment_of,
    ready,
    weights,
)
from tests.tiny import tiny_model

ENERGY, RIDGE = 0.1, 0.5


def alpha_edit(layers=LAYERS, energy: float = ENERGY, ridge: float = RIDGE, **options) -> AlphaEdit:
    return AlphaEdit(energy, ridge, layers=layers, lm="tiny", **options)


def projector(layer: int) -> torch.Tensor:
    eigenvalues, eigenvectors = torch.linalg.eigh(moment_of(layer))
    null = eigenvectors[:, eigenvalues.cumsum(0) <= ENERGY * eigenvalues.sum()]
    assert 1 < null.shape[1] < 48
    return null @ null.T


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
def test_edits_in_sequence_are_the_published_equation(family):  # B19: GPT-J too
    past = {layer: torch.zeros(48, 0).double() for layer in LAYERS}

    def equation(layer, keys, residuals):
        p = projector(layer)
        system = past[layer] @ past[layer].T @ p + keys @ keys.T @ p + RIDGE * torch.eye(48)
        past[layer] = torch.cat([past[layer], keys], 1)
        return residuals @ keys.T @ p @ system.inverse()

    check_against(ready(alpha_edit(), tiny_model(family)), equation)


def test_outputs_of_preserved_keys_do_not_change(tiny_lm):
    editor = ready(alpha_edit([1]), tiny_lm)
    before = weights(editor)[0]
    editor.make_edit(REQUESTS)
    change = weights(editor)[0] - before
    editor.restore()
    preserved = torch.eye(48) - projector(1)
    assert change.norm() > 0
    assert (change @ preserved).norm() < 1e-5 * change.norm()


def test_null_space_does_not_see_the_size_of_keys(tiny_gpt2):  # B20
    editor = ready(alpha_edit([1]), tiny_gpt2)
    (update,) = editor.edit(REQUESTS)
    for scale in (1e-6, 1e6):
        scaled = ready(alpha_edit([1]), tiny_gpt2)
        scaled.protect(1, scale * moment_of(1))
        (other,) = scaled.edit(REQUESTS)
        torch.testing.assert_close(other.dense(), update.dense(), rtol=1e-6, atol=1e-9)


def test_null_space_and_history_belong_to_one_editor(tiny_gpt2):  # B19
    one = ready(alpha_edit(), deepcopy(tiny_gpt2))
    other = ready(alpha_edit(energy=0.5), deepcopy(tiny_gpt2))
    one.make_edit(REQUESTS[:2])
    assert one.system.null_spaces[0].dimension < other.system.null_spaces[0].dimension
    assert other.history == {}
    assert one.history["downdates/0/0"].shape == (48, 2)


def test_history_lies_within_the_null_space(tiny_gpt2):
    editor = ready(alpha_edit(), deepcopy(tiny_gpt2))
    editor.make_edit(REQUESTS)
    downdate = editor.history["downdates/0/0"]
    torch.testing.assert_close(projector(0) @ downdate, downdate)


def test_resumed_run_is_bit_for_bit_the_uninterrupted_one(tiny_gpt2):  # B18
    check_resumed(alpha_edit, tiny_gpt2)


def test_undone_edit_leaves_no_trace_in_the_history():
    check_undone(ready(alpha_edit(), tiny_model("gpt2")))


def test_edit_raises_its_target(tiny_lm):
    editor = ready(alpha_edit([1], energy=0.5, ridge=1e-6), tiny_lm, ["{}"])
    before = log_prob(editor, NEAR)
    editor.make_edit([NEAR])
    after = log_prob(editor, NEAR)
    editor.restore()
    assert after > before


def test_empty_null_space_is_refused(tiny_gpt2):
    with pytest.raises(ValueError, match="the null space is empty: of 48 directions"):
        ready(alpha_edit(energy=1e-9), tiny_gpt2)


def test_null_space_of_the_identity_is_refused(tiny_gpt2):
    with pytest.raises(ValueError, match="identity has no null space; AlphaEdit needs estimated"):
        ready(alpha_edit(second_moment="identity"), tiny_gpt2)


def test_card_tells_the_dimensions(tiny_gpt2):
    card = ready(alpha_edit(), tiny_gpt2).card()
    assert card["null_dimensions"] == {n: int(projector(n).trace().round()) for n in LAYERS}
    assert (card["energy"], card["ridge"], card["history"]) == (ENERGY, RIDGE, True)
