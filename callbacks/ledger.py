"""The journal of a run: one line per edit, a summary, and the same figures in the logger."""

import json
import math
import os
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info

from data_modules.records import EditRequest
from lightning_modules.editor import Editor

from .edit_metrics import mean_scores

IDENTITY = ("case_id", "subject", "prompt", "target_new", "target_true")
GROUPS = {"efficacy", "paraphrase", "neighborhood"}
FINAL = ("applied", "collapsed_at", "final_perplexity", "highest_perplexity")
PACKAGES = ("lightning", "torch", "transformers")


class EditJournal(L.Callback):
    """Writes ``edits.jsonl``, ``summary.json`` and the logger's scalars, one step per edit.

    It stands first among the callbacks: it opens the record which the others complete.
    """

    def __init__(self) -> None:
        self.watching_since = 0.0

    def on_train_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: Editor,
        batch: Sequence[EditRequest],
        batch_idx: int,
    ) -> None:
        """Opens the record of an edit."""
        self.write(trainer, pl_module)
        columns = {name: [getattr(request, name) for request in batch] for name in IDENTITY}
        pl_module.record = {
            "edit": trainer.global_step + 1,
            **{name: values[0] if len(batch) == 1 else values for name, values in columns.items()},
        }

    def on_validation_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Starts the clock of watching."""
        self.watching_since = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Closes the record of an edit that was watched; the baseline goes to step 0."""
        if trainer.sanity_checking:
            log(trainer, pl_module.baseline, step=0)
        elif trainer.state.fn == "fit":
            pl_module.record["seconds_watch"] = time.perf_counter() - self.watching_since
            self.write(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Writes the summary and says how the run ended."""
        self.write(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        edits = read_journal(folder_of(trainer))
        summary = summarize(edits, pl_module.baseline) | {
            **pl_module.card(),
            "versions": {name: version(name) for name in PACKAGES},
        }
        write_json(folder_of(trainer) / "summary.json", summary)
        final = numbers({name: summary[name] for name in FINAL} | summary["means"])
        final = {
            f"final/{name}": final[name]
            for name in (*FINAL, *sorted(GROUPS))
            if math.isfinite(final.get(name, math.nan))
        }
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(dict(pl_module.hparams), metrics=final)
        rank_zero_info(verdict(summary))
        rank_zero_info(f"Journal: {folder_of(trainer)}. Look: tensorboard --logdir runs")
        if pl_module.remedy and summary["collapsed_at"]:
            rank_zero_info(f"Try: {pl_module.remedy}")

    def write(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Appends the open record, if there is one, and flushes it to the disk."""
        record, pl_module.record = pl_module.record, {}
        if "edit" not in record or not trainer.is_global_zero:
            return
        folder_of(trainer).mkdir(parents=True, exist_ok=True)
        with (folder_of(trainer) / "edits.jsonl").open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(nullified(record), ensure_ascii=False) + "\n")
            journal.flush()
            os.fsync(journal.fileno())
        log(trainer, record, step=record["edit"])


def folder_of(trainer: L.Trainer) -> Path:
    """The run's folder."""
    return Path(trainer.log_dir or trainer.default_root_dir)


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """All edits of a run, in order; none if it has no journal. What was not finite is infinite."""
    file = folder / "edits.jsonl"
    edits = map(json.loads, file.read_text("utf-8").split("\n")[:-1]) if file.exists() else ()
    return [{k: math.inf if v is None else v for k, v in edit.items()} for edit in edits]


def nullified(content: Any) -> Any:
    """The same with null for every figure that is not finite, which JSON cannot hold."""
    if isinstance(content, dict):
        return {name: nullified(value) for name, value in content.items()}
    return None if isinstance(content, float) and not math.isfinite(content) else content


def numbers(record: dict[str, Any]) -> dict[str, float]:
    """A record's figures, without its number, case and texts."""
    return {
        name: float(value)
        for name, value in record.items()
        if isinstance(value, int | float) and name not in {"edit", "case_id"}
    }


def log(trainer: L.Trainer, record: dict[str, Any], step: int) -> None:
    """Sends a record's figures, and its request as text, to every logger."""
    for logger in trainer.loggers:
        logger.log_metrics({tag(k): v for k, v in numbers(record).items()}, step=step)
        if "prompt" in record and isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text("request", describe(record), step)


def tag(name: str) -> str:
    """The figure's place on the dashboard."""
    if "perplexity" in name or name.startswith("collapse"):
        return f"health/{name}"
    if name.split("_")[0] in GROUPS:
        return f"scores/{name}"
    return f"edit/{name}"


def describe(record: dict[str, Any]) -> str:
    """An edit as one line of Markdown."""
    outcome = f"{record['status']}; perplexity {record.get('perplexity', math.nan):.4g}"
    return (
        f"**{record['prompt']}** · {record['subject']} · {record['target_true']} → "
        f"**{record['target_new']}** ({outcome})"
    )


def summarize(edits: list[dict[str, Any]], baseline: dict[str, float]) -> dict[str, Any]:
    """What became of a run: edits applied, first collapse, perplexity, means of all figures."""
    watched = [edit["perplexity"] for edit in edits if "perplexity" in edit]
    return {
        "edits": len(edits),
        "applied": sum(edit["status"] == "applied" for edit in edits),
        "collapsed": sum(edit.get("collapsed", False) for edit in edits),
        "collapsed_at": next((e["edit"] for e in edits if e.get("collapsed")), None),
        "baseline": baseline,
        "final_perplexity": watched[-1] if watched else None,
        "highest_perplexity": max(watched, default=None),
        "means": mean_scores([numbers(edit) for edit in edits]),
    }


def verdict(summary: dict[str, Any]) -> str:
    """The run in one sentence."""
    before, highest = summary["baseline"].get("perplexity"), summary["highest_perplexity"]
    if summary["collapsed_at"] is None:
        return f"{summary['applied']} edits, no collapse" + (
            f": perplexity at most {highest:.4g} (unedited {before:.4g})"
            if highest and before
            else ""
        )
    limit = summary["baseline"]["collapse_limit"]
    unedited = f" (unedited {before:.4g})" if before else ""
    often = f" and {summary['collapsed'] - 1} more times" if summary["collapsed"] > 1 else ""
    return (
        f"collapsed at edit {summary['collapsed_at']}{often}: perplexity {highest:.4g} > "
        f"{limit:.4g}{unedited}"
    )


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file as a whole or not at all."""
    partial = file.with_suffix(".partial")
    text = json.dumps(nullified(content), indent=2, ensure_ascii=False)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(file)
