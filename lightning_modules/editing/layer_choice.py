"""Layers by word: ``auto`` is what a stored study or trace found, ``usual`` does without one."""

import json
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Literal, TypeVar

from lightning.pytorch.utilities import rank_zero_info
from transformers import PreTrainedModel

from ..language_model.layout import blocks
from ..language_model.loading import artefact_file, is_embedded

KIND = "layers"
Auto = Literal["auto", "usual"]
SHARE, WIDTH = 3, 3  # published layers end at a quarter to a third of the depth; 3 to 6 of them
T = TypeVar("T", bound=Sequence)


def chosen_layer(option: int | Auto, lm_name: str, model: str, depth: int) -> int:
    """The given layer, or for a word the one that it stands for; reports which and why.

    For ``auto`` a layer study's best layer comes first, then the middle of a causal trace's range.
    ``usual`` is the same, and without both a third of the depth.

    Args:
        option: as the user gave it.
        lm_name: the model's name.
        model: the model's fingerprint.
        depth: number of the model's layers.

    Raises:
        FileNotFoundError: if nothing is stored for ``auto``.
        ValueError: if the file is damaged, belongs to another model, or names no layer of this one.
    """
    if isinstance(option, int):
        return option
    file = artefact_file(KIND, None, lm_name, model, ".json")
    if option == "usual" and not file.is_file():
        return _third(lm_name, depth, 1)[0]
    if not file.is_file():
        raise FileNotFoundError(
            f"layer auto: nothing is stored for {lm_name!r} at {file}; {_commands(lm_name)}, or "
            "name the layer"
        )
    found = _read(file, lm_name, model)
    layer, why = _named(found)
    if not 0 <= layer < depth:
        raise ValueError(
            f"{file} names layer {layer}, but {lm_name!r} has {depth}; delete the file, then "
            f"{_commands(lm_name)}"
        )
    rank_zero_info(f"layer auto is layer {layer}: {why} ({file})")
    return layer


def chosen_layers(
    option: Sequence[int] | Auto, width: int, lm_name: str, model: str, depth: int
) -> list[int]:
    """The given layers, or for a word a range that ends at the layer that it stands for.

    Args:
        option: as the user gave it.
        width: number of layers in the range; fewer at the model's beginning, and at most three
            where nothing is stored.
        lm_name: the model's name.
        model: the model's fingerprint.
        depth: number of the model's layers.
    """
    if not isinstance(option, str):
        return sorted(set(option))
    if option == "usual" and not artefact_file(KIND, None, lm_name, model, ".json").is_file():
        return _third(lm_name, depth, min(width, WIDTH))
    last = chosen_layer(option, lm_name, model, depth)
    return list(range(max(0, last - width + 1), last + 1))


def single(layer: int | Auto | None) -> Sequence[int] | Auto | None:
    """One layer as a list of layers; a choice left open stays open."""
    return [layer] if isinstance(layer, int) else layer


def given_layers(editor: Any, layers: T | None, embedded: T) -> T:
    """The layers that the user named; only the embedded model has some by default.

    Args:
        editor: whose layers they are; its model need not be loaded.
        layers: as the user gave them.
        embedded: those of the embedded model.

    Raises:
        ValueError: if none are named for another model, or the list is empty.
    """
    editor.layers_left_open = layers is None
    if layers is None and not is_embedded(editor.lm_name):
        option, example = ("layer", "N") if _has_one(editor) else ("layers", "[N]")
        study = ", or auto after a layer study" if hasattr(editor, "auto_width") else ""
        raise ValueError(
            f"{type(editor).__name__} has no default layer in {editor.lm_name!r}: give "
            f"--model.{option} {example}, about a third of the model's depth{study} "
            "(docs/layers.md)"
        )
    chosen = embedded if layers is None else layers
    if not chosen:
        raise ValueError("layers is empty, so no weight could be edited; name at least one")
    return chosen


def require_given_layers(editor: Any, lm: PreTrainedModel) -> None:
    """Refuses another model than the embedded one for an editor whose layers were left open.

    Raises:
        ValueError: if it is one.
    """
    if getattr(editor, "layers_left_open", False) and not is_embedded(lm.name_or_path or ""):
        raise ValueError(
            f"{type(editor).__name__} has no default layer in {lm.name_or_path or 'this model'!r}: "
            f"give {'layer=N' if _has_one(editor) else 'layers=[N]'}, about a third of the "
            f"{len(blocks(lm))} layers (docs/layers.md)"
        )


def _has_one(editor: Any) -> bool:
    return "layer" in signature(type(editor)).parameters


def keep_result(lm_name: str, model: str, name: Literal["study", "trace"], result: dict) -> Path:
    """Stores the result of a study or a trace; keeps the model's other results.

    Args:
        lm_name: the model's name.
        model: the model's fingerprint.
        name: of the experiment.
        result: of a study ``layer`` and ``why``, of a trace ``range`` and ``why``.
    """
    file = artefact_file(KIND, None, lm_name, model, ".json")
    try:
        kept = _read(file, lm_name, model) if file.is_file() else {}
    except ValueError:
        kept = {}
    content = {"lm": lm_name, "fingerprint": model, **kept, name: result}
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.replace(file)
    return file


def _third(lm_name: str, depth: int, width: int) -> list[int]:
    """Layers that end at a third of the depth, which leaves others above them.

    Raises:
        ValueError: if the model is too shallow.
    """
    last = round(depth / SHARE)
    if last >= depth - 1:
        raise ValueError(
            f"layer usual: {lm_name!r} has {depth} layers, too few for an edit at a third of the "
            "depth with layers above it; name the layer"
        )
    layers = list(range(max(1, last - width + 1), last + 1))
    rank_zero_info(
        f"layer usual is {', '.join(map(str, layers))} of {depth}: up to a third of the depth, "
        f"where published layers lie. Nothing measured is stored for {lm_name!r}; to measure, "
        f"{_commands(lm_name)}"
    )
    return layers


def _named(found: dict[str, Any]) -> tuple[int, str]:
    """A stored result's layer, and the reason."""
    if "study" in found:
        return found["study"]["layer"], found["study"]["why"]
    low, high = found["trace"]["range"]
    return (low + high) // 2, f"the middle of layers {low} to {high}, {found['trace']['why']}"


def _read(file: Path, lm_name: str, model: str) -> dict[str, Any]:
    """The stored results of a model.

    Raises:
        ValueError: if it is damaged or of another model.
    """
    try:
        found = json.loads(file.read_text("utf-8"))
        _named(found)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} holds no layer study or trace ({type(error).__name__}: {error}); delete it, "
            f"then {_commands(lm_name)}"
        ) from error
    if found.get("fingerprint") != model:
        raise ValueError(
            f"{file} is of a model with other weights than {lm_name!r}; delete it, then "
            f"{_commands(lm_name)}"
        )
    return found


def _commands(lm_name: str) -> str:
    return (
        f"run `python train.py fit --config layer-study.yaml --model.lm {lm_name}` or, faster, "
        f"`python train.py predict --config trace.yaml --model.lm {lm_name}`"
    )
