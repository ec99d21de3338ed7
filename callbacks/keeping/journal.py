"""The journal of a run: one line per edit, a summary, and the same figures in the logger."""

import json
import math
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info

from data_modules.records import EditRequest
from lightning_modules.editing.editor import Editor
from lightning_modules.editing.record import place_of
from lightning_modules.editing.replicas import Place, gathered

from .run_folder import Claim, append, folder_of, nullified, read_journal, rewind, write_json
from .schedule import nothing_left, restores, watched_next
from .summary import numbers, summarize, verdict

IDENTITY = ("case_id", "subject", "prompt", "target_new", "target_true")
FINAL = ("applied", "collapsed_at", "final_perplexity", "highest_perplexity")
QUALITY = ("efficacy", "neighborhood", "paraphrase")
PACKAGES = ("lightning", "torch", "transformers")


class EditJournal(L.Callback):
    """Writes ``edits.jsonl``, ``summary.json`` and the logger's scalars, one step per edit.

    It stands first among the callbacks: it opens the record which the others complete.
    """

    def __init__(self) -> None:
        self.watching_since = 0.0
        self.lines = 0
        self.turn = Place()
        self.claim: Claim | None = None

    def setup(self, trainer: L.Trainer, pl_module: Editor, stage: str) -> None:
        """Finds out early whether the folder can be written, and is free."""
        if restores(trainer):
            self.turn = Place(trainer.global_rank, trainer.world_size)
        if stage == "fit" and trainer.is_global_zero:
            self.claim = Claim(folder_of(trainer))
            (folder_of(trainer) / "edits.jsonl").touch()

    def teardown(self, trainer: L.Trainer, pl_module: Editor, stage: str) -> None:
        """Frees the folder."""
        self.release()

    def on_exception(self, trainer: L.Trainer, pl_module: Editor, exception: BaseException) -> None:
        """Frees the folder."""
        self.release()

    def release(self) -> None:
        """Frees the folder, if it was claimed."""
        if self.claim is not None:
            self.claim.release()
            self.claim = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Refuses to write behind another run.

        Raises:
            ValueError: if the folder holds one, and no checkpoint was given.
        """
        folder = folder_of(trainer)
        if trainer.strategy.broadcast(not trainer.ckpt_path and bool(read_journal(folder))):
            raise ValueError(f"{folder} already holds the edits of a run; name another folder")

    def on_train_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Takes the journal back to the edit behind which the checkpoint was made.

        Raises:
            ValueError: if a resumed run has nothing left to do.
        """
        folder = folder_of(trainer)
        finished = (folder / "summary.json").exists() and nothing_left(trainer)
        if trainer.strategy.broadcast(finished):
            raise ValueError(
                f"all {trainer.global_step} edits of {folder} are made; to go on, ask for more of "
                "them by --data.limit"
            )
        if trainer.is_global_zero:
            (folder / "summary.json").unlink(missing_ok=True)
            rewind(folder / "edits.jsonl", self.lines)

    def on_train_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: Editor,
        batch: Sequence[EditRequest],
        batch_idx: int,
    ) -> None:
        """Opens the record of an edit."""
        self.write(trainer, pl_module)
        if not batch:
            return
        columns = {name: [getattr(request, name) for request in batch] for name in IDENTITY}
        pl_module.record = {
            "edit": trainer.global_step * self.turn.devices + self.turn.rank + 1,
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

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: Editor, checkpoint: dict[str, Any]
    ) -> None:
        """Adds how long the journal is, and the record of an edit that nothing else completes."""
        complete = {} if watched_next(trainer) else pl_module.record
        checkpoint["journal"] = {"lines": self.lines, "open": json.dumps(self.all_of(complete))}

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: Editor, checkpoint: dict[str, Any]
    ) -> None:
        """Takes them back."""
        if trainer.state.fn == "fit":
            self.lines = checkpoint["journal"]["lines"]
            pl_module.record = json.loads(checkpoint["journal"]["open"])[self.turn.rank]

    def on_train_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Writes the summary and says how the run ended."""
        self.write(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        edits = read_journal(folder_of(trainer))
        chosen_by = getattr(trainer.datamodule, "chosen_by", None)  # type: ignore[attr-defined] # set by Lightning's connector
        summary = summarize(edits, pl_module.baseline) | {
            **pl_module.card(),
            **({"chosen_by": chosen_by} if chosen_by else {}),
            "versions": {name: version(name) for name in PACKAGES},
        }
        write_json(folder_of(trainer) / "summary.json", summary)
        final = numbers({name: summary[name] for name in FINAL} | summary["means"])
        final = {
            f"final/{name}": final[name]
            for name in (*FINAL, *QUALITY)
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
        """Appends the open records, if there are any, and flushes them to the disk."""
        own, pl_module.record = pl_module.record, {}
        records = [record for record in self.all_of(own) if "edit" in record]
        self.lines += len(records)
        for record in records if trainer.is_global_zero else ():
            line = json.dumps(nullified(record), ensure_ascii=False)
            append(folder_of(trainer) / "edits.jsonl", line)
            log(trainer, record, step=record["edit"])

    def all_of(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        """The records of all edits that are made at once: one on each device, or this one."""
        return gathered(record) if self.turn.devices > 1 else [record]


def log(trainer: L.Trainer, record: dict[str, Any], step: int) -> None:
    """Sends a record's figures, and its request as text, to every logger."""
    for logger in trainer.loggers:
        logger.log_metrics({tag(k): v for k, v in numbers(record).items()}, step=step)
        if "prompt" in record and isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text("request", describe(record), step)


def tag(name: str) -> str:
    """The figure's place on the dashboard."""
    place = place_of(name)
    return name if name.startswith("tasks/") else f"{place}/{name.removeprefix(f'{place}_')}"


def describe(record: dict[str, Any]) -> str:
    """An edit as one line of Markdown."""
    outcome = f"{record['status']}; perplexity {record.get('perplexity', math.nan):.4g}"
    return (
        f"**{record['prompt']}** · {record['subject']} · {record['target_true']} → "
        f"**{record['target_new']}** ({outcome})"
    )
