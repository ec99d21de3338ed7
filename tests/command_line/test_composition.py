import json

import pytest
import yaml

from command_line.composition import composed, merged
from command_line.configs import CONFIGS

MODEL = {"lm": "org/lm", "layer": 3, "layers": [2, 3], "other_layers": {"FineTuning": [5]}}
DATA = {"path": "facts.json", "limit": None, "watch": "text.json"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def own(tmp_path):
    """Writes a config of the user's and names it."""

    def write(content, name="own.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(yaml.dump(content))
        return name

    return write


def one(*names, options=()):
    """What the configs say together."""
    whole, *rest = composed([*(f"--config={name}" for name in names), *options])
    assert rest == list(options)
    return json.loads(whole.removeprefix("--config="))


def arguments_of(config, group="model"):
    return config[group]["init_args"]


@pytest.mark.parametrize("names", [("memit.yaml", "my.yaml"), ("my.yaml", "memit.yaml")])
def test_a_model_and_a_method_make_one_config_in_either_order(own, names):
    own(MODEL | {"data": DATA}, "my.yaml")
    config = one(*names)
    assert config["model"]["class_path"] == "lightning_modules.methods.memit.MEMIT"
    assert arguments_of(config)["lm"] == "org/lm"
    assert arguments_of(config)["layers"] == [2, 3]
    assert arguments_of(config, "data") | DATA == arguments_of(config, "data")
    assert config["trainer"]["logger"]["init_args"]["name"] == "my-memit"


@pytest.mark.parametrize(
    ("method", "taken"),
    [
        ("rome", {"layer": 3}),
        ("emmet", {"layer": 3}),
        ("alpha_edit", {"layers": [2, 3]}),
        ("ft", {"layers": [5]}),
        ("mend", {}),
        ("key-statistics", {"layers": [2, 3]}),
    ],
)
def test_a_method_takes_the_layers_that_are_for_it(own, method, taken):
    found = arguments_of(one(f"{method}.yaml", own(MODEL)))
    assert {key: found[key] for key in ("layer", "layers") if key in found} == taken
    assert "other_layers" not in found


def test_the_command_line_chooses_the_method_and_with_it_the_layers(own):
    config = one("ft.yaml", own(MODEL), options=["--model", "ConsistentROME"])
    assert config["model"]["class_path"] == "lightning_modules.methods.rome.ConsistentROME"
    assert arguments_of(config)["layer"] == 3
    assert not {"layers", "radius"} & arguments_of(config).keys()  # those of FT
    assert arguments_of(config)["second_moment"] == "identity"  # published/rome.yaml
    again = one("ft.yaml", own(MODEL), options=["--model.class_path=ConsistentROME"])
    assert again == config


def test_a_job_keeps_its_own_data(own):
    config = one("key-statistics.yaml", own(MODEL | {"data": DATA}))
    assert arguments_of(config, "data")["path"] == "wikimedia/wikipedia"
    assert "watch" not in arguments_of(config, "data")


def test_published_values_of_a_pair_stand_over_those_of_the_method_and_are_told(monkeypatch):
    said = []
    monkeypatch.setattr("command_line.composition.rank_zero_info", said.append)
    config = one("memit-seq.yaml", "models/gpt2-xl.yaml")
    assert arguments_of(config)["preservation"] == 20000
    assert arguments_of(config)["value"] == {"steps": 20, "weight_decay": 0.5, "clamp": 0.75}
    assert arguments_of(config)["history"] is True
    assert arguments_of(config, "data")["batch_size"] == 100
    assert said == [
        "Configs, the last one winning: memit-seq.yaml, models/gpt2-xl.yaml, "
        "published/memit.yaml, published/gpt2-xl/memit.yaml"
    ]


def test_an_instruct_model_takes_the_values_of_its_base():
    both = [one("memit.yaml", f"models/llama-3-8b{of}.yaml") for of in ("", "-instruct")]
    assert arguments_of(both[0])["value"] == arguments_of(both[1])["value"]
    assert arguments_of(both[0])["lm"] != arguments_of(both[1])["lm"]


def test_an_experiment_stands_over_model_and_method_whatever_the_order(own):
    experiment = own(
        {
            "model": {"class_path": "ROME", "init_args": {"first_position": 1}},
            "data": {"batch_size": 1, "watch": "more.json"},
        },
        "papers/trial.yaml",
    )
    model = own(MODEL | {"data": DATA}, "my.yaml")
    found = [one(*names) for names in ((experiment, "memit.yaml", model), (model, experiment))]
    assert found[0]["model"]["class_path"].endswith("MEMIT")
    assert found[1]["model"]["class_path"].endswith("ROME")
    for config in found:
        assert arguments_of(config)["first_position"] == 1
        data = arguments_of(config, "data")
        assert (data["batch_size"], data["watch"], data["path"]) == (1, "more.json", "facts.json")
    names = [config["trainer"]["logger"]["init_args"]["name"] for config in found]
    assert names == ["trial-my-memit", "trial-my"]


def test_cases_stand_over_the_experiment_that_they_are_for(own):
    for names in (("second-to-first", "collapse-cases"), ("collapse-cases", "second-to-first")):
        config = one(*(f"papers/{name}.yaml" for name in names))
        assert config["data"]["class_path"] == "data_modules.hard_cf.HardCFDataModule"
        assert arguments_of(config, "data")["limit"] is None
        assert arguments_of(config)["first_position"] == 1


def test_a_users_own_values_come_last_as_they_are(own):
    values = own({"data": {"limit": 7}})
    line = composed(["fit", "--config", values, "--config=rome.yaml", "--config", own(MODEL, "m")])
    assert (line[0], line[-1], len(line)) == ("fit", f"--config={values}", 3)


def test_a_users_own_method_is_a_method(own):
    method = own({"model": {"class_path": "somewhere.Else", "init_args": {"deep": 1}}})
    config = one(own(MODEL | {"data": DATA}, "my.yaml"), method)
    assert config["model"] == {"class_path": "somewhere.Else", "init_args": {"deep": 1}}
    assert arguments_of(config, "data")["path"] == "facts.json"


@pytest.mark.parametrize("name", ["rome.yaml", "papers/hardcf.yaml"])
def test_a_single_config_is_left_to_the_parser(name):
    assert composed(["fit", "--config", name]) == ["fit", f"--config={CONFIGS / name}"]


def test_what_is_no_config_stays_as_it_is():
    assert composed(["fit", "--model.layer", "3"]) == ["fit", "--model.layer", "3"]
    missing = composed(["--config=rome.yaml", "--config", "none.yaml", "--data.limit=3"])
    assert missing == [f"--config={CONFIGS / 'rome.yaml'}", "--config=none.yaml", "--data.limit=3"]


def test_the_name_of_a_pair_from_before_means_method_and_model():
    assert one("gpt2-xl/memit.yaml") == one("memit.yaml", "models/gpt2-xl.yaml")


def test_a_model_needs_a_method():
    with pytest.raises(ValueError, match=r"models/gpt2-xl.yaml names a model and no method; give"):
        composed(["fit", "--config", "models/gpt2-xl.yaml"])
    chosen = one("models/gpt2-xl.yaml", options=["--model", "MEMIT"])
    assert arguments_of(chosen)["preservation"] == 20000


def test_an_unknown_key_of_a_models_file_is_refused(own):
    with pytest.raises(ValueError, match=r"has an unknown key 'layr'; do you mean 'layer'\?"):
        one("rome.yaml", own({"lm": "org/lm", "layr": 3}))


def test_merging_goes_key_by_key_and_appends_what_is_marked():
    lower = {"a": {"b": 1, "c": [1]}, "list": [1]}
    upper = {"a": {"c": [2]}, "list+": [2], "more+": [3]}
    assert merged(lower, upper) == {"a": {"b": 1, "c": [2]}, "list": [1, 2], "more+": [3]}
    assert merged({"more+": [3]}, {"more+": [4]}) == {"more+": [3, 4]}


def test_a_class_in_anothers_place_keeps_the_arguments_that_it_has():
    text = {"class_path": "data_modules.key_text.TextDataModule", "init_args": {"config": "x"}}
    lower = {"init_args": {"path": "p", "watch": "w"}}
    assert merged(lower, text)["init_args"] == {"path": "p", "config": "x"}
    assert lower == {"init_args": {"path": "p", "watch": "w"}}
