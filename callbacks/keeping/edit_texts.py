"""What a model is told and what it says, edit by edit, as Markdown."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .edit_lines import STATED

MOST = 48  # requests of the table
TOLD = 4  # requests of one edit
NAMES = ("prompt", "subject", "target_true", "target_new", "says_before", "says")


class Fact(NamedTuple):
    """A request and the model's own words, empty if nobody has asked it."""

    prompt: str
    subject: str
    target_true: str
    target_new: str
    says_before: str = ""
    says: str = ""


def facts_of(record: Mapping[str, Any]) -> Iterator[Fact]:
    """The requests of an edit, from its line in the journal."""
    columns = [record.get(name, "") for name in NAMES]
    if not isinstance(record["prompt"], list):
        yield Fact(*columns)
        return
    for number in range(len(record["prompt"])):
        cells = [column[number : number + 1] if column else [] for column in columns]
        yield Fact(*("".join(cell) for cell in cells))


def described(record: Mapping[str, Any]) -> str:
    """An edit, what was asked and what the model says."""
    outcome = f"{record['status']}; perplexity {record.get('perplexity', math.nan):.4g}"
    facts = list(facts_of(record))
    parts = [_fact(fact, outcome) for fact in facts[:TOLD]]
    more = [f"and {len(facts) - TOLD} more"] * (len(facts) > TOLD)
    return "\n\n".join([*parts, *more])


def table(edits: Sequence[Mapping[str, Any]]) -> str:
    """The first requests of a run, a row each: asked, said before, said after, outcome."""
    heads = ("edit", "prompt", "new answer", "said before", "says after the edit", "outcome")
    rows = [
        (edit["edit"], f"{_text(fact)} …", fact.target_new, fact.says_before, fact.says, _end(edit))
        for edit in edits
        if "prompt" in edit
        for fact in facts_of(edit)
    ]
    lines = [heads, ("---",) * len(heads), *rows[:MOST]]
    left = f"\n\nThe first {MOST} of {len(rows)} requests." if len(rows) > MOST else ""
    return "\n".join(f"|{'|'.join(map(_cell, line))}|" for line in lines) + left


def _fact(fact: Fact, outcome: str) -> str:
    told = (
        f"**{fact.prompt}** · {fact.subject} · {fact.target_true} → **{fact.target_new}** "
        f"({outcome})"
    )
    words = (("before", fact.says_before), ("after", fact.says))
    said = [f"- {when}: {_text(fact)} *{_cell(text)}*" for when, text in words if text]
    return "\n".join([told, "", *said]) if said else told


def _text(fact: Fact) -> str:
    return fact.prompt.replace("{}", fact.subject)


def _end(edit: Mapping[str, Any]) -> str:
    status = str(edit.get("status", "")).replace("_", " ")
    stated = {1: "stated", 0: "not stated"}.get(edit.get(STATED, math.nan), "")
    collapsed = "collapsed" if edit.get("collapsed") else ""
    parts = (stated, collapsed) if status == "applied" else (status,)
    return ", ".join(part for part in parts if part)


def _cell(content: object) -> str:
    """One line without a character that ends a table's cell or a word's emphasis."""
    text = " ".join(str(content).split())
    return text.replace("|", "&#124;").replace("*", "&#42;").replace("<", "&lt;")
