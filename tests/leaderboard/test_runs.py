"""Runs of a board: made, continued, left out."""

import json
import shutil

import pytest

from callbacks.keeping.run_folder import read_journal
from callbacks.watching.standing import read_standing
from docs.leaderboard import launching, results, trials
from docs.leaderboard.__main__ import attempt, main, run
from docs.leaderboard.boards import TUNING, Cell
from docs.leaderboard.clock import Clock
from docs.leaderboard.protocols import PROTOCOLS
from tests.leaderboard.tiny_board import board_in, run_of

pytestmark = pytest.mark.usefixtures("inside")


def test_every_cell_was_run_with_its_settings_and_costs(place):
    for row in ("ft", "no-edit", "in-context"):
        for seed in (0, 1):
            cell = run_of(place, row, seed)
            assert cell.done
            assert len(read_journal(cell.folder)) == 2
            assert json.loads((cell.folder / "tuning.json").read_text())["choice"] == {}
        cost = json.loads((cell.folder.parents[1] / "cost.json").read_text())
        assert set(cost) == {"seconds", "memory", "operations", "kept"}


def test_seeds_draw_other_requests(place):
    first, second = (
        [line["case_id"] for line in read_journal(run_of(place, seed=seed).folder)]
        for seed in (0, 1)
    )
    assert first != second


def test_a_second_command_skips_what_is_done(place, monkeypatch, capsys):
    monkeypatch.setattr("docs.leaderboard.__main__.make", lambda *_: pytest.fail("ran again"))
    monkeypatch.setattr("docs.leaderboard.__main__.quiet", lambda: None)
    monkeypatch.setattr("docs.leaderboard.__main__.write", lambda boards: None)
    monkeypatch.setattr(
        "docs.leaderboard.__main__.read_boards", lambda names=None: [board_in(place)]
    )
    main([])
    assert capsys.readouterr().out == ""


def test_a_longer_length_continues_the_run(place, tmp_path, monkeypatch):
    shutil.copytree("runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    cell = Cell(board_in(place, lengths=(2, 3)), "ft", 0, 3)
    before = read_journal(cell.folder)
    assert not cell.done
    launching.make(cell, {}, ())
    assert cell.done
    assert read_journal(cell.folder)[:2] == before
    assert {line["after"] for line in read_standing(cell.folder / "standing.jsonl")} == {
        1,
        2,
        3,
    }


def test_a_board_may_edit_several_requests_at_a_time(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    board = board_in(place, batch=3, lengths=(2,))
    cell = Cell(board, "ft", 0, 2)
    launching.make(cell, {}, ())
    assert cell.done
    cases = [case for line in read_journal(cell.folder) for case in line["case_id"]]
    assert len(set(cases)) == 6
    for protocol in PROTOCOLS[:2]:
        assert set(results.scores_of([cell.course], protocol, 2)) == set(cases)
    assert trials.trial(board, "ft", {})["failed"] == 0


def test_a_budget_leaves_out_what_does_not_fit_and_says_so(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("docs.leaderboard.__main__.quiet", lambda: None)
    monkeypatch.setattr("docs.leaderboard.__main__.write", lambda boards: None)
    monkeypatch.setattr(
        "docs.leaderboard.__main__.read_boards", lambda names=None: [board_in(place)]
    )
    main(["--hours", "0.001"])
    assert "tiny: 6 runs are left, about 3 min" in capsys.readouterr().out


def test_a_budget_leaves_out_trials_too(place, monkeypatch):
    monkeypatch.setattr(trials, "ranges_of", lambda row: {"x": [1.0, 100.0]})
    monkeypatch.setattr(trials, "is_continued", lambda known, budget, ranges: True)
    monkeypatch.setattr(Clock, "per_edit", lambda self, cell: 2.0)
    asked = []
    monkeypatch.setattr(
        "docs.leaderboard.__main__.options_of", lambda board, row: asked.append(row)
    )
    for hours in (0.01, 1):  # 36 s have room for a run's start, not for 24 edits
        run(board_in(place, trials=12), Clock(hours), ["ft"])
    assert asked == ["ft"]


def test_an_interrupted_run_has_its_settings_too(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cell = run_of(place)

    def stop(*_):
        cell.folder.mkdir(parents=True)
        raise SystemExit(143)

    monkeypatch.setattr("docs.leaderboard.__main__.make", stop)
    with pytest.raises(SystemExit):
        attempt(cell, Clock(None), [])
    assert json.loads((cell.folder / TUNING).read_text())["row"] == "ft"


@pytest.mark.parametrize("together", [(), ("ft",)])
def test_an_interrupted_training_on_all_requests_at_once_begins_anew(
    together, place, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    cell = Cell(board_in(place)._replace(together=together), "ft", 0, 2)

    def stop(words):
        (cell.folder / "checkpoints").mkdir(parents=True)
        for name in ("checkpoints/last.ckpt", "finished"):
            (cell.folder / name).touch()
        (cell.folder / "edits.jsonl").write_text('{"edit": 1}\n{"edit": 2}\n')
        raise SystemExit(143)

    monkeypatch.setattr(launching.train, "main", stop)
    with pytest.raises(SystemExit):
        launching.make(cell, {}, ())
    assert cell.done is not bool(together)
    assert (cell.course is None) is bool(together)
    assert ("--ckpt_path" in launching.command(cell, {})) is not bool(together)


def test_a_row_that_lacks_a_file_is_left_out_and_the_others_go_on(
    place, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    made = []

    def attempt(cell, clock, others):
        made.append((cell.row, cell.seed))
        if cell.row == "ft":
            raise FileNotFoundError("no anchor; make it")

    def options_of(board, row):  # of added trials
        raise FileNotFoundError("no statistics; make them")

    monkeypatch.setattr("docs.leaderboard.__main__.attempt", attempt)
    monkeypatch.setattr("docs.leaderboard.__main__.measured", lambda board, row: {})
    monkeypatch.setattr("docs.leaderboard.__main__.options_of", options_of)
    begun = run_of(place, "in-context").folder
    begun.mkdir(parents=True)
    (begun / "edits.jsonl").write_text('{"edit": 1}\n')
    monkeypatch.setattr(Clock, "needed", lambda self, cells: 0.0)
    run(board_in(place), Clock(None), ["ft", "no-edit", "in-context"])
    assert made == [("ft", 0), ("no-edit", 0), ("no-edit", 1)]
    told = capsys.readouterr().out
    assert "tiny ft is left out: no anchor; make it\n" in told
    assert "tiny in-context is left out: no statistics; make them\n" in told


def test_two_commands_share_a_board(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = []

    def command():
        run(board_in(place), Clock(None), ["ft", "no-edit"])

    def make(cell, *_):
        made.append(cell.name)
        if cell.row == "ft":
            command()  # the other one

    monkeypatch.setattr(Cell, "done", property(lambda cell: cell.name in made))
    monkeypatch.setattr("docs.leaderboard.__main__.make", make)
    monkeypatch.setattr("docs.leaderboard.__main__.measured", lambda board, row: made.append(row))
    command()
    runs_and_costs = "ft/seed-0", "no-edit/seed-0", "no-edit", "no-edit/seed-1", "ft", "ft/seed-1"
    assert tuple(dict.fromkeys(made)) == runs_and_costs


def test_runs_that_more_trials_set_aside_are_made_again(place, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(folder, tmp_path / "copy"))
    made = []

    def set_aside(board, row):
        shutil.rmtree(Cell(board, row, 1, 2).folder.parent)

    monkeypatch.setattr("docs.leaderboard.__main__.options_of", set_aside)
    monkeypatch.setattr(
        "docs.leaderboard.__main__.attempt", lambda cell, *_: made.append(cell.name)
    )
    run(board_in(place), Clock(None), ["ft"])
    assert made == ["ft/seed-1"]


def test_an_error_of_a_method_ends_its_run_and_no_other(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def fail(words):
        raise FloatingPointError("diverged")

    monkeypatch.setattr(launching.train, "main", fail)
    cell = run_of(place)
    launching.make(cell, {}, (FloatingPointError,))
    assert cell.done
    (course,) = results.courses(cell.board, "ft")
    assert course.error == "FloatingPointError: diverged"
    with pytest.raises(FloatingPointError):
        launching.make(cell, {}, (RuntimeError,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--hours", "0"], "hours must be positive"), (["--rows", "grace"], "are not declared")],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        main(arguments)
