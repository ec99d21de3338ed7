"""Values scaled to the norm of values in the original model (NAS)."""

import torch
from torch import Tensor


def anchor_norm(values: Tensor, trimmed: float = 0.05) -> float:
    """Mean norm of values ``(n, d)`` without the largest ones.

    Args:
        values: ``(n, d)``, solved on the unedited model.
        trimmed: share of the largest values to leave out.
    """
    norms = values.double().norm(dim=1).sort().values
    return float(norms[: len(norms) - int(trimmed * len(norms))].mean())


def anchored(values: Tensor, norm: float) -> Tensor:
    """Each value, scaled to the anchor's norm: ``v* · ‖v‖_anchor / ‖v*‖``.

    Args:
        values: ``(n, d)``, one row per request.
        norm: ``‖v‖_anchor``, the mean norm of solved values of the original model.

    Returns:
        ``(n, d)``, float64; zero values stay zero.

    Raises:
        ValueError: if the norm is not positive.
    """
    if not norm > 0:
        raise ValueError(f"the anchor's norm must be positive, got {norm}")
    return torch.nn.functional.normalize(values.double(), dim=1) * norm
