import json
import math

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.studies.layer_trace import LayerTrace, average, traced_range
from lightning_modules.editing.layer_choice import chosen_layer
from lightning_modules.functional.causal_trace import ROLES
from lightning_modules.jobs.layer_tracing import LayerTracing
from lightning_modules.language_model.tracing import KINDS
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import METHOD, REQUESTS, data_of, trainer_in

FACTS = [request for request in REQUESTS if request.target_true]


def whatever_is_true(score, tokenizer, requests):
    """Also what the random model does not say."""
    return {request for request in requests if request.target_true}


@pytest.fixture(scope="module")
def traced(lm, tmp_path_factory):
    """The folder of a trace of three facts, and the table in it."""
    folder = tmp_path_factory.mktemp("trace")
    logger = TensorBoardLogger(folder.parent, folder.name, version="", default_hp_metric=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("lightning_modules.jobs.layer_tracing.stated", whatever_is_true)
        trainer = trainer_in(folder, [LayerTrace()], logger=logger)
        module = LayerTracing(lm=lm, samples=2)
        trainer.predict(module, data_of())
    return folder, module, json.loads((folder / "trace.json").read_text())


def test_the_table_says_whose_and_how_many(traced):
    _, module, found = traced
    assert found["fingerprint"] == module.fingerprint
    assert (found["asked"], found["known"]) == (len(REQUESTS), len(FACTS))
    assert found["case_ids"] == [request.case_id for request in FACTS]
    assert found["tokens"]["last subject token"] == len(FACTS)


def test_effects_are_means_over_the_facts_that_have_the_role(traced):
    _, module, found = traced
    rows = [module.traced(request)["effects"] for request in FACTS]
    assert set(found["effects"]) == set(KINDS)
    for kind, table in found["effects"].items():
        for number, role in enumerate(ROLES):
            own = [
                row[kind][number].tolist() for row in rows if not row[kind][number].isnan().any()
            ]
            if own:
                means = [sum(column) / len(own) for column in zip(*own, strict=True)]
                assert table[role] == pytest.approx(means)
            else:
                assert role not in table


def test_a_role_that_no_fact_has_stays_nan_and_counts_nothing():
    effects = torch.tensor([[math.nan, math.nan], [1.0, 2.0]])
    other = torch.tensor([[math.nan, math.nan], [3.0, 6.0]])
    means, counts = average([{"effects": {"hidden": e}} for e in (effects, other)])
    assert counts.tolist() == [0, 2]
    assert means["hidden"][1].tolist() == [2.0, 4.0]
    assert means["hidden"][0].isnan().all()


def test_the_picture_goes_to_the_folder_and_to_tensorboard(traced):
    folder = traced[0]
    assert (folder / "trace.png").stat().st_size > 10_000
    assert any(b"trace" in file.read_bytes() for file in folder.glob("events.out*"))


def test_the_range_serves_layer_auto(traced, monkeypatch):
    folder, module, found = traced
    monkeypatch.chdir(folder)
    low, high = found["range"]
    assert chosen_layer("auto", module.lm_name, module.fingerprint, 2) == (low + high) // 2


def test_a_model_that_knows_none_of_the_facts_is_told_in_one_sentence(lm, tmp_path):
    with pytest.raises(ValueError, match=r"states none of the 4 facts.*--data.path"):
        trainer_in(tmp_path, [LayerTrace()]).predict(LayerTracing(lm=lm), data_of())
    assert not (tmp_path / "trace.json").exists()


def test_an_editor_traces_nothing(lm, tmp_path):
    with pytest.raises(ValueError, match=r"LayerTrace needs .*LayerTracing.*take trace\.yaml"):
        trainer_in(tmp_path, [LayerTrace()]).predict(ROME(lm=lm, **METHOD), data_of())


@pytest.mark.parametrize(
    ("effects", "ends"),
    [([0.1, 0.4, 1.0, 0.6, 0.2], [4, 6]), ([0.0, 0.0, 0.0], None), ([-0.2, -0.1], None)],
)
def test_the_range_is_of_layers_and_needs_an_effect(effects, ends):
    assert traced_range(effects, [0, 2, 4, 6, 8]) == ends


def test_no_range_is_stored_where_nothing_is_brought_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="nothing is stored for `layer: auto`"):
        LayerTrace().store(None, {"range": None})
    assert not (tmp_path / "cache").exists()
