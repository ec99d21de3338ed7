"""A model's maximum text length, and longer texts in windows of that length."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerFast

from .scoring import Scores
from .tokens import Span, target_span, text_span

NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


class Reach(NamedTuple):
    """Limits of a model and its method, known before the weights are loaded.

    Attributes:
        lm: the model's name.
        method: the method's name.
        needs_subject: whether the method edits at a subject's token.
        positions: tokens that the model reads at once; None if there is no limit.
        before: maximum number of tokens that the method puts before a prompt.
        tokenizer: the model's.
    """

    lm: str
    method: str
    needs_subject: bool
    positions: int | None
    before: int
    tokenizer: PreTrainedTokenizerFast

    def tokens(self, prompt: str, target: str = "") -> int:
        """Number of tokens of a prompt and its target, including special tokens."""
        return len(target_span(self.tokenizer, prompt, target).tokens)

    def watched_tokens(self, text: str) -> int:
        """Number of tokens of a watched text, which has no special tokens."""
        return len(text_span(self.tokenizer, text).tokens)


def positions_of(config: PretrainedConfig) -> int | None:
    """Tokens that a model reads at once; None if its configuration sets no limit."""
    text = config.get_text_config()
    found = (getattr(text, name, None) for name in NAMES)
    return next((number for number in found if isinstance(number, int) and number > 1), None)


def windows(span: Span, length: int | None) -> list[Span]:
    """A text split into pieces the model can read; every token but the first is predicted once.

    Each piece begins with the last token of the previous one.

    Args:
        span: a watched text.
        length: tokens per piece; None keeps the text whole.
    """
    if length is None or len(span.tokens) <= length:
        return [span]
    begins = range(0, len(span.tokens) - 1, length - 1)
    return [Span(span.tokens[at : at + length], 1) for at in begins]


def scores_in_windows(
    texts: Sequence[Span], length: int | None, score: Callable[[list[Span]], Scores], copies: int
) -> Scores:
    """Scores of texts that may be longer than the model reads at once.

    Args:
        texts: watched texts.
        length: tokens that the model reads at once; None if there is no limit.
        score: scores pieces, each repeated ``copies`` times.
        copies: number of repetitions of each text.
    """
    pieces = [windows(text, length) for text in texts]
    scores = score([piece for own in pieces for piece in own])
    return of_texts(scores, list(map(len, pieces)), copies)


def of_texts(scores: Scores, pieces: Sequence[int], copies: int = 1) -> Scores:
    """Scores of texts from the scores of their pieces.

    Args:
        scores: of all pieces, text by text, copy by copy.
        pieces: number of pieces per text.
        copies: number of times each text was scored.
    """
    if all(count == 1 for count in pieces):
        return scores
    counts = torch.tensor([*pieces] * copies)
    text = torch.arange(len(counts)).repeat_interleave(counts)

    def total(part: Tensor) -> Tensor:
        return part.new_zeros(len(counts)).index_add_(0, text, part)

    return Scores(
        total(scores.log_prob), total(scores.length), total(scores.greedy), scores.guesses
    )
