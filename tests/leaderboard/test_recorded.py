"""Runs that are known by their records alone, as in a fresh clone."""

import hashlib
import json
import shutil

import pytest

from docs.leaderboard import boards, recorded, trials, writing
from docs.leaderboard.__main__ import run
from docs.leaderboard.boards import COST, TUNING, Cell, costs_of
from docs.leaderboard.clock import Clock
from docs.leaderboard.results import courses
from tests.leaderboard.folders import BOARD, write_run

SPENT = {"budget": BOARD.tuning._asdict(), "choice": {}, "trials": [], "all_failed": False}
FILES = ("index.html", "leaderboard.csv", "leaderboard.md")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A board's runs and its page, of which only the records remain after ``lose``."""
    monkeypatch.setattr(boards, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(trials, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(recorded, "FOLDER", tmp_path / "records")
    monkeypatch.setattr(writing, "FOLDER", tmp_path)
    monkeypatch.setattr(writing, "MARKDOWN", tmp_path / "leaderboard.md")
    (tmp_path / "leaderboard.md").write_text(f"{writing.BEGIN}\n{writing.END}\n")
    write_run(tmp_path / "runs", "rome", 0, edits=1, collapsed=True)
    write_run(tmp_path / "runs", "rome", 1, edits=4)
    for seed in range(3):
        write_run(tmp_path / "runs", "memit", seed, edits=4, efficacy=0.0)
    write_run(tmp_path / "runs", "locft-bf", 0, edits=4, name="seed-0-4")
    for row, seconds in {"rome": 2.0, "memit": 1.0, "locft-bf": 0.5}.items():
        cost = dict.fromkeys(("seconds", "memory", "operations", "kept"), seconds)
        (tmp_path / "runs" / BOARD.name / row / COST).write_text(json.dumps(cost))
        (tmp_path / "runs" / BOARD.name / row / TUNING).write_text(json.dumps(SPENT))
    return tmp_path


def lose(place, row=""):
    shutil.rmtree(place / "runs" / BOARD.name / row)


def pages(place):
    writing.write([BOARD])
    return [(place / name).read_bytes() for name in FILES]


def test_the_page_is_the_same_to_the_byte(place):
    before, kept = pages(place), (place / "records" / BOARD.name / "memit.json.xz").read_bytes()
    lose(place)
    assert pages(place) == before
    assert (place / "records" / BOARD.name / "memit.json.xz").read_bytes() == kept


def test_what_was_published_of_boards_without_runs_stays(place):
    before = pages(place)
    other = BOARD._replace(name="other", title="Another model")
    (place / "runs" / BOARD.name).rename(place / "runs" / "other")
    shutil.rmtree(place / "records")
    for _ in range(2):
        writing.write([BOARD, other])
    shown = [(place / name).read_text() for name in FILES]
    for old, new in zip(before, shown, strict=True):
        assert all(new.count(line) >= 1 for line in old.decode().splitlines())
    assert shown[0].count('<h2 id="small">') == shown[0].count('<h2 id="other">') == 1
    assert shown[2].count("## A small model\n") == shown[2].count("## Another model\n") == 1
    assert shown[1].count("small,rome,4,retained") == shown[1].count("other,rome,4,retained") == 1


def test_what_is_recorded_is_done_and_what_is_not_is_run(place, monkeypatch):
    pages(place)
    lose(place)
    made = []
    monkeypatch.setattr(
        "docs.leaderboard.__main__.attempt", lambda cell, *_: made.append(cell.name)
    )
    monkeypatch.setattr("docs.leaderboard.__main__.RUNS", place / "runs")
    monkeypatch.setattr("docs.leaderboard.__main__.measured", lambda board, row: {})
    run(BOARD._replace(lengths=(2, 4, 6)), Clock(None), ["rome", "memit", "locft-bf"])
    assert set(made) == {
        "rome/seed-1", "rome/seed-2", *(f"memit/seed-{seed}" for seed in range(3)),
        *(f"locft-bf/seed-{seed}-{length}" for seed in range(3) for length in (2, 4, 6)),
    } - {"locft-bf/seed-0-4"}  # fmt: skip


def test_a_longer_run_of_this_machine_takes_its_records_place(place):
    pages(place)
    lose(place)
    write_run(place / "runs", "rome", 1, edits=2)
    write_run(place / "runs", "memit", 1, edits=5)
    assert [len(course.journal) for course in courses(BOARD, "rome")] == [1, 4]
    assert [len(course.journal) for course in courses(BOARD, "memit")] == [4, 5, 4]


def test_costs_of_this_machine_are_compared_with_the_references_on_it(place):
    pages(place)
    lose(place)
    slow = dict.fromkeys(("seconds", "memory", "operations", "kept"), 8.0)
    for row in ("rome", "no-edit"):
        (place / "runs" / BOARD.name / row).mkdir(parents=True)
        (place / "runs" / BOARD.name / row / COST).write_text(json.dumps(slow))
    assert costs_of(BOARD, "no-edit") == costs_of(BOARD, "rome") == (slow, slow)
    own, reference = costs_of(BOARD, "memit")
    assert (own["seconds"], reference["seconds"]) == (1.0, 2.0)


def test_records_of_settings_that_the_row_no_longer_has_are_left_out(place):
    pages(place)
    lose(place, "memit")
    (place / "runs" / BOARD.name / "memit").mkdir()
    (place / "runs" / BOARD.name / "memit" / TUNING).write_text(
        json.dumps(SPENT | {"choice": {"model.value.clamp": 0.3}})
    )
    assert not courses(BOARD, "memit")
    assert not Cell(BOARD, "memit", 0, 4).done
    assert len(courses(BOARD, "rome")) == 2


def test_a_recorded_search_is_not_made_again(place, monkeypatch):
    pages(place)
    lose(place)
    monkeypatch.setattr(trials, "trial", lambda *_: pytest.fail("tried again"))
    monkeypatch.setattr(trials, "drawn", lambda *_: [{}, {"x": 1.0}])
    assert trials.tuned(BOARD, "memit") == SPENT


def test_a_record_tells_the_digests_of_its_journals(place):
    file = place / "runs" / BOARD.name / "rome" / "seed-1" / "version_0" / "standing.jsonl"
    told = hashlib.sha256(file.read_bytes()).hexdigest()
    pages(place)
    lose(place)
    assert courses(BOARD, "rome")[1].digests["standing.jsonl"] == told


def test_a_broken_record_is_named_with_its_remedy(place):
    pages(place)
    file = place / "records" / BOARD.name / "rome.json.xz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"rome\.json\.xz is broken .*restore it: git checkout"):
        courses(BOARD, "rome")
