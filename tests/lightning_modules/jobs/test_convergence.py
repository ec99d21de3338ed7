import pytest
import torch

from lightning_modules.jobs.convergence import Convergence


def moment(keys: torch.Tensor) -> torch.Tensor:
    return keys.T @ keys / len(keys)


def test_the_first_moment_has_nothing_to_be_compared_with():
    keys = torch.randn(40, 6).double()
    assert Convergence(keys).compare(moment(keys), 40) == {}


def test_the_same_moment_agrees_and_halves_that_are_alike_do_not_differ():
    keys = torch.randn(40, 6).double()
    known = Convergence(keys)
    known.compare(moment(keys), 40)
    found = known.compare(moment(torch.cat([keys, keys])), 80)
    assert found["agreement"] == pytest.approx(1)
    assert found["halves"] == pytest.approx(0, abs=1e-6)


def test_a_singular_moment_has_no_directions():
    keys = torch.randn(40, 6).double()
    known = Convergence(keys)
    known.compare(moment(keys[:3]), 3)
    assert set(known.compare(moment(keys), 40)) == {"halves"}
    assert set(known.compare(moment(keys), 80)) == {"agreement", "halves"}


def test_no_more_tokens_than_before_are_no_second_half():
    keys = torch.randn(40, 6).double()
    known = Convergence(keys)
    known.compare(moment(keys), 40)
    assert set(known.compare(moment(keys), 40)) == {"agreement"}
