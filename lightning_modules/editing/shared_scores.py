"""Scores of texts that several devices compute together."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from ..language_model.lower_states import LowerStates
from ..language_model.scoring import Batching, Scores, score
from ..language_model.tokens import Span
from .replicas import Place


def shared_scores(
    lm: PreTrainedModel,
    spans: Sequence[Span],
    batching: Batching,
    share: Place,
    lower: LowerStates | None,
    copies: int = 1,
) -> Scores:
    """Scores of spans: each device scores its share of the batches, all get the sum.

    Args:
        lm: the model, the same on every device.
        spans: texts and what is to be predicted.
        batching: size of the batches.
        share: this device's place among them.
        lower: hidden states below the edit to reuse.
        copies: how often each text is repeated.
    """
    place = share.rank, share.devices
    scores = score(lm, spans, batching, lower, copies, place)
    parts = [scores.log_prob, scores.greedy, scores.guesses]
    total = share.summed(torch.cat([part.double() for part in parts]), lm.device)
    log_prob, greedy, guesses = total.split([len(part) for part in parts])
    return Scores(log_prob, scores.length, greedy.long(), guesses.long())
