"""Collapse horizons: right-censored numbers of edits, by Kaplan and Meier; log-rank tests."""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import CensoredData, ecdf, logrank

from docs.leaderboard.course import Course

LEVEL = 0.95
EVENTS = {  # name: share of the mean task score; None: the perplexity's limit
    "perplexity": None,
    "tasks_1": 0.01,
    "tasks_10": 0.10,
}


class Horizon(NamedTuple):
    """How many edits a row's runs survived.

    Attributes:
        died: numbers of edits at which runs had the event.
        alive: numbers of edits of runs that ended without it.
    """

    died: list[int]
    alive: list[int]

    @property
    def data(self) -> CensoredData:
        """For scipy."""
        return CensoredData(uncensored=self.died, right=self.alive)


class Curve(NamedTuple):
    """A Kaplan-Meier curve, at the numbers of edits where it can fall.

    Attributes:
        edits: ``(n,)``.
        alive: ``(n,)``, share of runs that survive more edits than these.
        low: ``(n,)``, its 95 % interval's low end, log-log.
        high: ``(n,)``, the high end; where no run is left it stays as it was, as nothing is known.
    """

    edits: np.ndarray
    alive: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Median(NamedTuple):
    """A median horizon and its 95 % interval, in edits; infinite where it was not reached.

    The horizon of a single run has no interval: both ends are nan.

    Attributes:
        edits: the first number of edits that at most half of the runs survive.
        low: the first at which the curve's interval reaches a half from above.
        high: the first at which all of the interval is at most a half.
        followed: edits of the longest run.
    """

    edits: float
    low: float
    high: float
    followed: int

    def __str__(self) -> str:
        """Such as ``42 [17, -]`` or ``> 100``; an open end is a bound that the runs do not give."""
        if math.isinf(self.edits):
            return f"> {self.followed}"
        if math.isnan(self.low):
            return f"{self.edits:g} (n = 1)"
        high = "-" if math.isinf(self.high) else f"{self.high:g}"
        return f"{self.edits:g} [{self.low:g}, {high}]"


def horizon(runs: Sequence[Course], event: str) -> Horizon:
    """The horizon of a row's runs; rows that train on all requests at once have none."""
    share, found = EVENTS[event], Horizon([], [])
    for course in runs:
        told = share is None or course.baseline  # a run that has not ended has no summary yet
        if course.length is not None or not course.journal or not told:
            continue
        at = course.collapsed_at if share is None else course.lost_at(share)
        at = course.collapsed_at if at is None else at  # a collapsed model has lost its tasks too
        (found.alive if at is None else found.died).append(at or len(course.journal))
    return found


def curve(found: Horizon) -> Curve:
    """The Kaplan-Meier estimate with its log-log interval."""
    survival = ecdf(found.data).sf
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # no interval where nobody or all died
        bounds = survival.confidence_interval(LEVEL, method="log-log")
    edits, alive = survival.quantiles, survival.probabilities
    low = np.where(np.isnan(bounds.low.probabilities), alive, bounds.low.probabilities)
    high = np.where(np.isnan(bounds.high.probabilities), 1.0, bounds.high.probabilities)
    return Curve(edits, alive, low, np.minimum.accumulate(high))


def median(found: Horizon) -> Median:
    """The median horizon, its interval by inverting that of the curve (Brookmeyer, Crowley)."""
    told = curve(found)

    def reached(shares: np.ndarray) -> float:
        at = np.flatnonzero(shares <= 0.5)
        return float(told.edits[at[0]]) if len(at) else math.inf

    if not found.died:
        return Median(math.inf, math.inf, math.inf, max(found.alive))
    runs = found.died + found.alive
    bounds = (reached(told.low), reached(told.high)) if len(runs) > 1 else (math.nan, math.nan)
    return Median(reached(told.alive), *bounds, max(runs))


def difference(one: Horizon, other: Horizon) -> float | None:
    """The p-value of the log-rank test; None of single runs, or if no run had the event."""
    counts = [len(found.died + found.alive) for found in (one, other)]
    if not min(counts) or max(counts) == 1 or not (one.died or other.died):
        return None
    with np.errstate(all="ignore"):
        found = float(logrank(one.data, other.data).pvalue)
    return found if math.isfinite(found) else None
