"""What an editing run is fed: requests to edit, text to watch the model on."""

import random
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import accumulate, islice
from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from .embedded import embedded_requests, embedded_sentences
from .forms.readers import read_union
from .forms.tasks import TaskOptions, read_tasks, subset
from .records import EditRequest, TaskItem
from .text.corpora import documents, watched_text


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


class EditingDataModule(L.LightningDataModule):
    """Edit requests to train, test and predict on; watched text to validate on.

    On several devices, to test and to predict on each has requests of its own; to train on only
    if ``alone`` is set: else edits follow upon one another, on all devices the same.

    Args:
        path: edit requests: a JSON or JSON-lines file (CounterFact, zsRE or QAEdit in one of
            their forms, plain or compressed), a hub dataset, or the folder of a run for the
            requests it edited; or a list of these; the embedded ones if null.
        limit: requests kept at most, the first ones; all if null.
        seed: of a shuffle before the limit; the file's order if null.
        case_ids: cases to keep, in this order; all if null.
        batch_size: requests of one edit.
        watch: watched text: a text, JSON or JSON-lines file, a folder of them, or a hub dataset,
            such as the ME-PPL files; the embedded sentences if null.
        watch_limit: watched texts kept at most, the first ones; all if null.
        watch_batch_size: texts of one validation batch.
        skip_faulty: leave out records that cannot become a request, with a warning.
        tasks: downstream tasks on which the model is judged; none if null.

    Raises:
        ValueError: if a limit or a batch size is not positive, or a task is unknown.
    """

    def __init__(
        self,
        path: str | list[str] | None = None,
        limit: int | None = None,
        seed: int | None = None,
        case_ids: list[int] | None = None,
        batch_size: int = 1,
        watch: str | None = None,
        watch_limit: int | None = None,
        watch_batch_size: int = 256,
        skip_faulty: bool = False,
        tasks: TaskOptions | None = None,
    ) -> None:
        super().__init__()
        sizes = {
            "limit": limit,
            "batch_size": batch_size,
            "watch_limit": watch_limit,
            "watch_batch_size": watch_batch_size,
        }
        for name, size in sizes.items():
            if size is not None and size <= 0:
                raise ValueError(f"{name} must be positive, got {size}")
        self.path = path
        self.limit = limit
        self.seed = seed
        self.case_ids = case_ids
        self.batch_size = batch_size
        self.watch = watch
        self.watch_limit = watch_limit
        self.watch_batch_size = watch_batch_size
        self.skip_faulty = skip_faulty
        self.tasks = tasks
        if tasks is not None:
            tasks.check()
        self.alone = False
        self.digests: list[str] = []
        self.requests: list[EditRequest] = []
        self.watched: list[tuple[int, str]] = []
        self.task_items: dict[str, list[TaskItem]] = {}

    def setup(self, stage: str) -> None:
        """Reads and selects once, whatever the stages.

        Raises:
            FileNotFoundError: if a path names nothing that can be reached.
            ValueError: if requests, watched text or tasks cannot be read, or none is left.
        """
        if self.tasks is not None and not self.task_items and stage != "predict":
            self.task_items = read_tasks(self.tasks)
        if self.requests:
            return
        requests = (
            embedded_requests() if self.path is None else read_union(self.path, self.skip_faulty)
        )
        self.watched = self._watched_texts()
        self.requests = selection(requests, self.case_ids, self.seed)[: self.limit]

    def train_dataloader(self) -> ResumableLoader:
        """Requests, in order; one batch is one edit."""
        return self._loader(*(self._place if self.alone else (0, 1)))

    def val_dataloader(self) -> DataLoader:
        """Watched texts, from short to long so that little is padded."""
        return DataLoader(
            self.watched,  # type: ignore[arg-type]
            self.watch_batch_size,
            collate_fn=watched_text,
        )

    def test_dataloader(self) -> DataLoader:
        """The train requests again, to see what is retained of them."""
        return self._loader(*self._place)

    def judged(self, in_full: bool) -> dict[str, list[TaskItem]]:
        """Items of each task: all of them, or those that are judged after edits."""
        limit = None if in_full or self.tasks is None else self.tasks.limit
        return {name: subset(items, limit) for name, items in self.task_items.items()}

    def predict_dataloader(self) -> DataLoader:
        """The train requests, to foresee what they do."""
        return self._loader(*self._place)

    def state_dict(self) -> dict[str, Any]:
        """How many requests were edited, how many at a time, and which: their digest."""
        steps = self.trainer.global_step if self.trainer else 0
        made = min(steps * self._at_once, len(self.requests))
        return {"made": made, "at_once": self._at_once, "digest": self._digest(made)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuses to go on with other requests.

        Raises:
            ValueError: if those edited are not the first ones, or were edited in other batches.
        """
        if self.trainer is None or self.trainer.state.fn != "fit":
            return
        made, at_once = state_dict["made"], state_dict["at_once"]
        if at_once != self._at_once:
            raise ValueError(
                f"the run edited {at_once} requests at once on all its devices, now it would be "
                f"{self._at_once}; use the same --data.batch_size and --trainer.devices"
            )
        if state_dict["digest"] != self._digest(made):
            raise ValueError(
                f"the {made} requests edited so far are not the first {made} of the data; give "
                "the data arguments (path, seed, case_ids) that the run was made with"
            )

    @property
    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    @property
    def _at_once(self) -> int:
        return self.batch_size * (self._place[1] if self.alone else 1)

    def _digest(self, made: int) -> str:
        if len(self.digests) != len(self.requests) + 1:
            texts = (repr(request).encode() for request in self.requests)
            chain = accumulate(texts, lambda so_far, t: blake2b(so_far + t).digest(), initial=b"")
            self.digests = [digest.hex() for digest in chain]
        return self.digests[made] if made < len(self.digests) else ""

    def _loader(self, rank: int, devices: int) -> ResumableLoader:
        """Every so manieth batch; where the devices' turns do not come out even, an empty one."""
        size = self.batch_size
        batches = [self.requests[at : at + size] for at in range(0, len(self.requests), size)]
        batches += [[]] * (-len(batches) % devices)
        filled = [[*batch, *[None] * (size - len(batch))] for batch in batches[rank::devices]]
        return ResumableLoader(
            [request for batch in filled for request in batch],  # type: ignore[arg-type]
            batch_size=size,  # by name: Lightning rebuilds the loader to predict
            collate_fn=present,
        )

    def _watched_texts(self) -> list[tuple[int, str]]:
        texts = embedded_sentences() if self.watch is None else documents(self.watch)
        numbered = list(enumerate(islice(texts, self.watch_limit)))
        if not numbered:
            raise ValueError(f"watch: {self.watch} holds no text; give a file that holds some")
        return sorted(numbered, key=lambda item: len(item[1]))


def present(batch: list[EditRequest | None]) -> list[EditRequest]:
    """A batch without what merely fills it up."""
    return [request for request in batch if request is not None]


def selection(
    requests: Sequence[EditRequest], case_ids: Sequence[int] | None, seed: int | None
) -> list[EditRequest]:
    """Requests of the wanted cases in the wanted order, then shuffled if there is a seed.

    A dataset may use a number twice (QAEdit does): all its requests are kept.

    Raises:
        ValueError: if there is no request of a wanted case, or no case is wanted.
    """
    if case_ids is not None:
        unknown = sorted(set(case_ids) - {request.case_id for request in requests})
        if unknown:
            raise ValueError(f"case_ids {unknown} are not in the dataset; remove them")
        if not case_ids:
            raise ValueError("case_ids is empty, so no request is left; name one or give null")
        place = {case_id: number for number, case_id in enumerate(case_ids)}
        requests = [request for request in requests if request.case_id in place]
        requests.sort(key=lambda request: place[request.case_id])
    if seed is None:
        return list(requests)
    return random.Random(seed).sample(requests, len(requests))
