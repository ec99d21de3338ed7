"""Positions of subject and target, by character offsets in the whole text."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from data_modules.records import EditRequest

from .joining import separator


class Span(NamedTuple):
    """Tokens of one text; ``tokens[start:]`` are to be predicted.

    Attributes:
        tokens: token ids.
        start: index of the first predicted token, at least 1.
        subject: index of the subject's last token, if a subject was given.
    """

    tokens: list[int]
    start: int
    subject: int = -1


class Encoded(NamedTuple):
    """Tokens of a text and the characters that each covers, ``[begin, end)``."""

    tokens: list[int]
    offsets: list[tuple[int, int]]


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
    """A text after BOS, all its tokens predicted; one that begins with BOS gets no second one."""
    tokens, bos = text_span(tokenizer, text).tokens, tokenizer.bos_token_id
    return Span(tokens if tokens[:1] == [bos] else [bos, *tokens], 1)


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> Encoded:
    """A text with the special tokens that the tokenizer puts before it, but none after it.

    Added special tokens are those that cover no characters. A text that already begins with one of
    them, as a rendered chat template does, gets no second one.
    """
    encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
    tokens, offsets = encoded["input_ids"], encoded["offset_mapping"]
    real = [number for number, (begin, end) in enumerate(offsets) if end > begin]
    if not real:
        return Encoded([], [])
    written = tokens[real[0]] in tokens[: real[0]]
    kept = slice(real[0] if written else 0, real[-1] + 1)
    return Encoded(tokens[kept], offsets[kept])


def special_before(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The special tokens that the tokenizer puts before a text."""
    tokens, offsets = encode(tokenizer, "a")
    return tokens[: next(n for n, (begin, end) in enumerate(offsets) if end > begin)]


def target_span(
    tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    target: str,
    subject_end: int | None = None,
    between: str | None = None,
) -> Span:
    """A prompt and its target, joined by :func:`~joining.separator` and tokenized as one text.

    Target tokens are those that extend beyond the prompt's last character. Blanks at the prompt's
    end belong to the target, as its first token usually holds them; other white space does not.
    The subject's last token is the last one that begins before ``subject_end``.

    Args:
        tokenizer: a fast tokenizer, for its offsets.
        prompt: the text before the target.
        target: the text to predict; surrounding blanks do not count; may be empty.
        subject_end: number of characters of the prompt up to the subject's end.
        between: text between the two; overrides the default rule.

    Raises:
        ValueError: if the target has no token of its own, no token before it, or shares its first
            token with the subject.
    """
    target = target.strip()
    if between is None:
        between = separator(prompt, target) if target else ""
    given = (prompt + between).rstrip(" ")
    tokens, offsets = encode(tokenizer, prompt + between + target if target else given)
    real = [number for number, (begin, end) in enumerate(offsets) if end > begin]
    start = next((n for n in real if offsets[n][1] > len(given)), len(tokens))
    if target and start == len(tokens):
        raise ValueError(f"target {target!r} has no token of its own after {prompt!r}")
    if target and start == 0:
        raise ValueError(f"nothing precedes the target {target!r}: the prompt is empty")
    if subject_end is None:
        return Span(tokens, start)
    subject = max(n for n in real if offsets[n][0] < subject_end)
    if target and subject >= start:
        raise ValueError(
            f"the tokenizer makes one token of the subject's end and the target {target!r} after "
            f"{prompt!r}; separate them with --model.separator ' '"
        )
    return Span(tokens, start, subject)


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


def edit_span(
    tokenizer: PreTrainedTokenizerFast, request: EditRequest, context: str = "{}"
) -> Span:
    """A request as an edit reads it: after a context, in its frame, up to its target's end.

    Args:
        tokenizer: the model's.
        request: the fact to change.
        context: a template with one ``{}`` for the prompt, within the frame.
    """
    frame, prompt = request.frame, context.replace("{}", request.prompt, 1)
    target = request.target_new.strip() and request.target_new.strip() + frame.end
    if not request.subject:
        return target_span(tokenizer, frame.around(prompt), target, None, frame.separator)
    end = len(frame.before) + prompt.index("{}") + len(request.subject)
    text = frame.around(prompt.replace("{}", request.subject, 1))
    return target_span(tokenizer, text, target, end, frame.separator)


def located_span(
    tokenizer: PreTrainedTokenizerFast, request: EditRequest, context: str = "{}"
) -> Span:
    """The same for a request that an edit locates by its subject.

    Raises:
        ValueError: if it has no subject.
    """
    if not request.subject:
        raise ValueError(
            f"{request.prompt!r} names no subject, at whose last token it would be edited"
        )
    return edit_span(tokenizer, request, context)


def first_token(tokenizer: PreTrainedTokenizerFast, text: str) -> Span:
    """A text up to its first non-special token; ``subject`` is that token's index."""
    tokens, offsets = encode(tokenizer, text)
    first = next(n for n, (begin, end) in enumerate(offsets) if end > begin)
    return Span(tokens[: first + 1], first + 1, first)


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
