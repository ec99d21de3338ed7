import json
from pathlib import Path

import datasets
import pytest

from data_modules.text.corpora import documents, texts


def test_a_text_file_is_a_text_per_line_or_one_document(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("The river is long.\n\n The town is old.\r\nParis.", newline="")
    lines = ["The river is long.", " The town is old.", "Paris."]
    assert list(texts(str(path))) == lines
    assert list(texts(str(path), unit="document")) == [path.read_bytes().decode()]
    assert list(documents(str(path))) == [path.read_bytes().decode()]


def test_a_folder_is_read_with_its_folders_and_without_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / ".DS_Store").write_bytes(b"\0\xe9")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.txt").write_text("no")
    (tmp_path / "a.txt").write_text("one\ntwo")
    datasets.Dataset.from_list([{"text": "three"}]).to_parquet(tmp_path / "b.parquet")
    (tmp_path / "inner" / "c.jsonl").write_text('{"Text": "four"}\n"five"')
    (tmp_path / "inner" / "d.json").write_text('{"data": ["six"]}')
    assert list(texts(str(tmp_path))) == ["one", "two", "three", "four", "five", "six"]


def test_null_and_blank_documents_are_empty_texts_and_no_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": None}, {"text": " "}, {"text": "a"}]))
    assert list(texts(str(path))) == ["", "", "a"]
    assert list(documents(str(path))) == ["a"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "caf\u00e9".encode("latin-1"), "a.txt is not UTF-8 but Latin-1"),
        ("a.jsonl", b'{"text": "x"}\n{"txt": "x"}', "a.jsonl: line 2 has the fields .*'txt'"),
        ("a.json", b'[{"text": "x\\ud800y"}]', "a.json: record 0: .* .a lone surrogate"),
        ("a.json", b'[{"text": 5}]', "a.json: record 0: field 'text' must be text, got 5"),
    ],
)
def test_the_file_of_a_folder_is_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(texts(str(tmp_path)))
