import pytest
import torch

from lightning_modules.functional.gradient_transform import (
    GradientTransform,
    LowRankLayer,
    RunningMoments,
    lifelong_values,
)

INPUTS, OUTPUTS, RANK, SHARING = 5, 3, 2, 2


def rows(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 + 2 * torch.randn(count, INPUTS + OUTPUTS, generator=generator)


def factors(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return rows(count, seed).split([INPUTS, OUTPUTS], -1)


def trained() -> GradientTransform:
    """A transform none of whose parameters is at its initial value."""
    torch.manual_seed(0)
    transform = GradientTransform(INPUTS, OUTPUTS, RANK, SHARING)
    for parameter in transform.parameters():
        parameter.data = torch.randn_like(parameter)
    transform.observe(*factors(20))
    return transform


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("parts", [[40], [1, 39], [7, 1, 20, 12], [13, 0, 27]])
def test_moments_of_parts_are_those_of_the_whole(parts, dtype):
    seen = rows(40).to(dtype)
    moments = RunningMoments.none(seen)
    for part in seen.split(parts):
        moments = moments.extended(part)
    assert moments.seen == 40
    torch.testing.assert_close(moments.mean, seen.double().mean(0))
    torch.testing.assert_close((moments.squares / 39).sqrt(), seen.double().std(0))
    expected = (seen - seen.mean(0)) / seen.std(0)
    torch.testing.assert_close(moments.standardized(seen), expected, rtol=1e-4, atol=1e-5)
    assert moments.standardized(seen).dtype == dtype


def test_extending_moments_leaves_the_old_ones_as_they_were():
    first = RunningMoments.none(rows(1)).extended(rows(4))
    kept = [moment.clone() for moment in first]
    first.extended(rows(9, seed=1))
    assert all(map(torch.equal, first, kept))


def test_rows_stay_as_they_are_where_nothing_was_seen():
    assert torch.equal(RunningMoments.none(rows(1)).standardized(rows(6)), rows(6))


def test_column_that_never_varied_becomes_zero():
    constant = rows(6)
    constant[:, 2] = 0.1
    standardized = RunningMoments.none(constant).extended(constant).standardized(constant)
    assert standardized[:, 2].abs().max() < 1e-3
    assert standardized[:, 1].std() == pytest.approx(1)


def test_untrained_transform_is_the_identity():
    transform = GradientTransform(INPUTS, OUTPUTS, RANK, SHARING)
    for number in range(SHARING):
        assert all(map(torch.equal, transform(*factors(6), number), factors(6)))


def test_untrained_transform_standardizes_what_it_observed():
    transform = GradientTransform(INPUTS, OUTPUTS, RANK, SHARING)
    transform.observe(*factors(20))
    found = torch.cat(transform(*factors(20), 0), -1)
    torch.testing.assert_close(found.mean(0), torch.zeros(INPUTS + OUTPUTS), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std(0), torch.ones(INPUTS + OUTPUTS))


@pytest.mark.parametrize("number", range(SHARING))
def test_transform_is_the_papers_formula(number):
    transform = trained()
    found = torch.cat(transform(*factors(6, seed=1), number), -1)
    for row, got in zip(rows(6, seed=1), found, strict=True):
        x = (row - rows(20).mean(0)) / rows(20).std(0)
        for layer in (transform.hidden, transform.last):
            inner = torch.stack([direction @ x for direction in layer.down])
            added = torch.stack([direction @ inner for direction in layer.up]) + layer.bias
            added = layer.scale[number] * added + layer.offset[number]
            x = x + added.relu()
        torch.testing.assert_close(got, x, rtol=1e-4, atol=1e-4)


def test_weights_that_share_a_transform_differ_by_scale_and_offset():
    transform = trained()
    one, other = (torch.cat(transform(*factors(6), number), -1) for number in range(SHARING))
    assert (one - other).norm() > 0.1 * one.norm()


def test_untrained_layer_can_learn():
    layer = LowRankLayer(4, RANK, SHARING)
    layer(torch.randn(6, 4), 0).sum().backward()
    assert layer.up.grad.abs().sum() > 0


def test_rank_is_at_most_the_width():
    assert LowRankLayer(4, 1920, SHARING).down.shape == (4, 4)


def test_moments_travel_with_the_state():
    copy = GradientTransform(INPUTS, OUTPUTS, RANK, SHARING)
    copy.load_state_dict(trained().state_dict())
    found, expected = (t(*factors(4), 1) for t in (copy, trained()))
    assert all(map(torch.equal, found, expected))


def test_lifelong_values_are_gradients_by_squared_norm_of_the_key():
    keys, gradients = factors(2)
    expected = [
        [-0.5 * sum(k * k for k in key) * g for g in gradient]
        for key, gradient in zip(keys.tolist(), gradients.tolist(), strict=True)
    ]
    torch.testing.assert_close(lifelong_values(keys, gradients, 0.5), torch.tensor(expected))
