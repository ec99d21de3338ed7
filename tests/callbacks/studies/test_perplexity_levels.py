import csv
import json
import math
import re

import lightning as L
import numpy as np
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.studies.level_figures import TICKS
from callbacks.studies.perplexity_levels import PerplexityLevels, correlations
from callbacks.watching.guard import CollapseGuard
from callbacks.watching.restore import RestoreWeights
from data_modules.forms.tasks import TaskOptions
from data_modules.records import TaskItem
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import METHOD, REQUESTS, Run, data_of, trainer_in, watching

SERIES = [61.0, 99.0, 180.0, 101.0, 131.0, 41.0, 445.0, 150.0, 1390.0, math.inf, 5000.0, 6000.0]
REACHED = {0: 60, 2: 100, 3: 200, 5: 150, 7: 450, 9: 1000, 10: 8000, 11: 4000}  # level by edit
CITIES = ("Paris", "Rome", "Madrid", "Lima", "Cairo", "Oslo")
ITEMS = {
    "mmlu": [
        TaskItem("mmlu", n, f"Where is {city}?\nAnswer:", (" A", " B", " C", " D"), n % 4)
        for n, city in enumerate(CITIES)
    ],
    "piqa": [
        TaskItem("piqa", n, f"Question: See {city}\nAnswer:", (" Take a train.", " Sleep."), n % 2)
        for n, city in enumerate(CITIES)
    ],
}


class Series(L.Callback):
    """Tells other perplexities than were measured, that of the unedited model being 60."""

    def on_validation_epoch_end(self, trainer, pl_module):
        found = pl_module.baseline if trainer.sanity_checking else pl_module.record
        perplexity = 60.0 if trainer.sanity_checking else SERIES[trainer.global_step - 1]
        log = math.log(perplexity) if math.isfinite(perplexity) else 1000.0
        found |= {"perplexity": perplexity, "log_perplexity": log}


def fit(lm, folder, callbacks, edits=12, resume=None, items=ITEMS, **options):
    trainer = trainer_in(folder, callbacks, **options)
    run = Run(trainer, ROME(lm=lm, **METHOD), data_of((REQUESTS * 3)[:edits]), folder)
    run.data.tasks, run.data.task_items = TaskOptions(limit=2) if items else None, items
    trainer.fit(run.editor, datamodule=run.data, ckpt_path=resume)
    return run


def measuring(levels):
    return [*watching(stop=False), Series(), levels]


def keeper(folder):
    return ModelCheckpoint(folder / "checkpoints", "{step}", every_n_train_steps=1, save_top_k=-1)


def written(folder):
    return json.loads((folder / "perplexity_levels.json").read_text())


@pytest.fixture(scope="module")
def run(lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("levels")
    logger = TensorBoardLogger(folder.parent, folder.name, version="", default_hp_metric=False)
    callbacks = [*measuring(PerplexityLevels()), keeper(folder)]
    return fit(lm, folder, callbacks, logger=logger, enable_checkpointing=True)


@pytest.mark.parametrize("baseline", [37.25, 50.34, 68.39])
def test_levels_of_the_papers_models_are_their_23(baseline):
    found = PerplexityLevels().levels({"perplexity": baseline})
    assert found == [baseline, *range(100, 1001, 50), 2000, 4000, 8000]
    assert len(found) == 23


def test_the_first_multiple_is_at_least_half_a_step_above_the_model():
    assert PerplexityLevels().levels({"perplexity": 193.66})[:3] == [193.66, 250, 300]
    assert PerplexityLevels(above=0).levels({"perplexity": 975.0}) == [975.0, 1000.0]
    assert PerplexityLevels().levels({"perplexity": 3000.0}) == [3000.0, 4000.0, 8000.0]


@pytest.mark.parametrize("model", TICKS)
def test_models_of_the_papers_ticks_belong_to_the_levels_that_they_stand_for(model):
    levels, found = PerplexityLevels(), []
    editor = type("Editor", (), {"baseline": {"perplexity": TICKS[model][0]}})
    for tick in TICKS[model][1:]:
        editor.record = {"edit": 1, "log_perplexity": math.log(tick)}
        found.append(levels.reached(editor))
    assert found == [250, 450, 650, 850, 4000]


def test_a_level_is_judged_when_an_edit_first_reaches_it(run):
    models = written(run.folder)["models"]
    assert {model["edit"]: model["level"] for model in models} == REACHED
    assert [model["level"] for model in models] == sorted(REACHED.values())
    judged = [n for n, tasks in enumerate(run.column("tasks"), 1) if tasks is not None]
    assert judged == sorted(REACHED)[1:]


def test_a_perplexity_that_is_not_finite_is_null_and_of_the_highest_level(run):
    (last,) = [m for m in written(run.folder)["models"] if m["edit"] == 10]
    assert (last["level"], last["perplexity"], last["log_perplexity"]) == (8000, None, 1000.0)


def test_all_items_are_judged_though_data_asks_for_few(run):
    run.editor.restore()
    answers = {name: run.editor.answer(items) for name, items in ITEMS.items()}
    unedited = {name: np.mean([a[name] for a in found]) for name, found in answers.items()}
    assert written(run.folder)["models"][0]["tasks"] == pytest.approx(unedited)
    assert {name: run.editor.baseline[f"tasks/{name}"] for name in ITEMS} == pytest.approx(unedited)


def test_the_subset_is_judged_where_that_is_wanted(lm, tmp_path):
    found = fit(lm, tmp_path, measuring(PerplexityLevels(in_full=False)), edits=1)
    for name, items in found.data.judged(in_full=False).items():
        found.editor.restore()
        answers = found.editor.answer(items)
        assert len(answers) == 2
        assert found.editor.baseline[f"tasks/{name}"] == np.mean([a[name] for a in answers])


def test_correlations_are_written_logged_and_in_the_summary(run):
    models = [m | {"perplexity": 0.0} for m in written(run.folder)["models"]]
    found = correlations(models)
    assert found
    assert written(run.folder)["spearman"] == found == run.summary["spearman"]
    events = EventAccumulator(str(run.folder)).Reload()
    for name, result in found.items():
        (event,) = events.Scalars(f"spearman/{name}")
        assert (event.step, event.value) == (12, pytest.approx(result["rho"]))
    assert "perplexity_levels" in events.Tags()["images"]
    assert (run.folder / "perplexity_levels.png").stat().st_size > 5000


def test_a_resumed_run_judges_the_same_models(lm, run, tmp_path):
    callbacks = [*measuring(PerplexityLevels()), keeper(tmp_path)]
    rest = fit(lm, tmp_path, callbacks, resume=run.checkpoint(6), enable_checkpointing=True)
    assert written(tmp_path) == written(run.folder)
    assert [e["edit"] for e in rest.edits if "tasks" in e] == [n for n in sorted(REACHED) if n > 6]


def test_in_a_sweep_each_model_that_reaches_a_level_is_judged(lm, tmp_path):
    fit(lm, tmp_path, [RestoreWeights(together=4), *measuring(PerplexityLevels())])
    assert {m["edit"]: m["level"] for m in written(tmp_path)["models"]} == REACHED


def test_an_edit_that_is_taken_back_reaches_no_level(lm, tmp_path):
    callbacks = [CollapseGuard(denominator=math.inf), *measuring(PerplexityLevels())]
    found = fit(lm, tmp_path, callbacks, edits=3)
    assert found.column("status") == ["rolled_back"] * 3
    assert [model["edit"] for model in written(tmp_path)["models"]] == [0]
    assert found.summary["spearman"] == {}


def ranks(values):
    """Mean place among the sorted values, for ties too."""
    return [np.mean([n for n, v in enumerate(sorted(values)) if v == value]) for value in values]


def test_rho_is_pearsons_correlation_of_ranks():
    draw = np.random.default_rng(0)
    logs, scores = draw.normal(size=20), draw.integers(0, 6, size=20) / 6
    points = [{"log_perplexity": x, "tasks": {"piqa": y}} for x, y in zip(logs, scores)]  # noqa: B905
    (found,) = correlations(points).values()
    slow = np.corrcoef(ranks(logs), ranks(scores))[0, 1]
    assert found["rho"] == pytest.approx(slow, abs=1e-12)
    assert found["n"] == 20
    assert 0 < found["p"] < 1


def test_rho_is_absent_below_three_models_and_for_a_constant_score():
    points = [{"log_perplexity": n, "tasks": {"piqa": n, "mmlu": 0.25}} for n in range(3)]
    assert correlations(points).keys() == {"piqa"}
    assert correlations(points[:2]) == {}


def test_the_papers_rho_is_found_again_in_their_digitised_curves(shared_data):
    with (shared_data / "paper_curves" / "ppl_vs_task_curves.csv").open() as file:
        rows = list(csv.reader(file))[1:]
    points = [
        {"log_perplexity": int(level), "tasks": {f"{model} {task}": float(score)}}
        for model, task, level, score in rows
    ]
    found = {name: round(result["rho"], 2) for name, result in correlations(points).items()}
    assert found == {
        **{"GPT-2-XL PIQA": -0.97, "GPT-2-XL Hellaswag": -0.90, "GPT-2-XL LAMBADA": -0.88},
        **{"GPT-J PIQA": -0.95, "GPT-J Hellaswag": -0.96, "GPT-J LAMBADA": -0.87},
        **{"Llama2-7b PIQA": -1.00, "Llama2-7b Hellaswag": -1.00, "Llama2-7b LAMBADA": -0.85},
        **{"Llama2-7b MMLUsub": -0.90, "Llama2-7b SQuAD2.0": -0.72, "Llama2-7b NQ": -0.59},
    }


@pytest.mark.parametrize("bad", [{"step": 0.0}, {"top": 20.0}, {"above": -1}])
def test_levels_that_cannot_be_are_refused(bad):
    with pytest.raises(ValueError, match=r"top at least step and above not negative, got [-\d]+"):
        PerplexityLevels(**bad)


@pytest.mark.parametrize(
    ("callbacks", "items", "message"),
    [
        ([*watching(), PerplexityLevels()], {}, "no tasks to judge; name them by --data.tasks"),
        (
            [PerplexityLevels()],
            ITEMS,
            "needs callbacks.watching.perplexity.Perplexity among the callbacks",
        ),
    ],
)
def test_a_run_that_cannot_judge_them_is_refused_before_any_edit(
    lm, tmp_path, callbacks, items, message
):
    with pytest.raises(ValueError, match=re.escape(message)):
        fit(lm, tmp_path, callbacks, items=items)


def test_a_reference_that_is_not_there_is_refused_before_any_edit(lm, tmp_path):
    callbacks = measuring(PerplexityLevels(reference="nowhere.csv"))
    with pytest.raises(FileNotFoundError, match=r"reference 'nowhere\.csv' is not a file"):
        fit(lm, tmp_path, callbacks)
