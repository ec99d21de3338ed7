"""Hidden states after the last block, which the output head reads."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .lower_states import LowerStates
from .passes import run
from .positions import longest_text
from .rope import rope_boundary
from .scoring import batches_by_length
from .tokens import Span, collate


@torch.no_grad()
def last_states(
    lm: PreTrainedModel,
    spans: Sequence[Span],
    batch_tokens: int = 2048,
    lower: LowerStates | None = None,
) -> Tensor:
    """States behind the final norm, of all tokens but the last of each distinct text.

    The batches are those of :func:`scoring.score`, so that a cache of it serves here too; the same
    texts give the same order of rows. A text longer than the model's positions is cut.

    Args:
        lm: the model.
        spans: texts.
        batch_tokens: maximum tokens of a batch, padding included.
        lower: cache of hidden states below the edit.

    Returns:
        ``(n, d)``, float32 on the CPU.
    """
    lower = lower or LowerStates(0, 0)
    boundary = rope_boundary(lm)
    lengths = [len(span.tokens) for span in spans]
    found = []
    for numbers in batches_by_length(lengths, batch_tokens, boundary and boundary + 1):
        read = [spans[n].tokens[: max(1, lengths[n] - 1)][: longest_text(lm)] for n in numbers]
        rows = list(dict.fromkeys(map(tuple, read)))
        batch = collate(rows, lm.device)
        with lower.reused(lm, rows):
            states = run(lm.base_model, batch)[0]
        found.append(states[batch.mask.bool()].float().cpu())
    return torch.cat(found)
