"""Table of docs/families.md, by editing a tiny model of each family: python -m docs.families.

With names of families, only their rows are made again: python -m docs.families qwen3_moe mixtral.
"""

import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import transformers

from command_line.mistakes import in_a_sentence
from docs.methods import around
from tests.families import ALL, WRAPPERS, Verdict, verdict

PAGE = Path(__file__).with_name("families.md")
BEGIN, END = "<!-- table: make docs -->", "<!-- end of the table -->"
EDITED = ("family", "edited map", "value in the block's output", "value search", "watched text")


def verdicts(families: Sequence[str]) -> Iterator[Verdict]:
    """One per family, whatever becomes of the others."""
    for family in families:
        try:
            yield verdict(family)
        except Exception as error:  # of any kind: it goes into the table
            yield Verdict(family, reason=f"WRONG: {type(error).__name__}: {error}")


def table(found: Sequence[Verdict]) -> str:
    """Two tables in Markdown: what is edited and how, and what is refused and why."""
    edited = [
        (row.family, f"`{row.output}`", row.way, row.search, row.watching)
        for row in found
        if not row.reason
    ]
    refused = [(row.family, row.reason) for row in found if row.reason]
    return f"{_rows(EDITED, edited)}\n\n{_rows(('family', 'refused because'), refused)}"


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def known(page: str) -> dict[str, Verdict]:
    """The verdicts that a page holds, by family."""
    found = {}
    for line in page.splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) not in (2, len(EDITED)) or cells[0] in ("family", "---"):
            continue
        family, *rest = cells
        found[family] = (
            Verdict(family, reason=rest[0])
            if len(rest) == 1
            else Verdict(family, rest[0].strip("`"), *rest[1:])
        )
    return found


def main(named: Sequence[str] = ()) -> None:
    """Writes the table between the page's marks.

    Args:
        named: families whose rows are made again; all if empty.

    Raises:
        ValueError: if a family is unknown.
    """
    families = sorted({*ALL, *WRAPPERS})
    if unknown := set(named) - set(families):
        raise ValueError(f"transformers knows no family {', '.join(sorted(unknown))}")
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    before, behind = around(PAGE, BEGIN, END)
    rows = known(PAGE.read_text("utf-8")) if named else {}
    rows |= {row.family: row for row in verdicts(named or families)}
    found = [rows[family] for family in families]
    edited = sum(not row.reason for row in found)
    text = f"{edited} of {len(found)} families can be edited.\n\n{table(found)}"
    PAGE.write_text(f"{before}\n{text}\n{behind}", "utf-8")
    wrong = [row.family for row in found if row.reason.startswith("WRONG")]
    if wrong:
        sys.exit(f"come out wrong: {', '.join(wrong)}")


if __name__ == "__main__":
    with in_a_sentence():
        main(sys.argv[1:])
