"""The columns of the page: how a request is judged."""

from typing import NamedTuple


class Protocol(NamedTuple):
    """A column of the page.

    Attributes:
        name: in the CSV.
        head: on the page.
        field: of the journal or of ``standing.jsonl``.
        at_edit: whether it is measured just after each edit, rather than on all edits so far.
        meaning: a sentence.
    """

    name: str
    head: str
    field: str
    at_edit: bool
    meaning: str


PROTOCOLS = (
    Protocol("at_edit", "at the edit", "efficacy", True,
             "P(new) > P(true), teacher-forced, just after the edit."),
    Protocol("retained", "retained", "efficacy", False,
             "The same of all edits so far, on the model as it is at the mark."),
    Protocol("exact", "exact", "efficacy_exact_match", False,
             "Every token of the new answer is the greedy one, teacher-forced."),
    Protocol("generation", "question", "efficacy_generation", False,
             "Free text after the prompt alone begins with the new answer (WILD's question)."),
    Protocol("instruction", "instruction", "efficacy_generation_instruction", False,
             "The same behind WILD's instruction."),
    Protocol("chat", "chat", "efficacy_generation_chat", False,
             "The same in the model's chat template."),
    Protocol("paraphrase", "paraphrase", "paraphrase", False,
             "P(new) > P(true) after other wordings."),
    Protocol("neighborhood", "neighbors", "neighborhood", False,
             "P(true) > P(new) after prompts about other subjects."),
    Protocol("agreement", "neighbors as before", "neighborhood_agreement", False,
             "Greedy tokens after these prompts that are the unedited model's."),
    Protocol("negation", "negation", "negation", False,
             "After the denied fact (X is not ...) the model prefers the true answer to the new."),
    Protocol("reversal", "reversal", "reversal", False,
             "The new answer calls up the subject rather than one with another answer."),
    Protocol("one_hop", "one hop", "one_hop", False,
             "A fact about the new answer, asked by way of the subject, beats the old one."),
)  # fmt: skip
