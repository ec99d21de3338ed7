import math

import numpy as np
import pytest
from scipy.stats import chi2

from docs.leaderboard.results import Course
from docs.leaderboard.survival import Horizon, curve, difference, horizon, median

MIXED = Horizon(died=[3, 5, 5, 9], alive=[4, 10, 10])


def slow_curve(found):
    """Product over the times of death of the share of those at risk who survive; Greenwood."""
    every, alive, greenwood, told = sorted(found.died + found.alive), 1.0, 0.0, {}
    for at in sorted(set(every)):
        risk, dead = sum(t >= at for t in every), found.died.count(at)
        alive *= 1 - dead / risk
        greenwood += dead / (risk * (risk - dead)) if risk > dead else math.inf
        told[at] = alive, greenwood
    return told


def course(seed=0, edits=4, collapsed=None, tasks=(), length=None, baseline=0.5):
    journal = [
        {
            "edit": n,
            "collapsed": n == collapsed,
            "status": "applied",
            **({"tasks": {"a": tasks[n - 1]}} if n <= len(tasks) else {}),
        }
        for n in range(1, (collapsed or edits) + 1)
    ]
    return Course(seed, length, journal, [], {"tasks/a": baseline} if baseline else {}, None, {})


def test_the_curve_is_kaplans_and_meiers_with_a_log_log_interval():
    told, slow = curve(MIXED), slow_curve(MIXED)
    assert dict(zip(told.edits, told.alive, strict=True)) == pytest.approx(
        {at: alive for at, (alive, _) in slow.items()}
    )
    for at, low, high in zip(told.edits, told.low, told.high, strict=True):
        alive, greenwood = slow[at]
        if 0 < alive < 1:
            wide = 1.959964 * math.sqrt(greenwood) / math.log(alive)
            assert low == pytest.approx(alive ** math.exp(-wide), abs=1e-5)
            assert high == pytest.approx(alive ** math.exp(wide), abs=1e-5)


def test_the_median_is_where_half_are_gone_and_its_interval_inverts_the_curves():
    found, told = median(MIXED), curve(MIXED)
    assert found.edits == 9
    assert found.low == told.edits[np.flatnonzero(told.low <= 0.5)[0]]
    assert (found.high, found.followed, str(found)) == (math.inf, 10, f"9 [{found.low:g}, -]")


def test_a_median_that_was_not_reached_is_more_than_was_followed():
    assert str(median(Horizon([], [50, 50]))) == "> 50"
    assert str(median(Horizon([20], [50, 50]))) == "> 50"


def test_a_single_run_gives_no_interval():
    assert str(median(Horizon([2], []))) == "2 (n = 1)"
    assert str(median(Horizon([2, 2], []))) == "2 [2, -]"
    assert str(median(Horizon([], [2]))) == "> 2"


def test_runs_that_ended_alive_are_censored():
    runs = [course(collapsed=3), course(edits=7), course(edits=5, length=5)]
    assert horizon(runs, "perplexity") == Horizon([3], [7])


def test_tasks_are_lost_at_the_first_evaluation_below_their_share():
    runs = [course(tasks=(0.5, 0.494, 0.4)), course(tasks=(0.5, 0.5)), course(baseline=None)]
    assert horizon(runs, "tasks_1") == Horizon([2], [4])
    assert horizon(runs, "tasks_10") == Horizon([3], [4])


def test_a_collapse_loses_the_tasks_too():
    assert horizon([course(collapsed=2, tasks=(0.5,))], "tasks_10") == Horizon([2], [])


def test_the_difference_is_the_log_rank_test():
    one, other = MIXED, Horizon([2, 3, 4], [9])
    observed = expected = variance = 0.0
    for at in sorted({*one.died, *other.died}):
        risks = [sum(t >= at for t in h.died + h.alive) for h in (one, other)]
        dead = one.died.count(at) + other.died.count(at)
        total = sum(risks)
        observed += one.died.count(at)
        expected += dead * risks[0] / total
        if total > 1:
            share = risks[0] / total
            variance += dead * share * (1 - share) * (total - dead) / (total - 1)
    slow = chi2.sf((observed - expected) ** 2 / variance, 1)
    assert difference(one, other) == pytest.approx(slow)


def test_without_any_death_nothing_is_tested():
    assert difference(Horizon([], [5]), Horizon([], [5, 6])) is None
    assert difference(Horizon([], []), MIXED) is None


def test_single_runs_are_not_tested():
    assert difference(Horizon([5], []), Horizon([], [6])) is None
    assert difference(Horizon([5], []), MIXED) is not None
