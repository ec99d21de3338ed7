"""Runs on several devices: what one device writes, two and four write too."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from callbacks.keeping.run_folder import read_journal
from tests.callbacks.runs import WEIGHT, options_of, tiny_lm, without_timings
from train import main

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
LOCAL = {"LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"}
RUN = Path("runs/rome/version_0")


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    lm = tiny_lm(tmp_path_factory.mktemp("lm"))
    return options_of(lm, tmp_path_factory.mktemp("data"), edits=5)


def started(folder, devices, *arguments):
    """``train.py`` on so many devices, in the folder."""
    inherited = {name: value for name, value in os.environ.items() if name not in LOCAL}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments, "--trainer.devices", str(devices)],
        cwd=folder,
        env=inherited | ENVIRONMENT | {"PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process, seconds=120):
    """What it wrote to the terminal, and its exit code."""
    said, _ = process.communicate(timeout=seconds)
    return said, process.returncode


def run_on(folder, devices, *arguments):
    said, code = finished(started(folder, devices, *arguments))
    assert code == 0, said
    return folder / RUN


def wait_for_lines(folder, number):
    until = time.monotonic() + 60
    while len(read_journal(folder / RUN)) < number:
        assert time.monotonic() < until
        time.sleep(0.01)


def alone(folder, *arguments):
    """The same on one device, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main([*arguments, "--trainer.enable_progress_bar", "false"])
    return folder / RUN


def weight(run):
    return torch.load(run / "checkpoints/last.ckpt")["state_dict"][f"lm.{WEIGHT}"]


def assert_agree(run, other):
    """Same requests in the same order; scores to 1e-6."""
    edits, others = without_timings(read_journal(run)), without_timings(read_journal(other))
    assert len(edits) == len(others)
    for edit, same in zip(edits, others, strict=True):
        assert edit == pytest.approx(same, rel=1e-6)


def test_two_devices_write_what_one_does(options, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = alone(tmp_path / "one", "fit", *options)
    two = run_on(tmp_path / "two", 2, "fit", *options)
    assert without_timings(read_journal(one)) == without_timings(read_journal(two))
    assert torch.equal(weight(one), weight(two))
    assert [run.name for run in two.parent.iterdir()] == ["version_0"]
    summaries = [json.loads((run / "summary.json").read_text()) for run in (one, two)]
    assert summaries[0]["baseline"] == summaries[1]["baseline"]


def test_two_devices_that_divide_the_contexts_make_the_edits_of_one(options, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = alone(tmp_path / "one", "fit", *options)
    two = run_on(tmp_path / "two", 2, "fit", *options, "--model.value.divided", "true")
    assert without_timings(read_journal(two)) != without_timings(read_journal(one))  # rounding
    torch.testing.assert_close(weight(two), weight(one), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize(
    "kind",
    [
        ["--data.batch_size", "2"],
        ["--trainer.val_check_interval", "2"],
        ["--trainer.callbacks+", "callbacks.watching.restore.RestoreWeights"],
        ["--trainer.callbacks+", "callbacks.watching.generation_metrics.GenerationMetrics"],
        [
            "--model",
            "lightning_modules.methods.memit.MEMIT",
            "--model.layers",
            "[0,1]",
            "--data.batch_size",
            "5",
        ],
    ],
    ids=["batches", "seldom watched", "single", "written", "searched together"],
)
def test_every_number_of_devices_writes_the_same(options, tmp_path, devices, kind):
    for name in ("one", "more"):
        (tmp_path / name).mkdir()
    one = alone(tmp_path / "one", "fit", *options, *kind)
    assert_agree(run_on(tmp_path / "more", devices, "fit", *options, *kind), one)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [[], ["--trainer.callbacks+", "callbacks.watching.restore.RestoreWeights"]]
)
def test_a_run_whose_second_device_dies_ends_within_a_minute_and_resumes(options, tmp_path, kind):
    command = ["fit", *options, *kind]
    (tmp_path / "whole").mkdir()
    whole = run_on(tmp_path / "whole", 2, *command)
    process = started(tmp_path, 2, *command)
    wait_for_lines(tmp_path, 2)
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    assert finished(process, 60)[1] != 0
    resumed = run_on(tmp_path, 2, *command, "--ckpt_path", "last")
    assert without_timings(read_journal(resumed)) == without_timings(read_journal(whole))
    assert torch.equal(weight(resumed), weight(whole))


@pytest.mark.slow
def test_the_others_end_with_the_first_device(options, tmp_path):
    process = started(tmp_path, 2, "fit", *options)
    wait_for_lines(tmp_path, 1)
    process.kill()
    said, code = finished(process, 60)  # which waits for all that hold the terminal
    assert code == -signal.SIGKILL, said


@pytest.mark.slow
def test_all_devices_stop_behind_the_same_edit_when_one_is_told(options, tmp_path):
    process = started(tmp_path, 2, "fit", *options)
    wait_for_lines(tmp_path, 1)
    process.terminate()
    said, code = finished(process)
    made = len(read_journal(tmp_path / RUN))
    assert code == 143
    assert f"Stopped after edit {made}, all saved" in said


@pytest.mark.slow
def test_a_copy_that_drifts_ends_the_run_with_a_sentence(options, tmp_path):
    (tmp_path / "drift.py").write_text(
        "import lightning as L\n"
        "class Drift(L.Callback):\n"
        "    def on_train_batch_start(self, trainer, module, batch, index):\n"
        "        if index == 2 and trainer.global_rank == 1:\n"
        "            next(iter(module.edited.masters().values()))[0, 0] += 1e-6\n"
    )
    said, code = finished(
        started(tmp_path, 2, "fit", *options, "--trainer.callbacks+", "drift.Drift")
    )
    assert code != 0
    assert f"error: devices 0 and 1 hold different values of {WEIGHT} after the same edit" in said
    assert len(read_journal(tmp_path / RUN)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("fails", ["true", "false"])
def test_no_thread_of_the_group_outlives_the_run(options, tmp_path, fails):
    (tmp_path / "last.py").write_text(
        "import atexit\n"
        "import os\n"
        "from pathlib import Path\n"
        "import lightning as L\n"
        "def tell():\n"
        "    names = [file.read_text() for file in Path('/proc/self/task').glob('*/comm')]\n"
        "    alive = sum('gloo' in name for name in names)\n"
        "    Path(f'alive_{os.getpid()}').write_text(str(alive))\n"
        "atexit.register(tell)  # before the group is made, and so called after its end\n"
        "class Last(L.Callback):\n"
        "    def __init__(self, fails: bool) -> None:\n"
        "        self.fails = fails\n"
        "    def on_train_batch_start(self, trainer, module, batch, index):\n"
        "        if self.fails:\n"
        "            raise ValueError('as told')\n"
    )
    last = ("--trainer.callbacks+", "last.Last", "--trainer.callbacks.fails", fails)
    said, code = finished(started(tmp_path, 2, "fit", *options, *last))
    assert (code != 0) == (fails == "true"), said
    assert {file.read_text() for file in tmp_path.glob("alive_*")} == {"0"}


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_the_other_verbs_find_the_same(options, tmp_path, verb):
    tables = []
    for name, devices in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        said, code = finished(started(tmp_path / name, devices, verb, *options))
        assert code == 0, said
        risk = tmp_path / name / RUN / "risk.jsonl"
        tables.append(
            risk.read_text().splitlines()
            if verb == "predict"
            else re.findall(r"^\w.*\S {2,}\d.*$", said, re.M)
        )
    assert tables[0] == tables[1]
    assert len(tables[0]) >= 2
