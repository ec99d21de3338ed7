"""Means over edits, and their confidence intervals."""

import math
from collections.abc import Sequence
from statistics import harmonic_mean
from typing import Any

import numpy as np
from scipy.stats import bootstrap

RESAMPLES = 2000
SUCCESS = ("efficacy", "paraphrase", "neighborhood")


def mean_scores(judged: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean of each score over the requests that have it."""
    names = dict.fromkeys(name for scores in judged for name in scores)
    columns = {name: [s[name] for s in judged if name in s] for name in names}
    return {name: sum(column) / len(column) for name, column in columns.items()}


def harmonic_score(means: dict[str, float], kind: str = "") -> float | None:
    """ROME's S: harmonic mean of efficacy, paraphrase and neighborhood; None if one is missing.

    Args:
        means: over all edits, by name.
        kind: what follows the names, such as ``_before``.
    """
    names = [f"{group}{kind}" for group in SUCCESS]
    return harmonic_mean([means[n] for n in names]) if means.keys() >= set(names) else None


def mean_intervals(judged: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Percentile bootstrap 95 % interval of each figure's mean, low and high end.

    Edits are drawn with replacement and a fixed seed. A figure has no interval if fewer than two
    edits have it, if it is constant, or if it is not finite.

    Args:
        judged: figures of each edit, by name.
    """
    columns: dict[str, list[float]] = {}
    for figures in judged:
        for name, value in figures.items():
            columns.setdefault(name, []).append(float(value))
    return {
        name: _interval(column)
        for name, column in columns.items()
        if len(set(column)) > 1 and all(map(math.isfinite, column))
    }


def _interval(column: list[float]) -> list[float]:
    found = bootstrap(
        (np.array(column),),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, 10_000_000 // len(column)),  # bounds memory
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return [float(found.low), float(found.high)]
