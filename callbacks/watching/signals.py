"""What may foretell a collapse: weights, hidden states and sampled texts after every edit."""

from functools import partial
from statistics import fmean
from typing import NamedTuple

import lightning as L
import torch
from torch import Tensor

from lightning_modules.editing.editor import Editor
from lightning_modules.language_model.generation import prompt_room
from lightning_modules.language_model.last_states import last_states
from lightning_modules.language_model.layout import oriented
from lightning_modules.language_model.text_sampling import sample_texts
from lightning_modules.language_model.tokens import text_span

from .generation_metrics import generation_entropy
from .measures import leading_subspaces, norm_growth, relative_distance, subspace_overlap

RISING = ("norm_growth", "weight_change", "state_drift")
FALLING = ("overlap_output", "overlap_input", "text_entropy")
SIGNALS = (*RISING, *FALLING)
BEGINNING = 4  # words of a text that are continued


class Unedited(NamedTuple):
    """What the signals compare with.

    Attributes:
        subspaces: by weight, bases ``(out, k)`` and ``(in, k)``.
        states: ``(n, d)``, behind the last block.
    """

    subspaces: dict[str, tuple[Tensor, Tensor]]
    states: Tensor


class WarningSignals(L.Callback):
    """Measures after every edit what may foretell a collapse.

    - ``norm_growth``: relative growth of an edited weight's norm.
    - ``weight_change``: norm of its change since the original, relative to the original's.
    - ``overlap_output`` and ``overlap_input``: mean squared cosine of the principal angles between
      its leading left (right) singular space and the original's.
    - ``state_drift``: relative distance of the hidden states of watched texts behind the last block
      from the unedited model's, root mean square over tokens.
    - ``text_entropy``: entropy of sampled texts' n-grams. They continue the watched texts' first
      words, always with the same random numbers.

    Of several weights the one farthest from its original counts. ``docs/warning.md`` says how well
    these warn. Sampling costs most; with ``prompts: 0`` it is left out.

    Args:
        every_n_edits: edits between two measurements.
        rank: dimensions of the singular spaces; at most the smaller side of a weight.
        texts: number of watched texts, the first ones, whose hidden states are compared.
        prompts: number of texts to sample.
        length: tokens of a sampled text, its first words included.

    Raises:
        ValueError: if a number is not positive, ``prompts`` is negative, or ``length`` is below 2.
    """

    unedited: Unedited

    def __init__(
        self,
        every_n_edits: int = 1,
        rank: int = 16,
        texts: int = 50,
        prompts: int = 8,
        length: int = 40,
    ) -> None:
        sizes = {
            "every_n_edits": every_n_edits,
            "rank": rank,
            "texts": texts,
            "prompts": prompts + 1,
            "length": length - 1,
        }
        least = {"prompts": "0", "length": "2"}
        for name, size in sizes.items():
            if size <= 0:
                given = {"prompts": prompts, "length": length}.get(name, size)
                raise ValueError(f"{name} must be at least {least.get(name, '1')}, got {given}")
        self.every_n_edits = every_n_edits
        self.rank, self.texts = rank, texts
        self.prompts, self.length = prompts, length

    def on_fit_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Measures the unedited model, in a resumed run too.

        Raises:
            ValueError: if no text is watched, or sampled texts are too long for the model.
        """
        watched = trainer.datamodule.watched  # type: ignore[attr-defined] # set by Lightning's connector
        if not watched:
            raise ValueError(
                "WarningSignals compares hidden states of watched texts, and there are none; name "
                "some by --data.watch"
            )
        prompt_room(pl_module.lm, self.length - 1)
        self.watched = [text for _, text in watched]
        spans = [text_span(pl_module.tokenizer, text) for text in self.watched[: self.texts]]
        self.states = partial(last_states, pl_module.lm, spans, lower=pl_module.lower)
        with pl_module.edited.unedited():
            subspaces = {name: self.subspaces(pl_module, name) for name in matrices(pl_module)}
            self.unedited = Unedited(subspaces, self.states())

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Completes the edit's record, or the baseline."""
        if trainer.state.fn != "fit":
            return
        edit = pl_module.record.get("edit")
        if trainer.sanity_checking:
            pl_module.baseline |= self.measured(pl_module)
        elif edit is not None and edit % self.every_n_edits == 0:
            pl_module.record |= self.measured(pl_module)

    def measured(self, editor: Editor) -> dict[str, float]:
        """The signals of the current model, by name."""
        return self.of_weights(editor) | self.of_states() | self.of_texts(editor)

    def subspaces(self, editor: Editor, name: str) -> tuple[Tensor, Tensor]:
        """Bases of an edited weight's leading singular spaces, output and input side."""
        weight = oriented(editor.lm, name, editor.edited.master(name))
        return leading_subspaces(weight, min(self.rank, *weight.shape))

    def of_weights(self, editor: Editor) -> dict[str, float]:
        """Signals of the edited weight that is farthest from its original; none without any."""
        each = [
            figures(editor, name, self.subspaces(editor, name), original)
            for name, original in self.unedited.subspaces.items()
        ]
        return {
            name: (max if name in RISING else min)(own[name] for own in each)
            for name in (each[0] if each else ())
        }

    def of_states(self) -> dict[str, float]:
        """How far the hidden states have moved."""
        return {"state_drift": relative_distance(self.states(), self.unedited.states)}

    def of_texts(self, editor: Editor) -> dict[str, float]:
        """Mean entropy of sampled texts; 0 for one of fewer than four words."""
        begun = [" ".join(text.split()[:BEGINNING]) for text in self.watched[: self.prompts]]
        if not begun:
            return {}
        source = torch.Generator().manual_seed(editor.seed)
        draws = torch.rand(
            len(begun), self.length, generator=source, dtype=torch.float64, device="cpu"
        )
        texts = sample_texts(editor.lm, editor.tokenizer, begun, draws)
        return {"text_entropy": fmean(generation_entropy(text) or 0.0 for text in texts)}


def matrices(editor: Editor) -> list[str]:
    """Names of the edited weights that are no vectors."""
    return [name for name, original in editor.original.items() if original.ndim == 2]


@torch.no_grad()
def figures(
    editor: Editor,
    name: str,
    now: tuple[Tensor, Tensor],
    original: tuple[Tensor, Tensor],
) -> dict[str, float]:
    """Signals of one weight.

    Args:
        editor: holds it.
        name: of the weight.
        now: bases ``(out, k)`` and ``(in, k)`` of its leading singular spaces.
        original: the same of the original weight.
    """
    weight, before = editor.edited.master(name), editor.original[name]
    output, entry = (subspace_overlap(*pair) for pair in zip(now, original, strict=True))
    return {
        "norm_growth": norm_growth(weight, before),
        "weight_change": float((weight - before).double().norm() / before.double().norm()),
        "overlap_output": output,
        "overlap_input": entry,
    }


def remeasured(trainer: L.Trainer, editor: Editor) -> dict[str, float]:
    """The signals of the current model, if the run measures any."""
    return {
        name: value for own in measuring(trainer) for name, value in own.measured(editor).items()
    }


def measures_each_edit(trainer: L.Trainer) -> bool:
    """Whether signals are measured after every edit."""
    return any(own.every_n_edits == 1 for own in measuring(trainer))


def measuring(trainer: L.Trainer) -> list[WarningSignals]:
    """The callbacks that measure signals."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined] # set by Lightning's connector
    return [callback for callback in callbacks if isinstance(callback, WarningSignals)]
