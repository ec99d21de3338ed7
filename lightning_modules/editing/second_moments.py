"""The file of a model's second moments: its place, its metadata, and when it is refused.

One entry per layer, or per expert of a layer: the packed moment, and in the metadata, as JSON, how
it was estimated.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..functional.second_moment import unpack
from ..language_model.keys import Place
from ..language_model.loading import artefact_file

KIND = "key_statistics"


def load_second_moment(path: str | None, lm_name: str, model: str, layer: int) -> Tensor:
    """The mean of ``k kᵀ`` over the corpus, ``(f, f)``, float32; ``(E, f, f)`` of E experts.

    An expert's keys are times their gates, and 0 at tokens that it does not serve.

    Args:
        path: the file, if the user named one.
        lm_name: the model's name.
        model: the model's fingerprint.
        layer: whose keys.

    Raises:
        FileNotFoundError: if there is no file of statistics.
        ValueError: if it is damaged, belongs to another model, lacks the layer, or has fewer tokens
            than a key is wide, so that the moment is singular.
    """
    file = artefact_file(KIND, path, lm_name, model)
    first = model.rpartition("-first-position-")[2] if "-" in model else "0"
    command = (
        "python train.py test --config key-statistics.yaml "
        f"--model.lm {lm_name} --model.layers [{layer}]"
        + (f" --model.first_position {first}" if first != "0" else "")
    )
    if not file.is_file():
        raise FileNotFoundError(
            f"no key statistics of {lm_name!r} at {file}; make them with: {command}, or "
            "leave them out with --model.second_moment identity"
        )
    try:
        entries = [_entry(file, lm_name, model, place) for place in places(file, layer)]
        moments = [unpack(triangle) for triangle, _ in entries]
        tokens, width = int(entries[0][1]["tokens"]), len(moments[0])
        require_tokens(tokens, width, f"{file}, layer {layer}")
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({error}); delete it, then run: {command}") from error
    except ValueError as error:
        raise ValueError(f"{error}; recompute it with: {command}") from error
    return torch.stack(moments) if len(moments) > 1 else moments[0]


def places(file: Path, layer: int) -> list[Place]:
    """A layer, or each of its experts if the file has those."""
    begin = f"layer.{layer}.expert."
    with safe_open(file, "pt") as stored:
        names = [name for name in stored.keys() if name.startswith(begin)]  # noqa: SIM118
    experts = sorted(int(name.removeprefix(begin)) for name in names)
    return [f"{layer}.expert.{expert}" for expert in experts] or [layer]


def found_or_missing(
    layers: Sequence[int], load: Callable[[int], Any], path: str | None, lm_name: str, model: str
) -> str:
    """Whether the second moments of layers are there, and of which text, in words.

    Args:
        layers: which.
        load: reads the moment of one of them, or refuses it.
        path: the file, if the user named one.
        lm_name: the model's name.
        model: the model's fingerprint.
    """
    file = artefact_file(KIND, path, lm_name, model)
    try:
        for layer in layers:
            load(layer)
        about = _entry(file, lm_name, model, places(file, layers[0])[0])[1]
    except (FileNotFoundError, ValueError) as error:
        return f"MISSING: {error}"
    text = f"{int(about['tokens']):,} tokens in windows of {about.get('window', 'unknown length')}"
    return f"found, of layers {list(layers)} in {file}: {text}"


def _entry(file: Path, lm_name: str, model: str, layer: Place) -> tuple[Tensor, dict[str, Any]]:
    """The packed moment of a layer or expert, and how it was estimated.

    Raises:
        ValueError: if the file belongs to another model, lacks the layer, or was changed.
    """
    name = f"layer.{layer}"
    with safe_open(file, "pt") as stored:
        facts = stored.metadata() or {}
        if facts.get("fingerprint") != model:
            raise ValueError(
                f"{file} holds key statistics of {facts.get('lm', 'no model')!r} with other "
                f"weights than those of {lm_name!r}"
            )
        if name not in stored.keys():  # noqa: SIM118 - not a mapping
            raise ValueError(f"{file} has no layer {layer}, but {', '.join(stored.keys())}")
        triangle = stored.get_tensor(name)
    about = {"tokens": facts.get("tokens"), **json.loads(facts.get(name, "{}"))}
    if about.get("checksum", checksum(triangle)) != checksum(triangle):
        raise ValueError(f"layer {layer} in {file} is damaged: its checksum does not match")
    return triangle, about


def save_second_moments(
    file: Path,
    lm_name: str,
    model: str,
    moments: Mapping[Place, Tensor],
    about: Mapping[Place, dict],
) -> None:
    """Writes packed moments by layer or expert, all or nothing; keeps the file's other layers.

    Args:
        file: in an existing folder.
        lm_name: the model's name.
        model: the model's fingerprint.
        moments: the means of ``k kᵀ``, packed.
        about: how each was estimated, its ``tokens`` at least.
    """
    tensors, facts = _kept(file, model)
    for layer, triangle in moments.items():
        tensors[f"layer.{layer}"] = triangle
        facts[f"layer.{layer}"] = json.dumps(about[layer] | {"checksum": checksum(triangle)})
    partial = file.with_name(f"{file.name}.partial")
    try:
        save_file(tensors, partial, facts | {"fingerprint": model, "lm": lm_name})
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def require_tokens(tokens: int, width: int, what: str) -> None:
    """Refuses a moment of so few tokens that it is singular.

    Raises:
        ValueError: if there are fewer tokens than a key is wide.
    """
    if tokens < width:
        raise ValueError(
            f"{what}: {tokens} tokens are too few for keys of width {width}, whose second moment "
            f"they leave singular; a few times {width} are enough (--model.tokens)"
        )


def checksum(triangle: Tensor) -> str:
    """A hash of the packed numbers."""
    return hashlib.blake2b(triangle.numpy().tobytes(), digest_size=8).hexdigest()


def _kept(file: Path, model: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The file's layers; none if it is damaged or belongs to another model."""
    if not file.is_file():
        return {}, {}
    try:
        with safe_open(file, "pt") as stored:
            facts = stored.metadata() or {}
            if facts.get("fingerprint") == model:
                return {name: stored.get_tensor(name) for name in stored.keys()}, facts  # noqa: SIM118
    except SafetensorError:
        pass
    return {}, {}
