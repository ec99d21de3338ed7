"""A loader of edits that resumes from a checkpoint."""

from collections.abc import Iterator, Sequence
from itertools import islice

from torch.utils.data import DataLoader

from .records import EditRequest


class ResumableLoader(DataLoader):
    """A loader that resumes after the batches already yielded when a checkpoint is loaded.

    Lightning saves and restores the state of a train loader that has these two methods. The length
    stays that of the whole epoch, by which Lightning recognizes the last batch. A batch counts as
    soon as it is yielded: a checkpoint made inside a training step includes that batch.
    """

    yielded = 0
    _skipped = 0

    def __iter__(self) -> Iterator[list]:
        """Batches of the epoch; the first time, from the restored one on."""
        self.yielded, self._skipped = self._skipped, 0
        for batch in islice(super().__iter__(), self.yielded, None):
            self.yielded += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Number of batches of the epoch yielded so far."""
        return {"yielded": self.yielded}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Starts the next epoch after the batches already yielded; from 0 after a full epoch."""
        self.yielded = self._skipped = state["yielded"] % len(self)


def loader_of(batches: Sequence[Sequence[EditRequest]]) -> ResumableLoader:
    """A loader of these batches, which may differ in size."""
    size = max(map(len, batches), default=0) or 1
    filled = [[*batch, *[None] * (size - len(batch))] for batch in batches]
    return ResumableLoader(
        [request for batch in filled for request in batch],  # type: ignore[arg-type]
        batch_size=size,  # by name: Lightning rebuilds the loader to predict
        collate_fn=present,
    )


def present(batch: list[EditRequest | None]) -> list[EditRequest]:
    """A batch without its padding."""
    return [request for request in batch if request is not None]
