"""Data of the leaderboard: requests to report on, others to tune on, and what follows from each."""

from typing import Any, Literal

from .consequences import Consequences
from .edit_requests import EditingDataModule
from .meta_training import held_out
from .records import Consequence, EditRequest
from .selection import first


class BenchmarkDataModule(EditingDataModule):
    """An editing run's data, restricted to one of two parts that share no subject.

    ``seed`` draws and orders the requests; the limit counts those of the part.

    Args:
        part: ``report`` holds the subjects that neither tuning nor MEND's training sees, a fifth
            of all; ``tuning`` the others.
    """

    def __init__(self, part: Literal["report", "tuning"] = "report", **options: Any) -> None:
        super().__init__(**options)
        self.part = part
        self.known = Consequences()

    def limited(self, requests: list[EditRequest]) -> list[EditRequest]:
        """The part's requests, up to the limit.

        Raises:
            ValueError: if there is none.
        """
        wanted = [request for request in requests if held_out(request) == (self.part == "report")]
        if not wanted:
            raise ValueError(
                f"none of the {len(requests)} requests belongs to the part {self.part!r}; give more"
            )
        return first(wanted, self.limit)

    def consequences(self, request: EditRequest) -> list[Consequence]:
        """What follows from a request; nothing if it is none of the embedded ones."""
        return self.known.of(request)
