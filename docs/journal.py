"""docs/journal.md, the fields of a run's journal: python -m docs.journal (make docs)."""

from pathlib import Path
from types import UnionType

from docs.tables import markdown
from lightning_modules.editing.record_fields import GROUPS, NUMBER, SLOTS, Field

PAGE = Path(__file__).with_suffix(".md")
WORDS: dict[type | UnionType, str] = {
    int: "integer",
    NUMBER: "number",
    str: "text",
    bool: "true, false",
    list: "list",
    dict: "map",
    int | list: "integer, list",
    str | list: "text, list",
}
COLUMNS = ("field", "type", "unit or range", "meaning", "written by")
HEAD = f"""# The journal

`edits.jsonl` has one line per edit, a JSON object. A field is absent if it was not measured, and
null if the figure is not finite. For an edit of several requests, the fields that name the request
hold lists, and scores are means. The dashboard shows each figure over edits, under the prefix given
above its table; `summary.json` has the means of all figures.

Names in capitals stand for several names; the part in brackets may be absent:

- `GROUP`: {", ".join(f"`{name}`" for name in SLOTS["GROUP"].split("|"))};
- `PROMPT`: {", ".join(f"`{name}`" for name in SLOTS["PROMPT"].split("|"))};
- `SCORE`: any score that `EditMetrics` writes after the edit;
- `WEIGHT`: layer and map of an edited weight, as in `1_c_proj`, if there are several.

`make docs` generates this page from the declarations in
`lightning_modules/editing/record_fields.py`.
[CONTRIBUTING.md](../CONTRIBUTING.md) says how your own method or callback declares a field.
"""


def page() -> str:
    """The page in Markdown."""
    sections = [
        f"\n## {group.title}\n\nDashboard: `{group.place}/`.\n\n{markdown([COLUMNS, *rows])}\n"
        for group in GROUPS
        for rows in [[row(field) for field in group.fields]]
    ]
    return HEAD + "".join(sections)


def row(field: Field) -> tuple[str, ...]:
    """A field's line of its table."""
    meaning = f"{field.meaning} ({field.source})" if field.source else field.meaning
    writers = field.writer.replace(", ", "`, `")
    return f"`{field.name}`", WORDS[field.kind], field.unit, meaning, f"`{writers}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
