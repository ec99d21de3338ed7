import json
import math
import statistics

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.keeping.checkpoint import EditCheckpoint
from callbacks.studies.hard_case_collection import HardCases, bars, score_table, table, task_scores
from callbacks.watching.guard import CollapseGuard
from callbacks.watching.restore import RestoreWeights
from data_modules.edit_requests import EditingDataModule
from data_modules.forms.readers import read_requests
from lightning_modules.editing.edited_weights import Update
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import (
    METHOD,
    REQUESTS,
    Poison,
    data_of,
    fit,
    options_of,
    trainer_in,
    watching,
)
from tests.test_devices import run_on

NORM = "transformer.ln_f.weight"
HARD = {11: 50.0, 13: 90.0}
TASKS = [
    {"perplexity": 9.0, "tasks": {"piqa": 0.5, "lambada": 0.0}},
    {"perplexity": 8.0, "tasks": {"piqa": 0.75}},
    {"perplexity": 7.0},
]


class Wrecks(ROME):
    """ROME whose edits of some cases destroy the model."""

    def edited_weights(self):
        return [*super().edited_weights(), NORM]

    def edit(self, requests):
        yield from super().edit(requests)
        if (factor := HARD.get(requests[0].case_id)) is not None:
            yield Update(NORM, torch.full((32,), factor))


def swept(lm, folder, *callbacks, **options):
    """A single-edit sweep of four requests, two of which are hard."""
    standing = [RestoreWeights(2), *watching(), HardCases(top=3), *callbacks]
    return fit(lm, folder, standing, method=Wrecks, **options)


def hard_cases(folder):
    return json.loads((folder / "hard_cases.json").read_text())


@pytest.fixture(scope="module")
def sweep(lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    logger = TensorBoardLogger(folder.parent, folder.name, version="", default_hp_metric=False)
    return swept(lm, folder, logger=logger)


def test_hard_cases_are_the_requests_that_collapse_the_model_the_worst_first(sweep):
    assert sweep.column("collapsed") == [False, True, False, True]
    assert read_requests(str(sweep.folder / "hard_cases.json")) == [REQUESTS[3], REQUESTS[1]]


def test_each_hard_case_has_the_perplexity_it_led_to(sweep):
    found = [case["perplexity"] for case in hard_cases(sweep.folder)]
    assert found == [sweep.edits[3]["perplexity"], sweep.edits[1]["perplexity"]]


def test_the_table_has_the_worst_edits_first(sweep):
    lines = (sweep.folder / "top.md").read_text().splitlines()
    worst = sorted(sweep.edits, key=lambda edit: edit["perplexity"], reverse=True)[:3]
    assert len(lines) == 5
    for line, edit in zip(lines[2:], worst, strict=True):
        for name in ("case_id", "subject", "prompt", "target_new"):
            assert f"| {edit[name]} |" in line
        for name in ("perplexity", "denominator", "key_cosine"):
            assert f"| {edit[name]:.4g} |" in line


def test_the_table_is_shown_in_tensorboard(sweep):
    events = EventAccumulator(str(sweep.folder))
    events.Reload()
    (shown,) = events.Tensors("top/text_summary")
    assert shown.tensor_proto.string_val[0].decode() == (sweep.folder / "top.md").read_text()


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_resumed_sweep_writes_the_cases_of_both_parts(lm, sweep, tmp_path):
    swept(lm, tmp_path, EditCheckpoint(), enable_checkpointing=True, max_steps=2)
    assert [case["case_id"] for case in hard_cases(tmp_path)] == [11]
    swept(lm, tmp_path, resume=tmp_path / "checkpoints" / "last.ckpt")
    assert hard_cases(tmp_path) == hard_cases(sweep.folder)


def test_a_guards_quarantine_is_part_of_the_hard_cases(lm, tmp_path):
    run = swept(lm, tmp_path, CollapseGuard("quarantine", denominator=math.inf))
    assert set(run.column("status")) == {"rolled_back"}
    assert sorted(read_requests(str(tmp_path / "hard_cases.json"))) == REQUESTS


def test_a_perplexity_that_is_not_finite_is_written_as_null(lm, tmp_path):
    fit(lm, tmp_path, [RestoreWeights(1), *watching(), Poison({2}, math.nan), HardCases()])
    assert [(case["case_id"], case["perplexity"]) for case in hard_cases(tmp_path)] == [(11, None)]


def test_a_sweep_without_hard_cases_leaves_an_empty_list(lm, tmp_path):
    fit(lm, tmp_path, [RestoreWeights(), *watching(), HardCases()])
    assert hard_cases(tmp_path) == []


def test_edits_that_accumulate_are_refused(lm, tmp_path):
    with pytest.raises(ValueError, match=r"here edits accumulate: add callbacks.watching.restore"):
        fit(lm, tmp_path, [*watching(), HardCases()])


def test_edits_of_several_requests_are_refused(lm, tmp_path, monkeypatch):
    monkeypatch.setattr(EditingDataModule, "__init__", two_at_once(EditingDataModule.__init__))
    with pytest.raises(ValueError, match=r"but 2 are edited at once: set --data.batch_size to 1"):
        fit(lm, tmp_path, [RestoreWeights(), *watching(), HardCases()])


def two_at_once(build):
    return lambda self, **options: build(self, **options | {"batch_size": 2})


def test_a_table_of_no_edits_is_refused():
    with pytest.raises(ValueError, match="top must be positive, got 0"):
        HardCases(top=0)


def test_figures_that_a_method_lacks_have_no_column():
    request = dict.fromkeys(("case_id", "subject", "prompt", "target_true", "target_new"), "a|b")
    head, _, line = table([request | {"perplexity": 2.0}])
    assert head.endswith("| target_new | perplexity |")
    assert line.count("a\\|b") == 5


def test_scores_of_the_worst_edits_are_told_with_mean_and_deviation():
    scores = task_scores(TASKS)
    assert scores == {"piqa": [0.5, 0.75], "lambada": [0.0]}
    piqa, lambada = score_table(scores, {"tasks/piqa": 0.9})[-2:]
    mean, deviation = statistics.mean([0.5, 0.75]), statistics.stdev([0.5, 0.75])
    assert piqa == f"| piqa | 0.9000 | {mean:.4f} | {deviation:.4f} | 2 |"
    assert lambada == "| lambada |  | 0.0000 |  | 1 |"


def test_each_task_has_a_bar_before_and_a_bar_after():
    (axes,) = bars(task_scores(TASKS), {"tasks/piqa": 0.9}, {"piqa": 0.5}).axes
    before, after = axes.containers[0], axes.containers[-1]
    assert before[0].get_height() == 0.9
    assert [bar.get_height() for bar in after] == [0.625, 0.0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["piqa", "lambada"]


def test_the_summary_tells_how_the_hard_cases_of_a_sample_were_found(lm, tmp_path):
    data = data_of(REQUESTS[:1])
    data.chosen_by = {"gpt-j-6b": "80 of 85, by their ids"}
    trainer_in(tmp_path, watching()).fit(ROME(lm=lm, **METHOD), datamodule=data)
    assert json.loads((tmp_path / "summary.json").read_text())["chosen_by"] == data.chosen_by


@pytest.mark.slow
def test_two_devices_write_what_one_writes(lm, tmp_path):
    options = [
        *("fit", *options_of(lm, tmp_path, edits=5), "--collapse.threshold", "1"),
        "--trainer.callbacks+=callbacks.watching.restore.RestoreWeights",
        "--trainer.callbacks+=callbacks.studies.hard_case_collection.HardCases",
    ]
    found = []
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        folder.mkdir()
        run = run_on(folder, devices, *options)
        cases = {case["case_id"]: case["perplexity"] for case in hard_cases(run)}
        assert sorted(cases.values(), reverse=True) == list(cases.values())
        found.append(cases)
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert set(found[0]) == {10, 11, 12, 13, 14}
