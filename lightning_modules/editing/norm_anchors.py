"""The file of a model's norm anchor: the mean norm of solved values in the unedited model (NAS)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..functional.value_search import ValueSearchOptions
from ..language_model.loading import artefact_file

KIND = "norm_anchor"
COMMAND = "python train.py predict --config nas-anchor.yaml"


def load_anchor(options: ValueSearchOptions, lm_name: str, model: str, layer: int) -> float | None:
    """The norm that values are scaled to; None if they are not scaled.

    Args:
        options: of the search.
        lm_name: the model's name.
        model: the model's fingerprint.
        layer: at whose output values are searched.

    Raises:
        FileNotFoundError: if the options name the stored anchor and there is none.
        ValueError: if it is damaged, or belongs to another model or layer.
    """
    if options.anchor != "stored":
        return options.anchor
    file = anchor_file(lm_name, model)
    command = f"{COMMAND} --model.lm {lm_name} --model.layers [{layer}]"
    if not file.is_file():
        raise FileNotFoundError(
            f"no norm anchor of {lm_name!r} at {file}; make it with: {command}, or give a norm "
            "with --model.value.anchor"
        )
    try:
        content = json.loads(file.read_text("utf-8"))
        found = content["fingerprint"], content["layer"], float(content["norm"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no norm anchor ({error}); make it with: {command}") from error
    if found[:2] != (model, layer):
        raise ValueError(
            f"{file} holds the norm anchor of layer {found[1]} of another run or model, but values "
            f"are searched at layer {layer}; make it again with: {command}"
        )
    return found[2]


def anchor_file(lm_name: str, model: str) -> Path:
    """The file of a model's norm anchor."""
    return artefact_file(KIND, None, lm_name, model, ".json")


def anchor_content(card: Mapping[str, Any], norm: float, requests: int) -> dict[str, Any]:
    """The content of the file: the norm, its model, its layer and the number of requests."""
    about = {name: card[name] for name in ("lm", "fingerprint", "method", "value", "seed")}
    return {"norm": norm, "layer": card["layers"][-1], "requests": requests, **about}
