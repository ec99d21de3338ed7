"""The presets of ``configs/``: every pair of model and method, and edits by each model's layers."""

import dataclasses
import inspect
from pydoc import locate

import pytest
import yaml

from command_line.composition import accepted, config_of, one_of
from command_line.configs import CONFIGS, DEFAULTS
from lightning_modules.functional.value_search import ValueSearchOptions
from tests.batches import NEAR, log_prob, ready
from tests.tiny import tiny_model
from train import main

PRETRAINED = {  # family and layers of each model
    "gpt2-xl": ("gpt2", 48),
    "gpt-j-6b": ("gptj", 28),
    "llama2-7b": ("llama", 32),
    "llama-3-8b": ("llama", 32),
    "llama-3-8b-instruct": ("llama", 32),
    "llama-3.2-1b": ("llama", 16),
    "llama-3.2-3b": ("llama", 28),
    "smollm2-135m": ("llama", 30),
    "mistral-7b": ("mistral", 32),
    "qwen2.5-7b": ("qwen2", 28),
    "qwen2.5-7b-instruct": ("qwen2", 28),
    "qwen3-0.6b": ("qwen3", 28),
    "qwen3-1.7b": ("qwen3", 28),
    "qwen3-4b": ("qwen3", 36),
    "qwen3-8b": ("qwen3", 36),
    "gemma-2-2b": ("gemma2", 26),
    "gemma-3-1b": ("gemma3_text", 26),
}
GPT = {"steps": 20, "learning_rate": 0.5, "weight_decay": 0.5, "clamp": 0.75}
LLAMA = {"steps": 25, "learning_rate": 0.5, "weight_decay": 0.001, "clamp": 4.0}
SLOW = {"steps": 25, "learning_rate": 0.1, "weight_decay": 0.5, "clamp": 0.75}
PUBLISHED = {  # the released hyper-parameters of the value search, row by row
    ("gpt2-xl", "rome"): GPT | {"clamp": 4.0},
    ("gpt-j-6b", "rome"): GPT | {"clamp": 4.0},
    ("llama2-7b", "rome"): LLAMA,
    ("gpt2-xl", "memit"): GPT,
    ("gpt-j-6b", "memit"): GPT | {"steps": 25},
    ("llama2-7b", "memit"): LLAMA,
    ("llama-3-8b", "memit"): SLOW,
    ("qwen2.5-7b", "memit"): LLAMA,
    ("gpt2-xl", "alpha_edit"): GPT,
    ("gpt-j-6b", "alpha_edit"): GPT | {"steps": 25},
    ("llama2-7b", "alpha_edit"): SLOW,
    ("llama-3-8b", "alpha_edit"): SLOW,
    ("qwen2.5-7b", "alpha_edit"): LLAMA,
    ("gpt2-xl", "emmet"): GPT,
    ("gpt-j-6b", "emmet"): GPT | {"steps": 25},
    ("llama2-7b", "emmet"): LLAMA,
    ("gpt2-xl", "encore"): GPT,
    ("llama2-7b", "encore"): SLOW | {"learning_rate": 0.5},
    ("gpt2-xl", "nas"): GPT,
    ("gpt-j-6b", "nas"): GPT | {"steps": 25},
    ("gpt2-xl", "rls_edit"): GPT,
    ("gpt-j-6b", "rls_edit"): GPT | {"steps": 25},
    ("llama2-7b", "rls_edit"): SLOW,
}
LAYERS = {  # published ones of the papers' models, and those that EasyEdit and AlphaEdit name
    "gpt2-xl": (17, [13, 14, 15, 16, 17]),
    "gpt-j-6b": (5, [3, 4, 5, 6, 7, 8]),
    **dict.fromkeys(
        ("llama2-7b", "llama-3-8b", "llama-3.2-1b", "llama-3.2-3b", "mistral-7b", "qwen2.5-7b"),
        (5, [4, 5, 6, 7, 8]),
    ),
}


def read(name):
    file = CONFIGS / name  # a method's, or models/NAME.yaml
    return config_of((str(file), file.read_text("utf-8")))


METHODS = [
    config
    for config in (read(file.name) for file in sorted(CONFIGS.glob("*.yaml")))
    if config.role == "method" and config.file.stem not in ("pretraining", "replay", "compare")
]


def pair(model, method):
    """Both together, the published values among them."""
    return one_of([read(f"models/{model}.yaml"), read(f"{method}.yaml")], None)


def test_every_model_is_listed():
    assert {file.stem for file in (CONFIGS / "models").glob("*.yaml")} == set(PRETRAINED)


@pytest.mark.parametrize("model", PRETRAINED)
def test_every_method_takes_what_it_is_given_of_every_model(model):
    preset, depth = read(f"models/{model}.yaml"), PRETRAINED[model][1]
    for method in METHODS:
        config = one_of([method, preset], None)
        path = config["model"]["class_path"]
        assert config["model"]["init_args"].keys() <= accepted(path)
        assert config["model"]["init_args"]["lm"] == preset.content["lm"]
        data = config["data"].get("class_path", "data_modules.edit_requests.EditingDataModule")
        assert config["data"].get("init_args", {}).keys() <= accepted(data)
        layers = config["model"]["init_args"].get("layers", [preset.content["layer"]])
        assert all(0 <= layer < depth for layer in layers)


@pytest.mark.parametrize(("model", "method"), PUBLISHED)
def test_the_value_is_searched_as_published(model, method):
    given = pair(model, method)["model"]["init_args"]["value"]
    default = ValueSearchOptions() if method == "rome" else ValueSearchOptions(clamp=0.75)
    found = dataclasses.asdict(dataclasses.replace(default, **given))
    assert {key: found[key] for key in GPT} == PUBLISHED[model, method]


@pytest.mark.parametrize("model", LAYERS)
def test_layers_are_the_published_ones(model):
    content = read(f"models/{model}.yaml").content
    assert (content["layer"], content["layers"]) == LAYERS[model]


def test_old_keys_are_protected_as_published():
    weights = {"gpt2-xl": 20000, "gpt-j-6b": 15000, "llama2-7b": 15000}
    for model, weight in weights.items():
        for method in ("memit", "encore"):
            assert pair(model, method)["model"]["init_args"]["preservation"] == weight
    assert pair("gpt2-xl", "alpha_edit")["model"]["init_args"]["ridge"] == 10
    assert pair("qwen2.5-7b", "alpha_edit")["model"]["init_args"]["ridge"] == 1
    assert pair("gpt2-xl", "emmet")["model"]["init_args"]["preservation"] == 1000


def test_nas_stands_on_published_alpha_edit():
    for model in ("gpt2-xl", "gpt-j-6b", "llama2-7b"):
        nas, base = (pair(model, m)["model"]["init_args"] for m in ("nas", "alpha_edit"))
        assert nas == base | {"value": {**base["value"], "anchor": "stored"}}
    assert pair("gpt2-xl", "nas-anchor")["data"]["init_args"]["limit"] == 200


def test_encore_stops_as_published():
    patience = {"gpt2-xl": 4, "llama2-7b": 3}
    for model, times in patience.items():
        value = pair(model, "encore")["model"]["init_args"]["value"]
        assert (value["stop"], value["patience"]) == ("most_probable", times)


def test_rls_edit_penalizes_no_change_of_weights_as_published():
    for model, weight in {"gpt2-xl": 20000, "llama2-7b": 15000}.items():
        given = pair(model, "rls_edit")["model"]["init_args"]
        assert given["ridge"] == 0
        assert given["preservation"] ** 2 == pytest.approx(weight, rel=1e-5)


def test_ultra_edit_takes_the_published_maps():
    gate, up = "gate_proj", "up_proj"
    for model in ("llama-3-8b", "llama-3-8b-instruct"):
        given = pair(model, "ultra_edit")["model"]["init_args"]
        assert given["maps"] == {gate: [*range(11, 16)], up: [*range(18, 25)]}
    for model in ("qwen2.5-7b", "qwen2.5-7b-instruct"):
        given = pair(model, "ultra_edit")["model"]["init_args"]
        assert (given["maps"], given["layers"]) == ([gate, up], [*range(18, 27)])
    given = pair("mistral-7b", "ultra_edit")["model"]["init_args"]
    assert ("maps" in given, given["layers"]) == (False, [29, 30])


def test_locft_bf_trains_the_published_parameters():
    mistral = {"layers": [23], "learning_rate": 5e-5, "parameters": "block"}
    assert mistral.items() <= pair("mistral-7b", "locft-bf")["model"]["init_args"].items()
    for model, layer in {"llama-3-8b-instruct": 22, "qwen2.5-7b-instruct": 6}.items():
        whole = pair(model, "locft-bf")
        given = {"layers": [layer], "learning_rate": 5e-4}
        assert given.items() <= whole["model"]["init_args"].items()
        assert "parameters" not in whole["model"]["init_args"]
        assert whole["data"]["init_args"]["shuffle"]


def test_every_published_file_belongs_to_a_method_and_a_model():
    methods = {config.file.stem for config in METHODS}
    for file in (CONFIGS / "published").rglob("*.yaml"):
        assert file.stem in methods
        assert file.parent.name in {"published", *PRETRAINED}
        assert file.read_text("utf-8").startswith("#"), "name the source"
        content = yaml.safe_load(file.read_text("utf-8"))
        assert content.keys() <= {"model", "data", "trainer"}
        known = accepted(read(file.name).content["model"]["class_path"])
        assert content.get("model", {}).keys() <= known


OWN_DATA = [
    file.name
    for file in sorted(CONFIGS.glob("*.yaml"))
    if file != DEFAULTS and "class_path" in read(file.name).content.get("data", {})
]


@pytest.mark.parametrize("config", OWN_DATA)
def test_another_data_module_keeps_its_own_defaults(config, tmp_path, monkeypatch):
    """The command line gives it the default module's arguments that it has too."""
    monkeypatch.chdir(tmp_path)
    chosen = main(["--config", config], run=False).config.data
    given = read(config).content["data"].get("init_args", {})
    known = inspect.signature(locate(chosen.class_path)).parameters
    for name in known.keys() & vars(chosen.init_args).keys() - given.keys():
        found = getattr(chosen.init_args, name)
        assert (tuple(found) if isinstance(found, list) else found) == known[name].default, name


ONE_OF_A_FAMILY = {family: model for model, (family, _) in PRETRAINED.items()}


@pytest.mark.parametrize(
    ("model", "method"),
    [(m, "rome") for m in PRETRAINED] + [(m, "memit") for m in ONE_OF_A_FAMILY.values()],
)
def test_a_preset_edits_a_random_model_of_its_family(model, method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["--config", f"models/{model}.yaml", "--config", f"{method}.yaml"]
    editor = main(names, run=False).model
    family, depth = PRETRAINED[model]
    sliding = {"layer_types": ["sliding_attention"] * depth} if "gemma" in family else {}
    ready(editor, tiny_model(family, num_hidden_layers=depth, **sliding))
    before = log_prob(editor, NEAR)
    editor.make_edit([NEAR])
    assert editor.record["status"] == "applied"
    assert log_prob(editor, NEAR) > before
