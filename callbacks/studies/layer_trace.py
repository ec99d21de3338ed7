"""The table and the heat maps of causal tracing."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
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

    For ``layer: auto`` it stores the layers around the peak of the MLPs' effect at the subject's
    last token with at least half that effect.
    """

    def __init__(self) -> None:
        self.seen: list[list[dict[str, Any]]] = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Refuses a module that does not trace.

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
        """Stores the traces of a batch."""
        self.seen.append(outputs)

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: LayerTracing) -> None:
        """Averages, writes, draws and stores the traces of all facts.

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
        if trainer.is_global_zero:
            self.write(trainer, pl_module, known, len(asked))

    def write(
        self,
        trainer: L.Trainer,
        module: LayerTracing,
        known: Sequence[Mapping[str, Any]],
        asked: int,
    ) -> None:
        """Writes, draws and stores the averages over the known facts."""
        folder = folder_of(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        effects, counts = average(known)
        card = module.card()
        found = {
            **card,
            "asked": asked,
            "known": len(known),
            "clean": fmean(row["clean"] for row in known),
            "corrupted": fmean(row["corrupted"] for row in known),
            "tokens": dict(zip(ROLES, counts.tolist(), strict=True)),
            "range": traced_range(effects["mlp"][LAST_SUBJECT].tolist(), card["layers"]),
            "effects": {kind: table(means) for kind, means in effects.items()},
            "case_ids": [row["case_id"] for row in known],
        }
        write_json(folder / "trace.json", found)
        publish(trainer, trace_figure(effects, counts, card["layers"], card["window"]), "trace")
        rank_zero_info(
            f"{len(known)} of {asked} facts are known; their answers have probability "
            f"{found['clean']:.3f}, with noise {found['corrupted']:.3f}. Table: "
            f"{folder / 'trace.json'}"
        )
        self.store(module, found)

    def store(self, module: LayerTracing, found: Mapping[str, Any]) -> None:
        """Stores the range for ``layer: auto``, or reports why there is none."""
        if found["range"] is None:
            rank_zero_warn(
                "nothing is stored for `layer: auto`: restored MLPs bring none of the answers back "
                "at the subject's last token"
            )
            return
        why = (
            "where restored MLPs bring back most of an answer at the subject's last token, over "
            f"{found['known']} facts"
        )
        result = {"range": found["range"], "why": why}
        file = keep_result(module.lm_name, module.fingerprint, "trace", result)
        low, high = found["range"]
        rank_zero_info(f"Layers {low} to {high} are {why}. Stored for `layer: auto`: {file}")


def traced_range(effects: Sequence[float], layers: Sequence[int]) -> list[int] | None:
    """First and last of the layers around the peak; None if no effect is positive."""
    if max(effects) <= 0:
        return None
    return [layers[place] for place in restored_range(effects)]


def average(known: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Tensor], Tensor]:
    """Mean effects ``(roles, layers)`` over facts, by kind; NaN for a role without facts.

    Also the number of facts with each role, ``(roles,)``.
    """
    stacked = {
        kind: torch.stack([row["effects"][kind] for row in known]) for kind in known[0]["effects"]
    }
    counts = stacked["hidden"][..., 0].isfinite().sum(0)
    return {kind: effects.nanmean(0) for kind, effects in stacked.items()}, counts


def table(effects: Tensor) -> dict[str, list[float | None]]:
    """Effects by role and layer, without roles that no fact has."""
    return {
        role: row.tolist() for role, row in zip(ROLES, effects, strict=True) if row.isfinite().all()
    }
