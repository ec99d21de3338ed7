"""One figure that evaluates the predicted risk of edits."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score, roc_curve

from ..watching.figures import ALARM, FAINT, INK, SHARP

LINES = ("-", "--", ":")
FLOOR = 1e-4  # lower probabilities are drawn here
BINS = 5


def risk_figure(destroyed: np.ndarray, risks: Mapping[str, np.ndarray], limit: float) -> Figure:
    """ROC curves, the probabilities of both kinds of edits, and their reliability.

    Args:
        destroyed: ``(n,)``, whether the edit raised perplexity above the limit.
        risks: each ``(n,)``, high for dangerous edits; ``collapse_probability`` among them.
        limit: perplexity.
    """
    figure = Figure(figsize=(4.8, 9.6), dpi=SHARP, layout="constrained")
    upper, middle, lower = figure.subplots(3, 1)
    probability = risks["collapse_probability"]
    _roc(upper, destroyed, risks)
    _histogram(middle, destroyed, probability, limit)
    _reliability(lower, destroyed, probability)
    for axes in (upper, middle, lower):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    middle.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return figure


def _roc(axes: Axes, destroyed: np.ndarray, risks: Mapping[str, np.ndarray]) -> None:
    for (name, risk), line, color in zip(risks.items(), LINES, (INK, ALARM, "black"), strict=False):
        alarms, caught, _ = roc_curve(destroyed, risk)
        area = roc_auc_score(destroyed, risk)
        label = f"{name.replace('_', ' ')}, area {area:.3f}"
        axes.plot(alarms, caught, line, color=color, label=label)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8)
    axes.set(xlabel="surviving edits flagged (share)", ylabel="collapsing edits flagged (share)")


def _histogram(axes: Axes, destroyed: np.ndarray, probability: np.ndarray, limit: float) -> None:
    bins = np.geomspace(FLOOR, 1, 33).tolist()
    drawn = probability.clip(FLOOR, 1)
    for kind, label, options in (
        (~destroyed, "survived", {"color": FAINT}),
        (
            destroyed,
            f"perplexity above {limit:.4g}",
            {"color": ALARM, "hatch": "///", "fill": False},
        ),
    ):
        text = f"{label} ({int(kind.sum())})"
        axes.hist(drawn[kind], bins, histtype="stepfilled", label=text, **options)
    axes.set(
        xscale="log",
        yscale="symlog",
        xlabel="probability of collapse, before the edit",
        ylabel="edits",
    )


def _reliability(axes: Axes, destroyed: np.ndarray, probability: np.ndarray) -> None:
    happened, said = calibration_curve(destroyed, probability, n_bins=BINS)
    counts, _ = np.histogram(probability, np.linspace(0, 1, BINS + 1))
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8)
    axes.plot(said, happened, "o-", color=INK, label="five bins, and their edits")
    for x, y, count in zip(said, happened, counts[counts > 0], strict=True):
        below = -12 if y > 0.5 else 5  # away from the frame
        axes.annotate(f"{count}", (x, y), xytext=(6, below), textcoords="offset points")
    axes.set(
        xlabel="probability of collapse, before the edit",
        ylabel="collapsed (share)",
        xlim=(-0.03, 1.1),
        ylim=(-0.06, 1.1),
    )
