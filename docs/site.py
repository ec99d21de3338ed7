"""Hooks of the built site (`mkdocs.yml`): pages from outside docs/, the API, formulas as MathML."""

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
NOTEBOOKS = "notebooks"
LINK = re.compile(r"\]\((?!\w+:|#)([^)#]+)")
MODULES = re.compile(r"^<!-- modules: (.+) -->$", re.M)
FORMULA = re.compile(r'<(div|span) class="arithmatex">\\[(\[](.+?)\\[)\]]</\1>', re.S)


def on_config(config: MkDocsConfig) -> None:
    """Adds the pages that the navigation does not name to its *Guides*."""
    named = set(pages(config.nav))
    found = {path.relative_to(config.docs_dir).as_posix() for path in written(config)}
    guides = next(part["Guides"] for part in config.nav or [] if "Guides" in part)
    guides += sorted(found - named)


def written(config: MkDocsConfig) -> Iterator[Path]:
    """The Markdown files of docs/."""
    return Path(config.docs_dir).rglob("*.md")


def pages(nav: Any) -> Iterator[str]:
    """The pages that a navigation names."""
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from pages(part)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the root's pages and the notebooks."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=rebased(ROOT / source)))
    for notebook in Path(config.docs_dir, NOTEBOOKS).glob("*.ipynb"):
        name = f"{NOTEBOOKS}/{notebook.stem}.md"
        files.append(File.generated(config, name, content=as_markdown(notebook)))
    return files


def rebased(source: Path) -> str:
    """A page of the root, its links seen from docs/ and named without folder and suffix."""
    text = re.sub(r"\[docs/(\w+)\.md\]", r"[\1]", source.read_text("utf-8"))
    return LINK.sub(lambda link: f"]({within_docs(link[1])}", text)


def within_docs(link: str) -> str:
    """A link from the root as one from docs/."""
    return OUTSIDE.get(link) or link.removeprefix("docs/")


def on_page_markdown(markdown: str, page: Page, **options: Any) -> str:
    """Points links to the root's pages at their copies, and lists the modules of the API."""
    above = PurePosixPath(page.file.src_uri).parent.parts

    def inside(link: re.Match[str]) -> str:
        name = link[1].removeprefix("../" * (len(above) + 1))
        moved = name in OUTSIDE and name != link[1]
        return (
            f"]({'../' * len(above)}{OUTSIDE[name]}" if moved else link[0].replace(".ipynb", ".md")
        )

    return MODULES.sub(lambda rooms: api(rooms[1].split()), LINK.sub(inside, markdown))


def api(rooms: list[str]) -> str:
    """An entry of mkdocstrings for each module of some folders, or for a module."""
    files = [file for room in rooms for file in sorted((ROOT / room).glob("*.py")) or [ROOT / room]]
    names = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in files
        if file.name != "__init__.py"
    ]
    return "\n\n".join(f"## {name.rsplit('.')[-1]}\n\n::: {name}" for name in names)


def as_markdown(notebook: Path) -> str:
    """A notebook's text, code and printed output as a page."""
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    return "\n\n".join(part for cell in cells for part in cell_parts(cell))


def cell_parts(cell: dict[str, Any]) -> Iterator[str]:
    """One cell's source, and what it printed."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    said = "".join("".join(output.get("text", "")) for output in cell["outputs"])
    if said:
        yield f"```text\n{said.rstrip()}\n```"


def on_page_content(content: str, **options: Any) -> str:
    """Formulas as MathML, which browsers draw without a script."""
    return FORMULA.sub(mathml, content)


def mathml(formula: re.Match[str]) -> str:
    """One formula; displayed if it is a block of its own.

    Raises:
        PluginError: if a part of it is left as it was.
    """
    text = html.unescape(formula[2])
    drawn = convert(text, display="block" if formula[1] == "div" else "inline")
    if "\\" in drawn or "<mi>&</mi>" in drawn:
        raise PluginError(f"latex2mathml does not know a part of the formula {text.strip()!r}")
    return drawn
