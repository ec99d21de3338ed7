import json
import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from callbacks.studies.calibration import FOLDS, RiskCalibration, fitted, foretold, sample_of
from callbacks.studies.risk import RiskTable
from callbacks.watching.restore import RestoreWeights
from lightning_modules.editing.collapse_risk import Calibration, Feature, features_of
from lightning_modules.methods.fine_tuning import FineTuning
from lightning_modules.methods.rome import ROME, ConsistentROME
from tests.callbacks.runs import METHOD, REQUESTS, data_of, fit, trainer_in, watching

MANY = [
    request._replace(case_id=n, subject=f"{'The ' * (n % 2)}{request.subject}")
    for n, request in enumerate(REQUESTS * 3)
]
DRAWS = np.random.default_rng(0)


def journal(edits=200):
    """A sweep in which small denominators destroy the model, now and then."""
    relative = np.exp(DRAWS.normal(-2, 2, edits)).clip(1e-6, 1)
    luck = DRAWS.normal(size=edits)
    return [
        {
            "status": "applied",
            "denominator": 5 * cosine,
            "denominator_relative": cosine,
            "key_cosine": 0.5 + 0.1 * noise,
            "subject_position": n % 3,
            "perplexity": math.inf if math.log(cosine) + noise < -5 else 30.0,
        }
        for n, (cosine, noise) in enumerate(zip(relative, luck, strict=True))
    ]


@pytest.fixture(scope="module")
def sweep(lm, tmp_path_factory):
    """Twelve single edits of which six lift perplexity, of 368, above 380."""
    callbacks = [*watching(threshold=380.0), RestoreWeights(), RiskCalibration(harm=1.02)]
    return fit(lm, tmp_path_factory.mktemp("sweep"), callbacks, MANY)


class TestFit:
    edits = journal()
    sample = sample_of(edits, 1000.0)

    def calibration(self):
        content = fitted(self.sample)
        features = {name: Feature(**f) for name, f in content["features"].items()}
        return Calibration(features, content["intercept"])

    def test_what_was_written_gives_the_probabilities_of_the_regression(self):
        calibration = self.calibration()
        features = self.sample.features
        scaled = (features - features.mean(0)) / features.std(0)
        regression = LogisticRegression(C=9).fit(scaled, self.sample.destroyed)
        wanted = regression.predict_proba(scaled)[:, 1]
        assert [calibration.probability(edit) for edit in self.edits] == pytest.approx(wanted)

    def test_probabilities_are_as_high_on_the_average_as_collapses_are_frequent(self):
        calibration = self.calibration()
        mean = np.mean([calibration.probability(edit) for edit in self.edits])
        assert mean == pytest.approx(self.sample.destroyed.mean(), rel=1e-3)

    def test_no_edit_is_judged_by_a_model_that_has_seen_it(self):
        features, destroyed = self.sample.features, self.sample.destroyed
        found = foretold(self.sample)["collapse_probability"]
        for seen, unseen in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(
            features, destroyed
        ):
            mean, deviation = features[seen].mean(0), features[seen].std(0)
            regression = LogisticRegression(C=9).fit(
                (features[seen] - mean) / deviation, destroyed[seen]
            )
            wanted = regression.predict_proba((features[unseen] - mean) / deviation)[:, 1]
            assert found[unseen] == pytest.approx(wanted)

    def test_only_edits_that_were_made_and_watched_count(self):
        edit = self.edits[0]
        others = [edit | {"status": "failed"}, {k: edit[k] for k in edit if k != "perplexity"}]
        assert len(sample_of([*others, edit], 1000.0).destroyed) == 1

    def test_a_journal_without_denominators_has_the_other_features(self):
        edits = [{k: e[k] for k in e if not k.startswith("denominator")} for e in self.edits]
        sample = sample_of(edits, 1000.0)
        assert sample.names == ["key_cosine", "first_position"]
        assert list(sample.known) == ["key_cosine"]


class TestRun:
    def test_a_sweep_leaves_a_calibration_and_a_picture(self, sweep):
        content = json.loads((sweep.folder / "risk_calibration.json").read_text())
        assert (content["method"], content["layers"]) == ("ROME", [0])
        assert content["fingerprint"] == sweep.editor.fingerprint
        assert content["second_moment"] == "identity"
        assert (content["collapse"]["edits"], content["collapse"]["destroyed"]) == (12, 6)
        assert content["harm"]["perplexity_above"] < content["collapse"]["perplexity_above"]
        assert sweep.column("collapsed").count(True) == 6
        assert (sweep.folder / "risk.png").read_bytes().startswith(b"\x89PNG")

    def test_the_same_figures_are_found_again_from_the_journal(self, sweep):
        content = json.loads((sweep.folder / "risk_calibration.json").read_text())
        limit = content["collapse"]["perplexity_above"]
        again = fitted(sample_of(sweep.edits, limit))
        assert again == {name: content[name] for name in again}

    def test_predict_tells_the_probability_and_begins_with_the_highest(self, sweep, lm, tmp_path):
        file = sweep.folder / "risk_calibration.json"
        editor = ROME(lm=lm, calibration=str(file), **METHOD)
        trainer_in(tmp_path, [RiskTable()]).predict(editor, data_of(MANY))
        rows = [json.loads(line) for line in (tmp_path / "risk.jsonl").read_text().splitlines()]
        told = [row["collapse_probability"] for row in rows]
        assert told == sorted(told, reverse=True)
        assert all(0 < probability < 1 for probability in told)
        (edit,) = (edit for edit in sweep.edits if edit["case_id"] == rows[0]["case_id"])
        assert editor.risk.calibration.probability(edit) == pytest.approx(told[0], rel=1e-3)

    def test_another_method_is_refused(self, sweep, lm, tmp_path):
        file = sweep.folder / "risk_calibration.json"
        editor = ConsistentROME(lm=lm, calibration=str(file), **METHOD)
        with pytest.raises(ValueError, match="method ROME, but this run has ConsistentROME"):
            trainer_in(tmp_path, [RiskTable()]).predict(editor, data_of())

    def test_too_few_collapses_leave_nothing_but_a_sentence(self, lm, tmp_path):
        callbacks = [*watching(), RestoreWeights(), RiskCalibration()]
        with pytest.warns(UserWarning, match="of 4 edits 0 lifted perplexity above 1000"):
            fit(lm, tmp_path, callbacks)
        assert not (tmp_path / "risk_calibration.json").exists()
        assert not (tmp_path / "risk.png").exists()


class TestMistakes:
    def test_a_sequential_run_is_refused(self, lm, tmp_path):
        with pytest.raises(ValueError, match=r"add callbacks\.watching\.restore\.RestoreWeights"):
            fit(lm, tmp_path, [*watching(), RiskCalibration()])

    def test_a_run_without_watching_is_refused(self, lm, tmp_path):
        callbacks = [*watching(), RestoreWeights(), RiskCalibration()]
        with pytest.raises(ValueError, match="needs the perplexity after every edit"):
            fit(lm, tmp_path, callbacks, val_check_interval=2)

    def test_a_method_without_keys_is_refused_at_its_first_edit(self, lm, tmp_path):
        callbacks = [*watching(), RestoreWeights(together=1), RiskCalibration()]
        with pytest.raises(ValueError, match="FineTuning has no keys to estimate the risk"):
            trainer_in(tmp_path, callbacks).fit(FineTuning(lm=lm, layers=[0]), data_of())

    def test_a_harm_that_no_edit_could_do_is_refused(self):
        with pytest.raises(ValueError, match=r"harm must be above 1, got 0\.5"):
            RiskCalibration(harm=0.5)

    def test_an_edit_tells_features_or_nothing(self):
        assert features_of({"status": "applied", "update_norm": 3.0}) == {}
