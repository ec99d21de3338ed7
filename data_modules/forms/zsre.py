"""Records with questions as prompts, zsRE's and QAEdit's, as edit requests."""

from ..records import EditRequest
from .counterfact import flat_case
from .fields import Record


def zsre(record: Record) -> EditRequest:
    """A case of MEND's zsRE; ``pred``, a model's guess, is used only if ``answers`` is missing."""
    return flat_case(record, ("src", "prompt"), ("alt",), ("answers", "pred"))


def qaedit(record: Record) -> EditRequest:
    """A case of QAEdit, or of FastEdit; most have no answer before the edit."""
    return flat_case(record, ("prompt", "src"), ("target",), ("target_true", "ground_truth"))
