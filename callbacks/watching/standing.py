"""How all edits so far stand, by every protocol, after the first, the tenth and the last one."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L

from data_modules.records import Consequence, EditRequest
from lightning_modules.editing.editor import Editor
from lightning_modules.language_model.judging import Question, answers, measures

from ..keeping.run_folder import folder_of, nullified, replace_text
from .generation_metrics import Context, GenerationMetrics
from .perplexity import measured

FILE = "standing.jsonl"
Lines = list[dict[str, Any]]


class Standing(L.Callback):
    """Judges every edit so far on the current model at each mark, and after the last edit.

    ``standing.jsonl`` has a line per mark and request; ``after`` is the number of edits. Beside the
    scores of ``EditMetrics`` and ``GenerationMetrics`` a
    line has ``negation``, ``reversal`` and ``one_hop`` where the data tells what follows from a
    request: the share of prompts at which the model prefers what follows from the new fact.

    Args:
        marks: numbers of edits after which to judge.
        max_new_tokens: of a generated text.
        contexts: of generated texts, besides the prompt itself, which without a chat template is
            the Mirage's bare question; by default its instruction, and the model's chat template if
            it has one.

    Raises:
        ValueError: if a mark is not positive.
    """

    def __init__(
        self,
        marks: Sequence[int] = (1, 10, 100),
        max_new_tokens: int = 10,
        contexts: Sequence[Context] | None = None,
    ) -> None:
        if min(marks, default=1) <= 0:
            raise ValueError(f"marks must be positive, got {list(marks)}")
        self.marks = frozenset(marks)
        self.max_new_tokens = max_new_tokens
        self.contexts = contexts

    def on_train_start(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Cuts the file back to the edit of the checkpoint."""
        self.writer = self.writer_of(pl_module)
        self.writer.on_fit_start(trainer, pl_module)
        self.file = folder_of(trainer) / FILE
        lines = [line for line in read_standing(self.file) if line["after"] <= trainer.global_step]
        self.write(lines)
        requests: list[EditRequest] = trainer.datamodule.requests  # type: ignore[attr-defined] # set by Lightning's connector
        self.requests = {request.identity: request for request in requests}

    def writer_of(self, editor: Editor) -> GenerationMetrics:
        """Generates the texts, in all contexts that the model has."""
        own: tuple[Context, ...] = ("instruction",)
        if editor.tokenizer.chat_template:
            own = ("instruction", "chat")
        contexts = own if self.contexts is None else self.contexts
        return GenerationMetrics(max_new_tokens=self.max_new_tokens, contexts=contexts)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: Editor, batch: Any, batch_idx: int
    ) -> None:
        """Judges at a mark; only now is it known whether the edit before it stands."""
        if trainer.global_step in self.marks:
            self.judge(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: Editor) -> None:
        """Judges after the last edit."""
        self.judge(trainer, pl_module)

    def judge(self, trainer: L.Trainer, editor: Editor) -> None:
        """Adds the lines of a mark, unless the file has them."""
        lines, after = read_standing(self.file), trainer.global_step
        if any(line["after"] == after for line in lines):
            return
        standing = [self.requests[held] for held in dict.fromkeys(editor.edited_requests)]
        self.write(lines + self.judged(trainer, editor, standing, after))

    def judged(
        self, trainer: L.Trainer, editor: Editor, requests: Sequence[EditRequest], after: int
    ) -> Lines:
        """A line of each request on the current model."""
        record, editor.record = editor.record, {}  # the next edit's
        data = trainer.datamodule  # type: ignore[attr-defined]
        scores = protocols(editor, requests, data, self.writer)
        perplexity = measured(trainer, editor)["perplexity"] if requests else None
        editor.record = record
        return [
            {"after": after, "identity": request.identity, "perplexity": perplexity, **found}
            for request, found in zip(requests, scores, strict=True)
        ]

    def write(self, lines: Lines) -> None:
        """Replaces the file."""
        texts = (json.dumps(nullified(line), ensure_ascii=False) for line in lines)
        replace_text(self.file, "".join(f"{text}\n" for text in texts))


def protocols(
    editor: Editor, requests: Sequence[EditRequest], data: Any, writer: GenerationMetrics
) -> list[dict[str, float]]:
    """Scores of each request on the current model, by every protocol.

    Args:
        editor: holds the model.
        requests: to judge.
        data: tells what follows from a request, if it can.
        writer: of the generated texts.
    """
    if not requests:
        return []
    known: Callable = getattr(data, "consequences", lambda request: [])
    told = zip(
        editor.judge_all(requests),
        writer.measured(editor, requests),
        followed(editor, requests, [known(request) for request in requests]),
        strict=True,
    )
    return [forced | written | further for forced, written, further in told]


def followed(
    editor: Editor, requests: Sequence[EditRequest], known: Sequence[Sequence[Consequence]]
) -> list[dict[str, float]]:
    """Shares of each request's consequences that the current model draws, by kind."""
    asked = [questions(editor, *pair) for pair in zip(requests, known, strict=True)]
    if not any(asked):
        return [{} for _ in requests]
    found = answers(editor.judging.once, editor.tokenizer, asked)
    return [{kind: measures(groups)[kind] for kind in groups} for groups in found]


def questions(
    editor: Editor, request: EditRequest, known: Sequence[Consequence]
) -> dict[str, list[Question]]:
    """The consequences of a request as the model is asked, by kind."""
    prompts = tuple(consequence.prompt for consequence in known)
    worded = editor.as_judged(editor.worded(request._replace(paraphrases=prompts)))
    frame, groups = worded.frame, dict[str, list[Question]]()
    for consequence, prompt in zip(known, worded.paraphrases, strict=True):
        question = Question(
            frame.around(prompt), consequence.answer, consequence.rival, (), frame.separator
        )
        groups.setdefault(consequence.kind, []).append(question)
    return groups


def read_standing(file: Path) -> Lines:
    """The lines of ``standing.jsonl``; none without it.

    Raises:
        ValueError: if a line is broken.
    """
    if not file.is_file():
        return []
    try:
        return [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    except ValueError as error:
        raise ValueError(f"{file} is broken ({error}); give an intact copy") from error
