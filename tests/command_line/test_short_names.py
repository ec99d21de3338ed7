import subprocess
import sys
from pathlib import Path

import pytest

from command_line.short_names import defined, full, import_named, of_kind
from train import main

ROOT = Path(__file__).resolve().parents[2]


def test_a_class_is_found_in_the_sources():
    assert defined("callbacks")["RestoreWeights"] == "callbacks.watching.restore"
    assert full("MEMIT") == "lightning_modules.methods.memit.MEMIT"
    assert full("HardCFDataModule") == "data_modules.hard_cf.HardCFDataModule"


@pytest.mark.parametrize("path", ["somewhere.Else", "RMOE"])
def test_a_path_and_an_unknown_name_stay_as_they_are(path):
    assert full(path) == path


def test_names_of_an_option_are_of_its_kind():
    assert {"ROME", "KeyStatistics"} <= set(of_kind("model"))
    assert "EditingDataModule" in of_kind("data")
    assert "RestoreWeights" in of_kind("callbacks")
    assert "ROME" not in of_kind("callbacks")
    assert {"RECT", "ROME", "RestoreWeights"} <= set(of_kind("transform"))


def test_only_the_module_that_is_named_is_imported():
    code = (
        "import sys; from command_line.short_names import import_named; "
        "import_named(['--trainer.callbacks+=RestoreWeights', 'name: callbacks.studies.X']); "
        "assert 'callbacks.watching.restore' in sys.modules; "
        "assert not {'callbacks.studies.key_pictures', 'sklearn'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_word_that_is_no_class_imports_nothing():
    import_named(["--data.path", "Facts.json", "RMOE"])


def test_short_names_make_their_objects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    callbacks = "trainer:\n  callbacks+:\n    - class_path: RestoreWeights\n"
    (tmp_path / "own.yaml").write_text(callbacks)
    options = ["--model", "MEMIT", "--model.transform", "RECT", "--data", "HeldOutDataModule"]
    options += ["--config", "own.yaml", "--trainer.callbacks+=WeightDrift"]
    cli = main(["--config", "rome.yaml", *options], run=False)
    assert type(cli.model).__name__ == "MEMIT"
    assert type(cli.model.transform).__name__ == "RECT"
    assert type(cli.datamodule).__name__ == "HeldOutDataModule"
    made = [type(callback).__name__ for callback in cli.trainer.callbacks]
    assert {"RestoreWeights", "WeightDrift", "EditJournal"} <= set(made)


def test_a_config_may_name_its_method_shortly(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("model: {class_path: PromptOnlyROME}\n")
    cli = main(["--config", "own.yaml", "--model.class_path", "ConsistentROME"], run=False)
    assert type(cli.model).__name__ == "ConsistentROME"
    cli = main(["--config", "own.yaml"], run=False)
    assert type(cli.model).__name__ == "PromptOnlyROME"
