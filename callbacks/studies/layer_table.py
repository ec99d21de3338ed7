"""Which layer suits a method, from a study that edits the same requests in each."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, harmonic_mean
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_modules.editing.layer_choice import keep_result
from lightning_modules.jobs.layer_study import LayerStudy

from ..keeping.run_folder import folder_of, read_journal, write_json
from ..keeping.schedule import restores
from ..watching.figures import publish
from .layer_figures import study_figure

SCORES = ("efficacy", "paraphrase", "neighborhood")
HARM = 1.1  # multiple of the unedited model's perplexity that a layer's mean may reach


class LayerTable(L.Callback):
    """Writes ``layers.json``, efficacy to denominators by layer, and ``layers.png``.

    It stores the best layer for ``layer: auto``: the one with the highest harmonic mean of
    efficacy, paraphrase and neighborhood among those with a perplexity below 1.1 times the unedited
    model's. The lowest perplexity breaks ties.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Refuses a run that is no layer study.

        Raises:
            ValueError: if the module is no LayerStudy, or edits accumulate.
        """
        if not isinstance(pl_module, LayerStudy) or not restores(trainer):
            raise ValueError(
                "LayerTable needs lightning_modules.jobs.layer_study.LayerStudy as the model and "
                "callbacks.watching.restore.RestoreWeights beside it: take layer-study.yaml"
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: LayerStudy) -> None:
        """Reads the journal; writes, draws and stores."""
        if not trainer.is_global_zero:
            return
        folder = folder_of(trainer)
        rows, baseline = by_layer(read_journal(folder)), pl_module.baseline
        best = best_layer(rows, baseline.get("perplexity", math.inf))
        content = {**pl_module.card(), "baseline": baseline, "best": best, "layers": rows}
        write_json(folder / "layers.json", content)
        publish(trainer, study_figure(rows, baseline), "layers")
        if best is None:
            rank_zero_warn(
                "no layer is stored for `layer: auto`: in none did an edit succeed and perplexity "
                f"stay below {HARM:g} times the unedited model's; see {folder / 'layers.json'}"
            )
            return
        row = next(row for row in rows if row["layer"] == best)
        told = ", ".join(f"{name} {row[name]:.2f}" for name in SCORES if name in row)
        why = f"the best of a layer study of {row['edits']} edits with {content['method']}: {told}"
        file = keep_result(
            pl_module.lm_name, pl_module.fingerprint, "study", {"layer": best, "why": why}
        )
        rank_zero_info(f"Layer {best} is {why}. Stored for `layer: auto`: {file}")


def by_layer(edits: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean figures of each layer's edits.

    ``perplexity_highest`` and ``denominator_lowest`` are those of its worst edit.

    Args:
        edits: of a journal, with their ``layer``.
    """
    rows = []
    for layer in sorted({edit["layer"] for edit in edits}):
        own = [edit for edit in edits if edit["layer"] == layer]
        row: dict[str, Any] = {"layer": layer, "edits": len(own)}
        for name in (*SCORES, "perplexity", "denominator", "value_loss"):
            found = [edit[name] for edit in own if name in edit]
            if found:
                row[name] = fmean(found)
                row |= {"perplexity_highest": max(found)} if name == "perplexity" else {}
                row |= {"denominator_lowest": min(found)} if name == "denominator" else {}
        row["collapsed"] = sum(edit.get("collapsed", False) for edit in own)
        rows.append(row)
    return rows


def best_layer(rows: Sequence[Mapping[str, Any]], baseline: float) -> int | None:
    """The layer with the best harmonic mean of scores; None if no layer qualifies.

    Args:
        rows: by :func:`by_layer`.
        baseline: perplexity of the unedited model.
    """

    def merit(row: Mapping[str, Any]) -> tuple[float, float]:
        scores = [row[name] for name in SCORES if name in row]
        return harmonic_mean(scores or [0.0]), -row.get("perplexity", 0.0)

    harmless = [row for row in rows if row.get("perplexity", 0.0) <= HARM * baseline]
    best = max(harmless, key=merit, default=None)
    return None if best is None or merit(best)[0] == 0 else best["layer"]
