"""Transforms of a change before it is applied: RECT, PRUNE, SPHERE; weights are ``(out, in)``."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def rect(change: Tensor, weight: Tensor, keep: float = 0.4) -> Tensor:
    """A change's largest entries relative to the weight, ``|Δ / W|``; zero elsewhere.

    Args:
        change: ``(out, in)``.
        weight: ``(out, in)``, the weight to be changed.
        keep: share of entries kept.

    Returns:
        ``(out, in)``.

    Raises:
        ValueError: if the share is not in (0, 1].
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep must lie in (0, 1], got {keep}")
    relative = torch.where(change == 0, 0.0, (change / weight).abs()).flatten()
    kept = relative.topk(round(keep * len(relative)), sorted=False).indices
    rectified = torch.zeros_like(relative, dtype=change.dtype)
    rectified[kept] = change.flatten()[kept]
    return rectified.view_as(change)


def largest_singular_value(weight: Tensor) -> float:
    """The spectral norm of ``(out, in)``."""
    return float(torch.linalg.eigvalsh(_smaller_gram(weight.double()))[-1].clamp(min=0).sqrt())


def prune(
    total: Tensor, original: Tensor, base: float = math.e, limit: float | None = None
) -> Tensor:
    """Total change since the original weight W0, with large singular values damped.

    ``U f(S) Vᵀ`` with ``f(s) = m + log s - log m`` for each singular value s above m, the largest
    of W0, and ``f(s) = s`` for the others. The pruned weight is W0 plus this.

    Args:
        total: ``(out, in)``, the accumulated change, without earlier prunings.
        original: ``(out, in)``, W0.
        base: of the logarithm; a smaller base damps less.
        limit: m, if it is known; half of the time goes into it.

    Returns:
        ``(out, in)``, float64.

    Raises:
        FloatingPointError: if the accumulated change is not finite.
        ValueError: if the base is not above 1.
    """
    if not base > 1:
        raise ValueError(f"base must be above 1, got {base}")
    total = total.double()
    if not total.isfinite().all():
        raise FloatingPointError("the accumulated change to prune is not finite")
    limit = largest_singular_value(original) if limit is None else limit
    if total.norm() <= limit:
        return total
    values, vectors = _leading_directions(total, lambda energies: energies > limit**2)
    damped = limit + (values / limit).log() / math.log(base)
    return total - (total @ vectors) * (1 - damped / values) @ vectors.T


def sphere(change: Tensor, weight: Tensor, energy: float = 0.5, strength: float = 0.5) -> Tensor:
    """A change without the main input directions of the weight's rows: ``Δ (I - a U Uᵀ)``.

    The columns of U are the leading eigenvectors of ``Ŵᵀ Ŵ``, Ŵ being the weight with unit rows.

    Args:
        change: ``(out, in)``.
        weight: ``(out, in)``, the weight to be changed.
        energy: η, least share of the eigenvalues' sum that U holds.
        strength: a, the share of the change along U that is removed.

    Returns:
        ``(out, in)``, float64.

    Raises:
        ValueError: if energy is not in (0, 1), or strength not in (0, 1].
    """
    if not 0 < energy < 1:
        raise ValueError(f"energy must lie between 0 and 1, got {energy}")
    if not 0 < strength <= 1:
        raise ValueError(f"strength must lie in (0, 1], got {strength}")
    rows = torch.nn.functional.normalize(weight.double(), dim=1)
    _, directions = _leading_directions(
        rows, lambda energies: energies.cumsum(0) - energies < energy * energies.sum()
    )
    change = change.double()
    return change - strength * (change @ directions) @ directions.T


def _smaller_gram(weight: Tensor) -> Tensor:
    out, width = weight.shape
    return weight @ weight.T if out < width else weight.T @ weight


def _leading_directions(weight: Tensor, lead: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Singular values ``(r,)`` and input directions ``(in, r)`` of ``(out, in)``.

    Uses eigenvectors of the smaller of two Gram matrices, in a sixth of an SVD's time.

    Args:
        weight: ``(out, in)``, float64.
        lead: which of the squared singular values, largest first, to return.
    """
    energies, vectors = torch.linalg.eigh(_smaller_gram(weight))
    energies, vectors = energies.flip(0).clamp(min=0), vectors.flip(1)
    chosen = lead(energies)
    values, vectors = energies[chosen].sqrt(), vectors[:, chosen]
    return values, vectors if len(vectors) == weight.shape[1] else weight.T @ vectors / values
