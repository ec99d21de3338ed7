"""The table and the heat maps of causal tracing."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_modules.editing.layer_choice import keep_result
from lightning_modules.editing.replicas import in_turn
from lightning_modules.functional.causal_trace import LAST_SUBJECT, ROLES, restored_range
from lightning_modules.jobs.layer_tracing import LayerTracing

from ..keeping.run_folder import folder_of, write_json
from ..watching.figures import publish
from .layer_figures import trace_figure


class LayerTrace(L.Callback):
    """Under ``predict``, writes ``trace.json``, average indirect effects, and ``trace.png``.

    The layers around the peak of the MLPs' effect at the subject's last token, where it is at least
    half the peak, are stored for ``layer: auto``.
    """

    def __init__(self) -> None:
        self.seen: list[list[dict[str, Any]]] = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Refuses a model that traces nothing.

        Raises:
            ValueError: if it is no LayerTracing.
        """
        if not isinstance(pl_module, LayerTracing):
            raise ValueError(
                "LayerTrace needs lightning_modules.jobs.layer_tracing.LayerTracing as the model: "
                "take trace.yaml"
            )
        self.seen = []

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Keeps the traces of a batch."""
        self.seen.append(outputs)

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: LayerTracing) -> None:
        """Averages, writes, draws and stores, once all facts were seen.

        Raises:
            ValueError: if the model knows none of them.
        """
        asked = [row for batch in in_turn(self.seen) for row in batch]
        known = [row for row in asked if row["known"]]
        if not known:
            raise ValueError(
                f"{pl_module.lm_name!r} states none of the {len(asked)} facts, and only facts that "
                "it knows can be traced; give others by --data.path, or more by --data.limit null"
            )
        if not trainer.is_global_zero:
            return
        folder = folder_of(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        effects, counts = average(known)
        card = pl_module.card()
        layers = card["layers"]
        low, high = restored_range(effects["mlp"][LAST_SUBJECT].tolist())
        found = {
            **card,
            "asked": len(asked),
            "known": len(known),
            "clean": mean(known, "clean"),
            "corrupted": mean(known, "corrupted"),
            "tokens": dict(zip(ROLES, counts.tolist(), strict=True)),
            "range": [layers[low], layers[high]],
            "effects": {kind: table(means) for kind, means in effects.items()},
            "case_ids": [row["case_id"] for row in known],
        }
        write_json(folder / "trace.json", found)
        publish(trainer, trace_figure(effects, counts, layers, card["window"]), "trace")
        why = (
            f"where restored MLPs bring back most at the subject's last token ({len(known)} facts)"
        )
        stored = {"range": found["range"], "why": why}
        file = keep_result(pl_module.lm_name, pl_module.fingerprint, "trace", stored)
        rank_zero_info(
            f"{len(known)} of {len(asked)} facts are known; their answers have probability "
            f"{found['clean']:.3f}, with noise {found['corrupted']:.3f}. Layers {layers[low]} to "
            f"{layers[high]}: {why}. Table: {folder / 'trace.json'}. For `layer: auto`: {file}"
        )


def average(known: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Tensor], Tensor]:
    """Mean effects ``(roles, layers)`` over facts, by kind; NaN for a role that no fact has.

    Then the number of facts that have each role, ``(roles,)``.
    """
    stacked = {
        kind: torch.stack([row["effects"][kind] for row in known]) for kind in known[0]["effects"]
    }
    counts = stacked["hidden"][..., 0].isfinite().sum(0)
    return {kind: effects.nanmean(0) for kind, effects in stacked.items()}, counts


def mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    """Of one figure."""
    return sum(row[name] for row in rows) / len(rows)


def table(effects: Tensor) -> dict[str, list[float | None]]:
    """Effects by role, layer by layer; without roles that no fact has."""
    return {
        role: row.tolist() for role, row in zip(ROLES, effects, strict=True) if row.isfinite().all()
    }
