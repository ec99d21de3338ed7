"""The new fact in the context instead of the weights: given, or retrieved from all so far."""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from data_modules.records import EditRequest

from ..editing.edited_weights import Update
from .no_edit import NoEdit

if TYPE_CHECKING:
    from bm25s import BM25  # at run time where it is used: it starts JAX where that is installed

FACTS = "facts"  # the history's entry


class InContext(NoEdit):
    """Puts a new fact, as a sentence, before the prompts; the weights stay as they are.

    The facts so far are the history. ``own`` puts a request's own fact before all its prompts,
    those about neighbors too. ``bm25`` puts before each prompt the fact that BM25 (Robertson's,
    Lucene's variant) ranks highest among all facts so far; none if no word of a fact occurs in the
    prompt. Watched texts and tasks are asked without any fact, so their scores are those of the
    unedited model.

    Args:
        retrieve: how the fact of a prompt is found.
        template: of the sentence, with ``{prompt}`` and ``{answer}``.
    """

    def __init__(
        self,
        retrieve: Literal["own", "bm25"] = "own",
        template: str = "{prompt} {answer}. ",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not ("{prompt}" in template and "{answer}" in template):
            raise ValueError(f"template must hold {{prompt}} and {{answer}}, got {template!r}")
        self.retrieve = retrieve
        self.template = template

    @property
    def facts(self) -> dict[str, str]:
        """The sentence of each request so far, by its identity."""
        stored = self.history.get(FACTS)
        return json.loads(bytes(stored.tolist())) if stored is not None else {}

    def edit(self, requests: Sequence[EditRequest]) -> Iterator[Update]:
        """Adds the facts to the history; no change of weights."""
        facts = self.facts
        for request in requests:
            sentence = self.template.replace("{prompt}", request.text)
            facts[request.identity] = sentence.replace("{answer}", request.target_new)
        stored = json.dumps(facts).encode()
        self.history[FACTS] = torch.tensor(list(stored), dtype=torch.uint8, device=self.device)
        yield from ()

    def worded(self, request: EditRequest) -> EditRequest:
        """The request with a fact before each of its prompts."""
        facts = self.facts
        if not facts:
            return request
        asked = Context(facts, request.identity, self.retrieve)
        return request._replace(
            prompt=asked.before(request.text) + request.prompt,
            paraphrases=tuple(asked.before(p) + p for p in request.paraphrases),
            attributes=tuple(asked.before(p) + p for p in request.attributes),
            neighborhood=tuple(
                p._replace(prompt=asked.before(p.prompt) + p.prompt) for p in request.neighborhood
            ),
            portability=tuple(
                p._replace(prompt=asked.before(p.prompt) + p.prompt) for p in request.portability
            ),
        )

    def card(self) -> dict[str, Any]:
        """Adds how facts are found and worded."""
        return super().card() | {"retrieve": self.retrieve, "template": self.template}


class Context:
    """The fact to put before a prompt.

    Args:
        facts: sentences by the identity of their request.
        identity: of the request whose prompts are asked.
        retrieve: ``own`` or ``bm25``.
    """

    def __init__(self, facts: dict[str, str], identity: str, retrieve: str) -> None:
        self.sentences = list(facts.values())
        self.own = facts.get(identity, "")
        self.index = bm25_index(self.sentences) if retrieve == "bm25" else None

    def before(self, prompt: str) -> str:
        """The sentence, or nothing."""
        if self.index is None:
            return self.own
        found, scores = self.index.retrieve(tokens_of([prompt]), k=1, show_progress=False)
        return self.sentences[found[0, 0]] if scores[0, 0] > 0 else ""


def bm25_index(sentences: Sequence[str]) -> "BM25":
    """An index of sentences."""
    from bm25s import BM25

    index = BM25()
    index.index(tokens_of(sentences), show_progress=False)
    return index


def tokens_of(texts: Sequence[str]) -> Any:
    """Words of texts, as the index takes them; English stop words are left out."""
    from bm25s import tokenize

    return tokenize(list(texts), stopwords="en", show_progress=False)
