"""The weights that a method may change: originals, masters and updates."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from transformers import PreTrainedModel

from ..language_model.layout import oriented
from ..language_model.streamed import keep_loaded
from .replicas import checksum


class Update(NamedTuple):
    """A change of one weight, seen as ``(out, in)``: ``left @ right``.

    Attributes:
        weight: the parameter's full name.
        left: ``(out, r)``; or the whole change ``(out, in)`` if ``right`` is None, ``(out,)`` of a
            vector such as a bias.
        right: ``(r, in)``.
    """

    weight: str
    left: Tensor
    right: Tensor | None = None

    def dense(self) -> Tensor:
        """The full change, ``(out, in)``; the same bits for any memory layout of the factors."""
        if self.right is None:
            return self.left[:, None] if self.left.ndim == 1 else self.left
        return self.left.contiguous() @ self.right.contiguous()


class State(NamedTuple):
    """What an edit changes and an undo restores."""

    weights: dict[str, Tensor]
    history: dict[str, Tensor]
    edited_requests: list[str]


class Since(NamedTuple):
    """How weights became what they are.

    Attributes:
        mark: the state that they were in before the updates; 0 is the original one.
        updates: all since then, in their order.
    """

    mark: int
    updates: tuple[Update, ...] = ()


class Snapshot(dict[str, Tensor]):
    """Copies of weights, by name.

    Args:
        weights: the copies.
        since: how the weights became what they are, as far as it is known.
    """

    def __init__(self, weights: Mapping[str, Tensor], since: Since | None) -> None:
        super().__init__(weights)
        self.since = since


class EditedWeights:
    """The parameters under edit; those of a half-precision model have float32 masters.

    Changes accumulate in the master, and the model holds it rounded to its own precision. So edits
    that are too small for that precision are not lost. ``since`` holds the updates that led from
    the last :meth:`mark` to the present weights, or from the original weights; None where there was
    no mark, or weights were overwritten by others.

    Args:
        lm: the model, unedited.
        names: of the parameters that may change.
    """

    def __init__(self, lm: PreTrainedModel, names: Sequence[str]) -> None:
        keep_loaded(lm, names)
        self.lm = lm
        copies = {name: lm.get_parameter(name).detach().float().clone() for name in names}
        self.original = Snapshot(copies, Since(0))
        self.since: Since | None = None
        self.marks = 0
        self._masters: dict[str, Tensor] = {}

    def master(self, name: str) -> Tensor:
        """The float32 values of a weight; the parameter itself if that is float32."""
        weight = self.lm.get_parameter(name)
        if weight.dtype == torch.float32:
            return weight
        if name not in self._masters:
            self._masters[name] = weight.detach().float()
        return self._masters[name]

    @torch.no_grad()
    def apply(self, update: Update) -> None:
        """Adds an update to its weight.

        Raises:
            FloatingPointError: if the update is not finite, or the weight would not be so in the
                model's precision; the weight stays as it was.
        """
        change, weight = update.dense(), self.lm.get_parameter(update.weight)
        master = self.master(update.weight)
        view = oriented(self.lm, update.weight, master)
        changed = view + change.to(view)
        if not torch.isfinite(changed.to(weight.dtype)).all():
            overflows = torch.isfinite(change).all()
            why = (
                f"overflows {weight.dtype}".replace("torch.", "") if overflows else "is not finite"
            )
            raise FloatingPointError(f"the update of {update.weight} {why}")
        view.copy_(changed)
        weight.copy_(master)
        if self.since is not None:
            self.since = Since(self.since.mark, (*self.since.updates, update))

    def masters(self) -> dict[str, Tensor]:
        """Every master, by name."""
        return {name: self.master(name) for name in self.original}

    def mark(self) -> int:
        """Begins to count updates from the present weights; returns the number of this state."""
        self.marks += 1
        self.since = Since(self.marks)
        return self.marks

    def snapshot(self) -> Snapshot:
        """A copy of every master, by name."""
        copies = {name: master.clone() for name, master in self.masters().items()}
        return Snapshot(copies, self.since)

    @torch.no_grad()
    def assign(self, weights: dict[str, Tensor]) -> None:
        """Overwrites weights and their masters, by name."""
        for name, value in weights.items():
            self.master(name).copy_(value)
            self.lm.get_parameter(name).copy_(value)
        self.since = None
        if isinstance(weights, Snapshot) and self.marks:  # without a mark nobody asks
            self.since = weights.since

    def load(self, weights: dict[str, Tensor]) -> None:
        """Takes the weights of a checkpoint.

        Raises:
            ValueError: if they are not those under edit.
        """
        if weights.keys() != self.original.keys():
            raise ValueError(
                f"the checkpoint holds the edited weights {', '.join(sorted(weights))}, but this "
                f"method edits {', '.join(sorted(self.original))}; name the method and the layers "
                "that the run was made with"
            )
        self.assign(weights)

    def rebuild(self, checkpoint: dict[str, Any]) -> None:
        """Takes the weights of a checkpoint, and applies the updates that it lists after them.

        The checkpoint then holds the result, which Lightning loads next. A warning says so if it
        differs from the weights that the checkpoint was saved with.

        Raises:
            ValueError: if they are not those under edit.
        """
        weights = {n.removeprefix("lm."): w for n, w in checkpoint["state_dict"].items()}
        self.load(self.original if "updates" in checkpoint and not weights else weights)
        for name, left, right in checkpoint.get("updates", ()):
            where = self.master(name).device
            self.apply(Update(name, left.to(where), None if right is None else right.to(where)))
        checkpoint["state_dict"] = {f"lm.{name}": w for name, w in self.masters().items()}
        held = checkpoint.get("checksums", {})
        if any(checksum(self.master(name)) != held[name] for name in held):
            rank_zero_warn(
                "the weights of the checkpoint, rebuilt from its updates, differ from those of the "
                "run in rounding: this machine is not like the one that made them"
            )

    @contextmanager
    def unedited(self) -> Iterator[None]:
        """Gives every weight its original value inside the context."""
        edited = self.snapshot()
        self.assign(self.original)
        try:
            yield
        finally:
            self.assign(edited)

    @torch.no_grad()
    def distance(self, weights: dict[str, Tensor]) -> float:
        """Frobenius norm of the change since a snapshot, over all weights."""
        changes = [
            (self.master(name) - old).double().square().sum().to(self.lm.device)
            for name, old in weights.items()
        ]
        return float(torch.stack(changes).sum().sqrt())
