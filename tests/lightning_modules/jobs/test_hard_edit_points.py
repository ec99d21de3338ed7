import json

import pytest

from data_modules.forms.readers import read_requests
from data_modules.records import EditRequest
from lightning_modules.jobs.hard_edit_points import BROKEN, NO_OBJECT, as_point, fault, points_in

GOOD = {
    "prompt": "Thunder's occupation is",
    "subject": "Thunder",
    "target_new": "architect",
    "ground_truth": "actor",
}


def test_a_request_is_written_as_a_data_point():
    request = EditRequest(3, "{}'s occupation is", "Thunder", "architect", "actor")
    assert as_point(request) == GOOD


def test_data_points_are_read_as_requests_without_a_case_id(tmp_path):
    path = tmp_path / "hard_edit.json"
    path.write_text(json.dumps([GOOD, GOOD | {"subject": "occupation"}]))
    first, second = read_requests(str(path))
    assert first == EditRequest(0, "{}'s occupation is", "Thunder", "architect", "actor")
    assert (second.case_id, second.prompt) == (1, "Thunder's {} is")


@pytest.mark.parametrize("frame", ["{}", "Sure!\n```json\n[{}, {}]\n```", '{{"data": [{}\n{}]}}'])
def test_objects_are_found_whatever_stands_around_them(frame):
    found = list(points_in(frame.replace("{}", json.dumps(GOOD)).replace("{{", "{")))
    assert found
    assert all(point == GOOD for point in found)


@pytest.mark.parametrize("answer", ["", "I cannot do that.", "[1, 2]", "{ and no end"])
def test_an_answer_without_objects_is_told(answer):
    assert list(points_in(answer)) == [NO_OBJECT]


def test_broken_objects_do_not_hide_the_others():
    whole, cut = json.dumps(GOOD), json.dumps(GOOD)[:60]
    assert list(points_in(f"[{whole}, {{'prompt': 1}}, {whole}, {cut}")) == [
        GOOD,
        BROKEN,
        GOOD,
        BROKEN,
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"subject": "Nike", "prompt": "Nike works for"}, ""),
        ({"subject": "IBM", "prompt": "IBM, whose seat is in"}, ""),
        ({"target_new": None}, "no target_new"),
        ({"ground_truth": " "}, "no ground_truth"),
        ({"prompt": 5}, "no prompt"),
        ({"subject": "New York", "prompt": "New York lies in"}, "subject not one word"),
        ({"subject": "X-ray", "prompt": "X-ray is a"}, "subject not one word"),
        ({"subject": "PlayStation", "prompt": "PlayStation is by"}, "subject a compound"),
        ({"prompt": "The occupation of Thunder is"}, "prompt does not begin with its subject"),
        ({"prompt": "Thunderstorm is"}, "prompt does not begin with its subject"),
        ({"prompt": "Thunder"}, "prompt does not begin with its subject and go on"),
        ({"prompt": "Thunder and thunder is"}, "prompt does not have its subject once"),
        ({"prompt": "Thunder {} is"}, "prompt does not have its subject once"),
        ({"target_new": "Actor"}, "targets do not differ"),
        ({"target_new": "thunder"}, "targets do not differ"),
        ({"prompt": "Thunder's occupation is actor"}, "prompt already names its object"),
        ({"subject": "Rain", "prompt": "Rain is a kind of"}, "subject not new"),
    ],
)
def test_a_data_point_is_refused_for_the_requirement_it_breaks(change, reason):
    found = fault(GOOD | change, used={"rain"})
    assert found.startswith(reason)
    assert bool(found) == bool(reason)
