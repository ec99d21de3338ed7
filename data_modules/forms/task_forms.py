"""The public forms of six downstream tasks, and lm-evaluation-harness' zero-shot prompts."""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ..records import TaskItem

LETTERS = "ABCD"


class TaskRow(NamedTuple):
    """A record of a task and its location; every method raises ValueError at a fault.

    Attributes:
        source: the file or hub dataset.
        place: in the source, such as ``line 3``.
        number: of the record, from 0.
        fields: the record's content.
    """

    source: str
    place: str
    number: int
    fields: dict[str, Any]

    def text(self, field: str, blank: bool = False) -> str:
        """An unchanged text; blank only if ``blank``."""
        value = self.value(field)
        if not isinstance(value, str) or not (blank or value.strip()):
            raise self.fault(field, f"must be text, got {value!r}")
        return value

    def texts(self, field: str, least: int = 1) -> tuple[str, ...]:
        """A list of at least ``least`` texts."""
        value = self.value(field)
        listed = isinstance(value, list) and all(isinstance(item, str) for item in value)
        if not listed or len(value) < least:
            raise self.fault(field, f"must be a list of {least} texts or more, got {value!r}")
        return tuple(value)

    def index(self, field: str, count: int) -> int:
        """The index of one of ``count`` choices; HellaSwag writes it as text."""
        value = self.value(field)
        number = int(value) if isinstance(value, str) and value.isdecimal() else value
        if not isinstance(number, int) or not 0 <= number < count:
            raise self.fault(field, f"must be the number of a choice, 0 to {count - 1}: {value!r}")
        return number

    def parts(self, field: str) -> list["TaskRow"]:
        """The objects of a list, as records with the same location."""
        value = self.value(field)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.fault(field, "must be a list of objects")
        return [self._replace(fields=item) for item in value]

    def value(self, field: str) -> Any:
        """The value of a required field."""
        if field not in self.fields:
            raise self.fault(field, "is missing")
        return self.fields[field]

    def fault(self, field: str, problem: str) -> ValueError:
        """An error that names the source, the place and the field."""
        return ValueError(
            f"{self.source}: {self.place}: field {field!r} {problem}; correct the record"
        )


def lambada(row: TaskRow) -> TaskItem:
    """The last word of a passage."""
    context, blank, word = row.text("text").rstrip().rpartition(" ")
    if not context.strip():
        raise row.fault("text", f"must have two words at least, got {row.fields['text']!r}")
    return TaskItem("lambada", row.number, context, (blank + word,))


def hellaswag(row: TaskRow) -> TaskItem:
    """The continuation of a scene."""
    scene = f"{row.text('ctx_a', blank=True)} {row.text('ctx_b', blank=True).capitalize()}"
    endings = row.texts("endings", least=2)
    return TaskItem(
        "hellaswag",
        row.number,
        _without_marks(f"{row.text('activity_label')}: {scene}"),
        tuple(f" {_without_marks(ending)}" for ending in endings),
        row.index("label", len(endings)),
    )


def _without_marks(text: str) -> str:
    """A text without WikiHow's ``[title]``, ``[step]`` and the like."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def piqa(row: TaskRow) -> TaskItem:
    """Which of two solutions reaches a goal; also with ``query``, ``choices``, ``gold``."""
    if "query" in row.fields:
        question = row.text("query").removesuffix("\n")
        solutions, gold = row.texts("choices", least=2), "gold"
    else:
        question = f"Question: {row.text('goal')}"
        solutions, gold = (row.text("sol1"), row.text("sol2")), "label"
    return TaskItem(
        "piqa",
        row.number,
        f"{question}\nAnswer:",
        tuple(f" {solution}" for solution in solutions),
        row.index(gold, len(solutions)),
    )


def mmlu(row: TaskRow) -> TaskItem:
    """The letter of one of four answers to a question on a subject."""
    answers = row.texts("choices", least=len(LETTERS))
    listed = "".join(f"{a}. {b}\n" for a, b in zip(LETTERS, answers, strict=False))
    subject = row.text("subject").replace("_", " ")
    return TaskItem(
        "mmlu",
        row.number,
        f"The following are multiple choice questions (with answers) about {subject}.\n\n"
        f"{row.text('question').strip()}\n{listed}Answer:",
        tuple(f" {letter}" for letter in LETTERS),
        row.index("answer", len(LETTERS)),
    )


def nq_open(row: TaskRow) -> TaskItem:
    """A question whose short answer the model writes."""
    return TaskItem(
        "nq_open",
        row.number,
        f"Answer these questions:\n\nQ: {row.text('question')}?\nA:",
        answers=row.texts("answer"),
        until=("\n", ".", ","),
    )


def squad_v2(row: TaskRow) -> TaskItem:
    """A question about a passage that holds the answer or none."""
    answers = row.value("answers")
    if isinstance(answers, dict):  # flat, as on the hub: parallel lists
        answers = answers.get("text")
    elif isinstance(answers, list):  # as published: a list of objects
        answers = [a.get("text") if isinstance(a, dict) else a for a in answers]
    return TaskItem(
        "squad_v2",
        row.number,
        f"Title: {row.text('title')}\n\nBackground: {row.text('context')}\n\n"
        f"Question: {row.text('question')}\n\nAnswer:",
        answers=row._replace(fields={"answers": answers}).texts("answers", least=0),
        until=("\n",),
    )


def flat(row: TaskRow) -> Iterator[TaskRow]:
    """The questions of SQuAD's official file, a single object of articles and paragraphs."""
    if "data" not in row.fields:
        yield row
        return
    number = 0
    for article in row.parts("data"):
        for paragraph in article.parts("paragraphs"):
            above = {
                name: part.fields.get(name)
                for name, part in (("title", article), ("context", paragraph))
            }
            for question in paragraph.parts("qas"):
                place = f"question {question.fields.get('id', number)}"
                yield TaskRow(row.source, place, number, above | question.fields)
                number += 1


class Task(NamedTuple):
    """A task's dataset on the hub, its evaluation split, and its form.

    Attributes:
        hub: name of the dataset.
        config: its configuration, if it has several.
        split: the one that lm-evaluation-harness evaluates.
        item: makes an item from a record.
    """

    hub: str
    config: str | None
    split: str
    item: Callable[[TaskRow], TaskItem]


TASKS = {
    "lambada": Task("EleutherAI/lambada_openai", "default", "test", lambada),
    "hellaswag": Task("Rowan/hellaswag", None, "validation", hellaswag),
    "piqa": Task("baber/piqa", None, "validation", piqa),
    "mmlu": Task("cais/mmlu", "all", "test", mmlu),
    "nq_open": Task("google-research-datasets/nq_open", None, "validation", nq_open),
    "squad_v2": Task("rajpurkar/squad_v2", None, "validation", squad_v2),
}
