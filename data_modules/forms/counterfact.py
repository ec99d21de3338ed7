"""CounterFact's records as edit requests."""

from ..records import EditRequest
from .fields import Record
from .portability import portability


def published_counterfact(record: Record) -> EditRequest:
    """A case as its authors publish it; all neighbors share the true answer if none is given.

    The true answer may be an empty text: so this project writes requests that have none.
    """
    field = "requested_rewrite.target_true.str"
    true = record.text(field) if record.value(field) != "" else ""
    return EditRequest(
        case_id=record.case_id,
        prompt=record.template("requested_rewrite.prompt"),
        subject=record.text("requested_rewrite.subject"),
        target_new=record.text("requested_rewrite.target_new.str"),
        target_true=true,
        paraphrases=record.texts("paraphrase_prompts"),
        neighborhood=record.probes("neighborhood_prompts", "neighborhood_targets", true or None),
        portability=portability(record),
    )


def flat_counterfact(record: Record) -> EditRequest:
    """A case in EasyEdit's form; ``prompt``, ``subject`` and ``target_new`` are enough."""
    prompt, subject = record.slotted("prompt", "subject")
    return EditRequest(
        case_id=record.case_id,
        prompt=prompt,
        subject=subject,
        target_new=record.text("target_new"),
        target_true=record.text("ground_truth", default=""),
        paraphrases=record.texts("rephrase_prompt"),
        neighborhood=record.probes("locality_prompt", "locality_ground_truth"),
        portability=portability(record),
    )
