import pytest

from train import main


@pytest.mark.parametrize(
    ("given", "read"),
    [("true", True), ("false", False), ("auto", "auto"), ("off", "off"), ("edit", "edit"),
     ("judge", "judge"), ("both", "both")],
)  # fmt: skip
def test_chat_is_read_from_the_command_line(given, read):
    model = main(["--config", "rome.yaml", "--model.chat", given], run=False).model
    assert model.chat in (read, False) if given == "off" else model.chat == read


@pytest.mark.parametrize(("given", "read"), [("true", True), ("<|im_end|>", "<|im_end|>")])
def test_end_of_target_is_read_from_the_command_line(given, read):
    model = main(["--config", "rome.yaml", "--model.end_of_target", given], run=False).model
    assert model.end_of_target == read


def test_unknown_chat_option_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--config", "rome.yaml", "--model.chat", "maybe"], run=False)
    assert "maybe" in capsys.readouterr().err
