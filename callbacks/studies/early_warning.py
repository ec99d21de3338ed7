"""Which signal warns of a collapse, how many edits before it, and how often for nothing."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import roc_auc_score

from ..watching.signals import FALLING, RISING

Record = Mapping[str, Any]
EVENTS: dict[str, float | None] = {  # lost share of the mean task score; None: perplexity's limit
    "perplexity": None,
    "tasks_10": 0.1,
    "tasks_1": 0.01,
}
SIGNALS = (
    *("perplexity", "perplexity_pooled", "tasks", *RISING, *FALLING),
    *("update_norm", "denominator"),
)
RATE = 0.05  # share of the healthy runs that may alarm
AHEAD = 5  # edits within which an event is foretold
RESAMPLES = 499
FEWEST = 5  # runs that an interval takes


class Course(NamedTuple):
    """A sequence of edits, by its measured ones.

    Attributes:
        fold: limits for a run are chosen on runs of other folds, such as other methods.
        numbers: ``(n,)``, of the edits in the run.
        signals: each ``(n,)``, high if alarming; those that were measured.
        events: the index of the first edit after which an event holds; None if it never does.
    """

    fold: str
    numbers: np.ndarray
    signals: Mapping[str, np.ndarray]
    events: Mapping[str, int | None]


class Estimate(NamedTuple):
    """A figure with its 95 % interval, which is NaN if there are too few runs."""

    value: float
    low: float = math.nan
    high: float = math.nan


class Verdict(NamedTuple):
    """How a signal foretells an event.

    Attributes:
        runs: runs with the event, save those with it at their first edit, which nothing can warn.
        warned: share of them with an alarm before the event, with Wilson's interval.
        lead: mean number of edits from the first alarm to the event; 0 without an alarm before it.
        gain: the same less the lead of perplexity, paired by run.
        healthy: runs without the event.
        false_runs: share of these with an alarm, by a limit from other folds.
        false_edits: share of their edits with an alarm.
        auroc: area under the ROC curve of "the event occurs within the next ``AHEAD`` edits".
        limit: chosen on all healthy runs, in the units of :func:`alarming`.
    """

    runs: int
    warned: Estimate
    lead: Estimate
    gain: Estimate
    healthy: int
    false_runs: float
    false_edits: float
    auroc: Estimate
    limit: float


def course_of(edits: Sequence[Record], baseline: Record, fold: str) -> Course:
    """The course of a run.

    Args:
        edits: records of its journal.
        baseline: figures of the unedited model.
        fold: of the run.
    """
    measured = [edit for edit in edits if "state_drift" in edit and "perplexity" in edit]
    each = {name: np.array([alarming(e, baseline, name) for e in measured]) for name in SIGNALS}
    known = {name: found for name, found in each.items() if not np.isnan(found).any()}
    collapsed = np.array([bool(edit.get("collapsed")) for edit in measured], dtype=bool)
    events = {
        event: first(collapsed if share is None else collapsed | (each["tasks"] >= share))
        for event, share in EVENTS.items()
    }  # a collapsed model has lost its tasks too
    return Course(fold, np.array([edit["edit"] for edit in measured]), known, events)


def alarming(edit: Record, baseline: Record, name: str) -> float:
    """A signal after an edit, the higher the more alarming; NaN if it was not measured.

    A perplexity is the logarithm of its ratio to the unedited model's, the tasks the lost share of
    their mean score, the entropy its lost share, an overlap what is missing to 1, and the
    denominator its negative logarithm.
    """
    found = edit.get(name)
    if found is None:
        return math.nan
    if name == "tasks":
        before = [value for key, value in baseline.items() if key.startswith("tasks/")]
        return 1 - fmean(found.values()) / fmean(before)
    if name == "perplexity":  # its logarithm does not overflow
        return edit["log_perplexity"] - baseline["log_perplexity"]
    if name == "perplexity_pooled":
        return math.log(found / baseline[name])
    if name == "denominator":
        return -math.log(found) if found > 0 else math.inf
    if name == "text_entropy":
        return 1 - found / baseline[name]
    return 1 - found if name in FALLING else found


def first(holds: np.ndarray) -> int | None:
    """Index of the first true entry; None without one."""
    return int(holds.argmax()) if holds.any() else None


def limit_of(healthy: Sequence[Course], name: str) -> float:
    """The lowest limit that at most a share of ``RATE`` of healthy runs ever exceeds.

    An alarm stops a run or undoes an edit, so a false alarm is counted by the run.
    """
    highest = [course.signals[name].max() for course in healthy]
    return float(np.quantile(highest, 1 - RATE, method="higher")) if highest else math.inf


def lead(course: Course, event: str, name: str, limit: float) -> int:
    """Edits from a signal's first alarm to an event; 0 without an alarm before it."""
    at = course.events[event]
    alarm = first(course.signals[name] > limit)
    warned = at is not None and alarm is not None and alarm < at
    return int(course.numbers[at] - course.numbers[alarm]) if warned else 0


def foretold(course: Course, event: str) -> tuple[np.ndarray, np.ndarray]:
    """Edits before an event, and whether it occurs within the next ``AHEAD`` edits.

    Of a run without it, edits whose next ones are not known are left out.

    Returns:
        Indices ``(m,)`` and truth values ``(m,)``.
    """
    at = course.events[event]
    numbers = course.numbers[:at]
    end = course.numbers[-1 if at is None else at]
    near = end - numbers <= AHEAD
    return (np.flatnonzero(~near), near[~near]) if at is None else (np.arange(at), near)


def verdict(courses: Sequence[Course], event: str, name: str) -> Verdict | None:
    """How a signal foretells an event; None if no run has it, or all have.

    A run's limit is chosen on the healthy runs of other folds.

    Args:
        courses: runs; those in which the signal was measured count.
        event: one of ``EVENTS``.
        name: one of ``SIGNALS``.
    """
    own = [course for course in courses if name in course.signals and len(course.numbers)]
    struck = [course for course in own if course.events[event]]  # at its first edit: index 0
    healthy = [course for course in own if course.events[event] is None]
    if not struck or not healthy:
        return None
    leads, rivals = (
        np.array([lead(c, event, which, held_out(healthy, which, c.fold)) for c in struck])
        for which in (name, "perplexity")
    )
    alarms = [c.signals[name] > held_out(healthy, name, c.fold) for c in healthy]
    warned = int((leads > 0).sum())
    shares = binomtest(warned, len(struck)).proportion_ci(method="wilson")
    return Verdict(
        runs=len(struck),
        warned=Estimate(warned / len(struck), float(shares.low), float(shares.high)),
        lead=mean_of(leads),
        gain=mean_of(leads - rivals),
        healthy=len(healthy),
        false_runs=fmean(float(alarm.any()) for alarm in alarms),
        false_edits=float(np.concatenate(alarms).mean()),
        auroc=auroc(struck, healthy, event, name),
        limit=limit_of(healthy, name),
    )


def held_out(healthy: Sequence[Course], name: str, fold: str) -> float:
    """A signal's limit for the runs of a fold."""
    return limit_of([course for course in healthy if course.fold != fold], name)


def mean_of(sample: np.ndarray) -> Estimate:
    """A mean over runs, with its bootstrap interval."""
    value = float(sample.mean())
    if len(sample) < FEWEST or np.ptp(sample) == 0:
        return Estimate(value)
    source = np.random.default_rng(0)
    found = bootstrap((sample,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=source)
    low, high = found.confidence_interval
    return Estimate(value, float(low), float(high))


def auroc(struck: Sequence[Course], healthy: Sequence[Course], event: str, name: str) -> Estimate:
    """Area under the ROC curve over edits; its interval resamples whole runs of either kind."""
    runs = [*struck, *healthy]
    parts = [foretold(course, event) for course in runs]
    truth = [near for _, near in parts]
    scores = [c.signals[name][at] for c, (at, _) in zip(runs, parts, strict=True)]

    def area(*chosen: np.ndarray) -> float:
        picked = np.concatenate(chosen)
        labels = np.concatenate([truth[n] for n in picked])
        ranks = np.concatenate([scores[n] for n in picked]).clip(-1e300, 1e300)
        return float(roc_auc_score(labels, ranks)) if 0 < labels.mean() < 1 else math.nan

    groups = np.arange(len(struck)), np.arange(len(struck), len(runs))
    value = area(*groups)
    if math.isnan(value) or min(map(len, groups)) < FEWEST:
        return Estimate(value)
    source = np.random.default_rng(0)
    found = bootstrap(
        groups, area, n_resamples=RESAMPLES, vectorized=False, method="percentile", rng=source
    )
    low, high = found.confidence_interval
    return Estimate(value, float(low), float(high))
