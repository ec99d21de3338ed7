"""A report's sections: tables, commands and sentences, before they become HTML or Markdown."""

from collections.abc import Sequence
from typing import NamedTuple

from .findings import Fact, Findings, Reply

PERCENT = 100
SCORES = {
    "lambada": "LAMBADA (last word of a passage)",
    "hellaswag": "HellaSwag (how a scene goes on)",
    "piqa": "PIQA (everyday physics)",
    "mmlu": "MMLU (school and college questions)",
}
STATUS = {
    "applied": "applied",
    "skipped": "left out",
    "rolled_back": "refused",
    "failed": "failed",
    "not made": "not made",
}


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: its content.
        good: whether it is what was wanted; None if that is no question.
    """

    text: str
    good: bool | None = None


class Section(NamedTuple):
    """A part of the report.

    Attributes:
        title: its heading.
        text: paragraphs.
        header: names of the table's columns.
        rows: its cells.
        code: a command or a program; empty if there is none.
    """

    title: str
    text: list[str]
    header: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    code: str = ""


def headline(found: Findings) -> str:
    """The outcome in one sentence."""
    before, now = found.scores["perplexity"]
    health = ""
    if before and now:
        health = (
            f" Its perplexity on ordinary sentences went from {before:.4g} to {now:.4g} "
            f"({PERCENT * (now / before - 1):+.1f} %)."
        )
    in_chat = "" if found.chat else f", and {found.stated_in_chat} when asked in chat"
    return f"The model now states {found.stated} of {len(found.facts)} facts{in_chat}.{health}"


def advice(found: Findings) -> list[str]:
    """What to try if some facts are not stated."""
    unsaid = [fact for fact in found.facts if not fact.bare.states]
    if not unsaid:
        return []
    made = sum(fact.status == "applied" for fact in unsaid)
    return [
        f"{len(unsaid)} facts are not stated, {made} of them although their edit was made. What "
        "helps most: a subject that does not begin the sentence or has several words, other layers "
        "(--model.layers), and key statistics from more text."
    ]


def sections(found: Findings) -> list[Section]:
    """All sections, in the order of the page."""
    chat = [fact.chat for fact in found.facts if fact.chat is not None]
    parts = [
        facts_table(
            "The facts",
            "How the model goes on after the beginning of a sentence, always with its likeliest "
            "word. A tick means that the text begins with the new answer.",
            advice(found),
            found.facts,
            [fact.bare for fact in found.facts],
        )
    ]
    if chat:
        parts.append(
            facts_table(
                "The same facts in chat",
                "What the model replies if the same words are a user's message. A tick means that "
                "the reply names the new answer; whether the rest makes sense is for you to judge.",
                [],
                found.facts,
                chat,
            )
        )
    return [*parts, troubles(found), neighbors(found), health(found), undo(found), loading(found)]


def facts_table(
    title: str, text: str, advised: list[str], facts: Sequence[Fact], said: Sequence[Reply]
) -> Section:
    """What the model said about each fact, and what it says now."""
    rows = [
        (
            Cell(str(fact.edit or "")),
            Cell(reply.prompt),
            Cell(reply.answer),
            Cell(reply.before),
            Cell(reply.now, reply.states),
        )
        for fact, reply in zip(facts, said, strict=True)
    ]
    header = ("Edit", "Prompt", "New answer", "Said before", "Says now")
    return Section(title, [text, *advised], header, rows)


def troubles(found: Findings) -> Section:
    """Edits that were refused or left out, or that another method made (the guard's retry)."""
    odd = [f for f in found.facts if f.status != "applied" or f.reason.startswith("made by ")]
    rows = [
        (
            Cell(str(fact.edit or "")),
            Cell(fact.bare.prompt),
            Cell(STATUS.get(fact.status, fact.status)),
            Cell(fact.reason),
        )
        for fact in odd
    ]
    if not odd:
        return Section("What was refused", ["Nothing: every edit was made and kept."])
    text = (
        "After every edit the model was measured. An edit that harmed it was undone, tried again "
        "by another method, and given up if that harmed it too."
    )
    return Section(
        "What was refused or made otherwise", [text], ("Edit", "Fact", "Outcome", "Why"), rows
    )


def neighbors(found: Findings) -> Section:
    """Questions about other subjects."""
    text = "Questions about other subjects, which the edits should leave alone."
    if found.controls:
        text += " Your facts name none, so these are some that the model knew of this project's."
    rows = [
        (Cell(reply.prompt), Cell(reply.before), Cell(reply.now, unharmed(reply)))
        for reply in found.neighbors
    ]
    if not rows:
        return Section("Other knowledge", ["No question about other subjects was asked."])
    return Section("Other knowledge", [text], ("Prompt", "Said before", "Says now"), rows)


def unharmed(reply: Reply) -> bool | None:
    """Whether the answer is the same or still right; None if it changed and never was right."""
    if reply.now == reply.before or reply.states:
        return True
    return False if reply.before.casefold().startswith(reply.answer.casefold()) else None


def health(found: Findings) -> Section:
    """Perplexity and tasks before and after."""
    rows = [
        (
            Cell(
                "perplexity (lower is better)" if name == "perplexity" else SCORES.get(name, name)
            ),
            Cell(shown(name, before)),
            Cell(shown(name, now)),
        )
        for name, (before, now) in found.scores.items()
    ]
    text = (
        "Perplexity says how surprised the model is by ordinary sentences: if it stays, its "
        "language does too. The other lines are shares of right answers, on few questions each, so "
        "differences of a few percent mean little."
    )
    return Section("The model's health", [text], ("Measure", "Before", "After"), rows)


def shown(name: str, score: float | None) -> str:
    """A score for readers."""
    if score is None:
        return "not measured"
    return f"{score:.4g}" if name == "perplexity" else f"{PERCENT * score:.0f} %"


def undo(found: Findings) -> Section:
    """The command that leaves an edit out."""
    made = [fact.edit for fact in found.facts if fact.status == "applied" and fact.edit]
    if not made:
        return Section("Undoing an edit", ["No edit was made, so there is nothing to undo."])
    text = (
        f"This writes the model without edit {made[-1]}; put any number of the first table in its "
        "place, or several. The last line of the command names the folder of the new model."
    )
    code = (
        f"python train.py validate --config replay.yaml --model.ledger {found.run} "
        f"--model.without [{made[-1]}] --export lm"
    )
    return Section("Undoing an edit", [text], code=code)


def loading(found: Findings) -> Section:
    """How to load what the run has written."""
    title, what = "Loading the model", f"The edits were made by {found.about}."
    if "lm" not in found.exports:
        code = (
            f"python train.py validate --config replay.yaml --model.ledger {found.run} --export lm"
        )
        return Section(title, ["The model was not written. This writes it.", what], code=code)
    others = {"change": "the change alone", "lora": "a LoRA adapter for the unedited model"}
    also = [
        f"{told} in {found.exports[kind]}" for kind, told in others.items() if kind in found.exports
    ]
    code = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f'lm = AutoModelForCausalLM.from_pretrained("{found.exports["lm"]}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{found.exports["lm"]}")'
    )
    more = [f"Also written: {' and '.join(also)}."] if also else []
    return Section(title, [*more, what], code=code)
