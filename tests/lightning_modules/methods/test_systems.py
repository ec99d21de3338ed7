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
    history, before = {}, {}
    system = ridge()
    for part in PARTS:
        before = {name: entry.clone() for name, entry in history.items()}
        last = dense(system.fit(0, KEYS[:, part], RESIDUALS[:, part], history))
    again = ridge().fit(0, KEYS[:, PARTS[-1]], RESIDUALS[:, PARTS[-1]], before)
    assert torch.equal(dense(again), last)


def test_another_history_is_not_mistaken_for_a_longer_one():
    system = ridge()
    fit_all(system, {})
    other = {"downdates/0/0": 0.1 * KEYS.flip(1).double()}
    fresh, reused = (dense(one.fit(0, KEYS, RESIDUALS, dict(other))) for one in (ridge(), system))
    assert torch.equal(fresh, reused)


@pytest.mark.parametrize("name", ["keys", "covariance"])
def test_the_history_of_an_older_version_is_refused(name):
    with pytest.raises(ValueError, match=f"the run's history holds {name}, as an older version"):
        ridge().fit(0, KEYS, RESIDUALS, {f"{name}/0": KEYS})


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


def published_recursion(covariance, keys, residuals):
    """The change ``R Kᵀ C_t`` and ``C_t`` by RLSEdit's recursion over dense covariances."""
    solved = covariance @ keys
    inner = torch.eye(keys.shape[1]) + keys.T @ solved
    after = covariance - solved @ inner.inverse() @ solved.T
    return residuals @ keys.T @ after, after


@pytest.mark.parametrize("moment", [MOMENT, None])
def test_recursion_is_the_published_one_and_ridge_with_a_history(moment):
    recursive, history = Recursive(0.3, 0.7), {}
    recursive.prepare(0, moment)
    held = (torch.eye(48) if moment is None else moment).double()
    held = 0.3**2 * torch.eye(48) + 0.7**2 * held
    past, covariance = torch.zeros(48, 0).double(), held.inverse()
    for part, change in zip(PARTS, fit_all(recursive, history), strict=True):
        keys, residuals = KEYS[:, part].double(), RESIDUALS[:, part].double()
        past = torch.cat([past, keys], 1)
        expected = residuals @ keys.T @ (held + past @ past.T).inverse()
        assert (change - expected).norm() < WITHIN * expected.norm()
        published, covariance = published_recursion(covariance, keys, residuals)
        assert (change - published).norm() < WITHIN * published.norm()
    assert all(name.startswith("downdates/0/") for name in history)


def test_the_recursion_equals_one_batch_in_any_order():
    order = torch.randperm(6, generator=torch.Generator().manual_seed(3))
    changes = []
    for columns in (torch.arange(6), order):
        recursive, history, weight = Recursive(0.3, 0.7), {}, torch.zeros(32, 48).double()
        recursive.prepare(0, MOMENT)
        for n in columns.split(1):
            residuals = RESIDUALS[:, n].double() - weight @ KEYS[:, n].double()
            weight = weight + dense(recursive.fit(0, KEYS[:, n], residuals, history))
        changes.append(weight)
    recursive.prepare(0, MOMENT)
    changes.append(dense(recursive.fit(0, KEYS, RESIDUALS, {})))
    for change in changes[1:]:
        assert (change - changes[0]).norm() < WITHIN * changes[0].norm()


def test_without_a_ridge_the_moment_alone_holds_and_must_be_regular():
    recursive = Recursive(0.0, 2.0)
    recursive.prepare(0, MOMENT)
    keys = KEYS[:, :1].double()
    expected = RESIDUALS[:, :1].double() @ keys.T @ (4 * MOMENT + keys @ keys.T).inverse()
    change = dense(recursive.fit(0, KEYS[:, :1], RESIDUALS[:, :1], {}))
    assert (change - expected).norm() < WITHIN * expected.norm()
    with pytest.raises(ValueError, match="is singular"):
        recursive.prepare(0, torch.diag(torch.tensor([1.0, 0.0])))


def test_negative_ridge_is_refused():
    with pytest.raises(ValueError, match=r"ridge must not be negative, got -1\.0"):
        Recursive(-1.0, 1.0)


@pytest.mark.parametrize("kind", ["ridge", "null space", "recursion"])
def test_five_thousand_past_keys_equal_a_dense_solve(kind):
    generator = torch.Generator().manual_seed(7)
    past = torch.randn(48, 5000, generator=generator, dtype=torch.float64)
    projector, held = torch.eye(48).double(), 0.5 * MOMENT + 0.3 * torch.eye(48)
    system = ridge()
    if kind == "null space":
        system = NullSpaceRidge(0.1, 0.5)
        held = 0.5 * torch.eye(48).double()
    if kind == "recursion":
        system = Recursive(0.3, 0.7)
        held = 0.3**2 * torch.eye(48) + 0.7**2 * MOMENT
    system.prepare(0, MOMENT)
    if kind == "null space":
        projector = system.null_spaces[0].project(projector)
    history = {}
    for keys in past.split(1, 1):
        system.fit(0, keys, torch.zeros(32, 1), history)
    assert sum(part.shape[1] for part in history.values()) <= 2 * 48
    keys, residuals = projector @ KEYS.double(), RESIDUALS.double()
    held = held + projector @ past @ past.T @ projector + keys @ keys.T
    expected = residuals @ keys.T @ held.inverse()
    change = dense(system.fit(0, KEYS, RESIDUALS, history))
    assert (change - expected).norm() < WITHIN * expected.norm()


def test_cards_tell_the_parameters():
    assert ridge().card() == {"preservation": 0.5, "norm_weight": 0.3, "history": True}
    assert Recursive(0.3, 0.7).card() == {"ridge": 0.3, "preservation": 0.7}
    system = NullSpaceRidge(0.1, 0.5)
    system.prepare(0, MOMENT)
    assert system.card().keys() == {"energy", "ridge", "history", "null_dimensions"}
