import json
import math

import pytest

from callbacks.studies.sink_table import SinkTable, collapsed, in_words, predictions, tables
from lightning_modules.jobs.layer_tracing import LayerTracing
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import WATCHED, data_of, trainer_in
from tests.lightning_modules.jobs.test_sink_atlas import FIRST, LATER, METHODS, atlas_of


def row(layer, perplexity, **figures):
    """A row of the atlas; what is not given is harmless."""
    usual = {
        "case_id": 1,
        "layer": layer,
        "first": True,
        "method": "ROME",
        "second_moment": "identity",
        "perplexity": perplexity,
        "danger": perplexity,
        "leverage_first": 0.1,
        "leverage_rest": 0.2,
        "denominator": 1.0,
        "denominator_relative": 0.5,
        "key_cosine": 0.9,
        "efficacy": 1.0,
        "stated": 1.0,
        "efficacy_prefixed": 1.0,
        "stated_prefixed": 0.0,
    }
    return usual | figures


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of an atlas of a tiny model, the module, and the tables in the folder."""
    folder = tmp_path_factory.mktemp("sink")
    module = atlas_of(first=1, normal=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        trainer_in(folder, [SinkTable()]).predict(module, data_of([LATER, FIRST]))
    return folder, module, json.loads((folder / "sink.json").read_text())


def test_the_tables_have_all_edits_and_say_whose_they_are(written):
    folder, module, content = written
    assert len(content["rows"]) == 3 * 2 * len(METHODS)  # layers, facts, methods
    assert content["fingerprint"] == module.fingerprint
    assert (content["case_ids"], content["watched"]) == ([1, 2], len(WATCHED))
    assert [layer["layer"] for layer in content["profile"]] == [0, 1, 2]
    assert {policy["edits"] for policy in content["policies"]} == {3}
    assert (folder / "sink.png").stat().st_size > 10_000


def test_tables_are_there_as_soon_as_one_layer_is_measured(tmp_path):
    module, seen = atlas_of(layers=[2, 0], first=1, normal=1), []
    studied = module.studied

    def studying(layer, requests):
        file = tmp_path / "sink.json"
        seen.append(len(json.loads(file.read_text())["rows"]) if file.exists() else 0)
        return studied(layer, requests)

    module.studied = studying
    data = data_of([LATER, FIRST])
    data.batch_size = 2
    trainer_in(tmp_path, [SinkTable()]).predict(module, data)
    assert seen == [0, 2 * len(METHODS)]


def test_a_collapse_is_five_times_the_unedited_perplexity_or_none_at_all():
    verdicts = {49.0: False, 50.0: False, 50.1: True, math.inf: True, math.nan: True}
    assert {p: collapsed(row(0, p), 10.0) for p in verdicts} == verdicts


def test_policies_count_their_collapses_and_where():
    rows = [row(0, 11.0), row(3, 900.0), row(2, math.inf), row(2, 10.0, first=False, efficacy=0.0)]
    first, other = tables(rows, 10.0)["policies"]
    assert (first["edits"], first["collapsed"], first["layers"]) == (3, 2, [2, 3])
    assert first["perplexity_highest"] is None  # JSON has no infinity
    assert (other["first"], other["collapsed"], other["efficacy"]) == (False, 0, 0.0)
    assert in_words(first).startswith(
        "ROME, identity, first-token subjects: 2 of 3 edits collapse (layers 2, 3); efficacy 1.00"
    )


def test_predictions_are_judged_by_pairs():
    harms = [10.0, 12.0, 90.0, math.inf]
    dangers = [0.1, 3.0, 2.0, 9.0]
    rows = [
        row(n, harm, danger=danger, denominator=denominator)
        for n, (harm, danger, denominator) in enumerate(
            zip(harms, dangers, [4.0, 3.0, 2.0, 1.0], strict=True)
        )
    ]
    found = {one["risk"]: one for one in predictions(rows, 10.0)}
    pairs = [(bad, good) for bad in (2, 3) for good in (0, 1)]
    right = sum(dangers[bad] > dangers[good] for bad, good in pairs) / len(pairs)
    assert found["danger"]["auroc"] == pytest.approx(right)
    assert found["danger"]["spearman"] == pytest.approx(0.8)  # ranks 1 3 2 4
    assert (found["denominator"]["auroc"], found["denominator"]["spearman"]) == (1.0, 1.0)
    assert (found["danger"]["edits"], found["danger"]["collapsed"]) == (4, 2)


def test_without_a_collapse_there_is_no_auroc():
    (danger, *_) = tables([row(0, 10.0), row(1, 11.0)], 10.0)["predictions"]
    assert danger["auroc"] is None
    assert danger["spearman"] == pytest.approx(1.0)


@pytest.mark.parametrize("module", [ROME, LayerTracing])
def test_another_module_is_refused(tmp_path, module):
    with pytest.raises(ValueError, match=r"SinkTable needs .*SinkAtlas as the model: take papers"):
        SinkTable().on_predict_start(trainer_in(tmp_path, []), module(lm="embedded"))
