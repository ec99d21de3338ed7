"""How far every edited weight has moved from its original, and where it changed."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_modules.editing.edited_weights import Update
from lightning_modules.editing.editor import Editor
from lightning_modules.editing.ledger import FOLDER, read_ledger, standing
from lightning_modules.language_model.layout import layer_of, oriented, parameter_of

from ..keeping.edit_ledger import EditLedger
from ..keeping.run_folder import folder_of, read_journal
from ..keeping.schedule import restores
from ..watching.figures import publish
from ..watching.measures import effective_rank, singular_values
from .drift_figures import Panel, heat_maps, pooled, spectra

SHOWN = 8  # largest singular values of a change in the journal


class WeightDrift(L.Callback):
    """Measures the change W' - W of the edited weights after edits, and draws it at the end.

    The journal and TensorBoard get its Frobenius norm, absolute and relative to W, its spectral
    norm and effective rank, and the last two of W' (``drift_*``); with several weights, each
    weight's own besides the norms of all. ``spectrum.png`` shows the singular values over edits.
    ``drift.png`` is a heat map of ``|W' - W|`` (Butterfly Effect, section 4.2): in a single-edit
    sweep for the most harmful edit and the median stable one, in a sequential run at the first
    collapse and at the end. Past changes are read from the ledger.

    Args:
        every_n_edits: edits between two measurements. One for a (4096, 11008) weight takes two Gram
            matrices of its smaller side and their eigenvalues, 1e12 operations in float64: about a
            second on a GPU, a minute on a CPU.
        edits: further edits to draw.
        ceiling: change of an entry at which the colour scale ends (0.5 in the paper); null takes
            the 99th percentile of the most changed panel's cells.

    Raises:
        ValueError: if the cadence or the ceiling is not positive.
    """

    def __init__(
        self,
        every_n_edits: int = 1,
        edits: list[int] | None = None,
        ceiling: float | None = None,
    ) -> None:
        if every_n_edits <= 0 or (ceiling is not None and ceiling <= 0):
            raise ValueError(
                f"every_n_edits and ceiling must be positive, got {every_n_edits} and {ceiling}"
            )
        self.every_n_edits = every_n_edits
        self.edits = edits or []
        self.ceiling = ceiling

    def on_train_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Refuses a run whose edits' changes cannot be drawn.

        Raises:
            ValueError: if no ledger is kept.
        """
        callbacks = trainer.callbacks  # type: ignore[attr-defined] # set by Lightning's connector
        if not any(isinstance(callback, EditLedger) for callback in callbacks):
            raise ValueError(
                "WeightDrift reads what single edits changed from the ledger; add "
                "callbacks.keeping.edit_ledger.EditLedger"
            )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Editor, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Completes the edit's record."""
        edit = pl_module.record.get("edit")
        if edit is not None and edit % self.every_n_edits == 0:
            pl_module.record |= drift(pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Draws from the journal and the ledger."""
        if not trainer.is_global_zero:
            return
        single = restores(trainer)
        journal = read_journal(folder_of(trainer))
        labels = labels_of(pl_module)
        if any(name.startswith("drift_spectrum") for edit in journal for name in edit):
            publish(trainer, spectra(journal, labels, single), "spectrum")
        made = {edit["edit"]: edit for edit in journal if edit["status"] == "applied"}
        wanted = [*chosen(made, single), *(edit for edit in self.edits if edit in made)]
        held = {} if single or not made else {max(made): changes_of(pl_module)}
        changes = held | ledger_changes(folder_of(trainer), pl_module, set(wanted) - set(held))
        panels = [
            Panel(caption(made[edit]), label, pooled(change), tuple(change.shape))
            for edit in dict.fromkeys(wanted)
            for label, change in zip(labels, changes.get(edit, ()), strict=False)
        ]
        if panels:
            publish(trainer, heat_maps(panels, len(labels), self.ceiling), "drift")


def ledger_changes(folder: Path, editor: Editor, edits: set[int]) -> dict[int, list[Tensor]]:
    """W' - W after each of the edits that a run's ledger holds, ``(out, in)`` per edited weight."""
    found = {}
    entries = read_ledger(folder) if edits and any((folder / FOLDER).glob("*.safetensors")) else []
    for edit in edits & {entry.edit for entry in entries}:
        held = standing([entry for entry in entries if entry.edit <= edit])
        updates = [update for entry in held for update in entry.updates()]
        found[edit] = [summed(editor, name, updates) for name in editor.original]
    if edits - set(found):
        rank_zero_warn(
            f"drift.png lacks the edits {sorted(edits - set(found))}, which the ledger does not "
            "hold; raise the gigabytes of EditLedger"
        )
    return found


def changes_of(editor: Editor) -> list[Tensor]:
    """W' - W of the current model, ``(out, in)`` per edited weight."""
    return [
        oriented(editor.lm, name, editor.edited.master(name) - original)
        for name, original in editor.original.items()
    ]


def chosen(made: dict[int, dict[str, Any]], single: bool) -> list[int]:
    """The edits to draw: the worst and the median stable one, or a run's decisive ones.

    Args:
        made: applied edits of a journal, by number.
        single: whether each starts from the original model.
    """
    collapsed = [edit for edit, record in made.items() if record.get("collapsed")]
    if not single:
        return collapsed[:1] + list(made)[-1:]
    watched = {edit: record for edit, record in made.items() if "perplexity" in record}
    ranked = sorted(watched, key=lambda edit: watched[edit]["perplexity"])
    stable = [edit for edit in ranked if edit not in collapsed]
    return ranked[-1:] + stable[(len(stable) - 1) // 2 :][:1]


def caption(record: dict[str, Any]) -> str:
    """A caption for an edit: its number, its outcome, and the perplexity after it."""
    judged = "collapsed" in record
    became = ("collapsed" if record["collapsed"] else "stable") if judged else ""
    found = record.get("perplexity", math.nan)
    perplexity = (
        "" if math.isnan(found) else f"perplexity {found:{',.0f' if found < 1e6 else '.3g'}}"
    )
    return ", ".join(filter(None, [f"edit {record['edit']}", became, perplexity]))


def labels_of(editor: Editor) -> list[str]:
    """Short labels of the edited weights, by layer and map, and by expert."""
    experts = [name[len(parameter_of(name)) :].strip("[]") for name in editor.original]
    maps = [f"{layer_of(editor.lm, n)}_{n.split('.')[-2]}" for n in editor.original]
    return [name + expert for name, expert in zip(maps, experts, strict=True)]


def summed(editor: Editor, weight: str, updates: list[Update]) -> Tensor:
    """Sum of the updates of a weight, ``(out, in)``, float32 on the CPU."""
    total = torch.zeros_like(oriented(editor.lm, weight, editor.original[weight]), device="cpu")
    for update in updates:
        if update.weight == weight:
            total += update.dense().to(total)
    return total


@torch.no_grad()
def drift(editor: Editor) -> dict[str, Any]:
    """Measures of the change of all edited weights, for the journal."""
    if not editor.original:  # experts, none of which was edited yet
        return {}
    norms = [float(original.double().norm()) for original in editor.original.values()]
    masters = [editor.edited.master(name) for name in editor.original]
    each = list(map(figures_of, masters, changes_of(editor), norms))
    suffixes = [f"_{label}" for label in labels_of(editor)] if len(each) > 1 else [""]
    whole = math.hypot(*(figures["norm"] for figures in each))
    return {
        **{
            f"drift_{figure}{suffix}": value
            for suffix, figures in zip(suffixes, each, strict=True)
            for figure, value in figures.items()
        },
        "drift_norm": whole,
        "drift_relative": whole / math.hypot(*norms),
    }


def figures_of(weight: Tensor, change: Tensor, norm: float) -> dict[str, Any]:
    """Norms, spectrum and effective rank of one weight's change.

    Args:
        weight: the current weight, in either orientation.
        change: ``(out, in)``, the current weight minus the original.
        norm: Frobenius norm of the original.
    """
    singular, whole = singular_values(change), singular_values(weight)
    size = float(change.double().norm())
    figures = {
        "norm": size,
        "relative": size / norm,
        "spectral_norm": float(singular[0]),
        "spectrum": singular[:SHOWN].tolist(),
        "weight_spectral_norm": float(whole[0]),
        "weight_effective_rank": effective_rank(whole),
    }
    return figures | ({"effective_rank": effective_rank(singular)} if size else {})
