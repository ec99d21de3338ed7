"""Tables of docs/reproduce.md, from the folders of runs."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from callbacks.keeping.run_folder import read_journal
from data_modules.records import one_word_first

Edit = dict[str, Any]
SCORES = ("efficacy", "paraphrase", "neighborhood")


def read(file: Path) -> Any:
    """A JSON file of a run."""
    return json.loads(file.read_text("utf-8"))


def markdown(rows: Iterable[Sequence[Any]]) -> str:
    """A table; the first row is its head."""
    head, *body = [[shown(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body])


def shown(cell: Any) -> str:
    """A figure to four digits; - for what was not measured."""
    if cell is None or cell != cell:  # a ratio of nothing is NaN
        return "-"
    if isinstance(cell, float):
        return "infinite" if math.isinf(cell) else f"{cell:.4g}"
    return str(cell)


def mean(edits: Iterable[Edit], name: str) -> float | None:
    """Mean of a figure over the edits that have it."""
    values = [edit[name] for edit in edits if name in edit]
    return fmean(values) if values else None


def percent(value: float | None) -> str:
    """A share, in per cent."""
    return "-" if value is None else f"{100 * value:.1f}"


def perplexities(edits: Iterable[Edit]) -> list[float]:
    """Perplexity after each watched edit."""
    return [edit["perplexity"] for edit in edits if "perplexity" in edit]


def begins(edit: Edit) -> bool:
    """Whether the request has HardEdit's pattern: a one-word subject that begins the prompt."""
    return one_word_first(edit["prompt"], edit["subject"])


def single(runs: dict[str, Path]) -> str:
    """Range of perplexity of each method's single edits, and how many collapse the model."""
    rows: list[Sequence[Any]] = [
        ("method", "edits", "lowest", "median", "highest", "collapsed", "efficacy %",
         "paraphrase %", "neighborhood %"),
    ]  # fmt: skip
    for run in runs.values():
        edits = read_journal(run)
        found = sorted(perplexities(edits))
        scores = (percent(mean(edits, s)) for s in SCORES)
        collapsed = sum(edit["collapsed"] for edit in edits)
        rows.append((method(run), len(edits), found[0], found[len(found) // 2], found[-1],
                     collapsed, *scores))  # fmt: skip
    return markdown(rows)


def method(run: Path) -> str:
    """The name of a run's method; MEMIT's history is an option that makes it another."""
    found = read(run / "summary.json")
    with_history = found["method"] == "MEMIT" and found.get("history")
    return found["method"] + (" with history" if with_history else "")


def groups(edits: Sequence[Edit]) -> dict[str, list[Edit]]:
    """Edits that collapsed the model, others whose one-word subject begins the prompt, the rest."""
    collapsed = [edit for edit in edits if edit["collapsed"]]
    stable = [edit for edit in edits if not edit["collapsed"]]
    return {
        "collapse": collapsed,
        "one word first": [edit for edit in stable if begins(edit)],
        "normal": [edit for edit in stable if not begins(edit)],
    }


STYLES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 4)), (0, (12, 3)))  # also in grey


def sequential(runs: dict[str, Path], marks: Sequence[int] = (10, 20, 50)) -> str:
    """When each run's model first collapsed, and its perplexity after several numbers of edits."""
    rows: list[Sequence[Any]] = [
        ("requests", "method", "first collapse", *(f"after {m}" for m in marks), "final", "highest")
    ]
    for name, run in runs.items():
        found = perplexities(read_journal(run))
        after = (found[m - 1] if m <= len(found) else None for m in marks)
        first = read(run / "summary.json")["collapsed_at"]
        kind = name.rpartition("-")[0]
        rows.append((kind, method(run), first, *after, f"{found[-1]:.4g} ({len(found)})",
                     max(found)))  # fmt: skip
    return markdown(rows)


def tasks(runs: dict[str, Path]) -> str:
    """Scores of the downstream tasks at the end of each run, the unedited model's first."""
    summaries = {name: read(run / "summary.json") for name, run in runs.items()}
    first = next(iter(summaries.values()))
    names = list(first["final_tasks"])
    rows: list[Sequence[Any]] = [("model", "perplexity", *names)]
    original = [first["baseline"][f"tasks/{name}"] for name in names]
    rows.append(("unedited", first["baseline"]["perplexity"], *original))
    for name, summary in summaries.items():
        found = [summary["final_tasks"][task] for task in names]
        rows.append((name, perplexities(read_journal(runs[name]))[-1], *found))
    return markdown(rows)


def curves(runs: dict[str, Path], file: Path) -> None:
    """Perplexity over edits, a panel per kind of requests, a line per method."""
    kinds = list(dict.fromkeys(name.rpartition("-")[0] for name in runs))
    figure = Figure(figsize=(1 + 4.5 * len(kinds), 4), layout="constrained")
    panels = dict(zip(kinds, figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0],
                      strict=True))  # fmt: skip
    labels = list(dict.fromkeys(name.rpartition("-")[2] for name in runs))
    for name, run in runs.items():
        kind, _, label = name.rpartition("-")
        edits, summary = read_journal(run), read(run / "summary.json")
        found = [summary["baseline"]["perplexity"], *perplexities(edits)]
        style = STYLES[labels.index(label) % len(STYLES)]
        (line,) = panels[kind].plot(found, linestyle=style, label=label)
        first = summary["collapsed_at"]
        if first:
            panels[kind].plot(first, found[first], "x", color=line.get_color(), markersize=9)
    for kind, panel in panels.items():
        panel.axhline(1000, color="#8d99ae", linewidth=0.8)
        panel.set(yscale="log", xlabel="edits", title=f"{kind} requests")
        panel.grid(alpha=0.3)
    panels[kinds[0]].set_ylabel("perplexity of watched text")
    panels[kinds[0]].legend(frameon=False)
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, dpi=110)


def worst(run: Path) -> str:
    """Tasks of the most harmful edits, as the run itself tabulates them."""
    text = (run / "top.md").read_text("utf-8")
    return text[text.index("| task |") :].strip()


def top(run: Path, number: int) -> str:
    """How many edits collapse the model, and the most harmful of them."""
    edits = read_journal(run)
    hard = read(run / "hard_cases.json")
    first = sum(begins(edit) for edit in edits if edit["collapsed"])
    lines = (run / "top.md").read_text("utf-8").splitlines()[: number + 2]
    return "\n".join(
        [
            f"{len(hard)} of {len(edits)} requests collapse the model; in {first} of "
            "these a one-word subject begins the prompt. The worst:",
            "",
            *lines,
        ]
    )


def drift(run: Path) -> str:
    """Change of the weight by collapsing and stable edits."""
    names = ("drift_norm", "drift_relative", "drift_spectral_norm")
    rows: list[Sequence[Any]] = [
        ("requests", "n", "norm of the change", "relative to the weight", "largest singular value")
    ]
    for group, edits in groups(read_journal(run)).items():
        rows.append((group, len(edits), *(mean(edits, name) for name in names)))
    return markdown(rows)


def levels(run: Path) -> str:
    """Spearman's rank correlation of each task with perplexity."""
    found = read(run / "perplexity_levels.json")
    rows: list[Sequence[Any]] = [("task", "Spearman's rho", "p", "models")]
    rows += [(task, rho["rho"], rho["p"], rho["n"]) for task, rho in found["spearman"].items()]
    names = list(found["spearman"])
    models: list[Sequence[Any]] = [("level", "edit", "perplexity", *names)]
    models += [
        (model["level"], model["edit"], model["perplexity"], *map(model["tasks"].get, names))
        for model in found["models"]
    ]
    return f"{markdown(rows)}\n\n{markdown(models)}"


def hard_edit(runs: dict[str, Path]) -> str:
    """How many data points collapse the model, and what they do in sequence."""
    kept = len(read(runs["hard-edit-filter"] / "hard_cases.json"))
    tried = len(read_journal(runs["hard-edit-filter"]))
    in_sequence = {n: run for n, run in runs.items() if n not in ("hard-edit", "hard-edit-filter")}
    return (
        f"ROME collapses the model on {kept} of {tried} data points made of templates. "
        f"In sequence:\n\n{sequential(in_sequence)}"
    )
