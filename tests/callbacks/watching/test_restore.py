import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.keeping.schedule import restores
from callbacks.watching.restore import RestoreWeights
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import (
    REQUESTS,
    WEIGHT,
    FailsAtHugo,
    fit,
    trainer_in,
    watching,
    without_timings,
)


class WeightBeforeEachEdit(L.Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.seen.append(module.lm.get_parameter(WEIGHT).clone())


@pytest.fixture(scope="module")
def sweep(lm, tmp_path_factory):
    """Four single edits; the callback stands where ``callbacks+`` of a config puts it: last."""
    return fit(lm, tmp_path_factory.mktemp("sweep"), [*watching(), RestoreWeights(1)])


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
    turned = fit(lm, tmp_path, [*watching(), RestoreWeights(1)], REQUESTS[::-1])
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


@pytest.mark.parametrize("together", [2, 3, 16])
@pytest.mark.parametrize("method", [ROME, FailsAtHugo])
def test_edits_made_together_are_those_made_one_by_one(lm, tmp_path, together, method):
    runs = [
        fit(lm, tmp_path / str(size), [*watching(), RestoreWeights(size)], method=method)
        for size in (1, together)
    ]
    for one, other in zip(*(without_timings(run.edits) for run in runs), strict=True):
        assert one.keys() == other.keys()
        for name, figure in one.items():
            close = {"rel": 1e-6} if "perplexity" in name else {"rel": 1e-4, "abs": 1e-6}
            same = pytest.approx(figure, **close) if isinstance(figure, float) else figure
            assert other[name] == same, name
    assert torch.allclose(runs[0].weight, runs[1].weight, rtol=1e-4, atol=1e-6)
    assert len(runs[1].editor.sweep.watched) == 3
    assert runs[0].editor.sweep is None


def test_a_resumed_sweep_makes_the_same_groups(lm, tmp_path):
    def watched(folder):
        keeper = ModelCheckpoint(
            folder / "checkpoints", "{step}", every_n_train_steps=1, save_top_k=-1
        )
        return [*watching(), RestoreWeights(3), keeper]

    whole = fit(lm, tmp_path, watched(tmp_path), enable_checkpointing=True)
    rest = fit(
        lm,
        tmp_path / "rest",
        watched(tmp_path / "rest"),
        resume=whole.checkpoint(2),
        enable_checkpointing=True,
    )
    assert without_timings(rest.edits) == without_timings(whole.edits[2:])


def test_order_of_requests_matters_in_a_sequential_run(lm, sequential, tmp_path):
    turned = fit(lm, tmp_path, watching(), REQUESTS[::-1])
    assert turned.edits[3]["perplexity"] != sequential.edits[0]["perplexity"]


def test_a_run_with_the_callback_is_known_as_a_sweep(tmp_path):
    assert restores(trainer_in(tmp_path, [RestoreWeights()]))
    assert not restores(trainer_in(tmp_path, []))
