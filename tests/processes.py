"""Two processes that talk to each other."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from lightning_modules.editing.replicas import DriftError, Place


def on_both(work: Callable[[Place], Any], folder: Path) -> list[Any]:
    """What two processes make of the work, in the order of their ranks."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()

    def run(rank: int) -> None:
        dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
        try:
            results.put((rank, work(Place(rank, 2))))
        except DriftError as error:
            results.put((rank, str(error)))
        dist.destroy_process_group()

    processes = [context.Process(target=run, args=(rank,)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return [result for _, result in sorted(results.get() for _ in range(2))]
