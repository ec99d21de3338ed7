import json
from pathlib import Path

import pytest

from tests.callbacks.runs import options_of, tiny_lm
from train import main


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    lm = tiny_lm(tmp_path_factory.mktemp("lm"))
    return options_of(lm, tmp_path_factory.mktemp("data"), edits=1)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("verb", "wrong"),
    [
        ("fit", ["--data.path", "requsts.json"]),
        ("fit", ["--model.layer", "9"]),
        ("test", ["--model.layer", "9"]),
    ],
)
def test_a_run_that_fails_before_it_begins_leaves_no_folder(options, verb, wrong):
    with pytest.raises((OSError, ValueError)):
        main([verb, *options, *wrong])
    assert not list(Path().rglob("version_*"))


def test_a_run_that_fails_in_an_edit_keeps_its_folder(options, monkeypatch):
    def fail(*args):
        raise OSError("no")

    monkeypatch.setattr("lightning_modules.methods.rome.ROME.edit", fail)
    with pytest.raises(OSError, match="no"):
        main(["fit", *options])
    assert Path("runs/rome/version_0/config.yaml").is_file()


def test_a_folder_that_was_there_before_stays(options):
    kept = Path("runs/rome/version_0")
    kept.mkdir(parents=True)
    (kept / "note.txt").write_text(json.dumps("mine"))
    with pytest.raises(ValueError, match="layer must be in"):
        main(["fit", *options, "--model.layer", "9", "--trainer.logger.init_args.version", "0"])
    assert (kept / "note.txt").is_file()
