"""The records of docs/data.md are read as the page says."""

import re
from pathlib import Path

import pytest

from data_modules.forms.readers import read_requests

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
EXAMPLES = re.findall(r"```json\n(.*?)\n```", PAGE.read_text("utf-8"), re.S)


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_example_is_read_whole(tmp_path: Path, example: str) -> None:
    (tmp_path / "x.json").write_text(example)
    requests = read_requests(str(tmp_path / "x.json"))
    assert len(requests) == 1 + ("questions" in example)
    assert requests[-1].target_new in ("Rome", "Italy", "Lund", "Peru", "Split")
    for name in ("paraphrase", "rephrase", "queries"):
        assert (name not in example) or requests[0].paraphrases
    assert ("local" not in example and "neighbor" not in example) or requests[0].neighborhood
    assert ("portability" not in example) or requests[0].portability


def test_the_page_has_all_forms() -> None:
    assert len(EXAMPLES) == 9
