"""Second moments of five layers: all in one pass without padding, against a pass per layer."""

import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from data_modules.embedded import embedded_sentences
from data_modules.records import WatchedText
from lightning_modules.jobs.key_statistics import KeyStatistics
from lightning_modules.language_model.layout import output_map
from lightning_modules.language_model.tokens import collate
from tests.benchmarks.timing import alternate
from tests.oracles import published_kernels

LAYERS = [0, 1, 2, 3, 4]


def articles(count: int) -> list[str]:
    """Documents of 1 to 40 of the embedded sentences."""
    chance = random.Random(0)
    sentences = embedded_sentences()
    return [" ".join(chance.choices(sentences, k=chance.randint(1, 40))) for _ in range(count)]


@torch.no_grad()
def padded_moment(
    lm: PreTrainedModel, windows: Sequence[list[int]], layer: int, batch_size: int = 16
) -> Tensor:
    """One layer's moment by a pass of its own up to the layer, as ``layer_stats`` does.

    Windows are sorted by length and padded to the longest of the batch; each batch adds one float32
    product.
    """
    total, count = 0, 0
    ordered = sorted(windows, key=len)
    for at in range(0, len(ordered), batch_size):
        batch = collate(ordered[at : at + batch_size], lm.device)
        with published_kernels(lm), stopping_at(output_map(lm, layer)) as seen:
            lm(batch.tokens, attention_mask=batch.mask)
        keys = seen[0].reshape(batch.mask.numel(), -1)[batch.mask.flatten().bool()]
        total = total + keys.T @ keys
        count += len(keys)
    return total / count


class Stop(Exception):  # noqa: N818 - no error
    """Ends a pass at a module."""


@contextmanager
def stopping_at(module: nn.Module) -> Iterator[list[Tensor]]:
    """Ends a pass before a module and keeps its input."""
    seen: list[Tensor] = []

    def stop(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])
        raise Stop

    handle = module.register_forward_pre_hook(stop)
    try:
        with suppress(Stop):
            yield seen
    finally:
        handle.remove()


def windows_of(module: KeyStatistics, texts: Sequence[str]) -> list[list[int]]:
    """What the module cuts the texts into, up to its budget of tokens."""
    windows: list[list[int]] = []
    room = module.tokens
    for text in texts:
        ids = module.tokenizer(text, add_special_tokens=False)["input_ids"]
        step = module.window - len(module.beginning)
        for at in range(0, len(ids), step):
            windows.append((module.beginning + ids[at : at + step])[:room])
            room -= len(windows[-1])
            if not room:
                return windows
    return windows


def estimate(module: KeyStatistics, texts: Sequence[str]) -> None:
    """Runs the module over the texts."""
    batches = [
        WatchedText(list(range(at, at + 16)), list(texts[at : at + 16]))
        for at in range(0, len(texts), 16)
    ]
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    trainer.test(module, DataLoader(batches, batch_size=None), verbose=False)


def rows(tokens: int = 100_000, rounds: int = 1) -> list[dict]:
    """Seconds of both on the embedded model, text to file."""
    texts = articles(tokens // 200)
    with tempfile.TemporaryDirectory() as folder:
        module = KeyStatistics(layers=LAYERS, tokens=tokens, output=str(Path(folder) / "moments"))
        module.configure_model()

        def pass_per_layer() -> None:
            windows = windows_of(module, texts)
            for layer in LAYERS:
                padded_moment(module.lm, windows, layer)

        times = alternate(lambda: estimate(module, texts), pass_per_layer, rounds, warm_up=False)
    return [
        {
            "name": f"second moments of {len(LAYERS)} layers",
            "shape": f"embedded, {tokens:,} tokens",
            **times,
            "tokens_per_second": round(tokens / times["ours_seconds"]),
            "padding": round(1 - module.counted / module.computed, 4),
        }
    ]
