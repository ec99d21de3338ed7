import json
import shutil

import numpy as np
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.watching.guard import CollapseGuard
from callbacks.watching.restore import RestoreWeights
from callbacks.watching.retention import RetentionMatrix, retention_figure
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import METHOD, REQUESTS, FailsAtHugo, Poison, fit, watching

IN_A_COPY = pytest.mark.filterwarnings(
    "ignore:Be aware that when using `ckpt_path`", "ignore:Checkpoint directory"
)
METRIC = "paraphrase_magnitude"  # which one request cannot tell for want of a true answer
TOLD = (0, 1)


def matrix(run):
    return json.loads((run.folder / "retention.json").read_text())


def run_in(lm, folder, *callbacks, metric=METRIC, every=2, **options):
    logger = TensorBoardLogger(folder.parent, folder.name, version="", default_hp_metric=False)
    keeper = ModelCheckpoint(folder / "checkpoints", "{step}", every_n_train_steps=1, save_top_k=-1)
    watched = [*callbacks, *watching(), RetentionMatrix(every, metric), keeper]
    return fit(lm, folder, watched, logger=logger, enable_checkpointing=True, **options)


@pytest.fixture(scope="module")
def run(lm, tmp_path_factory):
    return run_in(lm, tmp_path_factory.mktemp("run"), max_steps=3)


def scores_at(lm, run, edits):
    """The metric of the first requests on the model of a checkpoint, one by one."""
    editor = ROME(lm=lm, **METHOD)
    editor.configure_model()
    editor.lm.transformer.h[0].mlp.c_proj.weight.data.copy_(run.saved_weight(edits))
    judged = [editor.judge(request) for request in REQUESTS[:edits]]
    return [scores.get(METRIC) for scores in judged]


def test_rows_are_all_edits_so_far_on_the_model_as_it_then_was(lm, run):
    found = matrix(run)
    assert found["edits"] == [1, 2, 3]
    assert [row["edit"] for row in found["rows"]] == [2, 3]
    for row in found["rows"]:
        expected = scores_at(lm, run, row["edit"])
        assert row["scores"] == [v if v is None else pytest.approx(v) for v in expected]
        assert row["mean"] == pytest.approx(sum(row["scores"][n] for n in TOLD) / len(TOLD))
    assert found["rows"][0]["scores"] != found["rows"][1]["scores"][:2]


def test_an_edit_that_was_just_made_has_the_score_of_the_journal(run):
    row = matrix(run)["rows"][0]
    assert row["scores"][1] == pytest.approx(run.edits[1][METRIC])


def test_what_a_request_cannot_tell_is_left_out(run):
    assert matrix(run)["rows"][-1]["scores"][2] is None


def test_the_mean_stands_on_the_axis_of_edits_and_a_picture_beside_it(run):
    events = EventAccumulator(str(run.folder)).Reload()
    means = [(event.step, event.value) for event in events.Scalars(f"retention/{METRIC}")]
    expected = [(row["edit"], row["mean"]) for row in matrix(run)["rows"]]
    assert means == [(step, pytest.approx(value, rel=1e-5)) for step, value in expected]
    assert (run.folder / "retention.png").read_bytes().startswith(b"\x89PNG")


def test_judging_past_edits_leaves_the_record_of_the_next_one_alone(run):
    assert {"case_id", "subject", "efficacy_token_accuracy_before"} <= run.edits[2].keys()


@IN_A_COPY
def test_a_resumed_run_ends_with_the_same_matrix(lm, run, tmp_path):
    whole = run_in(lm, tmp_path / "whole")
    shutil.copytree(run.folder, tmp_path / "resumed")
    resumed = run_in(lm, tmp_path / "resumed", resume=run.checkpoint(3))
    assert matrix(resumed) == matrix(whole)
    assert [row["edit"] for row in matrix(resumed)["rows"]] == [2, 4]


def test_edits_that_failed_or_were_taken_back_are_not_retained(lm, tmp_path):
    failed = run_in(lm, tmp_path / "failed", method=FailsAtHugo, every=1)
    assert matrix(failed)["edits"] == [1, 3, 4]
    assert [len(row["scores"]) for row in matrix(failed)["rows"]] == [1, 1, 2, 3]
    guarded = run_in(lm, tmp_path / "guarded", CollapseGuard(), Poison({2}, 50.0), every=1)
    assert guarded.column("status") == ["applied", "rolled_back", "applied", "applied"]
    assert matrix(guarded)["edits"] == [1, 3, 4]


@IN_A_COPY
def test_a_run_that_is_watched_from_its_middle_on_knows_the_edits_before(lm, sequential, tmp_path):
    shutil.copytree(sequential.folder, tmp_path / "run")
    run = run_in(lm, tmp_path / "run", resume=sequential.checkpoint(2), every=3)
    assert [len(row["scores"]) for row in matrix(run)["rows"]] == [3, 4]


def test_requests_that_cannot_tell_the_metric_have_no_mean_and_no_picture(lm, tmp_path):
    run = run_in(lm, tmp_path, metric="portability_exact_match", limit_train_batches=1)
    assert matrix(run)["rows"] == [{"edit": 1, "scores": [None]}]
    assert not (tmp_path / "retention.png").exists()


def test_single_edits_are_refused(lm, tmp_path):
    with pytest.raises(ValueError, match="nothing to judge, as RestoreWeights undoes every edit"):
        run_in(lm, tmp_path, RestoreWeights())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_edits": 0}, "every_n_edits must be positive, got 0"),
        ({"metric": "portability"}, r"metric must be one of \['attribute', .*, got 'portability'"),
    ],
)
def test_what_cannot_be_judged_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RetentionMatrix(**options)


def test_figure_has_a_cell_for_each_edit_and_time_and_none_for_edits_not_yet_made():
    rows = [
        {"edit": 2, "scores": [1.0, 0.5], "mean": 0.75},
        {"edit": 5, "scores": [0.0, 0.25, None], "mean": 0.125},
    ]
    figure = retention_figure([1, 2, 5], rows, "efficacy", collapse=5)
    axes, beside, _ = figure.axes
    (cells,) = axes.collections
    expected = [[1, 0.5, -1, -1, -1], [0, 0.25, -1, -1, -1]]
    assert np.array_equal(cells.get_array().filled(-1), expected)
    assert beside.get_lines()[0].get_xydata().tolist() == [[0.75, 2], [0.125, 5]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["collapse at edit 5"]
