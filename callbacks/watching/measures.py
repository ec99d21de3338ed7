"""Pure measures of a model's health."""

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
