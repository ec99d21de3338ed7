"""What ``--export`` writes at the end of a run: the model, the change alone, an adapter."""

from collections.abc import Sequence
from typing import Literal

import lightning as L
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_modules.editing.editor import Editor
from lightning_modules.jobs.replay import Replay

from .export import SaveChange, SaveLoRA, SavePretrained
from .run_folder import folder_of

Kind = Literal["lm", "change", "adapter"]
WRITERS = {"lm": SavePretrained, "change": SaveChange, "adapter": SaveLoRA}


class Export(L.Callback):
    """Writes the edited model in several forms after a ``fit``, or after a replay's ``validate``.

    An adapter that cannot be, because a change is not low-rank, is left out with a warning.

    Args:
        what: the whole model (``lm``), its ``change``, a LoRA ``adapter``, each in a folder of the
            run.
    """

    def __init__(self, what: Sequence[Kind]) -> None:
        self.writers = [WRITERS[kind]() for kind in dict.fromkeys(what)]

    def setup(self, trainer: L.Trainer, pl_module: Editor, stage: str) -> None:
        """Refuses early what could not be written.

        Raises:
            ValueError: if the run edits nothing, or its model's files could not reproduce it.
        """
        if not isinstance(pl_module, Editor) or not edits(pl_module, stage):
            raise ValueError(
                "--export: nothing is edited here; give it to fit, or to validate with --config "
                "replay.yaml --model.ledger RUN"
            )
        for writer in self.writers:
            writer.setup(trainer, pl_module, stage)

    def on_fit_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Writes after training."""
        self.write(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Writes a replayed model."""
        if trainer.state.fn == "validate":
            self.write(trainer, pl_module)

    def write(self, trainer: L.Trainer, editor: Editor) -> None:
        """Writes all forms, and says where."""
        for writer in self.writers:
            try:
                writer.on_fit_end(trainer, editor)
            except ValueError as error:
                if not isinstance(writer, SaveLoRA):
                    raise
                rank_zero_warn(str(error))
            else:
                rank_zero_info(f"Exported: {folder_of(trainer) / writer.folder}")


def edits(editor: Editor, stage: str) -> bool:
    """Whether the model is edited at that stage."""
    return stage == "fit" or (stage == "validate" and isinstance(editor, Replay))
