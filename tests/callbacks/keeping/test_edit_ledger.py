import json

import pytest
import torch

from callbacks.keeping.edit_ledger import EditLedger, warn_of_gaps
from callbacks.watching.restore import RestoreWeights
from lightning_modules.editing.ledger import read_ledger
from tests.callbacks.runs import WEIGHT, FailsAtHugo, fit, watching

AMONG_OTHER_CALLBACKS = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


def kept(run):
    return [(entry.edit, entry.before, entry.case_ids) for entry in read_ledger(run.folder)]


def test_every_edit_that_stands_is_kept_low_rank(lm, tmp_path):
    run = fit(lm, tmp_path, [*watching(), EditLedger()], method=FailsAtHugo)
    assert kept(run) == [(1, 0, [10]), (3, 1, [12]), (4, 2, [13])]
    for entry in read_ledger(tmp_path):
        (update,) = entry.updates()
        assert update.weight == WEIGHT
        assert (update.left.shape, update.right.shape) == ((32, 1), (1, 128))


def test_edits_that_are_not_watched_are_kept_too(lm, tmp_path):
    run = fit(lm, tmp_path, [*watching(), EditLedger()], limit_val_batches=0)
    assert kept(run) == [(1, 0, [10]), (2, 1, [11]), (3, 2, [12]), (4, 3, [13])]


@pytest.mark.parametrize("together", [1, 3])
def test_edits_of_a_sweep_begin_from_the_original(lm, tmp_path, together):
    run = fit(lm, tmp_path, [*watching(), EditLedger(), RestoreWeights(together)])
    assert kept(run) == [(1, 0, [10]), (2, 0, [11]), (3, 0, [12]), (4, 0, [13])]


@AMONG_OTHER_CALLBACKS
def test_a_resumed_run_keeps_one_entry_per_edit(lm, tmp_path, sequential):
    first = fit(lm, tmp_path / "whole", [*watching(), EditLedger()])
    whole = [entry.updates() for entry in read_ledger(first.folder)]
    for name in ("summary.json", "edits.jsonl"):
        (first.folder / name).unlink()
    again = fit(lm, first.folder, [*watching(), EditLedger()], resume=sequential.checkpoint(2))
    assert kept(again) == [(1, 0, [10]), (2, 1, [11]), (3, 2, [12]), (4, 3, [13])]
    for one, other in zip(whole, (e.updates() for e in read_ledger(again.folder)), strict=True):
        assert torch.equal(one[0].dense(), other[0].dense())


def test_a_full_ledger_ends_with_a_warning_and_the_run_goes_on(lm, tmp_path):
    with pytest.warns(UserWarning, match="the ledger is full and ends at edit 2: later edits"):
        run = fit(lm, tmp_path, [*watching(), EditLedger(gigabytes=4e-6)])
    assert len(run.edits) == 4
    with pytest.warns(UserWarning, match="ends at edit 2; 2 later ones"):
        assert len(read_ledger(tmp_path)) == 2


def test_a_ledger_needs_room():
    with pytest.raises(ValueError, match="gigabytes must be positive, got 0"):
        EditLedger(0)


def test_edits_that_a_ledger_has_lost_are_named(tmp_path):
    lines = [{"edit": n, "status": "applied"} for n in (1, 2)]
    (tmp_path / "edits.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.warns(UserWarning, match="lacks 2 of 2 edits, the first of them edit 1"):
        warn_of_gaps(tmp_path)
