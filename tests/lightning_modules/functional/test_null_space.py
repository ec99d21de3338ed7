import pytest
import torch
from torch import Tensor

from lightning_modules.functional.null_space import null_space

F, RANK, N = 12, 5, 4
BOTH_DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def preserved(rank: int = RANK, dtype: torch.dtype = torch.float64) -> Tensor:
    """Keys that span ``rank`` directions."""
    return (draw(F, rank) @ draw(rank, 40, seed=1)).to(dtype)


def moment_of(*eigenvalues: float) -> tuple[Tensor, Tensor]:
    directions = torch.linalg.qr(draw(F, F, seed=2)).Q
    sizes = torch.zeros(F).double()
    sizes[: len(eigenvalues)] = torch.tensor(eigenvalues).double()
    return directions * sizes @ directions.T, directions


@BOTH_DTYPES
@pytest.mark.parametrize("rank", [2, 9])
def test_preserved_keys_are_annihilated(rank, dtype):
    keys = preserved(rank, dtype)
    null = null_space(keys @ keys.T, energy=1e-6)
    assert null.dimension == F - rank
    assert null.project(keys).dtype == torch.float64
    assert null.project(keys).norm() < 1e-3 * keys.norm()


@pytest.mark.parametrize("rank", [2, 9])
def test_change_of_projected_keys_leaves_preserved_outputs_alone(rank):
    keys = preserved(rank)
    change = draw(7, N) @ null_space(keys @ keys.T, energy=1e-9).project(draw(F, N)).T
    assert (change @ keys).norm() < 1e-9 * change.norm() * keys.norm()


@pytest.mark.parametrize("rank", [2, 9])
def test_projector_is_symmetric_idempotent_and_of_its_dimension(rank):
    keys = preserved(rank)
    null = null_space(keys @ keys.T, energy=1e-9)
    projector = null.project(torch.eye(F))
    torch.testing.assert_close(projector, projector.T)
    torch.testing.assert_close(null.project(projector), projector)
    assert float(projector.trace()) == pytest.approx(null.dimension)


@pytest.mark.parametrize(("rank", "stored"), [(2, 2), (9, 3), (6, 6), (7, 5)])
def test_smaller_of_two_bases_is_stored(rank, stored):
    keys = preserved(rank)
    assert null_space(keys @ keys.T, energy=1e-9).basis.shape == (F, stored)


@pytest.mark.parametrize(("energy", "dimension"), [(0.005, F - 4), (0.02, F - 3), (0.2, F - 2)])
def test_null_directions_hold_at_most_their_share_of_the_energy(energy, dimension):
    second_moment, directions = moment_of(80.0, 9.0, 10.0, 1.0)
    null = null_space(second_moment, energy)
    assert null.dimension == dimension
    kept = null.project(directions).norm(dim=0)
    assert int((kept > 0.5).sum()) == dimension
    energies = (directions.T @ second_moment @ directions).diagonal()
    assert float(energies[kept > 0.5].sum()) <= energy * 100 + 1e-9


@pytest.mark.parametrize("scale", [1e-8, 3.0, 1e8])
def test_size_of_keys_does_not_matter(scale):
    keys = draw(F, 40) * torch.logspace(-2, 0, F, dtype=torch.float64)[:, None]
    one, other = (null_space(c * keys @ keys.T, energy=0.02) for c in (1.0, scale))
    assert one.dimension == other.dimension
    projectors = [null.project(torch.eye(F)) for null in (one, other)]
    torch.testing.assert_close(*projectors)


def test_empty_null_space_is_refused_with_its_numbers():
    message = f"of {F} directions even the least holds 0.0833 of the keys' energy, more than 0.02"
    with pytest.raises(ValueError, match=message):
        null_space(torch.eye(F), energy=0.02)


@pytest.mark.parametrize("energy", [0.0, 1.0, -0.1, float("nan")])
def test_energy_that_is_no_share_is_refused(energy):
    with pytest.raises(ValueError, match=f"energy must lie between 0 and 1, got {energy}"):
        null_space(torch.eye(F), energy)
