import math

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.keeping.dashboard import tag
from callbacks.keeping.edit_ledger import EditLedger
from callbacks.studies.weight_drift import WeightDrift, chosen, drift, ledger_changes
from callbacks.watching.measures import effective_rank
from callbacks.watching.restore import RestoreWeights
from lightning_modules.language_model.layout import oriented
from lightning_modules.methods.memit import MEMIT
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import (
    METHOD,
    REQUESTS,
    WEIGHT,
    data_of,
    fit,
    trainer_in,
    watching,
    without_timings,
)
from tests.tiny import tiny_editor


def drawn(monkeypatch):
    """The figures that a run publishes from now on, by name."""
    seen = {}
    monkeypatch.setattr(
        "callbacks.studies.weight_drift.publish",
        lambda trainer, figure, name: seen.update({name: figure}),
    )
    return seen


def captions(figure):
    return [axes.get_title().split("\n")[0] for axes in figure.axes if axes.get_title()]


@pytest.fixture(scope="module")
def drifting(lm, tmp_path_factory):
    """Four edits in a row, with a checkpoint after each."""
    folder = tmp_path_factory.mktemp("drifting")
    keeper = ModelCheckpoint(folder / "checkpoints", "{step}", every_n_train_steps=1, save_top_k=-1)
    callbacks = [*watching(), EditLedger(), WeightDrift(), keeper]
    return fit(lm, folder, callbacks, enable_checkpointing=True)


@pytest.fixture(scope="module")
def single(lm, tmp_path_factory):
    """The same four, each from the original model."""
    folder = tmp_path_factory.mktemp("single")
    callbacks = [*watching(threshold=390.0), EditLedger(), RestoreWeights(), WeightDrift()]
    return fit(lm, folder, callbacks)


def test_figures_are_those_of_a_decomposition_of_the_saved_weights(drifting):
    original = drifting.editor.original[WEIGHT].double().numpy()
    for n, edit in enumerate(drifting.edits, 1):
        weight = drifting.saved_weight(n).double().numpy()
        singular = np.linalg.svd(weight - original, compute_uv=False)
        of_weight = np.linalg.svd(weight, compute_uv=False)
        norm = np.linalg.norm(weight - original)
        assert edit["drift_norm"] == pytest.approx(norm)
        assert edit["drift_relative"] == pytest.approx(norm / np.linalg.norm(original))
        assert edit["drift_spectral_norm"] == pytest.approx(singular[0])
        assert edit["drift_spectrum"] == pytest.approx(singular[:8], rel=1e-5, abs=1e-6)
        assert edit["drift_weight_spectral_norm"] == pytest.approx(of_weight[0])
        assert edit["drift_effective_rank"] == pytest.approx(
            effective_rank(torch.tensor(singular)), rel=1e-4
        )
        assert edit["drift_effective_rank"] < n + 0.01


def test_a_single_edit_has_gone_as_far_as_its_update(single):
    assert single.column("drift_norm") == pytest.approx(single.column("update_norm"))
    assert single.column("drift_effective_rank") == pytest.approx([1.0] * 4, abs=1e-3)


def test_weights_of_every_family_are_seen_the_same_way_round(tiny_lm):
    editor = tiny_editor(ROME, tiny_lm)
    editor.make_edit(REQUESTS[:1])
    (name,) = editor.edited_weights()
    found = drift(editor)
    change = editor.applied[0].dense()
    assert change.shape == oriented(editor.lm, name).shape
    editor.restore()
    assert found["drift_norm"] == pytest.approx(float(change.norm()), rel=1e-4)
    assert found["drift_spectral_norm"] == pytest.approx(found["drift_norm"], rel=1e-4)


def test_an_unchanged_weight_has_no_effective_rank_of_its_change(tiny_gpt2):
    found = drift(tiny_editor(ROME, tiny_gpt2))
    assert found["drift_norm"] == found["drift_relative"] == found["drift_spectral_norm"] == 0
    assert "drift_effective_rank" not in found
    assert found["drift_weight_effective_rank"] > 1


def test_several_weights_are_told_apart_and_summed_up(lm, tmp_path):
    options = {name: value for name, value in METHOD.items() if name != "layer"}
    editor = MEMIT(lm=lm, layers=[0, 1], **options)
    callbacks = [*watching(), EditLedger(), WeightDrift()]
    trainer_in(tmp_path, callbacks).fit(editor, datamodule=data_of(REQUESTS[:1]))
    found = drift(editor)
    norms = [found["drift_norm_0_c_proj"], found["drift_norm_1_c_proj"]]
    originals = [float(weight.norm()) for weight in editor.original.values()]
    assert found["drift_norm"] == pytest.approx(math.hypot(*norms))
    assert found["drift_relative"] == pytest.approx(math.hypot(*norms) / math.hypot(*originals))
    assert found["drift_relative_1_c_proj"] == pytest.approx(norms[1] / originals[1])
    assert "drift_spectral_norm" not in found
    assert (tmp_path / "spectrum.png").exists()
    assert (tmp_path / "drift.png").exists()


def test_the_ledger_gives_the_change_that_the_model_had(drifting):
    found = ledger_changes(drifting.folder, drifting.editor, {1, 3})
    for edit, (change,) in found.items():
        wanted = (drifting.saved_weight(edit) - drifting.editor.original[WEIGHT]).T
        torch.testing.assert_close(change, wanted, rtol=1e-4, atol=1e-6)


def test_figures_are_on_the_dashboard_in_a_group_of_their_own():
    assert tag("drift_norm") == "drift/norm"


class TestPictures:
    def test_a_run_leaves_both(self, drifting, single):
        for run in (drifting, single):
            for name in ("drift.png", "spectrum.png"):
                assert (run.folder / name).read_bytes().startswith(b"\x89PNG")

    def test_a_sweep_shows_the_worst_and_the_median_stable_edit(self, single):
        ranked = sorted(single.edits, key=lambda edit: edit["perplexity"])
        made = {edit["edit"]: edit for edit in single.edits}
        stable = [edit["edit"] for edit in ranked if not edit["collapsed"]]
        worst = ranked[-1]["edit"]
        assert chosen(made, single=True) == [worst, stable[(len(stable) - 1) // 2]]

    def test_a_run_shows_its_first_collapse_and_its_end(self):
        made = {n: {"collapsed": n in (2, 3), "perplexity": n} for n in (1, 2, 3, 5)}
        assert chosen(made, single=False) == [2, 5]
        assert chosen({1: {}, 2: {}}, single=False) == [2]
        assert chosen({}, single=False) == chosen({}, single=True) == []

    def test_chosen_edits_are_drawn_too(self, lm, tmp_path, monkeypatch):
        seen = drawn(monkeypatch)
        watched = [*watching(), EditLedger(), WeightDrift(edits=[2, 99], ceiling=0.5)]
        run = fit(lm, tmp_path, watched)
        first, second = captions(seen["drift"])
        assert first.startswith("edit 4, stable, perplexity ")
        assert second.startswith("edit 2, stable, perplexity ")
        cells = seen["drift"].axes[1].get_images()[0].get_array()
        (change,) = ledger_changes(tmp_path, run.editor, {2})[2]
        assert np.allclose(cells, change.abs(), rtol=1e-4)

    def test_an_edit_that_the_ledger_lost_is_named(self, drifting, tmp_path):
        with pytest.warns(UserWarning, match=r"drift\.png lacks the edits \[2\]"):
            assert ledger_changes(tmp_path, drifting.editor, {2}) == {}


def test_measurements_are_as_rare_as_wanted(lm, tmp_path):
    run = fit(lm, tmp_path, [*watching(), EditLedger(), WeightDrift(every_n_edits=3)])
    assert [name is not None for name in run.column("drift_norm")] == [False, False, True, False]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_resumed_run_ends_in_the_same_figures(drifting, lm, tmp_path):
    callbacks = [*watching(), EditLedger(), WeightDrift()]
    run = fit(lm, tmp_path, callbacks, resume=drifting.checkpoint(2))
    assert without_timings(run.edits) == without_timings(drifting.edits[2:])


class TestMistakes:
    @pytest.mark.parametrize("options", [{"every_n_edits": 0}, {"ceiling": 0.0}])
    def test_what_must_be_positive(self, options):
        with pytest.raises(ValueError, match="every_n_edits and ceiling must be positive, got"):
            WeightDrift(**options)

    def test_a_run_without_a_ledger_is_refused_before_any_edit(self, lm, tmp_path):
        with pytest.raises(ValueError, match=r"add callbacks\.keeping\.edit_ledger\.EditLedger"):
            fit(lm, tmp_path, [*watching(), WeightDrift()])
        assert (tmp_path / "edits.jsonl").read_text() == ""
