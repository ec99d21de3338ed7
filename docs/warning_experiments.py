"""The runs of docs/warning.md: sequences of embedded edits, and replays of those on SmolLM2."""

from pathlib import Path

from docs import smollm2_experiments, warning_tables
from docs.experiments import Experiment

RUNS = Path("runs/papers-warning")
PICTURES = Path(__file__).parent / "warning"
SEEDS = (0, 1, 2)
METHODS = {  # edits; a run ends where the perplexity collapses
    "rome": 20,
    "mend": 40,
    "alpha_edit": 20,
    "memit": 20,
    "ultra_edit": 20,
    "memit-seq": 20,
}
MEASURED = " --config papers/warning.yaml"
DRAWN = " --data.class_path BenchmarkDataModule --data.batch_size 1"
SMALLER = " --data.watch_limit 10 --data.tasks.limit 15 --trainer.val_check_interval "
REPLAYED = {  # edits from one measurement to the next
    "normal-rome": 3,
    "normal-mend": 1,
    "hard-mend": 1,
    "hard-memit": 9,
    "normal-c_rome": 9,
    "hard-ft": 9,
}

EMBEDDED = {
    f"{method}-seed-{seed}": f"fit --config {method}.yaml{MEASURED}{DRAWN} --data.limit {edits}"
    f" --data.seed {seed}"
    for seed in SEEDS
    for method, edits in METHODS.items()
}
SMOLLM2 = {
    f"smollm2-{run}": f"fit --config replay.yaml{MEASURED}{SMALLER}{interval}"
    f" --model.ledger {smollm2_experiments.folder(run)}"
    for run, interval in REPLAYED.items()
}


def made(commands: dict[str, str]) -> dict[str, Path]:
    """Folders of the runs that have ended."""
    return {name: RUNS / name for name in commands if (RUNS / name / "metrics.json").is_file()}


def embedded() -> str:
    """The verdict on each signal, and a picture of them all."""
    return warning_tables.verdicts(made(EMBEDDED), PICTURES)


def smollm2() -> str:
    """When each signal alarms on SmolLM2, by the limits of the embedded model."""
    return warning_tables.transferred(made(EMBEDDED), made(SMOLLM2))


EXPERIMENTS = {
    "embedded": Experiment(EMBEDDED, embedded),
    "replayed": Experiment(SMOLLM2, smollm2),
}
