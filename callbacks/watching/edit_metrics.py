"""Efficacy, paraphrase, neighborhood and portability, before and after each edit."""

from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.editing.editor import Editor
from lightning_modules.editing.replicas import in_turn

from ..keeping.means import harmonic_score, mean_intervals, mean_scores
from ..keeping.progress import EditBar
from .retention_table import retention_sentence, retention_table


class EditMetrics(L.Callback):
    """Evaluates the requests of an edit immediately before and after it, and all under ``test``."""

    def __init__(self) -> None:
        self.efficacy = {"sum": 0.0, "edits": 0}
        self.judged: list[list[dict[str, Any]]] = []
        self.before: list[list[dict[str, Any]]] = []
        self.unedited: dict[str, float] = {}

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: Editor, batch: Any, batch_idx: int
    ) -> None:
        """Scores before the edit, as ``*_before``."""
        scores = mean_scores(pl_module.judge_all(batch))
        pl_module.record |= {f"{name}_before": score for name, score in scores.items()}

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: Editor,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Scores after the edit; the progress bar shows the mean efficacy so far."""
        scores = mean_scores(pl_module.judge_all(batch))
        pl_module.record |= scores
        if "efficacy" in scores:
            self.efficacy["sum"] += scores["efficacy"]
            self.efficacy["edits"] += 1
            mean = self.efficacy["sum"] / self.efficacy["edits"]
            pl_module.log("efficacy", mean, prog_bar=True, logger=False, batch_size=1)

    def state_dict(self) -> dict[str, float]:
        """Sum and number behind the mean efficacy so far."""
        return dict(self.efficacy)

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Restores them."""
        self.efficacy = dict(state_dict)

    def on_test_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Starts a new retention table, which takes the place of Lightning's."""
        self.judged, self.before = [], []
        trainer.test_loop.verbose = False

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: Editor, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Adds the scores of a batch, and those of the unedited model."""
        self.judged.append(outputs)
        if pl_module.edited_requests:
            record, pl_module.record = pl_module.record, {}
            with pl_module.edited.unedited():
                self.before.append(pl_module.judge_all(pl_module.tested(batch)))
            pl_module.record = record

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Logs the mean of each score over all edits, as ``retention/*``, and its interval.

        ``retention/score`` is ROME's S, the harmonic mean of three of these means.

        Raises:
            ValueError: if no request of the data belongs to an edit of the model.
        """
        judged = [scores for batch in in_turn(self.judged) for scores in batch]
        if not judged:
            raise ValueError(
                "none of the requests is an edit of this checkpoint; give the data arguments "
                "(path, limit, seed) that the run was made with"
            )
        pl_module.log("retention/edits", float(len(judged)), batch_size=1)
        log_retained(pl_module, judged)
        score = harmonic_score(mean_scores(judged))
        if score is not None:
            pl_module.log("retention/score", score, batch_size=1)
        self.unedited = mean_scores([scores for batch in in_turn(self.before) for scores in batch])
        unedited_score = harmonic_score(self.unedited)
        if unedited_score is not None:
            self.unedited["score"] = unedited_score

    def on_test_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Prints the table of all that was logged, and a sentence."""
        if isinstance(trainer.progress_bar_callback, EditBar):
            trainer.progress_bar_callback.finish(trainer)
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        rank_zero_info(f"\n{retention_table(found, self.unedited)}\n")
        rank_zero_info(retention_sentence(found, self.unedited))


def log_retained(editor: Editor, judged: Sequence[dict[str, Any]]) -> None:
    """Logs the means of scores, as ``retention/NAME``, with their intervals.

    Args:
        editor: logs them.
        judged: scores of each edit, all of them on every device.
    """
    judged = [{k: v for k, v in scores.items() if k != "case_id"} for scores in judged]
    found = mean_scores(judged)
    for name, (low, high) in mean_intervals(judged).items():
        found |= {f"{name}_low": low, f"{name}_high": high}
    editor.log_dict({f"retention/{name}": value for name, value in found.items()}, batch_size=1)
