"""A dataset's record, read field by field; a fault is reported with the place where it is."""

import re
from typing import Any, NamedTuple

from ..records import Probe


class FaultyRecordError(ValueError):
    """One record of a dataset cannot become an edit request."""


class Record(NamedTuple):
    """A row of a dataset and where it stands.

    Every method raises `FaultyRecordError` if a field is missing, blank or of another type. A
    field may be a dotted path such as ``requested_rewrite.subject``.

    Attributes:
        source: the file or hub dataset.
        number: place in the source, from 0.
        fields: what the row holds.
    """

    source: str
    number: int
    fields: dict[str, Any]

    @property
    def case_id(self) -> int:
        """``case_id`` or ``id``, or the record's number where there is neither."""
        name = "case_id" if "case_id" in self.fields else "id"
        case_id = self.fields.get(name, self.number)
        if not isinstance(case_id, int):
            raise self.fault(name, f"must be a whole number, got {case_id!r}")
        return case_id

    def value(self, field: str) -> Any:
        """What stands at a field, or None."""
        value: Any = self.fields
        for name in field.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def text(self, field: str, default: str | None = None) -> str:
        """A text without surrounding blanks; required if there is no default."""
        value = self.value(field)
        if default is not None and value in (None, ""):
            return default
        return self._checked(field, value).strip()

    def texts(self, field: str) -> tuple[str, ...]:
        """A text or a list of texts, without trailing blanks; empty if the field is missing."""
        value = self.value(field)
        items = value if isinstance(value, list) else [] if value is None else [value]
        return tuple(self._checked(field, item).rstrip(" ") for item in items)

    def template(self, field: str) -> str:
        """A prompt that has its slot; blanks at its end are dropped, line breaks are its own."""
        return self._with_one_slot(field, self._checked(field, self.value(field)).rstrip(" "))

    def slotted(self, prompt: str, subject: str) -> tuple[str, str]:
        """The prompt at one field with a slot for the subject at the other, and that subject.

        The subject is spelled as in the prompt, so that filling the slot restores the prompt.
        """
        text, name = self._checked(prompt, self.value(prompt)).rstrip(" "), self.text(subject)
        place = subject_span(text, name)
        if place is None:
            raise self.fault(prompt, f"must contain the subject {name!r}, got {text!r}")
        start, end = place
        return self._with_one_slot(prompt, f"{text[:start]}{{}}{text[end:]}"), text[start:end]

    def probes(self, prompts: str, answers: str, default: str | None = None) -> tuple[Probe, ...]:
        """Prompts at one field with the answers at the other, or with one answer for all."""
        questions, replies = self.texts(prompts), self.texts(answers)
        if not replies and default is not None:
            replies = (default,) * len(questions)
        if len(replies) != len(questions):
            counts = f"{len(questions)} prompts, got {len(replies)}"
            raise self.fault(answers, f"must have an answer for each of the {counts}")
        return tuple(map(Probe, questions, map(str.strip, replies)))

    def fault(self, field: str, problem: str) -> FaultyRecordError:
        """An error that names the source, the record, its case and the field."""
        case = self.fields.get("case_id", self.fields.get("id", self.number))
        return FaultyRecordError(
            f"{self.source}: record {self.number} (case {case}): field {field!r} {problem}; "
            "correct the record, or leave such records out with skip_faulty: true"
        )

    def _checked(self, field: str, value: object) -> str:
        if value is None:
            raise self.fault(field, "is missing")
        if not isinstance(value, str):
            raise self.fault(field, f"must be text, got {value!r}")
        if not value.strip():
            raise self.fault(field, "is blank")
        return value

    def _with_one_slot(self, field: str, prompt: str) -> str:
        if prompt.count("{}") != 1:
            raise self.fault(
                field, f"must have one {{}} in the subject's place and no other, got {prompt!r}"
            )
        return prompt


def subject_span(prompt: str, subject: str) -> tuple[int, int] | None:
    """Start and end of a subject's last occurrence in a prompt, or None.

    Whole words come before parts of words, the same case before another one.
    """
    part = re.escape(subject)
    for pattern in (rf"(?<!\w){part}(?!\w)", part):
        for flags in (re.NOFLAG, re.IGNORECASE):
            # the greedy start makes it the last occurrence, also where occurrences overlap
            found = re.match(rf"(?s:.*)({pattern})", prompt, flags)
            if found:
                return found.span(1)
    return None
