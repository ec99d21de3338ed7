from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lightning_modules.functional.value_search import Answers, ValueSearchOptions, value_search

D = 6
OPTIONS = ValueSearchOptions(steps=15, learning_rate=0.1)


def problems(count: int = 1, dtype: torch.dtype = torch.float32) -> tuple[Callable, Tensor]:
    """Losses that are not quadratic and differ, and the values they start from."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(count, 5, D, generator=generator)
    values = torch.randn(count, D, generator=generator).to(dtype)

    def answers(change: Tensor, numbers: Sequence[int]) -> Answers:
        maps = weight[list(numbers)]
        logits = (maps @ (values[list(numbers)].float() + change)[..., None])[..., 0]
        kl = (maps @ change[..., None]).square().mean((1, 2))
        return Answers(-logits.log_softmax(-1)[:, 2], kl, logits.argmax(-1) == 2)

    return answers, values


def alone(answers: Callable, number: int) -> Callable:
    """One of the problems as the published code sees it."""

    def nll_and_kl(change: Tensor) -> tuple[Tensor, Tensor]:
        heard = answers(change[None], [number])
        return heard.nll[0], heard.kl[0]

    return nll_and_kl


def problem() -> tuple[Callable, Tensor]:
    answers, values = problems()
    return alone(answers, 0), values[0]


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
    (found,) = value_search(*problems(), options)
    change, losses, target_log_prob = slow_search(*problem(), options)
    torch.testing.assert_close(found.change, change, rtol=1e-5, atol=1e-6)
    assert found.losses == pytest.approx(losses, rel=1e-5)
    assert found.target_log_prob == pytest.approx(target_log_prob, rel=1e-5)


def test_values_searched_together_are_those_searched_alone():
    answers, values = problems(4)
    options = replace(OPTIONS, goal=1.7, steps=40)
    seen: list[list[int]] = []

    def counted(change: Tensor, numbers: Sequence[int]) -> Answers:
        seen.append(list(numbers))
        return answers(change, numbers)

    together = value_search(counted, values, options)
    for number, found in enumerate(together):
        change, losses, _ = slow_search(alone(answers, number), values[number], options)
        torch.testing.assert_close(found.change, change, rtol=1e-5, atol=1e-6)
        assert found.losses == pytest.approx(losses, rel=1e-5)
        assert sum(number in numbers for numbers in seen) == len(losses)
    assert len({len(found.losses) for found in together}) > 2
    assert seen[0] == [0, 1, 2, 3]


def test_last_loss_belongs_to_the_change_found():
    (found,), (nll_and_kl, value) = value_search(*problems(), OPTIONS), problem()
    nll, kl = nll_and_kl(found.change)
    decay = OPTIONS.weight_decay * found.change.norm() / value.norm() ** 2
    assert len(found.losses) == OPTIONS.steps
    assert found.losses[-1] == pytest.approx(float(nll + OPTIONS.kl_weight * kl + decay))
    assert found.target_log_prob == pytest.approx(-float(nll))


def test_single_step_changes_nothing():
    (found,) = value_search(*problems(), replace(OPTIONS, steps=1))
    assert not found.change.any()
    assert len(found.losses) == 1


def test_change_stays_in_its_ball():
    (found,) = value_search(*problems(), replace(OPTIONS, clamp=0.2))
    assert float(found.change.norm() / problem()[1].norm()) == pytest.approx(0.2)


def test_search_stops_at_its_goal():
    (found,) = value_search(*problems(), replace(OPTIONS, goal=1.7))
    assert 1 < len(found.losses) < OPTIONS.steps
    assert found.losses[-1] < 1.7 <= found.losses[-2]


def test_search_stops_once_the_target_is_most_probable():
    answers, values = problems(4)
    options = replace(OPTIONS, stop="most_probable", steps=60, learning_rate=0.3)
    found = value_search(answers, values, options)
    for number, one in enumerate(found):
        assert answers(one.change[None], [number]).most_probable or len(one.losses) == 60
    ends = [len(one.losses) for one in found]
    assert min(ends) < 60
    assert ends < [
        len(one.losses) for one in value_search(answers, values, replace(OPTIONS, steps=60))
    ]


def test_patience_counts_the_evaluations_at_which_the_target_is_most_probable():
    answers, values = problems(4)
    options = replace(OPTIONS, stop="most_probable", steps=60, learning_rate=0.3)
    first, third = (
        [len(one.losses) for one in value_search(answers, values, replace(options, patience=n))]
        for n in (1, 3)
    )
    assert max(third) < 60
    assert third == [steps + 2 for steps in first]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_change_is_float32_whatever_the_value(dtype):
    (found,) = value_search(*problems(dtype=dtype), OPTIONS)
    assert found.change.dtype == torch.float32
    assert found.losses[-1] < found.losses[0]


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_ends_that_search_alone(poison):
    answers, values = problems(2)
    calls = []

    def poisoned(change: Tensor, numbers: Sequence[int]) -> Answers:
        calls.append(change)
        heard = answers(change, numbers)
        worse = torch.tensor([poison if n == 0 and len(calls) == 3 else 1.0 for n in numbers])
        return heard._replace(nll=heard.nll * worse)

    broken, sound = value_search(poisoned, values, OPTIONS)
    with pytest.raises(FloatingPointError, match=rf"loss is {poison} at step 3"):
        broken.checked()
    assert sound.checked().losses == value_search(answers, values, OPTIONS)[1].losses


def test_gradient_that_is_not_finite_is_refused():
    def broken(change: Tensor, numbers: Sequence[int]) -> Answers:
        nothing = (change - change).abs().sqrt().sum(1)
        return Answers(nothing + 1.0, change.sum(1) * 0.0, torch.tensor([False]))

    (found,) = value_search(broken, torch.ones(1, D), OPTIONS)
    with pytest.raises(FloatingPointError, match="loss is nan at step 2"):
        found.checked()


def test_lbfgs_reaches_adams_loss_in_fewer_evaluations():
    options = replace(OPTIONS, steps=40)
    quick = replace(options, optimizer="lbfgs", steps=20)
    adam, lbfgs = (value_search(*problems(4), chosen) for chosen in (options, quick))
    for slow, fast in zip(adam, lbfgs, strict=True):
        assert fast.losses[-1] <= slow.losses[-1] + 1e-3
        assert fast.losses == sorted(fast.losses, reverse=True)


def test_lbfgs_values_searched_together_are_those_searched_alone():
    answers, values = problems(4)
    options = replace(OPTIONS, optimizer="lbfgs", goal=1.7)
    together = value_search(answers, values, options)
    for number, found in enumerate(together):
        (one,) = value_search(
            lambda change, _, number=number: answers(change, [number]), values[[number]], options
        )
        torch.testing.assert_close(found.change, one.change, rtol=1e-5, atol=1e-6)
        assert found.losses == pytest.approx(one.losses, rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_search_without_progress_stops(optimizer):
    options = replace(OPTIONS, steps=200, optimizer=optimizer)
    whole = value_search(*problems(3), options)
    found = value_search(*problems(3), replace(options, progress=0.02))
    for one, two in zip(found, whole, strict=True):
        assert len(one.losses) < len(two.losses)
        assert two.losses[: len(one.losses)] == one.losses
        assert min(one.losses) > 0.98 * min(one.losses[:-3])
        assert all(
            min(one.losses[:end]) <= 0.98 * min(one.losses[: end - 3])
            for end in range(4, len(one.losses))
        )


@pytest.mark.parametrize("steps", [1, 3, 15])
def test_a_search_has_converged_if_the_target_is_likely_or_its_nll_has_halved(steps):
    answers, values = problems(8)
    found = value_search(answers, values, replace(OPTIONS, steps=steps))
    for number, one in enumerate(found):
        before = float(answers(torch.zeros(1, D), [number]).nll)
        after = float(answers(one.change[None], [number]).nll)
        likely = float(torch.tensor(-after).exp()) >= 0.5
        assert one.converged == (likely or after <= before / 2)
    if steps == 1:  # nothing has moved: only what was likely counts
        assert any(one.converged for one in found) == any(
            one.target_log_prob >= -0.6931 for one in found
        )
    assert len({one.converged for one in found}) == 2 or steps > 1


@pytest.mark.parametrize("clamp", [0.1, 1e3])
@pytest.mark.parametrize("steps", [2, 15])
def test_no_change_is_longer_than_the_longest(clamp, steps):
    answers, values = problems(4)
    options = replace(OPTIONS, steps=steps, clamp=clamp, goal=-1.0)
    for value, found in zip(values, value_search(answers, values, options), strict=True):
        length = float(found.change.norm())
        ball, walk = clamp * float(value.norm()), steps * options.learning_rate * D**0.5
        assert options.longest(value) == pytest.approx(min(ball, walk))
        assert length <= options.longest(value) * 1.0001
