"""Trains MEND's hypernetwork: ordinary Lightning, automatic optimization, a frozen model."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from data_modules.records import EditRequest

from ..editing.hypernetwork import KIND, Hypernetwork, save_hypernetwork
from ..language_model.gradients import (
    changed,
    gradient_factors,
    mean_nll,
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

    Each batch is one edit of the original model. The loss is ``c · NLL + KL``: the NLL of the new
    target after the prompt and its paraphrases, and the KL divergence, before to after, at the
    neighbors' answers. The gradients that enter an edit are constants; nothing is differentiated
    twice. Validation (``val/…``) evaluates each request as a single edit, and the file that MEND
    reads holds the best hypernetwork by ``val/loss``.

    Args:
        lm: ``embedded``, a folder, a GGUF file, or a model's name on the hub.
        layers: edited layers, with all maps of their MLPs; the last three if null.
        rank: of the hypernetwork's layers.
        edit_weight: c.
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
        self.edit_weight = edit_weight
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
        layers = range(len(blocks(self.lm)))[-3:] if self.layers is None else self.layers
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
        spans = [span for span, _ in wanted] + neighbors
        targets = place_targets(spans, "teacher_forced", self.device)
        with torch.no_grad():
            unedited = place_targets(neighbors, "teacher_forced", self.device)
            before = target_logits(self.lm, unedited).log_softmax(-1)
        with changed(self.lm, changes):
            logits = target_logits(self.lm, targets)
        after = logits[targets.rows >= len(wanted)].log_softmax(-1)
        divergence = F.kl_div(after, before, reduction="batchmean", log_target=True)
        nll = mean_nll(logits, targets)[: len(wanted)]
        return Losses(nll @ nll.new_tensor([share for _, share in wanted]), divergence)

    def wanted(self, requests: Sequence[EditRequest]) -> list[tuple[Span, float]]:
        """The new targets after prompts and paraphrases, and each one's share of the edit loss.

        A request's prompt weighs as much as all its paraphrases.
        """
        asked = []
        for request in requests:
            rest = len(request.paraphrases)
            shares = [0.5, *[0.5 / rest] * rest] if rest else [1.0]
            for prompt, share in zip((request.text, *request.paraphrases), shares, strict=True):
                span = target_span(self.tokenizer, prompt, request.target_new)
                asked.append((span, share / len(requests)))
        return asked

    def neighbors(self, requests: Sequence[EditRequest]) -> list[Span]:
        """The neighbors' prompts and answers.

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
            target_span(self.tokenizer, probe.prompt, probe.answer)
            for request in requests
            for probe in request.neighborhood
        ]

    def training_step(self, batch: Sequence[EditRequest], batch_idx: int) -> Tensor:
        """The loss of one edit."""
        losses = self.losses(batch, self.changes(batch, observe=True))
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

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam, with a separate learning rate for the edit rates; both fall linearly to 0."""
        groups: list[dict[str, Any]] = [
            {"params": self.hypernetwork.transforms.parameters()},
            {"params": [self.hypernetwork.rates], "lr": self.rate_learning_rate},
        ]
        optimizer = torch.optim.Adam(groups, self.learning_rate)
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

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
