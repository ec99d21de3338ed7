"""Two models' continuations side by side, with the words marked in which they differ."""

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from html import escape
from itertools import zip_longest
from textwrap import wrap
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.editing.replicas import in_turn
from lightning_modules.jobs.compare import Compare

from ..keeping.run_folder import folder_of, replace_text

COLUMN = 48  # letters of a side in a terminal
Mark = Callable[[str, bool], str]  # some words, and whether only this side has them
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{left} and {right}</title><style>
body {{ font: 16px/1.5 sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ border-bottom: 1px solid #999; padding: .4rem .6rem }}
th, td {{ text-align: left; vertical-align: top }}
mark {{ background: #ffe08a; color: #000 }}
</style></head><body>
<h1>{left} and {right}</h1>
<p>{summary}</p>
<table><thead><tr><th>prompt</th><th>{left}</th><th>{right}</th></tr></thead><tbody>
{rows}
</tbody></table></body></html>
"""


class ComparisonPage(L.Callback):
    """Under ``predict``, shows what two models say, and writes ``comparison.md`` and ``.html``."""

    def __init__(self) -> None:
        self.seen: list[list[dict[str, str]]] = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Refuses a module that compares nothing.

        Raises:
            ValueError: if it is no Compare.
        """
        if not isinstance(pl_module, Compare):
            raise ValueError(
                "ComparisonPage needs lightning_modules.jobs.compare.Compare as the model: take "
                "compare.yaml"
            )
        self.seen = []

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Stores the continuations of a batch."""
        self.seen.append(outputs)

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: Compare) -> None:
        """Shows and writes all of them."""
        rows = [row for batch in in_turn(self.seen) for row in batch]
        if not trainer.is_global_zero:
            return
        folder = folder_of(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        names = titled(pl_module.left), titled(pl_module.right)
        replace_text(folder / "comparison.md", as_markdown(rows, *names))
        replace_text(folder / "comparison.html", as_html(rows, *names))
        rank_zero_info(f"{as_text(rows, *names)}\nPages: {folder / 'comparison.md'} and .html")


def titled(side: str) -> str:
    """A side's name: ``as of edit 3`` for a number."""
    return f"as of edit {side}" if side.isdecimal() else side


def marked(left: str, right: str, mark: Mark) -> tuple[str, str]:
    """Both texts with the runs of words marked in which they differ.

    Args:
        left: the first text.
        right: the second one.
        mark: what to write for some words, and whether they differ.
    """
    one, other = left.split(), right.split()
    sides: tuple[list[str], list[str]] = [], []
    for kind, *bounds in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        start, end, other_start, other_end = bounds
        for side, words in zip(sides, (one[start:end], other[other_start:other_end]), strict=True):
            if words:
                side.append(mark(" ".join(words), kind != "equal"))
    return " ".join(sides[0]), " ".join(sides[1])


def counted(rows: Sequence[Mapping[str, str]]) -> str:
    """How many continuations differ, in a sentence."""
    differ = sum(row["left"].split() != row["right"].split() for row in rows)
    return f"{differ} of {len(rows)} continuations differ."


def as_text(rows: Sequence[Mapping[str, str]], left: str, right: str) -> str:
    """Both sides in columns, differing words in brackets."""

    def mark(words: str, differs: bool) -> str:
        return f"[{words}]" if differs else words

    def columns(one: str, other: str) -> list[str]:
        pairs = zip_longest(wrap(one, COLUMN), wrap(other, COLUMN), fillvalue="")
        return [f"  {a:{COLUMN}} | {b}".rstrip() for a, b in pairs]

    lines = [counted(rows), *columns(left.upper(), right.upper())]
    for row in rows:
        lines += ["", row["prompt"], *columns(*marked(row["left"], row["right"], mark))]
    return "\n".join(lines)


def as_markdown(rows: Sequence[Mapping[str, str]], left: str, right: str) -> str:
    """A table in Markdown, differing words in bold."""

    def plain(text: str) -> str:
        return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))

    def mark(words: str, differs: bool) -> str:
        return f"**{plain(words)}**" if differs else plain(words)

    table = [
        f"| {plain(row['prompt'])} | " + " | ".join(marked(row["left"], row["right"], mark)) + " |"
        for row in rows
    ]
    head = [f"| prompt | {plain(left)} | {plain(right)} |", "| --- | --- | --- |"]
    title = f"# {plain(left)} and {plain(right)}"
    return "\n".join([title, "", counted(rows), "", *head, *table]) + "\n"


def as_html(rows: Sequence[Mapping[str, str]], left: str, right: str) -> str:
    """A page that needs no network, differing words highlighted."""

    def mark(words: str, differs: bool) -> str:
        return f"<mark>{escape(words)}</mark>" if differs else escape(words)

    table = [
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        for row in rows
        for cells in [(escape(row["prompt"]), *marked(row["left"], row["right"], mark))]
    ]
    names = {"left": escape(left), "right": escape(right)}
    return PAGE.format(**names, summary=counted(rows), rows="\n".join(table))
