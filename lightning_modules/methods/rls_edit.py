"""RLSEdit: recursive least squares over all edits, each at nearly the cost of the first."""

from typing import Any

from .spread import SpreadEditor
from .systems import Recursive


class RLSEdit(SpreadEditor):
    """RLSEdit: minimises all edits' squared errors plus a penalty that preserves the model.

    Args:
        ridge: λ, how strongly weights are kept at their originals.
        preservation: μ, how strongly the outputs for keys of text are preserved; μ² is a number of
            tokens.
    """

    edits_experts = False  # its covariance is as wide as all experts' keys together

    def __init__(self, ridge: float = 0.3, preservation: float = 30.0, **options: Any) -> None:
        super().__init__(system=Recursive(ridge, preservation), **options)
