"""Merges configs: the experiment's values over the model's, those over the method's."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from lightning.pytorch.utilities import rank_zero_info

from .configs import CONFIGS, located
from .mistakes import constructor, nearest
from .short_names import full, import_named

PRESET = ("lm", "layer", "layers", "other_layers", "dtype", "trust_remote_code", "data")
ORDER = ("method", "model", "published", "experiment")  # the last one wins


class Config(NamedTuple):
    """A config's file, its role (a word of ``ORDER``, or ``own``), and its content."""

    file: Path
    role: str
    content: dict[str, Any]

    @property
    def name(self) -> str:
        """Its name on the command line."""
        inside = self.file.is_relative_to(CONFIGS)
        return str(self.file.relative_to(CONFIGS) if inside else self.file)


def composed(arguments: Sequence[str]) -> list[str]:
    """The command line with its configs ordered by role and merged into one.

    The order on the command line matters only among configs of one role. A user's own configs that
    choose no method come last, unchanged.

    Raises:
        ValueError: if a model is named without a method, or its file holds an unknown key.
    """
    rest, files, place = without_configs(arguments)
    texts = {file: Path(file).read_text("utf-8") for file in files if Path(file).is_file()}
    import_named([*rest, *texts.values()])
    configs = [config for config in map(config_of, texts.items()) if config]
    ours = [config for config in configs if config.role != "own"]
    if len(configs) < len(files) or not (len(ours) > 1 or any(c.role == "model" for c in ours)):
        return [*rest[:place], *(f"--config={file}" for file in files), *rest[place:]]
    own = [f"--config={config.file}" for config in configs if config.role == "own"]
    whole = json.dumps(one_of(ours, class_named(rest)))
    return [*rest[:place], f"--config={whole}", *own, *rest[place:]]


def without_configs(arguments: Sequence[str]) -> tuple[list[str], list[str], int]:
    """Arguments without configs, the configs' files, and the position of the first one."""
    rest: list[str] = []
    files: list[str] = []
    place = None
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option not in ("--config", "-c"):
            rest.append(located(word))
            continue
        place = len(rest) if place is None else place
        files += current(value if equals else next(words, ""))
    return rest, files, len(rest) if place is None else place


def current(name: str) -> list[str]:
    """Files of a config; for a pair's old name such as ``gpt2-xl/memit.yaml``, method and model."""
    model, slash, method = name.partition("/")
    pair = [CONFIGS / method, CONFIGS / "models" / f"{model}.yaml"]
    if slash and not Path(name).exists() and all(file.is_file() for file in pair):
        return list(map(str, pair))
    return [located(name)]


def config_of(source: tuple[str, str]) -> Config | None:
    """A config from its file and text; None if it cannot be read, which the parser reports."""
    file = Path(source[0])
    try:
        content = yaml.safe_load(source[1])
    except yaml.YAMLError:
        return None
    if not isinstance(content, dict):
        return None
    if "lm" in content:
        return Config(file, "model", content)
    content = {key: grouped(key, value) for key, value in content.items()}
    if file.parent.name == "papers":
        return Config(file, "experiment", content)
    chooses = "class_path" in content.get("model", {})
    return Config(file, "method" if chooses else "own", content)


def grouped(key: str, value: Any) -> Any:
    """``model`` or ``data`` with arguments under ``init_args``, which YAML may omit."""
    if key not in ("model", "data") or value is None:
        return value
    if not isinstance(value, dict | str):
        raise ValueError(f"{key} must be a class's name or its arguments, got {value!r}")
    if isinstance(value, str):
        return {"class_path": full(value)}
    if not {"class_path", "init_args"} & value.keys():
        return {"init_args": value}
    path = {"class_path": full(value["class_path"])} if "class_path" in value else {}
    return value | path


def class_named(arguments: Sequence[str]) -> str | None:
    """The class that ``--model`` names on the command line."""
    found = None
    for word, following in pairwise([*arguments, ""]):
        option, equals, value = word.partition("=")
        if option in ("--model", "--model.class_path"):
            found = value if equals else following
    return full(found) if found and not found.endswith((".yaml", ".yml")) else None


def one_of(configs: Sequence[Config], chosen: str | None) -> dict[str, Any]:
    """The merged content of configs.

    Args:
        configs: of any role except ``own``.
        chosen: the method's class, if the command line names it.

    Raises:
        ValueError: if there is a model but no method.
    """
    by_role = {role: [c for c in configs if c.role == role] for role in ORDER}
    methods, models, experiments = (by_role[r] for r in ("method", "model", "experiment"))
    experiments.sort(key=lambda c: "class_path" not in c.content.get("model", {}))  # cases last
    classes = [c.content.get("model", {}).get("class_path") for c in [*experiments, *methods]]
    path = chosen or next(filter(None, reversed(classes)), None)
    if path is None:
        raise ValueError(
            f"{configs[0].name} names a model and no method; give one too: "
            f"--config rome.yaml --config {configs[0].name}"
        )
    if chosen:
        methods = [c._replace(content={**c.content, "model": {}}) for c in methods]
    stem = methods[-1].file.stem if methods and not chosen else None
    steps = [
        *methods,
        *(c._replace(content=preset(c, path)) for c in models),
        *(p for c in models for p in published(c.file.stem.removesuffix("-instruct"), path, stem)),
        *(c._replace(content=without_class(c.content)) for c in experiments),
    ]
    whole: dict[str, Any] = {"model": {"class_path": path}}
    for step in steps:
        whole = merged(whole, step.content)
    naming = [*experiments, *models, *methods]
    name = {"logger": {"init_args": {"name": "-".join(c.file.stem for c in naming)}}}
    rank_zero_info(f"Configs, the last one winning: {', '.join(c.name for c in steps)}")
    return merged(whole, {"trainer": name})


def without_class(experiment: dict[str, Any]) -> dict[str, Any]:
    """An experiment whose method is chosen elsewhere: its values without its class."""
    model = {k: v for k, v in experiment.get("model", {}).items() if k != "class_path"}
    return {**experiment, "model": model}


def preset(config: Config, path: str) -> dict[str, Any]:
    """A method's values from a model's file: ``layer`` or ``layers``, and its own if listed.

    Raises:
        ValueError: if the file holds an unknown key.
    """
    values = config.content
    for key in values:
        if key not in PRESET:
            raise ValueError(f"{config.name} has an unknown key {key!r}" + nearest(key, PRESET))
    known, name = accepted(path), path.rpartition(".")[2]
    taken = {k: v for k, v in values.items() if k in known and k not in ("data", "layers")}
    if "layer" not in known and "layers" in known:
        layers = values.get("other_layers", {}).get(name, values.get("layers"))
        taken |= {} if layers is None else {"layers": layers}
    is_job = path.startswith("lightning_modules.jobs.")
    data = {} if is_job else {"data": grouped("data", values.get("data", {}))}
    return {"model": {"init_args": taken}, **data}


def published(model: str, path: str, stem: str | None) -> Iterator[Config]:
    """Files of hyper-parameters: the method's for any model, then those for this model.

    A file is named after the method's config, another config of its class, or its module.
    """
    module, _, name = path.rpartition(".")
    others = (f for f in sorted(CONFIGS.glob("*.yaml")) if chooses_class(f, name))
    names = [stem, *(file.stem for file in others), module.rpartition(".")[2]]
    for folder in (CONFIGS / "published", CONFIGS / "published" / model):
        found = (folder / f"{name}.yaml" for name in names if name)
        file = next((file for file in found if file.is_file()), None)
        if file is not None:
            content = yaml.safe_load(file.read_text("utf-8"))
            content = {key: grouped(key, value) for key, value in content.items()}
            given, known = content.get("model", {}).get("init_args", {}), accepted(path)
            taken = {"init_args": {k: v for k, v in given.items() if k in known}}  # of a variant
            yield Config(file, "published", {**content, "model": taken})


def chooses_class(file: Path, name: str) -> bool:
    """Whether a config's method is of that class."""
    found = re.search(r"^model:\s+class_path: ([\w.]+)", file.read_text("utf-8"), re.M)
    return found is not None and found[1].rpartition(".")[2] == name


def merged(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """One config over another, key by key; lists are replaced, those of ``key+`` appended.

    If one class replaces another, the arguments that the new one shares stay.
    """
    whole = dict(lower)
    replaced = upper.get("class_path", whole.get("class_path")) != whole.get("class_path")
    if replaced and "init_args" in whole:
        known = accepted(upper["class_path"])
        whole["init_args"] = {k: v for k, v in whole["init_args"].items() if k in known}
    for key, value in upper.items():
        if isinstance(value, Mapping) and isinstance(whole.get(key), Mapping):
            whole[key] = merged(whole[key], value)
        elif key.endswith("+"):
            at = key[:-1] if key[:-1] in whole else key
            whole[at] = [*whole.get(at, []), *value]
        else:
            whole[key] = value
    return whole


def accepted(path: str) -> set[str]:
    """Arguments of a class; none if there is no such class, which the parser reports."""
    module, _, name = path.rpartition(".")
    try:
        return set(constructor(getattr(import_module(module), name)))
    except (ImportError, AttributeError, ValueError):
        return set()
