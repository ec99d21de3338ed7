"""The journal of a run: one line per edit, a summary, and the same figures in the logger."""

import json
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import lightning as L

from data_modules.records import EditRequest
from lightning_modules.editing.editor import Editor
from lightning_modules.editing.replicas import Place, gathered

from .closing import close
from .dashboard import conclude, introduce, lay_out, log, purge
from .edit_lines import stated_at_edits, stated_now
from .journal_file import JournalFile
from .progress import EditBar
from .run_folder import (
    Claim,
    clear_partial,
    folder_of,
    nullified,
    read_journal,
    replace_text,
    write_json,
)
from .schedule import FINISHED, nothing_left, restores, taken_up_here, watched_next
from .summary import summarize

IDENTITY = ("case_id", "subject", "prompt", "target_new", "target_true")
PACKAGES = ("lightning", "torch", "transformers")


class EditJournal(L.Callback):
    """Writes ``edits.jsonl``, ``summary.json`` and the logger's scalars, one step per edit.

    It comes first among the callbacks: it opens the record that the others complete.
    """

    def __init__(self) -> None:
        self.watching_since = 0.0
        self.saved: dict[str, Any] = {}
        self.step_limit_met = False
        self.goes_on = False
        self.turn = Place()
        self.claim: Claim | None = None

    def setup(self, trainer: L.Trainer, pl_module: Editor, stage: str) -> None:
        """Checks early that the folder is writable and free."""
        if restores(trainer):
            self.turn = Place(trainer.global_rank, trainer.world_size)
        self.file = JournalFile(folder_of(trainer) / "edits.jsonl")
        if stage == "fit" and trainer.is_global_zero:
            self.claim = Claim(folder_of(trainer))
            clear_partial(folder_of(trainer))
            self.file.file.touch()

    def teardown(self, trainer: L.Trainer, pl_module: Editor, stage: str) -> None:
        """Marks the run as finished after all callbacks have written, and frees the folder."""
        if self.claim is not None:
            replace_text(folder_of(trainer) / FINISHED, f"{trainer.global_step} edits\n")
        self.release()

    def on_exception(self, trainer: L.Trainer, pl_module: Editor, exception: BaseException) -> None:
        """Frees the folder."""
        self.release()

    def release(self) -> None:
        """Frees the folder, if it was claimed."""
        if self.claim is not None:
            self.claim.release()
            self.claim = None

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: Editor, checkpoint: dict[str, Any]
    ) -> None:
        """Restores the journal's length, its digest, and an edit's open record."""
        if trainer.state.fn != "fit":
            return
        self.saved = checkpoint["journal"]
        pl_module.record = json.loads(self.saved["open"])[self.turn.rank]
        self.step_limit_met = 0 <= trainer.max_steps <= checkpoint["global_step"]
        if self.step_limit_met:  # else Lightning ends without calling the callbacks
            trainer.fit_loop.epoch_loop.max_steps = -1

    def on_fit_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Refuses to append to another run, or to lines that the checkpoint does not know.

        Raises:
            ValueError: if the folder holds edits other than those before the checkpoint.
        """
        refusal = trainer.strategy.broadcast(self.refusal(trainer))
        if refusal:
            raise ValueError(refusal)

    def refusal(self, trainer: L.Trainer) -> str:
        """The reason not to write to the folder's journal; empty if there is none."""
        if not trainer.is_global_zero:
            return ""
        folder, held = folder_of(trainer), self.file.file.stat().st_size > 0
        here = taken_up_here(trainer)
        self.goes_on = held or here
        if held and not (here or self.saved.get("lines")):
            return f"{folder} already holds the edits of a run; name another folder"
        if not self.goes_on:
            return ""
        why = self.file.misfit(self.saved["lines"], self.saved["digest"])
        return why and (
            f"{self.file.file} does not match {trainer.ckpt_path}: it {why}; put the run's journal "
            "back, or continue in a new folder by naming that checkpoint instead of 'last'"
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Rewinds the journal to the checkpoint's edit.

        A run that was killed after its last edit only performs the steps at a run's end.

        Raises:
            ValueError: if a resumed run has nothing left to do.
        """
        folder = folder_of(trainer)
        open_end = self.goes_on and not (folder / FINISHED).exists()
        open_end = trainer.strategy.broadcast(open_end)
        if not open_end and (self.step_limit_met or nothing_left(trainer)):
            raise ValueError(
                f"all {trainer.global_step} edits of {folder} are made; to continue, raise "
                "--data.limit or --trainer.max_steps"
            )
        told_to_stop = open_end and (self.step_limit_met or self.saved["stopping"])
        trainer.should_stop = trainer.should_stop or told_to_stop
        if trainer.is_global_zero:
            self.file.take_up(self.saved["lines"] if self.goes_on else 0)
            purge(trainer, trainer.global_step * self.turn.devices + 1)
            introduce(trainer, pl_module)

    def on_train_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: Editor,
        batch: Sequence[EditRequest],
        batch_idx: int,
    ) -> None:
        """Opens the record of an edit."""
        self.write(trainer, pl_module)
        if trainer.is_global_zero:
            for name in (FINISHED, "summary.json"):
                (folder_of(trainer) / name).unlink(missing_ok=True)
        if not batch:
            return
        columns = {name: [getattr(request, name) for request in batch] for name in IDENTITY}
        pl_module.record = {
            "edit": trainer.global_step * self.turn.devices + self.turn.rank + 1,
            **{name: values[0] if len(batch) == 1 else values for name, values in columns.items()},
        }

    def on_validation_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Starts timing the watching."""
        self.watching_since = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Closes the record of a watched edit; the baseline goes to step 0."""
        if trainer.sanity_checking:
            log(trainer, pl_module.baseline, step=0)
        elif trainer.state.fn == "fit":
            pl_module.record["seconds_watch"] = time.perf_counter() - self.watching_since
            self.write(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: Editor, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the journal's length, its digest, and an edit's open record."""
        complete = {} if watched_next(trainer) else pl_module.record
        checkpoint["journal"] = {
            "lines": self.file.lines,
            "digest": self.file.digest,
            "open": json.dumps(self.all_of(complete)),
            "stopping": trainer.should_stop,
        }

    def on_train_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Asks all facts once more, writes the summary, and reports how the run ended."""
        self.write(trainer, pl_module)
        edits = read_journal(folder_of(trainer)) if trainer.is_global_zero else []
        edits = trainer.strategy.broadcast(edits)
        stated = stated_at_edits(edits) if restores(trainer) else stated_now(pl_module, edits)
        if not trainer.is_global_zero:
            return
        self.file.require_whole()
        chosen_by = getattr(trainer.datamodule, "chosen_by", None)  # type: ignore[attr-defined] # set by Lightning's connector
        summary = summarize(edits, pl_module.baseline) | {
            "stated": stated._asdict(),
            **pl_module.card(),
            **({"chosen_by": chosen_by} if chosen_by else {}),
            "versions": {name: version(name) for name in PACKAGES},
        }
        write_json(folder_of(trainer) / "summary.json", summary)
        conclude(trainer, summary, edits)
        if isinstance(trainer.progress_bar_callback, EditBar):
            trainer.progress_bar_callback.finish(trainer)
        close(trainer, pl_module, summary, edits)

    def write(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Appends the open records, if any, and syncs them to disk."""
        own, pl_module.record = pl_module.record, {}
        records = [record for record in self.all_of(own) if "edit" in record]
        for record in records if trainer.is_global_zero else ():
            if not self.file.lines:
                lay_out(trainer, pl_module.baseline | record)
            self.file.add(json.dumps(nullified(record), ensure_ascii=False))
            log(trainer, record, step=record["edit"])
            if isinstance(trainer.progress_bar_callback, EditBar):
                trainer.progress_bar_callback.tell(record)

    def all_of(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        """The records of all simultaneous edits: one on each device, or this one."""
        return gathered(record) if self.turn.devices > 1 else [record]
