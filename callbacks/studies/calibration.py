"""Fits which single edits destroy the model, from a sweep: the calibration of ``predict``."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import lightning as L
import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from lightning_modules.editing.collapse_risk import IDENTITY, KIND, Feature, features_of
from lightning_modules.editing.editor import Editor

from ..keeping.run_folder import folder_of, read_journal, write_json
from ..keeping.schedule import restores
from ..watching.figures import publish
from .risk_figures import risk_figure
from .risk_judgement import judged

FOLDS = 5
SPREAD = 3.0  # of a coefficient, in log-odds per standard deviation, before any edit is seen
FEWEST = 5  # edits of either kind: one per fold


class Sample(NamedTuple):
    """Single edits of a sweep, each with its figures before the edit and its outcome.

    Attributes:
        limit: perplexity above which an edit counts as destructive.
        names: of the features.
        features: ``(n, features)``.
        destroyed: ``(n,)``, whether the edit was.
        known: single figures that may predict it, each ``(n,)``, high for dangerous edits.
    """

    limit: float
    names: list[str]
    features: np.ndarray
    destroyed: np.ndarray
    known: dict[str, np.ndarray]

    @property
    def has_both(self) -> bool:
        """Whether there are enough destructive edits and enough others for a fit."""
        harmful = int(self.destroyed.sum())
        return min(harmful, len(self.destroyed) - harmful) >= FEWEST


class RiskCalibration(L.Callback):
    """Fits the collapse probability to a single-edit sweep, and evaluates it by cross-validation.

    Writes ``risk_calibration.json``, which ``--model.calibration`` reads, and ``risk.png``. An edit
    counts as a collapse if the run marks it so.

    Args:
        harm: multiple of the unedited model's perplexity above which an edit has harmed it; the
            same features are evaluated for harm too.

    Raises:
        ValueError: if the multiple is not above 1.
    """

    def __init__(self, harm: float = 2.0) -> None:
        if harm <= 1:
            raise ValueError(f"harm must be above 1, got {harm}")
        self.harm = harm

    def on_train_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Refuses a run that cannot calibrate.

        Raises:
            ValueError: if edits accumulate, or are not evaluated one by one.
        """
        if not restores(trainer):
            raise ValueError(
                "RiskCalibration learns from edits that each start from the original model; add "
                "callbacks.watching.restore.RestoreWeights"
            )
        if not trainer.enable_validation or trainer.val_check_batch != 1:
            raise ValueError(
                "RiskCalibration needs the perplexity after every edit: set "
                "trainer.val_check_interval to 1, and watch some text"
            )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Editor, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Refuses, at the first edit, a method without figures before the edit.

        Raises:
            ValueError: if the edit's record has none of the features.
        """
        if pl_module.record.get("status") == "applied" and not features_of(pl_module.record):
            raise ValueError(
                f"{type(pl_module).__name__} has no keys to estimate the risk of an edit from; "
                "calibrate a method that has, such as rome.yaml"
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Reads the journal, fits and draws."""
        if not trainer.is_global_zero:
            return
        edits, baseline = read_journal(folder_of(trainer)), pl_module.baseline
        limit = baseline.get("collapse_limit", math.inf)
        sample = sample_of(edits, limit)
        if not sample.has_both:
            rank_zero_warn(
                f"no risk is calibrated: of {len(sample.destroyed)} edits {sample.destroyed.sum()} "
                f"lifted perplexity above {limit:g}, at least {FEWEST} that do and {FEWEST} that "
                "do not are needed; make more edits, or choose another limit by "
                "--collapse.threshold or --collapse.relative"
            )
            return
        file = folder_of(trainer) / f"{KIND}.json"
        harmed = sample_of(edits, self.harm * baseline.get("perplexity", math.inf))
        content = calibration(pl_module.card(), sample, harmed)
        write_json(file, content)
        publish(trainer, risk_figure(sample.destroyed, foretold(sample), limit), "risk")
        found = content["collapse"]["auroc"]["collapse_probability"]
        rank_zero_info(
            f"{sample.destroyed.sum()} of {len(sample.destroyed)} edits collapsed the model; AUROC "
            f"of the probability {found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f}), "
            f"cross-validated; use it with --model.calibration {file}"
        )


def sample_of(edits: Sequence[dict[str, Any]], limit: float) -> Sample:
    """The evaluated edits of a journal that have all features of the first one.

    Args:
        edits: a sweep's journal; failed edits and those without perplexity are left out.
        limit: perplexity above which an edit has destroyed the model.
    """
    told = [
        (edit, features_of(edit))
        for edit in edits
        if edit["status"] == "applied" and "perplexity" in edit and features_of(edit)
    ]
    names = list(told[0][1]) if told else []
    signs = {"denominator": -1.0, "key_cosine": -1.0}
    return Sample(
        limit,
        names,
        np.array([[features[name] for name in names] for _, features in told]),
        np.array([edit["perplexity"] > limit for edit, _ in told], dtype=bool),
        {
            name: sign * np.array([edit[name] for edit, _ in told])
            for name, sign in signs.items()
            if told and name in told[0][0]
        },
    )


def calibration(card: Mapping[str, Any], sample: Sample, harmed: Sample) -> dict[str, Any]:
    """The content of ``risk_calibration.json``: the editor's card, the fit, and its evaluation.

    Args:
        card: of the editor.
        sample: its edits, and which of them collapsed the model; used for the fit.
        harmed: the same edits, and which of them harmed it; left out if too few did or did not.
    """
    judgements = {
        kind: {"perplexity_above": edits.limit, **judged(edits.destroyed, foretold(edits))}
        for kind, edits in (("collapse", sample), ("harm", harmed))
        if edits.has_both
    }
    about = {name: card[name] for name in ("lm", *IDENTITY)}
    return {**about, **fitted(sample), **judgements}


def logistic() -> Pipeline:
    """Logistic regression on standardised features.

    Collapses are rare but have no extra weight, which would raise all probabilities; the free
    intercept keeps their mean at the share of collapses. The weak penalty only keeps coefficients
    finite if a feature separates both kinds.
    """
    return make_pipeline(StandardScaler(), LogisticRegression(C=SPREAD**2))


def fitted(sample: Sample) -> dict[str, Any]:
    """Logistic model of all edits, as :class:`Calibration` reads it."""
    scaler, regression = logistic().fit(sample.features, sample.destroyed)
    columns = zip(scaler.mean_, scaler.scale_, regression.coef_[0], strict=True)
    features = [Feature(*map(float, column)) for column in columns]
    return {
        "features": {n: f._asdict() for n, f in zip(sample.names, features, strict=True)},
        "intercept": float(regression.intercept_[0]),
    }


def foretold(sample: Sample) -> dict[str, np.ndarray]:
    """Each edit's held-out probability, from the fit without its fold, and the single figures."""
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    probability = cross_val_predict(
        logistic(), sample.features, sample.destroyed, cv=folds, method="predict_proba"
    )[:, 1]
    return {"collapse_probability": probability, **sample.known}
