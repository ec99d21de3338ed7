from pathlib import Path

from lightning.pytorch.cli import Namespace

from command_line.cli import expanded
from train import main

HOME = str(Path.home())


def test_the_home_folder_is_put_into_every_text_that_begins_with_it():
    inner = Namespace(path=["~/a.json", "b.json"], files={"piqa": "~/p"}, limit=3, unit="~")
    found = expanded(Namespace(data=Namespace(init_args=inner), other=None))
    assert found.data.init_args == Namespace(
        path=[f"{HOME}/a.json", "b.json"], files={"piqa": f"{HOME}/p"}, limit=3, unit="~"
    )


def test_data_and_model_may_lie_in_the_home_folder():
    paths = ["--model.lm=~/lm", "--model.layer=3", "--data.path=~/facts.json"]
    cli = main(["--config", "rome.yaml", *paths], run=False)
    assert cli.model.lm_name == f"{HOME}/lm"
    assert cli.datamodule.path == f"{HOME}/facts.json"
