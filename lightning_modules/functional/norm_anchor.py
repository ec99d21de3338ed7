"""Values kept at the size they had in the original model (NAS)."""

import torch
from torch import Tensor


def anchored(values: Tensor, norm: float) -> Tensor:
    """Each value with its direction and the anchor's length: ``v* · ‖v‖_anchor / ‖v*‖``.

    Args:
        values: ``(n, d)``, one row per request.
        norm: ``‖v‖_anchor``, the mean norm of values in the original model.

    Returns:
        ``(n, d)``, float64; a value of zero stays zero, having no direction.

    Raises:
        ValueError: if the norm is not positive.
    """
    if not norm > 0:
        raise ValueError(f"the anchor's norm must be positive, got {norm}")
    return torch.nn.functional.normalize(values.double(), dim=1) * norm
