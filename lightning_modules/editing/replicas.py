"""Several devices, each with a copy of the model: the same edits, shared work."""

import atexit
import os
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch import Tensor
from torch.utils.data import DistributedSampler

T = TypeVar("T")


class Replicas(DDPStrategy):
    """Communicating processes without DDP's wrapper: devices exchange no gradients."""

    def setup_environment(self) -> None:
        """Joins the process group; this process ends when its parent ends.

        Gloo's threads free tensors, for which they need the interpreter: they end before it does
        (pytorch#190489), but not with a run, since the Trainer may begin another.
        """
        super().setup_environment()
        atexit.register(_leave)
        if self.local_rank > 0:
            threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()

    def configure_ddp(self) -> None:
        """Leaves the model as it is."""

    def process_dataloader(self, dataloader: Any) -> Any:
        """Leaves a loader unchanged: it knows which batches this device gets, and their order.

        Raises:
            ValueError: if Lightning added its own sampler.
        """
        if isinstance(getattr(dataloader, "sampler", None), DistributedSampler):
            raise ValueError("the strategy 'replicas' needs Trainer(use_distributed_sampler=False)")
        return dataloader


StrategyRegistry.register("replicas", Replicas, description=str(Replicas.__doc__))


def _leave() -> None:
    if dist.is_initialized():  # once for any number of runs
        dist.destroy_process_group()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


class DriftError(RuntimeError):
    """Two copies of the model differ."""


class Place(NamedTuple):
    """This device among those that hold the same model and work on the same edit.

    Attributes:
        rank: from 0.
        devices: their number.
    """

    rank: int = 0
    devices: int = 1

    def holds(self, number: int) -> bool:
        """Whether a piece of work belongs to this device; the devices take turns."""
        return number % self.devices == self.rank

    def summed(self, part: Tensor, device: torch.device) -> Tensor:
        """The sum of all devices' tensors, on the CPU."""
        if self.devices == 1:
            return part
        total = part.to(device)
        dist.all_reduce(total)
        return total.cpu()

    def joined(self, part: dict[int, T], device: torch.device) -> dict[int, T]:
        """All pieces of work by their numbers, from every device."""
        if self.devices == 1:
            return part
        parts = gathered(move_data_to_device(part, torch.device("cpu")))
        return move_data_to_device({n: piece for p in parts for n, piece in p.items()}, device)

    def require_same(self, weights: dict[str, Tensor]) -> None:
        """Checks that all copies of the model are equal.

        Raises:
            DriftError: if two devices hold different values.
        """
        if self.devices == 1:
            return
        held = gathered({name: checksum(weight) for name, weight in weights.items()})
        for rank, theirs in enumerate(held):
            drifted = [name for name in theirs if theirs[name] != held[0][name]]
            if drifted:
                raise DriftError(
                    f"devices 0 and {rank} hold different values of {drifted[0]} after the same "
                    "edit: one of them computes wrongly; continue from the edit before with "
                    "--ckpt_path last"
                )


def gathered(own: T) -> list[T]:
    """Every process's object, in the order of their ranks; all processes must call it."""
    if not dist.is_initialized():
        return [own]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    return everyone


def in_turn(own: Sequence[T]) -> list[T]:
    """The results of all processes, in the order of the work."""
    shares = gathered(list(own))
    turns = range(max(map(len, shares)))
    return [share[turn] for turn in turns for share in shares if turn < len(share)]


def checksum(weight: Tensor) -> int:
    """The sum of a tensor's bits, read as integers: any single change alters it."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()]
    return int(weight.detach().contiguous().view(bits).sum(dtype=torch.int64))
