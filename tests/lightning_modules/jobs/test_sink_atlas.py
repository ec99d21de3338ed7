import math

import pytest
import torch

from callbacks.studies.sink_table import SinkTable
from data_modules.records import EditRequest
from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.jobs.sink_atlas import SinkAtlas
from lightning_modules.language_model.layout import output_map
from lightning_modules.language_model.passes import recording
from lightning_modules.methods.memit import MEMIT
from lightning_modules.methods.rome import ROME, ConsistentROME
from lightning_modules.methods.sink_free import SinkFreeROME
from tests.callbacks.runs import WATCHED, data_of, trainer_in
from tests.lightning_modules.jobs.test_layer_tracing import knowing
from tests.tiny import LAYERS

OPTIONS = {"value": ValueSearchOptions(steps=4, weight_decay=0.0), "contexts": {5: 3}}
FIRST = EditRequest(1, "{} plays", "He", "Rome", "the")
LATER = EditRequest(2, "The capital of {} is", "France", "Rome", "the")
MORE = EditRequest(3, "The capital of {} is", "Italy", "Rome", "the")
UNKNOWN = EditRequest(4, "{} lived in", "Mary", "Rome", "Athens")
METHODS = [ROME, ConsistentROME, SinkFreeROME]


def atlas_of(**options):
    makers = [lambda layer, method=method: method(layer, **OPTIONS) for method in METHODS]
    module = SinkAtlas(makers, lm="tiny", **({"second_moments": ["identity"]} | options))
    module.attach(*knowing())
    return module


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """The atlas of a tiny model, and its rows of two facts in two layers."""
    module, folder = atlas_of(layers=[2, 0], first=2, normal=1), tmp_path_factory.mktemp("sink")
    data = data_of([UNKNOWN, LATER, FIRST, MORE])
    data.batch_size = 3
    batches = trainer_in(folder, [SinkTable()]).predict(module, data)
    return module, [row for batch in batches for row in batch]


def edited(module, row):
    """The model's method with one edit made, in the ordinary way, on weights of its own."""
    request = next(r for r in module.chosen if r.case_id == row["case_id"])
    method = next(m for m in METHODS if m.__name__ == row["method"])
    editor = method(row["layer"], lm="tiny", second_moment="identity", **OPTIONS)
    editor.attach(*knowing())
    editor.contexts.templates = module.templates
    editor.prepare()
    editor.make_edit([request])
    return editor, request


def test_known_facts_are_edited_in_every_layer_by_every_method(predicted):
    module, rows = predicted
    assert [(r.case_id, begins) for r, begins in module.chosen.items()] == [(1, True), (2, False)]
    assert [(row["layer"], row["case_id"], row["method"]) for row in rows] == [
        (layer, case, method.__name__) for layer in (2, 0) for case in (2, 1) for method in METHODS
    ]
    assert {row["second_moment"] for row in rows} == {"identity"}


def test_a_row_is_what_the_methods_own_edit_gives(predicted):
    module, rows = predicted
    for row in rows:
        editor, request = edited(module, row)
        own = editor.record
        for name in ("denominator", "key_cosine", "numerator_norm", "update_norm", "value_loss"):
            assert row[name] == pytest.approx(own[name], rel=1e-3, abs=1e-6), name
        nll = [editor.score([span]).nll for span in module.spans]
        perplexity = sum(float(one.exp()) for one in nll) / len(nll)
        assert row["perplexity"] == pytest.approx(perplexity, rel=1e-3)
        judged = editor.judge(request)
        assert row["efficacy"] == judged["efficacy"]
        assert row["stated"] == judged["efficacy_exact_match"]
        prefixed = request._replace(prompt=module.templates[-1].replace("{}", request.prompt))
        assert row["efficacy_prefixed"] == editor.judge(prefixed)["efficacy"]


def test_leverage_is_what_an_edit_adds_to_other_tokens(predicted):
    module, rows = predicted
    for row in rows[:3]:
        editor, _ = edited(module, row)
        (update,) = editor.applied
        first, rest = [], []
        for text in WATCHED:
            tokens = editor.tokenizer(text, return_tensors="pt")["input_ids"]
            modules = {"map": output_map(module.lm, row["layer"])}
            modules["block"] = module.lm.transformer.h[row["layer"]]
            with recording(modules) as seen, torch.no_grad():
                module.lm(tokens)
            keys, hidden = seen["map"][0].reshape(len(tokens[0]), -1), seen["block"][1][0]
            moved = (keys @ update.dense().T.float()).norm(dim=1) / hidden.norm(dim=1)
            moved = (moved / row["numerator_norm"]).tolist()
            first, rest = [*first, moved[0]], rest + moved[1:]
        square = math.sqrt(sum(one**2 for one in rest) / len(rest))
        assert row["leverage_first"] == pytest.approx(sum(first) / len(first), rel=1e-3)
        assert row["leverage_rest"] == pytest.approx(square, rel=1e-3)


def test_danger_is_the_longest_residual_times_the_leverage(predicted):
    module, rows = predicted
    for row in rows[:6]:
        editor, request = edited(module, row)
        editor.restore()
        (located,) = editor.locate([request])
        ball = 4 * float(located.values[0].norm())
        offsets = {
            "ROME": 0.0,
            "ConsistentROME": float((located.values[0] - located.values.mean(0)).norm()),
            "SinkFreeROME": 0.0,
        }
        longest = min(ball, 4 * 0.5 * math.sqrt(32)) + offsets[row["method"]]
        assert row["danger"] == pytest.approx(longest * row["leverage_rest"], rel=1e-3)
        assert row["numerator_norm"] <= longest * 1.001


def test_the_model_is_left_unedited(predicted):
    module, _ = predicted
    for one, other in zip(module.lm.parameters(), knowing()[0].parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_profile_has_norms_and_attention_of_every_layer(predicted):
    profile = predicted[0].profile
    assert [layer["layer"] for layer in profile] == list(range(LAYERS))
    for layer in profile:
        assert 0 < layer["attention"] < 1
        assert all(len(layer[kind]) == 5 for kind in ("hidden", "key", "value"))


def test_layers_without_statistics_are_edited_with_the_identity(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = atlas_of(layers=[1], second_moments=["identity", "estimated"], first=1, normal=1)
    assert [editor.second_moment for editor in module.editors(1)] == ["identity"] * len(METHODS)


def test_a_model_that_knows_no_fact_of_a_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="states 1 of the 2 facts, and none of one kind"):
        trainer_in(tmp_path, [SinkTable()]).predict(atlas_of(), data_of([UNKNOWN, LATER]))


def test_a_layer_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"layer must be in \[0, 3\) for this model, got 3"):
        atlas_of(layers=[3])


@pytest.mark.parametrize("option", ["stride", "first", "normal"])
def test_numbers_must_be_positive(option):
    with pytest.raises(ValueError, match=f"{option} must be positive, got 0"):
        SinkAtlas([ROME], **{option: 0})


def test_a_method_without_keys_of_its_own_is_refused(tmp_path):
    module = SinkAtlas([lambda layer: MEMIT(layers=[layer])], lm="tiny", layers=[1])
    module.attach(*knowing())
    with pytest.raises(ValueError, match="MEMIT is no rank-one method"):
        module.editors(1)
