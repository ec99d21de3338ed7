import math

import numpy as np
import pytest

from callbacks.keeping.means import RESAMPLES, harmonic_score, mean_intervals


def test_interval_is_that_of_means_of_edits_drawn_again():
    column = np.random.default_rng(1).uniform(size=40)
    (found,) = mean_intervals([{"efficacy": value} for value in column]).values()
    draw = np.random.default_rng(7)
    means = [draw.choice(column, 40).mean() for _ in range(20_000)]
    assert found == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.01)
    assert found[0] < column.mean() < found[1]


def test_the_same_edits_give_the_same_interval():
    judged = [{"efficacy": float(n % 3 == 0)} for n in range(20)]
    assert mean_intervals(judged) == mean_intervals(judged)
    assert RESAMPLES >= 1000


def test_only_figures_that_two_edits_have_and_that_vary_have_one():
    judged = [
        {"varied": 0.0, "same": 0.5, "lonely": 1.0, "infinite": 1.0},
        {"varied": 1.0, "same": 0.5, "infinite": math.inf},
    ]
    assert mean_intervals(judged) == {"varied": [0.0, 1.0]}
    assert mean_intervals(judged[:1]) == mean_intervals([]) == {}


def test_score_is_the_harmonic_mean_of_three_means():
    means = {"efficacy": 1.0, "paraphrase": 0.5, "neighborhood": 0.25, "perplexity": 9.0}
    assert harmonic_score(means) == pytest.approx(3 / (1 + 2 + 4))
    assert harmonic_score(means | {"paraphrase": 0.0}) == 0
    assert harmonic_score(means, "_before") is None
    assert harmonic_score({f"{n}_before": v for n, v in means.items()}, "_before") == (
        harmonic_score(means)
    )
