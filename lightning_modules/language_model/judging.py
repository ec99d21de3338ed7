"""How a model answers an edit request: efficacy, paraphrase and neighborhood."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerFast

from data_modules.records import EditRequest

from .scoring import Scores
from .tokens import Span, target_span


class Question(NamedTuple):
    """A prompt, the answer wanted and the one it must beat (empty if there is none)."""

    prompt: str
    wanted: str
    rival: str


def questions(request: EditRequest) -> dict[str, list[Question]]:
    """What a request asks: itself, its paraphrases, and its neighbors by their own answers."""
    new, true = request.target_new, request.target_true
    return {
        "efficacy": [Question(request.text, new, true)],
        "paraphrase": [Question(prompt, new, true) for prompt in request.paraphrases],
        "neighborhood": [Question(p.prompt, p.answer, new) for p in request.neighborhood],
    }


def judge(
    score: Callable[[Sequence[Span]], Scores],
    tokenizer: PreTrainedTokenizerFast,
    request: EditRequest,
) -> dict[str, float]:
    """Success of each group of a request's questions, in [0, 1].

    ``NAME`` is the fraction with P(wanted) > P(rival), by mean log-probability per token as in
    ROME's evaluation; ``NAME_magnitude`` the mean difference of these probabilities;
    ``NAME_token_accuracy`` the fraction of the wanted answer's tokens that are the greedy choice
    under teacher forcing, as in EasyEdit's. What a request cannot tell is absent.

    Args:
        score: scores spans on the model in question.
        tokenizer: the model's.
        request: whose questions are asked.
    """
    groups = questions(request)
    asked = [question for group in groups.values() for question in group]
    spans = [target_span(tokenizer, q.prompt, q.wanted) for q in asked]
    rivals = [target_span(tokenizer, q.prompt, q.rival) for q in asked if q.rival]
    scores = score(spans + rivals)
    probability = (-scores.nll).exp().tolist()
    nll = scores.nll.tolist()
    accuracy = (scores.greedy / scores.length).tolist()
    rival_numbers = iter(range(len(spans), len(spans) + len(rivals)))
    pairs = [(n, next(rival_numbers) if q.rival else None) for n, q in enumerate(asked)]
    result: dict[str, float] = {}
    remaining = iter(pairs)
    for name, group in groups.items():
        members = [next(remaining) for _ in group]
        duels = [(wanted, rival) for wanted, rival in members if rival is not None]
        if members:
            result[f"{name}_token_accuracy"] = _mean([accuracy[n] for n, _ in members])
        if duels:
            result[name] = _mean([float(nll[w] < nll[r]) for w, r in duels])
            result[f"{name}_magnitude"] = _mean([probability[w] - probability[r] for w, r in duels])
    return result


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
