import json

import pytest

from callbacks.studies.survey_files import SurveyFiles
from data_modules.forms.readers import read_requests
from data_modules.records import EditRequest
from lightning_modules.jobs.fact_survey import FactSurvey
from tests.callbacks.runs import data_of, trainer_in
from tests.lightning_modules.jobs.test_layer_tracing import knowing

FACTS = [
    EditRequest(1, "The capital of {} is", "France", "Rome", "the"),
    EditRequest(2, "The capital of {} is", "France", "Rome", "Paris"),
    EditRequest(3, "{} plays", "P", "Rome", "the"),
    EditRequest(4, "{} plays", "P", "Rome"),
]


def surveyed(folder, asked=None, **options):
    module = FactSurvey(asked, lm="tiny")
    module.attach(*knowing())
    trainer = trainer_in(folder, [SurveyFiles(**options)])
    return trainer.predict(module, data_of(FACTS))


def greedy(prompt):
    """The token that follows a prompt, by the model's own forward pass."""
    lm, tokenizer = knowing()
    logits = lm(**tokenizer(prompt, return_tensors="pt")).logits
    return tokenizer.decode(logits[0, -1].argmax()).strip()


def test_a_fact_is_stated_if_its_true_answer_is_the_greedy_continuation(tmp_path):
    rows = [row for batch in surveyed(tmp_path) for row in batch]
    assert [row["stated"] for row in rows] == [
        bool(fact.target_true) and greedy(fact.text) == fact.target_true for fact in FACTS
    ]
    assert [row["stated"] for row in rows] == [True, False, True, False]
    assert [row["first_token"] for row in rows] == [False, False, True, True]


def test_the_files_hold_the_requests_of_their_kind(tmp_path):
    surveyed(tmp_path)
    for name, cases in {"stated": [1, 3], "first_token": [3, 4], "neither": [2]}.items():
        (file,) = tmp_path.rglob(f"{name}.json")
        assert len(json.loads(file.read_text())) == len(cases)
        assert [request.case_id for request in read_requests(str(file))] == cases


def test_requests_that_settings_were_chosen_on_are_left_out(tmp_path):
    surveyed(tmp_path, leave_out=[3])
    (file,) = tmp_path.rglob("stated.json")
    assert [request.case_id for request in read_requests(str(file))] == [1]


@pytest.mark.parametrize("asked", [0, 1, 3])
def test_only_so_many_facts_are_asked_and_all_subjects_are_placed(tmp_path, asked):
    rows = [row for batch in surveyed(tmp_path, asked) for row in batch]
    assert [row["stated"] for row in rows] == [True, False, True, False][:asked] + [False] * (
        len(FACTS) - asked
    )
    assert [row["first_token"] for row in rows] == [False, False, True, True]


def test_a_negative_number_of_questions_is_refused():
    with pytest.raises(ValueError, match="asked must not be negative, got -1"):
        FactSurvey(-1, lm="tiny")


def test_several_devices_are_refused():
    class Several:
        world_size = 2

    with pytest.raises(ValueError, match="a survey writes one file of each kind"):
        SurveyFiles().setup(Several(), None, "predict")
