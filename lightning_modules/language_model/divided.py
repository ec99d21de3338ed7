"""A value search whose contexts are divided over devices, each with a copy of the model."""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ..functional.value_search import Answers

Asked = Callable[[Tensor, Sequence[int]], Answers]


class Divided(NamedTuple):
    """This device among those that search the same values.

    The devices' parts are added in the order of their ranks, so all take the same steps. One
    device's sum over all contexts differs from theirs in rounding.

    Attributes:
        rank: from 0.
        devices: their number.
    """

    rank: int = 0
    devices: int = 1

    def texts(self, count: int) -> list[int]:
        """This device's texts of a request: its contexts, and the essence prompt, the last one."""
        return [*range(self.rank, count - 1, self.devices), count - 1]

    def joined(self, answers: Asked) -> Asked:
        """Answers of all devices' contexts from those of this one's; their gradients are added too.

        Every device has the essence prompt; its KL divergence is their mean.
        """
        if self.devices == 1:
            return answers

        def of_all(change: Tensor, numbers: Sequence[int]) -> Answers:
            own = answers(_Copied.apply(change, self.devices), numbers)
            missed = (~own.most_probable).float()
            told = torch.stack([own.nll, own.kl / self.devices, missed])
            nll, kl, missed = _Added.apply(told, self.devices)
            return Answers(nll, kl, missed.detach() == 0)

        return of_all


class _Copied(torch.autograd.Function):
    """The same tensor on every device; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, devices: int) -> Tensor:
        ctx.devices = devices
        return whole.view_as(whole)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return added(gradients[0], ctx.devices), None


class _Added(torch.autograd.Function):
    """The sum over the devices; each one's gradient is the sum's."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, devices: int) -> Tensor:
        return added(part, devices)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def added(part: Tensor, devices: int) -> Tensor:
    """The sum of all devices' tensors in the order of their ranks; all devices must call it."""
    everyone = [torch.empty_like(part) for _ in range(devices)]
    dist.all_gather(everyone, part.contiguous())
    return reduce(torch.add, everyone)
