"""What stands before a prompt when an edit is judged: a context it was edited in, or nothing."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from data_modules.records import EditRequest


@dataclass(frozen=True)
class PromptPrefix:
    """Which prompts are judged behind one of the contexts of their edit.

    An edit with consistent keys answers where its subject is not the first token; where it is, it
    fails without a prefix (The Fall of ROME, section 5).

    Attributes:
        policy: ``none``, ``all`` requests, or ``collapse``: those whose plain key is far from
            their mean key in the unedited model, which is why ROME collapses on them.
        paraphrases: whether paraphrases get it too, beside the rewrite prompt.
        cosine: of plain and mean key, below which a request is one of ``collapse``.
    """

    policy: Literal["none", "all", "collapse"] = "none"
    paraphrases: bool = False
    cosine: float = 0.5

    def before(self, request: EditRequest, context: str) -> EditRequest:
        """The request as it is judged behind a context; its neighbors stay as they are."""
        return request._replace(
            prompt=context.replace("{}", request.prompt, 1),
            paraphrases=tuple(
                context.replace("{}", paraphrase, 1) if self.paraphrases else paraphrase
                for paraphrase in request.paraphrases
            ),
        )


def context_of(request: EditRequest, contexts: Sequence[str], seed: int) -> int:
    """Number of the request's context, always the same one and never the plain one, which is 0."""
    return random.Random(f"{seed} {request.case_id}").randrange(1, len(contexts))
