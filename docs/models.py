"""Tables of docs/models.md: python -m docs.models; further options go to every run of it."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import train
from callbacks.keeping.run_folder import read_journal
from command_line.mistakes import in_a_sentence
from docs.courses import quiet
from docs.methods import around
from docs.tables import markdown, percent, read
from lightning_modules.editing.editor import Editor
from lightning_modules.language_model.chat import chat_frame
from lightning_modules.language_model.generation import generate

PAGE = Path(__file__).with_suffix(".md")
BEGIN, END = "<!-- tables: python -m docs.models -->", "<!-- end of the tables -->"
METHODS = {
    "C-ROME": "c_rome.yaml --config models/smollm2-135m.yaml --model.second_moment identity",
    "MEMIT": "memit.yaml --model.lm models/smollm2-135m --model.layers [8,9,10]",
}
GIVEN = (
    "--data.path docs/ten_facts.json --data.batch_size 1 "
    "--trainer.val_check_interval 10 --trainer.enable_progress_bar false"
)
BARE_TOKENS, CHAT_TOKENS = 12, 24  # of a continuation; a chat model answers in a sentence


class Said(NamedTuple):
    """What a model says to each prompt, greedily, up to the end of a line.

    Attributes:
        bare: how it continues the prompt.
        chat: how it answers the prompt as the user's message in its chat template.
    """

    bare: list[str]
    chat: list[str]


class Course(NamedTuple):
    """Ten edits in sequence by one method.

    Attributes:
        journal: a line per edit.
        summary: of the run.
        before: what the unedited model says.
        after: what the model says that holds all edits.
    """

    journal: list[dict[str, Any]]
    summary: dict[str, Any]
    before: Said
    after: Said


def course(config: str, options: Sequence[str]) -> Course:
    """Edits all facts by the command line that the page names.

    Args:
        config: the method's, and its layers.
        options: further ones.
    """
    with TemporaryDirectory() as folder:
        place = ["--trainer.logger.init_args.save_dir", folder, "--collapse.threshold=1000"]
        cli = train.main(["fit", "--config", *config.split(), *GIVEN.split(), *place, *options])
        run = Path(cli.trainer.log_dir)
        journal, summary = read_journal(run), read(run / "summary.json")
    prompts = [prompt_of(edit) for edit in journal]
    with cli.model.edited.unedited():
        before = said(cli.model, prompts)
    return Course(journal, summary, before, said(cli.model, prompts))


def prompt_of(edit: dict[str, Any]) -> str:
    """An edit's prompt, the subject filled in."""
    return str(edit["prompt"].replace("{}", edit["subject"]))


def said(editor: Editor, prompts: Sequence[str]) -> Said:
    """The model's text behind bare prompts and in its chat template."""
    frame = chat_frame(editor.tokenizer, editor.lm_name)
    asked = [frame.around(prompt) for prompt in prompts]
    bare = generate(editor.lm, editor.tokenizer, prompts, ["\n"], BARE_TOKENS)
    return Said(bare, generate(editor.lm, editor.tokenizer, asked, ["\n"], CHAT_TOKENS))


def begins(text: str, answer: str, other: str) -> bool:
    """Whether a continuation begins with the answer, as whole words."""
    return re.match(rf"{re.escape(answer)}\b", text.strip()) is not None


def names(text: str, answer: str, other: str) -> bool:
    """Whether a sentence names the answer, as whole words, and not the other one."""
    found, wrong = (re.search(rf"\b{re.escape(word)}\b", text) for word in (answer, other))
    return found is not None and wrong is None


STATES = {"bare": begins, "chat": names}


def texts(courses: dict[str, Course], where: str) -> str:
    """Each fact, and what the model says to its prompt before and after.

    Args:
        courses: by method.
        where: ``bare`` or ``chat``.
    """
    first = next(iter(courses.values()))
    rows: list[Sequence[Any]] = [("prompt", "before", *(f"after {name}" for name in courses))]
    for number, edit in enumerate(first.journal):
        new, true = edit["target_new"], edit["target_true"]
        cells = [marked(getattr(first.before, where)[number], true, new, where)]
        cells += [
            marked(getattr(c.after, where)[number], new, true, where) for c in courses.values()
        ]
        rows.append((prompt_of(edit), *cells))
    return markdown(rows)


def marked(text: str, answer: str, other: str, where: str) -> str:
    """What was said, behind whether it states the answer, which is bold then."""
    shown = text.strip().replace("|", "\\|")
    if not STATES[where](text, answer, other):
        return f"✗ {shown}"
    return "✓ " + re.sub(rf"\b{re.escape(answer)}\b", f"**{answer}**", shown, count=1)


def stated(made: Course, where: str) -> str:
    """In how many cases the model that holds all edits states the new fact."""
    later = getattr(made.after, where)
    answers = [(edit["target_new"], edit["target_true"]) for edit in made.journal]
    right = sum(STATES[where](text, *pair) for text, pair in zip(later, answers, strict=True))
    return f"{right} of {len(later)}"


def figures(courses: dict[str, Course]) -> str:
    """What ten edits did to the answers and to the watched sentences."""
    rows: list[Sequence[Any]] = [
        ("method", "states the new fact", "in chat", "efficacy %", "perplexity before", "after",
         "change")
    ]  # fmt: skip
    for name, made in courses.items():
        before = made.summary["baseline"]["perplexity"]
        after = made.summary["final_perplexity"]
        change = f"{100 * (after / before - 1):+.1f} %"
        efficacy = percent(made.summary["means"]["efficacy"])
        share = (stated(made, "bare"), stated(made, "chat"))
        rows.append((name, *share, efficacy, before, after, change))
    return markdown(rows)


def main(args: Sequence[str] | None = None) -> None:
    """Makes the edits and writes the tables into the page.

    Raises:
        ValueError: if the page does not mark the tables' place.
    """
    quiet()
    options = sys.argv[1:] if args is None else list(args)
    before, behind = around(PAGE, BEGIN, END)
    courses = {name: course(config, options) for name, config in METHODS.items()}
    bare, chat = (texts(courses, where) for where in STATES)
    tables = f"{figures(courses)}\n\n### Bare\n\n{bare}\n\n### In chat\n\n{chat}"
    PAGE.write_text(f"{before}\n\n{tables}\n\n{behind}", "utf-8")


if __name__ == "__main__":
    with in_a_sentence():
        main()
