import math

import numpy as np
import pytest
import scipy.stats
import torch

from callbacks.watching.measures import effective_rank, perplexities, singular_values

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


@pytest.mark.parametrize("shape", [(7, 20), (20, 7), (6, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_singular_values_are_those_of_a_decomposition(shape, dtype):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    wanted = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    assert singular_values(matrix).tolist() == pytest.approx(wanted.tolist(), rel=1e-9)


def test_a_rank_one_matrix_has_one_singular_value():
    left, right = torch.arange(1.0, 6.0), torch.arange(1.0, 4.0)
    first, *rest = singular_values(torch.outer(left, right)).tolist()
    assert first == pytest.approx(float(left.norm() * right.norm()))
    assert max(rest) < 1e-6 * first


def test_effective_rank_counts_directions_that_are_equally_strong():
    for rank in (1, 3, 8):
        strengths = torch.cat([torch.full((rank,), 2.5), torch.zeros(4)])
        assert effective_rank(strengths) == pytest.approx(rank)


def test_effective_rank_is_the_exponential_of_the_entropy():
    shares = np.array([5.0, 2.0, 1.0]) / 8
    assert effective_rank(torch.tensor([5.0, 2.0, 1.0])) == pytest.approx(
        math.exp(scipy.stats.entropy(shares))
    )
