import json
import math

import pytest

from callbacks.studies.layer_table import LayerTable, best_layer, by_layer
from callbacks.watching.restore import RestoreWeights
from lightning_modules.editing.layer_choice import chosen_layer
from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.jobs.layer_study import LayerStudy
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import METHOD, REQUESTS, data_of, fit, trainer_in, watching

OPTIONS = {name: value for name, value in METHOD.items() if name != "layer"}
OPTIONS["value"] = ValueSearchOptions(steps=20, weight_decay=0.0, clamp=30.0)


# a random model has no neighbors to spare
ALONE = [request._replace(paraphrases=(), neighborhood=()) for request in REQUESTS]


def method(layer):
    return ROME(layer, **OPTIONS)


@pytest.fixture(scope="module")
def studied(lm, tmp_path_factory):
    """The folder of a study in two layers, its module, and the table in it."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        module = LayerStudy(method, lm=lm)
        callbacks = [*watching(), RestoreWeights(), LayerTable()]
        trainer_in(folder, callbacks).fit(module, datamodule=data_of(ALONE))
    return folder, module, json.loads((folder / "layers.json").read_text())


def test_a_row_has_the_means_of_its_layers_edits(studied):
    folder, module, found = studied
    edits = [json.loads(line) for line in (folder / "edits.jsonl").read_text().splitlines()]
    assert [row["layer"] for row in found["layers"]] == [0, 1]
    for row in found["layers"]:
        own = [edit for edit in edits if edit["layer"] == row["layer"]]
        assert row["edits"] == len(own) == 4
        for name in ("efficacy", "perplexity", "denominator", "value_loss"):
            told = [edit[name] for edit in own if name in edit]
            assert row[name] == pytest.approx(sum(told) / len(told))
        assert row["perplexity_highest"] == max(edit["perplexity"] for edit in own)
        assert row["denominator_lowest"] == min(edit["denominator"] for edit in own)
    assert (found["fingerprint"], found["method"]) == (module.fingerprint, "ROME")
    assert found["baseline"]["perplexity"] == module.baseline["perplexity"]
    assert (folder / "layers.png").stat().st_size > 10_000


def test_the_best_layer_serves_layer_auto(studied, monkeypatch):
    folder, module, found = studied
    monkeypatch.chdir(folder)
    assert found["best"] is not None
    assert chosen_layer("auto", module.lm_name, module.fingerprint, 2) == found["best"]


def row(layer, perplexity=100.0, **scores):
    return {"layer": layer, "perplexity": perplexity, **scores}


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([row(0, efficacy=1.0, neighborhood=0.2), row(1, efficacy=0.7, neighborhood=0.7)], 1),
        ([row(0, efficacy=1.0), row(1, 111.0, efficacy=1.0)], 0),
        ([row(0, 109.0, efficacy=0.5), row(1, 111.0, efficacy=1.0)], 0),
        ([row(0, 105.0, efficacy=1.0), row(1, 101.0, efficacy=1.0)], 1),
        ([row(0, 500.0, efficacy=1.0)], None),
        ([row(0, efficacy=0.0, neighborhood=1.0)], None),
        ([row(0, math.inf, efficacy=1.0), row(1, efficacy=0.1)], 1),
    ],
)
def test_the_best_layer_succeeds_without_harm(rows, best):
    assert best_layer(rows, 100.0) == best


def test_failed_edits_count_but_have_no_figures():
    edits = [{"layer": 3, "status": "failed"}, {"layer": 3, "efficacy": 1.0, "collapsed": True}]
    (found,) = by_layer(edits)
    assert found == {"layer": 3, "edits": 2, "efficacy": 1.0, "collapsed": 1}


def test_a_run_in_one_layer_is_no_study(lm, tmp_path):
    with pytest.raises(ValueError, match=r"LayerTable needs .*LayerStudy.*take layer-study\.yaml"):
        fit(lm, tmp_path, [*watching(), RestoreWeights(), LayerTable()])


def test_edits_that_add_up_are_no_study(lm, tmp_path):
    with pytest.raises(ValueError, match="RestoreWeights beside it"):
        trainer_in(tmp_path, [*watching(), LayerTable()]).fit(
            LayerStudy(method, lm=lm), datamodule=data_of()
        )


def test_nothing_is_stored_where_no_edit_succeeds_without_harm(lm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weak = LayerStudy(lambda layer: ROME(**METHOD | {"layer": layer}), lm=lm)
    monkeypatch.setattr("callbacks.studies.layer_table.HARM", 0.0)
    trainer = trainer_in(tmp_path, [*watching(), RestoreWeights(), LayerTable()])
    with pytest.warns(UserWarning, match="no layer is stored for `layer: auto`"):
        trainer.fit(weak, datamodule=data_of())
    assert json.loads((tmp_path / "layers.json").read_text())["best"] is None
    assert not (tmp_path / "cache").exists()
