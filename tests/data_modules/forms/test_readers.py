import bz2
import gzip
import json
import lzma
import zipfile
from pathlib import Path

import pytest

from data_modules.forms.fields import FaultyRecordError
from data_modules.forms.readers import read_requests, read_union

DATA = Path(__file__).parents[4] / "shared" / "data"
CASES = [
    {"prompt": "Oslo lies in", "subject": "Oslo", "target_new": "1999-05-03"},
    {
        "prompt": "Łódź lies\u2028in",
        "subject": "Łódź",
        "target_new": "Peru",
        "rephrase_prompt": None,
    },
]
HALF = {"prompt": "Rome \ud800 is", "subject": "Rome", "target_new": "x"}
FAULTY = {"prompt": "Rome is", "subject": "Rome", "target_new": ""}


def write(path: Path, cases: list) -> str:
    path.write_text(json.dumps(cases), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.json", bytes),
        ("a.json.xz", lzma.compress),
        ("a.json.gz", gzip.compress),
        ("a.json.bz2", bz2.compress),
    ],
)
@pytest.mark.parametrize("layout", ["list", "lines"])
def test_lists_and_lines_are_read_plain_and_compressed(
    tmp_path: Path, name: str, pack: object, layout: str
) -> None:
    lines = "\n".join(json.dumps(case, ensure_ascii=False) for case in CASES)
    text = json.dumps(CASES, indent=1) if layout == "list" else lines + "\n\n"
    (tmp_path / name).write_bytes(pack(text.encode()))
    first, second = read_requests(str(tmp_path / name))
    assert (first.prompt, first.target_new) == ("{} lies in", "1999-05-03")
    assert (second.case_id, second.text) == (1, "Łódź lies\u2028in")


def test_a_zipped_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.json", json.dumps(CASES).encode("utf-8-sig"))
    assert len(read_requests(str(tmp_path / "a.zip"))) == 2


def test_a_number_in_one_record_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [*CASES, FAULTY | {"target_new": 5}])
    with pytest.warns(UserWarning, match="1 faulty records are left out; .*got 5"):
        requests = read_requests(path, skip_faulty=True)
    assert [request.target_new for request in requests] == ["1999-05-03", "Peru"]


def test_a_faulty_record_is_refused_unless_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [FAULTY, *CASES])
    with pytest.raises(FaultyRecordError, match=r"a.json: record 0 \(case 0\).*skip_faulty"):
        read_requests(path)
    with pytest.warns(UserWarning, match="1 faulty records"):
        assert [request.case_id for request in read_requests(path, skip_faulty=True)] == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no edit request in it"),
        ("[]", "there is no edit request in it"),
        ("[1]", "record 0 must be a JSON object, got 1"),
        ('{"prompt": "a"', "neither a JSON list nor JSON lines.*convert it"),
        ("case_id,subject\n1,Rome", "neither a JSON list nor JSON lines"),
        ('[{"question": "a", "x": null}]', r"fields \['question'\], which is none of .*QAEdit"),
    ],
)
def test_what_holds_no_requests_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_requests(str(tmp_path / "a.json"))


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.json.xz", b"not xz"), ("a.json.gz", gzip.compress(b"[1]" * 99, mtime=0)[:-9])],
)
def test_a_damaged_archive_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="neither a JSON list nor JSON lines"):
        read_requests(str(tmp_path / name))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, "record 1 must be a JSON object, got None"),
        ({"subject": "Rome"}, "record 1 has the fields .* none of the known forms"),
        (HALF, r"field 'prompt' holds half of a character \(a lone surrogate\)"),
    ],
)
def test_what_is_no_request_among_others_can_be_skipped(
    tmp_path: Path, record: object, message: str
) -> None:
    path = write(tmp_path / "a.json", [CASES[0], record])
    with pytest.raises(FaultyRecordError, match=message):
        read_requests(path)
    with pytest.warns(UserWarning, match="1 faulty records are left out"):
        assert len(read_requests(path, skip_faulty=True)) == 1


@pytest.mark.parametrize("cell", ['"[""Peru"", ""Perú""]"', "\"['Peru']\"", "Peru"])
def test_a_cell_may_hold_a_list_of_answers(tmp_path: Path, cell: str) -> None:
    head = "prompt,subject,target_new,note"
    (tmp_path / "a.csv").write_text(f"{head}\n{{}} lies in,[O,{cell},\n", encoding="utf-8-sig")
    (request,) = read_requests(str(tmp_path / "a.csv"))
    assert request[1:4] == ("{} lies in", "[O", "Peru")


@pytest.mark.parametrize("field", ["target_new", "alt", "target", "requested_rewrite"])
def test_a_null_answer_is_a_fault_of_its_record(tmp_path: Path, field: str) -> None:
    path = write(tmp_path / "a.json", [CASES[0], {"src": None, "prompt": "Oslo is", field: None}])
    with pytest.raises(FaultyRecordError, match=r"record 1 \(case 1\)"):
        read_requests(path)
    with pytest.warns(UserWarning, match="1 faulty records are left out"):
        assert len(read_requests(path, skip_faulty=True)) == 1


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder without a run's ledger; give one"):
        read_requests(str(tmp_path))


@pytest.mark.parametrize("name", ["azhx/counterfact", "/no/such/counterfact.json"])
def test_what_cannot_be_reached_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=f"'{name}' is neither a file or folder"):
        read_requests(name)


@pytest.mark.skipif(not DATA.exists(), reason=f"the real datasets are not at {DATA}")
@pytest.mark.parametrize(
    ("name", "count", "neighbors"),
    [
        ("counterfact/counterfact_original_350.json", 350, 10),
        ("counterfact/counterfact-edit.json", 10000, 1),
        ("counterfact/counterfact-train.json", 10000, 1),
        ("zsre/zsre_3k.json", 3000, 1),
        ("qaedit/QAEdit_inter_1k.json", 1000, 5),
    ],
)
def test_real_datasets_are_read_whole(name: str, count: int, neighbors: int) -> None:
    requests = read_requests(str(DATA / name))
    assert len(requests) == count
    for request in requests:
        assert request.prompt.count("{}") == 1
        assert request.subject in request.text
        assert request.target_new == request.target_new.strip() != ""
        assert len(request.paraphrases) >= 1
        assert len(request.neighborhood) == neighbors or "original" in name


@pytest.mark.skipif(not DATA.exists(), reason=f"the real datasets are not at {DATA}")
def test_filled_prompts_of_real_datasets_are_restored() -> None:
    for name, field in [("zsre/zsre_3k.json", "src"), ("qaedit/QAEdit_inter_1k.json", "prompt")]:
        prompts = [case[field] for case in json.loads((DATA / name).read_text())]
        assert [request.text for request in read_requests(str(DATA / name))] == prompts


@pytest.mark.skipif(not DATA.exists(), reason=f"the real datasets are not at {DATA}")
def test_the_two_cases_of_mend_without_a_new_answer_can_be_skipped() -> None:
    path = str(DATA / "zsre/zsre_mend_train-1k.json")
    with pytest.raises(FaultyRecordError, match=r"record 534 \(case 534\): field 'alt' is blank"):
        read_requests(path)
    with pytest.warns(UserWarning, match="2 faulty records are left out"):
        assert len(read_requests(path, skip_faulty=True)) == 998


def test_a_union_has_each_request_once_in_the_place_where_it_is_met(tmp_path: Path) -> None:
    cases = [{"case_id": n, "prompt": "Oslo is", "subject": "Oslo"} for n in range(4)]
    for name, targets in (("a", {2: "x", 0: "x"}), ("b", {3: "x", 0: "x"}), ("c", {0: "y"})):
        write(tmp_path / f"{name}.json", [cases[n] | {"target_new": t} for n, t in targets.items()])
    union = read_union([str(tmp_path / f"{name}.json") for name in "abc"])
    found = [(request.case_id, request.target_new) for request in union]
    assert found == [(2, "x"), (0, "x"), (3, "x"), (0, "y")]


def test_a_union_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="path is an empty list; name a file"):
        read_union([])
