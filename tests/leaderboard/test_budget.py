"""How long the rest of a board takes."""

from docs.leaderboard import clock, trials
from docs.leaderboard.boards import Cell
from docs.leaderboard.clock import Clock, in_words
from tests.leaderboard.tiny_board import board_in


def test_the_rest_takes_what_the_row_took(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cell = Cell(board_in(place), "ft", 0, 10)
    cell.folder.parents[2].mkdir(parents=True)
    assert Clock().expected(cell) == clock.FIXED + 10 * clock.UNKNOWN
    Clock().add(cell, 10, clock.FIXED + 50.0)
    assert Clock().expected(cell) == clock.FIXED + 50
    assert Clock(hours=1).affords(cell)
    assert not Clock(hours=0.01).affords(cell)


def test_the_trials_that_a_row_lacks_count_once(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trials, "ranges_of", lambda row: {"x": [1.0, 100.0]})
    board = board_in(place, trials=5)
    cells = [Cell(board, "ft", seed, 10) for seed in (0, 1)]
    of_edits = 2 * (clock.FIXED + 10 * clock.UNKNOWN)
    of_trials = 5 * board.tuning.edits * clock.UNKNOWN
    assert Clock().needed(cells) == of_edits + of_trials
    assert Clock().needed([]) == 0


def test_durations_read_well():
    assert (in_words(61), in_words(5400)) == ("2 min", "1.5 h")
