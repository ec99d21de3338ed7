import re
from pathlib import Path

import pytest
import torch
import yaml

from command_line.configs import CONFIGS
from tests.batches import LAYERS, REQUESTS, check_against, check_undone, log_prob, moment_of, ready
from tests.tiny import tiny_model
from train import main

PAGE = Path(__file__).resolve().parents[1] / "CONTRIBUTING.md"
WEIGHT = 0.5
SHARE = 0.6


def block(language: str) -> str:
    """The first code block of that language on the page."""
    return re.search(rf"```{language}\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)[1]


@pytest.fixture(scope="module")
def method():
    namespace = {"__name__": "nse"}
    exec(compile(block("python"), "CONTRIBUTING.md", "exec"), namespace)
    return namespace["NeuronSparse"]


def make(method, activity=SHARE, **options):
    return method(activity, WEIGHT, layers=LAYERS, lm="tiny", **options)


def active(keys, share):
    """Neurons in the order of their activity, until they hold the share."""
    chosen, held = [], 0.0
    for neuron in sorted(range(len(keys)), key=lambda n: -float(keys[n].abs().sum())):
        if held < share * float(keys.abs().sum()):
            chosen.append(neuron)
            held += float(keys[neuron].abs().sum())
    return chosen


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_worked_example_is_its_equation(method, family):
    past = {layer: torch.zeros(48, 0).double() for layer in LAYERS}

    def equation(layer, keys, residuals):
        neurons = active(keys, SHARE)
        here, before = keys[neurons], past[layer][neurons]
        moment = moment_of(layer)[neurons][:, neurons]
        change = torch.zeros(len(residuals), len(keys)).double()
        system = WEIGHT * moment + before @ before.T + here @ here.T
        change[:, neurons] = residuals @ here.T @ system.inverse()
        past[layer] = torch.cat([past[layer], keys], 1)
        return change

    check_against(ready(make(method), tiny_model(family)), equation)


def test_the_worked_example_edits_few_neurons_and_the_model_hears_it(method):
    editor = ready(make(method, activity=0.3), tiny_model("gpt2"))
    before = log_prob(editor, REQUESTS[0])
    editor.make_edit(REQUESTS[:1])
    assert editor.record["status"] == "applied"
    assert log_prob(editor, REQUESTS[0]) > before
    for update in editor.applied:
        assert 0 < int(update.dense().any(0).sum()) < 24


def test_the_worked_example_can_be_undone(method):
    check_undone(ready(make(method), tiny_model("gpt2")))


def test_the_worked_example_needs_no_second_moment(method):
    editor = ready(make(method, second_moment="identity"), tiny_model("gpt2"))
    editor.make_edit(REQUESTS)
    assert editor.record["status"] == "applied"


def test_the_worked_config_makes_the_worked_method(tmp_path, monkeypatch):
    (tmp_path / "nse.py").write_text(block("python"))
    config = yaml.safe_load(block("yaml").replace("NeuronSparse", "nse.NeuronSparse"))
    (tmp_path / "nse.yaml").write_text(yaml.dump(config))
    monkeypatch.syspath_prepend(tmp_path)
    cli = main(["--config", str(tmp_path / "nse.yaml"), "--model.activity", "0.5"], run=False)
    assert (type(cli.model).__name__, cli.model.system.activity) == ("NeuronSparse", 0.5)
    assert not (CONFIGS / "nse.yaml").exists()
