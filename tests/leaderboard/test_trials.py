"""The search for each row's settings."""

import json

import pytest

from data_modules.meta_training import held_out
from docs.leaderboard import trials
from docs.leaderboard.boards import COST, TUNING, Cell, Tuning
from docs.leaderboard.trials import drawn, tuned
from tests.leaderboard.tiny_board import board_in

pytestmark = pytest.mark.usefixtures("inside")


def test_every_row_has_as_many_trials_drawn_from_its_ranges(place):
    board, ranges = board_in(place, trials=5), {"a": [1.0, 100.0], "b": [0.1, 0.2]}
    tries = drawn(board, "ft", ranges)
    assert (len(tries), tries[0]) == (5, {})
    assert all(1 <= t["a"] <= 100 and 0.1 <= t["b"] <= 0.2 for t in tries[1:])
    assert tries == drawn(board, "ft", ranges)
    assert drawn(board, "ft", {}) == []


def test_the_best_trial_is_chosen_on_requests_of_the_tuning_part(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ranges = {"model.learning_rate": [1e-9, 2e-9]}
    monkeypatch.setattr(trials, "ranges_of", lambda row: ranges)
    asked = []
    monkeypatch.setattr(trials, "edit_each", lambda cli: asked.extend(cli.datamodule.requests) or 0)
    monkeypatch.setattr(trials, "merit", lambda means: 0.1 * len(asked))
    found = tuned(board_in(place, trials=3), "ft")
    assert [trial["score"] for trial in found["trials"]] == pytest.approx([0.2, 0.4, 0.6])
    assert found["choice"] == found["trials"][-1]["options"]
    assert found["ranges"] == ranges
    assert not any(map(held_out, asked))
    assert tuned(board_in(place, trials=3), "ft") == found


def test_a_trial_edits_and_judges_with_its_settings(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trials, "merit", lambda means: means["efficacy"])
    timid, bold = (
        trials.trial(board_in(place), "ft", {"model.learning_rate": rate, "model.radius": 0.5})
        for rate in (1e-9, 0.05)
    )
    assert (timid["score"], timid["failed"]) == (timid["efficacy"], 0)
    assert timid["perplexity"] != bold["perplexity"]
    assert timid["options"] == {"model.learning_rate": 1e-9, "model.radius": 0.5}


def test_runs_keep_the_settings_that_they_were_made_with(place):
    other = board_in(place)._replace(tuning=Tuning(1, 7, 0))
    with pytest.raises(ValueError, match="have the settings of another tuning budget than"):
        tuned(other, "ft")


@pytest.mark.parametrize("changed", [False, True])
def test_more_trials_continue_and_set_aside_runs_of_another_choice(
    changed, place, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trials, "ranges_of", lambda row: {"x": [1.0, 100.0]})
    tried = []

    def trial(board, row, options):
        tried.append(options)
        later = len(tried) > 2
        return {"options": options, "score": (0.9 if changed else 0.1) if later else 0.5}

    monkeypatch.setattr(trials, "trial", trial)
    few = tuned(board_in(place, trials=2), "ft")
    run = Cell(board_in(place), "ft", 0, 2).folder
    run.mkdir(parents=True)
    (run.parents[1] / COST).touch()
    trials.copy_to(run, board_in(place, trials=2), "ft")
    more = tuned(board_in(place, trials=4), "ft")
    assert tried == drawn(board_in(place, trials=4), "ft", {"x": [1.0, 100.0]})
    assert more["trials"][:2] == few["trials"]
    assert (more["choice"] == few["choice"]) is not changed
    aside = run.parents[1] / "of-2-trials" / "seed-0" / "version_0"
    kept, content = (aside, few) if changed else (run, more)
    assert json.loads((kept / TUNING).read_text()) == content
    assert (run.exists(), aside.exists()) == (not changed, changed)
    assert (run.parents[1] / COST).exists() is not changed


def test_ranges_declared_later_change_no_row_whose_budget_is_spent(place, monkeypatch):
    monkeypatch.setattr(trials, "trial", lambda *_: pytest.fail("tried again"))
    monkeypatch.setattr(trials, "drawn", lambda *_: [{}, {"x": 1.0}])
    assert tuned(board_in(place), "ft")["choice"] == {}
    assert trials.trials_left(board_in(place), "ft") == 0


def test_a_killed_search_goes_on_with_the_next_trial(place, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "ranges_of", lambda row: {"x": [1.0, 100.0]})
    board, tried = board_in(place, trials=4), []

    def trial(board, row, options):
        if killed and len(tried) == 2:
            raise KeyboardInterrupt
        tried.append(options)
        return {"options": options, "score": options.get("x", 50.0)}

    monkeypatch.setattr(trials, "trial", trial)
    found = []
    for killed in (False, True):
        (tmp_path / str(killed)).mkdir()
        monkeypatch.chdir(tmp_path / str(killed))
        tried.clear()
        if killed:
            with pytest.raises(KeyboardInterrupt):
                tuned(board, "ft")
            assert trials.trials_left(board, "ft") == 2
            killed = False
        found.append(tuned(board, "ft"))
        assert tried == drawn(board, "ft", {"x": [1.0, 100.0]})
    assert found[0] == found[1]
    assert not list(tmp_path.rglob("of-*"))


def test_merit_is_romes_score_or_efficacy_alone():
    means = {"efficacy": 1.0, "paraphrase": 0.5, "neighborhood": 0.5}
    assert trials.merit(means) == pytest.approx(0.6)
    assert trials.merit({"efficacy": 0.7}) == 0.7


def test_a_row_whose_trials_all_fail_says_so(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trials, "ranges_of", lambda row: {"model.learning_rate": [0.1, 0.2]})
    monkeypatch.setattr(trials, "edit_each", lambda cli: 1)
    found = tuned(board_in(place, trials=2), "ft")
    assert (found["all_failed"], found["choice"]) == (True, {})
