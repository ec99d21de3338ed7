import pytest
import yaml
from jsonargparse import Namespace

from command_line.replays import complete


@pytest.fixture
def run(tmp_path):
    model = {"class_path": "ROME", "init_args": {"lm": "m", "dtype": "bfloat16", "layer": 3}}
    data = {"init_args": {"path": "facts.json", "batch_size": 4, "watch": "w.txt"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": model, "data": data}))
    return str(tmp_path)


def options(ledger, lm="embedded", path=None, kind="lightning_modules.jobs.replay.Replay"):
    model = Namespace(ledger=ledger, lm=lm, dtype="float32")
    data = Namespace(path=path, batch_size=1, watch=None)
    return Namespace(
        model=Namespace(class_path=kind, init_args=model),
        data=Namespace(class_path="D", init_args=data),
    )


@pytest.mark.parametrize("several", [False, True])
def test_a_replay_takes_model_and_data_from_its_run(run, several):
    given = options([run, "other"] if several else run)
    complete(given)
    assert given.model.init_args == Namespace(
        ledger=[run, "other"] if several else run, lm="m", dtype="bfloat16"
    )
    path = [run, "other"] if several else run
    assert given.data.init_args == Namespace(path=path, batch_size=4, watch="w.txt")


def test_what_the_command_line_gives_stays(run):
    given = options(run, "mine", "own.json")
    complete(given)
    assert given.model.init_args.lm == "mine"
    assert given.data.init_args == Namespace(path="own.json", batch_size=1, watch=None)


def test_other_models_and_runs_without_a_config_are_left_alone(run, tmp_path):
    given = options(run, kind="lightning_modules.methods.rome.ROME")
    complete(given)
    assert given == options(run, kind="lightning_modules.methods.rome.ROME")
    bare = str(tmp_path / "none")
    given = options(bare)
    complete(given)
    assert given.model.init_args.lm == "embedded"
    assert given.data.init_args.path == bare


def test_a_comparison_takes_the_model_but_keeps_its_prompts(run):
    given = options(run, kind="lightning_modules.jobs.compare.Compare")
    given.data.init_args = Namespace(prompts="prompts.txt", batch_size=32)
    complete(given)
    assert given.model.init_args.lm == "m"
    assert given.data.init_args == Namespace(prompts="prompts.txt", batch_size=32)
