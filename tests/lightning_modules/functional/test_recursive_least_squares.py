import pytest
import torch
from torch import Tensor

from lightning_modules.functional.least_squares import NormalEquations, ridge_update
from lightning_modules.functional.rank_one import factorize
from lightning_modules.functional.recursive_least_squares import (
    initial_covariance,
    recursive_update,
)

D, F, N = 5, 12, 9
RIDGE, PRESERVATION = 0.7, 1.5
BOTH_DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def moment() -> Tensor:
    keys = draw(F, 8, seed=9)  # singular: λ alone makes it invertible
    return keys @ keys.T


def start() -> Tensor:
    return initial_covariance(moment(), RIDGE, PRESERVATION)


def held() -> Tensor:
    return RIDGE**2 * torch.eye(F).double() + PRESERVATION**2 * moment()


def edit_all(keys: Tensor, values: Tensor, weight: Tensor, sizes: list[int]) -> tuple:
    covariance = start()
    for batch, wanted in zip(keys.split(sizes, 1), values.split(sizes, 1), strict=True):
        update, covariance = recursive_update(covariance, batch, wanted - weight @ batch)
        weight = weight + update.left @ update.right
    return weight, covariance


@BOTH_DTYPES
def test_initial_covariance_inverts_what_is_held(dtype):
    second_moment = moment().to(dtype)
    covariance = initial_covariance(second_moment, RIDGE, PRESERVATION)
    assert torch.equal(second_moment, moment().to(dtype))
    assert covariance.dtype == torch.float64
    torch.testing.assert_close(covariance, torch.linalg.inv(held()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [[N], [1] * N, [2, 3, 4]], ids=str)
def test_recursion_equals_the_batch_solution(sizes):
    keys, values, weight = draw(F, N), draw(D, N, seed=1), draw(D, F, seed=2)
    edited, covariance = edit_all(keys, values, weight, sizes)
    equations = torch.cat([keys.T, torch.linalg.cholesky(held()).T])
    wanted = torch.cat([(values - weight @ keys).T, torch.zeros(F, D).double()])
    batch = weight + torch.linalg.lstsq(equations, wanted).solution.T
    torch.testing.assert_close(edited, batch, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(covariance, torch.linalg.inv(held() + keys @ keys.T))


def test_order_of_edits_does_not_matter():
    keys, values, weight = draw(F, N), draw(D, N, seed=1), draw(D, F, seed=2)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    one, _ = edit_all(keys, values, weight, [1] * N)
    other, _ = edit_all(keys[:, order], values[:, order], weight, [1] * N)
    torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-10)


@BOTH_DTYPES
def test_change_is_the_residual_times_keys_times_the_new_covariance(dtype):
    keys, residuals = draw(F, 3, dtype=dtype), draw(D, 3, seed=1, dtype=dtype)
    update, covariance = recursive_update(start(), keys, residuals)
    assert update.left.shape == (D, 3)
    assert update.right.shape == (3, F)
    expected = residuals.double() @ keys.double().T @ covariance
    torch.testing.assert_close(update.left @ update.right, expected)


def test_first_update_is_the_ridge_update_of_what_is_held():
    keys, residuals = draw(F, 3), draw(D, 3, seed=1)
    update, _ = recursive_update(start(), keys, residuals)
    ridge = ridge_update(NormalEquations(factorize(held())), keys, residuals)
    torch.testing.assert_close(update.left @ update.right, ridge.left @ ridge.right)


def test_covariance_stays_symmetric_and_positive_over_a_thousand_edits():
    covariance = start()
    for seed in range(1000):
        _, covariance = recursive_update(covariance, draw(F, 1, seed=seed), torch.zeros(D, 1))
    assert covariance.shape == (F, F)
    assert torch.equal(covariance, covariance.T)
    assert torch.linalg.eigvalsh(covariance)[0] > 0


def test_former_covariance_is_left_as_it_was():
    covariance = start()
    recursive_update(covariance, draw(F, 2), draw(D, 2))
    assert torch.equal(covariance, start())


def test_without_a_ridge_the_moment_alone_holds():
    regular = moment().double() + torch.eye(F)
    expected = regular.inverse() / 4
    torch.testing.assert_close(initial_covariance(regular, 0.0, 2.0), expected)


def test_negative_ridge_is_refused():
    with pytest.raises(ValueError, match=r"ridge must not be negative, got -1\.0"):
        initial_covariance(moment(), -1.0, 1.0)


def test_without_a_ridge_a_singular_moment_is_refused():
    with pytest.raises(ValueError, match="is singular"):
        initial_covariance(torch.diag(torch.tensor([1.0, 0.0])), 0.0, 1.0)


def test_keys_without_residuals_are_refused():
    with pytest.raises(ValueError, match="each key needs one residual, got 2 keys and 3 residuals"):
        recursive_update(start(), draw(F, 2), draw(D, 3))


def test_keys_of_a_collapsed_model_fail_the_edit():
    with pytest.raises(FloatingPointError, match="not finite"):
        recursive_update(start(), draw(F, 2) * torch.nan, draw(D, 2))
