"""Sink-free ROME: keys behind a prefix only, and an update that leaves the first token as it is."""

from torch import Tensor

from ..functional.rank_one import sink_free
from ..language_model.keys import sink_key
from .rome import RankOneEditor, RankOneKeys


class SinkFreeROME(RankOneEditor):
    """ROME that neither reads position 0 nor writes to it.

    Its key k is the mean over prefixed contexts, and the residual the change δ that the search
    found, as in :class:`FullyConsistentROME`. Its direction is the nearest to ``C⁻¹ k`` that is
    orthogonal to the sink key s, the mean key at position 0 of the contexts:
    ``Δ = δ uᵀ / (uᵀ k)`` with ``u = C⁻¹ (k - s · sᵀ C⁻¹ k / sᵀ C⁻¹ s)``. So ``Δ k = δ`` and
    ``Δ s = 0``.
    """

    def prepare(self) -> None:
        """Prepares as ROME does, requires prefixed contexts, and records the sink key.

        Raises:
            ValueError: if there is only the plain context.
        """
        super().prepare()
        self.contexts.require_prefixed("SinkFreeROME")
        texts = [template.removesuffix(" {}") for template in self.contexts.templates[1:]]
        self.sink = sink_key(self.lm, self.tokenizer, self.value_layer, texts)

    def choose_keys(self, keys: Tensor, values: Tensor) -> RankOneKeys:
        """Mean prefixed key; the plain value, so that the residual is the change itself."""
        mean = keys[1:].mean(0)
        return RankOneKeys(mean, mean, values[0])

    def direction(self, chosen: RankOneKeys) -> Tensor:
        """``C⁻¹ k`` with the sink key taken out, ``(f,)``."""
        return sink_free(super().direction(chosen), self.sink, self.factors[self.value_layer])
