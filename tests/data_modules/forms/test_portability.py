import json

import pytest

from data_modules.forms.fields import FaultyRecordError, Record
from data_modules.forms.portability import portability
from data_modules.forms.readers import read_requests
from data_modules.records import EditRequest, Probe

PROBES = (Probe("Oslo lies on the continent of", "America"), Probe("Kristiania lies in", "Peru"))

ACCEPTED = {"kinds": [(), ("Perú",)], "kinds of lists": [("x",), ("x",)]}


def read(value):
    return portability(Record("x", 3, {"case_id": 9, "portability": value}))


@pytest.mark.parametrize(
    "value",
    [
        [{"prompt": p.prompt, "answer": p.answer} for p in PROBES],
        {
            "Reasoning": {"prompt": PROBES[0].prompt, "ground_truth": PROBES[0].answer},
            "Subject_Aliasing": {"prompt": PROBES[1].prompt, "ground_truth": ["Peru", "Perú"]},
        },
        {"Reasoning": [{"prompt": p.prompt, "ground_truth": [[p.answer, "x"]]} for p in PROBES]},
        {"Reasoning": {"prompt": [p.prompt for p in PROBES], "ground_truth": ["America", "Peru"]}},
    ],
    ids=["list", "kinds", "kinds of lists", "lists"],
)
def test_every_form_is_read(value, request):
    accepted = ACCEPTED.get(request.node.callspec.id, [(), ()])
    assert read(value) == tuple(
        probe._replace(accepted=further) for probe, further in zip(PROBES, accepted, strict=True)
    )


@pytest.mark.parametrize("answers", [["America", "New World"], [["America"], ["New World"]]])
def test_further_answers_are_accepted(answers):
    asked = [{"prompt": PROBES[0].prompt, "ground_truth": answers}]
    assert read({"Reasoning": asked}) == (PROBES[0]._replace(accepted=("New World",)),)
    written = [Probe("a", "b", ("c",))._asdict()]
    assert read(json.loads(json.dumps(written))) == (Probe("a", "b", ("c",)),)


@pytest.mark.parametrize("empty", [[], [[]], [""], [None]])
def test_a_prompt_without_answers_is_left_out_and_counted(empty):
    record = Record(
        "x", 3, {"portability": [{"prompt": "a", "answer": empty}, PROBES[0]._asdict()]}
    )
    assert portability(record) == PROBES[:1]
    assert record.notes.unanswered["portability.answer"] == 1


def test_a_single_question_is_read():
    probe = {"Recalled Relation": "x", "New Question": "Where is Oslo?", "New Answer": "America"}
    assert read(probe) == (Probe("Where is Oslo?", "America"),)


@pytest.mark.parametrize("value", [None, [], {}, {"Reasoning": []}])
def test_what_is_not_there_is_not_asked(value):
    assert read(value) == ()


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("text", "'portability' must hold prompts with their answers, got 'text'"),
        ({"Reasoning": {"prompt": "Oslo is in"}}, "must hold prompts .* got 'Oslo is in'"),
        ([{"prompt": ["a", "b"], "answer": ["c"]}], "an answer for each of the 2 prompts, got 1"),
        ([{"prompt": "Oslo is in", "answer": 7}], "portability.answer' must be text, got 7"),
    ],
)
def test_a_faulty_probe_is_named(value, problem):
    with pytest.raises(FaultyRecordError, match=rf"record 3 \(case 9\): field '?.*{problem}"):
        read(value)


def test_every_dataset_may_have_it_and_a_ledger_keeps_it(tmp_path):
    following = [probe._asdict() for probe in PROBES]
    request = EditRequest(9, "{} lies in", "Oslo", "Peru", "Norway", portability=PROBES)
    rows = [
        request.as_counterfact(),
        {"prompt": "Oslo lies in", "subject": "Oslo", "target_new": "Peru"},
        {"src": "Oslo lies in", "subject": "Oslo", "alt": "Peru"},
        {"prompt": "Oslo lies in", "subject": "Oslo", "target": "Peru"},
    ]
    assert rows[0]["portability"] == following
    (tmp_path / "x.json").write_text(json.dumps([row | {"portability": following} for row in rows]))
    read = read_requests(str(tmp_path / "x.json"))
    assert read[0] == request
    assert [r.portability for r in read] == [PROBES] * 4
    assert "portability" not in request._replace(portability=()).as_counterfact()
