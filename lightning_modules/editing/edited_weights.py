"""The weights that a method may change: originals, masters and updates."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..language_model.layout import oriented
from ..language_model.streamed import keep_loaded


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


class EditedWeights:
    """The parameters under edit; those of a half-precision model have float32 masters.

    Changes accumulate in the master, and the model holds it rounded to its own precision. So edits
    that are too small for that precision are not lost.

    Args:
        lm: the model, unedited.
        names: of the parameters that may change.
    """

    def __init__(self, lm: PreTrainedModel, names: Sequence[str]) -> None:
        keep_loaded(lm, names)
        self.lm = lm
        self.original = {name: lm.get_parameter(name).detach().float().clone() for name in names}
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

    def masters(self) -> dict[str, Tensor]:
        """Every master, by name."""
        return {name: self.master(name) for name in self.original}

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of every master, by name."""
        return {name: master.clone() for name, master in self.masters().items()}

    @torch.no_grad()
    def assign(self, weights: dict[str, Tensor]) -> None:
        """Overwrites weights and their masters, by name."""
        for name, value in weights.items():
            self.master(name).copy_(value)
            self.lm.get_parameter(name).copy_(value)

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
