"""What goes wrong around a run, and what is left of it."""

import itertools
import resource
import signal
import time

import lightning as L
import pytest
import torch

from callbacks.keeping.checkpoint import EditCheckpoint
from callbacks.keeping.edit_ledger import EditLedger
from callbacks.keeping.run_folder import Claim
from lightning_modules.editing.ledger import read_ledger
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import (
    METHOD,
    data_of,
    fit,
    tiny_lm,
    trainer_in,
    watching,
    without_timings,
)

AMONG_OTHER_CALLBACKS = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return tiny_lm(tmp_path_factory.mktemp("lm"))


class DiskFillsUp(L.Callback):
    """Once the third edit begins, no file may grow beyond so many bytes.

    Args:
        beyond: bytes, counted from what the journal holds by then.
    """

    def __init__(self, beyond: int) -> None:
        self.beyond = beyond
        self.limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == 2:
            journal = trainer.default_root_dir + "/edits.jsonl"
            with open(journal, "a") as file:
                room = file.tell() + self.beyond
            self.handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, self.limits[1]))

    def on_exception(self, trainer, module, exception):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)
        signal.signal(signal.SIGXFSZ, self.handler)


@AMONG_OTHER_CALLBACKS
@pytest.mark.parametrize(
    ("beyond", "watched", "said"),
    [
        (9, True, r"edits.jsonl takes no further line .*make room, and continue with --ckpt_path"),
        (
            500,
            False,
            r"edit 3 cannot be written to .*ledger .*make room, and continue with --ckpt_path",
        ),
    ],
    ids=["journal", "ledger"],
)
def test_a_run_whose_disk_fills_up_says_so_and_loses_one_edit(lm, tmp_path, beyond, watched, said):
    folder = tmp_path / "run"

    def callbacks(*others):
        return [*(watching() if watched else []), EditLedger(), *others, EditCheckpoint()]

    whole = fit(lm, tmp_path / "whole", callbacks(), enable_checkpointing=True)
    with pytest.raises(OSError, match=said):
        fit(lm, folder, callbacks(DiskFillsUp(beyond)), enable_checkpointing=True)
    assert len(read_ledger(folder)) == 2
    last = folder / "checkpoints" / "last.ckpt"
    rest = fit(lm, folder, callbacks(), resume=last, enable_checkpointing=True)
    assert without_timings(rest.edits) == without_timings(whole.edits)
    assert torch.equal(rest.weight, whole.weight)
    assert [entry.edit for entry in read_ledger(folder)] == [1, 2, 3, 4]


def test_a_folder_in_which_nothing_can_be_made_is_refused_before_any_work(lm, tmp_path):
    (tmp_path / "file").touch()
    editor = ROME(lm=lm, **METHOD)
    with pytest.raises(OSError, match="file"):
        trainer_in(tmp_path / "file" / "run", watching()).fit(editor, datamodule=data_of())
    assert editor.lm is None


def test_two_runs_do_not_write_to_one_folder_at_once(lm, tmp_path):
    other = Claim(tmp_path)
    editor = ROME(lm=lm, **METHOD)
    with pytest.raises(ValueError, match="another run is writing to"):
        trainer_in(tmp_path, watching()).fit(editor, datamodule=data_of())
    assert editor.lm is None
    other.release()
    assert len(fit(lm, tmp_path, watching()).edits) == 4


def test_a_clock_that_goes_backwards_makes_no_time_negative(lm, tmp_path, monkeypatch):
    clock = itertools.count(2e9, -3600)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    run = fit(lm, tmp_path, watching())
    assert next(clock) < 2e9 - 3600  # somebody has looked at it
    assert all(edit["seconds_edit"] > 0 < edit["seconds_watch"] for edit in run.edits)
