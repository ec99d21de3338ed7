"""A small board of the tiny model, run once."""

import json

import pytest

from data_modules.meta_training import held_out
from docs.leaderboard.__main__ import main
from tests.callbacks.runs import REQUESTS, WATCHED, tiny_lm
from tests.leaderboard.tiny_board import board_in

SUBJECTS = [f"{name} {n}" for name in ("Ada", "Ben", "Cora", "Dan") for n in range(10)]


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A working folder with a tiny model, its requests and its watched text."""
    folder = tmp_path_factory.mktemp("board")
    (folder / "lm").mkdir()
    tiny_lm(folder / "lm")
    requests = [
        REQUESTS[0]._replace(case_id=number, subject=subject, paraphrases=(f"{subject} rules",))
        for number, subject in enumerate(SUBJECTS)
    ]
    assert 4 <= sum(map(held_out, requests)) <= 36
    cases = [request.as_counterfact() for request in requests]
    (folder / "tiny.yaml").write_text(f"{{lm: {folder / 'lm'}, layers: [0]}}")
    (folder / "requests.json").write_text(json.dumps(cases))
    (folder / "watched.json").write_text(json.dumps([{"text": text} for text in WATCHED]))
    return folder


@pytest.fixture(scope="session")
def folder(place, tmp_path_factory):
    """Where the board was run."""
    work = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        patch.setattr("docs.leaderboard.__main__.quiet", lambda: None)
        patch.setattr("docs.leaderboard.__main__.write", lambda boards: None)
        patch.setattr("docs.leaderboard.__main__.read_boards", lambda names=None: [board_in(place)])
        patch.setattr("sys.argv", ["leaderboard"])
        main([])
    return work


@pytest.fixture
def inside(folder, monkeypatch):
    """Works where the board was run."""
    monkeypatch.chdir(folder)
