"""Two ways to the same result, timed in turn."""

import importlib
import platform
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from docs.leaderboard.costs import fast_kernels
from lightning_modules.language_model.kernels import product

LARGE = 2048  # side of the matrices whose product shows the peak


def alternate(
    ours: Callable, oracle: Callable | None = None, rounds: int = 3, warm_up: bool = True
) -> dict[str, float]:
    """Median CPU seconds of both, timed in turn, ratio, and operations of ours.

    Seconds of this process, so that what else the machine does counts little. The operations, of
    matrix products and attention, are counted in a run of ours before.

    Args:
        ours: what the product does.
        oracle: the straightforward way, if there is one.
        rounds: measured.
        warm_up: whether a round that does not count comes first.
    """
    with FlopCounterMode(display=False, custom_mapping=fast_kernels()) as counter:
        ours()
    times: dict[str, list[float]] = {"ours_seconds": [], "oracle_seconds": []}
    for number in range(rounds + warm_up):
        for name, function in zip(times, (ours, oracle), strict=True):
            if function is not None:
                started = time.process_time()
                function()
                if number >= warm_up:
                    times[name].append(time.process_time() - started)
    row = {name: statistics.median(seconds) for name, seconds in times.items() if seconds}
    if oracle is not None:
        row["ratio"] = row["oracle_seconds"] / row["ours_seconds"]
    return row | {"operations": float(counter.get_total_flops())}


@torch.no_grad()
def peak_rate(rounds: int = 5) -> float:
    """Operations per second of a large float32 product, the best of some."""
    left, right = torch.randn(2, LARGE, LARGE)
    times = []
    for _ in range(rounds):
        started = time.process_time()
        product(left, right, None)
        times.append(time.process_time() - started)
    return 2 * LARGE**3 / min(times)


def machine() -> str:
    """What was measured on."""
    if torch.accelerator.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def measured(part: str) -> list[dict]:
    """Rows of one part, measured in a process of its own."""
    rows = importlib.import_module(f"tests.benchmarks.{part}").rows()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = [{"part": part, "peak_memory_gib": peak, **row, "machine": machine()} for row in rows]
    rate = peak_rate()
    return [
        row | {"of_peak": row["operations"] / row["ours_seconds"] / rate, "peak_rate": rate}
        if "operations" in row
        else row
        for row in found
    ]
