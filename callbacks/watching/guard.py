"""Undoes edits that would destroy the model, so that the run can continue."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from data_modules.records import EditRequest
from lightning_modules.editing.editor import Editor
from lightning_modules.editing.expert_edits import editable_weights
from lightning_modules.editing.replicas import gathered

from ..keeping.edit_ledger import EditLedger
from ..keeping.means import mean_scores
from ..keeping.progress import EditBar
from ..keeping.run_folder import folder_of, write_cases
from ..keeping.schedule import restores
from .collapse import CollapseStopping
from .downstream import Downstream
from .limits import Limits
from .perplexity import measured
from .signals import measures_each_edit, remeasured

WINDOW = 20  # healthy perplexities whose median the next one is compared with
Fault = Callable[[dict[str, Any]], str]
T = TypeVar("T")


class CollapseGuard(L.Callback):
    """Judges every edit before it counts, and undoes one that harms the model.

    Before the perplexity is measured, it refuses an edit for its denominator or its collapse
    probability; afterwards for a perplexity that is not finite or above a limit. A refused edit is
    undone: its line in the journal has the perplexity it led to, the status ``rolled_back`` and the
    reason, and the next edit starts from the healthy model.

    Args:
        action: ``rollback`` continues with the next edit; ``quarantine`` does too, and writes the
            request to ``hard_cases.json``, which ``--data.path`` reads; ``stop`` ends the run.
        threshold: perplexity above which an edit is refused; five times the unedited model's if
            null.
        relative: the same as a multiple of the median of the last 20 healthy perplexities; the
            lower limit counts.
        denominator: below it an edit is refused, whatever its perplexity.
        risk: collapse probability above which an edit is refused, whatever its perplexity; needs a
            calibration (``papers/risk-calibration.yaml``).
        unconverged: largest share of an edit's requests whose value search did not converge; with 0
            every such edit is refused, and the reason names a lower layer that would do.
        retry: a method that repeats a refused edit, which is then judged like any other.
        signals: further limits, by the name of a warning signal of ``WarningSignals``: above it an
            edit is refused, below it for ``overlap_*`` and ``text_entropy``.

    Raises:
        ValueError: if no edit could meet a limit.
    """

    def __init__(
        self,
        action: Literal["rollback", "quarantine", "stop"] = "rollback",
        threshold: float | None = None,
        relative: float | None = None,
        denominator: float = 0.0,
        risk: float = 1.0,
        unconverged: float = 1.0,
        retry: Editor | None = None,
        signals: dict[str, float] | None = None,
    ) -> None:
        self.limits = Limits(threshold, relative, denominator, risk, unconverged, signals or {})
        self.limits.check()
        self.action = action
        self.retry = retry
        self.retried = False
        self.unedited = math.inf
        self.healthy: list[float] = []
        self.refused: list[dict[str, Any]] = []
        self.requests: Sequence[EditRequest] = ()
        self.opened: dict[str, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: Editor, stage: str) -> None:
        """Moves behind the callbacks that measure, before those that store an edit or stop."""
        later = (CollapseStopping, Downstream, EditLedger, Checkpoint)
        trainer.callbacks = sorted(  # type: ignore[attr-defined] # set by Lightning's connector
            trainer.callbacks,  # type: ignore[attr-defined] # a new list: this one is being read
            key=lambda callback: 1 if callback is self else 2 * isinstance(callback, later),
        )

    def on_fit_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Gives the retry method the model, and prepares it on the unedited one.

        Raises:
            ValueError: if that method edits weights which the run does not.
        """
        if self.retry is not None:
            self.retry.borrow(pl_module)
            if foreign := {*editable_weights(self.retry)} - {*pl_module.edited_weights()}:
                raise ValueError(
                    f"{type(self.retry).__name__}, to retry, edits {sorted(foreign)} which "
                    f"{type(pl_module).__name__} does not; give both the same layers"
                )
            with pl_module.edited.unedited():
                self.retry.prepare()

    def on_train_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Refuses a run that does not measure what the limits are compared with.

        Raises:
            ValueError: if there is no validation after each edit, no calibration for a risk, or no
                measurement of a signal after every edit.
        """
        if not trainer.enable_validation or trainer.val_check_batch != 1:
            raise ValueError(
                "CollapseGuard judges each edit by the watching after it: set "
                "trainer.val_check_interval to 1, and watch some text"
            )
        told = getattr(pl_module, "risk", None)
        if self.limits.risk < 1 and (told is None or told.calibration is None):
            raise ValueError(
                f"{type(pl_module).__name__} has no calibration, and so no probability of "
                f"collapse to compare with {self.limits.risk:g}; give --model.calibration a file "
                "made by papers/risk-calibration.yaml"
            )
        if self.limits.signals and not measures_each_edit(trainer):
            raise ValueError(
                f"CollapseGuard has a limit for {', '.join(self.limits.signals)}, which nothing "
                "measures after every edit; add callbacks.watching.signals.WarningSignals"
            )
        missing = [name for name in self.limits.signals if name not in pl_module.baseline]
        if missing:
            raise ValueError(
                f"CollapseGuard has a limit for {', '.join(missing)}, which WarningSignals does "
                "not measure here: text_entropy needs prompts, and weights of experts have none"
            )
        self.write(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: Editor, batch: Any, batch_idx: int
    ) -> None:
        """Stores the requests and the record before the edit."""
        self.requests, self.opened, self.retried = batch, dict(pl_module.record), False

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Editor, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Judges the risk of the edit."""
        self.judge(trainer, pl_module, self.danger)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Judges the perplexity after the edit."""
        if trainer.state.fn != "fit":
            return
        if trainer.sanity_checking:
            self.healthy = [pl_module.baseline["perplexity"]]
            return
        self.unedited = pl_module.baseline.get("perplexity", math.inf)
        self.judge(trainer, pl_module, self.harm)
        stands = pl_module.record.get("status") == "applied"
        own = [pl_module.record["perplexity"]] if stands else []
        self.healthy = [*self.healthy, *of_all(trainer, own)][-WINDOW:]
        if isinstance(trainer.progress_bar_callback, EditBar):
            standing = [pl_module.baseline.get("perplexity")]
            standing += own if restores(trainer) else self.healthy
            trainer.progress_bar_callback.perplexity = standing[-1]

    def danger(self, record: dict[str, Any]) -> str:
        """The fault of an edit before its perplexity is measured; empty if there is none."""
        return self.limits.danger(record)

    def harm(self, record: dict[str, Any]) -> str:
        """The fault of an edit after its perplexity is measured; empty if there is none."""
        return self.limits.harm(record, self.unedited, self.healthy)

    def judge(self, trainer: L.Trainer, editor: Editor, fault: Fault) -> None:
        """Undoes an edit with a fault; every device records those of all devices."""
        reason = fault(editor.record) if editor.record.get("status") == "applied" else ""
        stands = not reason or self.made_otherwise(trainer, editor, fault, reason)
        refused = of_all(trainer, [] if stands else self.requests)
        if refused:
            self.refused += [request.as_counterfact() for request in refused]
            self.write(trainer)
            trainer.should_stop = trainer.should_stop or self.action == "stop"

    def made_otherwise(self, trainer: L.Trainer, editor: Editor, fault: Fault, reason: str) -> bool:
        """Undoes an edit; returns whether the retry method, if any, makes it without a fault."""
        refused = editor.record
        editor.undo()
        if refused.get("value_unconverged", 0) > self.limits.unconverged:
            reason += lower_layer(editor, self.requests)
        editor.sweep = None  # its figures of this edit are out of date
        if self.retry is not None and not self.retried:
            self.retried = True
            editor.record = self.try_again(self.retry, editor)
            if "perplexity" in refused:
                editor.record |= measured(trainer, editor) | remeasured(trainer, editor)
            made = editor.record["status"] == "applied"
            again = fault(editor.record) if made else editor.record["reason"]
            name = type(self.retry).__name__
            if not again:
                editor.record["reason"] = f"made by {name}; {refused['method']}: {reason}"
                return True
            editor.undo()
            reason += f"; {name}: {again}"
        editor.record = refused | {"status": "rolled_back", "reason": reason}
        return False

    def try_again(self, method: Editor, editor: Editor) -> dict[str, Any]:
        """Makes the edit by the retry method, as one of the run's own; returns its record."""
        method.record = dict(self.opened)
        method.history = dict(editor.history)
        method.edited_requests = list(editor.edited_requests)
        with torch.inference_mode(False), torch.enable_grad():  # this may be inside a validation
            method.make_edit(self.requests)
            scores = mean_scores(editor.judge_all(self.requests))
        editor.history, editor.edited_requests = method.history, method.edited_requests
        editor.applied = method.applied
        return method.record | scores

    def write(self, trainer: L.Trainer) -> None:
        """Writes the requests refused so far, in CounterFact's form."""
        if self.action == "quarantine" and trainer.is_global_zero:
            write_cases(folder_of(trainer), self.refused)

    def state_dict(self) -> dict[str, Any]:
        """The healthy perplexities and the refused requests."""
        return {"healthy": list(self.healthy), "refused": list(self.refused)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self.healthy, self.refused = state_dict["healthy"], state_dict["refused"]


def lower_layer(editor: Any, requests: Sequence[EditRequest]) -> str:
    """Where an edit whose value search failed could be made, in words."""
    if not hasattr(editor, "learnable_layer"):
        return ""
    with torch.inference_mode(False), torch.enable_grad():  # this may be inside a validation
        found = editor.learnable_layer(requests)
    where = "none of the lower layers tried" if found is None else f"layer {found}"
    return f"; a short search converges in {where}"


def of_all(trainer: L.Trainer, own: Sequence[T]) -> list[T]:
    """The items of all current edits: one edit per device in a sweep, else only this one."""
    parts = gathered(own) if restores(trainer) else [own]
    return [item for part in parts for item in part]
