import shutil

import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint

from callbacks.keeping.checkpoint import EditCheckpoint
from callbacks.keeping.checkpoint_files import WholeFiles
from callbacks.keeping.increments import Increments
from callbacks.keeping.seals import follows, line_of
from callbacks.watching.guard import CollapseGuard
from callbacks.watching.restore import RestoreWeights
from data_modules.records import EditRequest
from lightning_modules.methods.fine_tuning import FineTuning
from lightning_modules.methods.memit import MEMIT
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import METHOD, REQUESTS, data_of, trainer_in, watching

SIX = [*REQUESTS, EditRequest(14, "{} lies in", "Lima", "Asia"), EditRequest(15, "{} is", "A", "B")]


class Copies(Checkpoint):
    """Copies the checkpoints' folder after each edit, as a killed run would leave it."""

    def on_validation_end(self, trainer, pl_module):
        if trainer.state.fn == "fit" and trainer.global_step:
            folder = trainer.default_root_dir
            shutil.copytree(f"{folder}/checkpoints", f"{folder}/{trainer.global_step}/checkpoints")


def rome(lm):
    return ROME(lm=lm, **METHOD)


def memit(lm):
    options = {name: held for name, held in METHOD.items() if name != "layer"}
    return MEMIT(lm=lm, layers=[0, 1], history=True, **options)


def fit(editor, folder, *callbacks, resume=None, whole_every=2, light=0.0, requests=SIX):
    keeping = EditCheckpoint(whole_every, light)
    parts = [*watching(threshold=1e30), *callbacks, keeping, Copies()]
    trainer = trainer_in(folder, parts, enable_checkpointing=True)
    trainer.fit(editor, datamodule=data_of(requests), ckpt_path=resume)
    return editor


def state(editor):
    weights = {name: weight.clone() for name, weight in editor.edited.masters().items()}
    return weights | editor.history, editor.edited_requests


def assert_same(one, other):
    (tensors, requests), (others, their_requests) = state(one), state(other)
    assert requests == their_requests
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)


@pytest.fixture(scope="module")
def whole(lm, tmp_path_factory):
    """A run that nothing happened to, with the checkpoints as they were after each edit."""
    folder = tmp_path_factory.mktemp("whole")
    return fit(memit(lm), folder), folder


def after(whole, edits, tmp_path):
    """The last checkpoint of the run killed after so many edits, in a folder of its own."""
    shutil.copytree(whole[1], tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints")
    shutil.copytree(tmp_path / str(edits) / "checkpoints", tmp_path / "checkpoints")
    for number in range(edits + 1, len(SIX) + 1):
        shutil.rmtree(tmp_path / str(number))
    return tmp_path / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize("edits", [1, 2, 3, 5])
def test_a_run_killed_after_any_edit_continues_with_the_same_bits(whole, lm, tmp_path, edits):
    last = after(whole, edits, tmp_path)
    assert_same(fit(memit(lm), tmp_path, resume=last), whole[0])


def test_as_many_increments_as_allowed_follow_a_whole_checkpoint(whole):
    lasts = [whole[1] / str(edits) / "checkpoints" / "last.ckpt" for edits in range(1, 7)]
    assert [follows(last) is not None for last in lasts] == [False, True, True, False, True, True]
    assert [len(line_of(last)) for last in lasts] == [1, 2, 3, 1, 2, 3]
    assert torch.load(lasts[2])["increment"]["updates"]
    assert "state_dict" not in torch.load(lasts[2])


def test_the_last_checkpoint_of_a_finished_run_needs_no_other(whole, tmp_path):
    last = shutil.copy(whole[1] / "checkpoints" / "last.ckpt", tmp_path)
    held = WholeFiles().load_checkpoint(last)
    assert held["global_step"] == len(SIX)
    for name, weight in whole[0].edited.masters().items():
        assert torch.equal(held["state_dict"][f"lm.{name}"], weight)
    assert held["history"].keys() == whole[0].history.keys()


def test_only_the_files_back_to_the_last_whole_checkpoint_but_one_are_kept(whole):
    files = {n: len(list((whole[1] / str(n) / "checkpoints").iterdir())) for n in range(1, 7)}
    assert files == {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6}


def damage(file):
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(("which", "left"), [(0, 5), (1, 4), (2, 3)])
def test_a_damaged_file_costs_the_edits_that_build_on_it(whole, lm, tmp_path, which, left):
    last = after(whole, 6, tmp_path)
    damage(line_of(last)[which])
    with pytest.warns(
        UserWarning, match=r"last.ckpt .*damaged .* the run continues from .*earlier"
    ):
        assert WholeFiles().load_checkpoint(last)["global_step"] == left
    for number in range(left + 1, len(SIX) + 1):
        shutil.rmtree(tmp_path / str(number))
    with pytest.warns(UserWarning, match="damaged"):
        editor = fit(memit(lm), tmp_path, resume=last)
    assert_same(editor, whole[0])


def test_an_increment_without_what_it_builds_on_is_refused(whole, tmp_path):
    last = shutil.copy(whole[1] / "5" / "checkpoints" / "last.ckpt", tmp_path / "own.ckpt")
    with pytest.raises(
        ValueError, match=r"own.ckpt builds on a checkpoint that is damaged or missing"
    ):
        WholeFiles().load_checkpoint(last)


def test_single_edits_follow_the_original_weights_and_no_file(lm, tmp_path):
    edited = fit(rome(lm), tmp_path / "whole", RestoreWeights(together=2))
    last = tmp_path / "whole" / "4" / "checkpoints" / "last.ckpt"
    assert torch.load(last)["increment"]["follows"] is False
    assert len(list(last.parent.iterdir())) == 2
    alone = shutil.copy(last, tmp_path / "alone.ckpt")
    shutil.copy(tmp_path / "whole" / "edits.jsonl", tmp_path)
    editor = fit(rome(lm), tmp_path, RestoreWeights(together=2), resume=alone)
    assert_same(editor, edited)


def test_an_edit_taken_back_leaves_an_empty_increment(lm, tmp_path):
    editor = fit(rome(lm), tmp_path, CollapseGuard(threshold=1e-3))
    assert editor.edited_requests == []
    held = torch.load(tmp_path / "3" / "checkpoints" / "last.ckpt")["increment"]
    assert held["updates"] == held["requests"] == []


def test_dense_updates_are_no_smaller_than_the_weights_and_saved_with_them(lm, tmp_path):
    fit(FineTuning(lm=lm, layers=[0]), tmp_path)
    for edits in range(1, len(SIX) + 1):
        assert "state_dict" in torch.load(tmp_path / str(edits) / "checkpoints" / "last.ckpt")


def test_light_checkpoints_are_whole(lm, tmp_path):
    fit(rome(lm), tmp_path, light=1.0)
    assert "state_dict" in torch.load(tmp_path / "5" / "checkpoints" / "last.ckpt")
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_overwritten_weights_have_no_increment(lm, tmp_path):
    editor, increments = fit(rome(lm), tmp_path), Increments(5, 0)
    editor.edited.mark()
    assert increments.of(editor) is None  # the first
    assert increments.of(editor)["updates"] == []
    assert increments.at(editor)
    editor.edited.assign({name: weight + 1 for name, weight in editor.edited.masters().items()})
    assert not increments.at(editor)
    assert increments.of(editor) is None


def test_weights_that_are_rebuilt_with_other_bits_are_noticed(lm, tmp_path):
    editor = fit(rome(lm), tmp_path)
    weights = {f"lm.{name}": weight.clone() for name, weight in editor.edited.masters().items()}
    with pytest.warns(UserWarning, match="differ from those of the run in rounding"):
        editor.edited.rebuild(
            {"state_dict": weights, "checksums": dict.fromkeys(editor.original, 0)}
        )


@pytest.mark.parametrize("options", [(-1, 1.0), (1, -1.0)])
def test_negative_limits_are_refused(options):
    with pytest.raises(ValueError, match="whole_every and light must not be negative"):
        EditCheckpoint(*options)
