"""The Editor: owns a language model, applies a method's updates to it, and judges text with it."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from data_modules.records import EditRequest, WatchedText

from .language_model.judging import judge
from .language_model.layout import layer_of, oriented
from .language_model.loading import Dtype, fingerprint, load
from .language_model.lower_states import LowerStates
from .language_model.scoring import Scores, score
from .language_model.tokens import Span, text_span


class Update(NamedTuple):
    """A change of one weight, seen as ``(out, in)``: ``left @ right``.

    Attributes:
        weight: the parameter's full name.
        left: ``(out, r)``; or the whole change ``(out, in)`` if ``right`` is None.
        right: ``(r, in)``.
    """

    weight: str
    left: Tensor
    right: Tensor | None = None

    def dense(self) -> Tensor:
        """The change itself, ``(out, in)``."""
        return self.left if self.right is None else self.left @ self.right


class Editor(L.LightningModule, ABC):
    """A language model under edit: one batch of requests is one edit is one optimizer step.

    A method overrides :meth:`edit` and :meth:`edited_weights`; all else is written once, here.
    Everything known about the edit in flight is in ``record``, which callbacks complete and the
    journal writes; ``remedy`` is the command to try if the model collapses.

    Args:
        lm: ``embedded``, a folder, or a model's name on the hub.
        dtype: of the model's weights.
        seed: of everything the method draws by chance.
        trust_remote_code: run code that comes with the model.
        watch_memory: GiB kept for hidden states of watched text below the edit.
    """

    remedy = ""

    def __init__(
        self,
        lm: str = "embedded",
        dtype: Dtype = "float32",
        seed: int = 0,
        trust_remote_code: bool = False,
        watch_memory: float = 1.0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False
        self.lm_name = lm
        self.dtype_name = dtype
        self.seed = seed
        self.trust_remote_code = trust_remote_code
        self.watch_memory = watch_memory
        self.lm: Any = None
        self.record: dict[str, Any] = {}
        self.baseline: dict[str, float] = {}
        self.edited_cases: list[int] = []

    @abstractmethod
    def edit(self, requests: Sequence[EditRequest]) -> Iterator[Update]:
        """Changes that make the model answer the requests; each is applied before the next.

        Figures worth keeping go to ``self.record``. A FloatingPointError marks the edit failed.
        """

    @abstractmethod
    def edited_weights(self) -> list[str]:
        """Names of the parameters that the method may change."""

    def setup(self, stage: str) -> None:
        """Refuses several devices.

        Raises:
            ValueError: if there is more than one.
        """
        if self.trainer.world_size > 1:
            raise ValueError(
                f"editing on {self.trainer.world_size} devices is not supported yet: each would "
                "hold another model; use --trainer.devices 1"
            )

    def configure_model(self) -> None:
        """Loads the language model, once, and keeps the original of every edited weight."""
        if self.lm is not None:
            return
        self.lm, self.tokenizer = load(self.lm_name, self.dtype_name, self.trust_remote_code)
        if self.dtype_name != "float32":
            rank_zero_warn(
                f"edits are rounded to {self.dtype_name}, in which many small ones may be lost"
            )
        self.fingerprint = fingerprint(self.lm, self.tokenizer)
        self.original = {
            name: self.lm.get_parameter(name).clone() for name in self.edited_weights()
        }
        lowest = min(layer_of(self.lm, name) for name in self.original)
        self.lower = LowerStates(lowest, self.watch_memory * 2**30)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD over the edited weights; its steps count the edits."""
        weights = [self.lm.get_parameter(name) for name in self.edited_weights()]
        return torch.optim.SGD(weights, lr=1.0)

    def training_step(self, batch: Sequence[EditRequest], batch_idx: int) -> None:
        """Applies one edit; a failed one leaves the model as it was and the run goes on."""
        started = time.perf_counter()
        before = {name: self.lm.get_parameter(name).clone() for name in self.original}
        self.record |= {"status": "applied", "method": type(self).__name__}
        try:
            for update in self.edit(batch):
                self.apply_update(update)
        except FloatingPointError as error:
            self.assign(before)
            self.record |= {"status": "failed", "reason": str(error)}
        else:
            self.edited_cases += [request.case_id for request in batch]
        change = sum(
            (self.lm.get_parameter(name).double() - old.double()).square().sum()
            for name, old in before.items()
        )
        self.record["update_norm"] = float(change) ** 0.5
        self.optimizers().step()  # type: ignore[union-attr] # a single optimizer
        self.record["seconds_edit"] = time.perf_counter() - started

    @torch.no_grad()
    def apply_update(self, update: Update) -> None:
        """Adds an update to its weight.

        Raises:
            FloatingPointError: if the update is not finite.
        """
        weight = oriented(self.lm, update.weight)
        change = update.dense()
        if not torch.isfinite(change).all():
            raise FloatingPointError(f"the update of {update.weight} is not finite")
        weight += change.to(weight)

    @torch.no_grad()
    def assign(self, weights: dict[str, Tensor]) -> None:
        """Overwrites parameters, by name."""
        for name, value in weights.items():
            self.lm.get_parameter(name).copy_(value)

    def restore(self) -> None:
        """Gives every edited weight its original value."""
        self.assign(self.original)
        self.edited_cases = []

    def validation_step(self, batch: WatchedText, batch_idx: int) -> Scores:
        """Scores of watched texts: no special tokens, all but the first token, no truncation."""
        spans = [text_span(self.tokenizer, text) for text in batch.texts]
        return score(self.lm, spans, lower=self.lower)

    def test_step(self, batch: Sequence[EditRequest], batch_idx: int) -> list[dict[str, Any]]:
        """Judges each edit of a checkpoint on the model as it is now; without one, all requests."""
        return [
            {"case_id": request.case_id, **self.judge(request)}
            for request in batch
            if self.trainer.ckpt_path is None or request.case_id in self.edited_cases
        ]

    def score(self, spans: Sequence[Span]) -> Scores:
        """Log-probability, length and greedy matches of each span's predicted tokens."""
        return score(self.lm, spans)

    def judge(self, request: EditRequest) -> dict[str, float]:
        """Efficacy, paraphrase and neighborhood of a request, on the model as it is now."""
        return judge(self.score, self.tokenizer, request)

    def card(self) -> dict[str, Any]:
        """What this run edits and how, for its summary."""
        return {
            "method": type(self).__name__,
            "lm": self.lm_name,
            "fingerprint": self.fingerprint,
            "weights": self.edited_weights(),
            "seed": self.seed,
        }

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The edited weights alone."""
        return {f"lm.{name}": self.lm.get_parameter(name) for name in self.edited_weights()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds which cases the weights hold, what the unedited model scored, and its name."""
        checkpoint["edited_cases"] = list(self.edited_cases)
        checkpoint["baseline"] = dict(self.baseline)
        checkpoint["fingerprint"] = self.fingerprint
        checkpoint.pop("hyper_parameters", None)  # else they would overrule the command line

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses edits of another model.

        Raises:
            ValueError: if the checkpoint's weights belong to another model.
        """
        if checkpoint.get("fingerprint") != self.fingerprint:
            raise ValueError(
                f"the checkpoint holds edits of another model than {self.lm_name!r}; name the "
                "model it was made with by --model.lm"
            )
        self.edited_cases = list(checkpoint["edited_cases"])
        self.baseline = dict(checkpoint["baseline"])
