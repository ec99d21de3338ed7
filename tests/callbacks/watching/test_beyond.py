import math

import pytest
from matplotlib.figure import Figure

from callbacks.watching.beyond import end_of, mark_infinite, shown

POINTS = [(1, 30.0), (2, math.inf), (3, math.nan), (4, 3000.0), (5, 1e200)]


def test_the_end_lies_above_all_finite_values_whatever_the_others():
    assert end_of([1e14, 1e-6, math.inf]) == pytest.approx(1e17)
    assert end_of(value for _, value in POINTS) == 12000  # a short axis gets room too
    assert end_of([math.inf]) == 4
    assert [shown(value, 5e3) for _, value in POINTS] == [30.0, 5e3, 5e3, 3000.0, 5e3]


@pytest.mark.parametrize("along", ["x", "y"])
def test_infinite_values_are_marked_and_counted_at_the_end_of_their_axis(along):
    axes = Figure().subplots()
    axes.set(**{f"{along}scale": "log"})
    axes.plot([1, 4], [30, 3000])
    mark_infinite(axes, POINTS, 5e3, "red", along)
    line = axes.get_lines()[-1]
    assert line.get_label() == "infinite (3)"
    assert getattr(axes, f"get_{along}lim")()[1] == 5e3
    places = [[2, 5e3], [3, 5e3], [5, 5e3]]
    assert line.get_xydata().tolist() == [place[:: -1 if along == "x" else 1] for place in places]


def test_finite_values_leave_the_axis_as_it_is():
    axes = Figure().subplots()
    mark_infinite(axes, POINTS[:1], 5e3, "red")
    assert not axes.get_lines()
    assert axes.get_ylim() == (0, 1)
