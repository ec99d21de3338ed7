import gzip

import pytest

from docs.leaderboard import boards, journals
from docs.leaderboard.journals import hand_over
from tests.leaderboard.folders import BOARD, write_run


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr(boards, "RUNS", tmp_path / "runs")
    return tmp_path / "runs"


def test_the_first_seeds_journal_is_handed_over_and_those_of_other_machines_stay(runs, tmp_path):
    first = write_run(runs, "rome", 0, edits=3)
    write_run(runs, "rome", 1, edits=2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "memit-seed-0.jsonl.gz").touch()
    hand_over(BOARD, tmp_path / "out")
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == ["memit-seed-0.jsonl.gz", "rome-seed-0.jsonl.gz"]
    packed = (tmp_path / "out" / "rome-seed-0.jsonl.gz").read_bytes()
    assert gzip.decompress(packed) == (first / "edits.jsonl").read_bytes()


def test_a_journal_beyond_the_limit_is_left_out(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "MOST", 10)
    write_run(runs, "rome", 0, edits=3)
    hand_over(BOARD, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
