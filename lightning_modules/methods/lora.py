"""LoRA: a low-rank adapter trained on each edit's requests by PEFT, then merged."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from data_modules.records import EditRequest

from ..editing.edited_weights import Update
from ..language_model.lower_states import LowerStates
from ..language_model.targets import Targets, place_targets, target_loss
from .fine_tuning import GradientEditor

if TYPE_CHECKING:
    from peft import LoraModel  # at run time where it is used: no other method needs it


class LoRA(GradientEditor):
    """Trains ``Δ = s B A`` on the MLP output maps by Adam (Hu et al. 2022), with PEFT.

    s is ``alpha / rank``. Every edit trains an adapter of its own, from ``B = 0``, on the loss of
    its targets, and merges it, as sequential editing with LoRA is reported in papers.

    Args:
        layers: the edited layers; only the embedded model has some by default.
        learning_rate: Adam's.
        rank: of A and B.
        alpha: of the scale s.
        steps: most evaluations of the loss, each followed by a step.
        goal: loss below which no further step is taken.

    Raises:
        ValueError: if a number is not positive.
    """

    def __init__(
        self,
        layers: Sequence[int] | None = None,
        learning_rate: float = 5e-3,
        rank: int = 8,
        alpha: float = 16.0,
        steps: int = 25,
        goal: float = 1e-2,
        **options: Any,
    ) -> None:
        super().__init__(layers, learning_rate, **options)
        for name, number in (("rank", rank), ("alpha", alpha), ("steps", steps)):
            if number <= 0:
                raise ValueError(f"{name} must be positive, got {number}")
        self.rank, self.alpha, self.steps, self.goal = rank, alpha, steps, goal

    def targets(self, requests: Sequence[EditRequest]) -> Targets:
        """New targets, each token at its own position."""
        return place_targets(self.spans(requests), "teacher_forced", self.device)

    def edit(self, requests: Sequence[EditRequest]) -> Iterator[Update]:
        """One update of rank r per weight, for all requests together."""
        targets, adapted = self.targets(requests), self.adapted()
        try:
            self.train_adapter(adapted, targets)
            updates = list(self.merged_updates())
        finally:
            adapted.unload()
            self.lm.requires_grad_(False)
        yield from updates

    def adapted(self) -> "LoraModel":
        """The model with a new adapter at each edited weight; ``unload`` takes it off again."""
        from peft import LoraConfig, LoraModel

        names = self.edited_weights()
        module = self.lm.get_submodule(names[0].rpartition(".")[0])
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type] # a quotient is all that is made of it
            target_modules=[name.removesuffix(".weight") for name in names],
            fan_in_fan_out=isinstance(module, Conv1D),
        )
        model = LoraModel(self.lm, {"default": config}, "default")
        draw = torch.Generator().manual_seed(self.seed + len(self.edited_requests))
        for adapter in self.adapters():
            first = adapter.lora_A["default"].weight
            fresh = torch.empty(first.shape, device="cpu")
            nn.init.kaiming_uniform_(fresh, math.sqrt(5), generator=draw)  # as PEFT does
            first.data.copy_(fresh)
        return model

    def adapters(self) -> list[Any]:
        """The adapters, in the order of the edited weights."""
        from peft.tuners.lora import LoraLayer

        modules = (self.lm.get_submodule(n.rpartition(".")[0]) for n in self.edited_weights())
        return [module for module in modules if isinstance(module, LoraLayer)]

    def train_adapter(self, adapted: "LoraModel", targets: Targets) -> None:
        """Takes Adam's steps.

        Raises:
            FloatingPointError: if the loss is not finite.
        """
        trained = [weight for weight in adapted.parameters() if weight.requires_grad]
        adam = torch.optim.Adam(trained, self.learning_rate)
        lower = LowerStates(self.lower.layer, math.inf)
        for step in range(self.steps):
            loss: Tensor = target_loss(self.lm, {}, targets, lower)
            self.record |= {"loss": loss.item(), "steps": step}
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss of the adapter is {loss.item()}")
            if loss < self.goal:
                return
            adam.zero_grad()
            loss.backward()
            adam.step()
        self.record["steps"] = self.steps

    def merged_updates(self) -> Iterator[Update]:
        """The adapters' changes of the weights."""
        for name, adapter in zip(self.edited_weights(), self.adapters(), strict=True):
            left = adapter.lora_B["default"].weight.detach() * adapter.scaling["default"]
            yield Update(name, left, adapter.lora_A["default"].weight.detach().clone())

    def card(self) -> dict[str, Any]:
        """Adds rank, alpha, steps and goal."""
        names = ("rank", "alpha", "steps", "goal")
        return super().card() | {name: getattr(self, name) for name in names}
