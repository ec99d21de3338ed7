"""How a model answers the items of downstream tasks: by choosing, or in its own words."""

from collections.abc import Callable, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_modules.records import TaskItem

from .generation import generate
from .matching import MATCHES
from .positions import longest_text
from .scoring import Scores
from .tokens import Span, encode


def choose(
    score: Callable[[Sequence[Span]], Scores],
    tokenizer: PreTrainedTokenizerFast,
    items: Sequence[TaskItem],
    window: int,
) -> list[dict[str, float]]:
    """For each item, under its task's name, 1 if the model chooses correctly and 0 if not.

    The choice is the continuation with the highest log-probability, not divided by its length:
    lm-evaluation-harness' ``acc``. A single continuation is chosen if all its tokens are greedy.

    Args:
        score: scores spans on the model.
        tokenizer: the model's.
        items: with choices.
        window: maximum number of tokens that the model can read.
    """
    spans = [
        continuation_span(tokenizer, item.context, choice, window)
        for item in items
        for choice in item.choices
    ]
    scores = score(spans)
    sizes = [len(item.choices) for item in items]
    likelihoods = scores.log_prob.split(sizes)
    greedy = (scores.greedy == scores.length).split(sizes)
    return [
        {item.task: float(own[0] if len(own) == 1 else ours.argmax() == item.gold)}
        for item, ours, own in zip(items, likelihoods, greedy, strict=True)
    ]


def continuation_span(
    tokenizer: PreTrainedTokenizerFast, context: str, continuation: str, window: int
) -> Span:
    """A context and its continuation tokenized as one text, truncated on the left if too long.

    Blanks at the context's end belong to the continuation. The last token is predicted but not
    read, so one token more than the window remains.

    Raises:
        ValueError: if the continuation alone is longer than the window.
    """
    tokens, offsets = encode(tokenizer, context + continuation)
    boundary = len(context.rstrip())
    start = next(number for number, (_, end) in enumerate(offsets) if end > boundary)
    cut = max(0, len(tokens) - window - 1)
    if start - cut < 1:
        raise ValueError(
            f"the answer {continuation[:40]!r} has {len(tokens) - start} tokens, more than the "
            f"model's window of {window}; leave its task out of data.tasks.names"
        )
    return Span(tokens[cut:], start - cut)


def write_answers(
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    items: Sequence[TaskItem],
    new_tokens: int,
) -> list[dict[str, float]]:
    """How well the model's greedy text matches each item's accepted answers.

    Args:
        lm: the model.
        tokenizer: its tokenizer.
        items: without choices, all with the same ``until``.
        new_tokens: maximum length of an answer; half the model's window if that is less.
    """
    room = min(new_tokens, longest_text(lm) // 2)
    contexts = [item.context for item in items]
    said = generate(lm, tokenizer, contexts, items[0].until, room) if items else []
    return [MATCHES[item.task](text, item.answers) for item, text in zip(items, said, strict=True)]
