"""Bounds on the change of a weight (fine-tuning under an L∞ constraint)."""

from torch import Tensor


def clamp_change(change: Tensor, radius: float | None) -> Tensor:
    """The nearest change within the L∞ ball: each entry in ``[-radius, radius]``.

    Args:
        change: of a weight, any shape.
        radius: of the ball; None leaves the change free.

    Raises:
        ValueError: if the radius is not positive.
    """
    if radius is None:
        return change
    if not radius > 0:
        raise ValueError(f"radius must be positive, or null for no ball, got {radius}")
    return change.clamp(-radius, radius)
