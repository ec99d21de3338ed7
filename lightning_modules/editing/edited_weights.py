"""The weights that a method may change: originals, masters and updates."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from transformers import PreTrainedModel

from ..language_model.layout import experts_in, oriented, parameter_of, weight_of
from ..language_model.streamed import keep_loaded
from .replicas import checksum


class Update(NamedTuple):
    """A change of one weight, seen as ``(out, in)``: ``left @ right``.

    Attributes:
        weight: the parameter's full name; ``NAME[e]`` is the slice of expert e. A method may name a
            parameter of E experts, whose ``in`` is then that of their stacked keys, ``E f``.
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
    that are too small for that precision are not lost. Of a parameter that holds many experts, only
    the slices that were edited are kept. ``since`` holds the updates that led from the last
    :meth:`mark` to the present weights, or from the original weights; None where there was no mark,
    or weights were overwritten by others.

    Args:
        lm: the model, unedited.
        names: of the parameters that may change.
    """

    def __init__(self, lm: PreTrainedModel, names: Sequence[str]) -> None:
        keep_loaded(lm, names)
        self.lm = lm
        self.names = {parameter_of(name) for name in names}
        self.stacks = {name for name in self.names if experts_in(lm, name)}
        self.original = Snapshot({}, Since(0))
        self.since: Since | None = None
        self.marks = 0
        self._masters: dict[str, Tensor] = {}
        for name in names:
            if name not in self.stacks:
                self.keep(name)

    def keep(self, name: str) -> None:
        """Stores the original of a weight, before its first change.

        Raises:
            ValueError: if it is none of those that may change.
        """
        if name in self.original:
            return
        if parameter_of(name) not in self.names:
            raise ValueError(f"{name} may not change, only {', '.join(sorted(self.names))}")
        self.original[name] = weight_of(self.lm, name).detach().float().clone()

    def pair(self, name: str) -> tuple[Tensor, Tensor]:
        """A weight now and before any edit, ``(out, in)`` each."""
        self.keep(name)
        now, original = self.master(name), self.original[name]
        return oriented(self.lm, name, now), oriented(self.lm, name, original)

    def master(self, name: str) -> Tensor:
        """The float32 values of a weight; the parameter itself if that is float32."""
        weight = weight_of(self.lm, name)
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
        self.keep(update.weight)
        change, weight = update.dense(), weight_of(self.lm, update.weight)
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

    def completed(self, weights: dict[str, Tensor]) -> Snapshot:
        """Weights, beside the originals of slices that they lack, which were edited since."""
        return Snapshot({**self.original, **weights}, getattr(weights, "since", None))

    @torch.no_grad()
    def assign(self, weights: dict[str, Tensor]) -> None:
        """Overwrites weights and their masters, by name."""
        for name, value in weights.items():
            self.master(name).copy_(value)
            weight_of(self.lm, name).copy_(value)
        self.since = None
        if isinstance(weights, Snapshot) and self.marks:  # without a mark nobody asks
            self.since = weights.since

    def load(self, weights: dict[str, Tensor]) -> None:
        """Takes the weights of a checkpoint.

        Raises:
            ValueError: if they are not those under edit.
        """
        whole = {name for name in weights if parameter_of(name) not in self.stacks}
        if whole != self.names - self.stacks:
            raise ValueError(
                f"the checkpoint holds the edited weights {', '.join(sorted(weights))}, but this "
                f"method edits {', '.join(sorted(self.names))}; name the method and the layers "
                "that the run was made with"
            )
        for name in weights:
            self.keep(name)
        self.assign(self.completed(weights))

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
            for name, old in self.completed(weights).items()
        ]
        return float(torch.stack(changes).sum().sqrt()) if changes else 0.0
