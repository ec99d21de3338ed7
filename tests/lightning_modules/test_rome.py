from collections.abc import Sequence

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from data_modules.records import EditRequest
from lightning_modules.functional.value_search import ValueSearchOptions, value_search
from lightning_modules.language_model import values
from lightning_modules.language_model.layout import output_map, output_weight_name
from lightning_modules.language_model.tokens import target_span
from lightning_modules.rome import (
    ROME,
    ConsistentROME,
    PromptOnlyROME,
    RankOneEditor,
    RankOneKeys,
)
from tests.oracles import full_value_search
from tests.tiny import tiny_model, tiny_tokenizer

LAYER = 1
TOKENIZER = tiny_tokenizer()
OPTIONS = ValueSearchOptions(steps=6, weight_decay=0.02, clamp=20.0)
CONTEXTS = ["{}", "The river is long. {}", "You and I. {}"]
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


def editor_of(
    policy: type[RankOneEditor],
    lm: PreTrainedModel,
    contexts: Sequence[str] = CONTEXTS,
    options: ValueSearchOptions = OPTIONS,
) -> RankOneEditor:
    """An editor of a model that is in memory already, ready to edit."""
    editor = policy("tiny", LAYER, options, "identity")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_modules.editor.load", lambda *_: (lm, TOKENIZER))
        editor.configure_model()
    editor.contexts = list(contexts)
    editor.prepare()
    return editor


def log_prob(editor: RankOneEditor, request: EditRequest = NEAR) -> float:
    """Of the target, behind the prompt alone."""
    span = target_span(TOKENIZER, request.text, request.target_new)
    return float(editor.score([span]).log_prob[0])


def random_moment() -> Tensor:
    keys = torch.randn(48, 200, generator=torch.Generator().manual_seed(0))
    return keys @ keys.T / 200


@pytest.fixture(scope="module")
def searched(tiny_lm):
    """A request's recorded texts and its value, which no policy and no moment changes."""
    editor = editor_of(ROME, tiny_lm)
    recorded = editor.record_request(NEAR)
    return recorded, editor.search_value(recorded)


@pytest.mark.parametrize("request_", [REQUEST, OTHER], ids=["first", "later"])
def test_value_is_the_one_of_a_search_through_whole_passes(tiny_lm, request_):
    editor = editor_of(ROME, tiny_lm)
    found = editor.search_value(editor.record_request(request_))
    naive = full_value_search(editor, request_)
    assert len(found.losses) == OPTIONS.steps
    assert found.losses == pytest.approx(naive.losses, rel=1e-4)
    assert found.losses[-1] < found.losses[0]
    torch.testing.assert_close(found.change, naive.change, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("moment", [None, random_moment()], ids=["identity", "random"])
@POLICIES
def test_edit_maps_the_policys_key_to_the_value(tiny_lm, searched, monkeypatch, policy, moment):
    recorded, found = searched
    editor = editor_of(policy, tiny_lm)
    editor.moment = moment
    monkeypatch.setattr(editor, "search_value", lambda recorded: found)
    before = log_prob(editor)
    (update,) = editor.edit([NEAR])
    editor.apply_update(update)
    mapped = output_map(tiny_lm, LAYER)(KEYS[policy](recorded.keys))
    after = log_prob(editor)
    editor.restore()

    assert update.weight == output_weight_name(tiny_lm, LAYER)
    wanted = recorded.values[0] + found.change
    assert float((mapped - wanted).norm() / wanted.norm()) < 1e-4
    if policy is not ConsistentROME:  # its key is not the one of the plain prompt
        assert after > before
    assert log_prob(editor) == before


@POLICIES
def test_edit_is_what_its_risk_foretold(tiny_gpt2, policy):
    editor = editor_of(policy, tiny_gpt2)
    for request, position in ((REQUEST, 0), (OTHER, None)):
        list(editor.edit([request]))
        risk = editor.risk(request)
        for figure in ("denominator", "key_cosine", "subject_position"):
            assert risk[figure] == pytest.approx(editor.record[figure])
        assert (risk["case_id"], risk["subject"]) == (request.case_id, request.subject)
        assert position in (None, risk["subject_position"])


@POLICIES
def test_policies_agree_where_every_context_is_plain(tiny_gpt2, policy):
    (plain,) = editor_of(ROME, tiny_gpt2, ["{}"] * 3).edit([REQUEST])
    (update,) = editor_of(policy, tiny_gpt2, ["{}"] * 3).edit([REQUEST])
    torch.testing.assert_close(update.dense(), plain.dense(), rtol=1e-4, atol=1e-6)


def test_policies_differ_where_contexts_have_prefixes(tiny_gpt2):
    updates = [next(editor_of(p, tiny_gpt2).edit([REQUEST])).dense() for p in KEYS]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (updates[one] - updates[other]).norm() > 1e-2 * updates[one].norm()


def test_several_requests_are_edited_one_after_another(tiny_gpt2):
    editor = editor_of(PromptOnlyROME, tiny_gpt2)
    before = [log_prob(editor, request) for request in (NEAR, LAST)]
    for update in editor.edit([NEAR, LAST]):
        editor.apply_update(update)
    after = [log_prob(editor, request) for request in (NEAR, LAST)]
    editor.restore()
    assert after[0] > before[0]
    assert after[1] > before[1]


def test_bfloat16_model_takes_an_edit():
    editor = editor_of(ROME, tiny_model("llama").to(torch.bfloat16))
    before = log_prob(editor)
    for update in editor.edit([NEAR]):
        editor.apply_update(update)
    assert log_prob(editor) > before
    assert editor.lm.get_parameter(editor.edited_weights()[0]).dtype == torch.bfloat16


def test_search_above_its_goal_is_noted(tiny_gpt2):
    editor = editor_of(ROME, tiny_gpt2, options=ValueSearchOptions(steps=1))
    list(editor.edit([REQUEST]))
    assert editor.record["value_steps"] == 1
    assert "above its goal 0.05" in editor.record["reason"]


def test_layer_that_does_not_exist_is_refused(tiny_gpt2):
    editor = ROME("tiny", layer=3)
    editor.lm = tiny_gpt2
    with pytest.raises(ValueError, match=r"layer must be in \[0, 3\) for this model, got 3"):
        editor.edited_weights()


def test_contexts_belong_to_the_seed(tiny_gpt2):
    editors = [editor_of(ROME, tiny_gpt2) for _ in range(3)]
    for editor, seed in zip(editors, (0, 0, 1), strict=True):
        editor.seed, editor.context_lengths, editor.contexts = seed, {4: 2}, []
        editor.prepare()
    assert editors[0].contexts == editors[1].contexts != editors[2].contexts
    assert editors[0].contexts[0] == "{}"


class Journal(L.Callback):
    """The record of each edit and the weight after it."""

    def __init__(self) -> None:
        self.records: list[dict] = []
        self.weights: list[Tensor] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.records.append(module.record)
        module.record = {}
        self.weights.append(module.lm.get_parameter(module.edited_weights()[0]).clone())


def fit(editor: RankOneEditor) -> Journal:
    """Two edits in a real Trainer."""
    journal = Journal()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        callbacks=[journal],
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    requests = DataLoader([REQUEST, OTHER], batch_size=1, collate_fn=list)
    trainer.fit(editor, requests, requests)
    assert trainer.global_step == 2
    return journal


def poison_search(editor: RankOneEditor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the first value search meet a loss that is not a number."""
    factors = iter([float("nan"), 1.0])

    def search(nll_and_kl, value, options):
        factor = next(factors)
        return value_search(lambda c: tuple(factor * x for x in nll_and_kl(c)), value, options)

    monkeypatch.setattr(values, "value_search", search)


def poison_update(editor: RankOneEditor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the first update divide zero by zero."""
    factors, choose = iter([0.0, 1.0]), editor.choose_keys

    def choose_keys(keys, values):
        factor, chosen = next(factors), choose(keys, values)
        return RankOneKeys(factor * chosen.direction, chosen.key, chosen.value)

    monkeypatch.setattr(editor, "choose_keys", choose_keys)


@pytest.mark.parametrize(
    ("poison", "reason"),
    [(poison_search, "loss is nan at step 1"), (poison_update, "c_proj.weight is not finite")],
)
def test_failed_edit_leaves_the_model_and_the_run_goes_on(monkeypatch, poison, reason):
    editor = editor_of(ROME, tiny_model("gpt2"))
    poison(editor, monkeypatch)
    journal = fit(editor)
    first, second = journal.records
    assert (first["status"], second["status"]) == ("failed", "applied")
    assert reason in first["reason"]
    (original,) = editor.original.values()
    assert torch.equal(journal.weights[0], original)
    assert first["update_norm"] == 0
    assert second["update_norm"] == pytest.approx(float((journal.weights[1] - original).norm()))
    assert second["update_norm"] > 0
    assert editor.edited_cases == [OTHER.case_id]


def test_edits_accumulate_until_the_weights_are_restored():
    editor = editor_of(ROME, tiny_model("gpt2"))
    journal = fit(editor)
    (original,) = editor.original.values()
    name = editor.edited_weights()[0]
    assert [record["status"] for record in journal.records] == ["applied", "applied"]
    assert not torch.equal(journal.weights[0], original)
    assert not torch.equal(journal.weights[1], journal.weights[0])
    editor.restore()
    assert torch.equal(editor.lm.get_parameter(name), original)
    assert editor.edited_cases == []
