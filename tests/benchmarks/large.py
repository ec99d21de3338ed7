"""ROME at the papers' layers on random weights in the papers' models' shapes, for a GPU."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPTJConfig, LlamaConfig, PretrainedConfig

from data_modules.records import WatchedText
from lightning_modules.language_model.compilation import Compilation
from lightning_modules.language_model.scoring import Scores, score
from lightning_modules.methods.rome import ROME

from .shapes import (
    counterfact_like,
    embedded_editor,
    lengths_like_me_ppl,
    random_editor,
    sentences_of,
)


class Shape(NamedTuple):
    """A model's size, and the layer that ROME edits in the papers."""

    name: str
    config: PretrainedConfig
    layer: int


PAPERS = (
    Shape("GPT-2-XL, layer 17", GPT2Config(n_embd=1600, n_layer=48, n_head=25), 17),
    Shape("GPT-J-6B, layer 5", GPTJConfig(), 5),
    Shape("Llama-2-7B, layer 5", LlamaConfig(), 5),
)


def synchronized(device: torch.device) -> float:
    """The time, once the device has done what it was asked for."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


def measure(shape: Shape, embedded: ROME, device: torch.device, count: int) -> list[dict]:
    """Seconds per sequential edit and per edit of a sweep with ME-PPL_50, bf16; peak memory."""
    torch.manual_seed(0)
    with torch.device(device):
        lm = AutoModelForCausalLM.from_config(shape.config, dtype=torch.bfloat16)
    editor = random_editor(lm, shape.layer, embedded).to(device)
    spans = sentences_of(embedded, lengths_like_me_ppl(50, 59))
    requests = counterfact_like(embedded)[:count]
    texts = WatchedText(list(range(len(spans))), [])

    def watch(batch: WatchedText, copies: int) -> Scores:
        return score(lm, spans, lower=editor.lower, copies=copies)

    def sequential() -> None:
        for request in requests:
            editor.make_edit([request])
            watch(texts, 1)
        editor.restore()

    def sweep() -> None:
        editor.make_ahead([[request] for request in requests])
        editor.sweep.watch(texts, watch)

    measured = [("sequential edit", sequential), ("edit of a sweep", sweep)]
    found = [timed(name, function, len(requests), device) for name, function in measured]
    editor.search.compilation = Compilation(lm)
    compiled = timed("compiled sequential edit", sequential, len(requests), device)
    found.append(compiled | {"compiles": editor.search.compilation.works})
    return [row | {"shape": f"{shape.name}, {lm.dtype}, 20 steps"} for row in found]


def timed(name: str, function: Callable, edits: int, device: torch.device) -> dict:
    """Seconds per edit of the second time, and the highest memory of both."""
    function()
    started = synchronized(device)
    function()
    seconds = (synchronized(device) - started) / edits
    row = {
        "name": f"{name}, ME-PPL_50 after it",
        "ours_seconds": seconds,
        "edits_per_second": 1 / seconds,
    }
    if device.type != "cpu":
        row["peak_memory_gib"] = torch.accelerator.max_memory_allocated() / 2**30
        torch.accelerator.reset_peak_memory_stats()
    return row


def rows(
    shapes: tuple[Shape, ...] = PAPERS, device: torch.device | None = None, count: int = 8
) -> list[dict]:
    """Every shape, where there is an accelerator; nothing without one."""
    if device is None and not torch.accelerator.is_available():
        return []
    device = device or torch.accelerator.current_accelerator()
    embedded = embedded_editor()
    return [row for shape in shapes for row in measure(shape, embedded, device, count)]
