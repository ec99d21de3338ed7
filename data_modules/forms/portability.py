"""Portability: what follows from an edit, in datasets' forms."""

from ..records import Probe
from .fields import Record
from .probes import flat, nested

FLAT = (("portability_prompt", "portability_ground_truth"),)
NESTED = ("portability", "portability_inputs")


def portability(record: Record) -> tuple[Probe, ...]:
    """The probes of ``portability``, in a list or by kind; none if it is missing.

    Raises:
        FaultyRecordError: if a prompt has no answer, or no prompt is found.
    """
    return flat(record, FLAT) + nested(record, NESTED)
