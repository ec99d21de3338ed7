"""The files of a survey of facts."""

from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from data_modules.records import EditRequest

from ..keeping.run_folder import folder_of, write_cases

KINDS = ("stated", "first_token")
REST = "neither"


class SurveyFiles(L.Callback):
    """Writes the requests of each kind to ``stated.json`` and ``first_token.json``.

    ``neither.json`` holds those of neither kind, if there are any.

    Args:
        leave_out: case numbers of requests that settings were chosen on; the files lack them.
    """

    def __init__(self, leave_out: Sequence[int] = ()) -> None:
        self.leave_out = frozenset(leave_out)
        self.asked = 0
        self.found: dict[str, list[EditRequest]] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuses several devices, each of which would write its own files.

        Raises:
            ValueError: if there are several.
        """
        if trainer.world_size > 1:
            raise ValueError("a survey writes one file of each kind; use --trainer.devices 1")

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begins with no request."""
        self.asked, self.found = 0, {kind: [] for kind in (*KINDS, REST)}

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Sequence[EditRequest],
        *args: Any,
    ) -> None:
        """Adds the requests of a batch."""
        self.asked += len(batch)
        for request, row in zip(batch, outputs, strict=True):
            for kind in [kind for kind in KINDS if row[kind]] or [REST]:
                self.found[kind].append(request)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the files, and says how many requests they hold."""
        folder = folder_of(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        for kind, requests in self.found.items():
            kept = [r for r in requests if r.case_id not in self.leave_out]
            write_cases(folder, (r.as_counterfact() for r in kept), f"{kind}.json")
        of_kind = {kind: len(requests) for kind, requests in self.found.items()}
        rank_zero_info(
            f"The model states {of_kind['stated']} of {self.asked} facts; in "
            f"{of_kind['first_token']} the subject is the prompt's first token. Files without "
            f"{len(self.leave_out)} cases that settings were chosen on: {folder}"
        )
