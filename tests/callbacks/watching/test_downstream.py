import math
import re

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer

from callbacks.keeping.checkpoint import EditCheckpoint
from callbacks.keeping.progress import EditBar
from callbacks.watching.downstream import Downstream, chance, judged, tasks_figure
from callbacks.watching.guard import CollapseGuard
from callbacks.watching.restore import RestoreWeights
from data_modules.forms.tasks import TaskOptions
from data_modules.records import TaskItem
from lightning_modules.editing.replicas import Place
from lightning_modules.methods.rome import ROME
from tests.callbacks.runs import (
    METHOD,
    REQUESTS,
    WEIGHT,
    Poison,
    Run,
    data_of,
    trainer_in,
    watching,
)

CITIES = ("Paris", "Rome", "Madrid", "Lima", "Cairo", "Oslo")
ITEMS = {
    "lambada": [
        TaskItem("lambada", n, f"She went to {city} and he stayed in", (f" {city}",))
        for n, city in enumerate(CITIES)
    ],
    "piqa": [
        TaskItem("piqa", n, f"Question: See {city}\nAnswer:", (" Take a train.", " Sleep."), n % 2)
        for n, city in enumerate(CITIES)
    ],
    "mmlu": [
        TaskItem("mmlu", n, f"Where is {city}?\nAnswer:", (" A", " B", " C", " D"), n % 4)
        for n, city in enumerate(CITIES)
    ],
    "squad_v2": [
        TaskItem("squad_v2", 0, "Question: Who?\n\nAnswer:", answers=("Hugo",), until=("\n",)),
        TaskItem("squad_v2", 1, "Question: Where?\n\nAnswer:", until=("\n",)),
    ],
}
SCORES = {"lambada", "piqa", "mmlu", "squad_v2_exact_match", "squad_v2_f1"}


def with_tasks(requests=REQUESTS, limit=4):
    data = data_of(requests)
    data.tasks, data.task_items = TaskOptions(limit=limit), ITEMS
    return data


def fit(lm, folder, callbacks, requests=REQUESTS, method=METHOD, resume=None, **options):
    trainer = trainer_in(folder, callbacks, **options)
    run = Run(trainer, ROME(lm=lm, **method), with_tasks(requests), folder)
    trainer.fit(run.editor, datamodule=run.data, ckpt_path=resume)
    return run


def first_after_shuffle(items):
    return judged(type("T", (), {"datamodule": with_tasks()}), in_full=False)[items]


def slow_score(lm, items, weight=None):
    """One continuation at a time, by the model's own logits."""
    tokenizer, model = AutoTokenizer.from_pretrained(lm), AutoModelForCausalLM.from_pretrained(lm)
    if weight is not None:
        model.get_parameter(WEIGHT).data.copy_(weight)
    right = 0
    for item in items:
        log_probs, greedy = [], []
        for choice in item.choices:
            start = len(tokenizer(item.context)["input_ids"])
            tokens = tokenizer(item.context + choice, return_tensors="pt")["input_ids"][0]
            with torch.no_grad():
                found = model(tokens[None]).logits[0].double().log_softmax(-1)[start - 1 : -1]
            log_probs.append(float(found.gather(1, tokens[start:, None]).sum()))
            greedy.append(bool((found.argmax(-1) == tokens[start:]).all()))
        chosen = log_probs.index(max(log_probs))
        right += chosen == item.gold if len(item.choices) > 1 else greedy[0]
    return right / len(items)


@pytest.fixture(scope="module")
def run(lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    logger = TensorBoardLogger(folder.parent, folder.name, version="", default_hp_metric=False)
    return fit(lm, folder, [Downstream(new_tokens=8), *watching()], logger=logger)


def test_each_edit_and_the_unedited_model_are_judged(run):
    assert [set(tasks) for tasks in run.column("tasks")] == [SCORES] * len(REQUESTS)
    names = {f"tasks/{name}" for name in SCORES}
    assert {name for name in run.editor.baseline if name.startswith("tasks/")} == names
    assert run.summary["final_tasks"] == run.column("tasks")[-1]
    assert {n: run.summary["baseline"][n] for n in names}.keys() == names
    means = run.summary["means"]
    column = [tasks["piqa"] for tasks in run.column("tasks")]
    assert means["tasks/piqa"] == pytest.approx(sum(column) / len(column))


def test_scores_are_those_of_the_model_at_that_time_on_the_subset(lm, run):
    for name in ("lambada", "piqa", "mmlu"):
        items = first_after_shuffle(name)
        assert len(items) == 4
        assert run.editor.baseline[f"tasks/{name}"] == slow_score(lm, items)
        assert run.column("tasks")[-1][name] == slow_score(lm, items, run.weight)


def test_the_logger_has_them_on_the_axis_of_edits(run):
    events = EventAccumulator(str(run.folder)).Reload()
    logged = {event.step: event.value for event in events.Scalars("tasks/mmlu")}
    wanted = [run.editor.baseline["tasks/mmlu"], *(t["mmlu"] for t in run.column("tasks"))]
    assert logged == pytest.approx(dict(enumerate(wanted)))
    assert "tasks" in events.Tags()["images"]
    assert (run.folder / "tasks.png").stat().st_size > 5000


def test_a_collapsed_model_that_is_edited_on_is_judged_at_its_collapse(lm, tmp_path):
    callbacks = [*watching(stop=False), Poison([1, 2, 3], 1e3), Downstream(10, 8)]
    found = fit(lm, tmp_path, callbacks)
    assert found.column("collapsed") == [True, True, True, False]
    assert [tasks is not None for tasks in found.column("tasks")] == [True, False, False, True]


def test_every_third_edit_and_the_last_are_judged(lm, tmp_path):
    found = fit(lm, tmp_path, [*watching(), Downstream(3, 8)])
    assert [tasks is not None for tasks in found.column("tasks")] == [False, False, True, True]


def test_the_last_of_several_takes_the_place_of_the_others(lm, tmp_path):
    found = fit(lm, tmp_path, [Downstream(1, 8), *watching(), Downstream(3, 8)])
    assert [tasks is not None for tasks in found.column("tasks")] == [False, False, True, True]


def test_a_collapse_is_always_judged(lm, tmp_path):
    callbacks = [Downstream(10, 8), RestoreWeights(together=1), *watching(), Poison([2], 1e3)]
    found = fit(lm, tmp_path, callbacks)
    assert found.column("collapsed") == [False, True, False, False]
    assert [tasks is not None for tasks in found.column("tasks")] == [False, True, False, True]


@pytest.mark.parametrize("together", [1, 4])
def test_in_a_sweep_each_edited_model_is_judged(lm, tmp_path, together):
    found = fit(
        lm, tmp_path, [*watching(), Downstream(1, 8), RestoreWeights(together)], REQUESTS[:2]
    )
    for number, request in enumerate(REQUESTS[:2]):
        folder = tmp_path / str(number)
        alone = fit(lm, folder, [*watching(), Downstream(1, 8)], [request])
        assert found.column("tasks")[number] == alone.column("tasks")[0]


def test_an_edit_that_is_taken_back_is_not_judged(lm, run, tmp_path):
    guard = CollapseGuard(denominator=math.inf)
    found = fit(lm, tmp_path, [guard, Downstream(1, 8), *watching()], REQUESTS[:2])
    assert found.column("status") == ["rolled_back"] * 2
    assert found.column("tasks") == [None] * 2
    assert found.editor.baseline["tasks/piqa"] == run.editor.baseline["tasks/piqa"]
    assert not (tmp_path / "tasks.png").exists()


def test_what_another_method_made_after_a_refusal_is_judged(lm, tmp_path):
    class Refuses(CollapseGuard):
        def harm(self, record):
            return "unwanted" * (record["method"] == "ROME")

    class Second(ROME):
        pass

    guard = Refuses(retry=Second(lm=lm, **METHOD))
    found = fit(lm, tmp_path, [guard, Downstream(1, 8), *watching()], REQUESTS[:1])
    assert found.column("method") == ["Second"]
    items = first_after_shuffle("mmlu")
    assert found.column("tasks")[0]["mmlu"] == slow_score(lm, items, found.weight)


def test_validate_logs_the_subset_and_test_all_items(lm, run, tmp_path):
    trainer = trainer_in(tmp_path, [*watching()[2:3], Downstream(new_tokens=8)])
    editor = ROME(lm=lm, **METHOD)
    trainer.validate(editor, datamodule=with_tasks(), verbose=False)
    for name in SCORES:
        value = trainer.callback_metrics[f"tasks/{name}"]
        assert value == pytest.approx(run.editor.baseline[f"tasks/{name}"])
    trainer.test(editor, datamodule=with_tasks(), verbose=False)
    for name in ("lambada", "piqa", "mmlu"):
        full = float(trainer.callback_metrics[f"tasks/{name}"])
        assert full == pytest.approx(slow_score(lm, ITEMS[name]))


def test_nothing_is_judged_where_the_data_has_no_tasks(lm, tmp_path):
    trainer = trainer_in(tmp_path, [*watching(), Downstream()])
    run = Run(trainer, ROME(lm=lm, **METHOD), data_of(REQUESTS[:1]), tmp_path)
    trainer.fit(run.editor, datamodule=run.data)
    assert run.column("tasks") == [None]
    assert run.summary["final_tasks"] is None
    assert not (tmp_path / "tasks.png").exists()


def test_below_the_edit_the_items_are_read_once(lm, tmp_path):
    """Of choices: a text that is written is new every time."""
    found = fit(lm, tmp_path, watching(), REQUESTS[:1], METHOD | {"layer": 1})
    calls = []
    lowest = found.editor.lm.transformer.h[0].mlp
    handle = lowest.register_forward_hook(lambda *_: calls.append(1))
    first = found.editor.answer(ITEMS["piqa"])
    assert calls
    calls.clear()
    assert found.editor.answer(ITEMS["piqa"]) == first
    assert calls == []
    handle.remove()


@pytest.mark.parametrize("name", ITEMS)
def test_two_devices_do_half_of_the_work_each(run, monkeypatch, name):
    given = []

    class Half(Place):
        def summed(self, part, device):
            given.append(part)
            return part

        def joined(self, part, device):
            given.append(part)
            return {number: {} for number in range(len(ITEMS[name]))}

    whole = run.editor.answer(ITEMS[name], 8)
    for place in (Half(0, 1), Half(0, 2), Half(1, 2)):
        monkeypatch.setattr(run.editor, "share", place)
        run.editor.answer(ITEMS[name], 8)
    alone, *halves = given
    if ITEMS[name][0].choices:
        torch.testing.assert_close(halves[0] + halves[1], alone)
    else:
        assert [len(half) for half in halves] == [1, 1]
        assert halves[0] | halves[1] == alone == dict(enumerate(whole))


def test_a_resumed_run_is_judged_as_if_it_had_not_been_killed(lm, run, tmp_path):
    def going_on(**options):
        callbacks = [*watching(), Downstream(1, 8), EditCheckpoint()]
        return fit(lm, tmp_path, callbacks, enable_checkpointing=True, **options)

    going_on(max_steps=2)
    resumed = going_on(resume=tmp_path / "checkpoints/last.ckpt")
    assert resumed.column("tasks") == run.column("tasks")
    assert resumed.summary["baseline"]["tasks/mmlu"] == run.editor.baseline["tasks/mmlu"]


def test_a_resumed_run_without_tasks_draws_the_random_guesses_of_before(run, monkeypatch):
    known = next(c for c in run.trainer.callbacks if isinstance(c, Downstream))
    resumed, drawn = Downstream(1, 8), []
    checkpoint = {}
    known.on_save_checkpoint(run.trainer, run.editor, checkpoint)
    resumed.on_load_checkpoint(run.trainer, run.editor, checkpoint)
    monkeypatch.setattr("callbacks.watching.downstream.publish", lambda _, f, name: drawn.append(f))
    monkeypatch.setattr(run.trainer.datamodule, "task_items", {})
    resumed.on_train_end(run.trainer, run.editor)
    guesses = {
        axes.get_title(): line.get_ydata()[0]
        for axes in drawn[0].axes
        for line in axes.get_lines()
        if line.get_label() == "random guess"
    }
    assert guesses["mmlu"] == known.chances["mmlu"] > 0


def test_a_score_whose_random_guess_is_unknown_has_no_line_for_it():
    (axes,) = tasks_figure([{"edit": 1, "tasks": {"piqa": 0.5}}], {}, {}).axes
    assert [line.get_label() for line in axes.get_lines()] == ["after the edit"]


def test_the_bar_says_what_is_judged(lm, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    callbacks = [*watching(), Downstream(1, 8), EditBar()]
    logger = CSVLogger(tmp_path, name="")
    fit(lm, tmp_path, callbacks, REQUESTS[:1], enable_progress_bar=True, logger=logger)
    shown = capsys.readouterr().out
    descriptions = re.findall(r"(Judging \w+ \d+/\d+|Watching the unedited model|Editing):", shown)
    assert descriptions.count("Judging piqa 0/4") >= 2
    assert descriptions[-1] == "Editing"


def test_chance_is_one_among_the_choices():
    assert {name: chance(items) for name, items in ITEMS.items()} == {
        "lambada": 0.0,
        "piqa": 0.5,
        "mmlu": 0.25,
        "squad_v2": 0.0,
    }


EDITS = [
    {"edit": 1, "tasks": {"piqa": 0.8, "lambada": 0.6}},
    {"edit": 3, "tasks": {"piqa": 0.5}, "collapsed": True},
]


def panels(figure):
    return {
        axes.get_title(): {line.get_label(): line for line in axes.get_lines()}
        for axes in figure.axes
        if axes.get_title()
    }


def test_figure_has_a_panel_for_each_score_with_its_random_guess():
    drawn = panels(tasks_figure(EDITS, {"tasks/piqa": 0.9}, {"piqa": 0.5}))
    assert set(drawn) == {"piqa", "lambada"}
    assert drawn["piqa"]["after the edit"].get_xydata().tolist() == [[1, 0.8], [3, 0.5]]
    assert drawn["piqa"]["collapsed"].get_xydata().tolist() == [[3, 0.5]]
    assert set(drawn["piqa"]["random guess"].get_ydata()) == {0.5}
    assert set(drawn["piqa"]["unedited"].get_ydata()) == {0.9}
    assert set(drawn["lambada"]["random guess"].get_ydata()) == {0.0}
    assert "unedited" not in drawn["lambada"]
    single = panels(tasks_figure(EDITS, {}, {}, single=True))
    assert single["piqa"]["after the edit"].get_linestyle() == "None"


@pytest.mark.parametrize("options", [{"every_n_edits": 0}, {"new_tokens": -1}])
def test_numbers_that_are_not_positive_are_refused(options):
    with pytest.raises(ValueError, match="must be positive, got"):
        Downstream(**options)
