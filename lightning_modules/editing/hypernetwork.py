"""MEND's hypernetwork and its file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_info
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..functional.gradient_transform import GradientTransform
from ..language_model.gradients import Factors
from ..language_model.loading import artefact_file, is_embedded

KIND = "mend"
EMBEDDED_LAYERS = [1, 2, 3]  # so small a model tells a subject from its neighbors early
TRANSFORM = "both layers clamped"  # a file of another transform would compute something else


class Hypernetwork(nn.Module):
    """MEND's parameters: one gradient transform per weight shape, one edit rate per weight.

    Args:
        shapes: ``(out, in)`` of every edited weight, by name.
        rank: of the transforms' layers.
        edit_rate: initial learning rate of an edit.
    """

    def __init__(
        self, shapes: Mapping[str, Sequence[int]], rank: int, edit_rate: float = 1e-4
    ) -> None:
        super().__init__()
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.rank = rank
        self.transforms = nn.ModuleDict()
        for shape in sorted(set(self.shapes.values())):
            sharing = len(self.sharing(shape))
            out, inputs = shape
            self.transforms[_key(shape)] = GradientTransform(inputs, out, rank, sharing)
        self.rates = nn.Parameter(torch.full((len(self.shapes),), edit_rate))

    def sharing(self, shape: tuple[int, ...]) -> list[str]:
        """The weights of a shape, which share a transform."""
        return [name for name, other in self.shapes.items() if other == shape]

    def observe(self, factors: Mapping[str, Factors]) -> None:
        """Adds gradients to the moments that standardize them."""
        for name, (inputs, gradients) in factors.items():
            self._transform(name).observe(inputs, gradients)

    def forward(self, factors: Mapping[str, Factors]) -> dict[str, tuple[Tensor, Tensor]]:
        """Per weight the change ``-rate · Σ δ̃ ũᵀ`` as ``left (out, n)`` and ``right (n, in)``."""
        changes = {}
        for rate, (name, shape) in zip(self.rates, self.shapes.items(), strict=True):
            number = self.sharing(shape).index(name)
            inputs, gradients = self._transform(name)(*factors[name], number)
            changes[name] = (-rate * gradients.T, inputs)
        return changes

    def _transform(self, name: str) -> GradientTransform:
        return self.transforms[_key(self.shapes[name])]  # type: ignore[return-value]


def _key(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def trained_layers(layers: Sequence[int] | None, lm_name: str, depth: int) -> Sequence[int]:
    """The layers as given; where none are, the model's usual ones, which are named.

    Args:
        layers: as the user gave them.
        lm_name: the model's name.
        depth: number of the model's layers.
    """
    if layers is not None:
        return layers
    usual = EMBEDDED_LAYERS if is_embedded(lm_name) else list(range(depth))[-3:]
    rank_zero_info(f"MEND is trained for layers {usual} of {lm_name!r}; or give --model.layers")
    return usual


def save_hypernetwork(file: Path, hypernetwork: Hypernetwork, lm_name: str, model: str) -> None:
    """Writes a hypernetwork, whole or not at all, with matrices in float16."""
    tensors = {
        name: (tensor.half() if tensor.ndim == 2 else tensor).contiguous()
        for name, tensor in hypernetwork.state_dict().items()
    }
    about = {
        "fingerprint": model,
        "lm": lm_name,
        "rank": str(hypernetwork.rank),
        "shapes": json.dumps(hypernetwork.shapes),
        "transform": TRANSFORM,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    save_file(tensors, partial, about)
    partial.replace(file)


def load_hypernetwork(path: str | None, lm_name: str, model: str) -> Hypernetwork:
    """A trained hypernetwork, frozen, float32.

    Raises:
        FileNotFoundError: if its file does not exist.
        ValueError: if the file is damaged, or was trained for another model or transform.
    """
    file = artefact_file(KIND, path, lm_name, model)
    if not file.is_file():
        raise FileNotFoundError(
            f"no trained hypernetwork of {lm_name!r} at {file}; train one with: python train.py "
            f"fit --config mend-training.yaml --model.lm {lm_name}, or name its file by "
            "--model.hypernetwork"
        )
    try:
        with safe_open(file, "pt") as stored:
            about = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{file} is not an intact safetensors file ({error}); retrain the hypernetwork "
            "with mend-training.yaml"
        ) from error
    if about.get("fingerprint") != model:
        raise ValueError(
            f"{file} holds a hypernetwork trained for {about.get('lm')!r} with other weights than "
            f"those of {lm_name!r}; train one for this model with mend-training.yaml"
        )
    if about.get("transform") != TRANSFORM:
        raise ValueError(
            f"{file} holds a hypernetwork whose last layer was trained without the clamp; retrain "
            f"it with: python train.py fit --config mend-training.yaml --model.lm {lm_name}"
        )
    hypernetwork = Hypernetwork(json.loads(about["shapes"]), int(about["rank"]))
    hypernetwork.load_state_dict(tensors)
    return hypernetwork.requires_grad_(False)
