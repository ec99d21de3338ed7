"""Retention of each edit as more are made: a matrix of edits and time."""

import math
from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from data_modules.records import EditRequest
from lightning_modules.editing.editor import Editor
from lightning_modules.language_model.judging import MEASURES

from ..keeping.means import mean_scores
from ..keeping.run_folder import folder_of, read_journal, write_json
from ..keeping.schedule import restores
from ..keeping.summary import summarize
from .figures import ALARM, INK, SHARP, publish

PROMPTS = {
    "paraphrase": "paraphrases",
    "neighborhood": "neighborhood",
    "portability": "portability",
    "attribute": "attributes",
}


class RetentionMatrix(L.Callback):
    """Evaluates all edits so far on the current model, every ``every_n_edits`` and after the last.

    ``retention.json`` has a row for each evaluation, with a score for each edit that the model then
    held, in the order of ``edits``; ``retention.png`` draws it; ``retention/METRIC`` is each row's
    mean.

    Args:
        every_n_edits: edits from one row to the next; a row covers all edits before it.
        metric: a score of edits, such as ``efficacy``, ``paraphrase_exact_match`` or
            ``neighborhood_agreement``.

    Raises:
        ValueError: if there is no such metric, or the number is not positive.
    """

    def __init__(self, every_n_edits: int = 10, metric: str = "efficacy") -> None:
        if every_n_edits <= 0:
            raise ValueError(f"every_n_edits must be positive, got {every_n_edits}")
        if metric not in MEASURES:
            raise ValueError(f"metric must be one of {sorted(MEASURES)}, got {metric!r}")
        self.every_n_edits = every_n_edits
        self.metric = metric
        self.edits: list[int] = []
        self.rows: list[dict[str, Any]] = []

    def setup(self, trainer: L.Trainer, pl_module: Editor, stage: str) -> None:
        """Refuses single edits.

        Raises:
            ValueError: if every edit is undone before the next one.
        """
        if stage == "fit" and restores(trainer):
            raise ValueError(
                "RetentionMatrix has nothing to judge, as RestoreWeights undoes every edit "
                "before the next one; leave one of them out"
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Cuts the matrix back to the edit of the checkpoint."""
        if trainer.is_global_zero:
            self.write(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: Editor, batch: Any, batch_idx: int
    ) -> None:
        """Adds a row if one is due; only now is it known whether the last edit stands."""
        if trainer.global_step % self.every_n_edits == 0:
            self.judge(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Adds the last row and draws the matrix, if any request has the metric."""
        self.judge(trainer, pl_module)
        told = any(score is not None for row in self.rows for score in row["scores"])
        if trainer.is_global_zero and told:
            journal = read_journal(folder_of(trainer))
            collapse = summarize(journal, pl_module.baseline)["collapsed_at"]
            figure = retention_figure(self.edits, self.rows, self.metric, collapse)
            publish(trainer, figure, "retention")

    def state_dict(self) -> dict[str, Any]:
        """The matrix so far."""
        return {"edits": list(self.edits), "rows": list(self.rows)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores it, without the row that an early end added."""
        self.edits = list(state_dict["edits"])
        self.rows = [row for row in state_dict["rows"] if row["edit"] % self.every_n_edits == 0]

    def judge(self, trainer: L.Trainer, editor: Editor) -> None:
        """Adds a row."""
        edit, standing = trainer.global_step, edits_of(trainer, editor)
        self.edits = list(standing)
        if not standing or (self.rows and self.rows[-1]["edit"] == edit):
            return
        record, editor.record = editor.record, {}  # the next edit's
        scores = self.scores(editor, list(standing.values()))
        editor.record = record
        told = [score for score in scores if score is not None]
        self.rows.append({"edit": edit, "scores": scores})
        if told:
            self.rows[-1]["mean"] = sum(told) / len(told)
            for logger in trainer.loggers:
                logger.log_metrics({f"retention/{self.metric}": self.rows[-1]["mean"]}, step=edit)
        if trainer.is_global_zero:
            self.write(trainer)

    def scores(
        self, editor: Editor, batches: Sequence[Sequence[EditRequest]]
    ) -> list[float | None]:
        """Each edit's mean over its requests; None if they lack the metric."""
        field = PROMPTS.get(self.metric.split("_")[0])
        unasked: dict[str, Any] = dict.fromkeys(set(PROMPTS.values()) - {field}, ())
        asked = [request._replace(**unasked) for batch in batches for request in batch]
        judged = iter(editor.judge_all(asked))
        means = [mean_scores([next(judged) for _ in batch]) for batch in batches]
        return [
            m[self.metric] if math.isfinite(m.get(self.metric, math.nan)) else None for m in means
        ]

    def write(self, trainer: L.Trainer) -> None:
        """Writes the rows so far."""
        matrix = {"metric": self.metric, "edits": self.edits, "rows": self.rows}
        write_json(folder_of(trainer) / "retention.json", matrix)


def edits_of(trainer: L.Trainer, editor: Editor) -> dict[int, list[EditRequest]]:
    """Requests of the edits that the model holds, by their numbers.

    An edit that failed or was undone is not among them, since its requests are not edited.
    """
    loader: Any = trainer.train_dataloader
    batches = list(loader.batch_sampler)
    held, standing = list(editor.edited_requests), {}
    for number in range(trainer.global_step):
        batch = loader.collate_fn([loader.dataset[n] for n in batches[number % len(batches)]])
        if held[: len(batch)] == [request.identity for request in batch]:
            standing[number + 1] = batch
            del held[: len(batch)]
    return standing


def retention_figure(
    edits: Sequence[int], rows: Sequence[dict[str, Any]], metric: str, collapse: int | None = None
) -> Figure:
    """Scores of each edit over time as a heat map, and their mean beside it.

    Args:
        edits: numbers of the edits, the matrix' columns.
        rows: each with the ``edit`` after which it was evaluated and ``scores`` of the first edits.
        metric: name of the scores.
        collapse: the edit at which the model collapsed.
    """
    matrix = np.full((len(rows), max(edits)), np.nan)
    for line, row in zip(matrix, rows, strict=True):
        for edit, score in zip(edits, row["scores"], strict=False):
            line[edit - 1] = np.nan if score is None else score
    times = [row["edit"] for row in rows]
    figure = Figure(figsize=(5.2, 3.8), dpi=SHARP, layout="constrained")
    axes, beside = figure.subplots(1, 2, sharey=True, width_ratios=(5, 1))
    axes.patch.set(facecolor="white", edgecolor="0.85", hatch="////")
    lowest = -1 if metric.endswith("magnitude") else 0
    cells = axes.pcolormesh(
        np.arange(max(edits) + 1) + 0.5,
        [0, *times],
        np.ma.masked_invalid(matrix),
        cmap="cividis_r",
        vmin=lowest,
        vmax=1,
    )
    figure.colorbar(cells, ax=axes, location="left", label=metric)
    axes.set(xlabel="edit (hatched: not made, or not told)", ylabel="edits made when judged")
    axes.set_ylim(1.03 * times[-1], 0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    means = [row.get("mean", np.nan) for row in rows]
    beside.plot(means, times, "o-", color=INK, markersize=4, zorder=3)
    beside.set(xlabel="mean", xlim=(lowest - 0.05, 1.05))
    beside.grid(alpha=0.3)
    if collapse is not None:
        axes.axhline(collapse, color="white", linewidth=4)
        lines = [p.axhline(collapse, color=ALARM, linestyle="--", lw=2) for p in (axes, beside)]
        figure.legend(lines[:1], [f"collapse at edit {collapse}"], loc="outside upper right")
    return figure
