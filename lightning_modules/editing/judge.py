"""Evaluates requests on the current model, beside the unedited model's answers to neighbors."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_modules.records import EditRequest, Probe, TaskItem

from ..language_model.answering import choose, write_answers
from ..language_model.judging import Answered, answers, measures, neighbors, questions
from ..language_model.lower_states import LowerStates
from ..language_model.positions import longest_text
from ..language_model.scoring import Scores
from ..language_model.tokens import Span
from .replicas import Place

QUESTIONS_MEMORY = 2**27  # bytes; a request is evaluated before its edit and again after it


def answer(
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    items: Sequence[TaskItem],
    score: Callable[[Sequence[Span]], Scores],
    share: Place,
    new_tokens: int,
) -> list[dict[str, float]]:
    """Scores of the current model on each item of one task; devices share what is written.

    Args:
        lm: the model.
        tokenizer: its tokenizer.
        items: as the model is asked.
        score: scores of spans on the model, by all devices.
        share: which of the devices this is.
        new_tokens: most tokens of a generated answer.
    """
    if items[0].choices:
        return choose(score, tokenizer, items, longest_text(lm))
    own = write_answers(lm, tokenizer, items[share.rank :: share.devices], new_tokens)
    numbered = dict(zip(range(share.rank, len(items), share.devices), own, strict=True))
    found = share.joined(numbered, lm.device)
    return [found[number] for number in range(len(items))]


class Judge:
    """Asks the model the questions of requests; keeps the unedited model's answers to neighbors.

    Args:
        tokenizer: the model's.
        score: scores of spans on the current model, given hidden states below the edit to reuse.
        lowest: the lowest layer under edit.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        score: Callable[[Sequence[Span], LowerStates | None], Scores],
        lowest: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.score = score
        self.asked = LowerStates(lowest, QUESTIONS_MEMORY, newest=True)
        self.unedited_guesses: dict[tuple[Probe, ...], list[list[int]]] = {(): []}

    def judged(
        self,
        worded: Sequence[EditRequest],
        plain: Sequence[EditRequest],
        unedited: Callable[[], AbstractContextManager] | None,
    ) -> list[dict[str, float]]:
        """Measures of each request's answers, by name.

        Args:
            worded: the requests as they are evaluated.
            plain: the same requests in their own words.
            unedited: inside it the model is the unedited one; None if that is what it is.
        """
        answered = answers(self.again, self.tokenizer, [questions(request) for request in worded])
        if unedited is None:
            self.remember(plain, answered)
        else:
            self.ask_unedited(plain, unedited)
        return [
            measures(groups, self.unedited_guesses[request.neighborhood])
            for request, groups in zip(plain, answered, strict=True)
        ]

    def ask_unedited(
        self, requests: Sequence[EditRequest], unedited: Callable[[], AbstractContextManager]
    ) -> None:
        """Puts neighbors that are new to the unedited model."""
        new = [request for request in requests if request.neighborhood not in self.unedited_guesses]
        if new:
            with unedited():
                own = answers(self.once, self.tokenizer, [neighbors(request) for request in new])
            self.remember(new, own)

    def remember(self, requests: Sequence[EditRequest], answered: Sequence[Answered]) -> None:
        """Stores the unedited model's answers to the requests' neighbors."""
        for request, groups in zip(requests, answered, strict=True):
            said = [answer.guesses for answer in groups["neighborhood"]]
            self.unedited_guesses[request.neighborhood] = said

    def again(self, spans: Sequence[Span]) -> Scores:
        """Scores of spans that come again, from the lowest edited layer on."""
        return self.score(spans, self.asked)

    def once(self, spans: Sequence[Span]) -> Scores:
        """Scores of spans whose hidden states are not kept."""
        return self.score(spans, None)
