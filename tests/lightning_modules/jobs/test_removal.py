"""Edits left out: what the later ones become, against models that never had those edits."""

import json
from pathlib import Path
from shutil import copytree

import pytest
import torch
import yaml

from callbacks.keeping.edit_ledger import EditLedger
from callbacks.keeping.journal import EditJournal
from callbacks.watching.restore import RestoreWeights
from lightning_modules.editing.ledger import read_ledger
from lightning_modules.jobs.removal import configured, method_of, values_found
from lightning_modules.jobs.replay import Replay
from lightning_modules.language_model.layout import oriented
from lightning_modules.language_model.loading import load
from lightning_modules.methods.alpha_edit import AlphaEdit
from lightning_modules.methods.fine_tuning import FineTuning
from lightning_modules.methods.key_value import KeyValueEditor
from lightning_modules.methods.memit import MEMIT
from lightning_modules.methods.rls_edit import RLSEdit
from lightning_modules.methods.rome import ConsistentROME
from lightning_modules.methods.ultra_edit import UltraEdit
from tests.batches import fix_values, moment_of
from tests.callbacks.runs import REQUESTS, data_of, tiny_lm, trainer_in

VALUE = {"steps": 4, "clamp": 20.0, "weight_decay": 0.0}
KEYS = {"contexts": {6: 2}, "value": VALUE}
METHODS = {
    ConsistentROME: KEYS | {"layer": 0, "second_moment": "identity"},
    MEMIT: KEYS | {"layers": [0, 1], "history": True, "preservation": 1.0},
    AlphaEdit: KEYS | {"layers": [0], "energy": 0.5},
    RLSEdit: KEYS | {"layers": [0, 1]},
    UltraEdit: {"layers": [0], "rate": 0.1},
    FineTuning: {"layers": [1], "steps": 2},
}
REFITTING = [MEMIT, AlphaEdit, RLSEdit]


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return tiny_lm(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="module")
def rome_run(lm, tmp_path_factory):
    """Four edits by C-ROME."""
    return ran(lm, tmp_path_factory.mktemp("rome") / "run", ConsistentROME)


@pytest.fixture
def copied(rome_run, tmp_path):
    """The same, to be changed."""
    return Path(copytree(rome_run, tmp_path / "copied"))


@pytest.fixture(autouse=True)
def moments(monkeypatch):
    monkeypatch.setattr(KeyValueEditor, "load_moment", lambda self, layer: moment_of(layer, 128))


def config_of(method, **options):
    path = f"{method.__module__}.{method.__name__}"
    return {"model": {"class_path": path, "init_args": METHODS[method] | options}}


def ran(lm, folder, method, requests=REQUESTS, callbacks=(), **options):
    """A run's folder, with ledger, journal and config."""
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.dump(config_of(method, lm=lm, **options)))
    made = configured(folder)
    trainer = trainer_in(folder, [*callbacks, EditJournal(), EditLedger()], limit_val_batches=0)
    trainer.fit(made, datamodule=data_of(requests))
    assert len(read_ledger(folder)) == len(requests)
    return folder


def rebuilt(lm, run, **options):
    replay = Replay(str(run), lm=lm, **options)
    replay.configure_model()
    replay.rebuild(replay.chosen())
    return replay


def equal(one, other):
    return all(torch.equal(weight, other[name]) for name, weight in one.items())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_again_gives_the_bits_of_a_run_that_never_had_the_edits(lm, method, tmp_path):
    run = ran(lm, tmp_path / "run", method)
    never = ran(lm, tmp_path / "never", method, [REQUESTS[0], REQUESTS[3]])
    replay = rebuilt(lm, run, without=[2, 3], removal="again")
    assert replay.edited_cases == [10, 13]
    assert equal(replay.edited.snapshot(), rebuilt(lm, never).edited.snapshot())
    subtracted = rebuilt(lm, run, without=[2, 3])
    assert subtracted.edited.distance(replay.edited.snapshot()) > 0


@pytest.mark.parametrize("method", REFITTING, ids=lambda method: method.__name__)
def test_refit_equals_a_run_without_the_edit_that_finds_the_same_values(lm, method, tmp_path):
    run = ran(lm, tmp_path / "run", method)
    finder = configured(run)
    finder.attach(*load(lm))
    finder.prepare()
    wanted = {}
    for request in REQUESTS:
        ((located, found),) = finder.seek([request])
        wanted[request] = located.values[0] + found.change
        finder.make_edit([request])
    oracle = configured(run)
    oracle.attach(*load(lm))
    oracle.prepare()
    fix_values(oracle, wanted)
    for request in [REQUESTS[0], *REQUESTS[2:]]:
        oracle.make_edit([request])
    replay = rebuilt(lm, run, without=[2], removal="refit")
    changed = oracle.edited.distance(oracle.original)
    assert replay.edited.distance(oracle.edited.snapshot()) < 1e-5 * changed
    assert rebuilt(lm, run, without=[2]).edited.distance(oracle.edited.snapshot()) > 1e-3 * changed


def held(method, moment):
    """What a method puts in the place of ``A0``, ``(f, f)``."""
    if method is MEMIT:
        return moment
    return 0.3**2 * torch.eye(len(moment)).double() + 30.0**2 * moment


@pytest.mark.parametrize("method", [MEMIT, RLSEdit], ids=lambda method: method.__name__)
def test_refit_in_one_layer_solves_the_normal_equations_of_the_other_edits(lm, method, tmp_path):
    run = ran(lm, tmp_path / "run", method, layers=[0], contexts={})
    replay = rebuilt(lm, run, without=[2], removal="refit")
    replay.restore()
    editor = method_of(run, replay)
    editor.prepare()
    found = values_found(editor, read_ledger(run), 0)
    editor.restore()
    kept = [REQUESTS[0], *REQUESTS[2:]]
    located = editor.locate(kept)
    keys = editor.mean_keys(torch.stack([where.keys for where in located])).double()
    present = torch.stack([where.values[0] for where in located], 1)
    values = torch.cat([found[edit] for edit in (1, 3, 4)], 1)
    system = held(method, moment_of(0, 128)) + keys @ keys.T
    change = (values - present).double() @ keys.T @ system.inverse()  # all edits at once
    replay.rebuild(replay.chosen())
    (name,) = replay.original
    made = oriented(replay.lm, name).double() - oriented(replay.lm, name, replay.original[name])
    assert float((made - change).norm() / change.norm()) < 1e-4


@pytest.mark.parametrize("how", ["refit", "again"])
def test_several_requests_of_an_edit_stay_together(lm, how, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.dump(config_of(MEMIT, lm=lm)))
    joined = [REQUESTS[0], REQUESTS[1]._replace(joined=True), *REQUESTS[2:]]
    trainer = trainer_in(run, [EditLedger()], limit_val_batches=0)
    trainer.fit(configured(run), datamodule=data_of(joined))
    replay = rebuilt(lm, run, without=[2], removal=how)
    assert replay.edited_cases == [10, 11, 13]
    first = rebuilt(lm, run, until=1).edited.snapshot()
    assert equal(first, rebuilt(lm, run, until=1, removal=how).edited.snapshot())


def test_nothing_changes_where_nothing_later_is_kept(lm, rome_run):
    for options in ({}, {"without": [4]}, {"until": 2}, {"until": -3}):
        subtracted = rebuilt(lm, rome_run, **options).edited.snapshot()
        assert equal(
            subtracted, rebuilt(lm, rome_run, removal="again", **options).edited.snapshot()
        )


def test_fit_makes_the_same_edits_one_by_one(lm, tmp_path):
    run = ran(lm, tmp_path / "run", MEMIT)
    replay = Replay(str(run), lm=lm, without=[1], removal="again")
    trainer = trainer_in(tmp_path / "fit", [EditJournal()], limit_val_batches=0)
    trainer.fit(replay, datamodule=data_of(REQUESTS))
    again = rebuilt(lm, run, without=[1], removal="again")
    assert equal(replay.edited.snapshot(), again.edited.snapshot())


def test_validate_makes_them_in_half_precision_too(lm, tmp_path):
    run = ran(lm, tmp_path / "run", MEMIT, dtype="bfloat16")
    replay = Replay(str(run), lm=lm, dtype="bfloat16", without=[2], removal="again")
    trainer_in(tmp_path / "validate", []).validate(replay, datamodule=data_of(), verbose=False)
    never = ran(lm, tmp_path / "never", MEMIT, [REQUESTS[0], *REQUESTS[2:]], dtype="bfloat16")
    again = rebuilt(lm, never, dtype="bfloat16")
    assert equal(replay.edited.snapshot(), again.edited.snapshot())


def test_a_method_whose_updates_do_not_hold_the_values_cannot_be_refitted(lm, rome_run):
    with pytest.raises(ValueError, match=r"ConsistentROME of .* use --model.removal again"):
        rebuilt(lm, rome_run, without=[2], removal="refit")


def test_a_run_whose_method_is_unknown_is_refused(lm, copied):
    (copied / "config.yaml").write_text("model: {class_path: nothing.Known}\n")
    with pytest.raises(ValueError, match=r"config.yaml names no method"):
        rebuilt(lm, copied, without=[2], removal="again")
    (copied / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"has no config.yaml that names its method"):
        rebuilt(lm, copied, without=[2], removal="again")


def test_a_replay_of_a_replay_is_refused(lm, copied):
    path = "lightning_modules.jobs.replay.Replay"
    content = {"model": {"class_path": path, "init_args": {"ledger": str(copied), "lm": lm}}}
    (copied / "config.yaml").write_text(yaml.dump(content))
    with pytest.raises(ValueError, match="is a replay itself; give the run whose edits"):
        rebuilt(lm, copied, without=[2], removal="again")


def test_edits_that_several_methods_made_are_refused(lm, copied):
    lines = [json.loads(line) for line in (copied / "edits.jsonl").read_text().splitlines()]
    lines[2]["method"] = "ROME"
    (copied / "edits.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match="made by ConsistentROME and ROME, and later ones"):
        rebuilt(lm, copied, without=[2], removal="again")


def test_a_sweep_of_single_edits_has_nothing_to_make_again(lm, tmp_path):
    run = ran(lm, tmp_path / "run", ConsistentROME, callbacks=[RestoreWeights()])
    with pytest.raises(ValueError, match="each made on the unedited model"):
        rebuilt(lm, run, without=[2], removal="again")


def test_several_runs_are_refused(lm, rome_run, copied):
    replay = Replay([str(rome_run), str(copied)], lm=lm, without=[2], removal="again")
    replay.configure_model()
    with pytest.raises(ValueError, match="takes a single run, got 2"):
        replay.rebuild(replay.chosen())


def test_an_edit_that_fails_without_the_others_is_left_out_with_a_warning(
    lm, rome_run, monkeypatch
):
    edit = ConsistentROME.edit

    def fails(self, requests):
        if requests[0].case_id == 13:
            raise FloatingPointError("the value search's loss is nan")
        yield from edit(self, requests)

    monkeypatch.setattr(ConsistentROME, "edit", fails)
    with pytest.warns(UserWarning, match=r"edit 4 fails without the edits left out \(the value"):
        replay = rebuilt(lm, rome_run, without=[2], removal="again")
    assert replay.edited_cases == [10, 12]
