"""A run's ledger, to rebuild its model as of any edit, or without any one edit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from data_modules.records import EditRequest, case_of
from lightning_modules.editing.editor import Editor
from lightning_modules.editing.ledger import (
    FOLDER,
    Entry,
    cut_behind,
    shard_file,
    shards,
    write_entry,
)
from lightning_modules.editing.replicas import Place

from .run_folder import folder_of, read_journal
from .schedule import restores, taken_up_here, watched_next


class EditLedger(L.Callback):
    """Keeps the updates of every edit that was not undone, one file per edit in ``ledger/``.

    An edit is kept after it has been watched, so that a guard has judged it. ``replay.yaml``
    rebuilds a model from it.

    Args:
        gigabytes: maximum size of the ledger; the run continues without it. Low-rank updates are
            small; a dense one is as large as its weight.

    Raises:
        ValueError: if the size is not positive.
    """

    def __init__(self, gigabytes: float = 8.0) -> None:
        if gigabytes <= 0:
            raise ValueError(f"gigabytes must be positive, got {gigabytes}")
        self.room = gigabytes * 1e9
        self.requests: Sequence[EditRequest] = ()
        self.turn = Place()

    def on_train_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Rewinds the ledger to the checkpoint's edit."""
        self.folder = Path(trainer.strategy.broadcast(str(folder_of(trainer))))
        if restores(trainer):  # each device makes edits of its own, and keeps them
            self.turn = Place(trainer.global_rank, trainer.world_size)
        if trainer.is_global_zero:
            cut_behind(self.folder, trainer.global_step * self.turn.devices)
            if taken_up_here(trainer):
                warn_of_gaps(self.folder)
        trainer.strategy.barrier()
        kept = (self.folder / FOLDER).glob("*.safetensors")
        self.room -= sum(file.stat().st_size for file in kept)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: Editor, batch: Any, batch_idx: int
    ) -> None:
        """Remembers the requests being edited."""
        self.requests = batch

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Editor, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps an edit that is not watched."""
        if not watched_next(trainer):
            self.keep(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Keeps an edit that was watched."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.keep(trainer, pl_module)

    def keep(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Writes the latest edit, if the model holds it and there is room."""
        before = pl_module.before.edited_requests
        stands = pl_module.edited_requests[len(before) :]
        writes = trainer.is_global_zero or self.turn.devices > 1
        if not stands or self.room <= 0 or not writes:
            return
        edit = (trainer.global_step - 1) * self.turn.devices + self.turn.rank + 1
        entry = Entry(
            edit=edit,
            before=len(before),
            case_ids=list(map(case_of, stands)),
            identities=stands,
            fingerprint=pl_module.fingerprint,
            weights=[update.weight for update in pl_module.applied],
            file=shard_file(self.folder, edit),
        )
        write_entry(entry, self.requests, pl_module.applied)
        self.room -= entry.file.stat().st_size
        if self.room <= 0:
            rank_zero_warn(
                f"the ledger is full and ends at edit {entry.edit}: later edits cannot be rebuilt "
                "from it; raise the gigabytes of EditLedger"
            )


def warn_of_gaps(run: Path) -> None:
    """Warns of edits in the journal that a run's ledger lacks."""
    kept = {int(file.stem) for file in shards(run)}
    made = [edit["edit"] for edit in read_journal(run) if edit["status"] == "applied"]
    lost = [edit for edit in made if edit not in kept]
    if lost:
        rank_zero_warn(
            f"the ledger of {run} lacks {len(lost)} of {len(made)} edits, the first of them edit "
            f"{lost[0]}: the run continues, but its model cannot be rebuilt from the ledger"
        )
