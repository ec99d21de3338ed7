"""Records whose prompts are questions, zsRE's and QAEdit's, as edit requests."""

from ..records import EditRequest
from .fields import Record
from .portability import portability


def zsre(record: Record) -> EditRequest:
    """A case of MEND's zsRE; ``pred`` is a model's guess and only stands in for ``answers``."""
    prompt, subject = record.slotted("src", "subject")
    answers = record.texts("answers") or record.texts("pred") or ("",)
    return EditRequest(
        case_id=record.case_id,
        prompt=prompt,
        subject=subject,
        target_new=record.text("alt"),
        target_true=answers[0].strip(),
        paraphrases=record.texts("rephrase"),
        neighborhood=record.probes("loc", "loc_ans"),
        portability=portability(record),
    )


def qaedit(record: Record) -> EditRequest:
    """A case of QAEdit, which has no answer before the edit."""
    prompt, subject = record.slotted("prompt", "subject")
    locality = record.value("locality") or []
    if not isinstance(locality, list):
        raise record.fault("locality", f"must be a list, got {locality!r}")
    pairs = [record._replace(fields={"case_id": record.case_id, "locality": p}) for p in locality]
    return EditRequest(
        case_id=record.case_id,
        prompt=prompt,
        subject=subject,
        target_new=record.text("target"),
        paraphrases=record.texts("rephrase"),
        neighborhood=sum((p.probes("locality.loc", "locality.loc_ans") for p in pairs), ()),
        portability=portability(record),
    )
