"""Trains MEND's hypernetwork: ordinary Lightning, automatic optimization, a frozen model."""

import random
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from data_modules.records import EditRequest

from ..editing.hypernetwork import KIND, Hypernetwork, save_hypernetwork, trained_layers
from ..language_model.gradients import (
    changed,
    gradient_factors,
    mlp_weight_names,
    target_logits,
)
from ..language_model.judging import answers, measures, questions
from ..language_model.layout import blocks, oriented
from ..language_model.loading import Dtype, artefact_file, fingerprint, load
from ..language_model.scoring import score
from ..language_model.targets import place_targets
from ..language_model.tokens import Span, target_span


class Losses(NamedTuple):
    """Losses of one edit: of the target, and of the change elsewhere; both in nats."""

    edit: Tensor
    locality: Tensor


class MENDTraining(L.LightningModule):
    """Learns updates that make a model answer a request, reworded too, and change nothing else.

    Each batch is one edit of the original model. The loss is ``c · NLL + KL``: the mean NLL of the
    new targets' tokens, and the KL divergence, before to after, at every token of a neighbor's
    prompt and answer. A training step draws one paraphrase and one neighbor of a request. The
    gradients that enter an edit are constants; nothing is differentiated twice. Validation
    (``val/…``) evaluates each request as a single edit, and the file that MEND reads holds the best
    hypernetwork by ``val/loss``.

    It differs from the authors' code (github.com/eric-mitchell/mend) in three respects:

    - An edit descends along the transformed gradient; theirs ascends, so that training has to turn
      the sign of every rate first.
    - The rates learn with a learning rate of their own, as in the paper; theirs as all else.
    - A gradient that is not finite spoils the network; theirs leaves it out.

    Args:
        lm: ``embedded``, a folder, a GGUF file, or a model's name on the hub.
        layers: edited layers, with all maps of their MLPs; by default the last three, as in the
            paper, and 1 to 3 in the embedded model.
        rank: of the hypernetwork's layers.
        edit_weight: c.
        edit_loss: prompts of the NLL: paraphrases, as MEND's authors have it, the edited prompt, as
            The Butterfly Effect's code and EasyEdit have it, or both. A request without
            paraphrases gives its prompt.
        draws: of the paraphrases and neighbors in a training step: ``one``, as published, or all.
        edit_rate: initial learning rate of an edit; learned per weight.
        learning_rate: Adam's.
        rate_learning_rate: Adam's for the edit rates.
        output: file to write; by default the one that MEND reads.
        dtype: of the language model's weights.
        trust_remote_code: run code that comes with the model.
    """

    def __init__(
        self,
        lm: str = "embedded",
        layers: Sequence[int] | None = None,
        rank: int = 1920,
        edit_weight: float = 0.1,
        edit_loss: Literal["paraphrases", "prompt", "both"] = "paraphrases",
        draws: Literal["one", "all"] = "one",
        edit_rate: float = 1e-4,
        learning_rate: float = 1e-6,
        rate_learning_rate: float = 1e-4,
        output: str | None = None,
        dtype: Dtype = "float32",
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        self.strict_loading = False
        self.lm_name = lm
        self.layers = layers
        self.rank = rank
        self.edit_weight, self.edit_loss = edit_weight, edit_loss
        self.draws = draws
        self.edit_rate = edit_rate
        self.learning_rate = learning_rate
        self.rate_learning_rate = rate_learning_rate
        self.output = output
        self.dtype_name = dtype
        self.trust_remote_code = trust_remote_code
        self.best = float("inf")
        self.lm: Any = None

    def configure_model(self) -> None:
        """Loads the language model and makes the hypernetwork, once."""
        if self.lm is not None:
            return
        self.lm, self.tokenizer = load(self.lm_name, self.dtype_name, self.trust_remote_code)
        self.fingerprint = fingerprint(self.lm, self.tokenizer)
        layers = trained_layers(self.layers, self.lm_name, len(blocks(self.lm)))
        weights = [name for layer in layers for name in mlp_weight_names(self.lm, layer)]
        shapes = {name: oriented(self.lm, name).shape for name in weights}
        self.hypernetwork = Hypernetwork(shapes, self.rank, self.edit_rate)

    def changes(
        self, requests: Sequence[EditRequest], observe: bool = False
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Factors of an edit's change of each weight; differentiable."""
        spans = [target_span(self.tokenizer, r.text, r.target_new) for r in requests]
        factors = gradient_factors(self.lm, spans, list(self.hypernetwork.shapes))
        if observe:
            self.hypernetwork.observe(factors)
        return self.hypernetwork(factors)

    def losses(
        self, requests: Sequence[EditRequest], changes: dict[str, tuple[Tensor, Tensor]]
    ) -> Losses:
        """NLL and KL of the model under the changes."""
        wanted, neighbors = self.wanted(requests), self.neighbors(requests)
        targets = place_targets([*wanted, *neighbors], "teacher_forced", self.device)
        with torch.no_grad():
            unedited = place_targets(neighbors, "teacher_forced", self.device)
            before = target_logits(self.lm, unedited).log_softmax(-1)
        with changed(self.lm, changes):
            logits = target_logits(self.lm, targets)
        new = targets.rows < len(wanted)
        after = logits[~new].log_softmax(-1)
        divergence = F.kl_div(after, before, reduction="batchmean", log_target=True)
        return Losses(F.cross_entropy(logits[new], targets.tokens[new]), divergence)

    def wanted(self, requests: Sequence[EditRequest]) -> list[Span]:
        """The new targets after the prompts of the edit loss."""
        return [
            target_span(self.tokenizer, prompt, request.target_new)
            for request in requests
            for prompt in self.prompts(request)
        ]

    def prompts(self, request: EditRequest) -> tuple[str, ...]:
        """The prompts of a request's edit loss."""
        if self.edit_loss == "both":
            return (request.text, *request.paraphrases)
        asked = request.paraphrases if self.edit_loss == "paraphrases" else ()
        return asked or (request.text,)

    def neighbors(self, requests: Sequence[EditRequest]) -> list[Span]:
        """The neighbors' prompts and answers, every token but the first predicted.

        Raises:
            ValueError: if a request has no neighbor.
        """
        for request in requests:
            if not request.neighborhood:
                raise ValueError(
                    f"case {request.case_id} has no neighborhood, from which MEND learns what to "
                    "leave alone; give data that has it, such as CounterFact or zsRE"
                )
        return [
            target_span(self.tokenizer, probe.prompt, probe.answer)._replace(start=1)
            for request in requests
            for probe in request.neighborhood
        ]

    def training_step(self, batch: Sequence[EditRequest], batch_idx: int) -> Tensor:
        """The loss of one edit."""
        draw = random.Random(f"{self.current_epoch}/{batch_idx}")  # the same after a resume
        drawn = [one_of_each(r, draw) if self.draws == "one" else r for r in batch]
        losses = self.losses(drawn, self.changes(batch, observe=True))
        loss = self.edit_weight * losses.edit + losses.locality
        self.log_dict(
            {"train/loss": loss, "train/edit": losses.edit, "train/locality": losses.locality},
            batch_size=len(batch),
        )
        return loss

    def validation_step(self, batch: Sequence[EditRequest], batch_idx: int) -> None:
        """Losses and scores of each request as a single edit; drawdown is of token accuracy."""
        for request in batch:
            changes = self.changes([request])
            losses = self.losses([request], changes)
            ask = partial(answers, partial(score, self.lm), self.tokenizer, [questions(request)])
            (before,) = ask()
            with changed(self.lm, changes):
                (after,) = ask()
            scores = measures(after, [answer.guesses for answer in before["neighborhood"]])
            near = "neighborhood_token_accuracy"
            scores["drawdown"] = measures(before)[near] - scores[near]
            loss = self.edit_weight * losses.edit + losses.locality
            self.log("val/loss", loss, batch_size=1, prog_bar=True, sync_dist=True)
            self.log_dict(
                {f"val/{name}": value for name, value in scores.items()},
                batch_size=1,
                sync_dist=True,
            )

    def on_validation_end(self) -> None:
        """Stores the best hypernetwork so far."""
        loss = float(self.trainer.callback_metrics["val/loss"])
        if self.trainer.sanity_checking or loss >= self.best:
            return
        self.best = loss
        if self.trainer.is_global_zero:
            file = artefact_file(KIND, self.output, self.lm_name, self.fingerprint)
            save_hypernetwork(file, self.hypernetwork, self.lm_name, self.fingerprint)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, with a separate learning rate for the edit rates; both constant."""
        transforms = self.hypernetwork.transforms.parameters()
        rates: dict[str, Any] = {"params": [self.hypernetwork.rates], "lr": self.rate_learning_rate}
        return torch.optim.Adam([{"params": transforms}, rates], self.learning_rate)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Only the hypernetwork."""
        state = super().state_dict(*args, **kwargs)
        return {name: value for name, value in state.items() if not name.startswith("lm.")}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the best loss and the model's fingerprint."""
        checkpoint["best"] = self.best
        checkpoint["fingerprint"] = self.fingerprint

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the best loss.

        Raises:
            ValueError: if the checkpoint belongs to another model.
        """
        if checkpoint.get("fingerprint") != self.fingerprint:
            raise ValueError(
                f"the checkpoint was trained for another model than {self.lm_name!r}; name that "
                "model by --model.lm"
            )
        self.best = checkpoint["best"]


def one_of_each(request: EditRequest, draw: random.Random) -> EditRequest:
    """A request with one of its paraphrases and one of its neighbors, if it has any."""
    return request._replace(
        paraphrases=tuple(draw.sample(request.paraphrases, min(1, len(request.paraphrases)))),
        neighborhood=tuple(draw.sample(request.neighborhood, min(1, len(request.neighborhood)))),
    )
