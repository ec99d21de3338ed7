"""The Editor: owns a language model, applies a method's updates to it, and judges text with it."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_modules.records import EditRequest, WatchedText

from .edited_weights import EditedWeights, Update
from .language_model.judging import judge
from .language_model.layout import layer_of, oriented
from .language_model.loading import Dtype, fingerprint, load
from .language_model.lower_states import LowerStates
from .language_model.scoring import Scores, score
from .language_model.tokens import Span, text_span
from .transforms import UpdateTransform

QUESTIONS_MEMORY = 2**27  # bytes; a request is judged before its edit and again after it


class State(NamedTuple):
    """What an edit changes, and an undo brings back."""

    weights: dict[str, Tensor]
    history: dict[str, Tensor]
    edited_cases: list[int]


class Editor(L.LightningModule, ABC):
    """A language model under edit: one batch of requests is one edit is one optimizer step.

    A method overrides :meth:`edit` and :meth:`edited_weights`; all else is written once, here.
    Everything known about the edit in flight is in ``record``, which callbacks complete and the
    journal writes, and in ``applied``, its updates. What a method remembers of past edits it keeps
    in ``history``, whose tensors it replaces and never changes in place: they are undone and saved
    with the weights. ``remedy`` is the command to try if the model collapses.

    Args:
        lm: ``embedded``, a folder, or a model's name on the hub.
        dtype: of the model's weights; those under edit are also kept in float32.
        seed: of everything the method draws by chance.
        trust_remote_code: run code that comes with the model.
        watch_memory: GiB of the model's device for hidden states of watched text below the edit.
        watch_host_memory: GiB of the host's memory for those that do not fit there.
        transform: what is done to every update before it is applied.
    """

    remedy = ""

    def __init__(
        self,
        lm: str = "embedded",
        dtype: Dtype = "float32",
        seed: int = 0,
        trust_remote_code: bool = False,
        watch_memory: float = 1.0,
        watch_host_memory: float = 4.0,
        transform: UpdateTransform | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False
        self.lm_name = lm
        self.dtype_name = dtype
        self.seed = seed
        self.trust_remote_code = trust_remote_code
        self.watch_memory = watch_memory
        self.watch_host_memory = watch_host_memory
        self.transform = transform
        self.lm: Any = None
        self.record: dict[str, Any] = {}
        self.applied: list[Update] = []
        self.history: dict[str, Tensor] = {}
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
        """Loads the language model, once."""
        if self.lm is None:
            self.attach(*load(self.lm_name, self.dtype_name, self.trust_remote_code))

    def attach(self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        """Takes a model as the one to edit, and keeps the original of every edited weight."""
        self.lm, self.tokenizer = lm, tokenizer
        self.fingerprint = fingerprint(lm, tokenizer)
        self.edited = EditedWeights(lm, self.edited_weights())
        lowest = min(layer_of(lm, name) for name in self.original)
        self.lower = LowerStates(lowest, self.watch_memory * 2**30, self.watch_host_memory * 2**30)
        self.asked = LowerStates(lowest, QUESTIONS_MEMORY, newest=True)

    @property
    def original(self) -> dict[str, Tensor]:
        """The edited weights before any edit, float32, by name."""
        return self.edited.original

    def on_fit_start(self) -> None:
        """Makes what edits need."""
        self.prepare()

    def on_predict_start(self) -> None:
        """Makes what edits need."""
        self.prepare()

    def prepare(self) -> None:
        """Makes what edits need and only has to be made once, from the unedited model."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD over the edited weights; its steps count the edits."""
        weights = [self.lm.get_parameter(name) for name in self.edited_weights()]
        return torch.optim.SGD(weights, lr=1.0)

    def training_step(self, batch: Sequence[EditRequest], batch_idx: int) -> None:
        """Makes one edit, and counts it."""
        self.make_edit(batch)
        self.optimizers().step()  # type: ignore[union-attr] # a single optimizer

    def make_edit(self, requests: Sequence[EditRequest]) -> None:
        """Edits the model; a failed edit leaves it as it was and is marked in ``record``."""
        started = time.perf_counter()
        self.before = State(self.edited.snapshot(), dict(self.history), list(self.edited_cases))
        self.record |= {"status": "applied", "method": type(self).__name__}
        self.applied = []
        try:
            for update in self.edit(requests):
                self.apply_update(update)
        except FloatingPointError as error:
            self.undo()
            self.record |= {"status": "failed", "reason": str(error)}
        else:
            self.edited_cases += [request.case_id for request in requests]
        self.record["update_norm"] = self.edited.distance(self.before.weights)
        self.record["seconds_edit"] = time.perf_counter() - started

    def apply_update(self, update: Update) -> None:
        """Adds an update to its weight, transformed if so configured.

        Raises:
            FloatingPointError: if the update is not finite.
        """
        if self.transform is not None:
            name = update.weight
            now, original = (
                oriented(self.lm, name, weight).to(self.device)
                for weight in (self.edited.master(name), self.original[name])
            )
            update = self.transform(update, now, original, self.history)
        self.edited.apply(update)
        self.applied.append(update)

    def undo(self) -> None:
        """Takes the last edit back: weights, history, and the list of edited cases."""
        self.edited.assign(self.before.weights)
        self.history = dict(self.before.history)
        self.edited_cases = list(self.before.edited_cases)
        self.applied = []

    def restore(self) -> None:
        """Gives every edited weight its original value and forgets all edits."""
        self.edited.assign(self.original)
        self.history = {}
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
        return score(self.lm, spans, lower=self.asked)

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
        """The edited weights alone, float32."""
        return {f"lm.{name}": self.edited.master(name) for name in self.original}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds which cases the weights hold, the history, and what the unedited model scored."""
        checkpoint["history"] = dict(self.history)
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
        self.edited.assign({n: checkpoint["state_dict"][f"lm.{n}"] for n in self.original})
        self.history = {name: t.to(self.device) for name, t in checkpoint["history"].items()}
        self.edited_cases = list(checkpoint["edited_cases"])
        self.baseline = dict(checkpoint["baseline"])
