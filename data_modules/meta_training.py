"""Edit requests for meta-training, split by subject: to train, to validate on, and held out."""

from hashlib import blake2b
from typing import Any

import lightning as L
from torch.utils.data import DataLoader, DistributedSampler

from .edit_requests import EditingDataModule
from .embedded import embedded_requests
from .forms.readers import read_requests
from .records import EditRequest

HELD_OUT_OF = 5
VALIDATION_OF = 10


def held_out(request: EditRequest) -> bool:
    """Whether a request's subject belongs to the fifth that training never sees.

    Only the subject decides, or the prompt if there is none; dataset, order and seed do not matter.
    """
    return _digest(request)[0] % HELD_OUT_OF == 0


def for_validation(request: EditRequest) -> bool:
    """Whether a request's subject belongs to the tenth of the others that training validates on."""
    return not held_out(request) and _digest(request)[1] % VALIDATION_OF == 0


def _digest(request: EditRequest) -> bytes:
    return blake2b((request.subject or request.text).encode()).digest()


class HeldOutDataModule(EditingDataModule):
    """An editing run's data, restricted to requests with a held-out subject.

    The limit counts these.
    """

    def limited(self, requests: list[EditRequest]) -> list[EditRequest]:
        """The requests with a held-out subject.

        Raises:
            ValueError: if there is none.
        """
        return super().limited(_some([r for r in requests if held_out(r)], self.path))


class MetaTrainingDataModule(L.LightningDataModule):
    """Requests to train on, shuffled each epoch, and others to validate on.

    Args:
        path: edit requests, as for an editing run; the embedded ones if null. Those with a held-out
            subject are left out, for ``HeldOutDataModule``; those of a tenth of the other subjects
            are for validation.
        validation_path: a file of further requests to validate on; then all of ``path`` is for
            training.
        limit: maximum number of requests to train on, the first ones; all if null.
        validation_limit: maximum number of requests to validate on, the first ones; all if null.
        batch_size: requests per edit.
        skip_faulty: skip records that cannot become a request, with a warning.
        seed: with the epoch, decides the order, so that a resumed training has the same.

    Raises:
        ValueError: if the batch size is not positive.
    """

    def __init__(
        self,
        path: str | None = None,
        validation_path: str | None = None,
        limit: int | None = None,
        validation_limit: int | None = None,
        batch_size: int = 1,
        skip_faulty: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size <= 0:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        self.path = path
        self.validation_path = validation_path
        self.limit = limit
        self.validation_limit = validation_limit
        self.batch_size = batch_size
        self.skip_faulty = skip_faulty
        self.seed = seed

    def setup(self, stage: str) -> None:
        """Reads and splits.

        Raises:
            ValueError: if one of the parts is empty.
        """
        requests = self._read(self.path)
        if self.validation_path is None:
            seen = [r for r in requests if not held_out(r)]
            train, validation = (
                [r for r in seen if for_validation(r) == wanted] for wanted in (False, True)
            )
        else:
            train, validation = requests, self._read(self.validation_path)
        self.train = _some(train, self.path)[: self.limit]
        self.validation = _some(validation, self.path)[: self.validation_limit]

    def _read(self, path: str | None) -> list[EditRequest]:
        return embedded_requests() if path is None else read_requests(path, self.skip_faulty)

    def train_dataloader(self) -> DataLoader:
        """Batches, one per edit; Lightning tells the sampler the epoch."""
        data: Any = self.train  # torch takes any sequence
        share = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        order: DistributedSampler[Any] = DistributedSampler(data, *share, seed=self.seed)
        return DataLoader(data, self.batch_size, sampler=order, collate_fn=list)

    def val_dataloader(self) -> DataLoader:
        """Requests to validate on."""
        return DataLoader(
            self.validation,  # type: ignore[arg-type]
            self.batch_size,
            collate_fn=list,
        )


def _some(requests: list[EditRequest], path: str | list[str] | None) -> list[EditRequest]:
    if not requests:
        raise ValueError(
            f"{path}: too few subjects to train on some and hold others out; give more requests, "
            "or name others by validation_path"
        )
    return requests
