"""Minimises independent losses together, one evaluation of each per step."""

import torch
from torch import Tensor

SUFFICIENT = 1e-4  # share of the predicted decrease that accepts a step (Armijo)
CURVED = 1e-10  # least cosine of a step and its change of gradient


def within(points: Tensor, radius: Tensor) -> Tensor:
    """Points ``(n, d)``, those outside their balls around 0, of radii ``(n,)``, moved onto them."""
    return points * (radius / points.norm(dim=1)).clamp(max=1.0)[:, None]


class Adam:
    """Adam from 0, each point projected onto its ball (Meng et al. 2022).

    Args:
        points: ``(n, d)``, zeros; they move.
        radius: ``(n,)``, of the balls.
        learning_rate: of every coordinate.
    """

    def __init__(self, points: Tensor, radius: Tensor, learning_rate: float) -> None:
        self.points, self.radius = points.requires_grad_(), radius
        self.adam = torch.optim.Adam([self.points], lr=learning_rate)

    def at(self, number: int) -> Tensor:
        """The best point of a number, ``(d,)``: the present one."""
        return self.points[number].detach().clone()

    def keep(self, index: Tensor, loss: Tensor, nll: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and NLL at the best points of ``index``, given those at the present points."""
        return loss, nll

    @torch.no_grad()
    def step(self, index: Tensor, gradient: Tensor) -> None:
        """Moves the points, given the losses' gradient ``(n, d)``."""
        self.points.grad = gradient
        self.adam.step()
        self.points.copy_(within(self.points, self.radius))


class LBFGS:
    """Projected limited-memory BFGS from 0, with a memory and a step length for each point.

    A step is accepted if the loss falls by a sufficient share of what the gradient predicts, else
    it is shortened to the minimum of the parabola through what is known (Nocedal and Wright 2006,
    algorithm 7.4 and section 3.5). Every pair is remembered, since searches are short.

    Args:
        points: ``(n, d)``, zeros; they move.
        radius: ``(n,)``, of the balls that points are projected onto.
        learning_rate: the first step is ``learning_rate · sqrt(d)`` long, as Adam's.
    """

    def __init__(self, points: Tensor, radius: Tensor, learning_rate: float) -> None:
        self.points, self.radius = points.requires_grad_(), radius
        self.best, self.gradient = torch.zeros_like(points), torch.zeros_like(points)
        self.kept = radius.new_full((len(points), 2), torch.inf)
        self.length, self.scale = torch.ones_like(radius), torch.zeros_like(radius)
        self.first_step = learning_rate * points.shape[1] ** 0.5
        self.accepted = torch.ones_like(radius, dtype=torch.bool)
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []

    @torch.no_grad()
    def keep(self, index: Tensor, loss: Tensor, nll: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and NLL at the best points of ``index``, given those at the present points."""
        before, heard = self.kept[index], torch.stack([loss, nll], dim=1)
        slope = (self.gradient * (self.points - self.best)).sum(1)[index]
        accepted = heard[:, 0] <= before[:, 0] + SUFFICIENT * slope
        shorter = (-slope / (2 * (heard[:, 0] - before[:, 0] - slope))).nan_to_num(0.5)
        self.length[index] = torch.where(
            accepted, torch.ones_like(slope), self.length[index] * shorter.clamp(0.1, 0.5)
        )
        self.accepted[index] = accepted
        self.kept[index] = torch.where(accepted[:, None], heard, before)
        loss, nll = self.kept[index].unbind(1)
        return loss, nll

    def at(self, number: int) -> Tensor:
        """The best point of a number, ``(d,)``."""
        return torch.where(self.accepted[number], self.points.detach()[number], self.best[number])

    @torch.no_grad()
    def step(self, index: Tensor, gradient: Tensor) -> None:
        """Moves the points, given the losses' gradient ``(n, d)``."""
        moved, turned = self.points - self.best, gradient - self.gradient
        curvature = (moved * turned).sum(1)
        useful = self.accepted & (curvature > CURVED * moved.norm(dim=1) * turned.norm(dim=1))
        self.pairs.append((moved, turned, torch.where(useful, 1 / curvature, 0.0)))
        self.scale = torch.where(useful, curvature / turned.square().sum(1), self.scale)
        self.best = torch.where(self.accepted[:, None], self.points, self.best)
        self.gradient = torch.where(self.accepted[:, None], gradient, self.gradient)
        untried = self.first_step / self.gradient.norm(dim=1).clamp(min=1e-30)
        self.scale = torch.where(self.scale == 0, untried, self.scale)
        moved = self.length[:, None] * self.direction()
        self.points.copy_(within(self.best + moved, self.radius))

    def direction(self) -> Tensor:
        """Minus the approximate inverse Hessian times the gradient, by the two-loop recursion."""
        found, weights = self.gradient, []
        for moved, turned, inverse in reversed(self.pairs):
            weights.append(inverse * (moved * found).sum(1))
            found = found - weights[-1][:, None] * turned
        found = self.scale[:, None] * found
        for (moved, turned, inverse), weight in zip(self.pairs, reversed(weights), strict=True):
            found = found + (weight - inverse * (turned * found).sum(1))[:, None] * moved
        return -found


OPTIMIZERS: dict[str, type[Adam | LBFGS]] = {"adam": Adam, "lbfgs": LBFGS}
