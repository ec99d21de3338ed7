"""Twenty evaluations of Adam against ten of L-BFGS, in a section of docs/performance.md."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from callbacks.keeping.run_folder import read_journal
from docs import smollm2_experiments
from docs.experiments import Experiment
from docs.tables import SCORES, markdown, mean, percent, perplexities, read

RUNS = Path("runs/papers-descent")
PICTURES = Path(__file__).parent / "descent"
SEARCHES = {
    "adam": " --model.value.steps 20",
    "lbfgs": " --model.value.optimizer lbfgs --model.value.steps 10",
}
MODELS = {
    "embedded": " --data.limit 100",
    "smollm2": f"{smollm2_experiments.MODEL} --data.path {smollm2_experiments.STATED}"
    " --data.limit 100",
}
DESCENT = {
    f"{model}-{search}": f"fit --config papers/single-edits.yaml --model ConsistentROME{of_model}"
    f"{smollm2_experiments.CONTEXTS} --model.second_moment identity{options}"
    for model, of_model in MODELS.items()
    for search, options in SEARCHES.items()
}


def descent() -> str:
    """What single edits are worth, and the evaluations they took, by model and optimizer."""
    rows: list[Sequence[Any]] = [
        ("model, optimizer", "edits", "evaluations", "value loss", *(f"{s} %" for s in SCORES),
         "perplexity unedited", "mean", "highest", "norm of the change"),
    ]  # fmt: skip
    for name in DESCENT:
        run = RUNS / name / "version_0"
        edits, found = read_journal(run), perplexities(read_journal(run))
        unedited = read(run / "summary.json")["baseline"]["perplexity"]
        rows.append((name, len(edits), mean(edits, "value_steps"), mean(edits, "value_loss"),
                     *(percent(mean(edits, score)) for score in SCORES), unedited, fmean(found),
                     max(found), mean(edits, "update_norm")))  # fmt: skip
    return markdown(rows)


EXPERIMENTS = {"descent": Experiment(DESCENT, descent)}
