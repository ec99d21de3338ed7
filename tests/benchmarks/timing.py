"""Two ways to the same result, timed in turn."""

import statistics
import time
from collections.abc import Callable


def alternate(
    ours: Callable, oracle: Callable | None = None, rounds: int = 3, warm_up: bool = True
) -> dict[str, float]:
    """Median seconds of both, timed in turn, and how many times as fast ours is.

    Args:
        ours: what the product does.
        oracle: the straightforward way, if there is one.
        rounds: measured.
        warm_up: whether a round that does not count comes first.
    """
    times: dict[str, list[float]] = {"ours_seconds": [], "oracle_seconds": []}
    for number in range(rounds + warm_up):
        for name, function in zip(times, (ours, oracle), strict=True):
            if function is not None:
                started = time.perf_counter()
                function()
                if number >= warm_up:
                    times[name].append(time.perf_counter() - started)
    row = {name: statistics.median(seconds) for name, seconds in times.items() if seconds}
    if oracle is not None:
        row["ratio"] = row["oracle_seconds"] / row["ours_seconds"]
    return row
