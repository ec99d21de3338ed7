"""What an edit changes of the state of a run, to be saved in place of all of it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_modules.editing.editor import Editor
from lightning_modules.editing.replicas import checksum

STATE = ("state_dict", "history", "edited_requests")  # of a checkpoint, all that edits add to


class Saved(NamedTuple):
    """An editor's state at its last checkpoint.

    Attributes:
        mark: of its weights.
        history: its entries.
        requests: the edited ones.
    """

    mark: int
    history: dict[str, Tensor]
    requests: list[str]


class Increments:
    """Decides which checkpoints are whole, and finds what the others hold.

    An increment holds the updates and the history's entries since the checkpoint before it, or
    since the original weights where edits start from these. A checkpoint is whole if an increment
    would not be much smaller, or if the increments since the last whole one have become as large
    as the state or as many as allowed.

    Args:
        most: increments between two whole checkpoints.
        light: bytes of weights and history up to which every checkpoint is whole.
    """

    def __init__(self, most: int, light: float) -> None:
        self.most = most
        self.light = light
        self.saved: Saved | None = None
        self.count = self.size = 0

    def of(self, editor: Any) -> dict[str, Any] | None:
        """What the next checkpoint holds; None if it is a whole one. It counts as saved.

        Args:
            editor: the run's module; any other than an editor is saved as a whole.
        """
        if not isinstance(editor, Editor):
            return None
        found = self.found(editor)
        mark = editor.edited.mark()
        self.saved = Saved(mark, dict(editor.history), list(editor.edited_requests))
        size = _size([*editor.original.values(), *editor.history.values()])
        if found is None or size <= self.light or not self.pays(found, size):
            self.count = self.size = 0
            return None
        return found | {"checksums": {n: checksum(w) for n, w in editor.edited.masters().items()}}

    def pays(self, found: dict[str, Any], size: int) -> bool:
        """Whether an increment is to be saved instead of a state of so many bytes; counts it."""
        added = _size(t for update in found["updates"] for t in update[1:] if t is not None)
        added += _size(found["history"].values())
        if found["follows"]:
            self.count, self.size = self.count + 1, self.size + added
        return 2 * added <= size and self.count <= self.most and self.size <= size

    def found(self, editor: Editor) -> dict[str, Any] | None:
        """The state's increment; None if it is unknown what led from the last one to it."""
        since, saved = editor.edited.since, self.saved
        if since is None or saved is None or since.mark not in (0, saved.mark):
            return None
        requests, history = saved.requests, saved.history
        if since.mark == 0:
            requests, history = [], {}
        elif editor.edited_requests[: len(requests)] != requests:
            return None
        new = {n: t for n, t in editor.history.items() if history.get(n) is not t}
        return {
            "follows": since.mark != 0,
            "updates": [(u.weight, _own(u.left), _own(u.right)) for u in since.updates],
            "history": {name: _own(entry) for name, entry in new.items()},
            "gone": [name for name in history if name not in editor.history],
            "requests": editor.edited_requests[len(requests) :],
        }

    def at(self, editor: Editor) -> bool:
        """Whether an editor's state is the one at its last checkpoint."""
        found = self.found(editor)
        return found is not None and not any(
            found[name] for name in ("updates", "history", "gone", "requests")
        )


def joined(line: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A checkpoint with the state that its increments add up to.

    ``updates`` holds those that are to be applied to ``state_dict``, which is empty if they start
    from the original weights.

    Args:
        line: the checkpoint and those it builds on, the newest first.
    """
    base = line[-1]  # itself an increment, if that follows the original weights
    history, requests = dict(base.get("history", {})), list(base.get("edited_requests", []))
    increments = [p["increment"] for p in reversed(line) if "increment" in p]
    for part in increments:
        history |= part["history"]
        history = {name: entry for name, entry in history.items() if name not in part["gone"]}
        requests += part["requests"]
    updates = [update for part in increments for update in part["updates"]]
    newest = {name: value for name, value in line[0].items() if name != "increment"}
    return newest | {
        "state_dict": base.get("state_dict", {}),
        "history": history,
        "edited_requests": requests,
        "updates": updates,
        "checksums": increments[-1]["checksums"],
    }


def _own(tensor: Tensor | None) -> Tensor | None:
    """A copy with storage of its own: a view would be saved with all of its storage."""
    if tensor is None:
        return None
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
