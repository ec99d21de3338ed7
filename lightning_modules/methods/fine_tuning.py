"""Fine-tuning: edits by gradient steps on the target's loss, one at a time or breadth-first."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from data_modules.records import EditRequest

from ..editing.edited_weights import Update
from ..editing.editor import Editor
from ..editing.layer_choice import given_layers
from ..functional.norm_ball import clamp_change
from ..language_model.layout import block_parameter_names, oriented, output_weight_name
from ..language_model.lower_states import LowerStates
from ..language_model.targets import Placement, Targets, place_targets, target_loss
from ..language_model.tokens import Span, edit_span


class GradientEditor(Editor):
    """Edits MLP output maps by Adam's steps, without weight decay, on the loss of the targets.

    The steps are taken on the change of the weight, in float32.

    Args:
        layers: the edited layers; only the embedded model has some by default.
        learning_rate: Adam's.
    """

    needs_subject = False

    def __init__(
        self, layers: Sequence[int] | None = None, learning_rate: float = 5e-4, **options: Any
    ) -> None:
        super().__init__(**options)
        self.layers = list(given_layers(self, layers, embedded=[1]))
        if learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {learning_rate}")
        self.learning_rate = learning_rate

    @abstractmethod
    def targets(self, requests: Sequence[EditRequest]) -> Targets:
        """The tokens that the loss scores."""

    def edited_weights(self) -> list[str]:
        """The output maps of the edited layers."""
        return [output_weight_name(self.lm, layer) for layer in self.layers]

    def spans(self, requests: Sequence[EditRequest]) -> list[Span]:
        """Each request's prompt and new target."""
        return [edit_span(self.tokenizer, request) for request in requests]

    def no_change(self) -> dict[str, Tensor]:
        """A zero change per edited weight, in the weight's layout, that takes a gradient."""
        return {
            name: torch.zeros_like(self.edited.master(name), requires_grad=True)
            for name in self.edited_weights()
        }

    def loss(self, changes: dict[str, Tensor], targets: Targets, lower: LowerStates) -> Tensor:
        """Loss of the changed model, a scalar; only the changes take gradients.

        Raises:
            FloatingPointError: if it is not finite.
        """
        weights = {
            name: (self.edited.master(name) + change).to(self.lm.get_parameter(name).dtype)
            for name, change in changes.items()
        }
        loss = target_loss(self.lm, weights, targets, lower)
        self.record["loss"] = loss.item()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the fine-tuning loss is {loss.item()}")
        return loss

    def updates(self, changes: dict[str, Tensor]) -> Iterator[Update]:
        """The changes as dense updates."""
        for name, change in changes.items():
            yield Update(name, oriented(self.lm, name, change.detach()))

    def card(self) -> dict[str, Any]:
        """Adds layers and learning rate."""
        return super().card() | {"layers": self.layers, "learning_rate": self.learning_rate}


class FineTuning(GradientEditor):
    """FT: gradient steps until a request's loss is low, within an L∞ ball.

    After every step each entry of the change is clamped to ``[-radius, radius]``, the L∞ ball
    around the weight as it was before this edit (Zhu et al. 2020).

    Args:
        layers: the edited layers; only the embedded model has some by default.
        learning_rate: Adam's.
        placement: ``last_token`` scores all target tokens at the prompt's last token, as The
            Butterfly Effect's released code does; ``teacher_forced`` scores each at its own
            position.
        radius: of the ball; null leaves the change free, as released for GPT-J and Llama-2.
        parameters: ``weight_and_bias`` also trains the map's bias if it has one, as the released
            code does on GPT-2 and GPT-J; ``block`` trains all parameters of the layer's block.
        steps: most evaluations of the loss, each followed by a step.
        goal: loss below which no further step is taken.

    Raises:
        ValueError: if a number is not positive.
    """

    def __init__(
        self,
        layers: Sequence[int] | None = None,
        learning_rate: float = 5e-4,
        placement: Placement = "last_token",
        radius: float | None = 5e-4,
        parameters: Literal["weight", "weight_and_bias", "block"] = "weight",
        steps: int = 25,
        goal: float = 1e-2,
        **options: Any,
    ) -> None:
        super().__init__(layers, learning_rate, **options)
        if radius is not None and radius <= 0:
            raise ValueError(f"radius must be positive, or null for no ball, got {radius}")
        if steps <= 0:
            raise ValueError(f"steps must be positive, got {steps}")
        self.placement = placement
        self.radius = radius
        self.parameters_kind = parameters
        self.steps = steps
        self.goal = goal

    def edited_weights(self) -> list[str]:
        """The output maps of the edited layers, and their biases or blocks if those are trained."""
        if self.parameters_kind == "block":
            return [name for layer in self.layers for name in block_parameter_names(self.lm, layer)]
        weights = super().edited_weights()
        if self.parameters_kind == "weight":
            return weights
        biases = [name.removesuffix("weight") + "bias" for name in weights]
        known = dict(self.lm.named_parameters())
        return weights + [name for name in biases if name in known]

    def targets(self, requests: Sequence[EditRequest]) -> Targets:
        """New targets, at the positions that ``placement`` chooses."""
        return place_targets(self.spans(requests), self.placement, self.device)

    def edit(self, requests: Sequence[EditRequest]) -> Iterator[Update]:
        """One dense update per weight, for all requests together."""
        targets = self.targets(requests)
        lower = LowerStates(self.lower.layer, math.inf)
        changes = self.no_change()
        adam = torch.optim.Adam(changes.values(), self.learning_rate)
        for step in range(self.steps):
            loss = self.loss(changes, targets, lower)
            self.record["steps"] = step
            if loss < self.goal:
                break
            adam.zero_grad()
            loss.backward()
            adam.step()
            with torch.no_grad():
                for change in changes.values():
                    change.copy_(clamp_change(change, self.radius))
        else:
            self.record["steps"] = self.steps
            self.record["reason"] = (
                f"fine-tuning was at loss {self.record['loss']:.3g} before its last step, above "
                f"its goal {self.goal:g}"
            )
        yield from self.updates(changes)

    def card(self) -> dict[str, Any]:
        """Adds placement, radius, which parameters are trained, steps and goal."""
        return super().card() | {
            "parameters": self.parameters_kind,
            "placement": self.placement,
            "radius": self.radius,
            "steps": self.steps,
            "goal": self.goal,
        }
