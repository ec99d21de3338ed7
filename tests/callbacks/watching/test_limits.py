import math

import pytest

from callbacks.watching.limits import Limits
from callbacks.watching.signals import FALLING, SIGNALS


def limits(**signals):
    return Limits(None, None, 0.0, 1.0, 1.0, signals)


@pytest.mark.parametrize("name", SIGNALS)
def test_an_edit_is_refused_beyond_the_limit_of_a_signal_and_not_at_it(name):
    falls = name in FALLING
    worse = 0.4 if falls else 0.6
    given = limits(**{name: 0.5})
    assert given.alarm({name: 0.5}) == given.alarm({name: 1 - worse}) == ""
    assert given.alarm({name: worse}) == f"{name} {worse} {'<' if falls else '>'} 0.5"
    assert given.alarm({name: math.nan}).startswith(name)


def test_a_signal_that_was_not_measured_refuses_nothing():
    assert limits(state_drift=0.5).alarm({}) == ""


def test_perplexity_is_judged_before_the_signals():
    given = limits(state_drift=0.5)
    record = {"perplexity": 600.0, "state_drift": 0.9}
    assert given.harm(record, 100.0, []) == "perplexity 600 > 500"
    assert given.harm(record | {"perplexity": 100.0}, 100.0, []) == "state_drift 0.9 > 0.5"


@pytest.mark.parametrize(
    ("signals", "told"),
    [
        ({"fever": 1.0}, r"signals must be among norm_growth, .*text_entropy, got 'fever'"),
        ({"state_drift": 0.0}, "the limit of signal state_drift must be positive, got 0.0"),
        ({"state_drift": math.nan}, "the limit of signal state_drift must be positive, got nan"),
        ({"overlap_input": 1.0}, "overlap_input must be between 0 and 1, got 1.0"),
    ],
)
def test_a_limit_that_no_edit_could_meet_is_refused(signals, told):
    with pytest.raises(ValueError, match=told):
        limits(**signals).check()
