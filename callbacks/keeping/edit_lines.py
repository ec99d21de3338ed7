"""One line per edit that a person can read, and how many facts the model states."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from data_modules.records import EditRequest
from lightning_modules.editing.editor import Editor

STATED = "efficacy_exact_match"  # greedy and exact, after the request's own prompt
WIDTH = 48  # characters of a fact on a line


class Stated(NamedTuple):
    """How many facts were asked for, and how many of them the model states.

    Attributes:
        facts: requests.
        stated: those whose new answer is the model's greedy continuation of their prompt.
    """

    facts: int = 0
    stated: int = 0

    def __str__(self) -> str:
        """Both numbers, for the bar."""
        return f"{self.stated}/{self.facts}"


def requests_of(record: Mapping[str, Any]) -> list[EditRequest]:
    """The requests of an edit, from its line in the journal; without their other prompts."""
    names = ("case_id", "prompt", "subject", "target_new", "target_true")
    values = [record[name] for name in names]
    columns = values if isinstance(record["case_id"], list) else [[value] for value in values]
    return [EditRequest(*fields) for fields in zip(*columns, strict=True)]


def stated_at_edits(edits: Iterable[Mapping[str, Any]]) -> Stated:
    """The facts that were stated immediately after their own edits; a refused one is not."""
    counts = [_count(edit) for edit in edits if STATED in edit and "case_id" in edit]
    return Stated(sum(c.facts for c in counts), sum(c.stated for c in counts))


def stated_now(editor: Editor, edits: Iterable[Mapping[str, Any]]) -> Stated:
    """The facts of all edits that the current model states; all are asked together.

    Every device must call it.
    """
    asked = list(dict.fromkeys(request for edit in edits for request in requests_of(edit)))
    judged = editor.judge_all(asked) if asked else []
    return Stated(len(asked), sum(scores[STATED] == 1 for scores in judged))


def line_of(record: Mapping[str, Any], total: float, seconds: float | None) -> str:
    """An edit in one line: number, fact, stated or not, perplexity, time left.

    Args:
        record: the edit's, complete.
        total: edits of the run; infinite if unknown.
        seconds: until the run's end; None if unknown.
    """
    number = f"edit {record['edit']}" + (f"/{total:.0f}" if total < float("inf") else "")
    return "  ".join(
        part for part in (number, _fact(record), *_outcome(record), _time_left(seconds)) if part
    )


def _count(record: Mapping[str, Any]) -> Stated:
    """The facts of one edit; its score is their mean."""
    facts = len(record["case_id"]) if isinstance(record["case_id"], list) else 1
    undone = record.get("status") == "rolled_back"
    return Stated(facts, 0 if undone else round(record[STATED] * facts))


def _fact(record: Mapping[str, Any]) -> str:
    if isinstance(record["case_id"], list):
        return f"{len(record['case_id'])} facts"
    about, answer = record["subject"] or record["prompt"], f" → {record['target_new']}"
    room = max(12, WIDTH - len(answer))
    return (about if len(about) <= room else f"{about[: room - 1]}…") + answer


def _outcome(record: Mapping[str, Any]) -> list[str]:
    """Whether the edit stands and its facts are stated, and the model's perplexity."""
    status = record.get("status", "applied")
    if status != "applied":
        return [status.replace("_", " ") + (f": {record['reason']}" if "reason" in record else "")]
    said = []
    if STATED in record:
        facts, stated = _count(record)
        said.append("stated" if stated == facts else f"{stated} stated" if stated else "not stated")
    if "perplexity" in record:
        collapse = ", collapsed" if record.get("collapsed") else ""
        said.append(f"perplexity {record['perplexity']:.4g}{collapse}")
    return said


def _time_left(seconds: float | None) -> str:
    return f"{timedelta(seconds=round(seconds))} left" if seconds else ""
