"""The tables of the sink atlas, and how well figures before an edit predict its harm."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from lightning_modules.editing.replicas import in_turn
from lightning_modules.jobs.sink_atlas import SinkAtlas

from ..keeping.run_folder import folder_of, nullified, write_json
from ..watching.beyond import CEILING
from ..watching.collapse import MULTIPLE
from ..watching.figures import publish
from .sink_figures import sink_figure

Row = dict[str, Any]
GROUP = ("second_moment", "method", "first")
SCORES = ("efficacy", "stated", "efficacy_prefixed", "stated_prefixed")


class SinkTable(L.Callback):
    """Under ``predict``, writes ``sink.json``, the atlas' tables, and ``sink.png``.

    The tables are written again whenever a layer has been measured.
    """

    def __init__(self) -> None:
        self.seen: list[list[Row]] = []
        self.so_far: list[Row] = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Gives the atlas the watched texts, and listens to it.

        Raises:
            ValueError: if the module is no SinkAtlas.
        """
        if not isinstance(pl_module, SinkAtlas):
            raise ValueError(
                "SinkTable needs lightning_modules.jobs.sink_atlas.SinkAtlas as the model: take "
                "papers/sink.yaml"
            )
        data: Any = trainer.datamodule  # type: ignore[attr-defined] # set by Lightning's connector
        pl_module.watched = [text for _, text in data.watched]
        pl_module.told = partial(self.keep, trainer, pl_module)
        self.seen, self.so_far = [], []

    def keep(self, trainer: L.Trainer, module: SinkAtlas, rows: Sequence[Row]) -> None:
        """Writes the tables with the rows of one more layer."""
        self.so_far += rows
        if trainer.is_global_zero:
            self.write(trainer, module, self.so_far)
            rank_zero_info(f"Layer {rows[0]['layer']}: {len(rows)} edits measured")

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Stores the rows of a batch."""
        self.seen.append(outputs)

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: SinkAtlas) -> None:
        """Writes and draws the rows of all devices."""
        rows = [row for batch in in_turn(self.seen) for row in batch]
        if not trainer.is_global_zero:
            return
        content = self.write(trainer, pl_module, rows)
        baseline = pl_module.baseline["perplexity"]
        publish(trainer, sink_figure(rows, pl_module.profile, baseline), "sink")
        for row in content["policies"]:
            rank_zero_info(in_words(row))

    def write(self, trainer: L.Trainer, module: SinkAtlas, rows: Sequence[Row]) -> Row:
        """Writes the tables of rows."""
        content = {
            **module.card(),
            "baseline": module.baseline,
            "profile": module.profile,
            **tables(rows, module.baseline["perplexity"]),
            "rows": [nullified(row) for row in rows],
        }
        folder_of(trainer).mkdir(parents=True, exist_ok=True)
        write_json(folder_of(trainer) / "sink.json", content)
        return content


def collapsed(row: Mapping[str, Any], baseline: float) -> bool:
    """Whether an edit destroyed the model: five times the unedited perplexity, or not finite."""
    return not row["perplexity"] <= MULTIPLE * baseline


def tables(rows: Sequence[Row], baseline: float) -> dict[str, Any]:
    """Collapses and scores by policy, over all layers; and the quality of each prediction.

    Args:
        rows: of the atlas.
        baseline: perplexity of the unedited model.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in GROUP), []).append(row)
    policies = [
        dict(zip(GROUP, group, strict=True))
        | {
            "edits": len(own),
            "collapsed": sum(collapsed(row, baseline) for row in own),
            "layers": sorted({row["layer"] for row in own if collapsed(row, baseline)}),
            "perplexity_highest": max(ratio(row, baseline) for row in own) * baseline,
            **{name: fmean(row[name] for row in own) for name in SCORES},
        }
        for group, own in groups.items()
    ]
    return {
        "policies": [nullified(row) for row in policies],
        "predictions": [
            {"second_moment": moment} | nullified(row)
            for moment in dict.fromkeys(row["second_moment"] for row in rows)
            for row in predictions([r for r in rows if r["second_moment"] == moment], baseline)
        ],
    }


def ratio(row: Mapping[str, Any], baseline: float) -> float:
    """Perplexity over the unedited one; infinite if it is not finite."""
    found = row["perplexity"] / baseline
    return found if math.isfinite(found) else math.inf


def predictions(rows: Sequence[Row], baseline: float) -> list[Row]:
    """Spearman's correlation of each figure known before the edit with perplexity, and its AUROC.

    Args:
        rows: of the atlas, of one second moment.
        baseline: perplexity of the unedited model.
    """
    harm = [min(ratio(row, baseline), CEILING) for row in rows]
    fell = np.array([collapsed(row, baseline) for row in rows])
    risks = {
        "danger": [row["danger"] for row in rows],
        "leverage": [row["leverage_rest"] for row in rows],
        "denominator": [-row["denominator"] for row in rows],
        "denominator_relative": [-row["denominator_relative"] for row in rows],
        "key_cosine": [-row["key_cosine"] for row in rows],
    }
    return [
        {
            "risk": name,
            "edits": len(rows),
            "collapsed": int(fell.sum()),
            "spearman": rank_correlation(risk, harm),
            "auroc": float(roc_auc_score(fell, risk)) if 0 < fell.sum() < len(rows) else math.nan,
        }
        for name, risk in ((n, np.clip(r, -CEILING, CEILING)) for n, r in risks.items())
    ]


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's correlation; NaN if all of one are equal."""
    varied = len(set(one)) > 1 and len(set(other)) > 1
    return float(spearmanr(one, other).statistic) if varied else math.nan


def in_words(row: Mapping[str, Any]) -> str:
    """A policy's row in a sentence."""
    kind = "first-token" if row["first"] else "other"
    where = f" (layers {', '.join(map(str, row['layers']))})" if row["layers"] else ""
    return (
        f"{row['method']}, {row['second_moment']}, {kind} subjects: {row['collapsed']} of "
        f"{row['edits']} edits collapse{where}; efficacy {row['efficacy']:.2f}, behind a prefix "
        f"{row['efficacy_prefixed']:.2f}"
    )
