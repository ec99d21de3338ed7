import pytest
import torch
from torch import Tensor

from lightning_modules.functional.least_squares import (
    LowRank,
    NormalEquations,
    check_independent,
    condition_number,
    equality_update,
    parallel_pairs,
    ridge_fit,
    ridge_update,
)
from lightning_modules.functional.null_space import null_space
from lightning_modules.functional.rank_one import factorize, rank_one_update, whiten

D, F, N = 5, 12, 4
WEIGHT = 3.0
BOTH_DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
BOTH_UPDATES = pytest.mark.parametrize("update", [ridge_update, equality_update])


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def moment() -> Tensor:
    """A second moment of keys of very different sizes."""
    keys = draw(F, 40, seed=9) * torch.logspace(-1, 1, F, dtype=torch.float64)[:, None]
    return keys @ keys.T / 40


def system(*past: Tensor) -> NormalEquations:
    made = NormalEquations(factorize(moment()), WEIGHT)
    for keys in past:
        made = made.extended(keys)
    return made


def dense_system(*past: Tensor) -> Tensor:
    return WEIGHT * moment() + sum((keys @ keys.T for keys in past), torch.zeros(F, F).double())


def dense(update: LowRank) -> Tensor:
    return update.left @ update.right


def objective(change: Tensor, keys: Tensor, residuals: Tensor, weighing: Tensor) -> Tensor:
    return (change @ keys - residuals).square().sum() + (change @ weighing @ change.T).trace()


@BOTH_DTYPES
def test_solving_equals_the_dense_inverse(dtype):
    keys = draw(F, N, dtype=dtype)
    expected = torch.linalg.inv(dense_system()) @ keys.double()
    torch.testing.assert_close(system().solve(keys), expected)


@BOTH_DTYPES
def test_past_keys_by_woodbury_equal_the_dense_inverse(dtype):
    keys, past = draw(F, N, dtype=dtype), 10 * draw(F, 9, seed=1, dtype=dtype)
    expected = torch.linalg.inv(dense_system(past.double())) @ keys.double()
    torch.testing.assert_close(system(past).solve(keys), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("n", [1, 2])
def test_past_keys_give_the_same_bits_however_they_lie_in_memory(n):
    rows = [draw(n, F, seed=seed, dtype=torch.float32) for seed in range(7)]
    fresh = system(*(part.T for part in rows))  # as an edit has them
    loaded = system(*torch.cat([part.T for part in rows], 1).split(n, 1))  # as a file does
    for one, other in zip(fresh.past, loaded.past, strict=True):
        assert torch.equal(one, other)
        assert one.stride() == other.stride() == (n, 1)


def test_plain_ridge_equals_the_dense_inverse():
    keys, past = draw(F, N), draw(F, 3, seed=1)
    expected = torch.linalg.inv(10.0 * torch.eye(F) + past @ past.T) @ keys
    solved = NormalEquations(None, weight=10.0).extended(past).solve(keys)
    torch.testing.assert_close(solved, expected)


def test_past_keys_may_outnumber_dimensions():
    keys, past = draw(F, N), draw(F, 5 * F, seed=1)
    expected = torch.linalg.inv(dense_system(past)) @ keys
    torch.testing.assert_close(system(past).solve(keys), expected, rtol=1e-9, atol=1e-11)


def test_same_past_key_a_hundred_times_equals_the_dense_inverse():
    keys, past = draw(F, N), 30 * draw(F, 1, seed=1)
    expected = torch.linalg.inv(dense_system(*[past] * 100)) @ keys
    torch.testing.assert_close(system(*[past] * 100).solve(keys), expected, rtol=1e-8, atol=1e-10)


def downdate(made: NormalEquations) -> Tensor:
    return torch.cat(list(made.past), 1) @ torch.cat(list(made.past), 1).T


@pytest.mark.parametrize("sizes", [[1] * 6, [2, 1, 3], [0, 6]], ids=str)
def test_extending_one_by_one_equals_all_at_once(sizes):
    past = draw(F, 6)
    together, gradual = downdate(system(past)), downdate(system(*past.split(sizes, 1)))
    torch.testing.assert_close(gradual, together)
    expected = torch.linalg.inv(dense_system()) - torch.linalg.inv(dense_system(past))
    torch.testing.assert_close(together, expected)


def test_a_fit_has_the_bits_of_extending_the_system():
    keys = draw(F, N)
    fit = ridge_fit(system(draw(F, 2, seed=1)), keys, draw(D, N, seed=2))
    extended = system(draw(F, 2, seed=1)).extended(keys)
    assert torch.equal(fit.downdate, extended.past[-1])
    torch.testing.assert_close(
        fit.change.right, extended.solve(keys).T, rtol=1e-9, atol=1e-12
    )  # Kᵀ (A + K Kᵀ)⁻¹


def test_extending_leaves_the_former_system_as_it_was():
    former, keys = system(draw(F, 2)), draw(F, N, seed=2)
    before = former.solve(keys)
    former.extended(draw(F, 3, seed=1))
    assert torch.equal(former.solve(keys), before)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_weight_that_is_not_positive_is_refused(weight):
    with pytest.raises(ValueError, match=f"weight of old keys must be positive, got {weight}"):
        NormalEquations(None, weight)


@BOTH_DTYPES
def test_ridge_update_equals_stacked_least_squares(dtype):
    keys, residuals = draw(F, N, dtype=dtype), draw(D, N, seed=1, dtype=dtype)
    update = ridge_update(system(), keys, residuals)
    equations = torch.cat([keys.double().T, torch.linalg.cholesky(dense_system()).T])
    wanted = torch.cat([residuals.double().T, torch.zeros(F, D).double()])
    assert update.left.dtype == update.right.dtype == torch.float64
    torch.testing.assert_close(dense(update), torch.linalg.lstsq(equations, wanted).solution.T)


def test_every_other_change_has_a_larger_ridge_loss():
    keys, residuals, past = draw(F, N), draw(D, N, seed=1), draw(F, 3, seed=2)
    change = dense(ridge_update(system(past), keys, residuals))
    least = objective(change, keys, residuals, dense_system(past))
    for seed in range(20):
        other = change + 1e-3 * draw(D, F, seed=seed)
        assert objective(other, keys, residuals, dense_system(past)) > least


def test_ridge_update_of_vanishing_weight_is_plain_least_squares():
    keys, residuals = draw(F, N), draw(D, N, seed=1)
    change = dense(ridge_update(NormalEquations(None, 1e-12), keys, residuals))
    least = torch.linalg.lstsq(keys.T, residuals.T).solution.T
    torch.testing.assert_close(change, least, rtol=1e-8, atol=1e-10)


def test_heavy_weight_holds_the_map_still():
    keys, residuals = draw(F, N), draw(D, N, seed=1)
    light, heavy = (
        dense(ridge_update(NormalEquations(None, weight), keys, residuals)).norm()
        for weight in (1.0, 1e6)
    )
    assert heavy < 1e-4 * light


def test_sequential_ridge_with_past_keys_equals_editing_once():
    keys, wanted, weight = draw(F, 9), draw(D, 9, seed=1), draw(D, F, seed=2)
    once = weight + dense(ridge_update(system(), keys, wanted - weight @ keys))
    edited, known = weight, system()
    for batch, values in zip(keys.split([1, 2, 6], 1), wanted.split([1, 2, 6], 1), strict=True):
        edited = edited + dense(ridge_update(known, batch, values - edited @ batch))
        known = known.extended(batch)
    torch.testing.assert_close(edited, once, rtol=1e-9, atol=1e-10)


def test_sequential_ridge_without_past_keys_forgets():
    keys, wanted = draw(F, 2), draw(D, 2, seed=1)
    once = dense(ridge_update(system(), keys, wanted))
    first = dense(ridge_update(system(), keys[:, :1], wanted[:, :1]))
    residuals = wanted[:, 1:] - first @ keys[:, 1:]
    both = first + dense(ridge_update(system(), keys[:, 1:], residuals))
    assert (both - once).norm() > 0.01 * once.norm()


def test_ridge_update_of_projected_keys_equals_the_published_alpha_edit():
    keys, past, residuals = draw(F, N), draw(F, 3, seed=2), draw(D, N, seed=1)
    null = null_space(moment(), energy=0.3)
    projector = null.project(torch.eye(F))
    known = NormalEquations(None, 10.0).extended(null.project(past))
    published = (
        residuals
        @ keys.T
        @ projector
        @ torch.linalg.inv(
            past @ past.T @ projector + keys @ keys.T @ projector + 10.0 * torch.eye(F)
        )
    )
    change = dense(ridge_update(known, null.project(keys), residuals))
    torch.testing.assert_close(change, published)


@BOTH_DTYPES
def test_equality_update_maps_keys_exactly(dtype):
    keys, residuals = draw(F, N, dtype=dtype), draw(D, N, seed=1, dtype=dtype)
    change = dense(equality_update(system(draw(F, 3, seed=2)), keys, residuals))
    torch.testing.assert_close(change @ keys.double(), residuals.double(), rtol=1e-10, atol=1e-10)


def test_equality_update_disturbs_old_keys_least():
    keys, residuals, past = draw(F, N), draw(D, N, seed=1), draw(F, 3, seed=2)
    change = dense(equality_update(system(past), keys, residuals))
    least = objective(change, keys, residuals, dense_system(past))
    beside = torch.eye(F) - keys @ torch.linalg.pinv(keys)  # changes that leave the keys alone
    for seed in range(20):
        other = change + 1e-2 * draw(D, F, seed=seed) @ beside
        assert objective(other, keys, residuals, dense_system(past)) > least


def test_equality_update_of_one_request_is_rome():
    key, residual, factor = draw(F), draw(D, seed=1), factorize(moment())
    change = dense(equality_update(NormalEquations(factor), key[:, None], residual[:, None]))
    rome = rank_one_update(whiten(key[:, None], factor)[:, 0], key, residual)
    torch.testing.assert_close(change, torch.outer(rome.left, rome.right))


def test_slack_lets_dependent_keys_be_met_in_part():
    keys, residuals = draw(F, 3, seed=5), draw(D, 3, seed=6)
    keys = torch.cat([keys, keys[:, :1]], 1)
    residuals = torch.cat([residuals, residuals[:, 1:2]], 1)
    base = system(draw(F, 3, seed=2))
    solved = base.solve(keys)
    held = keys.double().T @ solved + 0.3 * torch.eye(4)
    expected = residuals.double() @ held.inverse() @ solved.T
    found = dense(equality_update(base, keys, residuals, slack=0.3))
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="rank-deficient"):
        equality_update(base, keys, residuals)


def test_equality_update_is_the_ridge_update_of_vanishing_weight():
    keys, residuals, factor = draw(F, N), draw(D, N, seed=1), factorize(moment())
    ridge = dense(ridge_update(NormalEquations(factor, 1e-10), keys, residuals))
    exact = dense(equality_update(NormalEquations(factor), keys, residuals))
    torch.testing.assert_close(ridge, exact, rtol=1e-6, atol=1e-8)


@BOTH_UPDATES
def test_update_has_the_rank_of_the_batch(update):
    made = update(system(), draw(F, N), draw(D, N, seed=1))
    assert made.left.shape == (D, N)
    assert made.right.shape == (N, F)


@BOTH_UPDATES
def test_order_of_requests_does_not_matter(update):
    keys, residuals, order = draw(F, N), draw(D, N, seed=1), [2, 0, 3, 1]
    change = dense(update(system(), keys, residuals))
    shuffled = dense(update(system(), keys[:, order], residuals[:, order]))
    torch.testing.assert_close(shuffled, change)


@BOTH_UPDATES
def test_keys_without_residuals_are_refused(update):
    with pytest.raises(ValueError, match="each key needs one residual, got 4 keys and 3 residuals"):
        update(system(), draw(F, N), draw(D, N - 1))


@BOTH_UPDATES
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_keys_of_a_collapsed_model_fail_the_edit(update, poison):
    keys = draw(F, N)
    keys[3, 1] = poison
    with pytest.raises(FloatingPointError, match="not finite"):
        update(system(), keys, draw(D, N))


def test_past_keys_of_a_collapsed_model_are_refused():
    with pytest.raises(FloatingPointError, match="the system of 4 keys has no solution"):
        system(draw(F, 2)).extended(draw(F, N) * torch.inf)


@pytest.mark.parametrize("other", [1.0, -3.0, 1.0 + 1e-6])
def test_parallel_keys_cannot_all_map_exactly(other):
    keys = draw(F, N)
    keys[:, 3] = other * keys[:, 1]
    message = r"rank-deficient: of 4 keys, column 3 .*\(parallel columns: 1 and 3\)"
    with pytest.raises(ValueError, match=message):
        equality_update(system(), keys, draw(D, N))


def test_key_that_combines_others_is_named():
    keys = draw(F, N)
    keys[:, 2] = keys[:, 0] - 2 * keys[:, 1]
    with pytest.raises(ValueError, match=r"column 2 .*\(parallel columns: none\)"):
        equality_update(system(), keys, draw(D, N))


def test_more_keys_than_dimensions_are_refused():
    with pytest.raises(ValueError, match=f"of {F + 1} keys, column {F} is a linear combination"):
        equality_update(system(), draw(F, F + 1), draw(D, F + 1))


def test_key_of_zero_is_refused():
    keys = draw(F, N)
    keys[:, 2] = 0
    with pytest.raises(ValueError, match="column 2 is a linear combination"):
        equality_update(system(), keys, draw(D, N))


@pytest.mark.parametrize("angle", [1e-3, 1e-5])
def test_keys_a_thousandth_apart_are_independent(angle):
    keys = torch.zeros(F, 2).double()
    keys[0] = 1.0
    keys[1, 1] = angle
    if angle == 1e-3:
        check_independent(keys)
        assert parallel_pairs(keys) == []
    else:
        assert parallel_pairs(keys) == [(0, 1)]
        with pytest.raises(ValueError, match="0 and 1"):
            check_independent(keys)


def test_ridge_update_meets_contradicting_residuals_of_one_key_halfway():
    key, residuals = draw(F, 1), draw(D, 2, seed=1)
    change = dense(ridge_update(NormalEquations(None, 1e-9), key.expand(F, 2), residuals))
    torch.testing.assert_close(change @ key, residuals.mean(1, keepdim=True), rtol=1e-6, atol=1e-8)


@BOTH_DTYPES
def test_condition_number_is_the_ratio_of_extreme_eigenvalues(dtype):
    directions = torch.linalg.qr(draw(F, F)).Q
    sizes = torch.logspace(-2, 1, F, dtype=torch.float64)
    second_moment = (directions * sizes @ directions.T).to(dtype)
    assert condition_number(second_moment) == pytest.approx(1000.0, rel=1e-3)


def test_condition_number_of_a_singular_moment_is_beyond_float64():
    keys = draw(F, 2)
    assert condition_number(keys @ keys.T) > 1e15
    assert condition_number(torch.zeros(F, F)) == torch.inf
