import pytest
import torch

from lightning_modules.methods.systems import NullSpaceRidge, Recursive, Ridge
from tests.batches import moment_of

GENERATOR = torch.Generator().manual_seed(0)
KEYS = torch.randn(48, 6, generator=GENERATOR)
RESIDUALS = torch.randn(32, 6, generator=GENERATOR)
MOMENT = moment_of(0)
WITHIN = 1e-7  # float64; the moment's directions differ by four orders of magnitude
PARTS = [slice(0, 1), slice(1, 4), slice(4, 6)]


def dense(change):
    return change.left @ change.right


def fit_all(system, history):
    """The changes of three edits, one after another."""
    return [dense(system.fit(0, KEYS[:, part], RESIDUALS[:, part], history)) for part in PARTS]


def ridge(norm_weight=0.3):
    system = Ridge(0.5, norm_weight, history=True)
    system.prepare(0, MOMENT)
    return system


def test_ridge_is_its_equation_with_an_explicit_inverse():
    past = torch.zeros(48, 0).double()
    for part, change in zip(PARTS, fit_all(ridge(), {}), strict=True):
        keys = KEYS[:, part].double()
        held = 0.5 * MOMENT + 0.3 * torch.eye(48) + past @ past.T + keys @ keys.T
        expected = RESIDUALS[:, part].double() @ keys.T @ held.inverse()
        assert (change - expected).norm() < WITHIN * expected.norm()
        past = torch.cat([past, keys], 1)


def test_without_a_history_the_past_is_forgotten():
    system = Ridge(0.5)
    system.prepare(0, MOMENT)
    history = {}
    first = system.fit(0, KEYS, RESIDUALS, history)
    assert history == {}
    assert torch.equal(dense(system.fit(0, KEYS, RESIDUALS, history)), dense(first))


@pytest.mark.parametrize("undone", [0, 1, 4])
def test_a_shortened_history_gives_the_very_same_bits(undone):
    system, history = ridge(), {}
    snapshots, changes = [], []
    for part in PARTS:
        snapshots.append(dict(history))
        changes.append(dense(system.fit(0, KEYS[:, part], RESIDUALS[:, part], history)))
    for number, (part, expected) in enumerate(zip(PARTS, changes, strict=True)):
        if number * 2 >= undone:
            again = system.fit(0, KEYS[:, part], RESIDUALS[:, part], dict(snapshots[number]))
            assert torch.equal(dense(again), expected)


def test_a_system_made_anew_from_the_history_gives_the_very_same_bits():
    history = {}
    *_, last = fit_all(ridge(), history)
    before = {name: entry[..., :-2] for name, entry in history.items() if "keys" in name}
    before["batches/0"] = history["batches/0"][:-1]
    again = ridge().fit(0, KEYS[:, PARTS[-1]], RESIDUALS[:, PARTS[-1]], before)
    assert torch.equal(dense(again), last)


def test_another_history_is_not_mistaken_for_a_longer_one():
    system = ridge()
    fit_all(system, {})
    other = {"keys/0": KEYS.flip(1), "batches/0": torch.tensor([6])}
    fresh, reused = (dense(one.fit(0, KEYS, RESIDUALS, dict(other))) for one in (ridge(), system))
    assert torch.equal(fresh, reused)


def test_null_space_ridge_leaves_preserved_keys_alone():
    system = NullSpaceRidge(0.1, 0.5)
    system.prepare(0, MOMENT)
    eigenvalues, eigenvectors = torch.linalg.eigh(MOMENT)
    preserved = eigenvectors[:, eigenvalues.cumsum(0) > 0.1 * eigenvalues.sum()]
    for change in fit_all(system, {}):
        assert (change @ preserved).norm() < 1e-8 * change.norm()


def test_null_space_ridge_needs_a_moment():
    with pytest.raises(ValueError, match="identity has no null space"):
        NullSpaceRidge(0.1, 0.5).prepare(0, None)


@pytest.mark.parametrize("moment", [MOMENT, None])
def test_recursion_is_ridge_with_a_history(moment):
    recursive, history = Recursive(0.3, 0.7), {}
    recursive.prepare(0, moment)
    held = (torch.eye(48) if moment is None else moment).double()
    held = 0.3**2 * torch.eye(48) + 0.7**2 * held
    past = torch.zeros(48, 0).double()
    for part, change in zip(PARTS, fit_all(recursive, history), strict=True):
        keys = KEYS[:, part].double()
        past = torch.cat([past, keys], 1)
        expected = RESIDUALS[:, part].double() @ keys.T @ (held + past @ past.T).inverse()
        assert (change - expected).norm() < WITHIN * expected.norm()
    assert set(history) == {"covariance/0"}


def test_cards_tell_the_parameters():
    assert ridge().card() == {"preservation": 0.5, "norm_weight": 0.3, "history": True}
    assert Recursive(0.3, 0.7).card() == {"ridge": 0.3, "preservation": 0.7}
    system = NullSpaceRidge(0.1, 0.5)
    system.prepare(0, MOMENT)
    assert system.card().keys() == {"energy", "ridge", "history", "null_dimensions"}
