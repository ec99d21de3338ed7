from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lightning_modules.functional.value_search import ValueSearchOptions, value_search

D = 6
OPTIONS = ValueSearchOptions(steps=15, learning_rate=0.1)


def problem(dtype: torch.dtype = torch.float32) -> tuple[Callable, Tensor]:
    """A loss that is not quadratic, and the value it starts from."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, D, generator=generator)
    value = torch.randn(D, generator=generator).to(dtype)

    def nll_and_kl(change: Tensor) -> tuple[Tensor, Tensor]:
        logits = weight @ (value.float() + change)
        return -logits.log_softmax(0)[2], (weight @ change).square().mean()

    return nll_and_kl, value


def slow_search(
    nll_and_kl: Callable, value: Tensor, options: ValueSearchOptions
) -> tuple[Tensor, list[float], float]:
    """The loop of the published code, spelled out."""
    delta = torch.zeros(D, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=options.learning_rate)
    losses = []
    for step in range(options.steps):
        adam.zero_grad()
        nll, kl = nll_and_kl(delta)
        decay = options.weight_decay * torch.norm(delta) / torch.norm(value) ** 2
        loss = nll + options.kl_weight * kl + decay
        losses.append(loss.item())
        if loss < options.goal:
            break
        if step == options.steps - 1:
            break
        loss.backward()
        adam.step()
        largest = options.clamp * torch.norm(value)
        if torch.norm(delta) > largest:
            with torch.no_grad():
                delta[...] = delta * largest / torch.norm(delta)
    return delta.detach(), losses, -nll.item()


@pytest.mark.parametrize(
    "options",
    [
        OPTIONS,
        replace(OPTIONS, clamp=0.2),
        replace(OPTIONS, goal=1.7),
        replace(OPTIONS, steps=1),
        replace(OPTIONS, kl_weight=0.0, weight_decay=0.0),
        replace(OPTIONS, kl_weight=5.0, weight_decay=3.0, learning_rate=0.5),
    ],
    ids=["plain", "clamped", "goal", "one step", "nll alone", "heavy"],
)
def test_search_equals_the_published_loop(options):
    nll_and_kl, value = problem()
    found = value_search(nll_and_kl, value, options)
    change, losses, target_log_prob = slow_search(nll_and_kl, value, options)
    torch.testing.assert_close(found.change, change, rtol=1e-5, atol=1e-6)
    assert found.losses == pytest.approx(losses, rel=1e-5)
    assert found.target_log_prob == pytest.approx(target_log_prob, rel=1e-5)


def test_last_loss_belongs_to_the_change_found():
    nll_and_kl, value = problem()
    found = value_search(nll_and_kl, value, OPTIONS)
    nll, kl = nll_and_kl(found.change)
    decay = OPTIONS.weight_decay * found.change.norm() / value.norm() ** 2
    assert len(found.losses) == OPTIONS.steps
    assert found.losses[-1] == pytest.approx(float(nll + OPTIONS.kl_weight * kl + decay))
    assert found.target_log_prob == pytest.approx(-float(nll))


def test_single_step_changes_nothing():
    found = value_search(*problem(), replace(OPTIONS, steps=1))
    assert not found.change.any()
    assert len(found.losses) == 1


def test_change_stays_in_its_ball():
    nll_and_kl, value = problem()
    found = value_search(nll_and_kl, value, replace(OPTIONS, clamp=0.2))
    assert float(found.change.norm() / value.norm()) == pytest.approx(0.2)


def test_search_stops_at_its_goal():
    found = value_search(*problem(), replace(OPTIONS, goal=1.7))
    assert 1 < len(found.losses) < OPTIONS.steps
    assert found.losses[-1] < 1.7 <= found.losses[-2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_change_is_float32_whatever_the_value(dtype):
    found = value_search(*problem(dtype), OPTIONS)
    assert found.change.dtype == torch.float32
    assert found.losses[-1] < found.losses[0]


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_is_refused_with_its_step(poison):
    nll_and_kl, value = problem()
    calls = []

    def poisoned(change: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(change)
        nll, kl = nll_and_kl(change)
        return (nll * poison if len(calls) == 3 else nll), kl

    with pytest.raises(FloatingPointError, match=rf"loss is {poison} at step 3"):
        value_search(poisoned, value, OPTIONS)


def test_gradient_that_is_not_finite_is_refused():
    def broken(change: Tensor) -> tuple[Tensor, Tensor]:
        return (change - change).abs().sqrt().sum() + 1.0, change.sum() * 0.0

    with pytest.raises(FloatingPointError, match="loss is nan at step 2"):
        value_search(broken, torch.ones(D), OPTIONS)
