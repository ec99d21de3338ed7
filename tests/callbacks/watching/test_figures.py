import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from callbacks.watching.figures import HealthFigure, health_figure, publish
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
    end = drawn["infinite (1)"].get_ydata()[0]
    assert drawn["after the edit"].get_xydata().tolist() == [[1, 30], [2, end], [5, 40], [6, 2e3]]
    assert drawn["after the edit"].get_linestyle() == "-"
    assert drawn["first collapse, at edit 2"].get_xydata().tolist() == [[2, end]]
    assert set(drawn["unedited"].get_ydata()) == {25.0}
    assert set(drawn["collapse above 1000"].get_ydata()) == {1000.0}


def test_edits_that_were_taken_back_stand_beside_the_curve():
    refused = {"edit": 3, "perplexity": 900.0, "collapsed": True, "status": "rolled_back"}
    drawn = lines(health_figure([*EDITS, refused], {}))
    assert drawn["taken back (1)"].get_xydata().tolist() == [[3, 900]]
    end = drawn["infinite (1)"].get_ydata()[0]
    assert drawn["after the edit"].get_xydata().tolist() == [[1, 30], [2, end], [5, 40]]
    assert "first collapse, at edit 2" in drawn


def test_one_edit_is_a_point_that_can_be_seen_and_a_healthy_run_has_no_cross():
    drawn = lines(health_figure(EDITS[:1], {"perplexity": 25.0, "collapse_limit": 1000.0}))
    assert drawn["after the edit"].get_marker() == "o"
    assert drawn.keys() == {"after the edit", "unedited", "collapse above 1000"}


def test_a_long_run_is_a_plain_line():
    drawn = lines(health_figure([{"edit": n, "perplexity": 9.0 + n} for n in range(1, 99)], {}))
    assert drawn["after the edit"].get_marker() == "None"


@pytest.mark.parametrize("highest", [60.0, 1e16, math.inf])
def test_the_perplexity_axis_has_a_few_labels(highest):
    (axes,) = health_figure([*EDITS[:1], {"edit": 2, "perplexity": highest}], {}).axes
    low, high = axes.get_ylim()
    labels = [tick for tick in axes.get_yticks() if low <= tick <= high]
    assert 2 <= len(labels) <= 7
    assert len(axes.get_yticks(minor=True)) == 0


def test_a_published_figure_names_method_model_and_layer(sequential, tmp_path):
    figure = health_figure(EDITS, {})
    figure.suptitle("a study")
    place = SimpleNamespace(logger=None, loggers=[], default_root_dir=tmp_path, global_step=0)
    publish(SimpleNamespace(**vars(place), lightning_module=sequential.editor), figure, "x")
    name = Path(sequential.editor.lm_name).name
    assert figure.get_suptitle() == f"ROME, {name}, layer 0\na study"
    assert (tmp_path / "x.png").stat().st_size > 5000


def test_single_edits_are_not_joined():
    collapsed = [*EDITS, {"edit": 6, "perplexity": 2e3, "collapsed": True}]
    drawn = lines(health_figure(collapsed, {}, single=True))
    assert drawn["after the edit"].get_linestyle() == "None"
    assert drawn["after the edit"].get_marker() == "."
    end = drawn["infinite (1)"].get_ydata()[0]
    assert drawn["collapsed (2 of 4)"].get_xydata().tolist() == [[2, end], [6, 2e3]]


def test_one_word_subjects_that_begin_the_prompt_have_a_mark_of_their_own():
    requests = [("{} is", "Paris"), ("{} is", "New York"), ("In {} is", "Paris")]
    edits = [
        edit | {"prompt": prompt, "subject": subject}
        for edit, (prompt, subject) in zip(EDITS, requests, strict=True)
    ]
    drawn = lines(health_figure(edits, {}, single=True))
    apart = drawn["after it, one-word subject first"]
    assert apart.get_xydata().tolist() == [[1, 30]]
    assert apart.get_marker() == "^"
    end = drawn["infinite (1)"].get_ydata()[0]
    assert drawn["after the edit"].get_xydata().tolist() == [[2, end], [5, 40]]


@pytest.mark.parametrize("baseline", [{}, {"perplexity": 25.0, "collapse_limit": math.inf}])
def test_a_limit_that_is_not_known_or_infinite_is_not_drawn(baseline):
    drawn = lines(health_figure(EDITS, baseline))
    assert not [label for label in drawn if label.startswith("collapse above")]
    assert ("unedited" in drawn) == bool(baseline)


def test_perplexity_is_on_a_logarithmic_axis_over_edits():
    (axes,) = health_figure(EDITS, {}).axes
    assert axes.get_yscale() == "log"
    assert axes.get_xlabel() == "edit"
