"""Means over edits, and how far each may be trusted."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import bootstrap

RESAMPLES = 2000


def mean_scores(judged: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean of each score over those requests that have it."""
    names = dict.fromkeys(name for scores in judged for name in scores)
    columns = {name: [s[name] for s in judged if name in s] for name in names}
    return {name: sum(column) / len(column) for name, column in columns.items()}


def mean_intervals(judged: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Low and high end of the 95 % bootstrap interval of each figure's mean, by percentiles.

    Edits are drawn with replacement, always the same ones. A figure that fewer than two edits have,
    or that is the same for all, has no interval; nor has one that is not finite.

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
