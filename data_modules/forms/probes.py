"""Prompts with their answers, however records nest them."""

from collections.abc import Iterator, Sequence

from ..records import Probe
from .fields import Record, described

PAIRS = (  # of a prompt's field and its answer's, at any depth
    ("prompt", "ground_truth"),
    ("prompt", "answer"),
    ("prompt", "target"),
    ("question", "answer"),
    ("New Question", "New Answer"),
    ("loc", "loc_ans"),
)


def flat(record: Record, pairs: Sequence[tuple[str, str]]) -> tuple[Probe, ...]:
    """Probes with prompts in one field and answers in another."""
    return sum((record.probes(*pair) for pair in pairs), ())


def nested(record: Record, names: Sequence[str]) -> tuple[Probe, ...]:
    """Probes of a field, in a list or by kind; none if it is missing.

    Raises:
        FaultyRecordError: if a prompt has no answer, or no prompt is found.
    """
    held = ((name, record.value(name)) for name in names)
    return tuple(
        probe for name, found in held if found is not None for probe in _walk(record, name, found)
    )


def _walk(record: Record, name: str, found: object) -> Iterator[Probe]:
    if isinstance(found, list):
        for item in found:
            yield from _walk(record, name, item)
    elif isinstance(found, dict):
        pair = next((pair for pair in PAIRS if {*pair} <= found.keys()), None)
        if pair is None and "loc" in found:
            pair = ("loc", "loc_ans")
        if pair is None:
            yield from _walk(record, name, [v for v in found.values() if v is not None])
        else:
            yield from _pair(record, name, found, pair)
    else:
        raise record.fault(name, f"must hold prompts with their answers, got {described(found)}")


def _pair(
    record: Record, name: str, held: dict[str, object], pair: tuple[str, str]
) -> tuple[Probe, ...]:
    """The probes of one object; further accepted answers are in ``accepted``."""
    asked, answer = pair
    further = held.get("accepted")
    part = record.part({name: held | ({answer: [held[answer], further]} if further else {})})
    return part.probes(f"{name}.{asked}", f"{name}.{answer}")
