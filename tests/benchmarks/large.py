"""ROME at the papers' layers on random weights in the papers' models' shapes, for a GPU.

Through the Trainer with judging, ME-PPL_50, checkpoint and ledger, as configs/defaults.yaml; and
the published way beside it.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTJConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from callbacks.keeping.checkpoint import EditCheckpoint
from callbacks.keeping.edit_ledger import EditLedger
from callbacks.keeping.journal import EditJournal
from callbacks.watching.edit_metrics import EditMetrics
from callbacks.watching.perplexity import Perplexity
from callbacks.watching.restore import RestoreWeights
from data_modules.edit_requests import EditingDataModule
from data_modules.records import EditRequest
from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.language_model.layout import output_map
from lightning_modules.language_model.scoring import Batching
from lightning_modules.methods.rome import ROME

from .shapes import counterfact_like, embedded_editor, lengths_like_me_ppl, sentences_of
from .sweep import one_by_one

WATCHED = 50
WATCHING = "judged, ME-PPL_50, kept"


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


class RandomMoment(ROME):
    """ROME with a random second moment in the place of an estimated one, which costs the same."""

    def load_moment(self, layer: int) -> Tensor:
        """``(f, f)``, positive definite."""
        weight = output_map(self.lm, layer).weight
        width = weight.numel() // self.lm.config.hidden_size
        keys = torch.randn(width, width, device=weight.device, dtype=torch.float64)
        return keys.T @ keys / width + torch.eye(width, device=weight.device, dtype=torch.float64)


class Clock(L.Callback):
    """The times at which edits begin and the run ends, once the device has done its work."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Notes an edit's beginning."""
        self.times.append(synchronized(trainer.strategy.root_device))

    def on_train_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Notes the end."""
        self.on_train_batch_start(trainer)


def synchronized(device: torch.device) -> float:
    """The time, once the device has done what it was asked for."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


def editor_of(lm: PreTrainedModel, shape: Shape, embedded: ROME, compiled: bool) -> ROME:
    """ROME on a random model, which takes all its steps."""
    options = ValueSearchOptions(goal=0.0)
    batching = Batching(padding=0.4)
    editor = RandomMoment(
        layer=shape.layer, value=options, compile_search=compiled, batching=batching
    )
    editor.contexts.templates = embedded.contexts.templates
    editor.attach(lm, embedded.tokenizer)
    return editor


def run(
    editor: ROME,
    requests: Sequence[EditRequest],
    texts: Sequence[str],
    more: Sequence[L.Callback],
    watching: bool = True,
) -> list[float]:
    """Seconds of every edit and what follows it, through the Trainer."""
    data = EditingDataModule(watch_batch_size=WATCHED)
    data.requests, data.watched = list(requests), list(enumerate(texts))
    watchers = [EditMetrics(), Perplexity()] if watching else []
    clock, callbacks = Clock(), [EditJournal(), *watchers, EditLedger()]
    with tempfile.TemporaryDirectory() as folder:
        L.Trainer(
            accelerator="cpu" if editor.device.type == "cpu" else "gpu",
            devices=1,
            max_epochs=1,
            val_check_interval=1,
            limit_val_batches=None if watching else 0,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=-1,
            enable_model_summary=False,
            enable_progress_bar=False,
            logger=False,
            default_root_dir=folder,
            callbacks=[clock, *callbacks, *more, EditCheckpoint()],
        ).fit(editor, data)
    editor.restore()
    return [end - start for start, end in zip(clock.times[:-1], clock.times[1:], strict=True)]


def measure(
    shape: Shape, embedded: ROME, device: torch.device, count: int
) -> Iterator[dict[str, Any]]:
    """Seconds per edit with what follows it, in bfloat16, beside the published way."""
    torch.manual_seed(0)
    with torch.device(device):
        lm = AutoModelForCausalLM.from_config(shape.config, dtype=torch.bfloat16)
    spans = sentences_of(embedded, lengths_like_me_ppl(WATCHED, 59))
    texts = [embedded.tokenizer.decode(span.tokens) for span in spans]
    requests = counterfact_like(embedded)[:count]
    plain, compiling = (editor_of(lm, shape, embedded, compiled) for compiled in (False, True))
    times = run(plain, requests, texts, ())
    plain.to(device)  # the Trainer leaves it on the CPU
    with torch.device(device):
        for _ in range(2):  # the first warms up
            started = synchronized(device)
            one_by_one(plain, requests[:1], spans)
            published = synchronized(device) - started

    def row(name: str, seconds: float) -> dict[str, Any]:
        found = {"name": name, "shape": f"{shape.name}, {lm.dtype}, 20 steps, {named(device)}"}
        found |= {"ours_seconds": seconds, "edits_per_second": 1 / seconds}
        return found | {"oracle_seconds": published, "ratio": published / seconds} | peak(device)

    yield row(f"sequential edit, {WATCHING}", median(times[1:]))
    times = run(compiling, requests, texts, ())
    found = row(f"sequential edit, compiled, {WATCHING}", median(times[1:]))
    yield found | {"compiles": compiling.search.compilation.works}
    times = run(compiling, requests, texts, (), watching=False)
    yield row("sequential edit, compiled, kept", median(times[1:]))
    times = run(compiling, requests, texts, [RestoreWeights(count)])
    yield row(f"edit of a sweep, compiled, {WATCHING}", sum(times) / count)


def named(device: torch.device) -> str:
    """What the device is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def peak(device: torch.device) -> dict[str, float]:
    """The most memory since the last call, where the device counts it."""
    if device.type == "cpu":
        return {}
    found = {"peak_memory_gib": torch.accelerator.max_memory_allocated() / 2**30}
    torch.accelerator.reset_peak_memory_stats()
    return found


def rows(
    shapes: tuple[Shape, ...] = PAPERS, device: torch.device | None = None, count: int = 8
) -> list[dict]:
    """Every shape, where there is an accelerator; nothing without one."""
    if device is None and not torch.accelerator.is_available():
        return []
    device = device or torch.accelerator.current_accelerator()
    embedded = embedded_editor()
    return [row for shape in shapes for row in measure(shape, embedded, device, count)]
