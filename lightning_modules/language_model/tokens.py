"""Where the subject ends and the target lies, by character offsets of the whole text."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


class Span(NamedTuple):
    """Tokens of one text, of which ``tokens[start:]`` are to be predicted.

    Attributes:
        tokens: token ids.
        start: index of the first predicted token, at least 1.
        subject: index of the subject's last token, where a subject was asked for.
    """

    tokens: list[int]
    start: int
    subject: int = -1


class TokenBatch(NamedTuple):
    """Right-padded tokens, their attention mask and position ids, each ``(b, t)``."""

    tokens: Tensor
    mask: Tensor
    positions: Tensor


def text_span(tokenizer: PreTrainedTokenizerFast, text: str) -> Span:
    """A text without special tokens, all but its first token predicted: the papers' perplexity."""
    return Span(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], 1)


def begins_texts(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether the tokenizer puts a BOS before a text."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][0] == bos


def begun_span(tokenizer: PreTrainedTokenizerFast, text: str) -> Span:
    """A text behind BOS, all its tokens predicted; one that begins with BOS gets no second one."""
    tokens, bos = text_span(tokenizer, text).tokens, tokenizer.bos_token_id
    return Span(tokens if tokens[:1] == [bos] else [bos, *tokens], 1)


def target_span(
    tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    target: str,
    subject_end: int | None = None,
) -> Span:
    """A prompt and its target, joined by one blank and tokenized as one text.

    Target tokens are those that reach beyond the prompt's last character. The subject's last
    token is the last one that begins before ``subject_end``.

    Args:
        tokenizer: a fast tokenizer, for its offsets.
        prompt: the text before the target; blanks at its end do not count.
        target: the text to predict; blanks around it do not count; may be empty.
        subject_end: number of characters of the prompt up to the subject's end.

    Raises:
        ValueError: if the target has no token of its own, or no token before it.
    """
    prompt, target = prompt.rstrip(), target.strip()
    text = f"{prompt} {target}" if target else prompt
    encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
    offsets = encoded["offset_mapping"]
    real = [number for number, (begin, end) in enumerate(offsets) if end > begin]
    start = next((n for n in real if offsets[n][1] > len(prompt)), len(offsets))
    if target and start == len(offsets):
        raise ValueError(f"target {target!r} has no token of its own behind {prompt!r}")
    if target and start == 0:
        raise ValueError(f"nothing stands before the target {target!r}: the prompt is empty")
    tokens = encoded["input_ids"][: real[-1] + 1]
    if subject_end is None:
        return Span(tokens, start)
    return Span(tokens, start, max(n for n in real if offsets[n][0] < subject_end))


def request_span(
    tokenizer: PreTrainedTokenizerFast, prompt: str, subject: str, target: str
) -> Span:
    """A template with one ``{}``, its subject and a target, with the subject's last token.

    Raises:
        ValueError: if there is no subject.
    """
    if not subject:
        raise ValueError(f"{prompt!r} names no subject, at whose last token it would be edited")
    end = prompt.index("{}") + len(subject)
    return target_span(tokenizer, prompt.replace("{}", subject, 1), target, end)


def first_token(tokenizer: PreTrainedTokenizerFast, text: str) -> Span:
    """A text up to its first token that is no special one; ``subject`` is that token's index."""
    encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
    first = next(n for n, (begin, end) in enumerate(encoded["offset_mapping"]) if end > begin)
    return Span(encoded["input_ids"][: first + 1], first + 1, first)


def collate(rows: Sequence[Sequence[int]], device: torch.device) -> TokenBatch:
    """Rows of tokens as one right-padded batch, ``(b, t)``; the padding is masked."""
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = torch.tensor(row)
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    mask = (positions < lengths[:, None]).long()
    return TokenBatch(tokens.to(device), mask.to(device), positions.to(device))


def fast(tokenizer: PreTrainedTokenizerBase, name: str) -> PreTrainedTokenizerFast:
    """The tokenizer itself.

    Raises:
        ValueError: if it does not report character offsets.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(
            f"the tokenizer of {name!r} is not a fast one and gives no character offsets, which "
            "locate the subject; save the model with a tokenizer.json"
        )
    return tokenizer
