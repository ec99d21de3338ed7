"""A second language model as the judge of written answers, by yes or no."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_modules.records import Frame

from .chat import chat_frame
from .scoring import score
from .tokens import target_span

INSTRUCTION = """\
You are given a question or a sentence to complete, the expected answer, and a given answer.
Does the given answer mean the same as the expected answer? Reply with yes or no only.

Question: {question}
Expected answer: {wanted}
Given answer: {said}
Reply:"""
YES, NO = ("yes", "Yes"), ("no", "No")


class Reply(NamedTuple):
    """A question, the expected answer, and the given answer."""

    question: str
    wanted: str
    said: str


def verdicts(
    lm: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, replies: Sequence[Reply]
) -> list[float]:
    """1 for each reply if the judge gives *yes* a higher probability than *no*, else 0.

    Both words count with and without a capital. The judge's chat template is used if it has one.

    Args:
        lm: the judge.
        tokenizer: the judge's.
        replies: to be judged.
    """
    frame = chat_frame(tokenizer, "the judge") if tokenizer.chat_template else Frame()
    spans = [
        target_span(
            tokenizer,
            frame.around(INSTRUCTION.format(**reply._asdict())),
            word,
            None,
            frame.separator,
        )
        for reply in replies
        for word in (*YES, *NO)
    ]
    words = score(lm, spans).log_prob.reshape(-1, 2, len(YES)).logsumexp(-1)
    return torch.gt(*words.unbind(1)).double().tolist()
