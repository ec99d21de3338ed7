import pytest
from lightning.pytorch.loggers import CSVLogger

from callbacks.keeping.progress import EditBar
from callbacks.watching.edit_metrics import EditMetrics
from callbacks.watching.perplexity import Perplexity
from callbacks.watching.restore import RestoreWeights
from tests.callbacks.runs import METHOD, REQUESTS, fit, trainer_in, watching


@pytest.fixture
def shown(lm, tmp_path, capsys, monkeypatch):
    """What a run of two edits writes to the terminal."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    logger = CSVLogger(tmp_path, name="")
    callbacks = [*watching(), EditBar()]
    fit(lm, tmp_path, callbacks, REQUESTS[:2], enable_progress_bar=True, logger=logger)
    return capsys.readouterr().out


def test_bar_counts_edits_and_shows_perplexity_and_efficacy(shown):
    last = shown.rstrip().splitlines()[-1].split("\r")[-1]
    assert last.startswith("Editing: 100%")
    assert "2/2" in last
    assert "efficacy=" in last
    assert "perplexity=" in last


def test_bar_is_named_for_the_baseline_and_has_no_other_names(shown):
    assert "Watching the unedited model: 100%" in shown
    for name in ("Sanity", "Validation", "v_num"):
        assert name not in shown


def test_validation_alone_has_a_bar(sequential, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    trainer = trainer_in(tmp_path, [Perplexity(), EditBar()], enable_progress_bar=True)
    trainer.validate(sequential.editor, datamodule=sequential.data, verbose=False)
    assert "Validation" in capsys.readouterr().out


def test_the_bar_of_a_sweep_tells_what_is_done_together(lm, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    logger = CSVLogger(tmp_path, name="")
    callbacks = [*watching(), RestoreWeights(4), EditBar()]
    fit(lm, tmp_path, callbacks, REQUESTS, enable_progress_bar=True, logger=logger)
    shown = capsys.readouterr().out
    for step in range(1, METHOD["value"].steps + 1):
        assert f"Searching 4 values: 0 found, step {step}" in shown
    assert "Watching 4 edits" in shown
    assert shown.rstrip().splitlines()[-1].split("\r")[-1].startswith("Editing: 100%")


def test_last_words_begin_behind_the_bar(lm, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    before = []
    told = "callbacks.keeping.closing.rank_zero_info"
    monkeypatch.setattr(told, lambda words: before.append(capsys.readouterr().out))
    callbacks = [*watching(), EditBar()]
    fit(lm, tmp_path, callbacks, REQUESTS[:1], enable_progress_bar=True)
    assert before[0].endswith("\n")
    assert "Editing: 100%" in before[0]
    assert "Editing" not in capsys.readouterr().out


def test_a_test_has_a_bar_without_the_loaders_number(sequential, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    trainer = trainer_in(tmp_path, [EditMetrics(), EditBar()], enable_progress_bar=True)
    trainer.test(sequential.editor, datamodule=sequential.data)
    shown = capsys.readouterr().out
    assert shown.rstrip().split("\r")[-1].startswith("Testing: 100%")
    assert shown.endswith("\n")
