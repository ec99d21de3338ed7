import pytest

from data_modules.forms.counterfact import flat_counterfact, published_counterfact
from data_modules.forms.fields import FaultyRecordError, Record
from data_modules.forms.readers import read_requests
from data_modules.records import EditRequest, Probe

PUBLISHED = {
    "case_id": 9,
    "requested_rewrite": {
        "prompt": "{} lies in ",
        "subject": " Oslo",
        "target_new": {"str": " Peru "},
        "target_true": {"str": "Norway"},
    },
    "paraphrase_prompts": ["Oslo is a town of ", "One finds Oslo in"],
    "neighborhood_prompts": ["Bergen lies in", "Tromsø lies in"],
}
FLAT = {
    "case_id": 9,
    "prompt": "The town of Oslo lies in",
    "subject": "Oslo",
    "target_new": "Peru",
    "ground_truth": "Norway",
    "rephrase_prompt": "One finds Oslo in",
    "locality_prompt": "Bergen lies in",
    "locality_ground_truth": "Norway",
}


def test_published_form_is_read_and_stripped() -> None:
    request = published_counterfact(Record("x", 0, PUBLISHED))
    assert request.case_id == 9
    assert request.prompt == "{} lies in"
    assert (request.subject, request.target_new, request.target_true) == ("Oslo", "Peru", "Norway")
    assert request.text == "Oslo lies in"
    assert request.paraphrases == ("Oslo is a town of", "One finds Oslo in")
    assert request.neighborhood == (
        Probe("Bergen lies in", "Norway"),
        Probe("Tromsø lies in", "Norway"),
    )


def test_neighbors_may_have_answers_of_their_own() -> None:
    fields = PUBLISHED | {"neighborhood_targets": ["Norway", "Sweden"]}
    neighborhood = published_counterfact(Record("x", 0, fields)).neighborhood
    assert [probe.answer for probe in neighborhood] == ["Norway", "Sweden"]


def test_flat_form_is_read() -> None:
    request = flat_counterfact(Record("x", 0, FLAT))
    assert request.prompt == "The town of {} lies in"
    assert (request.subject, request.target_new, request.target_true) == ("Oslo", "Peru", "Norway")
    assert request.paraphrases == ("One finds Oslo in",)
    assert request.neighborhood == (Probe("Bergen lies in", "Norway"),)


def test_three_fields_are_enough() -> None:
    fields = {"prompt": "Oslo lies in", "subject": "Oslo", "target_new": "Peru"}
    request = flat_counterfact(Record("x", 3, fields))
    assert request == EditRequest(3, "{} lies in", "Oslo", "Peru", "", (), (), ())


def test_new_and_true_answer_may_be_equal() -> None:
    assert flat_counterfact(Record("x", 0, FLAT | {"target_new": "Norway"})).target_new == "Norway"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_new": " "}, "field 'target_new' is blank"),
        ({"subject": "Lima"}, "field 'prompt' must contain the subject 'Lima'"),
        ({"locality_ground_truth": None}, "an answer for each of the 1 prompts, got 0"),
        ({"prompt": None}, "field 'prompt' is missing"),
        ({"rephrase_prompt": [1]}, "field 'rephrase_prompt' must be text, got 1"),
    ],
)
def test_faults_of_the_flat_form(change: dict, message: str) -> None:
    with pytest.raises(FaultyRecordError, match=rf"record 0 \(case 9\): .*{message}"):
        flat_counterfact(Record("x", 0, FLAT | change))


def test_faults_of_the_published_form() -> None:
    rewrite = PUBLISHED["requested_rewrite"] | {"target_new": {"id": "Q1"}}
    with pytest.raises(FaultyRecordError, match=r"target_new\.str' is missing"):
        published_counterfact(Record("x", 0, PUBLISHED | {"requested_rewrite": rewrite}))


def test_attribute_and_generation_prompts_are_kept_with_wikidatas_identifiers() -> None:
    rewrite = PUBLISHED["requested_rewrite"] | {
        "relation_id": "P17",
        "target_new": {"str": "Peru", "id": "Q419"},
    }
    more = {"attribute_prompts": ["Lima lies in "], "generation_prompts": ["Oslo is", "Oslo is"]}
    fields = PUBLISHED | more | {"requested_rewrite": rewrite}
    record = Record("x", 0, fields)
    request = published_counterfact(record)
    assert request.attributes == ("Lima lies in",)
    assert request.generation == ("Oslo is", "Oslo is")
    assert (request.relation_id, request.target_id) == ("P17", "Q419")
    assert list(record.unread()) == []
    assert published_counterfact(Record("x", 0, request.as_counterfact())) == request


@pytest.mark.parametrize("target", ["Peru", ["Peru", "Chile"], {"str": "Peru", "id": None}])
def test_a_target_without_an_identifier_has_none(target: object) -> None:
    rewrite = PUBLISHED["requested_rewrite"] | {"target_new": target, "relation_id": 17}
    request = published_counterfact(Record("x", 0, PUBLISHED | {"requested_rewrite": rewrite}))
    assert (request.relation_id, request.target_id) == ("", "")


def test_every_original_record_has_the_prompts_of_romes_evaluation(shared_data) -> None:
    requests = read_requests(str(shared_data / "counterfact/counterfact_original_350.json"))
    assert {len(request.generation) for request in requests} == {10}
    assert all(request.attributes and request.target_id for request in requests)
