"""Two models' continuations of the same prompts: original, edited, without an edit, or exported."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ..editing.ledger import Entry
from ..language_model.generation import generate, prompt_room
from ..language_model.kernels import use_fast_kernels
from ..language_model.loading import load
from ..language_model.positions import begin_at
from .replay import Replay

Side = PreTrainedModel | list[Entry]  # an exported model, or the edits that the model holds


class Compare(Replay):
    """Under ``predict``, continues each prompt greedily by two models.

    A side is ``original``, ``edited`` (the whole run, or what ``until``, ``without`` and ``only``
    leave of it), an edit's number (the model as of that edit), ``without 3`` or ``without 3,4``, or
    the folder of an exported model.

    Args:
        ledger: the folder of a run, or of several, one after another.
        left: the first model.
        right: the second one.
        max_new_tokens: of a continuation.
    """

    def __init__(
        self,
        ledger: str | list[str],
        left: int | str = "original",
        right: int | str = "edited",
        max_new_tokens: int = 40,
        **options: Any,
    ) -> None:
        super().__init__(ledger=ledger, **options)
        self.left, self.right = str(left), str(right)
        self.max_new_tokens = max_new_tokens

    def attach(self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        """Takes the model, and finds both sides.

        Raises:
            ValueError: if a side is none of the known ones, or its model is of another kind.
        """
        super().attach(lm, tokenizer)
        prompt_room(lm, self.max_new_tokens)
        self.sides = [self.side("left", self.left), self.side("right", self.right)]

    def side(self, option: str, name: str) -> Side:
        """The model or the edits of a side.

        Raises:
            ValueError: if there is no such side.
        """
        if name == "original":
            return []
        if name == "edited":
            return self.chosen()
        if name.isdecimal():
            return self.as_of(int(name))
        if found := re.fullmatch(r"without ([\d, ]*\d)", name):
            return self.but([int(number) for number in re.findall(r"\d+", found[1])])
        if Path(name).expanduser().is_dir():
            return self.exported(name)
        raise ValueError(
            f"{option} is {name!r}, but a side is original, edited, an edit's number, 'without 3', "
            "or the folder of an exported model"
        )

    def as_of(self, edit: int) -> list[Entry]:
        """The edits up to one.

        Raises:
            ValueError: if the ledger ends before it.
        """
        if edit > self.entries[-1].edit:
            raise ValueError(
                f"there is no edit {edit}: the ledger of {self.ledgers[-1]} ends at edit "
                f"{self.entries[-1].edit}"
            )
        return [entry for entry in self.entries if entry.edit <= edit]

    def but(self, edits: Sequence[int]) -> list[Entry]:
        """All edits but some."""
        self.require(edits)
        return [entry for entry in self.entries if entry.edit not in edits]

    def exported(self, folder: str) -> PreTrainedModel:
        """The model in a folder.

        Raises:
            ValueError: if its architecture or its tokenizer is not that of the ledger's model.
        """
        lm, tokenizer = load(folder, self.dtype_name, self.trust_remote_code)
        for what, own, other in (
            ("an architecture", shapes(self.lm), shapes(lm)),
            ("a tokenizer", self.tokenizer.get_vocab(), tokenizer.get_vocab()),
        ):
            if own != other:
                raise ValueError(
                    f"{folder} has {what} other than {self.lm_name!r}, of which the ledger holds "
                    "edits; give a model that was exported from a run of it"
                )
        use_fast_kernels(lm)
        begin_at(lm, self.first_position)
        return lm.to(self.device)  # type: ignore[arg-type] # transformers wraps it

    def predict_step(self, batch: Sequence[str], batch_idx: int) -> list[dict[str, str]]:
        """Each ``prompt`` with its continuations, ``left`` and ``right``."""
        left, right = (self.continued(side, batch) for side in self.sides)
        return [
            {"prompt": prompt, "left": one, "right": other}
            for prompt, one, other in zip(batch, left, right, strict=True)
        ]

    @torch.inference_mode()
    def continued(self, side: Side, prompts: Sequence[str]) -> list[str]:
        """A side's continuations of prompts, which go through the chat template if that is on."""
        frame = self.frames.judged
        asked = [frame.around(prompt) + (frame.separator or "") for prompt in prompts]
        ends = [frame.end.strip()] if frame.end.strip() else []
        if isinstance(side, list):
            self.rebuild(side)
        lm = self.lm if isinstance(side, list) else side
        texts = generate(lm, self.tokenizer, asked, ends, self.max_new_tokens)
        return [text.strip() for text in texts]

    def card(self) -> dict[str, Any]:
        """Adds both sides."""
        return super().card() | {"left": self.left, "right": self.right}


def shapes(lm: PreTrainedModel) -> tuple[str, dict[str, torch.Size]]:
    """A model's kind, and the shape of each of its parameters."""
    kind = lm.config.model_type
    return kind, {name: parameter.shape for name, parameter in lm.named_parameters()}
