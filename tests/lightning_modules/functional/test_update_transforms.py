import math

import pytest
import torch
from torch import Tensor

from lightning_modules.functional.update_transforms import (
    largest_singular_value,
    prune,
    rect,
    sphere,
)

BOTH_DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
SHAPES = pytest.mark.parametrize("shape", [(8, 20), (20, 8), (10, 10)], ids=str)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def with_singular_values(values: Tensor, shape: tuple[int, int]) -> Tensor:
    left, right = (torch.linalg.qr(draw(size, len(values), seed=size)).Q for size in shape)
    return left * values @ right.T


def tall_values(shape: tuple[int, int], largest: float) -> Tensor:
    return torch.linspace(largest, largest / 50, min(shape)).double()


@BOTH_DTYPES
@pytest.mark.parametrize("keep", [0.1, 0.4, 1.0])
def test_rect_keeps_exactly_its_share_and_the_largest_ratios(keep, dtype):
    change, weight = draw(10, 20, dtype=dtype), draw(10, 20, seed=1, dtype=dtype)
    rectified = rect(change, weight, keep)
    kept = rectified != 0
    ratio = (change / weight).abs()
    assert rectified.dtype == dtype
    assert int(kept.sum()) == round(keep * 200)
    assert torch.equal(rectified[kept], change[kept])
    assert keep == 1.0 or ratio[kept].min() > ratio[~kept].max()


@pytest.mark.parametrize("near_zero", [0.0, -0.0, -1e-8, 1e-30])
def test_rect_is_safe_where_the_weight_is_zero(near_zero):
    change, weight = torch.ones(1, 5), torch.tensor([[1.0, near_zero, -2.0, 0.5, 0.25]])
    assert rect(change, weight, 0.4).tolist() == [[0, 1, 0, 0, 1]]


@pytest.mark.parametrize("scale", [1e-8, -1e-8, 1e8])
def test_rect_does_not_see_how_large_change_and_weight_are(scale):
    change, weight = draw(10, 20), draw(10, 20, seed=1)
    assert torch.equal(rect(change * scale, weight * scale), rect(change, weight) * scale)


def test_rect_never_prefers_no_change():
    change, weight = torch.tensor([[0.0, 0.0, 1e-9]]), torch.tensor([[0.0, 1.0, 1.0]])
    assert rect(change, weight, 0.4).tolist() == change.tolist()


def test_rect_keeps_exactly_its_share_of_equal_ratios():
    assert int(rect(torch.ones(10, 10), torch.ones(10, 10), 0.4).sum()) == 40


@pytest.mark.parametrize("keep", [0.0, 1.5, -0.4])
def test_rect_refuses_what_is_no_share(keep):
    with pytest.raises(ValueError, match=rf"keep must lie in \(0, 1\], got {keep}"):
        rect(torch.ones(2, 2), torch.ones(2, 2), keep)


@BOTH_DTYPES
@SHAPES
def test_largest_singular_value_is_the_spectral_norm(shape, dtype):
    weight = draw(*shape, dtype=dtype)
    expected = float(torch.linalg.matrix_norm(weight.double(), 2))
    assert largest_singular_value(weight) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("base", [math.e, 2.0, 1.2])
@BOTH_DTYPES
@SHAPES
def test_prune_equals_its_singular_value_decomposition(shape, dtype, base):
    original = draw(*shape, seed=1, dtype=dtype)
    total = with_singular_values(tall_values(shape, 40.0), shape).to(dtype)
    limit = torch.linalg.matrix_norm(original.double(), 2)
    left, values, right = torch.linalg.svd(total.double(), full_matrices=False)
    damped = torch.where(values > limit, limit + (values / limit).log() / math.log(base), values)
    assert 1 < int((values > limit).sum()) < len(values)
    torch.testing.assert_close(prune(total, original, base), left * damped @ right)


@SHAPES
@pytest.mark.parametrize("largest", [0.3, 0.999])
def test_prune_leaves_small_changes_alone(shape, largest):
    original = draw(*shape, seed=1)
    total = with_singular_values(
        tall_values(shape, largest * largest_singular_value(original)), shape
    )
    torch.testing.assert_close(prune(total, original), total)


@SHAPES
@pytest.mark.parametrize("times", [2.0, 1e3, 1e6])
def test_prune_bounds_the_largest_singular_value(shape, times):
    original = draw(*shape, seed=1)
    limit = largest_singular_value(original)
    total = with_singular_values(tall_values(shape, times * limit), shape)
    pruned = largest_singular_value(prune(total, original))
    assert pruned == pytest.approx(limit + math.log(times), rel=1e-6)


def test_prune_damps_a_single_direction_just_above_the_limit():
    original = draw(8, 20, seed=1)
    limit = largest_singular_value(original)
    total = with_singular_values(torch.tensor([1.5 * limit]).double(), (8, 20))
    torch.testing.assert_close(prune(total, original), total * (1 + math.log(1.5) / limit) / 1.5)


def test_prune_refuses_a_base_of_one():
    with pytest.raises(ValueError, match=r"base must be above 1, got 1\.0"):
        prune(torch.ones(2, 3), torch.ones(2, 3), 1.0)


def test_prune_refuses_a_change_that_is_not_finite():
    with pytest.raises(FloatingPointError, match="accumulated change to prune is not finite"):
        prune(torch.full((2, 3), torch.nan), torch.ones(2, 3))


def slow_directions(weight: Tensor, energy: float) -> Tensor:
    """Leading eigenvectors of the input side's Gram matrix, taken one by one."""
    rows = weight / weight.norm(dim=1, keepdim=True)
    eigenvalues, eigenvectors = torch.linalg.eigh(rows.T @ rows)
    count, held = 0, 0.0
    while held < energy * float(eigenvalues.sum()):
        count += 1
        held += float(eigenvalues[-count])
    return eigenvectors[:, -count:]


@BOTH_DTYPES
@SHAPES
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_sphere_equals_its_dense_projection_on_the_input_side(shape, strength, dtype):
    change, weight = draw(*shape, dtype=dtype), draw(*shape, seed=1, dtype=dtype)
    directions = slow_directions(weight.double(), 0.5)
    keeper = torch.eye(shape[1]) - strength * directions @ directions.T
    assert 1 < directions.shape[1] < min(shape)
    expected = change.double() @ keeper
    torch.testing.assert_close(sphere(change, weight, 0.5, strength), expected)


@SHAPES
def test_sphere_of_full_strength_removes_the_component(shape):
    change, weight = draw(*shape), draw(*shape, seed=1)
    projected = sphere(change, weight, strength=1.0)
    assert (projected @ slow_directions(weight, 0.5)).norm() < 1e-10 * change.norm()
    torch.testing.assert_close(sphere(projected, weight, strength=1.0), projected)


def test_sphere_does_not_see_how_long_rows_are():
    change, weight = draw(8, 20), draw(8, 20, seed=1)
    longer = weight * torch.logspace(-2, 2, 8, dtype=torch.float64)[:, None]
    torch.testing.assert_close(sphere(change, longer), sphere(change, weight))


@pytest.mark.parametrize("energy", [0.0, 1.0, -0.5])
def test_sphere_refuses_an_energy_that_is_no_share(energy):
    with pytest.raises(ValueError, match=f"energy must lie between 0 and 1, got {energy}"):
        sphere(torch.ones(2, 2), torch.ones(2, 2), energy=energy)


@pytest.mark.parametrize("strength", [0.0, 1.5])
def test_sphere_refuses_a_strength_that_is_no_share(strength):
    with pytest.raises(ValueError, match=rf"strength must lie in \(0, 1\], got {strength}"):
        sphere(torch.ones(2, 2), torch.ones(2, 2), strength=strength)
