"""Paraphrases of a prompt, and prompts that its edit must leave alone, in datasets' forms."""

from ..records import Probe
from .fields import Record, described
from .probes import flat, nested

PARAPHRASES = (
    *("paraphrase_prompts", "rephrase_prompt", "rephrase", "rephrase_prompts", "rephrases"),
    *("paraphrases", "paraphrase", "queries"),
)
FLAT = (("locality_prompt", "locality_ground_truth"), ("loc", "loc_ans"))
NESTED = ("locality", "locality_inputs", "neighborhood")


def paraphrases(record: Record) -> tuple[str, ...]:
    """Other wordings of the prompt, under any of their names."""
    return tuple(text for name in PARAPHRASES for text in record.texts(name))


def neighborhood(record: Record, true: str | None = None) -> tuple[Probe, ...]:
    """Prompts that the edit must leave alone, under any of their names, in a list or by kinds.

    Args:
        record: the case.
        true: the answer of CounterFact's neighbors that have none of their own.
    """
    for name in NESTED:
        held = record.value(name)
        if held is not None and not isinstance(held, list | dict):
            raise record.fault(
                name, f"must be a list or an object of prompts and answers, got {described(held)}"
            )
    published = record.probes("neighborhood_prompts", "neighborhood_targets", true)
    return published + flat(record, FLAT) + nested(record, NESTED)
