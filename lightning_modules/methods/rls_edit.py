"""RLSEdit: recursive least squares over all edits, each at the cost of the first."""

from typing import Any

from .spread import SpreadEditor
from .systems import Recursive


class RLSEdit(SpreadEditor):
    """RLSEdit: minimises the squared errors of all edits so far plus what holds the model.

    Args:
        ridge: λ, how strongly weights are held where they are.
        preservation: μ, how strongly the outputs for the keys of text are; μ² is a number of
            tokens.
    """

    def __init__(self, ridge: float = 0.3, preservation: float = 30.0, **options: Any) -> None:
        super().__init__(system=Recursive(ridge, preservation), **options)
