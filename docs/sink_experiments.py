"""The tables of docs/sink.md: the atlas of the embedded model and of SmolLM2."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from callbacks.studies.sink_table import collapsed, predictions, ratio
from docs.experiments import Experiment
from docs.smollm2_experiments import MODEL
from docs.tables import markdown, read

RUNS = Path("runs/papers-sink")
PICTURES = Path(__file__).parent / "sink"
ATLAS = "predict --config papers/sink.yaml"
STATED = "[429,5]"  # Hungary, which comes first, and a fact whose subject does not
SINK = {
    "smollm2": f"{ATLAS}{MODEL} --model.first 1 --model.normal 1 --data.case_ids {STATED}",
    "embedded": ATLAS,
}
POLICIES = {
    "ROME": "ROME",
    "ConsistentROME": "C-ROME",
    "FullyConsistentROME": "prefixed",
    "SinkFreeROME": "sink-free",
}
RISKS = {
    "danger": "danger",
    "leverage": "leverage",
    "denominator": "denominator",
    "denominator_relative": "denominator over the key's norm",
    "key_cosine": "cosine of plain and mean key",
}
Row = dict[str, Any]


def atlas(name: str) -> str:
    """The tables of one model."""
    content = read(RUNS / name / "version_0" / "sink.json")
    baseline = content["baseline"]["perplexity"]
    rows = [
        row | {"perplexity": float("inf" if (p := row["perplexity"]) is None else p)}
        for row in content["rows"]
    ]
    first = [row for row in rows if row["first"]]
    others = [row for row in rows if not row["first"]]
    parts = (
        f"Unedited perplexity: {baseline:.1f}. Edits at the first token, by layer:",
        by_layer(first, baseline),
        "The same over all layers:",
        by_policy(first, baseline),
        "Edits of other subjects:",
        by_policy(others, baseline),
        f"How all {len(rows)} edits were foretold:",
        foretold(rows, baseline),
    )
    return "\n\n".join(parts)


def by_layer(rows: Sequence[Row], baseline: float) -> str:
    """Worst perplexity, worst danger and stated facts by layer, moment and policy."""
    lines: list[Sequence[Any]] = [("layer", "moment", *POLICIES.values())]
    for layer in sorted({row["layer"] for row in rows}):
        for moment in dict.fromkeys(row["second_moment"] for row in rows):
            here = [r for r in rows if (r["layer"], r["second_moment"]) == (layer, moment)]
            if here:
                own = ([r for r in here if r["method"] == method] for method in POLICIES)
                lines.append((layer, moment, *(cell(edits, baseline) for edits in own)))
    return markdown(lines)


def cell(edits: Sequence[Row], baseline: float) -> str:
    """Worst perplexity (bold if a collapse), worst danger, facts stated behind a prefix."""
    worst = max(edits, key=lambda row: ratio(row, baseline))
    perplexity = f"{worst['perplexity']:,.0f}"
    shown = f"**{perplexity}**" if collapsed(worst, baseline) else perplexity
    danger = max(row["danger"] for row in edits)
    stated = sum(row["stated_prefixed"] for row in edits)
    return f"{shown}; {danger:.2g}; {stated:.0f}/{len(edits)}"


def by_policy(rows: Sequence[Row], baseline: float) -> str:
    """Collapses, worst perplexity and stated facts of each policy and moment, over all layers."""
    lines: list[Sequence[Any]] = [
        ("policy", "moment", "edits", "collapsed", "in layers", "worst perplexity",
         "stated", "stated behind a prefix"),
    ]  # fmt: skip
    for method, name in POLICIES.items():
        for moment in dict.fromkeys(row["second_moment"] for row in rows):
            own = [r for r in rows if (r["method"], r["second_moment"]) == (method, moment)]
            if own:
                fell = [row for row in own if collapsed(row, baseline)]
                layers = ", ".join(map(str, sorted({row["layer"] for row in fell}))) or "-"
                worst = baseline * max(ratio(row, baseline) for row in own)
                said = (sum(row[key] for row in own) for key in ("stated", "stated_prefixed"))
                lines.append((name, moment, len(own), len(fell), layers, worst, *map(int, said)))
    return markdown(lines)


def foretold(rows: Sequence[Row], baseline: float) -> str:
    """How well each figure known before an edit ranks its harm."""
    lines: list[Sequence[Any]] = [
        ("figure before the edit", "Spearman with perplexity", "AUROC of collapse"),
    ]
    for found in predictions(rows, baseline):
        lines.append((RISKS[found["risk"]], found["spearman"], found["auroc"]))
    return markdown(lines)


EXPERIMENTS = {
    f"sink-{name}": Experiment({name: SINK[name]}, partial(atlas, name), ((name, "sink.png"),))
    for name in SINK
}
