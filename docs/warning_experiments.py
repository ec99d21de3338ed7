"""The runs of docs/warning.md: sequences of embedded edits, and replays of those of SmolLM2."""

from pathlib import Path

RUNS = Path("runs/papers-warning")
SEEDS = (0, 1, 2)
EDITS = 20
MEASURED = " --config papers/warning.yaml"
DRAWN = f" --data.class_path BenchmarkDataModule --data.limit {EDITS} --data.batch_size 1"
METHODS = ("rome", "mend", "alpha_edit", "memit", "ultra_edit", "memit-seq")
EMBEDDED = {
    f"{method}-seed-{seed}": f"fit --config {method}.yaml{MEASURED}{DRAWN} --data.seed {seed}"
    for seed in SEEDS
    for method in METHODS
}
