"""The probability that an edit destroys the model, from figures known before the value search."""

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
    """A feature's scale and its coefficient.

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

        It is None if the figures lack a feature.
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
    """A method's calibration, if there is one, and its verdict on an edit.

    Args:
        file: that the user named, if any.
    """

    def __init__(self, file: str | None) -> None:
        self.file = file
        self.calibration: Calibration | None = None

    def load(self, lm_name: str, card: Mapping[str, Any]) -> None:
        """Loads the calibration for a model and for an editor's card."""
        self.calibration = load_calibration(self.file, lm_name, card)

    def told(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """Figures known before a search, with the collapse probability if they suffice for it."""
        found = self.calibration.probability(figures) if self.calibration is not None else None
        return {**figures} if found is None else {**figures, "collapse_probability": found}


def features_of(figures: Mapping[str, Any]) -> dict[str, float]:
    """Scale-free features, comparable across layers and models.

    Args:
        figures: of an edit; ``key_cosine`` and ``subject_position``, and ``denominator_relative``
            if the method divides.
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
    """The calibration of a model and a method; None if none was named and none is included.

    Args:
        path: file that the user named, if any.
        lm_name: the model's name; the embedded model has its own calibration.
        card: of the editor: what it edits and how.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no calibration, or one for another model or method.
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
            f"{card[other[0]]}; fit one for it with {COMMAND}"
        )
    features = {name: Feature(**feature) for name, feature in content["features"].items()}
    return Calibration(features, content["intercept"])


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"no risk calibration at {file}; make one with {COMMAND}")
    try:
        content = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{file} is no risk calibration ({error}); make one with {COMMAND}"
        ) from error
    wanted = (*IDENTITY, "features", "intercept")
    missing = [name for name in wanted if not isinstance(content, dict) or name not in content]
    if missing:
        raise ValueError(
            f"{file} is no risk calibration, it lacks {missing[0]}; make one with {COMMAND}"
        )
    return content
