import pytest
import torch
from torch import Tensor

from lightning_modules.functional.rank_one import factorize, rank_one_update, sink_free, whiten

F, D = 12, 7
BOTH_DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def moment(dtype: torch.dtype = torch.float64) -> Tensor:
    """A second moment of keys of very different sizes."""
    keys = draw(F, 40) * torch.logspace(-2, 1, F, dtype=torch.float64)[:, None]
    return (keys @ keys.T / 40).to(dtype)


@BOTH_DTYPES
def test_whitened_keys_solve_the_linear_system(dtype):
    keys, second_moment = draw(F, 3, dtype=dtype), moment(dtype)
    whitened = whiten(keys, factorize(second_moment))
    assert whitened.dtype == torch.float64
    expected = torch.linalg.solve(second_moment.double(), keys.double())
    torch.testing.assert_close(whitened, expected, rtol=1e-8, atol=1e-8)


@BOTH_DTYPES
def test_without_a_second_moment_keys_stay_as_they_are(dtype):
    keys = draw(F, 3, dtype=dtype)
    assert torch.equal(whiten(keys, None), keys.double())
    identity = torch.eye(F, dtype=dtype)
    torch.testing.assert_close(whiten(keys, factorize(identity)), keys.double())


@pytest.mark.parametrize("rank", [0, F - 1])
def test_singular_second_moment_is_refused(rank):
    keys = draw(F, max(rank, 1)) * (rank > 0)
    with pytest.raises(ValueError, match=f"second moment of {F} dimensions is singular"):
        factorize(keys @ keys.T)


def test_indefinite_second_moment_is_refused():
    with pytest.raises(ValueError, match="singular"):
        factorize(-torch.eye(F))


@BOTH_DTYPES
def test_key_maps_to_its_value_plus_the_residual(dtype):
    weight, key, residual = (draw(*shape, dtype=dtype) for shape in ((D, F), (F,), (D,)))
    direction = whiten(draw(F, 4).mean(1)[:, None], factorize(moment()))[:, 0]
    update = rank_one_update(direction, key, residual)
    edited = weight.double() + torch.outer(update.left, update.right)
    expected = weight.double() @ key.double() + residual.double()
    torch.testing.assert_close(edited @ key.double(), expected, rtol=1e-10, atol=1e-10)


def test_change_is_the_least_one_that_maps_the_key():
    key, residual = draw(F), draw(D)
    update = rank_one_update(key, key, residual)
    least = torch.outer(residual, torch.linalg.pinv(key[:, None])[0])
    torch.testing.assert_close(torch.outer(update.left, update.right), least)


def test_change_disturbs_old_keys_least():
    key, residual, second_moment = draw(F), draw(D), moment()
    update = rank_one_update(whiten(key[:, None], factorize(second_moment))[:, 0], key, residual)
    change = torch.outer(update.left, update.right)

    def disturbance(change: Tensor) -> Tensor:
        return (change @ second_moment @ change.T).trace()

    for scale in (1e-3, 1.0):
        other = scale * draw(D, F)
        other -= torch.outer(other @ key, key) / (key @ key)  # so that the key maps the same
        assert disturbance(change + other) > disturbance(change)


@BOTH_DTYPES
def test_figures_describe_the_change(dtype):
    direction, key, residual = (draw(size, dtype=dtype) for size in (F, F, D))
    update = rank_one_update(direction, key, residual)
    assert update.left.dtype == update.right.dtype == torch.float64
    assert float(update.right.norm()) == pytest.approx(1.0)
    assert float(update.left.norm()) == pytest.approx(
        update.numerator_norm / abs(update.denominator)
    )
    assert update.numerator_norm == pytest.approx(float(residual.double().norm()))
    cosine = float(torch.cosine_similarity(direction.double(), key.double(), 0))
    assert update.denominator == pytest.approx(cosine * float(key.double().norm()))


def test_length_of_the_direction_does_not_matter():
    direction, key, residual = draw(F), draw(F), draw(D)
    one, other = (rank_one_update(scale * direction, key, residual) for scale in (1.0, 1e-6))
    torch.testing.assert_close(one.left, other.left)
    torch.testing.assert_close(one.right, other.right)


@pytest.mark.parametrize("estimated", [True, False])
def test_a_sink_free_update_maps_its_key_and_leaves_the_sinks_output(estimated):
    factor = factorize(moment()) if estimated else None
    key, sink, residual = draw(F), draw(F, 1)[:, 0] * 30, draw(D)
    direction = sink_free(whiten(key[:, None], factor)[:, 0], sink, factor)
    change = rank_one_update(direction, key, residual)
    update = change.left[:, None] * change.right
    torch.testing.assert_close(update @ key, residual)
    torch.testing.assert_close(update @ sink, torch.zeros_like(residual), atol=1e-12, rtol=0)


def test_of_all_sink_free_updates_it_disturbs_the_corpus_least():
    second_moment, key, sink = moment(), draw(F), draw(F, 1)[:, 0]
    factor = factorize(second_moment)
    found = sink_free(whiten(key[:, None], factor)[:, 0], sink, factor)
    # min uᵀ C u with uᵀ k = 1 and uᵀ s = 0, by its stationarity conditions
    system = torch.zeros(F + 2, F + 2, dtype=torch.float64)
    system[:F, :F], system[:F, F], system[:F, F + 1] = second_moment, key, sink
    system[F, :F], system[F + 1, :F] = key, sink
    wanted = torch.zeros(F + 2, dtype=torch.float64)
    wanted[F] = 1
    slow = torch.linalg.solve(system, wanted)[:F]
    torch.testing.assert_close(found / (found @ key), slow, rtol=1e-7, atol=1e-9)


def test_nothing_is_left_of_the_sink_key_itself():
    sink, factor = draw(F), factorize(moment())
    left = sink_free(whiten(3 * sink[:, None], factor)[:, 0], sink, factor)
    assert float(left.norm()) < 1e-9 * float(whiten(sink[:, None], factor).norm())


def test_whitening_by_blocks_is_whitening_by_their_diagonal_matrix():
    moments = torch.stack([random_moment(6, seed) for seed in range(3)])
    keys = torch.randn(18, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    keys[6:12] = 0
    found = whiten(keys, factorize(moments))
    torch.testing.assert_close(found, torch.block_diag(*moments).double().inverse() @ keys)


def test_singular_block_matters_only_to_a_key_with_a_part_in_it():
    moments = torch.stack([random_moment(6, 0), torch.zeros(6, 6)])
    factor, key = factorize(moments), torch.ones(12, 1)
    with pytest.raises(FloatingPointError, match=r"of experts \[1\] is singular: they served too"):
        whiten(key, factor)
    key[6:] = 0
    assert whiten(key, factor).isfinite().all()


def random_moment(width: int, seed: int) -> torch.Tensor:
    keys = torch.randn(width, 4 * width, generator=torch.Generator().manual_seed(seed))
    return (keys @ keys.T / (4 * width)).double()
