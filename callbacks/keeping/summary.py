"""The summary of a run's journal."""

from typing import Any

from lightning_modules.editing.record import place_of

from .means import harmonic_score, mean_intervals, mean_scores


def numbers(record: dict[str, Any]) -> dict[str, float]:
    """A record's figures, without number, case and texts; those of tasks are ``tasks/NAME``."""
    tasks = {f"tasks/{name}": score for name, score in record.get("tasks", {}).items()}
    return {
        name: float(value)
        for name, value in (record | tasks).items()
        if isinstance(value, int | float) and name not in {"edit", "case_id"}
    }


def scores(record: dict[str, Any]) -> dict[str, float]:
    """The record's figures that measure the edit's success."""
    return {k: v for k, v in numbers(record).items() if place_of(k).startswith("scores_")}


def summarize(edits: list[dict[str, Any]], baseline: dict[str, float]) -> dict[str, Any]:
    """A run's outcome: edits applied, first collapse, perplexity, means of all figures.

    ``score`` is ROME's S, and ``score_before`` that of the model immediately before each edit.
    Edits that a guard undid are listed, and count for nothing else.
    """
    standing = [edit for edit in edits if edit["status"] != "rolled_back"]
    means = mean_scores([numbers(edit) for edit in standing])
    watched = [edit["perplexity"] for edit in standing if "perplexity" in edit]
    return {
        "edits": len(edits),
        "applied": sum(edit["status"] == "applied" for edit in edits),
        "rolled_back": [edit["edit"] for edit in edits if edit["status"] == "rolled_back"],
        "collapsed": sum(edit.get("collapsed", False) for edit in standing),
        "collapsed_at": next((e["edit"] for e in standing if e.get("collapsed")), None),
        "baseline": baseline,
        "final_perplexity": watched[-1] if watched else None,
        "highest_perplexity": max(watched, default=None),
        "final_tasks": next((e["tasks"] for e in reversed(standing) if "tasks" in e), None),
        "score": harmonic_score(means),
        "score_before": harmonic_score(means, "_before"),
        "means": means,
        "intervals": mean_intervals([scores(edit) for edit in standing]),
    }


def verdict(summary: dict[str, Any]) -> str:
    """The run in one sentence."""
    before, highest = summary["baseline"].get("perplexity"), summary["highest_perplexity"]
    if summary["collapsed_at"] is None:
        refused = len(summary["rolled_back"])
        back = f", {refused} more taken back" if refused else ""
        return f"{summary['applied']} edits{back}, no collapse" + (
            f": perplexity at most {highest:.4g} (unedited {before:.4g})"
            if highest and before
            else ""
        )
    limit = summary["baseline"]["collapse_limit"]
    unedited = f" (unedited {before:.4g})" if before else ""
    often = f" and {summary['collapsed'] - 1} more times" if summary["collapsed"] > 1 else ""
    return (
        f"collapsed at edit {summary['collapsed_at']}{often}: perplexity {highest:.4g} > "
        f"{limit:.4g}{unedited}"
    )
