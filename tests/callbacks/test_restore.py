import lightning as L
import pytest
import torch

from callbacks.restore import RestoreWeights, restores

from .runs import REQUESTS, WEIGHT, fit, trainer_in, watching, without_timings


class WeightBeforeEachEdit(L.Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.seen.append(module.lm.get_parameter(WEIGHT).clone())


@pytest.fixture(scope="module")
def sweep(lm, tmp_path_factory):
    """Four single edits; the callback stands where ``callbacks+`` of a config puts it: last."""
    return fit(lm, tmp_path_factory.mktemp("sweep"), [*watching(), RestoreWeights()])


def test_every_edit_starts_from_bit_identical_weights(lm, tmp_path):
    before = WeightBeforeEachEdit()
    run = fit(lm, tmp_path, [RestoreWeights(), before])
    assert all(torch.equal(weight, run.editor.original[WEIGHT]) for weight in before.seen)
    assert len(before.seen) == 4
    assert not torch.equal(run.weight, run.editor.original[WEIGHT])


def test_without_it_edits_accumulate(lm, tmp_path):
    before = WeightBeforeEachEdit()
    fit(lm, tmp_path, [before])
    pairs = zip(before.seen, before.seen[1:], strict=False)
    assert not any(torch.equal(earlier, later) for earlier, later in pairs)


def test_restore_gives_back_the_original_bit_by_bit(lm, tmp_path):
    run = fit(lm, tmp_path, [])
    assert not torch.equal(run.weight, run.editor.original[WEIGHT])
    run.editor.restore()
    assert torch.equal(run.weight, run.editor.original[WEIGHT])
    assert run.editor.edited_cases == []


def test_order_of_requests_does_not_matter_in_a_sweep(lm, sweep, tmp_path):
    turned = fit(lm, tmp_path, [*watching(), RestoreWeights()], REQUESTS[::-1])
    by_case = [
        sorted(without_timings(run.edits), key=lambda edit: edit["case_id"])
        for run in (sweep, turned)
    ]
    for one, other in zip(*by_case, strict=True):
        assert (one.pop("edit"), other.pop("edit")) in [(1, 4), (2, 3), (3, 2), (4, 1)]
        assert one == other


def test_an_edit_of_a_sweep_is_that_edit_alone(lm, sweep, tmp_path):
    alone = fit(lm, tmp_path, watching(), REQUESTS[2:3])
    (expected,) = without_timings(alone.edits)
    assert without_timings(sweep.edits)[2] == {**expected, "edit": 3}


def test_order_of_requests_matters_in_a_sequential_run(lm, sequential, tmp_path):
    turned = fit(lm, tmp_path, watching(), REQUESTS[::-1])
    assert turned.edits[3]["perplexity"] != sequential.edits[0]["perplexity"]


def test_a_run_with_the_callback_is_known_as_a_sweep(tmp_path):
    assert restores(trainer_in(tmp_path, [RestoreWeights()]))
    assert not restores(trainer_in(tmp_path, []))
