"""Bootstrap intervals of means over cases, and of paired differences between rows."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap

RESAMPLES = 1000
FEWEST = 5  # cases that an interval or a difference takes


class Mean(NamedTuple):
    """A mean over cases with its 95 % interval; the interval is empty if there is none.

    Attributes:
        value: the mean.
        low: low end; NaN without an interval.
        high: high end.
        cases: how many.
    """

    value: float
    low: float
    high: float
    cases: int

    @property
    def certain(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def mean_of(scores: Mapping[int, float]) -> Mean | None:
    """Mean over cases; None without any."""
    return _bootstrapped(np.array(list(scores.values()))) if scores else None


def paired(one: Mapping[int, float], other: Mapping[int, float]) -> Mean | None:
    """Mean difference over the cases of both, whose pairs are resampled together.

    None if they have too few in common.
    """
    cases = sorted(one.keys() & other.keys())
    pairs = [np.array([scores[case] for case in cases]) for scores in (one, other)]
    return _bootstrapped(*pairs) if len(cases) >= FEWEST else None


def _bootstrapped(*samples: np.ndarray) -> Mean:
    def statistic(first: np.ndarray, *second: np.ndarray, axis: int = -1) -> np.ndarray:
        return first.mean(axis) - (second[0].mean(axis) if second else 0)

    differences = samples[0] - samples[1] if len(samples) > 1 else samples[0]
    value = float(differences.mean())
    if len(differences) < FEWEST or np.ptp(differences) == 0:
        bound = value if len(differences) >= FEWEST else math.nan
        return Mean(value, bound, bound, len(differences))
    found = bootstrap(
        samples,
        statistic,
        n_resamples=RESAMPLES,
        paired=True,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Mean(value, float(found.low), float(found.high), len(differences))
