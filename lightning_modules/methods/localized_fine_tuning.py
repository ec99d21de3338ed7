"""LocFT-BF: breadth-first fine-tuning of few weights, mini-batch by mini-batch."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch

from data_modules.records import EditRequest

from ..editing.edited_weights import Update
from ..language_model.layout import block_parameter_names
from ..language_model.targets import Targets, place_targets
from .fine_tuning import GradientEditor


class LocalizedFineTuning(GradientEditor):
    """LocFT-BF: breadth-first fine-tuning, with one step per mini-batch of requests in each epoch.

    A mini-batch is an edit and Adam's moments are its history, so a run is ordinary training of few
    weights over ``trainer.max_epochs``; ``loss``, the mean of an epoch, can stop it. A line of the
    journal is a step, with the scores of its mini-batch just before and after; ``test`` evaluates
    all requests on the final model. Each target ends with the tokenizer's EOS, if it has one. The
    authors shuffle the requests before each epoch: ``data.shuffle``.

    Args:
        layers: the edited layers; only the embedded model has some by default.
        learning_rate: Adam's.
        goal: loss of a mini-batch below which it takes no step.
        parameters: ``output_map`` trains the MLP's output map, as published for most models;
            ``block`` all parameters of the layer's block, as published for Mistral-7B.
    """

    def __init__(
        self,
        layers: Sequence[int] | None = None,
        learning_rate: float = 5e-4,
        goal: float = 1e-2,
        parameters: Literal["output_map", "block"] = "output_map",
        **options: Any,
    ) -> None:
        super().__init__(layers, learning_rate, **options)
        self.goal = goal
        self.parameters_kind = parameters

    def edited_weights(self) -> list[str]:
        """The output maps of the edited layers, or all parameters of their blocks."""
        if self.parameters_kind == "output_map":
            return super().edited_weights()
        return [name for layer in self.layers for name in block_parameter_names(self.lm, layer)]

    def targets(self, requests: Sequence[EditRequest]) -> Targets:
        """New targets and EOS, each token at its own position."""
        end = self.tokenizer.eos_token_id
        spans = [
            span if end in (None, span.tokens[-1]) else span._replace(tokens=[*span.tokens, end])
            for span in self.spans(requests)
        ]
        return place_targets(spans, "teacher_forced", self.device)

    def training_step(self, batch: Sequence[EditRequest], batch_idx: int) -> None:
        """Takes one step, and logs its loss for the mean of the epoch."""
        super().training_step(batch, batch_idx)
        self.log(
            "loss",
            self.record["loss"],
            on_epoch=True,
            on_step=False,
            logger=False,
            batch_size=len(batch),
        )

    def edit(self, requests: Sequence[EditRequest]) -> Iterator[Update]:
        """One step of Adam, as one dense update per weight; none if the loss is below the goal."""
        changes = self.no_change()
        loss = self.loss(changes, self.targets(requests), self.lower)
        if loss < self.goal:
            return
        adam = torch.optim.Adam(changes.values(), self.learning_rate)
        for name, change in changes.items():
            of_weight = f"adam/{name}/"
            adam.state[change] = {
                key.removeprefix(of_weight): value.clone()
                for key, value in self.history.items()
                if key.startswith(of_weight)
            }
        loss.backward()
        adam.step()
        self.history |= {
            f"adam/{name}/{key}": value
            for name, change in changes.items()
            for key, value in adam.state[change].items()
        }
        yield from self.updates(changes)

    def card(self) -> dict[str, Any]:
        """Adds the goal and which parameters are trained."""
        return super().card() | {"goal": self.goal, "parameters": self.parameters_kind}
