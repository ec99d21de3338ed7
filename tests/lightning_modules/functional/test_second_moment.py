import pytest
import torch

from lightning_modules.functional.second_moment import SecondMoment, pack, parts_differ, unpack


@pytest.mark.parametrize("size", [1, 2, 7, 8, 48, 100])
def test_the_sum_is_that_of_all_outer_products(size):
    keys = torch.randn(30, size, generator=torch.Generator().manual_seed(0))
    moment = SecondMoment(size)
    for part in keys.split(11):
        moment.add(part)
    expected = sum(torch.outer(key, key) for key in keys.double())
    torch.testing.assert_close(moment.total(), expected, rtol=1e-6, atol=1e-5)
    assert torch.equal(moment.total(), moment.total().T)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-5)])
def test_float32_products_are_nearly_as_exact_as_float64_ones(dtype, error):
    keys = torch.randn(20_000, 64, generator=torch.Generator().manual_seed(1)).relu() ** 2
    keys = (keys + 1).to(dtype)  # all positive: rounding errors of long sums do not cancel
    moment = SecondMoment(64)
    moment.add(keys)
    expected = keys.double().T @ keys.double()
    assert float((moment.total() - expected).abs().div(expected).max()) < error


def test_the_difference_of_two_parts_follows_from_the_first_and_the_whole():
    first, second = torch.randn(30, 5).double(), torch.randn(70, 5).double()
    whole = torch.cat([first, second])
    one, two, both = (keys.T @ keys / len(keys) for keys in (first, second, whole))
    expected = float((one - two).norm() / both.norm())
    assert parts_differ(one, both, 0.3) == pytest.approx(expected, rel=1e-12)


def test_a_sum_of_nothing_is_zero():
    assert torch.equal(SecondMoment(5).total(), torch.zeros(5, 5, dtype=torch.float64))


@pytest.mark.parametrize("size", [1, 2, 48, 1000])
def test_packed_matrix_comes_back(size):
    keys = torch.randn(size, 3)
    moment = keys @ keys.T
    assert pack(moment).shape == (size * (size + 1) // 2,)
    assert torch.equal(unpack(pack(moment)), moment.tril() + moment.tril(-1).T)
    assert pack(moment.double()).dtype == torch.float32


def test_packed_numbers_are_the_lower_triangle_row_by_row():
    rows, columns = torch.tril_indices(6, 6)
    moment = torch.arange(36.0).view(6, 6)
    assert torch.equal(pack(moment), moment[rows, columns])


def test_what_is_no_triangle_is_refused():
    with pytest.raises(ValueError, match="5 numbers are not the lower triangle"):
        unpack(torch.zeros(5))
