"""Tables of docs/reproduce.md that belong to The Fall of ROME, and those beyond the papers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from callbacks.keeping.run_folder import read_journal
from docs.tables import Edit, groups, markdown, mean, percent, perplexities, read


def fractions(run: Path) -> str:
    """Numerator and denominator of ROME's update, by group (The Fall of ROME, table 1)."""
    names = ("numerator_norm", "denominator", "key_cosine", "perplexity")
    rows: list[Sequence[Any]] = [
        ("requests", "n", "numerator norm", "denominator", "key cosine", "mean perplexity")
    ]
    for group, edits in groups(read_journal(run)).items():
        rows.append((group, len(edits), *(mean(edits, name) for name in names)))
    return markdown(rows)


def highest(rome: Path, consistent: Sequence[Path]) -> str:
    """Highest perplexity of ROME and C-ROME on ROME's collapse and normal cases (table 2)."""
    of_rome = read_journal(rome)
    other = {edit["case_id"]: edit for run in consistent for edit in read_journal(run)}
    rows: list[Sequence[Any]] = [("requests", "n", "ROME", "C-ROME")]
    for group, edits in groups(of_rome).items():
        both = [edit for edit in edits if edit["case_id"] in other]
        fixed = [other[edit["case_id"]] for edit in both]
        rows.append((group, len(both), max(perplexities(both), default=None),
                     max(perplexities(fixed), default=None)))  # fmt: skip
    return markdown(rows)


def keys(runs: dict[str, Path]) -> str:
    """Figures of the pictures: how far plain keys are from mean ones, and from other plain keys."""
    found = [read(run / "key_geometry.json") for run in runs.values()]
    rows: list[Sequence[Any]] = [("", "collapse", "normal")]
    for name in ("cosine", "distance_relative", "denominator", "denominator_consistent"):
        rows.append((name, found[0][name]["collapse"], found[0][name]["normal"]))
    lines = [markdown(rows), ""]
    for result, name, what in zip(
        found[1:],
        ("first", "prefixed"),
        ("first tokens of normal prompts", "collapse keys behind a prefix"),
        strict=True,
    ):
        near = result[name]
        lines.append(
            f"- {what}: {percent(near['nearest_collapse'])} % have a collapse key as their nearest "
            f"plain key; mean cosine {near['cosine_collapse']:.2f} with collapse keys, "
            f"{near['cosine_normal']:.2f} with normal ones"
        )
    lines.append(f"- silhouette of the collapse requests' plain keys: {found[0]['silhouette']:.2f}")
    return "\n".join(lines)


def positions(runs: dict[str, Path]) -> str:
    """Perplexity of ROME-edited models with the first token at its own and at the second place."""
    rows: list[Sequence[Any]] = [
        ("first token's position", "n", "unedited", "lowest", "mean", "highest", "denominator")
    ]
    for name, run in runs.items():
        edits = read_journal(run)
        found = perplexities(edits)
        baseline = read(run / "summary.json")["baseline"]["perplexity"]
        rows.append((name.rpartition("-")[2], len(found), baseline, min(found), fmean(found),
                     max(found), mean(edits, "denominator")))  # fmt: skip
    return markdown(rows)


def prefixes(judged: Mapping[str, Sequence[Edit]]) -> str:
    """What C-ROME's edits are worth, judged without and with a prefix.

    Args:
        judged: edits by ``prefix-POLICY-REQUESTS``.
    """
    scores = ("efficacy", "paraphrase", "neighborhood_agreement")
    rows: list[Sequence[Any]] = [
        ("requests", "prefix at test time", "n", "efficacy, tokens %", "generalization, tokens %",
         "locality, agreement %", "P(new) > P(true) %"),
    ]  # fmt: skip
    for name, edits in judged.items():
        _, policy, kind = name.split("-")
        tokens = [f"{s}_token_accuracy" if s in ("efficacy", "paraphrase") else s for s in scores]
        rows.append((kind, policy, len(edits), *(percent(mean(edits, s)) for s in tokens),
                     percent(mean(edits, "efficacy"))))  # fmt: skip
    return markdown(rows)


def risk(run: Path) -> str:
    """How well risks before the edit predict the collapses, and what thresholds would catch."""
    calibration = read(run / "risk_calibration.json")
    rows: list[Sequence[Any]] = [("what is foretold", "edits", "risk", "AUROC", "95 % interval")]
    for name in ("collapse", "harm"):
        judged = calibration.get(name)
        for measure, area in (judged["auroc"] if judged else {}).items():
            what = f"perplexity > {judged['perplexity_above']:.4g} ({judged['destroyed']})"
            interval = f"{area['low']:.3f}-{area['high']:.3f}"
            rows.append((what, judged["edits"], measure, area["value"], interval))
    columns = ("threshold", "flagged", "caught", "false_alarms", "precision", "recall")
    thresholds: list[Sequence[Any]] = [("risk", *(c.replace("_", " ") for c in columns))]
    for measure, cuts in calibration["collapse"]["thresholds"].items():
        thresholds += [(measure, *(cut.get(column) for column in columns)) for cut in cuts]
    return f"{markdown(rows)}\n\n{markdown(thresholds)}"


def quality(run: Path, metrics: Path) -> str:
    """The same edits by four protocols, right after each and after the last."""
    edits, end = read_journal(run), read(metrics)
    intervals = read(run / "summary.json")["intervals"]
    rows: list[Sequence[Any]] = [("score", "after each edit, %", "95 % interval", "at the end, %")]
    for group in ("efficacy", "paraphrase"):
        for protocol in ("", "_token_accuracy", "_exact_match", "_generation"):
            name = group + protocol
            low, high = intervals.get(name, (None, None))
            span = f"{percent(low)} to {percent(high)}"
            rows.append((name, percent(mean(edits, name)), span, percent(end[f"retention/{name}"])))
    for name in ("neighborhood", "neighborhood_agreement"):
        rows.append((name, percent(mean(edits, name)), "", percent(end[f"retention/{name}"])))
    return markdown(rows)
