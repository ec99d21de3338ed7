"""Tables of docs/models.md: python -m docs.models; further options go to every run of it."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import train
from callbacks.keeping.run_folder import read_journal
from docs.courses import quiet
from docs.methods import around
from docs.tables import markdown, percent, read
from lightning_modules.editing.editor import Editor
from lightning_modules.language_model.generation import generate

PAGE = Path(__file__).with_suffix(".md")
BEGIN, END = "<!-- tables: python -m docs.models -->", "<!-- end of the tables -->"
METHODS = {
    "C-ROME": "c_rome.yaml --model.layer 6 --model.second_moment identity",
    "MEMIT": "memit.yaml --model.layers [8,9,10]",
}
GIVEN = (
    "--model.lm models/smollm2-135m --data.path docs/ten_facts.json --data.batch_size 1 "
    "--trainer.val_check_interval 10 --trainer.enable_progress_bar false"
)
TOKENS = 12  # of a continuation


class Course(NamedTuple):
    """Ten edits in sequence by one method.

    Attributes:
        journal: a line per edit.
        summary: of the run.
        before: what the unedited model says behind each prompt.
        after: what the model says that holds all edits.
    """

    journal: list[dict[str, Any]]
    summary: dict[str, Any]
    before: list[str]
    after: list[str]


def course(config: str, options: Sequence[str]) -> Course:
    """Edits all facts by the command line that the page names.

    Args:
        config: the method's, and its layers.
        options: further ones.
    """
    with TemporaryDirectory() as folder:
        place = ["--trainer.logger.init_args.save_dir", folder]
        cli = train.main(["fit", "--config", *config.split(), *GIVEN.split(), *place, *options])
        run = Path(cli.trainer.log_dir)
        journal, summary = read_journal(run), read(run / "summary.json")
    prompts = [edit["prompt"].replace("{}", edit["subject"]) for edit in journal]
    with cli.model.edited.unedited():
        before = said(cli.model, prompts)
    return Course(journal, summary, before, said(cli.model, prompts))


def said(editor: Editor, prompts: Sequence[str]) -> list[str]:
    """How the model goes on behind each prompt, greedily, up to the end of a line."""
    return generate(editor.lm, editor.tokenizer, prompts, ["\n"], TOKENS)


def texts(courses: dict[str, Course]) -> str:
    """Each fact, and what follows its prompt before and after."""
    first = next(iter(courses.values()))
    rows: list[Sequence[Any]] = [("prompt", "before", *(f"after {name}" for name in courses))]
    for number, edit in enumerate(first.journal):
        prompt = edit["prompt"].replace("{}", edit["subject"])
        later = (marked(made.after[number], edit["target_new"]) for made in courses.values())
        rows.append((prompt, marked(first.before[number], edit["target_true"]), *later))
    return markdown(rows)


def marked(text: str, answer: str) -> str:
    """A continuation, its answer in bold if it states it."""
    shown = text.strip().replace("|", "\\|")
    return f"**{answer}**{shown[len(answer) :]}" if states(text, answer) else shown


def states(text: str, answer: str) -> bool:
    """Whether a continuation begins with the answer, as whole words."""
    return re.match(rf"{re.escape(answer)}\b", text.strip()) is not None


def figures(courses: dict[str, Course]) -> str:
    """What ten edits did to the answers and to the watched sentences."""
    rows: list[Sequence[Any]] = [
        ("method", "states the new fact", "efficacy %", "perplexity before", "after", "change")
    ]
    for name, made in courses.items():
        stated = sum(map(states, made.after, (edit["target_new"] for edit in made.journal)))
        before = made.summary["baseline"]["perplexity"]
        after = made.summary["final_perplexity"]
        share = f"{stated} of {len(made.after)}"
        change = f"{100 * (after / before - 1):+.1f} %"
        efficacy = percent(made.summary["means"]["efficacy"])
        rows.append((name, share, efficacy, before, after, change))
    return markdown(rows)


def main(args: Sequence[str] | None = None) -> None:
    """Makes the edits and writes both tables into the page.

    Raises:
        ValueError: if the page does not mark the tables' place.
    """
    quiet()
    options = sys.argv[1:] if args is None else list(args)
    before, behind = around(PAGE, BEGIN, END)
    courses = {name: course(config, options) for name, config in METHODS.items()}
    tables = f"{figures(courses)}\n\n{texts(courses)}"
    PAGE.write_text(f"{before}\n\n{tables}\n\n{behind}", "utf-8")


if __name__ == "__main__":
    main()
