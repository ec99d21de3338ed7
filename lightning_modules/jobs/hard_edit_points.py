"""Data points in HardEdit's form: read from a model's answer, and checked one by one."""

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

from data_modules.records import EditRequest

Point = dict[str, Any]
FIELDS = ("prompt", "subject", "target_new", "ground_truth")
NO_OBJECT = "no JSON object in the answer"
BROKEN = "broken JSON"


def as_point(request: EditRequest) -> Point:
    """A request in HardEdit's form."""
    texts = (request.text, request.subject, request.target_new, request.target_true)
    return dict(zip(FIELDS, texts, strict=True))


def points_in(answer: str) -> Iterator[Point | str]:
    """The JSON objects in an answer with any text around them, or their faults.

    Only objects without a nested one count, and a truncated object if it begins like a data point.
    """
    found = re.findall(r"\{[^{}]*\}?", answer)
    objects = [text for text in found if text.endswith("}") or '"prompt"' in text]
    if not objects:
        yield NO_OBJECT
    for text in objects:
        try:
            yield json.loads(text)
        except ValueError:
            yield BROKEN


def fault(point: Point, used: Collection[str]) -> str:
    """Why a data point cannot be used; empty if it can.

    This cannot check whether the targets are nouns and the sentences make sense, or whether two
    words were written as one in lower case.

    Args:
        point: a text for each field.
        used: subjects, in lower case, that must not occur again.
    """
    for name in FIELDS:
        if not isinstance(point.get(name), str) or not point[name].strip():
            return f"no {name}"
    prompt, subject, new, true = (point[name].strip() for name in FIELDS)
    if not re.fullmatch(r"[^\W\d_]+", subject):
        return "subject not one word"
    if re.search(r"[^\W\d_A-Z][A-Z]", subject):
        return "subject a compound"
    words = re.findall(r"\w+|[^\w\s]", prompt)
    if words[0] != subject or len(words) < 2:
        return "prompt does not begin with its subject and go on"
    if [w.casefold() for w in words].count(subject.casefold()) > 1 or "{}" in prompt:
        return "prompt does not have its subject once"
    if new.casefold() in (true.casefold(), subject.casefold()):
        return "targets do not differ"
    if prompt.casefold().endswith((f" {new.casefold()}", f" {true.casefold()}")):
        return "prompt already names its object"
    return "subject not new" if subject.casefold() in used else ""
