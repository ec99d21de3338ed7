"""Target tokens for fine-tuning, their positions and their loss."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from transformers import PreTrainedModel

from .lower_states import LowerStates
from .passes import heads_only_at
from .tokens import Span, collate

Placement = Literal["last_token", "teacher_forced"]


class Targets(NamedTuple):
    """Texts and the tokens that their logits should predict.

    Attributes:
        texts: tokens of each text, ``b`` rows.
        rows: ``(n,)``, the text of each target token.
        columns: ``(n,)``, the position of its logits.
        tokens: ``(n,)``, target tokens.
    """

    texts: list[list[int]]
    rows: Tensor
    columns: Tensor
    tokens: Tensor


def place_targets(spans: Sequence[Span], placement: Placement, device: torch.device) -> Targets:
    """Every target token of the spans, at its own position or at its prompt's last token.

    Args:
        spans: prompts and targets; padding and special tokens before ``start`` are not targets.
        placement: ``teacher_forced`` predicts each token from the tokens before it;
            ``last_token`` predicts all of them from the prompt, which is then the whole text.
        device: of the model.
    """
    forced = placement == "teacher_forced"
    places = [
        (row, (at if forced else span.start) - 1, span.tokens[at])
        for row, span in enumerate(spans)
        for at in range(span.start, len(span.tokens))
    ]
    texts = [span.tokens[: len(span.tokens) - 1 if forced else span.start] for span in spans]
    return Targets(texts, *torch.tensor(places, device=device).T)


def target_loss(
    lm: PreTrainedModel, weights: Mapping[str, Tensor], targets: Targets, lower: LowerStates
) -> Tensor:
    """Mean over texts of the mean NLL of their target tokens, a scalar, in nats.

    Gradients reach only the given weights; layers below them run once per text.

    Args:
        lm: the model, frozen.
        weights: parameters to use in place of the model's own, by name.
        targets: tokens to predict.
        lower: caches the hidden states below the lowest of the weights.
    """
    batch = collate(targets.texts, targets.tokens.device)
    options = {"attention_mask": batch.mask, "position_ids": batch.positions, "use_cache": False}
    with lower.reused(lm, targets.texts), heads_only_at(lm, targets.rows, targets.columns):
        logits = functional_call(lm, dict(weights), (batch.tokens,), options).logits[0].float()
    nll = F.cross_entropy(logits, targets.tokens, reduction="none")
    return (nll / targets.rows.bincount()[targets.rows]).sum() / len(targets.texts)
