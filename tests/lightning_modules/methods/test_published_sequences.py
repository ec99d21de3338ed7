"""Edits in sequence against the published loops, each on a model of its own that keeps them all."""

import pytest

from data_modules.forms.readers import read_requests
from tests.published import Published
from tests.published_loops import memit_sequence, rome_sequence

WITHIN = 1e-5
MANY = 5e-5  # measured over 10 batches of 10: 1.1e-5 in the ninth, 4e-6 elsewhere


@pytest.fixture(scope="module")
def published(shared_data):
    return Published(shared_data)


@pytest.mark.parametrize(
    ("edits", "contexts", "steps"),
    [(3, 4, 5), pytest.param(20, None, 20, marks=pytest.mark.slow)],
)
def test_c_rome_in_sequence_equals_the_published_loop_edit_by_edit(
    published, edits, contexts, steps
):
    found = rome_sequence(published, edits, contexts, steps)
    assert len(found.changes) == edits
    assert max(*found.changes, found.final) < WITHIN


@pytest.mark.parametrize(
    ("batches", "size", "steps", "within"),
    [(2, 2, 4, WITHIN), pytest.param(10, 10, 20, MANY, marks=pytest.mark.slow)],
)
def test_memit_in_batches_equals_the_published_loop(
    published, shared_data, batches, size, steps, within
):
    requests = read_requests(str(shared_data / "counterfact/counterfact_original_350.json"))
    found = memit_sequence(published, requests[: batches * size], size, steps)
    assert len(found.changes) == batches
    assert max(*found.changes, found.final) < within
