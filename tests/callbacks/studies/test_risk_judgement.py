import numpy as np
import pytest

from callbacks.studies.risk_judgement import PROBABILITIES, auroc, cuts, judged, threshold_row

DRAWS = np.random.default_rng(3)
DESTROYED = np.arange(60) % 6 == 0
RISK = np.round(DRAWS.normal(size=60) + 1.5 * DESTROYED, 1)  # some are tied
PROBABILITY = 1 / (1 + np.exp(2 - RISK))


def test_auroc_is_how_often_a_destructive_edit_has_the_higher_risk():
    pairs = [(a, b) for a in RISK[DESTROYED] for b in RISK[~DESTROYED]]
    wins = sum((a > b) + 0.5 * (a == b) for a, b in pairs)
    found = auroc(DESTROYED, RISK)
    assert found["value"] == pytest.approx(wins / len(pairs))
    assert 0 < found["low"] < found["value"] < found["high"] < 1


def test_interval_is_that_of_a_naive_bootstrap():
    found = auroc(DESTROYED, RISK)
    areas = []
    for _ in range(2000):
        a = DRAWS.choice(RISK[DESTROYED], DESTROYED.sum())
        b = DRAWS.choice(RISK[~DESTROYED], (~DESTROYED).sum())
        areas.append(np.mean((a[:, None] > b) + 0.5 * (a[:, None] == b)))
    naive = np.quantile(areas, [0.025, 0.975])
    assert [found["low"], found["high"]] == pytest.approx(naive, abs=0.04)
    assert auroc(DESTROYED, RISK) == found


def test_a_risk_that_separates_both_kinds_is_perfect():
    assert auroc(DESTROYED, DESTROYED + 0.0) == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert auroc(DESTROYED, -1.0 * DESTROYED)["value"] == 0


@pytest.mark.parametrize("cut", [-1.0, 0.5, 2.0])
def test_a_threshold_is_counted_edit_by_edit(cut):
    row = threshold_row(DESTROYED, RISK, cut)
    flagged = [wrecked for risk, wrecked in zip(RISK, DESTROYED, strict=True) if risk >= cut]
    assert (row["flagged"], row["caught"]) == (len(flagged), sum(flagged))
    assert row["false_alarms"] == len(flagged) - sum(flagged)
    assert row["recall"] == pytest.approx(sum(flagged) / 10)
    assert row["precision"] == pytest.approx(sum(flagged) / len(flagged))


def test_a_threshold_that_flags_nothing_has_no_precision():
    row = threshold_row(DESTROYED, RISK, 1e9)
    assert row["flagged"] == row["recall"] == 0
    assert "precision" not in row


def test_cuts_catch_half_and_more_and_all():
    rows = [threshold_row(DESTROYED, RISK, cut) for cut in cuts(DESTROYED, RISK)]
    assert [row["caught"] for row in rows][-1] == 10
    assert rows[0]["caught"] >= 5
    later = threshold_row(DESTROYED, RISK, np.nextafter(cuts(DESTROYED, RISK)[0], np.inf))
    assert later["caught"] < 5
    assert len(set(cuts(DESTROYED, RISK))) == len(rows)


def test_judgement_holds_brier_scores_and_a_table_for_each_risk():
    found = judged(DESTROYED, {"collapse_probability": PROBABILITY, "denominator": RISK})
    share = 1 / 6
    assert found["brier"] == pytest.approx(np.mean((PROBABILITY - DESTROYED) ** 2))
    assert found["brier_of_the_share"] == pytest.approx(share * (1 - share))
    assert (found["edits"], found["destroyed"]) == (60, 10)
    assert found["auroc"]["denominator"] == found["auroc"]["collapse_probability"]
    tables = found["thresholds"]
    fixed = [row["threshold"] for row in tables["collapse_probability"][: len(PROBABILITIES)]]
    assert fixed == list(PROBABILITIES)
    assert len(tables["collapse_probability"]) == len(PROBABILITIES) + len(tables["denominator"])
