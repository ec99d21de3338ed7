import socket

import pytest
from torch.distributed import DistError, TCPStore

from command_line.mistakes import constructor, explained, nearest, said_of
from lightning_modules.methods.rome import ROME
from train import main


@pytest.fixture
def said(capsys, monkeypatch, tmp_path):
    """The sentence with which a command line is refused."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["train.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        assert ended.value.code == 2
        sentence, hint = capsys.readouterr().err.splitlines()
        assert hint == "(KEEL_TRACE=1 shows more)"
        return sentence

    return run


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model.layr", "3"], "ROME has no option 'layr'; do you mean 'layer'?"),
        (["--model.second_momnt", "identity"], "ROME has no option 'second_momnt'; do you mean"),
        (["--data.limt", "3"], "EditingDataModule has no option 'limt'; do you mean 'limit'?"),
        (["--trainer.devces", "2"], "there is no option 'trainer.devces'; do you mean"),
        (["--colapse.threshold", "2"], "there is no option 'colapse.threshold'; do you mean"),
        (
            ["--model", "lightning_modules.methods.rome.RMOE"],
            "lightning_modules.methods.rome has no class 'RMOE'",
        ),
        (["--model", "RMOE"], "there is no method 'RMOE'; do you mean 'ROME'?"),
        (["--model.class_path=MEMTI"], "there is no method 'MEMTI'; do you mean 'MEMIT'?"),
        (
            ["--data", "HardCFDataModul"],
            "there is no data module 'HardCFDataModul'; do you mean 'HardCFDataModule'?",
        ),
        (
            ["--trainer.callbacks+=RestoreWeigths"],
            "there is no callback 'RestoreWeigths'; do you mean 'RestoreWeights'?",
        ),
        (
            ["--trainer.callbacks+=EarlyStoping"],
            "there is no callback 'EarlyStoping'; do you mean 'EarlyStopping'?",
        ),
        (["--trainer.logger", "CSVLoger"], "there is no logger 'CSVLoger'; do you mean"),
        (["--model.transform", "RCT"], "there is no class 'RCT'; do you mean 'RECT'?"),
        (["--data.limit", "abc"], "limit must be int or null, got abc"),
        (["--trainer.max_steps", "abc"], "trainer.max_steps must be int, got abc"),
        (["--config", "c_rme.yaml"], "there is no config 'c_rme.yaml'; do you mean 'c_rome.yaml'?"),
    ],
)
def test_a_mistake_is_answered_with_the_nearest_right_word(said, arguments, sentence):
    assert said("fit", "--config", "rome.yaml", *arguments).startswith(f"error: {sentence}")


def test_a_misspelt_key_of_a_config_is_found_too(said, tmp_path):
    (tmp_path / "own.yaml").write_text("trainer: {devces: 2}\n")
    said_of_key = said("fit", "--config", str(tmp_path / "own.yaml"))
    assert (
        said_of_key == "error: there is no option 'trainer.devces'; do you mean 'trainer.devices'?"
    )


def test_a_misspelt_class_of_a_config_is_found_too(said, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("model: {class_path: RMOE}\n")
    sentence = "error: there is no method 'RMOE'; do you mean 'ROME'?"
    assert said("fit", "--config", str(own)) == sentence
    own.write_text("trainer:\n  callbacks+:\n    - class_path: RestoreWeigths\n")
    sentence = "error: there is no callback 'RestoreWeigths'; do you mean 'RestoreWeights'?"
    assert said("fit", "--config", "rome.yaml", "--config", str(own)) == sentence


def test_a_misspelt_verb(said):
    assert said("fti") == "error: there is no command 'fti'; do you mean 'fit'?"


def test_what_is_not_understood_is_left_to_the_parser():
    assert explained("Problems parsing config: while parsing a flow node", []) is None


def test_nothing_is_proposed_that_is_not_alike():
    assert nearest("zzz", ["limit", "seed"]) == ""


def test_arguments_of_a_class_include_those_it_passes_on():
    assert {"layer", "second_moment", "lm", "transform"} <= set(constructor(ROME))
    assert not {"options", "args", "kwargs"} & set(constructor(ROME))


def test_a_port_in_use_is_named_with_the_variable_that_chooses_another():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DistError) as caught:
            TCPStore("127.0.0.1", port, is_master=True, use_libuv=True)
    sentence = f"the port {port} is in use; set MASTER_PORT to a free one"
    assert said_of(caught.value) == sentence


def test_what_a_class_says_of_its_arguments_is_all_that_is_said():
    with pytest.raises(ValueError, match="limit must be positive") as caught:
        main(["--config", "rome.yaml", "--data.limit", "0"], run=False)
    assert said_of(caught.value) == "limit must be positive, got 0"
    assert said_of(ValueError("a plain one")) == "a plain one"
