"""How a model answers an edit request: efficacy, paraphrase, neighborhood and more."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from math import exp
from typing import NamedTuple

from transformers import PreTrainedTokenizerFast

from data_modules.records import EditRequest, Frame

from .scoring import Scores
from .tokens import Span, target_span

Score = Callable[[Sequence[Span]], Scores]

MEASURES = frozenset(
    [
        f"{group}{kind}"
        for group in ("efficacy", "paraphrase", "neighborhood", "attribute")
        for kind in ("", "_magnitude", "_token_accuracy", "_exact_match")
    ]
    + ["neighborhood_agreement", "portability_token_accuracy", "portability_exact_match"]
)


class Question(NamedTuple):
    """A prompt in its frame, the target answer and the one it must beat (empty if there is none).

    ``between`` separates prompt and answer; None applies the default rule. Other wordings of the
    answer may be ``accepted``: a match with any of them counts.
    """

    prompt: str
    wanted: str
    rival: str
    accepted: tuple[str, ...] = ()
    between: str | None = None


class Answer(NamedTuple):
    """A model's response to a question.

    Attributes:
        nll: of the target answer, mean per token, in nats.
        rival: of the one it must beat; None if there is none.
        matched: fraction of the target answer's tokens that are the greedy choice, or of an
            accepted answer's tokens if that is larger.
        guesses: the greedy choice at each of the target answer's tokens.
    """

    nll: float
    rival: float | None
    matched: float
    guesses: list[int]


Answered = Mapping[str, Sequence[Answer]]


def questions(request: EditRequest) -> dict[str, list[Question]]:
    """A request's questions: itself, its paraphrases, neighbors with their own answers, and more.

    ``attribute`` holds other subjects to which the new answer is the true one; portability what
    follows from the edit, which need not be scored before the edit.
    """
    new, true = request.target_new, request.target_true
    frame = request.frame
    near = [(p.prompt, p.answer, new, p.accepted) for p in request.neighborhood]
    further = [(p.prompt, p.answer, "", p.accepted) for p in request.portability]
    return {
        "efficacy": [_framed(frame, request.text, new, true)],
        "paraphrase": [_framed(frame, prompt, new, true) for prompt in request.paraphrases],
        "neighborhood": [_framed(frame, *question) for question in near],
        "portability": [_framed(frame, *question) for question in further],
        "attribute": [_framed(frame, prompt, new, true) for prompt in request.attributes],
    }


def neighbors(request: EditRequest) -> dict[str, list[Question]]:
    """Only the neighbors, without an answer to beat."""
    asked = [_framed(request.frame, p.prompt, p.answer, "") for p in request.neighborhood]
    return {"neighborhood": asked}


def _framed(
    frame: Frame, prompt: str, wanted: str, rival: str, accepted: tuple[str, ...] = ()
) -> Question:
    return Question(frame.around(prompt), wanted, rival, accepted, frame.separator)


def answers(
    score: Score,
    tokenizer: PreTrainedTokenizerFast,
    asked: Sequence[Mapping[str, Sequence[Question]]],
) -> list[Answered]:
    """The answers to each request's questions, group by group, scored in one call.

    Args:
        score: scores spans on the model.
        tokenizer: the model's.
        asked: each request's questions.
    """
    flat = [question for groups in asked for group in groups.values() for question in group]

    def span(question: Question, answer: str) -> Span:
        return target_span(tokenizer, question.prompt, answer, between=question.between)

    spans = [span(q, q.wanted) for q in flat]
    rivals = [span(q, q.rival) for q in flat if q.rival]
    others = [span(q, other) for q in flat for other in q.accepted]
    scores = score(spans + rivals + others)
    nll = scores.nll.tolist()
    matched = (scores.greedy / scores.length).tolist()
    other_matched = iter(matched[len(spans) + len(rivals) :])
    best = [max(matched[n], *islice(other_matched, len(q.accepted)), 0) for n, q in enumerate(flat)]
    guesses = scores.guesses.split(scores.length.tolist())
    rival_nll = iter(nll[len(spans) :])
    given = iter(
        Answer(nll[n], next(rival_nll) if q.rival else None, best[n], guesses[n].tolist())
        for n, q in enumerate(flat)
    )
    return [
        {name: [next(given) for _ in group] for name, group in groups.items()} for groups in asked
    ]


def stated(
    score: Score, tokenizer: PreTrainedTokenizerFast, requests: Sequence[EditRequest]
) -> set[EditRequest]:
    """Requests whose true answer is the model's greedy choice, token by token.

    Args:
        score: scores spans on the model.
        tokenizer: the model's.
        requests: one without a true answer is not stated.
    """
    asked = [request for request in requests if request.target_true]
    scores = score([target_span(tokenizer, r.text, r.target_true) for r in asked])
    right = (scores.greedy == scores.length).tolist()
    return {request for request, knows in zip(asked, right, strict=True) if knows}


def measures(answered: Answered, unedited: Sequence[Sequence[int]] = ()) -> dict[str, float]:
    """Success of each group of a request's answers, in [0, 1], by several protocols side by side.

    ``NAME`` is the fraction with P(wanted) > P(rival), by mean log-probability per token as in
    ROME's evaluation; ``NAME_magnitude`` the mean difference of these probabilities.
    ``NAME_token_accuracy`` is the fraction of the target answer's tokens that are the greedy choice
    under teacher forcing, as in EasyEdit's; ``NAME_exact_match`` the fraction of answers whose
    tokens all are. Both use the best of a probe's accepted answers, the others the first.
    ``neighborhood_agreement`` is EasyEdit's locality: the fraction of greedy choices at a
    neighbor's answer that equal the unedited model's, right or wrong. Measures that a request
    does not support are absent.

    Args:
        answered: by group.
        unedited: the unedited model's greedy tokens at each neighbor's answer.
    """
    result: dict[str, float] = {}
    for name, group in answered.items():
        duels = [(a.nll, a.rival) for a in group if a.rival is not None]
        if group:
            result[f"{name}_token_accuracy"] = _mean([a.matched for a in group])
            result[f"{name}_exact_match"] = _mean([float(a.matched == 1) for a in group])
        if duels:
            result[name] = _mean([float(nll < rival) for nll, rival in duels])
            result[f"{name}_magnitude"] = _mean([exp(-nll) - exp(-rival) for nll, rival in duels])
    if unedited:
        pairs = zip(answered["neighborhood"], unedited, strict=True)
        same = [[a == b for a, b in zip(now.guesses, old, strict=True)] for now, old in pairs]
        result["neighborhood_agreement"] = _mean([sum(hits) / len(hits) for hits in same])
    return result


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
