"""A loader of edits that goes on where a checkpoint was made."""

from collections.abc import Iterator, Sequence
from itertools import islice

from torch.utils.data import DataLoader

from .records import EditRequest


class ResumableLoader(DataLoader):
    """A loader that, after a checkpoint is loaded, goes on behind the batches already yielded.

    Lightning saves and restores the state of a train loader that has these two methods. Its
    length stays that of the whole epoch, by which Lightning tells the last batch. A batch counts
    once it is handed out: a checkpoint made inside a training step leaves that batch behind.
    """

    yielded = 0
    _skipped = 0

    def __iter__(self) -> Iterator[list]:
        """Batches of the epoch, from the restored one on the first time."""
        self.yielded, self._skipped = self._skipped, 0
        for batch in islice(super().__iter__(), self.yielded, None):
            self.yielded += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many batches of the epoch were yielded."""
        return {"yielded": self.yielded}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Lets the next epoch begin behind the batches that were yielded; a full one is over."""
        self.yielded = self._skipped = state["yielded"] % len(self)


def loader_of(batches: Sequence[Sequence[EditRequest]]) -> ResumableLoader:
    """A loader of these batches, which need not be of the same size."""
    size = max(map(len, batches), default=0) or 1
    filled = [[*batch, *[None] * (size - len(batch))] for batch in batches]
    return ResumableLoader(
        [request for batch in filled for request in batch],  # type: ignore[arg-type]
        batch_size=size,  # by name: Lightning rebuilds the loader to predict
        collate_fn=present,
    )


def present(batch: list[EditRequest | None]) -> list[EditRequest]:
    """A batch without what merely fills it up."""
    return [request for request in batch if request is not None]
