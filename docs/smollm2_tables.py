"""Tables of docs/smollm2.md that docs/reproduce.md has not."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import brier_score_loss

from callbacks.keeping.run_folder import read_journal
from callbacks.studies.calibration import Sample, logistic, sample_of
from callbacks.studies.risk_judgement import auroc
from docs.tables import SCORES, markdown, mean, percent, perplexities, read

LIMIT = 1000.0  # perplexity of a collapse, as in both papers
BINS = 10


def survey(first: Path, stated: Path, asked: str) -> str:
    """How many facts the model states, and how many begin with a subject of one token."""
    cases = {file: {case["case_id"] for case in read(file)} for file in (first, stated)}
    return markdown(
        [
            ("requests", "of them"),
            (f"stated, of {asked}", len(cases[stated])),
            ("subject is the first token", len(cases[first])),
            ("both", len(cases[stated] & cases[first])),
        ]
    )


def by_position(runs: Mapping[str, Path], first: Path) -> str:
    """Single edits of each run, those at the first token apart; shares with Wilson's intervals."""
    at_first = {case["case_id"] for case in read(first)}
    rows: list[Sequence[Any]] = [
        ("run", "subject", "n", "collapsed", "95 % interval", "lowest", "median", "highest",
         "denominator", *(f"{score} %" for score in SCORES)),
    ]  # fmt: skip
    for name, run in runs.items():
        edits = read_journal(run)
        for kind in ("first token", "elsewhere"):
            own = [e for e in edits if (e["case_id"] in at_first) == (kind == "first token")]
            if own:
                found = sorted(perplexities(own))
                collapsed = sum(edit["collapsed"] for edit in own)
                low, high = binomtest(collapsed, len(own)).proportion_ci(method="wilson")
                rows.append((name.partition("-")[2], kind, len(own), collapsed,
                             f"{100 * low:.0f} to {100 * high:.0f} %", found[0],
                             found[len(found) // 2], found[-1], mean(own, "denominator"),
                             *(percent(mean(own, score)) for score in SCORES)))  # fmt: skip
    return markdown(rows)


def transfer(sweeps: Mapping[str, Path]) -> str:
    """The collapse probability fitted on each model's sweep, judged on the other models' sweeps.

    The calibration error is the mean difference between probability and share of collapses, over
    bins of a tenth, weighted by their edits; the mean probability stands beside the share.
    """
    samples = {name: sample_of(read_journal(run), LIMIT) for name, run in sweeps.items()}
    rows: list[Sequence[Any]] = [
        ("fitted on", "judged on", "edits", "collapses %", "mean probability %", "AUROC",
         "95 % interval", "Brier score", "of the share alone", "calibration error")
    ]  # fmt: skip
    for fitted, own in samples.items():
        model = logistic().fit(own.features, own.destroyed)
        for judged, other in samples.items():
            if judged != fitted:
                probability = model.predict_proba(other.features)[:, 1]
                rows.append((fitted, judged, *judgement(other, probability)))
    return markdown(rows)


def judgement(sample: Sample, probability: np.ndarray) -> Sequence[Any]:
    """The cells of a probability of collapse, held against what the edits did."""
    destroyed, share = sample.destroyed, float(sample.destroyed.mean())
    area = auroc(destroyed, probability)
    return (
        len(destroyed),
        percent(share),
        percent(float(probability.mean())),
        area["value"],
        f"{area['low']:.3f}-{area['high']:.3f}",
        float(brier_score_loss(destroyed, probability)),
        share * (1 - share),
        calibration_error(destroyed, probability),
    )


def calibration_error(destroyed: np.ndarray, probability: np.ndarray) -> float:
    """Expected calibration error, in equal bins of the probability (arXiv 1706.04599)."""
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    gaps = [
        abs(float((destroyed[bins == b] - probability[bins == b]).sum())) for b in np.unique(bins)
    ]
    return sum(gaps) / len(probability)


def survival(runs: Mapping[str, Path]) -> str:
    """Edits that are stated and named after each treatment, and the perplexity, by method."""
    found = {name.partition("-")[2]: read(run / "survival.json") for name, run in runs.items()}
    rows: list[Sequence[Any]] = [
        (
            "treatment",
            *(f"{n}: stated, named of {f['edits']}, perplexity" for n, f in found.items()),
        )
    ]
    for treatment in next(iter(found.values()))["scores"]:
        cells = []
        for content in found.values():
            scores = content["scores"][treatment]
            shares = (scores[name] for name in ("efficacy_exact_match", "named"))
            counts = (f"{share * content['edits']:.0f}" for share in shares)
            cells.append(", ".join([*counts, f"{scores['perplexity']:.4g}"]))
        rows.append((treatment, *cells))
    return markdown(rows)
