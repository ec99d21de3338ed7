import json
import shutil

import pytest
import yaml

from command_line.composition import accepted
from command_line.configs import CONFIGS
from command_line.short_names import full
from docs.leaderboard import boards
from docs.leaderboard.boards import Cell, board_of, cells, ranges_of, read_boards
from docs.leaderboard.course import FAILED
from docs.leaderboard.launching import arguments
from tests.leaderboard.folders import BOARD, REQUESTS, write_run
from train import main

CONTENT = yaml.safe_load((CONFIGS / "leaderboard" / "embedded.yaml").read_text())


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr(boards, "RUNS", tmp_path)
    return tmp_path


def test_the_declared_boards_are_read():
    embedded, hundreds, tens, smollm2, long = read_boards()
    names = [board.name for board in (embedded, hundreds, tens, smollm2, long)]
    assert names == ["embedded", "embedded-hundreds", "embedded-tens", "smollm2", "smollm2-long"]
    assert [board.batch for board in (embedded, tens, hundreds)] == [1, 10, 100]
    assert len(embedded.seeds) >= 5
    assert read_boards("smollm2") == [smollm2]


@pytest.mark.parametrize("row", read_boards("embedded")[0].rows)
def test_every_range_is_an_option_of_its_row(row):
    method = yaml.safe_load((CONFIGS / f"{row}.yaml").read_text())["model"]["class_path"]

    known = accepted(full(method))
    for option in ranges_of(row):
        assert option.split(".")[1] in known


@pytest.mark.parametrize("board", read_boards(), ids=lambda board: board.name)
def test_no_length_asks_for_more_than_the_held_out_requests(board):
    assert max(board.lengths) * board.batch <= len(REQUESTS)


@pytest.mark.parametrize("board", read_boards(), ids=lambda board: board.name)
def test_every_row_of_every_board_makes_its_objects(board):
    for row in board.rows:
        cli = main(arguments(board, row, 3, 7, {}), run=False)
        data = cli.datamodule
        found = cli.model.seed, data.seed, data.limit, data.part
        assert found == (3, 3, 7 * board.batch, "report")
        assert data.batch_size == (20 if row in board.together else board.batch)
        kinds = [type(callback).__name__ for callback in cli.trainer.callbacks]
        assert {"EditJournal", "Standing", "Downstream", "EditLedger"} <= set(kinds)
        assert ("EarlyStopping" in kinds) == (row in board.together)


def test_seeds_come_first_then_lengths():
    order = [(cell.length, cell.seed, cell.row) for cell in cells(BOARD)]
    assert order == sorted(order, key=lambda cell: cell[:2])
    assert order[: len(BOARD.rows)] == [(2, 0, row) for row in BOARD.rows]
    assert len(order) == 2 * 3 * 4


def test_a_longer_run_is_the_shorter_one_continued_unless_it_trains_on_all_at_once():
    short, long = (Cell(BOARD, "rome", 0, length) for length in (2, 4))
    assert short.folder == long.folder
    assert Cell(BOARD, "locft-bf", 0, 2).folder != Cell(BOARD, "locft-bf", 0, 4).folder


def test_a_run_is_done_at_its_length_or_its_collapse_or_its_error(runs):
    write_run(runs, "rome", 0, edits=3)
    write_run(runs, "rome", 1, edits=1, collapsed=True)
    assert [Cell(BOARD, "rome", 0, length).done for length in (2, 4)] == [True, False]
    assert Cell(BOARD, "rome", 0, 4).todo == 1
    assert Cell(BOARD, "rome", 1, 4).done
    assert not Cell(BOARD, "rome", 2, 2).done
    broken = Cell(BOARD, "memit", 0, 2)
    broken.folder.mkdir(parents=True)
    (broken.folder / FAILED).write_text(json.dumps({"error": "no", "edits": 0}))
    assert broken.done


def test_a_killed_run_is_not_done(runs):
    (write_run(runs, "rome", 0, edits=4) / "finished").unlink()
    assert not Cell(BOARD, "rome", 0, 4).done
    assert Cell(BOARD, "rome", 0, 2).done  # a resumed run could not go back


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"title": None, "more": 1}, r"embedded\.yaml must have the keys .* differs in \['more'\]"),
        ({"rows": ["rome", "grace"]}, r"the rows \['grace'\] have no config"),
        ({"reference": "mend-2"}, "scores_against and together must be among its rows"),
        ({"lengths": [0]}, "lengths, batch, trials and edits must be positive"),
        ({"batch": 0}, "lengths, batch, trials and edits must be positive"),
        ({"seeds": []}, "seeds not none"),
    ],
)
def test_a_wrong_declaration_is_named(changed, message):
    with pytest.raises(ValueError, match=message):
        board_of("embedded", CONTENT | {"together": [], **changed})


def test_an_unknown_board_is_named():
    with pytest.raises(ValueError, match=r"boards \['gpt5'\] are unknown; choose from"):
        read_boards("gpt5")


def test_an_empty_range_is_named(tmp_path, monkeypatch):
    shutil.copytree(boards.FOLDER, tmp_path / "configs")
    monkeypatch.setattr(boards, "FOLDER", tmp_path / "configs")
    (tmp_path / "configs" / "ranges.yaml").write_text("rome: {model.value.clamp: [2, 1]}")
    with pytest.raises(ValueError, match=r"rome: model\.value\.clamp must have 0 < low < high"):
        ranges_of("rome")
