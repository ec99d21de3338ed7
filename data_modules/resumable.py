"""A loader of edits that resumes from a checkpoint."""

import random
from collections.abc import Iterator, Sequence
from itertools import chain, islice

from torch.utils.data import DataLoader, Sampler

from .records import EditRequest
from .selection import edits_of


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


class EpochOrder(Sampler[int]):
    """Numbers of requests, in another order each epoch; requests of one edit stay together.

    The epoch and the seed decide the order, so that a resumed epoch has the same.

    Args:
        requests: in the order of the data.
        seed: of the orders.
    """

    def __init__(self, requests: Sequence[EditRequest], seed: int) -> None:
        numbers = iter(range(len(requests)))
        self.edits = [[next(numbers) for _ in edit] for edit in edits_of(requests)]
        self.padding = len(requests)
        self.width = max(map(len, self.edits))
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch; Lightning calls it before each."""
        self.epoch = epoch

    def __len__(self) -> int:
        """How many numbers there are, padding included."""
        return len(self.edits) * self.width

    def __iter__(self) -> Iterator[int]:
        """The epoch's numbers; every edit is padded to the width of the widest."""
        order = random.Random(f"{self.seed}/{self.epoch}").sample(self.edits, len(self.edits))
        padded = ([*edit, *[self.padding] * (self.width - len(edit))] for edit in order)
        return chain.from_iterable(padded)


def shuffled_loader(requests: Sequence[EditRequest], size: int, seed: int) -> ResumableLoader:
    """A loader of batches of ``size`` edits, in another order each epoch."""
    order = EpochOrder(requests, seed)
    return ResumableLoader(
        [*requests, None],  # type: ignore[arg-type] # the last one pads
        batch_size=size * order.width,
        sampler=order,
        collate_fn=present,
    )


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
