"""A dataset's record, read field by field; faults are reported with their location."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..records import Probe
from ..text.files import is_whole
from .notes import Notes
from .subjects import names_subject, subject_span


class FaultyRecordError(ValueError):
    """One record of a dataset cannot become an edit request."""


@dataclass(frozen=True)
class Record:
    """A row of a dataset and its location.

    Every method raises `FaultyRecordError` if a field is missing, blank or of another type. A
    field may be a dotted path such as ``requested_rewrite.subject``.

    Attributes:
        source: the file or hub dataset.
        number: place in the source, from 0.
        fields: the row's content.
        place: location in the file, such as ``line 3``, if its number does not give it.
        notes: collects what is left out.
        taken: fields already read.
    """

    source: str
    number: int
    fields: dict[str, Any]
    place: str = ""
    notes: Notes = field(default_factory=Notes)
    taken: set[str] = field(default_factory=set)

    @property
    def case_id(self) -> int:
        """``case_id`` or ``id``, or the record's number if there is neither.

        An ``id`` of another type, such as a name, is left unread.
        """
        case_id = self._whole(self.value("case_id")) if "case_id" in self.fields else None
        if case_id is None and self.fields.get("case_id") is not None:
            raise self.fault(
                "case_id", f"must be a whole number, got {described(self.fields['case_id'])}"
            )
        if case_id is None and (case_id := self._whole(self.fields.get("id"))) is not None:
            self.taken.add("id")
        return self.number if case_id is None else case_id

    def value(self, field: str) -> Any:
        """A field's value, or None."""
        self.taken.add(field)
        value: Any = self.fields
        above = ""
        for name in field.split("."):
            if not isinstance(value, dict | None):
                raise self.fault(above, f"must be an object, got {described(value)}")
            value, above = (value or {}).get(name), f"{above}.{name}".lstrip(".")
        return value

    def first_of(self, names: Sequence[str]) -> str:
        """The first non-empty one of these fields, or the first one if all are empty."""
        return next((name for name in names if self.fields.get(name) is not None), names[0])

    def text(self, field: str, default: str | None = None) -> str:
        """A text without surrounding blanks; required if there is no default."""
        value = self.value(field)
        if default is not None and value in (None, ""):
            return default
        return self.checked(field, value).strip()

    def answer(self, field: str, default: str | None = None) -> str:
        """An answer without surrounding blanks; the first one if there are several.

        It is a text, ``{"str": text}``, or a list of these; required if there is no default.
        """
        found = self.answers(field, self.value(field), default is not None)
        if len(found) > 1:
            self.notes.further[field] += 1
        if found:
            return found[0]
        if default is None:
            raise self.fault(field, "has no answer, but an empty list")
        return default

    def answers(self, field: str, value: Any, optional: bool = False) -> tuple[str, ...]:
        """All distinct texts of an answer; blank ones in a list do not count.

        Args:
            field: its name.
            value: a text, ``{"str": text}``, or a list, nested or not, of these.
            optional: whether it may be missing or empty.
        """
        if isinstance(value, list):
            nested = [self.answers(field, item, is_blank(item)) for item in value]
            return tuple(dict.fromkeys(text for texts in nested for text in texts))
        if isinstance(value, dict):
            field, value = f"{field}.str", value.get("str")
        if optional and is_blank(value):
            return ()
        return (self.checked(field, value).strip(),)

    def texts(self, field: str) -> tuple[str, ...]:
        """A text or a list of texts, without trailing blanks; empty if the field is missing."""
        return tuple(self.listed(field, self.value(field)))

    def listed(self, field: str, value: Any) -> Iterator[str]:
        """The texts of a list, nested or not; a text counts as one."""
        for item in value if isinstance(value, list) else [] if value is None else [value]:
            if isinstance(item, list):
                yield from self.listed(field, item)
            else:
                yield self.checked(field, item).rstrip(" ")

    def probes(self, prompts: str, answers: str, default: str | None = None) -> tuple[Probe, ...]:
        """Prompts of one field with their answers from the other, or with one answer for all.

        A single prompt may have several answers; a prompt with an empty list is left out.
        """
        asked, replies = self.value(prompts), self.value(answers)
        questions = tuple(self.listed(prompts, asked))
        if replies is None:
            replies = [] if default is None else [default] * len(questions)
        elif not isinstance(asked, list) or not isinstance(replies, list):
            replies = [replies]
        elif not replies:
            replies = [[]] * len(questions)
        if len(replies) != len(questions):
            counts = f"{len(questions)} prompts, got {len(replies)}"
            raise self.fault(answers, f"must have an answer for each of the {counts}")
        texts = [self.answers(answers, [reply]) for reply in replies]
        self.notes.unanswered[answers] += sum(not own for own in texts)
        return tuple(
            Probe(question, own[0], own[1:])
            for question, own in zip(questions, texts, strict=True)
            if own
        )

    def template(self, field: str) -> str:
        """A prompt with its slot; trailing blanks are dropped, line breaks kept."""
        return self.with_one_slot(field, self.checked(field, self.value(field)).rstrip(" "))

    def slotted(self, prompt: str, subject: str) -> tuple[str, str]:
        """The prompt of one field with a slot for the subject of the other, and that subject.

        The prompt already has the slot, or the subject is spelled as in the prompt, so that filling
        the slot restores the prompt. Without a subject the prompt is unchanged.
        """
        text = self.checked(prompt, self.value(prompt)).rstrip(" ")
        if self.value(subject) in (None, ""):
            if "{}" in text:
                raise self.fault(subject, f"is missing, but the prompt has a slot: {text!r}")
            return text, ""
        name = self.text(subject)
        if text.count("{}") == 1 and not names_subject(text, name):
            return text, name
        place = subject_span(text, name)
        if place is None:
            raise self.fault(prompt, f"must contain the subject {name!r}, got {text!r}")
        start, end = place
        return self.with_one_slot(prompt, f"{text[:start]}{{}}{text[end:]}"), text[start:end]

    def part(self, fields: dict[str, Any]) -> "Record":
        """Some fields of the case, as a record with the same location and notes."""
        return replace(self, fields={"case_id": self.case_id, **fields}, taken=set())

    def fault(self, field: str, problem: str) -> FaultyRecordError:
        """An error that names the source, the record, its case and the field."""
        case = self.fields.get("case_id", self.fields.get("id", self.number))
        return FaultyRecordError(
            f"{self.located} (case {case}): field {field!r} {problem}; "
            "correct the record, or leave such records out with skip_faulty: true"
        )

    @property
    def located(self) -> str:
        """The source, the record's line, and its number."""
        line = f" {self.place}:" if self.place.startswith("line") else ""
        return f"{self.source}:{line} record {self.number}"

    def unread(self) -> Iterator[str]:
        """Non-empty fields that have not been read."""
        return self._unread("", self.fields)

    def _unread(self, above: str, fields: dict[str, Any]) -> Iterator[str]:
        for name, value in fields.items():
            path = f"{above}{name}"
            if path in self.taken or value is None:
                continue
            if isinstance(value, dict) and any(t.startswith(f"{path}.") for t in self.taken):
                yield from self._unread(f"{path}.", value)
            else:
                yield path

    def checked(self, field: str, value: object) -> str:
        """A text that is not blank."""
        if value is None:
            raise self.fault(field, "is missing")
        if not isinstance(value, str):
            raise self.fault(field, f"must be text, got {described(value)}")
        if not value.strip():
            raise self.fault(field, "is blank")
        if not is_whole(value):
            raise self.fault(field, f"holds half of a character (a lone surrogate): {value!a:.80}")
        return value

    def with_one_slot(self, field: str, prompt: str) -> str:
        """A prompt that has one slot."""
        if prompt.count("{}") != 1:
            raise self.fault(
                field, f"must have one {{}} in the subject's place and no other, got {prompt!r}"
            )
        return prompt

    @staticmethod
    def _whole(value: object) -> int | None:
        if isinstance(value, str) and value.isascii() and value.isdecimal():
            return int(value)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


def is_blank(value: object) -> bool:
    """Whether a value is null or a blank text."""
    return value is None or (isinstance(value, str) and not value.strip())


def described(value: object, items: str = "values") -> str:
    """A short description of a value.

    Args:
        value: the value.
        items: name for a list's items.
    """
    if isinstance(value, list):
        return f"a list of {len(value)} {items}"
    if isinstance(value, dict):
        return f"an object with the fields {sorted(map(str, value))}"
    return repr(value)
