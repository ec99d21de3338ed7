"""Which edit of a ledger destroyed the model."""

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.jobs.replay import Replay

from ..keeping.run_folder import folder_of, write_json
from ..watching.perplexity import measured


class Bisection(L.Callback):
    """Finds, under ``validate``, the edit after which the replayed model's perplexity explodes.

    For n edits it rebuilds and evaluates about log₂ n models. It assumes that the perplexity stays
    above the threshold once it has exceeded it.

    Args:
        threshold: perplexity above which the model has collapsed.
    """

    def __init__(self, threshold: float = 1000.0) -> None:
        self.threshold = threshold

    def on_validation_end(self, trainer: L.Trainer, pl_module: Replay) -> None:
        """Searches, writes ``bisection.json``, and restores the model.

        Raises:
            ValueError: if the model is not replayed, or exceeds the threshold without any edit.
        """
        if not isinstance(pl_module, Replay):
            raise ValueError("Bisection needs a ledger: use it with replay.yaml")
        if trainer.state.fn != "validate":
            return
        entries = pl_module.chosen()

        def after(edits: int) -> float:
            pl_module.rebuild(entries[:edits])
            return measured(trainer, pl_module)["perplexity"]

        healthy, collapsed = 0, len(entries)
        before, behind = after(healthy), after(collapsed)
        if not before <= self.threshold:
            raise ValueError(
                f"the unedited model's perplexity {before:.4g} is above the threshold "
                f"{self.threshold:.4g}; raise it"
            )
        if behind <= self.threshold:
            rank_zero_info(f"no collapse: perplexity {behind:.4g} after {collapsed} edits")
            return
        while collapsed - healthy > 1:
            middle = (healthy + collapsed) // 2
            found = after(middle)
            if found <= self.threshold:
                healthy, before = middle, found
            else:
                collapsed, behind = middle, found
        pl_module.rebuild(entries)
        guilty = entries[collapsed - 1]
        rank_zero_info(
            f"edit {guilty.edit} (case {guilty.case_ids}) takes the perplexity from {before:.4g} "
            f"to {behind:.4g}"
        )
        culprit = {
            "edit": guilty.edit,
            "case_id": guilty.case_ids,
            "before": before,
            "after": behind,
        }
        if trainer.is_global_zero:
            folder_of(trainer).mkdir(parents=True, exist_ok=True)
            write_json(folder_of(trainer) / "bisection.json", culprit)
