"""Kills runs at random instants, resumes them, and compares them with runs left in peace.

``python -m tests.torture --minutes 10`` (``make torture``); the figures go to docs/reliability.md.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.keeping.run_folder import read_journal
from lightning_modules.editing.hypernetwork import Hypernetwork, save_hypernetwork
from lightning_modules.language_model.gradients import mlp_weight_names
from lightning_modules.language_model.layout import oriented
from lightning_modules.language_model.loading import fingerprint, load
from tests.callbacks.runs import options_of, tiny_lm, without_timings
from train import main

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reliability.md"
MARKS = "<!-- torture -->\n", "<!-- /torture -->\n"
EDITS = 6
EXPORTS = [
    f"--trainer.callbacks+=callbacks.keeping.export.{name}"
    for name in ("SavePretrained", "SaveChange", "SaveLoRA")
]
SWEEP = [
    "--trainer.callbacks+=callbacks.watching.restore.RestoreWeights",
    "--trainer.callbacks.together=2",
    "--trainer.callbacks+=callbacks.studies.hard_case_collection.HardCases",
]
GUARD = [
    "--trainer.callbacks+=callbacks.watching.guard.CollapseGuard",
    "--trainer.callbacks.action=quarantine",
    "--trainer.callbacks.relative=1.0001",
]
BATCH = ["--model=lightning_modules.methods.memit.MEMIT", "--model.layers=[0,1]"]
BATCH += ["--model.history=true", "--data.batch_size=2"]
INCREMENTS = ["--trainer.callbacks.light=0", "--trainer.callbacks.whole_every=2"]


class Kind(NamedTuple):
    """A kind of run.

    Attributes:
        arguments: beyond those of a short ``rome.yaml``.
        processes: that make it together.
    """

    arguments: list[str]
    processes: int = 1


class Trial(NamedTuple):
    """A run that was killed.

    Attributes:
        kills: how often.
        differs: what it left that is not as in the run left in peace; empty if nothing.
    """

    kills: int
    differs: list[str]


def kinds(lm: str, folder: Path) -> dict[str, Kind]:
    """All kinds of runs, by name."""
    mend = ["--model=lightning_modules.methods.mend.MEND"]
    mend += [f"--model.hypernetwork={hypernetwork(lm, folder)}"]
    return {
        "sequential": Kind(EXPORTS),
        "sweep": Kind([*SWEEP, *EXPORTS]),
        "guarded": Kind([*GUARD, *EXPORTS]),
        "batch": Kind([*BATCH, *EXPORTS]),
        "increments": Kind([*INCREMENTS, *EXPORTS]),
        "increments of a sweep": Kind([*INCREMENTS, *SWEEP, *EXPORTS]),
        "MEND": Kind([*mend, *EXPORTS]),
        "two processes": Kind([*EXPORTS, "--trainer.devices=2"], 2),
        "sweep on two processes": Kind([*SWEEP, *EXPORTS[:2], "--trainer.devices=2"], 2),
    }


def hypernetwork(lm: str, folder: Path) -> Path:
    """A file with an untrained hypernetwork of the model."""
    model, tokenizer = load(lm)
    names = [name for layer in (0, 1) for name in mlp_weight_names(model, layer)]
    shapes = {name: tuple(oriented(model, name).shape) for name in names}
    torch.manual_seed(0)
    network = Hypernetwork(shapes, rank=2, edit_rate=1e-3)
    save_hypernetwork(folder / "mend.safetensors", network, lm, fingerprint(model, tokenizer))
    return folder / "mend.safetensors"


class Running:
    """A command line in processes of its own, forked from this one.

    Args:
        folder: to work in.
        command: the arguments of ``train.py``.
        processes: how many make the run.
    """

    def __init__(self, folder: Path, command: list[str], processes: int) -> None:
        self.folder, self.command, self.processes = folder, command, processes
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])
        fork = multiprocessing.get_context("fork")
        self.second = fork.Value("i", 0)
        self.first = fork.Process(target=self._run, args=(0,))
        self.first.start()

    def _run(self, rank: int) -> None:
        os.chdir(self.folder)
        if rank == 0:
            os.setsid()
        if self.processes > 1:
            self._join(rank)
        said = os.open(f"said_{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        torch.set_num_threads(1)
        main(self.command)

    def _join(self, rank: int) -> None:
        """Takes a place among the processes, as Lightning's launcher would give it."""
        place = {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(self.processes), "NODE_RANK": "0"}
        os.environ |= {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": self.port}
        rank_zero_only.rank = rank
        if rank == 0:
            other = multiprocessing.get_context("fork").Process(target=self._run, args=(1,))
            other.start()
            self.second.value = other.pid

    @property
    def alive(self) -> bool:
        """Whether any of the processes still runs."""
        self.first.join(0)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.first.pid, 0)
            return True
        return self.first.is_alive()

    def kill(self, number: int) -> None:
        """Kills one of the processes and waits for the end of the others, which it forces."""
        victim = self.second.value if number and self.second.value else self.first.pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        self.wait(15)

    def wait(self, seconds: float) -> bool:
        """Waits for the end, which is forced if it does not come; whether it came."""
        until = time.monotonic() + seconds
        while self.alive and time.monotonic() < until:
            time.sleep(0.01)
        came = not self.alive
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.first.pid, signal.SIGKILL)
        self.first.join()
        return came


def newest(folder: Path) -> Path:
    """The newest run in a working folder; one that is not there if there is none."""
    runs = folder.glob("runs/rome/version_*")
    return max(runs, key=lambda run: int(run.name[8:]), default=folder / "none")


def resumable(folder: Path) -> bool:
    """Whether a killed run has left anything to go on from."""
    run = newest(folder)
    return (run / "edits.jsonl").exists()


def left(run: Path) -> dict[str, Any]:
    """All that a run leaves behind, by name, except what depends on time."""
    state = torch.load(run / "checkpoints" / "last.ckpt")
    summary = json.loads((run / "summary.json").read_text())
    timeless = {n: v for n, v in summary["means"].items() if not n.startswith("seconds")}
    events = EventAccumulator(str(run))
    events.Reload()
    found = {
        "edits.jsonl": without_timings(read_journal(run)),
        "summary.json": summary | {"means": timeless},
        "weights": {name: t.numpy().tobytes() for name, t in state["state_dict"].items()},
        "edited requests": state["edited_requests"],
        "dashboard": [point.step for point in events.Scalars("edit/update_norm")],
    }
    for file in run.rglob("*"):
        name = str(file.relative_to(run))
        known = name in found or name.startswith(("checkpoints", "events.out"))
        if file.is_file() and not known:
            found[name] = blake2b(file.read_bytes()).hexdigest()
    return found


def peaceful(folder: Path, command: list[str], kind: Kind) -> tuple[dict[str, Any], float]:
    """What a run leaves that nothing happens to, and the seconds that it takes."""
    began = time.monotonic()
    running = Running(folder, command, kind.processes)
    if not running.wait(300) or not (newest(folder) / "finished").exists():
        raise RuntimeError(f"the run left in peace failed: {(folder / 'said_0').read_text()}")
    return left(newest(folder)), time.monotonic() - began


def tried(
    folder: Path, command: list[str], kind: Kind, whole: tuple[dict[str, Any], float], seed: int
) -> Trial:
    """Kills a run two to six times, each time when it was resumed, and lets it end.

    A third of the kills come behind the last edit, while the run writes what it leaves.
    """
    chance, kills, number = random.Random(seed), 0, kind.processes
    expected, seconds = whole
    for _ in range(chance.randint(2, 6)):
        running = Running(folder, again(folder, command), number)
        behind_all = chance.random() < 1 / 3
        if behind_all:
            while running.alive and lines(folder) < len(expected["edits.jsonl"]):
                time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.15 if behind_all else 0.7) * seconds)
        if not running.alive:
            break
        running.kill(chance.randrange(number))
        kills += 1
    if not (newest(folder) / "finished").exists():
        Running(folder, again(folder, command), number).wait(300)
    try:
        found = left(newest(folder))
    except (OSError, KeyError, ValueError) as error:
        return Trial(kills, [repr(error)])
    names = expected.keys() | found.keys()
    return Trial(kills, sorted(n for n in names if expected.get(n) != found.get(n)))


def again(folder: Path, command: list[str]) -> list[str]:
    """The command that goes on with the run, or begins one where there is nothing to go on with."""
    return [*command, "--ckpt_path", "last"] if resumable(folder) else command


def lines(folder: Path) -> int:
    """How many the newest run's journal has."""
    journal = newest(folder) / "edits.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def tortured(
    work: Path, minutes: float, kills: int, chosen: list[str], seed: int
) -> dict[str, list[Trial]]:
    """Trials of each kind of run in turn, until there were so many kills or the time is over.

    What a trial that lost something has left stays in the folder.
    """
    until, number = time.monotonic() + 60 * minutes, 0
    lm = tiny_lm(work / "lm")
    command = ["fit", *options_of(lm, work, EDITS), "--collapse.threshold=1e30"]
    command += ["--trainer.enable_progress_bar=false"]
    all_kinds = {name: kind for name, kind in kinds(lm, work).items() if name in chosen}
    commands = {name: [*command, *kind.arguments] for name, kind in all_kinds.items()}
    wholes: dict[str, tuple[dict[str, Any], float]] = {}
    trials: dict[str, list[Trial]] = {name: [] for name in all_kinds}
    while time.monotonic() < until and killed(trials) < kills:
        name = list(all_kinds)[number % len(all_kinds)]
        folder = work / f"{number:04} {name}"
        folder.mkdir()
        if name not in wholes:
            wholes[name] = peaceful(folder, commands[name], all_kinds[name])
        else:
            trial = tried(folder, commands[name], all_kinds[name], wholes[name], seed + number)
            trials[name].append(trial)
            told = ", ".join(trial.differs) or "nothing lost"
            sys.stderr.write(f"{number} {name}: {trial.kills} kills, {told}\n")
        if not trials[name] or not trials[name][-1].differs:
            shutil.rmtree(folder)
        number += 1
    return trials


def killed(trials: dict[str, list[Trial]]) -> int:
    """Kills of all trials."""
    return sum(trial.kills for some in trials.values() for trial in some)


def table(trials: dict[str, list[Trial]]) -> str:
    """The figures as a table of Markdown."""
    rows = ["| runs | kills tried | survived | lost |", "|---|---|---|---|"]
    total: Counter[str] = Counter()
    for name, some in trials.items():
        lost = sum(trial.kills for trial in some if trial.differs)
        count = sum(trial.kills for trial in some)
        total += Counter(tried=count, survived=count - lost, lost=lost)
        rows.append(f"| {name} | {count} | {count - lost} | {lost} |")
    rows.append(f"| all | {total['tried']} | {total['survived']} | {total['lost']} |")
    return "\n".join(rows) + "\n"


def put_between_marks(page: str, text: str) -> str:
    """A page with the text in the place of what stands between the marks."""
    before, _, rest = page.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}{text}{MARKS[1]}{after}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="when to end at the latest")
    parser.add_argument("--kills", type=int, default=200, help="how many kills are enough")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn by chance")
    parser.add_argument("--only", nargs="*", help="kinds of runs; all if left out")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the figures go")
    asked = parser.parse_args()
    every = [*("sequential", "sweep", "guarded", "batch", "MEND")]
    every += ["increments", "increments of a sweep"]
    every += ["two processes", "sweep on two processes"]
    work = Path(tempfile.mkdtemp(prefix="torture"))
    trials = tortured(work, asked.minutes, asked.kills, asked.only or every, asked.seed)
    asked.page.write_text(put_between_marks(asked.page.read_text("utf-8"), table(trials)), "utf-8")
    sys.stderr.write(table(trials))
    if any(trial.differs for some in trials.values() for trial in some):
        sys.exit(f"what was lost: {work}")
    shutil.rmtree(work)
