"""The experiments of docs/reproduce.md: the commands of each, and what the page shows of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from callbacks.keeping.run_folder import read_journal
from docs import rome_tables, tables

RUNS = Path("runs/papers")
PICTURES = Path(__file__).parent / "papers"
METHODS = {
    "ft": " --model FineTuning --model.layers [1] --model.radius 0.005",
    "mend": " --model MEND",
    "rome": "",
    "memit": " --model MEMIT",
}
CONSISTENT = " --model ConsistentROME"
TASKS = " --data.tasks.limit 50 --trainer.callbacks+=Downstream --trainer.callbacks.new_tokens 16"
HARD = f" --data.path {RUNS}/single-rome/version_0/hard_cases.json"


class Experiment(NamedTuple):
    """Runs of train.py and what is shown of them.

    Attributes:
        commands: by the run's name, what stands behind ``python train.py``; a command that reads
            files of another run is made behind it.
        show: the section's tables, in Markdown, from the folders of runs, of other experiments too.
        pictures: runs and files of theirs that the page shows.
    """

    commands: Mapping[str, str]
    show: Callable[[], str]
    pictures: tuple[tuple[str, str], ...] = ()


def folder(run: str) -> Path:
    """Where a run's files are."""
    return RUNS / run / "version_0"


def folders(runs: Mapping[str, str]) -> dict[str, Path]:
    """Where the files of runs are."""
    return {run: folder(run) for run in runs}


def in_sequence() -> str:
    """Tables of the sequential runs, and a picture of them all."""
    runs = folders(SEQUENTIAL)
    tables.curves(runs, PICTURES / "sequential.png")
    return "\n\n".join(
        [
            tables.sequential(runs),
            tables.tasks(runs),
            "![perplexity over sequential edits](papers/sequential.png)",
        ]
    )


def prefixed() -> str:
    """C-ROME's edits, judged without and with a prefix."""
    journals = {run: read_journal(place) for run, place in folders(PREFIX).items()}
    return rome_tables.prefixes(journals)


def of_all(kind: str, config: str, options: str = "") -> dict[str, str]:
    """A run of each of the papers' four methods."""
    text = f"fit --config papers/{config}.yaml{options}"
    return {f"{kind}-{name}": text + method for name, method in METHODS.items()}


SINGLE = {
    "single-rome": "fit --config papers/single-edits.yaml"
    " --trainer.callbacks+=RiskCalibration"
    " --trainer.callbacks+=WeightDrift",
    **{
        f"single-{name}": f"fit --config papers/single-edits.yaml --data.limit 200{options}"
        for name, options in (METHODS | {"c_rome": CONSISTENT}).items()
        if name != "rome"
    },
}
WORST = {"worst-rome": f"fit --config papers/single-edits.yaml{HARD}{TASKS}"}
HARD_RUNS = of_all("hard", "sequential-hard", TASKS + " --trainer.callbacks.every_n_edits 1000")
NORMAL_RUNS = of_all(
    "normal", "sequential-normal", TASKS + " --trainer.callbacks.every_n_edits 1000"
)
SEQUENTIAL = HARD_RUNS | NORMAL_RUNS
LEVELS = {"levels": "fit --config papers/perplexity-against-tasks.yaml"}
HARD_EDIT = {
    "hard-edit": "predict --config papers/hard-edit-templates.yaml",
    "hard-edit-filter": "fit --config papers/hard-edit-filter.yaml"
    f" --data.path {RUNS}/hard-edit/version_0/hard_edit.json",
    **{
        f"hard-edit-{name}": "fit --config papers/hard-edit-sequential.yaml"
        f" --data.path {RUNS}/hard-edit-filter/version_0/hard_cases.json{method}"
        for name, method in METHODS.items()
    },
}
KEYS = {
    name: f"predict --config papers/{name}.yaml --data.limit 300"
    for name in ("keys", "keys-first-token", "keys-prefixed")
}
POSITION = {
    "position-0": f"fit --config papers/second-to-first.yaml{HARD} --model.first_position 0",
    "position-1": f"fit --config papers/second-to-first.yaml{HARD}",
}
PREFIX = {
    f"prefix-{policy}-{kind}": f"fit --config papers/c_rome-prefixed.yaml --data.limit null"
    f" --data.class_path HardCasesDataModule --data.sample {kind}"
    f" --data.watch_limit 50 --model.test_prefix.policy {policy}"
    for policy in ("none", "collapse")
    for kind in ("hard", "normal")
}
C_ROME = ("single-c_rome", "prefix-none-hard", "prefix-none-normal")
QUALITY = {
    "quality": "fit --config c_rome.yaml --data.limit 60"
    " --trainer.callbacks+=GenerationMetrics"
    " --trainer.callbacks+=RetentionMatrix"
    " --trainer.callbacks+=WeightDrift",
    "quality-end": "test --config c_rome.yaml --data.limit 60"
    f" --ckpt_path {RUNS}/quality/version_0/checkpoints/last.ckpt"
    " --trainer.callbacks+=GenerationMetrics",
}

EXPERIMENTS = {
    "single": Experiment(
        SINGLE,
        lambda: tables.single(folders(SINGLE)),
        (("single-rome", "health.png"),),
    ),
    "worst": Experiment(
        WORST,
        lambda: tables.worst(folder("worst-rome")),
        (("worst-rome", "top_tasks.png"),),
    ),
    "levels": Experiment(
        LEVELS,
        lambda: tables.levels(folder("levels")),
        (("levels", "perplexity_levels.png"),),
    ),
    "hard": Experiment({}, lambda: tables.top(folder("single-rome"), 10)),
    "parameters": Experiment(
        {}, lambda: tables.drift(folder("single-rome")), (("single-rome", "drift.png"),)
    ),
    "sequential": Experiment(SEQUENTIAL, in_sequence),
    "hardedit": Experiment(HARD_EDIT, lambda: tables.hard_edit(folders(HARD_EDIT))),
    "denominator": Experiment({}, lambda: rome_tables.fractions(folder("single-rome"))),
    "consistent": Experiment(
        {}, lambda: rome_tables.highest(folder("single-rome"), [folder(run) for run in C_ROME])
    ),
    "keys": Experiment(
        KEYS,
        lambda: rome_tables.keys(folders(KEYS)),
        tuple((run, "keys_tsne.png") for run in KEYS),
    ),
    "position": Experiment(POSITION, lambda: rome_tables.positions(folders(POSITION))),
    "prefix": Experiment(PREFIX, prefixed),
    "risk": Experiment(
        {}, lambda: rome_tables.risk(folder("single-rome")), (("single-rome", "risk.png"),)
    ),
    "quality": Experiment(
        QUALITY,
        lambda: rome_tables.quality(folder("quality"), RUNS / "quality-end" / "metrics.json"),
        (("quality", "retention.png"),),
    ),
}
