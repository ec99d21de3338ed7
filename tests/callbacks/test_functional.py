import math

import pytest
import torch

from callbacks.functional import perplexities

NLL = torch.tensor([2.0, 3.5, 0.25])
LENGTH = torch.tensor([4, 10, 7])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_perplexities_are_those_of_a_loop_over_the_texts(dtype):
    found = perplexities(NLL.to(dtype), LENGTH)
    mean = sum(math.exp(nll) for nll in NLL.tolist()) / 3
    tokens = sum(nll * length for nll, length in zip(NLL.tolist(), LENGTH.tolist(), strict=True))
    assert found == pytest.approx((mean, math.log(mean), math.exp(tokens / 21)), rel=1e-12)


def test_a_single_text_reads_the_same_three_ways():
    found = perplexities(torch.tensor([4.0]), torch.tensor([9]))
    assert found == pytest.approx((math.exp(4), 4.0, math.exp(4)), rel=1e-12)


def test_pooled_perplexity_weighs_texts_by_their_tokens():
    nll = torch.tensor([1.0, 5.0])
    assert perplexities(nll, torch.tensor([1, 0])).pooled == pytest.approx(math.exp(1))
    assert perplexities(nll, torch.tensor([1, 3])).pooled == pytest.approx(math.exp(4))
    assert perplexities(nll, torch.tensor([1, 1])).pooled < perplexities(nll, LENGTH[:2]).mean


def test_650_nats_per_token_are_finite():
    found = perplexities(torch.tensor([650.0, 2.0]), LENGTH[:2])
    assert found.mean == pytest.approx(math.exp(650) / 2)
    assert math.isfinite(found.pooled)


def test_log_perplexity_is_finite_where_the_mean_overflows():
    found = perplexities(torch.tensor([900.0, 2.0]), LENGTH[:2])
    assert found.mean == math.inf
    assert found.log_mean == pytest.approx(900 - math.log(2))


def test_a_text_without_a_probability_spoils_every_reading():
    assert all(map(math.isnan, perplexities(torch.tensor([math.nan, 2.0]), LENGTH[:2])))
