"""Pure measures of a model's health."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Perplexities(NamedTuple):
    """Three versions of a corpus' perplexity.

    Attributes:
        mean: mean of each text's perplexity, the papers' protocol.
        log_mean: its logarithm, finite where the mean overflows.
        pooled: exponential of the mean NLL over all tokens.
    """

    mean: float
    log_mean: float
    pooled: float


def perplexities(nll: Tensor, length: Tensor) -> Perplexities:
    """Perplexity of a corpus (Butterfly Effect, section 3.1, and the textbook definition), float64.

    Args:
        nll: ``(n,)``, each text's mean negative log-likelihood per scored token, in nats.
        length: ``(n,)``, number of scored tokens of each text.
    """
    nll, length = nll.double(), length.double()
    return Perplexities(
        mean=float(nll.exp().mean()),
        log_mean=float(nll.logsumexp(0) - torch.tensor(len(nll)).double().log()),
        pooled=float(((nll * length).sum() / length.sum()).exp()),
    )


def singular_values(matrix: Tensor) -> Tensor:
    """Singular values in descending order, from the eigenvalues of the smaller Gram matrix.

    Args:
        matrix: ``(m, n)``.

    Returns:
        ``(min(m, n),)``, float64; those below 1e-8 of the largest are rounding errors.
    """
    wide = (matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T).double()
    return torch.linalg.eigvalsh(wide @ wide.T).clamp(min=0).flip(0).sqrt()


def effective_rank(singular: Tensor) -> float:
    """Effective number of directions of a matrix, ``exp H(s / Σs)`` (Roy and Vetterli 2007).

    Args:
        singular: ``(r,)``, its singular values, not all zero.
    """
    return float(torch.special.entr(singular.double() / singular.double().sum()).sum().exp())


def leading_subspaces(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Orthonormal bases of the leading left and right singular spaces.

    They come from the eigenvectors of the smaller Gram matrix, so that of the larger side only
    ``rank`` directions are computed.

    Args:
        matrix: ``(m, n)``, whose leading ``rank`` singular values are not 0.
        rank: k, at most ``min(m, n)``.

    Returns:
        ``(m, k)`` and ``(n, k)``, float64, the strongest direction first.

    Raises:
        ValueError: if the matrix has fewer directions.
    """
    if not 0 < rank <= min(matrix.shape):
        raise ValueError(f"rank must be in [1, {min(matrix.shape)}] for this matrix, got {rank}")
    tall = matrix.shape[0] > matrix.shape[1]
    wide = (matrix.T if tall else matrix).double()
    short = torch.linalg.eigh(wide @ wide.T).eigenvectors[:, -rank:].flip(1)
    long = torch.nn.functional.normalize(wide.T @ short, dim=0)
    return (long, short) if tall else (short, long)


def subspace_overlap(one: Tensor, other: Tensor) -> float:
    """Mean squared cosine of the principal angles of two subspaces, ``|UᵀV|² / k``.

    1 if they are the same, 0 if they are orthogonal, and k/m on average of random ones.

    Args:
        one: ``(m, k)``, an orthonormal basis U.
        other: ``(m, k)``, an orthonormal basis V.
    """
    return float((one.double().T @ other.double()).square().sum() / one.shape[1])


def norm_growth(weight: Tensor, original: Tensor) -> float:
    """Relative growth of a weight's Frobenius norm, ``|W'| / |W| - 1``.

    Args:
        weight: ``(m, n)``, W'.
        original: ``(m, n)``, W, not 0.
    """
    return float(weight.double().norm() / original.double().norm()) - 1


def relative_distance(states: Tensor, original: Tensor) -> float:
    """Root mean square over tokens of ``|h' - h| / |h|``; infinite if a state is not finite.

    Each token counts relative to its own state, since that of a first token can be a hundred times
    as long as the others.

    Args:
        states: ``(n, d)``, h'.
        original: ``(n, d)``, h, none of them 0.
    """
    moved = (states.double() - original.double()).norm(dim=1) / original.double().norm(dim=1)
    found = float(moved.square().mean().sqrt())
    return found if math.isfinite(found) else math.inf
