"""What is known about one edit: a mapping that holds declared fields and nothing else."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .record_fields import GROUPS, SLOTS, Field

ANY = r"\w+"  # a slot that is no slot of ours


class Known(NamedTuple):
    """A declared field, as it is looked up.

    Attributes:
        pattern: of the names that belong to it.
        field: its declaration.
        place: on the dashboard.
    """

    pattern: re.Pattern[str]
    field: Field
    place: str


class UndeclaredFieldError(KeyError):
    """A record was given a field that nobody has declared."""

    def __str__(self) -> str:
        """The sentence itself; a KeyError would quote it."""
        return str(self.args[0])


def pattern_of(name: str) -> re.Pattern[str]:
    """The names that a declared name stands for, as a regular expression."""
    optional = name.replace("[", "(?:").replace("]", ")?")
    return re.compile(re.sub("[A-Z]+", lambda word: f"(?:{SLOTS.get(word[0], ANY)})", optional))


KEELS = [Known(pattern_of(f.name), f, group.place) for group in GROUPS for f in group.fields]
OWN: dict[str, Known] = {}  # what plug-ins declare when they are imported


def find(name: str) -> Known | None:
    """The declaration of a field; None if there is none."""
    return next((known for known in (*KEELS, *OWN.values()) if known.pattern.fullmatch(name)), None)


def place_of(name: str) -> str:
    """The place of a figure on the dashboard, whoever has declared it.

    A score before the edit has that of the score.
    """
    known = find(name)
    if known is not None and name.endswith("_before"):
        known = find(name.removesuffix("_before"))
    return known.place if known is not None else "edit"


def declare(*fields: Field) -> None:
    """Lets records hold further fields; the module of the class that writes them calls it.

    Raises:
        ValueError: if another class already writes a field of this name.
    """
    for field in fields:
        known = find(field.name)
        if known is not None and known.field.writer != field.writer:
            raise ValueError(
                f"{known.field.writer} already writes the field {field.name!r} "
                f"({known.field.meaning}); give {field.writer}'s another name"
            )
        OWN[field.name] = Known(pattern_of(field.name), field, "edit")


class EditRecord(dict[str, Any]):
    """The record of one edit; whatever is written must be declared and of the declared type.

    It is a ``dict``, so that JSON takes it as it is; ``|`` gives a plain one.

    Raises:
        UndeclaredFieldError: if a field is written that is not declared.
        TypeError: if its value has another type than declared.
    """

    def __init__(self, fields: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()) -> None:
        super().__init__()
        self.update(fields)

    def __setitem__(self, name: str, value: Any) -> None:
        check(name, value)
        super().__setitem__(name, value)

    def __ior__(self, fields: Mapping[str, Any]) -> "EditRecord":  # type: ignore[misc] # unlike |
        self.update(fields)
        return self

    def update(
        self, fields: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), /, **more: Any
    ) -> None:
        """Writes several fields."""
        for name, value in dict(fields, **more).items():
            self[name] = value

    def setdefault(self, name: str, default: Any = None) -> Any:
        """The value of a field, which is the default from now on if it had none."""
        if name not in self:
            self[name] = default
        return self[name]


class HeldRecord:
    """An attribute that holds an edit's record; a mapping assigned to it becomes one."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = f"_{name}"

    def __get__(self, owner: Any, kind: type) -> EditRecord:
        return vars(owner)[self.name]

    def __set__(self, owner: Any, fields: Mapping[str, Any]) -> None:
        record = fields if isinstance(fields, EditRecord) else EditRecord(fields)
        vars(owner)[self.name] = record


def check(name: str, value: Any) -> None:
    """Raises what :class:`EditRecord` raises of a field and its value."""
    known = find(name)
    if known is None:
        raise UndeclaredFieldError(
            f"nobody has declared the field {name!r} of an edit's record: call declare(Field("
            f"{name!r}, ...)) of lightning_modules.editing.record beside the class that writes it"
        )
    if not isinstance(value, known.field.kind):
        kind = getattr(known.field.kind, "__name__", known.field.kind)
        raise TypeError(
            f"the field {name!r} of an edit's record must be {kind}, got {type(value).__name__} "
            f"{value!r:.60}; convert it before it is written"
        )
