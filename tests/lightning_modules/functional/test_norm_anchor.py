import pytest
import torch

from lightning_modules.functional.norm_anchor import anchor_norm, anchored

BOTH_DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@BOTH_DTYPES
def test_value_keeps_its_direction_and_takes_the_length_of_the_anchor(dtype):
    values = torch.tensor([[3.0, 4.0], [-0.3, 0.4]], dtype=dtype)
    expected = torch.tensor([[6.0, 8.0], [-6.0, 8.0]], dtype=torch.float64)
    torch.testing.assert_close(anchored(values, 10.0), expected, rtol=1e-7, atol=0.0)


def test_value_of_zero_stays_zero():
    assert not anchored(torch.zeros(1, 3), 10.0).any()


@pytest.mark.parametrize("norm", [0.0, -1.0, float("nan")])
def test_norm_that_is_not_positive_is_refused(norm):
    with pytest.raises(ValueError, match=f"anchor's norm must be positive, got {norm}"):
        anchored(torch.ones(1, 2), norm)


@BOTH_DTYPES
def test_anchor_is_the_mean_norm_without_the_largest(dtype):
    values = torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 900.0], [0.0, 3.0]], dtype=dtype)
    assert anchor_norm(values, trimmed=0.25) == pytest.approx(3.0)
    assert anchor_norm(values, trimmed=0.0) == pytest.approx(909 / 4)
