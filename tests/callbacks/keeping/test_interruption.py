import os
import signal

import lightning as L
import pytest

from callbacks.keeping.interruption import Interruption
from tests.callbacks.runs import fit, watching


class Sends(L.Callback):
    """Sends this process a signal, so many times, in the middle of the second edit."""

    def __init__(self, number: int, times: int = 1) -> None:
        self.number = number
        self.times = times

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        for _ in range(self.times if batch_idx == 1 else 0):
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_edit_in_flight_is_finished_and_watched(lm, tmp_path, monkeypatch, number, code):
    said = []
    monkeypatch.setattr("callbacks.keeping.interruption.rank_zero_info", said.append)
    before = signal.getsignal(number)
    interruption = Interruption()
    run = fit(lm, tmp_path, [*watching(), interruption, Sends(number)])
    assert run.column("edit") == [1, 2]
    assert None not in run.column("perplexity")
    assert run.summary["edits"] == 2
    assert interruption.stopped
    assert interruption.exit_code == code
    assert said[-1].startswith("Stopped after edit 2, all saved")
    assert signal.getsignal(number) is before


def test_a_second_interrupt_ends_the_run_at_once(lm, tmp_path):
    with pytest.raises(SystemExit):
        fit(lm, tmp_path, [*watching(), Interruption(), Sends(signal.SIGINT, 2)])


def test_an_edit_that_would_not_be_watched_is_not_watched_for_being_the_last(lm, tmp_path):
    callbacks = [*watching(), Interruption(), Sends(signal.SIGTERM)]
    run = fit(lm, tmp_path, callbacks, val_check_interval=3)
    assert run.column("perplexity") == [None, None]


def test_a_run_that_nobody_stops_is_not_stopped(lm, tmp_path):
    interruption = Interruption()
    run = fit(lm, tmp_path, [*watching(), interruption])
    assert len(run.edits) == 4
    assert not interruption.stopped
