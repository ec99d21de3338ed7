import json
import math
from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from callbacks.keeping.dashboard import tag
from callbacks.keeping.hyper_parameters import OUTCOME
from callbacks.keeping.journal import read_journal
from tests.callbacks.runs import (
    REQUESTS,
    WEIGHT,
    FailsAtHugo,
    Poison,
    fit,
    watching,
    without_timings,
)

REQUEST = {"edit", "case_id", "subject", "prompt", "target_new", "target_true", "method", "status"}
HEALTH = {"perplexity", "log_perplexity", "perplexity_pooled", "collapsed"}
SCORES = {
    f"{group}{kind}{when}"
    for group in ("efficacy", "paraphrase", "neighborhood")
    for kind in ("", "_magnitude", "_token_accuracy", "_exact_match")
    for when in ("", "_before")
} | {"neighborhood_agreement", "neighborhood_agreement_before"}
EDIT = {
    *("update_norm", "numerator_norm", "denominator", "denominator_relative"),
    *("key_cosine", "subject_position"),
    *("value_loss", "value_steps", "value_unconverged", "seconds_edit", "seconds_watch"),
}


class Journalist(L.Callback):
    """Reads the journal, strictly, whenever an edit begins."""

    def __init__(self):
        self.lines = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.lines.append(strict_lines(Path(trainer.default_root_dir)) if batch_idx else [])


def strict(text):
    """What JSON says by its standard, which knows no infinity and no NaN."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def strict_lines(folder):
    text = (folder / "edits.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [strict(line) for line in text[:-1].split("\n")]


@pytest.fixture(scope="module")
def events(sequential):
    loaded = EventAccumulator(str(sequential.folder))
    loaded.Reload()
    return loaded


@pytest.fixture(scope="module")
def failed(lm, tmp_path_factory):
    return fit(lm, tmp_path_factory.mktemp("failed"), watching(), method=FailsAtHugo)


def test_journal_has_one_line_per_edit_in_order(sequential):
    assert sequential.column("edit") == [1, 2, 3, 4]
    assert sequential.column("case_id") == [request.case_id for request in REQUESTS]
    assert sequential.column("status") == ["applied"] * 4
    assert len(strict_lines(sequential.folder)) == 4


def test_a_line_has_every_field_that_was_measured(sequential):
    first = sequential.edits[0]
    assert set(first) == REQUEST | HEALTH | SCORES | EDIT | {"reason"}
    assert {name: first[name] for name in ("subject", "prompt", "target_new", "target_true")} == {
        "subject": "Paris",
        "prompt": "{} is the capital of",
        "target_new": "Peru",
        "target_true": "France",
    }
    assert first["method"] == "ROME"
    assert first["value_steps"] == 5
    assert first["reason"].startswith("value search ended at loss")
    assert first["subject_position"] > 0
    assert all(first[name] > 0 for name in EDIT)


def test_update_norm_is_the_size_of_the_change(sequential):
    change = sequential.saved_weight(3) - sequential.saved_weight(2)
    assert sequential.edits[2]["update_norm"] == pytest.approx(float(change.norm()), rel=1e-5)


def test_a_line_is_complete_on_the_disk_before_the_next_edit_begins(lm, tmp_path):
    journalist = Journalist()
    fit(lm, tmp_path, [*watching(), journalist])
    assert [len(lines) for lines in journalist.lines] == [0, 1, 2, 3]
    assert all(line.keys() >= HEALTH for line in journalist.lines[-1])


def test_a_run_that_is_not_watched_is_journalled_too(lm, tmp_path):
    journalist = Journalist()
    run = fit(lm, tmp_path, [*watching(), journalist], limit_val_batches=0)
    assert [len(lines) for lines in journalist.lines] == [0, 1, 2, 3]
    assert run.column("perplexity") == [None] * 4
    assert run.summary["final_perplexity"] is None
    assert run.summary["applied"] == 4


def test_figures_that_are_not_finite_are_null_and_read_as_infinite(lm, tmp_path):
    run = fit(lm, tmp_path, [*watching(), Poison({1}, math.nan)])
    (line,) = strict_lines(tmp_path)
    assert line["perplexity"] is None
    assert line["collapsed"] is True
    assert run.column("perplexity") == [math.inf]
    summary = strict((tmp_path / "summary.json").read_text())
    assert summary["collapsed_at"] == 1
    assert summary["final_perplexity"] is None


def test_a_failed_edit_has_a_reason_and_the_run_goes_on(failed):
    assert failed.column("status") == ["applied", "failed", "applied", "applied"]
    assert failed.edits[1]["reason"] == f"the update of {WEIGHT} is not finite"
    assert failed.edits[1]["perplexity"] == failed.edits[0]["perplexity"]
    assert failed.edits[1]["update_norm"] == 0
    assert failed.editor.edited_cases == [10, 12, 13]
    assert failed.summary["applied"] == 3
    assert failed.summary["edits"] == 4


def test_the_same_seed_writes_the_same_journal(lm, sequential, tmp_path):
    again = fit(lm, tmp_path, watching())
    assert without_timings(again.edits) == without_timings(sequential.edits)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_resumed_run_goes_on_counting_and_keeps_its_baseline(lm, sequential, tmp_path):
    resumed = fit(lm, tmp_path, watching(), resume=sequential.checkpoint(2))
    assert resumed.column("edit") == [3, 4]
    assert without_timings(resumed.edits) == without_timings(sequential.edits[2:])
    assert resumed.summary["baseline"] == sequential.summary["baseline"]


def test_summary_tells_what_was_done_and_what_came_of_it(sequential):
    summary, edits = sequential.summary, sequential.edits
    counts = {name: summary[name] for name in ("edits", "applied", "collapsed", "collapsed_at")}
    assert counts == {"edits": 4, "applied": 4, "collapsed": 0, "collapsed_at": None}
    assert summary["baseline"] == sequential.editor.baseline
    assert summary["final_perplexity"] == edits[3]["perplexity"]
    assert summary["highest_perplexity"] == max(sequential.column("perplexity"))
    assert summary["means"]["efficacy"] == pytest.approx(
        sum(edits[n]["efficacy"] for n in (0, 1, 3)) / 3
    )
    assert summary["means"]["seconds_edit"] == pytest.approx(
        sum(sequential.column("seconds_edit")) / 4
    )


def test_summary_tells_what_the_run_was_made_with(lm, sequential):
    summary = sequential.summary
    assert summary["method"] == "ROME"
    assert summary["lm"] == lm
    assert summary["weights"] == [WEIGHT]
    assert (summary["seed"], summary["layers"], summary["second_moment"]) == (0, [0], "identity")
    assert summary["fingerprint"] == sequential.editor.fingerprint
    assert summary["value"]["steps"] == 5
    assert len(summary["contexts"]) == 3
    assert summary["versions"].keys() == {"lightning", "torch", "transformers"}


def test_scalars_stand_on_the_axis_of_edits_with_the_baseline_at_zero(sequential, events):
    points = events.Scalars("health/perplexity")
    assert [point.step for point in points] == [0, 1, 2, 3, 4]
    values = [sequential.editor.baseline["perplexity"], *sequential.column("perplexity")]
    assert [point.value for point in points] == pytest.approx(values, rel=1e-6)
    assert [point.step for point in events.Scalars("edit/denominator")] == [1, 2, 3, 4]
    assert [point.step for point in events.Scalars("scores_rome/efficacy_before")] == [1, 2, 4]
    assert [point.value for point in events.Scalars("health/collapsed")] == [0.0] * 4


def test_requests_hyperparameters_and_the_figure_are_on_the_dashboard(events):
    tags = events.Tags()
    texts = [t.tensor_proto.string_val[0].decode() for t in events.Tensors("request/text_summary")]
    assert [text.split("**")[1] for text in texts] == [request.prompt for request in REQUESTS]
    assert "Paris · France → **Peru** (applied; perplexity" in texts[0]
    assert events.PluginTagToContent("hparams").keys() >= {"_hparams_/session_start_info"}
    assert tags["images"] == ["health"]
    assert {"final/efficacy", "final/final_perplexity"} <= set(tags["scalars"])
    (start,) = [
        HParamsPluginData.FromString(found).session_start_info.hparams
        for found in [events.PluginTagToContent("hparams")["_hparams_/session_start_info"]]
    ]
    assert start["method"].string_value == "ROME"
    assert start["layers"].string_value == "0"
    assert start["data.requests"].number_value == 4


def test_a_run_that_breaks_off_has_its_row_with_the_unedited_models_figures(lm, tmp_path):
    class Breaks(L.Callback):
        def on_train_batch_start(self, *args):
            raise KeyError("power")

    logger = TensorBoardLogger(tmp_path, name="", version="", default_hp_metric=False)
    with pytest.raises(KeyError, match="power"):
        fit(lm, tmp_path, [*watching(), Breaks()], logger=logger)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    found = {
        name.removeprefix("_hparams_/"): HParamsPluginData.FromString(content)
        for name, content in events.PluginTagToContent("hparams").items()
    }
    assert found.keys() == {"experiment", "session_start_info"}  # no end
    assert found["session_start_info"].session_start_info.hparams["method"].string_value == "ROME"
    assert {info.name.tag for info in found["experiment"].experiment.metric_infos} == set(OUTCOME)
    (point,) = events.Scalars("final/final_perplexity")
    assert point.value == events.Scalars("health/perplexity")[0].value


def test_the_dashboard_has_a_layout_and_the_requests_at_a_glance(events):
    (content,) = events.Tensors("custom_scalars__config__")
    layout = Layout.FromString(content.tensor_proto.string_val[0])
    assert [part.title for part in layout.category] == ["Health", "Edit quality", "Keys", "Cost"]
    (edits,) = events.Tensors("edits/text_summary")
    assert len(edits.tensor_proto.string_val[0].decode().splitlines()) == 2 + len(REQUESTS)


def test_a_logger_without_room_for_metrics_beside_hyperparameters_will_do(lm, tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    run = fit(lm, tmp_path, watching(), REQUESTS[:2], logger=logger)
    assert run.summary["applied"] == 2
    assert "health/perplexity" in (tmp_path / "metrics.csv").read_text().splitlines()[0]


def test_a_collapse_is_said_with_a_remedy(lm, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("callbacks.keeping.closing.rank_zero_info", said.append)
    fit(lm, tmp_path, [*watching(), Poison({2}, 50.0)])
    assert said[0].startswith("collapsed at edit 2: perplexity ")
    assert said[1].startswith(f"Journal: {tmp_path}")
    assert "Try: python train.py fit --config c_rome.yaml" in said


def test_a_folder_without_a_journal_has_no_edits(tmp_path):
    assert read_journal(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("log_perplexity", "health/log_perplexity"),
        ("collapse_limit", "health/collapse_limit"),
        ("neighborhood_magnitude_before", "scores_rome/neighborhood_magnitude_before"),
        ("portability_exact_match", "scores_exact/portability_exact_match"),
        ("generation_entropy", "scores_generation/generation_entropy"),
        ("paraphrase_token_accuracy_before", "scores_easyedit/paraphrase_token_accuracy_before"),
        ("update_norm", "edit/update_norm"),
        ("seconds_edit", "cost/seconds_edit"),
    ],
)
def test_figures_are_grouped_on_the_dashboard(name, place):
    assert tag(name) == place


def test_a_request_may_hold_any_character(lm, tmp_path):
    odd = REQUESTS[3]._replace(subject="Zür\u2028ich \x85 “é”")
    run = fit(lm, tmp_path, watching(), [odd, REQUESTS[0]])
    assert run.column("subject") == [odd.subject, "Paris"]


def test_a_folder_that_holds_a_run_is_not_written_to_by_another(lm, sequential):
    with pytest.raises(ValueError, match="already holds the edits of a run; name another folder"):
        fit(lm, sequential.folder, watching())
    assert len(sequential.edits) == 4
