"""Sampled texts, each from random numbers of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from .generation import own_settings_removed, padded_left, prompt_room
from .tokens import collate, encode


def sample_texts(
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    draws: Tensor,
    top_k: int = 5,
) -> list[str]:
    """Top-k samples of texts of a given number of tokens, the prompt's own included.

    As in ROME's evaluation, a text ends at that number and nowhere before, and is returned with its
    prompt. Special tokens are left out of it. A prompt that is longer stands alone.

    Args:
        lm: the model; its own generation settings do not apply.
        tokenizer: its tokenizer.
        prompts: beginnings of the texts.
        draws: ``(n, t)`` in [0, 1): the random number of each token, ``t`` tokens per text. A text
            depends on its own row alone.
        top_k: number of most probable tokens to draw from.

    Raises:
        ValueError: if a prompt is empty, or the model cannot read ``t`` tokens.
    """
    if not all(map(str.strip, prompts)):
        raise ValueError("nothing can be sampled: a prompt is empty")
    length = draws.shape[1]
    prompt_room(lm, length - 1)  # refuses texts that are longer than the model reads
    rows = [encode(tokenizer, prompt).tokens for prompt in prompts]
    unfinished = [number for number, row in enumerate(rows) if len(row) < length]
    if unfinished:
        given = [rows[number] for number in unfinished]
        batch = padded_left(collate(given, lm.device))
        drawing = Drawing(draws[unfinished], [len(row) for row in given], top_k)
        with own_settings_removed(lm):
            tokens = lm.generate(  # type: ignore[operator] # GenerationMixin's
                batch.tokens,
                attention_mask=batch.mask,
                position_ids=batch.positions,
                max_new_tokens=length - min(map(len, given)),
                logits_processor=LogitsProcessorList([drawing]),
            )
        for number, row, padding in zip(
            unfinished, tokens.tolist(), batch.mask.argmax(1).tolist(), strict=True
        ):
            rows[number] = row[padding : padding + length]
    return [_decoded(tokenizer, row) for row in rows]


class Drawing(LogitsProcessor):
    """Leaves one token possible in each row, drawn from the ``top_k`` most probable.

    Args:
        draws: ``(b, t)`` in [0, 1), by the token's place in its text.
        lengths: of the prompts, in tokens.
        top_k: number of tokens to draw from.
    """

    def __init__(self, draws: Tensor, lengths: Sequence[int], top_k: int) -> None:
        self.draws = draws
        self.lengths = torch.tensor(lengths)
        self.top_k = top_k
        self.begin = max(lengths)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits of which one per row is finite, ``(b, v)``."""
        place = (self.lengths + input_ids.shape[1] - self.begin).clamp(max=self.draws.shape[1] - 1)
        draw = self.draws.gather(1, place[:, None]).to(scores.device)
        pool, tokens = scores.double().topk(min(self.top_k, scores.shape[1]))
        below = pool.softmax(1).cumsum(1) <= draw  # NaN, of a destroyed model, is below nothing
        chosen = tokens.gather(1, below.sum(1, keepdim=True).clamp(max=tokens.shape[1] - 1))
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


def _decoded(tokenizer: PreTrainedTokenizerFast, row: list[int]) -> str:
    return str(tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False))
