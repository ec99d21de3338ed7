import numpy as np
import pytest
import torch

from lightning_modules.functional.descent import LBFGS, OPTIMIZERS, within

D = 5
FAR = 1e6


def quadratics(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Curvatures of condition up to 100, and minima."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(count, D, D, generator=generator, dtype=torch.float64))[0]
    scale = torch.logspace(0, 2, D, dtype=torch.float64).expand(count, D)
    return turn @ torch.diag_embed(scale) @ turn.mT, torch.randn(
        count, D, generator=generator, dtype=torch.float64
    )


def run(kind, losses, count, steps, radius=FAR, rate=0.1):
    """Losses kept at each evaluation ``(steps, count)``, and the best points."""
    points = torch.zeros(count, D, dtype=torch.float64)
    descent = kind(points, torch.full((count,), radius, dtype=torch.float64), rate)
    index, kept = torch.arange(count), []
    for step in range(steps):
        loss = losses(descent.points)
        kept.append(descent.keep(index, loss, 2 * loss)[0].detach())
        if step < steps - 1:
            descent.step(index, *torch.autograd.grad(loss.sum(), [descent.points]))
    return torch.stack(kept), torch.stack([descent.at(number) for number in range(count)])


def slow_lbfgs(loss_and_gradient, steps: int, rate: float) -> tuple[np.ndarray, list[float]]:
    """One point; the inverse Hessian as a whole matrix, updated by the BFGS formula."""
    best, value, gradient = np.zeros(D), np.inf, None
    trial, kept, pairs, length = best, [], [], 1.0
    for _ in range(steps):
        heard, slope_at = loss_and_gradient(trial)
        if gradient is None or heard <= value + 1e-4 * gradient @ (trial - best):
            if gradient is not None:
                s, y = trial - best, slope_at - gradient
                if s @ y > 1e-10 * np.linalg.norm(s) * np.linalg.norm(y):
                    pairs.append((s, y))
            best, value, gradient, length = trial, heard, slope_at, 1.0
        else:
            slope = gradient @ (trial - best)
            length *= np.clip(-slope / (2 * (heard - value - slope)), 0.1, 0.5)
        kept.append(value)
        inverse = np.eye(D) * rate * D**0.5 / np.linalg.norm(gradient)
        if pairs:
            s, y = pairs[-1]
            inverse = np.eye(D) * (s @ y) / (y @ y)
        for s, y in pairs:
            left = np.eye(D) - np.outer(s, y) / (s @ y)
            inverse = left @ inverse @ left.T + np.outer(s, s) / (s @ y)
        trial = best - length * inverse @ gradient
    return best, kept


def test_a_quadratic_is_minimised_in_few_evaluations():
    curvature, minimum = quadratics(3)

    def losses(points):
        away = points - minimum
        return 0.5 * (away[:, None] @ curvature @ away[..., None]).flatten()

    kept, points = run(LBFGS, losses, 3, 25)
    assert float(kept[-1].max()) < 1e-6 * float(kept[0].min())
    torch.testing.assert_close(points, minimum, rtol=1e-3, atol=1e-3)


def test_it_is_the_bfgs_formula_with_armijos_rule():
    curvature, minimum = quadratics(4)

    def losses(points):
        away = points - minimum
        bowl = 0.5 * (away[:, None] @ curvature @ away[..., None]).flatten()
        return bowl + 20 * (3 * points).sin().sum(1)

    kept, points = run(LBFGS, losses, 4, 15)
    for number in range(4):

        def one(point, number=number):
            whole = torch.zeros(4, D, dtype=torch.float64)
            whole[number] = torch.from_numpy(point)
            whole.requires_grad_()
            loss = losses(whole)[number]
            return loss.item(), torch.autograd.grad(loss, [whole])[0][number].numpy()

        expected, values = slow_lbfgs(one, 15, 0.1)
        assert kept[:, number].tolist() == pytest.approx(values, rel=1e-8)
        np.testing.assert_allclose(points[number], expected, rtol=1e-6, atol=1e-8)


def test_kept_losses_never_rise_and_belong_to_the_best_points():
    generator = torch.Generator().manual_seed(1)
    weight = 3 * torch.randn(6, 7, D, generator=generator, dtype=torch.float64)

    def losses(points):
        return (weight @ points[..., None]).sin().squeeze(-1).sum(1)

    kept, points = run(LBFGS, losses, 6, 12, rate=2.0)
    assert bool((kept.diff(dim=0) <= 0).all())
    assert bool((kept.diff(dim=0) == 0).any())  # some steps were rejected
    torch.testing.assert_close(losses(points), kept[-1])


@pytest.mark.parametrize("kind", OPTIMIZERS.values())
def test_points_stay_in_their_balls(kind):
    minimum = quadratics(3)[1]
    minimum = minimum / minimum.norm(dim=1, keepdim=True)
    _, points = run(kind, lambda p: (p - minimum).square().sum(1), 3, 20, radius=0.25, rate=0.5)
    torch.testing.assert_close(points.norm(dim=1), torch.full((3,), 0.25, dtype=torch.float64))
    if kind is LBFGS:  # Adam's own metric has another minimum on the ball
        torch.testing.assert_close(points, 0.25 * minimum, rtol=1e-3, atol=1e-3)


def test_a_loss_that_is_not_finite_at_a_trial_point_shortens_the_step():
    def losses(points):
        away = (points - 1).square().sum(1)
        return torch.where(points.norm(dim=1) > 5, torch.nan, away)

    kept, points = run(LBFGS, losses, 2, 12, rate=10.0)
    assert bool(kept.isfinite().all())
    torch.testing.assert_close(points, torch.ones_like(points), rtol=1e-3, atol=1e-3)


def test_only_points_outside_their_ball_are_moved():
    points = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    moved = within(points, torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(moved, torch.tensor([[0.6, 0.8], [0.3, 0.4]]))
