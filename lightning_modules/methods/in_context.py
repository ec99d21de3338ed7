"""Editing a request in several contexts, and judging it behind one of them."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from data_modules.records import EditRequest

from ..editing.editor import Editor
from ..editing.prefixes import PromptPrefix, context_of
from ..language_model.context_sampling import sample_contexts
from ..language_model.keys import subject_states
from ..language_model.values import key_cosine


class ContextEditor(Editor):
    """Edits requests in contexts: random beginnings before the prompt, the first one being empty.

    Args:
        contexts: how many context templates of how many tokens, beside the plain one; by default
            as many as the method's authors take.
        test_prefix: which prompts are judged behind a context.
    """

    usual_contexts: Mapping[int, int] = {5: 10, 10: 10}

    def __init__(
        self,
        contexts: dict[int, int] | None = None,
        test_prefix: PromptPrefix = PromptPrefix(),  # noqa: B008 - frozen
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.context_lengths = self.usual_contexts if contexts is None else contexts
        if test_prefix.policy != "none" and not sum(self.context_lengths.values()):
            raise ValueError(
                f"test_prefix.policy is {test_prefix.policy!r}, but there is no context beside the "
                "plain one to judge behind; give some, such as --model.contexts '{5: 10}'"
            )
        self.test_prefix = test_prefix
        self.contexts: list[str] = []
        self.far: dict[EditRequest, bool] = {}

    @property
    @abstractmethod
    def value_layer(self) -> int:
        """The layer whose keys tell how far a request's plain key is from its mean key."""

    def prepare(self) -> None:
        """Samples the context templates, once."""
        super().prepare()
        if not self.contexts:
            chance = torch.Generator().manual_seed(self.seed)
            self.contexts = sample_contexts(self.lm, self.tokenizer, self.context_lengths, chance)

    def on_test_start(self) -> None:
        """Samples contexts to judge behind, if no checkpoint has brought them."""
        if self.test_prefix.policy != "none":
            with self.edited.unedited():
                ContextEditor.prepare(self)

    def context_of(self, request: EditRequest) -> int:
        """Number of the context that a request is judged behind."""
        return context_of(request, self.contexts, self.seed)

    def worded(self, request: EditRequest) -> EditRequest:
        """The request as it is judged, behind a context if it is to be, which the record tells."""
        if not self.behind_context(request):
            return request
        context = self.contexts[self.context_of(request)]
        self.record.setdefault("test_prefix", {})[str(request.case_id)] = context
        return self.test_prefix.before(request, context)

    def behind_context(self, request: EditRequest) -> bool:
        """Whether a request is judged behind a context."""
        if self.test_prefix.policy != "collapse":
            return self.test_prefix.policy == "all"
        if request not in self.far:
            layers = (self.value_layer, self.value_layer)
            with self.edited.unedited():
                states = subject_states(self.lm, self.tokenizer, layers, self.contexts, [request])
            self.far[request] = key_cosine(states.keys[0]) < self.test_prefix.cosine
        return self.far[request]

    def card(self) -> dict[str, Any]:
        """Adds the context templates and what is judged behind them."""
        return super().card() | {
            "contexts": self.contexts,
            "test_prefix": asdict(self.test_prefix),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the context templates."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["contexts"] = list(self.contexts)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the context templates back."""
        super().on_load_checkpoint(checkpoint)
        self.contexts = list(checkpoint["contexts"])
