import shutil
from pathlib import Path

import pytest

from callbacks.keeping.checkpoint import EditCheckpoint
from callbacks.keeping.run_folder import read_journal
from callbacks.watching.restore import RestoreWeights
from lightning_modules.jobs.layer_study import LayerStudy
from lightning_modules.methods.fine_tuning import FineTuning
from lightning_modules.methods.memit import MEMIT
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import METHOD, REQUESTS, data_of, tiny_lm, trainer_in, watching
from train import main

OPTIONS = {name: value for name, value in METHOD.items() if name != "layer"}
FIGURES = ("case_id", "layer", "perplexity", "efficacy", "denominator", "value_loss", "method")


class EveryCheckpoint(EditCheckpoint):
    """Keeps the state behind each edit."""

    def save(self, trainer):
        super().save(trainer)
        folder = Path(trainer.default_root_dir) / "checkpoints"
        shutil.copy(folder / "last.ckpt", folder / f"step={trainer.global_step}.ckpt")


def method(layer):
    return ROME(layer, **OPTIONS)


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return tiny_lm(tmp_path_factory.mktemp("lm"))


def tuning(layer):
    return FineTuning([layer], steps=2)


def study(lm, folder, resume=None, method=method):
    """Four requests in two layers, with a checkpoint behind each edit."""
    module = LayerStudy(method, lm=lm)
    callbacks = [*watching(), RestoreWeights(), EveryCheckpoint()]
    trainer = trainer_in(folder, callbacks, enable_checkpointing=True)
    trainer.fit(module, datamodule=data_of(), ckpt_path=resume)
    return module, read_journal(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def studied(lm, folder):
    return study(lm, folder)


def figures(edits, names=FIGURES):
    return [pytest.approx(edit.get(name), rel=1e-4, abs=1e-6) for edit in edits for name in names]


def test_every_request_is_edited_in_every_layer(studied):
    module, edits = studied
    assert module.layers == [0, 1]
    assert [(edit["layer"], edit["case_id"]) for edit in edits] == [
        (layer, request.case_id) for layer in (0, 1) for request in REQUESTS
    ]
    assert [edit["edit"] for edit in edits] == list(range(1, 9))


@pytest.mark.parametrize("layer", [0, 1])
def test_a_layers_edits_are_those_of_a_run_of_its_own(studied, lm, tmp_path, layer):
    own = [edit for edit in studied[1] if edit["layer"] == layer]
    trainer = trainer_in(tmp_path, [*watching(), RestoreWeights()])
    trainer.fit(ROME(layer, lm=lm, **OPTIONS), datamodule=data_of())
    alone = [edit | {"layer": layer} for edit in read_journal(tmp_path)]
    assert [edit.get(name) for edit in alone for name in FIGURES] == figures(own)


def test_fine_tunings_edits_are_those_of_a_run_of_its_own_too(lm, tmp_path):
    _, edits = study(lm, tmp_path / "study", method=tuning)
    own = [edit for edit in edits if edit["layer"] == 1]
    trainer = trainer_in(tmp_path / "alone", [*watching(), RestoreWeights()])
    trainer.fit(FineTuning([1], steps=2, lm=lm), datamodule=data_of())
    names = ("method", "loss", "steps", "update_norm", "perplexity")
    alone = read_journal(tmp_path / "alone")
    assert len(alone) == 4
    assert [edit[name] for edit in alone for name in names] == figures(own, names)


@pytest.mark.parametrize("made", [2, 4, 6])
def test_a_resumed_study_goes_on_in_its_layer(studied, folder, lm, tmp_path, made):
    shutil.copy(folder / "edits.jsonl", tmp_path)
    _, edits = study(lm, tmp_path, folder / "checkpoints" / f"step={made}.ckpt")
    assert [edit.get(name) for edit in edits for name in FIGURES] == figures(studied[1])


def test_the_card_has_the_methods_options_and_all_layers(studied):
    card = studied[0].card()
    assert (card["method"], card["layers"], card["second_moment"]) == ("ROME", [0, 1], "identity")
    assert "weights" not in card


def test_a_layer_that_the_model_does_not_have_is_refused_at_once(lm):
    with pytest.raises(ValueError, match=r"layer must be in \[0, 2\) for this model, got 2"):
        LayerStudy(method, [0, 2], lm=lm).configure_model()


def test_a_stride_that_leads_nowhere():
    with pytest.raises(ValueError, match="stride must be positive, got 0"):
        LayerStudy(method, stride=0)


def test_a_method_whose_first_option_is_no_layer_is_refused(lm):
    with pytest.raises(ValueError, match="MEMIT does not take a layer as its first option"):
        LayerStudy(lambda _: MEMIT(layers=[0, 1]), lm=lm).configure_model()


def test_a_method_is_named_on_the_command_line_with_its_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chosen = ["--model.method", "FineTuning", "--model.method.steps", "7", "--model.layers", "[3]"]
    module = main(["--config", "layer-study.yaml", *chosen], run=False).model
    assert (module.layers, module.made(3).layers, module.made(3).steps) == ([3], [3], 7)
