"""A report as one page of HTML, without network, and as Markdown."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from .readme import escaped
from .report_sections import Cell, Section

PAGE = Template(Path(__file__).with_suffix(".html").read_text("utf-8"))
MARKS = {True: "✓ ", False: "✗ ", None: ""}
CLASSES = {True: "good", False: "bad", None: ""}


def html(title: str, headline: str, sections: Sequence[Section], good: bool = True) -> str:
    """The page.

    Args:
        title: of the page.
        headline: the outcome in a sentence.
        sections: in their order.
        good: whether the outcome is what was wanted.
    """
    body = "\n".join(map(part, sections))
    texts = {"title": escape(title), "headline": escape(headline), "mood": CLASSES[good]}
    return PAGE.substitute(texts, body=body)


def part(section: Section) -> str:
    """A section in HTML."""
    lines = [f"<section><h2>{escape(section.title)}</h2>"]
    lines += [f"<p>{escape(text)}</p>" for text in section.text]
    if section.rows:
        head = "".join(f"<th>{escape(name)}</th>" for name in section.header)
        rows = "\n".join(row(section.header, cells) for cells in section.rows)
        lines.append(f"<table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>")
    if section.code:
        lines.append(f"<pre>{escape(section.code)}</pre>")
    return "\n".join([*lines, "</section>"])


def row(header: Sequence[str], cells: Sequence[Cell]) -> str:
    """A row; each cell names its column, which a narrow screen shows in its place."""
    named = zip(header, cells, strict=True)
    return f"<tr>{''.join(cell(name, *found) for name, found in named)}</tr>"


def cell(column: str, text: str, good: bool | None) -> str:
    """A cell, with its mark."""
    mark = f'<span class="mark">{MARKS[good]}</span>' if MARKS[good] else ""
    return (
        f'<td data-column="{escape(column)}" class="{CLASSES[good]}">'
        f"<div>{mark}{escape(text) or '-'}</div></td>"
    )


def markdown(title: str, headline: str, sections: Sequence[Section]) -> str:
    """The same in Markdown."""
    lines = [f"# {title}", "", f"**{headline}**"]
    for section in sections:
        lines += ["", f"## {section.title}", "", "\n\n".join(section.text)]
        if section.rows:
            lines += ["", ruled(section.header), ruled(["---"] * len(section.header))]
            lines += [ruled([MARKS[c.good] + escaped(c.text) for c in r]) for r in section.rows]
        if section.code:
            lines += ["", "```", section.code, "```"]
    return "\n".join(lines) + "\n"


def ruled(cells: Sequence[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"
