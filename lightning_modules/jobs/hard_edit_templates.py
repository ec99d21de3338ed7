"""HardEdit without a language model: one-word subjects in the relations of other facts."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

from data_modules.records import EditRequest

from .hard_edit import HardEditSource
from .hard_edit_points import FIELDS, Point


class HardEditTemplates(HardEditSource):
    """Data points of known facts: a one-word subject, a relation that fits, a false answer.

    A relation is a wording that begins with its subject. It fits a subject whose answer is among
    its answers; another of these becomes the target. Requests of one batch share relations and
    answers, so put all of them into one batch by a large ``--data.batch_size``.

    Args:
        number: of data points; one per subject if null.
    """

    def __init__(self, number: int | None = None, seed: int = 0) -> None:
        super().__init__(number, seed)

    def propose(self, batch: Sequence[EditRequest]) -> Iterator[Point | str]:
        """One data point per request with a one-word subject and a true answer."""
        draw = random.Random(self.seed)
        answers: dict[str, set[str]] = defaultdict(set)
        known = [request for request in batch if request.target_true]
        for request in known:
            for wording in relations(request):
                answers[wording].add(request.target_true)
        for request in draw.sample(known, len(known)):
            if len(request.subject.split()) > 1:
                continue
            fitting = sorted(
                wording
                for wording, others in answers.items()
                if request.target_true in others and len(others) > 1
            )
            if not fitting:
                yield "no relation fits the subject"
                continue
            wording = draw.choice(fitting)
            target = draw.choice(sorted(answers[wording] - {request.target_true}))
            texts = (
                wording.replace("{}", request.subject),
                request.subject,
                target,
                request.target_true,
            )
            yield dict(zip(FIELDS, texts, strict=True))


def relations(request: EditRequest) -> list[str]:
    """A request's wordings that begin with the subject, with a ``{}`` in its place."""
    begin = f"{request.subject} "
    texts = [text for text in (request.text, *request.paraphrases) if text.startswith(begin)]
    return [f"{{}} {text.removeprefix(begin)}" for text in texts if "{" not in text]
