"""The probability that an edit destroys the model, from what is known before a value is sought."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..language_model.loading import artefact_file

KIND = "risk_calibration"
IDENTITY = ("method", "fingerprint", "layers", "second_moment")
COMMAND = "python train.py fit --config papers/risk-calibration.yaml"
SMALLEST = 1e-12  # of a cosine whose logarithm is taken


class Feature(NamedTuple):
    """What one feature says.

    Attributes:
        mean: over the edits of the calibration.
        deviation: its standard deviation there.
        coefficient: log-odds of a collapse per standard deviation.
    """

    mean: float
    deviation: float
    coefficient: float


class Calibration(NamedTuple):
    """A logistic model of collapse, fitted on a single-edit sweep of one model by one method.

    Attributes:
        features: by name.
        intercept: log-odds of a collapse at the features' means.
    """

    features: dict[str, Feature]
    intercept: float

    def probability(self, figures: Mapping[str, Any]) -> float | None:
        """``1 / (1 + exp(-intercept - Σ coefficient (x - mean) / deviation))``; or None.

        It is None if the figures do not tell all features.
        """
        known = features_of(figures)
        if not known.keys() >= self.features.keys():
            return None
        terms = [
            feature.coefficient * (known[name] - feature.mean) / feature.deviation
            for name, feature in self.features.items()
        ]
        return 0.5 + 0.5 * math.tanh((self.intercept + sum(terms)) / 2)


class CollapseRisk:
    """A method's calibration, if there is one, and what it says of an edit.

    Args:
        file: that the user named, if any.
    """

    def __init__(self, file: str | None) -> None:
        self.file = file
        self.calibration: Calibration | None = None

    def load(self, lm_name: str, card: Mapping[str, Any]) -> None:
        """Takes the calibration of a model and of what would be edited in it, and how."""
        self.calibration = load_calibration(self.file, lm_name, card)

    def told(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """Figures known before a search, with the probability of collapse if they tell it."""
        found = self.calibration.probability(figures) if self.calibration is not None else None
        return {**figures} if found is None else {**figures, "collapse_probability": found}


def features_of(figures: Mapping[str, Any]) -> dict[str, float]:
    """Features without a scale, so that they mean the same in every layer and every model.

    Args:
        figures: of an edit; ``key_cosine`` and ``subject_position``, and if it divides
            ``denominator_relative``.
    """
    features: dict[str, float] = {}
    if "denominator_relative" in figures:
        cosine = max(figures["denominator_relative"], SMALLEST)
        features["log_denominator_relative"] = math.log(cosine)
    if "key_cosine" in figures:
        features["key_cosine"] = figures["key_cosine"]
        features["first_position"] = float(figures["subject_position"] == 0)
    return features


def load_calibration(path: str | None, lm_name: str, card: Mapping[str, Any]) -> Calibration | None:
    """The calibration of a model and a method; None if none was named and none is shipped for them.

    Args:
        path: file that the user named, if any.
        lm_name: the model's name; the embedded one has a calibration of its own.
        card: what would be edited and how.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no calibration, or was made for something else.
    """
    file = artefact_file(KIND, path, lm_name, card["fingerprint"], ".json")
    if path is None and not file.is_file():
        return None
    content = _read(file)
    other = [name for name in IDENTITY if content[name] != card[name]]
    if other and path is None:
        return None
    if other:
        raise ValueError(
            f"{file} was fitted with {other[0]} {content[other[0]]}, but this run has "
            f"{card[other[0]]}; fit one for it by {COMMAND}"
        )
    features = {name: Feature(**feature) for name, feature in content["features"].items()}
    return Calibration(features, content["intercept"])


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"no risk calibration at {file}; make one by {COMMAND}")
    try:
        content = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{file} is no risk calibration ({error}); make one by {COMMAND}"
        ) from error
    wanted = (*IDENTITY, "features", "intercept")
    missing = [name for name in wanted if not isinstance(content, dict) or name not in content]
    if missing:
        raise ValueError(
            f"{file} is no risk calibration, it lacks {missing[0]}; make one by {COMMAND}"
        )
    return content
