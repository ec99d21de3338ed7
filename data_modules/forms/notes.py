"""What a reader left out of a dataset's records, counted and reported once."""

from collections import Counter
from collections.abc import Iterable
from difflib import get_close_matches

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

UNUSED = {  # fields of datasets that no edit and no measure uses
    *("pararel_idx", "cond", "source", "portability_r"),
    *("requested_rewrite.question", "requested_rewrite.answer"),
    "perplexity",  # a sweep writes it beside a hard case
    *("answer", "answer_alias", "single_hops", "new_single_hops", "orig", "relation_id", "pred"),
}


class Notes:
    """Counts, per dataset, of record content missing from its requests."""

    def __init__(self) -> None:
        self.unread: Counter[str] = Counter()
        self.unanswered: Counter[str] = Counter()
        self.further: Counter[str] = Counter()

    def say(self, source: str, known: Iterable[str]) -> None:
        """Reports each count once; warns of unknown field names and suggests the likeliest one.

        Args:
            source: the dataset.
            known: names of fields that are read.
        """
        strange = {name: count for name, count in self.unread.items() if name not in UNUSED}
        usual = {name: count for name, count in self.unread.items() if name in UNUSED}
        if strange:
            names = list(known)
            fields = ", ".join(
                f"{name!r} of {count} records{_nearest(name, names)}"
                for name, count in strange.items()
            )
            rank_zero_warn(f"{source}: fields are left unread: {fields}")
        if usual:
            rank_zero_info(
                f"{source}: fields are left unread, as no edit needs them: {told(usual)}"
            )
        if +self.unanswered:
            rank_zero_warn(
                f"{source}: prompts without an answer are left out, their requests are kept: "
                + ", ".join(f"{count} at {name!r}" for name, count in (+self.unanswered).items())
            )
        if self.further:
            rank_zero_info(
                f"{source}: of several answers the first one counts: {told(self.further)}"
            )


def told(counts: dict[str, int]) -> str:
    """Fields and the number of records that have them, in words."""
    return ", ".join(f"{name!r} of {count} records" for name, count in counts.items())


def _nearest(name: str, known: list[str]) -> str:
    likely = [] if name in known else get_close_matches(name, known, n=1, cutoff=0.8)
    return f" (do you mean {likely[0]!r}?)" if likely else ""
