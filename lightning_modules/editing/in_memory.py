"""A model in memory that is lent to an editor, and the report of what its edits did."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, overload

from transformers import PreTrainedModel

from data_modules.records import EditRequest

from ..language_model.split import turn_into
from .editor import Editor
from .replies import replies

NEW_TOKENS = 16


class Outcome(NamedTuple):
    """What became of one fact.

    Attributes:
        request: the fact.
        before: what the unedited model said, greedily, up to the end of a line.
        now: what the edited model says.
        stated: whether the edited model's greedy answer is the new one, token by token.
        scores: of the edited model: ``efficacy`` and the other measures of ``edits.jsonl``.
    """

    request: EditRequest
    before: str
    now: str
    stated: bool
    scores: dict[str, float]

    def __str__(self) -> str:
        mark = "stated" if self.stated else "not stated"
        asked = f"{self.request.text} -> {self.request.target_new}"
        return f"{asked}: {mark}. It said {self.before!r} and says {self.now!r}."


class EditReport(Sequence[Outcome]):
    """The outcome of each fact, in their order; ``print`` shows all of them.

    Args:
        editor: holds the model.
        requests: the facts.
    """

    def __init__(self, editor: Editor, requests: Sequence[EditRequest]) -> None:
        self.editor = editor
        self.requests = requests
        self.outcomes: list[Outcome] = []
        self.kept = False

    def make(self, batches: Sequence[Sequence[EditRequest]]) -> None:
        """Makes one edit per batch, and judges every fact before the first and after the last.

        Raises:
            FloatingPointError: if an edit fails.
        """
        before = replies(self.editor, self.requests, NEW_TOKENS)
        self.editor.judge_all(self.requests)  # keeps the unedited answers to neighbors
        for batch in batches:
            self.editor.make_edit(batch)
            if self.editor.record["status"] == "failed":
                raise FloatingPointError(
                    f"the edit of {batch[0].text!r} failed ({self.editor.record['reason']}); the "
                    "model is unchanged: edit another layer, or leave this fact out"
                )
        now = replies(self.editor, self.requests, NEW_TOKENS)
        scores = self.editor.judge_all(self.requests)
        self.outcomes = [
            Outcome(request, first, last, found["efficacy_exact_match"] == 1, found)
            for request, first, last, found in zip(self.requests, before, now, scores, strict=True)
        ]

    @property
    def stated(self) -> int:
        """Number of facts that the edited model states."""
        return sum(outcome.stated for outcome in self.outcomes)

    def keep(self) -> None:
        """Lets the edits stand at the end of the block."""
        self.kept = True

    def undo(self) -> None:
        """Gives the weights their values of before the edits, bit for bit."""
        self.editor.restore()
        self.kept = False

    @overload
    def __getitem__(self, index: int) -> Outcome: ...

    @overload
    def __getitem__(self, index: slice) -> list[Outcome]: ...

    def __getitem__(self, index: int | slice) -> Outcome | list[Outcome]:
        return self.outcomes[index]

    def __len__(self) -> int:
        return len(self.outcomes)

    def __str__(self) -> str:
        first = f"{self.stated} of {len(self)} facts are now stated."
        return "\n".join([first, *map(str, self.outcomes)])


@contextmanager
def lent(lm: PreTrainedModel) -> Iterator[None]:
    """Gives a model its modules, their classes and modes and weights' gradients back at the end.

    An editor freezes the model and makes it compute with faster kernels, which differ by rounding.
    """
    modules = [(module, module.__class__, module.training) for module in lm.modules()]
    children = [(module, *pair) for module in lm.modules() for pair in module.named_children()]
    gradients = [(weight, weight.requires_grad) for weight in lm.parameters()]
    try:
        yield
    finally:
        for module, name, child in children:
            setattr(module, name, child)
        for module, kind, training in modules:
            turn_into(module, kind)
            module.training = training
        for weight, wanted in gradients:
            weight.requires_grad_(wanted)
