import json

import pytest

from data_modules.embedded import embedded_requests
from data_modules.records import EditRequest, Probe

FULL = EditRequest(
    3,
    "{} is in",
    "Paris",
    "Italy",
    "France",
    ("Paris lies in",),
    (Probe("Rome is in", "Italy", ("Italia",)), Probe("Bonn is in", "Germany")),
    (Probe("Its money is the", "lira", ("Lira",)),),
    ("Rome is in",),
    ("Paris is known for",),
    "P17",
    "Q38",
    joined=True,
)


@pytest.mark.parametrize(
    "request_", [FULL, EditRequest(1, "Who?", "", "I"), *embedded_requests()[:3]]
)
def test_a_request_comes_back_from_counterfacts_form(request_):
    written = json.loads(json.dumps(request_.as_counterfact()))
    assert EditRequest.of_counterfact(written) == request_
