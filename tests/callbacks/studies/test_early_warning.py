import math

import numpy as np
import pytest

from callbacks.studies.early_warning import (
    AHEAD,
    Course,
    alarming,
    auroc,
    course_of,
    foretold,
    lead,
    limit_of,
    mean_of,
    verdict,
)

BASELINE = {
    "perplexity": 100.0,
    "log_perplexity": math.log(100),
    "perplexity_pooled": 80.0,
    "text_entropy": 4.0,
    "tasks/lambada": 0.9,
    "tasks/piqa": 0.7,
}


def record(edit, perplexity=100.0, lambada=0.9, **figures):
    return {
        "edit": edit,
        "perplexity": perplexity,
        "log_perplexity": math.log(perplexity),
        "collapsed": perplexity > 500,
        "tasks": {"lambada": lambada, "piqa": 0.7},
        "state_drift": 0.1 * edit,
        **figures,
    }


def course(values, at=None, fold="0", name="state_drift"):
    numbers = np.arange(1, len(values) + 1)
    found = np.array(values, dtype=float)
    return Course(
        fold, numbers, {name: found, "perplexity": np.zeros(len(found))}, {"perplexity": at}
    )


def test_each_event_is_the_first_edit_that_meets_it():
    edits = [record(1), record(2, lambada=0.88), record(3, lambada=0.7), record(4, perplexity=900)]
    assert course_of(edits, BASELINE, "a").events == {"tasks_1": 1, "tasks_10": 2, "perplexity": 3}


def test_a_collapsed_model_has_lost_its_tasks():
    found = course_of([record(1, perplexity=900)], BASELINE, "a")
    assert set(found.events.values()) == {0}


def test_an_edit_that_was_not_measured_is_left_out():
    bare = {"edit": 2, "perplexity": 100.0}
    assert course_of([record(1), bare, record(3)], BASELINE, "a").numbers.tolist() == [1, 3]


def test_a_signal_is_high_if_it_alarms_and_0_for_the_unedited_model():
    still = {name: BASELINE[name] for name in ("perplexity_pooled", "text_entropy")}
    still = record(1, **still, overlap_input=1.0)
    for name in ("perplexity", "perplexity_pooled", "text_entropy", "overlap_input", "tasks"):
        assert alarming(still, BASELINE, name) == pytest.approx(0)
    worse = record(1, 200.0, 0.45, perplexity_pooled=160.0, text_entropy=3.0, overlap_input=0.7)
    figures = {
        "perplexity": math.log(2),
        "perplexity_pooled": math.log(2),
        "text_entropy": 0.25,
        "overlap_input": 0.3,
        "tasks": 1 - 1.15 / 1.6,
    }
    for name, value in figures.items():
        assert alarming(worse, BASELINE, name) == pytest.approx(value)
    assert alarming({"denominator": 0.1}, BASELINE, "denominator") > alarming(
        {"denominator": 2.0}, BASELINE, "denominator"
    )
    assert math.isnan(alarming({}, BASELINE, "denominator"))


def test_at_most_one_healthy_run_in_twenty_exceeds_the_limit():
    for runs in (3, 19, 20, 40, 41):
        healthy = [course([0.0, n, 1.0]) for n in range(runs)]
        limit = limit_of(healthy, "state_drift")
        alarms = [run.signals["state_drift"].max() > limit for run in healthy]
        assert sum(alarms) == runs // 20 - (runs % 20 == 0)
    assert limit_of([], "state_drift") == math.inf


def test_the_lead_is_counted_from_the_first_alarm_before_the_event():
    run = course([0, 3, 0, 5, 9], at=4)
    assert lead(run, "perplexity", "state_drift", 2) == 3
    assert lead(run, "perplexity", "state_drift", 4) == 1
    assert lead(run, "perplexity", "state_drift", 6) == 0
    assert lead(run, "perplexity", "state_drift", 99) == 0
    sparse = run._replace(numbers=np.array([5, 10, 15, 20, 25]))
    assert lead(sparse, "perplexity", "state_drift", 2) == 15


def test_what_is_foretold_is_what_a_loop_over_the_edits_says():
    for at, length in ((None, 12), (9, 12), (2, 12), (11, 12), (None, 3)):
        run = course(range(length), at=at)
        wanted = []
        for n in range(length if at is None else at):
            if at is not None:
                wanted.append((n, at - n <= AHEAD))
            elif n + AHEAD < length - 1:
                wanted.append((n, False))
        where, near = foretold(run, "perplexity")
        assert list(zip(where.tolist(), near.tolist(), strict=True)) == wanted


def test_a_signal_that_ranks_all_edits_rightly_has_area_1_and_a_constant_one_a_half():
    struck = [course([*[0.0] * 6, *range(1, 7)], at=11) for _ in range(5)]
    healthy = [course([0.0] * 12) for _ in range(5)]
    assert auroc(struck, healthy, "perplexity", "state_drift") == (1.0, 1.0, 1.0)
    assert auroc(struck, healthy, "perplexity", "perplexity").value == 0.5


def test_an_infinite_signal_ranks_above_all_others():
    struck = [course([0.0] * 6 + [math.inf] * 6, at=11)]
    found = auroc(struck, [course([5.0] * 12)], "perplexity", "state_drift")
    assert found.value > 0.9
    assert math.isnan(found.low)


def test_a_signal_that_rises_before_the_event_and_never_else_gets_a_perfect_verdict():
    struck = [course([0, 0, 9, 9, 9], at=4, fold=f"{n % 2}") for n in range(6)]
    healthy = [course([0, 1, 0, 1, 0], fold=f"{n % 2}") for n in range(6)]
    found = verdict([*struck, *healthy], "perplexity", "state_drift")
    assert (found.runs, found.healthy) == (6, 6)
    assert found.warned.value == 1
    assert found.lead.value == found.gain.value == 2
    assert (found.false_runs, found.false_edits, found.limit) == (0, 0, 1)


def test_a_run_is_judged_by_limits_of_other_folds():
    struck = [course([0, 5, 9], at=2, fold="a")]
    healthy = [course([7, 0, 0], fold="a"), course([3, 3, 0], fold="b")]
    found = verdict([*struck, *healthy], "perplexity", "state_drift")
    assert found.lead.value == 1  # above 3, though not above 7
    assert found.false_runs == 0.5  # 7 is above 3
    assert found.false_edits == pytest.approx(1 / 6)
    assert found.limit == 7


def test_without_runs_of_both_kinds_there_is_no_verdict():
    assert verdict([course([1, 2])], "perplexity", "state_drift") is None
    assert verdict([course([1, 2], at=1)], "perplexity", "state_drift") is None
    first_edit = [course([9], at=0), course([1])]
    assert verdict(first_edit, "perplexity", "state_drift") is None


def test_the_interval_of_a_mean_contains_it():
    found = mean_of(np.array([0.0, 1.0, 5.0, 9.0, 2.0, 3.0]))
    assert found.value == pytest.approx(20 / 6)
    assert found.low < found.value < found.high
    assert math.isnan(mean_of(np.array([1.0, 2.0])).low)
