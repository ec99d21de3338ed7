"""How well a risk before the edit separates destructive edits from the others."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import bootstrap, mannwhitneyu
from sklearn.metrics import brier_score_loss, precision_score, recall_score, roc_auc_score

RECALLS = (0.5, 0.75, 0.9, 1.0)
PROBABILITIES = (0.05, 0.1, 0.25, 0.5)
RESAMPLES = 999


def judged(destroyed: np.ndarray, risks: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """AUROC and thresholds of each risk, Brier score of the probability.

    Args:
        destroyed: ``(n,)``, whether the edit destroyed the model; both kinds are there.
        risks: each ``(n,)``, high for dangerous edits; ``collapse_probability`` among them,
            held-out.
    """
    probability = risks["collapse_probability"]
    fixed = {"collapse_probability": PROBABILITIES}
    share = np.full_like(probability, destroyed.mean())
    return {
        "edits": len(destroyed),
        "destroyed": int(destroyed.sum()),
        "auroc": {name: auroc(destroyed, risk) for name, risk in risks.items()},
        "brier": float(brier_score_loss(destroyed, probability)),
        "brier_of_the_share": float(brier_score_loss(destroyed, share)),
        "thresholds": {
            name: [
                threshold_row(destroyed, risk, cut)
                for cut in (*fixed.get(name, ()), *cuts(destroyed, risk))
            ]
            for name, risk in risks.items()
        },
    }


def auroc(destroyed: np.ndarray, risk: np.ndarray) -> dict[str, float]:
    """Area under the ROC curve; its 95 % interval by a seeded bootstrap within each kind."""

    def area(harmful: np.ndarray, harmless: np.ndarray, axis: int = -1) -> np.ndarray:
        pairs = harmful.shape[axis] * harmless.shape[axis]
        ranked = mannwhitneyu(harmful, harmless, axis=axis, method="asymptotic")
        return ranked.statistic / pairs

    resampled = bootstrap(
        (risk[destroyed], risk[~destroyed]),
        area,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    low, high = resampled.confidence_interval
    value = roc_auc_score(destroyed, risk)
    return {"value": float(value), "low": float(low), "high": float(high)}


def cuts(destroyed: np.ndarray, risk: np.ndarray) -> list[float]:
    """Thresholds of the risk that catch half, more, and all of the destructive edits."""
    highest = np.sort(risk[destroyed])[::-1]
    reached = (highest[math.ceil(recall * len(highest)) - 1] for recall in RECALLS)
    return [float(cut) for cut in dict.fromkeys(reached)]


def threshold_row(destroyed: np.ndarray, risk: np.ndarray, cut: float) -> dict[str, float]:
    """Caught edits and false alarms if every edit of at least this risk is refused."""
    flagged = risk >= cut
    caught = int((flagged & destroyed).sum())
    row = {
        "threshold": abs(cut),
        "flagged": int(flagged.sum()),
        "caught": caught,
        "false_alarms": int(flagged.sum()) - caught,
        "recall": float(recall_score(destroyed, flagged)),
    }
    return row | (
        {"precision": float(precision_score(destroyed, flagged))} if row["flagged"] else {}
    )
