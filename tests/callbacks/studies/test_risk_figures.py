import numpy as np
import pytest

from callbacks.studies.risk_figures import risk_figure

DESTROYED = np.arange(40) % 8 == 0
PROBABILITY = np.where(DESTROYED, 0.7, 0.02)
PROBABILITY[1] = 1e-9  # below the axis


@pytest.fixture(scope="module")
def figure():
    risks = {"collapse_probability": PROBABILITY, "denominator": -np.arange(40.0)}
    return risk_figure(DESTROYED, risks, 1000.0)


def test_roc_curve_of_each_risk_runs_from_corner_to_corner(figure):
    curves = {line.get_label(): line.get_xydata() for line in figure.axes[0].get_lines()[:2]}
    assert list(curves) == ["collapse probability, area 1.000", "denominator, area 0.600"]
    for points in curves.values():
        assert points[0].tolist() == [0, 0]
        assert points[-1].tolist() == [1, 1]


def test_histogram_holds_every_edit(figure):
    survived, collapsed = (patch.get_xy() for patch in figure.axes[1].patches)
    assert survived[:, 1].max() == 34
    assert collapsed[:, 1].max() == 5
    labels = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert labels == ["survived (35)", "perplexity above 1000 (5)"]


def test_reliability_compares_what_was_said_with_what_happened(figure):
    (line,) = figure.axes[2].get_lines()[1:]
    said, happened = line.get_xydata().T
    assert said == pytest.approx([PROBABILITY[~DESTROYED].mean(), 0.7])
    assert happened.tolist() == [0, 1]
    assert [text.get_text() for text in figure.axes[2].texts] == ["35", "5"]


def test_axes_are_named(figure):
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)
