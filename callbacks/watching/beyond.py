"""Infinite perplexities on a logarithmic axis: at its end, marked, and without stretching it."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from matplotlib.axes import Axes

CEILING = 1e100  # a logarithmic axis cannot show all above, so that counts as infinite too
MARGIN, LEAST = 0.15, 4.0  # from the highest value to the end: of the axis' length; a ratio


def end_of(values: Iterable[float]) -> float:
    """The end of an axis, well above all finite values."""
    finite = [value for value in values if value <= CEILING] or [1.0]
    return max(finite) * max((max(finite) / min(finite)) ** MARGIN, LEAST)


def shown(value: float, end: float) -> float:
    """The value, or the axis' end in place of an infinite one."""
    return value if value <= CEILING else end


def mark_infinite(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    end: float,
    color: str,
    along: Literal["x", "y"] = "y",
) -> None:
    """Marks infinite values, if there are any, at the end of their axis, which ends there.

    Args:
        axes: with a logarithmic axis of values.
        points: each point's place on the other axis, and its value.
        end: of the axis of values.
        color: of the marks.
        along: which axis is that of values.
    """
    places = [place for place, value in points if not value <= CEILING]
    if not places:
        return
    ends = [end] * len(places)
    label = f"infinite ({len(places)})"
    style: dict[str, Any] = {"color": color, "fillstyle": "none", "markersize": 9, "zorder": 4}
    style["clip_on"] = False
    if along == "y":
        axes.plot(places, ends, "^", label=label, **style)
        axes.set_ylim(top=end)
    else:
        axes.plot(ends, places, ">", label=label, **style)
        axes.set_xlim(right=end)
