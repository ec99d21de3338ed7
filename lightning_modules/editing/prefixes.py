"""The prefix of a prompt in the evaluation of an edit: one of the edit's contexts, or none."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from data_modules.records import EditRequest


@dataclass(frozen=True)
class PromptPrefix:
    """Which prompts are evaluated after one of the contexts of their edit.

    An edit with consistent keys fails if its subject is the prompt's first token and has no prefix
    (The Fall of ROME, section 5).

    Attributes:
        policy: ``none``, ``all`` requests, or ``collapse``: those whose plain key is far from their
            mean key in the unedited model, the cause of ROME's collapse.
        paraphrases: whether paraphrases get it too, besides the rewrite prompt.
        cosine: of plain and mean key, below which a request counts as ``collapse``.
    """

    policy: Literal["none", "all", "collapse"] = "none"
    paraphrases: bool = False
    cosine: float = 0.5

    def before(self, request: EditRequest, context: str) -> EditRequest:
        """The request with a context before its prompts; its neighbors stay unchanged."""
        return request._replace(
            prompt=context.replace("{}", request.prompt, 1),
            paraphrases=tuple(
                context.replace("{}", paraphrase, 1) if self.paraphrases else paraphrase
                for paraphrase in request.paraphrases
            ),
        )


def context_of(request: EditRequest, contexts: Sequence[str], seed: int) -> int:
    """Number of the request's context: always the same, never 0, the plain one."""
    return random.Random(f"{seed} {request.case_id}").randrange(1, len(contexts))
