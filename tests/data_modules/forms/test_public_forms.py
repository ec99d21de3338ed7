"""Files as people publish them; the inputs are this project's own."""

import json
from pathlib import Path

import pytest

from data_modules.forms.fields import FaultyRecordError, Record
from data_modules.forms.mquake import mquake
from data_modules.forms.readers import read_requests
from data_modules.forms.subjects import subject_span
from data_modules.records import EditRequest, Probe, case_of

CASES = Path(__file__).parents[4] / "shared" / "cases"
FLAT = {"prompt": "Oslo lies in", "subject": "Oslo", "target_new": "Peru"}
RULE = {"prompt": "{} lies in", "subject": "Oslo", "target_new": "Peru", "target_true": "Norway"}
needs_cases = pytest.mark.skipif(not CASES.exists(), reason=f"no small inputs at {CASES}")


def read(folder: Path, *records: object, skip_faulty: bool = False) -> list[EditRequest]:
    (folder / "x.json").write_text(json.dumps(records))
    return read_requests(str(folder / "x.json"), skip_faulty)


@needs_cases
def test_knowedit_has_two_neighbors_and_a_question_with_two_answers() -> None:
    (request,) = read_requests(str(CASES / "04-knowedit-locality" / "wiki_recent.json"))
    assert [probe.answer for probe in request.neighborhood] == ["Albert Tamsin", "physics"]
    assert [probe[1:] for probe in request.portability] == [("Europe", ("Old Continent",))]
    (request,) = read_requests(str(CASES / "06-knowedit-zsre" / "zsre.json"))
    assert request.target_true == "Aspidoceratidae"


@needs_cases
@pytest.mark.parametrize("name", ["fastedit", "rome", "slot"])
def test_a_slot_in_the_flat_form_is_read(name: str) -> None:
    (request,) = read_requests(str(CASES / "09-slot-form" / f"{name}.json"))
    assert request.prompt.count("{}") == 1
    assert request.target_new in ("Lund", "Italy")
    assert request.paraphrases == (("The capital of Orba is called",) if name == "fastedit" else ())


@needs_cases
def test_one_object_is_a_record_and_lists_under_a_key_are_named() -> None:
    assert len(read_requests(str(CASES / "11-one-object" / "pretty.json"))) == 1
    with pytest.raises(ValueError, match="stand in a list under 'success'"):
        read_requests(str(CASES / "11-one-object" / "sanitation.json"))


@needs_cases
def test_a_list_of_rewrites_is_one_edit_with_its_questions() -> None:
    one, two = read_requests(str(CASES / "08-mquake" / "mquake.json"))
    assert (one.joined, two.joined) == (False, True)
    assert (one.subject, two.subject) == ("Elda Kempner", "Croatia")
    asked = Probe("What is the capital of the country of Elda Kempner?", "Split")
    assert (one.portability, two.portability) == ((), (asked,))


def test_kinds_of_locality_and_portability_are_neighbors_and_questions(tmp_path: Path) -> None:
    told = {
        "portability": {"Reasoning": [{"prompt": "Oslo is on", "ground_truth": [["Andes", "A."]]}]},
        "locality": {
            "Relation_Specificity": [{"prompt": "Oslo has", "ground_truth": [["trams"]]}],
            "Forgetfulness": [{"prompt": "Oslo was", "ground_truth": [["Kristiania"]]}],
        },
    }
    (request,) = read(tmp_path, FLAT | told)
    assert request.neighborhood == (Probe("Oslo has", "trams"), Probe("Oslo was", "Kristiania"))
    assert request.portability == (Probe("Oslo is on", "Andes", ("A.",)),)


@pytest.mark.parametrize(
    ("change", "paraphrases"),
    [
        ({"target_new": "Peru"}, ()),
        ({"target_new": {"str": "Peru"}}, ()),
        ({"target": "Peru", "queries": ["Oslo is in"]}, ("Oslo is in",)),
    ],
)
def test_a_flat_prompt_may_have_the_slot(
    tmp_path: Path, change: dict, paraphrases: tuple[str, ...]
) -> None:
    (request,) = read(tmp_path, {"prompt": "{} lies in", "subject": "Oslo"} | change)
    assert request[1:4] == ("{} lies in", "Oslo", "Peru")
    assert request.paraphrases == paraphrases


def test_rewrites_of_a_record_are_one_edit_and_its_questions_follow(tmp_path: Path) -> None:
    rewrites = [RULE, RULE | {"subject": "Rome", "target_new": {"str": "Chile"}}]
    asked = {"questions": ["Where is it?", "Whose is it?"], "new_answer": "Chile"}
    record = {"requested_rewrite": rewrites, **asked, "new_answer_alias": ["Chili"]}
    one, two = read(tmp_path, record)
    assert (one.subject, one.joined, two.subject, two.joined) == ("Oslo", False, "Rome", True)
    assert [probe[1:] for probe in two.portability] == [("Chile", ("Chili",))] * 2


def test_an_object_of_lists_names_their_keys(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(FLAT, indent=1))
    assert len(read_requests(str(tmp_path / "x.json"))) == 1
    with pytest.raises(ValueError, match="stand in a list under 'good' and 'odd'"):
        read(tmp_path, {"good": [FLAT], "odd": [FLAT], "none": []})


def test_faults_of_a_list_of_rewrites() -> None:
    with pytest.raises(FaultyRecordError, match="must hold a rewrite, got an empty list"):
        mquake(Record("x", 0, {"requested_rewrite": []}))
    with pytest.raises(FaultyRecordError, match="'requested_rewrite' must be an object, got 5"):
        mquake(Record("x", 0, {"requested_rewrite": [5]}))


def test_unread_fields_are_said_once_with_the_likeliest_name(tmp_path: Path) -> None:
    odd = FLAT | {"rephrase_promt": "a", "colour": 1}
    with pytest.warns(UserWarning, match="left unread") as said:
        read(tmp_path, odd, odd, FLAT)
    (text,) = (str(warning.message) for warning in said)
    assert "'rephrase_promt' of 2 records (do you mean 'rephrase_prompt'?)" in text
    assert "'colour' of 2 records" in text


def test_an_empty_answer_list_drops_the_probe_and_keeps_the_request(tmp_path: Path) -> None:
    kinds = {"kind": [{"prompt": "a", "ground_truth": []}, {"prompt": "b", "ground_truth": "c"}]}
    with pytest.warns(UserWarning, match="are left out, .* 1 at 'locality.ground_truth'"):
        (request,) = read(tmp_path, FLAT | {"locality": kinds})
    assert request.neighborhood == (Probe("b", "c"),)


@pytest.mark.parametrize("answer", ["Peru", {"str": "Peru"}, ["Peru", "Perú"], [["Peru"]]])
def test_answers_are_text_objects_or_lists(tmp_path: Path, answer: object) -> None:
    (request,) = read(tmp_path, FLAT | {"target_new": answer, "ground_truth": answer})
    assert (request.target_new, request.target_true) == ("Peru", "Peru")


def test_a_record_may_name_no_subject(tmp_path: Path) -> None:
    (request,) = read(tmp_path, {"prompt": "Oslo lies in", "target_new": "Peru"})
    assert (request.prompt, request.subject, request.text) == ("Oslo lies in", "", "Oslo lies in")
    assert read(tmp_path, request.as_counterfact()) == [request._replace(case_id=0)]
    with pytest.raises(FaultyRecordError, match="'subject' is missing, but the prompt has a slot"):
        read(tmp_path, {"prompt": "{} lies in", "target_new": "Peru"})


def test_accents_are_compared_composed() -> None:
    prompt = "In Cafe\u0301 Noir, cafe\u0301 is"
    assert subject_span(prompt, "Caf\u00e9 Noir") == (3, 13)
    assert subject_span("Caf\u00e9 is", "Cafe\u0301") == (0, 4)
    assert subject_span("Cafe is", "Caf\u00e9") is None


def test_a_fault_names_the_line_and_what_is_there(tmp_path: Path) -> None:
    lines = [json.dumps(FLAT), json.dumps(FLAT | {"target_new": 5})]
    (tmp_path / "x.jsonl").write_text("\n\n".join(lines))
    with pytest.raises(FaultyRecordError, match=r"x.jsonl: line 3: record 1 \(case 1\): .* got 5"):
        read_requests(str(tmp_path / "x.jsonl"))


def test_two_requests_of_one_case_number_have_two_identities() -> None:
    one = EditRequest(-5, "{} is", "Rome", "x")
    assert one.identity == one._replace(paraphrases=("a",)).identity
    assert one.identity != one._replace(subject="Oslo").identity
    assert case_of(one.identity) == -5


def test_an_id_that_is_no_number_gives_way_to_the_place(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="'id' of 1 records"):
        (request,) = read(tmp_path, FLAT | {"id": "Q1"})
    assert request.case_id == 0
