"""What follows from an edit, as datasets in EasyEdit's forms tell it."""

from collections.abc import Iterator

from ..records import Probe
from .fields import Record

FORMS = (("prompt", "ground_truth"), ("prompt", "answer"), ("New Question", "New Answer"))


def portability(record: Record) -> tuple[Probe, ...]:
    """The probes at ``portability``, in a list or by their kinds; none where it is missing.

    Of several answers to one prompt, which mean the same, the first is taken.

    Raises:
        FaultyRecordError: if a prompt has no answer, or no prompt is found.
    """
    found = record.value("portability")
    return () if found is None else tuple(_probes(record, found))


def _probes(record: Record, found: object) -> Iterator[Probe]:
    if isinstance(found, list):
        for item in found:
            yield from _probes(record, item)
    elif isinstance(found, dict):
        form = next((form for form in FORMS if {*form} <= found.keys()), None)
        if form is None:
            yield from _probes(record, list(found.values()))
        else:
            yield from _pairs(record, *(found[name] for name in form))
    else:
        raise record.fault("portability", f"must hold prompts with their answers, got {found!r}")


def _pairs(record: Record, prompts: object, answers: object) -> tuple[Probe, ...]:
    pair: dict[str, object]
    if isinstance(prompts, list) and isinstance(answers, list):
        pair = {"prompt": prompts, "answer": [_first(answer) for answer in answers]}
    else:
        pair = {"prompt": prompts, "answer": _first(answers)}
    part = record._replace(fields={"case_id": record.case_id, "portability": pair})
    return part.probes("portability.prompt", "portability.answer")


def _first(answer: object) -> object:
    while isinstance(answer, list) and answer:
        answer = answer[0]
    return answer
