import json
import math

import pytest
import torch

from callbacks.keeping.edit_ledger import EditLedger
from callbacks.watching.restore import RestoreWeights
from callbacks.watching.signals import SIGNALS, WarningSignals
from data_modules.records import WatchedText
from lightning_modules.jobs.replay import Replay
from lightning_modules.methods.fine_tuning import FineTuning
from tests.callbacks.runs import REQUESTS, WATCHED, data_of, fit, trainer_in, watching

FEW = {"rank": 4, "prompts": 2, "length": 12}


@pytest.fixture(scope="module")
def run(lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("signals")
    return fit(lm, folder, [*watching(), WarningSignals(**FEW), EditLedger()])


def test_every_edit_and_the_baseline_have_every_signal(run):
    for edit in run.edits:
        assert edit.keys() >= set(SIGNALS)
    base = run.editor.baseline
    assert (base["norm_growth"], base["weight_change"], base["state_drift"]) == (0, 0, 0)
    assert (base["overlap_output"], base["overlap_input"]) == pytest.approx((1, 1))
    assert base["text_entropy"] > 0


def test_the_last_edits_signals_are_those_of_the_weights(run):
    (name,) = run.editor.original
    weight, original = run.editor.edited.master(name), run.editor.original[name]
    change = float((weight - original).norm() / original.norm())
    assert run.edits[-1]["weight_change"] == pytest.approx(change, rel=1e-5)
    growth = float(weight.norm() / original.norm()) - 1
    assert run.edits[-1]["norm_growth"] == pytest.approx(growth, abs=1e-6)
    spaces = [torch.linalg.svd(w.T.double())[0][:, :4] for w in (weight, original)]  # Conv1D
    overlap = float((spaces[0].T @ spaces[1]).square().sum() / 4)
    assert run.edits[-1]["overlap_output"] == pytest.approx(overlap, abs=1e-6)


def test_the_states_are_those_of_the_watched_texts(run):
    lm, tokenizer = run.editor.lm, run.editor.tokenizer

    def states():
        rows = [tokenizer(text, return_tensors="pt")["input_ids"][:, :-1] for text in WATCHED]
        with torch.no_grad():
            return torch.cat([lm.transformer(row).last_hidden_state[0] for row in rows])

    edited = states()
    with run.editor.edited.unedited():
        plain = states()
    shares = (edited - plain).norm(dim=1) / plain.norm(dim=1)
    wanted = float(shares.square().mean().sqrt())
    assert run.edits[-1]["state_drift"] == pytest.approx(wanted, rel=1e-3)


def test_a_replay_of_the_ledger_has_the_signals_of_the_run(run, lm, tmp_path):
    trainer = trainer_in(tmp_path, [*watching(), WarningSignals(**FEW)])
    editor = Replay(ledger=str(run.folder), lm=lm)
    trainer.fit(editor, datamodule=data_of())
    lines = (tmp_path / "edits.jsonl").read_text().splitlines()
    for edit, replayed in zip(run.edits, map(json.loads, lines), strict=True):
        for name in SIGNALS:
            assert replayed[name] == edit[name], name


def test_of_several_weights_the_farthest_counts(lm, tmp_path):
    trainer = trainer_in(tmp_path, [*watching(), WarningSignals(**FEW)])
    editor = FineTuning(lm=lm, layers=[0, 1], steps=2)
    trainer.fit(editor, datamodule=data_of(REQUESTS[:1]))
    edit = json.loads((tmp_path / "edits.jsonl").read_text())
    changes = [
        float((editor.edited.master(name) - original).norm() / original.norm())
        for name, original in editor.original.items()
    ]
    assert len(changes) == 2
    assert edit["weight_change"] == pytest.approx(max(changes), rel=1e-4)


def test_signals_are_measured_as_seldom_as_asked(lm, tmp_path):
    found = fit(lm, tmp_path, [*watching(), WarningSignals(every_n_edits=2, prompts=0)])
    assert ["state_drift" in edit for edit in found.edits] == [False, True, False, True]
    assert all("text_entropy" not in edit for edit in found.edits)


def test_in_a_sweep_each_edit_is_measured_alone(lm, run, tmp_path):
    found = fit(lm, tmp_path, [RestoreWeights(), *watching(), WarningSignals(**FEW)])
    first, last = found.edits[0], found.edits[-1]
    assert first["weight_change"] == pytest.approx(run.edits[0]["weight_change"], rel=1e-4)
    assert last["weight_change"] < run.edits[-1]["weight_change"]


def test_a_destroyed_model_is_infinitely_far(run):
    signals = next(c for c in run.trainer.callbacks if isinstance(c, WarningSignals))
    norm = run.editor.lm.transformer.ln_f.weight
    kept = norm.clone()
    norm.fill_(math.nan)
    found = signals.measured(run.editor)
    norm.copy_(kept)
    assert found["state_drift"] == math.inf
    assert run.editor.watch(WatchedText([0], WATCHED[:1])).nll.isfinite().all()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"every_n_edits": 0}, "every_n_edits must be at least 1, got 0"),
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"prompts": -1}, "prompts must be at least 0, got -1"),
        ({"length": 1}, "length must be at least 2, got 1"),
    ],
)
def test_numbers_out_of_range_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        WarningSignals(**options)
