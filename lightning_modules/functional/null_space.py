"""The directions in which keys of text have almost no energy (AlphaEdit)."""

from typing import NamedTuple

import torch
from torch import Tensor


class NullSpace(NamedTuple):
    """The directions of key space with almost no energy, stored as the smaller of two bases.

    Attributes:
        basis: ``(f, r)``, orthonormal, float64.
        spans_complement: whether the basis spans the other directions instead.
    """

    basis: Tensor
    spans_complement: bool

    @property
    def dimension(self) -> int:
        """Number of null directions."""
        width, rank = self.basis.shape
        return width - rank if self.spans_complement else rank

    def project(self, keys: Tensor) -> Tensor:
        """The part ``P K`` of keys ``(f, n)`` within the null space, float64."""
        keys = keys.double()
        spanned = self.basis @ (self.basis.T @ keys)
        return keys - spanned if self.spans_complement else spanned


def null_space(second_moment: Tensor, energy: float = 0.02) -> NullSpace:
    """The smallest eigenvectors of a second moment that together hold at most a share of its trace.

    The share is relative, so the null space does not depend on the size of the keys.

    Args:
        second_moment: ``(f, f)``, symmetric.
        energy: the share, between 0 and 1.

    Raises:
        ValueError: if the share is not between 0 and 1, or every direction holds more.
    """
    if not 0 < energy < 1:
        raise ValueError(f"energy must lie between 0 and 1, got {energy}")
    eigenvalues, eigenvectors = torch.linalg.eigh(second_moment.double())
    shares = eigenvalues.clamp(min=0).cumsum(0) / eigenvalues.clamp(min=0).sum()
    dimension = int((shares <= energy).sum())
    if dimension == 0:
        raise ValueError(
            f"the null space is empty: of {len(shares)} directions even the least holds "
            f"{shares[0]:.3g} of the keys' energy, more than {energy:g}; raise energy above that"
        )
    if 2 * dimension <= len(shares):
        return NullSpace(eigenvectors[:, :dimension].contiguous(), spans_complement=False)
    return NullSpace(eigenvectors[:, dimension:].contiguous(), spans_complement=True)
