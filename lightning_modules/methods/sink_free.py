"""Sink-free ROME: keys behind a prefix only, and an update that leaves the first token as it is."""

from collections.abc import Sequence

import torch
from torch import Tensor

from data_modules.records import EditRequest

from ..functional.rank_one import sink_free
from ..language_model.experts import count_experts, of_plain_experts
from ..language_model.keys import sink_key
from ..language_model.layout import output_map
from ..language_model.values import Recorded
from .rome import RankOneEditor, RankOneKeys


class SinkFreeROME(RankOneEditor):
    """ROME that neither reads position 0 nor writes to it.

    Its key k and value v are means over prefixed contexts. The search for the change δ is bounded
    by ``‖v‖``, not by the value in the plain prompt: where that is at position 0, it is tiny or
    huge. The direction is the nearest to ``C⁻¹ k`` that is orthogonal to the sink key s, the mean
    key at position 0 of the contexts: ``Δ = δ uᵀ / (uᵀ k)`` with
    ``u = C⁻¹ (k - s · sᵀ C⁻¹ k / sᵀ C⁻¹ s)``. So ``Δ k = δ`` and ``Δ s = 0``.
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

    def recorded(
        self,
        requests: Sequence[EditRequest],
        templates: Sequence[str] | None = None,
        layer: int | None = None,
    ) -> Recorded:
        """The requests' texts; the first value of each is the mean over its prefixed contexts."""
        recorded = super().recorded(requests, templates, layer)
        if recorded.texts < 3:  # the plain context and the essence prompt
            return recorded
        values = recorded.values.unflatten(0, (recorded.requests, -1)).clone()
        values[:, 0] = values[:, 1:-1].mean(1)
        return recorded._replace(values=values.flatten(0, 1))

    def choose_keys(self, keys: Tensor, values: Tensor) -> RankOneKeys:
        """Mean prefixed key and value."""
        mean = keys[1:].mean(0)
        return RankOneKeys(mean, mean, values[0])

    def direction(self, chosen: RankOneKeys) -> Tensor:
        """``C⁻¹ k`` with the sink key taken out, ``(f,)``; of experts, only in those of k."""
        experts = count_experts(output_map(self.lm, self.value_layer))
        pair = torch.stack([chosen.direction, self.sink.to(chosen.direction)])
        sink, direction = of_plain_experts(pair[None], experts)[0, 1], super().direction(chosen)
        if experts and not sink.any():  # first tokens go to other experts
            return direction
        return sink_free(direction, sink, self.factors[self.value_layer])
