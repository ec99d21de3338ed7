"""CounterFact's records as edit requests."""

from collections.abc import Sequence

from ..records import EditRequest
from .fields import Record
from .neighborhood import neighborhood, paraphrases
from .portability import portability

PROMPT = ("prompt", "src", "question")
TARGET_NEW = ("target_new", "alt", "target")
TARGET_TRUE = ("target_true", "ground_truth", "answers", "pred")


def published_counterfact(record: Record) -> EditRequest:
    """A case as its authors publish it; neighbors without an answer share the true one.

    The true answer may be empty: this project writes requests without one that way.
    """
    field = "requested_rewrite.target_true"
    true = record.answer(field, default="" if _is_empty(record.value(field)) else None)
    prompt, subject = _template(record)
    return EditRequest(
        case_id=record.case_id,
        prompt=prompt,
        subject=subject,
        target_new=record.answer("requested_rewrite.target_new"),
        target_true=true,
        paraphrases=paraphrases(record),
        neighborhood=neighborhood(record, true or None),
        portability=portability(record),
        attributes=record.texts("attribute_prompts"),
        generation=record.texts("generation_prompts"),
        relation_id=_identifier(record.value("requested_rewrite.relation_id")),
        target_id=_identifier(record.value("requested_rewrite.target_new"), "id"),
        joined=record.value("joined") is True,
    )


def flat_counterfact(record: Record) -> EditRequest:
    """A case in EasyEdit's form; ``prompt``, ``subject`` and ``target_new`` are enough."""
    return flat_case(record, PROMPT, TARGET_NEW, TARGET_TRUE)


def flat_case(
    record: Record, prompts: Sequence[str], new: Sequence[str], true: Sequence[str]
) -> EditRequest:
    """A case with flat fields; of alternative names, the first non-empty field counts.

    Args:
        record: the case.
        prompts: names of the prompt.
        new: names of the target answer.
        true: names of the answer before the edit, which may be missing.
    """
    prompt, subject = record.slotted(record.first_of(prompts), "subject")
    answers = (record.answer(name, default="") for name in true)
    return EditRequest(
        case_id=record.case_id,
        prompt=prompt,
        subject=subject,
        target_new=record.answer(record.first_of(new)),
        target_true=next(filter(None, answers), ""),
        paraphrases=paraphrases(record),
        neighborhood=neighborhood(record),
        portability=portability(record),
    )


def _is_empty(true: object) -> bool:
    return true == "" or (isinstance(true, dict) and true.get("str") == "")


def _identifier(value: object, name: str | None = None) -> str:
    """Wikidata's identifier, which may be the ``name`` of an object; empty if there is none."""
    if name is not None:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""


def _template(record: Record) -> tuple[str, str]:
    """The prompt and its subject; a prompt without a slot has none."""
    field, subject = "requested_rewrite.prompt", record.value("requested_rewrite.subject")
    if subject in (None, "") and "{}" not in str(record.value(field)):
        return record.text(field), ""
    return record.template(field), record.text("requested_rewrite.subject")
