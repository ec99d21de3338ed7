"""Tables that commands write into docs/performance.md."""

from collections.abc import Sequence
from pathlib import Path

PAGE = Path("docs/performance.md")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 2) -> str:
    """A table; the first columns hold words, the others numbers."""
    ruler = ["---"] * words + ["---:"] * (len(head) - words)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ruler, *rows))


def fill(name: str, command: str, table: str) -> None:
    """Puts a table between the page's marks of that name.

    Raises:
        ValueError: if the page has no such marks.
    """
    begin, end = f"<!-- {name}: {command} -->", f"<!-- end of {name} -->"
    before, found, rest = PAGE.read_text("utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{PAGE} has no place for {name}; write {begin} and {end} into it")
    PAGE.write_text(f"{before}{begin}\n\n{table}\n\n{end}{after}", "utf-8")
