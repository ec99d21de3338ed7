"""A model rebuilt from the ledgers of earlier runs: as of any edit, and without any edit."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_modules.records import EditRequest, case_of

from ..editing.edited_weights import Update
from ..editing.editor import Editor
from ..editing.ledger import Entry, joined
from ..language_model.layout import oriented, parameter_of
from ..language_model.loading import fingerprint
from .removal import Removal, remade


class Replay(Editor):
    """Repeats the edits of a ledger, in order, from the original weights.

    ``fit`` makes them one by one, with the requests of the run as data (``--data.path`` its
    folder); ``validate`` and ``test`` make all of them first. The model equals that of the run bit
    for bit, or that of the run without the edits left out. A ``transform`` is then
    applied once, to the sum of all edits, as PRUNE's authors do. The edits of a single-edit sweep,
    each made on the original model, accumulate on one.

    Args:
        ledger: the folder of a run; or several, whose edits are made one run after another.
        until: the last edit to make, by its number in ``edits.jsonl``; negative: undoes that many
            at the end; null: makes all.
        without: edits to leave out.
        only: the only edits to make; all if null.
        removal: what becomes of the edits after one that is left out. ``subtract`` keeps them as
            they were made, on a model with that edit; ``refit`` solves for the values that they
            found once more, without it; ``again`` makes them again, as if it had never been.
    """

    needs_subject = False
    edits_experts = True

    def __init__(
        self,
        ledger: str | list[str],
        until: int | None = None,
        without: list[int] | None = None,
        only: list[int] | None = None,
        removal: Removal = "subtract",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.ledgers = [ledger] if isinstance(ledger, str) else ledger
        self.until, self.without, self.only = until, without or [], only
        self.removal = removal
        self.remade: dict[tuple[int, ...], dict[int, list[Update]]] = {}
        self.entries: list[Entry] = []
        self.place = 0

    def attach(self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        """Reads the ledgers and takes their model.

        Raises:
            ValueError: if the model is another one, or the ledgers lack a named edit or the last.
        """
        self.entries = joined(map(Path, self.ledgers))
        if self.entries[0].fingerprint != fingerprint(lm, tokenizer):
            raise ValueError(
                f"the ledger of {self.ledgers[0]} holds edits of another model than "
                f"{self.lm_name!r} in {self.dtype_name}; name its model by --model.lm and "
                "--model.dtype"
            )
        self.require([*self.without, *(self.only or [])])
        self.require_until()
        rank_zero_info(
            f"Replaying {len(self.chosen())} of {len(self.entries)} edits of "
            f"{', '.join(self.ledgers)} on {self.lm_name}"
        )
        super().attach(lm, tokenizer)

    def require(self, edits: Sequence[int]) -> None:
        """Refuses edits that the ledgers lack.

        Raises:
            ValueError: if they lack one.
        """
        unknown = set(edits) - {entry.edit for entry in self.entries}
        if unknown:
            raise ValueError(
                f"edits {sorted(unknown)} are not in the ledger: they were not made or not "
                f"applied, see edits.jsonl; its last is edit {self.entries[-1].edit}"
            )

    def require_until(self) -> None:
        """Refuses an end behind the last edit.

        Raises:
            ValueError: if the ledgers have fewer edits than ``until``.
        """
        last = max(self.entries[-1].edit, *map(edits_of, self.ledgers))
        if self.until is not None and not -len(self.entries) <= self.until <= last:
            raise ValueError(
                f"until is {self.until}, but {', '.join(self.ledgers)} has {last} edits, "
                f"{len(self.entries)} of them applied"
            )

    def edited_weights(self) -> list[str]:
        """The weights in the ledgers."""
        names = (name for entry in self.entries for name in entry.weights)
        return list(dict.fromkeys(map(parameter_of, names)))

    def chosen(self) -> list[Entry]:
        """The edits to make, in order."""
        entries = self.entries[: self.until] if (self.until or 0) < 0 else self.entries
        if self.until is not None and self.until >= 0:
            entries = [entry for entry in entries if entry.edit <= self.until]
        return [
            entry
            for entry in entries
            if entry.edit not in self.without and (self.only is None or entry.edit in self.only)
        ]

    def rebuild(self, entries: Sequence[Entry]) -> None:
        """Gives the model exactly these edits."""
        made = self.made_again(entries)
        self.restore()
        for entry in entries:
            updates = made.get(entry.edit, self.updates(entry))
            for update in updates:
                self.edited.apply(update)
            self.edited_requests += entry.identities if updates != [] else []
        if self.transform is not None:
            self.transform_sum()

    def made_again(self, entries: Sequence[Entry]) -> dict[int, list[Update]]:
        """Updates of the edits after one that is left out, by their number, as ``removal`` says.

        Raises:
            ValueError: if there are several ledgers, or they cannot be made.
        """
        numbers = tuple(entry.edit for entry in entries)
        before = [entry for entry in self.entries if numbers and entry.edit <= numbers[-1]]
        if self.removal == "subtract" or before == list(entries):
            return {}
        if len(self.ledgers) > 1:
            raise ValueError(
                f"--model.removal {self.removal} takes a single run, got {len(self.ledgers)}; use "
                "--model.removal subtract"
            )
        known = (made for key, made in self.remade.items() if key[: len(numbers)] == numbers)
        found = next(known, None)
        if found is None:
            found = remade(self, Path(self.ledgers[0]), before, entries, self.removal)
            self.remade[numbers] = found
        return found

    def transform_sum(self) -> None:
        """Transforms the sum of all edits at once."""
        for name, original in self.original.items():
            total = oriented(self.lm, name, self.edited.master(name) - original)
            self.edited.assign({name: original})
            self.apply_update(Update(name, total.contiguous()))

    def updates(self, entry: Entry) -> Iterator[Update]:
        """An edit's updates, on the model's device."""
        for name, left, right in entry.updates():
            there = None if right is None else right.to(self.device)
            yield Update(name, left.to(self.device), there)

    def edit(self, requests: Sequence[EditRequest]) -> Iterator[Update]:
        """The updates of these requests' edit in the run, or those made again."""
        entry = self.find(requests)
        yield from self.made_again(self.chosen()).get(entry.edit, self.updates(entry))

    def find(self, requests: Sequence[EditRequest]) -> Entry:
        """The next edit of these requests.

        Raises:
            ValueError: if there is none.
        """
        wanted = [request.identity for request in requests]
        for entry in [*self.entries[self.place :], *self.entries[: self.place]]:
            if entry.identities == wanted:
                return entry
        raise ValueError(
            f"the ledger holds no edit of the cases {[case_of(held) for held in wanted]}; give the "
            f"requests of its run by --data.path {self.ledgers[0]}, and its --data.batch_size"
        )

    def make_edit(self, requests: Sequence[EditRequest]) -> None:
        """Repeats an edit of the ledger, or leaves it out."""
        entry = self.find(requests)
        self.place = self.entries.index(entry) + 1
        if entry in self.chosen():
            super().make_edit(requests)
        else:
            self.begin()
            self.record |= {"status": "skipped", "reason": "left out of the replay"}

    def training_step(self, batch: Sequence[EditRequest], batch_idx: int) -> None:
        """Makes one edit; the last one chosen ends the run."""
        super().training_step(batch, batch_idx)
        chosen = self.chosen()
        over = not chosen or self.entries[: self.place][-1].edit >= chosen[-1].edit
        self.trainer.should_stop = self.trainer.should_stop or over

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continues after the edits already made."""
        super().on_load_checkpoint(checkpoint)
        self.place = checkpoint["global_step"]

    def on_validation_start(self) -> None:
        """Makes all edits before the evaluation, unless a fit makes them one by one."""
        if self.trainer.state.fn == "validate":
            self.rebuild(self.chosen())

    def on_test_start(self) -> None:
        """Makes all edits before the evaluation."""
        self.rebuild(self.chosen())

    def tested(self, requests: Sequence[EditRequest]) -> list[EditRequest]:
        """The requests whose edits were made."""
        return [request for request in requests if request.identity in self.edited_requests]


def edits_of(run: str) -> int:
    """Number of edits in a run's journal, those that were not applied too; 0 without one."""
    file = Path(run) / "edits.jsonl"
    return file.read_text("utf-8").count("\n") if file.is_file() else 0
