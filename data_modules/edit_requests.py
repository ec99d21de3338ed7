"""Data of an editing run: requests to edit, and text to watch the model on."""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import accumulate
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from .embedded import embedded_requests, embedded_sentences
from .fitting import Reach, fitting, say_cut, scorable
from .forms.found_subjects import with_subjects
from .forms.readers import read_union
from .forms.tasks import TaskOptions, read_tasks, subset
from .records import EditRequest, TaskItem
from .resumable import ResumableLoader, loader_of, shuffled_loader
from .selection import batches_of, doubts, first, selection
from .text.corpora import Unit, texts, watched_text


class EditingDataModule(L.LightningDataModule):
    """Edit requests to train, test and predict on; watched text to validate on.

    On several devices, each tests and predicts on requests of its own. It trains on its own only
    if ``alone`` is set; otherwise edits accumulate, the same on all devices.

    Args:
        path: edit requests: a JSON, JSON-lines, CSV, Parquet or Arrow file in one of the forms of
            ``docs/data.md``, plain or compressed, a hub dataset, or the folder of a run for the
            requests it edited; or a list of these; the embedded ones if null.
        limit: maximum number of records, the first ones; all if null.
        seed: for shuffling before the limit; the file's order if null.
        case_ids: cases to keep, in this order; all if null.
        batch_size: records per edit.
        watch: watched text: a text, JSON, JSON-lines, CSV or Parquet file, a folder of them, or a
            hub dataset, such as the ME-PPL files; the embedded sentences if null.
        watch_limit: maximum number of watched texts, the first ones; all if null.
        watch_batch_size: texts per validation batch.
        skip_faulty: skip records that cannot become a request, and requests that the model cannot
            take, with a warning.
        tasks: downstream tasks to judge the model on; none if null.
        watch_unit: unit of a watched text file: a text per line, or a single document.
        subjects: possible subjects of requests that name none, or a text file with one per line; by
            default the longest capitalised span of the prompt.
        shuffle: edit in another order each epoch, decided by the seed, 0 if null; for breadth-first
            training.

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
        watch_unit: Unit = "line",
        subjects: str | list[str] | None = None,
        shuffle: bool = False,
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
        self.watch_unit: Unit = watch_unit
        self.subjects = subjects
        self.shuffle = shuffle
        if tasks is not None:
            tasks.check()
        self.alone = False
        self.digests: list[str] = []
        self.requests: list[EditRequest] = []
        self.watched: list[tuple[int, str]] = []
        self.task_items: dict[str, list[TaskItem]] = {}

    def setup(self, stage: str) -> None:
        """Reads and selects once for all stages, and checks what the model can take.

        Raises:
            FileNotFoundError: if a path cannot be reached.
            ValueError: if requests, watched text or tasks cannot be read, none is left, or the
                model cannot take a request.
        """
        if self.tasks is not None and not self.task_items and stage != "predict":
            self.task_items = read_tasks(self.tasks)
        if self.requests:
            return
        requests = (
            embedded_requests() if self.path is None else read_union(self.path, self.skip_faulty)
        )
        reach = self._reach()
        self.watched = self._watched_texts(reach)
        chosen = selection(requests, self.case_ids, self.seed)
        if reach is not None:
            chosen = with_subjects(chosen, self.subjects) if reach.needs_subject else chosen
            say_cut(self.task_items, reach)
            if self.skip_faulty:
                chosen = fitting(chosen, reach, skip_faulty=True)
        self.requests = self.limited(chosen)
        if reach is not None:
            self.requests = fitting(self.requests, reach)
        for doubt in doubts(self.requests) if self.trainer else ():
            rank_zero_warn(doubt)

    def limited(self, requests: list[EditRequest]) -> list[EditRequest]:
        """The requests to edit, up to the limit."""
        return first(requests, self.limit)

    def train_dataloader(self) -> ResumableLoader:
        """Requests, in order or shuffled each epoch; one batch is one edit.

        Raises:
            ValueError: if edits that stand alone are to be shuffled.
        """
        if not self.shuffle:
            return self._loader(*(self._place if self.alone else (0, 1)))
        if self.alone:
            raise ValueError(
                "data.shuffle orders each epoch of a training anew, but here every edit stands "
                "alone; leave it out, or give data.seed to shuffle once"
            )
        return shuffled_loader(self.requests, self.batch_size, self.seed or 0)

    def val_dataloader(self) -> DataLoader:
        """Watched texts, from short to long to limit padding."""
        return DataLoader(
            self.watched,  # type: ignore[arg-type]
            self.watch_batch_size,
            collate_fn=watched_text,
        )

    def unwatched(self) -> list[str]:
        """The embedded sentences that are not among the watched texts."""
        watched = {text for _, text in self.watched}
        return [text for text in embedded_sentences() if text not in watched]

    def test_dataloader(self) -> DataLoader:
        """The train requests again, to measure retention."""
        return self._loader(*self._place)

    def judged(self, in_full: bool) -> dict[str, list[TaskItem]]:
        """Items of each task: all of them, or those judged after edits."""
        limit = None if in_full or self.tasks is None else self.tasks.limit
        return {name: subset(items, limit) for name, items in self.task_items.items()}

    def predict_dataloader(self) -> DataLoader:
        """The train requests, to predict their risk."""
        return self._loader(*self._place)

    def state_dict(self) -> dict[str, Any]:
        """Number of edited requests, number per edit, and their digest."""
        steps = self.trainer.global_step if self.trainer else 0
        batches = batches_of(self.requests, self._at_once)
        made = sum(map(len, batches if self.shuffle else batches[:steps]))
        return {"made": made, "at_once": self._at_once, "digest": self._digest(made)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuses to continue with other requests.

        Raises:
            ValueError: if the edited ones are not the first, or were edited in other batches.
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
        """This device's share of the batches, with an empty one if they do not divide evenly."""
        batches = batches_of(self.requests, self.batch_size)
        batches += [[]] * (-len(batches) % devices)
        return loader_of(batches[rank::devices])

    def _reach(self) -> Reach | None:
        """Limits of the model, if it is one to edit."""
        model: Any = self.trainer.lightning_module if self.trainer else None
        return model.reach() if hasattr(model, "reach") else None

    def _watched_texts(self, reach: Reach | None) -> list[tuple[int, str]]:
        found: Sequence[str] | Iterator[str] = (
            embedded_sentences() if self.watch is None else texts(self.watch, unit=self.watch_unit)
        )
        kept = scorable(found, self.watch_limit, f"watch: {self.watch}", reach)
        if not kept:
            raise ValueError(
                f"watch: {self.watch} holds no text that can be scored; give a file that holds some"
            )
        return sorted(enumerate(kept), key=lambda item: len(item[1]))
