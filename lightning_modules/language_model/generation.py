"""Greedy continuations of prompts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    StoppingCriteriaList,
)

from .positions import longest_text
from .rope import rope_boundary
from .scoring import batches_by_length
from .tokens import TokenBatch, collate, target_span


def generate(
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    until: Sequence[str],
    max_new_tokens: int = 50,
    batch_tokens: int = 4096,
) -> list[str]:
    """Greedy decoding of each prompt up to a stop, an end token or the limit.

    Prompts are encoded as for judging, by :func:`target_span`: with the tokenizer's special
    tokens, and without trailing blanks, which belong to the continuation. A prompt too long for
    the model is truncated on the left.

    Args:
        lm: the model; of its own generation settings only the end tokens apply.
        tokenizer: its tokenizer.
        prompts: texts to continue.
        until: stops; the first to occur ends a continuation and is not part of it. A special token
            may be one.
        max_new_tokens: of a continuation.
        batch_tokens: maximum tokens of a batch, including padding and continuations.

    Returns:
        Each prompt's continuation, including a leading blank.

    Raises:
        ValueError: if a prompt or a stop is empty, or the limit leaves no room for a prompt.
    """
    room = prompt_room(lm, max_new_tokens)
    if "" in until or not all(map(str.strip, prompts)):
        raise ValueError("nothing can be generated: a prompt or a text of until is empty")
    rows = [target_span(tokenizer, prompt, "").tokens for prompt in prompts]
    rows = [row[-room:] for row in rows]
    texts = [""] * len(rows)
    lengths = [len(row) + max_new_tokens for row in rows]
    for numbers in _batches(lengths, batch_tokens, rope_boundary(lm)):
        batch = padded_left(collate([rows[number] for number in numbers], lm.device))
        speech = Speech(lm, tokenizer, batch.tokens, until)
        with own_settings_removed(lm):
            tokens = lm.generate(  # type: ignore[operator] # GenerationMixin's
                batch.tokens,
                attention_mask=batch.mask,
                position_ids=batch.positions,
                max_new_tokens=max_new_tokens,
                stopping_criteria=StoppingCriteriaList([speech]),
            )
        for number, (text, _) in zip(numbers, speech.heard(tokens), strict=True):
            texts[number] = text
    return texts


def _batches(lengths: list[int], batch_tokens: int, boundary: int | None) -> Iterator[list[int]]:
    """Texts of similar length; each that may cross the boundary is a batch of its own."""
    for numbers in batches_by_length(lengths, batch_tokens, boundary):
        if boundary is not None and lengths[numbers[0]] > boundary:
            yield from ([number] for number in numbers)
        else:
            yield numbers


def prompt_room(lm: PreTrainedModel, max_new_tokens: int) -> int:
    """Maximum tokens of a prompt that leave room for ``max_new_tokens`` in the model's window.

    Raises:
        ValueError: if no prompt fits.
    """
    window = longest_text(lm)
    if not 0 < max_new_tokens < window:
        raise ValueError(
            f"max_new_tokens must be positive and leave room for a prompt in the model's window of "
            f"{window} tokens, got {max_new_tokens}"
        )
    return window - max_new_tokens


class Speech(StoppingCriteria):
    """The text of a batch so far; ends generation when every row has ended.

    Args:
        lm: the model, for its end tokens.
        tokenizer: its tokenizer.
        prompts: ``(b, t)``, padded on the left.
        until: texts that end a row.
    """

    def __init__(
        self,
        lm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        prompts: Tensor,
        until: Sequence[str],
    ) -> None:
        ends: Any = lm.generation_config and lm.generation_config.eos_token_id
        self.ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        self.ends |= {i for token, i in tokenizer.get_added_vocab().items() if token in until}
        self.tokenizer = tokenizer
        self.begin = prompts.shape[1] - 1  # tokenizers of Llama's kind drop a text's first blank
        self.until = until

    def __call__(self, input_ids: Tensor, scores: Any, **options: Any) -> Tensor:
        """Whether each row has ended, ``(b,)``."""
        over = [over for _, over in self.heard(input_ids)]
        return torch.tensor(over, device=input_ids.device)

    def heard(self, tokens: Tensor) -> list[tuple[str, bool]]:
        """Each row's continuation up to its end, and whether it has ended.

        Args:
            tokens: ``(b, t)``, prompts and continuations.
        """
        return [self._heard(row) for row in tokens[:, self.begin :].tolist()]

    def _heard(self, row: list[int]) -> tuple[str, bool]:
        said = next((n for n, token in enumerate(row) if n and token in self.ends), len(row))
        text = self._decoded(row[:said])[len(self._decoded(row[:1])) :]
        stop = min((text.find(stop) for stop in self.until if stop in text), default=None)
        return text[:stop], said < len(row) or stop is not None

    def _decoded(self, row: list[int]) -> str:
        return str(
            self.tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )


def padded_left(batch: TokenBatch) -> TokenBatch:
    """A right-padded batch with its padding moved to the left; positions skip padding."""
    shifts = batch.mask.shape[1] - batch.mask.sum(1)
    columns = torch.arange(batch.mask.shape[1], device=batch.mask.device) - shifts[:, None]
    source = columns % batch.mask.shape[1]
    return TokenBatch(
        batch.tokens.gather(1, source), batch.mask.gather(1, source), columns.clamp(min=0)
    )


@contextmanager
def own_settings_removed(lm: PreTrainedModel) -> Iterator[None]:
    """Inside, the model's own generation settings, such as sampling or penalties, are removed."""
    own = lm.generation_config
    lm.generation_config = GenerationConfig()
    try:
        yield
    finally:
        lm.generation_config = own
