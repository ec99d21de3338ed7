import math

import pytest

from callbacks.keeping.checkpoint import EditCheckpoint
from callbacks.watching.collapse import CollapseStopping
from callbacks.watching.restore import RestoreWeights
from tests.callbacks.runs import REQUESTS, Poison, fit, watching


def test_a_sequential_run_stops_at_the_edit_that_collapses_the_model(lm, tmp_path):
    run = fit(lm, tmp_path, [*watching(), Poison({2}, 50.0)])
    assert run.column("collapsed") == [False, True]
    assert run.edits[1]["perplexity"] > 1000 > run.edits[0]["perplexity"]
    assert run.trainer.global_step == 2


@pytest.mark.parametrize("factor", [math.nan, 1e4])
def test_a_perplexity_that_is_not_finite_is_a_collapse_below_any_threshold(lm, tmp_path, factor):
    run = fit(lm, tmp_path, [*watching(threshold=math.inf), Poison({1}, factor)])
    assert run.column("collapsed") == [True]
    assert not math.isfinite(run.edits[0]["perplexity"])


def test_a_relative_limit_is_a_multiple_of_the_baseline(lm, tmp_path):
    run = fit(lm, tmp_path, [*watching(relative=1.2), Poison({3}, 2.5)])
    limit = 1.2 * run.editor.baseline["perplexity"]
    assert run.editor.baseline["collapse_limit"] == pytest.approx(limit)
    assert run.column("collapsed") == [False, False, True]
    assert limit < run.edits[-1]["perplexity"] < 1000


def test_a_run_whose_model_survives_makes_every_edit(sequential):
    assert sequential.column("collapsed") == [False] * 4


def test_single_edits_go_on_after_a_collapse(lm, tmp_path):
    run = fit(lm, tmp_path, [RestoreWeights(1), *watching(), Poison({1, 3}, 50.0)])
    assert run.column("collapsed") == [True, False, True, False]


def test_a_run_that_is_not_to_stop_goes_on_and_tells_its_first_collapse(lm, tmp_path):
    run = fit(lm, tmp_path, [*watching(stop=False), Poison({2, 3}, 50.0)])
    assert run.column("collapsed") == [False, True, True, False]
    assert run.summary["collapsed_at"] == 2


def test_collapse_is_judged_without_a_baseline_too(lm, tmp_path):
    run = fit(lm, tmp_path, [*watching(), Poison({1}, 50.0)], num_sanity_val_steps=0)
    assert run.column("collapsed") == [True]


def test_nothing_is_judged_where_nothing_is_watched(lm, tmp_path):
    run = fit(lm, tmp_path, [*watching(), Poison({1}, math.nan)], limit_val_batches=0)
    assert run.column("collapsed") == [None] * 4


def test_a_threshold_below_the_unedited_model_is_pointed_out(lm, tmp_path):
    with pytest.warns(
        UserWarning, match=r"unedited model's perplexity .* is above the threshold 5"
    ):
        run = fit(lm, tmp_path, watching(threshold=5.0))
    assert run.column("collapsed") == [True]


@pytest.mark.parametrize(("threshold", "relative"), [(0.0, None), (-1.0, None), (10.0, 1.0)])
def test_limits_that_no_model_could_meet_are_refused(threshold, relative):
    with pytest.raises(ValueError, match="threshold must be positive and relative above 1, got"):
        CollapseStopping(threshold, relative)


def test_the_lower_limit_counts():
    guard = CollapseStopping(threshold=1000.0, relative=10.0)
    assert guard.limit(50.0) == 500.0
    assert guard.limit(500.0) == 1000.0
    assert CollapseStopping(threshold=1000.0).limit(1e6) == 1000.0


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_collapsed_run_is_resumed_only_under_a_higher_limit(lm, tmp_path):
    callbacks = [*watching(), Poison({2}, 50.0), EditCheckpoint()]
    fit(lm, tmp_path / "first", callbacks, enable_checkpointing=True)
    saved = tmp_path / "first" / "checkpoints" / "last.ckpt"
    with pytest.raises(ValueError, match=r"the model collapsed at edit 2, .* raise --collapse"):
        fit(lm, tmp_path / "second", watching(), resume=saved)
    for name, options in (("third", {"threshold": 1e300}), ("fourth", {"stop": False})):
        run = fit(lm, tmp_path / name, watching(**options), resume=saved)
        assert run.column("edit") == [3, 4]


def test_the_default_limit_is_a_multiple_of_the_unedited_perplexity(lm, tmp_path):
    assert CollapseStopping().limit(193.7) == pytest.approx(5 * 193.7)
    assert CollapseStopping(threshold=1000.0).limit(18.0) == 1000.0
    assert CollapseStopping(relative=2.0).limit(18.0) == 36.0
    healthy = fit(lm, tmp_path, watching(threshold=None), REQUESTS[:1])
    baseline = healthy.summary["baseline"]
    assert baseline["collapse_limit"] == pytest.approx(5 * baseline["perplexity"])
    assert healthy.summary["collapsed"] == 0
