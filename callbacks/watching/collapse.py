"""Detects that an edit has destroyed the model, and stops the run."""

import math
import sys

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from lightning_modules.editing.editor import Editor

from ..keeping.schedule import restores

MULTIPLE = 5.0  # of the unedited perplexity: 1.6 nats more per token


class CollapseStopping(L.Callback):
    """Marks an edit as a collapse and, in a sequential run, stops after it if configured.

    A perplexity that is not finite is always a collapse. Under :class:`RestoreWeights` the next
    edit starts from the original model, so a collapse is marked and the sweep continues.

    By default the limit is five times the unedited model's perplexity, whatever that is on the
    watched text. A healthy run of edits stays below one and a half times, and a collapse goes far
    beyond five times. The papers' limit, 1000, is 5 to 30 times the perplexity of their models.

    Args:
        threshold: perplexity above which the model has collapsed (Butterfly Effect: 1000).
        relative: the same as a multiple of the unedited model's perplexity; the lower limit
            counts. Five if both are null.
        stop: whether a sequential run ends there; otherwise it continues on the collapsed model.

    Raises:
        ValueError: if a limit is not positive.
    """

    def __init__(
        self,
        threshold: float | None = None,
        relative: float | None = None,
        stop: bool = True,
    ) -> None:
        if (threshold is not None and threshold <= 0) or (relative is not None and relative <= 1):
            raise ValueError(
                f"threshold must be positive and relative above 1, got {threshold} and {relative}"
            )
        self.threshold = threshold
        self.relative = relative
        self.stop = stop
        self.collapsed_to: float | None = None

    def state_dict(self) -> dict[str, float | None]:
        """The perplexity at which the run was stopped, if it was."""
        return {"collapsed_to": self.collapsed_to}

    def load_state_dict(self, state_dict: dict[str, float | None]) -> None:
        """Restores it."""
        self.collapsed_to = state_dict["collapsed_to"]

    def on_train_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Refuses to continue on a collapsed model.

        Raises:
            ValueError: if a resumed run was stopped by a perplexity that is still too high.
        """
        if self.collapsed_to is None or not self.stop or trainer.should_stop:
            return  # killed before its end was written, a run does no more than write it
        limit = self.limit(pl_module.baseline.get("perplexity", math.inf))
        if not self.collapsed_to <= min(limit, sys.float_info.max):
            raise ValueError(
                f"the model collapsed at edit {trainer.global_step}, to a perplexity of "
                f"{self.collapsed_to:.4g}, and the run ended there; to continue anyway, raise "
                f"{self.option}, or give --collapse.stop false"
            )

    def limit(self, baseline: float) -> float:
        """The perplexity above which a model with this baseline has collapsed."""
        if self.threshold is None and self.relative is None:
            return MULTIPLE * baseline
        return min(self.threshold or math.inf, (self.relative or math.inf) * baseline)

    @property
    def option(self) -> str:
        """The option that sets the limit."""
        return "--collapse.relative" if self.threshold is None else "--collapse.threshold"

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Compares the new perplexity with the limit; skips a model that is not edited."""
        if not isinstance(pl_module, Editor):
            return
        baseline = pl_module.baseline.get("perplexity", math.inf)
        limit = pl_module.baseline["collapse_limit"] = self.limit(baseline)
        if trainer.sanity_checking:
            if self.threshold is not None and baseline > self.threshold:
                rank_zero_warn(
                    f"the unedited model's perplexity {baseline:.4g} is above the threshold "
                    f"{self.threshold:.4g}: every edit would count as a collapse; raise it"
                )
            return
        perplexity = pl_module.record.get("perplexity")
        if perplexity is None or trainer.state.fn != "fit":
            return
        collapsed = not math.isfinite(perplexity) or perplexity > limit
        pl_module.record["collapsed"] = collapsed
        undone = pl_module.record.get("status") == "rolled_back" or restores(trainer)
        self.collapsed_to = perplexity if collapsed and not undone and self.stop else None
        trainer.should_stop = trainer.should_stop or self.collapsed_to is not None
