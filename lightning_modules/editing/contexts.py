"""The contexts of an edit, and the one after which its request is evaluated."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_modules.records import EditRequest

from ..language_model.context_sampling import sample_contexts
from .prefixes import PromptPrefix, context_of

JOINT = 4  # tokens that may be added where a template and its prompt are joined


class Contexts:
    """Random prefixes of a prompt, the first one empty, sampled once from the unedited model.

    Args:
        lengths: number of templates by their length in tokens, besides the plain one.
        prefix: which prompts are evaluated after a template.
        seed: of the sampling, and of the choice of a template for the evaluation.

    Raises:
        ValueError: if requests need a template for their evaluation and there is none.
    """

    def __init__(self, lengths: Mapping[int, int], prefix: PromptPrefix, seed: int) -> None:
        if prefix.policy != "none" and not sum(lengths.values()):
            raise ValueError(
                f"test_prefix.policy is {prefix.policy!r}, but there is no context beside the "
                "plain one to judge behind; give some, such as --model.contexts '{5: 10}'"
            )
        self.lengths = lengths
        self.prefix = prefix
        self.seed = seed
        self.templates: list[str] = []
        self._far: dict[EditRequest, bool] = {}

    def sample(self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        """Samples the templates, unless they exist."""
        if not self.templates:
            chance = torch.Generator().manual_seed(self.seed)
            self.templates = sample_contexts(lm, tokenizer, self.lengths, chance)

    def require_prefixed(self, method: str) -> None:
        """Refuses a method that takes its keys from prefixed contexts if there are none.

        Raises:
            ValueError: if there is only the plain context.
        """
        if len(self.templates) < 2:
            raise ValueError(
                f"{method} takes its keys from prefixed contexts, and there are none; give some, "
                "such as --model.contexts '{5: 10}'"
            )

    def longest(self) -> int:
        """Tokens that a template puts before a prompt, at most."""
        lengths = [length for length, count in self.lengths.items() if count]
        return max(lengths) + JOINT if lengths else 0

    def number_of(self, request: EditRequest) -> int:
        """Number of a request's template: always the same, never 0, the plain one."""
        return context_of(request, self.templates, self.seed)

    def before(
        self, request: EditRequest, key_cosine: Callable[[EditRequest], float]
    ) -> str | None:
        """The template after which a request is evaluated; None if it needs none.

        Args:
            request: the request.
            key_cosine: cosine of a request's plain and mean key in the unedited model.
        """
        if self.prefix.policy == "none":
            return None
        if self.prefix.policy == "collapse":
            if request not in self._far:
                self._far[request] = key_cosine(request) < self.prefix.cosine
            if not self._far[request]:
                return None
        return self.templates[self.number_of(request)]

    def card(self) -> dict[str, Any]:
        """The templates, and which prompts are evaluated after them."""
        return {"contexts": self.templates, "test_prefix": asdict(self.prefix)}
