import os

import pytest

from callbacks.keeping.resume import last_run


def made(experiment, version, journal="", checkpoints=()):
    run = experiment / f"version_{version}"
    (run / "checkpoints").mkdir(parents=True)
    (run / "edits.jsonl").write_text(journal)
    for age, name in enumerate(checkpoints):
        file = run / "checkpoints" / name
        file.touch()
        os.utime(file, (1000 - age, 1000 - age))
    return run


def test_the_newest_run_is_the_one_with_the_highest_number(tmp_path):
    made(tmp_path, 9, checkpoints=["last.ckpt"])
    run = made(tmp_path, 10, checkpoints=["new.ckpt", "old.ckpt"])
    (tmp_path / "version_11").mkdir()  # of another verb
    assert last_run(tmp_path, begun=True) == (10, run / "checkpoints" / "new.ckpt")


def test_a_run_killed_in_its_first_edit_is_begun_again(tmp_path):
    made(tmp_path, 0, checkpoints=["last.ckpt"])
    run = made(tmp_path, 1, journal='{"edit": 1}\n{"ed')
    assert last_run(tmp_path, begun=True) == (1, None)
    assert (run / "edits.jsonl").read_text() == ""
    assert last_run(tmp_path, begun=False).version == 0


@pytest.mark.parametrize("begun", [True, False])
def test_without_a_run_there_is_nothing_to_go_on_with(tmp_path, begun):
    with pytest.raises(ValueError, match=r"no run in .* has saved anything; leave it out"):
        last_run(tmp_path / "rome", begun)
