"""ENCORE: values found in few steps, small updates, past keys preserved."""

from typing import Any

from ..functional.value_search import ValueSearchOptions
from .spread import SpreadEditor
from .systems import Ridge


class ENCORE(SpreadEditor):
    """ENCORE (Gupta et al. 2025): ``A = λ C + μ I``, history, and most-probable early stopping.

    A value's search stops as soon as the target is the most probable continuation in every
    context, the plain one included.

    Args:
        preservation: λ, the number of tokens of text that outweigh an edit's key.
        norm_weight: μ, weight of the penalty on the size of a change.
        value: how values are searched.
        history: keep the keys of past edits.

    Raises:
        ValueError: if a weight is not positive.
    """

    def __init__(
        self,
        preservation: float = 100.0,
        norm_weight: float = 0.1,
        value: ValueSearchOptions = ValueSearchOptions(clamp=0.75, stop="most_probable"),  # noqa: B008 - frozen
        history: bool = True,
        **options: Any,
    ) -> None:
        for name, weight in (("preservation", preservation), ("norm_weight", norm_weight)):
            if not weight > 0:
                raise ValueError(f"{name} must be positive, got {weight}")
        system = Ridge(preservation, norm_weight, history)
        super().__init__(system=system, value=value, **options)
