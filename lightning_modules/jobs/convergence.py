"""How far an estimate of a second moment has converged."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional.second_moment import pack, parts_differ, unpack

SAMPLE_KEYS = 64
FIGURES = {
    "agreement": "cosine of edit directions to the last",
    "halves": "difference of the two halves",
}


class Convergence:
    """Compares a layer's second moment with that of fewer tokens of the same corpus.

    Args:
        keys: ``(n, f)``, of which a sample is kept.
    """

    def __init__(self, keys: Tensor) -> None:
        self.sample = keys[:: -(-len(keys) // SAMPLE_KEYS)].double()
        self.tokens, self.moment = 0, torch.empty(0)  # packed
        self.directions: Tensor | None = None

    def compare(self, moment: Tensor, tokens: int) -> dict[str, float]:
        """The figures of ``FIGURES`` that are known; keeps the moment for the next comparison.

        Args:
            moment: mean of ``k kᵀ``, ``(f, f)``, float64.
            tokens: of which it is the mean; at least twice as many as the last time.
        """
        found = {}
        factor, singular = torch.linalg.cholesky_ex(moment)
        directions = None if singular else torch.cholesky_solve(self.sample.T, factor)
        if directions is not None and self.directions is not None:
            cosines = F.cosine_similarity(self.directions, directions, dim=0)
            found["agreement"] = float(cosines.mean())
        if 0 < self.tokens < tokens:
            earlier = unpack(self.moment).to(moment)
            found["halves"] = parts_differ(earlier, moment, self.tokens / tokens)
        self.directions, self.tokens, self.moment = directions, tokens, pack(moment).cpu()
        return found
