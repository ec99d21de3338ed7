import pytest
import torch
from torch import Tensor

from data_modules.records import EditRequest
from lightning_modules.editing.contexts import Contexts
from lightning_modules.editing.prefixes import PromptPrefix
from lightning_modules.functional.rank_one import factorize
from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.language_model.layout import output_map, output_weight_name
from lightning_modules.language_model.tokens import target_span
from lightning_modules.methods.rome import (
    ROME,
    ConsistentROME,
    FullyConsistentROME,
    PromptOnlyROME,
    RankOneEditor,
)
from tests.oracles import full_value_search
from tests.tiny import EDITED_LAYER, tiny_editor, tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
REQUEST = EditRequest(7, "{} plays the", "He", "violin")  # one token, at position 0
NEAR = EditRequest(9, "{}", "He", "is")  # the target follows at once: random models hear little
LAST = EditRequest(6, "The capital is {}", "Rome", ",")
OTHER = EditRequest(8, "The mother tongue of {} is", "Danielle Vinson", "Latin")
KEYS = {
    ROME: lambda keys: keys[0],
    ConsistentROME: lambda keys: keys.mean(0),
    PromptOnlyROME: lambda keys: keys[0],
}
POLICIES = pytest.mark.parametrize("policy", list(KEYS))


def log_prob(editor: RankOneEditor, request: EditRequest = NEAR) -> float:
    """Of the target, behind the prompt alone."""
    span = target_span(TOKENIZER, request.text, request.target_new)
    return float(editor.score([span]).log_prob[0])


def random_moment() -> Tensor:
    keys = torch.randn(48, 200, generator=torch.Generator().manual_seed(0))
    return keys @ keys.T / 200


@pytest.fixture(scope="module")
def searched(tiny_lm):
    """A request's keys and values and the value found, which no policy and no moment changes."""
    (sought,) = tiny_editor(ROME, tiny_lm).seek([NEAR])
    return sought


@pytest.mark.parametrize("request_", [REQUEST, OTHER], ids=["first", "later"])
def test_value_is_the_one_of_a_search_through_whole_passes(tiny_lm, request_):
    editor = tiny_editor(ROME, tiny_lm)
    ((_, found),) = editor.seek([request_])
    naive = full_value_search(editor, request_)
    assert len(found.losses) == 6
    assert found.losses == pytest.approx(naive.losses, rel=1e-4)
    assert found.losses[-1] < found.losses[0]
    torch.testing.assert_close(found.change, naive.change, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("moment", [None, random_moment()], ids=["identity", "random"])
@POLICIES
def test_edit_maps_the_policys_key_to_the_value(tiny_lm, searched, monkeypatch, policy, moment):
    located, found = searched
    editor = tiny_editor(policy, tiny_lm)
    editor.factors = {EDITED_LAYER: None if moment is None else factorize(moment)}
    monkeypatch.setattr(editor, "seek", lambda requests: [searched])
    before = log_prob(editor)
    (update,) = editor.edit([NEAR])
    editor.apply_update(update)
    mapped = output_map(tiny_lm, EDITED_LAYER)(KEYS[policy](located.keys))
    after = log_prob(editor)
    editor.restore()

    assert update.weight == output_weight_name(tiny_lm, EDITED_LAYER)
    wanted = located.values[0] + found.change
    assert float((mapped - wanted).norm() / wanted.norm()) < 1e-4
    if policy is not ConsistentROME:  # its key is not the one of the plain prompt
        assert after > before
    assert log_prob(editor) == before


@POLICIES
def test_edit_is_what_its_risk_foretold(tiny_gpt2, policy):
    editor = tiny_editor(policy, tiny_gpt2)
    for request, position in ((REQUEST, 0), (OTHER, None)):
        list(editor.edit([request]))
        (risk,) = editor.predict_step([request], 0)
        for figure in ("denominator", "denominator_relative", "key_cosine", "subject_position"):
            assert risk[figure] == pytest.approx(editor.record[figure])
        assert (risk["case_id"], risk["subject"]) == (request.case_id, request.subject)
        assert position in (None, risk["subject_position"])


@POLICIES
def test_policies_agree_where_every_context_is_plain(tiny_gpt2, policy):
    (plain,) = tiny_editor(ROME, tiny_gpt2, ["{}"] * 3).edit([REQUEST])
    (update,) = tiny_editor(policy, tiny_gpt2, ["{}"] * 3).edit([REQUEST])
    torch.testing.assert_close(update.dense(), plain.dense(), rtol=1e-4, atol=1e-6)


def test_policies_differ_where_contexts_have_prefixes(tiny_gpt2):
    updates = [next(tiny_editor(p, tiny_gpt2).edit([REQUEST])).dense() for p in KEYS]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (updates[one] - updates[other]).norm() > 1e-2 * updates[one].norm()


def test_a_fully_consistent_edit_adds_the_change_to_the_mean_prefixed_value(tiny_lm, searched):
    located, found = searched
    editor = tiny_editor(FullyConsistentROME, tiny_lm)
    key = located.keys[1:].mean(0)
    before = output_map(tiny_lm, EDITED_LAYER)(key)
    update = editor.update(located, found)
    editor.apply_update(update)
    after = output_map(tiny_lm, EDITED_LAYER)(key)
    editor.restore()
    torch.testing.assert_close(after - before, found.change, rtol=1e-3, atol=1e-3)


def test_a_fully_consistent_edit_needs_a_prefixed_context(tiny_gpt2):
    with pytest.raises(ValueError, match=r"prefixed contexts, and there are none; give some"):
        tiny_editor(FullyConsistentROME, tiny_gpt2, ["{}"])


@pytest.mark.parametrize("request_", [REQUEST, OTHER], ids=["first", "later"])
def test_kinds_of_keys_are_those_of_the_located_request(tiny_lm, request_):
    editor = tiny_editor(ConsistentROME, tiny_lm)
    editor.factors = {EDITED_LAYER: factorize(random_moment())}
    editor.predict_step([request_], 0)
    (one,) = editor.keyed([request_])
    (located,) = editor.locate([request_])
    assert one.request is request_
    assert one.begins == (located.subject_position == 0) == (request_ is REQUEST)
    assert one.keys.keys() == {"plain", "mean", "direction", "first", "prefixed"}
    torch.testing.assert_close(one.keys["plain"], located.keys[0])
    torch.testing.assert_close(one.keys["mean"], located.keys.mean(0))
    torch.testing.assert_close(
        one.keys["prefixed"], located.keys[editor.contexts.number_of(request_)]
    )
    slow = torch.linalg.solve(random_moment().double(), located.keys.mean(0).double())
    torch.testing.assert_close(one.keys["direction"], (slow / slow.norm()).float())
    assert torch.allclose(one.keys["first"], one.keys["plain"], atol=1e-4) == one.begins


def test_several_requests_are_edited_one_after_another(tiny_gpt2):
    editor = tiny_editor(PromptOnlyROME, tiny_gpt2)
    before = [log_prob(editor, request) for request in (NEAR, LAST)]
    for update in editor.edit([NEAR, LAST]):
        editor.apply_update(update)
    after = [log_prob(editor, request) for request in (NEAR, LAST)]
    editor.restore()
    assert after[0] > before[0]
    assert after[1] > before[1]


def test_bfloat16_model_takes_an_edit():
    editor = tiny_editor(ROME, tiny_model("llama").to(torch.bfloat16))
    before = log_prob(editor)
    for update in editor.edit([NEAR]):
        editor.apply_update(update)
    assert log_prob(editor) > before
    assert editor.lm.get_parameter(editor.edited_weights()[0]).dtype == torch.bfloat16


def test_search_above_its_goal_is_noted(tiny_gpt2):
    editor = tiny_editor(ROME, tiny_gpt2, options=ValueSearchOptions(steps=1))
    list(editor.edit([REQUEST]))
    assert editor.record["value_steps"] == 1
    assert "above its goal 0.05" in editor.record["reason"]


def test_layer_that_does_not_exist_is_refused(tiny_gpt2):
    editor = ROME(layer=3, lm="tiny")
    editor.lm = tiny_gpt2
    with pytest.raises(ValueError, match=r"layer must be in \[0, 3\) for this model, got 3"):
        editor.edited_weights()


def test_contexts_belong_to_the_seed(tiny_gpt2):
    editors = [tiny_editor(ROME, tiny_gpt2) for _ in range(3)]
    for editor, seed in zip(editors, (0, 0, 1), strict=True):
        editor.contexts = Contexts({4: 2}, PromptPrefix(), seed)
        editor.prepare()
    sampled = [editor.contexts.templates for editor in editors]
    assert sampled[0] == sampled[1] != sampled[2]
    assert sampled[0][0] == "{}"
