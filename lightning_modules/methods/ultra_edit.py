"""UltraEdit: a ridge solution from standardized keys and gradients; no subject, no statistics."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch

from data_modules.records import EditRequest

from ..editing.editor import Editor, Update
from ..editing.layer_choice import given_layers
from ..functional.gradient_transform import RunningMoments, lifelong_values
from ..functional.least_squares import NormalEquations, ridge_update
from ..language_model.gradients import Factors, gradient_factors, mlp_weight_names
from ..language_model.layout import output_weight_name
from ..language_model.tokens import edit_span


class UltraEdit(Editor):
    """Edits MLP output maps in one step from the gradient of the requests' loss (Gu et al. 2025).

    H holds a key per token, standardized by running moments to h̃; the gradients at the outputs are
    standardized to ṽ: ``V = -η ‖h̃‖² ṽ`` and ``Δᵀ = (HᵀH + I)⁻¹ HᵀV``. The moments cover all edits
    so far, this one included, and all edited layers.

    Args:
        layers: the edited layers; only the embedded model has some by default.
        rate: η.
        token: which tokens have a row: those that predict an answer's token (``ans``, as published)
            or all that the loss reaches.
        maps: names of the MLP's linear maps to edit, such as ``[gate_proj, up_proj]``, or the
            layers of each, such as ``{gate_proj: [11], up_proj: [18, 19]}``, which then stand in
            place of ``layers``; null: the output map.
        as_published: the running variance as in the authors' code, which counts an unbiased
            variance n times: too large by n / (n - 1) for n rows, and no number for one.
    """

    needs_subject = False

    def __init__(
        self,
        layers: Sequence[int] | None = None,
        rate: float = 1e-6,
        token: Literal["ans", "all"] = "ans",
        maps: list[str] | dict[str, list[int]] | None = None,
        as_published: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if rate <= 0:
            raise ValueError(f"rate must be positive, got {rate}")
        self.layers = list(given_layers(self, layers, embedded=[1, 2, 3, 4]))
        self.rate = rate
        self.token = token
        self.maps = maps
        self.as_published = as_published

    def edited_weights(self) -> list[str]:
        """The output maps of the edited layers, or the maps that were named.

        Raises:
            ValueError: if an MLP has no map of a given name.
        """
        if self.maps is None:
            return [output_weight_name(self.lm, layer) for layer in self.layers]
        layers = self.maps if isinstance(self.maps, dict) else dict.fromkeys(self.maps, self.layers)
        places = sorted(
            (layer, number) for number, name in enumerate(layers) for layer in layers[name]
        )
        names = list(layers)
        return [
            named_map(mlp_weight_names(self.lm, layer), names[number]) for layer, number in places
        ]

    def edit(self, requests: Sequence[EditRequest]) -> Iterator[Update]:
        """One update per layer for all requests together; its rank is the number of tokens."""
        spans = [edit_span(self.tokenizer, request) for request in requests]
        names = self.edited_weights()
        factors = gradient_factors(self.lm, spans, names, self.token == "ans")
        for pair in factors.values():
            self.observe(pair)
        for name, pair in factors.items():
            rows = torch.cat(pair, -1).double()
            standard, gradients = self.moments_of(pair).standardized(rows).split(widths(pair), -1)
            values = lifelong_values(standard, gradients, self.rate)
            system = NormalEquations(factor=None)
            change = ridge_update(system, pair.inputs.double().T, values.T)
            yield Update(name, change.left, change.right)

    def observe(self, factors: Factors) -> None:
        """Adds the rows of a weight to the moments of all weights of its shape."""
        rows = torch.cat(factors, -1)
        moments = self.moments_of(factors).extended(rows, self.as_published)
        for name, moment in moments._asdict().items():
            self.history[entry(factors, name)] = moment

    def moments_of(self, factors: Factors) -> RunningMoments:
        """The moments of all rows so far, of weights of this shape."""
        names = [entry(factors, name) for name in RunningMoments._fields]
        if names[0] not in self.history:
            return RunningMoments.none(torch.cat(factors, -1))
        return RunningMoments(*(self.history[name] for name in names))

    def card(self) -> dict[str, Any]:
        """Adds layers, rate, which tokens have a row, and which maps are edited."""
        names = ("layers", "rate", "token", "maps", "as_published")
        return super().card() | {name: getattr(self, name) for name in names}


def widths(factors: Factors) -> list[int]:
    """Width of the inputs and of the gradients."""
    return [part.shape[1] for part in factors]


def entry(factors: Factors, name: str) -> str:
    """The history's entry for a moment of the weights of this shape."""
    inputs, outputs = widths(factors)
    return f"moments/{inputs}x{outputs}/{name}"


def named_map(weights: Sequence[str], name: str) -> str:
    """The weight of the map of that name in an MLP.

    Raises:
        ValueError: if it has none.
    """
    known = {weight.split(".")[-2]: weight for weight in weights}
    if name not in known:
        raise ValueError(f"the MLP has no linear map {name!r}, but {', '.join(known)}")
    return known[name]
