from data_modules.embedded import embedded_requests
from data_modules.records import EditRequest
from lightning_modules.jobs.hard_edit_points import FIELDS, fault
from lightning_modules.jobs.hard_edit_templates import HardEditTemplates, relations

PARIS = EditRequest(0, "{} lies in", "Paris", "Peru", "France", ("In Paris is", "Paris is part of"))
ROME = EditRequest(1, "The country of {} is", "Rome", "Peru", "France")
OSLO = EditRequest(2, "{} lies in", "Oslo", "Peru", "Norway")


def test_relations_are_wordings_that_begin_with_the_subject():
    assert relations(PARIS) == ["{} lies in", "{} is part of"]
    assert relations(ROME) == []


def test_a_subject_is_put_into_a_relation_that_has_its_answer():
    points = HardEditTemplates().predict_step([PARIS, ROME, OSLO], 0)
    found = {point["subject"]: tuple(point[name] for name in FIELDS) for point in points}
    assert found == {
        "Paris": ("Paris lies in", "Paris", "Norway", "France"),
        "Rome": ("Rome lies in", "Rome", "Norway", "France"),
        "Oslo": ("Oslo lies in", "Oslo", "France", "Norway"),
    }


def test_every_data_point_meets_the_requirements_and_no_subject_comes_twice():
    requests = embedded_requests()
    points = HardEditTemplates().predict_step(requests, 0)
    assert len(points) > 400
    assert {fault(point, ()) for point in points} == {""}
    assert len({point["subject"].casefold() for point in points}) == len(points)
    answers = {request.target_true for request in requests}
    assert {point["target_new"] for point in points} <= answers


def test_the_seed_decides_what_is_drawn():
    requests = embedded_requests()
    first, again, other = (
        HardEditTemplates(20, seed).predict_step(requests, 0) for seed in (0, 0, 1)
    )
    assert first == again != other
    assert len(first) == len(other) == 20


def test_a_subject_without_a_relation_is_counted():
    templates = HardEditTemplates()
    assert templates.predict_step([ROME], 0) == []
    assert dict(templates.faults) == {"no relation fits the subject": 1}
