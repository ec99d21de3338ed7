import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))


def test_it_has_what_the_citation_file_format_requires():
    assert CITATION["cff-version"] == "1.2.0"
    assert all(CITATION[field] for field in ("message", "title", "authors"))
    for reference in CITATION["references"]:
        assert all(reference[field] for field in ("type", "title", "authors"))
        assert all(author["family-names"] for author in reference["authors"])


def test_it_names_both_papers():
    titles = [reference["title"].split(":")[0] for reference in CITATION["references"]]
    assert titles == ["The Butterfly Effect of Model Editing", "The Fall of ROME"]
    assert all(re.match("https://", reference["url"]) for reference in CITATION["references"])


def test_it_names_the_projects_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert CITATION["version"] == project["version"]
