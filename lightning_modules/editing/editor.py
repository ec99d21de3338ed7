"""The Editor: applies a method's updates to a language model, one edit after another."""

import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_modules.records import EditRequest, WatchedText

from ..language_model.layout import layer_of
from ..language_model.quantized import Bits, quantize_rest
from ..language_model.scoring import Scores
from ..language_model.split import give
from .edited_weights import EditedWeights, State, Update
from .expert_edits import by_expert, editable_weights
from .layer_choice import require_given_layers
from .replicas import Place, Replicas
from .sweep import Made, Sweep
from .transforms import UpdateTransform
from .watched import WatchedModel


class Editor(WatchedModel):
    """A language model under edit: one batch of requests is one edit is one optimizer step.

    A method overrides :meth:`edit` and :meth:`edited_weights`; this class does the rest.
    ``applied`` holds the updates of the current edit. A method stores what it remembers of past
    edits in ``history``. It replaces those tensors and never changes them in place: they are undone
    and saved with the weights. ``remedy`` is the command to try if the model collapses.

    Args:
        transform: of every update before it is applied.
        quantized: keeps the layers' maps in ``int8`` or ``int4``, but for those under edit.
    """

    remedy = ""
    keeps_moments = edits_experts = False

    def __init__(
        self,
        transform: UpdateTransform | None = None,
        quantized: Bits | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.automatic_optimization = self.strict_loading = False
        self.transform, self.quantized = transform, quantized
        self.applied: list[Update] = []
        self.history: dict[str, Tensor] = {}
        self.sweep: Sweep | None = None

    @abstractmethod
    def edit(self, requests: Sequence[EditRequest]) -> Iterator[Update]:
        """Changes that make the model answer the requests; each is applied before the next.

        Figures for the journal go to ``self.record``. A FloatingPointError marks the edit failed.
        """

    @abstractmethod
    def edited_weights(self) -> list[str]:
        """Names of the parameters that the method may change."""

    def setup(self, stage: str) -> None:
        """Finds this device's place among those that make the same edits.

        Raises:
            ValueError: if there are several and their strategy would wrap the model.
        """
        super().setup(stage)
        if self.trainer.world_size > 1 and not isinstance(self.trainer.strategy, Replicas):
            raise ValueError("editing on several devices needs --trainer.strategy replicas")
        everyone = Place(self.trainer.global_rank, self.trainer.world_size)
        self.share = everyone if stage in ("fit", "validate") else Place()

    def attach(self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        """Takes the model to edit, and stores the original of every edited weight."""
        require_given_layers(self, lm)
        super().attach(lm, tokenizer)
        names = editable_weights(self)
        if self.quantized is not None:
            quantize_rest(lm, self.quantized, names)
        self.edited = EditedWeights(lm, names)
        self.begin()

    def borrow(self, owner: "Editor") -> None:
        """Takes the model of another editor, with its masters and originals."""
        give(self, owner.lm)
        self.tokenizer, self.fingerprint = owner.tokenizer, owner.fingerprint
        self.lm_name, self.judging, self.edited = owner.lm_name, owner.judging, owner.edited
        self.share, self.frames, self.lower = owner.share, owner.frames, owner.lower.anew()

    def layers_under_edit(self) -> list[int]:
        """Layers with a weight that may change, the lowest first."""
        return sorted(layer_of(self.lm, name) for name in self.edited_weights())

    @property
    def original(self) -> dict[str, Tensor]:
        """The edited weights before any edit, float32, by name."""
        return self.edited.original

    def on_fit_start(self) -> None:
        """Prepares on the unedited model, in a resumed run too."""
        with self.edited.unedited():
            self.prepare()

    def on_predict_start(self) -> None:
        """Prepares in the same way."""
        self.on_fit_start()

    def prepare(self) -> None:
        """Computes, once and from the unedited model, what all edits need."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD over the edited weights; its steps count the edits."""
        return torch.optim.SGD(map(self.lm.get_parameter, self.edited_weights()), lr=1.0)

    def training_step(self, batch: Sequence[EditRequest], batch_idx: int) -> None:
        """Makes one edit, or repeats the one made ahead, and counts it.

        Raises:
            DriftError: if another device has different weights.
        """
        made = self.sweep.find(batch) if self.sweep is not None else None
        if made:
            self.remake(made)
        elif batch:  # empty if another device makes the last edit of a sweep
            self.make_edit(batch)
        self.share.require_same(self.edited.masters() | self.history)
        self.optimizers().step()  # type: ignore[union-attr] # a single optimizer

    def make_edit(self, requests: Sequence[EditRequest]) -> None:
        """Edits the model; a failed edit leaves it as it was and is marked in ``record``."""
        started = time.perf_counter()
        self.begin()
        self.record.pop("reason", None)
        self.record |= {"status": "applied", "method": type(self).__name__}
        try:
            for update in by_expert(self.lm, self.edit(list(map(self.as_edited, requests)))):
                self.apply_update(update)
        except FloatingPointError as error:
            self.undo()
            self.record |= {"status": "failed", "reason": str(error)}
        except BaseException:
            self.undo()
            raise
        else:
            self.edited_requests += [request.identity for request in requests]
        self.record["update_norm"] = self.edited.distance(self.before.weights)
        self.record["seconds_edit"] = time.perf_counter() - started

    def begin(self) -> None:
        """Stores what :meth:`undo` restores."""
        self.before = State(self.edited.snapshot(), dict(self.history), list(self.edited_requests))
        self.applied = []

    def make_ahead(self, batches: Sequence[Sequence[EditRequest]]) -> None:
        """Makes coming edits into ``sweep``, each from the current model, which stays unchanged."""
        started = time.perf_counter()
        self.look_ahead([[self.as_edited(request) for request in batch] for batch in batches])
        record, made = self.record, []
        for requests in batches:
            self.record = {}
            self.make_edit(requests)
            made.append(Made(requests, list(self.applied), dict(self.history), self.record))
            self.undo()
        self.record, self.sweep = record, Sweep(self.edited, made)
        for edit in made:
            edit.record["seconds_edit"] = (time.perf_counter() - started) / len(made)

    def look_ahead(self, batches: Sequence[Sequence[EditRequest]]) -> None:
        """Works on coming edits together, where a method can; each starts from the same model."""

    def remake(self, made: Made) -> None:
        """Repeats an edit that was made ahead."""
        self.begin()
        for update in made.updates:
            self.edited.apply(update)
        self.applied, self.history = list(made.updates), dict(made.history)
        if made.record["status"] == "applied":
            self.edited_requests += [request.identity for request in made.requests]
        self.record |= made.record

    def validation_step(self, batch: WatchedText, batch_idx: int) -> Scores:
        """Scores of watched texts; a sweep scores all its edits together."""
        known = self.sweep.watch(batch, self.watch) if self.sweep is not None else None
        return self.watch(batch) if known is None else known

    def apply_update(self, update: Update) -> None:
        """Adds an update to its weight, after the configured transform.

        Raises:
            FloatingPointError: if the update is not finite.
        """
        if self.transform is not None:
            now, original = (part.to(self.device) for part in self.edited.pair(update.weight))
            update = self.transform(update, now, original, self.history)
        self.edited.apply(update)
        self.applied.append(update)

    def undo(self) -> None:
        """Takes the last edit back: weights, history, and the list of edited requests."""
        self.edited.assign(self.edited.completed(self.before.weights))
        self.history, self.applied = dict(self.before.history), []
        self.edited_requests = list(self.before.edited_requests)

    def restore(self) -> None:
        """Gives every edited weight its original value and forgets all edits."""
        self.edited.assign(self.original)
        self.history, self.edited_requests = {}, []
        if self.sweep:
            self.sweep.current = None

    def needs(self) -> dict[str, str]:
        """What the method needs besides the model, and whether it was found, in words."""
        return {}

    def card(self) -> dict[str, Any]:
        """Adds names of edited weights, and in what the others are kept."""
        return super().card() | {"weights": self.edited_weights(), "quantized": self.quantized}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Only the edited weights, float32."""
        return {f"lm.{name}": self.edited.master(name) for name in self.original}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds which requests the weights hold, the history, and what the unedited model scored."""
        checkpoint |= {"history": dict(self.history), "baseline": dict(self.baseline)}
        checkpoint["edited_requests"] = list(self.edited_requests)
        checkpoint["fingerprint"] = self.fingerprint
        checkpoint.pop("hyper_parameters", None)  # they would override the command line

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses edits of another model.

        Raises:
            ValueError: if the checkpoint's weights belong to another model, or to other layers.
        """
        if checkpoint.get("fingerprint") != self.fingerprint:
            raise ValueError(
                f"the checkpoint holds edits of another model than {self.lm_name!r}; name the "
                "model it was made with by --model.lm"
            )
        self.edited.rebuild(checkpoint)
        self.history = {name: t.to(self.device) for name, t in checkpoint["history"].items()}
        self.edited_requests = list(checkpoint["edited_requests"])
        self.baseline = dict(checkpoint["baseline"])
