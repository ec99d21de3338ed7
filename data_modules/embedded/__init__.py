"""The defaults that need no network: facts, sentences, and a model that knows them."""

import json
import random
from pathlib import Path

from ..records import EditRequest, Probe

FOLDER = Path(__file__).parent
NEIGHBORS = 6


def embedded_requests() -> list[EditRequest]:
    """The embedded facts as edit requests, in a fixed order.

    Each request's target is another answer of the same relation. Its neighbors are other subjects
    of that relation, those with the same answer first, each with its own answer.
    """
    draw = random.Random(0)
    relations = json.loads((FOLDER / "facts.json").read_text())
    facts = [(relation, subject) for relation in relations for subject in relation["facts"]]
    draw.shuffle(facts)
    return [_request(number, *fact, draw) for number, fact in enumerate(facts)]


def _request(number: int, relation: dict, subject: str, draw: random.Random) -> EditRequest:
    answers = relation["facts"]
    true = answers[subject]
    others = [other for other in answers if other != subject]
    draw.shuffle(others)
    others.sort(key=lambda other: answers[other] != true)
    return EditRequest(
        case_id=number,
        prompt=relation["prompt"],
        subject=subject,
        target_new=draw.choice(sorted(set(answers.values()) - {true})),
        target_true=true,
        paraphrases=tuple(wording.replace("{}", subject) for wording in relation["paraphrases"]),
        neighborhood=tuple(
            Probe(relation["prompt"].replace("{}", other), answers[other])
            for other in others[:NEIGHBORS]
        ),
    )


def embedded_hard_cases() -> list[EditRequest]:
    """The embedded requests that are hard for the embedded model under single ROME edits."""
    hard = json.loads((FOLDER / "hard_cases.json").read_text())
    return [request for request in embedded_requests() if str(request.case_id) in hard]


def embedded_sentences() -> list[str]:
    """Sentences to watch perplexity on, written for this project in ME-PPL's form."""
    return [row["Text"] for row in json.loads((FOLDER / "sentences.json").read_text())]
