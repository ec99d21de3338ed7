"""Measures speed: python -m tests.benchmarks writes docs/performance.json and prints a table."""

import json
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from data_modules.embedded import embedded_requests, embedded_sentences
from lightning_modules.functional.value_search import ValueSearchOptions
from lightning_modules.language_model.scoring import score
from lightning_modules.language_model.tokens import text_span
from lightning_modules.rome import ROME
from tests.oracles import full_value_search, padded_perplexity

REPORT = Path("docs/performance.json")


def alternate(ours: Callable, oracle: Callable | None, rounds: int) -> dict[str, float]:
    """Median seconds of both, timed in turn; one round of each warms up."""
    times: dict[str, list[float]] = {"ours_seconds": [], "oracle_seconds": []}
    for number in range(rounds + 1):
        for name, function in zip(times, (ours, oracle), strict=True):
            if function is not None:
                started = time.perf_counter()
                function()
                if number:
                    times[name].append(time.perf_counter() - started)
    row = {name: statistics.median(seconds) for name, seconds in times.items() if seconds}
    if oracle is not None:
        row["ratio"] = row["oracle_seconds"] / row["ours_seconds"]
    return row


def embedded_editor() -> ROME:
    """ROME on the embedded model, ready to edit."""
    editor = ROME()
    editor.configure_model()
    editor.prepare()
    return editor


def small_editor(embedded: ROME) -> ROME:
    """ROME on random weights in GPT-2-small's shape, which always takes all its steps."""
    torch.manual_seed(0)
    editor = ROME(layer=5, value=ValueSearchOptions(goal=0.0), second_moment="identity")
    editor.tokenizer = embedded.tokenizer
    editor.lm = GPT2LMHeadModel(GPT2Config()).eval().requires_grad_(False)
    editor.contexts = embedded.contexts
    return editor


def rows() -> list[dict]:
    """All measurements, slowest last."""
    editor = embedded_editor()
    requests = embedded_requests()
    spans = [text_span(editor.tokenizer, text) for text in embedded_sentences()]
    small = small_editor(editor)
    request = requests[0]

    def search(of: ROME) -> Callable:
        return lambda: of.seek([request])

    def edit() -> None:
        for update in editor.edit([request]):
            editor.apply_update(update)
        editor.restore()

    return [
        {"name": "one edit", "shape": "embedded", **alternate(edit, None, 5)},
        {
            "name": f"perplexity of {len(spans)} sentences",
            "shape": "embedded",
            **alternate(
                lambda: score(editor.lm, spans), lambda: padded_perplexity(editor.lm, spans), 3
            ),
        },
        {
            "name": "value search, one request",
            "shape": "embedded",
            **alternate(search(editor), lambda: full_value_search(editor, request), 3),
        },
        {
            "name": "value search, one request",
            "shape": "GPT-2 small, layer 5, 21 contexts, 20 steps",
            **alternate(search(small), lambda: full_value_search(small, request), 1),
        },
    ]


def main() -> None:
    """Measures, prints, writes."""
    measured = rows()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    machine = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    for row in measured:
        ratio = f"{row['oracle_seconds']:8.2f} s {row['ratio']:5.1f} x" if "ratio" in row else ""
        print(f"{row['name']:32} {row['shape']:44} {row['ours_seconds']:8.3f} s {ratio}")
    report = {"machine": machine, "peak_memory_gib": round(peak, 2), "rows": measured}
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    print(f"peak memory {peak:.2f} GiB; {machine}; written to {REPORT}")


if __name__ == "__main__":
    main()
