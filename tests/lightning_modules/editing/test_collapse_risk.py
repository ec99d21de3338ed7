import json
import math

import numpy as np
import pytest
import scipy.stats

from data_modules.records import EditRequest
from lightning_modules.editing.collapse_risk import (
    Calibration,
    Feature,
    features_of,
    load_calibration,
)
from lightning_modules.language_model.loading import EMBEDDED
from lightning_modules.methods.memit import MEMIT
from lightning_modules.methods.rome import ROME, ConsistentROME, divided_by
from tests.tiny import EDITED_LAYER, tiny_tokenizer

FIGURES = {"denominator_relative": 0.01, "key_cosine": 0.2, "subject_position": 0}
CALIBRATION = Calibration(
    {
        "log_denominator_relative": Feature(-2.0, 1.5, -3.0),
        "key_cosine": Feature(0.5, 0.25, -1.0),
        "first_position": Feature(0.5, 0.5, 0.25),
    },
    -4.0,
)
REQUEST = EditRequest(1, "{} is the capital of", "Paris", "Italy", "France")
ABOUT = {"method": "ROME", "fingerprint": "abc", "layers": [1], "second_moment": "identity"}


def written(folder, **changes):
    """A calibration's file."""
    features = {name: feature._asdict() for name, feature in CALIBRATION.features.items()}
    content = {**ABOUT, "features": features, "intercept": CALIBRATION.intercept, **changes}
    file = folder / "risk_calibration.json"
    file.write_text(json.dumps(content))
    return str(file)


def test_probability_is_the_logistic_of_the_weighted_features():
    odds = -4 - 3 * (math.log(0.01) + 2) / 1.5 - (0.2 - 0.5) / 0.25 + 0.25 * (1 - 0.5) / 0.5
    wanted = 1 / (1 + math.exp(-odds))
    assert CALIBRATION.probability(FIGURES) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(("cosine", "wanted"), [(0.0, 1.0), (1e-300, 1.0), (1e9, 0.0)])
def test_probability_is_finite_whatever_the_denominator(cosine, wanted):
    found = CALIBRATION.probability(FIGURES | {"denominator_relative": cosine})
    assert found == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("missing", ["denominator_relative", "key_cosine"])
def test_what_a_record_does_not_tell_has_no_probability(missing):
    known = {name: value for name, value in FIGURES.items() if name != missing}
    assert CALIBRATION.probability(known) is None


def test_first_position_is_a_flag():
    flags = [features_of(FIGURES | {"subject_position": n})["first_position"] for n in (0, 1, 7)]
    assert flags == [1, 0, 0]


def test_features_do_not_change_with_the_scale_of_keys(tiny_gpt2):
    direction = tiny_gpt2.get_parameter("transformer.h.1.mlp.c_proj.weight")[0].double()
    key, direction = direction.flip(0), direction / direction.norm()
    one, other = divided_by(direction, key), divided_by(direction, 1000 * key)
    assert other["denominator"] == pytest.approx(1000 * one["denominator"])
    assert other["denominator_relative"] == pytest.approx(one["denominator_relative"])


class TestFile:
    def test_says_what_was_written(self, tmp_path):
        assert load_calibration(written(tmp_path), "some/model", ABOUT) == CALIBRATION

    def test_none_is_looked_for_where_none_was_named(self):
        assert load_calibration(None, "some/model", ABOUT) is None

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("method", "ConsistentROME"),
            ("fingerprint", "def"),
            ("layers", [2]),
            ("second_moment", "estimated"),
        ],
    )
    def test_of_something_else_is_refused(self, tmp_path, name, value):
        file = written(tmp_path)
        with pytest.raises(ValueError, match=f"was fitted with {name} .* but this run has"):
            load_calibration(file, "some/model", ABOUT | {name: value})

    def test_that_is_not_there_names_the_command_that_makes_it(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"papers/risk-calibration\.yaml"):
            load_calibration(str(tmp_path / "none.json"), "some/model", ABOUT)

    @pytest.mark.parametrize("text", ["[1, 2]", '{"method": "ROME"}', "no JSON", ""])
    def test_of_another_kind_is_refused(self, tmp_path, text):
        file = tmp_path / "other.json"
        file.write_text(text)
        with pytest.raises(ValueError, match="is no risk calibration"):
            load_calibration(str(file), "some/model", ABOUT)

    def test_of_the_embedded_model_serves_its_default_method_alone(self):
        editors = ROME(), ROME(second_moment="identity"), ROME(layer=2), ConsistentROME()
        for editor in editors:
            editor.configure_model()
        cards = [editor.card() for editor in editors]
        found = [load_calibration(None, "embedded", card) is not None for card in cards]
        assert found == [True, False, False, False]


class TestEditor:
    @pytest.fixture
    def calibrated(self, tiny_gpt2, tmp_path):
        """A method of one layer, attached, that was given a calibration of its own."""

        def make(method, **options):
            editor = method(lm="tiny", second_moment="identity", contexts={4: 2}, **options)
            editor.attach(tiny_gpt2, tiny_tokenizer())
            card = editor.card()
            own = {name: card[name] for name in ABOUT}
            editor.risk.file = written(tmp_path, **own)
            editor.prepare()
            return editor

        return make

    def test_probability_foretold_is_that_of_the_edit(self, calibrated):
        editor = calibrated(ROME, layer=EDITED_LAYER)
        (row,) = editor.predict_step([REQUEST], 0)
        list(editor.edit([REQUEST]))
        assert row["collapse_probability"] == CALIBRATION.probability(row)
        assert editor.record["collapse_probability"] == pytest.approx(row["collapse_probability"])

    def test_a_method_that_divides_by_nothing_has_none(self, calibrated):
        editor = calibrated(MEMIT, layers=[EDITED_LAYER])
        (row,) = editor.predict_step([REQUEST], 0)
        assert "collapse_probability" not in row

    def test_a_foreign_calibration_is_refused_before_anything_is_edited(self, tiny_gpt2, tmp_path):
        file = written(tmp_path, fingerprint="foreign")
        editor = ROME(1, lm="tiny", second_moment="identity", calibration=file)
        editor.attach(tiny_gpt2, tiny_tokenizer())
        with pytest.raises(ValueError, match="was fitted with fingerprint foreign"):
            editor.prepare()


def test_the_embedded_models_calibration_ranks_the_edits_of_another_model(shared_data):
    golden = json.loads((shared_data / "golden" / "rome_reference.json").read_text())
    rows = [
        row
        for row in golden["cases"]
        if row["policy"] == "original" and row["moment"] == "identity"
    ]
    requests = [
        EditRequest(r["case"], r["prompt"], r["subject"], r["target_new"], r["target_true"])
        for r in rows
    ]
    lm = str(shared_data / "models/nano_gpt2")
    editor = ROME(lm=lm, layer=golden["hyper"]["layer"], second_moment="identity")
    editor.configure_model()
    editor.contexts.templates = golden["contexts"]
    editor.prepare()
    embedded = json.loads((EMBEDDED / "risk_calibration.json").read_text())
    features = {name: Feature(**feature) for name, feature in embedded["features"].items()}
    calibration = Calibration(features, embedded["intercept"])
    risks = editor.predict_step(requests, 0)
    probabilities = [calibration.probability(risk) for risk in risks]
    harm = [row["perplexity_after"] for row in rows]
    assert scipy.stats.spearmanr(probabilities, harm).statistic > 0.7
    assert np.argmax(probabilities) == np.argmax(harm)
    assert max(probabilities) < 0.5  # and indeed none collapses
