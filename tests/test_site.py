import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OUTSIDE = {"index.md", "contributing.md", "changelog.md", "notebooks/five_minutes.md"}


def pages(nav):
    if isinstance(nav, str):
        return {nav}
    return set().union(*map(pages, nav.values() if isinstance(nav, dict) else nav))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_to_one(page):
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_navigation_names_pages_that_exist():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    named = pages(config["nav"]) - OUTSIDE
    assert sorted(name for name in named if not (ROOT / "docs" / name).is_file()) == []


@pytest.fixture
def site():
    pytest.importorskip("mkdocs", reason="the site's packages are not installed; make docs does it")
    return pytest.importorskip("docs.site")


def test_a_link_of_the_readme_is_seen_from_docs(site, tmp_path):
    page = tmp_path / "README.md"
    page.write_text("[docs/data.md](docs/data.md) [it](CONTRIBUTING.md#style) [x](https://x.org)")
    assert site.rebased(page) == "[data](data.md) [it](contributing.md#style) [x](https://x.org)"


def test_a_formula_becomes_mathml(site):
    drawn = site.on_page_content(r'<span class="arithmatex">\(a &lt; b\)</span>')
    assert drawn.startswith("<math")
    assert "&#x0003C;" in drawn or "&lt;" in drawn


def test_an_unknown_command_in_a_formula_is_refused(site):
    with pytest.raises(site.PluginError, match="does not know a part"):
        site.on_page_content(r'<div class="arithmatex">\[\nonsense{a}\]</div>')


def test_a_notebooks_output_is_shown(site):
    cell = {"cell_type": "code", "source": ["print(1)"], "outputs": [{"text": ["1\n"]}]}
    assert list(site.cell_parts(cell)) == ["```python\nprint(1)\n```", "```text\n1\n```"]
