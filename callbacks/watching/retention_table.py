"""The table that ends a ``test``: the edited model's scores beside the unedited model's."""

from collections.abc import Mapping

ROWS = {  # what a score says, in the order of the table
    "efficacy_exact_match": "new answer stated",
    "efficacy": "new answer likelier than the true one",
    "paraphrase_exact_match": "new answer stated, reworded prompt",
    "paraphrase": "new answer likelier, reworded prompt",
    "neighborhood": "neighbors: true answer likelier",
    "neighborhood_agreement": "neighbors: answered as unedited",
    "portability_exact_match": "what follows from the fact stated",
    "attribute": "other subjects: new answer likelier",
    "score": "S, harmonic mean of the likelier rows",
}
DETAILS = ("_low", "_high", "_magnitude", "_token_accuracy", "_exact_match")  # TensorBoard's
COLUMNS = "{:<38}{:>10}{:>10}  {}"


def retention_table(edited: Mapping[str, float], unedited: Mapping[str, float]) -> str:
    """A row per score that was measured; percentages, but for scores of generated text.

    Args:
        edited: the logged figures, ``retention/NAME`` with ``NAME_low`` and ``NAME_high``, and
            ``tasks/NAME``.
        unedited: the unedited model's scores by NAME; empty if nothing is edited.
    """
    kept = {name.removeprefix("retention/"): edited[name] for name in edited if "/" in name}
    further = [name for name in kept if name not in {*ROWS, "edits"} and not _is_detail(name)]
    lines = [COLUMNS.format("", "unedited", "edited" if unedited else "", "95 % interval")]
    for name in [*(name for name in ROWS if name in kept), *further]:
        show = percent if name in ROWS or name.startswith("tasks/") else "{:.4g}".format
        before = unedited.get(name) if unedited else kept[name]
        ends = [show(kept[f"{name}{end}"]) for end in ("_low", "_high") if f"{name}{end}" in kept]
        row = (show(before) if before is not None else "", show(kept[name]) if unedited else "")
        lines.append(COLUMNS.format(ROWS.get(name, name), *row, " to ".join(ends)).rstrip())
    return "\n".join(lines)


def retention_sentence(edited: Mapping[str, float], unedited: Mapping[str, float]) -> str:
    """How many of the facts the model states, and how many it stated before any edit."""
    facts = round(edited["retention/edits"])
    stated = round(facts * edited["retention/efficacy_exact_match"])
    if not unedited:
        return f"Nothing is edited: the unedited model states {stated} of {facts} new answers"
    before = round(facts * unedited["efficacy_exact_match"])
    noun = "fact" if facts == 1 else "facts"
    return f"The edited model states {stated} of {facts} edited {noun}, the unedited one {before}"


def _is_detail(name: str) -> bool:
    return name.endswith(DETAILS) and not name.startswith("tasks/")


def percent(share: float) -> str:
    """A share in words, such as ``95.0 %``."""
    return f"{share:.1%}".replace("%", " %")
