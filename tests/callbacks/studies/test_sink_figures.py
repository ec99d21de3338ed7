import math

import pytest
from matplotlib.patches import Rectangle

from callbacks.studies.sink_figures import LARGE, sink_figure

METHODS = ("ROME", "ConsistentROME", "SinkFreeROME")


def rows(moments=("identity", "estimated"), worst=900.0):
    """Three of five layers, two kinds of subject; ROME's first tokens collapse in layer 3."""
    return [
        {"second_moment": moment, "method": method, "first": first, "layer": layer,
         "perplexity": worst if (method, first, layer) == ("ROME", True, 3) else 10.0 + layer}
        for moment in moments for method in METHODS for first in (False, True)
        for layer in (4, 0, 3)
    ]  # fmt: skip


def profile(attention=True):
    norms = {kind: [100.0, 3.0, 2.0, 2.0, 1.0] for kind in ("hidden", "key", "value")}
    share = {"attention": 0.4} if attention else {}
    return [{"layer": layer, **norms, **share} for layer in range(5)]


def test_there_is_a_map_for_each_second_moment_with_first_tokens_on_top():
    figure = sink_figure(rows(), profile(), 10.0)
    maps = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title().rsplit(", ")[1] for axes in maps] == [
        "identity moment",
        "estimated moment",
    ]
    names = [label.get_text() for label in maps[0].get_yticklabels()]
    assert names == [
        f"{name}, {kind}"
        for kind in ("first token", "other")
        for name in ("ROME", "C-ROME", "sink-free")
    ]


def test_cells_are_the_worst_edit_over_the_unedited_perplexity():
    many = [*rows(["identity"]), *(dict(one, perplexity=5.0) for one in rows(["identity"]))]
    (image,) = [i for axes in sink_figure(many, profile(), 10.0).axes for i in axes.images]
    cells = image.get_array()
    assert cells[0].filled(math.nan)[[0, 3, 4]] == pytest.approx([1.0, 90.0, 1.4])
    assert cells.mask[:, [1, 2]].all()  # not studied


@pytest.mark.parametrize("worst", [900.0, math.inf, math.nan])
def test_a_collapse_has_a_mark(worst):
    figure = sink_figure(rows(["identity"], worst), profile(), 10.0)
    (axes,) = [axes for axes in figure.axes if axes.images]
    assert [tuple(map(float, line.get_xydata()[0])) for line in axes.lines] == [(3.0, 0.0)]
    if not math.isfinite(worst):
        assert axes.images[0].get_array()[0, 3] == LARGE * 10


@pytest.mark.parametrize("attention", [True, False])
def test_attention_is_drawn_if_the_family_has_it(attention):
    figure = sink_figure(rows(["identity"]), profile(attention), 10.0)
    bars = [p for axes in figure.axes for p in axes.patches if isinstance(p, Rectangle)]
    assert len(bars) == 5 * attention
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert ("attention on position 0" in names) is attention
    assert "hidden state, position 0" in names
