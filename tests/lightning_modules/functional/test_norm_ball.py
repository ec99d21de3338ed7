import pytest
import torch

from lightning_modules.functional.norm_ball import clamp_change

BOTH_DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@BOTH_DTYPES
def test_every_entry_stays_within_the_radius(dtype):
    change = torch.tensor([[-2.0, -0.5], [0.25, 0.75]], dtype=dtype)
    expected = torch.tensor([[-0.5, -0.5], [0.25, 0.5]], dtype=dtype)
    assert torch.equal(clamp_change(change, 0.5), expected)


def test_no_radius_leaves_the_change_free():
    change = torch.tensor([[-2e9, 7.0]])
    assert clamp_change(change, None) is change


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan")])
def test_radius_that_is_not_positive_is_refused(radius):
    with pytest.raises(ValueError, match=f"radius must be positive, .* got {radius}"):
        clamp_change(torch.ones(2), radius)
