"""The attention sink: norms of states by position, and the share of attention on position 0."""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .experts import keys_at
from .hooks import first
from .layout import blocks, output_map
from .passes import recording, run
from .tokens import TokenBatch, collate

KINDS = ("hidden", "key", "value")
POSITIONS = ("0", "1", "2", "3", "later")


class TextStates(NamedTuple):
    """States of all tokens of texts, without padding.

    Attributes:
        position: ``(n,)``, of each token in its text.
        hidden: per layer ``(n,)``, norms of the block's output.
        keys: per layer ``(n, f)``, inputs of the MLP's output map, on the CPU.
        value: per layer ``(n,)``, norms of that map's output.
    """

    position: Tensor
    hidden: list[Tensor]
    keys: list[Tensor]
    value: list[Tensor]

    def norms(self, layer: int) -> dict[str, list[float]]:
        """Mean norms in a layer at each of ``POSITIONS``, by kind; NaN where no text is so long."""
        kinds = self.hidden[layer], self.keys[layer].norm(dim=1), self.value[layer]
        group = self.position.clamp(max=len(POSITIONS) - 1)
        return {
            kind: [float(norm[group == at].double().mean()) for at in range(len(POSITIONS))]
            for kind, norm in zip(KINDS, kinds, strict=True)
        }

    def leverage(self, layer: int, direction: Tensor, key: Tensor) -> dict[str, float]:
        """How far an edit moves tokens per length of its residual, over their hidden state's norm.

        That is ``|u · k_t| / (|u · k| ‖h_t‖)``: for ``leverage_first`` the mean over first tokens,
        for ``leverage_rest`` the root mean square over the others.

        Args:
            layer: the edited one.
            direction: ``(f,)``, u, of the update ``r uᵀ / (uᵀ k)``.
            key: ``(f,)``, k.
        """
        direction = direction.double().cpu()
        scores = (self.keys[layer].double() @ direction).abs() / self.hidden[layer].double()
        scores /= abs(float(direction @ key.double().cpu()))
        begins = self.position == 0
        return {
            "leverage_first": float(scores[begins].mean()),
            "leverage_rest": float(scores[~begins].square().mean().sqrt()),
        }


@torch.no_grad()
def text_states(lm: PreTrainedModel, rows: Sequence[Sequence[int]]) -> TextStates:
    """States of all layers at all tokens of texts, in one pass."""
    batch = collate(rows, lm.device)
    layers = range(len(blocks(lm)))
    maps = {("map", layer): output_map(lm, layer) for layer in layers}
    with recording({("block", layer): blocks(lm)[layer] for layer in layers} | maps) as seen:
        run(lm.base_model, batch)
    real = batch.mask.flatten().bool()

    def tokens(states: Tensor) -> Tensor:
        return states.reshape(len(real), -1)[real.to(states.device)].float().cpu()

    return TextStates(
        batch.positions.flatten()[real].cpu(),
        [tokens(first(seen["block", layer][1])).norm(dim=1) for layer in layers],
        [keys_at(seen["map", layer][0], real).float().cpu() for layer in layers],
        [tokens(seen["map", layer][1]).norm(dim=1) for layer in layers],
    )


@torch.no_grad()
def attention_on_first(lm: PreTrainedModel, rows: Sequence[Sequence[int]]) -> list[float] | None:
    """Share of attention on position 0 by layer, mean over heads and all later tokens of texts.

    Attention weights exist only in transformers' eager attention, to which a copy of the model is
    switched.

    Returns:
        One share per layer; None if the family returns no attention weights.
    """
    batch = collate(rows, lm.device)
    eager = copy.deepcopy(lm)
    eager.set_attn_implementation("eager")
    weights = [layer for layer in _weights(eager, batch) or () if layer is not None]
    if not weights:
        return None
    later = batch.mask.bool() & (batch.positions > 0)
    return [float(layer[..., 0].mean(1)[later].double().mean()) for layer in weights]


def _weights(lm: PreTrainedModel, batch: TokenBatch) -> Sequence[Tensor | None] | None:
    """Attention weights ``(b, heads, t, t)`` of each layer, if the family returns them."""
    return lm.base_model(
        batch.tokens,
        attention_mask=batch.mask,
        position_ids=batch.positions,
        use_cache=False,
        output_attentions=True,
    ).attentions
