"""A killed run, taken up again by the same command, is the run that was never killed."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.keeping.run_folder import read_journal, rewind
from lightning_modules.editing.editor import Editor
from tests.callbacks.runs import WEIGHT, options_of, tiny_lm, without_timings
from train import main

EDITS = 6
PAUSE = 0.1  # before each edit of a run that is to be stopped before its last one
AGAIN = ("--ckpt_path", "last")
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """``fit`` with six edits of a tiny model, where the saved state is as large as it gets."""
    lm = tiny_lm(tmp_path_factory.mktemp("lm"))
    return ["fit", *options_of(lm, tmp_path_factory.mktemp("data"), EDITS)]


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """The folder of a run that nothing happened to, and how long it took from its first edit."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        started = time.monotonic()
        main(command)
    return folder / "runs/rome/version_0", time.monotonic() - started


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def started(command, pause=0.0):
    """A process of its own that runs the command; quiet, and waiting so long before each edit."""

    def run():
        make_edit = Editor.make_edit

        def later(editor, requests):
            time.sleep(pause)
            make_edit(editor, requests)

        Editor.make_edit = later
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        main(command)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def wait_for(condition, process, seconds=60.0):
    until = time.monotonic() + seconds
    while process.is_alive() and not condition():
        assert time.monotonic() < until
        time.sleep(0.002)


def lines():
    """So long is the journal; -1 if there is none yet."""
    file = Path("runs/rome/version_0/edits.jsonl")
    return file.read_text().count("\n") if file.exists() else -1


def killed(command, edits, seconds):
    """Runs the command and kills it so long after its journal has so many lines."""
    process = started(command, PAUSE)
    wait_for(lambda: lines() >= edits, process)
    time.sleep(seconds)
    process.kill()
    process.join()


def left(run):
    """All that a run leaves behind, except what depends on time."""
    state = torch.load(run / "checkpoints/last.ckpt")
    summary = json.loads((run / "summary.json").read_text())
    timeless = {n: v for n, v in summary["means"].items() if not n.startswith("seconds")}
    return {
        "journal": without_timings(read_journal(run)),
        "weight": state["state_dict"][f"lm.{WEIGHT}"].numpy().tobytes(),
        "edited": state["edited_requests"],
        "summary": summary | {"means": timeless},
        "efficacy": state["callbacks"]["EditMetrics"],
    }


def assert_same(run, whole):
    assert left(run) == left(whole)
    assert [folder.name for folder in Path("runs/rome").iterdir()] == ["version_0"]


@pytest.mark.parametrize("edits", [0, 2, EDITS - 1])
def test_a_killed_run_goes_on_where_it_was(command, whole, edits):
    killed(command, edits, random.Random(edits).uniform(0, 0.05))
    assert lines() >= edits
    main([*command, *AGAIN])
    assert_same(Path("runs/rome/version_0"), whole[0])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_run_killed_at_any_time_goes_on(command, whole, seed):
    process = started(command)
    wait_for(lambda: lines() >= 0, process)
    chance = random.Random(seed)
    for _ in range(2):  # the second time, when it has been taken up again
        time.sleep(chance.uniform(0, 0.6 * whole[1]))
        process.kill()
        process.join()
        process = started([*command, *AGAIN])
    process.join()
    assert_same(Path("runs/rome/version_0"), whole[0])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_told_to_stop_finishes_its_edit_and_can_go_on(command, whole, number, code):
    process = started(command, PAUSE)
    wait_for(lambda: lines() >= 2, process)
    os.kill(process.pid, number)
    process.join()
    run = Path("runs/rome/version_0")
    edits = read_journal(run)
    assert process.exitcode == code
    assert 2 <= len(edits) < EDITS
    assert torch.load(run / "checkpoints/last.ckpt")["global_step"] == len(edits)
    assert json.loads((run / "summary.json").read_text())["edits"] == len(edits)
    main([*command, *AGAIN])
    assert_same(run, whole[0])


def test_the_options_of_the_first_edits_are_kept_and_make_them_again(command):
    run = Path("runs/rome/version_0")
    main([*command, "--data.limit", "3", "--collapse.threshold", "1e30"])
    first = left(run)
    main([*command, "--data.limit", "5", *AGAIN])
    kept = run / "config-to-edit-3.yaml"
    assert [file.name for file in run.glob("config-to-edit-*")] == [kept.name]
    main(["fit", "--config", str(kept)])
    assert left(Path("runs/rome/version_1")) == first
    assert len(read_journal(run)) == 5


def test_a_run_that_is_not_watched_every_time_resumes_with_its_last_record(command):
    command = [*command, "--trainer.val_check_interval", "4"]
    main(command)
    main([*command, "--trainer.max_steps", "2"])
    first, second = Path("runs/rome/version_0"), Path("runs/rome/version_1")
    watched = [edit["edit"] for edit in read_journal(first) if "perplexity" in edit]
    assert watched == [4]
    rewind(second / "edits.jsonl", 1)  # as if killed before the second line
    main([*command, *AGAIN])
    assert left(second) == left(first)


def test_a_finished_run_goes_on_when_more_is_asked_for(command, whole):
    short = [*command, "--data.limit", "3"]
    main(short)
    with pytest.raises(ValueError, match=r"all 3 edits of runs/rome/version_0 are made; .*limit"):
        main([*short, *AGAIN])
    main([*command, *AGAIN])
    assert_same(Path("runs/rome/version_0"), whole[0])


EXPORTS = [
    f"--trainer.callbacks+=callbacks.keeping.export.{name}"
    for name in ("SavePretrained", "SaveLoRA")
]


@pytest.mark.parametrize("limit", [["--data.limit=2"], ["--trainer.max_steps=2"]])
def test_a_run_killed_behind_its_last_edit_finishes_once(command, limit):
    command = [*command, *limit, *EXPORTS]
    main(command)
    run = Path("runs/rome/version_0")
    names = ("summary.json", "health.png", "lm/model.safetensors", "lora/adapter_model.safetensors")
    before = {name: (run / name).read_bytes() for name in names}
    for name in (*names, "finished"):
        (run / name).unlink()
    (run / "lm.partial").mkdir()
    main([*command, *AGAIN])
    assert {name: (run / name).read_bytes() for name in names} == before
    assert not list(run.rglob("*.partial"))
    with pytest.raises(ValueError, match="all 2 edits of runs/rome/version_0 are made"):
        main([*command, *AGAIN])
    assert {name: (run / name).read_bytes() for name in names} == before


def test_a_run_killed_behind_its_collapse_finishes_too(command):
    command = [*command, "--collapse.threshold", "370"]
    main(command)
    run = Path("runs/rome/version_0")
    (run / "finished").unlink()
    (run / "summary.json").unlink()
    main([*command, *AGAIN])
    assert json.loads((run / "summary.json").read_text())["collapsed_at"]
    with pytest.raises(ValueError, match="the model collapsed at edit"):
        main([*command, *AGAIN])
    assert (run / "summary.json").exists()


def test_a_damaged_checkpoint_costs_one_edit_and_nothing_else(command, whole):
    main([*command, "--trainer.max_steps", "3"])
    last = Path("runs/rome/version_0/checkpoints/last.ckpt")
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="last.ckpt is damaged"):
        main([*command, *AGAIN])
    assert_same(Path("runs/rome/version_0"), whole[0])


def test_the_dashboard_holds_no_edit_twice(command):
    main([*command, "--trainer.max_steps", "4"])
    last = Path("runs/rome/version_0/checkpoints/last.ckpt")
    last.with_name("previous.ckpt").replace(last)  # as if killed behind the fourth line
    main([*command, *AGAIN])
    events = EventAccumulator(str(last.parents[1]))
    events.Reload()
    steps = [point.step for point in events.Scalars("edit/update_norm")]
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("place", ["~/runs", "$HOME/runs"])
def test_the_last_run_is_found_under_a_home_folder(command, tmp_path, monkeypatch, place):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    command = [*command, f"--trainer.logger.init_args.save_dir={place}"]
    main([*command, "--trainer.max_steps", "1"])
    main([*command, "--trainer.max_steps", "2", *AGAIN])
    assert len(read_journal(tmp_path / "home/runs/rome/version_0")) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("option", ["--trainer.fast_dev_run=true", "--trainer.logger=false"])
def test_a_run_without_a_place_leaves_nothing_behind(command, tmp_path, option, monkeypatch):
    said = []
    monkeypatch.setattr("callbacks.keeping.closing.rank_zero_info", said.append)
    for _ in range(2):
        main([*command, "--data.limit=1", option])
    assert list(tmp_path.iterdir()) == []
    ends = [line for line in said if not line.startswith(("Warning: ", "Try: "))]
    assert len(ends) == 2  # how the runs ended, but no folder that is no longer there


def test_a_resumed_run_keeps_the_config_of_the_whole_one(command):
    main([*command, "--trainer.max_steps", "1"])
    saved = Path("runs/rome/version_0/config.yaml").read_text()
    main([*command, *AGAIN])
    again = Path("runs/rome/version_0/config.yaml").read_text()
    assert again == saved.replace("max_steps: 1", "max_steps: -1")


def test_test_judges_the_newest_run(command):
    main([*command, "--trainer.max_steps", "2"])
    found = main(["test", *command[1:], *AGAIN]).trainer.callback_metrics
    assert found["retention/edits"] == 2


def test_where_nothing_was_run_there_is_nothing_to_go_on_with(command):
    with pytest.raises(ValueError, match="no run in runs/rome has saved anything; leave it out"):
        main([*command, *AGAIN])


def test_the_data_of_another_run_are_refused(command):
    main([*command, "--trainer.max_steps", "2"])
    with pytest.raises(ValueError, match="the 2 requests edited so far are not the first 2"):
        main([*command, *AGAIN, "--data.seed", "1"])
