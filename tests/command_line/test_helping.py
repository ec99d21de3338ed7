import pytest

from command_line.helping import named_help
from train import main

ROME, MEMIT = "lightning_modules.methods.rome.ROME", "lightning_modules.methods.memit.MEMIT"


@pytest.mark.parametrize(
    ("arguments", "last"),
    [
        (["--config", "rome.yaml", "--model.help"], f"--model.help={ROME}"),
        (["--config=memit.yaml", "--model.help"], f"--model.help={MEMIT}"),
        (["--config", "rome.yaml", "--model", "MEMIT", "--model.help"], f"--model.help={MEMIT}"),
        (["--data.help"], "--data.help=data_modules.edit_requests.EditingDataModule"),
        (["--model.help"], "--model.help"),
        (["--model.help", "ROME"], "ROME"),
    ],
)
def test_help_names_the_class_that_the_command_line_chooses(arguments, last):
    assert named_help(["fit", *arguments])[-1] == last


def shown(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["fit", *arguments])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_begins_with_what_most_runs_need(capsys):
    lines = shown(capsys, "--help").splitlines()
    told = " ".join(lines[:20])
    for option in ("--config", "--model ", "--model.lm", "--model.layer", "--data.path"):
        assert option in told
    assert any("--trainer.max_steps" in line for line in lines[20:])


def test_a_configs_method_is_explained(capsys):
    told = shown(capsys, "--config", "rome.yaml", "--model.help")
    assert "--model.layer" in told or "--layer" in told
    assert "second_moment" in told
