"""Values kept at the size they had in the original model (NAS)."""

import torch
from torch import Tensor


def anchor_norm(values: Tensor, trimmed: float = 0.05) -> float:
    """The mean norm of values ``(n, d)``, without the largest ones.

    Args:
        values: ``(n, d)``, solved on the unedited model.
        trimmed: share of the values that is left out as too large.
    """
    norms = values.double().norm(dim=1).sort().values
    return float(norms[: len(norms) - int(trimmed * len(norms))].mean())


def anchored(values: Tensor, norm: float) -> Tensor:
    """Each value with its direction and the anchor's length: ``v* · ‖v‖_anchor / ‖v*‖``.

    Args:
        values: ``(n, d)``, one row per request.
        norm: ``‖v‖_anchor``, the mean norm of solved values of the original model.

    Returns:
        ``(n, d)``, float64; a value of zero stays zero, having no direction.

    Raises:
        ValueError: if the norm is not positive.
    """
    if not norm > 0:
        raise ValueError(f"the anchor's norm must be positive, got {norm}")
    return torch.nn.functional.normalize(values.double(), dim=1) * norm
