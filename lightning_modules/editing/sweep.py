"""Edits that each start from the original model, evaluated together: a faster single-edit sweep."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from data_modules.records import EditRequest, WatchedText

from ..language_model.apart import edited_apart
from ..language_model.scoring import Scores
from .edited_weights import EditedWeights, Update


class Made(NamedTuple):
    """An edit that was made from the original model and undone.

    Attributes:
        requests: of the edit.
        updates: as applied; none if it failed.
        history: the method's memory after it.
        record: the edit's figures.
    """

    requests: Sequence[EditRequest]
    updates: list[Update]
    history: dict[str, Tensor]
    record: dict[str, Any]


class Sweep:
    """Single edits whose effect on a text is computed in one pass.

    The pass gives every edit its own copy of the text and adds the edit's low-rank term to the
    output of the unedited weights, which stay unchanged. Edits of experts are scored one by one.

    Args:
        edited: the weights under edit.
        made: the edits.
    """

    def __init__(self, edited: EditedWeights, made: Sequence[Made]) -> None:
        self.edited = edited
        self.made = made
        self.current: int | None = None
        updates = [update for edit in made for update in edit.updates]
        self.low_rank = not edited.stacks and all(update.right is not None for update in updates)
        self.watched: dict[tuple[int, ...], list[Scores]] = {}

    def find(self, requests: Sequence[EditRequest]) -> Made | None:
        """The edit of these requests, which becomes the current one; None if it is not here."""
        numbers = [n for n, made in enumerate(self.made) if made.requests == requests]
        self.current = numbers[0] if numbers else None
        return self.made[numbers[0]] if numbers else None

    def awaits(self, batch: WatchedText) -> bool:
        """Whether a text has still to be scored under all edits together."""
        return self.low_rank and tuple(batch.indices) not in self.watched

    def watch(
        self, batch: WatchedText, watch: Callable[[WatchedText, int], Scores]
    ) -> Scores | None:
        """Scores of watched text under the current edit; None without one, or one not low-rank.

        Args:
            batch: the text.
            watch: scores a given number of copies of it.
        """
        if self.current is None or not self.low_rank:
            return None
        key = tuple(batch.indices)
        if self.awaits(batch):
            with self.edited.unedited(), edited_apart(self.edited.lm, self._terms()):
                scores = watch(batch, len(self.made))
            parts = zip(*(part.chunk(len(self.made)) for part in scores), strict=True)
            self.watched[key] = [Scores(*part) for part in parts]
        return self.watched[key][self.current]

    def _terms(self) -> dict[str, Sequence[tuple[Tensor, Tensor]]]:
        """Per weight, each edit's ``left (out, r)`` and ``right (r, in)``, padded to one rank."""
        terms: dict[str, Sequence[tuple[Tensor, Tensor]]] = {}
        for name in {update.weight for made in self.made for update in made.updates}:
            pairs = [_joined([u for u in made.updates if u.weight == name]) for made in self.made]
            rank = max(len(pair[1]) for pair in pairs if pair)
            like = next(pair for pair in pairs if pair)
            terms[name] = [_padded(pair or (like[0][:, :0], like[1][:0]), rank) for pair in pairs]
        return terms


def _joined(updates: list[Update]) -> tuple[Tensor, Tensor] | None:
    """Several changes of one weight as one pair."""
    rights = [update.right for update in updates if update.right is not None]
    return (torch.cat([u.left for u in updates], 1), torch.cat(rights)) if updates else None


def _padded(pair: tuple[Tensor, Tensor], rank: int) -> tuple[Tensor, Tensor]:
    missing = rank - len(pair[1])
    return F.pad(pair[0], (0, missing)), F.pad(pair[1], (0, 0, 0, missing))
