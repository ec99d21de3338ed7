import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.keeping.edit_ledger import EditLedger
from data_modules.forms.readers import read_requests
from lightning_modules.editing.editor import Editor, Update
from lightning_modules.editing.ledger import read_ledger
from lightning_modules.editing.transforms import PRUNE
from lightning_modules.functional.update_transforms import prune
from lightning_modules.jobs.replay import Replay
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import (
    REQUESTS,
    WEIGHT,
    FailsAtHugo,
    data_of,
    fit,
    tiny_lm,
    trainer_in,
    watching,
)

AMONG_OTHER_CALLBACKS = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


class Shrink(Editor):
    """A method whose updates are dense."""

    def edited_weights(self):
        return [WEIGHT]

    def edit(self, requests):
        weight = self.edited.master(WEIGHT).T
        yield Update(WEIGHT, -0.01 * weight)
        yield Update(WEIGHT, -0.01 * weight[:, :2], torch.eye(2, weight.shape[1]))


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return tiny_lm(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="module")
def weights():
    """The edited weight after each edit of ``run``."""
    return []


@pytest.fixture(scope="module")
def run(lm, weights, tmp_path_factory):
    """Four edits, of which the second fails."""

    class Watcher(EditLedger):
        def on_validation_end(self, trainer, module):
            super().on_validation_end(trainer, module)
            if not trainer.sanity_checking:
                weights.append(module.lm.get_parameter(WEIGHT).clone())

    folder = tmp_path_factory.mktemp("run")
    return fit(lm, folder, [*watching(), Watcher()], method=FailsAtHugo)


def replayed(lm, *runs, **options):
    """A model rebuilt in memory, as ``validate`` does it."""
    editor = Replay([str(run.folder) for run in runs], lm=lm, **options)
    editor.configure_model()
    editor.rebuild(editor.chosen())
    return editor


def weight(editor):
    return editor.lm.get_parameter(WEIGHT)


@pytest.mark.parametrize("edit", [1, 2, 3, 4])
def test_the_model_as_of_an_edit_is_that_of_the_run_bit_by_bit(lm, run, weights, edit):
    assert torch.equal(weight(replayed(lm, run, until=edit)), weights[edit - 1])


def test_undoing_everything_gives_the_original_bit_by_bit(lm, run):
    editor = replayed(lm, run, until=0)
    assert torch.equal(weight(editor), run.editor.original[WEIGHT])
    assert editor.edited_cases == []
    assert torch.equal(weight(replayed(lm, run, until=-3)), weight(editor))


@pytest.mark.parametrize(
    ("options", "cases"),
    [
        ({}, [10, 12, 13]),
        ({"until": 3}, [10, 12]),
        ({"until": -1}, [10, 12]),
        ({"without": [3]}, [10, 13]),
        ({"until": 3, "without": [1]}, [12]),
        ({"only": [1, 4]}, [10, 13]),
    ],
)
def test_the_chosen_edits_are_made(lm, run, options, cases):
    editor = replayed(lm, run, **options)
    assert editor.edited_cases == cases
    change = sum(
        update.dense()
        for entry in read_ledger(run.folder)
        if entry.case_ids[0] in cases
        for update in entry.updates()
    )
    made = (weight(editor) - run.editor.original[WEIGHT]).T
    torch.testing.assert_close(made.double(), change, rtol=1e-4, atol=1e-6)


def test_an_edit_after_the_runs_last_one_is_refused_and_the_number_of_edits_told(
    lm, run, monkeypatch
):
    told = []
    monkeypatch.setattr("lightning_modules.jobs.replay.rank_zero_info", told.append)
    for until in (10, -4):
        with pytest.raises(ValueError, match=f"until is {until}, but .* has 4 edits, 3 of them ap"):
            replayed(lm, run, until=until)
    replayed(lm, run, until=3)
    assert told == [f"Replaying 2 of 3 edits of {run.folder} on {lm}"]


def test_dense_updates_and_half_precision_are_replayed_bit_by_bit(lm, tmp_path):
    trainer = trainer_in(tmp_path, [EditLedger()], limit_val_batches=0)
    editor = Shrink(lm=lm, dtype="bfloat16")
    trainer.fit(editor, datamodule=data_of())
    again = Replay(str(tmp_path), lm=lm, dtype="bfloat16")
    again.configure_model()
    again.rebuild(again.chosen())
    assert torch.equal(again.edited.master(WEIGHT), editor.edited.master(WEIGHT))
    assert torch.equal(weight(again), weight(editor))


def test_ledgers_of_several_runs_come_together_on_one_model(lm, run, tmp_path):
    other = fit(lm, tmp_path, [EditLedger()], REQUESTS[1:2], limit_val_batches=0)
    editor = replayed(lm, run, other)
    assert editor.edited_cases == [10, 12, 13, 11]
    both = (run.weight - run.editor.original[WEIGHT]) + other.weight
    torch.testing.assert_close(weight(editor), both, rtol=1e-4, atol=1e-6)
    assert [entry.edit for entry in editor.entries] == [1, 3, 4, 5]


def test_fit_makes_the_edits_one_by_one_and_finds_the_same(lm, run, tmp_path):
    data = data_of(read_requests(str(run.folder)))
    trainer = trainer_in(tmp_path, [*watching(), EditLedger()])
    editor = Replay(str(run.folder), lm=lm)
    trainer.fit(editor, datamodule=data)
    again = run._replace(trainer=trainer, editor=editor, folder=tmp_path)
    applied = [edit for edit in run.edits if edit["status"] == "applied"]
    assert again.column("perplexity") == [edit["perplexity"] for edit in applied]
    assert again.column("efficacy") == [edit.get("efficacy") for edit in applied]
    assert torch.equal(weight(editor), run.weight)
    assert [entry.case_ids for entry in read_ledger(tmp_path)] == [[10], [12], [13]]


def test_fit_leaves_edits_out_and_ends_with_the_last_one_chosen(lm, run, tmp_path):
    trainer = trainer_in(tmp_path, watching())
    editor = Replay(str(run.folder), lm=lm, without=[1], until=3)
    trainer.fit(editor, datamodule=data_of(read_requests(str(run.folder))))
    again = run._replace(trainer=trainer, editor=editor, folder=tmp_path)
    assert again.column("status") == ["skipped", "applied"]
    assert editor.edited_cases == [12]
    assert torch.equal(weight(editor), weight(replayed(lm, run, only=[3])))


def test_validate_watches_the_replayed_model(lm, run, tmp_path):
    editor = Replay(str(run.folder), lm=lm, until=3)
    trainer = trainer_in(tmp_path, watching())
    (found,) = trainer.validate(editor, datamodule=data_of(), verbose=False)
    assert found["perplexity"] == pytest.approx(run.edits[2]["perplexity"], rel=1e-6)


def test_test_judges_the_edits_that_were_made(lm, run, tmp_path):
    editor = Replay(str(run.folder), lm=lm, until=3)
    (found,) = trainer_in(tmp_path, watching()).test(editor, data_of(), verbose=False)
    assert found["retention/edits"] == 2
    assert editor.edited_cases == [10, 12]


@AMONG_OTHER_CALLBACKS
def test_a_replay_goes_on_behind_its_checkpoint(lm, run, tmp_path):
    data = data_of(read_requests(str(run.folder)))
    keeper = ModelCheckpoint(tmp_path / "saved", "{step}", every_n_train_steps=1, save_top_k=-1)
    first = trainer_in(tmp_path, [*watching(), keeper], max_steps=1, enable_checkpointing=True)
    first.fit(Replay(str(run.folder), lm=lm), datamodule=data)
    editor = Replay(str(run.folder), lm=lm)
    rest = trainer_in(tmp_path / "rest", watching())
    rest.fit(editor, datamodule=data, ckpt_path=tmp_path / "saved" / "step=1.ckpt")
    assert editor.edited_cases == [10, 12, 13]
    assert torch.equal(weight(editor), run.weight)


def test_edits_that_the_ledger_does_not_hold_are_refused(lm, run):
    with pytest.raises(ValueError, match=r"edits \[2, 9\] are not in the ledger: .*edits.jsonl"):
        replayed(lm, run, without=[2, 9])


def test_the_ledger_of_another_model_is_refused(run, tmp_path):
    other = tiny_lm(tmp_path, seed=1)
    with pytest.raises(ValueError, match=r"edits of another model than .* name its model by"):
        replayed(other, run)


def test_requests_that_the_run_did_not_edit_are_refused(lm, run):
    editor = replayed(lm, run)
    with pytest.raises(ValueError, match=r"no edit of the cases \[11\]; give .*--data.path"):
        editor.make_edit(REQUESTS[1:2])


def test_the_same_requests_can_be_edited_by_another_method(lm, run, tmp_path):
    requests = read_requests(str(run.folder))
    assert requests == [REQUESTS[0], REQUESTS[2], REQUESTS[3]]
    again = fit(lm, tmp_path, [], requests, method=ROME, limit_val_batches=0)
    assert again.editor.edited_cases == [10, 12, 13]


def test_a_transform_is_applied_once_to_the_sum_of_all_edits(lm, run):
    plain = Replay(str(run.folder), lm=lm)
    pruned = Replay(str(run.folder), lm=lm, transform=PRUNE())
    sums = []
    for replay in (plain, pruned):
        replay.configure_model()
        replay.rebuild(replay.chosen())
        sums.append((replay.edited.master(WEIGHT) - replay.original[WEIGHT]).double().T)
    original = plain.original[WEIGHT].double().T
    torch.testing.assert_close(sums[1], prune(sums[0], original), rtol=1e-4, atol=1e-5)
    assert pruned.edited_cases == plain.edited_cases
