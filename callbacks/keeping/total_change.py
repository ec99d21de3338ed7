"""The low-rank change that all edits of a run add up to."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lightning_modules.editing.edited_weights import Update
from lightning_modules.editing.editor import Editor
from lightning_modules.editing.ledger import FOLDER, Entry, read_ledger, standing
from lightning_modules.jobs.replay import Replay

Pair = tuple[Tensor, Tensor]


def low_rank(run: Path, editor: Editor) -> dict[str, Pair]:
    """The total change of each edited weight, ``left (out, r)`` and ``right (r, in)``, by name.

    Weights with an update that was not low-rank are left out; so are all if no ledger holds exactly
    the model's edits.
    """
    entries = edits_held(run, editor)
    held = [identity for entry in entries for identity in entry.identities]
    if held != editor.edited_requests:
        return {}
    updates = [update for entry in entries for update in entry.updates()]
    dense = {update.weight for update in updates if update.right is None}
    return {
        name: joined_factors([update for update in updates if update.weight == name])
        for name in {update.weight for update in updates} - dense
    }


def edits_held(run: Path, editor: Editor) -> list[Entry]:
    """The edits of the model in the run's ledger; those of a replay in the ledgers it repeats.

    In a sweep on several devices, edits of other devices follow in the ledger.
    """
    if isinstance(editor, Replay):
        return editor.chosen() if editor.transform is None else []
    kept, held = read_ledger(run) if (run / FOLDER).exists() else [], editor.edited_requests
    ends = [n for n, e in enumerate(kept, 1) if e.identities == held[-len(e.identities) :]]
    return standing(kept[: max(ends, default=0)])


def joined_factors(updates: Sequence[Update]) -> Pair:
    """The sum of low-rank changes as one, of no higher rank than its size allows."""
    left = torch.cat([update.left.double() for update in updates], dim=1)
    right = torch.cat([update.right.double() for update in updates if update.right is not None])
    if left.shape[1] > left.shape[0]:
        left, right = torch.eye(len(left)).double(), left @ right
    return left.float(), right.float()
