import math

import numpy as np
import pytest

from docs.leaderboard.intervals import FEWEST, mean_of, paired

ONE = {case: float(case % 3 == 0) for case in range(60)}
OTHER = {case: float(case % 2 == 0) for case in range(10, 70)}


def slow(values):
    draw = np.random.default_rng(1)
    means = [draw.choice(values, len(values)).mean() for _ in range(4000)]
    return np.percentile(means, [2.5, 97.5])


def test_a_mean_has_the_percentile_interval_of_resampled_cases():
    found = mean_of(ONE)
    assert (found.value, found.cases) == (pytest.approx(1 / 3), 60)
    assert [found.low, found.high] == pytest.approx(slow(list(ONE.values())), abs=0.03)


def test_a_difference_resamples_the_cases_that_both_have_in_pairs():
    found = paired(ONE, OTHER)
    differences = [ONE[case] - OTHER[case] for case in range(10, 60)]
    assert (found.value, found.cases) == (pytest.approx(np.mean(differences)), 50)
    assert [found.low, found.high] == pytest.approx(slow(differences), abs=0.04)
    assert not paired(ONE, ONE).certain


def test_a_difference_is_certain_if_its_interval_leaves_out_zero():
    better = {case: min(1.0, score + 0.3) for case, score in ONE.items()}
    assert paired(better, ONE).certain
    assert paired(ONE, better).certain


def test_few_cases_give_no_interval():
    few = {case: float(case % 2) for case in range(FEWEST - 1)}
    assert mean_of({}) is None
    assert math.isnan(mean_of(few).low)
    assert paired(few, few) is None
    assert paired(ONE, {}) is None
