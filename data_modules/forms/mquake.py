"""MQuAKE's records: a list of rewrites is one edit, and questions follow from all of them."""

from ..records import EditRequest, Probe
from .counterfact import published_counterfact
from .fields import Record

ASKED = ("questions", "new_answer", "new_answer_alias")


def rewrites(record: Record) -> list[EditRequest]:
    """The requests of a record in CounterFact's form, whose rewrite may be a list."""
    several = isinstance(record.fields["requested_rewrite"], list)
    return mquake(record) if several else [published_counterfact(record)]


def mquake(record: Record) -> list[EditRequest]:
    """The requests of one edit; the record's further questions belong to the last one.

    Raises:
        FaultyRecordError: if a rewrite is faulty, or there is none.
    """
    listed = record.value("requested_rewrite")
    if not listed:
        raise record.fault("requested_rewrite", "must hold a rewrite, got an empty list")
    parts = [record.part({"requested_rewrite": rewrite}) for rewrite in listed]
    rest = {name: held for name, held in record.fields.items() if name != "requested_rewrite"}
    parts[-1].fields.update(rest)
    requests = [published_counterfact(part) for part in parts]
    parts[-1].taken.update(ASKED)
    record.notes.unread.update({path for part in parts for path in part.unread()})
    record.taken.update(rest)
    asked = _questions(record)
    last = requests[-1]
    requests[-1] = last._replace(portability=last.portability + asked)
    return [request._replace(joined=place > 0) for place, request in enumerate(requests)]


def _questions(record: Record) -> tuple[Probe, ...]:
    """Each wording of the question, with its answer after the whole edit."""
    answers = [record.value("new_answer"), record.value("new_answer_alias")]
    part = record.part({"new_answer": answers, "questions": record.value("questions")})
    asked = part.texts("questions")
    found = part.answers("new_answer", [answer for answer in answers if answer is not None])
    record.notes.unanswered["questions"] += len(asked) if not found else 0
    return tuple(Probe(question, found[0], found[1:]) for question in asked if found)
