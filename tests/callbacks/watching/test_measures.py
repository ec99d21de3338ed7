import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from callbacks.watching.measures import (
    effective_rank,
    leading_subspaces,
    norm_growth,
    perplexities,
    relative_distance,
    singular_values,
    subspace_overlap,
)

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


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(7, 20), (20, 7), (6, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_leading_subspaces_are_those_of_a_decomposition(shape, dtype):
    matrix = random(*shape).to(dtype)
    left, _, right = np.linalg.svd(matrix.double().numpy())
    for found, wanted in zip(leading_subspaces(matrix, 3), (left[:, :3], right[:3].T), strict=True):
        np.testing.assert_allclose(found @ found.T, wanted @ wanted.T, atol=1e-8)
        np.testing.assert_allclose(found.T @ found, np.eye(3), atol=1e-8)


@pytest.mark.parametrize("rank", [0, 7])
def test_a_matrix_has_no_more_directions_than_its_smaller_side(rank):
    with pytest.raises(ValueError, match=rf"rank must be in \[1, 6\] for this matrix, got {rank}"):
        leading_subspaces(random(6, 9), rank)


def test_overlap_is_the_mean_squared_cosine_of_the_principal_angles():
    one, other = (torch.linalg.qr(random(12, 4, seed=seed)).Q for seed in (1, 2))
    angles = scipy.linalg.subspace_angles(one.numpy(), other.numpy())
    assert subspace_overlap(one, other) == pytest.approx(float((np.cos(angles) ** 2).mean()))


def test_overlap_is_1_in_another_basis_and_0_between_orthogonal_spaces():
    basis = torch.linalg.qr(random(8, 8)).Q
    turned = basis[:, :3] @ torch.linalg.qr(random(3, 3, seed=3)).Q
    assert subspace_overlap(basis[:, :3], turned) == pytest.approx(1)
    assert subspace_overlap(basis[:, :3], basis[:, 4:7]) == pytest.approx(0, abs=1e-12)


def test_overlap_of_random_spaces_is_their_share_of_the_dimensions():
    pairs = [[torch.linalg.qr(random(30, 6, seed=2 * n + i)).Q for i in (0, 1)] for n in range(200)]
    assert np.mean([subspace_overlap(*pair) for pair in pairs]) == pytest.approx(6 / 30, rel=0.05)


def test_norm_growth_is_the_scale_of_a_scaled_weight():
    weight = random(5, 9)
    for scale in (0.5, 1.0, 3.0):
        assert norm_growth(scale * weight, weight) == pytest.approx(scale - 1)
    other = random(5, 9, seed=4)
    sizes = [math.sqrt(sum(x * x for x in m.flatten().tolist())) for m in (other, weight)]
    assert norm_growth(other, weight) == pytest.approx(sizes[0] / sizes[1] - 1)


def test_relative_distance_is_that_of_a_loop_over_the_tokens():
    states, original = random(6, 4, seed=5), random(6, 4, seed=6)
    shares = [math.dist(a, b) ** 2 / sum(x * x for x in b)
              for a, b in zip(states.tolist(), original.tolist(), strict=True)]  # fmt: skip
    assert relative_distance(states, original) == pytest.approx(math.sqrt(np.mean(shares)))


def test_relative_distance_of_scaled_states_is_the_scale_whatever_their_lengths():
    original = random(6, 4) * torch.tensor([1000.0, 1, 1, 1, 1, 1], dtype=torch.float64)[:, None]
    assert relative_distance(original, original) == 0
    assert relative_distance(1.5 * original, original) == pytest.approx(0.5)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_state_that_is_not_finite_is_infinitely_far(broken):
    states = random(6, 4)
    states[2, 1] = broken
    assert relative_distance(states, random(6, 4, seed=1)) == math.inf
