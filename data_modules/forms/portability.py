"""What follows from an edit, as datasets tell it."""

from ..records import Probe
from .fields import Record
from .probes import flat, nested

FLAT = (("portability_prompt", "portability_ground_truth"),)
NESTED = ("portability", "portability_inputs")


def portability(record: Record) -> tuple[Probe, ...]:
    """The probes at ``portability``, in a list or by their kinds; none where it is missing.

    Raises:
        FaultyRecordError: if a prompt has no answer, or no prompt is found.
    """
    return flat(record, FLAT) + nested(record, NESTED)
