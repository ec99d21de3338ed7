import csv
import json
from pathlib import Path

import datasets
import pytest

from data_modules.text.files import is_arrow_folder, listed, values

ROWS = [
    {"prompt": "Oslo, a town", "target_new": "1999-05-03", "note": "two\nlines"},
    {"prompt": "Łódź is in", "target_new": None, "note": "x"},
]
CASES = Path(__file__).parents[4] / "shared" / "cases"


def cells(path: Path, delimiter: str = ",") -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ROWS[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)
    return str(path)


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("b.csv", ";"), ("c.tsv", "\t")])
def test_cells_are_texts_as_they_stand(tmp_path: Path, name: str, delimiter: str) -> None:
    found = list(values(cells(tmp_path / name, delimiter)))
    assert found == [("line 3", ROWS[0]), ("line 4", ROWS[1])]


def test_tables_and_arrow_folders_are_read(tmp_path: Path) -> None:
    table = datasets.Dataset.from_list(ROWS)
    table.to_parquet(tmp_path / "a.parquet")
    table.save_to_disk(tmp_path / "arrow")
    datasets.DatasetDict(test=table).save_to_disk(tmp_path / "splits")
    for name in ("a.parquet", "arrow", "splits", "arrow/data-00000-of-00001.arrow"):
        found = list(values(str(tmp_path / name)))
        assert found == [("record 0", ROWS[0]), ("record 1", ROWS[1])]
    assert is_arrow_folder(str(tmp_path / "arrow"))
    assert not is_arrow_folder(str(tmp_path))


def test_several_splits_want_a_name(tmp_path: Path) -> None:
    table = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict(dev=table, test=table).save_to_disk(tmp_path / "splits")
    with pytest.raises(ValueError, match=r"holds the splits \['dev', 'test'\]; name the folder"):
        list(values(str(tmp_path / "splits")))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', [("line 1", {"a": 1})]),
        ('{\n "a": 1\n}\n', [("record 0", {"a": 1})]),
        ('\n{"a": 1}\n\n{"a": 2}', [("line 2", {"a": 1}), ("line 4", {"a": 2})]),
        ('[{"a": 1}]', [("record 0", {"a": 1})]),
        (" \n", []),
    ],
)
def test_json_is_a_list_lines_or_one_object(tmp_path: Path, text: str, found: list) -> None:
    (tmp_path / "a.json").write_text(text)
    assert list(values(str(tmp_path / "a.json"))) == found


def test_a_list_under_data_is_opened() -> None:
    assert list(listed(("record 0", {"data": [{"a": 1}], "v": 2}))) == [("record 0", {"a": 1})]
    assert list(listed(("record 0", {"data": []}))) == []
    assert list(listed(("line 3", {"data": "x"}))) == [("line 3", {"data": "x"})]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": 2}\n{"a": 3,}', "a.jsonl: line 3 is not valid JSON"),
        ("a.json", '["caf\u00e9"]'.encode("latin-1"), "a.json is not UTF-8 but Latin-1 .*line 1"),
        ("a.json", "[]".encode("utf-16"), "a.json is not UTF-8 but UTF-16"),
        ("a.json", "[]".encode("utf-16-le"), "a.json is not UTF-8 but UTF-16, perhaps"),
        ("a.csv", b"a,b,a\n1,2,3", "a.csv: line 1 names the field 'a' twice; rename one"),
        ("a.json", b"[" * 100_000, "a.json is neither a JSON list nor JSON lines"),
        ("a.csv", b"a,b\n1,2,3", "a.csv: line 2 has more cells than the 2 of line 1"),
        ("a.csv", b'a,b\n"1,2', "a.csv is not a readable CSV file"),
        ("a.parquet", b"no table", "a.parquet is not an intact Parquet file"),
        ("a.arrow", b"no table", "a.arrow is not an intact Arrow file"),
    ],
)
def test_a_faulty_file_is_named_with_the_place(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(values(str(tmp_path / name)))


@pytest.mark.skipif(not CASES.exists(), reason=f"the small inputs are not at {CASES}")
def test_the_third_of_three_lines_is_named() -> None:
    with pytest.raises(ValueError, match=r"bad3.jsonl: line 3 is not valid JSON"):
        json.dumps(list(values(str(CASES / "12-line-number" / "bad3.jsonl"))))
