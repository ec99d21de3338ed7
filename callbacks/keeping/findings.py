"""What a report tells: each fact and each neighbor before and after, gathered from a run's end."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L

from data_modules.records import EditRequest, Frame, Probe
from lightning_modules.editing.editor import Editor
from lightning_modules.language_model.chat import chat_frame
from lightning_modules.language_model.generation import generate
from lightning_modules.language_model.matching import begins_with, names

from .run_folder import folder_of, read_journal

PER_FACT, CONTROLS = 2, 8  # neighbors of a fact that are shown; controls, if no fact has any
BARE_TOKENS, CHAT_TOKENS = 16, 32  # of a text; a chat model answers in a sentence


class Reply(NamedTuple):
    """A prompt, and what the model wrote after it.

    Attributes:
        prompt: as asked.
        answer: the answer to compare with.
        before: greedy text of the unedited model, up to the end of a line.
        now: the same of the edited model.
        states: whether the edited model's text states the answer.
    """

    prompt: str
    answer: str
    before: str
    now: str
    states: bool


class Fact(NamedTuple):
    """A fact of the run.

    Attributes:
        edit: number of its edit; None if the run ended before.
        status: of the edit, as in the journal.
        reason: why it was refused or left out, or what is odd about it; empty if nothing is.
        bare: the prompt continued.
        chat: the prompt answered in the chat template; None without one.
    """

    edit: int | None
    status: str
    reason: str
    bare: Reply
    chat: Reply | None


class Findings(NamedTuple):
    """What a report tells.

    Attributes:
        lm: the model's name.
        run: the run's folder.
        about: of the method, for readers who know it.
        facts: of the data, in its order.
        neighbors: other questions, which the edits should leave alone.
        controls: whether those are the project's own, as the facts have none.
        scores: names with the value before and after; None where not measured.
        chat: why there is no chat; empty if there is one.
        exports: folders that the run has written, by kind.
    """

    lm: str
    run: Path
    about: str
    facts: list[Fact]
    neighbors: list[Reply]
    controls: bool
    scores: dict[str, tuple[float | None, float | None]]
    chat: str
    exports: dict[str, Path]

    @property
    def stated(self) -> int:
        """Number of facts that the model now states as a continuation."""
        return sum(fact.bare.states for fact in self.facts)

    @property
    def stated_in_chat(self) -> int:
        """Number of facts that the model now states in chat."""
        return sum(fact.chat is not None and fact.chat.states for fact in self.facts)


def gathered(
    trainer: L.Trainer, editor: Editor, summary: dict[str, Any], step: Callable[[], Any]
) -> Findings:
    """Asks the unedited and the edited model.

    Args:
        trainer: of the run.
        editor: holds the edited model.
        summary: of the run.
        step: called after each of three parts of the work.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined] # set by Lightning's connector
    run, requests = folder_of(trainer), list(data.requests)
    prompts = [(request.text, request.target_new) for request in requests]
    bare = replies(editor, prompts, Frame(), BARE_TOKENS, begins_with)
    step()
    frame, missing = template(editor)
    chat: Sequence[Reply | None] = [None] * len(requests)
    if frame is not None:
        chat = replies(editor, prompts, frame, CHAT_TOKENS, names)
    step()
    probes = [probe for request in requests for probe in request.neighborhood[:PER_FACT]]
    asked = [(p.prompt, p.answer) for p in probes or controls_of(data)]
    neighbors = replies(editor, asked, Frame(), BARE_TOKENS, begins_with)
    step()
    edits = read_journal(run)
    facts = [
        Fact(*fate(request, edits), said, spoken)
        for request, said, spoken in zip(requests, bare, chat, strict=True)
    ]
    return Findings(
        lm=editor.lm_name,
        run=run,
        about=about(editor),
        facts=facts,
        neighbors=neighbors if probes else known_first(neighbors),
        controls=not probes,
        scores=scores(summary),
        chat=missing,
        exports={kind: run / kind for kind in ("lm", "change", "lora") if (run / kind).is_dir()},
    )


def replies(
    editor: Editor,
    asked: Sequence[tuple[str, str]],
    frame: Frame,
    new_tokens: int,
    states: Callable[[str, str], bool],
) -> list[Reply]:
    """What the unedited and the edited model write after prompts.

    Args:
        editor: holds the edited model.
        asked: prompts and answers.
        frame: around the prompts.
        new_tokens: most tokens of a text.
        states: whether a text states an answer.
    """
    if not asked:
        return []
    given = [frame.around(prompt) + (frame.separator or "") for prompt, _ in asked]
    until = ["\n", *([frame.end.strip()] if frame.end.strip() else [])]
    texts = []
    for model in (editor.edited.unedited(), nullcontext()):
        with model:
            texts.append(generate(editor.lm, editor.tokenizer, given, until, new_tokens))
    return [
        Reply(prompt, answer, whole(before), whole(now), states(now, answer))
        for (prompt, answer), before, now in zip(asked, *texts, strict=True)
    ]


def whole(text: str) -> str:
    """A text, with dots where its end was cut off."""
    text = text.strip()
    return f"{text} …" if text and text[-1] not in ".!?\"')" else text


def template(editor: Editor) -> tuple[Frame | None, str]:
    """The chat template, or why there is none."""
    try:
        return chat_frame(editor.tokenizer, editor.lm_name), ""
    except ValueError as error:
        return None, str(error)


def controls_of(data: Any) -> list[Probe]:
    """The data's own questions about other subjects; none if it has none."""
    return data.control_probes() if hasattr(data, "control_probes") else []


def known_first(asked: Sequence[Reply]) -> list[Reply]:
    """The first controls whose answer the unedited model states; any, if it states none."""
    known = [reply for reply in asked if begins_with(reply.before, reply.answer)]
    return list(known or asked)[:CONTROLS]


def fate(request: EditRequest, edits: Sequence[dict[str, Any]]) -> tuple[int | None, str, str]:
    """Number, status and reason of a request's edit."""
    wanted = [request.case_id, request.prompt, request.target_new]
    for edit in edits:
        columns = [edit[name] for name in ("case_id", "prompt", "target_new")]
        several = isinstance(columns[0], list)
        rows = [list(row) for row in zip(*columns, strict=True)] if several else [columns]
        if wanted in rows:
            return edit["edit"], edit["status"], edit.get("reason", "")
    return None, "not made", "the run ended before"


def scores(summary: dict[str, Any]) -> dict[str, tuple[float | None, float | None]]:
    """Perplexity and task scores before and after."""
    before, tasks = summary["baseline"], summary["final_tasks"] or {}
    named = {name.removeprefix("tasks/") for name in before if name.startswith("tasks/")}
    found = {"perplexity": (before.get("perplexity"), summary["final_perplexity"])}
    return found | {
        name: (before.get(f"tasks/{name}"), tasks.get(name)) for name in sorted(named | {*tasks})
    }


def about(editor: Editor) -> str:
    """Method, weights and key statistics, in a line."""
    known, statistics = editor.card(), str(getattr(editor, "statistics", ""))
    moment = known.get("second_moment")
    if moment == "estimated" and "own_statistics" in statistics:
        moment = "estimated from the project's own text"
    told = f"; second moment of keys: {moment}" if moment else ""
    return f"{known['method']} on {', '.join(known['weights'])}{told}"
