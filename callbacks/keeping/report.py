"""The page that ends a run: what the model said about each fact, and what it says now."""

import json
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.editing.editor import Editor

from .findings import gathered
from .report_page import html, markdown
from .report_sections import headline, sections
from .run_folder import folder_of, replace_text

PARTS = 3


class Report(L.Callback):
    """Writes ``report.html`` and ``report.md`` at the end of a run, for readers without the code.

    The unedited and the edited model continue each fact's prompt and reply to it in the chat
    template, if there is one; and they answer questions about other subjects.
    """

    def setup(self, trainer: L.Trainer, pl_module: Editor, stage: str) -> None:
        """Moves behind the callbacks that export, whose folders it names."""
        callbacks = trainer.callbacks  # type: ignore[attr-defined] # set by Lightning's connector
        others = [callback for callback in callbacks if callback is not self]  # the list is read
        trainer.callbacks = [*others, self]  # type: ignore[attr-defined] # as above

    def on_fit_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Asks both models and writes the pages."""
        if not trainer.is_global_zero:
            return
        folder = folder_of(trainer)
        summary: dict[str, Any] = json.loads((folder / "summary.json").read_text("utf-8"))
        quiet = trainer.progress_bar_callback is None
        with Tqdm(total=PARTS, desc="Asking both models for the report", disable=quiet) as bar:
            found = gathered(trainer, pl_module, summary, bar.update)
        title = f"{len(found.facts)} facts edited in {Path(found.lm).name}"
        page = (title, headline(found), sections(found))
        replace_text(folder / "report.html", html(*page, good=found.stated == len(found.facts)))
        replace_text(folder / "report.md", markdown(*page))
        rank_zero_info(f"Report: {folder / 'report.html'}")
