from copy import deepcopy

import pytest
import torch

from lightning_modules.functional.rank_one import factorize
from lightning_modules.language_model.layout import oriented, output_map
from lightning_modules.methods.batch import seek_batch
from lightning_modules.methods.emmet import EMMET, BatchROME
from lightning_modules.methods.rome import ConsistentROME, PromptOnlyROME
from tests.batches import (
    NEAR,
    REQUESTS,
    check_against,
    check_resumed,
    fix_values,
    log_prob,
    moment_of,
    ready,
    values_of,
)
from tests.tiny import CONTEXTS, EDITED_LAYER, tiny_model


def batch_rome(lm, contexts=CONTEXTS) -> BatchROME:
    return ready(BatchROME(EDITED_LAYER, lm="tiny"), lm, contexts)


def test_edit_maps_every_mean_key_exactly(tiny_lm):
    editor = batch_rome(tiny_lm)
    sought = seek_batch(editor, REQUESTS)
    editor.make_edit(REQUESTS)
    mapped = output_map(tiny_lm, EDITED_LAYER)
    for located, value in zip(sought.located, sought.wanted().T, strict=True):
        now = mapped(located.keys.mean(0)[None])[0]
        assert (now - value).norm() < 1e-3 * value.norm()
    editor.restore()


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
def test_edit_is_the_equation_with_an_explicit_inverse(family):
    lm = tiny_model(family)
    editor = batch_rome(lm)
    sought = seek_batch(editor, REQUESTS)
    fix_values(editor, values_of(editor, REQUESTS))
    keys = torch.stack([located.keys.double().mean(0) for located in sought.located], 1)
    values = torch.stack([located.values.double().mean(0) for located in sought.located], 1)
    (update,) = editor.edit(REQUESTS)
    inverse = moment_of(EDITED_LAYER).inverse()
    gained = (keys.T @ inverse @ keys).inverse() @ keys.T @ inverse
    expected = (sought.wanted().double() - values) @ gained
    assert (update.dense() - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize(
    ("policy", "contexts"), [(ConsistentROME, CONTEXTS), (PromptOnlyROME, ["{}"])]
)
def test_edit_of_one_request_is_that_of_rome(tiny_lm, policy, contexts):
    rome = ready(policy(EDITED_LAYER, lm="tiny"), tiny_lm, contexts)
    rome.factors = {EDITED_LAYER: factorize(moment_of(EDITED_LAYER))}
    for request in REQUESTS[:2]:
        (expected,) = rome.edit([request])
        (update,) = batch_rome(tiny_lm, contexts).edit([request])
        assert (update.dense() - expected.dense()).norm() < 1e-5 * expected.dense().norm()


def test_edit_raises_its_target(tiny_lm):
    editor = batch_rome(tiny_lm, ["{}"])
    before = log_prob(editor, NEAR)
    editor.make_edit([NEAR])
    after = log_prob(editor, NEAR)
    editor.restore()
    assert after > before


def test_facts_of_one_key_cannot_be_met_together_and_fail():
    editor = batch_rome(tiny_model("gpt2"))
    same_key = REQUESTS[0]._replace(prompt="{} lived in", target_new="Rome")
    before = oriented(editor.lm, editor.edited_weights()[0]).clone()
    editor.make_edit([*REQUESTS, same_key])
    assert editor.record["status"] == "failed"
    assert "rank-deficient: of 5 keys, column 4" in editor.record["reason"]
    assert "parallel columns: 0 and 4" in editor.record["reason"]
    assert torch.equal(oriented(editor.lm, editor.edited_weights()[0]), before)


def test_repeated_request_does_not_make_the_system_singular():
    editor = batch_rome(tiny_model("gpt2"))
    editor.make_edit([*REQUESTS, REQUESTS[0]])
    assert editor.record["status"] == "applied"


def test_resumed_run_is_bit_for_bit_the_uninterrupted_one(tiny_gpt2):
    check_resumed(lambda: BatchROME(EDITED_LAYER, lm="tiny"), deepcopy(tiny_gpt2))


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
def test_published_edits_in_sequence_are_the_equation(family):
    def equation(layer, keys, residuals):
        inverse = (3.0 * moment_of(layer)).inverse()
        held = keys.T @ inverse @ keys + 0.1 * torch.eye(keys.shape[1])
        return residuals @ held.inverse() @ keys.T @ inverse

    editor = ready(EMMET(EDITED_LAYER, preservation=3.0, lm="tiny"), tiny_model(family))
    check_against(editor, equation)


def test_published_edit_without_slack_maps_every_key_exactly(tiny_gpt2):
    editor = ready(EMMET(EDITED_LAYER, slack=0.0, lm="tiny"), deepcopy(tiny_gpt2), ["{}"])
    sought = editor.seek(REQUESTS)
    editor.make_edit(REQUESTS)
    for (located, found), now in zip(sought, editor.locate(REQUESTS), strict=True):
        wanted = located.values[0] + found.change
        assert (now.values[0] - wanted).norm() < 1e-3 * found.change.norm()


def test_published_edit_of_repeated_keys_is_made_by_its_slack():
    same_key = REQUESTS[0]._replace(prompt="{} lived in", target_new="Rome")
    for slack, status in ((0.1, "applied"), (0.0, "failed")):
        editor = ready(EMMET(EDITED_LAYER, slack=slack, lm="tiny"), tiny_model("gpt2"))
        editor.make_edit([*REQUESTS, same_key])
        assert editor.record["status"] == status
