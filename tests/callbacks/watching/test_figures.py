import math

import pytest

from callbacks.watching.figures import HealthFigure, health_figure
from tests.callbacks.runs import fit, watching

EDITS = [
    {"edit": 1, "perplexity": 30.0, "collapsed": False},
    {"edit": 2, "perplexity": math.inf, "collapsed": True},
    {"edit": 5, "perplexity": 40.0, "collapsed": False},
]


def lines(figure):
    """Label to line; the two horizontal ones are the baseline and the limit."""
    (axes,) = figure.axes
    return {line.get_label(): line for line in axes.get_lines()}


def test_a_run_leaves_a_picture_of_itself(sequential):
    png = (sequential.folder / "health.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n")
    assert len(png) > 5000


def test_nothing_is_drawn_where_nothing_was_watched(lm, tmp_path):
    fit(lm, tmp_path, [*watching(), HealthFigure()], limit_val_batches=0)
    assert not (tmp_path / "health.png").exists()


def test_curve_has_a_point_for_each_edit_and_a_cross_for_the_first_collapse():
    collapsed = [*EDITS, {"edit": 6, "perplexity": 2e3, "collapsed": True}]
    drawn = lines(health_figure(collapsed, {"perplexity": 25.0, "collapse_limit": 1000.0}))
    assert drawn["after the edit"].get_xydata().tolist() == [[1, 30], [2, 1e100], [5, 40], [6, 2e3]]
    assert drawn["after the edit"].get_linestyle() == "-"
    assert drawn["first collapse, at edit 2"].get_xydata().tolist() == [[2, 1e100]]
    assert set(drawn["unedited"].get_ydata()) == {25.0}
    assert set(drawn["collapse above 1000"].get_ydata()) == {1000.0}


def test_edits_that_were_taken_back_stand_beside_the_curve():
    refused = {"edit": 3, "perplexity": 900.0, "collapsed": True, "status": "rolled_back"}
    drawn = lines(health_figure([*EDITS, refused], {}))
    assert drawn["taken back (1)"].get_xydata().tolist() == [[3, 900]]
    assert drawn["after the edit"].get_xydata().tolist() == [[1, 30], [2, 1e100], [5, 40]]
    assert "first collapse, at edit 2" in drawn


def test_single_edits_are_not_joined():
    collapsed = [*EDITS, {"edit": 6, "perplexity": 2e3, "collapsed": True}]
    drawn = lines(health_figure(collapsed, {}, single=True))
    assert drawn["after the edit"].get_linestyle() == "None"
    assert drawn["after the edit"].get_marker() == "."
    assert drawn["collapsed (2 of 4)"].get_xydata().tolist() == [[2, 1e100], [6, 2e3]]


def test_one_word_subjects_that_begin_the_prompt_have_a_mark_of_their_own():
    requests = [("{} is", "Paris"), ("{} is", "New York"), ("In {} is", "Paris")]
    edits = [
        edit | {"prompt": prompt, "subject": subject}
        for edit, (prompt, subject) in zip(EDITS, requests, strict=True)
    ]
    drawn = lines(health_figure(edits, {}, single=True))
    apart = drawn["after the edit, subject one word that begins the prompt"]
    assert apart.get_xydata().tolist() == [[1, 30]]
    assert apart.get_marker() == "^"
    assert drawn["after the edit"].get_xydata().tolist() == [[2, 1e100], [5, 40]]


@pytest.mark.parametrize("baseline", [{}, {"perplexity": 25.0, "collapse_limit": math.inf}])
def test_a_limit_that_is_not_known_or_infinite_is_not_drawn(baseline):
    drawn = lines(health_figure(EDITS, baseline))
    assert not [label for label in drawn if label.startswith("collapse above")]
    assert ("unedited" in drawn) == bool(baseline)


def test_perplexity_is_on_a_logarithmic_axis_over_edits():
    (axes,) = health_figure(EDITS, {}).axes
    assert axes.get_yscale() == "log"
    assert axes.get_xlabel() == "edit"
