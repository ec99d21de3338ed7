"""The contexts in which a request is edited, and the one behind which it is judged."""

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
    """Random beginnings before a prompt, the first one empty, sampled once from the unedited model.

    Args:
        lengths: how many templates of how many tokens, beside the plain one.
        prefix: which prompts are judged behind a template.
        seed: of the sampling, and of the choice of a template to judge behind.

    Raises:
        ValueError: if requests are to be judged behind a template and there is none.
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
        """Samples the templates, unless they are there."""
        if not self.templates:
            chance = torch.Generator().manual_seed(self.seed)
            self.templates = sample_contexts(lm, tokenizer, self.lengths, chance)

    def longest(self) -> int:
        """Tokens that a template puts before a prompt, at most."""
        lengths = [length for length, count in self.lengths.items() if count]
        return max(lengths) + JOINT if lengths else 0

    def number_of(self, request: EditRequest) -> int:
        """Number of a request's template: always the same one, and never the plain one, 0."""
        return context_of(request, self.templates, self.seed)

    def before(
        self, request: EditRequest, key_cosine: Callable[[EditRequest], float]
    ) -> str | None:
        """The template behind which a request is judged; None if it is judged as it is.

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
        """The templates, and what is judged behind them."""
        return {"contexts": self.templates, "test_prefix": asdict(self.prefix)}
