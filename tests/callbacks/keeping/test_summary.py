import pytest

from callbacks.keeping.means import harmonic_score, mean_intervals
from callbacks.keeping.summary import summarize, verdict
from callbacks.watching.restore import RestoreWeights
from tests.callbacks.runs import Poison, fit, watching


def test_a_run_that_collapses_without_a_baseline_ends_with_its_verdict(lm, tmp_path):
    run = fit(lm, tmp_path, [*watching(), Poison({1}, 50.0)], num_sanity_val_steps=0)
    assert run.summary["collapsed_at"] == 1
    assert verdict(run.summary).startswith("collapsed at edit 1: perplexity ")
    assert "unedited" not in verdict(run.summary)


def test_means_of_scores_have_intervals_and_other_figures_have_none(sequential):
    found = sequential.summary["intervals"]
    expected = mean_intervals(
        [{k: v for k, v in e.items() if k == "efficacy_magnitude"} for e in sequential.edits]
    )
    assert found["efficacy_magnitude"] == pytest.approx(expected["efficacy_magnitude"])
    low, high = found["efficacy_magnitude"]
    assert low < sequential.summary["means"]["efficacy_magnitude"] < high
    assert not {"seconds_edit", "update_norm", "perplexity"} & found.keys()
    assert summarize(sequential.edits[:1], {})["intervals"] == {}


def test_verdict_of_a_model_that_survives(sequential):
    highest, before = max(sequential.column("perplexity")), sequential.editor.baseline["perplexity"]
    assert verdict(sequential.summary) == (
        f"4 edits, no collapse: perplexity at most {highest:.4g} (unedited {before:.4g})"
    )


def test_verdict_of_a_sweep_counts_the_further_collapses(lm, tmp_path):
    poisoned = [RestoreWeights(1), *watching(), Poison({2, 3, 4}, 50.0)]
    run = fit(lm, tmp_path, poisoned)
    assert verdict(run.summary).startswith("collapsed at edit 2 and 2 more times: perplexity ")
    assert " > 1000 (unedited " in verdict(run.summary)


def test_verdict_of_a_run_that_watched_nothing():
    edits = [{"edit": 1, "status": "applied"}, {"edit": 2, "status": "failed"}]
    assert verdict(summarize(edits, {})) == "1 edits, no collapse"


def test_score_is_that_of_the_means_of_the_run(sequential):
    summary = sequential.summary
    assert summary["score"] == pytest.approx(harmonic_score(summary["means"]))
    assert summary["score_before"] == pytest.approx(harmonic_score(summary["means"], "_before"))
    alone = [{k: v for k, v in e.items() if k != "paraphrase"} for e in sequential.edits]
    assert summarize(alone, {})["score"] is None
