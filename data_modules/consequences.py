"""What follows from an edit of an embedded fact: its negation, its reversal, one hop further."""

import json
from collections.abc import Iterator
from typing import NamedTuple

from .embedded import FOLDER
from .records import Consequence, EditRequest


class Relation(NamedTuple):
    """A relation of the embedded facts, and how its consequences are worded.

    Attributes:
        prompt: the request's prompt, ``{}`` for the subject.
        facts: the true answer of each subject.
        negation: the prompt that denies the fact, ``{}`` for the subject.
        reversal: the prompt that asks for the subject, ``{}`` for the answer.
        answer: a description of the answer, ``{}`` for the subject; empty if nothing is known of
            the answers.
    """

    prompt: str
    facts: dict[str, str]
    negation: str
    reversal: str
    answer: str = ""


class Consequences:
    """Consequences of requests for embedded facts; other requests have none.

    A model assents to a negated new fact if it prefers the new answer to the true one there. A
    reversed fact must call up the subject rather than one whose answer is another. One hop further
    lies a fact about the new answer, asked by a description of that answer.
    """

    def __init__(self) -> None:
        facts = json.loads((FOLDER / "facts.json").read_text("utf-8"))
        wordings = json.loads((FOLDER / "consequences.json").read_text("utf-8"))
        relations = [
            Relation(found["prompt"], found["facts"], **wordings[found["relation"]])
            for found in facts
        ]
        self.relations = {relation.prompt: relation for relation in relations}

    def of(self, request: EditRequest) -> list[Consequence]:
        """All consequences of a request."""
        relation = self.relations.get(request.prompt)
        if relation is None:
            return []
        return [*_negation(relation, request), *_reversal(relation, request), *self._hops(request)]

    def _hops(self, request: EditRequest) -> Iterator[Consequence]:
        described = self.relations[request.prompt].answer.replace("{}", request.subject)
        named = {request.subject, request.target_new, request.target_true}
        for further in self.relations.values() if described else ():
            answer = further.facts.get(request.target_new)
            rival = further.facts.get(request.target_true)
            if answer and rival and answer != rival and not {answer, rival} & named:
                prompt = further.prompt.replace("{}", described)
                yield Consequence("one_hop", prompt[0].upper() + prompt[1:], answer, rival)


def _negation(relation: Relation, request: EditRequest) -> Iterator[Consequence]:
    prompt = relation.negation.replace("{}", request.subject)
    yield Consequence("negation", prompt, request.target_true, request.target_new)


def _reversal(relation: Relation, request: EditRequest) -> Iterator[Consequence]:
    """The rival is the first neighbor whose answer is not the new one, edited or not."""
    names = {
        relation.prompt.replace("{}", other): other
        for other, answer in relation.facts.items()
        if answer != request.target_new and other != request.subject
    }
    rival = next((names[p.prompt] for p in request.neighborhood if p.prompt in names), None)
    if rival:
        prompt = relation.reversal.replace("{}", request.target_new)
        yield Consequence("reversal", prompt[0].upper() + prompt[1:], request.subject, rival)
