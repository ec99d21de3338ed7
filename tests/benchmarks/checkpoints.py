"""Checkpoints after few and many edits: bytes and seconds of each, against whole ones."""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from callbacks.keeping.checkpoint_files import WholeFiles
from callbacks.keeping.increments import Increments
from lightning_modules.editing.edited_weights import Update
from lightning_modules.methods.past_edits import PastEdits
from lightning_modules.methods.rls_edit import RLSEdit
from tests.tiny import tiny_tokenizer

COUNTS = (10, 1000, 5000)
EVERY = 100  # increments between two whole checkpoints, as by default
LAYERS = [0, 1]
SMOLLM2 = LlamaConfig(
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=2,
    num_attention_heads=9,
    vocab_size=512,
)


class Growing:
    """RLSEdit whose edits are random changes of rank one, without a search.

    Args:
        config: of the model.
    """

    def __init__(self, config: LlamaConfig) -> None:
        self.editor = RLSEdit(layers=LAYERS, lm="tiny")
        self.editor.attach(LlamaForCausalLM(config), tiny_tokenizer())
        self.draw = torch.Generator().manual_seed(0)

    def edit(self, weights: bool = True) -> None:
        """One more edit; its changes of the weights may be left out."""
        for layer, name in zip(LAYERS, self.editor.edited_weights(), strict=True):
            rows, columns = self.editor.lm.get_parameter(name).shape
            if weights:
                left = torch.randn(rows, 1, generator=self.draw) * 1e-3
                right = torch.randn(1, columns, generator=self.draw)
                self.editor.edited.apply(Update(name, left.double(), right.double()))
            column = torch.randn(columns, 1, generator=self.draw).double()
            PastEdits(self.editor.history, layer).append(column)
        self.editor.edited_requests.append(f"{len(self.editor.edited_requests):032}")

    def state(self) -> dict[str, Any]:
        """A checkpoint's state of the editor."""
        return {
            "state_dict": self.editor.state_dict(),
            "history": dict(self.editor.history),
            "edited_requests": list(self.editor.edited_requests),
        }


def saved(growing: Growing, edits: int, most: int) -> tuple[float, float]:
    """Seconds and bytes of a checkpoint, the mean over so many edits."""
    increments, files = Increments(most, 0), WholeFiles()
    seconds, size = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        last = Path(folder, "last.ckpt")
        for _ in range(edits):
            growing.edit()
            started = time.perf_counter()
            files.save_checkpoint(growing.state(), last, increments.of(growing.editor))
            seconds += time.perf_counter() - started
            size += last.stat().st_size
    return seconds / edits, size / edits


def rows(
    config: LlamaConfig = SMOLLM2, counts: tuple[int, ...] = COUNTS, every: int = EVERY
) -> list[dict]:
    """A row for each number of edits made before; the other side saves all at each edit."""
    growing, made = Growing(config), []
    for count in counts:
        while len(growing.editor.edited_requests) < count:
            growing.edit(weights=False)
        whole, all_bytes = saved(growing, 3, most=0)
        ours, some_bytes = saved(growing, every + 1, most=every)
        row = {"ours_seconds": ours, "oracle_seconds": whole, "ratio": whole / ours}
        sizes = {"ours_bytes": some_bytes, "oracle_bytes": all_bytes}
        shape = f"RLSEdit, {len(LAYERS)} layers of SmolLM2-135M"
        made.append({"name": f"checkpoint after {count} edits", "shape": shape, **row, **sizes})
    return made
